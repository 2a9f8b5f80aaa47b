package flash

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rig/internal/diag"
	"rig/internal/run"
)

// List returns the physical disks of this machine.
func List() ([]Disk, error) {
	disks, err := diskutil(context.Background(), run.Exec{})
	for i := range disks {
		probeDevice(&disks[i])
	}
	return disks, err
}

func findDevice(name string) (*Disk, error) {
	name = "/dev/" + strings.TrimPrefix(filepath.Base(name), "r")
	disks, err := List()
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(disks, func(d Disk) bool { return d.Path == name }); i >= 0 {
		return &disks[i], nil
	}
	return nil, diag.Hint(diag.Inputf("disk %s: it is not a physical disk of this machine", name), "\"rigimage flash --list\" shows them")
}

func probeDevice(d *Disk) {
	f, err := os.Open(d.raw())
	if err != nil {
		d.Holds = append(d.Holds, "unreadable: "+err.Error())
		return
	}
	defer f.Close()
	d.probe(f)
}

// raw is the device without the system's cache, many times as fast.
func (d *Disk) raw() string {
	if d.File {
		return d.Path
	}
	return "/dev/r" + strings.TrimPrefix(d.Path, "/dev/")
}
