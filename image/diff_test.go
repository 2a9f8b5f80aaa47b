package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"rig/answers"
	"rig/internal/pkgtest"
	"rig/manifest"
	"rig/zfs"
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

// opened builds an image and opens it.
func opened(t *testing.T, o Options) *Opened {
	t.Helper()
	x, err := Open(build(t, o).Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func TestContentsAndSBOM(t *testing.T) {
	packages := slices.Clone(testPackages)
	packages = append(packages, pkgtest.Pkg{Name: "libc-compat", ShlibsProvided: []string{"libc.so.7"}})
	packages[2].ShlibsRequired = []string{"libmore.so.3", "libc.so.7"} // of which the base system has one
	o := withPackages(t, packages)
	lock, err := MakeLock(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	x := opened(t, o)
	c, err := x.Contents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.Roots {
		for _, p := range r.Packages {
			got = append(got, fmt.Sprintf("%s %s-%s (%s)", r.Root, p.Name, p.Version, strings.Join(p.Why, ", ")))
		}
	}
	want := []string{"host common-1.0 (dependency of web)", "host pkg-2.8 (asked for)", "host web-1.0 (asked for)",
		"pg_j libmore-3 (libmore.so.3 for db18-server)", "pg_j db18-server-18.0 (asked for)", "nginx_j common-1.0 (dependency of web)", "nginx_j web-1.0 (asked for)"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if c.FreeBSD != "15.1-DEMO" || c.Packages != 5 {
		t.Errorf("FreeBSD %s, %d packages", c.FreeBSD, c.Packages)
	}

	for i := range lock.Packages { // repositories of tests are directories
		lock.Packages[i].URL = "https://pkg.example.org/All/" + lock.Packages[i].Name + ".pkg"
	}
	d, err := x.SBOM(t.Context(), SBOMOptions{Tool: "rigimage-test", Lock: lock})
	if err != nil {
		t.Fatal(err)
	}
	text, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	requireSPDX(t, text)
	for _, want := range []string{`"downloadLocation": "https://pkg.example.org/All/web.pkg"`, `"created": "2026-06-01T00:00:00Z"`,
		`"SPDXRef-Package-db18-server-18.0"`, `"primaryPackagePurpose": "CONTAINER"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	relations := fmt.Sprint(d.Relationships)
	for _, want := range []string{"{SPDXRef-DOCUMENT DESCRIBES SPDXRef-Image}", "{SPDXRef-Image CONTAINS SPDXRef-Base}", "{SPDXRef-Root-host CONTAINS SPDXRef-Kernel}",
		"{SPDXRef-Root-nginx-j CONTAINS SPDXRef-Package-web-1.0}", "{SPDXRef-Package-web-1.0 DEPENDS_ON SPDXRef-Package-common-1.0}",
		"{SPDXRef-Package-db18-server-18.0 DEPENDS_ON SPDXRef-Package-libmore-3}"} {
		if !strings.Contains(relations, want) {
			t.Errorf("no %s in %s", want, relations)
		}
	}
	if strings.Contains(relations, "SPDXRef-Root-node-j CONTAINS SPDXRef-Package") {
		t.Error("node_j contains packages")
	}
}

// requireSPDX checks what the SPDX 2.3 JSON schema requires, on the text.
func requireSPDX(t *testing.T, text []byte) {
	t.Helper()
	var d map[string]any
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	need := func(what string, v any, keys ...string) {
		m, _ := v.(map[string]any)
		for _, k := range keys {
			if _, ok := m[k]; !ok {
				t.Errorf("%s has no %s", what, k)
			}
		}
	}
	need("document", d, "SPDXID", "creationInfo", "dataLicense", "name", "spdxVersion", "documentNamespace")
	need("creationInfo", d["creationInfo"], "created", "creators")
	for _, p := range d["packages"].([]any) {
		need("package", p, "SPDXID", "downloadLocation", "name")
		for _, key := range []string{"checksums", "externalRefs"} {
			list, _ := p.(map[string]any)[key].([]any)
			for _, x := range list {
				if key == "checksums" {
					need("checksum", x, "algorithm", "checksumValue")
				} else {
					need("externalRef", x, "referenceCategory", "referenceLocator", "referenceType")
				}
			}
		}
	}
	for _, r := range d["relationships"].([]any) {
		need("relationship", r, "spdxElementId", "relatedSpdxElement", "relationshipType")
	}
	extracted, _ := d["hasExtractedLicensingInfos"].([]any)
	for _, x := range extracted {
		need("licence", x, "licenseId", "extractedText")
	}
}

// Files that not everybody may read are not looked into.
func TestDiffHidesSecrets(t *testing.T) {
	o := options(t, t.TempDir())
	p := o.Profile.(fstest.MapFS)
	p["host/etc/hidden.conf"] = &fstest.MapFile{Data: []byte("a=hush\n"), Mode: 0o600}
	p["host.mtree"] = &fstest.MapFile{Data: append(slices.Clone(p["host.mtree"].Data), "./etc/hidden.conf mode=0600\n"...), Mode: 0o644}
	a := opened(t, o)
	o.Output += ".new"
	p["host/etc/hidden.conf"] = &fstest.MapFile{Data: []byte("a=other\n"), Mode: 0o600}
	b := opened(t, o)
	d, err := Diff(t.Context(), a, b, DiffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Same() || len(d.Layers) != 1 || len(d.Layers[0].Files) != 1 || !d.Layers[0].Files[0].Content || len(d.Layers[0].Files[0].Keys) != 0 {
		t.Errorf("%+v", d)
	}
	if text := fmt.Sprintf("%+v", d); strings.Contains(text, "hush") || strings.Contains(text, "other") {
		t.Error(text)
	}
	if d, err := Diff(t.Context(), a, a, DiffOptions{}); err != nil || !d.Same() {
		t.Errorf("an image and itself: %+v, %v", d, err)
	}
}
