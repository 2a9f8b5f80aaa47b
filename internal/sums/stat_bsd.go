//go:build darwin || freebsd

package sums

import (
	"io/fs"
	"syscall"
)

// Stat returns what is to be compared of a file.
func Stat(fi fs.FileInfo) State {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return State{}
	}
	return State{size: fi.Size(), mtime: st.Mtimespec.Nano(), ctime: st.Ctimespec.Nano(), inode: st.Ino, mode: uint32(fi.Mode())}
}
