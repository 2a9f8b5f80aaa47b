//go:build linux || freebsd || darwin

package console

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Lock is the right of one console to run the installer. It ends with the
// process: flock(2) holds it, not the file's existence.
type Lock struct{ f *os.File }

// Acquire takes the lock at path for the console name. When another process has
// it, lock is nil without an error and holder says who ("ttyv0, process 123").
func Acquire(path, name string) (lock *Lock, holder string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, "", fmt.Errorf("lock console: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, "", fmt.Errorf("lock console: %w", err)
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, readHolder(f), nil
		}
		return nil, "", fmt.Errorf("lock console %s: %w", path, err)
	}
	l := &Lock{f}
	if err := l.write(fmt.Sprintf("%s, process %d\n", name, os.Getpid())); err != nil {
		l.Release()
		return nil, "", fmt.Errorf("lock console: %w", err)
	}
	return l, "", nil
}

// Release gives the lock back.
func (l *Lock) Release() error {
	err := l.f.Truncate(0)
	return errors.Join(err, l.f.Close())
}

func (l *Lock) write(s string) error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt([]byte(s), 0)
	return err
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func readHolder(f *os.File) string {
	b, _ := io.ReadAll(io.NewSectionReader(f, 0, 256))
	if s := strings.TrimSpace(string(b)); s != "" {
		return s
	}
	return "another console" // it has the lock and has not written its name yet
}
