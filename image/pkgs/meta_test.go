package pkgs

import (
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/pkgtest"
)

func TestMeta(t *testing.T) {
	same := defaultMeta()
	for _, text := range []string{
		pkgtest.Meta, localMeta, "version = 2;", "version: 2", "version 2\n", `{"version":2}`, `{"version":2,"packing_format":"tzst","data":"data"}`,
		"# a comment\nVersion = 2; /* another */ packing_format = tzst\n",
		"version = 1;\ndigest_format = sha256_base32\ndigests = digests;",
		"version = 2;\ncert { type = rsa; data = \"-----BEGIN\\n{\"; name = k }\nextra { version = 7; a [1, {b = c}, \"]\"] }\nrevision = 1",
	} {
		m, err := parseMeta([]byte(text))
		if err != nil || m != same {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
	m, err := parseMeta([]byte(`version = 2; packing_format = "txz"; data = "d.json"; manifests = "site.yaml"; manifests_archive = site2`))
	want := meta{packing: "txz", data: "d.json", dataArchive: "d", manifests: "site.yaml", manifestArchive: "site2"}
	if err != nil || m != want {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestMetaWrong(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", `meta.conf: version "" is neither 1 nor 2`},
		{"version = 3", `version "3" is neither 1 nor 2`},
		{"version = 2; data = \"../data\"", `"../data" is not a file name`},
		{"version = 2; data_archive = \"a/b\"", `"a/b" is not a file name`},
		{"version = 2; manifests = \".x\"", `".x" is not a file name`},
		{"version = 2; data = \"\"", `"" is not a file name`},
		{"version = 2\ndata = \"x", "line 2: data: a quote is missing"},
		{"version = 2;\n\ndata =", "line 3: data: a name or a value is missing"},
		{"{ version = 2", "a brace is missing"},
		{"{ version = 2 } x", "text behind the last brace"},
		{"version = 2; a [", "a: a bracket is missing"},
		{"version = 2; a = \"\\q\"", "a: invalid syntax"},
		{"version = 2; " + strings.Repeat("a {", 40), "nested too deeply"},
		{"version = 2; a " + strings.Repeat("[", 40), "nested too deeply"},
		{"version = 2; a = \xff", "not UTF-8"},
	} {
		if _, err := parseMeta([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %s", c.text, err, c.want)
		}
	}
}

func FuzzMeta(f *testing.F) {
	for _, s := range []string{pkgtest.Meta, `{"version":2,"a":[{"b":1}]}`, "version 2 # x\n a { b = c }", "a = \"\\u00e4\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseMeta(text)
		if err == nil && (m.data == "" || strings.Contains(m.dataArchive+m.manifestArchive+m.packing, "/")) {
			t.Errorf("%+v", m)
		}
	})
}
