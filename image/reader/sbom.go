package reader

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/internal/spdx"
)

// SBOMOptions of Image.SBOM. The zero value is good.
type SBOMOptions struct {
	Tool string // that makes the document: "rigimage-1.0"
	Sources
}

// Sources are the URLs that things came from, which the image has not.
type Sources struct {
	FreeBSD  string            // release and patch level whose base set Base is: "15.1-RELEASE-p1"
	Base     string            // URL of that set
	Packages map[string]string // by SHA-256
}

// sbom is the document being made.
type sbom struct {
	*spdx.Document
	o        *Image
	c        *Contents
	from     Sources
	ids      map[*pkgs.Package]string
	image    string // ID
	base     []string
	kernel   string
	licenses map[string]bool
}

// SBOM describes the image in SPDX 2.3: the image, its base system, kernel, roots
// (the host and the jails, each by the hash of its overlay) and packages. Equal
// images give equal documents.
//
// Roots CONTAIN what they are made of; the image CONTAINS everything. A package
// DEPENDS_ON the packages of the bundle that meet its needs.
func (o *Image) SBOM(ctx context.Context, opts SBOMOptions) (*spdx.Document, error) {
	c, err := o.Contents(ctx)
	if err != nil {
		return nil, err
	}
	at, err := o.Time()
	if err != nil {
		return nil, err
	}
	s := &sbom{o: o, c: c, from: opts.Sources, ids: map[*pkgs.Package]string{}, licenses: map[string]bool{}}
	s.Document = &spdx.Document{SPDXVersion: spdx.Version, DataLicense: "CC0-1.0", SPDXID: spdx.DocumentID, Name: o.Manifest.Image,
		CreationInfo: spdx.CreationInfo{Created: at.Format(time.RFC3339), Creators: []string{"Tool: " + cmp.Or(opts.Tool, "rigimage")},
			Comment: "The time is that of the image's files, so that equal images have equal documents."}}
	s.addImage()
	s.addBase()
	s.addKernel()
	for _, p := range c.all {
		s.addPackage(p)
	}
	s.addRoots()
	for _, p := range c.all {
		for _, q := range c.needs(p) {
			s.Relate(s.ids[p], "DEPENDS_ON", s.ids[q])
		}
	}
	slices.SortFunc(s.ExtractedLicenses, func(a, b spdx.Extracted) int { return strings.Compare(a.ID, b.ID) })
	text := fmt.Sprintf("%+v", *s.Document)
	s.Namespace = "https://spdx.org/spdxdocs/" + o.Manifest.Image + "-" + gpt.DeriveGUID(o.Manifest.Image, fmt.Sprintf("sbom %x", sha256.Sum256([]byte(text))))
	return s.Document, s.Validate()
}

func (s *sbom) add(p spdx.Package) string {
	s.Packages = append(s.Packages, p)
	return p.SPDXID
}

func (s *sbom) addImage() {
	m := s.o.Manifest
	p := spdx.NewPackage(spdx.ID("Image"), m.Name, m.Image)
	p.Purpose, p.Summary = "INSTALL", "Bootable image of FreeBSD "+s.c.FreeBSD+" "+m.FreeBSD.Arch
	s.image = s.add(p)
	s.Relate(spdx.DocumentID, "DESCRIBES", s.image)
}

// addBase describes the base system as one package. Of pkgbase it has no layer: the
// packages that it is made of are described by themselves.
func (s *sbom) addBase() {
	p := s.system("Base", "FreeBSD", s.o.layer(manifest.LayerBase, ""))
	if s.from.FreeBSD == s.c.FreeBSD {
		p.DownloadLocation = location(s.from.Base)
	}
	s.base = []string{s.add(p)}
	s.Relate(s.image, "CONTAINS", s.base[0])
}

func (s *sbom) addKernel() {
	if l := s.o.layer(manifest.LayerKernel, ""); l != nil {
		s.kernel = s.add(s.system("Kernel", "FreeBSD-kernel", l))
		s.Relate(s.image, "CONTAINS", s.kernel)
	}
}

// system is a part of FreeBSD itself.
func (s *sbom) system(id, name string, l *manifest.Layer) spdx.Package {
	p := spdx.NewPackage(spdx.ID(id), name, s.c.FreeBSD)
	p.Supplier, p.Homepage, p.Purpose = "Organization: The FreeBSD Project", "https://www.FreeBSD.org/", "OPERATING-SYSTEM"
	q := url.Values{"arch": {s.o.Manifest.FreeBSD.Arch}}
	if l != nil {
		p.FileName, p.Checksums = l.Path(), spdx.SHA256(l.SHA256)
		q.Set("checksum", "sha256:"+l.SHA256)
	}
	p.ExternalRefs = []spdx.ExternalRef{cpeRef(systemCPE(s.c.FreeBSD)), purl(strings.ToLower(name), s.c.FreeBSD, q)}
	return p
}

func (s *sbom) addPackage(p *pkgs.Package) {
	x := spdx.NewPackage(spdx.ID("Package", p.Name, p.Version), p.Name, p.Version)
	for n := 2; slices.ContainsFunc(s.Packages, func(o spdx.Package) bool { return o.SPDXID == x.SPDXID }); n++ {
		x.SPDXID = spdx.ID("Package", p.Name, p.Version, fmt.Sprint(n)) // foo_bar and foo-bar
	}
	sum := archiveSum(p)
	x.FileName, x.Checksums, x.Summary = manifest.PkgDir+"/"+p.Path, spdx.SHA256(sum), p.Comment
	x.DownloadLocation = location(s.from.Packages[sum])
	if strings.Contains(p.WWW, "://") {
		x.Homepage = p.WWW
	}
	x.LicenseDeclared = spdx.Expression(p.LicenseLogic, p.Licenses)
	for _, name := range p.Licenses {
		if id, listed := spdx.License(name); !listed && !s.licenses[id] {
			s.licenses[id] = true
			s.ExtractedLicenses = append(s.ExtractedLicenses, spdx.Extracted{ID: id, Name: name,
				Text: "FreeBSD's ports call this licence " + name + ". Packages that have it install its text below /usr/local/share/licenses."})
		}
	}
	q := url.Values{"arch": {s.o.Manifest.FreeBSD.Arch}, "checksum": {"sha256:" + sum}}
	if p.Origin != "" {
		q.Set("origin", p.Origin)
	}
	x.ExternalRefs = []spdx.ExternalRef{purl(p.Name, p.Version, q)}
	if cpe := packageCPE(p.Annotations["cpe"]); cpe != "" {
		x.ExternalRefs = append([]spdx.ExternalRef{cpeRef(cpe)}, x.ExternalRefs...)
	}
	s.ids[p] = s.add(x)
	s.Relate(s.image, "CONTAINS", s.ids[p])
}

// addRoots describes the host and the jails.
func (s *sbom) addRoots() {
	for _, l := range s.o.Manifest.Layers {
		if l.Role != manifest.LayerHost && l.Role != manifest.LayerJail {
			continue
		}
		name, base := OverlayRoot(l), JailBaseRoot
		p := spdx.NewPackage(spdx.ID("Root", name), name, s.o.Manifest.Image)
		p.FileName, p.Checksums, p.Purpose = l.Path(), spdx.SHA256(l.SHA256), "CONTAINER"
		p.Summary, p.Comment = "Root of jail "+name, "The checksum is that of the root's overlay."
		if l.Role == manifest.LayerHost {
			p.Purpose, p.Summary, base = "OPERATING-SYSTEM", "The host's root", HostBaseRoot
		}
		id := s.add(p)
		s.Relate(s.image, "CONTAINS", id)
		s.Relate(id, "CONTAINS", s.base[0])
		if l.Role == manifest.LayerHost && s.kernel != "" {
			s.Relate(id, "CONTAINS", s.kernel)
		}
		for _, r := range s.c.Roots {
			if r.Root == name || r.Root == base {
				for _, x := range r.Packages {
					s.Relate(id, "CONTAINS", s.ids[x.pkg])
				}
			}
		}
	}
}

// location is where a package was downloaded from, if that is a URL.
func location(u string) string {
	if strings.HasPrefix(u, "https://") || strings.HasPrefix(u, "http://") {
		return u
	}
	return spdx.NoAssertion
}

// purl names a package of FreeBSD. There is no type for them (purl-spec has "bsd"
// under discussion), so it is the generic one with a namespace.
func purl(name, version string, q url.Values) spdx.ExternalRef {
	return spdx.ExternalRef{Category: "PACKAGE-MANAGER", Type: "purl",
		Locator: "pkg:generic/freebsd/" + url.PathEscape(name) + "@" + url.QueryEscape(version) + "?" + purlQuery(q)}
}

// purlQuery encodes qualifiers, in which purl leaves ":" and "/" alone.
func purlQuery(q url.Values) string {
	return strings.NewReplacer("%3A", ":", "%2F", "/").Replace(q.Encode())
}

func cpeRef(cpe string) spdx.ExternalRef {
	return spdx.ExternalRef{Category: "SECURITY", Type: "cpe23Type", Locator: cpe}
}

// packageCPE completes the CPE name that ports note in a package, which leaves out
// what is any: "cpe:2.3:a:f5:nginx:1.28.0:::::freebsd15:x64". "" when it is none.
func packageCPE(note string) string {
	const parts = 13
	note = strings.ReplaceAll(note, `\:`, "\x00")
	f := strings.Split(note, ":")
	if len(f) < 5 || len(f) > parts {
		return ""
	}
	for len(f) < parts {
		f = append(f, "")
	}
	for i := range f {
		f[i] = strings.ReplaceAll(cmp.Or(f[i], "*"), "\x00", `\:`)
	}
	if cpe := strings.Join(f, ":"); spdx.ValidCPE(cpe) {
		return cpe
	}
	return ""
}
