// Package spdx writes software bills of materials in SPDX 2.3 as JSON
// (schemas/spdx-schema.json of spdx/spdx-spec v2.3): packages, their licences and
// relations. Left out: files, snippets, annotations.
package spdx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Version is the version of SPDX written here.
const Version = "SPDX-2.3"

// Values of fields that say nothing.
const (
	NoAssertion = "NOASSERTION"
	DocumentID  = "SPDXRef-DOCUMENT"
)

// Document is an SPDX document.
type Document struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	Namespace         string         `json:"documentNamespace"`
	CreationInfo      CreationInfo   `json:"creationInfo"`
	Packages          []Package      `json:"packages"`
	Relationships     []Relationship `json:"relationships"`
	ExtractedLicenses []Extracted    `json:"hasExtractedLicensingInfos,omitempty"`
}

// CreationInfo says when and by what a document was made.
type CreationInfo struct {
	Created  string   `json:"created"` // "2026-06-01T00:00:00Z"
	Creators []string `json:"creators"`
	Comment  string   `json:"comment,omitempty"`
}

// Package is anything that is shipped as one.
type Package struct {
	Name             string        `json:"name"`
	SPDXID           string        `json:"SPDXID"`
	Version          string        `json:"versionInfo,omitempty"`
	FileName         string        `json:"packageFileName,omitempty"`
	Supplier         string        `json:"supplier,omitempty"`
	DownloadLocation string        `json:"downloadLocation"`
	FilesAnalyzed    bool          `json:"filesAnalyzed"`
	Checksums        []Checksum    `json:"checksums,omitempty"`
	Homepage         string        `json:"homepage,omitempty"`
	LicenseConcluded string        `json:"licenseConcluded"`
	LicenseDeclared  string        `json:"licenseDeclared"`
	CopyrightText    string        `json:"copyrightText"`
	Summary          string        `json:"summary,omitempty"`
	Comment          string        `json:"comment,omitempty"`
	ExternalRefs     []ExternalRef `json:"externalRefs,omitempty"`
	Purpose          string        `json:"primaryPackagePurpose,omitempty"`
}

// Checksum is of a package's file.
type Checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

// ExternalRef names a package elsewhere.
type ExternalRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

// Relationship is from an element to another, "CONTAINS" or "DEPENDS_ON".
type Relationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

// Extracted is a licence that is not on SPDX's list.
type Extracted struct {
	ID   string `json:"licenseId"`
	Name string `json:"name,omitempty"`
	Text string `json:"extractedText"`
}

// NewPackage is a package of which nothing is known but its name.
func NewPackage(id, name, version string) Package {
	return Package{Name: name, SPDXID: id, Version: version, DownloadLocation: NoAssertion,
		LicenseConcluded: NoAssertion, LicenseDeclared: NoAssertion, CopyrightText: NoAssertion}
}

// ID makes an element's ID of words, of which equal ones may come from different
// words: "SPDXRef-Package-nginx-1.28.0-3".
func ID(words ...string) string { return "SPDXRef-" + clean(strings.Join(words, "-")) }

// clean leaves the letters that IDs may have.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, s)
}

// SHA256 is the checksum of a file, hex.
func SHA256(sum string) []Checksum { return []Checksum{{"SHA256", sum}} }

// Relate adds a relationship, once.
func (d *Document) Relate(element, typ, related string) {
	r := Relationship{element, typ, related}
	if !slices.Contains(d.Relationships, r) {
		d.Relationships = append(d.Relationships, r)
	}
}

// Encode validates the document and returns it as text.
func (d *Document) Encode() ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("encode spdx: %w", err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(d); err != nil {
		return nil, fmt.Errorf("encode spdx: %w", err)
	}
	return b.Bytes(), nil
}

// Patterns of the specification.
var (
	idRE         = regexp.MustCompile(`^SPDXRef-[a-zA-Z0-9.-]+$`)
	licenseIDRE  = regexp.MustCompile(`^LicenseRef-[a-zA-Z0-9.-]+$`)
	createdRE    = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
	creatorRE    = regexp.MustCompile(`^(Tool|Person|Organization): \S.*$`)
	namespaceRE  = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://[^#\s]+$`)
	downloadRE   = regexp.MustCompile(`^(NONE|NOASSERTION|[a-z+]+://\S+)$`)
	sha256RE     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	purlRE       = regexp.MustCompile(`^pkg:[a-z0-9.-]+/\S+@\S+$`)
	cpeRE        = regexp.MustCompile(`^cpe:2\.3:[aho](:(\*|-|([a-zA-Z0-9._-]|\\[\\*?!"#$%&'()+,/:;<=>@\[\]^` + "`" + `{|}~])+)){5}(:(\*|-|[a-zA-Z-]+)){1}(:(\*|-|([a-zA-Z0-9._-]|\\[!-~])+)){4}$`)
	referencesRE = regexp.MustCompile(`LicenseRef-[a-zA-Z0-9.-]+`)
)

// Validate reports everything the specification would refuse, all at once.
func (d *Document) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(d.SPDXVersion == Version, "spdxVersion is %q", d.SPDXVersion)
	check(d.DataLicense == "CC0-1.0", "dataLicense is %q", d.DataLicense)
	check(d.SPDXID == DocumentID, "SPDXID is %q", d.SPDXID)
	check(d.Name != "", "name is missing")
	check(namespaceRE.MatchString(d.Namespace), "documentNamespace is %q", d.Namespace)
	check(createdRE.MatchString(d.CreationInfo.Created), "created is %q", d.CreationInfo.Created)
	check(len(d.CreationInfo.Creators) > 0, "there are no creators")
	for _, c := range d.CreationInfo.Creators {
		check(creatorRE.MatchString(c), "creator %q", c)
	}
	ids := map[string]bool{DocumentID: true}
	refs := map[string]bool{}
	for _, p := range d.Packages {
		check(!ids[p.SPDXID], "%s is there twice", p.SPDXID)
		ids[p.SPDXID] = true
		p.validate(check)
		for _, ref := range referencesRE.FindAllString(p.LicenseDeclared+" "+p.LicenseConcluded, -1) {
			refs[ref] = true
		}
	}
	for _, x := range d.ExtractedLicenses {
		check(licenseIDRE.MatchString(x.ID) && x.Text != "", "licence %q", x.ID)
		check(refs[x.ID], "licence %s is no package's", x.ID)
		delete(refs, x.ID)
	}
	for ref := range refs {
		check(false, "licence %s has no text", ref)
	}
	described := false
	for _, r := range d.Relationships {
		check(ids[r.Element] && ids[r.Related] && r.Type != "", "%s %s %s: there is no such element", r.Element, r.Type, r.Related)
		described = described || r.Element == DocumentID && r.Type == "DESCRIBES"
	}
	check(described, "the document describes nothing")
	return errors.Join(errs...)
}

func (p *Package) validate(check func(ok bool, format string, args ...any)) {
	check(idRE.MatchString(p.SPDXID), "SPDXID %q", p.SPDXID)
	check(p.Name != "", "%s: name is missing", p.SPDXID)
	check(downloadRE.MatchString(p.DownloadLocation), "%s: downloadLocation is %q", p.SPDXID, p.DownloadLocation)
	check(p.LicenseDeclared != "" && p.LicenseConcluded != "" && p.CopyrightText != "", "%s: licences or copyrightText are missing", p.SPDXID)
	check(!p.FilesAnalyzed, "%s: filesAnalyzed without files", p.SPDXID)
	for _, c := range p.Checksums {
		check(c.Algorithm == "SHA256" && sha256RE.MatchString(c.Value), "%s: checksum %s %q", p.SPDXID, c.Algorithm, c.Value)
	}
	for _, r := range p.ExternalRefs {
		switch r.Category + " " + r.Type {
		case "PACKAGE-MANAGER purl":
			check(purlRE.MatchString(r.Locator), "%s: purl %q", p.SPDXID, r.Locator)
		case "SECURITY cpe23Type":
			check(ValidCPE(r.Locator), "%s: cpe %q", p.SPDXID, r.Locator)
		default:
			check(false, "%s: external reference %s %s", p.SPDXID, r.Category, r.Type)
		}
	}
}

// ValidCPE reports whether s is a CPE 2.3 name that names all its parts.
func ValidCPE(s string) bool { return cpeRE.MatchString(s) }
