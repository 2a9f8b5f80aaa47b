package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rig-freebsd/rig/firstboot/network"
	"github.com/rig-freebsd/rig/internal/arp"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
)

// netLimit is how long a gateway has to answer on settings that are on trial.
const netLimit = 2 * time.Minute

// netwatch watches over network settings that have not worked yet.
func netwatch(ctx context.Context, args []string, std cli.Stdio) error {
	fs := std.Flags(usage)
	limit := fs.Duration("limit", netLimit, "")
	if _, err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	if *limit <= 0 {
		return diag.Inputf("--limit %s: not a time to wait", *limit)
	}
	w, err := network.LoadWatcher("/")
	if err != nil {
		return err
	}
	w.Run, w.Who, w.Say, w.Limit = run.Exec{}, arp.Who, tellConsole, *limit
	return w.Watch(ctx)
}

// confirm makes the settings of the public network those that work.
func confirm(_ context.Context, args []string, std cli.Stdio) error {
	fs := std.Flags(usage)
	if _, err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	w, err := network.LoadWatcher("/")
	if err != nil {
		return err
	}
	fallback, err := w.Confirm()
	if err != nil {
		return err
	}
	fmt.Fprintln(std.Out, "rig: the network settings of /etc are confirmed")
	if fallback {
		fmt.Fprintln(std.Out, `rig: others are in use now; "shutdown -r now" brings the confirmed ones up`)
	}
	return nil
}

// tellConsole says something where a person at the machine sees it, on video and
// serial, and in the log. None of them must be there.
func tellConsole(format string, args ...any) {
	line := fmt.Sprintf("rig: "+format, args...)
	ctx := context.Background()
	out, _ := run.Exec{}.Run(ctx, run.New("sysctl", "-n", "kern.console"))
	for _, name := range consoles(string(out)) {
		if f, err := os.OpenFile("/dev/"+name, os.O_WRONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0); err == nil {
			fmt.Fprintf(f, "\r\n%s\r\n", line)
			f.Close()
		}
	}
	_, _ = run.Exec{}.Run(ctx, run.New("logger", "-p", "daemon.notice", "-t", "rig", "--", line))
}

// consoles are the active ones of kern.console, "ttyv0,ttyu0,/ttyu0,ttyv0,".
// /dev/console would be the first one only.
func consoles(text string) []string {
	active, _, _ := strings.Cut(strings.TrimSpace(text), "/")
	names := strings.FieldsFunc(active, func(r rune) bool { return r == ',' })
	if len(names) == 0 {
		return []string{"console"}
	}
	return names
}
