package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
)

const inspectUsage = `usage: rigimage inspect IMAGE [--packages | --sbom [--profile DIR]] [--json]

Prints partitions, layers and manifest of an image and checks it as "rigimage verify"
does. IMAGE is in any form that build writes: .img, .img.zst, .iso, .vmdk, .vdi,
.qcow2, .ova or a directory for network boot; a disk it was written to; or the URL of
one of them.

  --packages     print the packages of every root and why they are there
  --sbom         print a bill of materials, SPDX 2.3 as JSON
  --profile DIR  take the URLs of sets and packages from this profile's rig.lock
  --json         print it as JSON

example: rigimage inspect rig.img --sbom > rig.spdx.json
`

func inspect(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(inspectUsage)
	asJSON := fl.Bool("json", false, "")
	packages := fl.Bool("packages", false, "")
	sbom := fl.Bool("sbom", false, "")
	dir := fl.String("profile", "", "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	switch {
	case len(rest) == 0:
		return diag.Hint(diag.Inputf("no image given"), "rigimage inspect rig.img")
	case *packages && *sbom:
		return diag.Inputf("--packages and --sbom do not go together")
	case *dir != "" && !*sbom:
		return diag.Inputf("--profile goes with --sbom")
	case *packages:
		return inspectPackages(ctx, rest[0], *asJSON, std)
	case *sbom:
		return inspectSBOM(ctx, rest[0], *dir, std)
	}
	v, err := verifyImage(ctx, rest[0], false, std)
	if err != nil {
		return err
	}
	if *asJSON {
		err = printJSON(std.Out, v)
	} else {
		printReport(std, v)
	}
	if err == nil {
		err = damaged(v)
	}
	return err
}

// openImage opens an image of any form, with progress.
func openImage(ctx context.Context, name string, std cli.Stdio) (*reader.Image, error) {
	progress := cli.NewProgress(std.Err)
	defer progress.Done()
	return reader.Open(ctx, name, reader.Options{Progress: progress.Report})
}

// verifyImage opens and verifies an image, with progress.
func verifyImage(ctx context.Context, name string, exact bool, std cli.Stdio) (*reader.Verification, error) {
	progress := cli.NewProgress(std.Err)
	defer progress.Done()
	i, err := reader.Open(ctx, name, reader.Options{Progress: progress.Report})
	if err != nil {
		return nil, err
	}
	defer i.Close()
	return i.Verify(ctx, exact)
}

// damaged is the error of an image in which something is wrong.
func damaged(v *reader.Verification) error {
	if len(v.Problems) == 0 {
		return nil
	}
	what := "one thing in the image is"
	if n := len(v.Problems); n > 1 {
		what = fmt.Sprintf("%d things in the image are", n)
	}
	return diag.Hint(fmt.Errorf("%s not as it was built", what), "build or copy the image again")
}

func printReport(std cli.Stdio, r *reader.Verification) {
	m := r.Manifest
	fmt.Fprintf(std.Out, "%s: %s, image %s, FreeBSD %s %s\n\n", r.Path, r.Form, m.Image, m.FreeBSD.Version, m.FreeBSD.Arch)
	w := tabwriter.NewWriter(std.Out, 0, 0, 2, ' ', 0)
	if len(r.Partitions) > 0 {
		fmt.Fprintln(w, "PARTITION\tTYPE\tSTART KiB\tSIZE MiB\tFILES\tUSED MiB")
	}
	for _, p := range r.Partitions {
		fmt.Fprintf(w, "%s\t%s\t%d\t%.1f\t%d\t%d\n", p.Label, p.Type, p.Start>>10, float64(p.Size)/(1<<20), p.Files, p.Used>>20)
	}
	fmt.Fprintln(w, "\nLAYER\tFILES\tMiB\tUNPACKED MiB\tSHA-256")
	for _, l := range m.Layers {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.16s\n", l.Name(), l.Entries, float64(l.Size)/(1<<20), float64(l.ContentSize)/(1<<20), l.SHA256)
	}
	w.Flush()
	fmt.Fprintf(std.Out, "\npool %s, %d jails, %d questions\n", m.Pool.Name, len(m.Jails), len(m.Questions))
	if r.Answers {
		where := "ESP"
		if r.Form == reader.ISO {
			where = "volume"
		}
		fmt.Fprintf(std.Out, "contains answers: the %s has rig/answers.toml, which may hold secrets\n", where)
	}
	for _, p := range r.Problems {
		fmt.Fprintln(std.Out, "DAMAGED", p)
	}
	if len(r.Problems) == 0 {
		fmt.Fprintln(std.Out, "all hashes match")
	}
}
