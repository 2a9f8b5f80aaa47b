package run

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// What Quote prints, sh reads as the same words.
func TestQuoteThroughSh(t *testing.T) {
	argv := []string{"plain-1_2+3=4./:,@%^", "", " ", "a b", "it's", "''", `back\slash`, "$HOME", "`id`", "*", "~", "#x", "a\nb", "\t", `"`, ";|&<>()", "ä\xff"}
	out, err := exec.Command("/bin/sh", "-c", `printf '%s\0' `+Quote(argv)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, argv) {
		t.Errorf("got  %q\nwant %q", got, argv)
	}
	if got := Quote([]string{"zpool", "list", "-Hp"}); got != "zpool list -Hp" {
		t.Errorf("plain words: %s", got)
	}
}

func TestExec(t *testing.T) {
	for _, c := range []struct {
		cmd    Cmd
		out    string
		status int
		err    string
	}{
		{Cmd{Argv: []string{"cat"}, Stdin: []byte("in\x00put")}, "in\x00put", 0, ""},
		{New("sh", "-c", "cat; echo out"), "out\n", 0, ""}, // no input is an end of file
		{New("sh", "-c", "echo out; echo ' bad ' >&2; exit 3"), "out\n", 3, "sh -c 'echo out; echo '\\'' bad '\\'' >&2; exit 3': exit status 3: bad"},
		{New("sh", "-c", "exit 4"), "", 4, "sh -c 'exit 4': exit status 4: exit status 4"},
		{New("sh", "-c", "kill -9 $$"), "", -1, "sh -c 'kill -9 $$': signal: killed"},
		{New("/no/such/program", "x"), "", -1, "/no/such/program x: fork/exec /no/such/program: no such file or directory"},
	} {
		out, err := Exec{}.Run(t.Context(), c.cmd)
		if string(out) != c.out {
			t.Errorf("%s: output %q, want %q", c.cmd, out, c.out)
		}
		var e *Error
		switch {
		case c.err == "":
			if err != nil {
				t.Error(err)
			}
		case !errors.As(err, &e) || e.Status != c.status || err.Error() != c.err:
			t.Errorf("%s: %v\nwant %s", c.cmd, err, c.err)
		}
	}
}

func TestComplaintsAreBounded(t *testing.T) {
	_, err := Exec{}.Run(t.Context(), New("sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo 0123456789 >&2; i=$((i+1)); done; exit 1"))
	var e *Error
	if !errors.As(err, &e) || e.Status != 1 || len(e.Stderr) != stderrLimit {
		t.Errorf("%d bytes kept, want %d", len(e.Stderr), stderrLimit)
	}
}

func TestInputIsNotLogged(t *testing.T) {
	var log strings.Builder
	x := Exec{Logf: func(format string, args ...any) { fmt.Fprintf(&log, format+"\n", args...) }}
	_, err := x.Run(t.Context(), Cmd{Argv: []string{"sh", "-c", "cat >/dev/null; exit 1"}, Stdin: []byte("hunter2"), Secret: true})
	if err == nil || log.String() != "+ sh -c 'cat >/dev/null; exit 1'\n" || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("log %q, error %v", log.String(), err)
	}
}

func TestCancelKills(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	_, err := Exec{}.Run(ctx, New("sleep", "100"))
	if !errors.Is(err, context.Canceled) || err.Error() != "sleep 100: context canceled" {
		t.Error(err)
	}
	if time.Since(start) > time.Minute {
		t.Error("the program ran on")
	}
}

// recorder is a test that Script reports to.
type recorder struct {
	testing.TB
	said    []string
	cleanup []func()
}

func (r *recorder) Helper()                      {}
func (r *recorder) Errorf(f string, args ...any) { r.said = append(r.said, fmt.Sprintf(f, args...)) }
func (r *recorder) Cleanup(f func())             { r.cleanup = append(r.cleanup, f) }

func TestScript(t *testing.T) {
	ls := Expect{Line: "ls 'a b'", Stdin: "in", Stdout: "out"}
	good := Cmd{Argv: []string{"ls", "a b"}, Stdin: []byte("in")}
	for _, c := range []struct {
		name  string
		want  []Expect
		calls []Cmd
		said  []string
		err   string // of the last call
	}{
		{"as written", []Expect{ls}, []Cmd{good}, nil, ""},
		{"a failure", []Expect{{Line: "false", Stderr: "no\n", Status: 2}}, []Cmd{New("false")}, nil, "false: exit status 2: no"},
		{"never ran", []Expect{ls, {Line: "true"}}, []Cmd{good}, []string{"never ran: true"}, ""},
		{"one too many", nil, []Cmd{New("rm", "x y")}, []string{"unexpected command: rm 'x y'"}, "rm 'x y': not in the script"},
		{"another command", []Expect{ls}, []Cmd{New("ls")}, []string{"command 1:\n got ls\nwant ls 'a b'"}, "ls: not in the script"},
		{"other input", []Expect{ls}, []Cmd{New("ls", "a b")}, []string{"command 1 ls 'a b': standard input\n got \"\"\nwant \"in\""}, ""},
	} {
		r := &recorder{}
		s := NewScript(r, c.want...)
		var err error
		for _, cmd := range c.calls {
			_, err = s.Run(t.Context(), cmd)
		}
		for _, f := range r.cleanup {
			f()
		}
		if !slices.Equal(r.said, c.said) {
			t.Errorf("%s: reported %q, want %q", c.name, r.said, c.said)
		}
		if got := fmt.Sprint(err); c.err == "" && err != nil || c.err != "" && got != c.err {
			t.Errorf("%s: %v, want %s", c.name, err, c.err)
		}
	}
}
