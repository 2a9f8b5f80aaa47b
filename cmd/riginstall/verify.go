package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/rig-freebsd/rig/firstboot/health"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
	"golang.org/x/term"
)

// verify checks the running server. Its result is the exit status: errors are a
// failure, and with --strict warnings are too.
func verify(ctx context.Context, args []string, std cli.Stdio) error {
	fs := std.Flags(usage)
	asJSON := fs.Bool("json", false, "")
	strict := fs.Bool("strict", false, "")
	if _, err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	if err := rootOnly(os.Geteuid()); err != nil {
		return err
	}
	checks, err := health.Verify(ctx, health.VerifyInput{Run: run.Exec{}, Now: time.Now()})
	if err != nil {
		return err
	}
	if *asJSON {
		err = health.WriteChecksJSON(std.Out, checks)
	} else {
		out, ok := std.Out.(*os.File)
		colour := ok && term.IsTerminal(int(out.Fd())) && std.Getenv("NO_COLOR") == ""
		err = health.WriteChecks(std.Out, checks, colour)
	}
	if err != nil {
		return err
	}
	return verdict(health.Count(checks), *strict)
}

// rootOnly refuses everybody else: disks, pf and jails are not theirs to read.
func rootOnly(euid int) error {
	if euid == 0 {
		return nil
	}
	return diag.Hint(fmt.Errorf("verify: only root can read disks, pf and jails"), "su -, then: riginstall verify")
}

// verdict is the error that the counts come to.
func verdict(n health.Counts, strict bool) error {
	if n.Errors > 0 || strict && n.Warnings > 0 {
		return fmt.Errorf("verify: %s", n)
	}
	return nil
}
