package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"rig/image"
	"rig/internal/cli"
	"rig/internal/diag"
)

const inspectUsage = `usage: rigimage inspect IMAGE [--packages | --sbom [--profile DIR]] [--json]

Prints partitions, layers and manifest of an image and checks every hash again.

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
	progress := cli.NewProgress(std.Err)
	r, err := image.Inspect(ctx, rest[0], progress.Report)
	progress.Done()
	if err != nil {
		return err
	}
	if *asJSON {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(std.Out, "%s\n", b)
	} else {
		printReport(std, r)
	}
	if len(r.Problems) > 0 {
		return diag.Hint(fmt.Errorf("%d of the image's files are damaged", len(r.Problems)), "build or copy the image again")
	}
	return nil
}

func printReport(std cli.Stdio, r *image.Report) {
	m := r.Manifest
	fmt.Fprintf(std.Out, "%s: image %s, FreeBSD %s %s\n\n", r.Path, m.Image, m.FreeBSD.Version, m.FreeBSD.Arch)
	w := tabwriter.NewWriter(std.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PARTITION\tTYPE\tSTART KiB\tSIZE MiB\tFILES\tUSED MiB")
	for _, p := range r.Partitions {
		fmt.Fprintf(w, "%s\t%s\t%d\t%.1f\t%d\t%d\n", p.Label, p.Type, p.Start>>10, float64(p.Size)/(1<<20), p.Files, p.Used>>20)
	}
	fmt.Fprintln(w, "\nLAYER\tFILES\tMiB\tUNPACKED MiB\tSHA-256")
	for _, l := range m.Layers {
		name := string(l.Role)
		if l.Jail != "" {
			name += " " + l.Jail
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.16s\n", name, l.Entries, float64(l.Size)/(1<<20), float64(l.ContentSize)/(1<<20), l.SHA256)
	}
	w.Flush()
	fmt.Fprintf(std.Out, "\npool %s, %d jails, %d questions\n", m.Pool.Name, len(m.Jails), len(m.Questions))
	if r.Answers {
		fmt.Fprintln(std.Out, "contains answers: the ESP has rig/answers.toml, which may hold secrets")
	}
	for _, p := range r.Problems {
		fmt.Fprintln(std.Out, "DAMAGED", p)
	}
	if len(r.Problems) == 0 {
		fmt.Fprintln(std.Out, "all hashes match")
	}
}
