package pf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

// hosts reads a host or a list of them; "any" alone is the empty list.
func (p *parser) hosts() (out []Host) {
	p.list(func() {
		if h, ok := p.host(); ok {
			out = append(out, h)
		}
	})
	for _, h := range out {
		if h.Kind == HostAny && !h.Not {
			return nil
		}
	}
	return out
}

func (p *parser) host() (Host, bool) {
	h := Host{Not: p.accept("!")}
	t := p.take()
	h.At = t.At
	switch {
	case t.kind == tokenTable:
		h.Kind, h.Name = HostTable, t.Text
	case t.is("("):
		t = p.take()
		h.Kind = HostIface
		h.Name, h.mod, _ = strings.Cut(t.Text, ":")
		if !p.accept(")") {
			p.lost(p.peek())
			return h, false
		}
	case t.kind == tokenMark:
		p.lost(t)
		return h, false
	case t.Text == HostAny, t.Text == HostNoRoute, t.Text == HostURPF, t.Text == HostSelf:
		h.Kind = t.Text
	default:
		if n, ok := parseNet(t.Text); ok {
			h.Kind, h.Net = HostNet, n
			break
		}
		if t.Text[0] >= '0' && t.Text[0] <= '9' {
			p.bad(t.At, strconv.Quote(t.Text)+" is not an IPv4 address or network")
			p.failed = true
			return h, false
		}
		h.Kind = HostIface
		h.Name, h.mod, _ = strings.Cut(t.Text, ":")
	}
	return h, true
}

// parseNet reads an address or network; the last bytes of a network may be left out:
// 10.0.2/24.
func parseNet(s string) (netip.Prefix, bool) {
	host, bits, slash := strings.Cut(s, "/")
	for slash && strings.Count(host, ".") < 3 {
		host += ".0"
	}
	a, err := netip.ParseAddr(host)
	if err != nil || !a.Is4() {
		return netip.Prefix{}, false
	}
	n := 32
	if slash {
		if n, err = strconv.Atoi(bits); err != nil || n < 0 || n > 32 {
			return netip.Prefix{}, false
		}
	}
	return netip.PrefixFrom(a, n).Masked(), true
}

// services are the names of ports that rules may use, of services(5).
var services = map[string]uint16{"ssh": 22, "smtp": 25, "domain": 53, "http": 80, "ntp": 123,
	"https": 443, "smtps": 465, "syslog": 514, "submission": 587, "postgresql": 5432}

// ports reads what follows "port".
func (p *parser) ports() (out []Port) {
	p.list(func() {
		t := p.take()
		op := ""
		if t.kind == tokenMark {
			op, t = t.Text, p.take()
		}
		low, high, ok := p.portRange(t)
		if !ok {
			return
		}
		if two := p.peek(); op == "" && (two.is("<>") || two.is("><")) {
			p.take()
			_, to, ok := p.portRange(p.take())
			switch {
			case !ok:
			case two.Text == "><":
				out = append(out, Port{Low: low + 1, High: to - 1})
			default:
				out = append(out, Port{Low: low, High: to, not: true})
			}
			return
		}
		switch op {
		case "", "=":
			out = append(out, Port{Low: low, High: high})
		case "!=":
			out = append(out, Port{Low: low, High: high, not: true})
		case "<":
			out = append(out, Port{Low: low, High: 65535, not: true})
		case "<=":
			out = append(out, Port{High: low})
		case ">":
			out = append(out, Port{Low: 0, High: low, not: true})
		case ">=":
			out = append(out, Port{Low: low, High: 65535})
		default:
			p.lost(t)
		}
	})
	return out
}

func (p *parser) portRange(t token) (low, high uint16, ok bool) {
	a, b, two := strings.Cut(t.Text, ":")
	if !two {
		b = a
	}
	low, ok = portNumber(a)
	high, more := portNumber(b)
	if two && b == "" {
		high, more = 65535, true
	}
	if !ok || !more {
		if strings.HasPrefix(t.Text, "?") { // of an undefined macro, which is reported
			p.failed = true
		}
		p.lost(t)
	}
	return low, high, ok && more
}

func portNumber(s string) (uint16, bool) {
	if n, ok := services[s]; ok {
		return n, true
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil
}

// Entry is a network in a table; not excepts it.
type Entry struct {
	netip.Prefix
	Not bool
	At  flaw.Pos
}

// Table is the content of a pf table.
type Table []Entry

// Has reports whether a table matches an address: its most specific entry decides.
func (t Table) Has(a netip.Addr) bool {
	best, in := -1, false
	for _, e := range t {
		if e.Contains(a) && e.Bits() > best {
			best, in = e.Bits(), !e.Not
		}
	}
	return in
}

// Covers returns an entry because of which the table matches some address of a
// network.
func (t Table) Covers(n netip.Prefix) (Entry, bool) {
	var found Entry
	ok := false
	for _, e := range t {
		inside := n.Bits() <= e.Bits() && n.Contains(e.Addr())
		around := e.Bits() <= n.Bits() && e.Contains(n.Addr())
		switch {
		case !inside && !around, e.Not && !around:
		case around && (!ok || e.Bits() >= found.Bits()), inside && !ok:
			found, ok = e, true
		}
		if inside && !around && !e.Not && t.Has(e.Addr()) {
			return e, true
		}
	}
	return found, ok && !found.Not
}

// ParseTable reads the file of a table.
func ParseTable(label, text string) (Table, []flaw.Flaw) {
	var out Table
	var flaws []flaw.Flaw
	for i, line := range strings.Split(text, "\n") {
		body, _, _ := strings.Cut(line, "#")
		for _, s := range strings.Fields(body) {
			at := flaw.Pos{File: label, Line: i + 1, Col: strings.Index(line, s) + 1}
			e, ok := ParseEntry(s)
			if e.At = at; ok {
				out = append(out, e)
				continue
			}
			flaws = append(flaws, flaw.Flaw{At: at, Severity: flaw.Error, Text: fmt.Sprintf("%q is not an IPv4 address or network", s)})
		}
	}
	return out, flaws
}

// ParseEntry reads a network of a table, "!" before it excepts it. Its place is the
// caller's to set.
func ParseEntry(s string) (Entry, bool) {
	rest, not := strings.CutPrefix(s, "!")
	n, ok := parseNet(rest)
	return Entry{Prefix: n, Not: not}, ok
}
