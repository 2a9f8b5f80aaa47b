package answers

import (
	"reflect"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

const located = `# a comment with [brackets] = "x"
top = 1
"quoted key" = """a
[not.a.table]
x = \""" 1 """"
[ a . "b" ] # comment
c.d = [ 1, # one
  '''
]''', { e = "}" , f.g = 2 } ]
[[jail]]
name = "x"
[jail.net]
ip = 1
[[jail]]
name = 1979-05-27 07:32:00 # a date
`

func TestLocate(t *testing.T) {
	p := Locate([]byte(located))
	for _, tt := range []struct {
		path []string
		want [4]int // key line, col; value line, col
	}{
		{[]string{"top"}, [4]int{2, 1, 2, 7}},
		{[]string{"quoted key"}, [4]int{3, 1, 3, 16}},
		{[]string{"a"}, [4]int{6, 3, 6, 3}},
		{[]string{"a", "b"}, [4]int{6, 7, 6, 7}},
		{[]string{"a", "b", "c"}, [4]int{7, 1, 7, 1}},
		{[]string{"a", "b", "c", "d"}, [4]int{7, 3, 7, 7}},
		{[]string{"a", "b", "c", "d", Index(0)}, [4]int{7, 9, 7, 9}},
		{[]string{"a", "b", "c", "d", Index(1)}, [4]int{8, 3, 8, 3}},
		{[]string{"a", "b", "c", "d", Index(2)}, [4]int{9, 7, 9, 7}},
		{[]string{"a", "b", "c", "d", Index(2), "e"}, [4]int{9, 9, 9, 13}},
		{[]string{"a", "b", "c", "d", Index(2), "f", "g"}, [4]int{9, 21, 9, 25}},
		{[]string{"jail", Index(0), "name"}, [4]int{11, 1, 11, 8}},
		{[]string{"jail", Index(0), "net", "ip"}, [4]int{13, 1, 13, 6}},
		{[]string{"jail", Index(1), "name"}, [4]int{15, 1, 15, 8}},
		{[]string{"not"}, [4]int{}},
		{[]string{"x"}, [4]int{}},
	} {
		kl, kc := p.Key(tt.path...)
		vl, vc := p.Value(tt.path...)
		if got := [4]int{kl, kc, vl, vc}; got != tt.want {
			t.Errorf("%s: got %v, want %v", dotted(tt.path), got, tt.want)
		}
	}
}

// TestMasked keeps what could be a secret out of sight, whatever the file's state.
func TestMasked(t *testing.T) {
	for _, text := range []string{
		"ok = 1\nkey = \"hunter2\"", "key = hunter2", "key \"hunter2\"", "key: hunter2", "key = \"\"\"\nhunter2", "key = '''hunter2\n",
		"key = \"x\" hunter2", "[a] hunter2", "key = [\"hunter2\"", "a = { key = \"hunter2\" }", "a = [{ key = \"hunter2", "key = \"x\\\"hunter2\"", "= hunter2",
		"key = { } hunter2", "[a]\nkey =hunter2\nok = 5",
	} {
		got, _ := Locate([]byte(text)).masked(func(path []string) bool { return path[len(path)-1] == "ok" })
		if strings.Contains(got, "hunter") || len(got) != len(text) {
			t.Errorf("%q shows as %q", text, got)
		}
		if strings.Contains(text, "ok = ") && !strings.ContainsAny(got, "15") {
			t.Errorf("%q hides too much: %q", text, got)
		}
	}
}

// FuzzLocate: no input breaks the scanner, and every key that the TOML parser
// finds has a place within the text at which that key's name begins.
func FuzzLocate(f *testing.F) {
	f.Add(located)
	f.Add(goodFile)
	for _, tt := range badFiles {
		f.Add(tt.toml)
	}
	f.Add("a.b.c = {d=[[],[{}]]}\n'x'.\"\\u0041\" = ''''''''\n[[t]]\n[[t.u]]\n[t.u.v]\n")
	f.Fuzz(func(t *testing.T, text string) {
		p := Locate([]byte(text))
		p.masked(func([]string) bool { return false })
		var m map[string]any
		if len(text) > 4096 || strings.HasPrefix(text, "\ufeff") {
			return
		}
		if _, err := toml.Decode(text, &m); err != nil {
			return
		}
		checkLocated(t, p, nil, m)
	})
}

// checkLocated looks for the place of everything in v.
func checkLocated(t *testing.T, p *Positions, path []string, v any) {
	if len(path) > 20 { // positions end at a depth of their own
		return
	}
	if len(path) > 0 {
		line, col := p.Value(path...)
		lines := strings.Split(p.text, "\n")
		if line < 1 || line > len(lines) || col < 1 || col > len(lines[line-1]) {
			t.Fatalf("%q has the place %d:%d in\n%s", path, line, col, p.text)
		}
		if s, ok := v.(string); ok && lines[line-1][col-1] != '"' && lines[line-1][col-1] != '\'' {
			t.Fatalf("%q (%q) is not at %d:%d in\n%s", path, s, line, col, p.text)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for k, sub := range v {
			if strings.ContainsAny(k, indexMark+pathSep) {
				continue
			}
			checkLocated(t, p, append(path[:len(path):len(path)], k), sub)
		}
	case []any:
		for i, sub := range v {
			checkLocated(t, p, append(path[:len(path):len(path)], Index(i)), sub)
		}
	case []map[string]any:
		for i, sub := range v {
			checkLocated(t, p, append(path[:len(path):len(path)], Index(i)), sub)
		}
	}
}

// FuzzResolve: no file breaks Resolve, and what it accepts survives being saved.
func FuzzResolve(f *testing.F) {
	f.Add(goodFile)
	for _, tt := range badFiles {
		f.Add(tt.toml)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Resolve(rigQuestions(), Source{Name: "a", Data: []byte(text)})
		if err != nil {
			_ = err.Error()
			return
		}
		a, b := s.Data(), roundTrip(t, s).Data()
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("got %#v\nwant %#v", b, a)
		}
	})
}

// FuzzParseText: no text breaks it, and what it accepts it accepts again.
func FuzzParseText(f *testing.F) {
	for i, tt := range parseTests {
		f.Add(tt.in, uint8(i), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, text string, typ uint8, list bool) {
		q := Question{Key: "q", Type: specs[int(typ)%len(specs)].typ, List: list, Choices: []string{"a", "b"}}
		if q.Type == Disks || q.Type == Bool {
			q.List = false
		}
		v, err := ParseText(&q, text)
		if err != nil {
			return
		}
		if _, flaws := decode(&q, v); flaws != nil {
			t.Fatalf("%s %q: %v is refused: %v", q.Type, text, v, flaws)
		}
	})
}
