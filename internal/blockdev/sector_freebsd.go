package blockdev

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Of sys/disk.h.
const (
	diocgsectorsize = 0x40046480 // DIOCGSECTORSIZE: _IOR('d', 128, u_int)
	diocgmediasize  = 0x40086481 // DIOCGMEDIASIZE: _IOR('d', 129, off_t)
)

// mediaSize asks a disk for its size in bytes; it is 0 of what is none.
func mediaSize(f *os.File) (int64, error) {
	n, err := unix.IoctlGetInt(int(f.Fd()), diocgmediasize)
	if errors.Is(err, unix.ENOTTY) {
		return 0, nil
	}
	return int64(n), err
}

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
