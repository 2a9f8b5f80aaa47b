package solve

import (
	"cmp"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/text"
)

// Index finds packages by name and by what they provide. Of a name it knows one
// package, the newest, as pkg(8) does; of two with the same version the earlier.
type Index struct {
	pkgs     []*pkgs.Package
	names    map[string]int32   // values are places in pkgs
	libs     map[string][]int32 // by ShlibsProvided
	features map[string][]int32 // by Provides
}

// NewIndex indexes one catalogue, or several that Stack has put together.
func NewIndex(have []*pkgs.Package) *Index {
	ix := &Index{
		pkgs:     make([]*pkgs.Package, 0, len(have)),
		names:    make(map[string]int32, len(have)),
		libs:     make(map[string][]int32, len(have)),
		features: make(map[string][]int32, 64),
	}
	for _, p := range have {
		at, ok := ix.names[p.Name]
		switch {
		case !ok:
			ix.names[p.Name] = int32(len(ix.pkgs)) // a catalogue is smaller than 2³¹
			ix.pkgs = append(ix.pkgs, p)
		case pkgs.CompareVersions(p.Version, ix.pkgs[at].Version) > 0:
			ix.pkgs[at] = p
		}
	}
	for i, p := range ix.pkgs {
		for _, l := range p.ShlibsProvided {
			ix.libs[l] = append(ix.libs[l], int32(i))
		}
		for _, f := range p.Provides {
			ix.features[f] = append(ix.features[f], int32(i))
		}
	}
	return ix
}

// Stack puts repositories together of which the first that has a name wins it, with
// whatever version.
func Stack(repos ...[]*pkgs.Package) []*pkgs.Package {
	var out []*pkgs.Package
	owner := map[string]int{}
	for i, repo := range repos {
		for _, p := range repo {
			if o, taken := owner[p.Name]; taken && o != i {
				continue
			}
			owner[p.Name] = i
			out = append(out, p)
		}
	}
	return out
}

// Select finds the package that pattern means: a name, or a name with one "*", which
// stands for a number, of which the highest counts: "postgresql*-server". What the
// star finds leaves out pre-releases (IsPrerelease) unless there is nothing else; a
// name written out does not.
func (ix *Index) Select(pattern string) (*pkgs.Package, error) {
	at, err := ix.find(pattern)
	if err != nil {
		return nil, err
	}
	return ix.pkgs[at], nil
}

func (ix *Index) find(pattern string) (int32, error) {
	if msg := badPattern(pattern); msg != "" {
		return 0, diag.Inputf("package %q: %s", pattern, msg)
	}
	prefix, suffix, star := strings.Cut(pattern, "*")
	at, ok := ix.names[pattern]
	if star {
		at, ok = ix.highest(prefix, suffix)
	}
	if ok {
		return at, nil
	}
	near := ix.nearest(prefix + suffix)
	if len(near) == 0 {
		return 0, diag.Inputf("no package %s", pattern)
	}
	return 0, diag.Inputf("no package %s; there %s %s", pattern, isAre(len(near)), strings.Join(near, ", "))
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// badPattern says what is wrong with a pattern, "" when nothing is.
func badPattern(pattern string) string {
	switch {
	case pattern == "":
		return "empty name"
	case strings.Count(pattern, "*") > 1:
		return "more than one *"
	case strings.ContainsAny(pattern, " \t\r\n"):
		return "white space in a name"
	}
	return ""
}

// highest is the package called prefix, a number, suffix that has the highest number.
func (ix *Index) highest(prefix, suffix string) (int32, bool) {
	type candidate struct {
		at     int32
		stable bool
		number string // without leading zeros
	}
	var best candidate
	found := false
	for i, p := range ix.pkgs {
		if len(p.Name) <= len(prefix)+len(suffix) || !strings.HasPrefix(p.Name, prefix) || !strings.HasSuffix(p.Name, suffix) {
			continue
		}
		digits := p.Name[len(prefix) : len(p.Name)-len(suffix)]
		if strings.Trim(digits, "0123456789") != "" {
			continue
		}
		c := candidate{int32(i), !pkgs.IsPrerelease(p.Version), strings.TrimLeft(digits, "0")}
		if !found {
			best, found = c, true
			continue
		}
		q := ix.pkgs[best.at]
		if c.stable != best.stable {
			if c.stable {
				best = c
			}
			continue
		}
		if cmp.Or(cmp.Compare(len(c.number), len(best.number)), cmp.Compare(c.number, best.number),
			pkgs.CompareVersions(p.Version, q.Version), cmp.Compare(q.Name, p.Name)) > 0 {
			best = c
		}
	}
	return best.at, found
}

// most is how many names an error suggests.
const most = 5

// nearest are the names that want may have meant: first those it is the beginning
// of, then those it is part of or that are its own first words, then those a few
// letters away.
func (ix *Index) nearest(want string) []string {
	type near struct {
		rank, far int
		name      string
	}
	want = strings.ToLower(want)
	limit := min(len(want)/2, 1+len(want)/4, 5)
	var all []near
	for _, p := range ix.pkgs {
		name := strings.ToLower(p.Name)
		n := near{0, max(len(name), len(want)) - min(len(name), len(want)), p.Name}
		switch {
		case want == "":
			return nil
		case strings.HasPrefix(name, want):
		case len(want) >= 3 && strings.Contains(name, want), len(name) >= 2 && strings.HasPrefix(want, name+"-"):
			n.rank = 1
		case n.far > limit:
			continue
		default:
			n.rank, n.far = 2, text.Distance(name, want)
			if n.far > limit {
				continue
			}
		}
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.far, b.far), cmp.Compare(a.name, b.name))
	})
	var names []string
	for _, n := range all[:min(len(all), most)] {
		names = append(names, n.name)
	}
	return names
}
