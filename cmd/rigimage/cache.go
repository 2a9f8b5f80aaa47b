package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
)

const cacheUsage = `usage: rigimage cache ls [--cache DIR] [--json]
       rigimage cache gc [--keep 30d] [--all] [--dry-run] [--cache DIR] [--json]

ls lists what is in the cache: release sets, decoded sets (tars), layers, boot files,
sums of overlays' files (overlays), packages and catalogues, compiled riginstalls (bin),
demo sets. Everything but release
sets of one's own is made or downloaded again when it is missing.

gc removes what no build has used for some time, and prints what it freed. Release
sets stay. So does what is being written: such a file counts as left behind after a
day without a write.

  --keep TIME  how long what was used is kept: 36h, 30d (the default), 8w
  --all        remove everything, release sets too; not while a build runs
  --dry-run    only print what would be removed
  --cache DIR  the cache (default: the user's)
  --json       print it as JSON

example: rigimage cache gc --keep 7d --dry-run
`

func cacheCommand(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(cacheUsage)
	dir := fl.String("cache", "", "")
	keep := fl.String("keep", "30d", "")
	all := fl.Bool("all", false, "")
	dry := fl.Bool("dry-run", false, "")
	asJSON := fl.Bool("json", false, "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	if len(rest) == 0 || rest[0] != "ls" && rest[0] != "gc" {
		return diag.Hint(diag.Inputf("rigimage cache: expected ls or gc"), "rigimage cache ls shows what is there")
	}
	age, err := parseAge(*keep)
	if err != nil {
		return err
	}
	where, err := image.CacheDir(*dir)
	if err != nil {
		return err
	}
	if rest[0] == "ls" {
		kinds, err := image.CacheList(where)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(std.Out, struct {
				Dir   string            `json:"dir"`
				Kinds []image.CacheKind `json:"kinds"`
			}{where, kinds})
		}
		return printCache(std.Out, where, kinds)
	}
	items, err := image.CacheGC(ctx, where, image.GCOptions{Keep: age, Now: time.Now(), All: *all, DryRun: *dry})
	if err != nil {
		return diag.Hint(err, "what was removed before it is gone; run again")
	}
	return printFreed(std.Out, where, items, *dry, *asJSON)
}

func printCache(w io.Writer, dir string, kinds []image.CacheKind) error {
	if len(kinds) == 0 {
		_, err := fmt.Fprintf(w, "%s: there is nothing in it\n", dir)
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KIND\tITEMS\tMiB\tUSED FIRST\tUSED LAST")
	var sum int64
	for _, k := range kinds {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", k.Kind, k.Items, cli.MiB(k.Size), k.Oldest.Format(time.DateTime), k.Newest.Format(time.DateTime))
		sum += k.Size
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s: %s MiB\n", dir, cli.MiB(sum))
	return err
}

func printFreed(w io.Writer, dir string, items []image.CacheItem, dry, asJSON bool) error {
	var sum int64
	for _, i := range items {
		sum += i.Size
	}
	if asJSON {
		return printJSON(w, struct {
			Dir     string            `json:"dir"`
			DryRun  bool              `json:"dry_run"`
			Freed   int64             `json:"freed"` // bytes
			Removed []image.CacheItem `json:"removed"`
		}{dir, dry, sum, items})
	}
	for _, i := range items {
		fmt.Fprintf(w, "%s  %s MiB, last used %s\n", i.Name, cli.MiB(i.Size), i.Used.Format(time.DateTime))
	}
	freed := "freed"
	if dry {
		freed = "would free"
	}
	_, err := fmt.Fprintf(w, "%s: %s %s MiB, %d items\n", dir, freed, cli.MiB(sum), len(items))
	return err
}

// parseAge reads "36h", "30d", "8w".
func parseAge(s string) (time.Duration, error) {
	unit, day := time.Duration(0), 24*time.Hour
	number := s
	for suffix, d := range map[string]time.Duration{"h": time.Hour, "d": day, "w": 7 * day} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = n, d
		}
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || unit == 0 && n != 0 {
		return 0, diag.Hint(diag.Inputf("--keep %s: expected a time", s), "36h, 30d, 8w, or 0 to keep nothing")
	}
	return time.Duration(n) * unit, nil
}
