package prompt

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

func TestInputOnTerminals(t *testing.T) {
	for _, term := range []string{"vt100", "dumb", "xterm"} {
		for name, end := range map[string]string{"CR": "\r", "LF": "\n", "CRLF": "\r\n"} {
			t.Run(term+" "+name, func(t *testing.T) {
				t.Parallel()
				s := start(t, "input", term, 80)
				s.exchange("Host [web1]: ", "a b"+end, "  not a host name\r\n", "?"+end, "  the name\r\n  of the server",
					"web\x7f2"+end, "<we2>", "", "Next: ", "second"+end, "<second>")
				if strings.ContainsAny(s.text(), "\x1b\a") {
					t.Errorf("control sequences on a plain line: %q", s.text())
				}
			})
		}
	}
}

func TestInputDefaultAndKeys(t *testing.T) {
	s := start(t, "input", "vt100", 80)
	s.exchange("Host [web1]: ", "web9\x1b[D\x1b[D\r", "keys which are no text", "\r", "<web1>", "", "Next: ", "\r", "<>")
}

// A key of 600 bytes, wider than the terminal, and one longer than anything.
func TestInputLongLines(t *testing.T) {
	for _, term := range []string{"vt100", "xterm"} {
		s := start(t, "input", term, 80)
		long := strings.Repeat("k", 3000)
		s.exchange("Host [web1]: ", long+"\r", "<"+long+">", "", "Next: ", "x\r", "<x>")
		if n := strings.Count(s.text(), "Host"); n != 1 {
			t.Errorf("%s: the label was drawn %d times", term, n)
		}
	}
}

func TestSecretIsNotEchoed(t *testing.T) {
	for _, term := range []string{"vt100", "xterm"} {
		s := start(t, "secret", term, 80)
		s.until("Password (not shown): ")
		s.send("s3cret?\r")
		s.until("<s3cret?>")
		shown, _, _ := strings.Cut(s.text(), "<s3cret?>")
		if strings.Contains(shown, "s3cret") {
			t.Errorf("%s: the secret is on the screen: %q", term, shown)
		}
		s.exchange("Next: ", "seen\r", "<seen>")
		if !strings.Contains(s.text(), "Next: seen") {
			t.Errorf("%s: echo is not back: %q", term, s.text())
		}
	}
}

func TestSelectLines(t *testing.T) {
	s := start(t, "select", "vt100", 80)
	s.exchange("   2  raidz  three disks\r\n", "7\r", "type a number from 1 to 3", "", "Number (1-3) [1]: ", "\r", "<0>", "",
		"Again", "\r", "type a number", "stripe\r", "<2>", "", "Next: ", "x\r", "<x>")
}

func TestSelectMenu(t *testing.T) {
	s := start(t, "select", "xterm", 80)
	s.exchange("Layout (arrows", "\x1b[B", "> raidz", "\x1b[B", "> stripe", "q\x1a\x12\x1b[A", "> raidz", "\r", "Layout: raidz\r\n<1>", "",
		"> mirror", "\x1bOB\n", "Again: raidz\r\n<1>", "", "Next: ", "x\r", "<x>")
	if strings.Contains(s.text(), "\a") {
		t.Error("the terminal's bell rang")
	}
	for _, r := range s.text() {
		if r > 126 {
			t.Errorf("%q is not ASCII", r)
		}
	}
}

func TestNarrowTerminalGetsLines(t *testing.T) {
	s := start(t, "select", "xterm", 50)
	s.exchange("Number (1-3) [1]: ", "2\r", "<1>")
}

func TestConfirm(t *testing.T) {
	for _, term := range []string{"vt100", "xterm"} {
		s := start(t, "confirm", term, 80)
		s.exchange("Disks will be wiped.\r\nType S1X to go on, anything else to stop: ", "S1X\r", "<true>", "", "Type yes", "\r", "<false>")
	}
}

func TestInterruptAndEnd(t *testing.T) {
	for _, term := range []string{"vt100", "xterm"} {
		s := start(t, "select", term, 80)
		s.exchange("mirror", "\x03", "<interrupt>", "", "mirror", "\x04", "<eof>", "", "Next: ", "half\x03", "<interrupt>")
	}
	s := start(t, "input", "vt100", 80)
	s.exchange("Host [web1]: ", "half\x04\x04", "<eof>", "", "Next: ", "\x04", "<eof>")
}

func TestCancel(t *testing.T) {
	for _, term := range []string{"vt100", "xterm"} {
		s := start(t, "cancel", term, 80)
		s.until("<cancelled>", "<cancelled>", "Next: ")
		s.send("mine\r") // no abandoned reader takes a key of it
		s.until("<mine>")
	}
}

// Everything is typed before the second prompt is there.
func TestTypeAhead(t *testing.T) {
	for term, keys := range map[string]string{"vt100": "one\r2\rtwo\r", "xterm": "one\r\x1b[B\rtwo\r"} {
		s := start(t, "slow", term, 80)
		s.until("One: ")
		time.Sleep(100 * time.Millisecond)
		s.send(keys)
		s.until("<one>", "<1>", "<two>")
	}
}

// Pipes: all prompts come from one reader, whatever ends the lines; the end of
// input is an error, and half a line is no answer.
func TestPipes(t *testing.T) {
	for _, tt := range []struct{ dialog, in, want string }{
		{"input", "a\nb\n", "<a> <b>"},
		{"input", "a\r\nb\r\n", "<a> <b>"},
		{"input", "a\rb\r", "<a> <b>"},
		{"input", "\r\n\r\n", "<web1> <>"},
		{"input", "bad !\n", "<eof> <eof>"},
		{"input", "a\nhalf", "<a> <eof>"},
		{"input", "", "<eof> <eof>"},
		{"secret", " pass \nb\n", "< pass > <b>"},
		{"confirm", "S1X\nyes", "<true> <eof>"},
		{"confirm", "s1x\n yes \n", "<false> <true>"},
		{"select", "3\nraidz\nx\n", "<2> <1> <x>"},
		{"select", "0\n9\nzz\n", "<eof> <eof> <eof>"},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			io.WriteString(w, tt.in)
			w.Close()
		}()
		if got := results(t, tt.dialog, r); got != tt.want {
			t.Errorf("%s %q: got %s, want %s", tt.dialog, tt.in, got, tt.want)
		}
	}
}

// results runs a dialog in this process and returns what it got.
func results(t *testing.T, dialog string, in *os.File) string {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdout
	defer func() { os.Stdout = old }()
	os.Stdout = out
	dialogs[dialog](New(in, out, func(string) string { return "xterm" }))
	os.Stdout = old
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for s := range strings.SplitSeq(string(b), "<") {
		if v, _, ok := strings.Cut(s, ">"); ok {
			got = append(got, "<"+v+">")
		}
	}
	return strings.Join(got, " ")
}

func TestSerial(t *testing.T) {
	for name, want := range map[string]bool{"ttyu0": true, "/dev/cuau1": true, "ttyU0": true, "ttyv0": false, "/dev/pts/0": false, "": false} {
		if Serial(name) != want {
			t.Errorf("Serial(%q) is %v", name, !want)
		}
	}
}
