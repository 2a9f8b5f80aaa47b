package solve

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/internal/diag"
)

// catalogue makes packages of lines "name-version key:value …": dep (name or
// name-version), needs and has (libraries), wants and gives (requires and provides),
// not (conflicts), abi, os.
func catalogue(t testing.TB, text string) []*pkgs.Package {
	t.Helper()
	var out []*pkgs.Package
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		p := list(words[0])[0]
		p.ABI, p.Deps = "FreeBSD:15:amd64", map[string]pkgs.Dep{}
		for _, w := range words[1:] {
			key, v, _ := strings.Cut(w, ":")
			switch key {
			case "dep":
				name, version, _ := strings.Cut(v, "@")
				p.Deps[name] = pkgs.Dep{Version: version}
			case "needs":
				p.ShlibsRequired = append(p.ShlibsRequired, v)
			case "has":
				p.ShlibsProvided = append(p.ShlibsProvided, v)
			case "wants":
				p.Requires = append(p.Requires, v)
			case "gives":
				p.Provides = append(p.Provides, v)
			case "not":
				p.Conflicts = append(p.Conflicts, v)
			case "abi":
				p.ABI = v
			case "os":
				p.Annotations = map[string]string{"FreeBSD_version": v}
			default:
				t.Fatalf("bad word %q", w)
			}
		}
		out = append(out, p)
	}
	return out
}

func target() ResolveOptions {
	return ResolveOptions{ABI: "FreeBSD:15:amd64", OSVersion: 1500068, Base: func(lib string) bool { return lib == "libc.so.7" }}
}

// show is a line for each member: ID: reasons.
func show(c *Closure) string {
	var b strings.Builder
	for _, m := range c.Members {
		fmt.Fprintf(&b, "%s: %s\n", m.ID(), strings.Join(m.Reasons, "; "))
		if m.Asked != slices.Contains(m.Reasons, askedFor) {
			fmt.Fprintf(&b, "%s: Asked is %v\n", m.ID(), m.Asked)
		}
	}
	return b.String()
}

func TestResolve(t *testing.T) {
	for _, c := range []struct{ name, have, want, closure, notes string }{
		{"alone", "a-1\nb-1", "a", "a-1: asked for\n", ""},
		{"nothing", "a-1", "", "", ""},
		{"twice", "a-1\nb-1", "a a", "a-1: asked for\n", ""},
		{"chain, dependencies first", "a-1 dep:b\nb-1 dep:c\nc-1", "a",
			"c-1: dependency of b\nb-1: dependency of a\na-1: asked for\n", ""},
		{"asked for and needed", "a-1 dep:b\nb-1", "b a",
			"b-1: asked for; dependency of a\na-1: asked for\n", ""},
		{"cycle", "a-1 dep:b\nb-1 dep:c\nc-1 dep:b dep:d\nd-1", "a",
			"d-1: dependency of c\nc-1: dependency of b\nb-1: dependency of a; dependency of c\na-1: asked for\n", ""},
		{"needs itself", "a-1 dep:a needs:liba.so has:liba.so wants:f gives:f", "a", "a-1: asked for\n", ""},
		{"another version than built with", "a-1 dep:b@1.0\nb-1.1", "a",
			"b-1.1: dependency of a\na-1: asked for\n", "a-1 was built with b-1.0; the repository has 1.1"},
		{"newest of a name", "a-1 dep:b@1.9\nb-1.9\nb-1.10\nb-1.2", "a",
			"b-1.10: dependency of a\na-1: asked for\n", "a-1 was built with b-1.9; the repository has 1.10"},
		{"library of the base", "a-1 needs:libc.so.7\nb-1 has:libc.so.7", "a", "a-1: asked for\n", ""},
		{"library for 32 bit", "a-1 needs:libc.so.7:32\nb-1 has:libc.so.7:32", "a",
			"b-1: libc.so.7:32 for a\na-1: asked for\n", ""},
		{"library of one package", "a-1 needs:libb.so\nb-1 has:libb.so dep:c\nc-1", "a",
			"c-1: dependency of b\nb-1: libb.so for a\na-1: asked for\n", ""},
		{"library of a dependency", "a-1 dep:z needs:l.so\nb-1 has:l.so\nz-1 has:l.so", "a",
			"z-1: dependency of a\na-1: asked for\n", ""},
		{"library of a member", "a-1 dep:x needs:l.so\nb-1 has:l.so\nx-1 dep:z\nz-1 has:l.so", "a",
			"z-1: l.so for a; dependency of x\nx-1: dependency of a\na-1: asked for\n", ""},
		{"library of a member that comes later", "a-1 needs:l.so needs:m.so\nb-1 has:l.so\nx-1 has:m.so dep:z\nz-1 has:l.so", "a",
			"z-1: l.so for a; dependency of x\nx-1: m.so for a\na-1: asked for\n", ""},
		{"the first by name", "a-1 needs:l.so\nd-1 has:l.so\nc-1 has:l.so", "a",
			"c-1: l.so for a\na-1: asked for\n", ""},
		{"the one that brings less", "a-1 needs:l.so\nc-1 has:l.so dep:x\nd-1 has:l.so\nx-1", "a",
			"d-1: l.so for a\na-1: asked for\n", ""},
		{"one for two", "a-1 needs:l.so needs:m.so\nb-1 has:l.so\nc-1 has:m.so\nd-1 has:l.so has:m.so", "a",
			"d-1: l.so for a; m.so for a\na-1: asked for\n", ""},
		{"the one that does not conflict", "a-1 needs:l.so\nb-1 has:l.so not:a\nc-1 has:l.so dep:d\nd-1", "a",
			"d-1: dependency of c\nc-1: l.so for a\na-1: asked for\n", ""},
		{"the one whose needs are met", "a-1 needs:l.so\nb-1 has:l.so dep:gone\nc-1 has:l.so dep:d\nd-1", "a",
			"d-1: dependency of c\nc-1: l.so for a\na-1: asked for\n", ""},
		{"the one for this system", "a-1 wants:f\nb-1 gives:f abi:FreeBSD:14:amd64\nc-1 gives:f", "a",
			"c-1: f for a\na-1: asked for\n", ""},
		{"abstract requirement", "a-1 wants:f\nb-1 gives:f\nc-1 has:f", "a", "b-1: f for a\na-1: asked for\n", ""},
		{"older systems, other spellings of the ABI", "a-1 os:1500068 abi:FreeBSD:15:*\nb-1 os:1400000 abi:freebsd:15\nc-1 abi:FreeBSD:*", "a b c",
			"a-1: asked for\nb-1: asked for\nc-1: asked for\n", ""},
		{"conflicts with what is not there, or itself", "a-1 not:a not:b not:a-[0-9]*\nb-1", "a", "a-1: asked for\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Resolve(catalogue(t, c.have), strings.Fields(c.want), target())
			if err != nil {
				t.Fatal(err)
			}
			if s := show(got); s != c.closure || !got.Exact {
				t.Errorf("exact %v, got\n%swant\n%s", got.Exact, s, c.closure)
			}
			if s := strings.Join(got.Notes, "\n"); s != c.notes {
				t.Errorf("notes %q, want %q", s, c.notes)
			}
		})
	}
}

func TestResolveProblems(t *testing.T) {
	for _, c := range []struct{ name, have, want, problems string }{
		{"name", "aa-1\nb-1", "b ab x*y*", "no package ab; there are aa, b\npackage \"x*y*\": more than one *"},
		{"dependency", "a-1 dep:b", "a", "a-1 needs b, which the repository does not have"},
		{"dependency of a dependency", "top-1 dep:mid\nmid-2 dep:a\na-1 dep:b", "top",
			"a-1, required by mid-2, required by top-1, needs b, which the repository does not have"},
		{"the shortest way to it", "a-1 dep:b\nb-1 dep:c\nc-1 dep:gone\nz-1 dep:c", "a z",
			"c-1, required by z-1, needs gone, which the repository does not have"},
		{"library", "a-1 needs:l.so", "a", "a-1 needs l.so, which neither the base system nor a package provides"},
		{"requirement", "a-1 wants:f\nb-1 has:f", "a", "a-1 needs f, which no package provides"},
		{"abi", "a-1 abi:FreeBSD:14:amd64 dep:b\nb-1 abi:FreeBSD:15:aarch64", "a",
			"a-1 is built for FreeBSD:14:amd64, not FreeBSD:15:amd64\n" +
				"b-1, required by a-1, is built for FreeBSD:15:aarch64, not FreeBSD:15:amd64"},
		{"newer", "a-1 os:1501000", "a", "a-1 is built for FreeBSD 1501000, newer than 1500068"},
		{"no number", "a-1 os:new", "a", `a-1 has the FreeBSD_version "new", which is not a number`},
		{"conflict", "a-1 not:b\nb-1", "a b", `a-1 (asked for) and b-1 (asked for) conflict, by "b"`},
		{"conflict once", "a-1 not:b\nb-1 not:a", "b a", `b-1 (asked for) and a-1 (asked for) conflict, by "a"`},
		{"conflict of dependencies, by patterns", "a-1 dep:foo\nfoo-2.1 not:bar-1.[!3-9]*\nb-1 dep:bar\nbar-1.2_1", "a b",
			`foo-2.1 (required by a-1) and bar-1.2_1 (required by b-1) conflict, by "bar-1.[!3-9]*"`},
		{"conflict of all that serve", "a-1 needs:l.so\nb-1 has:l.so not:a\nc-1 has:l.so not:a", "a",
			`a-1 (asked for) and b-1 (required by a-1) conflict, by "a"`},
		{"all at once", "a-1 dep:x needs:l.so wants:f os:1501000 dep:b\nb-1 not:a dep:y", "nope a",
			"no package nope\n" +
				"a-1 is built for FreeBSD 1501000, newer than 1500068\n" +
				"a-1 needs x, which the repository does not have\n" +
				"a-1 needs l.so, which neither the base system nor a package provides\n" +
				"a-1 needs f, which no package provides\n" +
				"b-1, required by a-1, needs y, which the repository does not have\n" +
				`a-1 (asked for) and b-1 (required by a-1) conflict, by "a"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Resolve(catalogue(t, c.have), strings.Fields(c.want), target())
			var ps *diag.Problems
			if got != nil || !errors.As(err, &ps) || err.Error() != c.problems {
				t.Errorf("%v\n%v\nwant\n%s", got, err, c.problems)
			}
		})
	}
}

func TestResolveTakesAnySystem(t *testing.T) {
	if _, err := Resolve(catalogue(t, "a-1 abi:Linux os:9999999"), []string{"a"}, ResolveOptions{}); err != nil {
		t.Error(err)
	}
	_, err := Resolve(catalogue(t, "a-1 needs:libc.so.7"), []string{"a"}, ResolveOptions{})
	if err == nil || !strings.Contains(err.Error(), "a-1 needs libc.so.7, which neither") {
		t.Errorf("no base: %v", err)
	}
}

func TestResolveAll(t *testing.T) {
	ix := NewIndex(catalogue(t, "a-1 dep:c\nb-1 dep:gone\nc-1"))
	_, err := ix.ResolveAll([]Wish{{"host", []string{"a", "x"}}, {"web_j", []string{"b"}}}, target())
	want := "host: no package x\nweb_j: b-1 needs gone, which the repository does not have"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	cs, err := ix.ResolveAll([]Wish{{"host", []string{"a"}}, {"web_j", []string{"c"}}, {"none", nil}}, target())
	if err != nil {
		t.Fatal(err)
	}
	if s := show(cs[0]) + show(cs[1]) + show(cs[2]); s != "c-1: dependency of a\na-1: asked for\nc-1: asked for\n" || cs[1].Root != "web_j" {
		t.Errorf("%s", s)
	}
}

func TestMerge(t *testing.T) {
	have := catalogue(t, "a-1 dep:c\nb-1 dep:c\nc-1\nd-1")
	cs, err := NewIndex(have).ResolveAll([]Wish{{"host", []string{"b"}}, {"web_j", []string{"a"}}}, target())
	if err != nil {
		t.Fatal(err)
	}
	all, err := Merge(cs...)
	var ids []string
	for _, p := range all {
		ids = append(ids, p.ID())
	}
	if s := strings.Join(ids, " "); err != nil || s != "a-1 b-1 c-1" {
		t.Errorf("%s, %v", s, err)
	}
	other := &Closure{Root: "pg_j", Members: []Member{
		{Package: &pkgs.Package{Name: "c", Version: "2"}}, {Package: &pkgs.Package{Name: "b", Version: "1", Sum: "x"}}}}
	_, err = Merge(append(cs, other)...)
	if want := "merge c: 1 for host, 2 for pg_j\nmerge b-1: host and pg_j have different archives"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
