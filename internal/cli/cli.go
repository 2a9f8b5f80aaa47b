// Package cli is what both commands share on the command line: flags between
// arguments, errors with hints, progress.
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rig-freebsd/rig/internal/diag"
	"golang.org/x/term"
)

// Stdio is the standard input and outputs of a command, and its environment.
type Stdio struct {
	In       *os.File
	Out, Err io.Writer
	Getenv   func(string) string
}

// OS is the process's own.
func OS() Stdio { return Stdio{os.Stdin, os.Stdout, os.Stderr, os.Getenv} }

// Fail prints err and its hint as "NAME: error: …" and returns the exit status.
func (s Stdio) Fail(name string, err error) int {
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(s.Err, "%s: error: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "\n  "))
	if h := diag.HintOf(err); h != "" {
		fmt.Fprintf(s.Err, "%s: hint: %s\n", name, h)
	}
	return diag.ExitCode(err)
}

// Flags is a flag set whose usage is text, printed to out for -h, and whose
// errors are bad usage.
func (s Stdio) Flags(usage string) *flag.FlagSet {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() { fmt.Fprint(s.Out, usage) }
	return fs
}

// Parse parses flags wherever they stand among the arguments, which it returns:
// at most max of them.
func Parse(fs *flag.FlagSet, args []string, max int) ([]string, error) {
	var rest []string
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, diag.Hint(diag.Input(err), "--help shows what there is")
		}
		if fs.NArg() == 0 {
			break
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
	if len(rest) > max {
		return nil, diag.Hint(diag.Inputf("unexpected argument %q", rest[max]), "--help shows what there is")
	}
	return rest, nil
}

// Progress shows long work: a line that is rewritten on a terminal, one line a
// phase elsewhere. Its Report may be called from several goroutines.
type Progress struct {
	w       io.Writer
	tty     bool
	mu      sync.Mutex
	said    map[string]bool // phases named so far, where there is no terminal
	what    string
	start   time.Time
	last    time.Time
	visible int // columns of the line on the terminal
}

// NewProgress writes to w, which is a terminal or not.
func NewProgress(w io.Writer) *Progress {
	f, ok := w.(*os.File)
	return &Progress{w: w, tty: ok && term.IsTerminal(int(f.Fd())), said: map[string]bool{}}
}

// Report says how far a phase is: done of total bytes; total 0 is unknown.
func (p *Progress) Report(what string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.tty { // phases may report in turns: each is named once
		if !p.said[what] {
			p.said[what] = true
			fmt.Fprintln(p.w, strings.TrimSpace(what))
		}
		return
	}
	now := time.Now()
	if what != p.what {
		p.clear()
		p.what, p.start, p.last = what, now, time.Time{}
	}
	if now.Sub(p.last) < 100*time.Millisecond && (done < total || total == 0) {
		return
	}
	p.last = now
	line := strings.TrimSpace(what)
	if total > 0 {
		line += fmt.Sprintf("  %3d%%  %s of %s", done*100/total, Size(done), Size(total))
		if s := now.Sub(p.start).Seconds(); s > 0.5 && done > 0 {
			rate := float64(done) / s
			line += fmt.Sprintf("  %s/s  %s left", Size(int64(rate)), time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	pad := max(0, p.visible-len(line))
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", pad))
	p.visible = len(line)
}

// Done removes the line.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.what = ""
}

func (p *Progress) clear() {
	if p.tty && p.visible > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.visible))
		p.visible = 0
	}
}

// Size is a number of bytes for people.
func Size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<20:
		return MiB(n) + " MiB"
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// MiB is a number of bytes in MiB, for columns.
func MiB(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }
