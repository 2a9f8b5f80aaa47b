// Package run is the one seam through which rig executes programs: Exec on a
// machine, Script in tests. Only parseable output is asked for (-j, -Hp).
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// Cmd is one program call. Secrets go through Stdin, never through Argv: argv is
// visible to every user of the machine and is logged.
type Cmd struct {
	Argv   []string
	Stdin  []byte
	Secret bool // Stdin is never printed
}

// New is a Cmd without input.
func New(argv ...string) Cmd { return Cmd{Argv: argv} }

// String is the command as a line for sh(1).
func (c Cmd) String() string { return Quote(c.Argv) }

// Runner executes a command and returns its standard output. A failure is an
// *Error.
type Runner interface {
	Run(ctx context.Context, c Cmd) ([]byte, error)
}

// Error is a program that could not be run or that failed.
type Error struct {
	Argv   []string
	Status int // exit status, -1 when it did not run to its end
	Stderr string
	Err    error
}

func (e *Error) Error() string {
	msg := strings.TrimSpace(e.Stderr)
	if msg == "" {
		msg = e.Err.Error()
	}
	if e.Status > 0 {
		return fmt.Sprintf("%s: exit status %d: %s", Quote(e.Argv), e.Status, msg)
	}
	return fmt.Sprintf("%s: %s", Quote(e.Argv), msg)
}

func (e *Error) Unwrap() error { return e.Err }

// Exec runs programs of this machine. Logf, when set, is told each command
// before it runs.
type Exec struct {
	Logf func(format string, args ...any)
}

// stderrLimit bounds what an Error keeps of a program's complaints.
const stderrLimit = 8 << 10

// Run implements Runner.
func (x Exec) Run(ctx context.Context, c Cmd) ([]byte, error) {
	if x.Logf != nil {
		x.Logf("+ %s", c)
	}
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	var out, complaints bytes.Buffer
	cmd.Stdin = bytes.NewReader(c.Stdin)
	cmd.Stdout = &out
	cmd.Stderr = &limitWriter{&complaints, stderrLimit}
	if err := cmd.Run(); err != nil {
		status := -1
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			status = ee.ExitCode()
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return out.Bytes(), &Error{Argv: c.Argv, Status: status, Stderr: complaints.String(), Err: err}
	}
	return out.Bytes(), nil
}

type limitWriter struct {
	w io.Writer
	n int
}

func (l *limitWriter) Write(p []byte) (int, error) {
	if k := min(len(p), l.n); k > 0 {
		l.n -= k
		if _, err := l.w.Write(p[:k]); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Quote joins argv as one line for sh(1).
func Quote(argv []string) string {
	q := make([]string, len(argv))
	for i, a := range argv {
		q[i] = quoteArg(a)
	}
	return strings.Join(q, " ")
}

func quoteArg(s string) string {
	const safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%^"
	if s != "" && strings.Trim(s, safe) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
