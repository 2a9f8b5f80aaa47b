package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// labels prints lines of several sources as "rega│ text", in colours on a terminal.
type labels struct {
	mu    sync.Mutex
	w     io.Writer
	color bool
	names []string // in the order of their colours
	width int
}

func newLabels(w io.Writer) *labels {
	f, ok := w.(*os.File)
	l := &labels{w: w, color: ok && term.IsTerminal(int(f.Fd()))}
	l.add("rig")
	return l
}

// add announces a source, so that all labels are as wide as the widest.
func (l *labels) add(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.names, name) {
		l.names = append(l.names, name)
	}
	l.width = max(l.width, utf8.RuneCountInString(name))
}

func (l *labels) print(name, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	label := fmt.Sprintf("%-*s│", l.width, name)
	if l.color {
		// 1 is bold, 36 cyan, 33 yellow.
		sgr := []int{1, 36, 33}[max(0, slices.Index(l.names, name))%3]
		label = fmt.Sprintf("\x1b[%dm%s\x1b[0m", sgr, label)
	}
	fmt.Fprintf(l.w, "%s %s\n", label, line)
}
