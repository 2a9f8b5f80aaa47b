package pkgs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// meta is what matters of a repository's meta.conf (pkg_repo_meta.c).
type meta struct {
	packing         string // suffix of archives that are not .pkg: "tzst"
	data            string // member of dataArchive
	dataArchive     string // without its suffix
	manifests       string // member of manifestsArchive
	manifestArchive string
}

// defaultMeta describes a repository without meta.conf.
func defaultMeta() meta {
	return meta{packing: "tzst", data: "data", dataArchive: "data", manifests: "packagesite.yaml", manifestArchive: "packagesite"}
}

const (
	metaFile = "meta.conf"
	maxMeta  = 1 << 20 // bytes
)

// parseMeta reads meta.conf of version 1 or 2.
func parseMeta(text []byte) (meta, error) {
	m := defaultMeta()
	keys, err := parseUCL(text)
	if err != nil {
		return meta{}, fmt.Errorf("%s: %w", metaFile, err)
	}
	if v := keys["version"]; v != "1" && v != "2" {
		return meta{}, fmt.Errorf("%s: version %q is neither 1 nor 2", metaFile, v)
	}
	named := func(field *string, key string) {
		if v, ok := keys[key]; ok {
			*field = v
		}
	}
	named(&m.packing, "packing_format")
	named(&m.data, "data")
	named(&m.manifests, "manifests")
	m.dataArchive = strings.TrimSuffix(m.data, path.Ext(m.data))
	m.manifestArchive = strings.TrimSuffix(m.manifests, path.Ext(m.manifests))
	named(&m.dataArchive, "data_archive")
	named(&m.manifestArchive, "manifests_archive")
	for _, name := range []string{m.packing, m.data, m.dataArchive, m.manifests, m.manifestArchive} {
		if !fs.ValidPath(name) || strings.ContainsAny(name, "/\\") || name[0] == '.' {
			return meta{}, fmt.Errorf("%s: %q is not a file name", metaFile, name)
		}
	}
	return m, nil
}

// parseUCL reads the scalars at the top of a UCL or JSON text: key = value, key:
// value, key value; strings in double quotes; comments. Nested objects and arrays
// are passed over; keys become lower case. Left out: macros, variables, heredocs,
// single quotes.
func parseUCL(text []byte) (map[string]string, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	p := ucl{text: string(text)}
	keys := map[string]string{}
	err := p.object(keys, 0)
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", 1+strings.Count(p.text[:p.pos], "\n"), err)
	}
	return keys, nil
}

type ucl struct {
	text string
	pos  int
}

const maxUCLDepth = 32

// peek passes over white space, comments and the bytes of also; 0 is the end.
func (p *ucl) peek(also string) byte {
	for p.pos < len(p.text) {
		rest := p.text[p.pos:]
		switch {
		case strings.IndexByte(" \t\r\n", rest[0]) >= 0 || strings.IndexByte(also, rest[0]) >= 0:
			p.pos++
		case rest[0] == '#':
			n := strings.IndexByte(rest, '\n')
			if n < 0 {
				n = len(rest)
			}
			p.pos += n
		case strings.HasPrefix(rest, "/*"):
			n := strings.Index(rest, "*/")
			if n < 0 {
				p.pos = len(p.text)
				return 0
			}
			p.pos += n + 2
		default:
			return rest[0]
		}
	}
	return 0
}

// object reads key and value pairs up to the end or, below the top, up to the brace.
func (p *ucl) object(keys map[string]string, depth int) error {
	if depth > maxUCLDepth {
		return errors.New("nested too deeply")
	}
	braced := depth > 0
	if depth == 0 && p.peek("") == '{' {
		p.pos++
		braced = true
	}
	for {
		switch c := p.peek(",;"); {
		case c == '}' && braced:
			p.pos++
			if depth == 0 && p.peek(",;") != 0 {
				return errors.New("text behind the last brace")
			}
			return nil
		case c == 0:
			if braced {
				return errors.New("a brace is missing")
			}
			return nil
		}
		key, err := p.scalar(" \t\r\n=:{[")
		if err != nil {
			return err
		}
		value, scalar, err := p.value(depth)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if scalar && keys != nil {
			keys[strings.ToLower(key)] = value
		}
	}
}

// value reads what follows a key.
func (p *ucl) value(depth int) (value string, scalar bool, err error) {
	switch p.peek("=:") {
	case '{':
		p.pos++
		return "", false, p.object(nil, depth+1)
	case '[':
		p.pos++
		return "", false, p.array(depth + 1)
	}
	value, err = p.scalar(";,}]\r\n#")
	return strings.TrimRight(value, " \t"), true, err
}

func (p *ucl) array(depth int) error {
	if depth > maxUCLDepth {
		return errors.New("nested too deeply")
	}
	for {
		switch p.peek(",;") {
		case ']':
			p.pos++
			return nil
		case 0:
			return errors.New("a bracket is missing")
		}
		if _, _, err := p.value(depth); err != nil {
			return err
		}
	}
}

// scalar reads a string in quotes, or text up to one of the bytes of end.
func (p *ucl) scalar(end string) (string, error) {
	rest := p.text[p.pos:]
	if !strings.HasPrefix(rest, `"`) {
		n := strings.IndexAny(rest, end)
		if n < 0 {
			n = len(rest)
		}
		if n == 0 {
			return "", errors.New("a name or a value is missing")
		}
		p.pos += n
		return rest[:n], nil
	}
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case '"':
			p.pos += i + 1
			return strconv.Unquote(strings.ReplaceAll(rest[:i+1], `\/`, "/"))
		}
	}
	return "", errors.New("a quote is missing")
}
