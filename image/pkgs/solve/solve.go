// Package solve chooses packages: of what catalogues have, those that a root asks for
// by name or pattern, and everything they need: dependencies, shared libraries and
// abstract requirements (provides and requires); base's own libraries count. ABI and
// conflicts are judged as pkg(8) 2.8 does. Of several closures it takes the one with the
// fewest faults, then the fewest packages; the search ends after searchLimit sets.
// Nothing is fetched or read here: catalogues come from package pkgs.
package solve

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/image/pkgs"
)

// searchLimit is how many sets solver.search looks at for one closure.
const searchLimit = 4096

type needKind uint8

const (
	needDep needKind = iota // a package of this name
	needLib
	needFeature
)

// need is one thing a package cannot do without. by are the packages that meet it,
// in order of name; there are none when the repository has none.
type need struct {
	kind needKind
	what string
	by   []int32
}

// solver finds the members of one closure after the other. It holds a set that grows
// by add and shrinks by undo.
type solver struct {
	ix    *Index
	o     ResolveOptions
	needs map[int32][]need

	in     []bool  // by place in ix.pkgs
	trail  []int32 // the members, as they came
	drawn  int     // so many of trail have had their needs looked at
	open   []need  // those of the members that several packages could meet
	armed  []int32 // the members that name conflicts
	faults int

	best  []int32
	cost  cost
	exact bool
	left  int // of searchLimit
}

// cost orders sets: fewer faults, then fewer members.
type cost struct{ faults, members int }

func (c cost) less(d cost) bool {
	return c.faults < d.faults || c.faults == d.faults && c.members < d.members
}

func newSolver(ix *Index, o ResolveOptions) *solver {
	return &solver{ix: ix, o: o, needs: map[int32][]need{}, in: make([]bool, len(ix.pkgs))}
}

// needsOf are the needs of a package that are neither its own to meet, nor the base
// system's, nor met by a package it depends on anyway.
func (s *solver) needsOf(id int32) []need {
	if n, ok := s.needs[id]; ok {
		return n
	}
	p := s.ix.pkgs[id]
	var out []need
	certain := map[int32]bool{id: true}
	for _, name := range slices.Sorted(maps.Keys(p.Deps)) {
		if name == p.Name {
			continue
		}
		n := need{kind: needDep, what: name}
		if at, ok := s.ix.names[name]; ok {
			n.by = []int32{at}
			certain[at] = true
		}
		out = append(out, n)
	}
	provided := func(kind needKind, what []string, by map[string][]int32) {
		for _, w := range slices.Compact(slices.Sorted(slices.Values(what))) {
			if kind == needLib && s.o.Base != nil && s.o.Base(w) {
				continue
			}
			if slices.ContainsFunc(by[w], func(at int32) bool { return certain[at] }) {
				continue
			}
			out = append(out, need{kind, w, s.byName(by[w])})
		}
	}
	provided(needLib, p.ShlibsRequired, s.ix.libs)
	provided(needFeature, p.Requires, s.ix.features)
	s.needs[id] = out
	return out
}

func (s *solver) byName(ids []int32) []int32 {
	if len(ids) < 2 {
		return ids
	}
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b int32) int { return strings.Compare(s.ix.pkgs[a].Name, s.ix.pkgs[b].Name) })
	return slices.Compact(ids)
}

// add takes a package and all that follows from it without a choice.
func (s *solver) add(id int32) {
	s.join(id)
	for ; s.drawn < len(s.trail); s.drawn++ {
		for _, n := range s.needsOf(s.trail[s.drawn]) {
			switch len(n.by) {
			case 0:
				s.faults++
			case 1:
				s.join(n.by[0])
			default:
				s.open = append(s.open, n)
			}
		}
	}
}

func (s *solver) join(id int32) {
	if s.in[id] {
		return
	}
	p := s.ix.pkgs[id]
	s.faults += len(s.o.faults(p))
	for _, a := range s.armed {
		if conflict(p, s.ix.pkgs[a]) != "" {
			s.faults++
		}
	}
	if len(p.Conflicts) > 0 {
		for _, m := range s.trail {
			if q := s.ix.pkgs[m]; len(q.Conflicts) == 0 && conflict(p, q) != "" {
				s.faults++
			}
		}
		s.armed = append(s.armed, id)
	}
	s.in[id] = true
	s.trail = append(s.trail, id)
}

type mark struct{ trail, open, armed, faults int }

func (s *solver) mark() mark { return mark{len(s.trail), len(s.open), len(s.armed), s.faults} }

func (s *solver) undo(m mark) {
	for _, id := range s.trail[m.trail:] {
		s.in[id] = false
	}
	s.trail, s.open, s.armed, s.faults = s.trail[:m.trail], s.open[:m.open], s.armed[:m.armed], m.faults
	s.drawn = m.trail
}

func (s *solver) sum() cost { return cost{s.faults, len(s.trail)} }

func (s *solver) met(n need) bool {
	return slices.ContainsFunc(n.by, func(id int32) bool { return s.in[id] })
}

func (s *solver) unmet() []need {
	var out []need
	for _, n := range s.open {
		if !s.met(n) {
			out = append(out, n)
		}
	}
	return out
}

// solve sets best to the members of the closure of the asked packages, and exact.
func (s *solver) solve(asked []int32, limit int) {
	start := func() {
		s.undo(mark{})
		for _, id := range asked {
			s.add(id)
		}
	}
	start()
	s.exact, s.left = true, limit
	if len(s.unmet()) == 0 {
		s.keep()
		return
	}
	s.greedy()
	s.prune(asked)
	s.keep()
	start()
	s.search()
	if !s.exact {
		s.load(s.best)
		s.prune(asked)
		s.keep()
	}
}

func (s *solver) keep() { s.best, s.cost = slices.Clone(s.trail), s.sum() }

// load makes a complete set the current one.
func (s *solver) load(set []int32) {
	s.undo(mark{})
	for _, id := range set {
		s.join(id)
	}
	for _, id := range set {
		s.add(id) // nothing joins; faults and open needs are counted
	}
}

// greedy meets one open need after the other by the package that costs least now, of
// equals the first by name.
func (s *solver) greedy() {
	for unmet := s.unmet(); len(unmet) > 0; unmet = s.unmet() {
		var least cost
		var pick int32
		for i, id := range unmet[0].by {
			m := s.mark()
			s.add(id)
			if c := s.sum(); i == 0 || c.less(least) {
				least, pick = c, id
			}
			s.undo(m)
		}
		s.add(pick)
	}
}

// prune drops members that greedy's later choices made superfluous, until no part of
// the set would do. Only what meets an open need can be superfluous: all else is the
// single answer to a need of a member that is not.
func (s *solver) prune(asked []int32) {
	tried := map[int32]bool{}
	for _, n := range slices.Backward(s.open) {
		for _, id := range slices.Backward(n.by) {
			if !s.in[id] || tried[id] {
				continue
			}
			tried[id] = true
			if set := s.without(id, asked); set != nil {
				s.load(set)
				s.prune(asked)
				return
			}
		}
	}
}

// without is what asked needs of the current set if id is not there, nil when the
// others do not suffice.
func (s *solver) without(id int32, asked []int32) []int32 {
	defer func() {
		for _, m := range s.trail {
			s.in[m] = true
		}
	}()
	s.in[id] = false
	for again := true; again; {
		again = false
		for _, m := range s.trail {
			if s.in[m] && slices.ContainsFunc(s.needsOf(m), func(n need) bool { return len(n.by) > 0 && !s.met(n) }) {
				s.in[m] = false
				again = true
			}
		}
	}
	if slices.ContainsFunc(asked, func(a int32) bool { return !s.in[a] }) {
		return nil
	}
	return s.walk(asked, func(int32, need, int32) {})
}

// walk is the part of the current set that asked leads to, near ones first, where each
// need leads to the first by name of those that meet it. It calls step for each need.
func (s *solver) walk(asked []int32, step func(from int32, n need, to int32)) []int32 {
	order := slices.Clone(asked)
	seen := make(map[int32]bool, len(s.trail))
	for _, id := range asked {
		seen[id] = true
	}
	for i := 0; i < len(order); i++ {
		for _, n := range s.needsOf(order[i]) {
			at := slices.IndexFunc(n.by, func(id int32) bool { return s.in[id] })
			if at < 0 {
				continue
			}
			step(order[i], n, n.by[at])
			if !seen[n.by[at]] {
				seen[n.by[at]] = true
				order = append(order, n.by[at])
			}
		}
	}
	return order
}

// search tries the answers to the open needs of the current set, and keeps what costs
// less than the best known. Needs that have no answer in common cost a member each.
func (s *solver) search() {
	if s.left == 0 {
		s.exact = false
		return
	}
	s.left--
	unmet := s.unmet()
	slices.SortStableFunc(unmet, func(a, b need) int { return len(a.by) - len(b.by) })
	least := s.sum()
	taken := map[int32]bool{}
	for _, n := range unmet {
		if !slices.ContainsFunc(n.by, func(id int32) bool { return taken[id] }) {
			least.members++
			for _, id := range n.by {
				taken[id] = true
			}
		}
	}
	if !least.less(s.cost) {
		return
	}
	if len(unmet) == 0 {
		s.keep()
		return
	}
	for _, id := range unmet[0].by {
		m := s.mark()
		s.add(id)
		s.search()
		s.undo(m)
	}
}

// faults are what forbids a package whatever else is in the closure.
func (o *ResolveOptions) faults(p *pkgs.Package) []string {
	var out []string
	if o.ABI != "" && !matchABI(p.ABI, o.ABI) {
		out = append(out, fmt.Sprintf("is built for %s, not %s", p.ABI, o.ABI))
	}
	if v, ok := p.Annotations["FreeBSD_version"]; ok && o.OSVersion != 0 {
		switch n, err := strconv.Atoi(v); {
		case err != nil || n < 1:
			out = append(out, fmt.Sprintf("has the FreeBSD_version %q, which is not a number", v))
		case n > o.OSVersion:
			out = append(out, fmt.Sprintf("is built for FreeBSD %d, newer than %d", n, o.OSVersion))
		}
	}
	return out
}

// matchABI is is_valid_abi of pkg 2.8: a package's ABI is the beginning of the
// system's, or a shell pattern for it, in any case.
func matchABI(abi, system string) bool {
	if abi == system {
		return true
	}
	abi, system = strings.ToLower(abi), strings.ToLower(system)
	return strings.HasPrefix(system, abi) || glob(abi, system)
}

// conflict is the pattern by which one of two packages excludes the other, "" when
// there is none. pkg 2.8 compares names (pkg_solve.c); its manual, pkg-create(8), says
// shell patterns, which ports wrote for name-version.
func conflict(p, q *pkgs.Package) string {
	if p.Name == q.Name {
		return ""
	}
	excludes := func(pattern string, q *pkgs.Package) bool {
		return glob(pattern, q.Name) || glob(pattern, q.ID())
	}
	for _, c := range p.Conflicts {
		if excludes(c, q) {
			return c
		}
	}
	for _, c := range q.Conflicts {
		if excludes(c, p) {
			return c
		}
	}
	return ""
}

// glob is fnmatch(3) without flags, for strings without slashes.
func glob(pattern, s string) bool {
	if !strings.ContainsAny(pattern, `*?[\`) {
		return pattern == s
	}
	ok, err := path.Match(strings.ReplaceAll(pattern, "[!", "[^"), s)
	return err == nil && ok
}
