package lint

import (
	"io/fs"
	"testing"

	"github.com/rig-freebsd/rig/overlay"
	"github.com/rig-freebsd/rig/overlay/lint/conf"
	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

// Every beginning of the default profile's files is read without a crash.
func TestTruncated(t *testing.T) {
	read := func(string) (string, bool, bool) { return "x", true, true }
	for _, name := range []string{"host/etc/pf.conf", "host/etc/rc.conf", "host/etc/jail.conf", "jails/pg_j/etc/rc.conf"} {
		text, err := fs.ReadFile(overlay.Webrig(), name)
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(text); n += 3 {
			parsePart(string(text[:n]), read)
		}
	}
}

func parsePart(s string, read func(string) (string, bool, bool)) {
	conf.ParseRC("f", s, read)
	pf.ParseTable("f", s)
	if c, _ := conf.ParseJailConf("f", s); c != nil {
		for _, j := range c.Jails {
			c.Values(j, "path")
		}
	}
	pf.Parse("f", s)
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a=\"`cat /x` $b\"\nif x; then\nfi\n", "a { b = \"$c\", ${d}; }", "m = \"{ 1 $n }\"\ntable <t> { 1.2.3.4 }\npass in on ! x from { !<t> (x:0) } to port 1:2 \\\n keep state (a, b)\nrdr on x to any -> $m port 3\n", "!10/8 # x\n"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		parsePart(s, func(string) (string, bool, bool) { return "1.2.3.4", true, true })
	})
}
