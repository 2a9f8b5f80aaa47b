package answers

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/rig-freebsd/rig/internal/diag"
)

// maxFile is the largest answers file in bytes.
const maxFile = 256 << 10

// Source is one place that answers come from: a TOML file, or values by question
// key ("lan.inet"; fields of disks as "disks.mirror"), or both, where values win.
type Source struct {
	Name   string // shown in problems and by Set.Origin: "answers.toml", "kenv"
	Data   []byte // TOML
	Values map[string]string

	// Tables, when there are any, say that Data has the answers not at its top
	// but in these tables, weakest first. Others are tables that may be there and
	// are not read. So one file holds the answers of several servers.
	Tables, Others []string
}

// Resolve merges the answers of sources, weakest first, per question; all of
// [disks] is one answer, so that one source's wipe never meets another's disks.
// Every problem of every source is reported, as [diag.Problems]. That required
// answers are missing is none; see [Set.Missing]. With an error, the Set has
// what could be read.
func Resolve(qs []Question, sources ...Source) (*Set, error) {
	r := resolver{Set: newSet(qs), ps: &diag.Problems{Source: map[string]string{}}}
	for i := range r.qs {
		q := &r.qs[i]
		for _, f := range r.reset(q) {
			r.ps.Add(diag.Problem{Key: dotted(append([]string{q.Key}, f.sub...)), Msg: "default: " + f.msg})
		}
	}
	for _, src := range sources {
		r.src, r.pos = src, nil
		if len(src.Data) > 0 {
			r.file()
		}
		if len(src.Values) > 0 {
			r.pos = nil
			r.values()
		}
	}
	for _, c := range r.conflicts() {
		r.ps.Add(r.problemOf(c))
	}
	return r.Set, r.ps.Err()
}

type resolver struct {
	*Set
	ps     *diag.Problems
	src    Source
	pos    *Positions // of src.Data while it is read, nil for Values
	prefix []string   // the one of src.Tables that is read
}

// file reads r.src.Data.
func (r *resolver) file() {
	name := r.src.Name
	if len(r.src.Data) > maxFile {
		r.ps.Add(diag.Problem{File: name, Msg: fmt.Sprintf("larger than %d KiB; that is no answers file", maxFile>>10)})
		return
	}
	data := strings.TrimPrefix(string(r.src.Data), "\ufeff")
	r.pos = Locate([]byte(data))
	text, hidden := r.pos.masked(r.visible)
	r.ps.Source[name], r.texts[name] = text, text
	var m map[string]any
	if _, err := toml.Decode(data, &m); err != nil {
		r.ps.Add(syntaxProblem(name, r.pos, err, hidden))
		return
	}
	if v, ok := m["schema"]; ok {
		delete(m, "schema")
		switch n, isInt := integer(v); {
		case !isInt || n < 1:
			r.add([]string{"schema"}, fmt.Sprintf("found %s; expected schema = %d", kindOf(v), Schema))
		case n > Schema:
			program := "the riginstall of a newer image"
			if r.src.Tables != nil {
				program = "a newer rigimage"
			}
			r.add([]string{"schema"}, fmt.Sprintf("%d is newer than this program knows (%d); use %s", n, Schema, program))
			return
		}
	}
	if r.src.Tables == nil {
		r.walk(nil, m)
		return
	}
	r.tables(m)
}

// tables takes the answers from r.src.Tables.
func (r *resolver) tables(m map[string]any) {
	known := slices.Concat(r.src.Tables, r.src.Others)
	slices.Sort(known)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(known, k) {
			p := diag.Problem{File: r.src.Name, Key: dotted([]string{k}), Msg: "unknown table; known here are " + strings.Join(known, ", ")}
			p.Line, p.Col = r.pos.Key(k)
			r.ps.Add(p)
		}
	}
	for _, t := range r.src.Tables {
		v, there := m[t]
		sub, ok := v.(map[string]any)
		switch {
		case ok:
			r.prefix = []string{t}
			r.walk(nil, sub)
			r.prefix = nil
		case there:
			r.add([]string{t}, fmt.Sprintf("found %s; expected a table, as [%s]", kindOf(v), t))
		}
	}
}

// syntaxProblem is what the TOML parser says, unless it may quote a hidden value.
func syntaxProblem(name string, pos *Positions, err error, hidden func(off int) bool) diag.Problem {
	p := diag.Problem{File: name, Msg: err.Error()}
	var pe toml.ParseError
	if errors.As(err, &pe) {
		off := min(max(pe.Position.Start, 0), len(pos.text))
		p.Line, p.Col = pos.lineCol(off)
		p.Msg = pe.Message
		if hidden(off) || hidden(off-1) {
			p.Msg = "not a TOML value; expected strings in quotes, closed on the same line"
		}
	}
	return p
}

// visible reports whether a value may be shown: that of a known question which
// is no secret, or a table on the way to one.
func (r *resolver) visible(path []string) bool {
	if len(path) > 0 && (slices.Contains(r.src.Tables, path[0]) || slices.Contains(r.src.Others, path[0])) {
		if path = path[1:]; len(path) == 0 {
			return true
		}
	}
	key := strings.Join(path, ".")
	for i := range r.qs {
		q := &r.qs[i]
		if key == q.Key || q.Type == Disks && strings.HasPrefix(key, q.Key+".") {
			return !q.Hidden()
		}
	}
	return key == "schema" || r.isTable(key)
}

// isTable reports whether some question's key is below key.
func (r *resolver) isTable(key string) bool {
	return slices.ContainsFunc(r.qs, func(q Question) bool { return strings.HasPrefix(q.Key, key+".") })
}

// walk takes the answers from a table of r.src.
func (r *resolver) walk(path []string, m map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		at := append(slices.Clone(path), k)
		key := strings.Join(at, ".")
		if strings.Contains(k, ".") {
			r.unknown(at)
			continue
		}
		if q := find(r.qs, key); q != nil {
			v, flaws := decode(q, m[k])
			r.take(q, v, flaws)
			continue
		}
		if !r.isTable(key) {
			r.unknown(at)
			continue
		}
		sub, ok := m[k].(map[string]any)
		if !ok {
			r.add(at, fmt.Sprintf("found %s; expected a table, as [%s]", kindOf(m[k]), dotted(r.at(at))))
			continue
		}
		r.walk(at, sub)
	}
}

// values takes the answers from r.src.Values.
func (r *resolver) values() {
	disks := map[string]map[string]any{} // key of a disks question → its fields
	for _, key := range slices.Sorted(maps.Keys(r.src.Values)) {
		text := r.src.Values[key]
		if q := find(r.qs, key); q != nil {
			v, err := ParseText(q, text)
			var flaws []flaw
			if err != nil {
				flaws = []flaw{{msg: err.Error()}}
			}
			r.take(q, v, flaws)
			continue
		}
		table, field := key, ""
		if i := strings.LastIndexByte(key, '.'); i >= 0 {
			table, field = key[:i], key[i+1:]
		}
		if q := find(r.qs, table); q == nil || q.Type != Disks {
			r.unknown(strings.Split(key, "."))
			continue
		}
		if _, both := r.src.Values[table]; both {
			r.add([]string{key}, "both "+table+" and "+key+"; expected one of them")
			continue
		}
		if disks[table] == nil {
			disks[table] = map[string]any{}
		}
		disks[table][field] = diskValue(field, text)
	}
	for _, key := range slices.Sorted(maps.Keys(disks)) {
		q := find(r.qs, key)
		v, flaws := decode(q, disks[key])
		r.take(q, v, flaws)
	}
}

// diskValue is the text of a field of disks as TOML would have it.
func diskValue(field, text string) any {
	switch field {
	case "mirror", "spares":
		return splitList(text)
	case "wipe":
		if b, err := textScalar(&Question{Type: Bool}, text); err == nil {
			return b
		}
	}
	return text
}

// take stores one answer or its flaws. A flawed one also removes a weaker one,
// which nobody meant to be judged.
func (r *resolver) take(q *Question, v any, flaws []flaw) {
	path := strings.Split(q.Key, ".")
	for _, f := range flaws {
		r.add(append(slices.Clone(path), f.sub...), f.msg)
	}
	switch {
	case flaws != nil:
		delete(r.vals, q.Key)
	case v != nil:
		r.vals[q.Key] = answer{v: v, origin: r.src.Name, pos: r.pos, path: r.at(path)}
	}
}

func (r *resolver) unknown(path []string) {
	keys := make([]string, len(r.qs))
	for i := range r.qs {
		keys[i] = r.qs[i].Key
	}
	p := diag.Problem{File: r.src.Name, Key: dotted(r.at(path)), Msg: "unknown key" + suggest(strings.Join(path, "."), keys)}
	if r.pos != nil {
		p.Line, p.Col = r.pos.Key(r.at(path)...)
	}
	r.ps.Add(p)
}

// add reports a problem with the value at path of the current source.
func (r *resolver) add(path []string, msg string) {
	r.ps.Add(place(r.src.Name, r.pos, r.at(path), msg))
}

// at is path from the top of the source.
func (r *resolver) at(path []string) []string { return slices.Concat(r.prefix, path) }

// place makes a problem of a value, or of the nearest key around it that stands
// in the text.
func place(file string, pos *Positions, path []string, msg string) diag.Problem {
	p := diag.Problem{File: file, Key: dotted(path), Msg: msg}
	if pos != nil {
		for n := len(path); n > 0 && p.Line == 0; n-- {
			p.Line, p.Col = pos.Value(path[:n]...)
		}
	}
	return p
}
