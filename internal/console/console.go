// Package console is the installer's side of a FreeBSD terminal line: what
// getty(8) does before login, without login. init(8) starts `riginstall console
// ttyv0` from /etc/ttys with no open descriptors and only TERM in its
// environment; Attach makes of that a process with a terminal. One console at a
// time runs the installer (Acquire), the others watch its log (Follow), and each
// can have a shell (Shell).
//
// FreeBSD is the target; Linux is supported for the tests.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// LockPath is where consoles agree on who runs the installer.
const LockPath = "/var/run/rig/console.lock"

// searchPath is PATH of the installer and its shells.
const searchPath = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/rescue"

// Env is the environment of a program on a terminal line: that of init(8) lacks
// everything but TERM. RIG_TTY is the line's name.
func Env(tty, term string) []string {
	if term == "" {
		term = Term(tty)
	}
	return []string{"PATH=" + searchPath, "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh",
		"LANG=C.UTF-8", "TERM=" + term, "RIG_TTY=" + filepath.Base(tty)}
}

// Term is the terminal type of a line: xterm for vt(4), vt100 for serial lines,
// which show everything that vt100 does.
func Term(tty string) string {
	if strings.HasPrefix(filepath.Base(tty), "ttyv") {
		return "xterm"
	}
	return "vt100"
}

// device is the path of a line given by name or path.
func device(tty string) string {
	if filepath.IsAbs(tty) {
		return tty
	}
	return "/dev/" + tty
}

// Follow writes the file at path to w, from its last 4 KiB on, and everything
// that is added to it until ctx is done, which is not an error. The file may
// appear later, shrink, or be replaced.
func Follow(ctx context.Context, path string, w io.Writer) error {
	tick := time.NewTicker(followTime)
	defer tick.Stop()
	var f *os.File
	defer func() { f.Close() }()
	first := true
	for {
		if now, err := os.Stat(path); err == nil {
			if f == nil || replaced(f, now) {
				f.Close() // nil is fine
				if f, err = os.Open(path); err != nil {
					return err
				}
				if first && now.Size() > followTail {
					if err := skipTo(f, now.Size()-followTail); err != nil {
						return err
					}
				}
				first = false
			}
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if f != nil {
			if _, err := io.Copy(w, f); err != nil {
				return fmt.Errorf("follow %s: %w", path, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

const (
	followTime = 250 * time.Millisecond
	followTail = 4 << 10 // bytes of old log a console shows
)

// replaced reports whether the name of f now stands for another or shorter file.
func replaced(f *os.File, now os.FileInfo) bool {
	old, err := f.Stat()
	if err != nil || !os.SameFile(old, now) {
		return true
	}
	pos, err := f.Seek(0, io.SeekCurrent)
	return err == nil && now.Size() < pos
}

// skipTo moves to the beginning of the first line after offset.
func skipTo(f *os.File, offset int64) error {
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	b := make([]byte, 1)
	for b[0] != '\n' {
		if _, err := f.Read(b); err != nil {
			return err
		}
	}
	return nil
}
