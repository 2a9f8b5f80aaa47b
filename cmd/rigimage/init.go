package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/prompt"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/answers/site"
	"golang.org/x/term"
)

const initUsage = `usage: rigimage init DIR [--profile PROFILE] [--no-prompt]

Writes a profile, webrig by default, into DIR to be edited. DIR must not exist or
be empty. On a terminal it then asks for the few values of your two servers, those
of [[ask]] in rig.toml, and writes them to DIR/site.toml; elsewhere that file is an
example to edit.

  --profile PROFILE   the directory of the profile to copy
  --no-prompt         ask nothing

example: rigimage init my-rig && rigimage answers my-rig/site.toml && rigimage build my-rig
`

// siteName is the site file of a profile's directory.
const siteName = "site.toml"

func initProfile(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(initUsage)
	from := fl.String("profile", "", "")
	quiet := fl.Bool("no-prompt", false, "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return diag.Hint(diag.Inputf("no directory given"), "rigimage init DIR")
	}
	dir := rest[0]
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
		return diag.Inputf("init %s: the directory is not empty", dir)
	}
	var source []string
	if *from != "" {
		source = []string{*from}
	}
	fsys, name, err := profile(source)
	if err != nil {
		return err
	}
	cfg, err := image.LoadConfig(fsys, filepath.Join(name, image.ConfigFile))
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, fsys); err != nil {
		return fmt.Errorf("init %s: %w", dir, err)
	}
	file := filepath.Join(dir, siteName)
	_, err = os.Stat(file)
	example := err == nil
	if out, ok := std.Out.(*os.File); ok && !*quiet && len(cfg.Asks) > 0 && term.IsTerminal(int(std.In.Fd())) {
		text, err := askSite(ctx, prompt.New(std.In, out, std.Getenv), cfg)
		if err == nil {
			err = writePrivate(file, text)
		}
		if err != nil {
			hint := fmt.Sprintf("the profile is written; edit %s, which is an example", file)
			if !example {
				hint = "the profile is written, without a " + siteName
			}
			return diag.Hint(fmt.Errorf("init %s: %w", dir, err), "%s", hint)
		}
	} else if example {
		fmt.Fprintf(std.Out, "%s: an example with two servers; edit it, then: rigimage answers %s\n", file, file)
	} else {
		fmt.Fprintf(std.Out, "%s: write it; this prints all settings: rigimage answers %s --template\n", file, dir)
	}
	fmt.Fprintf(std.Out, "%s: edit rig.toml and the overlays host/ and jails/, then: rigimage build %s\n", dir, dir)
	return nil
}

// ask is one prompt of init, or an answer that is written without one.
type ask struct {
	image.AskConfig
	table string // of the site file
	nth   int    // which of the values of lists this is
	q     answers.Question
}

// asks are those of a profile in order: each key of an ask for server A, then for B.
func asks(cfg *image.Config) (out []ask) {
	for _, a := range cfg.Asks {
		if a.Subnet != "" {
			out = append(out, ask{a, common, 0, answers.Question{Type: answers.Net, Prompt: a.Subnet}})
			continue
		}
		for n, table := range tables(a) {
			for _, key := range a.Keys {
				i := slices.IndexFunc(cfg.Questions, func(q answers.Question) bool { return q.Key == key })
				out = append(out, ask{a, table, n, cfg.Questions[i]})
			}
		}
	}
	return out
}

const common = "common"

// tables are those of the site file that an ask is about.
func tables(a image.AskConfig) []string {
	if a.Common {
		return []string{common}
	}
	return []string{"a", "b"}
}

// draft is the site file that prompts fill.
type draft struct {
	qs     []answers.Question
	subnet netip.Prefix        // that addresses are counted in
	typed  map[string]string   // table.key → as typed
	lines  map[string][]string // table → settings
}

// offer is the default of an ask, "" for none. Server B is offered A's answer, but
// where it must have, or surely has, another.
func (d *draft) offer(a ask) string {
	switch {
	case a.nth < len(a.Default):
		return a.Default[a.nth]
	case a.Like != "":
		return d.typed[a.table+"."+a.Like]
	case a.nth < len(a.Nth):
		return nthAddress(d.subnet, uint32(a.Nth[a.nth]), a.q.Type)
	case a.nth == 0 || a.q.Differ || a.q.Distinct != "" || a.q.Key == site.KeyName || a.q.Type == answers.CIDR || a.q.Type == answers.NIC:
		return ""
	}
	return d.typed["a."+a.q.Key]
}

// nthAddress is the n-th address of a network, as a cidr with its prefix length; ""
// when it has fewer.
func nthAddress(subnet netip.Prefix, n uint32, t answers.Type) string {
	if !subnet.IsValid() {
		return ""
	}
	b := subnet.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
	a := netip.AddrFrom4(b)
	switch {
	case !subnet.Contains(a):
		return ""
	case t == answers.CIDR:
		return netip.PrefixFrom(a, subnet.Bits()).String()
	}
	return a.String()
}

// draftPlace is a place in the draft, which nobody sees, in a message.
var draftPlace = regexp.MustCompile(` \(` + regexp.QuoteMeta(siteName) + `:[0-9:]+\)`)

// askSite asks for a site file. Every answer is judged with all before it.
func askSite(ctx context.Context, p prompt.Prompter, cfg *image.Config) ([]byte, error) {
	p.Note("The two servers. Enter takes what is in brackets, ? explains.")
	d := &draft{qs: cfg.Questions, typed: map[string]string{}, lines: map[string][]string{}}
	for _, a := range asks(cfg) {
		if a.nth < len(a.Answer) {
			if err := d.take(a, a.Answer[a.nth]); err != nil {
				return nil, fmt.Errorf("%s: %w", a.q.Key, err)
			}
			continue
		}
		if _, err := p.Input(ctx, a.prompt(d)); err != nil {
			return nil, err
		}
	}
	return d.text(), nil
}

func (a ask) prompt(d *draft) prompt.Question {
	label, help := a.q.Prompt, a.q.Help
	if label == "" {
		label = a.q.Key
	}
	if a.table != common {
		label += fmt.Sprintf(" (server %s)", strings.ToUpper(a.table))
	}
	if a.Optional {
		label += ", or nothing to be asked by the installer"
	}
	if help == "" {
		help = "Expected: " + a.q.Expected() + "."
	}
	return prompt.Question{Label: label, Help: help, Default: d.offer(a), Validate: func(text string) error { return d.take(a, text) }}
}

// take adds an answer, or refuses it.
func (d *draft) take(a ask, text string) error {
	if text == "" && a.Optional {
		return nil
	}
	v, err := answers.ParseText(&a.q, text)
	if err != nil {
		return err
	}
	if a.Subnet != "" {
		d.subnet = v.(netip.Prefix)
		return nil
	}
	before := d.lines[a.table]
	d.lines[a.table] = append(slices.Clone(before), a.q.Key+" = "+answers.Literal(a.q, v))
	if _, err := site.Parse(siteName, d.text(), d.qs); err != nil {
		d.lines[a.table] = before
		var ps *diag.Problems
		if errors.As(err, &ps) {
			return errors.New(draftPlace.ReplaceAllString(ps.List[0].Msg, ""))
		}
		return err
	}
	d.typed[a.table+"."+a.q.Key] = text
	return nil
}

// text is the site file so far.
func (d *draft) text() []byte {
	var b strings.Builder
	b.WriteString("# Both servers in one file: \"rigimage answers " + siteName + "\" writes the answers of each, and makes\n" +
		"# the secrets that are missing. What one server has to know of the other is taken from its table.\n" +
		"# \"rigimage answers --template\" prints all settings.\n\nschema = 1\n\n")
	b.WriteString("[" + common + "]\n")
	for _, l := range d.lines[common] {
		b.WriteString(l + "\n")
	}
	b.WriteString("# To be asked nothing, nor for disks; the rule takes blank disks only:\n" +
		"#install.unattended = true\n#disks.rule = \"" + answers.RuleLargestEqual + "\"\n")
	for _, table := range []string{"a", "b"} {
		b.WriteString("\n[" + table + "]\n" + strings.Join(d.lines[table], "\n") + "\n")
	}
	return []byte(b.String())
}
