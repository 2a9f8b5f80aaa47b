package answers

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Positions knows where the keys and values of a TOML text stand. It is made by
// a tolerant scanner that accepts any bytes: the text need not be valid.
type Positions struct {
	text  string
	at    map[string]span
	spans []span // of every value, in order, and of what was not understood
}

// span is a key and its value as byte offsets. A table's value is its header's key.
type span struct {
	path       []string // nil: text that was not understood
	key        int
	start, end int
}

const (
	indexMark = "\x00"
	pathSep   = "\x1f"
	maxNested = 64 // keys, arrays and inline tables deeper than that have no positions
)

// Index is the path element of a list's i-th item, and of the i-th [[table]].
func Index(i int) string { return indexMark + strconv.Itoa(i) }

// Locate scans a TOML text.
func Locate(text []byte) *Positions {
	s := scanner{Positions: &Positions{text: string(text), at: map[string]span{}}, tables: map[string]int{}}
	s.scan()
	return s.Positions
}

// Key returns the place of a key, or 0, 0. Lines and columns (bytes) count from 1.
func (p *Positions) Key(path ...string) (line, col int) {
	if sp, ok := p.at[strings.Join(path, pathSep)]; ok {
		return p.lineCol(sp.key)
	}
	return 0, 0
}

// Value returns the place of a key's value, a table's header for a table, or 0, 0.
func (p *Positions) Value(path ...string) (line, col int) {
	if sp, ok := p.at[strings.Join(path, pathSep)]; ok {
		return p.lineCol(sp.start)
	}
	return 0, 0
}

func (p *Positions) lineCol(off int) (line, col int) {
	before := p.text[:off]
	return 1 + strings.Count(before, "\n"), off - strings.LastIndexByte(before, '\n')
}

type scanner struct {
	*Positions
	pos    int
	table  []string       // path of the current [table]
	tables map[string]int // path of each [[table]] → number seen
}

type keyPart struct {
	name string
	pos  int
}

func (s *scanner) scan() {
	if strings.HasPrefix(s.text, "\ufeff") {
		s.pos = len("\ufeff")
	}
	for {
		s.blank()
		if s.pos >= len(s.text) {
			return
		}
		begin := s.pos
		if s.text[s.pos] == '[' {
			s.header()
		} else {
			s.statement(s.table, 0, "\n")
		}
		s.rest(begin)
	}
}

// rest goes to the end of the line, noting what stands there besides a comment.
func (s *scanner) rest(begin int) {
	s.spaces()
	from := s.pos
	if s.peek() == '#' {
		s.line()
		return
	}
	if s.line(); s.pos > from {
		s.spans = append(s.spans, span{nil, from, from, s.pos})
	}
	if s.pos == begin { // always forward
		s.pos++
	}
}

func (s *scanner) header() {
	s.pos++
	array := s.peek() == '['
	if array {
		s.pos++
	}
	parts := s.key()
	if len(parts) == 0 {
		return
	}
	path := make([]string, 0, len(parts)+1)
	for i, part := range parts {
		path = append(path, part.name)
		s.note(path, part.pos, part.pos, part.pos)
		name := strings.Join(path, pathSep)
		if array && i == len(parts)-1 {
			s.tables[name]++
		}
		if n := s.tables[name]; n > 0 {
			path = append(path, Index(n-1))
			s.note(path, part.pos, part.pos, part.pos)
		}
	}
	s.table = path
	for s.spaces(); s.peek() == ']'; {
		s.pos++
	}
}

// note remembers a place; the first one of a path counts.
func (s *scanner) note(path []string, key, start, end int) {
	name := strings.Join(path, pathSep)
	if _, seen := s.at[name]; !seen {
		s.at[name] = span{nil, key, start, end}
	}
}

// statement reads key = value below table; stop holds the bytes that end a value
// besides a comment.
func (s *scanner) statement(table []string, depth int, stop string) {
	parts := s.key()
	if len(parts) == 0 {
		return
	}
	path := append([]string(nil), table...)
	for _, part := range parts[:len(parts)-1] {
		path = append(path, part.name)
		s.note(path, part.pos, part.pos, part.pos)
	}
	last := parts[len(parts)-1]
	path = append(path, last.name)
	path = path[:min(len(path), maxNested)]
	if s.spaces(); s.peek() == '=' {
		s.pos++
		s.spaces()
	}
	start := s.pos
	own := len(s.spans)
	s.spans = append(s.spans, span{path, last.pos, start, start})
	s.note(path, last.pos, start, start)
	s.value(path, depth, stop)
	s.spans[own].end = s.pos
}

func (s *scanner) value(path []string, depth int, stop string) {
	rest := s.text[s.pos:]
	switch {
	case strings.HasPrefix(rest, `"""`), strings.HasPrefix(rest, "'''"):
		s.multiline(rest[0])
	case strings.HasPrefix(rest, `"`), strings.HasPrefix(rest, "'"):
		s.quoted()
	case strings.HasPrefix(rest, "[") && depth < maxNested:
		s.array(path, depth+1)
	case strings.HasPrefix(rest, "{") && depth < maxNested:
		s.inline(path, depth+1)
	default:
		n := strings.IndexAny(rest, "#"+stop)
		if n < 0 {
			n = len(rest)
		}
		s.pos += len(strings.TrimRight(rest[:n], " \t\r"))
	}
}

func (s *scanner) array(path []string, depth int) {
	s.pos++
	for i := 0; ; i++ {
		s.blank()
		switch s.peek() {
		case 0:
			return
		case ']':
			s.pos++
			return
		}
		from := s.pos
		item := append(append([]string(nil), path...), Index(i))
		s.note(item, from, from, from)
		s.value(item, depth, ",]\n")
		if s.blank(); s.peek() == ',' {
			s.pos++
		} else if s.pos == from {
			s.pos++ // a byte that begins no value
		}
	}
}

func (s *scanner) inline(path []string, depth int) {
	s.pos++
	for {
		s.blank()
		switch s.peek() {
		case 0:
			return
		case '}':
			s.pos++
			return
		}
		from := s.pos
		s.statement(path, depth, ",}\n")
		if s.blank(); s.peek() == ',' || s.pos == from && s.peek() != '}' {
			s.pos++
		}
	}
}

// key reads a dotted key and returns its parts, none when there is no key.
func (s *scanner) key() []keyPart {
	var parts []keyPart
	for {
		s.spaces()
		part := keyPart{pos: s.pos}
		switch c := s.peek(); {
		case c == '"' || c == '\'':
			part.name = s.quoted()
		default:
			for s.pos < len(s.text) && (bareByte(s.text[s.pos]) || s.text[s.pos] >= utf8.RuneSelf) {
				s.pos++
			}
			part.name = s.text[part.pos:s.pos]
			if part.name == "" {
				return parts
			}
		}
		if len(parts) < maxNested {
			parts = append(parts, part)
		}
		if s.spaces(); s.peek() != '.' {
			return parts
		}
		s.pos++
	}
}

// quoted reads a one-line string and returns its content; without a closing quote
// it ends with the line.
func (s *scanner) quoted() string {
	quote := s.text[s.pos]
	s.pos++
	var b strings.Builder
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == quote:
			s.pos++
			return b.String()
		case c == '\n':
			return b.String()
		case c == '\\' && quote == '"':
			b.WriteString(s.escape())
		default:
			b.WriteByte(c)
			s.pos++
		}
	}
	return b.String()
}

// escape reads one escape of a basic string. A wrong one yields nothing.
func (s *scanner) escape() string {
	s.pos++
	c := s.peek()
	if c == 0 || c == '\n' {
		return ""
	}
	s.pos++
	if i := strings.IndexByte(`btnfre"\`, c); i >= 0 {
		return "\b\t\n\f\r\x1b\"\\"[i : i+1]
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
	if digits == 0 || len(s.text)-s.pos < digits {
		return ""
	}
	n, err := strconv.ParseUint(s.text[s.pos:s.pos+digits], 16, 31)
	if err != nil {
		return ""
	}
	s.pos += digits
	return string(rune(n))
}

func (s *scanner) multiline(quote byte) {
	s.pos += 3
	for s.pos < len(s.text) {
		run := 0
		for s.pos+run < len(s.text) && s.text[s.pos+run] == quote && run < 5 {
			run++
		}
		switch {
		case run >= 3:
			s.pos += run
			return
		case run > 0:
			s.pos += run
		case s.text[s.pos] == '\\' && quote == '"':
			s.pos = min(s.pos+2, len(s.text))
		default:
			s.pos++
		}
	}
}

// blank skips white space, line ends and comments.
func (s *scanner) blank() {
	for {
		switch s.peek() {
		case ' ', '\t', '\r', '\n':
			s.pos++
		case '#':
			s.line()
		default:
			return
		}
	}
}

func (s *scanner) spaces() {
	for c := s.peek(); c == ' ' || c == '\t' || c == '\r'; c = s.peek() {
		s.pos++
	}
}

// line goes to the end of the line.
func (s *scanner) line() {
	if n := strings.IndexByte(s.text[s.pos:], '\n'); n >= 0 {
		s.pos += n
		return
	}
	s.pos = len(s.text)
}

// peek returns the next byte, 0 at the end and for NUL, which TOML has not.
func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func bareByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// masked returns the text with every value that visible does not allow, and all
// that was not understood, replaced by asterisks. Lines and columns stay.
func (p *Positions) masked(visible func(path []string) bool) (string, func(off int) bool) {
	b := []byte(p.text)
	hidden := make([]bool, len(b))
	for _, sp := range p.spans {
		if sp.path != nil && visible(sp.path) {
			continue
		}
		for i := sp.start; i < sp.end; i++ {
			hidden[i] = true
			if b[i] != '\n' && b[i] != '\r' && b[i] != '\t' {
				b[i] = '*'
			}
		}
	}
	return string(b), func(off int) bool { return off >= 0 && off < len(hidden) && hidden[off] }
}
