package answers

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// conflict is an answer that does not go with another, or with the world.
type conflict struct {
	q    *Question
	item int // of a list, -1 otherwise
	with string
	msg  string
}

// conflicts checks every relation between the answers that are there.
func (s *Set) conflicts() []conflict {
	var out []conflict
	groups := map[string]map[string]string{} // distinct group → value → key that has it
	for i := range s.qs {
		q := &s.qs[i]
		v, ok := s.Get(q.Key)
		if !ok {
			continue
		}
		items, list := elems(v)
		if !list {
			items = []any{v}
		}
		for j, item := range items {
			if !list {
				j = -1
			}
			for _, c := range s.relate(q, item) {
				c.q, c.item = q, j
				out = append(out, c)
			}
			if q.Distinct == "" {
				continue
			}
			if groups[q.Distinct] == nil {
				groups[q.Distinct] = map[string]string{}
			}
			same := distinctForm(item)
			if other, dup := groups[q.Distinct][same]; dup {
				out = append(out, conflict{q, j, other, fmt.Sprintf("%s is also %s; expected different values", same, other)})
				continue
			}
			groups[q.Distinct][same] = q.Key
		}
		if c, bad := s.wipesByName(q, v); bad {
			out = append(out, c)
		}
		if c, bad := s.passphrase(q); bad {
			out = append(out, c)
		}
	}
	return out
}

// distinctForm is what must differ in a distinct group: a CIDR counts as its
// address, and so does a network of one.
func distinctForm(v any) string {
	if p, ok := v.(netip.Prefix); ok && (p != p.Masked() || p.IsSingleIP()) {
		return p.Addr().String()
	}
	return fmt.Sprint(v)
}

// relate checks one value's own relations.
func (s *Set) relate(q *Question, v any) (out []conflict) {
	add := func(with, msg string) {
		if msg != "" {
			out = append(out, conflict{with: with, msg: msg})
		}
	}
	if a, ok := v.(netip.Addr); ok {
		if p, ok := s.prefixOf(q.Within); ok {
			add(q.Within, notWithin(a, p, q.Within))
		}
		if p, ok := s.prefixOf(q.GatewayOf); ok {
			add(q.GatewayOf, notGateway(a, p, q.GatewayOf))
		}
		v = netip.PrefixFrom(a, a.BitLen())
	}
	p, ok := v.(netip.Prefix)
	if !ok {
		return out
	}
	for _, o := range q.Outside {
		if net, err := netip.ParsePrefix(o); err == nil && p.Overlaps(net) {
			add("", fmt.Sprintf("%s overlaps %s, which the server uses itself; expected an address outside it", show(p), net))
		}
	}
	for _, key := range q.Apart {
		if net, ok := s.prefixOf(key); ok && p.Overlaps(net) {
			add(key, fmt.Sprintf("%s overlaps %s (%s); expected separate networks", show(p), net.Masked(), key))
		}
	}
	return out
}

// show prints an address without the prefix length of a single one.
func show(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.Masked().String()
}

func notWithin(a netip.Addr, p netip.Prefix, key string) string {
	if !p.Contains(a) {
		return fmt.Sprintf("%s is not in %s (%s); expected an address of that network", a, p.Masked(), key)
	}
	if role := edge(p, a); role != "" {
		return fmt.Sprintf("%s is the %s address of %s (%s); expected a machine's address", a, role, p.Masked(), key)
	}
	return ""
}

func notGateway(a netip.Addr, p netip.Prefix, key string) string {
	if a == p.Addr() {
		return fmt.Sprintf("%s is the server's own address (%s); expected the router's", a, key)
	}
	if role := edge(p, a); role != "" {
		return fmt.Sprintf("%s is the %s address of %s (%s); expected the router's", a, role, p.Masked(), key)
	}
	return ""
}

// wipesByName refuses to wipe disks named by device when nobody confirms it: such
// names move from start to start.
func (s *Set) wipesByName(q *Question, v any) (conflict, bool) {
	w, ok := v.(DiskWish)
	if !ok || !w.Wipe || !s.Bool(KeyUnattended) || len(w.ByName()) == 0 {
		return conflict{}, false
	}
	return conflict{q, -1, KeyUnattended, fmt.Sprintf("an unattended wipe of disks named by device (%s), which can be other disks at the next start; "+
		"expected serial numbers, as \"serial:S3Z8NB0K\"", strings.Join(w.ByName(), ", "))}, true
}

func (s *Set) prefixOf(key string) (netip.Prefix, bool) {
	if key == "" {
		return netip.Prefix{}, false
	}
	v, _ := s.Get(key)
	p, ok := v.(netip.Prefix)
	return p, ok
}

// involves reports whether c is about the answer to key.
func (c conflict) involves(key string) bool {
	return slices.Contains([]string{c.q.Key, c.with}, key)
}
