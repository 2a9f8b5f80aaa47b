// Package prompt asks a person for values: lists with promptui on a capable
// terminal, plain lines everywhere else (serial consoles, TERM=dumb, pipes). Both are
// safe for type-ahead, because one reader is shared by all prompts and takes from
// the terminal no more than it needs. Nothing but what a question prints itself
// is written; answers are not logged here.
package prompt

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"
)

// ErrInterrupt is returned when the person pressed Ctrl-C. Input typed before it
// is dropped.
var ErrInterrupt = errors.New("interrupted")

// Prompter asks one thing at a time. The end of input is an error that wraps
// io.EOF, never an answer. A Prompter is not safe for concurrent use.
type Prompter interface {
	// Input asks for a line until it is valid. An empty line takes the default.
	Input(ctx context.Context, q Question) (string, error)
	// Select asks for one of items and returns its index. def is the index an
	// empty line takes, -1 for none.
	Select(ctx context.Context, label string, items []Item, def int) (int, error)
	// Confirm asks for word to be typed, "yes" or a serial number, and reports
	// whether exactly that was typed. It never has a default.
	Confirm(ctx context.Context, label, word string) (bool, error)
	// Note shows text.
	Note(text string)
}

// Question is what Input asks.
type Question struct {
	Label    string // short, without a colon
	Help     string // shown for "?", may have several lines
	Default  string
	Secret   bool               // not echoed, Default not shown, spaces kept, "?" is an answer
	Validate func(string) error // nil accepts everything
}

// Item is one choice of Select.
type Item struct {
	Label  string
	Detail string // shown beside Label, may be empty
}

// minWidth is the narrowest terminal, in columns, that promptui can redraw its
// lines on.
const minWidth = 60

// New returns a promptui Prompter when in and out are the standard input and
// output of a capable terminal, else one that works with plain lines. getenv is
// asked for TERM and for RIG_TTY, the device name of the console.
func New(in, out *os.File, getenv func(string) string) Prompter {
	l := &liner{in: newInput(in), out: out}
	// readline sets the modes of descriptor 0, whatever it reads from.
	if in.Fd() != 0 || out.Fd() != 1 || !term.IsTerminal(0) || !term.IsTerminal(1) || !capable(in, getenv) {
		return l
	}
	width, height, err := term.GetSize(1)
	if err != nil || width < minWidth {
		return l
	}
	return &fancy{liner: l, width: width, height: height}
}

// capable reports whether the terminal is one that redraws: not serial, where a
// line is slow, its size unknown and type-ahead the rule.
func capable(in *os.File, getenv func(string) string) bool {
	switch getenv("TERM") {
	case "", "dumb", "unknown", "vt100", "vt102", "vt220", "dialup", "network", "cons25":
		return false
	}
	return !Serial(in.Name()) && !Serial(getenv("RIG_TTY"))
}

// Serial reports whether a device name is a FreeBSD serial line, callin or callout.
func Serial(tty string) bool {
	name := filepath.Base(tty)
	return strings.HasPrefix(name, "ttyu") || strings.HasPrefix(name, "cuau") ||
		strings.HasPrefix(name, "ttyU") || strings.HasPrefix(name, "cuaU")
}

// check applies q's default and validation to a typed line.
func (q *Question) check(typed string) (string, error) {
	v := typed
	if !q.Secret {
		v = strings.TrimSpace(v)
	}
	for _, r := range v {
		if r < ' ' || r == 0x7f {
			return "", errors.New("that line holds keys which are no text; type it again")
		}
	}
	if v == "" {
		v = q.Default
	}
	if q.Validate != nil {
		if err := q.Validate(v); err != nil {
			return "", err
		}
	}
	return v, nil
}

func (q *Question) wantsHelp(typed string) bool {
	return !q.Secret && strings.TrimSpace(typed) == "?"
}

func (q *Question) help() string {
	if q.Help == "" {
		return "no more is known about this question"
	}
	return q.Help
}

func note(w io.Writer, text string) {
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	io.WriteString(w, text)
}
