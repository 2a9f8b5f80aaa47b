package lint

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// hosts reads a host or a list of them; "any" alone is the empty list.
func (p *pfParser) hosts() (out []pfHost) {
	p.list(func() {
		if h, ok := p.host(); ok {
			out = append(out, h)
		}
	})
	for _, h := range out {
		if h.kind == hostAny && !h.not {
			return nil
		}
	}
	return out
}

func (p *pfParser) host() (pfHost, bool) {
	h := pfHost{not: p.accept("!")}
	t := p.take()
	h.at = t.at
	switch {
	case t.kind == pfTable:
		h.kind, h.name = hostTable, t.s
	case t.is("("):
		t = p.take()
		h.kind = hostIface
		h.name, h.mod, _ = strings.Cut(t.s, ":")
		if !p.accept(")") {
			p.lost(p.peek())
			return h, false
		}
	case t.kind == pfMark:
		p.lost(t)
		return h, false
	case t.s == hostAny, t.s == hostNoRoute, t.s == hostURPF, t.s == hostSelf:
		h.kind = t.s
	default:
		if n, ok := pfNet(t.s); ok {
			h.kind, h.net = hostNet, n
			break
		}
		if t.s[0] >= '0' && t.s[0] <= '9' {
			p.bad(t.at, strconv.Quote(t.s)+" is not an IPv4 address or network")
			p.failed = true
			return h, false
		}
		h.kind = hostIface
		h.name, h.mod, _ = strings.Cut(t.s, ":")
	}
	return h, true
}

// pfNet reads an address or network; the last bytes of a network may be left out:
// 10.0.2/24.
func pfNet(s string) (netip.Prefix, bool) {
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

// pfServices are the names of ports that rules may use, of services(5).
var pfServices = map[string]uint16{"ssh": 22, "smtp": 25, "domain": 53, "http": 80, "ntp": 123,
	"https": 443, "smtps": 465, "syslog": 514, "submission": 587, "postgresql": 5432}

// ports reads what follows "port".
func (p *pfParser) ports() (out []pfPort) {
	p.list(func() {
		t := p.take()
		op := ""
		if t.kind == pfMark {
			op, t = t.s, p.take()
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
			case two.s == "><":
				out = append(out, pfPort{low: low + 1, high: to - 1})
			default:
				out = append(out, pfPort{low: low, high: to, not: true})
			}
			return
		}
		switch op {
		case "", "=":
			out = append(out, pfPort{low: low, high: high})
		case "!=":
			out = append(out, pfPort{low: low, high: high, not: true})
		case "<":
			out = append(out, pfPort{low: low, high: 65535, not: true})
		case "<=":
			out = append(out, pfPort{high: low})
		case ">":
			out = append(out, pfPort{low: 0, high: low, not: true})
		case ">=":
			out = append(out, pfPort{low: low, high: 65535})
		default:
			p.lost(t)
		}
	})
	return out
}

func (p *pfParser) portRange(t pfToken) (low, high uint16, ok bool) {
	a, b, two := strings.Cut(t.s, ":")
	if !two {
		b = a
	}
	low, ok = pfPortNumber(a)
	high, more := pfPortNumber(b)
	if two && b == "" {
		high, more = 65535, true
	}
	if !ok || !more {
		if strings.HasPrefix(t.s, "?") { // of an undefined macro, which is reported
			p.failed = true
		}
		p.lost(t)
	}
	return low, high, ok && more
}

func pfPortNumber(s string) (uint16, bool) {
	if n, ok := pfServices[s]; ok {
		return n, true
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil
}

// tableEntry is a network in a table; not excepts it.
type tableEntry struct {
	netip.Prefix
	not bool
	at  pos
}

// table is the content of a pf table.
type table []tableEntry

// has reports whether a table matches an address: its most specific entry decides.
func (t table) has(a netip.Addr) bool {
	best, in := -1, false
	for _, e := range t {
		if e.Contains(a) && e.Bits() > best {
			best, in = e.Bits(), !e.not
		}
	}
	return in
}

// covers returns an entry because of which the table matches some address of a
// network.
func (t table) covers(n netip.Prefix) (tableEntry, bool) {
	var found tableEntry
	ok := false
	for _, e := range t {
		inside := n.Bits() <= e.Bits() && n.Contains(e.Addr())
		around := e.Bits() <= n.Bits() && e.Contains(n.Addr())
		switch {
		case !inside && !around, e.not && !around:
		case around && (!ok || e.Bits() >= found.Bits()), inside && !ok:
			found, ok = e, true
		}
		if inside && !around && !e.not && t.has(e.Addr()) {
			return e, true
		}
	}
	return found, ok && !found.not
}

// parseTable reads the file of a table.
func parseTable(label, text string) (table, []flaw) {
	var out table
	var flaws []flaw
	for i, line := range strings.Split(text, "\n") {
		body, _, _ := strings.Cut(line, "#")
		for _, s := range strings.Fields(body) {
			at := pos{label, i + 1, strings.Index(line, s) + 1}
			e, ok := tableNet(s)
			if e.at = at; ok {
				out = append(out, e)
				continue
			}
			flaws = append(flaws, flaw{at, Error, fmt.Sprintf("%q is not an IPv4 address or network", s)})
		}
	}
	return out, flaws
}

func tableNet(s string) (tableEntry, bool) {
	rest, not := strings.CutPrefix(s, "!")
	n, ok := pfNet(rest)
	return tableEntry{Prefix: n, not: not}, ok
}
