package solve

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/internal/diag"
)

// resolve is ResolveAll of one wish.
func resolve(have []*pkgs.Package, want []string, o ResolveOptions) (*Closure, error) {
	cs, err := NewIndex(have).ResolveAll([]Wish{{Packages: want}}, o)
	if err != nil {
		return nil, err
	}
	return cs[0], nil
}

// randomCatalogue is 6 to 10 packages a, b, … in random order, with cycles, libraries
// and requirements of several providers, and some of everything that is wrong.
func randomCatalogue(t *testing.T, r *rand.Rand) []*pkgs.Package {
	n := 6 + r.IntN(5)
	bad := r.IntN(3) == 0
	var lines []string
	for i := range n {
		words := []string{string(rune('a'+i)) + "-1"}
		some := func(key string, upTo, of int, format string) {
			for range r.IntN(upTo + 1) {
				words = append(words, key+":"+fmt.Sprintf(format, r.IntN(of)))
			}
		}
		for range r.IntN(3) {
			if r.IntN(2) == 0 {
				words = append(words, "dep:"+string(rune('a'+r.IntN(n))))
			}
		}
		some("has", 2, 5, "l%d.so")
		some("needs", 2, 5, "l%d.so")
		some("gives", 1, 3, "f%d")
		some("wants", 1, 3, "f%d")
		if r.IntN(3) == 0 {
			words = append(words, "needs:libc.so.7")
		}
		if bad && r.IntN(4) == 0 {
			wrong := []string{"dep:zz", "abi:FreeBSD:14:amd64", "os:1600000", "not:" + string(rune('a'+r.IntN(n))), "not:[a-c]-1"}
			words = append(words, wrong[r.IntN(len(wrong))])
		}
		lines = append(lines, strings.Join(words, " "))
	}
	r.Shuffle(n, func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	return catalogue(t, strings.Join(lines, "\n"))
}

// brute knows every set of a catalogue's packages, as bits.
type brute struct {
	have   []*pkgs.Package
	needs  [][]uint  // of each package: for each need that can be met, who meets it
	faults []int     // of each package alone
	hates  [][2]uint // pairs that conflict, as bits
	edges  []uint    // of each package, who meets any of its needs
	place  map[string]int
}

func newBrute(have []*pkgs.Package, o ResolveOptions) *brute {
	b := &brute{have: have, needs: make([][]uint, len(have)), faults: make([]int, len(have)), edges: make([]uint, len(have)), place: map[string]int{}}
	who := func(f func(p *pkgs.Package) bool) uint {
		var m uint
		for i, p := range have {
			if f(p) {
				m |= 1 << i
			}
		}
		return m
	}
	for i, p := range have {
		b.place[p.Name] = i
		need := func(m uint) {
			if m == 0 {
				b.faults[i]++
				return
			}
			b.needs[i] = append(b.needs[i], m)
			b.edges[i] |= m
		}
		for name := range p.Deps {
			need(who(func(q *pkgs.Package) bool { return q.Name == name }))
		}
		for l := range set(p.ShlibsRequired) {
			if !o.Base(l) {
				need(who(func(q *pkgs.Package) bool { return slices.Contains(q.ShlibsProvided, l) }))
			}
		}
		for f := range set(p.Requires) {
			need(who(func(q *pkgs.Package) bool { return slices.Contains(q.Provides, f) }))
		}
		if p.ABI != o.ABI {
			b.faults[i]++
		}
		if p.Annotations["FreeBSD_version"] == "1600000" {
			b.faults[i]++
		}
		for j, q := range have {
			hates := func(p, q *pkgs.Package) bool {
				return slices.Contains(p.Conflicts, q.Name) || slices.Contains(p.Conflicts, "[a-c]-1") && q.Name <= "c"
			}
			if j < i && (hates(p, q) || hates(q, p)) {
				b.hates = append(b.hates, [2]uint{1 << i, 1 << j})
			}
		}
	}
	return b
}

func set(words []string) map[string]bool {
	m := map[string]bool{}
	for _, w := range words {
		m[w] = true
	}
	return m
}

func (b *brute) complete(s uint) bool {
	for i := range b.have {
		if s&(1<<i) != 0 && slices.ContainsFunc(b.needs[i], func(m uint) bool { return m&s == 0 }) {
			return false
		}
	}
	return true
}

func (b *brute) cost(s uint) cost {
	c := cost{members: bits.OnesCount(s)}
	for i, f := range b.faults {
		if s&(1<<i) != 0 {
			c.faults += f
		}
	}
	for _, h := range b.hates {
		if s&h[0] != 0 && s&h[1] != 0 {
			c.faults++
		}
	}
	return c
}

// least is the cost of the cheapest complete set that has all of asked.
func (b *brute) least(asked uint) cost {
	least := cost{faults: 1 << 20}
	for s := range uint(1) << len(b.have) {
		if s&asked == asked && b.complete(s) {
			if c := b.cost(s); c.less(least) {
				least = c
			}
		}
	}
	return least
}

// smaller is a complete proper part of s that has all of asked, 0 when there is none.
func (b *brute) smaller(s, asked uint) uint {
	for t := (s - 1) & s; t != 0; t = (t - 1) & s {
		if t&asked == asked && b.complete(t) {
			return t
		}
	}
	return 0
}

// reach is what the edges inside set lead to from i.
func (b *brute) reach(set uint, i int) uint {
	var seen uint
	for next := b.edges[i] & set; next != 0; {
		j := bits.TrailingZeros(next)
		seen |= 1 << j
		next = (next | b.edges[j]&set) &^ seen
	}
	return seen
}

func TestSolveAgainstAllSubsets(t *testing.T) {
	o := target()
	ambiguous, faulty := 0, 0
	for seed := range uint64(8000) {
		r := rand.New(rand.NewPCG(seed, 1))
		have := randomCatalogue(t, r)
		b := newBrute(have, o)
		var want []string
		var asked uint
		for range 1 + r.IntN(3) {
			p := have[r.IntN(len(have))]
			want = append(want, p.Name)
			asked |= 1 << b.place[p.Name]
		}
		least := b.least(asked)
		s := newSolver(NewIndex(have), o)
		var ids []int32
		for _, name := range want {
			if id := s.ix.names[name]; !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
		for _, limit := range []int{0, 1, 3, searchLimit} {
			s.solve(ids, limit)
			got := b.bits(s)
			fail := func(format string, args ...any) {
				t.Fatalf("seed %d, limit %d, want %v: "+format+"\n%s", append(append([]any{seed, limit, want}, args...), describe(have))...)
			}
			if got&asked != asked || !b.complete(got) {
				fail("%b is not complete", got)
			}
			if c := b.cost(got); c != s.cost || least.less(c) && (s.exact || limit == searchLimit) {
				fail("%b costs %v, said %v, exact %v; least is %v", got, c, s.cost, s.exact, least)
			}
			if part := b.smaller(got, asked); part != 0 {
				fail("%b has the complete part %b", got, part)
			}
			if !s.exact {
				ambiguous++
			}
		}
		c, err := resolve(have, want, o)
		checkErr(t, seed, err, least)
		if err != nil {
			faulty++
			continue
		}
		checkClosure(t, seed, b, c, least)
	}
	if ambiguous < 100 || faulty < 100 {
		t.Errorf("only %d searches cut short and %d catalogues with faults: the test tests little", ambiguous, faulty)
	}
}

func (b *brute) bits(s *solver) uint {
	var m uint
	for _, id := range s.best {
		m |= 1 << b.place[s.ix.pkgs[id].Name]
	}
	return m
}

// checkErr wants a problem for each fault.
func checkErr(t *testing.T, seed uint64, err error, least cost) {
	t.Helper()
	var ps *diag.Problems
	if errors.As(err, &ps) && len(ps.List) == least.faults || err == nil && least.faults == 0 {
		return
	}
	t.Fatalf("seed %d: %d faults, reported as %v", seed, least.faults, err)
}

// checkClosure wants as many members as the solver found, a reason for each, and what
// a member needs before it, unless that needs the member.
func checkClosure(t *testing.T, seed uint64, b *brute, c *Closure, least cost) {
	t.Helper()
	if len(c.Members) != least.members {
		t.Fatalf("seed %d: %d members, want %d", seed, len(c.Members), least.members)
	}
	var all, before uint
	for _, m := range c.Members {
		all |= 1 << b.place[m.Name]
	}
	for _, m := range c.Members {
		i := b.place[m.Name]
		before |= 1 << i
		if len(m.Reasons) == 0 {
			t.Fatalf("seed %d: no reason for %s", seed, m.ID())
		}
		for _, need := range b.needs[i] {
			if need&before != 0 {
				continue
			}
			cyclic := false
			for _, q := range c.Members {
				j := b.place[q.Name]
				cyclic = cyclic || need&(1<<j) != 0 && b.reach(all, j)&(1<<i) != 0
			}
			if !cyclic {
				t.Fatalf("seed %d: %s comes before what it needs:\n%s%s", seed, m.ID(), show(c), describe(b.have))
			}
		}
	}
}

func describe(have []*pkgs.Package) string {
	var b strings.Builder
	for _, p := range have {
		fmt.Fprintf(&b, "%s deps %v, libs %v has %v, wants %v gives %v, not %v %s %v\n", p.ID(), p.Deps,
			p.ShlibsRequired, p.ShlibsProvided, p.Requires, p.Provides, p.Conflicts, p.ABI, p.Annotations)
	}
	return b.String()
}

// The order of the catalogue decides nothing.
func TestResolveDeterministic(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		have := randomCatalogue(t, r)
		want := []string{"a", "c"}
		var first string
		for range 4 {
			c, err := resolve(have, want, target())
			s := fmt.Sprint(err)
			if err == nil {
				s = show(c)
			}
			if first = cmp.Or(first, s); s != first {
				t.Fatalf("seed %d:\n%s\nand\n%s", seed, first, s)
			}
			r.Shuffle(len(have), func(i, j int) { have[i], have[j] = have[j], have[i] })
		}
	}
}

// A search that does not end is cut short, says so, and still leaves nothing
// superfluous.
func TestSolveCutShort(t *testing.T) {
	c, err := resolve(hard(t, 60), []string{"top"}, target())
	if err != nil {
		t.Fatal(err)
	}
	if c.Exact || len(c.Members) < 10 {
		t.Errorf("exact %v, %d members", c.Exact, len(c.Members))
	}
	if c, err = resolve(hard(t, 8), []string{"top"}, target()); err != nil || !c.Exact {
		t.Errorf("a small one: %v, %v", c, err)
	}
}

// hard is a package that needs n libraries, each of three providers among n.
func hard(t testing.TB, n int) []*pkgs.Package {
	r := rand.New(rand.NewPCG(7, 7))
	top := "top-1"
	has := make([]string, n)
	for i := range n {
		top += fmt.Sprintf(" needs:l%d.so", i)
		for range 3 {
			has[r.IntN(n)] += fmt.Sprintf(" has:l%d.so", i)
		}
	}
	for i, h := range has {
		top += fmt.Sprintf("\np%d-1%s", i, h)
	}
	return catalogue(t, top)
}

// ports is a catalogue with the size and the shape of the ports': n packages in
// layers, each with some dependencies below it whose libraries it needs, every 40th
// library of two packages.
func ports(n int) []*pkgs.Package {
	r := rand.New(rand.NewPCG(3, 4))
	out := make([]*pkgs.Package, n)
	for i := range out {
		p := &pkgs.Package{Name: fmt.Sprintf("port%05d", i), Version: fmt.Sprintf("1.%d_%d", i%30, i%3), ABI: "FreeBSD:15:amd64", Deps: map[string]pkgs.Dep{},
			ShlibsRequired: []string{"libc.so.7", "libm.so.5", "libthr.so.3"}, ShlibsProvided: []string{fmt.Sprintf("lib%d.so.1", i)},
			Annotations: map[string]string{"FreeBSD_version": "1500068"}}
		if i%40 == 1 {
			p.ShlibsProvided = append(p.ShlibsProvided, fmt.Sprintf("lib%d.so.1", i-1))
		}
		for range min(i, 9) {
			d := r.IntN(min(i, 1+i/10+r.IntN(400)))
			p.Deps[out[d].Name] = pkgs.Dep{Version: out[d].Version}
			p.ShlibsRequired = append(p.ShlibsRequired, fmt.Sprintf("lib%d.so.1", d))
		}
		if i > 0 && i%3 == 0 {
			p.ShlibsRequired = append(p.ShlibsRequired, fmt.Sprintf("lib%d.so.1", r.IntN(1+i/20)))
		}
		out[i] = p
	}
	return out
}

// portsWishes are four roots of about 400 members each.
func portsWishes() []Wish {
	return []Wish{
		{"host", []string{"port30000", "port00700", "port12345", "port33333", "port31234"}},
		{"web_j", []string{"port20001", "port31000", "port09999", "port27000", "port18000"}},
		{"pg_j", []string{"port25002", "port01100", "port17000", "port34567", "port29000"}},
		{"app_j", []string{"port35003", "port28000", "port22222", "port15000"}},
	}
}

func portsTarget() ResolveOptions {
	o := target()
	base := set([]string{"libc.so.7", "libm.so.5", "libthr.so.3"})
	o.Base = func(lib string) bool { return base[lib] }
	return o
}

func BenchmarkIndex(b *testing.B) {
	have := ports(36000)
	for b.Loop() {
		NewIndex(have)
	}
}

func BenchmarkResolveAll(b *testing.B) {
	have := ports(36000)
	members, exact, fewest := 0, true, 0
	for b.Loop() {
		cs, err := NewIndex(have).ResolveAll(portsWishes(), portsTarget())
		if err != nil {
			b.Fatal(err)
		}
		members, fewest = 0, len(have)
		for _, c := range cs {
			members += len(c.Members)
			fewest = min(fewest, len(c.Members))
			exact = exact && c.Exact
		}
	}
	b.ReportMetric(float64(members), "members")
	b.ReportMetric(float64(fewest), "fewest")
	if !exact {
		b.Error("not exact")
	}
}

func BenchmarkSelect(b *testing.B) {
	ix := NewIndex(ports(36000))
	for b.Loop() {
		if _, err := ix.Select("port*"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSelectUnknown(b *testing.B) {
	ix := NewIndex(ports(36000))
	for b.Loop() {
		if _, err := ix.Select("prot12345"); err == nil {
			b.Fatal("found")
		}
	}
}

func BenchmarkSolveCutShort(b *testing.B) {
	have := hard(b, 60)
	for b.Loop() {
		if _, err := resolve(have, []string{"top"}, target()); err != nil {
			b.Fatal(err)
		}
	}
}
