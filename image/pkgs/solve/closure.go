package solve

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/internal/diag"
)

// Wish is what one root, the host's or a jail's, is to have.
type Wish struct {
	Root     string   // names it in errors
	Packages []string // names, or patterns as Select takes them
}

// ResolveOptions says what the packages are for.
type ResolveOptions struct {
	ABI       string // "FreeBSD:15:amd64"; "" takes any
	OSVersion int    // __FreeBSD_version, 1500068; 0 takes any
	// Base reports whether the base system provides a library; nil: it provides none.
	// Names are as catalogues have them: "libc.so.7", "libc.so.7:32" for 32 bit,
	// "libc.so.6:Linux".
	Base func(lib string) bool
}

// Closure is a set of packages that can be installed without any other. Members
// stand after those they need but where these need them in turn, else by name.
type Closure struct {
	Root    string
	Members []Member
	// Notes are what differs from what packages were built with, and hinders nothing.
	Notes []string
	// Exact: no closure of what was asked for has fewer members. See Index.Resolve.
	Exact bool
}

// Member is a package of a closure and why it is there: "asked for", "dependency of
// nginx", "libpcre2-8.so.0 for nginx".
type Member struct {
	*pkgs.Package
	Reasons []string
	Asked   bool
}

// Resolve is NewIndex(have).Resolve(want, o).
func Resolve(have []*pkgs.Package, want []string, o ResolveOptions) (*Closure, error) {
	return NewIndex(have).Resolve(want, o)
}

// Resolve finds the packages want selects and those they need: their dependencies,
// whose version may be another than the one they were built with, and for each
// library and each abstract requirement a package that provides it, unless the base
// system does (libraries), the package itself, or a package it depends on.
//
// Where several packages could serve, the closure is the one with the fewest
// problems, then the fewest members; which of equals depends on names, not on the order
// of the catalogue. The search for it looks at 4096 sets at most. If that does not do,
// Exact is false and the closure is the best one seen: no part of it would do without
// the rest, but with other choices there might be a smaller one.
//
// All problems are reported at once as diag.Problems: names that do not exist,
// dependencies, libraries and requirements nothing provides, packages for another ABI
// or a newer system, and members that conflict.
func (ix *Index) Resolve(want []string, o ResolveOptions) (*Closure, error) {
	cs, err := ix.ResolveAll([]Wish{{Packages: want}}, o)
	if err != nil {
		return nil, err
	}
	return cs[0], nil
}

// ResolveAll resolves each wish by itself. It reports the problems of all, with the
// root as their key.
func (ix *Index) ResolveAll(wishes []Wish, o ResolveOptions) ([]*Closure, error) {
	s := newSolver(ix, o)
	var out []*Closure
	var ps diag.Problems
	for _, w := range wishes {
		var asked []int32
		for _, pattern := range w.Packages {
			id, err := ix.find(pattern)
			if err != nil {
				ps.Add(diag.Problem{Key: w.Root, Msg: err.Error()})
				continue
			}
			if !slices.Contains(asked, id) {
				asked = append(asked, id)
			}
		}
		s.solve(asked, searchLimit)
		g := s.graph(asked)
		for _, msg := range g.problems() {
			ps.Add(diag.Problem{Key: w.Root, Msg: msg})
		}
		out = append(out, &Closure{Root: w.Root, Members: g.members(), Notes: g.notes(), Exact: s.exact})
	}
	if err := ps.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// graph is a closure with the needs that tie it together.
type graph struct {
	s     *solver
	asked map[int32]bool
	order []int32          // asked first, then what they need, and so on
	by    map[int32]int32  // who first needed a member
	edges map[int32][]edge // of each member
}

type edge struct {
	need need
	to   int32
}

func (s *solver) graph(asked []int32) *graph {
	g := &graph{s: s, asked: map[int32]bool{}, by: map[int32]int32{}, edges: map[int32][]edge{}}
	for _, id := range asked {
		g.asked[id] = true
	}
	s.load(s.best)
	g.order = s.walk(asked, func(from int32, n need, to int32) {
		g.edges[from] = append(g.edges[from], edge{n, to})
		if _, known := g.by[to]; !known && !g.asked[to] {
			g.by[to] = from
		}
	})
	return g
}

func (g *graph) pkg(id int32) *pkgs.Package { return g.s.ix.pkgs[id] }

// why is the chain that leads to a member, "" for what was asked for.
func (g *graph) why(id int32) string {
	var b strings.Builder
	for !g.asked[id] {
		id = g.by[id]
		b.WriteString(", required by " + g.pkg(id).ID())
	}
	return b.String()
}

// subject is a member as a sentence begins with it.
func (g *graph) subject(id int32) string {
	if w := g.why(id); w != "" {
		return g.pkg(id).ID() + w + ","
	}
	return g.pkg(id).ID()
}

func (g *graph) problems() []string {
	var out []string
	for i, id := range g.order {
		p := g.pkg(id)
		for _, f := range g.s.o.faults(p) {
			out = append(out, g.subject(id)+" "+f)
		}
		for _, n := range g.s.needsOf(id) {
			if len(n.by) > 0 {
				continue
			}
			lack := "which no package provides"
			switch n.kind {
			case needDep:
				lack = "which the repository does not have"
			case needLib:
				lack = "which neither the base system nor a package provides"
			}
			out = append(out, fmt.Sprintf("%s needs %s, %s", g.subject(id), n.what, lack))
		}
		for _, other := range g.order[:i] {
			q := g.pkg(other)
			if len(p.Conflicts)+len(q.Conflicts) == 0 {
				continue
			}
			if c := conflict(q, p); c != "" {
				out = append(out, fmt.Sprintf("%s (%s) and %s (%s) conflict, by %q",
					q.ID(), g.reason(other), p.ID(), g.reason(id), c))
			}
		}
	}
	return out
}

func (g *graph) reason(id int32) string {
	return cmp.Or(strings.TrimPrefix(g.why(id), ", "), askedFor)
}

func (g *graph) notes() []string {
	var out []string
	for _, id := range g.sorted() {
		for _, e := range g.edges[id] {
			p, q := g.pkg(id), g.pkg(e.to)
			built := p.Deps[e.need.what].Version
			if e.need.kind == needDep && built != "" && built != q.Version {
				out = append(out, fmt.Sprintf("%s was built with %s-%s; the repository has %s", p.ID(), q.Name, built, q.Version))
			}
		}
	}
	return out
}

const askedFor = "asked for"

func (g *graph) sorted() []int32 { return g.s.byName(g.order) }

func (g *graph) members() []Member {
	all := g.sorted()
	reasons := map[int32][]string{}
	for _, id := range all {
		if g.asked[id] {
			reasons[id] = append(reasons[id], askedFor)
		}
	}
	next := map[int32][]int32{}
	for _, id := range all {
		for _, e := range g.edges[id] {
			why := e.need.what + " for "
			if e.need.kind == needDep {
				why = "dependency of "
			}
			reasons[e.to] = append(reasons[e.to], why+g.pkg(id).Name)
			next[id] = append(next[id], e.to)
		}
	}
	out := make([]Member, 0, len(all))
	seen := map[int32]bool{}
	var visit func(id int32)
	visit = func(id int32) {
		if seen[id] {
			return
		}
		seen[id] = true
		for _, to := range g.s.byName(next[id]) {
			visit(to)
		}
		out = append(out, Member{g.pkg(id), reasons[id], g.asked[id]})
	}
	for _, id := range all {
		visit(id)
	}
	return out
}

// Merge is the packages of all closures, each once, by name. Closures of one Index
// agree; those of several may not, which is an error for each name.
func Merge(closures ...*Closure) ([]*pkgs.Package, error) {
	type pick struct {
		p    *pkgs.Package
		root string
	}
	picks := map[string]pick{}
	var out []*pkgs.Package
	var errs []error
	for _, c := range closures {
		for _, m := range c.Members {
			p := m.Package
			switch o, ok := picks[p.Name]; {
			case !ok:
				picks[p.Name] = pick{p, c.Root}
				out = append(out, p)
			case o.p.Version != p.Version:
				errs = append(errs, fmt.Errorf("merge %s: %s for %s, %s for %s", p.Name, o.p.Version, o.root, p.Version, c.Root))
			case o.p.Sum != p.Sum:
				errs = append(errs, fmt.Errorf("merge %s: %s and %s have different archives", p.ID(), o.root, c.Root))
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	slices.SortFunc(out, func(a, b *pkgs.Package) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
