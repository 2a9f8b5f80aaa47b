package firstboot

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/text"
)

// Step is one change to the machine: what is printed and what is executed is
// the same value. Commands that begin with "riginstall do" run in process; the
// same words work in a shell.
type Step struct {
	Name  string // in log and result: [a-z0-9._-], unique in a plan
	Title string // for people
	Cmds  []run.Cmd
}

// do is a command of riginstall itself; see verbs.
func do(args ...string) run.Cmd { return run.New(append([]string{place.Self, "do"}, args...)...) }

// put writes a file with this owner ("uid:gid") and octal mode.
func put(path, owner, mode string, content string) run.Cmd {
	c := do("put", path, owner, mode)
	c.Stdin = []byte(content)
	return c
}

// WriteScript prints the steps as a script for sh(1).
func WriteScript(w io.Writer, steps []Step) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, "#!/bin/sh -e")
	for i, s := range steps {
		// A title may quote what a disk says of itself: one line, whatever it says.
		fmt.Fprintf(b, "\n# %d/%d %s: %s\n", i+1, len(steps), s.Name, text.Printable(s.Title))
		for _, c := range s.Cmds {
			writeCommand(b, c)
		}
	}
	return b.Flush()
}

func writeCommand(b *bufio.Writer, c run.Cmd) {
	switch {
	case len(c.Stdin) == 0:
		fmt.Fprintln(b, c)
	case c.Secret:
		fmt.Fprintf(b, "%s < SECRET # %d bytes, not shown\n", c, len(c.Stdin))
	default:
		text := string(c.Stdin)
		if !strings.HasSuffix(text, "\n") {
			fmt.Fprintf(b, "printf %%s %s | %s\n", run.Quote([]string{text}), c)
			return
		}
		end := "EOF"
		for strings.Contains(text, end) {
			end += "_"
		}
		fmt.Fprintf(b, "%s << '%s'\n%s%s\n", c, end, text, end)
	}
}
