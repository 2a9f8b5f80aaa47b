package blockdev

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const diocgsectorsize = 0x40046480 // DIOCGSECTORSIZE of sys/disk.h: _IOR('d', 128, u_int)

// SectorSize is the size of the sectors of a disk or partition in bytes, 512 of what
// is neither.
func SectorSize(name string) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := unix.IoctlGetInt(int(f.Fd()), diocgsectorsize)
	if errors.Is(err, unix.ENOTTY) {
		return 512, nil
	}
	return n, err
}
