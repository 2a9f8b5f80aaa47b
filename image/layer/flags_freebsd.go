package layer

import (
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const ufArchive = 0x800 // sys/stat.h; set by the file system itself, hinders nothing

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
	if st.Flags&^ufArchive == 0 {
		return nil
	}
	return setFlags(fd, name, 0)
}

// flagsOf are the flags that chflags(2) may set: not the archive bit, which the file
// system sets by itself.
func flagsOf(st *syscall.Stat_t) uint32 { return st.Flags &^ ufArchive }

// acl is an NFSv4 ACL as the kernel has it (FreeBSD 15.1 sys/sys/acl.h).
type acl struct {
	Max, Count uint32
	_          [4]int32
	Entries    [aclMaxEntries]struct {
		Tag, ID, Perm uint32
		Type, Flags   uint16
	}
}

const (
	aclTypeNFS4   = 4
	aclMaxEntries = 254
)

var _ [24 + 16*aclMaxEntries]byte = [unsafe.Sizeof(acl{})]byte{}

// copyACL gives dst, which has the mode of src already, its ACL when that says more.
func copyACL(src, dst string) error {
	from, err := callACL(unix.SYS___ACL_GET_LINK, src, acl{Max: aclMaxEntries})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) { // a file system without
		return nil
	}
	if err != nil {
		return err
	}
	to, err := callACL(unix.SYS___ACL_GET_LINK, dst, acl{Max: aclMaxEntries})
	if err != nil || to == from {
		return err
	}
	_, err = callACL(unix.SYS___ACL_SET_LINK, dst, from)
	return err
}

// callACL is __acl_get_link(2) or __acl_set_link(2).
func callACL(call uintptr, name string, a acl) (acl, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return a, err
	}
	if _, _, e := unix.Syscall(call, uintptr(unsafe.Pointer(p)), aclTypeNFS4, uintptr(unsafe.Pointer(&a))); e != 0 {
		return a, e
	}
	return a, nil
}
