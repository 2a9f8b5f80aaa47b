// Package disks lists the disks of this machine: who makes them, how large they are, who
// uses them, and what is on them, by package probe. There is a file for each operating
// system's way to ask: /sys on Linux, GEOM's confxml on FreeBSD, diskutil on macOS; what
// reads the answers is compiled and tested everywhere. A regular file may stand for a
// disk. Sizes are bytes.
package disks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/internal/blockdev"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/probe"
	"github.com/rig-freebsd/rig/zfs"
)

// Disk is a disk of a machine, or a file that stands for one.
type Disk struct {
	Path       string   `json:"path"`
	Serial     string   `json:"serial,omitempty"`
	Model      string   `json:"model,omitempty"`
	Size       int64    `json:"size"`             // bytes
	SectorSize int      `json:"sectorSize"`       // bytes
	Content    string   `json:"content"`          // "blank", "known", "unknown data": a probe.Kind; "" before it was looked at
	Basis      string   `json:"basis,omitempty"`  // what that rests on, when nothing is recognised
	Hash       string   `json:"hash,omitempty"`   // 8 hex digits of a hash of what was read
	Holds      []string `json:"holds,omitempty"`  // what is on it, in words
	InUse      []string `json:"inUse,omitempty"`  // who uses it now
	Member     []string `json:"member,omitempty"` // what it is a part of, though nothing may use it now
	ReadOnly   bool     `json:"readOnly,omitempty"`
	Removable  bool     `json:"removable,omitempty"`
	File       bool     `json:"file,omitempty"`
}

// ID is what a person names a disk by to say that it is the right one: its serial
// number; without one its path, size and a hash of its content, /dev/sdb:8G:1a2b3c4d.
// A file has its path.
func (d *Disk) ID() string {
	switch {
	case d.Serial != "":
		return d.Serial
	case d.File || d.Hash == "":
		return d.Path
	}
	return fmt.Sprintf("%s:%s:%s", d.Path, zfs.FormatSize(d.Size), d.Hash)
}

// Blank reports whether the disk was seen to hold nothing, and nothing uses it.
func (d *Disk) Blank() bool {
	return d.Content == probe.Blank.String() && len(d.Holds)+len(d.InUse)+len(d.Member) == 0
}

// String is the disk in one line.
func (d *Disk) String() string {
	words := []string{d.Path, "no serial number: " + d.ID()}
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

// List returns the disks of this machine, and what is on them.
func List(ctx context.Context, progress Progress) ([]Disk, error) {
	all, err := disks()
	if err != nil {
		return nil, err
	}
	each := make([]*Disk, len(all))
	for i := range all {
		each[i] = &all[i]
	}
	return all, lookAt(ctx, each, progress)
}

// Find returns the disk of this machine with a path, or with a serial number as
// "serial:NUMBER", and what is on it. A regular file counts as a disk of 512-byte
// sectors.
func Find(ctx context.Context, name string, progress Progress) (*Disk, error) {
	d, err := find(name)
	if err != nil {
		return nil, err
	}
	return d, lookAt(ctx, []*Disk{d}, progress)
}

func find(name string) (*Disk, error) {
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
		return &Disk{Path: name, Size: st.Size() &^ 511, SectorSize: 512, File: true}, nil
	}
	if st.Mode()&os.ModeDevice == 0 {
		return nil, diag.Inputf("disk %s: it is neither a disk nor a file", name)
	}
	return findDevice(name)
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
		return &found[0], nil
	case 0:
		return nil, diag.Hint(diag.Inputf("no disk has the serial number %q", serial), "\"rigimage flash --list\" shows the disks")
	}
	return nil, diag.Hint(diag.Inputf("%d disks have the serial number %q", len(found), serial), "name it by its path: %s, %s", found[0].Path, found[1].Path)
}

// openReader opens a disk for a look at it.
func (d *Disk) openReader() (io.ReaderAt, io.Closer, error) {
	f, err := os.Open(d.Raw())
	if err != nil {
		return nil, nil, err
	}
	return blockdev.NewReader(f, d.Path, int64(d.SectorSize), d.Size), f, nil
}
