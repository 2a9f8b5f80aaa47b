package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// maxSize is the largest manifest in bytes.
const maxSize = 16 << 20

// Encode returns m in its canonical form: indented JSON in the order of the
// structs, with a newline at its end. m must be valid.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	if b.Len() > maxSize {
		return nil, fmt.Errorf("encode manifest: larger than %d MiB", maxSize>>20)
	}
	return b.Bytes(), nil
}

// Decode reads one manifest and validates it. Keys that are unknown or there
// twice, and anything behind the manifest, are errors.
func Decode(r io.Reader) (*Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	m, err := decode(data)
	if err != nil {
		return nil, diag.Input(fmt.Errorf("manifest: %w", err))
	}
	return m, nil
}

func decode(data []byte) (*Manifest, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("larger than %d MiB", maxSize>>20)
	}
	var probe struct {
		Schema *int `json:"schema"`
	}
	if err := json.Unmarshal(data, &probe); err != nil {
		return nil, syntax(data, err)
	}
	switch {
	case probe.Schema == nil:
		return nil, errors.New("schema is missing; this is no manifest of an image")
	case *probe.Schema > Schema:
		return nil, diag.Hint(fmt.Errorf("schema %d is newer than this program knows (%d); use a newer riginstall", *probe.Schema, Schema),
			"use the rigimage or riginstall that made the image, or a newer one")
	}
	if err := uniqueKeys(data); err != nil {
		return nil, err
	}
	var m Manifest
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	dec.UseNumber() // for Default, the only value without a type
	if err := dec.Decode(&m); err != nil {
		return nil, syntax(data, err)
	}
	for i := range m.Questions {
		q := &m.Questions[i]
		var err error
		if q.Default, err = plainDefault(q.Default); err != nil {
			return nil, fmt.Errorf("question %s: default: %w", q.Key, err)
		}
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return &m, nil
}

// syntax adds the line to what encoding/json says.
func syntax(data []byte, err error) error {
	var off int64
	var se *json.SyntaxError
	var te *json.UnmarshalTypeError
	switch {
	case errors.As(err, &se):
		off = se.Offset
	case errors.As(err, &te):
		off = te.Offset
		err = fmt.Errorf("%s: found %s; expected %s", cmp.Or(te.Field, "manifest"), te.Value, jsonKind(te.Type.Kind()))
	default:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	off = min(max(off, 0), int64(len(data)))
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:off], []byte("\n")), err)
}

func jsonKind(k reflect.Kind) string {
	switch k {
	case reflect.Struct, reflect.Map:
		return "object"
	case reflect.Slice:
		return "array"
	case reflect.Int, reflect.Int64, reflect.Pointer:
		return "whole number"
	}
	return k.String()
}

// plainDefault turns numbers into int64, as TOML has them.
func plainDefault(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			return nil, fmt.Errorf("%s is no whole number", v)
		}
		return n, nil
	case []any:
		for i := range v {
			if v[i], err = plainDefault(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range v {
			if v[k], err = plainDefault(v[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// uniqueKeys reports an object with one key twice, which encoding/json would
// merge, in any case of letters, and everything behind the first value. data is
// valid JSON.
func uniqueKeys(data []byte) error {
	type level struct {
		keys  map[string]bool // nil in arrays
		isKey bool            // a key comes next
	}
	var stack []level
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return syntax(data, err)
		}
		top := len(stack) - 1
		switch d, _ := tok.(json.Delim); d {
		case '{':
			stack = append(stack, level{keys: map[string]bool{}, isKey: true})
			continue
		case '[':
			stack = append(stack, level{})
			continue
		case '}', ']':
			stack = stack[:top]
			top--
		default:
			if top >= 0 && stack[top].isKey {
				key := strings.ToLower(tok.(string))
				if stack[top].keys[key] {
					line := 1 + bytes.Count(data[:dec.InputOffset()], []byte("\n"))
					return fmt.Errorf("line %d: key %q is there twice", line, tok)
				}
				stack[top].keys[key] = true
				stack[top].isKey = false
				continue
			}
		}
		if top >= 0 && stack[top].keys != nil {
			stack[top].isKey = true
		}
	}
}
