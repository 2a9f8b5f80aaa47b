package lint

import (
	"strings"
)

type pfKind int

const (
	pfWord   pfKind = iota
	pfString        // was in quotes
	pfMark          // one of { } ( ) , = ! < > and operators of ports
	pfTable         // <name>
)

// pfToken is one token. at is where it stands, or where the macro stands that it
// came from.
type pfToken struct {
	word
	kind pfKind
}

func (t pfToken) is(s string) bool { return t.kind != pfString && t.kind != pfTable && t.s == s }

// pfMacro is name = value.
type pfMacro struct {
	at    pos
	value string
	used  bool
}

// pfLexer splits a pf.conf into statements, which are lines, continued by "\" and
// inside braces, with macros filled in.
type pfLexer struct {
	label, text string
	i           int
	macros      map[string]*pfMacro
	flaws       []flaw
}

func (l *pfLexer) at(i int) pos {
	line, col := lineCol(l.text, i)
	return pos{l.label, line, col}
}

func (l *pfLexer) bad(at pos, msg string) { l.flaws = append(l.flaws, flaw{at, Error, msg}) }

// statement returns the tokens of the next line that has any, nil at the end.
// raw is the line without comments and continuations.
func (l *pfLexer) statement() (tokens []pfToken, raw string) {
	var b strings.Builder
	braces := 0
	for l.i < len(l.text) {
		start := l.i
		c := l.text[l.i]
		switch {
		case c == '#':
			for l.i < len(l.text) && l.text[l.i] != '\n' {
				l.i++
			}
			continue
		case c == '\\' && strings.HasPrefix(strings.TrimLeft(l.text[l.i+1:], " \t\r"), "\n"):
			l.i += strings.IndexByte(l.text[l.i:], '\n') + 1
			b.WriteByte(' ')
			continue
		case c == '\n':
			l.i++
			if len(tokens) > 0 && braces <= 0 {
				return tokens, strings.Join(strings.Fields(b.String()), " ")
			}
			b.WriteByte(' ')
			continue
		}
		t, n := lexPF(l.text[l.i:])
		if n < 0 {
			l.bad(l.at(start), "a quote is opened here and not closed")
			l.i = len(l.text)
			return nil, ""
		}
		l.i += n
		b.WriteString(l.text[start:l.i])
		switch {
		case t.s == "" && t.kind != pfString:
			continue
		case t.is("{"):
			braces++
		case t.is("}"):
			braces--
		}
		t.at = l.at(start)
		if t.kind == pfWord && t.s[0] == '$' {
			tokens = append(tokens, l.expand(t, 0)...)
			continue
		}
		tokens = append(tokens, t)
	}
	return tokens, strings.Join(strings.Fields(b.String()), " ")
}

// expand returns the tokens of a macro's value.
func (l *pfLexer) expand(t pfToken, depth int) []pfToken {
	m := l.macros[t.s[1:]]
	if m == nil || depth > 8 {
		l.bad(t.at, "macro "+t.s+" is not defined (above here)")
		return []pfToken{{word{"?" + t.s[1:], t.at}, pfWord}}
	}
	m.used = true
	var out []pfToken
	for text := m.value; text != ""; {
		v, n := lexPF(text)
		if n < 0 {
			break
		}
		text = text[n:]
		if v.s == "" && v.kind != pfString {
			continue
		}
		v.at = t.at
		if v.kind == pfWord && v.s[0] == '$' {
			out = append(out, l.expand(v, depth+1)...)
			continue
		}
		out = append(out, v)
	}
	return out
}

// lexPF returns the first token of text and its length: a token of the empty word
// for a blank, -1 for a quote that is not closed.
func lexPF(text string) (pfToken, int) {
	token := func(kind pfKind, s string, n int) (pfToken, int) { return pfToken{word{s: s}, kind}, n }
	c := text[0]
	switch {
	case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		return token(pfWord, "", 1)
	case c == '"':
		end := strings.IndexByte(text[1:], '"')
		if end < 0 {
			return token(pfString, "", -1)
		}
		return token(pfString, text[1:1+end], end+2)
	case c == '<':
		if end := strings.IndexByte(text, '>'); end > 1 && pfName(text[1:end]) {
			return token(pfTable, text[1:end], end+1)
		}
	}
	for _, op := range []string{"->", "<=", ">=", "!=", "<>", "><"} {
		if strings.HasPrefix(text, op) {
			return token(pfMark, op, len(op))
		}
	}
	if strings.IndexByte("{}(),=!<>", c) >= 0 {
		return token(pfMark, text[:1], 1)
	}
	n := strings.IndexAny(text, " \t\r\n\"{}(),=!<>#")
	switch {
	case n < 0:
		n = len(text)
	case n > 0 && strings.HasPrefix(text[n-1:], "->"):
		n--
	}
	n = max(n, 1)
	return token(pfWord, text[:n], n)
}

func pfName(s string) bool {
	for i := range len(s) {
		if !isName(s[i]) && s[i] != '-' && s[i] != '.' {
			return false
		}
	}
	return s != ""
}
