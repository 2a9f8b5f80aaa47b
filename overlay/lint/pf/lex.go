package pf

import (
	"strings"

	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

type tokenKind int

const (
	tokenWord   tokenKind = iota
	tokenString           // was in quotes
	tokenMark             // one of { } ( ) , = ! < > and operators of ports
	tokenTable            // <name>
)

// token is one token. at is where it stands, or where the macro stands that it
// came from.
type token struct {
	flaw.Word
	kind tokenKind
}

func (t token) is(s string) bool { return t.kind != tokenString && t.kind != tokenTable && t.Text == s }

// Macro is name = value.
type Macro struct {
	At    flaw.Pos
	value string
	Used  bool
}

// lexer splits a pf.conf into statements, which are lines, continued by "\" and
// inside braces, with macros filled in.
type lexer struct {
	label, text string
	i           int
	macros      map[string]*Macro
	flaws       []flaw.Flaw
}

func (l *lexer) at(i int) flaw.Pos {
	line, col := flaw.LineCol(l.text, i)
	return flaw.Pos{File: l.label, Line: line, Col: col}
}

func (l *lexer) bad(at flaw.Pos, msg string) {
	l.flaws = append(l.flaws, flaw.Flaw{At: at, Severity: flaw.Error, Text: msg})
}

// statement returns the tokens of the next line that has any, nil at the end.
// raw is the line without comments and continuations.
func (l *lexer) statement() (tokens []token, raw string) {
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
		t, n := lex(l.text[l.i:])
		if n < 0 {
			l.bad(l.at(start), "a quote is opened here and not closed")
			l.i = len(l.text)
			return nil, ""
		}
		l.i += n
		b.WriteString(l.text[start:l.i])
		switch {
		case t.Text == "" && t.kind != tokenString:
			continue
		case t.is("{"):
			braces++
		case t.is("}"):
			braces--
		}
		t.At = l.at(start)
		if t.kind == tokenWord && t.Text[0] == '$' {
			tokens = append(tokens, l.expand(t, 0)...)
			continue
		}
		tokens = append(tokens, t)
	}
	return tokens, strings.Join(strings.Fields(b.String()), " ")
}

// expand returns the tokens of a macro's value.
func (l *lexer) expand(t token, depth int) []token {
	m := l.macros[t.Text[1:]]
	if m == nil || depth > 8 {
		l.bad(t.At, "macro "+t.Text+" is not defined (above here)")
		return []token{{flaw.Word{Text: "?" + t.Text[1:], At: t.At}, tokenWord}}
	}
	m.Used = true
	var out []token
	for text := m.value; text != ""; {
		v, n := lex(text)
		if n < 0 {
			break
		}
		text = text[n:]
		if v.Text == "" && v.kind != tokenString {
			continue
		}
		v.At = t.At
		if v.kind == tokenWord && v.Text[0] == '$' {
			out = append(out, l.expand(v, depth+1)...)
			continue
		}
		out = append(out, v)
	}
	return out
}

// lex returns the first token of text and its length: a token of the empty word
// for a blank, -1 for a quote that is not closed.
func lex(text string) (token, int) {
	tok := func(kind tokenKind, s string, n int) (token, int) { return token{flaw.Word{Text: s}, kind}, n }
	c := text[0]
	switch {
	case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		return tok(tokenWord, "", 1)
	case c == '"':
		end := strings.IndexByte(text[1:], '"')
		if end < 0 {
			return tok(tokenString, "", -1)
		}
		return tok(tokenString, text[1:1+end], end+2)
	case c == '<':
		if end := strings.IndexByte(text, '>'); end > 1 && isTableName(text[1:end]) {
			return tok(tokenTable, text[1:end], end+1)
		}
	}
	for _, op := range []string{"->", "<=", ">=", "!=", "<>", "><"} {
		if strings.HasPrefix(text, op) {
			return tok(tokenMark, op, len(op))
		}
	}
	if strings.IndexByte("{}(),=!<>", c) >= 0 {
		return tok(tokenMark, text[:1], 1)
	}
	n := strings.IndexAny(text, " \t\r\n\"{}(),=!<>#")
	switch {
	case n < 0:
		n = len(text)
	case n > 0 && strings.HasPrefix(text[n-1:], "->"):
		n--
	}
	n = max(n, 1)
	return tok(tokenWord, text[:n], n)
}

func isTableName(s string) bool {
	for i := range len(s) {
		if !flaw.IsName(s[i]) && s[i] != '-' && s[i] != '.' {
			return false
		}
	}
	return s != ""
}
