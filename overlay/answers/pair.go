package answers

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/rig-freebsd/rig/internal/diag"
)

// PeerValue returns what q.Peer's answer v on the other server makes the answer
// to q: v itself, the address of a cidr, or a list of one.
func PeerValue(q Question, v any) (any, error) {
	if _, list := elems(v); !list {
		if p, ok := v.(netip.Prefix); ok && q.Type == IP {
			v = p.Addr()
		}
		if q.List {
			v = []any{v}
		}
	}
	v, flaws := decode(&q, v)
	if flaws != nil {
		return nil, diag.Inputf("%s", flaws[0].msg)
	}
	return v, nil
}

// Derive stores the answer that peer, the other server's, has to the Peer of
// question key. Problems with it are shown at peer's answer. It does nothing when
// peer has none, and judges no relations; see Check.
func (s *Set) Derive(key string, peer *Set) error {
	q := find(s.qs, key)
	if q == nil || q.Peer == "" {
		return fmt.Errorf("derive %s: no question with a peer", key)
	}
	from, ok := peer.vals[q.Peer]
	if !ok {
		return nil
	}
	v, err := PeerValue(*q, from.v)
	if err != nil {
		return fmt.Errorf("as the other server's %s: %w", key, err)
	}
	s.vals[key] = answer{v: v, origin: from.origin, pos: from.pos, path: from.place(q.Peer), derived: true}
	maps.Copy(s.texts, peer.texts)
	return nil
}

// Problem is a problem with the answer to key, at its place.
func (s *Set) Problem(key, msg string) diag.Problem {
	a := s.vals[key]
	return place(a.file(), a.pos, a.place(key), msg)
}

// Texts returns the text of every source as problems may show it, by the
// source's name.
func (s *Set) Texts() map[string]string { return maps.Clone(s.texts) }

// Literal is a canonical value, other than disks, as an answers file has it. It
// reveals secrets.
func Literal(q Question, v any) string { return literal(&q, v) }

// SameForm is what the answers of both servers to a question with Same are
// compared by: Literal, with the network for the address of a cidr.
func SameForm(q Question, v any) string {
	if p, ok := v.(netip.Prefix); ok && q.Type == CIDR {
		v = p.Masked()
	}
	return literal(&q, v)
}

// DifferForm is what the answers of both servers to a question with Differ are
// compared by: its text, the address of a cidr, the MAC address of a nic. It is
// "" when v says nothing that could be equal.
func DifferForm(v any) string {
	if m, ok := v.(NICMatch); ok {
		return m.MAC
	}
	return distinctForm(v)
}
