package console

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const (
	ioctlGetTermios = unix.TIOCGETA
	ioctlSetTermios = unix.TIOCSETA
	noChar          = 0xff   // _POSIX_VDISABLE
	iutf8           = 0x4000 // IUTF8 of sys/_termios.h, not in x/sys
)

// revoke makes the line root's alone and invalidates every descriptor on it, as
// getty(8) does.
func revoke(path string) error {
	if err := errors.Join(os.Chown(path, 0, 0), os.Chmod(path, 0o600)); err != nil {
		return err
	}
	if err := unix.Revoke(path); err != nil {
		return &os.PathError{Op: "revoke", Path: path, Err: err}
	}
	return nil
}

func dup2(from, to int) error { return unix.Dup2(from, to) }
