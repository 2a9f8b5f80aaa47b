package zfs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/internal/run"
)

// PoolStatus is what zpool status says about one pool.
type PoolStatus struct {
	Name   string `json:"name"`
	State  string `json:"state"` // "ONLINE", "DEGRADED", "FAULTED", "SUSPENDED" …
	GUID   uint64 `json:"guid"`
	TXG    uint64 `json:"txg"`
	Status string `json:"status,omitempty"` // what is wrong, in words
	Action string `json:"action,omitempty"` // what to do about it, in words
	MsgID  string `json:"msgID,omitempty"`
	Scan   *Scan  `json:"scan,omitempty"`   // nil when none ever ran
	Vdevs  []Vdev `json:"vdevs"`            // top-level vdevs that hold data
	Spares []Vdev `json:"spares,omitempty"` // State is AVAIL, INUSE, or why neither
	Cache  []Vdev `json:"cache,omitempty"`
	Logs   []Vdev `json:"logs,omitempty"`
	Other  []Vdev `json:"other,omitempty"` // special and dedup vdevs
	Errors uint64 `json:"errors"`          // known data errors
}

// Vdev is one node of a pool's tree.
type Vdev struct {
	Name           string `json:"name"`           // "mirror-0", "gpt/zfs-S1"; a GUID when missing
	Type           string `json:"type"`           // "mirror", "disk", "spare", "replacing" …
	Path           string `json:"path,omitempty"` // "/dev/gpt/zfs-S1"
	State          string `json:"state"`
	GUID           uint64 `json:"guid"`
	Aux            string `json:"aux,omitempty"`    // why it is in this state: "OPEN_FAILED" …
	Was            string `json:"was,omitempty"`    // path of a missing device
	UsedBy         string `json:"usedBy,omitempty"` // the other pool that uses this spare
	ReadErrors     uint64 `json:"readErrors"`
	WriteErrors    uint64 `json:"writeErrors"`
	ChecksumErrors uint64 `json:"checksumErrors"`
	Children       []Vdev `json:"children,omitempty"`
}

// Scan is the last or the running scrub or resilver. Sizes are bytes, times
// seconds since 1970.
type Scan struct {
	Function  string `json:"function"` // "SCRUB", "RESILVER"
	State     string `json:"state"`    // "SCANNING", "FINISHED", "CANCELED"
	Start     int64  `json:"start"`
	End       int64  `json:"end"`
	ToExamine uint64 `json:"toExamine"`
	Issued    uint64 `json:"issued"`
	Processed uint64 `json:"processed"`
	Errors    uint64 `json:"errors"`
}

// StatusCmd asks for the state of one pool.
func StatusCmd(pool string) run.Cmd {
	return run.New("zpool", "status", "-j", "--json-int", pool)
}

// Status asks zpool for the state of pool.
func Status(ctx context.Context, r run.Runner, pool string) (*PoolStatus, error) {
	out, err := r.Run(ctx, StatusCmd(pool))
	if err != nil {
		return nil, fmt.Errorf("status of pool %s: %w", pool, err)
	}
	s, err := ParseStatus(out, pool)
	if err != nil {
		return nil, fmt.Errorf("status of pool %s: %w", pool, err)
	}
	return s, nil
}

// The output of zpool status -j --json-int, version 0.x (OpenZFS 2.4
// cmd/zpool/zpool_main.c, status_callback_json). Fields not listed are ignored.
type jsonStatus struct {
	Version struct {
		Command string `json:"command"`
		Major   *int   `json:"vers_major"`
	} `json:"output_version"`
	Pools map[string]jsonPool `json:"pools"`
}

type jsonPool struct {
	Name    string    `json:"name"`
	State   string    `json:"state"`
	GUID    uint64    `json:"pool_guid"`
	TXG     uint64    `json:"txg"`
	Status  string    `json:"status"`
	Action  string    `json:"action"`
	MsgID   string    `json:"msgid"`
	Scan    *jsonScan `json:"scan_stats"`
	Vdevs   jsonVdevs `json:"vdevs"` // one: the root
	Spares  jsonVdevs `json:"spares"`
	Cache   jsonVdevs `json:"l2cache"`
	Logs    jsonVdevs `json:"logs"`
	Special jsonVdevs `json:"special"`
	Dedup   jsonVdevs `json:"dedup"`
	Errors  *uint64   `json:"error_count"`
}

type jsonScan struct {
	Function  string `json:"function"`
	State     string `json:"state"`
	Start     int64  `json:"start_time"`
	End       int64  `json:"end_time"`
	ToExamine uint64 `json:"to_examine"`
	Issued    uint64 `json:"issued"`
	Processed uint64 `json:"processed"`
	Errors    uint64 `json:"errors"`
}

type jsonVdev struct {
	Name           string    `json:"name"`
	Type           string    `json:"vdev_type"`
	Path           string    `json:"path"`
	State          string    `json:"state"`
	GUID           uint64    `json:"guid"`
	Aux            string    `json:"aux"`
	Was            string    `json:"was"`
	UsedBy         string    `json:"used_by"`
	ReadErrors     uint64    `json:"read_errors"`
	WriteErrors    uint64    `json:"write_errors"`
	ChecksumErrors uint64    `json:"checksum_errors"`
	Vdevs          jsonVdevs `json:"vdevs"`
}

// jsonVdevs is an object of vdevs by name, in the order of the pool's
// configuration, which a map would lose.
type jsonVdevs []jsonVdev

// UnmarshalJSON implements json.Unmarshaler.
func (l *jsonVdevs) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	tok, err := d.Token()
	if err != nil {
		return err
	}
	if tok != json.Delim('{') {
		return errors.New("vdevs are not an object")
	}
	*l = nil
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		var v jsonVdev
		if err := d.Decode(&v); err != nil {
			return fmt.Errorf("vdev %v: %w", key, err)
		}
		if v.Name == "" {
			return fmt.Errorf("vdev %v: no name", key)
		}
		switch v.State {
		case "": // zpool does not know
			v.State = "UNKNOWN"
		case "HEALTHY": // the manual's word for it
			v.State = "ONLINE"
		}
		*l = append(*l, v)
	}
	return nil
}

func (l jsonVdevs) vdevs() []Vdev {
	if len(l) == 0 {
		return nil
	}
	out := make([]Vdev, len(l))
	for i, v := range l {
		out[i] = Vdev{
			Name: v.Name, Type: v.Type, Path: v.Path, State: v.State, GUID: v.GUID, Aux: v.Aux, Was: v.Was, UsedBy: v.UsedBy,
			ReadErrors: v.ReadErrors, WriteErrors: v.WriteErrors, ChecksumErrors: v.ChecksumErrors,
			Children: v.Vdevs.vdevs(),
		}
	}
	return out
}

// ParseStatus decodes the output of StatusCmd.
func ParseStatus(out []byte, pool string) (*PoolStatus, error) {
	var j jsonStatus
	if err := json.Unmarshal(out, &j); err != nil {
		return nil, fmt.Errorf("decode the output of zpool status: %w", err)
	}
	if j.Version.Command != "zpool status" || j.Version.Major == nil || *j.Version.Major != 0 {
		return nil, errors.New("not the output of zpool status -j in version 0")
	}
	p, ok := j.Pools[pool]
	switch {
	case !ok:
		return nil, errors.New("the output of zpool status has no such pool")
	case p.Name != pool || p.State == "":
		return nil, errors.New("the output of zpool status lacks the pool's name or state")
	case len(p.Vdevs) != 1 || p.Vdevs[0].Name != pool:
		return nil, errors.New("the output of zpool status has no root vdev")
	case p.Errors == nil:
		return nil, errors.New("the output of zpool status lacks error_count")
	}
	s := &PoolStatus{
		Name: p.Name, State: p.State, GUID: p.GUID, TXG: p.TXG, MsgID: p.MsgID,
		Status: sentence(p.Status), Action: sentence(p.Action), Errors: *p.Errors,
		Vdevs: p.Vdevs[0].Vdevs.vdevs(), Spares: p.Spares.vdevs(), Cache: p.Cache.vdevs(), Logs: p.Logs.vdevs(),
		Other: slices.Concat(p.Special.vdevs(), p.Dedup.vdevs()),
	}
	if p.Scan != nil && p.Scan.Function != "" && p.Scan.Function != "NONE" {
		scan := Scan(*p.Scan)
		s.Scan = &scan
	}
	return s, nil
}

// sentence undoes the line breaks zpool puts into its explanations.
func sentence(s string) string { return strings.Join(strings.Fields(s), " ") }

// Resilvering reports whether a resilver runs.
func (s *PoolStatus) Resilvering() bool {
	return s.Scan != nil && s.Scan.Function == "RESILVER" && s.Scan.State == "SCANNING"
}

func (v Vdev) leaves() []string {
	if len(v.Children) == 0 {
		return []string{v.device()}
	}
	var out []string
	for _, c := range v.Children {
		out = append(out, c.leaves()...)
	}
	return out
}

// device is v as a person knows it: the path, the former path, or the name.
func (v Vdev) device() string {
	for _, s := range []string{v.Path, v.Was} {
		if s != "" {
			return s
		}
	}
	return v.Name
}

// Problems compares the pool with what was asked for: one healthy mirror of so
// many members, so many spares available, no errors. A mirror of one is a plain
// device. Empty means all is well.
func (s *PoolStatus) Problems(mirror, spares int) []string {
	var out []string
	addf := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if s.State != "ONLINE" {
		addf("pool %s is %s", s.Name, s.State)
	}
	switch {
	case len(s.Vdevs) != 1:
		addf("pool %s has %d top-level vdevs, not one mirror", s.Name, len(s.Vdevs))
	case mirror == 1 && len(s.Vdevs[0].Children) == 0: // a plain device
	case s.Vdevs[0].Type != "mirror":
		addf("%s is a %s, not a mirror", s.Vdevs[0].Name, s.Vdevs[0].Type)
	case len(s.Vdevs[0].Children) != mirror:
		addf("%s has %d members, not %d", s.Vdevs[0].Name, len(s.Vdevs[0].Children), mirror)
	}
	for _, v := range s.Vdevs {
		v.problems(&out)
	}
	for _, v := range s.Spares {
		if v.State != "AVAIL" {
			addf("spare %s is %s", v.device(), v.stateWords())
		}
	}
	if len(s.Spares) != spares {
		addf("pool %s has %d spares, not %d", s.Name, len(s.Spares), spares)
	}
	if n := len(s.Logs) + len(s.Cache) + len(s.Other); n > 0 {
		addf("pool %s has %d log, cache or special vdevs", s.Name, n)
	}
	if s.Resilvering() {
		addf("pool %s resilvers", s.Name)
	}
	if s.Errors > 0 {
		addf("pool %s has %d data errors", s.Name, s.Errors)
	}
	return out
}

// problems adds what is wrong with v and below it.
func (v Vdev) problems(out *[]string) {
	if v.State != "ONLINE" {
		*out = append(*out, fmt.Sprintf("%s is %s", v.device(), v.stateWords()))
	}
	if v.Type == "spare" || v.Type == "replacing" {
		*out = append(*out, fmt.Sprintf("%s: a device is being replaced by %s", v.Name, strings.Join(v.leaves()[1:], ", ")))
	}
	if v.ReadErrors+v.WriteErrors+v.ChecksumErrors > 0 {
		*out = append(*out, fmt.Sprintf("%s has %d read, %d write and %d checksum errors",
			v.device(), v.ReadErrors, v.WriteErrors, v.ChecksumErrors))
	}
	for _, c := range v.Children {
		c.problems(out)
	}
}

func (v Vdev) stateWords() string {
	switch {
	case v.UsedBy != "":
		return v.State + " by pool " + v.UsedBy
	case v.Aux != "" && v.Aux != "SPARED":
		return v.State + " (" + v.Aux + ")"
	}
	return v.State
}
