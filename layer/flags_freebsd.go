package layer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setFlags is chflagsat(2) of name in the directory fd, not following a symlink.
func setFlags(fd int, name string, flags uint32) error {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, e := unix.Syscall6(unix.SYS_CHFLAGSAT, uintptr(fd), uintptr(unsafe.Pointer(p)), uintptr(flags),
		unix.AT_SYMLINK_NOFOLLOW, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// clearFlags removes the flags of what is about to be changed or replaced.
func clearFlags(fd int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	const ufArchive = 0x800 // sys/stat.h; set by the file system itself, hinders nothing
	if st.Flags&^ufArchive == 0 {
		return nil
	}
	return setFlags(fd, name, 0)
}
