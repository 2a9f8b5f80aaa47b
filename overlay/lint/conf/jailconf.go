package conf

import (
	"strings"

	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

// jailParam is one parameter: name, or name = value, value…
type jailParam struct {
	name   string
	at     flaw.Pos
	values []flaw.Word
	more   bool // +=
}

// Jail is one jail, or what goes for all of them (name "").
type Jail struct {
	Name   string
	At     flaw.Pos
	params []jailParam
}

// JailConf is a jail.conf(5).
type JailConf struct {
	global Jail
	Jails  []*Jail // in the order of the file, without "*"
}

// Values returns the values of a parameter for a jail, with $name and the like
// filled in; nil and false when it is not set.
func (c *JailConf) Values(j *Jail, name string) ([]flaw.Word, bool) { return c.lookup(j, name, 0) }

func (c *JailConf) lookup(j *Jail, name string, depth int) (out []flaw.Word, set bool) {
	for _, d := range []*Jail{&c.global, j} {
		for _, p := range d.params {
			if p.name != name {
				continue
			}
			if !p.more {
				out = nil
			}
			set = true
			for _, v := range p.values {
				out = append(out, flaw.Word{Text: c.expand(j, v.Text, depth), At: v.At})
			}
		}
	}
	return out, set
}

// expand fills in variables: parameters of the jail, and its name.
func (c *JailConf) expand(j *Jail, s string, depth int) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			i++
			continue
		}
		i++
		end, brace := i, s[i] == '{'
		if brace {
			i++
			end = i + max(0, strings.IndexByte(s[i:], '}'))
		} else {
			for end < len(s) && (flaw.IsName(s[end]) || s[end] == '.') {
				end++
			}
		}
		name := s[i:end]
		if brace {
			end++
		}
		i = min(end, len(s))
		switch vs, ok := []flaw.Word(nil), false; {
		case name == "name":
			b.WriteString(j.Name)
		case depth < 8: // a variable may refer to itself
			if vs, ok = c.lookup(j, name, depth+1); !ok {
				vs, ok = c.lookup(j, "$"+name, depth+1)
			}
			for n, v := range vs {
				if n > 0 {
					b.WriteByte(',')
				}
				b.WriteString(v.Text)
			}
		}
	}
	return b.String()
}

// ParseJailConf reads a jail.conf.
func ParseJailConf(label, text string) (*JailConf, []flaw.Flaw) {
	p := &jailParser{label: label, text: text}
	p.lex()
	c := &JailConf{}
	for !p.end() {
		p.statement(c)
	}
	return c, p.flaws
}

// jailToken is a word (which may be empty when it was quoted) or one of = += ; { } ,
type jailToken struct {
	flaw.Word
	mark bool
}

type jailParser struct {
	label, text string
	tokens      []jailToken
	i           int
	in          *Jail // the block being read, nil outside
	flaws       []flaw.Flaw
}

func (p *jailParser) end() bool { return p.i >= len(p.tokens) }

func (p *jailParser) bad(at flaw.Pos, msg string) {
	p.flaws = append(p.flaws, flaw.Flaw{At: at, Severity: flaw.Error, Text: msg})
}

// lex splits the text into tokens; comments are those of shell, C and C++.
func (p *jailParser) lex() {
	t := p.text
	at := func(i int) flaw.Pos {
		line, col := flaw.LineCol(t, i)
		return flaw.Pos{File: p.label, Line: line, Col: col}
	}
	for i := 0; i < len(t); {
		switch c := t[i]; {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			i++
		case c == '#' || strings.HasPrefix(t[i:], "//"):
			for i < len(t) && t[i] != '\n' {
				i++
			}
		case strings.HasPrefix(t[i:], "/*"):
			n := strings.Index(t[i:], "*/")
			if n < 0 {
				p.bad(at(i), "a comment is opened here and not closed")
				return
			}
			i += n + 2
		case strings.HasPrefix(t[i:], "+="):
			p.tokens = append(p.tokens, jailToken{flaw.Word{Text: "+=", At: at(i)}, true})
			i += 2
		case strings.IndexByte("=;{},", c) >= 0:
			p.tokens = append(p.tokens, jailToken{flaw.Word{Text: string(c), At: at(i)}, true})
			i++
		default:
			start := i
			s, n, ok := jailWord(t[i:])
			if !ok {
				p.bad(at(start), "a quote is opened here and not closed")
				return
			}
			i += n
			p.tokens = append(p.tokens, jailToken{flaw.Word{Text: s, At: at(start)}, false})
		}
	}
}

// jailWord reads a word of adjoining quoted and unquoted parts and returns its
// length in the text.
func jailWord(t string) (s string, n int, ok bool) {
	var b strings.Builder
	for n < len(t) {
		switch c := t[n]; {
		case c == '"' || c == '\'':
			end := strings.IndexByte(t[n+1:], c)
			if end < 0 {
				return "", 0, false
			}
			b.WriteString(t[n+1 : n+1+end])
			n += end + 2
		case strings.HasPrefix(t[n:], "${"):
			end := strings.IndexByte(t[n:], '}')
			if end < 0 {
				return "", 0, false
			}
			b.WriteString(t[n : n+end+1])
			n += end + 1
		case strings.IndexByte(" \t\r\n=;{},#", c) >= 0, strings.HasPrefix(t[n:], "+="):
			return b.String(), n, true
		default:
			b.WriteByte(c)
			n++
		}
	}
	return b.String(), n, true
}

func (p *jailParser) take() jailToken {
	if p.end() {
		return jailToken{flaw.Word{Text: "", At: flaw.Pos{File: p.label}}, true}
	}
	p.i++
	return p.tokens[p.i-1]
}

// statement reads a parameter, the head of a jail, or its end.
func (p *jailParser) statement(c *JailConf) {
	t := p.take()
	switch {
	case t.mark && t.Text == "}":
		if p.in == nil {
			p.bad(t.At, "\"}\" without a jail")
		}
		p.in = nil
		return
	case t.mark && t.Text == ";":
		return
	case t.mark:
		p.bad(t.At, "unexpected \""+t.Text+"\"; expected a parameter or a jail")
		return
	}
	if !p.end() && p.tokens[p.i].mark && p.tokens[p.i].Text == "{" {
		p.i++
		if p.in != nil {
			p.bad(t.At, "jail "+t.Text+" inside of jail "+p.in.Name+": is a \"}\" missing?")
		}
		if p.in = (&Jail{Name: t.Text, At: t.At}); t.Text == "*" {
			p.in = &c.global
		} else {
			c.Jails = append(c.Jails, p.in)
		}
		return
	}
	d := p.in
	if d == nil {
		d = &c.global
	}
	param, ok := p.parameter(t)
	if ok {
		d.params = append(d.params, param)
	}
}

// parameter reads what follows the name of a parameter, to its ";".
func (p *jailParser) parameter(name jailToken) (jailParam, bool) {
	out := jailParam{name: name.Text, at: name.At}
	for first := true; !p.end(); first = false {
		t := p.take()
		switch {
		case !t.mark:
			if first && name.Text != ".include" {
				p.bad(t.At, "\""+t.Text+"\" after "+name.Text+": is a \";\" or \"=\" missing?")
				return out, false
			}
			out.values = append(out.values, t.Word)
		case t.Text == ";":
			return out, true
		case t.Text == ",", first && t.Text == "=":
		case first && t.Text == "+=":
			out.more = true
		default:
			p.bad(t.At, "unexpected \""+t.Text+"\": is a \";\" missing after "+name.Text+"?")
			if t.Text == "}" {
				p.in = nil
			}
			return out, false
		}
	}
	p.bad(name.At, name.Text+": its \";\" is missing")
	return out, false
}
