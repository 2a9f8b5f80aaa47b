package site

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// compare judges how the answers of the servers go together.
func (s *Site) compare(r *report) {
	for _, q := range s.qs {
		if q.Peer != "" {
			s.contradicts(r, q, 0)
			s.contradicts(r, q, 1)
		}
		if q.Same {
			s.same(r, q)
		}
		if q.Differ || names(q) {
			s.differ(r, q)
		}
	}
	s.distinct(r)
}

// contradicts compares what server i says of the other with what the other says.
// A list may say more.
func (s *Site) contradicts(r *report, q answers.Question, i int) {
	v, peer := &s.Servers[i], &s.Servers[1-i]
	given, ok := v.Set.Get(q.Key)
	theirs, known := peer.Set.Get(q.Peer)
	if !ok || !known || !stated(v.Set, q.Key) {
		return
	}
	want, err := answers.PeerValue(q, theirs)
	if err == nil && agrees(q, given, want) {
		return
	}
	verb := "is not"
	if q.List {
		verb = "lacks"
	}
	r.add(v.Set.Problem(q.Key, fmt.Sprintf("%v %s %s's %s, %v (%s); leave it out, it follows from there",
		given, verb, peer.title(), q.Peer, theirs, at(peer, q.Peer))))
}

// agrees reports whether an answer that was given is, or as a list has, the one
// that follows.
func agrees(q answers.Question, given, want any) bool {
	if addrs, ok := given.([]netip.Addr); ok {
		for _, a := range want.([]netip.Addr) {
			if !slices.Contains(addrs, a) {
				return false
			}
		}
		return true
	}
	return answers.Literal(q, given) == answers.Literal(q, want)
}

// same compares answers that both servers must have alike.
func (s *Site) same(r *report, q answers.Question) {
	a, b := &s.Servers[0], &s.Servers[1]
	va, oka := a.Set.Get(q.Key)
	vb, okb := b.Set.Get(q.Key)
	switch {
	case oka && okb:
		if answers.SameForm(q, va) == answers.SameForm(q, vb) {
			return
		}
		if !stated(b.Set, q.Key) { // show the one that stands in a file
			a, b, va, vb = b, a, vb, va
		}
		msg := fmt.Sprintf("%v, but %v on %s (%s); both servers have the same: put it under [%s]", vb, va, a.title(), at(a, q.Key), common)
		switch {
		case q.Type == answers.CIDR:
			msg = fmt.Sprintf("%v is in another network than %v of %s (%s); expected one network for both", vb, va, a.title(), at(a, q.Key))
		case q.Hidden():
			msg = fmt.Sprintf("it differs from %s's (%s); both servers have the same: put it under [%s]", a.title(), at(a, q.Key), common)
		}
		r.add(b.Set.Problem(q.Key, msg))
	case oka == okb || r.unread(q.Key) || q.Type == answers.CIDR:
	default:
		if okb {
			a, b = b, a
		}
		r.add(a.Set.Problem(q.Key, fmt.Sprintf("%s has none; both servers have the same: put it under [%s]", b.title(), common)))
	}
}

// differ compares answers that the servers must not share.
func (s *Site) differ(r *report, q answers.Question) {
	va, oka := s.Servers[0].Set.Get(q.Key)
	vb, okb := s.Servers[1].Set.Get(q.Key)
	if !oka || !okb || !equal(answers.DifferForm(va), answers.DifferForm(vb)) {
		return
	}
	s.shared(r, q.Key, q.Key, vb)
}

func equal(a, b string) bool { return a != "" && a == b }

// distinct compares the servers' own addresses, those in distinct groups. Lists
// are of others, which both servers may know.
func (s *Site) distinct(r *report) {
	own := slices.DeleteFunc(slices.Clone(s.qs), func(q answers.Question) bool {
		return q.Distinct == "" || q.Peer != "" || q.List || q.Type != answers.IP && q.Type != answers.CIDR
	})
	for _, qa := range own {
		va, ok := s.Servers[0].Set.Get(qa.Key)
		if !ok {
			continue
		}
		for _, qb := range own {
			vb, ok := s.Servers[1].Set.Get(qb.Key)
			if !ok || qa.Distinct != qb.Distinct || address(va) != address(vb) || qa.Key == qb.Key && qa.Differ {
				continue
			}
			s.shared(r, qa.Key, qb.Key, address(vb))
		}
	}
}

// shared reports that B's answer to keyB, shown as v, is A's to keyA.
func (s *Site) shared(r *report, keyA, keyB string, v any) {
	a, b := &s.Servers[0], &s.Servers[1]
	p := b.Set.Problem(keyB, fmt.Sprintf("%v is also %s's %s (%s); expected different ones", v, a.title(), keyA, at(a, keyA)))
	if first := a.Set.Problem(keyA, ""); keyA == keyB && place(first) == place(p) { // in [common], or a default
		p.Msg = fmt.Sprintf("%v on both servers; expected different ones, under [%s] and [%s]", v, a.Letter, b.Letter)
	}
	if p.File == "" {
		p.File = s.name
	}
	r.add(p)
}

func address(v any) netip.Addr {
	switch v := v.(type) {
	case netip.Addr:
		return v
	case netip.Prefix:
		return v.Addr()
	}
	return netip.Addr{}
}

// at is the place of a server's answer for the middle of a sentence.
func at(v *Server, key string) string {
	if !stated(v.Set, key) {
		return "the default"
	}
	return place(v.Set.Problem(key, ""))
}

func place(p diag.Problem) string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}
