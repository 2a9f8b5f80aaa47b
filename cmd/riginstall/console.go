package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/firstboot"
	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/internal/arp"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/console"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/prompt"
	"github.com/rig-freebsd/rig/internal/run"
)

// asked exists when the answers were found not to be for an unattended install,
// or one failed: from then on a person decides.
const asked = "asked"

// runConsole is what init starts on each console of the installer. One console at
// a time installs; the first to come up does an unattended install, the others
// show its log.
func runConsole(args []string) error {
	if len(args) != 1 {
		return diag.Inputf("usage: riginstall console TTY")
	}
	tty := filepath.Base(args[0])
	if err := console.Attach(tty); err != nil {
		return err
	}
	c := &session{tty: tty, std: cli.OS(), marker: filepath.Join(place.StateDir, asked)}
	for {
		// Ctrl-C ends a turn, not this process.
		turn, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		c.turn(turn)
		stop()
	}
}

// session is one console's part in the installer.
type session struct {
	tty    string
	std    cli.Stdio
	marker string
	lock   *console.Lock // while this console installs
}

// acquire makes this console the one that installs. When another one does, it
// watches that.
func (c *session) acquire(ctx context.Context) bool {
	lock, holder, err := console.Acquire(console.LockPath, c.tty)
	if err != nil || lock == nil {
		c.watch(ctx, holder)
		return false
	}
	c.lock = lock
	return true
}

func (c *session) release() {
	if c.lock != nil {
		c.lock.Release()
		c.lock = nil
	}
}

func (c *session) say(format string, args ...any) { fmt.Fprintf(c.std.Out, format+"\n", args...) }

// turn does one round: an unattended install, a person's wish, or watching.
func (c *session) turn(ctx context.Context) {
	if _, err := os.Stat(c.marker); err != nil {
		if c.acquire(ctx) {
			c.unattended(ctx)
			c.release()
		}
		return
	}
	c.say("\nrig installer. Enter: install from this console.  s: shell.")
	key, err := console.Key(ctx)
	if err != nil {
		time.Sleep(time.Second)
		return
	}
	if key == 's' {
		c.shell()
		return
	}
	if c.acquire(ctx) {
		c.attended(ctx)
		c.release()
	}
}

// watch follows the log of the console that installs until it is done.
func (c *session) watch(ctx context.Context, holder string) {
	tty, _, _ := strings.Cut(holder, ",")
	c.say("rig: the installer is in use on %s; its log follows\nrig: to take over, press Ctrl-C on %s: that ends it there, and Enter installs from here", holder, tty)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go console.Follow(ctx, filepath.Join(place.StateDir, "install.log"), c.std.Out)
	for {
		time.Sleep(time.Second)
		if lock, _, err := console.Acquire(console.LockPath, c.tty); err == nil && lock != nil {
			lock.Release()
			return
		}
	}
}

// unattended installs when the answers want it, and leaves the machine to a
// person when they do not or it fails.
func (c *session) unattended(ctx context.Context) {
	in, done, err := newInstaller(c.std, false)
	if err != nil {
		c.fail(err)
		return
	}
	defer done()
	wanted, err := in.Unattended(ctx)
	if err == nil && wanted {
		var after string
		if after, err = in.Install(ctx); err == nil {
			c.off(ctx, after)
			return
		}
		if errors.Is(err, firstboot.ErrInstalled) && !in.FromNet { // somebody is to remove the medium
			c.report(in.Log, err)
			c.off(ctx, "poweroff")
			return
		}
	}
	if err != nil {
		c.report(in.Log, err)
	}
	c.leave()
}

func (c *session) attended(ctx context.Context) {
	in, done, err := newInstaller(c.std, false)
	if err != nil {
		c.fail(err)
		return
	}
	defer done()
	in.Prompt = prompt.New(os.Stdin, os.Stdout, os.Getenv)
	after, err := in.Install(ctx)
	switch {
	case errors.Is(err, prompt.ErrInterrupt), errors.Is(err, context.Canceled):
		c.shell()
	case err != nil:
		c.report(in.Log, err)
	default:
		c.off(ctx, after)
	}
}

// report shows an error here and, through the log, on the other consoles.
func (c *session) report(log *firstboot.Journal, err error) {
	c.std.Fail("riginstall", err)
	log.Printf("riginstall: error: %v", err)
	if h := diag.HintOf(err); h != "" {
		log.Printf("riginstall: hint: %s", h)
	}
}

func (c *session) fail(err error) {
	c.std.Fail("riginstall", err)
	c.leave()
}

func (c *session) leave() { _ = os.WriteFile(c.marker, nil, 0o600) }

func (c *session) off(ctx context.Context, after string) {
	if after == "shell" {
		c.leave()
		c.shell()
		return
	}
	if err := power(ctx, after, c.std.Out); err != nil {
		c.fail(err)
		return
	}
	time.Sleep(10 * time.Minute) // until init ends this process
}

// shell gives the other consoles the installer meanwhile.
func (c *session) shell() {
	c.release()
	c.say("rig: a shell; \"riginstall --help\" says what there is, exit returns to the installer")
	if err := console.Shell(c.tty); err != nil {
		c.say("rig: %v", err)
	}
}

// newInstaller is an installer with its log open.
func newInstaller(std cli.Stdio, planOnly bool) (*firstboot.Installer, func(), error) {
	if err := os.MkdirAll(place.StateDir, 0o700); err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(filepath.Join(place.StateDir, "install.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return &firstboot.Installer{
		Out: std.Out, Run: run.Exec{}, Log: firstboot.NewJournal(f), PlanOnly: planOnly,
		Prober: facts.Prober{Run: run.Exec{}, OpenDisk: facts.OpenDevice},
		Who:    arp.Who,
	}, func() { f.Close() }, nil
}
