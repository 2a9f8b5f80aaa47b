package reader

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
)

var (
	assignRE = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.%/-]*)[ \t]*=[ \t]*(.*)$`)
	wordRE   = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_.-]*)[ \t]+([^{;=]+)$`)
	wordsRE  = regexp.MustCompile(`(\.conf|\.cfg|_config)(\.tmpl)?$`) // names of files that may have wordRE's form
	secretRE = regexp.MustCompile(`(?i)pass|secret|token|psk|private|(^|_)key($|_)`)
)

// notShown stands for a value that may be a secret.
const notShown = "(not shown)"

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// diffSettings compares two files of settings, key by key; nil when one is none.
func diffSettings(name, old, now string) []Change {
	forms := []*regexp.Regexp{assignRE}
	if wordsRE.MatchString(name) {
		forms = append(forms, wordRE)
	}
	for _, re := range forms {
		a, b := settings(old, re), settings(now, re)
		if a == nil || b == nil {
			continue
		}
		all := maps.Clone(a)
		maps.Copy(all, b)
		var out []Change
		for _, k := range slices.Sorted(maps.Keys(all)) {
			if x, y := a[k], b[k]; x != y {
				out = append(out, hide(Change{k, x, y}, secretRE.MatchString(k)))
			}
		}
		return out
	}
	return nil
}

// hide leaves only whether there was a value.
func hide(c Change, secret bool) Change {
	if secret && c.Old != "" {
		c.Old = notShown
	}
	if secret && c.New != "" {
		c.New = notShown
	}
	return c
}

// settings reads a file whose every line is a comment or re's key and value: values
// by key, without quotes. Values that the shell would continue on the next line are
// joined. nil when the file is none, or has a key twice. An empty file is one.
func settings(text string, re *regexp.Regexp) map[string]string {
	out := map[string]string{}
	list := lines(text)
	for i := 0; i < len(list); i++ {
		l := strings.TrimSpace(list[i])
		if l == "" || l[0] == '#' || strings.HasPrefix(l, "{{") {
			continue
		}
		for continues(l) && i+1 < len(list) {
			i++
			l = strings.TrimSuffix(l, `\`) + " " + strings.TrimSpace(list[i])
		}
		m := re.FindStringSubmatch(strings.TrimPrefix(l, "export "))
		if m == nil {
			return nil
		}
		if _, twice := out[m[1]]; twice {
			return nil
		}
		out[m[1]] = value(m[2])
	}
	return out
}

// continues reports whether the shell would read on: a quote is open, or a backslash ends
// the line.
func continues(l string) bool {
	quote := rune(0)
	for _, r := range l {
		switch {
		case quote == 0 && (r == '"' || r == '\''):
			quote = r
		case r == quote:
			quote = 0
		}
	}
	return quote == '"' || strings.HasSuffix(l, `\`)
}

// value is a value without comment and quotes.
func value(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 1 && (s[0] == '"' || s[0] == '\'') {
		if end := strings.IndexByte(s[1:], s[0]); end >= 0 && (end+2 == len(s) || strings.HasPrefix(strings.TrimSpace(s[end+2:]), "#")) {
			return s[1 : end+1]
		}
		return s
	}
	if i := strings.Index(s, " #"); i >= 0 {
		s = s[:i]
	}
	return strings.TrimSpace(s)
}

// diffManifests compares what is to be made of a machine: pool, datasets, accounts,
// jails, boot and questions. Layers, files, packages and release are compared by
// themselves.
func diffManifests(a, b *manifest.Manifest) ([]Change, error) {
	x, err := wishesOf(a)
	if err != nil {
		return nil, err
	}
	y, err := wishesOf(b)
	if err != nil {
		return nil, err
	}
	out := diffValues([]Change{}, "", x, y)
	secret := map[string]bool{}
	for _, m := range []*manifest.Manifest{a, b} {
		for _, q := range m.Questions {
			if key := "questions." + q.Key; q.Hidden() && q.Default != nil {
				secret[key], secret[key+".default"] = true, true
			}
		}
	}
	for i, c := range out {
		out[i] = hide(c, secret[c.Key])
	}
	return out, nil
}

func wishesOf(m *manifest.Manifest) (any, error) {
	c := *m
	c.Schema, c.Image, c.FreeBSD, c.Layers, c.Files = 0, "", manifest.FreeBSD{}, nil, nil
	c.Host.Packages = nil
	c.Jails = slices.Clone(m.Jails)
	for i := range c.Jails {
		c.Jails[i].Packages = nil
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	return v, d.Decode(&v)
}

// diffValues compares two JSON values. Lists of objects are compared by their names.
func diffValues(out []Change, at string, a, b any) []Change {
	x, xnames := object(a)
	y, ynames := object(b)
	if x == nil || y == nil {
		if s, t := show(a), show(b); s != t {
			out = append(out, Change{at, s, t})
		}
		return out
	}
	key := func(k string) string { return strings.TrimPrefix(at+"."+k, ".") }
	for _, k := range xnames {
		out = diffValues(out, key(k), x[k], y[k])
	}
	for _, k := range ynames {
		if _, ok := x[k]; !ok {
			out = diffValues(out, key(k), nil, y[k])
		}
	}
	if _, list := a.([]any); list {
		both := func(in map[string]any) func(string) bool {
			return func(k string) bool { _, ok := in[k]; return !ok }
		}
		if p, q := slices.DeleteFunc(xnames, both(y)), slices.DeleteFunc(ynames, both(x)); !slices.Equal(p, q) {
			out = append(out, Change{key("(order)"), strings.Join(p, " "), strings.Join(q, " ")})
		}
	}
	return out
}

// object is a JSON object, or a list of objects by their names, with the names in
// order; nil for other values.
func object(v any) (map[string]any, []string) {
	switch v := v.(type) {
	case map[string]any:
		return v, slices.Sorted(maps.Keys(v))
	case []any:
		out := map[string]any{}
		var names []string
		for _, e := range v {
			m, _ := e.(map[string]any)
			name, _ := m["name"].(string)
			if name == "" {
				name, _ = m["key"].(string)
			}
			if _, twice := out[name]; name == "" || twice {
				return nil, nil
			}
			out[name], names = e, append(names, name)
		}
		if len(v) > 0 {
			return out, names
		}
	}
	return nil, nil
}

// show is a JSON value on one line: lists of words have blanks between them.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []any:
		var words []string
		for _, e := range v {
			words = append(words, show(e))
		}
		return strings.Join(words, " ")
	case map[string]any:
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return err.Error()
		}
		return strings.TrimSuffix(b.String(), "\n")
	}
	return fmt.Sprint(v)
}
