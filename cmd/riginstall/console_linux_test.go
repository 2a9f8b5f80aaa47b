package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/console"
	"golang.org/x/sys/unix"
)

// consoleMain is a console without the install itself: rigconsole LINE MARKER ROLE.
// One that installs works until Ctrl-C, and then does what an interrupted install
// does; one that waits takes its turn, and then installs too.
func consoleMain() {
	tty, marker, role := os.Args[1], os.Args[2], os.Args[3]
	if err := console.Attach(tty); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c := &session{tty: tty, std: cli.OS(), marker: marker}
	if role == "waits" {
		c.turn(ctx)
	}
	for !c.acquire(ctx) { // as runConsole's rounds do: others look at the lock too
	}
	c.say("installing on %s", tty)
	<-ctx.Done()
	c.shell()
	c.say("the shell ended")
}

// tty is one console, seen from the person in front of it.
type tty struct {
	t      *testing.T
	name   string
	master *os.File
	mu     sync.Mutex
	text   string
	read   int
}

func newTTY(t *testing.T, marker, role string) *tty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pty here: ", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	l := &tty{t: t, name: fmt.Sprintf("/dev/pts/%d", n), master: master}
	slave, err := os.OpenFile(l.name, os.O_RDWR|unix.O_NOCTTY, 0) // the line outlives what runs on it
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("rigconsole", l.name, marker, role)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		slave.Close()
		master.Close()
	})
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			l.mu.Lock()
			l.text += string(b[:n])
			l.mu.Unlock()
		}
	}()
	return l
}

// see waits until the line shows want, behind what was seen before.
func (l *tty) see(want string) {
	l.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		i := strings.Index(l.text[l.read:], want)
		if i >= 0 {
			l.read += i + len(want)
		}
		l.mu.Unlock()
		if i >= 0 {
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Fatalf("%s: waited for %q, the line shows:\n%q", l.name, want, l.text)
}

func (l *tty) press(keys string) {
	l.t.Helper()
	if _, err := l.master.WriteString(keys); err != nil {
		l.t.Fatal(err)
	}
}

// Every console that does not install shows the log of the one that does and how to
// take over; Ctrl-C there and Enter here does it.
func TestTakeOver(t *testing.T) {
	log := filepath.Join(place.StateDir, "install.log")
	lock, holder, err := console.Acquire(console.LockPath, "test")
	if err != nil || lock == nil {
		t.Skipf("no console lock to be had: %s %v", holder, err)
	}
	lock.Release()
	if err := os.MkdirAll(place.StateDir, 0o700); err != nil {
		t.Skip(err)
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		t.Skip("a log that is not this test's: ", err)
	}
	t.Cleanup(func() { f.Close(); os.Remove(log) })
	marker := filepath.Join(t.TempDir(), asked)

	a := newTTY(t, marker, "installs")
	a.see("installing on " + a.name)
	b := newTTY(t, marker, "waits") // nobody has asked yet: it watches at once
	usage := fmt.Sprintf("to take over, press Ctrl-C on %s: that ends it there, and Enter installs from here\r\n", a.name)
	b.see("rig: the installer is in use on " + a.name + ", process ")
	b.see(usage)
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newTTY(t, marker, "waits")
	c.see("Enter: install from this console.  s: shell.\r\n")
	c.press("\r")
	c.see(usage)
	fmt.Fprintln(f, "step 1 of 2")
	b.see("step 1 of 2\r\n")
	c.see("step 1 of 2\r\n")

	a.press("\x03")
	a.see("rig: a shell; ")
	first := holds(t, b, c) // whichever is faster
	first.see("installing on " + first.name)
	a.press("exit\r")
	a.see("the shell ended")
}

// holds waits until one of the consoles has the installer.
func holds(t *testing.T, of ...*tty) *tty {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		b, _ := os.ReadFile(console.LockPath)
		for _, l := range of {
			l.mu.Lock()
			has := strings.Contains(l.text, "installing on "+l.name)
			l.mu.Unlock()
			if has && strings.HasPrefix(string(b), l.name+", process ") {
				return l
			}
		}
	}
	t.Fatal("no console took over")
	return nil
}
