package prompt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"

	"github.com/manifoldco/promptui"
)

// fancy is the Prompter of a capable terminal: lists are promptui menus, lines
// are the liner's. promptui v0.9.0 is kept from what it is not good at. Its
// line input redraws from two goroutines at once when Enter is pressed, and
// wrongly when the line is wider than the terminal, so it is not used. Its menu
// gets the keys byte by byte (its own buffer would swallow type-ahead), without
// those it mishandles, and no list that is higher than the terminal.
type fancy struct {
	*liner
	width, height int // columns and rows
}

// Select implements Prompter.
func (f *fancy) Select(ctx context.Context, label string, items []Item, def int) (int, error) {
	if len(items) == 0 || len(items) > f.height-4 || len(label) > f.width-30 {
		return f.liner.Select(ctx, label, items, def)
	}
	rows, wide := make([]string, len(items)), 0
	for _, it := range items {
		wide = max(wide, len(it.Label))
	}
	for i, it := range items {
		text := strings.TrimRight(fmt.Sprintf("%-*s  %s", wide, it.Label, it.Detail), " ")
		rows[i] = ascii(text, f.width-6)
	}
	keys := &keyReader{ctx: ctx, in: f.in}
	out := &menuWriter{w: f.out}
	s := promptui.Select{
		Label: ascii(label, f.width), Items: rows, Size: len(rows), CursorPos: max(def, 0),
		HideHelp: true, HideSelected: true, Pointer: promptui.PipeCursor,
		Templates: &promptui.SelectTemplates{Label: "{{ . }} (arrows, then Enter)",
			Active: "> {{ . }}", Inactive: "  {{ . }}"},
		Stdin: keys, Stdout: out,
	}
	var n int
	err := interrupts(func(stop <-chan os.Signal) error {
		keys.stop = stop
		var err error
		n, _, err = s.Run()
		return err
	})
	out.Stop()
	if e := keys.Err(); e != nil {
		err = e
	}
	if errors.Is(err, ErrInterrupt) {
		f.in.buf = nil
	}
	if err != nil {
		return 0, fmt.Errorf("ask %s: %w", label, err)
	}
	fmt.Fprintf(f.out, "%s: %s\n", label, items[n].Label)
	return n, nil
}

// keyReader gives readline one byte at a time, so that no type-ahead is left in
// a buffer that ends with the menu, and only the three keys a menu has: readline
// makes a mess of others (Ctrl-Z stops the parent process). Whatever ends the
// menu reaches promptui as Enter, the one key after which its second goroutine
// does not draw; Err tells the reason.
type keyReader struct {
	ctx  context.Context
	in   *input
	stop <-chan os.Signal
	last [2]byte // bytes before the current one, for ESC [ A and ESC O A

	mu  sync.Mutex
	err error
}

const (
	keyEnter = '\r'
	keyNext  = 14 // Ctrl-N
	keyPrev  = 16 // Ctrl-P
)

// Read implements io.Reader.
func (k *keyReader) Read(p []byte) (int, error) {
	for len(p) > 0 {
		c, err := k.in.readByte(k.ctx, k.stop)
		switch {
		case err != nil:
		case c == 3:
			err = ErrInterrupt
		case c == 4: // Ctrl-D
			err = io.EOF
		}
		if err != nil {
			k.mu.Lock()
			k.err = err
			k.mu.Unlock()
			c = keyEnter
		}
		if key := k.key(c); key != 0 {
			p[0] = key
			return 1, nil
		}
	}
	return 0, nil
}

// key maps a byte to the menu key it completes, 0 for none.
func (k *keyReader) key(c byte) byte {
	arrow := k.last == [2]byte{27, '['} || k.last == [2]byte{27, 'O'}
	k.last = [2]byte{k.last[1], c}
	switch {
	case c == '\r' || c == '\n':
		return keyEnter
	case c == keyNext || c == 'j' || arrow && c == 'B':
		return keyNext
	case c == keyPrev || c == 'k' || arrow && c == 'A':
		return keyPrev
	}
	return 0
}

// Err is what ended the input, nil when the person chose.
func (k *keyReader) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Close implements io.Closer; the input outlives the menu.
func (k *keyReader) Close() error { return nil }

// menuWriter drops BEL, which readline sends on every arrow key, and everything
// that readline's goroutine still writes after Stop.
type menuWriter struct {
	mu   sync.Mutex
	w    io.Writer
	done bool
}

// Write implements io.Writer.
func (m *menuWriter) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done {
		return len(p), nil
	}
	if _, err := m.w.Write(bytes.ReplaceAll(p, []byte{'\a'}, nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Stop makes later writes do nothing.
func (m *menuWriter) Stop() {
	m.mu.Lock()
	m.done = true
	m.mu.Unlock()
}

// Close implements io.Closer; the terminal outlives the menu.
func (m *menuWriter) Close() error { return nil }

// ascii returns s with everything else than printable ASCII replaced, at most n
// columns wide.
func ascii(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > n {
		s = s[:n-3] + "..."
	}
	return s
}
