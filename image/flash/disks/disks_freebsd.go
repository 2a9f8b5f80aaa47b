package disks

import (
	"context"
	"path/filepath"

	"github.com/rig-freebsd/rig/internal/run"
)

// disks are those of this machine, without their content.
func disks() ([]Disk, error) {
	b, err := run.Exec{}.Run(context.Background(), run.New("sysctl", "-bn", "kern.geom.confxml"))
	if err != nil {
		return nil, err
	}
	return parseGeom(b)
}

func findDevice(name string) (*Disk, error) { return findListed(filepath.Clean(name)) }

// Raw is the path by which the content is read and written.
func (d *Disk) Raw() string { return d.Path }
