package pf

import (
	"net/netip"
	"slices"
)

// Packet is the first packet of a connection, as pf sees it at one place.
type Packet struct {
	Iface        string
	Out          bool
	Proto        string // tcp, udp, icmp
	Src, Dst     netip.Addr
	Sport, Dport uint16
	Tag          string // that an earlier rule on this machine set
}

// Verdict is what pf does with a packet.
type Verdict struct {
	Pass bool
	Rule *Rule  // that decided; nil: none matched, so it passes
	Nat  *Rule  // that changed an address; nil: none
	Pkt  Packet // after translation, with its tag
}

// Env is what the rules of a machine refer to.
type Env struct {
	Addrs  map[string][]netip.Prefix // of interfaces
	Tables map[string]Table
	Route  func(netip.Addr) (iface string, ok bool)
}

// Eval walks a packet through the rules: translation first, where the first rule
// that matches counts, then filtering, where the last one does unless one is quick.
func (c *Ruleset) Eval(env *Env, p Packet) Verdict {
	v := Verdict{Pass: true, Pkt: p}
	for _, s := range c.Skip {
		if onIface(Iface{Word: s}, p.Iface) {
			return v
		}
	}
	if r := c.translate(env, p); r != nil && !r.no {
		v.Nat = r
		r.apply(env, &v.Pkt)
		if r.pass {
			v.Rule = r
			return v
		}
	}
	for _, r := range c.Rules {
		if !r.matches(env, v.Pkt) {
			continue
		}
		if r.tag != "" {
			v.Pkt.Tag = r.tag
		}
		if r.Kind == Match {
			continue
		}
		v.Rule, v.Pass = r, r.Kind == Pass
		if r.Quick {
			break
		}
	}
	return v
}

// translate returns the first translation rule for a packet: nat on the way out,
// rdr on the way in.
func (c *Ruleset) translate(env *Env, p Packet) *Rule {
	for _, r := range c.Nat {
		if (r.Kind == Nat) == p.Out && r.matches(env, p) {
			return r
		}
	}
	return nil
}

// apply translates a packet.
func (r *Rule) apply(env *Env, p *Packet) {
	for _, h := range r.To {
		var a netip.Addr
		switch nets := h.nets(env); {
		case h.Kind == HostNet:
			a = h.Net.Addr()
		case len(nets) > 0:
			a = nets[0].Addr()
		}
		if !a.IsValid() {
			continue
		}
		if r.Kind == Nat {
			p.Src = a
			return
		}
		p.Dst = a
		if r.ToPort != nil {
			p.Dport = r.ToPort.Low
		}
		return
	}
}

func (r *Rule) matches(env *Env, p Packet) bool {
	switch {
	case r.Dir == "in" && p.Out, r.Dir == "out" && !p.Out,
		r.af == "inet6",
		len(r.proto) > 0 && !slices.Contains(r.proto, p.Proto),
		r.tagged != "" && (p.Tag == r.tagged) == r.notTagged:
		return false
	}
	if len(r.On) > 0 && !slices.ContainsFunc(r.On, func(i Iface) bool { return onIface(i, p.Iface) }) {
		return false
	}
	return r.Src.matches(env, p, p.Src, p.Sport) && r.Dst.matches(env, p, p.Dst, p.Dport)
}

// onIface reports whether "on I" means an interface: by name, or by group, which is
// the name without its number.
func onIface(i Iface, name string) bool {
	group := name
	for len(group) > 0 && group[len(group)-1] >= '0' && group[len(group)-1] <= '9' {
		group = group[:len(group)-1]
	}
	return (i.Text == name || i.Text == group || i.Text == "any" || i.Text == "all") != i.Not
}

func (s Side) matches(env *Env, p Packet, a netip.Addr, port uint16) bool {
	if len(s.Hosts) > 0 && !slices.ContainsFunc(s.Hosts, func(h Host) bool { return h.matches(env, p, a) }) {
		return false
	}
	if len(s.Ports) == 0 {
		return true
	}
	return (p.Proto == "tcp" || p.Proto == "udp") &&
		slices.ContainsFunc(s.Ports, func(r Port) bool { return r.has(port) })
}

func (h Host) matches(env *Env, p Packet, a netip.Addr) bool {
	in := false
	switch h.Kind {
	case HostAny:
		in = true
	case HostTable:
		in = env.Tables[h.Name].Has(a)
	case HostNoRoute:
		_, ok := env.Route(a)
		in = !ok
	case HostURPF:
		i, ok := env.Route(a)
		in = !p.Out && (!ok || i != p.Iface)
	default:
		in = slices.ContainsFunc(h.nets(env), func(n netip.Prefix) bool { return n.Contains(a) })
	}
	return in != h.Not
}

// nets are the networks and addresses a host stands for.
func (h Host) nets(env *Env) (out []netip.Prefix) {
	switch h.Kind {
	case HostNet:
		return []netip.Prefix{h.Net}
	case HostSelf:
		for _, ps := range env.Addrs {
			for _, p := range ps {
				out = append(out, netip.PrefixFrom(p.Addr(), 32))
			}
		}
	case HostIface:
		for i, p := range env.Addrs[h.Name] {
			switch {
			case h.mod == "network":
				out = append(out, p.Masked())
			case h.mod == "broadcast":
				out = append(out, netip.PrefixFrom(LastAddr(p), 32))
			case h.mod == "0" && i > 0:
			default:
				out = append(out, netip.PrefixFrom(p.Addr(), 32))
			}
		}
	}
	return out
}

// LastAddr is the broadcast address of an IPv4 network.
func LastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}
