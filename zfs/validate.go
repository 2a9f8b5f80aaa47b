package zfs

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	poolName  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)
	component = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:-]*$`)
	property  = regexp.MustCompile(`^[a-z0-9][a-z0-9:_.@-]*$`)
)

// reservedPools begin the name of a vdev type and can name no pool (OpenZFS
// lib/libzfs, zpool_name_valid).
var reservedPools = []string{"mirror", "raidz", "draid", "spare"}

// Limits of names: ZFS_MAX_DATASET_NAME_LEN with its final zero byte, and what a
// pool leaves for its datasets.
const (
	maxDatasetName = 255
	maxPoolName    = 200
)

// Validate reports everything wrong with the wish.
func (p Pool) Validate() error {
	var errs []error
	addf := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	reserved := slices.ContainsFunc(reservedPools, func(s string) bool { return strings.HasPrefix(p.Name, s) })
	switch {
	case !poolName.MatchString(p.Name) || len(p.Name) > maxPoolName:
		addf("pool name %q: a letter, then letters, digits, '_', '.', '-'; at most %d", p.Name, maxPoolName)
	case reserved || p.Name == "log":
		addf("pool name %q is reserved", p.Name)
	}
	if p.Ashift != 0 && (p.Ashift < 9 || p.Ashift > 16) {
		addf("ashift %d is not between 9 and 16", p.Ashift)
	}
	if p.Props["ashift"] != "" {
		addf("pool property ashift is set by the field ashift")
	}
	for _, own := range []string{"altroot", "cachefile", "bootfs"} {
		if _, ok := p.Props[own]; ok {
			addf("pool property %s is set by the installer", own)
		}
	}
	if _, ok := p.Root["mountpoint"]; ok {
		addf("property mountpoint: the root dataset is never mounted")
	}
	errs = append(errs, checkProps("pool property", p.Props), checkProps("property", p.Root))
	return errors.Join(errs...)
}

// Validate reports everything wrong with the wish, for a dataset of pool.
func (d Dataset) Validate(pool string) error {
	var errs []error
	addf := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("dataset "+d.Name+": "+format, args...))
	}
	for _, c := range strings.Split(d.Name, "/") {
		if !component.MatchString(c) {
			addf("%q is no part of a dataset's name", c)
		}
	}
	if n := len(pool) + 1 + len(d.Name); n > maxDatasetName {
		addf("the name has %d bytes with the pool's, more than %d", n, maxDatasetName)
	}
	switch m := d.Mountpoint; {
	case m == "" || m == "none" || m == "legacy":
	case !path.IsAbs(m) || path.Clean(m) != m:
		addf("mountpoint %q is not a clean absolute path", m)
	}
	if d.Props["mountpoint"] != "" {
		addf("property mountpoint is set by the field mountpoint")
	}
	if _, _, err := d.OwnerIDs(); err != nil {
		addf("%w", err)
	}
	if _, err := d.ModeBits(); err != nil {
		addf("%w", err)
	}
	if (d.Owner != "" || d.Mode != "") && !path.IsAbs(d.Mountpoint) {
		addf("owner and mode need a mountpoint")
	}
	if err := checkProps("property", d.Props); err != nil {
		addf("%w", err)
	}
	return errors.Join(errs...)
}

// OwnerIDs returns the numeric owner of the mounted root, 0 and 0 when the wish
// has none.
func (d Dataset) OwnerIDs() (uid, gid int, err error) {
	if d.Owner == "" {
		return 0, 0, nil
	}
	u, g, _ := strings.Cut(d.Owner, ":")
	uid64, errU := strconv.ParseUint(u, 10, 31)
	gid64, errG := strconv.ParseUint(g, 10, 31)
	if errU != nil || errG != nil {
		return 0, 0, fmt.Errorf("owner %q is not numeric uid:gid", d.Owner)
	}
	return int(uid64), int(gid64), nil
}

// ModeBits returns the mode of the mounted root, 0 when the wish has none.
func (d Dataset) ModeBits() (uint32, error) {
	if d.Mode == "" {
		return 0, nil
	}
	m, err := strconv.ParseUint(d.Mode, 8, 32)
	if err != nil || m > 0o7777 {
		return 0, fmt.Errorf("mode %q is not octal, at most 7777", d.Mode)
	}
	return uint32(m), nil
}

func checkProps(what string, props map[string]string) error {
	var errs []error
	for _, k := range slices.Sorted(maps.Keys(props)) {
		switch {
		case !property.MatchString(k):
			errs = append(errs, fmt.Errorf("%s %q: not a property's name", what, k))
		case props[k] == "" || strings.ContainsAny(props[k], "\x00\n"):
			errs = append(errs, fmt.Errorf("%s %s: %q is not a value", what, k, props[k]))
		}
	}
	return errors.Join(errs...)
}
