package flash

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	openDirect = unix.O_DIRECT
	openAlone  = unix.O_EXCL // EBUSY when mounted, swap, or a member of something
	busyHint   = "unmount or stop what uses it, or name the disk with --force-serial"
)

func prepare(*os.File) {}

// stopDirect makes an open file use the system's cache again.
func stopDirect(f *os.File) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT)
	return err
}

// zeroOut has the kernel or the disk itself make zeros.
func zeroOut(f *os.File, block bool, off, n int64) error {
	if !block {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	r := [2]uint64{uint64(off), uint64(n)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}

// forget drops what the system's cache has of f.
func forget(f *os.File) { unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// rereadTable has the kernel look at the new partition table. It refuses while
// something of the disk is in use; the next boot looks anyway.
func rereadTable(f *os.File) { unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0) }
