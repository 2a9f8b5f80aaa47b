//go:build freebsd || darwin

package disks

import (
	"slices"

	"github.com/rig-freebsd/rig/internal/diag"
)

// findListed finds a disk by its device.
func findListed(path string) (*Disk, error) {
	all, err := disks()
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(all, func(d Disk) bool { return d.Path == path }); i >= 0 {
		return &all[i], nil
	}
	return nil, diag.Hint(diag.Inputf("disk %s: it is not a physical disk of this machine", path), "\"rigimage flash --list\" shows them")
}
