//go:build linux || freebsd

package console

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Attach does what getty(8) does: a session of its own, /dev/tty as controlling
// terminal in a sane state, standard input, output and error on it, and a full
// environment. Whoever had the line before is thrown off it.
func Attach(tty string) error {
	// A session leader already is one; login_tty(3) does not mind either.
	if _, err := unix.Setsid(); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("attach %s: setsid: %w", tty, err)
	}
	f, err := open(tty)
	if err != nil {
		return fmt.Errorf("attach %s: %w", tty, err)
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := unix.IoctlSetInt(fd, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("attach %s: controlling terminal: %w", tty, err)
	}
	for std := range 3 {
		if err := dup2(fd, std); err != nil {
			return fmt.Errorf("attach %s: descriptor %d: %w", tty, std, err)
		}
	}
	for _, kv := range Env(tty, os.Getenv("TERM")) {
		k, v, _ := strings.Cut(kv, "=")
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	return nil
}

func exitStatus(err error) (int, error) {
	var ee *exec.ExitError
	if !errors.As(err, &ee) {
		return 0, err
	}
	if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ee.ExitCode(), nil
}

// open opens a line and puts it into a sane state. It does not wait for carrier.
func open(tty string) (*os.File, error) {
	path := device(tty)
	if err := revoke(path); err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	err = errors.Join(Sane(fd, tty), unix.SetNonblock(fd, false))
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Sane gives a terminal the modes of a fresh one (sys/ttydefaults.h): lines are
// edited, signals are sent, characters have 8 bits. A serial line gets 115200
// baud without modem control (3wire of gettytab); the speed of one that is the
// kernel's console is locked by the kernel and stays. An unknown window size
// becomes 80x24.
func Sane(fd int, tty string) error {
	t, err := unix.IoctlGetTermios(fd, ioctlGetTermios)
	if err != nil {
		return fmt.Errorf("%s: not a terminal: %w", tty, err)
	}
	t.Iflag = unix.BRKINT | unix.ICRNL | unix.IMAXBEL | unix.IXON | unix.IXANY
	t.Oflag = unix.OPOST | unix.ONLCR
	t.Lflag = unix.ECHO | unix.ICANON | unix.ISIG | unix.IEXTEN | unix.ECHOE | unix.ECHOKE | unix.ECHOCTL
	t.Cflag &^= unix.CSIZE | unix.PARENB | unix.CSTOPB
	t.Cflag |= unix.CREAD | unix.CS8 | unix.HUPCL
	if strings.HasPrefix(Term(tty), "xterm") {
		t.Iflag |= iutf8
	} else {
		t.Cflag &^= unix.CRTSCTS
		t.Cflag |= unix.CLOCAL
		t.Ispeed, t.Ospeed = unix.B115200, unix.B115200
	}
	for i, c := range map[int]byte{unix.VINTR: 3, unix.VQUIT: 28, unix.VERASE: 127, unix.VKILL: 21, unix.VEOF: 4,
		unix.VSTART: 17, unix.VSTOP: 19, unix.VSUSP: 26, unix.VREPRINT: 18, unix.VWERASE: 23, unix.VLNEXT: 22,
		unix.VMIN: 1, unix.VTIME: 0, unix.VEOL: noChar, unix.VEOL2: noChar} {
		t.Cc[i] = c
	}
	if err := unix.IoctlSetTermios(fd, ioctlSetTermios, t); err != nil {
		return fmt.Errorf("%s: set modes: %w", tty, err)
	}
	if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil && ws.Row == 0 && ws.Col == 0 {
		ws.Row, ws.Col = 24, 80
		_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, ws)
	}
	return nil
}

// Shell runs an interactive sh(1) on the process's own terminal, line tty, and
// returns when it ends; the terminal is sane before and after. The status of the
// shell is that of its last command and no error.
func Shell(tty string) error {
	if err := Sane(0, tty); err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	// Keys meant for the shell must not end this process. Caught, not ignored:
	// an ignored signal would stay ignored in the shell.
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP)
	defer signal.Stop(c)
	cmd := exec.Command("/bin/sh", "-i")
	cmd.Env = append(Env(tty, os.Getenv("TERM")), "PS1=rig# ")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if st, err := os.Stat("/root"); err == nil && st.IsDir() {
		cmd.Dir = "/root"
	}
	if _, err := exitStatus(cmd.Run()); err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	// A shell that was killed leaves its process group in the foreground.
	signal.Ignore(syscall.SIGTTOU)
	_ = unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp())
	signal.Reset(syscall.SIGTTOU)
	if err := Sane(0, tty); err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	return nil
}

// Key waits for a key on the process's terminal and returns its byte. It reads
// nothing when ctx ends first. The key is not echoed.
func Key(ctx context.Context) (byte, error) {
	old, err := unix.IoctlGetTermios(0, ioctlGetTermios)
	if err != nil {
		return 0, fmt.Errorf("wait for a key: %w", err)
	}
	raw := *old
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(0, ioctlSetTermios, &raw); err != nil {
		return 0, fmt.Errorf("wait for a key: %w", err)
	}
	defer unix.IoctlSetTermios(0, ioctlSetTermios, old)
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		fds := []unix.PollFd{{Fd: 0, Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 100); errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		b := make([]byte, 1)
		if _, err := os.Stdin.Read(b); err != nil {
			return 0, fmt.Errorf("wait for a key: %w", err)
		}
		return b[0], nil
	}
}
