package prompt

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// liner is the Prompter of plain lines: it prints a label, reads a line, and says
// what is wrong with it. No control sequence is ever written.
type liner struct {
	in  *input
	out io.Writer
}

// Input implements Prompter.
func (l *liner) Input(ctx context.Context, q Question) (string, error) {
	label := q.Label
	switch {
	case q.Secret && q.Default != "":
		label += " (not shown, empty keeps it)"
	case q.Secret:
		label += " (not shown)"
	case q.Default != "":
		label += " [" + q.Default + "]"
	}
	for {
		typed, err := l.ask(ctx, label+": ", !q.Secret)
		if err != nil {
			return "", fmt.Errorf("ask %s: %w", q.Label, err)
		}
		if q.wantsHelp(typed) {
			note(l.out, indent(q.help()))
			continue
		}
		v, err := q.check(typed)
		if err == nil {
			return v, nil
		}
		note(l.out, indent(err.Error()))
	}
}

// Select implements Prompter. A number or a whole label chooses.
func (l *liner) Select(ctx context.Context, label string, items []Item, def int) (int, error) {
	if len(items) == 0 {
		return 0, fmt.Errorf("ask %s: nothing to choose from", label)
	}
	list := label + "\n"
	for i, it := range items {
		list += strings.TrimRight(fmt.Sprintf("  %2d  %s  %s", i+1, it.Label, it.Detail), " ") + "\n"
	}
	io.WriteString(l.out, list)
	ask := fmt.Sprintf("Number (1-%d)", len(items))
	if def >= 0 && def < len(items) {
		ask += fmt.Sprintf(" [%d]", def+1)
	} else {
		def = -1
	}
	for {
		typed, err := l.ask(ctx, ask+": ", true)
		if err != nil {
			return 0, fmt.Errorf("ask %s: %w", label, err)
		}
		typed = strings.TrimSpace(typed)
		if typed == "" && def >= 0 {
			return def, nil
		}
		if typed == "?" {
			io.WriteString(l.out, list)
			continue
		}
		if n, err := strconv.Atoi(typed); err == nil && n >= 1 && n <= len(items) {
			return n - 1, nil
		}
		for i, it := range items {
			if typed != "" && typed == it.Label {
				return i, nil
			}
		}
		note(l.out, fmt.Sprintf("  type a number from 1 to %d", len(items)))
	}
}

// Confirm implements Prompter.
func (l *liner) Confirm(ctx context.Context, label, word string) (bool, error) {
	note(l.out, label)
	typed, err := l.ask(ctx, fmt.Sprintf("Type %s to go on, anything else to stop: ", word), true)
	if err != nil {
		return false, fmt.Errorf("confirm: %w", err)
	}
	return strings.TrimSpace(typed) == word, nil
}

// Note implements Prompter.
func (l *liner) Note(text string) { note(l.out, text) }

// ask prints label and reads one line.
func (l *liner) ask(ctx context.Context, label string, echo bool) (string, error) {
	isTTY, restore := l.in.lineModes(echo)
	defer restore()
	io.WriteString(l.out, label)
	var line string
	err := interrupts(func(stop <-chan os.Signal) error {
		s, end, err := l.in.readLine(ctx, stop)
		line = s
		if isTTY && (err != nil || end == '\r' || !echo) {
			io.WriteString(l.out, "\n") // the tty echoed CR or nothing
		}
		return err
	})
	return line, err
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ")
}
