package tree

import (
	"fmt"
	"slices"
	"strings"
)

// Flags are the chflags(2) bits of sys/stat.h (FreeBSD 15.1), as stored in
// UFS2's di_flags and in SCHILY.fflags tar records.
type Flags uint32

const (
	NoDump        Flags = 0x00000001 // UF_NODUMP
	UserImmutable Flags = 0x00000002 // UF_IMMUTABLE
	UserAppend    Flags = 0x00000004 // UF_APPEND
	UserOpaque    Flags = 0x00000008 // UF_OPAQUE
	UserNoUnlink  Flags = 0x00000010 // UF_NOUNLINK
	Archived      Flags = 0x00010000 // SF_ARCHIVED
	Immutable     Flags = 0x00020000 // SF_IMMUTABLE
	Append        Flags = 0x00040000 // SF_APPEND
	NoUnlink      Flags = 0x00100000 // SF_NOUNLINK
)

// names in the order of strtofflags(3); the first name of a bit is the one printed.
var flagNames = []struct {
	name string
	bit  Flags
}{
	{"arch", Archived}, {"archived", Archived},
	{"sappnd", Append}, {"sappend", Append},
	{"schg", Immutable}, {"schange", Immutable}, {"simmutable", Immutable},
	{"sunlnk", NoUnlink}, {"sunlink", NoUnlink},
	{"nodump", NoDump},
	{"opaque", UserOpaque},
	{"uappnd", UserAppend}, {"uappend", UserAppend},
	{"uchg", UserImmutable}, {"uchange", UserImmutable}, {"uimmutable", UserImmutable},
	{"uunlnk", UserNoUnlink}, {"uunlink", UserNoUnlink},
	// Written by bsdtar for files of ZFS and msdosfs; they say nothing UFS keeps.
	{"uarch", 0}, {"uarchive", 0},
}

// String is the comma-separated form of strtofflags(3), "" when no bit is set.
func (f Flags) String() string {
	var names []string
	for _, n := range flagNames {
		if n.bit != 0 && f&n.bit != 0 {
			names = append(names, n.name)
			f &^= n.bit
		}
	}
	if f != 0 {
		names = append(names, fmt.Sprintf("%#x", uint32(f)))
	}
	return strings.Join(names, ",")
}

// ParseFlags reads the form of strtofflags(3): "schg,nodump". "" and "none" are 0.
func ParseFlags(s string) (Flags, error) {
	var f Flags
	if s == "" || s == "none" {
		return 0, nil
	}
	for name := range strings.SplitSeq(s, ",") {
		i := slices.IndexFunc(flagNames, func(n struct {
			name string
			bit  Flags
		}) bool {
			return n.name == name
		})
		if i < 0 {
			return 0, fmt.Errorf("unknown file flag %q", name)
		}
		f |= flagNames[i].bit
	}
	return f, nil
}
