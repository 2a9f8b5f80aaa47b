// Package flaw says where in a file something stands, and what is wrong there:
// what the readers of configuration files have in common.
package flaw

import (
	"fmt"
	"path"
	"strings"
)

// Severity says whether a finding stops anything.
type Severity string

const (
	Error   Severity = "error"   // would not work
	Warning Severity = "warning" // works, but is probably not what is meant
)

// Pos is a place in a file; line and column count from 1, in bytes.
type Pos struct {
	File      string // as in messages
	Line, Col int
}

// Short names the place for people, without the directory.
func (p Pos) Short() string { return fmt.Sprintf("%s:%d", path.Base(p.File), p.Line) }

// Word is a piece of text and where it stands.
type Word struct {
	Text string
	At   Pos
}

// Flaw is one thing wrong at a place.
type Flaw struct {
	At       Pos
	Severity Severity
	Text     string
}

// LineCol is the place of a byte, counting from 1.
func LineCol(text string, off int) (line, col int) {
	before := text[:off]
	return strings.Count(before, "\n") + 1, off - strings.LastIndex(before, "\n")
}

// IsName reports whether a byte may be part of a name of a variable.
func IsName(b byte) bool {
	return b == '_' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}
