package tree

import (
	"slices"
	"strings"
	"testing"
)

func dir(p string) Entry        { return Entry{Path: p, Kind: Dir, Perm: 0o700} }
func link(p, to string) Entry   { return Entry{Path: p, Kind: HardLink, Link: to} }
func text(p, body string) Entry { return FileEntry(p, []byte(body)) }

func mk(t *testing.T, entries ...Entry) *Tree {
	t.Helper()
	tr, err := New(entries)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// names lists entries as "path kind[ ->link]", "?" behind the implied ones.
func names(tr *Tree) (out []string) {
	for e := range tr.All() {
		s := e.Path + " " + e.Kind.String()
		if e.Link != "" {
			s += " " + e.Link
		}
		if e.Implied {
			s += "?"
		}
		out = append(out, s)
	}
	return out
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// A directory is followed by all that is in it: "a/b" comes before "a-b" and "a.b".
func TestOrder(t *testing.T) {
	same(t, names(mk(t, text("a.b", ""), text("a-b", ""), text("b", ""), text("a/z/y", ""), dir("a"), text("a/b", ""))),
		[]string{". dir?", "a dir", "a/b file", "a/z dir?", "a/z/y file", "a-b file", "a.b file", "b file"})
	same(t, names(mk(t)), []string{". dir?"})
	for _, p := range [][2]string{{".", "!"}, {"a", "a/b"}, {"a/b", "a-b"}, {"a/b/c", "a/bb"}, {"a", "b"}} {
		if ComparePaths(p[0], p[1]) >= 0 || ComparePaths(p[1], p[0]) <= 0 || ComparePaths(p[0], p[0]) != 0 {
			t.Errorf("%q is not before %q", p[0], p[1])
		}
	}
}

func TestNewRefuses(t *testing.T) {
	long := strings.Repeat("x", 256)
	for want, es := range map[string][]Entry{
		`tree "": path must be relative, clean and inside the root`:                                {text("", "")},
		`tree "/a": path must be relative, clean and inside the root`:                              {text("/a", "")},
		`tree "a/../b": path must be relative, clean and inside the root`:                          {text("a/../b", "")},
		`tree "../a": path must be relative, clean and inside the root`:                            {text("../a", "")},
		`tree "..": path must be relative, clean and inside the root`:                              {dir("..")},
		`tree "a/": path must be relative, clean and inside the root`:                              {dir("a/")},
		`tree "a\x00": path must be relative, clean and inside the root`:                           {text("a\x00", "")},
		"tree d/" + long + ": name of 256 bytes; 255 is the limit":                                 {text("d/"+long, "")},
		"tree a: mode 010000 has bits outside 07777":                                               {{Path: "a", Kind: Dir, Perm: 0o10000}},
		"tree a: file of 3 bytes without content":                                                  {{Path: "a", Kind: File, Size: 3}},
		"tree a: link without a target":                                                            {{Path: "a", Kind: Symlink}},
		"tree a: unknown kind(0)":                                                                  {{Path: "a"}},
		"tree a: described twice":                                                                  {text("a", ""), dir("a")},
		"tree a/b: its parent is a file, not a directory":                                          {text("a", ""), text("a/b", "")},
		"tree l: hard link to x, which does not exist":                                             {link("l", "x")},
		"tree l: hard link to d, which is a dir":                                                   {link("l", "d"), dir("d")},
		"tree a: described twice\ntree b: file of 1 bytes without content":                         {dir("a"), dir("a"), {Path: "b", Kind: File, Size: 1}},
		"tree a: hard link to b, which is a hardlink\ntree b: hard link to a, which is a hardlink": {link("a", "b"), link("b", "a")},
	} {
		_, err := New(es)
		wantError(t, err, want)
	}
	mk(t, text("..a", ""), text(long[:255], ""))
}

// A chain of hard links leads to the file, whose metadata all names share.
func TestHardLinks(t *testing.T) {
	f := text("m", "body")
	f.Perm = 0o4755
	tr := mk(t, f, link("z", "y"), link("y", "m"), link("b", "z"))
	same(t, names(tr), []string{". dir?", "b file", "m hardlink b", "y hardlink b", "z hardlink b"})
	for _, p := range []string{"b", "m", "y", "z"} {
		e, _ := tr.Lookup(p)
		if body, err := tr.ReadFile(p, 4); string(body) != "body" || err != nil || e.Perm != 0o4755 {
			t.Errorf("%s: %q, %v, mode %o", p, body, err, e.Perm)
		}
	}
	if tr.Size() != 4 {
		t.Errorf("size %d, want 4: links count once", tr.Size())
	}
	less, err := tr.Filter(func(e *Entry) bool { return e.Path != "b" })
	if err != nil {
		t.Fatal(err)
	}
	same(t, names(less), []string{". dir?", "m file", "y hardlink m", "z hardlink m"})
	if body, err := less.ReadFile("z", 4); string(body) != "body" || err != nil {
		t.Errorf("after Filter: %q, %v", body, err)
	}
	same(t, names(tr), []string{". dir?", "b file", "m hardlink b", "y hardlink b", "z hardlink b"})
}

func TestReadFileRefuses(t *testing.T) {
	short := text("short", "x")
	short.Size = 2
	tr := mk(t, text("f", "12345"), dir("d"), short)
	for p, want := range map[string]string{"no": "read no: no such file in the tree", "d": "read d: it is a dir",
		"f": "read f: 5 bytes; at most 4 expected", "short": "read short: unexpected EOF"} {
		_, err := tr.ReadFile(p, 4)
		wantError(t, err, want)
	}
}

func TestMerge(t *testing.T) {
	lower := mk(t, dir("d"), text("d/a", "old"), text("d/b", "b"), link("d/c", "d/b"), text("s", ""))
	upper := mk(t, text("d/a", "new"), text("d/b", "own"), dir("e"), Entry{Path: "s", Kind: Symlink, Link: "d/a"})
	tr, err := Merge(lower, upper)
	if err != nil {
		t.Fatal(err)
	}
	same(t, names(tr), []string{". dir?", "d dir", "d/a file", "d/b file", "d/c file", "e dir", "s link d/a"})
	if d, _ := tr.Lookup("d"); d.Perm != 0o700 {
		t.Errorf("an implied directory replaced a described one: mode %o", d.Perm)
	}
	for p, want := range map[string]string{"d/a": "new", "d/b": "own", "d/c": "b"} {
		if got, err := tr.ReadFile(p, 9); string(got) != want || err != nil {
			t.Errorf("%s is %q, %v, want %q", p, got, err, want)
		}
	}
	_, err = Merge(mk(t, dir("x"), text("y", "")), mk(t, text("x", ""), dir("y")))
	wantError(t, err, "merge x: a file cannot replace a dir\nmerge y: a dir cannot replace a file")
}

func TestResolve(t *testing.T) {
	acc, err := ParseAccounts(strings.NewReader("# c\n\nroot:*:0:0::\ntoor:*:0:0::\npg:*:770:770::\npg:*:1:1::\n"), strings.NewReader("wheel:*:0:\npg:*:771:\n"))
	if err != nil {
		t.Fatal(err)
	}
	e := text("a", "")
	e.Owner, e.Group = "pg", "pg"
	tr := mk(t, e, Entry{Path: "b", Kind: Dir, UID: 5, GID: 6})
	got, err := tr.Resolve(acc)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string][2]uint32{"a": {770, 771}, "b": {5, 6}, ".": {0, 0}} {
		if e, _ := got.Lookup(p); e.UID != want[0] || e.GID != want[1] {
			t.Errorf("%s is %d:%d, want %d", p, e.UID, e.GID, want)
		}
	}
	if e, _ := tr.Lookup("a"); e.UID != 0 {
		t.Error("Resolve changed the tree it was called on")
	}
	e.Owner, e.Group = "no", "none"
	f := e
	f.Path = "c"
	_, err = mk(t, e, f).Resolve(acc)
	if err == nil || strings.Count(err.Error(), "unknown user no") != 1 || strings.Count(err.Error(), "unknown group none") != 1 {
		t.Errorf("each unknown name once: %v", err)
	}
	for in, want := range map[string]string{"root:*\n": "master.passwd:1: expected at least three fields separated by colons",
		"\nroot:*:x\n": `master.passwd:2: id "x" is not a number`, "a:*:4294967296": `master.passwd:1: id "4294967296" is not a number`} {
		_, err := ParseAccounts(strings.NewReader(in), strings.NewReader(""))
		wantError(t, err, want)
	}
}
