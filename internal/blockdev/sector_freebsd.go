package blockdev

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of sys/disk.h.
const (
	diocgsectorsize = 0x40046480 // _IOR('d', 128, u_int)
	diocgmediasize  = 0x40086481 // _IOR('d', 129, off_t)
)

// SectorSize is the size of the sectors of a disk or partition in bytes, 512 of what
// is neither.
func SectorSize(name string) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sector, _, err := geometry(f)
	if sector == 1 {
		return 512, nil
	}
	return int(sector), err
}

// geometry is the size of the sectors of an open device and its own, in bytes; 1 and
// 0 of what is no device.
func geometry(f *os.File) (sector, size int64, err error) {
	n, err := unix.IoctlGetInt(int(f.Fd()), diocgsectorsize)
	if errors.Is(err, unix.ENOTTY) {
		return 1, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), diocgmediasize, uintptr(unsafe.Pointer(&size))); e != 0 {
		return 0, 0, e
	}
	return int64(n), size, nil
}
