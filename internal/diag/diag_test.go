package diag

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestProblems(t *testing.T) {
	var none *Problems
	if none.Err() != nil || (&Problems{}).Err() != nil {
		t.Error("no problem is an error")
	}
	p := &Problems{Source: map[string]string{"rig.toml": "a = 1\r\n\tb = 2\n"}}
	p.Add(Problem{File: "rig.toml", Line: 2, Col: 6, Key: "b", Msg: "too large"})
	p.Add(Problem{File: "rig.toml", Line: 9, Col: 1, Msg: "behind the end"})
	p.Add(Problem{File: "rig.toml", Line: 1, Col: 5, Msg: "too small"})
	p.Add(Problem{File: "rig.toml", Line: 1, Msg: "no column"})
	p.Add(Problem{File: "other", Msg: "no line"})
	p.Add(Problem{Key: "net.mtu", Msg: "no file"})
	const want = "net.mtu: no file\n" +
		"other: no line\n" +
		"rig.toml:1: no column\n" +
		"rig.toml:1:5: too small\n    a = 1\n        ^\n" +
		"rig.toml:2:6: b: too large\n    \tb = 2\n    \t    ^\n" +
		"rig.toml:9:1: behind the end"
	if got := p.Err().Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExitCodeAndHint(t *testing.T) {
	problems := &Problems{List: []Problem{{Msg: "x"}}}
	for _, c := range []struct {
		err  error
		code int
		hint string
	}{
		{nil, 0, ""},
		{Input(nil), 0, ""},
		{Hint(nil, "do"), 0, ""},
		{io.EOF, 1, ""},
		{Input(io.EOF), 2, ""},
		{Inputf("read: %w", io.EOF), 2, ""},
		{fmt.Errorf("build: %w", Input(io.EOF)), 2, ""},
		{fmt.Errorf("build: %w", problems.Err()), 2, ""},
		{errors.Join(io.EOF, Input(io.EOF)), 2, ""},
		{Hint(io.EOF, "try %d", 7), 1, "try 7"},
		{fmt.Errorf("a: %w", Hint(Hint(Input(io.EOF), "inner"), "outer")), 2, "outer"},
	} {
		if code, hint := ExitCode(c.err), HintOf(c.err); code != c.code || hint != c.hint {
			t.Errorf("%v: status %d, hint %q, want %d, %q", c.err, code, hint, c.code, c.hint)
		}
	}
	if err := Hint(Input(io.EOF), "x"); err.Error() != "EOF" || !errors.Is(err, io.EOF) {
		t.Errorf("wrapping changed the error: %v", err)
	}
}
