package spdx

import (
	"strings"
	"testing"
)

func TestExpression(t *testing.T) {
	for _, c := range []struct {
		logic string
		names []string
		want  string
	}{
		{"single", []string{"BSD2CLAUSE"}, "BSD-2-Clause"},
		{"and", []string{"GPLv2+", "LGPL21", "OpenSSL"}, "GPL-2.0-or-later AND LGPL-2.1-only AND OpenSSL"},
		{"or", []string{"APACHE20", "MIT"}, "Apache-2.0 OR MIT"},
		{"dual", []string{"PSFL", "ISCL"}, "PSF-2.0 OR ISC"},
		{"and", []string{"PostgreSQL", "ZLIB", "BSD3CLAUSE", "ZLIB"}, "PostgreSQL AND Zlib AND BSD-3-Clause"},
		{"single", []string{"BSD-2-Clause"}, "BSD-2-Clause"},
		{"single", []string{"My_Own+"}, "LicenseRef-FreeBSD-My-Own-or-later"},
		{"", nil, "NOASSERTION"},
	} {
		if got := Expression(c.logic, c.names); got != c.want {
			t.Errorf("%s %v: got %s, want %s", c.logic, c.names, got, c.want)
		}
	}
}

func good() *Document {
	d := &Document{SPDXVersion: Version, DataLicense: "CC0-1.0", SPDXID: DocumentID, Name: "x", Namespace: "https://example.org/x",
		CreationInfo: CreationInfo{Created: "2026-06-01T00:00:00Z", Creators: []string{"Tool: rigimage-1"}}}
	p := NewPackage(ID("Package", "a_b"), "a_b", "1")
	p.LicenseDeclared = "LicenseRef-x"
	p.ExternalRefs = []ExternalRef{{"PACKAGE-MANAGER", "purl", "pkg:generic/a@1"}, {"SECURITY", "cpe23Type", "cpe:2.3:a:f5:nginx:1.28.0:-:*:*:*:freebsd15:x64:*"}}
	p.Checksums = SHA256(strings.Repeat("a", 64))
	d.Packages = []Package{p}
	d.ExtractedLicenses = []Extracted{{ID: "LicenseRef-x", Text: "x"}}
	d.Relate(DocumentID, "DESCRIBES", p.SPDXID)
	d.Relate(DocumentID, "DESCRIBES", p.SPDXID)
	return d
}

func TestValidate(t *testing.T) {
	d := good()
	if err := d.Validate(); err != nil || len(d.Relationships) != 1 {
		t.Fatalf("%v, %v", err, d.Relationships)
	}
	for want, change := range map[string]func(*Document){
		`spdxVersion is "SPDX-2.2"`:               func(d *Document) { d.SPDXVersion = "SPDX-2.2" },
		`dataLicense is "MIT"`:                    func(d *Document) { d.DataLicense = "MIT" },
		"name is missing":                         func(d *Document) { d.Name = "" },
		"documentNamespace is":                    func(d *Document) { d.Namespace = "https://x#y" },
		"created is":                              func(d *Document) { d.CreationInfo.Created = "2026-06-01" },
		"there are no creators":                   func(d *Document) { d.CreationInfo.Creators = nil },
		`creator "rigimage"`:                      func(d *Document) { d.CreationInfo.Creators = []string{"rigimage"} },
		`SPDXID "SPDXRef-a_b"`:                    func(d *Document) { d.Packages[0].SPDXID = "SPDXRef-a_b" },
		"downloadLocation is \"/srv/x\"":          func(d *Document) { d.Packages[0].DownloadLocation = "/srv/x" },
		"licences or copyrightText are missing":   func(d *Document) { d.Packages[0].CopyrightText = "" },
		"is there twice":                          func(d *Document) { d.Packages = append(d.Packages, d.Packages[0]) },
		"checksum SHA256 \"x\"":                   func(d *Document) { d.Packages[0].Checksums = SHA256("x") },
		`purl "generic/a@1"`:                      func(d *Document) { d.Packages[0].ExternalRefs[0].Locator = "generic/a@1" },
		`cpe "cpe:2.3:a:f5"`:                      func(d *Document) { d.Packages[0].ExternalRefs[1].Locator = "cpe:2.3:a:f5" },
		"licence LicenseRef-x has no text":        func(d *Document) { d.ExtractedLicenses = nil },
		"licence LicenseRef-x is no package's":    func(d *Document) { d.Packages[0].LicenseDeclared = "MIT" },
		"there is no such element":                func(d *Document) { d.Relate(DocumentID, "CONTAINS", "SPDXRef-none") },
		"encode spdx: the document describes not": func(d *Document) { d.Relationships = nil },
	} {
		d := good()
		change(d)
		if _, err := d.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
