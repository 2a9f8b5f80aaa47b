package lint

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

// network sends packets through the rig: routes, bridges, cables, pf on each host,
// and the two wires between the servers.
type network struct{ rig *Rig }

// flow is how far a packet comes.
type flow struct {
	passed bool
	node   *Node      // that got it; nil: the world outside
	addr   netip.Addr // it arrived at
	port   uint16     // it arrived at
	rules  []*pf.Rule // that passed it, in order, each once
	nat    *pf.Rule   // the last one that translated it
	cable  bool       // it went from jail to jail by a cable
	reason string     // why it did not pass
	block  *pf.Rule   // that blocked it; nil: no rule did
}

// maxHops ends loops of routes.
const maxHops = 16

// send sends a packet from a node to p.dst. Without a node it comes from
// outside, with p.src, or from somebody on the wire of the card p.iface.
func (n *network) send(from *Node, p pf.Packet) flow {
	f := &flow{addr: p.Dst, port: p.Dport}
	if p.Sport == 0 {
		p.Sport = 49152
	}
	if from == nil {
		if m := n.behind(p.Iface, p.Dst); m != nil {
			n.bridged(f, m, m.bridgeOf(p.Iface), p.Iface, p.Dst, p, 0)
			return *f
		}
		if m, i := n.card(p.Dst); m != nil {
			n.arrive(f, m, i.Name, p, 0)
			return *f
		}
		f.reason = "nobody outside has a way to " + p.Dst.String()
		return *f
	}
	n.leave(f, from, p, 0)
	return *f
}

// behind returns the machine that has an address on the bridge of a card.
func (n *network) behind(card string, a netip.Addr) *Machine {
	for _, m := range n.rig.Servers {
		b := m.bridgeOf(card)
		if b == nil {
			continue
		}
		if _, jail := n.port(m, b, card, a); jail != nil || m.Host.at(b.Name, a) {
			return m
		}
	}
	return nil
}

// card returns the machine and the card that an address of the public wire belongs to.
func (n *network) card(a netip.Addr) (*Machine, *Iface) {
	for _, m := range n.rig.Servers {
		if i := m.Host.owner(a); i != nil && i.Card {
			return m, i
		}
	}
	return nil, nil
}

func (f *flow) deliver(n *Node, p pf.Packet) {
	f.passed, f.node, f.addr, f.port = true, n, p.Dst, p.Dport
}

// route returns the interface by which a node sends to an address, and the next hop.
func (n *Node) route(a netip.Addr) (out *Iface, hop netip.Addr) {
	best := -1
	for _, i := range n.Ifaces {
		for _, p := range i.Addrs {
			if p.Contains(a) && p.Bits() > best {
				out, best = i, p.Bits()
			}
		}
	}
	if out != nil {
		return out, a
	}
	if !n.Gateway.IsValid() || a == n.Gateway {
		if slices.Contains(n.onLink, a) { // by a host route on the card
			return n.cardIface(), a
		}
		return nil, netip.Addr{}
	}
	out, _ = n.route(n.Gateway)
	return out, n.Gateway
}

// cardIface is the card with an address.
func (n *Node) cardIface() *Iface {
	for _, i := range n.Ifaces {
		if i.Card && len(i.Addrs) > 0 {
			return i
		}
	}
	return nil
}

// leave sends a packet off a node: a jail's goes down its cable, the host's
// through pf.
func (n *network) leave(f *flow, from *Node, p pf.Packet, hops int) {
	out, hop := from.route(p.Dst)
	switch {
	case out == nil || hops > maxHops:
		f.reason = from.Name + " has no route to " + p.Dst.String()
		return
	case from.owner(p.Dst) != nil:
		f.deliver(from, p)
		return
	}
	if !p.Src.IsValid() && len(out.Addrs) > 0 {
		p.Src = out.Addrs[0].Addr()
		for _, a := range out.Addrs {
			if a.Contains(hop) {
				p.Src = a.Addr()
				break
			}
		}
	}
	m := from.machine
	if from.isHost() {
		n.hostOut(f, m, out, hop, p, hops)
		return
	}
	c, end := m.end(out.Name)
	if c == nil {
		f.reason = out.Name + " leads nowhere"
		return
	}
	switch far := c.Ends[1-end]; {
	case far.Jail != "":
		f.cable = true
		n.intoJail(f, m, far.Jail, p)
	case far.Bridge != "":
		n.bridged(f, m, m.bridge(far.Bridge), far.Name, hop, p, hops)
	default:
		f.reason = far.Name + " is on no bridge"
	}
}

// intoJail ends the way: jails do not forward.
func (n *network) intoJail(f *flow, m *Machine, jail string, p pf.Packet) {
	for _, j := range m.Jails {
		if j.Name != jail {
			continue
		}
		if i := j.owner(p.Dst); i != nil && i.Name != "lo0" {
			f.deliver(j, p)
			return
		}
	}
	f.reason = jail + " does not forward to " + p.Dst.String()
}

// filter asks pf of a machine; it returns the packet after translation.
func (n *network) filter(f *flow, m *Machine, iface string, out bool, p pf.Packet) (pf.Packet, bool) {
	p.Iface, p.Out = iface, out
	if m.pf == nil {
		return p, true
	}
	v := m.pf.Eval(m.env, p)
	if v.Nat != nil {
		f.nat = v.Nat
	}
	if v.Pass {
		if v.Rule != nil && !slices.Contains(f.rules, v.Rule) {
			f.rules = append(f.rules, v.Rule)
		}
		return v.Pkt, true
	}
	dir := "in"
	if out {
		dir = "out"
	}
	f.block = v.Rule
	f.reason = "pf of " + m.Name + " blocks it " + dir + " on " + iface
	if v.Rule != nil {
		f.reason += " (" + v.Rule.At.Short() + ")"
	}
	return p, false
}

// arrive is a packet for the host at one of its interfaces: pf, then delivery or
// forwarding.
func (n *network) arrive(f *flow, m *Machine, iface string, p pf.Packet, hops int) {
	p, ok := n.filter(f, m, iface, false, p)
	switch {
	case !ok:
	case m.Host.owner(p.Dst) != nil:
		f.deliver(m.Host, p)
	case !m.forwards:
		f.reason = m.Name + " does not forward"
	default:
		out, hop := m.Host.route(p.Dst)
		if out == nil || hops > maxHops {
			f.reason = m.Name + " has no route to " + p.Dst.String()
			return
		}
		n.hostOut(f, m, out, hop, p, hops+1)
	}
}

// hostOut is a packet that the host sends, of its own or forwarded.
func (n *network) hostOut(f *flow, m *Machine, out *Iface, hop netip.Addr, p pf.Packet, hops int) {
	p, ok := n.filter(f, m, out.Name, true, p)
	if !ok {
		return
	}
	if b := m.bridge(out.Name); b != nil { // pf does not see it again at the member
		n.member(f, m, b, "", hop, p, hops)
		return
	}
	n.wire(f, m, out.Name, hop, p, hops)
}

// bridged is a packet that comes to a bridge by a member. pf sees it on the way
// in and out, at the member and at the bridge, as the pfil sysctls say; a state
// that the first one of a direction made passes the second.
func (n *network) bridged(f *flow, m *Machine, b *Bridge, from string, hop netip.Addr, p pf.Packet, hops int) {
	if i := m.Host.owner(hop); i != nil && i.Name == b.Name {
		n.arrive(f, m, b.Name, p, hops)
		return
	}
	for _, h := range []struct {
		on    bool
		iface string
	}{{m.pfilMember, from}, {m.pfilBridge, b.Name}} {
		if !h.on {
			continue
		}
		var ok bool
		if p, ok = n.filter(f, m, h.iface, false, p); !ok {
			return
		}
		break
	}
	n.member(f, m, b, from, hop, p, hops)
}

// member sends a packet out by the member of a bridge that leads to the next hop.
// from is the member it came by; "" is the host, whose packets were filtered.
func (n *network) member(f *flow, m *Machine, b *Bridge, from string, hop netip.Addr, p pf.Packet, hops int) {
	name, jail := n.port(m, b, from, hop)
	if name == "" {
		f.reason = "nothing on " + b.Name + " has the address " + hop.String()
		return
	}
	if from != "" && (m.pfilBridge || m.pfilMember) {
		first := b.Name
		if !m.pfilBridge {
			first = name
		}
		var ok bool
		if p, ok = n.filter(f, m, first, true, p); !ok {
			return
		}
	}
	if jail != nil {
		n.intoJail(f, m, jail.Name, p)
		return
	}
	n.wire(f, m, name, hop, p, hops)
}

// port returns the member of a bridge that leads to an address: to the jail that
// has it, or else to the wire.
func (n *network) port(m *Machine, b *Bridge, from string, hop netip.Addr) (name string, jail *Node) {
	card := ""
	for _, name := range b.Members {
		if name == from {
			continue
		}
		if c, end := m.end(name); c != nil {
			if far := c.Ends[1-end].Name; m.jailOf(far) != nil && m.jailOf(far).at(far, hop) {
				return name, m.jailOf(far)
			}
		} else if i := m.Host.iface(name); i != nil && i.Card && card == "" {
			card = name
		}
	}
	return card, nil
}

// at reports whether an interface of a node has an address.
func (n *Node) at(iface string, a netip.Addr) bool {
	i := n.owner(a)
	return i != nil && i.Name == iface
}

// bridgeOf returns the bridge an interface is a member of.
func (m *Machine) bridgeOf(member string) *Bridge {
	for _, b := range m.Bridges {
		if slices.Contains(b.Members, member) {
			return b
		}
	}
	return nil
}

// wire is a packet on the wire of a card: another machine takes it, or the world.
func (n *network) wire(f *flow, m *Machine, card string, hop netip.Addr, p pf.Packet, hops int) {
	p.Tag = "" // is the machine's own
	for _, o := range n.rig.Servers {
		if o == m {
			continue
		}
		if o.bridgeOf(card) == nil && (o.Host.at(card, hop) || o.Host.at(card, p.Dst)) {
			n.arrive(f, o, card, p, hops+1)
			return
		}
	}
	if o := n.behind(card, hop); o != nil && o != m {
		n.bridged(f, o, o.bridgeOf(card), card, hop, p, hops+1)
		return
	}
	f.deliver(nil, p)
}

// portText is a port for people.
func portText(n uint16) string {
	if n == 0 {
		return "any"
	}
	return strconv.Itoa(int(n))
}
