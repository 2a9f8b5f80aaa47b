//go:build !linux && !darwin && !freebsd

package flash

import "rig/internal/diag"

// disks are not known.
func disks() ([]Disk, error) {
	return nil, diag.Inputf("this system's disks are not known; name a file")
}

func findDevice(name string) (*Disk, error) {
	return nil, diag.Inputf("disk %s: this system's disks are not known", name)
}

func (d *Disk) raw() string { return d.Path }
