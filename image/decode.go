package image

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// decoder lays a TOML document over structs and reports unknown keys and wrong
// types, each with its place, all at once: the toml package stops at the first
// wrong type and has no places for unknown keys.
type decoder struct {
	file     string
	text     []byte
	where    *answers.Positions
	problems diag.Problems
}

func newDecoder(file string, text []byte) *decoder {
	return &decoder{file: file, text: text, where: answers.Locate(text),
		problems: diag.Problems{Source: map[string]string{file: string(text)}}}
}

func (d *decoder) add(msg string, path ...string) {
	line, col := d.where.Value(path...)
	for n := len(path); line == 0 && n > 0; n-- { // an absent key is shown at its table
		line, col = d.where.Key(path[:n]...)
	}
	d.problems.Add(diag.Problem{File: d.file, Line: line, Col: col, Key: keyName(path), Msg: msg})
}

func (d *decoder) require(ok bool, msg string, path ...string) {
	if !ok {
		d.add(msg, path...)
	}
}

// keyName prints a path for people: "jail[2].users[0].uid".
func keyName(path []string) string {
	mark := strings.TrimSuffix(answers.Index(0), "0")
	var b strings.Builder
	for i, p := range path {
		if n, ok := strings.CutPrefix(p, mark); ok {
			b.WriteString("[" + n + "]")
			continue
		}
		if i > 0 {
			b.WriteByte('.')
		}
		if p == "" || strings.ContainsFunc(p, unicode.IsControl) {
			p = strconv.Quote(p)
		}
		b.WriteString(p)
	}
	return b.String()
}

// decode fills the struct v points to.
func (d *decoder) decode(v any) {
	var doc map[string]any
	if _, err := toml.Decode(string(d.text), &doc); err != nil {
		pr := diag.Problem{File: d.file, Msg: err.Error()}
		var pe toml.ParseError
		if errors.As(err, &pe) {
			pr.Line, pr.Col, pr.Msg = pe.Position.Line, pe.Position.Col, pe.Message
		}
		d.problems.Add(pr)
		return
	}
	d.table(doc, reflect.ValueOf(v).Elem(), nil)
}

func (d *decoder) table(doc map[string]any, v reflect.Value, path []string) {
	fields := map[string]reflect.Value{}
	var names []string
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("toml"), ",")
		fields[name] = v.Field(i)
		names = append(names, name)
	}
	for _, key := range sortedKeys(doc) {
		here := append(slices.Clone(path), key)
		f, ok := fields[key]
		if !ok {
			d.unknown(names, here)
			continue
		}
		d.value(doc[key], f, here)
	}
}

func (d *decoder) unknown(names, path []string) {
	line, col := d.where.Key(path...)
	slices.Sort(names)
	d.problems.Add(diag.Problem{File: d.file, Line: line, Col: col, Key: keyName(path),
		Msg: "unknown key; known here are " + strings.Join(names, ", ")})
}

func (d *decoder) value(x any, v reflect.Value, path []string) {
	switch v.Kind() {
	case reflect.Interface:
		v.Set(reflect.ValueOf(x))
	case reflect.String:
		if s, ok := x.(string); ok {
			v.SetString(s)
			return
		}
		d.add("expected a string in quotes", path...)
	case reflect.Bool:
		if b, ok := x.(bool); ok {
			v.SetBool(b)
			return
		}
		d.add("expected true or false", path...)
	case reflect.Int, reflect.Int64:
		d.integer(x, v, path)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(x, v.Elem(), path)
	case reflect.Struct:
		if t, ok := x.(map[string]any); ok {
			d.table(t, v, path)
			return
		}
		d.add("expected a table", path...)
	case reflect.Map:
		d.stringMap(x, v, path)
	case reflect.Slice:
		d.slice(x, v, path)
	default:
		panic("image: no way to decode " + v.Type().String())
	}
}

func (d *decoder) integer(x any, v reflect.Value, path []string) {
	if n, ok := x.(int64); ok {
		v.SetInt(n)
		return
	}
	s, isText := x.(string)
	if v.Type() != reflect.TypeFor[Size]() {
		d.add("expected a whole number", path...)
		return
	}
	if isText {
		q := answers.Question{Key: "size", Type: answers.Size}
		if n, err := answers.ParseText(&q, s); err == nil {
			v.SetInt(n.(int64))
			return
		}
	}
	d.add("expected a size, as \"512m\" or \"2g\"", path...)
}

func (d *decoder) stringMap(x any, v reflect.Value, path []string) {
	t, ok := x.(map[string]any)
	if !ok {
		d.add("expected a table", path...)
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, key := range sortedKeys(t) {
		s, ok := t[key].(string)
		if !ok {
			d.add("expected a string in quotes", append(slices.Clone(path), key)...)
			continue
		}
		v.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf(s))
	}
}

func (d *decoder) slice(x any, v reflect.Value, path []string) {
	var items []any
	switch list := x.(type) {
	case []any:
		items = list
	case []map[string]any:
		for _, t := range list {
			items = append(items, t)
		}
	default:
		d.add(fmt.Sprintf("expected a list in brackets, not %v", x), path...)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
	for i, it := range items {
		d.value(it, v.Index(i), append(slices.Clone(path), answers.Index(i)))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
