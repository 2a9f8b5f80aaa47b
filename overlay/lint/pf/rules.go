// Package pf reads pf.conf(5) and the files of its tables, and says what pf does
// with a packet: Parse makes a Ruleset of a text, Ruleset.Eval a Verdict of a
// Packet and of what the machine has around the rules.
//
// It knows macros, tables, set skip, scrub, nat, rdr, antispoof, block, pass, match,
// and anchors (as empty). A rule that it does not understand is a warning, and is
// left out. Addresses are IPv4; states are not followed.
package pf

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

// The kinds of rules that decide something.
const (
	Block = "block"
	Pass  = "pass"
	Match = "match"
	Nat   = "nat"
	Rdr   = "rdr"
)

// Rule is one rule; its lists are kept as lists, where pfctl(8) makes a rule of
// each combination.
type Rule struct {
	At    flaw.Pos
	Text  string // the line, with single blanks
	Kind  string
	no    bool   // "no nat", "no rdr"
	pass  bool   // "rdr pass"
	Dir   string // in, out, "" both
	Quick bool
	On    []Iface // any of them; empty is all
	af    string  // inet, inet6, "" both
	proto []string
	Src   Side
	Dst   Side

	tag       string // set
	tagged    string // needed
	notTagged bool
	To        []Host      // of nat and rdr, after "->"
	ToPort    *Port       // of rdr
	Tables    []flaw.Word // named in options: overload <t>
}

// Iface is an interface of "on".
type Iface struct {
	flaw.Word
	Not bool
}

// Side is the source or the destination of a rule.
type Side struct {
	Hosts []Host // any of them; empty is any
	Ports []Port // any of them; empty is any
}

// The kinds of hosts.
const (
	HostAny     = "any"
	HostNet     = "net"
	HostTable   = "table"
	HostIface   = "iface"
	HostNoRoute = "no-route"
	HostURPF    = "urpf-failed"
	HostSelf    = "self"
)

// Host is one of the hosts a rule names.
type Host struct {
	At   flaw.Pos
	Kind string
	Not  bool
	Net  netip.Prefix // HostNet
	Name string       // HostTable; HostIface
	mod  string       // HostIface: "", "0", "network", "broadcast"
}

// Port is a range of ports, or what is outside of one.
type Port struct {
	Low, High uint16
	not       bool
}

func (p Port) has(n uint16) bool { return (p.Low <= n && n <= p.High) != p.not }

// TableDef is a table with the files it is filled from.
type TableDef struct {
	At    flaw.Pos
	Files []flaw.Word
	Nets  []flaw.Word
}

// Ruleset is a pf.conf(5).
type Ruleset struct {
	label      string
	Macros     map[string]*Macro
	Tables     map[string]*TableDef
	TableNames []string    // of tables, in order
	Skip       []flaw.Word // interfaces that are not filtered
	Rules      []*Rule
	Nat        []*Rule // nat and rdr

	Partial bool // a statement is not understood
}

// Parse reads a pf.conf. A statement that is not understood is a warning, and
// left out.
func Parse(label, text string) (*Ruleset, []flaw.Flaw) {
	p := &parser{lexer: lexer{label: label, text: text, macros: map[string]*Macro{}}}
	p.conf = &Ruleset{label: label, Macros: p.macros, Tables: map[string]*TableDef{}}
	for p.i < len(p.text) {
		if p.tokens, p.raw = p.lexer.statement(); len(p.tokens) > 0 {
			p.n = 0
			p.statement()
		}
	}
	return p.conf, p.flaws
}

type parser struct {
	lexer
	conf   *Ruleset
	tokens []token
	raw    string
	n      int
	stage  int // 1 options, 2 normalization, 3 translation, 4 filter
	failed bool
}

func (p *parser) peek() token {
	if p.n < len(p.tokens) {
		return p.tokens[p.n]
	}
	last := p.tokens[len(p.tokens)-1]
	return token{flaw.Word{Text: "", At: flaw.Pos{File: last.At.File, Line: last.At.Line, Col: last.At.Col + len(last.Text)}}, tokenMark}
}

func (p *parser) take() token {
	t := p.peek()
	p.n++
	return t
}

func (p *parser) accept(s string) bool {
	if p.peek().is(s) && p.n < len(p.tokens) {
		p.n++
		return true
	}
	return false
}

func (p *parser) done() bool { return p.n >= len(p.tokens) }

// lost gives up on a statement.
func (p *parser) lost(t token) {
	if p.failed {
		return
	}
	p.failed = true
	what := strconv.Quote(t.Text)
	if t.Text == "" {
		what = "the end of the line"
	}
	p.conf.Partial = true
	p.flaws = append(p.flaws, flaw.Flaw{At: t.At, Severity: flaw.Warning, Text: what + " is not understood here; the matrix is without this rule"})
}

var stages = []string{"", "options", "normalization", "translation", "filter rules"}

func (p *parser) order(stage int, at flaw.Pos) {
	if stage < p.stage {
		p.bad(at, stages[stage]+" must stand before "+stages[p.stage]+"; pfctl loads nothing otherwise")
	}
	p.stage = max(p.stage, stage)
}

func (p *parser) statement() {
	p.failed = false
	t := p.take()
	if p.n < len(p.tokens) && p.peek().is("=") && t.kind == tokenWord {
		p.macro(t)
		return
	}
	switch t.Text {
	case "table":
		p.table()
	case "set":
		p.order(1, t.At)
		p.set()
	case "scrub":
		p.order(2, t.At)
	case "no", "nat", "rdr":
		p.order(3, t.At)
		p.translation(t)
	case "binat", "binat-anchor", "nat-anchor", "rdr-anchor":
		p.order(3, t.At)
		if t.Text == "binat" {
			p.lost(t)
		}
	case "antispoof":
		p.order(4, t.At)
		p.antispoof(t)
	case Block, Pass, Match:
		p.order(4, t.At)
		p.filter(t)
	case "anchor":
		p.order(4, t.At)
		for !p.done() { // a named anchor is filled later, so it is empty here
			if b := p.take(); b.is("{") {
				p.lost(b)
			}
		}
	case "load":
	default:
		p.lost(t)
	}
}

func (p *parser) macro(name token) {
	p.take()
	var parts []string
	for !p.done() {
		parts = append(parts, p.take().Text)
	}
	if !isTableName(name.Text) || strings.Contains(name.Text, "-") || len(parts) == 0 {
		p.lost(name)
		return
	}
	p.macros[name.Text] = &Macro{At: name.At, value: strings.Join(parts, " ")}
}

func (p *parser) table() {
	name := p.take()
	if name.kind != tokenTable {
		p.lost(name)
		return
	}
	d := &TableDef{At: name.At}
	if p.conf.Tables[name.Text] != nil {
		p.bad(name.At, "table <"+name.Text+"> is defined twice")
		return
	}
	p.conf.Tables[name.Text] = d
	p.conf.TableNames = append(p.conf.TableNames, name.Text)
	for !p.done() {
		switch t := p.take(); {
		case t.is("persist"), t.is("const"), t.is("counters"):
		case t.is("file"):
			f := p.take()
			d.Files = append(d.Files, f.Word)
		case t.is("{"):
			for !p.done() && !p.accept("}") {
				if e := p.take(); !e.is(",") {
					d.Nets = append(d.Nets, e.Word)
				}
			}
		default:
			p.lost(t)
			return
		}
	}
}

func (p *parser) set() {
	if p.accept("skip") && p.accept("on") {
		for !p.done() {
			if t := p.take(); t.kind == tokenWord {
				p.conf.Skip = append(p.conf.Skip, t.Word)
			}
		}
	}
}

// antispoof is two rules: pf.conf(5) shows them.
func (p *parser) antispoof(head token) {
	quick, af := false, ""
	var ifs []token
	for !p.done() {
		switch t := p.take(); {
		case t.is("log"):
		case t.is("quick"):
			quick = true
		case t.is("inet"), t.is("inet6"):
			af = t.Text
		case t.is("for"):
			for !p.done() && !p.peek().is("inet") && !p.peek().is("inet6") {
				if t := p.take(); t.kind == tokenWord {
					ifs = append(ifs, t)
				}
			}
		default:
			p.lost(t)
			return
		}
	}
	for _, i := range ifs {
		r := Rule{At: head.At, Text: p.raw, Kind: Block, Dir: "in", Quick: quick, af: af}
		elsewhere, own := r, r
		elsewhere.On = []Iface{{i.Word, true}}
		elsewhere.Src.Hosts = []Host{{At: i.At, Kind: HostIface, Name: i.Text, mod: "network"}}
		own.Src.Hosts = []Host{{At: i.At, Kind: HostIface, Name: i.Text}}
		p.conf.Rules = append(p.conf.Rules, &elsewhere, &own)
	}
}

// translation reads nat and rdr rules.
func (p *parser) translation(t token) {
	r := &Rule{At: t.At, Text: p.raw, Kind: t.Text}
	if r.no = t.is("no"); r.no {
		t = p.take()
		r.Kind = t.Text
	}
	if r.Kind != Nat && r.Kind != Rdr {
		p.lost(t)
		return
	}
	r.pass = p.accept("pass")
	p.accept("log")
	p.head(r)
	for !p.done() && !p.failed && !p.accept("->") {
		p.option(r)
	}
	for !p.done() && !p.failed {
		switch {
		case p.accept("port"):
			ports := p.ports()
			if len(ports) > 0 {
				r.ToPort = &ports[0]
			}
		case len(r.To) == 0:
			r.To = p.hosts()
		default: // static-port, round-robin and the like
			if t := p.take(); t.kind != tokenWord {
				p.lost(t)
			}
		}
	}
	if len(r.To) == 0 && !r.no {
		p.lost(p.peek())
	}
	if !p.failed {
		p.conf.Nat = append(p.conf.Nat, r)
	}
}

// filter reads block, pass and match rules.
func (p *parser) filter(t token) {
	r := &Rule{At: t.At, Text: p.raw, Kind: t.Text}
	if r.Kind == Block {
		for p.accept("drop") || p.accept("return") || p.accept("return-rst") || p.accept("return-icmp") {
			p.parens()
		}
	}
	p.head(r)
	for !p.done() && !p.failed {
		p.option(r)
	}
	if !p.failed {
		p.conf.Rules = append(p.conf.Rules, r)
	}
}

// parens passes over ( … ) and returns the tables in it.
func (p *parser) parens() (tables []flaw.Word) {
	if !p.accept("(") {
		return nil
	}
	for !p.done() && !p.accept(")") {
		if t := p.take(); t.kind == tokenTable {
			tables = append(tables, t.Word)
		}
	}
	return tables
}

// head reads direction, interface, family, protocol and hosts.
func (p *parser) head(r *Rule) {
	for !p.done() && !p.failed {
		switch {
		case p.accept("in"):
			r.Dir = "in"
		case p.accept("out"):
			r.Dir = "out"
		case p.accept("log"):
			p.parens()
		case p.accept("quick"):
			r.Quick = true
		case p.accept("on"):
			r.On = p.ifaces()
		case p.accept("inet"):
			r.af = "inet"
		case p.accept("inet6"):
			r.af = "inet6"
		case p.accept("proto"):
			p.list(func() { r.proto = append(r.proto, protoName(p.take().Text)) })
		case p.accept("all"):
		case p.accept("from"):
			p.side(&r.Src)
		case p.accept("to"):
			p.side(&r.Dst)
		default:
			return
		}
	}
}

func protoName(s string) string {
	if n, ok := map[string]string{"1": "icmp", "6": "tcp", "17": "udp"}[s]; ok {
		return n
	}
	return s
}

// option reads one of what may follow the hosts.
func (p *parser) option(r *Rule) {
	switch t := p.take(); {
	case t.is("keep"), t.is("modulate"), t.is("synproxy"):
		if !p.accept("state") {
			p.lost(p.peek())
		}
		r.Tables = p.parens()
	case t.is("no"):
		if !p.accept("state") {
			p.lost(p.peek())
		}
	case t.is("flags"), t.is("label"), t.is("icmp-type"), t.is("probability"), t.is("user"), t.is("group"), t.is("queue"):
		p.list(func() { p.take() })
	case t.is("allow-opts"):
	case t.is("!") && p.peek().is("tagged"):
		r.notTagged = true
	case t.is("tag"):
		r.tag = p.take().Text
	case t.is("tagged"):
		r.tagged = p.take().Text
	default:
		p.lost(t)
	}
}

// list reads one item or { items }.
func (p *parser) list(item func()) {
	if !p.accept("{") {
		item()
		return
	}
	for !p.done() && !p.failed && !p.accept("}") {
		if !p.accept(",") {
			item()
		}
	}
}

func (p *parser) ifaces() (out []Iface) {
	p.list(func() {
		not := p.accept("!")
		t := p.take()
		if t.kind != tokenWord {
			p.lost(t)
			return
		}
		out = append(out, Iface{t.Word, not})
	})
	return out
}

// side reads hosts and ports after from or to.
func (p *parser) side(s *Side) {
	if !p.peek().is("port") {
		s.Hosts = p.hosts()
	}
	if p.accept("port") {
		s.Ports = p.ports()
	}
}

// Each calls f for every host of a rule.
func (r *Rule) Each(f func(h *Host)) {
	for _, hs := range [][]Host{r.Src.Hosts, r.Dst.Hosts, r.To} {
		for i := range hs {
			f(&hs[i])
		}
	}
}

// All returns translation and filter rules.
func (c *Ruleset) All() []*Rule { return append(slices.Clone(c.Nat), c.Rules...) }

// Passes reports whether a rule passes or redirects what comes from a table, or
// what goes to it.
func (c *Ruleset) Passes(name string) (from, to bool) {
	named := func(s Side) bool {
		return slices.ContainsFunc(s.Hosts, func(h Host) bool { return h.Kind == HostTable && h.Name == name && !h.Not })
	}
	for _, r := range c.All() {
		if r.Kind == Pass || r.Kind == Rdr {
			from, to = from || named(r.Src), to || named(r.Dst)
		}
	}
	return from, to
}
