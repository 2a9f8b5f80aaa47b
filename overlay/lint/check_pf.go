package lint

import (
	"net/netip"
	"slices"
	"strings"
)

// readPF reads the firewall of a machine, and its tables as they are after a boot.
func (c *checker) readPF(m *Machine) {
	rc := m.Host.rc
	name := "/etc/pf.conf"
	if s := rc.get("pf_rules"); s != "" {
		name = s
	}
	f := m.Host.root.files[name]
	if f == nil {
		if rc.maybe("pf_enable") {
			c.bad(rc.at("pf_enable"), "pf is enabled and there is no %s", name)
		}
		return
	}
	if !rc.maybe("pf_enable") {
		c.warn(pos{file: f.label}, "pf_enable is not YES in rc.conf, so that nothing is filtered")
		return
	}
	conf, fl := parsePF(f.label, f.text)
	c.flaws(fl)
	m.pf = conf
	m.env = &pfEnv{addrs: map[string][]netip.Prefix{}, tables: map[string]table{}}
	m.env.route = func(a netip.Addr) (string, bool) {
		if i, _ := m.Host.route(a); i != nil {
			return i.Name, true
		}
		return "", false
	}
	for _, i := range m.Host.Ifaces {
		m.env.addrs[i.Name] = i.Addrs
	}
	for _, name := range conf.names {
		m.env.tables[name] = c.readTable(m, conf.tables[name])
	}
}

func (c *checker) readTable(m *Machine, d *pfTableDef) (out table) {
	for _, n := range d.nets {
		e, ok := tableNet(n.s)
		if e.at = n.at; ok {
			out = append(out, e)
		}
	}
	for _, w := range d.files {
		f := m.Host.root.files[w.s]
		if f == nil {
			c.bad(w.at, "%s is nowhere; pfctl loads no rule at all without it", w.s)
			continue
		}
		t, fl := parseTable(f.label, f.text)
		c.flaws(fl)
		out = append(out, t...)
	}
	return out
}

// each calls f for every host of a rule.
func (r *pfRule) each(f func(h *pfHost)) {
	for _, hs := range [][]pfHost{r.src.hosts, r.dst.hosts, r.to} {
		for i := range hs {
			f(&hs[i])
		}
	}
}

// all returns translation and filter rules.
func (c *pfConf) all() []*pfRule { return append(slices.Clone(c.nat), c.rules...) }

// checkPF compares the rules with what they refer to.
func (c *checker) checkPF(m *Machine) {
	if m.pf == nil {
		return
	}
	used := map[string]bool{}
	table := func(name string, at pos) {
		used[name] = true
		if m.pf.tables[name] == nil {
			c.bad(at, "table <%s> is not defined", name)
		}
	}
	members := false
	for _, r := range m.pf.all() {
		for _, i := range r.on {
			c.pfIface(m, i.s, i.at)
			members = members || m.bridgeOf(i.s) != nil
		}
		r.each(func(h *pfHost) {
			switch h.kind {
			case hostTable:
				table(h.name, h.at)
			case hostIface:
				c.pfIface(m, h.name, h.at)
			}
		})
		for _, t := range r.tables {
			table(t.s, t.at)
		}
		c.rdrTarget(m, r)
	}
	for _, s := range m.pf.skip {
		c.pfIface(m, s.s, s.at)
	}
	for _, name := range m.pf.names {
		if !used[name] {
			c.warn(m.pf.tables[name].at, "table <%s> is used nowhere", name)
		}
	}
	for name, d := range m.pf.macros {
		if !d.used {
			c.warn(d.at, "macro %s is used nowhere", name)
		}
	}
	if members && !(m.pfilMember && m.pfilBridge) {
		at := pos{file: c.label(m.Host.root.Overlay + "/etc/sysctl.conf")}
		c.bad(at, "pf has rules for members of a bridge, which need net.link.bridge.pfil_member=1 and net.link.bridge.pfil_bridge=1")
	}
}

// pfGroups are the interface groups that rules may name.
var pfGroups = []string{"any", "all", "lo", "epair", "bridge", "vlan", "egress"}

func (c *checker) pfIface(m *Machine, name string, at pos) {
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
func (c *checker) rdrTarget(m *Machine, r *pfRule) {
	if r.kind != pfRdr {
		return
	}
	for _, h := range r.to {
		if h.kind != hostNet || h.net.Bits() < 32 {
			continue
		}
		if !slices.ContainsFunc(m.nodes(), func(n *Node) bool { return n.owner(h.net.Addr()) != nil }) {
			c.bad(h.at, "rdr goes to %s, which is no address of a jail", h.net.Addr())
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
	for bi, r := range m.pf.rules {
		if r.kind != pfBlock || !r.quick || r.dir == "out" || len(r.dst.hosts) > 0 || len(r.dst.ports) > 0 {
			continue
		}
		for _, i := range m.Host.Ifaces {
			if !i.Card || len(i.Addrs) == 0 || len(r.on) == 0 || !slices.ContainsFunc(r.on, func(o pfIface) bool { return !o.not && o.s == i.Name }) {
				continue
			}
			for _, h := range r.src.hosts {
				if h.kind != hostTable || h.not {
					continue
				}
				for _, p := range append(around(m, rig, i), let(m, i.Name, bi)...) {
					if e, hit := m.env.tables[h.name].covers(p.net); hit {
						c.bad(e.at, "<%s> holds %s, so that pf drops %s, %s", h.name, e.Prefix, p.what, bare(p.net))
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
	for _, r := range m.pf.rules[from:] {
		if r.kind != pfPass || r.dir == "out" || !slices.ContainsFunc(r.on, func(o pfIface) bool { return o.s == iface }) {
			continue
		}
		for _, h := range r.src.hosts {
			if h.kind != hostTable || h.not || done[h.name] {
				continue
			}
			done[h.name] = true
			for _, e := range m.env.tables[h.name] {
				if !e.not {
					out = append(out, protected{"what <" + h.name + "> lets in", e.Prefix})
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
			if _, ok := p.to.listens(p.addr, p.proto, p.port); !ok {
				c.warn(p.rules[len(p.rules)-1].at, "pf lets %s reach port %d/%s of %s, where nothing listens", r.From, p.port, p.proto, p.to.Name)
			}
		}
	}
}
