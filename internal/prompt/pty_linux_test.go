package prompt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The prompts run in a process of their own on a pty, as on a machine: the test
// binary again, with the name of a dialog in RIG_DIALOG.
func TestMain(m *testing.M) {
	if name := os.Getenv("RIG_DIALOG"); name != "" {
		d := dialogs[name]
		d(New(os.Stdin, os.Stdout, os.Getenv))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var items = []Item{{"mirror", "two disks"}, {"raidz", "three disks"}, {"stripe", "no safety"}}

// dialogs print what they got as <…>, so that a test can wait for it.
var dialogs = map[string]func(Prompter){
	"input": func(p Prompter) {
		got(p.Input(context.Background(), Question{Label: "Host", Help: "the name\nof the server", Default: "web1",
			Validate: func(s string) error {
				if strings.ContainsAny(s, " !") {
					return errors.New("not a host name")
				}
				return nil
			}}))
		got(p.Input(context.Background(), Question{Label: "Next"}))
	},
	"secret": func(p Prompter) {
		got(p.Input(context.Background(), Question{Label: "Password", Secret: true}))
		got(p.Input(context.Background(), Question{Label: "Next"}))
	},
	"select": func(p Prompter) {
		got(p.Select(context.Background(), "Layout", items, 0))
		got(p.Select(context.Background(), "Again", items, -1))
		got(p.Input(context.Background(), Question{Label: "Next"}))
	},
	"confirm": func(p Prompter) {
		got(p.Confirm(context.Background(), "Disks will be wiped.", "S1X"))
		got(p.Confirm(context.Background(), "Sure?", "yes"))
	},
	"cancel": func(p Prompter) {
		ctx, stop := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer stop()
		got(p.Select(ctx, "Layout", items, 0))
		ctx, stop = context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer stop()
		got(p.Input(ctx, Question{Label: "Host"}))
		got(p.Input(context.Background(), Question{Label: "Next"}))
	},
	"slow": func(p Prompter) {
		got(p.Input(context.Background(), Question{Label: "One"}))
		time.Sleep(300 * time.Millisecond)
		got(p.Select(context.Background(), "Layout", items, 0))
		time.Sleep(300 * time.Millisecond)
		got(p.Input(context.Background(), Question{Label: "Two", Default: "dflt"}))
	},
}

func got[T any](v T, err error) {
	switch {
	case errors.Is(err, ErrInterrupt):
		fmt.Println("<interrupt>")
	case errors.Is(err, io.EOF):
		fmt.Println("<eof>")
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Println("<cancelled>")
	case err != nil:
		fmt.Printf("<error %v>\n", err)
	default:
		fmt.Printf("<%v>\n", v)
	}
}

// session is a dialog on a pty.
type session struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	out    bytes.Buffer
	done   chan struct{}
}

func start(t *testing.T, dialog, term string, cols uint16) *session {
	t.Helper()
	master, slave := openPTY(t)
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: cols}); err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, master: master, cmd: exec.Command("/proc/self/exe"), done: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), "RIG_DIALOG="+dialog, "TERM="+term)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	go func() {
		defer close(s.done)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			s.mu.Lock()
			s.out.Write(b[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		if strings.Contains(s.text(), "DATA RACE") {
			t.Errorf("under the race detector:\n%s", s.text())
		}
		s.cmd.Process.Kill()
		s.cmd.Wait()
		master.Close()
	})
	return s
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no pty here: ", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "ptmx"), slave
}

func (s *session) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

func (s *session) send(keys string) {
	s.t.Helper()
	if _, err := io.WriteString(s.master, keys); err != nil {
		s.t.Fatal(err)
	}
}

// until waits until the screen shows each of want, in order.
func (s *session) until(want ...string) {
	s.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		rest, all := s.text(), true
		for _, w := range want {
			_, after, ok := strings.Cut(rest, w)
			if !ok {
				all = false
				break
			}
			rest = after
		}
		if all {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited for %q, the terminal shows:\n%q", want, s.text())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// exchange is the usual session: wait for a text, send keys, and so on.
func (s *session) exchange(pairs ...string) {
	s.t.Helper()
	var seen []string
	for i := 0; i < len(pairs); i += 2 {
		seen = append(seen, pairs[i])
		s.until(seen...)
		if i+1 < len(pairs) {
			s.send(pairs[i+1])
		}
	}
}
