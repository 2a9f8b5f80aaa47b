package flash

import (
	"os"

	"golang.org/x/sys/unix"
)

// prepare turns the cache off, as far as a raw disk has one.
func prepare(f *os.File) { unix.FcntlInt(f.Fd(), unix.F_NOCACHE, 1) }
