package text_test

import (
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/text"
)

func TestWords(t *testing.T) {
	if got := text.Printable("a\x1b[2Jb\r\nü"); got != "a?[2Jb??ü" {
		t.Errorf("Printable: %q", got)
	}
	if got := text.OneLine("first\n\nsecond\x07\n"); got != "first; second?" {
		t.Errorf("OneLine: %q", got)
	}
	for names, want := range map[string]string{"": "", "a b c d e": "a, b, c, d, e", "a b c d e f g": "a, b, c, d, e and 2 more"} {
		if got := text.Listing(strings.Fields(names)); got != want {
			t.Errorf("Listing(%s): %q, not %q", names, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"hostname", "hostnmae", 2}, {strings.Repeat("a", 64) + "b", strings.Repeat("a", 64), 0}} {
		if got := text.Distance(c.a, c.b); got != c.want || text.Distance(c.b, c.a) != got {
			t.Errorf("%q to %q: %d, not %d", c.a, c.b, got, c.want)
		}
	}
}
