package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
)

const diffUsage = `usage: rigimage diff OLD NEW [--all] [--json]

Compares two images, in any form that build writes: release of FreeBSD, packages of every root, files of base, kernel
and overlays with the settings in them, pool, datasets, jails, accounts, questions and
boot. Times of files are not compared. Answers are only said to differ, and so are
files that not everybody may read. Hashes are those of the manifests; "rigimage
verify" checks them.

  --all    name the files of base and kernel too, not only how many they are
  --json   print the differences as JSON

example: rigimage diff last-month.img rig.img

Exit status, as of diff(1): 0 the same, 1 different, 2 trouble.
`

// differs is the result of a comparison that needs no message.
type differs struct{}

func (differs) Error() string { return "the images differ" }

func diff(ctx context.Context, args []string, std cli.Stdio) error {
	return diag.Input(diffImages(ctx, args, std)) // whatever goes wrong is trouble
}

func diffImages(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(diffUsage)
	all := fl.Bool("all", false, "")
	asJSON := fl.Bool("json", false, "")
	rest, err := cli.Parse(fl, args, 2)
	if err != nil {
		return err
	}
	if len(rest) < 2 {
		return diag.Hint(fmt.Errorf("two images are needed, %d given", len(rest)), "rigimage diff old.img new.img")
	}
	a, err := openImage(ctx, rest[0], std)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := openImage(ctx, rest[1], std)
	if err != nil {
		return err
	}
	defer b.Close()
	progress := cli.NewProgress(std.Err)
	d, err := reader.Diff(ctx, a, b, reader.DiffOptions{All: *all, Progress: progress.Report})
	progress.Done()
	if err != nil {
		return err
	}
	if *asJSON {
		err = printJSON(std.Out, d)
	} else {
		printDiff(std.Out, d)
	}
	if err == nil && !d.Same() {
		err = differs{}
	}
	return err
}

func printDiff(w io.Writer, d *reader.Difference) {
	if d.Same() {
		if d.Old != d.New {
			fmt.Fprintf(w, "%s and %s differ in times of files only\n", d.Old, d.New)
		}
		return
	}
	fmt.Fprintf(w, "image %s → %s\n", d.Old, d.New)
	if d.FreeBSD != nil {
		fmt.Fprintf(w, "FreeBSD %s → %s\n", d.FreeBSD.Old, d.FreeBSD.New)
	}
	root := ""
	for _, p := range d.Packages {
		if p.Root != root {
			root = p.Root
			fmt.Fprintf(w, "\npackages of %s\n", root)
		}
		switch {
		case p.Old == "":
			fmt.Fprintf(w, "  + %s %s\n", p.Name, p.New)
		case p.New == "":
			fmt.Fprintf(w, "  - %s %s\n", p.Name, p.Old)
		case p.Old == p.New:
			fmt.Fprintf(w, "    %s %s, built again\n", p.Name, p.New)
		default:
			fmt.Fprintf(w, "    %s %s → %s\n", p.Name, p.Old, p.New)
		}
	}
	for _, l := range d.Layers {
		fmt.Fprintf(w, "\nfiles of %s: %d added, %d removed, %d changed\n", l.Layer, l.Added, l.Removed, l.Changed)
		for _, f := range l.Files {
			printFile(w, f)
		}
	}
	if len(d.Manifest) > 0 {
		fmt.Fprintln(w, "\nmanifest")
	}
	for _, c := range d.Manifest {
		printChange(w, "  ", c)
	}
	if len(d.Boot) > 0 {
		fmt.Fprintln(w, "\nboot partitions")
	}
	for _, f := range d.Boot {
		printFile(w, f)
	}
	if d.Answers != "" {
		fmt.Fprintf(w, "\nanswers on the ESP: %s (not shown)\n", d.Answers)
	}
}

func printFile(w io.Writer, f reader.FileChange) {
	mark := map[string]string{"added": "+ ", "removed": "- "}[f.How]
	if mark == "" {
		mark = "  "
	}
	var more []string
	for _, a := range f.Attrs {
		more = append(more, fmt.Sprintf("%s %s → %s", a.Key, none(a.Old), none(a.New)))
	}
	switch {
	case f.Added+f.Removed > 0:
		more = append(more, fmt.Sprintf("+%d -%d lines", f.Added, f.Removed))
	case f.Content && len(f.Keys) == 0 && f.How == "changed":
		more = append(more, "content")
	}
	line := "  " + mark + f.Path
	if len(more) > 0 {
		line += ": " + strings.Join(more, ", ")
	}
	fmt.Fprintln(w, line)
	for _, k := range f.Keys {
		printChange(w, "      ", k)
	}
}

func printChange(w io.Writer, indent string, c reader.Change) {
	const most = 120
	clip := func(s string) string {
		if r := []rune(s); len(r) > most {
			return string(r[:most]) + "…"
		}
		return none(s)
	}
	fmt.Fprintf(w, "%s%s: %s → %s\n", indent, c.Key, clip(c.Old), clip(c.New))
}

func none(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// quiet reports an error that is a result, and its exit status.
func quiet(err error) (int, bool) {
	var d differs
	return 1, errors.As(err, &d)
}
