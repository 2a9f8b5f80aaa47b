package cli

import (
	"errors"
	"flag"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/diag"
)

// Two phases that report in turns are named once each where there is no terminal.
func TestProgressWithoutTerminal(t *testing.T) {
	var b strings.Builder
	p := NewProgress(&b)
	for done := range int64(100) {
		p.Report("check base.txz", done, 100)
		p.Report("check kernel.txz", done, 100)
	}
	p.Report("layer base ", 0, 0)
	p.Done()
	if got, want := b.String(), "check base.txz\ncheck kernel.txz\nlayer base\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		args, rest, o string
		err           string
	}{
		{args: "", rest: ""},
		{args: "a -o x", rest: "a", o: "x"},
		{args: "-o x a", rest: "a", o: "x"},
		{args: "-o=x a b", rest: "a b", o: "x"},
		{args: "a -- b", rest: "a b"},
		{args: "a b c", err: `unexpected argument "c"`},
		{args: "-p", err: "flag provided but not defined: -p"},
		{args: "a -o", err: "flag needs an argument: -o"},
	} {
		var out strings.Builder
		fs := Stdio{Out: &out, Err: &out}.Flags("usage")
		o := fs.String("o", "", "")
		rest, err := Parse(fs, strings.Fields(tt.args), 2)
		if tt.err != "" {
			if err == nil || err.Error() != tt.err || diag.ExitCode(err) != 2 || diag.HintOf(err) != "--help shows what there is" {
				t.Errorf("%q: %v, want %s", tt.args, err, tt.err)
			}
			continue
		}
		if err != nil || strings.Join(rest, " ") != tt.rest || *o != tt.o {
			t.Errorf("%q: %q, -o %q, %v", tt.args, rest, *o, err)
		}
	}
}

func TestHelp(t *testing.T) {
	var out, complaints strings.Builder
	std := Stdio{Out: &out, Err: &complaints}
	_, err := Parse(std.Flags("the usage\n"), []string{"x", "--help"}, 0)
	if !errors.Is(err, flag.ErrHelp) || out.String() != "the usage\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	if code := std.Fail("rigimage", err); code != 0 || complaints.Len() > 0 {
		t.Errorf("help: status %d, %q", code, complaints.String())
	}
}

func TestFail(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
		text string
	}{
		{nil, 0, ""},
		{errors.New("a: b"), 1, "rig: error: a: b\n"},
		{diag.Inputf("two\nlines"), 2, "rig: error: two\n  lines\n"},
		{diag.Hint(errors.New("broken"), "mend %s", "it"), 1, "rig: error: broken\nrig: hint: mend it\n"},
	} {
		var b strings.Builder
		if code := (Stdio{Err: &b}).Fail("rig", tt.err); code != tt.code || b.String() != tt.text {
			t.Errorf("%v: status %d, %q", tt.err, code, b.String())
		}
	}
}
