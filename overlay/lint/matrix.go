package lint

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

// Row says that one party may open connections to another. "peer's X" is X of the
// other server, "outside" anybody not named, "others on X" who else is on the
// wire of card X, a name in <> the entries of a pf table.
type Row struct {
	Servers []string `json:"servers"` // as seen from these
	From    string   `json:"from"`
	To      string   `json:"to"`
	Proto   string   `json:"proto"`
	Port    string   `json:"port"`           // "443, 80", "8022 → 22" when redirected, "any"
	By      string   `json:"by"`             // "pf", "cable" (not filtered), "none" (nothing filters there)
	Rules   []string `json:"rules"`          // the rules that let it through: "pf.conf:93"
	Nat     string   `json:"nat,omitempty"`  // the rule that translates, when it is not a door
	Note    string   `json:"note,omitempty"` // what listens on a cable

	probes []probe
}

// otherPort stands for all ports that no rule and no service names.
const otherPort = 9

// probe is a packet that got through.
type probe struct {
	proto string
	dport uint16 // as sent
	port  uint16 // as it arrived
	to    *Node
	addr  netip.Addr
	rules []*pf.Rule
	nat   *pf.Rule
	cable bool
}

// party is one end of a row.
type party struct {
	name  string
	node  *Node        // nil: outside
	addrs []netip.Addr // that stand for it
	wire  string       // card whose wire it is on; "": the public one
	table bool
	calls bool // a rule lets it in
	takes bool // a rule lets somebody out to it
}

// matrix works out the rows of every machine; equal rows of several are one.
func (n *network) matrix() []Row {
	out := []Row{}
	for _, m := range n.rig.Servers {
		for _, r := range n.rows(m) {
			i := slices.IndexFunc(out, func(o Row) bool { return o.line() == r.line() })
			if i >= 0 {
				out[i].Servers = append(out[i].Servers, m.Name)
				out[i].probes = append(out[i].probes, r.probes...)
				continue
			}
			r.Servers = []string{m.Name}
			out = append(out, r)
		}
	}
	return out
}

func (r *Row) line() string {
	return strings.Join([]string{r.From, r.To, r.Proto, r.Port, r.By, strings.Join(r.Rules, ","), r.Nat, r.Note}, "\x00")
}

// parties lists who there is, as seen from a machine: outside, tables of its rules
// with entries outside of the rig, its own nodes and the other machines'.
func (n *network) parties(m *Machine) []party {
	owned := map[netip.Addr]bool{}
	var nodes []party
	for _, o := range append([]*Machine{m}, slices.DeleteFunc(slices.Clone(n.rig.Servers), func(o *Machine) bool { return o == m })...) {
		ns := o.nodes()
		slices.Reverse(ns[1:]) // the jail that starts last, first: it serves by the others
		for _, node := range ns {
			p := party{name: node.Name, node: node}
			if o != m {
				p.name = "peer's " + p.name
			}
			for _, i := range node.Ifaces {
				for _, a := range i.Addrs {
					if !a.Addr().IsLoopback() {
						p.addrs = append(p.addrs, a.Addr())
						owned[a.Addr()] = true
					}
				}
			}
			nodes = append(nodes, p)
		}
	}
	var out []party
	if a := n.stranger(m); a.IsValid() {
		out = append(out, party{name: "outside", addrs: []netip.Addr{a}})
	}
	for _, b := range m.Bridges {
		for _, card := range b.Members {
			if i, h := m.Host.iface(card), m.Host.iface(b.Name); i != nil && i.Card && h != nil && len(h.Addrs) > 0 {
				e := pf.Entry{Prefix: h.Addrs[0].Masked()}
				if a, ok := member(pf.Table{e}, e, owned); ok {
					out = append(out, party{name: "others on " + card, addrs: []netip.Addr{a}, wire: card})
				}
			}
		}
	}
	if m.pf != nil {
		for _, name := range m.pf.TableNames {
			p := party{name: "<" + name + ">", table: true}
			p.calls, p.takes = m.pf.Passes(name)
			for _, e := range m.env.Tables[name] {
				if a, ok := member(m.env.Tables[name], e, owned); ok && len(p.addrs) < 16 {
					p.addrs = append(p.addrs, a)
				}
			}
			if len(p.addrs) > 0 {
				out = append(out, p)
			}
		}
	}
	return append(out, nodes...)
}

// member returns an address of an entry that the table has and the rig has not.
func member(t pf.Table, e pf.Entry, owned map[netip.Addr]bool) (netip.Addr, bool) {
	a := e.Addr()
	if e.Bits() < 31 {
		a = a.Next()
	}
	for range 256 {
		if !e.Contains(a) {
			break
		}
		if !owned[a] && t.Has(a) && !e.Not {
			return a, true
		}
		a = a.Next()
	}
	return netip.Addr{}, false
}

// stranger returns an address of the world that no table and no network names.
func (n *network) stranger(m *Machine) netip.Addr {
	a := netip.MustParseAddr("9.9.9.9")
	for range 200 {
		known := false
		for _, o := range n.rig.Servers {
			for _, i := range o.Host.Ifaces {
				known = known || slices.ContainsFunc(i.Addrs, func(p netip.Prefix) bool { return p.Contains(a) })
			}
		}
		if m.env != nil {
			for _, t := range m.env.Tables {
				known = known || t.Has(a)
			}
		}
		if !known {
			return a
		}
		b := a.As4()
		b[0]++
		a = netip.AddrFrom4(b)
	}
	return netip.Addr{}
}

// ports lists what is worth trying: every port that rules or services name, and
// one that none does.
func (n *network) ports() []uint16 {
	set := map[uint16]bool{otherPort: true}
	add := func(ports []pf.Port) {
		for _, p := range ports {
			if p.Low > 0 {
				set[p.Low] = true
			}
			if p.High > 0 {
				set[p.High] = true
			}
		}
	}
	for _, o := range n.rig.Servers {
		if o.pf != nil {
			for _, r := range o.pf.All() {
				add(r.Dst.Ports)
				if r.ToPort != nil {
					add([]pf.Port{*r.ToPort})
				}
			}
		}
		for _, node := range o.nodes() {
			for _, l := range node.Listen {
				set[l.Port] = true
			}
		}
	}
	var out []uint16
	for p := range set {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// rows works out the rows of a machine.
func (n *network) rows(m *Machine) (out []Row) {
	parties, ports := n.parties(m), n.ports()
	world := map[string]bool{} // what everybody may, or may be asked by one of ours
	for _, from := range parties {
		for _, to := range parties {
			ours := from.node != nil && from.node.machine == m || to.node != nil && to.node.machine == m
			if !ours || from.table && !from.calls || to.table && !to.takes || from.node != nil && from.node == to.node || from.node == nil && to.node != nil && to.node.machine != m {
				continue
			}
			for _, p := range n.probes(from, to, ports) {
				key := func(f, t string) string { return fmt.Sprint(f, t, p.proto, p.dport, p.port) }
				if from.table && world[key("outside", to.name)] || to.table && world[key(from.name, "outside")] {
					continue
				}
				world[key(from.name, to.name)] = true
				out = p.row(out, from, to)
			}
		}
	}
	return out
}

// probes sends every packet from one party to another and returns those that got
// through. When a port that nobody names gets through, all of the protocol do.
func (n *network) probes(from, to party, ports []uint16) (out []probe) {
	for _, proto := range []string{"tcp", "udp", "icmp"} {
		var some []probe
		for _, port := range ports {
			if proto == "icmp" && port != otherPort {
				continue
			}
			if p, ok := n.probe(from, to, proto, port); ok {
				some = append(some, p)
				if port == otherPort {
					some = []probe{p}
					break
				}
			}
		}
		out = append(out, some...)
	}
	if len(out) == 3 && out[0].cable && out[1].cable && out[2].cable { // everything, by a cable
		out[0].proto = "any"
		out = out[:1]
	}
	return out
}

func (n *network) probe(from, to party, proto string, port uint16) (probe, bool) {
	targets := to.addrs
	if from.node == nil && from.wire == "" { // the world knows only the addresses of cards
		targets = nil
		for _, i := range to.node.machine.Host.Ifaces {
			for _, a := range i.Addrs {
				if i.Card {
					targets = append(targets, a.Addr())
				}
			}
		}
	}
	for _, dst := range targets {
		sources := []netip.Addr{{}}
		if from.node == nil {
			sources = from.addrs
		}
		for _, src := range sources {
			f := n.send(from.node, pf.Packet{Iface: from.wire, Proto: proto, Src: src, Dst: dst, Dport: port})
			if f.passed && f.node == to.node {
				return probe{proto, port, f.port, f.node, f.addr, f.rules, f.nat, f.cable}, true
			}
		}
	}
	return probe{}, false
}

// row adds a probe to the rows: to the last one, when only its port is new.
func (p probe) row(rows []Row, from, to party) []Row {
	r := Row{From: from.name, To: to.name, Proto: p.proto, Port: portText(p.port), By: "pf", Rules: []string{}, probes: []probe{p}}
	if p.nat != nil && p.nat.Kind == pf.Rdr {
		r.Rules = append(r.Rules, p.nat.At.Short())
	}
	for _, rule := range p.rules {
		r.Rules = append(r.Rules, rule.At.Short())
	}
	switch {
	case p.cable:
		r.By = "cable"
	case len(p.rules) == 0:
		r.By = "none"
	}
	if p.dport == otherPort {
		r.Port = "any"
	}
	if p.proto == "icmp" {
		r.Port = ""
	}
	if p.dport != p.port {
		r.Port = fmt.Sprintf("%d → %d", p.dport, p.port)
	}
	if p.nat != nil && p.nat.Kind == pf.Nat {
		r.Nat = p.nat.At.Short()
	}
	if p.cable && p.to != nil {
		r.Note = p.to.answers(p.addr)
	}
	if len(rows) > 0 && p.dport == p.port {
		last := &rows[len(rows)-1]
		same := *last
		same.Port = r.Port
		if same.line() == r.line() && !strings.Contains(last.Port, "→") {
			last.Port += ", " + r.Port
			last.probes = append(last.probes, p)
			return rows
		}
	}
	return append(rows, r)
}

// answers names what listens at an address.
func (n *Node) answers(a netip.Addr) string {
	var out []string
	for _, l := range n.Listen {
		if l.Addr.IsValid() && l.Addr != a {
			continue
		}
		if s := fmt.Sprintf("%d/%s", l.Port, l.Proto); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if out == nil {
		return ""
	}
	return "listening: " + strings.Join(out, " ")
}

// WriteMatrix writes rows as an aligned table. The servers are named only in rows
// that are not the same for all.
func WriteMatrix(w io.Writer, r *Report) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FROM\tTO\tPROTO\tPORT\tBY\tRULES\tNOTE")
	for _, row := range r.Matrix {
		note := row.Note
		if row.Nat != "" {
			note = strings.TrimSpace(note + " nat " + row.Nat)
		}
		if len(row.Servers) < len(r.Rig.Servers) {
			note = strings.TrimSpace(note + " only " + strings.Join(row.Servers, ", "))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.From, row.To, row.Proto, row.Port, row.By, strings.Join(row.Rules, " "), note)
	}
	return tw.Flush()
}
