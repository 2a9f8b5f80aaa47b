package answers

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// Origins that are no source's name.
const (
	OriginDefault = "default"
	OriginPrompt  = "prompt"
)

// Set holds the answers to a list of questions. It prints, with every fmt verb
// and in slog, without secrets. It is not for concurrent use.
type Set struct {
	qs    []Question
	vals  map[string]answer
	texts map[string]string // source → text to show in problems, without secrets
}

type answer struct {
	v       any
	origin  string
	pos     *Positions // nil when it did not come from a file
	path    []string   // its place in the file; nil for that of its key
	derived bool       // it is the other server's, and so is its place
}

func newSet(qs []Question) *Set {
	return &Set{qs: All(qs), vals: map[string]answer{}, texts: map[string]string{}}
}

// Questions returns all questions, the built-in ones too.
func (s *Set) Questions() []Question { return slices.Clone(s.qs) }

// Missing lists the required questions that have no answer, no default and are
// not generated.
func (s *Set) Missing() []Question {
	var out []Question
	for _, q := range s.qs {
		if s.needed(&q) && !q.Generate && !s.answered(&q) {
			out = append(out, q)
		}
	}
	return out
}

// Ungenerated lists the questions with Generate that have no answer yet: what
// is to be made on the target, and stored with SetFrom.
func (s *Set) Ungenerated() []Question {
	var out []Question
	for _, q := range s.qs {
		if q.Generate && !s.answered(&q) {
			out = append(out, q)
		}
	}
	return out
}

// answered reports whether q has an answer that says something.
func (s *Set) answered(q *Question) bool {
	v, ok := s.Get(q.Key)
	if items, list := elems(v); list {
		return len(items) > 0
	}
	return ok && v != ""
}

// Get returns the answer to key, or its default, as the canonical value of its
// type.
func (s *Set) Get(key string) (any, bool) {
	a, ok := s.vals[key]
	return a.v, ok
}

// Origin returns where the answer to key came from: a source's name,
// OriginDefault, OriginPrompt, or what SetFrom was told; "" without an answer.
func (s *Set) Origin(key string) string { return s.vals[key].origin }

// Set stores an answer from a prompt: a canonical value, or one as in TOML. It
// refuses, and changes nothing, when the value is wrong or does not go with the
// other answers. A nil value takes the answer back to the default.
func (s *Set) Set(key string, v any) error { return s.SetFrom(key, v, OriginPrompt) }

// Without is a copy of s in which one question is not answered.
func (s *Set) Without(key string) *Set {
	c := *s
	c.vals = maps.Clone(s.vals)
	delete(c.vals, key)
	return &c
}

// SetFrom is Set with an origin.
func (s *Set) SetFrom(key string, v any, origin string) error {
	q := find(s.qs, key)
	if q == nil {
		return fmt.Errorf("set %s: no such question", key)
	}
	if v == nil {
		s.reset(q)
		return nil
	}
	v, flaws := decode(q, v)
	if flaws != nil {
		f := flaws[0]
		if len(f.sub) > 0 {
			f.msg = dotted(f.sub) + ": " + f.msg
		}
		return diag.Inputf("%s", f.msg)
	}
	if v == nil { // an empty table
		s.reset(q)
		return nil
	}
	old, had := s.vals[key]
	s.vals[key] = answer{v: v, origin: origin}
	for _, c := range s.conflicts() {
		if !c.involves(key) {
			continue
		}
		delete(s.vals, key)
		if had {
			s.vals[key] = old
		}
		if c.q.Key == key {
			return diag.Inputf("%s", c.msg)
		}
		return diag.Inputf("%s: %s", c.q.Key, c.msg)
	}
	return nil
}

// reset takes the answer to q back to its default and returns what is wrong with
// that.
func (s *Set) reset(q *Question) []flaw {
	delete(s.vals, q.Key)
	if q.Default == nil {
		return nil
	}
	v, flaws := decode(q, q.Default)
	if flaws == nil && v != nil {
		s.vals[q.Key] = answer{v: v, origin: OriginDefault}
	}
	return flaws
}

// Check reports every answer that does not go with the others, as
// [diag.Problems]. Missing answers are no problem; see Missing.
func (s *Set) Check() error {
	ps := &diag.Problems{Source: s.texts}
	for _, c := range s.conflicts() {
		ps.Add(s.problemOf(c))
	}
	return ps.Err()
}

func (s *Set) problemOf(c conflict) diag.Problem {
	a, msg := s.vals[c.q.Key], c.msg
	path := a.place(c.q.Key)
	switch {
	case a.derived:
		msg = fmt.Sprintf("as the other server's %s: %s", c.q.Key, msg)
	case c.item >= 0:
		path = append(path, Index(c.item))
	}
	return place(a.file(), a.pos, path, msg)
}

// place is the path of the answer to key in its file.
func (a *answer) place(key string) []string {
	if a.path != nil {
		return slices.Clone(a.path)
	}
	return strings.Split(key, ".")
}

// file is the source that a problem of the answer names, "" for none.
func (a *answer) file() string {
	if a.origin == OriginDefault || a.origin == OriginPrompt {
		return ""
	}
	return a.origin
}

// get returns the answer to key as a T, zero when there is none.
func get[T any](s *Set, key string) T {
	v, _ := s.Get(key)
	t, _ := v.(T)
	return t
}

// The typed getters return the answer to key, and the zero value when there is
// none or it is of another type.

func (s *Set) String(key string) string           { return get[string](s, key) }
func (s *Set) Int(key string) int64               { return get[int64](s, key) }
func (s *Set) Bool(key string) bool               { return get[bool](s, key) }
func (s *Set) Addr(key string) netip.Addr         { return get[netip.Addr](s, key) }
func (s *Set) Prefix(key string) netip.Prefix     { return get[netip.Prefix](s, key) }
func (s *Set) NIC(key string) NICMatch            { return get[NICMatch](s, key) }
func (s *Set) Disks(key string) DiskWish          { return get[DiskWish](s, key) }
func (s *Set) Secret(key string) SecretValue      { return get[SecretValue](s, key) }
func (s *Set) Strings(key string) []string        { return get[[]string](s, key) }
func (s *Set) Addrs(key string) []netip.Addr      { return get[[]netip.Addr](s, key) }
func (s *Set) Prefixes(key string) []netip.Prefix { return get[[]netip.Prefix](s, key) }

// Data returns the answers nested by dotted key, for text/template. Every
// question is there. One without an answer is false in {{if}}: "", 0, false, an
// empty list, or nil for addresses, interfaces and disks.
func (s *Set) Data() map[string]any {
	root := map[string]any{}
	for i := range s.qs {
		q := &s.qs[i]
		parts := strings.Split(q.Key, ".")
		m := root
		for _, p := range parts[:len(parts)-1] {
			sub, ok := m[p].(map[string]any)
			if !ok {
				sub = map[string]any{}
				m[p] = sub
			}
			m = sub
		}
		v, ok := s.Get(q.Key)
		if !ok {
			v = zero(q)
		}
		m[parts[len(parts)-1]] = v
	}
	return root
}

func zero(q *Question) any {
	switch {
	case q.List:
		return typedList(q, nil)
	case q.Hidden():
		return SecretValue("")
	}
	switch q.Type {
	case IP, CIDR, NIC, Net, Disks:
		return nil // a struct would be true in {{if}}
	case VLAN, Port, Int, Size:
		return int64(0)
	case Bool:
		return false
	}
	return ""
}

// Redacted returns the answers by dotted key as strings, numbers, booleans,
// lists of them, and DiskWish, with "[secret]" for secrets: for logs and
// result.json.
func (s *Set) Redacted() map[string]any {
	out := map[string]any{}
	for i := range s.qs {
		if v, ok := s.Get(s.qs[i].Key); ok {
			out[s.qs[i].Key] = plain(v)
		}
	}
	return out
}

// plain reduces a canonical value to what TOML and JSON have; secrets redacted.
func plain(v any) any {
	switch v := v.(type) {
	case string, int64, bool, DiskWish:
		return v
	}
	items, list := elems(v)
	if !list {
		return fmt.Sprint(v)
	}
	out := make([]any, len(items))
	for i, item := range items {
		out[i] = plain(item)
	}
	return out
}

// Format prints the redacted answers whatever the verb.
func (s *Set) Format(f fmt.State, _ rune) {
	if s == nil {
		io.WriteString(f, "<nil>")
		return
	}
	fmt.Fprint(f, s.Redacted())
}

// LogValue is Redacted.
func (s *Set) LogValue() slog.Value { return slog.AnyValue(s.Redacted()) }
