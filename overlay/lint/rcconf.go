package lint

import (
	"regexp"
	"strings"
)

// rcText is the value of a shell word after expansion; at[i] is where its byte
// i was written.
type rcText struct {
	s       string
	at      []pos
	unknown bool // holds something that only a shell could tell
}

// words splits a value at blanks.
func (t rcText) words() []word {
	var out []word
	for i := 0; i < len(t.s); {
		if strings.IndexByte(" \t\n", t.s[i]) >= 0 {
			i++
			continue
		}
		start := i
		for i < len(t.s) && strings.IndexByte(" \t\n", t.s[i]) < 0 {
			i++
		}
		out = append(out, word{t.s[start:i], t.at[start]})
	}
	return out
}

// rcVar is one assignment.
type rcVar struct {
	name string
	val  rcText
	at   pos  // of the name
	cond bool // inside if, case or a loop: it may be made or not
}

// rcConf is an rc.conf(5).
type rcConf struct {
	file string
	all  []*rcVar          // in the order of the file
	vars map[string]*rcVar // the last that is surely made
	cond map[string]bool   // names with assignments that may be made
}

// get returns the value of a variable, "" when there is none.
func (c *rcConf) get(name string) string {
	if v := c.vars[name]; v != nil {
		return v.val.s
	}
	return ""
}

// yes reports whether a variable is surely YES, as checkyesno of rc.subr reads it.
func (c *rcConf) yes(name string) bool {
	switch strings.ToLower(c.get(name)) {
	case "yes", "true", "on", "1":
		return !c.cond[name]
	}
	return false
}

// maybe reports whether a variable may be YES.
func (c *rcConf) maybe(name string) bool {
	for _, v := range c.all {
		if v.name == name && strings.EqualFold(v.val.s, "yes") && (v.cond || c.vars[name] == v) {
			return true
		}
	}
	return false
}

// at is the place of a variable, of the file when there is none.
func (c *rcConf) at(name string) pos {
	if v := c.vars[name]; v != nil {
		return v.at
	}
	return pos{file: c.file}
}

// parseRC reads an rc.conf. read returns a file that it may cat, or nil.
func parseRC(label, text string, read func(string) *file) (*rcConf, []flaw) {
	p := &rcParser{text: text, line: 1, col: 1, read: read,
		conf: &rcConf{file: label, vars: map[string]*rcVar{}, cond: map[string]bool{}}}
	for p.i < len(p.text) {
		p.statement()
	}
	return p.conf, p.flaws
}

type rcParser struct {
	text      string
	i         int
	line, col int
	depth     int // of if, case and loops
	read      func(string) *file
	conf      *rcConf
	flaws     []flaw
}

func (p *rcParser) pos() pos { return pos{p.conf.file, p.line, p.col} }

func (p *rcParser) next() byte {
	b := p.text[p.i]
	p.i++
	p.col++
	if b == '\n' {
		p.line, p.col = p.line+1, 1
	}
	return b
}

func (p *rcParser) peek() byte {
	if p.i < len(p.text) {
		return p.text[p.i]
	}
	return '\n'
}

var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// statement reads one assignment, or a command to its end.
func (p *rcParser) statement() {
	switch b := p.peek(); {
	case strings.IndexByte(" \t\n;&|", b) >= 0:
		p.next()
		return
	case b == '#':
		for p.i < len(p.text) && p.peek() != '\n' {
			p.next()
		}
		return
	}
	if m := assignment.FindString(p.text[p.i:]); m != "" {
		v := &rcVar{name: m[:len(m)-1], at: p.pos(), cond: p.depth > 0}
		for range m {
			p.next()
		}
		v.val = p.word()
		p.conf.all = append(p.conf.all, v)
		if v.cond {
			p.conf.cond[v.name] = true
		} else {
			p.conf.vars[v.name] = v
		}
		return
	}
	switch w := p.word(); w.s {
	case "if", "case", "for", "while", "until":
		p.depth++
		p.command()
	case "fi", "esac", "done":
		p.depth = max(0, p.depth-1)
	case "then", "else", "do", "":
		if w.s == "" && p.i < len(p.text) && strings.IndexByte("()<>", p.peek()) >= 0 {
			p.next()
		}
	default:
		if !strings.HasSuffix(w.s, ")") { // a pattern of case
			p.command()
		}
	}
}

// command skips the arguments of a command.
func (p *rcParser) command() {
	for p.i < len(p.text) && p.peek() != '\n' && p.peek() != ';' {
		if b := p.peek(); b == ' ' || b == '\t' || strings.IndexByte("()<>&|", b) >= 0 {
			p.next()
		} else {
			p.word()
		}
	}
}

// word reads one shell word with its expansions.
func (p *rcParser) word() rcText {
	var t rcText
	for p.i < len(p.text) {
		open := p.pos()
		switch b := p.peek(); {
		case strings.IndexByte(" \t\n;&|<>(", b) >= 0:
			return t
		case b == '\'':
			p.next()
			for p.i < len(p.text) && p.peek() != '\'' {
				at := p.pos()
				t.put(string(p.next()), at)
			}
			p.close(open)
		case b == '"':
			p.next()
			for p.i < len(p.text) && p.peek() != '"' {
				p.piece(&t, true)
			}
			p.close(open)
		default:
			p.piece(&t, false)
		}
	}
	return t
}

// close reads the end of a quote that was opened at a place.
func (p *rcParser) close(open pos) {
	if p.i >= len(p.text) {
		p.flaws = append(p.flaws, flaw{open, Error, "a quote is opened here and not closed"})
		return
	}
	p.next()
}

// piece reads one character, escape or expansion.
func (p *rcParser) piece(t *rcText, quoted bool) {
	at := p.pos()
	switch b := p.next(); b {
	case '\\':
		if p.i >= len(p.text) {
			return
		}
		e := p.next()
		switch {
		case e == '\n':
		case quoted && strings.IndexByte("$`\"\\", e) < 0:
			t.put("\\"+string(e), at)
		default:
			t.put(string(e), at)
		}
	case '`':
		p.substitute(t, at, '`')
	case '$':
		switch n := p.peek(); {
		case n == '(':
			p.next()
			p.substitute(t, at, ')')
		case n == '{' || isName(n):
			p.variable(t, at)
		default:
			t.put("$", at)
		}
	default:
		t.put(string(b), at)
	}
}

func isName(b byte) bool {
	return b == '_' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}

func (p *rcParser) variable(t *rcText, at pos) {
	brace := p.peek() == '{'
	if brace {
		p.next()
	}
	start := p.i
	for p.i < len(p.text) && isName(p.peek()) {
		p.next()
	}
	name := p.text[start:p.i]
	if brace {
		if p.peek() != '}' {
			t.unknown = true // ${name:-default} and the like
		}
		for p.i < len(p.text) && p.peek() != '\n' && p.next() != '}' {
		}
	}
	if v := p.conf.vars[name]; v != nil {
		t.put(v.val.s, at)
		t.unknown = t.unknown || v.val.unknown
	}
}

// substitute reads a command up to its end: only cat of a file is known.
func (p *rcParser) substitute(t *rcText, at pos, end byte) {
	start, from := p.i, p.pos()
	for p.i < len(p.text) && p.peek() != end {
		p.next()
	}
	cmd := p.text[start:p.i]
	p.close(at)
	f := strings.Fields(cmd)
	if len(f) < 2 || f[0] != "/bin/cat" && f[0] != "cat" {
		t.unknown = true
		return
	}
	from.col += strings.Index(cmd, f[1])
	in := p.read(f[1])
	if in == nil || in.unknown {
		t.unknown = true
		if in == nil && !strings.Contains(cmd, "/dev/null") {
			p.flaws = append(p.flaws, flaw{from, Error, "reads " + f[1] + ", which is nowhere"})
		}
		return
	}
	t.put(strings.TrimRight(in.text, "\n"), from)
}

func (t *rcText) put(s string, at pos) {
	t.s += s
	for range len(s) {
		t.at = append(t.at, at)
	}
}
