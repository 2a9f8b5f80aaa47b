package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Console is a serial console: it reads all the time, keeps the text without
// escape sequences, and lets one caller at a time wait for what it says.
//
// Expect works on the text after the previous match. A pattern is a string
// (literal) or a *regexp.Regexp; a match of a regexp spans at most
// maxMatch bytes, and one that can grow (`\d+`) should end in what follows it.
type Console struct {
	conn io.ReadWriteCloser

	// Pace is the pause after each byte sent, for firmware and loaders that
	// lose characters. Set it while nothing is being sent.
	Pace time.Duration

	mu      sync.Mutex
	text    []byte        // not matched yet
	gone    int           // bytes of the stream before text
	history []byte        // the last historyBytes of everything
	line    []byte        // the line under way, for watchers
	news    chan struct{} // closed and replaced when anything below or text changed
	err     error         // why nothing more will come
	log     io.Writer
	taps    []io.Writer
	watches []watch

	ended func() error  // says why conn ended, may be nil
	done  chan struct{} // closed when conn has ended
}

type watch struct {
	re   *regexp.Regexp
	call func(line string)
}

const (
	historyBytes = 16 << 10 // enough for historyLines
	historyLines = 40       // of an error
	maxText      = 16 << 20 // unmatched text kept
	maxMatch     = 4 << 10  // reach of a regexp
	maxLine      = 4 << 10  // of a watched line
)

// Match is what Expect found.
type Match struct {
	Index  int      // of the pattern
	Before string   // text between the previous match and this one
	Text   string   // the match
	Groups []string // of a regexp, Groups[0] = Text
}

// ExpectError is an Expect that failed: because of time, a closed console, or a
// dead machine. Tail is the end of what the console said.
type ExpectError struct {
	Patterns []string
	Tail     string
	Err      error
}

func (e *ExpectError) Error() string {
	return fmt.Sprintf("expect %s: %v; the console's last lines:\n%s", strings.Join(e.Patterns, " | "), e.Err,
		"    | "+strings.ReplaceAll(e.Tail, "\n", "\n    | "))
}

func (e *ExpectError) Unwrap() error { return e.Err }

// NewConsole reads conn, which tests make, until it ends. Text goes to log too, unless it is nil.
func NewConsole(conn io.ReadWriteCloser, log io.Writer) *Console {
	return newConsole(conn, log, nil, nil)
}

// newConsole also hands every byte to tap, unless it is nil.
func newConsole(conn io.ReadWriteCloser, log, tap io.Writer, ended func() error) *Console {
	c := &Console{conn: conn, log: log, ended: ended, news: make(chan struct{}), done: make(chan struct{})}
	if tap != nil {
		c.taps = append(c.taps, tap)
	}
	go c.read()
	return c
}

var errClosed = errors.New("the console was closed")

func (c *Console) read() {
	defer close(c.done)
	var strip stripper
	buf, text := make([]byte, 32<<10), []byte(nil)
	for {
		n, err := c.conn.Read(buf)
		text = strip.append(text[:0], buf[:n])
		c.mu.Lock()
		for _, w := range c.taps {
			w.Write(buf[:n])
		}
		calls := c.add(text)
		c.mu.Unlock()
		for _, call := range calls {
			call()
		}
		if err != nil {
			err = errClosed
			if c.ended != nil {
				err = c.ended()
			}
			c.fail(err)
			return
		}
	}
}

// add takes in text; the watchers to be called are returned. c.mu is held.
func (c *Console) add(text []byte) (calls []func()) {
	if len(text) == 0 {
		return nil
	}
	if c.log != nil {
		c.log.Write(text)
	}
	c.text = append(c.text, text...)
	if over := len(c.text) - maxText; over > 0 {
		c.drop(over)
	}
	c.history = append(c.history, text...)
	if over := len(c.history) - historyBytes; over > historyBytes {
		c.history = append(c.history[:0], c.history[over:]...)
	}
	for len(text) > 0 {
		part, rest, whole := bytes.Cut(text, []byte("\n"))
		text = rest
		c.line = append(c.line, part...)
		if !whole && len(c.line) < maxLine {
			break
		}
		for _, w := range c.watches {
			if w.re.Match(c.line) {
				line := string(c.line)
				calls = append(calls, func() { w.call(line) })
			}
		}
		c.line = c.line[:0]
	}
	c.wake()
	return calls
}

func (c *Console) wake() {
	close(c.news)
	c.news = make(chan struct{})
}

// fail ends the console with err; the first error stays.
func (c *Console) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.wake()
}

// Watch calls f with every later line that re matches, from the reader: f must
// not wait for the console.
func (c *Console) Watch(re *regexp.Regexp, f func(line string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watches = append(c.watches, watch{re, f})
}

// Tap hands every later byte, escape sequences included, to w as it comes.
func (c *Console) Tap(w io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taps = append(c.taps, w)
}

// Expect waits for the first place in the text that one of the patterns matches;
// of several at that place the first pattern wins. A failure is an *ExpectError.
func (c *Console) Expect(ctx context.Context, patterns ...any) (Match, error) {
	ps, err := compile(patterns)
	if err != nil {
		return Match{}, err
	}
	from := 0 // offset in the stream that no match begins before
	for {
		c.mu.Lock()
		if m, ok := c.take(ps, from); ok {
			c.mu.Unlock()
			return m, nil
		}
		from = c.gone + max(0, len(c.text)-maxMatch)
		news, dead := c.news, c.err
		c.mu.Unlock()
		if dead != nil {
			return Match{}, c.failed(ps, dead)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return Match{}, c.failed(ps, context.Cause(ctx))
		}
	}
}

// ExpectIn is Expect with a time limit.
func (c *Console) ExpectIn(ctx context.Context, limit time.Duration, patterns ...any) (Match, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("nothing after %v", limit))
	defer cancel()
	return c.Expect(ctx, patterns...)
}

// drop removes the first n bytes of the text. c.mu is held.
func (c *Console) drop(n int) {
	c.text = append(c.text[:0], c.text[n:]...)
	c.gone += n
}

// take removes the first match from the text. Matches that begin before from
// were looked for already. c.mu is held.
func (c *Console) take(ps []pattern, from int) (Match, bool) {
	from = min(max(0, from-c.gone), len(c.text))
	if i := bytes.LastIndexByte(c.text[:from], '\n'); i >= 0 {
		from = i + 1 // (?m)^ must see true beginnings of lines
	} else {
		from = 0
	}
	best, index := []int(nil), 0
	for i, p := range ps {
		if loc := p.find(c.text[from:]); loc != nil && (best == nil || loc[0] < best[0]) {
			best, index = loc, i
		}
	}
	if best == nil {
		return Match{}, false
	}
	m := Match{Index: index, Before: string(c.text[:from+best[0]])}
	for i := 0; i < len(best); i += 2 {
		g := ""
		if best[i] >= 0 {
			g = string(c.text[from+best[i] : from+best[i+1]])
		}
		m.Groups = append(m.Groups, g)
	}
	m.Text = m.Groups[0]
	c.drop(from + best[1])
	return m, true
}

func (c *Console) failed(ps []pattern, err error) error {
	e := &ExpectError{Err: err, Tail: c.Tail(historyLines)}
	for _, p := range ps {
		e.Patterns = append(e.Patterns, p.String())
	}
	return e
}

// Tail is the end of everything the console said.
func (c *Console) Tail(lines int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := strings.Split(strings.TrimRight(string(c.history), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Flush forgets the text nobody has matched, and returns it.
func (c *Console) Flush() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := string(c.text)
	c.drop(len(c.text))
	return s
}

// Send types s.
func (c *Console) Send(s string) error {
	if c.Pace == 0 {
		if _, err := io.WriteString(c.conn, s); err != nil {
			return fmt.Errorf("send %q: %w", s, err)
		}
		return nil
	}
	for i := range len(s) {
		if _, err := io.WriteString(c.conn, s[i:i+1]); err != nil {
			return fmt.Errorf("send %q: %w", s, err)
		}
		time.Sleep(c.Pace)
	}
	return nil
}

// SendLine types s and Enter, which a terminal sends as a carriage return.
func (c *Console) SendLine(s string) error { return c.Send(s + "\r") }

// pattern is a literal or a regexp.
type pattern struct {
	literal string
	re      *regexp.Regexp
}

func compile(patterns []any) ([]pattern, error) {
	var ps []pattern
	for _, p := range patterns {
		switch p := p.(type) {
		case string:
			ps = append(ps, pattern{literal: p})
		case *regexp.Regexp:
			ps = append(ps, pattern{re: p})
		default:
			return nil, fmt.Errorf("expect: pattern %v is a %T, neither string nor *regexp.Regexp", p, p)
		}
	}
	if len(ps) == 0 {
		return nil, errors.New("expect: no pattern")
	}
	return ps, nil
}

func (p pattern) String() string {
	if p.re != nil {
		return "/" + p.re.String() + "/"
	}
	return fmt.Sprintf("%q", p.literal)
}

// find is the place of the first match as regexp.FindSubmatchIndex gives it.
func (p pattern) find(b []byte) []int {
	if p.re != nil {
		return p.re.FindSubmatchIndex(b)
	}
	if i := bytes.Index(b, []byte(p.literal)); i >= 0 {
		return []int{i, i + len(p.literal)}
	}
	return nil
}
