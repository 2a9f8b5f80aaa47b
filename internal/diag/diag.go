// Package diag holds the error shapes all of rig shares: problems of input files
// with their place, hints that say what to do, and the line between bad input
// (exit status 2) and everything else (exit status 1).
package diag

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with an input. Line and Col count from 1; 0 means
// unknown. Col counts bytes.
type Problem struct {
	File string // "" when the input is not a file
	Line int
	Col  int
	Key  string // dotted key, "" when the problem is not about one
	Msg  string
}

// Problems is a list of them as one error. Source, when set, is the text of the
// file, and lets Error show each line with a caret.
type Problems struct {
	List   []Problem
	Source map[string]string // File → text
}

// Add appends a problem.
func (p *Problems) Add(pr Problem) { p.List = append(p.List, pr) }

// Err returns p sorted by place as an error that counts as bad input, nil when
// the list is empty.
func (p *Problems) Err() error {
	if p == nil || len(p.List) == 0 {
		return nil
	}
	slices.SortStableFunc(p.List, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	return p
}

// Error is "file:line:col: key: message", the source line and a caret below it,
// for every problem.
func (p *Problems) Error() string {
	var b strings.Builder
	for i, pr := range p.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(pr.String())
		line := sourceLine(p.Source[pr.File], pr.Line)
		if line != "" && pr.Col > 0 {
			pad := make([]byte, 0, pr.Col)
			for j := range min(pr.Col-1, len(line)) {
				if line[j] == '\t' {
					pad = append(pad, '\t')
				} else {
					pad = append(pad, ' ')
				}
			}
			fmt.Fprintf(&b, "\n    %s\n    %s^", line, pad)
		}
	}
	return b.String()
}

// String is the problem's first line.
func (pr Problem) String() string {
	var parts []string
	if pr.File != "" {
		at := pr.File
		if pr.Line > 0 {
			at += fmt.Sprintf(":%d", pr.Line)
			if pr.Col > 0 {
				at += fmt.Sprintf(":%d", pr.Col)
			}
		}
		parts = append(parts, at)
	}
	if pr.Key != "" {
		parts = append(parts, pr.Key)
	}
	return strings.Join(append(parts, pr.Msg), ": ")
}

func sourceLine(text string, n int) string {
	if n <= 0 {
		return ""
	}
	for i := 1; ; i++ {
		line, rest, more := strings.Cut(text, "\n")
		if i == n {
			return strings.TrimRight(line, "\r")
		}
		if !more {
			return ""
		}
		text = rest
	}
}

type inputError struct{ err error }

func (e *inputError) Error() string { return e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }

// Input marks err as bad input or usage. Input(nil) is nil.
func Input(err error) error {
	if err == nil {
		return nil
	}
	return &inputError{err}
}

// Inputf is Input(fmt.Errorf(…)).
func Inputf(format string, args ...any) error { return &inputError{fmt.Errorf(format, args...)} }

type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// Hint adds a sentence that says what to do about err. Hint(nil, …) is nil.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// HintOf returns the outermost hint in err's chain, "" when there is none.
func HintOf(err error) string {
	var h *hintError
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

// ExitCode maps an error to the status of both commands: 0 done, 1 failed,
// 2 bad usage or input.
func ExitCode(err error) int {
	var in *inputError
	var ps *Problems
	switch {
	case err == nil:
		return 0
	case errors.As(err, &in), errors.As(err, &ps):
		return 2
	}
	return 1
}
