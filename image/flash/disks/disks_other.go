//go:build !linux && !darwin && !freebsd

package disks

import "github.com/rig-freebsd/rig/internal/diag"

// disks are not known.
func disks() ([]Disk, error) {
	return nil, diag.Inputf("this system's disks are not known; name a file")
}

func findDevice(name string) (*Disk, error) {
	return nil, diag.Inputf("disk %s: this system's disks are not known", name)
}

// Raw is the path by which the content is read and written.
func (d *Disk) Raw() string { return d.Path }
