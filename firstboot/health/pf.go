package health

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/internal/text"
)

// ruleset is a pf rule set in the words of pfctl(8), as both "pfctl -s" and
// "pfctl -nv" print it: macros and lists expanded, tables optimised, in the order
// of the kernel. With -P ports are numbers in both.
type ruleset struct {
	filter  []string            // scrub and filter rules
	nat     []string            // nat, rdr and binat rules
	inline  map[string][]string // rules that the file has inside the braces of a named anchor
	tables  []pfTable           // as the file defines them; not shown by -s
	skipped []string            // interfaces of "set skip on"; not shown by -s
}

// pfTable is a table as a rule file defines it.
type pfTable struct {
	name  string
	files []string
	addrs []string // between the braces
	fixed bool     // it has files or braces, so what is loaded can be compared
}

const pfRemedy = "pfctl -nf /etc/pf.conf says whether the file is good; service pf reload loads it"

// checkFirewall compares what pf has loaded with pf.conf and the table files.
func (v *verifier) checkFirewall(ctx context.Context) []Check {
	r := &rows{area: "firewall"}
	rc, err := v.rcConf(ctx, "")
	if err != nil {
		r.fail("pf", err)
		return r.list
	}
	if !wantYes(rc["pf_enable"]) {
		r.skip("pf", "pf_enable is not set in rc.conf")
		return r.list
	}
	if !v.checkRunning(ctx, r) {
		return r.list
	}
	argv := slices.Concat([]string{"pfctl", "-Pnv"}, strings.Fields(rc["pf_flags"]), []string{"-f", rc["pf_rules"]})
	out, err := v.output(ctx, argv...)
	if err != nil {
		r.fail("pf.conf", err)
		return r.list
	}
	file, err := parseRuleset(out)
	if err != nil {
		r.fail("pf.conf", err)
		return r.list
	}
	filter, okFilter := v.loadedRules(ctx, r, "filter rules", "-Psr")
	nat, okNat := v.loadedRules(ctx, r, "translation rules", "-Psn")
	if okFilter {
		compareRules(r, "filter rules", file.filter, filter.filter)
		v.checkAnchors(ctx, r, file, filter.filter)
	}
	if okNat {
		compareRules(r, "translation rules", file.nat, nat.nat)
	}
	v.checkSkipped(ctx, r, file.skipped)
	v.checkTables(ctx, r, file, filter)
	return r.list
}

// checkRunning reports whether pf filters at all.
func (v *verifier) checkRunning(ctx context.Context, r *rows) bool {
	out, err := v.output(ctx, "pfctl", "-si")
	if err != nil {
		r.fail("pf", err)
		return false
	}
	line, _, _ := strings.Cut(out, "\n")
	switch {
	case strings.HasPrefix(line, "Status: Enabled"):
		r.ok("pf", "enabled")
		return true
	case strings.HasPrefix(line, "Status: Disabled"):
		r.add("pf", Failed, "it is loaded and disabled: everything passes", "service pf start")
	default:
		r.fail("pf", fmt.Errorf("output of pfctl -si: %q is not its status", line))
	}
	return false
}

func (v *verifier) loadedRules(ctx context.Context, r *rows, check string, args ...string) (*ruleset, bool) {
	out, err := v.output(ctx, append([]string{"pfctl"}, args...)...)
	if err != nil {
		r.fail(check, err)
		return &ruleset{}, false
	}
	rules, err := parseRuleset(out)
	if err != nil {
		r.fail(check, err)
		return &ruleset{}, false
	}
	return rules, true
}

var (
	macroLine  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]* ?= ?"`)
	tableLine  = regexp.MustCompile(`^table <([^>]+)>`)
	tableFile  = regexp.MustCompile(` file "([^"]*)"`)
	tableHosts = regexp.MustCompile(` \{([^}]*)\}`)
	skipLine   = regexp.MustCompile(`^set skip on \{ ?(.*?) ?\}`)
	anchorLine = regexp.MustCompile(`^anchor "([^"]+)"`)
	automatic  = regexp.MustCompile(`<(__automatic_[0-9a-z_]+)>`)
	// A time that pfctl(8) adds to rules with a connection rate when it reads them;
	// the kernel does not give it back.
	sourceTrack = regexp.MustCompile(`, src\.track \d+\)`)
)

// parseRuleset reads what pfctl prints of rules. A line it does not know is an
// error: what cannot be read was not compared.
func parseRuleset(text string) (*ruleset, error) {
	rs := &ruleset{inline: map[string][]string{}}
	depth, anchor := 0, "" // of open braces; the named anchor of the outermost one
	for line := range strings.Lines(text) {
		line = sourceTrack.ReplaceAllString(strings.TrimSpace(line), ")")
		switch {
		case line == "":
			continue
		case line == "}":
			if depth--; depth < 0 {
				return nil, errors.New("output of pfctl: a brace too many")
			}
			if depth == 0 && anchor != "" {
				anchor = ""
				continue
			}
		}
		body, opens := strings.CutSuffix(line, " {")
		if opens {
			depth++
		}
		switch {
		case anchor != "":
			rs.inline[anchor] = append(rs.inline[anchor], line)
		case opens && depth == 1 && anchorOf(body) != "":
			anchor = anchorOf(body) // "pfctl -s" shows what is inside only when asked for this anchor
			rs.filter = append(rs.filter, body)
		case depth > 0 || line == "}":
			rs.filter = append(rs.filter, line)
		default:
			if err := rs.add(line); err != nil {
				return nil, err
			}
		}
	}
	if depth > 0 {
		return nil, errors.New("output of pfctl: a brace is not closed")
	}
	return rs, nil
}

// add takes a line that is inside no braces.
func (rs *ruleset) add(line string) error {
	words := strings.Fields(line)
	first := words[0]
	if first == "no" && len(words) > 1 {
		first = words[1]
	}
	switch {
	case macroLine.MatchString(line):
	case first == "table":
		t, err := parseTableLine(line)
		if err != nil {
			return err
		}
		rs.tables = append(rs.tables, t)
	case first == "set":
		if m := skipLine.FindStringSubmatch(line); m != nil {
			rs.skipped = append(rs.skipped, strings.Fields(m[1])...)
		}
	case slices.Contains([]string{"block", "pass", "match", "anchor", "scrub"}, first):
		rs.filter = append(rs.filter, line)
	case slices.Contains([]string{"nat", "rdr", "binat", "nat-anchor", "rdr-anchor", "binat-anchor"}, first):
		rs.nat = append(rs.nat, line)
	default:
		return fmt.Errorf("output of pfctl: %q is no rule", line)
	}
	return nil
}

// anchorOf is the name that a rule gives an anchor, "" when it gives none.
func anchorOf(rule string) string {
	if m := anchorLine.FindStringSubmatch(rule); m != nil {
		return m[1]
	}
	return ""
}

func parseTableLine(line string) (pfTable, error) {
	m := tableLine.FindStringSubmatch(line)
	if m == nil {
		return pfTable{}, fmt.Errorf("output of pfctl: %q is no table", line)
	}
	t := pfTable{name: m[1]}
	for _, f := range tableFile.FindAllStringSubmatch(line, -1) {
		t.files, t.fixed = append(t.files, f[1]), true
	}
	for _, h := range tableHosts.FindAllStringSubmatch(line, -1) {
		t.addrs, t.fixed = append(t.addrs, tableWords(h[1])...), true
	}
	return t, nil
}

// compareRules compares rules in their order. The optimiser's own tables have
// other names each time: they are numbered as they come.
func compareRules(r *rows, check string, file, loaded []string) {
	file, loaded = numbered(file), numbered(loaded)
	if slices.Equal(file, loaded) {
		r.ok(check, "%s loaded, as in the file", counted(len(loaded), "rule"))
		return
	}
	missing, extra := without(file, loaded), without(loaded, file)
	var parts []string
	if len(missing) > 0 {
		parts = append(parts, fmt.Sprintf("%s of the file not loaded, as: %s", counted(len(missing), "rule"), missing[0]))
	}
	if len(extra) > 0 {
		parts = append(parts, fmt.Sprintf("%s loaded and not in the file, as: %s", counted(len(extra), "rule"), extra[0]))
	}
	if len(parts) == 0 {
		parts = append(parts, "the rules are those of the file in another order")
	}
	r.add(check, Failed, text.OneLine(strings.Join(parts, "; ")), pfRemedy)
}

func numbered(rules []string) []string {
	names := automaticTables(rules)
	out := make([]string, len(rules))
	for i, rule := range rules {
		out[i] = automatic.ReplaceAllStringFunc(rule, func(s string) string {
			return fmt.Sprintf("<automatic %d>", slices.Index(names, strings.Trim(s, "<>"))+1)
		})
	}
	return out
}

// automaticTables lists the optimiser's tables in the order rules name them.
func automaticTables(rules []string) []string {
	var names []string
	for _, rule := range rules {
		for _, m := range automatic.FindAllStringSubmatch(rule, -1) {
			if !slices.Contains(names, m[1]) {
				names = append(names, m[1])
			}
		}
	}
	return names
}

// checkAnchors compares the rules inside each named anchor with what the file has
// there: mostly nothing, and programs fill them for a time.
func (v *verifier) checkAnchors(ctx context.Context, r *rows, file *ruleset, loaded []string) {
	for _, rule := range loaded {
		name := anchorOf(rule)
		if name == "" {
			continue
		}
		check := "anchor " + text.Printable(name)
		if strings.HasSuffix(name, "*") {
			r.skip(check, "a family of anchors, filled at run time")
			continue
		}
		got, ok := v.loadedRules(ctx, r, check, "-a", name, "-Psr")
		want := file.inline[name]
		switch {
		case !ok:
		case len(want) > 0:
			compareRules(r, check, want, got.filter)
		case len(got.filter) > 0:
			r.add(check, Warning, counted(len(got.filter), "rule")+" loaded that the file does not have, as: "+text.Printable(got.filter[0]),
				"pfctl -a "+text.Printable(name)+" -F rules, when they are not wanted any more")
		default:
			r.ok(check, "closed")
		}
	}
}

// checkSkipped compares the interfaces pf leaves alone with "set skip on".
func (v *verifier) checkSkipped(ctx context.Context, r *rows, want []string) {
	const check = "skipped interfaces"
	out, err := v.output(ctx, "pfctl", "-vsI")
	if err != nil {
		r.fail(check, err)
		return
	}
	have, err := parseSkipped(out)
	if err != nil {
		r.fail(check, err)
		return
	}
	compareSkipped(r, check, want, have)
}

// parseSkipped lists the interfaces that pfctl -vsI marks: "lo0 (skip)".
func parseSkipped(text string) ([]string, error) {
	var out []string
	for line := range strings.Lines(text) {
		switch f := strings.Fields(line); {
		case len(f) == 2 && f[1] == "(skip)":
			out = append(out, f[0])
		case len(f) != 1:
			return nil, fmt.Errorf("output of pfctl -vsI: %q is no interface", strings.TrimSpace(line))
		}
	}
	return out, nil
}

// compareSkipped takes "lo" in the file for the group of lo0, lo1 …
func compareSkipped(r *rows, check string, want, have []string) {
	extra := slices.DeleteFunc(without(have, want), func(n string) bool {
		group, unit := place.SplitUnit(n)
		return unit >= 0 && slices.Contains(want, group)
	})
	var bad []string
	if len(extra) > 0 {
		bad = append(bad, "not filtered, and the file says nothing of it: "+text.Listing(extra))
	}
	if missing := without(want, have); len(missing) > 0 {
		bad = append(bad, "filtered against the file: "+text.Listing(missing))
	}
	r.judge(check, bad, strings.Join(append(have[:len(have):len(have)], "no other"), ", "), pfRemedy)
}

// checkTables compares the addresses of each table with its files.
func (v *verifier) checkTables(ctx context.Context, r *rows, file, loaded *ruleset) {
	have := automaticTables(loaded.filter)
	own := automaticTables(file.filter)
	for _, t := range file.tables {
		name := t.name
		if i := slices.Index(own, name); i >= 0 {
			if i >= len(have) {
				continue // compareRules has said so
			}
			name = have[i]
		}
		if !t.fixed {
			r.skip("table "+name, "filled at run time")
			continue
		}
		v.checkTable(ctx, r, t, name)
	}
}

func (v *verifier) checkTable(ctx context.Context, r *rows, t pfTable, name string) {
	check := "table " + name
	words := t.addrs
	for _, f := range t.files {
		b, err := os.ReadFile(v.path(f))
		if err != nil {
			r.fail(check, err)
			return
		}
		words = append(words, tableWords(string(b))...)
	}
	want, err := tableEntries(words)
	if err != nil {
		r.add(check, Warning, "it cannot be compared: "+text.Printable(err.Error()), "use addresses and networks")
		return
	}
	out, err := v.output(ctx, "pfctl", "-t", name, "-T", "show")
	if err != nil {
		r.fail(check, err)
		return
	}
	have, err := tableEntries(tableWords(out))
	if err != nil {
		r.fail(check, fmt.Errorf("output of pfctl -T show: %w", err))
		return
	}
	compareTable(r, check, name, t.files, want, have)
}

func compareTable(r *rows, check, name string, files, want, have []string) {
	missing, extra := without(want, have), without(have, want)
	if len(missing)+len(extra) == 0 {
		r.ok(check, "%s", entries(len(have)))
		return
	}
	var parts []string
	if len(missing) > 0 {
		parts = append(parts, "not loaded: "+text.Listing(missing))
	}
	if len(extra) > 0 {
		parts = append(parts, "loaded and not in the file: "+text.Listing(extra))
	}
	remedy := pfRemedy
	if len(files) == 1 {
		remedy = "pfctl -t " + name + " -T replace -f " + files[0]
	}
	r.add(check, Failed, strings.Join(parts, "; "), remedy)
}

func entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// tableWords splits a table file, or what pfctl -T show prints: words, with
// comments from # or ; to the end of the line. "!" may stand apart.
func tableWords(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		out = append(out, strings.Fields(strings.ReplaceAll(line, "! ", "!"))...)
	}
	return out
}

// tableEntries is the set of a table's entries in one form, sorted: networks
// without host bits, hosts without a length, exceptions with a "!".
func tableEntries(words []string) ([]string, error) {
	var out []string
	for _, w := range words {
		s, not := strings.CutPrefix(w, "!")
		if !strings.Contains(s, "/") {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fmt.Errorf("%q is not an address", w)
			}
			s = netip.PrefixFrom(a, a.BitLen()).String()
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a network", w)
		}
		s = p.Masked().String()
		if p.IsSingleIP() {
			s = p.Addr().String()
		}
		if not {
			s = "!" + s
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// readOptional reads a file that need not exist.
func readOptional(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}
