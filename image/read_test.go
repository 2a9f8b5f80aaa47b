package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/internal/pkgtest"
)

// opened builds an image and opens it.
func opened(t *testing.T, o Options) *reader.Image {
	t.Helper()
	x, err := reader.Open(t.Context(), build(t, o).Path, reader.Options{})
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
	d, err := x.SBOM(t.Context(), reader.SBOMOptions{Tool: "rigimage-test", Sources: lock.Sources()})
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
	d, err := reader.Diff(t.Context(), a, b, reader.DiffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Same() || len(d.Layers) != 1 || len(d.Layers[0].Files) != 1 || !d.Layers[0].Files[0].Content || len(d.Layers[0].Files[0].Keys) != 0 {
		t.Errorf("%+v", d)
	}
	if text := fmt.Sprintf("%+v", d); strings.Contains(text, "hush") || strings.Contains(text, "other") {
		t.Error(text)
	}
	if d, err := reader.Diff(t.Context(), a, a, reader.DiffOptions{}); err != nil || !d.Same() {
		t.Errorf("an image and itself: %+v, %v", d, err)
	}
}
