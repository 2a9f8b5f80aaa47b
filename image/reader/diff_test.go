package reader

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

func TestDiffSettings(t *testing.T) {
	for _, c := range []struct{ name, old, now, want string }{
		{"etc/rc.conf", "# x\nsshd_enable=\"YES\"\na=1 # one\n", "sshd_enable=\"NO\"\na=1\nb='x y'\n", "b: →x y; sshd_enable: YES→NO"},
		{"etc/rc.conf", "l=\"a \\\n  b\"\n", "l=\"a\n  c\"\n", "l: a  b→a c"},
		{"etc/sysctl.conf", "net.inet.ip.forwarding=1\n", "", "net.inet.ip.forwarding: 1→"},
		{"etc/rc.conf.tmpl", "{{if .x}}\na=\"{{.y}}\"\n{{end}}\n", "a=\"{{.z}}\"\n", "a: {{.y}}→{{.z}}"},
		{"etc/x.conf", "db_password=one\n", "db_password=two\n", "db_password: (not shown)→(not shown)"},
		{"etc/ssh/sshd_config", "PermitRootLogin no\n", "PermitRootLogin yes\n", "PermitRootLogin: no→yes"},
		{"etc/motd", "Hello world\n", "Hello you\n", ""},
		{"etc/pf.conf", "pass in\npass out\n", "pass in\n", ""},
		{"etc/jail.conf", "a {\n x = 1;\n}\n", "a {\n x = 2;\n}\n", ""},
		{"etc/twice.conf", "a=1\na=2\n", "a=1\n", ""},
	} {
		var got []string
		for _, k := range diffSettings(c.name, c.old, c.now) {
			got = append(got, fmt.Sprintf("%s: %s→%s", k.Key, k.Old, k.New))
		}
		if g := strings.Join(got, "; "); g != c.want {
			t.Errorf("%s: got %s, want %s", c.name, g, c.want)
		}
	}
}

func TestCountLines(t *testing.T) {
	for _, c := range []struct {
		old, now    string
		plus, minus int
	}{
		{"", "", 0, 0}, {"", "a\n", 1, 0}, {"a\nb\nc\n", "a\nc\n", 0, 1}, {"a\nb\nc\n", "a\nx\nc\n", 1, 1}, {"a\nb\n", "b\na\n", 1, 1},
		{strings.Repeat("a\nb\n", 3000), strings.Repeat("b\nb\n", 2000), 2000, 4000}, // too many to look for an order
	} {
		if p, m := countLines(c.old, c.now); c.plus+c.minus < 10 && (p != c.plus || m != c.minus) || p-m != c.plus-c.minus {
			t.Errorf("%.20q, %.20q: +%d -%d, want +%d -%d", c.old, c.now, p, m, c.plus, c.minus)
		}
	}
}

func TestDiffManifests(t *testing.T) {
	a := &manifest.Manifest{Name: "x", Pool: zfs.Pool{Name: "zroot", Ashift: 12}, Jails: []manifest.Jail{{Name: "a", Services: []string{"x"}}, {Name: "b"}},
		Questions: []answers.Question{{Key: "q.secret", Type: answers.Text, Secret: true, Default: "hush"}, {Key: "q.plain", Type: answers.Text, Default: "one"}}}
	b := *a
	b.Pool.Ashift = 13
	b.Jails = []manifest.Jail{{Name: "b"}, {Name: "a", Services: []string{"x", "y"}, Packages: []string{"p"}}, {Name: "c"}}
	b.Questions = []answers.Question{{Key: "q.secret", Type: answers.Text, Secret: true, Default: "other"}, {Key: "q.plain", Type: answers.Text, Default: "two"}}
	got, err := diffManifests(a, &b)
	if err != nil {
		t.Fatal(err)
	}
	want := []Change{{"jails.a.services", "x", "x y"}, {"jails.c", "", `{"name":"c"}`}, {"jails.(order)", "a b", "b a"}, {"pool.ashift", "12", "13"},
		{"questions.q.secret.default", notShown, notShown}, {"questions.q.plain.default", "one", "two"}}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	b.Questions = b.Questions[1:]
	if got, err = diffManifests(a, &b); err != nil || strings.Contains(fmt.Sprint(got), "hush") {
		t.Errorf("%v, %v", got, err)
	}
}

func TestCPE(t *testing.T) {
	for in, want := range map[string]string{
		"cpe:2.3:a:f5:nginx:1.28.0:::::freebsd15:x64": "cpe:2.3:a:f5:nginx:1.28.0:*:*:*:*:freebsd15:x64:*",
		"cpe:2.3:a:postgresql:postgresql:17.1":        "cpe:2.3:a:postgresql:postgresql:17.1:*:*:*:*:*:*:*",
		"cpe:2.3:a:x:y:1:2:3:4:5:6:7:8:9":             "",
		"":                                            "",
	} {
		if got := packageCPE(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"15.1-RELEASE": "15.1:-", "15.1-RELEASE-p3": "15.1:p3", "15.1-RC2": "15.1:rc2"} {
		if got := systemCPE(in); got != "cpe:2.3:o:freebsd:freebsd:"+want+":*:*:*:*:*:*" {
			t.Errorf("%s: got %s", in, got)
		}
	}
}
