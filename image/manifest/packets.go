package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// Packet is what a check sends to one server.
type Packet struct {
	Check   Check
	Index   int        // of Check in the profile's
	Network int        // that it comes by, an index
	From    netip.Addr // not valid for arp
	Sender  Sender
	To      netip.Addr
}

// Sender says where the sender of a packet is.
type Sender int

const (
	Behind    Sender = iota // the network's gateway
	Neighbour               // on the network, and neither of the servers
	Peer                    // the other server, or a jail of it
)

// Packets works out the checks of server i for the answers of both.
func (r Reach) Packets(sets [2]*answers.Set, i int) ([]Packet, error) {
	var out []Packet
	qs := sets[i].Questions()
	for n, c := range r.Checks {
		p := Packet{Check: c, Index: n, Network: r.network(qs, c.To)}
		if p.Network < 0 {
			return nil, diag.Inputf("check %s: %s is in no network", c.Name, c.To)
		}
		v, ok := sets[i].Get(c.To)
		if !ok {
			return nil, diag.Inputf("check %s: no answer to %s", c.Name, c.To)
		}
		p.To = networks(v)[0].Addr()
		if c.Proto != ARP {
			if p.From, p.Sender = r.source(c, p, sets, i); !p.From.IsValid() {
				return nil, diag.Inputf("check %s: no address in %s to try it from", c.Name, strings.Join(c.From, " or "))
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// source is the first sender of a check that has an address.
func (r Reach) source(c Check, p Packet, sets [2]*answers.Set, i int) (a netip.Addr, from Sender) {
	n, qs := r.Networks[p.Network], sets[i].Questions()
	for _, f := range c.From {
		from = Behind
		switch f {
		case FromOutside:
			a = stranger(sets, "151.101.1.69", "142.250.74.46", "17.253.144.10")
		case FromMartian:
			a = stranger(sets, "172.16.99.1", "192.168.199.1", "100.64.9.9")
		case FromNeighbour:
			a, from = spare(sets, sets[i].Prefix(n.Address)), Neighbour
		default:
			v, _ := sets[i].Get(f)
			a = member(networks(v), p.To, sets[i].Addr(n.Gateway))
			if r.peer(qs, f) == p.Network {
				from = Peer
			}
		}
		if a.IsValid() {
			return a, from
		}
	}
	return a, from
}

// peer returns the network by which a question's answer is the other server's
// address, or one of its jails'; -1 when it is none.
func (r Reach) peer(qs []answers.Question, key string) int {
	if q := question(qs, key); q != nil && q.Peer != "" {
		return r.network(qs, q.Peer)
	}
	return -1
}

// networks is an answer as networks, which have their host bits.
func networks(answer any) (out []netip.Prefix) {
	single := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	switch v := answer.(type) {
	case netip.Addr:
		out = append(out, single(v))
	case netip.Prefix:
		out = append(out, v)
	case []netip.Addr:
		for _, a := range v {
			out = append(out, single(a))
		}
	case []netip.Prefix:
		out = v
	}
	return out
}

// answered calls f with every address and network that the answers of both servers
// name, until it returns true.
func answered(sets [2]*answers.Set, f func(netip.Prefix) bool) bool {
	for _, set := range sets {
		for _, q := range set.Questions() {
			if v, ok := set.Get(q.Key); ok && slices.ContainsFunc(networks(v), f) {
				return true
			}
		}
	}
	return false
}

// stranger is the first of candidates that is in no network the servers know of,
// else the last.
func stranger(sets [2]*answers.Set, candidates ...string) (a netip.Addr) {
	for _, c := range candidates {
		a = netip.MustParseAddr(c)
		if !answered(sets, func(n netip.Prefix) bool { return n.Contains(a) }) {
			break
		}
	}
	return a
}

// spare is the first address of a network that no answer names.
func spare(sets [2]*answers.Set, n netip.Prefix) netip.Addr {
	for a := n.Masked().Addr().Next(); n.Contains(a.Next()); a = a.Next() {
		if !answered(sets, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return a
		}
	}
	return netip.Addr{}
}

// member is an address of the first network that has one beside those given. A
// single address is taken as it is.
func member(nets []netip.Prefix, except ...netip.Addr) netip.Addr {
	for _, p := range nets {
		a := p.Addr()
		for n := 0; n < 8 && p.Bits() < 31; n++ { // not the network's own address
			a = a.Next()
		}
		if !p.Contains(a) {
			a = p.Addr().Next()
		}
		if p.Contains(a) && !slices.Contains(except, a) {
			return a
		}
	}
	return netip.Addr{}
}

// Target is where a packet goes: "192.0.2.1:22,80".
func (p Packet) Target() string {
	var ports []string
	for _, n := range p.Check.Ports {
		ports = append(ports, fmt.Sprint(n))
	}
	if ports == nil {
		return p.To.String()
	}
	return p.To.String() + ":" + strings.Join(ports, ",")
}
