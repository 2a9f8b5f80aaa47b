package health

import (
	"os"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/fakebsd"
	"github.com/rig-freebsd/rig/internal/run"
)

// firewall is what pfctl prints on a server whose rules are those of its file.
func firewall(t *testing.T) (lines []string, answer map[string]string) {
	answer = map[string]string{
		"pfctl -si":                               "Status: Enabled for 0 days 01:02:03           Debug: Urgent\n",
		"pfctl -Pnv -f /etc/pf.conf":              fakebsd.ModuleFile(t, "firstboot/health/testdata/pfctl-nv.txt"),
		"pfctl -Psr":                              fakebsd.ModuleFile(t, "firstboot/health/testdata/pfctl-sr.txt"),
		"pfctl -Psn":                              "nat on xnic inet from 10.0.2.0/24 to any -> (xnic:0) round-robin\nrdr on xnic inet proto tcp from any to (xnic) port = 443 -> 10.0.2.20\nrdr on xnic inet proto tcp from any to (xnic) port = 80 -> 10.0.2.20\n",
		"pfctl -a patching -Psr":                  "",
		"pfctl -vsI":                              "all\nlo\nlo0 (skip)\nxnic\n",
		"pfctl -t blocklist -T show":              "",
		"pfctl -t martians -T show":               "   0.0.0.0/8\n   10.0.0.0/8\n  !10.0.0.0/24\n  !198.51.100.7\n",
		"pfctl -t fixed -T show":                  "   192.0.2.0/26\n  !192.0.2.7\n",
		"pfctl -t __automatic_6f1d2c3b_0 -T show": "   10.0.0.1\n   10.0.0.2\n   10.0.0.3\n   10.0.0.4\n   10.0.0.5\n   10.0.0.6\n",
	}
	return []string{"pfctl -si", "pfctl -Pnv -f /etc/pf.conf", "pfctl -Psr", "pfctl -Psn", "pfctl -a patching -Psr", "pfctl -vsI",
		"pfctl -t blocklist -T show", "pfctl -t martians -T show", "pfctl -t fixed -T show", "pfctl -t __automatic_6f1d2c3b_0 -T show"}, answer
}

var firewallRows = []string{
	"ok pf: enabled",
	"ok filter rules: 10 rules loaded, as in the file",
	"ok anchor patching: closed",
	"ok translation rules: 3 rules loaded, as in the file",
	"ok skipped interfaces: lo0, no other",
	"skipped table ratelimit: filled at run time",
	"ok table blocklist: 0 entries",
	"ok table martians: 4 entries",
	"ok table fixed: 2 entries",
	"ok table __automatic_6f1d2c3b_0: 6 entries",
}

func TestVerifyFirewall(t *testing.T) {
	const remedy = " -> pfctl -nf /etc/pf.conf says whether the file is good; service pf reload loads it"
	for _, tt := range []struct {
		name           string
		line, from, to string // in the output of this command
		row            int
		want           string
		stop           bool // nothing is run after this command
	}{
		{"as in the file", "", "", "", 0, firewallRows[0], false},
		{"disabled", "pfctl -si", "Enabled for", "Disabled for", 0, "error pf: it is loaded and disabled: everything passes -> service pf start", true},
		{"strange status", "pfctl -si", "Status", "State", 0,
			`error pf: output of pfctl -si: "State: Enabled for 0 days 01:02:03           Debug: Urgent" is not its status`, true},
		{"a rule more", "pfctl -Psr", "block drop log all\n", "block drop log all\npass all flags S/SA keep state\n", 1,
			"error filter rules: 1 rule loaded and not in the file, as: pass all flags S/SA keep state" + remedy, false},
		{"two rules less", "pfctl -Psr", "block drop quick inet6 all\nblock drop in quick on ! xnic from (xnic:network) to any\n", "", 1,
			"error filter rules: 2 rules of the file not loaded, as: block drop quick inet6 all" + remedy, false},
		{"another order", "pfctl -Psr", "block drop in quick from (xnic) to any\nblock drop in log quick on xnic from <martians> to any\n",
			"block drop in log quick on xnic from <martians> to any\nblock drop in quick from (xnic) to any\n", 1,
			"error filter rules: the rules are those of the file in another order" + remedy, false},
		{"no scrub", "pfctl -Psr", "scrub in all no-df fragment reassemble\n", "", 1,
			"error filter rules: 1 rule of the file not loaded, as: scrub in all no-df fragment reassemble" + remedy, false},
		{"another redirection", "pfctl -Psn", "port = 80 -> 10.0.2.20", "port = 80 -> 10.0.2.21", 3,
			"error translation rules: 1 rule of the file not loaded, as: rdr on xnic inet proto tcp from any to (xnic) port = 80 -> 10.0.2.20;" +
				" 1 rule loaded and not in the file, as: rdr on xnic inet proto tcp from any to (xnic) port = 80 -> 10.0.2.21" + remedy, false},
		{"open for patching", "pfctl -a patching -Psr", "", "pass out quick on xnic inet all flags S/SA keep state label \"patching\"\n", 2,
			"warning anchor patching: 1 rule loaded that the file does not have, as: pass out quick on xnic inet all flags S/SA keep state label \"patching\"" +
				" -> pfctl -a patching -F rules, when they are not wanted any more", false},
		{"xnic not filtered", "pfctl -vsI", "xnic", "xnic (skip)", 4, "error skipped interfaces: not filtered, and the file says nothing of it: xnic" + remedy, false},
		{"lo0 filtered", "pfctl -vsI", " (skip)", "", 4, "error skipped interfaces: filtered against the file: lo0" + remedy, false},
		{"a table differs", "pfctl -t martians -T show", "!198.51.100.7", "203.0.113.0/24", 7,
			"error table martians: not loaded: !198.51.100.7; loaded and not in the file: 203.0.113.0/24 -> pfctl -t martians -T replace -f /etc/ips_martians", false},
		{"an inline table differs", "pfctl -t fixed -T show", "!192.0.2.7", "!192.0.2.8", 8,
			"error table fixed: not loaded: !192.0.2.7; loaded and not in the file: !192.0.2.8" + remedy, false},
		{"the optimiser's table differs", "pfctl -t __automatic_6f1d2c3b_0 -T show", "10.0.0.6", "10.0.0.7", 9,
			"error table __automatic_6f1d2c3b_0: not loaded: 10.0.0.6; loaded and not in the file: 10.0.0.7" + remedy, false},
		{"a table that is no table", "pfctl -t martians -T show", "0.0.0.0/8", "zero", 7,
			`error table martians: output of pfctl -T show: "zero" is not an address`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lines, answer := firewall(t)
			if tt.line != "" && (!strings.Contains(answer[tt.line], tt.from) || tt.from == "" && answer[tt.line] != "") {
				t.Fatalf("no %q in the output of %s", tt.from, tt.line)
			}
			var script []run.Expect
			for _, l := range lines {
				out := answer[l]
				if l == tt.line {
					out = strings.Replace(out, tt.from, tt.to, 1)
				}
				script = append(script, run.Expect{Line: l, Stdout: out})
				if tt.stop && l == tt.line {
					break
				}
			}
			want := append([]string{}, firewallRows...)
			want[tt.row] = tt.want
			if tt.stop {
				want = want[:tt.row+1]
			}
			v := firewallVerifier(t, script...)
			wantRows(t, v.checkFirewall(t.Context()), want...)
		})
	}
}

func firewallVerifier(t *testing.T, script ...run.Expect) *verifier {
	t.Helper()
	v := testVerifier(t, nil, script...)
	v.rc[""] = map[string]string{"pf_enable": "YES", "pf_rules": "/etc/pf.conf"}
	for name, text := range map[string]string{
		"ips_blocklist": "# nobody\n",
		"ips_martians":  "# networks\n0.0.0.0/8 ; comment\n10.0.0.0/8\n10.0.0.0/8\n!10.0.0.17/24\n! 198.51.100.7/32\n",
	} {
		if err := os.MkdirAll(v.path("etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(v.path("etc", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func TestVerifyFirewallFails(t *testing.T) {
	enabled := run.Expect{Line: "pfctl -si", Stdout: "Status: Enabled\n"}
	file := func(text string) run.Expect { return run.Expect{Line: "pfctl -Pnv -f /etc/pf.conf", Stdout: text} }
	for _, tt := range []struct {
		name   string
		script []run.Expect
		want   []string
	}{
		{"no pf", []run.Expect{{Line: "pfctl -si", Status: 1, Stderr: "pfctl: /dev/pf: No such file or directory"}},
			[]string{"error pf: pfctl -si: exit status 1: pfctl: /dev/pf: No such file or directory"}},
		{"a file that is not good", []run.Expect{enabled, {Line: "pfctl -Pnv -f /etc/pf.conf", Status: 1, Stderr: "/etc/pf.conf:3: syntax error\n"}},
			[]string{"ok pf: enabled", "error pf.conf: pfctl -Pnv -f /etc/pf.conf: exit status 1: /etc/pf.conf:3: syntax error"}},
		{"a line that is not known", []run.Expect{enabled, file("ether block all\n")},
			[]string{"ok pf: enabled", `error pf.conf: output of pfctl: "ether block all" is no rule`}},
		{"rules that are not shown", []run.Expect{enabled, file("block drop all\n"), {Line: "pfctl -Psr", Status: 1, Stderr: "no"},
			{Line: "pfctl -Psn"}, {Line: "pfctl -vsI", Stdout: "all\na b c\n"}},
			[]string{"ok pf: enabled", "error filter rules: pfctl -Psr: exit status 1: no", "ok translation rules: 0 rules loaded, as in the file",
				`error skipped interfaces: output of pfctl -vsI: "a b c" is no interface`}},
		{"tables", []run.Expect{enabled, file("table <gone> persist file \"/etc/none\"\ntable <names> persist { www.example.org }\ntable <lost> { 10.0.0.1 }\n"),
			{Line: "pfctl -Psr"}, {Line: "pfctl -Psn"}, {Line: "pfctl -vsI"}, {Line: "pfctl -t lost -T show", Status: 255, Stderr: "pfctl: Table does not exist."}},
			[]string{"ok pf: enabled", "ok filter rules: 0 rules loaded, as in the file", "ok translation rules: 0 rules loaded, as in the file",
				"ok skipped interfaces: no other", "error table gone: open ROOT/etc/none: no such file or directory",
				`warning table names: it cannot be compared: "www.example.org" is not an address -> use addresses and networks`,
				"error table lost: pfctl -t lost -T show: exit status 255: pfctl: Table does not exist."}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := firewallVerifier(t, tt.script...)
			got := v.checkFirewall(t.Context())
			for i := range got {
				got[i].Detail = strings.ReplaceAll(got[i].Detail, v.Root, "ROOT")
			}
			wantRows(t, got, tt.want...)
		})
	}
	v := testVerifier(t, nil)
	v.rc[""] = map[string]string{"pf_enable": "NO"}
	wantRows(t, v.checkFirewall(t.Context()), "skipped pf: pf_enable is not set in rc.conf")
}

// Rules inside braces belong to the rule before them, or to their own anchor.
func TestParseRuleset(t *testing.T) {
	rs, err := parseRuleset("no nat on lo0 all\nanchor in on xnic all {\n  block drop all\n  anchor \"deep\" all {\n    pass all\n  }\n}\n" +
		"anchor \"web\" all {\n  pass in all\n  anchor all {\n    block drop all\n  }\n}\nblock drop all\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ what, got, want string }{
		{"filter", strings.Join(rs.filter, "|"), `anchor in on xnic all {|block drop all|anchor "deep" all {|pass all|}|}|anchor "web" all|block drop all`},
		{"nat", strings.Join(rs.nat, "|"), "no nat on lo0 all"},
		{"inline", strings.Join(rs.inline["web"], "|"), "pass in all|anchor all {|block drop all|}"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.what, tt.got, tt.want)
		}
	}
	for text, want := range map[string]string{
		"}\n":                         "output of pfctl: a brace too many",
		"anchor all {\npass\n":        "output of pfctl: a brace is not closed",
		"table no\n":                  `output of pfctl: "table no" is no table`,
		"No ALTQ support in kernel\n": `output of pfctl: "No ALTQ support in kernel" is no rule`,
	} {
		_, err := parseRuleset(text)
		wantText(t, err, want)
	}
}

// What the file has inside an anchor of its own is compared with that anchor.
func TestVerifyInlineAnchor(t *testing.T) {
	file := &ruleset{inline: map[string][]string{"web": {"pass in all"}}}
	for out, want := range map[string]string{
		"pass in all\n": "ok anchor web: 1 rule loaded, as in the file",
		"":              "error anchor web: 1 rule of the file not loaded, as: pass in all -> " + pfRemedy,
	} {
		r := &rows{}
		v := testVerifier(t, nil, run.Expect{Line: "pfctl -a web -Psr", Stdout: out})
		v.checkAnchors(t.Context(), r, file, []string{`anchor "web" all`, `anchor "ftp/*" all`, "anchor all {", "pass all"})
		wantRows(t, r.list, want, "skipped anchor ftp/*: a family of anchors, filled at run time")
	}
}

func TestTableEntries(t *testing.T) {
	got, err := tableEntries(tableWords("10.0.0.5/8 ! 1.2.3.4\n# x\n1.2.3.4/32;y\nfd00::1 fd00::/64 1.2.3.4\n"))
	if text := strings.Join(got, " "); err != nil || text != "!1.2.3.4 1.2.3.4 10.0.0.0/8 fd00::/64 fd00::1" {
		t.Errorf("%s, %v", text, err)
	}
	_, err = tableEntries([]string{"10.0.0.0/33"})
	wantText(t, err, `"10.0.0.0/33" is not a network`)
}
