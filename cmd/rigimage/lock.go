package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
)

const lockUsage = `usage: rigimage lock PROFILE [--update] [--sets DIR] [--packages DIR|URL|none]

Writes PROFILE/rig.lock: every input of the image, sets, packages and overlays, by URL,
size and SHA-256. From then on a build takes exactly these; with a filled cache it needs
no network, and what differs from the lock is an error.

  --update         make the lock anew and print what moved
  --sets DIR       directory with MANIFEST, base.txz and kernel.txz
  --packages REPO  repository to take packages from, as for rigimage build
  --cache DIR      where downloads are kept (default: the user's cache)

example: rigimage lock my-rig && git add my-rig/rig.lock
`

func lock(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(lockUsage)
	update := fl.Bool("update", false, "")
	o := image.Options{}
	fl.StringVar(&o.Sets, "sets", "", "")
	fl.StringVar(&o.Packages, "packages", "", "")
	fl.StringVar(&o.Cache, "cache", "", "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return diag.Hint(diag.Inputf("no profile given"), "\"rigimage init DIR\" makes one; the built-in profile cannot be locked")
	}
	if o.Profile, o.ProfileName, err = profile(rest); err != nil {
		return err
	}
	old, err := image.ReadLock(o.Profile, o.ProfileName)
	if err != nil && !*update {
		return err
	}
	name := filepath.Join(o.ProfileName, image.LockFile)
	if old != nil && !*update {
		return diag.Hint(diag.Inputf("%s is there already", name), "--update makes it anew and prints what moved")
	}
	progress := cli.NewProgress(std.Err)
	o.Progress = progress.Report
	o.Logf = func(format string, a ...any) { fmt.Fprintf(std.Err, format+"\n", a...) }
	made, err := image.MakeLock(ctx, o)
	progress.Done()
	if err != nil {
		return err
	}
	text, err := made.Encode()
	if err != nil {
		return err
	}
	if old == nil {
		fmt.Fprintf(std.Out, "%s: %d sets, %d packages, %d overlays\n", name, len(made.Sets), len(made.Packages), len(made.Overlays))
	} else if lines := old.Moved(made); len(lines) > 0 {
		for _, l := range lines {
			fmt.Fprintln(std.Out, l)
		}
	} else {
		fmt.Fprintf(std.Out, "%s: nothing moved\n", name)
	}
	return replaceFile(name, 0o644, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}
