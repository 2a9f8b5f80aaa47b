package flash

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"rig/internal/diag"
	"rig/zfs"
)

// Disk is a disk of a machine, or a file that stands for one.
type Disk struct {
	Path       string   `json:"path"`
	Serial     string   `json:"serial,omitempty"`
	Model      string   `json:"model,omitempty"`
	Size       int64    `json:"size"`             // bytes
	SectorSize int      `json:"sectorSize"`       // bytes
	Holds      []string `json:"holds,omitempty"`  // what is on it, in words
	InUse      []string `json:"inUse,omitempty"`  // who uses it now
	Member     []string `json:"member,omitempty"` // what it is a part of, though nothing may use it now
	ReadOnly   bool     `json:"readOnly,omitempty"`
	Removable  bool     `json:"removable,omitempty"`
	File       bool     `json:"file,omitempty"`
}

// ID is what a person names a disk by to say that it is the right one: its serial
// number, its path when it has none.
func (d *Disk) ID() string {
	if d.Serial != "" {
		return d.Serial
	}
	return d.Path
}

// Blank reports whether nothing was found on the disk.
func (d *Disk) Blank() bool { return len(d.Holds)+len(d.InUse)+len(d.Member) == 0 }

// String is the disk in one line.
func (d *Disk) String() string {
	words := []string{d.Path, "no serial number"}
	if d.Serial != "" {
		words[1] = "serial " + d.Serial
	}
	if d.File {
		words[1] = "a file"
	}
	if d.Model != "" {
		words = append(words, d.Model)
	}
	words = append(words, zfs.FormatSize(d.Size))
	if d.SectorSize != 512 {
		words = append(words, fmt.Sprintf("sectors of %d bytes", d.SectorSize))
	}
	return strings.Join(words, ", ")
}

// refusal is why the disk may not be written to unless its ID is forced, nil when
// there is no reason.
func (d *Disk) refusal(force string) error {
	if d.ReadOnly {
		return diag.Hint(diag.Inputf("%s: it is read-only", d.Path), "look for a switch on it, or at hdparm -r")
	}
	if force != "" && force != d.ID() {
		return diag.Hint(diag.Inputf("%s: its serial number is %q, not %q", d.Path, d.ID(), force),
			"\"rigimage flash --list\" shows the disks; nothing was written")
	}
	reasons := slices.Concat(d.InUse, d.Member)
	if len(reasons) == 0 || force == d.ID() {
		return nil
	}
	return diag.Hint(diag.Inputf("%s: it is in use: %s", d.Path, strings.Join(reasons, "; ")),
		"if it is the right one and all of that may be lost: --force-serial %s", d.ID())
}

// List returns the disks of this machine, and what is on them.
func List() ([]Disk, error) {
	all, err := disks()
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(all[i].look)
	}
	wg.Wait()
	return all, err
}

// Find returns the disk of this machine with a path, or with a serial number as
// "serial:NUMBER". A regular file counts as a disk of 512-byte sectors.
func Find(name string) (*Disk, error) {
	if serial, ok := strings.CutPrefix(name, "serial:"); ok {
		return findSerial(serial)
	}
	st, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		hint := "\"rigimage flash --list\" shows the disks"
		if filepath.Dir(name) != "/dev" {
			hint += "; --size 8G makes a file"
		}
		return nil, diag.Hint(diag.Inputf("disk %s: there is no such disk", name), "%s", hint)
	}
	if err != nil {
		return nil, diag.Input(err)
	}
	if st.Mode().IsRegular() {
		d := &Disk{Path: name, Size: st.Size() &^ 511, SectorSize: 512, File: true}
		d.look()
		return d, nil
	}
	if st.Mode()&os.ModeDevice == 0 {
		return nil, diag.Inputf("disk %s: it is neither a disk nor a file", name)
	}
	d, err := findDevice(name)
	if err != nil {
		return nil, err
	}
	d.look()
	return d, nil
}

func findSerial(serial string) (*Disk, error) {
	all, err := disks()
	if err != nil {
		return nil, err
	}
	var found []Disk
	for _, d := range all {
		if d.Serial == serial && serial != "" {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		found[0].look()
		return &found[0], nil
	case 0:
		return nil, diag.Hint(diag.Inputf("no disk has the serial number %q", serial), "\"rigimage flash --list\" shows the disks")
	}
	return nil, diag.Hint(diag.Inputf("%d disks have the serial number %q", len(found), serial), "name it by its path: %s, %s", found[0].Path, found[1].Path)
}

// look finds out what is on a disk; that it cannot be read is something it holds.
func (d *Disk) look() {
	r, f, err := d.openReader()
	if err != nil {
		d.Holds = append(d.Holds, "unreadable: "+err.Error())
		return
	}
	defer f.Close()
	d.probe(r)
}

// probe fills Holds and Member from the disk's content.
func (d *Disk) probe(r io.ReaderAt) {
	holds, member, err := inspect(newCachedReader(r, d.Size), d.Size, d.SectorSize)
	if err != nil {
		holds = append(holds, "unreadable: "+err.Error())
	}
	d.Holds = holds
	for _, m := range member {
		if !slices.Contains(d.Member, m) {
			d.Member = append(d.Member, m)
		}
	}
}
