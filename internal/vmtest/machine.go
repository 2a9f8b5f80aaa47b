package vmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
)

// VM is a machine of a test with a session on its first serial port. Its methods
// end the test when they fail; Session and Machine have those that return errors.
type VM struct {
	*vm.Machine
	Session *Session
	Log     string // the console's log file

	t testing.TB
}

// Start starts the machine and cuts its power when the test ends. Dir and
// SerialLog are filled in when empty.
func Start(t testing.TB, c vm.Config) *VM {
	t.Helper()
	if c.Dir == "" {
		c.Dir = Dir(t)
	}
	if c.SerialLog == "" {
		c.SerialLog = logPath(t, c.Name)
	}
	if c.CPUs == 0 {
		c.CPUs = max(1, min(2, runtime.NumCPU()/parallel()))
	}
	m, err := vm.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.PowerOff()
		if t.Failed() {
			t.Logf("console of %s (%s), its end:\n%s", m.Config.Name, c.SerialLog, m.Console.Tail(40))
		}
	})
	return &VM{Machine: m, Session: &Session{Console: m.Console}, Log: c.SerialLog, t: t}
}

// For is the same machine for another test, as a subtest.
func (v *VM) For(t testing.TB) *VM {
	w := *v
	w.t = t
	return &w
}

func (v *VM) check(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatalf("%s: %v", v.Config.Name, err)
	}
}

// Expect waits for one of the patterns (string or *regexp.Regexp).
func (v *VM) Expect(limit time.Duration, patterns ...any) vm.Match {
	v.t.Helper()
	m, err := v.Console.ExpectIn(v.t.Context(), Slow(limit), patterns...)
	v.check(err)
	return m
}

// Send types s, SendLine s and Enter.
func (v *VM) Send(s string) {
	v.t.Helper()
	v.check(v.Console.Send(s))
}

// SendLine types s and Enter.
func (v *VM) SendLine(s string) {
	v.t.Helper()
	v.check(v.Console.SendLine(s))
}

// Login waits for the login prompt and logs in.
func (v *VM) Login(user, password string) {
	v.t.Helper()
	v.check(v.Session.WaitLogin(v.t.Context(), BootLimit))
	v.check(v.Session.Login(v.t.Context(), user, password))
}

// Run runs a command in the session.
func (v *VM) Run(command string) (output string, status int) {
	v.t.Helper()
	output, status, err := v.Session.Run(v.t.Context(), command)
	v.check(err)
	return output, status
}

// Must runs a command that must succeed.
func (v *VM) Must(command string) string {
	v.t.Helper()
	output, status := v.Run(command)
	if status != 0 {
		v.t.Fatalf("%s: %s: exit status %d:\n%s", v.Config.Name, command, status, output)
	}
	return output
}

// Output is the exact standard output of a command that must succeed.
func (v *VM) Output(command string) []byte {
	v.t.Helper()
	stdout, status, err := v.Session.Output(v.t.Context(), command)
	v.check(err)
	if status != 0 {
		v.t.Fatalf("%s: %s: exit status %d:\n%s", v.Config.Name, command, status, stdout)
	}
	return stdout
}

// ReadFile is the content of a file of the guest.
func (v *VM) ReadFile(path string) []byte {
	v.t.Helper()
	b, err := v.Session.ReadFile(v.t.Context(), path)
	v.check(err)
	return b
}

// WaitExit waits for the machine's end, which must have the reason
// ("guest-shutdown", or "guest-reset" with RebootExits).
func (v *VM) WaitExit(limit time.Duration, reason string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), Slow(limit))
	defer cancel()
	if err := v.Wait(ctx); err != nil {
		v.t.Fatalf("%s: %v; the console's end:\n%s", v.Config.Name, err, v.Console.Tail(40))
	}
	if got := v.ExitReason(); got != reason {
		v.t.Fatalf("%s: ended by %q, want %q; the console's end:\n%s", v.Config.Name, got, reason, v.Console.Tail(40))
	}
}

// FreezeAt calls f at the first line that matches, while the machine stands still:
// its disks then are what a power cut at that moment leaves (see package vm on
// SIGKILL; SIGSTOP ends between the same writes). f must not use the machine.
func (v *VM) FreezeAt(re *regexp.Regexp, f func()) {
	var once sync.Once
	v.Console.Watch(re, func(string) {
		once.Do(func() {
			if err := freeze(v.PID()); err != nil {
				v.t.Errorf("%s: %v", v.Config.Name, err)
				return
			}
			f()
			if err := syscall.Kill(v.PID(), syscall.SIGCONT); err != nil {
				v.t.Errorf("%s: thaw: %v", v.Config.Name, err)
			}
		})
	})
}

// freeze stops all threads of a process.
func freeze(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	for range 1000 {
		if frozen(pid) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("freeze: process %d runs on", pid)
}

// frozen reports whether every thread of a process is stopped; proc(5).
func frozen(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		return false
	}
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) { // a thread that ended meanwhile
			continue
		}
		_, state, ok := strings.Cut(string(b), ") ")
		if err != nil || !ok || state[0] != 'T' {
			return false
		}
	}
	return true
}
