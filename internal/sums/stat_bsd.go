//go:build darwin || freebsd

package sums

import (
	"io/fs"
	"syscall"
)

func stat(fi fs.FileInfo) (s state, ok bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return s, false
	}
	return state{size: fi.Size(), mtime: st.Mtimespec.Nano(), ctime: st.Ctimespec.Nano(), inode: st.Ino, mode: uint32(fi.Mode())}, true
}
