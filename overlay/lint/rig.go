package lint

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/overlay/lint/conf"
	"github.com/rig-freebsd/rig/overlay/lint/flaw"
	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

// Rig is what a profile makes of its servers.
type Rig struct {
	Servers []*Machine `json:"servers"`
}

// Machine is one server.
type Machine struct {
	Name    string    `json:"name"`
	Host    *Node     `json:"host"`
	Jails   []*Node   `json:"jails"` // in the order of the profile
	Bridges []*Bridge `json:"bridges"`
	Cables  []*Cable  `json:"cables"`

	jailconf   *conf.JailConf
	pf         *pf.Ruleset // nil: the profile has none
	env        *pf.Env
	forwards   bool
	pfilMember bool // net.link.bridge.pfil_member
	pfilBridge bool // net.link.bridge.pfil_bridge
}

// Node is the host or a jail: something with addresses of its own.
type Node struct {
	Name    string     `json:"name"` // "host", or the jail's
	Ifaces  []*Iface   `json:"interfaces"`
	Gateway netip.Addr `json:"gateway,omitzero"`
	Listen  []Listener `json:"listen,omitempty"`
	Pipes   []*Pipe    `json:"pipes,omitempty"`

	machine *Machine
	root    *root
	rc      *conf.RC
	onLink  []netip.Addr // gateways that a host route reaches
}

// Iface is a network interface of a node.
type Iface struct {
	Name  string         `json:"name"`
	Addrs []netip.Prefix `json:"addresses,omitempty"`
	MAC   string         `json:"mac,omitempty"`
	Card  bool           `json:"card,omitempty"` // a physical one

	at   flaw.Pos   // where it is configured
	inet []flaw.Pos // of Addrs
	mac  flaw.Pos
}

// Bridge is an if_bridge(4) of the host.
type Bridge struct {
	Name    string   `json:"name"`
	Members []string `json:"members"`

	members []flaw.Word
}

// Cable is an epair(4).
type Cable struct {
	Device string `json:"device"` // epair0
	Ends   [2]End `json:"ends"`

	at [2]flaw.Pos // of the ends' names
}

// End is an end of a cable: in a jail, on a bridge, both empty on the host.
type End struct {
	Name   string `json:"name"`
	Jail   string `json:"jail,omitempty"`
	Bridge string `json:"bridge,omitempty"`
}

// Listener is a port that something answers at.
type Listener struct {
	Addr  netip.Addr `json:"address,omitzero"` // invalid: all addresses
	Proto string     `json:"proto"`
	Port  uint16     `json:"port"`
	By    string     `json:"by"`

	at    flaw.Pos
	maybe bool // only under a condition of rc.conf
}

// Pipe is an end of a tunnel of spiped(1).
type Pipe struct {
	Name   string         `json:"name"`
	Mode   string         `json:"mode"` // encrypt, decrypt
	Source netip.AddrPort `json:"source"`
	Target netip.AddrPort `json:"target"`
	Key    string         `json:"key"` // file

	at, source, target, key flaw.Pos
}

func (n *Node) isHost() bool { return n.root.Name == "" }

func (n *Node) iface(name string) *Iface {
	for _, i := range n.Ifaces {
		if i.Name == name {
			return i
		}
	}
	return nil
}

// owner returns the interface that has an address.
func (n *Node) owner(a netip.Addr) *Iface {
	for _, i := range n.Ifaces {
		for _, p := range i.Addrs {
			if p.Addr() == a {
				return i
			}
		}
	}
	return nil
}

func (m *Machine) nodes() []*Node { return append([]*Node{m.Host}, m.Jails...) }

func (m *Machine) bridge(name string) *Bridge {
	for _, b := range m.Bridges {
		if b.Name == name {
			return b
		}
	}
	return nil
}

// end returns the cable an interface is an end of, and which.
func (m *Machine) end(name string) (*Cable, int) {
	for _, c := range m.Cables {
		for i := range c.Ends {
			if c.Ends[i].Name == name {
				return c, i
			}
		}
	}
	return nil, 0
}

// machine reads the files of one server into a model and reports what is wrong
// with each file by itself.
func (c *checker) machine(name string, roots []*root) *Machine {
	m := &Machine{Name: name}
	for _, r := range roots {
		n := &Node{Name: r.Name, machine: m, root: r}
		if r.Name == "" {
			n.Name, m.Host = "host", n
		} else {
			m.Jails = append(m.Jails, n)
		}
		f := r.files["/etc/rc.conf"]
		if f == nil {
			f = &file{label: c.label(r.Overlay + "/etc/rc.conf")}
		}
		var fl []flaw.Flaw
		n.rc, fl = conf.ParseRC(f.label, f.text, r.read)
		c.flaws(fl)
	}
	if m.Host == nil {
		m.Host = &Node{Name: "host", machine: m, root: &root{}, rc: &conf.RC{}}
	}
	c.readJailConf(m)
	c.hostInterfaces(m)
	for _, j := range m.Jails {
		c.jailInterfaces(m, j)
	}
	for _, n := range m.nodes() {
		c.addresses(n)
		c.gateway(n)
		c.pipes(n)
		c.services(n)
	}
	m.place()
	m.sysctl()
	c.readPF(m)
	return m
}

func (c *checker) readJailConf(m *Machine) {
	m.jailconf = &conf.JailConf{}
	if f := m.Host.root.files["/etc/jail.conf"]; f != nil {
		var fl []flaw.Flaw
		m.jailconf, fl = conf.ParseJailConf(f.label, f.text)
		c.flaws(fl)
	}
}

// ifVar is a variable of rc.conf about an interface: ifconfig_NAME, with _name,
// _alias0 and the like.
var ifVar = regexp.MustCompile(`^ifconfig_(.+?)(_name|_alias\d+|_aliases|_ipv6|_descr)?$`)

// clones are the interfaces that cloned_interfaces can make of each class.
func clones(name string) []string {
	if strings.HasPrefix(name, "epair") {
		return []string{name + "a", name + "b"}
	}
	return []string{name}
}

// hostInterfaces finds out what interfaces the host has: cloned ones under the
// names rc.conf gives them, and cards.
func (c *checker) hostInterfaces(m *Machine) {
	h := m.Host
	names := map[string]string{} // device → name
	places := map[string]flaw.Pos{}
	for _, v := range h.rc.All {
		if f := ifVar.FindStringSubmatch(v.Name); f != nil && f[2] == "_name" {
			names[f[1]], places[f[1]] = v.Val.Text, v.At
			if len(v.Val.At) > 0 {
				places[f[1]] = v.Val.At[0]
			}
		}
	}
	add := func(device string, at flaw.Pos, card bool) (string, flaw.Pos) {
		name := device
		if n := names[device]; n != "" {
			name, at = n, places[device]
		}
		delete(names, device)
		if h.iface(name) == nil {
			h.Ifaces = append(h.Ifaces, &Iface{Name: name, at: at, Card: card})
		}
		return name, at
	}
	for _, card := range c.cards(m) {
		add(card, h.rc.At("ifconfig_"+card), true)
	}
	if v := h.rc.Vars["cloned_interfaces"]; v != nil {
		for _, w := range v.Val.Words() {
			device := strings.TrimSuffix(w.Text, ":sticky")
			var ends []string
			var at [2]flaw.Pos
			for i, e := range clones(device) {
				name, p := add(e, w.At, false)
				ends, at[i] = append(ends, name), p
			}
			if len(ends) == 2 {
				m.Cables = append(m.Cables, &Cable{Device: device, Ends: [2]End{{Name: ends[0]}, {Name: ends[1]}}, at: at})
			}
			if strings.HasPrefix(device, "bridge") {
				m.Bridges = append(m.Bridges, &Bridge{Name: ends[0]})
			}
		}
	}
	h.Ifaces = append(h.Ifaces, &Iface{Name: "lo0", Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}, at: flaw.Pos{File: h.rc.File}, inet: make([]flaw.Pos, 1)})
	for _, v := range h.rc.All {
		f := ifVar.FindStringSubmatch(v.Name)
		if f == nil || f[2] != "_name" {
			continue
		}
		if _, left := names[f[1]]; left && isClone.MatchString(f[1]) {
			c.bad(v.At, "%s is not in cloned_interfaces, so that nothing gets the name %s", f[1], v.Val.Text)
		}
	}
}

var (
	isClone  = regexp.MustCompile(`^(epair\d+[ab]?|bridge\d+|vlan\d+|lagg\d+|tap\d+|lo\d+)$`)
	isDevice = regexp.MustCompile(`^[a-z]+[0-9]+$`)
)

// cards returns the names of the physical interfaces, and of vlans on them: those
// of the profile's networks, parents and names of vlans, devices under their own
// name, and what a device is renamed to.
func (c *checker) cards(m *Machine) (out []string) {
	h := m.Host
	add := func(s string) {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, v := range h.rc.All {
		if parent, ok := strings.CutPrefix(v.Name, "vlans_"); ok {
			for _, w := range v.Val.Words() {
				add(w.Text)
			}
			add(parent)
		}
		f := ifVar.FindStringSubmatch(v.Name)
		if f == nil {
			continue
		}
		named := slices.ContainsFunc(c.in.Config.Reach.Networks, func(n manifest.Network) bool { return n.Interface == f[1] })
		if named || isDevice.MatchString(f[1]) && !isClone.MatchString(f[1]) && f[1] != "lo0" {
			add(f[1])
		}
	}
	return out
}

// jailInterfaces gives a jail what jail.conf moves into it.
func (c *checker) jailInterfaces(m *Machine, j *Node) {
	j.Ifaces = append(j.Ifaces, &Iface{Name: "lo0", at: flaw.Pos{File: j.rc.File}})
	for _, d := range m.jailconf.Jails {
		if d.Name != j.Name {
			continue
		}
		vs, _ := m.jailconf.Values(d, "vnet.interface")
		for _, v := range vs {
			j.Ifaces = append(j.Ifaces, &Iface{Name: v.Text, at: v.At})
		}
	}
}

// addresses reads the ifconfig lines of a node. Jails' own are read in the jail;
// what the host says about an interface that moves into one is lost on the way.
func (c *checker) addresses(n *Node) {
	for _, v := range n.rc.All {
		f := ifVar.FindStringSubmatch(v.Name)
		if f == nil || f[2] == "_name" || f[2] == "_ipv6" || f[2] == "_descr" || v.Cond {
			continue
		}
		a, fl := conf.ParseIfconfig(v.Val)
		c.flaws(fl)
		i := n.iface(f[1])
		if i == nil {
			c.bad(v.At, "%s configures %s, which is no interface of %s", v.Name, f[1], n.Name)
			continue
		}
		if n.isHost() && n.machine.jailOf(i.Name) != nil {
			if len(a.Inet) > 0 {
				c.bad(a.Inet[0].At, "%s gets an address and then moves into %s, which loses it", i.Name, n.machine.jailOf(i.Name).Name)
			}
			continue
		}
		if len(i.inet) == 0 || f[2] == "" {
			i.at = v.At
		}
		for _, p := range a.Inet {
			if i.Name == "lo0" && slices.Contains(i.Addrs, p.Prefix) {
				continue
			}
			i.Addrs, i.inet = append(i.Addrs, p.Prefix), append(i.inet, p.At)
		}
		if a.Ether.Text != "" {
			i.MAC, i.mac = a.Ether.Text, a.Ether.At
		}
		if b := n.machine.bridge(i.Name); b != nil && n.isHost() {
			for _, w := range a.Addm {
				b.Members, b.members = append(b.Members, w.Text), append(b.members, w)
			}
		}
	}
}

// jailOf returns the jail that jail.conf moves an interface into.
func (m *Machine) jailOf(iface string) *Node {
	for _, j := range m.Jails {
		if i := j.iface(iface); i != nil && iface != "lo0" {
			return j
		}
	}
	return nil
}

// place notes where the ends of cables are.
func (m *Machine) place() {
	for _, c := range m.Cables {
		for i := range c.Ends {
			e := &c.Ends[i]
			if j := m.jailOf(e.Name); j != nil {
				e.Jail = j.Name
			}
			for _, b := range m.Bridges {
				if slices.Contains(b.Members, e.Name) {
					e.Bridge = b.Name
				}
			}
		}
	}
}

// sysctl reads what pf and routing depend on.
func (m *Machine) sysctl() {
	m.forwards = m.Host.rc.Maybe("gateway_enable")
	text := m.Host.root.text("/etc/sysctl.conf")
	for _, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		k, v, _ := strings.Cut(line, "=")
		on := strings.TrimSpace(v) == "1"
		switch strings.TrimSpace(k) {
		case "net.link.bridge.pfil_member":
			m.pfilMember = on
		case "net.link.bridge.pfil_bridge":
			m.pfilBridge = on
		case "net.inet.ip.forwarding":
			m.forwards = m.forwards || on
		}
	}
}
