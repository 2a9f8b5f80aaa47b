package disks

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/internal/run"
)

// disks are the physical ones of this machine, without their content.
func disks() ([]Disk, error) { return diskutil(context.Background(), run.Exec{}) }

func findDevice(name string) (*Disk, error) {
	return findListed("/dev/" + strings.TrimPrefix(filepath.Base(name), "r"))
}

// Raw is the path by which the content is read and written: the device without the
// system's cache, many times as fast.
func (d *Disk) Raw() string {
	if d.File {
		return d.Path
	}
	return "/dev/r" + strings.TrimPrefix(d.Path, "/dev/")
}
