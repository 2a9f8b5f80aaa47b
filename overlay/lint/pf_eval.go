package lint

import (
	"net/netip"
	"slices"
)

// packet is the first packet of a connection, as pf sees it at one place.
type packet struct {
	iface        string
	out          bool
	proto        string // tcp, udp, icmp
	src, dst     netip.Addr
	sport, dport uint16
	tag          string // that an earlier rule on this machine set
}

// verdict is what pf does with a packet.
type verdict struct {
	pass bool
	rule *pfRule // that decided; nil: none matched, so it passes
	nat  *pfRule // that changed an address; nil: none
	pkt  packet  // after translation, with its tag
}

// pfEnv is what the rules of a machine refer to.
type pfEnv struct {
	addrs  map[string][]netip.Prefix // of interfaces
	tables map[string]table
	route  func(netip.Addr) (iface string, ok bool)
}

// eval walks a packet through the rules: translation first, where the first rule
// that matches counts, then filtering, where the last one does unless one is quick.
func (c *pfConf) eval(env *pfEnv, p packet) verdict {
	v := verdict{pass: true, pkt: p}
	for _, s := range c.skip {
		if pfOn(pfIface{word: s}, p.iface) {
			return v
		}
	}
	if r := c.translate(env, p); r != nil && !r.no {
		v.nat = r
		r.apply(env, &v.pkt)
		if r.pass {
			v.rule = r
			return v
		}
	}
	for _, r := range c.rules {
		if !r.matches(env, v.pkt) {
			continue
		}
		if r.tag != "" {
			v.pkt.tag = r.tag
		}
		if r.kind == pfMatch {
			continue
		}
		v.rule, v.pass = r, r.kind == pfPass
		if r.quick {
			break
		}
	}
	return v
}

// translate returns the first translation rule for a packet: nat on the way out,
// rdr on the way in.
func (c *pfConf) translate(env *pfEnv, p packet) *pfRule {
	for _, r := range c.nat {
		if (r.kind == pfNat) == p.out && r.matches(env, p) {
			return r
		}
	}
	return nil
}

// apply translates a packet.
func (r *pfRule) apply(env *pfEnv, p *packet) {
	for _, h := range r.to {
		var a netip.Addr
		switch nets := h.nets(env); {
		case h.kind == hostNet:
			a = h.net.Addr()
		case len(nets) > 0:
			a = nets[0].Addr()
		}
		if !a.IsValid() {
			continue
		}
		if r.kind == pfNat {
			p.src = a
			return
		}
		p.dst = a
		if r.toPort != nil {
			p.dport = r.toPort.low
		}
		return
	}
}

func (r *pfRule) matches(env *pfEnv, p packet) bool {
	switch {
	case r.dir == "in" && p.out, r.dir == "out" && !p.out,
		r.af == "inet6",
		len(r.proto) > 0 && !slices.Contains(r.proto, p.proto),
		r.tagged != "" && (p.tag == r.tagged) == r.notTagged:
		return false
	}
	if len(r.on) > 0 && !slices.ContainsFunc(r.on, func(i pfIface) bool { return pfOn(i, p.iface) }) {
		return false
	}
	return r.src.matches(env, p, p.src, p.sport) && r.dst.matches(env, p, p.dst, p.dport)
}

// pfOn reports whether "on I" means an interface: by name, or by group, which is
// the name without its number.
func pfOn(i pfIface, name string) bool {
	group := name
	for len(group) > 0 && group[len(group)-1] >= '0' && group[len(group)-1] <= '9' {
		group = group[:len(group)-1]
	}
	return (i.s == name || i.s == group || i.s == "any" || i.s == "all") != i.not
}

func (s pfSide) matches(env *pfEnv, p packet, a netip.Addr, port uint16) bool {
	if len(s.hosts) > 0 && !slices.ContainsFunc(s.hosts, func(h pfHost) bool { return h.matches(env, p, a) }) {
		return false
	}
	if len(s.ports) == 0 {
		return true
	}
	return (p.proto == "tcp" || p.proto == "udp") &&
		slices.ContainsFunc(s.ports, func(r pfPort) bool { return r.has(port) })
}

func (h pfHost) matches(env *pfEnv, p packet, a netip.Addr) bool {
	in := false
	switch h.kind {
	case hostAny:
		in = true
	case hostTable:
		in = env.tables[h.name].has(a)
	case hostNoRoute:
		_, ok := env.route(a)
		in = !ok
	case hostURPF:
		i, ok := env.route(a)
		in = !p.out && (!ok || i != p.iface)
	default:
		in = slices.ContainsFunc(h.nets(env), func(n netip.Prefix) bool { return n.Contains(a) })
	}
	return in != h.not
}

// nets are the networks and addresses a host stands for.
func (h pfHost) nets(env *pfEnv) (out []netip.Prefix) {
	switch h.kind {
	case hostNet:
		return []netip.Prefix{h.net}
	case hostSelf:
		for _, ps := range env.addrs {
			for _, p := range ps {
				out = append(out, netip.PrefixFrom(p.Addr(), 32))
			}
		}
	case hostIface:
		for i, p := range env.addrs[h.name] {
			switch {
			case h.mod == "network":
				out = append(out, p.Masked())
			case h.mod == "broadcast":
				out = append(out, netip.PrefixFrom(lastAddr(p), 32))
			case h.mod == "0" && i > 0:
			default:
				out = append(out, netip.PrefixFrom(p.Addr(), 32))
			}
		}
	}
	return out
}

// lastAddr is the broadcast address of an IPv4 network.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}
