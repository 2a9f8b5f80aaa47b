package lint

import (
	"strings"
)

// jailParam is one parameter: name, or name = value, value…
type jailParam struct {
	name   string
	at     pos
	values []word
	more   bool // +=
}

// jailDef is one jail, or what goes for all of them (name "").
type jailDef struct {
	name   string
	at     pos
	params []jailParam
}

// jailConf is a jail.conf(5).
type jailConf struct {
	global jailDef
	jails  []*jailDef // in the order of the file, without "*"
}

// values returns the values of a parameter for a jail, with $name and the like
// filled in; nil and false when it is not set.
func (c *jailConf) values(j *jailDef, name string) ([]word, bool) { return c.lookup(j, name, 0) }

func (c *jailConf) lookup(j *jailDef, name string, depth int) (out []word, set bool) {
	for _, d := range []*jailDef{&c.global, j} {
		for _, p := range d.params {
			if p.name != name {
				continue
			}
			if !p.more {
				out = nil
			}
			set = true
			for _, v := range p.values {
				out = append(out, word{c.expand(j, v.s, depth), v.at})
			}
		}
	}
	return out, set
}

// expand fills in variables: parameters of the jail, and its name.
func (c *jailConf) expand(j *jailDef, s string, depth int) string {
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
			for end < len(s) && (isName(s[end]) || s[end] == '.') {
				end++
			}
		}
		name := s[i:end]
		if brace {
			end++
		}
		i = min(end, len(s))
		switch vs, ok := []word(nil), false; {
		case name == "name":
			b.WriteString(j.name)
		case depth < 8: // a variable may refer to itself
			if vs, ok = c.lookup(j, name, depth+1); !ok {
				vs, ok = c.lookup(j, "$"+name, depth+1)
			}
			for n, v := range vs {
				if n > 0 {
					b.WriteByte(',')
				}
				b.WriteString(v.s)
			}
		}
	}
	return b.String()
}

// parseJailConf reads a jail.conf.
func parseJailConf(label, text string) (*jailConf, []flaw) {
	p := &jailParser{label: label, text: text}
	p.lex()
	c := &jailConf{}
	for !p.end() {
		p.statement(c)
	}
	return c, p.flaws
}

// jailToken is a word (which may be empty when it was quoted) or one of = += ; { } ,
type jailToken struct {
	word
	mark bool
}

type jailParser struct {
	label, text string
	tokens      []jailToken
	i           int
	in          *jailDef // the block being read, nil outside
	flaws       []flaw
}

func (p *jailParser) end() bool { return p.i >= len(p.tokens) }

func (p *jailParser) bad(at pos, msg string) { p.flaws = append(p.flaws, flaw{at, Error, msg}) }

// lex splits the text into tokens; comments are those of shell, C and C++.
func (p *jailParser) lex() {
	t := p.text
	at := func(i int) pos {
		line, col := lineCol(t, i)
		return pos{p.label, line, col}
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
			p.tokens = append(p.tokens, jailToken{word{"+=", at(i)}, true})
			i += 2
		case strings.IndexByte("=;{},", c) >= 0:
			p.tokens = append(p.tokens, jailToken{word{string(c), at(i)}, true})
			i++
		default:
			start := i
			s, n, ok := jailWord(t[i:])
			if !ok {
				p.bad(at(start), "a quote is opened here and not closed")
				return
			}
			i += n
			p.tokens = append(p.tokens, jailToken{word{s, at(start)}, false})
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
		return jailToken{word{"", pos{file: p.label}}, true}
	}
	p.i++
	return p.tokens[p.i-1]
}

// statement reads a parameter, the head of a jail, or its end.
func (p *jailParser) statement(c *jailConf) {
	t := p.take()
	switch {
	case t.mark && t.s == "}":
		if p.in == nil {
			p.bad(t.at, "\"}\" without a jail")
		}
		p.in = nil
		return
	case t.mark && t.s == ";":
		return
	case t.mark:
		p.bad(t.at, "unexpected \""+t.s+"\"; expected a parameter or a jail")
		return
	}
	if !p.end() && p.tokens[p.i].mark && p.tokens[p.i].s == "{" {
		p.i++
		if p.in != nil {
			p.bad(t.at, "jail "+t.s+" inside of jail "+p.in.name+": is a \"}\" missing?")
		}
		if p.in = (&jailDef{name: t.s, at: t.at}); t.s == "*" {
			p.in = &c.global
		} else {
			c.jails = append(c.jails, p.in)
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
	out := jailParam{name: name.s, at: name.at}
	for first := true; !p.end(); first = false {
		t := p.take()
		switch {
		case !t.mark:
			if first && name.s != ".include" {
				p.bad(t.at, "\""+t.s+"\" after "+name.s+": is a \";\" or \"=\" missing?")
				return out, false
			}
			out.values = append(out.values, t.word)
		case t.s == ";":
			return out, true
		case t.s == ",", first && t.s == "=":
		case first && t.s == "+=":
			out.more = true
		default:
			p.bad(t.at, "unexpected \""+t.s+"\": is a \";\" missing after "+name.s+"?")
			if t.s == "}" {
				p.in = nil
			}
			return out, false
		}
	}
	p.bad(name.at, name.s+": its \";\" is missing")
	return out, false
}
