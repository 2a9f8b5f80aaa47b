package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
)

// inspectPackages prints the packages of an image.
func inspectPackages(ctx context.Context, path string, asJSON bool, std cli.Stdio) error {
	o, err := openImage(ctx, path, std)
	if err != nil {
		return err
	}
	defer o.Close()
	c, err := o.Contents(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(std.Out, c)
	}
	if c.Packages == 0 {
		fmt.Fprintf(std.Out, "%s: image %s has no packages\n", path, c.Image)
		return nil
	}
	w := tabwriter.NewWriter(std.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ROOT\tPACKAGE\tVERSION\tMiB\tWHY")
	for _, r := range c.Roots {
		for _, p := range r.Packages {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Root, p.Name, p.Version, cli.MiB(p.Size), reasons(p.Why))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "\n%s: image %s, %d packages, %s MiB of archives\n", path, c.Image, c.Packages, cli.MiB(c.Size))
	return nil
}

// reasons shows a few of what may be many.
func reasons(why []string) string {
	const most = 3
	if len(why) <= most {
		return strings.Join(why, ", ")
	}
	return fmt.Sprintf("%s, and %d more", strings.Join(why[:most], ", "), len(why)-most)
}

// inspectSBOM prints an image's bill of materials. profile is the directory of its
// profile, "" for none.
func inspectSBOM(ctx context.Context, path, profile string, std cli.Stdio) error {
	opts := reader.SBOMOptions{Tool: "rigimage-" + Version}
	if profile != "" {
		lock, err := image.ReadLock(os.DirFS(profile), profile)
		if err != nil {
			return err
		}
		if lock == nil {
			return diag.Hint(diag.Inputf("%s: there is no %s", profile, image.LockFile), "\"rigimage lock %s\" makes it", profile)
		}
		opts.Sources = lock.Sources()
	}
	o, err := openImage(ctx, path, std)
	if err != nil {
		return err
	}
	defer o.Close()
	d, err := o.SBOM(ctx, opts)
	if err != nil {
		return err
	}
	text, err := d.Encode()
	if err != nil {
		return err
	}
	_, err = std.Out.Write(text)
	return err
}
