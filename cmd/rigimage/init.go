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

	"golang.org/x/term"

	"rig/answers"
	"rig/answers/site"
	"rig/image"
	"rig/internal/cli"
	"rig/internal/diag"
	"rig/internal/prompt"
	"rig/overlay"
)

const initUsage = `usage: rigimage init DIR

Writes the default profile, webrig, into DIR to be edited. DIR must not exist or
be empty. On a terminal it then asks for the few values of your two servers and
writes them to DIR/site.toml; elsewhere that file is an example to edit.

  --no-prompt   ask nothing

example: rigimage init my-rig && rigimage answers my-rig/site.toml && rigimage build my-rig
`

// siteName is the site file of a profile's directory.
const siteName = "site.toml"

func initProfile(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(initUsage)
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
	cfg, err := image.LoadConfig(overlay.Webrig(), image.ConfigFile)
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, overlay.Webrig()); err != nil {
		return fmt.Errorf("init %s: %w", dir, err)
	}
	file := filepath.Join(dir, siteName)
	if out, ok := std.Out.(*os.File); ok && !*quiet && term.IsTerminal(int(std.In.Fd())) {
		text, err := askSite(ctx, prompt.New(std.In, out, std.Getenv), cfg.Questions)
		if err == nil {
			err = writePrivate(file, text)
		}
		if err != nil {
			return diag.Hint(fmt.Errorf("init %s: %w", dir, err), "the profile is written; edit %s, which is an example", file)
		}
	} else {
		fmt.Fprintf(std.Out, "%s: an example with two servers; edit it, then: rigimage answers %s\n", file, file)
	}
	fmt.Fprintf(std.Out, "%s: edit rig.toml and the overlays host/ and jails/, then: rigimage build %s\n", dir, dir)
	return nil
}

// ask is one prompt of init: a question of one table of the site file.
type ask struct {
	table    string
	key      string
	optional bool
	def      func(d *draft) string // nil for none
}

// asks are the prompts in order. Private addresses come as in the example: the
// servers at 110 and 111 of the private network, node_j at 30 and 31, pg_j at 40
// and 41.
func asks() []ask {
	is := func(s string) func(*draft) string { return func(*draft) string { return s } }
	like := func(table, key string) func(*draft) string {
		return func(d *draft) string { return d.typed[table+"."+key] }
	}
	return []ask{
		{"common", "server.domain", false, nil},
		{"a", "server.name", false, is("rega")},
		{"b", "server.name", false, is("regb")},
		{"a", "xnic.inet", false, nil},
		{"a", "xnic.gateway", false, nil},
		{"b", "xnic.inet", false, nil},
		{"b", "xnic.gateway", false, like("a", "xnic.gateway")},
		{"common", keyPrivateNet, false, is("192.168.56.0/24")},
		{"a", "inic.match", true, nil},
		{"b", "inic.match", true, nil},
		{"a", "inic.inet", false, privateCIDR(110)},
		{"b", "inic.inet", false, privateCIDR(111)},
		{"a", "private.node", false, privateIP(30)},
		{"b", "private.node", false, privateIP(31)},
		{"a", "private.pg", false, privateIP(40)},
		{"b", "private.pg", false, privateIP(41)},
		{"common", "peers.admin", false, nil},
		{"common", "users.admin_keys", false, nil},
		{"common", "users.deployer_keys", false, like("common", "users.admin_keys")},
	}
}

// keyPrivateNet is a question of init alone, for the defaults of others.
const keyPrivateNet = "private_net"

// privateIP is the n-th address of the private network, "" when it has fewer.
func privateIP(n uint32) func(*draft) string {
	return func(d *draft) string {
		b := d.net.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
		a := netip.AddrFrom4(b)
		if !d.net.Contains(a) {
			return ""
		}
		return a.String()
	}
}

func privateCIDR(n uint32) func(*draft) string {
	return func(d *draft) string {
		a := privateIP(n)(d)
		if a == "" {
			return ""
		}
		return fmt.Sprintf("%s/%d", a, d.net.Bits())
	}
}

// draft is the site file that prompts fill.
type draft struct {
	qs    []answers.Question
	net   netip.Prefix        // private network
	typed map[string]string   // table.key → as typed
	lines map[string][]string // table → settings
}

// draftPlace is a place in the draft, which nobody sees, in a message.
var draftPlace = regexp.MustCompile(` \(` + regexp.QuoteMeta(siteName) + `:[0-9:]+\)`)

// askSite asks for a site file. Every answer is judged with all before it.
func askSite(ctx context.Context, p prompt.Prompter, qs []answers.Question) ([]byte, error) {
	p.Note("The two servers. Enter takes what is in brackets, ? explains.")
	d := &draft{qs: qs, typed: map[string]string{}, lines: map[string][]string{
		"a": {`server.role = "primary"`}, "b": {`server.role = "replica"`}}}
	for _, a := range asks() {
		q := answers.Question{Key: keyPrivateNet, Type: answers.Net, Prompt: "Private network between the servers"}
		if i := slices.IndexFunc(qs, func(q answers.Question) bool { return q.Key == a.key }); i >= 0 {
			q = qs[i]
		}
		label, help := q.Prompt, q.Help
		if a.table != "common" {
			label += fmt.Sprintf(" (server %s)", strings.ToUpper(a.table))
		}
		if a.optional {
			label += ", or nothing to be asked by the installer"
		}
		if help == "" {
			help = "Expected: " + q.Expected() + "."
		}
		in := prompt.Question{Label: label, Help: help, Validate: func(text string) error { return d.take(a, q, text) }}
		if a.def != nil {
			in.Default = a.def(d)
		}
		if _, err := p.Input(ctx, in); err != nil {
			return nil, err
		}
	}
	return d.text(), nil
}

// take adds an answer, or refuses it.
func (d *draft) take(a ask, q answers.Question, text string) error {
	if text == "" && a.optional {
		return nil
	}
	v, err := answers.ParseText(&q, text)
	if err != nil {
		return err
	}
	if a.key == keyPrivateNet {
		d.net = v.(netip.Prefix)
		return nil
	}
	before := d.lines[a.table]
	d.lines[a.table] = append(slices.Clone(before), a.key+" = "+answers.Literal(q, v))
	if _, err := site.Parse(siteName, d.text(), d.qs); err != nil {
		d.lines[a.table] = before
		var ps *diag.Problems
		if errors.As(err, &ps) {
			return errors.New(draftPlace.ReplaceAllString(ps.List[0].Msg, ""))
		}
		return err
	}
	d.typed[a.table+"."+a.key] = text
	return nil
}

// text is the site file so far.
func (d *draft) text() []byte {
	var b strings.Builder
	b.WriteString("# Both servers in one file: \"rigimage answers " + siteName + "\" writes the answers of each, and makes\n" +
		"# the secrets that are missing. What one server has to know of the other is taken from its table.\n" +
		"# \"rigimage answers --template\" prints all settings.\n\nschema = 1\n\n")
	b.WriteString("[common]\n")
	for _, l := range d.lines["common"] {
		b.WriteString(l + "\n")
	}
	b.WriteString("# To be asked nothing, nor for disks; the rule takes blank disks only:\n" +
		"#install.unattended = true\n#disks.rule = \"" + answers.RuleLargestEqual + "\"\n")
	for _, table := range []string{"a", "b"} {
		b.WriteString("\n[" + table + "]\n" + strings.Join(d.lines[table], "\n") + "\n")
	}
	return []byte(b.String())
}
