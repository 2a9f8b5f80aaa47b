package vmtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
)

// Session is a shell on a serial console. Its results are framed by marks that
// the echo of the command line does not contain and that are printed twice, so
// that a kernel message in the middle of one does no harm.
type Session struct {
	*vm.Console
	Limit time.Duration // of one command, CommandLimit when 0; Slow applies

	marks int
}

// ErrBoot is a FreeBSD that did not get to its login.
var ErrBoot = errors.New("boot failed")

const (
	promptLimit = 60 * time.Second // for a prompt after a typed line
	readyTries  = 8
	readyLimit  = 8 * time.Second // of one try
	settleTime  = 500 * time.Millisecond
	maxCommand  = 3500 // a terminal's line is at most 4096 bytes on some systems
	readTries   = 3
	scratch     = "/tmp/.rig-session"
)

// bootFailures are the places where a boot ends without a login.
var bootFailures = regexp.MustCompile(`(?m)mountroot> |\bpanic: |^db> |Enter full pathname of shell|` +
	`can't load 'kernel'|Can't find /boot/loader|Failed to find bootable partition|No bootable option or device|Shell> `)

var loginPrompt = regexp.MustCompile(`(?m)^login: `)

// WaitLogin waits for getty's prompt and sees the usual ways to miss it.
func (s *Session) WaitLogin(ctx context.Context, limit time.Duration) error {
	m, err := s.ExpectIn(ctx, Slow(limit), loginPrompt, bootFailures)
	if err != nil {
		return fmt.Errorf("wait for login: %w", err)
	}
	if m.Index == 1 {
		return fmt.Errorf("%w at %q:\n%s", ErrBoot, m.Text, s.Tail(40))
	}
	return nil
}

// Login logs in at the prompt WaitLogin found; no password is asked of some users.
func (s *Session) Login(ctx context.Context, user, password string) error {
	if err := s.SendLine(user); err != nil {
		return err
	}
	m, err := s.ExpectIn(ctx, Slow(promptLimit), "Password:", regexp.MustCompile(`(?m)[#$%>] $`))
	if err != nil {
		return fmt.Errorf("login as %s: %w", user, err)
	}
	if m.Index == 0 {
		if err := s.SendLine(password); err != nil {
			return err
		}
		m, err := s.ExpectIn(ctx, Slow(promptLimit), regexp.MustCompile(`(?m)[#$%>] $`), "Login incorrect")
		if err != nil {
			return fmt.Errorf("login as %s: %w", user, err)
		}
		if m.Index == 1 {
			return fmt.Errorf("login as %s: Login incorrect", user)
		}
	}
	return s.Attach(ctx)
}

// Attach makes a sh(1) at its prompt ready for Run: without line editing, prompt
// and echo. What is typed while a login is under way may be lost in part
// (resizewin(1) of .profile reads the terminal), so nothing here is quoted, and
// another try begins with the key that abandons an unfinished line.
func (s *Session) Attach(ctx context.Context) error {
	s.marks++
	line := fmt.Sprintf("set +o emacs; set +o vi; stty -echo; PS1= PS2=; echo RIG\\-R%d:", s.marks)
	var err error
	for try := range readyTries {
		if try > 0 {
			if err := s.Send("\x03"); err != nil {
				return err
			}
			time.Sleep(settleTime)
		}
		if err := s.SendLine(line); err != nil {
			return err
		}
		if _, err = s.ExpectIn(ctx, Slow(readyLimit), fmt.Sprintf("RIG-R%d:\n", s.marks)); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("attach to the shell: %w", err)
	}
	return nil
}

// Run runs command, which may have several lines, by a sh(1) of its own with
// /dev/null for input, and returns what it and the console said meanwhile, and
// its exit status.
func (s *Session) Run(ctx context.Context, command string) (output string, status int, err error) {
	s.marks++
	n := s.marks
	line := fmt.Sprintf("echo 'RIG''-B%d:'; /bin/sh -c %s </dev/null; r=$?; echo; echo 'RIG''-E%d:'$r:; echo 'RIG''-E%d:'$r:",
		n, shellQuote(command), n, n)
	if len(line) > maxCommand {
		return "", -1, fmt.Errorf("run: command of %d bytes is too long for a terminal's line", len(command))
	}
	limit := s.Limit
	if limit == 0 {
		limit = CommandLimit
	}
	if err := s.SendLine(line); err != nil {
		return "", -1, err
	}
	m, err := s.ExpectIn(ctx, Slow(limit), regexp.MustCompile(fmt.Sprintf(`RIG-E%d:(\d+):`, n)))
	if err != nil {
		return "", -1, fmt.Errorf("run %s: %w", command, err)
	}
	if status, err = strconv.Atoi(m.Groups[1]); err != nil {
		return "", -1, fmt.Errorf("run %s: %w", command, err)
	}
	output = m.Before
	if _, after, ok := strings.Cut(output, fmt.Sprintf("RIG-B%d:\n", n)); ok {
		output = after
	}
	return strings.TrimSuffix(output, "\n"), status, nil
}

// Output is Run for output that must be exact: what command writes to its
// standard output goes through a file and is read with ReadFile.
func (s *Session) Output(ctx context.Context, command string) (stdout []byte, status int, err error) {
	noise, status, err := s.Run(ctx, "{ "+command+"\n} >"+scratch)
	if err != nil {
		return nil, status, err
	}
	stdout, err = s.ReadFile(ctx, scratch)
	if err != nil {
		return nil, status, fmt.Errorf("output of %s: %w; %s", command, err, noise)
	}
	return stdout, status, nil
}

// ReadFile is the content of a file of the guest, checked by its SHA-256 and asked
// for again when the console's noise got into it.
func (s *Session) ReadFile(ctx context.Context, path string) ([]byte, error) {
	q := shellQuote(path)
	command := fmt.Sprintf("test -r %[1]s || exit 9; sha256 -q %[1]s 2>/dev/null || sha256sum <%[1]s; echo RIG-DATA; "+
		"base64 <%[1]s 2>/dev/null || b64encode -r - <%[1]s", q)
	var bad error
	for range readTries {
		out, status, err := s.Run(ctx, command)
		if err != nil {
			return nil, err
		}
		if status == 9 {
			return nil, fmt.Errorf("read %s of the guest: not readable", path)
		}
		data, err := decode(out)
		if err == nil {
			return data, nil
		}
		bad = err
	}
	return nil, fmt.Errorf("read %s of the guest: %w", path, bad)
}

// decode takes "<sha256>\nRIG-DATA\n<base64>" apart.
func decode(out string) ([]byte, error) {
	sum, text, ok := strings.Cut(out, "RIG-DATA\n")
	if !ok || len(sum) < 2*sha256.Size {
		return nil, errors.New("noise around the data")
	}
	text = strings.TrimRight(strings.Join(strings.Fields(text), ""), "=")
	data, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	want, err := hex.DecodeString(sum[:2*sha256.Size])
	if got := sha256.Sum256(data); err != nil || !bytes.Equal(got[:], want) {
		return nil, errors.New("sha256 mismatch")
	}
	return data, nil
}

// Logout ends the shell and waits for the next login prompt.
func (s *Session) Logout(ctx context.Context) error {
	if err := s.SendLine("exit"); err != nil {
		return err
	}
	return s.WaitLogin(ctx, promptLimit)
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// contextFor ends after d; for calls outside of a test.
func contextFor(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	time.AfterFunc(d, cancel)
	return ctx
}
