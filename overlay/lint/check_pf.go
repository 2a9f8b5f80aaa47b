package lint

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/overlay/lint/flaw"
	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

// readPF reads the firewall of a machine, and its tables as they are after a boot.
func (c *checker) readPF(m *Machine) {
	rc := m.Host.rc
	name := "/etc/pf.conf"
	if s := rc.Get("pf_rules"); s != "" {
		name = s
	}
	f := m.Host.root.files[name]
	if f == nil {
		if rc.Maybe("pf_enable") {
			c.bad(rc.At("pf_enable"), "pf is enabled and there is no %s", name)
		}
		return
	}
	if !rc.Maybe("pf_enable") {
		c.warn(flaw.Pos{File: f.label}, "pf_enable is not YES in rc.conf, so that nothing is filtered")
		return
	}
	conf, fl := pf.Parse(f.label, f.text)
	c.flaws(fl)
	m.pf = conf
	m.env = &pf.Env{Addrs: map[string][]netip.Prefix{}, Tables: map[string]pf.Table{}}
	m.env.Route = func(a netip.Addr) (string, bool) {
		if i, _ := m.Host.route(a); i != nil {
			return i.Name, true
		}
		return "", false
	}
	for _, i := range m.Host.Ifaces {
		m.env.Addrs[i.Name] = i.Addrs
	}
	for _, name := range conf.TableNames {
		m.env.Tables[name] = c.readTable(m, conf.Tables[name])
	}
}

func (c *checker) readTable(m *Machine, d *pf.TableDef) (out pf.Table) {
	for _, n := range d.Nets {
		e, ok := pf.ParseEntry(n.Text)
		if e.At = n.At; ok {
			out = append(out, e)
		}
	}
	for _, w := range d.Files {
		f := m.Host.root.files[w.Text]
		if f == nil {
			c.bad(w.At, "%s is nowhere; pfctl loads no rule at all without it", w.Text)
			continue
		}
		t, fl := pf.ParseTable(f.label, f.text)
		c.flaws(fl)
		out = append(out, t...)
	}
	return out
}

// checkPF compares the rules with what they refer to.
func (c *checker) checkPF(m *Machine) {
	if m.pf == nil {
		return
	}
	used := map[string]bool{}
	table := func(name string, at flaw.Pos) {
		used[name] = true
		if m.pf.Tables[name] == nil {
			c.bad(at, "table <%s> is not defined", name)
		}
	}
	members := false
	for _, r := range m.pf.All() {
		for _, i := range r.On {
			c.pfIface(m, i.Text, i.At)
			members = members || m.bridgeOf(i.Text) != nil
		}
		r.Each(func(h *pf.Host) {
			switch h.Kind {
			case pf.HostTable:
				table(h.Name, h.At)
			case pf.HostIface:
				c.pfIface(m, h.Name, h.At)
			}
		})
		for _, t := range r.Tables {
			table(t.Text, t.At)
		}
		c.rdrTarget(m, r)
	}
	for _, s := range m.pf.Skip {
		c.pfIface(m, s.Text, s.At)
	}
	for _, name := range m.pf.TableNames {
		if !used[name] {
			c.warn(m.pf.Tables[name].At, "table <%s> is used nowhere", name)
		}
	}
	for name, d := range m.pf.Macros {
		if !d.Used {
			c.warn(d.At, "macro %s is used nowhere", name)
		}
	}
	if members && !(m.pfilMember && m.pfilBridge) {
		at := flaw.Pos{File: c.label(m.Host.root.Overlay + "/etc/sysctl.conf")}
		c.bad(at, "pf has rules for members of a bridge, which need net.link.bridge.pfil_member=1 and net.link.bridge.pfil_bridge=1")
	}
}

// pfGroups are the interface groups that rules may name.
var pfGroups = []string{"any", "all", "lo", "epair", "bridge", "vlan", "egress"}

func (c *checker) pfIface(m *Machine, name string, at flaw.Pos) {
	if strings.HasPrefix(name, "?") || slices.Contains(pfGroups, name) {
		return
	}
	if m.Host.iface(name) == nil {
		c.bad(at, "there is no interface %s on the host", name)
	} else if j := m.jailOf(name); j != nil {
		c.bad(at, "%s is in %s, where pf of the host does not see it", name, j.Name)
	}
}

// rdrTarget reports redirections to what is no address of this server.
func (c *checker) rdrTarget(m *Machine, r *pf.Rule) {
	if r.Kind != pf.Rdr {
		return
	}
	for _, h := range r.To {
		if h.Kind != pf.HostNet || h.Net.Bits() < 32 {
			continue
		}
		if !slices.ContainsFunc(m.nodes(), func(n *Node) bool { return n.owner(h.Net.Addr()) != nil }) {
			c.bad(h.At, "rdr goes to %s, which is no address of a jail", h.Net.Addr())
		}
	}
}

// protected is a network that must not be dropped.
type protected struct {
	what string
	net  netip.Prefix
}

// checkDropped looks for tables of "block in quick" on a card that drop what the
// server depends on: its own network and gateway, its peer, whoever the later
// rules let in by a table.
func (c *checker) checkDropped(m *Machine, rig *Rig) {
	if m.pf == nil {
		return
	}
	for bi, r := range m.pf.Rules {
		if r.Kind != pf.Block || !r.Quick || r.Dir == "out" || len(r.Dst.Hosts) > 0 || len(r.Dst.Ports) > 0 {
			continue
		}
		for _, i := range m.Host.Ifaces {
			if !i.Card || len(i.Addrs) == 0 || len(r.On) == 0 || !slices.ContainsFunc(r.On, func(o pf.Iface) bool { return !o.Not && o.Text == i.Name }) {
				continue
			}
			for _, h := range r.Src.Hosts {
				if h.Kind != pf.HostTable || h.Not {
					continue
				}
				for _, p := range append(around(m, rig, i), let(m, i.Name, bi)...) {
					if e, hit := m.env.Tables[h.Name].Covers(p.net); hit {
						c.bad(e.At, "<%s> holds %s, so that pf drops %s, %s", h.Name, e.Prefix, p.what, bare(p.net))
					}
				}
			}
		}
	}
}

// around lists what a card has near it.
func around(m *Machine, rig *Rig, i *Iface) (out []protected) {
	for _, p := range i.Addrs {
		out = append(out, protected{m.Name + "'s own network", p.Masked()})
	}
	if m.Host.Gateway.IsValid() {
		out = append(out, protected{m.Name + "'s gateway", netip.PrefixFrom(m.Host.Gateway, 32)})
	}
	for _, o := range rig.Servers {
		if other := o.Host.iface(i.Name); o != m && other != nil {
			for _, p := range other.Addrs {
				out = append(out, protected{"the other server " + o.Name, netip.PrefixFrom(p.Addr(), 32)})
			}
		}
	}
	return out
}

// let lists the entries of tables that rules after the one with index from let in.
func let(m *Machine, iface string, from int) (out []protected) {
	done := map[string]bool{}
	for _, r := range m.pf.Rules[from:] {
		if r.Kind != pf.Pass || r.Dir == "out" || !slices.ContainsFunc(r.On, func(o pf.Iface) bool { return o.Text == iface }) {
			continue
		}
		for _, h := range r.Src.Hosts {
			if h.Kind != pf.HostTable || h.Not || done[h.Name] {
				continue
			}
			done[h.Name] = true
			for _, e := range m.env.Tables[h.Name] {
				if !e.Not {
					out = append(out, protected{"what <" + h.Name + "> lets in", e.Prefix})
				}
			}
		}
	}
	return out
}

// bare is a prefix without "/32".
func bare(p netip.Prefix) string {
	if p.Bits() == 32 {
		return p.Addr().String()
	}
	return p.String()
}

// checkListeners reports ports that pf opens and nobody answers at.
func (c *checker) checkListeners(rows []Row) {
	for _, r := range rows {
		for _, p := range r.probes {
			if p.to == nil || len(p.rules) == 0 || p.proto == "icmp" || p.port == otherPort {
				continue
			}
			if !p.to.listens(p.addr, p.proto, p.port) {
				c.warn(p.rules[len(p.rules)-1].At, "pf lets %s reach port %d/%s of %s, where nothing listens", r.From, p.port, p.proto, p.to.Name)
			}
		}
	}
}
