//go:build !linux && !freebsd

package console

import (
	"context"
	"errors"
)

// Attach, Sane, Shell and Key exist on the installer's systems only.

func Attach(tty string) error { return errors.ErrUnsupported }

func Sane(fd int, tty string) error { return errors.ErrUnsupported }

func Shell(tty string) error { return errors.ErrUnsupported }

func Key(ctx context.Context) (byte, error) { return 0, errors.ErrUnsupported }
