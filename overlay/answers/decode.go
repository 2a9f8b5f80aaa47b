package answers

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/internal/text"
)

// flaw is one thing wrong with a value: where inside it (list index or field, ""
// for the value itself) and what.
type flaw struct {
	sub []string
	msg string
}

// decode turns a value as TOML, JSON or a caller has it into q's canonical one.
func decode(q *Question, v any) (any, []flaw) {
	if !q.List {
		return decodeOne(q, v)
	}
	items, ok := elems(v)
	if !ok {
		return nil, []flaw{{msg: fmt.Sprintf("found %s; expected a list, as %s", kindOf(v), exampleTOML(q))}}
	}
	var flaws []flaw
	vals := make([]any, len(items))
	one := *q
	one.List = false
	for i, item := range items {
		val, fl := decodeOne(&one, item)
		for _, f := range fl {
			f.sub = append([]string{Index(i)}, f.sub...)
			flaws = append(flaws, f)
		}
		vals[i] = val
	}
	if flaws != nil {
		return nil, flaws
	}
	return typedList(q, vals), nil
}

func decodeOne(q *Question, v any) (any, []flaw) {
	var val any
	var err error
	switch q.Type {
	case Disks:
		return decodeDisks(v)
	case Bool:
		b, ok := v.(bool)
		if !ok {
			err = mismatch(v, "true or false")
		}
		val = b
	case VLAN, Port, Int:
		n, ok := integer(v)
		if !ok {
			err = mismatch(v, "a whole number without quotes")
		} else {
			err = checkNumber(q, n)
		}
		val = n
	case Size:
		if n, ok := integer(v); ok {
			val, err = n, checkNumber(q, n)
			if n < 0 {
				err = fmt.Errorf("%d is no size; expected %s", n, q.Expected())
			}
			break
		}
		val, err = decodeString(q, v)
	default:
		val, err = decodeString(q, v)
	}
	if err != nil {
		return nil, []flaw{{msg: err.Error()}}
	}
	return val, nil
}

func decodeString(q *Question, v any) (any, error) {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case SecretValue:
		s = v.Reveal()
	case netip.Addr:
		s = v.String()
	case netip.Prefix:
		s = v.String()
	case NICMatch:
		if q.Type == NIC {
			return canonicalNIC(v)
		}
		s = v.String()
	default:
		exp := q.Expected()
		if _, number := integer(v); number || q.Type == Text || q.Hidden() {
			exp += ", in quotes"
		}
		return nil, mismatch(v, exp)
	}
	return stringScalar(q, s)
}

func mismatch(v any, expected string) error {
	return fmt.Errorf("found %s; expected %s", kindOf(v), expected)
}

// decodeDisks reads the [disks] table. An empty one is no answer: nil, nil.
func decodeDisks(v any) (any, []flaw) {
	if w, ok := v.(DiskWish); ok {
		return canonicalDisks(w)
	}
	if s, ok := v.(string); ok {
		w, err := parseDisksText(s)
		if err != nil {
			return nil, []flaw{{msg: err.Error()}}
		}
		return w, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, []flaw{{msg: fmt.Sprintf(`found %s; expected a table, as mirror = ["serial:A", "serial:B"]`, kindOf(v))}}
	}
	if len(m) == 0 {
		return nil, nil
	}
	var w DiskWish
	var flaws []flaw
	for _, k := range slices.Sorted(maps.Keys(m)) {
		flaws = append(flaws, diskField(&w, k, m[k])...)
	}
	if flaws != nil {
		return nil, flaws
	}
	return canonicalDisks(w)
}

var diskFields = []string{"mirror", "spares", "rule", "wipe", "swap"}

func diskField(w *DiskWish, key string, v any) []flaw {
	bad := func(expected string) []flaw {
		return []flaw{{[]string{key}, fmt.Sprintf("found %s; expected %s", kindOf(v), expected)}}
	}
	var ok bool
	switch key {
	case "mirror":
		return diskList(&w.Mirror, key, v)
	case "spares":
		return diskList(&w.Spares, key, v)
	case "rule":
		if w.Rule, ok = v.(string); !ok {
			return bad(strconv.Quote(RuleLargestEqual))
		}
	case "wipe":
		if w.Wipe, ok = v.(bool); !ok {
			return bad("true or false")
		}
	case "swap":
		if n, isInt := integer(v); isInt {
			v = strconv.FormatInt(n, 10)
		}
		s, ok := v.(string)
		if !ok {
			return bad(`a size, as "2g", or "none"`)
		}
		n, err := parseSwap(s)
		if err != nil {
			return []flaw{{[]string{key}, err.Error()}}
		}
		w.Swap = n
	default:
		return []flaw{{[]string{key}, "unknown key" + suggest(key, diskFields)}}
	}
	return nil
}

func diskList(into *[]string, key string, v any) (flaws []flaw) {
	items, ok := elems(v)
	if !ok {
		return []flaw{{[]string{key}, fmt.Sprintf(`found %s; expected a list, as ["serial:A", "serial:B"]`, kindOf(v))}}
	}
	for i, item := range items {
		s, ok := item.(string)
		if !ok {
			flaws = append(flaws, flaw{[]string{key, Index(i)}, fmt.Sprintf("found %s; expected a disk in quotes, as \"serial:A\"", kindOf(item))})
			continue
		}
		d, err := parseDisk(s)
		if err != nil {
			flaws = append(flaws, flaw{[]string{key, Index(i)}, err.Error()})
		}
		*into = append(*into, d)
	}
	return flaws
}

func canonicalDisks(w DiskWish) (any, []flaw) {
	if err := w.Validate(); err != nil {
		return nil, []flaw{{msg: err.Error()}}
	}
	for _, list := range []*[]string{&w.Mirror, &w.Spares} {
		*list = slices.Clone(*list)
		for i, d := range *list {
			(*list)[i], _ = parseDisk(d) // Validate has accepted it
		}
	}
	return w, nil
}

// integer accepts every form a whole number comes in from TOML, JSON and Go.
func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int:
		return int64(v), true
	case json.Number:
		n, err := v.Int64()
		return n, err == nil
	case float64: // encoding/json without UseNumber; TOML floats such as 5.0 pass too
		n := int64(v)
		return n, float64(n) == v && n > -1<<53 && n < 1<<53
	}
	return 0, false
}

// elems returns the items of a list in any form.
func elems(v any) ([]any, bool) {
	switch v := v.(type) {
	case []any:
		return v, true
	case []string:
		return boxed(v), true
	case []int64:
		return boxed(v), true
	case []netip.Addr:
		return boxed(v), true
	case []netip.Prefix:
		return boxed(v), true
	case []NICMatch:
		return boxed(v), true
	case []SecretValue:
		return boxed(v), true
	}
	return nil, false
}

func boxed[T any](s []T) []any {
	out := make([]any, len(s))
	for i, v := range s {
		out[i] = v
	}
	return out
}

// typedList makes the canonical slice for a list question. With no values it is
// a typed nil.
func typedList(q *Question, vals []any) any {
	switch q.Type {
	case IP:
		return unboxed[netip.Addr](vals)
	case CIDR, Net:
		return unboxed[netip.Prefix](vals)
	case NIC:
		return unboxed[NICMatch](vals)
	case VLAN, Port, Int, Size:
		return unboxed[int64](vals)
	}
	if q.Hidden() {
		return unboxed[SecretValue](vals)
	}
	return unboxed[string](vals)
}

func unboxed[T any](vals []any) []T {
	var out []T
	for _, v := range vals {
		out = append(out, v.(T))
	}
	return out
}

// kindOf names a value's kind for messages, never the value.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case string, SecretValue:
		return "a string"
	case bool:
		return "true or false"
	case float64:
		return "a number with a point"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "an array of tables"
	}
	if _, ok := integer(v); ok {
		return "a number"
	}
	if _, ok := elems(v); ok {
		return "a list"
	}
	return fmt.Sprintf("a %T", v)
}

// suggest returns `; did you mean x?` for the nearest of names, "" when none is
// near.
func suggest(name string, names []string) string {
	best, dist := "", 1+max(1, len(name)/4)
	for _, n := range names {
		if d := text.Distance(name, n); d < dist {
			best, dist = n, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// dotted joins a key's parts for people, quoting those TOML has to quote.
func dotted(path []string) string {
	var b strings.Builder
	for i, p := range path {
		if n, ok := strings.CutPrefix(p, indexMark); ok {
			b.WriteString("[" + n + "]")
			continue
		}
		if i > 0 {
			b.WriteByte('.')
		}
		if p == "" || strings.ContainsFunc(p, func(r rune) bool { return r > 0x7f || !bareByte(byte(r)) }) {
			p = strconv.Quote(p)
		}
		b.WriteString(p)
	}
	return b.String()
}
