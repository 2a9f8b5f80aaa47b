package run

import (
	"context"
	"fmt"
)

// Expect is one call a Script waits for and what the program answers.
type Expect struct {
	Line   string // the command as Quote prints it
	Stdin  string // checked exactly
	Stdout string
	Stderr string
	Status int // not 0: the call fails with an *Error
}

// TB is what Script needs of *testing.T.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Cleanup(func())
}

// Script is the double of Exec for tests: it answers the expected calls in
// order and fails the test on any other call and on any that is missing.
type Script struct {
	t    TB
	want []Expect
	n    int
}

// NewScript returns a Script that reports to t.
func NewScript(t TB, want ...Expect) *Script {
	s := &Script{t: t, want: want}
	t.Cleanup(func() {
		for _, w := range s.want[s.n:] {
			t.Errorf("never ran: %s", w.Line)
		}
	})
	return s
}

// Run implements Runner.
func (s *Script) Run(_ context.Context, c Cmd) ([]byte, error) {
	s.t.Helper()
	if s.n >= len(s.want) {
		s.t.Errorf("unexpected command: %s", c)
		return nil, &Error{Argv: c.Argv, Status: -1, Err: fmt.Errorf("not in the script")}
	}
	w := s.want[s.n]
	s.n++
	if w.Line != c.String() {
		s.t.Errorf("command %d:\n got %s\nwant %s", s.n, c, w.Line)
		return nil, &Error{Argv: c.Argv, Status: -1, Err: fmt.Errorf("not in the script")}
	}
	if w.Stdin != string(c.Stdin) {
		s.t.Errorf("command %d %s: standard input\n got %q\nwant %q", s.n, c, c.Stdin, w.Stdin)
	}
	if w.Status != 0 {
		return []byte(w.Stdout), &Error{Argv: c.Argv, Status: w.Status, Stderr: w.Stderr, Err: fmt.Errorf("exit status %d", w.Status)}
	}
	return []byte(w.Stdout), nil
}
