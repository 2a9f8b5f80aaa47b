package lint

import (
	"net/netip"
	"strconv"
	"strings"
)

// The kinds of rules that decide something.
const (
	pfBlock = "block"
	pfPass  = "pass"
	pfMatch = "match"
	pfNat   = "nat"
	pfRdr   = "rdr"
)

// pfRule is one rule; its lists are kept as lists, where pfctl(8) makes a rule of
// each combination.
type pfRule struct {
	at    pos
	text  string // the line, with single blanks
	kind  string
	no    bool   // "no nat", "no rdr"
	pass  bool   // "rdr pass"
	dir   string // in, out, "" both
	quick bool
	on    []pfIface // any of them; empty is all
	af    string    // inet, inet6, "" both
	proto []string
	src   pfSide
	dst   pfSide

	tag       string // set
	tagged    string // needed
	notTagged bool
	to        []pfHost  // of nat and rdr, after "->"
	toPort    *pfPort   // of rdr
	tables    []pfToken // named in options: overload <t>
}

// pfIface is an interface of "on".
type pfIface struct {
	word
	not bool
}

// pfSide is the source or the destination of a rule.
type pfSide struct {
	hosts []pfHost // any of them; empty is any
	ports []pfPort // any of them; empty is any
}

// The kinds of hosts.
const (
	hostAny     = "any"
	hostNet     = "net"
	hostTable   = "table"
	hostIface   = "iface"
	hostNoRoute = "no-route"
	hostURPF    = "urpf-failed"
	hostSelf    = "self"
)

type pfHost struct {
	at   pos
	kind string
	not  bool
	net  netip.Prefix // hostNet
	name string       // hostTable; hostIface
	mod  string       // hostIface: "", "0", "network", "broadcast"
}

// pfPort is a range of ports, or what is outside of one.
type pfPort struct {
	low, high uint16
	not       bool
}

func (p pfPort) has(n uint16) bool { return (p.low <= n && n <= p.high) != p.not }

// pfTableDef is a table with the files it is filled from.
type pfTableDef struct {
	at    pos
	files []word
	nets  []pfToken
	used  bool
}

// pfConf is a pf.conf(5).
type pfConf struct {
	label  string
	macros map[string]*pfMacro
	tables map[string]*pfTableDef
	names  []string // of tables, in order
	skip   []word   // interfaces that are not filtered
	rules  []*pfRule
	nat    []*pfRule // nat and rdr

	partial bool // a statement is not understood
}

// parsePF reads a pf.conf. A statement that is not understood is a warning, and
// left out.
func parsePF(label, text string) (*pfConf, []flaw) {
	p := &pfParser{pfLexer: pfLexer{label: label, text: text, macros: map[string]*pfMacro{}}}
	p.conf = &pfConf{label: label, macros: p.macros, tables: map[string]*pfTableDef{}}
	for p.i < len(p.text) {
		if p.tokens, p.raw = p.pfLexer.statement(); len(p.tokens) > 0 {
			p.n = 0
			p.statement()
		}
	}
	return p.conf, p.flaws
}

type pfParser struct {
	pfLexer
	conf   *pfConf
	tokens []pfToken
	raw    string
	n      int
	stage  int // 1 options, 2 normalization, 3 translation, 4 filter
	failed bool
}

func (p *pfParser) peek() pfToken {
	if p.n < len(p.tokens) {
		return p.tokens[p.n]
	}
	last := p.tokens[len(p.tokens)-1]
	return pfToken{word{"", pos{last.at.file, last.at.line, last.at.col + len(last.s)}}, pfMark}
}

func (p *pfParser) take() pfToken {
	t := p.peek()
	p.n++
	return t
}

func (p *pfParser) accept(s string) bool {
	if p.peek().is(s) && p.n < len(p.tokens) {
		p.n++
		return true
	}
	return false
}

func (p *pfParser) done() bool { return p.n >= len(p.tokens) }

// lost gives up on a statement.
func (p *pfParser) lost(t pfToken) {
	if p.failed {
		return
	}
	p.failed = true
	what := strconv.Quote(t.s)
	if t.s == "" {
		what = "the end of the line"
	}
	p.conf.partial = true
	p.flaws = append(p.flaws, flaw{t.at, Warning, what + " is not understood here; the matrix is without this rule"})
}

var pfStages = []string{"", "options", "normalization", "translation", "filter rules"}

func (p *pfParser) order(stage int, at pos) {
	if stage < p.stage {
		p.bad(at, pfStages[stage]+" must stand before "+pfStages[p.stage]+"; pfctl loads nothing otherwise")
	}
	p.stage = max(p.stage, stage)
}

func (p *pfParser) statement() {
	p.failed = false
	t := p.take()
	if p.n < len(p.tokens) && p.peek().is("=") && t.kind == pfWord {
		p.macro(t)
		return
	}
	switch t.s {
	case "table":
		p.table()
	case "set":
		p.order(1, t.at)
		p.set()
	case "scrub":
		p.order(2, t.at)
	case "no", "nat", "rdr":
		p.order(3, t.at)
		p.translation(t)
	case "binat", "binat-anchor", "nat-anchor", "rdr-anchor":
		p.order(3, t.at)
		if t.s == "binat" {
			p.lost(t)
		}
	case "antispoof":
		p.order(4, t.at)
		p.antispoof(t)
	case pfBlock, pfPass, pfMatch:
		p.order(4, t.at)
		p.filter(t)
	case "anchor":
		p.order(4, t.at)
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

func (p *pfParser) macro(name pfToken) {
	p.take()
	var parts []string
	for !p.done() {
		parts = append(parts, p.take().s)
	}
	if !pfName(name.s) || strings.Contains(name.s, "-") || len(parts) == 0 {
		p.lost(name)
		return
	}
	p.macros[name.s] = &pfMacro{at: name.at, value: strings.Join(parts, " ")}
}

func (p *pfParser) table() {
	name := p.take()
	if name.kind != pfTable {
		p.lost(name)
		return
	}
	d := &pfTableDef{at: name.at}
	if p.conf.tables[name.s] != nil {
		p.bad(name.at, "table <"+name.s+"> is defined twice")
		return
	}
	p.conf.tables[name.s] = d
	p.conf.names = append(p.conf.names, name.s)
	for !p.done() {
		switch t := p.take(); {
		case t.is("persist"), t.is("const"), t.is("counters"):
		case t.is("file"):
			f := p.take()
			d.files = append(d.files, f.word)
		case t.is("{"):
			for !p.done() && !p.accept("}") {
				if e := p.take(); !e.is(",") {
					d.nets = append(d.nets, e)
				}
			}
		default:
			p.lost(t)
			return
		}
	}
}

func (p *pfParser) set() {
	if p.accept("skip") && p.accept("on") {
		for !p.done() {
			if t := p.take(); t.kind == pfWord {
				p.conf.skip = append(p.conf.skip, t.word)
			}
		}
	}
}

// antispoof is two rules: pf.conf(5) shows them.
func (p *pfParser) antispoof(head pfToken) {
	quick, af := false, ""
	var ifs []pfToken
	for !p.done() {
		switch t := p.take(); {
		case t.is("log"):
		case t.is("quick"):
			quick = true
		case t.is("inet"), t.is("inet6"):
			af = t.s
		case t.is("for"):
			for !p.done() && !p.peek().is("inet") && !p.peek().is("inet6") {
				if t := p.take(); t.kind == pfWord {
					ifs = append(ifs, t)
				}
			}
		default:
			p.lost(t)
			return
		}
	}
	for _, i := range ifs {
		r := pfRule{at: head.at, text: p.raw, kind: pfBlock, dir: "in", quick: quick, af: af}
		elsewhere, own := r, r
		elsewhere.on = []pfIface{{i.word, true}}
		elsewhere.src.hosts = []pfHost{{at: i.at, kind: hostIface, name: i.s, mod: "network"}}
		own.src.hosts = []pfHost{{at: i.at, kind: hostIface, name: i.s}}
		p.conf.rules = append(p.conf.rules, &elsewhere, &own)
	}
}

// translation reads nat and rdr rules.
func (p *pfParser) translation(t pfToken) {
	r := &pfRule{at: t.at, text: p.raw, kind: t.s}
	if r.no = t.is("no"); r.no {
		t = p.take()
		r.kind = t.s
	}
	if r.kind != pfNat && r.kind != pfRdr {
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
				r.toPort = &ports[0]
			}
		case len(r.to) == 0:
			r.to = p.hosts()
		default: // static-port, round-robin and the like
			if t := p.take(); t.kind != pfWord {
				p.lost(t)
			}
		}
	}
	if len(r.to) == 0 && !r.no {
		p.lost(p.peek())
	}
	if !p.failed {
		p.conf.nat = append(p.conf.nat, r)
	}
}

// filter reads block, pass and match rules.
func (p *pfParser) filter(t pfToken) {
	r := &pfRule{at: t.at, text: p.raw, kind: t.s}
	if r.kind == pfBlock {
		for p.accept("drop") || p.accept("return") || p.accept("return-rst") || p.accept("return-icmp") {
			p.parens()
		}
	}
	p.head(r)
	for !p.done() && !p.failed {
		p.option(r)
	}
	if !p.failed {
		p.conf.rules = append(p.conf.rules, r)
	}
}

// parens passes over ( … ) and returns the tables in it.
func (p *pfParser) parens() (tables []pfToken) {
	if !p.accept("(") {
		return nil
	}
	for !p.done() && !p.accept(")") {
		if t := p.take(); t.kind == pfTable {
			tables = append(tables, t)
		}
	}
	return tables
}

// head reads direction, interface, family, protocol and hosts.
func (p *pfParser) head(r *pfRule) {
	for !p.done() && !p.failed {
		switch {
		case p.accept("in"):
			r.dir = "in"
		case p.accept("out"):
			r.dir = "out"
		case p.accept("log"):
			p.parens()
		case p.accept("quick"):
			r.quick = true
		case p.accept("on"):
			r.on = p.ifaces()
		case p.accept("inet"):
			r.af = "inet"
		case p.accept("inet6"):
			r.af = "inet6"
		case p.accept("proto"):
			p.list(func() { r.proto = append(r.proto, protoName(p.take().s)) })
		case p.accept("all"):
		case p.accept("from"):
			p.side(&r.src)
		case p.accept("to"):
			p.side(&r.dst)
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
func (p *pfParser) option(r *pfRule) {
	switch t := p.take(); {
	case t.is("keep"), t.is("modulate"), t.is("synproxy"):
		if !p.accept("state") {
			p.lost(p.peek())
		}
		r.tables = p.parens()
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
		r.tag = p.take().s
	case t.is("tagged"):
		r.tagged = p.take().s
	default:
		p.lost(t)
	}
}

// list reads one item or { items }.
func (p *pfParser) list(item func()) {
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

func (p *pfParser) ifaces() (out []pfIface) {
	p.list(func() {
		not := p.accept("!")
		t := p.take()
		if t.kind != pfWord {
			p.lost(t)
			return
		}
		out = append(out, pfIface{t.word, not})
	})
	return out
}

// side reads hosts and ports after from or to.
func (p *pfParser) side(s *pfSide) {
	if !p.peek().is("port") {
		s.hosts = p.hosts()
	}
	if p.accept("port") {
		s.ports = p.ports()
	}
}
