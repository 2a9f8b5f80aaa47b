package lint

import (
	"io/fs"
	"net/netip"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/lint/flaw"
	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

// profileFile is the description of a profile.
const profileFile = "rig.toml"

// checkCards wants the card of every network in rc.conf.
func (c *checker) checkCards(m *Machine) {
	for i, n := range c.in.Config.Reach.Networks {
		if m.Host.iface(n.Interface) == nil {
			c.bad(c.inProfile("network", i, "interface"), "rc.conf of the host has no interface %s", n.Interface)
		}
		if n.Trial == nil {
			continue
		}
		for _, f := range n.Trial.Files() {
			if m.Host.root.files["/etc/"+f] == nil {
				c.bad(c.inProfile("network", i, "trial"), "/etc/%s is nowhere, and the network's settings are on trial by it", f)
			}
		}
	}
}

// inProfile is the place of a value in rig.toml.
func (c *checker) inProfile(table string, i int, key string) flaw.Pos {
	at := flaw.Pos{File: c.label(profileFile)}
	text, err := fs.ReadFile(c.in.FS, profileFile)
	if err != nil {
		return at
	}
	c.source[at.File] = string(text)
	at.Line, at.Col = answers.Locate(text).Value(table, answers.Index(i), key)
	return at
}

// checkReach sends what the profile's checks send and compares what comes of it.
func (c *checker) checkReach(n *network) {
	if !c.wired || len(c.in.Servers) != 2 || c.in.Servers[0].Answers == nil || c.in.Servers[1].Answers == nil {
		return
	}
	sets := [2]*answers.Set{c.in.Servers[0].Answers, c.in.Servers[1].Answers}
	for i, m := range n.rig.Servers {
		packets, err := c.in.Config.Reach.Packets(sets, i)
		if err != nil {
			c.bad(flaw.Pos{File: c.label(profileFile)}, "%v (%s)", err, m.Name)
			return
		}
		for _, k := range packets {
			c.compare(n, m, k)
		}
	}
}

// compare sends the packets of a check to a machine.
func (c *checker) compare(n *network, m *Machine, k manifest.Packet) {
	sev := flaw.Error
	if m.pf != nil && m.pf.Partial { // a rule that is not understood may decide otherwise
		sev = flaw.Warning
	}
	if k.Check.Proto == manifest.ARP {
		owner := n.rig.owner(k.To)
		switch has := owner != nil && owner.machine == m; {
		case !has && k.Check.Want == manifest.WantReply:
			c.add(sev, c.inProfile("check", k.Index, "want"), "%s: nothing on %s has %s", k.Check.Name, m.Name, k.To)
		case has && k.Check.Want == manifest.WantSilent:
			c.add(sev, c.inProfile("check", k.Index, "want"), "%s: something on %s has %s", k.Check.Name, m.Name, k.To)
		}
		return
	}
	p := pf.Packet{Proto: string(k.Check.Proto), Src: k.From, Dst: k.To}
	var from *Node // nil: neither of the servers
	switch k.Sender {
	case manifest.Neighbour:
		p.Iface = c.in.Config.Reach.Networks[k.Network].Interface
	case manifest.Peer:
		if from, p.Src = n.rig.owner(k.From), (netip.Addr{}); from == nil {
			c.add(sev, c.inProfile("check", k.Index, "from"), "%s: nothing has the other server's address %s (%s)", k.Check.Name, k.From, m.Name)
			return
		}
	}
	ports := k.Check.Ports
	if p.Proto == "" {
		p.Proto = string(manifest.TCP)
	}
	if len(ports) == 0 {
		ports = []int64{otherPort}
	}
	for _, port := range ports {
		p.Dport = uint16(port)
		f := n.send(from, p)
		passes := k.Check.Want == manifest.WantPass || k.Check.Want == manifest.WantReply
		got := f.passed && f.node != nil && f.node.machine == m
		target := k.To.String()
		if len(k.Check.Ports) > 0 {
			target = netip.AddrPortFrom(k.To, p.Dport).String()
		}
		switch {
		case passes && !got:
			c.add(sev, c.inProfile("check", k.Index, "want"), "%s: the way from %s to %s is closed: %s (%s)", k.Check.Name, k.From, target, f.why(m.Host), m.Name)
		case !passes && got:
			c.add(sev, c.inProfile("check", k.Index, "want"), "%s: the way from %s to %s is open%s (%s)", k.Check.Name, k.From, target, f.by(), m.Name)
		}
	}
}

// owner returns what has an address, nil for nothing.
func (r *Rig) owner(a netip.Addr) *Node {
	for _, m := range r.Servers {
		for _, n := range m.nodes() {
			if n.owner(a) != nil {
				return n
			}
		}
	}
	return nil
}

// by names the rules that let a packet through.
func (f flow) by() string {
	var rules []string
	for _, r := range f.rules {
		rules = append(rules, r.At.Short())
	}
	if rules == nil {
		return ""
	}
	return " by " + strings.Join(rules, ", ")
}
