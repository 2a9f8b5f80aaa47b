package prompt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

// maxLine bounds an answer, in bytes.
const maxLine = 64 << 10

// pollTime is how often a wait for input looks at its context and at Ctrl-C, in
// milliseconds.
const pollTime = 100

// input is the one reader of a Prompter. It never has a read under way when no
// prompt is: a shell started between prompts gets every key.
type input struct {
	f      *os.File
	buf    []byte // read, not consumed: type-ahead
	skipLF bool   // the last byte consumed was CR; an LF directly after it belongs to it
}

func newInput(f *os.File) *input { return &input{f: f} }

// interrupts calls fn with a channel that tells of SIGINT while it runs.
func interrupts(fn func(<-chan os.Signal) error) error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	defer signal.Stop(c)
	return fn(c)
}

// fill waits until buf is not empty.
func (in *input) fill(ctx context.Context, stop <-chan os.Signal) error {
	for len(in.buf) == 0 {
		select {
		case <-stop:
			return ErrInterrupt
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		fds := []unix.PollFd{{Fd: int32(in.f.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, pollTime); errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		b := make([]byte, 4096)
		n, err := in.f.Read(b)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		in.buf = b[:n]
		if n == 0 && err != nil {
			return err
		}
	}
	return nil
}

// readByte returns the next byte; an LF after a CR is skipped.
func (in *input) readByte(ctx context.Context, stop <-chan os.Signal) (byte, error) {
	for {
		if err := in.fill(ctx, stop); err != nil {
			return 0, err
		}
		c := in.buf[0]
		in.buf = in.buf[1:]
		skip := in.skipLF && c == '\n'
		in.skipLF = c == '\r'
		if !skip {
			return c, nil
		}
	}
}

// readLine returns the bytes before the next CR, LF or CRLF, and which of CR and
// LF it was. A line that the end of input cuts short is io.ErrUnexpectedEOF
// joined to io.EOF: half an answer must not count as one.
func (in *input) readLine(ctx context.Context, stop <-chan os.Signal) (line string, end byte, err error) {
	var b []byte
	for {
		c, err := in.readByte(ctx, stop)
		switch {
		case errors.Is(err, io.EOF) && len(b) > 0:
			return "", 0, fmt.Errorf("input ended in the middle of a line: %w", io.EOF)
		case err != nil:
			return "", 0, err
		case c == '\r' || c == '\n':
			return string(b), c, nil
		case c == 3: // Ctrl-C of a terminal that makes no signal of it
			in.buf = nil
			return "", 0, ErrInterrupt
		case len(b) >= maxLine:
			return "", 0, fmt.Errorf("line of more than %d bytes", maxLine)
		}
		b = append(b, c)
	}
}

// lineModes sets the terminal up for readLine until restore is called: the tty
// edits the line, CR ends it as LF does and is not turned into LF, so that CRLF
// can be told from two lines. On something else than a terminal it does nothing.
func (in *input) lineModes(echo bool) (isTTY bool, restore func()) {
	fd := int(in.f.Fd())
	old, err := unix.IoctlGetTermios(fd, ioctlGetTermios)
	if err != nil {
		return false, func() {}
	}
	t := *old
	t.Iflag &^= unix.ICRNL | unix.INLCR | unix.IGNCR
	t.Lflag &^= unix.ECHO | unix.ECHONL
	if runtime.GOOS != "freebsd" { // there CR never is echoed as ^M
		t.Lflag &^= unix.ECHOCTL
	}
	t.Lflag |= unix.ICANON | unix.ISIG | unix.ECHOE
	if echo {
		t.Lflag |= unix.ECHO
	}
	t.Cc[unix.VEOL] = '\r'
	if err := unix.IoctlSetTermios(fd, ioctlSetTermios, &t); err != nil {
		return true, func() {}
	}
	return true, func() { _ = unix.IoctlSetTermios(fd, ioctlSetTermios, old) }
}
