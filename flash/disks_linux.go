package flash

import (
	"os"
	"path/filepath"

	"rig/internal/diag"
)

// List returns the disks of this machine, those of the kernel's own making (loop,
// RAM, md, device mapper) left out.
func List() ([]Disk, error) { return sysfs{"/"}.list() }

func findDevice(name string) (*Disk, error) {
	real, err := filepath.EvalSymlinks(name) // /dev/disk/by-id/…
	if err != nil {
		return nil, diag.Input(err)
	}
	d, err := sysfs{"/"}.disk(filepath.Base(real))
	if err != nil {
		return nil, err
	}
	if f, err := os.Open(d.Path); err == nil {
		d.probe(f)
		f.Close()
	} else {
		d.Holds = append(d.Holds, "unreadable: "+err.Error())
	}
	return d, nil
}

func (d *Disk) raw() string { return d.Path }
