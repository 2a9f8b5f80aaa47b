// Package conf reads rc.conf(5) with the arguments of ifconfig(8) in it, and
// jail.conf(5), as far as profiles use them. Every value keeps the place it was
// written at. What is wrong with a file by itself comes back as flaws beside what
// could be read; what its values refer to is not looked at.
package conf

import (
	"regexp"
	"strings"

	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

// Value is the value of a shell word after expansion; at[i] is where its byte
// i was written.
type Value struct {
	Text    string
	At      []flaw.Pos
	Unknown bool // holds something that only a shell could tell
}

// Words splits a value at blanks.
func (t Value) Words() []flaw.Word {
	var out []flaw.Word
	for i := 0; i < len(t.Text); {
		if strings.IndexByte(" \t\n", t.Text[i]) >= 0 {
			i++
			continue
		}
		start := i
		for i < len(t.Text) && strings.IndexByte(" \t\n", t.Text[i]) < 0 {
			i++
		}
		out = append(out, flaw.Word{Text: t.Text[start:i], At: t.At[start]})
	}
	return out
}

// Var is one assignment.
type Var struct {
	Name string
	Val  Value
	At   flaw.Pos // of the name
	Cond bool     // inside if, case or a loop: it may be made or not
}

// RC is an rc.conf(5).
type RC struct {
	File string
	All  []*Var          // in the order of the file
	Vars map[string]*Var // the last that is surely made
	Cond map[string]bool // names with assignments that may be made
}

// Get returns the value of a variable, "" when there is none.
func (c *RC) Get(name string) string {
	if v := c.Vars[name]; v != nil {
		return v.Val.Text
	}
	return ""
}

// Maybe reports whether a variable may be YES.
func (c *RC) Maybe(name string) bool {
	for _, v := range c.All {
		if v.Name == name && strings.EqualFold(v.Val.Text, "yes") && (v.Cond || c.Vars[name] == v) {
			return true
		}
	}
	return false
}

// At is the place of a variable, of the file when there is none.
func (c *RC) At(name string) flaw.Pos {
	if v := c.Vars[name]; v != nil {
		return v.At
	}
	return flaw.Pos{File: c.File}
}

// ParseRC reads an rc.conf. read returns the text of a file
// that it may cat, whether its text is known, and whether there is one.
func ParseRC(label, text string, read func(name string) (text string, known, found bool)) (*RC, []flaw.Flaw) {
	p := &rcParser{text: text, line: 1, col: 1, read: read,
		conf: &RC{File: label, Vars: map[string]*Var{}, Cond: map[string]bool{}}}
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
	read      func(name string) (text string, known, found bool)
	conf      *RC
	flaws     []flaw.Flaw
}

func (p *rcParser) pos() flaw.Pos { return flaw.Pos{File: p.conf.File, Line: p.line, Col: p.col} }

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
		v := &Var{Name: m[:len(m)-1], At: p.pos(), Cond: p.depth > 0}
		for range m {
			p.next()
		}
		v.Val = p.word()
		p.conf.All = append(p.conf.All, v)
		if v.Cond {
			p.conf.Cond[v.Name] = true
		} else {
			p.conf.Vars[v.Name] = v
		}
		return
	}
	switch w := p.word(); w.Text {
	case "if", "case", "for", "while", "until":
		p.depth++
		p.command()
	case "fi", "esac", "done":
		p.depth = max(0, p.depth-1)
	case "then", "else", "do", "":
		if w.Text == "" && p.i < len(p.text) && strings.IndexByte("()<>", p.peek()) >= 0 {
			p.next()
		}
	default:
		if !strings.HasSuffix(w.Text, ")") { // a pattern of case
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
func (p *rcParser) word() Value {
	var t Value
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
func (p *rcParser) close(open flaw.Pos) {
	if p.i >= len(p.text) {
		p.flaws = append(p.flaws, flaw.Flaw{At: open, Severity: flaw.Error, Text: "a quote is opened here and not closed"})
		return
	}
	p.next()
}

// piece reads one character, escape or expansion.
func (p *rcParser) piece(t *Value, quoted bool) {
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
		case n == '{' || flaw.IsName(n):
			p.variable(t, at)
		default:
			t.put("$", at)
		}
	default:
		t.put(string(b), at)
	}
}

func (p *rcParser) variable(t *Value, at flaw.Pos) {
	brace := p.peek() == '{'
	if brace {
		p.next()
	}
	start := p.i
	for p.i < len(p.text) && flaw.IsName(p.peek()) {
		p.next()
	}
	name := p.text[start:p.i]
	if brace {
		if p.peek() != '}' {
			t.Unknown = true // ${name:-default} and the like
		}
		for p.i < len(p.text) && p.peek() != '\n' && p.next() != '}' {
		}
	}
	if v := p.conf.Vars[name]; v != nil {
		t.put(v.Val.Text, at)
		t.Unknown = t.Unknown || v.Val.Unknown
	}
}

// substitute reads a command up to its end: only cat of a file is known.
func (p *rcParser) substitute(t *Value, at flaw.Pos, end byte) {
	start, from := p.i, p.pos()
	for p.i < len(p.text) && p.peek() != end {
		p.next()
	}
	cmd := p.text[start:p.i]
	p.close(at)
	f := strings.Fields(cmd)
	if len(f) < 2 || f[0] != "/bin/cat" && f[0] != "cat" {
		t.Unknown = true
		return
	}
	from.Col += strings.Index(cmd, f[1])
	text, known, found := p.read(f[1])
	if !known {
		t.Unknown = true
		if !found && !strings.Contains(cmd, "/dev/null") {
			p.flaws = append(p.flaws, flaw.Flaw{At: from, Severity: flaw.Error, Text: "reads " + f[1] + ", which is nowhere"})
		}
		return
	}
	t.put(strings.TrimRight(text, "\n"), from)
}

func (t *Value) put(s string, at flaw.Pos) {
	t.Text += s
	for range len(s) {
		t.At = append(t.At, at)
	}
}
