package lint

import (
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/lint/conf"
	"github.com/rig-freebsd/rig/overlay/lint/flaw"
	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

// checkJails compares jail.conf with rig.toml.
func (c *checker) checkJails(m *Machine) {
	const config = "rig.toml"
	text, _ := fs.ReadFile(c.in.FS, config)
	c.source[c.label(config)] = string(text)
	where := answers.Locate(text)
	at := func(i int, key string) flaw.Pos {
		line, col := where.Value("jail", answers.Index(i), key)
		return flaw.Pos{File: c.label(config), Line: line, Col: col}
	}
	for i, r := range c.in.Config.Jails {
		k := slices.IndexFunc(m.jailconf.Jails, func(d *conf.Jail) bool { return d.Name == r.Name })
		if k < 0 {
			c.bad(at(i, "name"), "jail.conf has no jail %s", r.Name)
			continue
		}
		d := m.jailconf.Jails[k]
		vs, _ := m.jailconf.Values(d, "vnet.interface")
		var have []string
		for _, v := range vs {
			have = append(have, v.Text)
			if !slices.Contains(r.Interfaces, v.Text) {
				c.bad(v.At, "interface %s of %s is not in rig.toml", v.Text, r.Name)
			}
		}
		for _, want := range r.Interfaces {
			if !slices.Contains(have, want) {
				c.bad(at(i, "interfaces"), "jail.conf does not give %s the interface %s", r.Name, want)
			}
		}
		c.jailParams(m, d, vs)
	}
	for i, d := range m.jailconf.Jails {
		k := slices.IndexFunc(c.in.Config.Jails, func(r Root) bool { return r.Name == d.Name })
		switch {
		case k < 0:
			c.bad(d.At, "rig.toml has no jail %s", d.Name)
		case k != i && len(m.jailconf.Jails) == len(c.in.Config.Jails):
			c.warn(d.At, "%s starts as number %d here and is number %d in rig.toml", d.Name, i+1, k+1)
		}
	}
}

func (c *checker) jailParams(m *Machine, d *conf.Jail, ifs []flaw.Word) {
	if _, vnet := m.jailconf.Values(d, "vnet"); !vnet && len(ifs) > 0 {
		c.bad(d.At, "%s has interfaces and no network stack of its own: \"vnet;\" is missing", d.Name)
	}
	path, _ := m.jailconf.Values(d, "path")
	if want := "/jails/" + d.Name; len(path) != 1 || path[0].Text != want {
		at := d.At
		if len(path) > 0 {
			at = path[0].At
		}
		c.bad(at, "path of %s is not %s, where the installer puts it", d.Name, want)
	}
}

// maxIfName is IFNAMSIZ less its end.
const maxIfName = 15

// checkInterfaces follows each interface from rc.conf to where it is used.
func (c *checker) checkInterfaces(m *Machine) {
	first := map[string]flaw.Pos{}
	for _, v := range m.Host.rc.All {
		f := ifVar.FindStringSubmatch(v.Name)
		if f == nil || f[2] != "_name" || len(v.Val.At) == 0 {
			continue
		}
		name, at := v.Val.Text, v.Val.At[0]
		if len(name) > maxIfName {
			c.bad(at, "%s has %d characters; an interface has at most %d", name, len(name), maxIfName)
		}
		if p, twice := first[name]; twice {
			c.bad(at, "%s is already the name of another interface, in line %d", name, p.Line)
			continue
		}
		first[name] = at
	}
	owner := map[string]string{}
	for _, j := range m.Jails {
		for _, i := range j.Ifaces {
			if i.Name == "lo0" {
				continue
			}
			at := c.jailIfaceAt(m, j, i)
			switch {
			case m.Host.iface(i.Name) == nil:
				c.bad(at, "rc.conf of the host makes no interface %s", i.Name)
			case owner[i.Name] != "":
				c.bad(at, "%s is already in %s", i.Name, owner[i.Name])
			}
			owner[i.Name] = j.Name
		}
	}
	c.checkMembers(m)
	for _, cable := range m.Cables {
		for i, e := range cable.Ends {
			if e.Jail == "" && e.Bridge == "" {
				c.bad(cable.at[i], "%s is in no jail and on no bridge; the other end is %s", e.Name, cable.Ends[1-i].Name)
			}
		}
		a, b := cable.Ends[0], cable.Ends[1]
		if a.Jail != "" && a.Jail == b.Jail || a.Bridge != "" && a.Bridge == b.Bridge {
			c.bad(cable.at[1], "both ends of %s, %s and %s, are at %s", cable.Device, a.Name, b.Name, a.Jail+a.Bridge)
		}
	}
}

// jailIfaceAt is the place in jail.conf that gives a jail an interface.
func (c *checker) jailIfaceAt(m *Machine, j *Node, i *Iface) flaw.Pos {
	for _, d := range m.jailconf.Jails {
		vs, _ := m.jailconf.Values(d, "vnet.interface")
		for _, v := range vs {
			if d.Name == j.Name && v.Text == i.Name {
				return v.At
			}
		}
	}
	return i.at
}

// checkMembers judges what is added to bridges.
func (c *checker) checkMembers(m *Machine) {
	on := map[string]string{}
	for _, b := range m.Bridges {
		for _, w := range b.members {
			i := m.Host.iface(w.Text)
			switch {
			case i == nil:
				c.bad(w.At, "%s: there is no interface %s", b.Name, w.Text)
			case m.jailOf(w.Text) != nil:
				c.bad(w.At, "%s: %s goes into %s", b.Name, w.Text, m.jailOf(w.Text).Name)
			case on[w.Text] != "":
				c.bad(w.At, "%s: %s is already on %s", b.Name, w.Text, on[w.Text])
			case len(i.Addrs) > 0:
				c.bad(i.inet[0], "%s is on %s and has an address; addresses belong on the bridge", w.Text, b.Name)
			}
			on[w.Text] = b.Name
		}
	}
}

// spot is an address on a segment.
type spot struct {
	node  *Node
	iface *Iface
	n     int // index of Addrs
}

func (s spot) prefix() netip.Prefix { return s.iface.Addrs[s.n] }

func (s spot) at() flaw.Pos { return s.iface.inet[s.n] }

// segment is what shares one Ethernet: a bridge with its cables, a cable between
// jails, a card.
type segment struct {
	name  string
	card  string // that connects it with other machines, "" for none
	spots []spot
	ifs   []*Iface
}

func (g *segment) add(n *Node, i *Iface) {
	if n == nil || i == nil {
		return
	}
	g.ifs = append(g.ifs, i)
	for k := range i.Addrs {
		g.spots = append(g.spots, spot{n, i, k})
	}
}

// segments lists the Ethernets of a machine.
func (m *Machine) segments() (out []*segment) {
	for _, b := range m.Bridges {
		g := &segment{name: b.Name}
		g.add(m.Host, m.Host.iface(b.Name))
		for _, name := range b.Members {
			if i := m.Host.iface(name); i != nil {
				g.ifs = append(g.ifs, i)
				if i.Card {
					g.card = name
				}
			}
			if cable, end := m.end(name); cable != nil {
				if j := m.jailOf(cable.Ends[1-end].Name); j != nil {
					g.add(j, j.iface(cable.Ends[1-end].Name))
				}
			}
		}
		out = append(out, g)
	}
	for _, cable := range m.Cables {
		a, b := m.jailOf(cable.Ends[0].Name), m.jailOf(cable.Ends[1].Name)
		if a != nil && b != nil {
			g := &segment{name: cable.Device}
			g.add(a, a.iface(cable.Ends[0].Name))
			g.add(b, b.iface(cable.Ends[1].Name))
			out = append(out, g)
		}
	}
	for _, i := range m.Host.Ifaces {
		if i.Card && len(i.Addrs) > 0 && m.bridgeOf(i.Name) == nil {
			g := &segment{name: i.Name, card: i.Name}
			g.add(m.Host, i)
			out = append(out, g)
		}
	}
	return out
}

// checkAddresses judges the addresses of one machine: each in the network of its
// segment, each once, no two segments with overlapping networks.
func (c *checker) checkAddresses(m *Machine) {
	seen := map[netip.Addr]spot{}
	segs := m.segments()
	for k, g := range segs {
		for _, s := range g.spots {
			p, net := s.prefix(), g.spots[0].prefix().Masked()
			switch other, twice := seen[p.Addr()]; {
			case twice:
				c.bad(s.at(), "%s has %s of %s already", other.iface.Name, p.Addr(), m.Name)
			case p.Masked() != net:
				c.bad(s.at(), "%s has %s on %s, whose network is %s (%s)", s.iface.Name, p, g.name, net, m.Name)
			case p.Bits() < 31 && (p.Addr() == p.Masked().Addr() || p.Addr() == pf.LastAddr(p)):
				c.bad(s.at(), "%s has %s, which is the network's own or broadcast address (%s)", s.iface.Name, p, m.Name)
			}
			seen[p.Addr()] = s
		}
		for _, o := range segs[:k] {
			if len(g.spots) == 0 || len(o.spots) == 0 {
				continue
			}
			a, b := g.spots[0], o.spots[0]
			if a.prefix().Overlaps(b.prefix()) && a.prefix().Addr() != b.prefix().Addr() {
				c.bad(a.at(), "%s and %s have overlapping networks, %s and %s (%s)", g.name, o.name, a.prefix().Masked(), b.prefix().Masked(), m.Name)
			}
		}
	}
}

// checkGateway judges default routes.
func (c *checker) checkGateway(m *Machine) {
	if !m.Host.Gateway.IsValid() && m.Host.rc.Vars["defaultrouter"] == nil {
		c.bad(flaw.Pos{File: m.Host.rc.File}, "there is no defaultrouter")
	}
	for _, n := range m.nodes() {
		if !n.Gateway.IsValid() {
			continue
		}
		v := n.rc.Vars["defaultrouter"]
		at := v.At
		if len(v.Val.At) > 0 {
			at = v.Val.At[0]
		}
		out, _ := n.route(n.Gateway)
		switch {
		case n.owner(n.Gateway) != nil:
			c.bad(at, "the gateway %s is the address of %s itself (%s)", n.Gateway, n.owner(n.Gateway).Name, m.Name)
		case out == nil && c.wired:
			c.bad(at, "the gateway %s is in no network of %s, and there is no route to it (%s)", n.Gateway, n.Name, m.Name)
		case out != nil && c.wired && !n.isHost() && !m.segmentHas(out, n.Gateway):
			c.bad(at, "nothing that %s is connected to has the gateway's address %s", out.Name, n.Gateway)
		}
	}
}

// segmentHas reports whether an address is on the same Ethernet as an interface.
func (m *Machine) segmentHas(i *Iface, a netip.Addr) bool {
	for _, g := range m.segments() {
		if slices.Contains(g.ifs, i) && slices.ContainsFunc(g.spots, func(s spot) bool { return s.prefix().Addr() == a }) {
			return true
		}
	}
	return false
}

// checkShared compares the machines on each wire: addresses and MAC addresses
// are there once, and a bridged network is the same one everywhere.
func (c *checker) checkShared(rig *Rig) {
	type place struct {
		m *Machine
		s spot
	}
	addrs := map[string]place{}
	nets := map[string]place{}
	macs := map[string]string{}
	for _, m := range rig.Servers {
		for _, g := range m.segments() {
			for _, i := range g.ifs {
				key := strings.ToLower(i.MAC)
				if key == "" {
					continue
				}
				if other, twice := macs[key]; twice {
					c.bad(i.mac, "%s of %s has the same MAC address as %s", i.Name, m.Name, other)
				}
				macs[key] = i.Name + " of " + m.Name
			}
			if g.card == "" {
				continue
			}
			for _, s := range g.spots {
				key := g.card + " " + s.prefix().Addr().String()
				if o, twice := addrs[key]; twice && o.m != m {
					c.bad(s.at(), "%s of %s has the same address as %s of %s: %s", s.iface.Name, m.Name, o.s.iface.Name, o.m.Name, s.prefix().Addr())
				}
				addrs[key] = place{m, s}
			}
			if len(g.spots) == 0 || g.name == g.card {
				continue
			}
			s := g.spots[0]
			if o, ok := nets[g.card]; ok && o.s.prefix().Masked() != s.prefix().Masked() {
				c.bad(s.at(), "%s of %s is the network %s, that of %s is %s", g.name, m.Name, s.prefix().Masked(), o.m.Name, o.s.prefix().Masked())
			} else if !ok {
				nets[g.card] = place{m, s}
			}
		}
	}
}
