package disks

import (
	"path/filepath"

	"github.com/rig-freebsd/rig/internal/diag"
)

// disks are those of this machine, without their content; those of the kernel's own
// making (loop, RAM, md, device mapper) are left out.
func disks() ([]Disk, error) { return sysfs{"/"}.list() }

func findDevice(name string) (*Disk, error) {
	real, err := filepath.EvalSymlinks(name) // /dev/disk/by-id/…
	if err != nil {
		return nil, diag.Input(err)
	}
	return sysfs{"/"}.disk(filepath.Base(real))
}

// Raw is the path by which the content is read and written.
func (d *Disk) Raw() string { return d.Path }
