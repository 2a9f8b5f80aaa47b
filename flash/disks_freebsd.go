package flash

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"rig/internal/diag"
	"rig/internal/run"
)

// List returns the disks of this machine.
func List() ([]Disk, error) {
	b, err := run.Exec{}.Run(context.Background(), run.New("sysctl", "-bn", "kern.geom.confxml"))
	if err != nil {
		return nil, err
	}
	disks, err := parseGeom(b)
	for i := range disks {
		probeDevice(&disks[i])
	}
	return disks, err
}

func findDevice(name string) (*Disk, error) { return findListed(filepath.Clean(name)) }

func findListed(name string) (*Disk, error) {
	disks, err := List()
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(disks, func(d Disk) bool { return d.Path == name }); i >= 0 {
		return &disks[i], nil
	}
	return nil, diag.Hint(diag.Inputf("disk %s: it is not a disk of this machine", name), "\"rigimage flash --list\" shows them")
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

func (d *Disk) raw() string { return d.Path }
