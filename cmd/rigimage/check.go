package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/answers/site"
	"github.com/rig-freebsd/rig/overlay/lint"
	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

const checkUsage = `usage: rigimage check [PROFILE] [--site site.toml] [--graph FILE.svg] [--matrix] [--json]

Finds out everything that can be known about a profile without building an image:
renders each template for each server and compares interfaces, cables, addresses,
firewall rules, tables and tunnels with one another.

  --site FILE   the answers of both servers (default: site.toml of the profile)
  --graph FILE  draw the rig as SVG
  --matrix      print who may talk to whom on which port, as pf.conf says
  --json        print findings, rig and matrix as JSON

example: rigimage check my-rig --matrix --graph my-rig.svg

Exit status: 0 nothing is wrong (there may be warnings), 2 something is.
`

// check is "rigimage check".
func check(args []string, std cli.Stdio) error {
	fl := std.Flags(checkUsage)
	file := fl.String("site", "", "")
	graph := fl.String("graph", "", "")
	matrix := fl.Bool("matrix", false, "")
	asJSON := fl.Bool("json", false, "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	fsys, name, err := profile(rest)
	if err != nil {
		return err
	}
	cfg, err := image.LoadConfig(fsys, filepath.Join(name, image.ConfigFile))
	if err != nil {
		return err
	}
	in := lint.Input{FS: fsys, Name: name, Config: lintConfig(cfg)}
	var wrong *diag.Problems // of the site file, reported with the profile's
	if in.Servers, err = servers(fsys, rest, *file, cfg.Questions); err != nil && !errors.As(err, &wrong) {
		return err
	}
	report, err := lint.Check(in)
	if err != nil {
		return err
	}
	if wrong != nil {
		report.Add(wrong)
		return printCheck(std, report, false, *asJSON)
	}
	if *graph != "" {
		if err := writeGraph(*graph, report.Rig); err != nil {
			return err
		}
	}
	return printCheck(std, report, *matrix, *asJSON)
}

// lintConfig is what lint needs of rig.toml.
func lintConfig(cfg *image.Config) lint.Config {
	root := func(r image.RootConfig, dir string) lint.Root {
		if r.Overlay != "" {
			dir = r.Overlay
		}
		return lint.Root{Name: r.Name, Overlay: dir, Interfaces: r.Interfaces}
	}
	out := lint.Config{Host: root(cfg.Host, "host"), Reach: cfg.Reach()}
	for _, j := range cfg.Jails {
		out.Jails = append(out.Jails, root(j, "jails/"+j.Name))
	}
	for _, q := range answers.All(cfg.Questions) {
		out.Questions = append(out.Questions, q.Key)
	}
	return out
}

// servers reads the site file, file or the profile's own, which may be absent,
// with the secrets that were generated for it. dir is the profile's directory,
// none for the built-in one.
func servers(profile fs.FS, dir []string, file string, qs []answers.Question) ([]lint.Server, error) {
	var text, kept []byte
	var err error
	own := file == ""
	switch {
	case !own:
		text, err = os.ReadFile(file)
	case len(dir) == 0:
		file = filepath.Join(builtin, siteName)
		text, err = fs.ReadFile(profile, siteName)
	default:
		file = filepath.Join(dir[0], siteName)
		text, err = fs.ReadFile(profile, siteName)
	}
	if own && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diag.Input(err)
	}
	if !own || len(dir) > 0 {
		if kept, err = readPrivate(secretsFile(file)); err != nil {
			return nil, err
		}
	}
	secrets := site.File{Name: secretsFile(file), Text: kept}
	s, err := site.Load(site.File{Name: file, Text: text}, secrets, qs)
	if err != nil {
		return nil, err
	}
	var out []lint.Server
	for _, v := range s.Servers {
		if missing := v.Set.Missing(); len(missing) > 0 {
			ps := &diag.Problems{}
			for _, q := range missing {
				ps.Add(diag.Problem{File: file, Key: q.Key, Msg: "no answer for server " + v.Name})
			}
			return nil, ps.Err()
		}
		out = append(out, lint.Server{Name: v.Name, Data: v.Set.Data(), Answers: v.Set})
	}
	return out, nil
}

// writeGraph writes the drawing.
func writeGraph(name string, rig *lint.Rig) error {
	if len(rig.Servers) == 0 {
		return diag.Hint(diag.Inputf("draw %s: there are no servers", name), "--site names the file that describes them")
	}
	if err := replaceFile(name, 0o644, func(w io.Writer) error { return lint.WriteSVG(w, rig) }); err != nil {
		return fmt.Errorf("draw %s: %w", name, err)
	}
	return nil
}

// printCheck prints what was asked for on standard output and warnings on the
// other one; its error is the findings that are errors.
func printCheck(std cli.Stdio, r *lint.Report, matrix, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(std.Out)
		e.SetEscapeHTML(false) // tables are in <>
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return err
		}
	} else if warnings := r.Select(flaw.Warning); warnings != nil {
		fmt.Fprintf(std.Err, "rigimage: warning: %s\n", indent(warnings.Error()))
	}
	if matrix && !asJSON {
		if err := lint.WriteMatrix(std.Out, r); err != nil {
			return err
		}
	}
	if err := r.Err(); err != nil {
		return err
	}
	switch {
	case asJSON:
	case len(r.Rig.Servers) == 0:
		fmt.Fprintf(std.Err, "no %s: files were checked, but no values\n", siteName)
	default:
		fmt.Fprintf(std.Err, "%s: nothing is wrong\n", serverNames(r.Rig))
	}
	return nil
}

func serverNames(rig *lint.Rig) string {
	var names []string
	for _, m := range rig.Servers {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n  ") }
