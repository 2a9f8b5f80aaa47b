// Package pkgtest writes FreeBSD packages and repositories of them for tests, as
// `pkg create` and `pkg repo` of pkg 2.8 do, and wrong ones. It shares no code with
// package pkgs, which reads them.
package pkgtest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Time is the time of everything written here.
var Time = time.Unix(1700000000, 0)

// Pkg describes a package. The zero value of every field but Name is good.
type Pkg struct {
	Name        string
	Version     string // "" = "1.0"
	Origin      string // "" = "test/" and the name
	Comment     string
	WWW         string
	Maintainer  string
	Desc        string
	ABI         string // "" = "FreeBSD:15:amd64"
	Prefix      string // "" = "/usr/local"
	Deps        []Dep
	Categories  []string
	Licenses    []string
	Users       []string
	Groups      []string
	Conflicts   []string
	Requires    []string
	Provides    []string
	Annotations map[string]string
	Options     map[string]string
	Vital       bool

	ShlibsRequired []string
	ShlibsProvided []string

	Scripts map[string]string // "post-install" and so on
	Config  []string          // paths of Files
	Files   []File

	Packing string // zst, xz, gz, tar; "" = zst
}

// Dep is a package that a package needs.
type Dep struct{ Name, Origin, Version string }

// File is an entry of a package. The zero value is an empty file of root:wheel 0644.
type File struct {
	Path    string
	Type    byte   // tar.TypeReg, tar.TypeDir and so on; 0 = TypeReg, or TypeSymlink when there is a Link
	Link    string // of symlinks and hard links
	Content string
	Mode    int64  // 0 = 0644, 0755 for directories
	Owner   string // "" = root
	Group   string // "" = wheel
}

func (f File) kind() byte {
	if f.Type == 0 && f.Link != "" {
		return tar.TypeSymlink
	}
	return cmp.Or(f.Type, tar.TypeReg)
}

func (f File) mode() string {
	m := int64(0o644)
	if f.kind() == tar.TypeDir || f.kind() == tar.TypeSymlink {
		m = 0o755
	}
	return fmt.Sprintf("%04o", cmp.Or(f.Mode, m))
}

func (p Pkg) complete() Pkg {
	p.Version = cmp.Or(p.Version, "1.0")
	p.Origin = cmp.Or(p.Origin, "test/"+p.Name)
	p.Comment = cmp.Or(p.Comment, "Test package "+p.Name)
	p.WWW = cmp.Or(p.WWW, "https://www.example.org/"+p.Name)
	p.Maintainer = cmp.Or(p.Maintainer, "ports@FreeBSD.org")
	p.Desc = cmp.Or(p.Desc, p.Comment+"\n")
	p.ABI = cmp.Or(p.ABI, "FreeBSD:15:amd64")
	p.Prefix = cmp.Or(p.Prefix, "/usr/local")
	if p.Categories == nil {
		p.Categories = []string{"test"}
	}
	if p.Licenses == nil {
		p.Licenses = []string{"BSD2CLAUSE"}
	}
	return p
}

// ID is "name-version".
func (p Pkg) ID() string { return p.Name + "-" + cmp.Or(p.Version, "1.0") }

// object is a JSON object that keeps its order, as libucl does.
type object struct{ bytes.Buffer }

func (o *object) add(key string, value any) {
	if o.Len() > 0 {
		o.WriteByte(',')
	}
	e := json.NewEncoder(&o.Buffer)
	e.SetEscapeHTML(false)
	for i, v := range []any{key, value} {
		if err := e.Encode(v); err != nil {
			panic(err) // only strings and their likes come here
		}
		o.Truncate(o.Len() - 1)
		if i == 0 {
			o.WriteByte(':')
		}
	}
}

func (o *object) list(key string, values []string) {
	if len(values) > 0 {
		o.add(key, values)
	}
}

func (o *object) MarshalJSON() ([]byte, error) {
	return append(append([]byte{'{'}, o.Bytes()...), '}'), nil
}

func legacyArch(abi string) string {
	return strings.NewReplacer("FreeBSD", "freebsd", "amd64", "x86:64", "aarch64", "aarch64:64").Replace(abi)
}

// entry is where a package is in a repository.
type entry struct {
	sum, path string
	size      int
}

// manifest is +COMPACT_MANIFEST; a line of the catalogue when e is given; +MANIFEST
// when full.
func (p Pkg) manifest(e *entry, full bool) []byte {
	p = p.complete()
	var o object
	for _, f := range [][2]string{{"name", p.Name}, {"origin", p.Origin}, {"version", p.Version}, {"comment", p.Comment},
		{"maintainer", p.Maintainer}, {"www", p.WWW}, {"abi", p.ABI}, {"arch", legacyArch(p.ABI)}, {"prefix", p.Prefix}} {
		o.add(f[0], f[1])
	}
	if e != nil {
		o.add("sum", e.sum)
	}
	flat := 0
	for _, f := range p.Files {
		flat += len(f.Content)
	}
	o.add("flatsize", flat)
	if e != nil {
		o.add("path", e.path)
		o.add("repopath", e.path)
	}
	o.add("licenselogic", map[bool]string{true: "single", false: "and"}[len(p.Licenses) < 2])
	o.list("licenses", p.Licenses)
	if e != nil {
		o.add("pkgsize", e.size)
	}
	if p.Vital {
		o.add("vital", true)
	}
	o.add("desc", strings.ReplaceAll(url.PathEscape(p.Desc), "%20", " "))
	if len(p.Deps) > 0 {
		var deps object
		for _, d := range p.Deps {
			deps.add(d.Name, map[string]string{"origin": cmp.Or(d.Origin, "test/"+d.Name), "version": cmp.Or(d.Version, "1.0")})
		}
		o.add("deps", &deps)
	}
	o.list("categories", p.Categories)
	o.list("users", p.Users)
	o.list("groups", p.Groups)
	o.list("shlibs_required", p.ShlibsRequired)
	o.list("shlibs_provided", p.ShlibsProvided)
	o.list("conflicts", p.Conflicts)
	o.list("provides", p.Provides)
	o.list("requires", p.Requires)
	if len(p.Options) > 0 {
		o.add("options", p.Options)
	}
	if len(p.Annotations) > 0 {
		o.add("annotations", p.Annotations)
	}
	if full {
		p.addFull(&o)
	}
	b, _ := o.MarshalJSON()
	return b
}

// encodePath is a path as manifests have it, which pkg decodes like a URL.
func encodePath(p string) string { return strings.ReplaceAll(p, "%", "%25") }

// addFull adds what only +MANIFEST has.
func (p Pkg) addFull(o *object) {
	var files, dirs object
	for _, f := range p.Files {
		var x object
		content := f.Content
		switch f.kind() {
		case tar.TypeSymlink:
			content = strings.TrimLeft(f.Link, "/")
		case tar.TypeLink:
			for _, other := range p.Files {
				if other.Path == f.Link {
					content = other.Content
				}
			}
		}
		if f.kind() != tar.TypeDir {
			x.add("sum", fmt.Sprintf("1$%x", sha256.Sum256([]byte(content))))
		}
		x.add("uname", cmp.Or(f.Owner, "root"))
		x.add("gname", cmp.Or(f.Group, "wheel"))
		x.add("perm", f.mode())
		if f.kind() == tar.TypeDir {
			dirs.add(encodePath(f.Path), &x)
			continue
		}
		if f.kind() == tar.TypeSymlink {
			x.add("symlink_target", f.Link)
		}
		files.add(encodePath(f.Path), &x)
	}
	for _, part := range []struct {
		key string
		o   *object
	}{{"files", &files}, {"directories", &dirs}} {
		if part.o.Len() > 0 {
			o.add(part.key, part.o)
		}
	}
	o.list("config", p.Config)
	if len(p.Scripts) > 0 {
		var s object
		for _, name := range slices.Sorted(maps.Keys(p.Scripts)) {
			s.add(name, url.PathEscape(p.Scripts[name]))
		}
		o.add("scripts", &s)
	}
}

// Manifest is the package's +COMPACT_MANIFEST.
func (p Pkg) Manifest() []byte { return p.manifest(nil, false) }

// Archive returns the package as `pkg create` writes it.
func (p Pkg) Archive(t testing.TB) []byte {
	t.Helper()
	members := []Member{{Name: "+COMPACT_MANIFEST", Content: p.manifest(nil, false)}, {Name: "+MANIFEST", Content: p.manifest(nil, true)}}
	for _, f := range p.Files {
		members = append(members, f.member(t))
	}
	return Tar(t, p.Packing, members...)
}

func (f File) member(t testing.TB) Member {
	var mode int64
	if _, err := fmt.Sscanf(f.mode(), "%o", &mode); err != nil {
		t.Fatal(err)
	}
	m := Member{Name: f.Path, Type: f.kind(), Link: f.Link, Mode: mode, Owner: f.Owner, Group: f.Group}
	if m.Type == tar.TypeReg {
		m.Content = []byte(f.Content)
	}
	if m.Type == tar.TypeDir {
		m.Name = strings.TrimSuffix(m.Name, "/") + "/"
	}
	return m
}

// Member is an entry of an archive, right or wrong.
type Member struct {
	Name    string
	Type    byte // 0 = tar.TypeReg
	Link    string
	Content []byte
	Mode    int64  // 0 = 0644
	Owner   string // "" = root
	Group   string // "" = wheel
}

// Tar packs members with zst, xz, gz, or not at all with tar; "" = zst.
func Tar(t testing.TB, packing string, members ...Member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Typeflag: cmp.Or(m.Type, tar.TypeReg), Name: m.Name, Linkname: m.Link, Size: int64(len(m.Content)),
			Mode: cmp.Or(m.Mode, 0o644), Uname: cmp.Or(m.Owner, "root"), Gname: cmp.Or(m.Group, "wheel"), ModTime: Time}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return Pack(t, packing, b.Bytes())
}

// Pack packs bytes with zst, xz, gz, or not at all with tar; "" = zst.
func Pack(t testing.TB, packing string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch packing {
	case "", "zst":
		w, err = zstd.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "gz":
		w = gzip.NewWriter(&b)
	case "tar":
		return content
	default:
		t.Fatalf("pkgtest: unknown packing %q", packing)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
