package pkgs

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/unpack"
)

// Archive is a package archive whose every header was read and found harmless.
type Archive struct {
	Name     string
	Version  string
	ABI      string
	Manifest json.RawMessage // +COMPACT_MANIFEST
	Entries  []ArchiveEntry  // in the order of the archive

	r      io.ReaderAt
	size   int64
	prefix string
}

// ArchiveEntry is what a package installs.
type ArchiveEntry struct {
	Path string // absolute and clean
	Kind tree.Kind
	Size int64  // bytes, of a File
	Link string // Symlink: target; HardLink: Path of an earlier File
}

const (
	compactManifest = "+COMPACT_MANIFEST"
	fullManifest    = "+MANIFEST"
	maxManifest     = 64 << 20 // bytes of +COMPACT_MANIFEST
	maxPackage      = 64 << 30 // bytes a package unpacks to
	maxEntries      = 4 << 20
)

// Inspect reads an archive to its end. It refuses what pkg(8) would write outside of
// the root it installs to, what is no file, directory or link, and what is truncated
// or has something behind its end. r must stay readable for Open.
func Inspect(r io.ReaderAt, size int64) (*Archive, error) {
	a := &Archive{r: r, size: size}
	t, done, err := a.open()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := a.readManifests(t); err != nil {
		return nil, err
	}
	seen := entries{files: map[string]bool{}, absolute: map[string]bool{}, base: a.prefix == "/"}
	for {
		h, err := t.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", a.id(), err)
		}
		e, err := seen.add(h)
		if err == nil && len(a.Entries) == maxEntries {
			err = errors.New("there are too many entries")
		}
		if err != nil {
			return nil, fmt.Errorf("package %s: entry %q: %w", a.id(), h.Name, err)
		}
		a.Entries = append(a.Entries, e)
	}
}

func (a *Archive) id() string { return a.Name + "-" + a.Version }

func (a *Archive) open() (*tarReader, func(), error) {
	in, done, err := unpack.Open(io.NewSectionReader(a.r, 0, a.size), 1)
	if err != nil {
		return nil, nil, fmt.Errorf("package archive: %w", unpackError(err))
	}
	return newTarReader(in, maxPackage), done, nil
}

// readManifests reads the two members that come first.
func (a *Archive) readManifests(t *tarReader) error {
	if err := a.readCompact(t); err != nil {
		return err
	}
	h, err := t.Next()
	if err == io.EOF || err == nil && h.Name != fullManifest {
		return fmt.Errorf("package %s: no %s behind %s", a.id(), fullManifest, compactManifest)
	}
	var name, version string
	if err == nil {
		name, version, err = identity(t)
	}
	if err == nil && (name != a.Name || version != a.Version) {
		err = fmt.Errorf("it describes %s-%s", name, version)
	}
	if err != nil {
		return fmt.Errorf("package %s: %s: %w", a.id(), fullManifest, unpackError(err))
	}
	return nil
}

func (a *Archive) readCompact(t *tarReader) error {
	h, err := t.Next()
	if err == io.EOF || err == nil && h.Name != compactManifest {
		return fmt.Errorf("package archive: no %s at its beginning", compactManifest)
	}
	if err == nil && h.Size > maxManifest {
		err = errTooLarge
	}
	if err == nil {
		a.Manifest, err = io.ReadAll(t)
	}
	var p Package
	if err == nil {
		err = json.Unmarshal(a.Manifest, &p)
	}
	if err == nil && (p.Name == "" || p.Version == "") {
		err = errors.New("no name or no version")
	}
	if err != nil {
		return fmt.Errorf("package archive: %s: %w", compactManifest, unpackError(err))
	}
	a.Name, a.Version, a.ABI, a.prefix = p.Name, p.Version, p.ABI, p.Prefix
	return nil
}

// identity reads name and version of a manifest, which may be large.
func identity(r io.Reader) (name, version string, err error) {
	d := json.NewDecoder(r)
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return "", "", errors.Join(errors.New("not a JSON object"), err)
	}
	for d.More() && (name == "" || version == "") {
		key, err := d.Token()
		if err != nil {
			return "", "", err
		}
		var into any = new(json.RawMessage)
		switch key {
		case "name":
			into = &name
		case "version":
			into = &version
		}
		if err := d.Decode(into); err != nil {
			return "", "", err
		}
	}
	if name == "" || version == "" {
		return "", "", errors.New("no name or no version")
	}
	return name, version, nil
}

// entries are those of an archive so far.
type entries struct {
	files    map[string]bool
	absolute map[string]bool // symlinks with absolute targets
	base     bool            // of a package of the base system: it has such links (/etc/termcap)
}

// add checks the header of the next one.
func (s entries) add(h *tar.Header) (ArchiveEntry, error) {
	e := ArchiveEntry{Path: h.Name, Size: h.Size}
	if h.Typeflag == tar.TypeDir {
		e.Path = strings.TrimSuffix(h.Name, "/")
	}
	if err := checkPath(e.Path); err != nil {
		return e, err
	}
	for dir := path.Dir(e.Path); len(s.absolute) > 0 && dir != "/"; dir = path.Dir(dir) {
		if s.absolute[dir] {
			return e, fmt.Errorf("it is below %q, a symlink to an absolute path", dir)
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		e.Kind = tree.File
		if s.files[e.Path] {
			return e, errors.New("it is there twice")
		}
		s.files[e.Path] = true
	case tar.TypeDir:
		e.Kind, e.Size = tree.Dir, 0
	case tar.TypeSymlink:
		e.Kind, e.Size, e.Link = tree.Symlink, 0, h.Linkname
		if s.base && path.IsAbs(e.Link) {
			s.absolute[e.Path] = true
			return e, checkTarget(e.Path, "."+strings.Repeat("/..", strings.Count(e.Path, "/")-1)+e.Link)
		}
		return e, checkTarget(e.Path, e.Link)
	case tar.TypeLink:
		e.Kind, e.Size, e.Link = tree.HardLink, 0, h.Linkname
		if !s.files[e.Link] {
			return e, fmt.Errorf("a hard link to %q, which is not a file before it", e.Link)
		}
		s.files[e.Path] = true
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return e, errors.New("a device node or fifo")
	default:
		return e, fmt.Errorf("unknown type %q", h.Typeflag)
	}
	return e, nil
}

func checkPath(p string) error {
	rel, absolute := strings.CutPrefix(p, "/")
	switch {
	case strings.Contains("/"+p+"/", "/../"):
		return errors.New("its path contains ..")
	case !absolute:
		return errors.New("its path is not absolute")
	case !fs.ValidPath(rel) || rel == "." || strings.Contains(rel, "\x00"):
		return errors.New("its path is not clean")
	}
	return nil
}

// checkTarget follows a symlink's target as text.
func checkTarget(link, target string) error {
	if target == "" {
		return errors.New("a symlink to nothing")
	}
	if path.IsAbs(target) {
		return fmt.Errorf("a symlink to the absolute path %q", target)
	}
	depth := strings.Count(link, "/") - 1
	for _, part := range strings.Split(target, "/") {
		switch part {
		case "", ".":
		case "..":
			depth--
		default:
			depth++
		}
		if depth < 0 {
			return fmt.Errorf("a symlink to %q, which is outside of the root", target)
		}
	}
	return nil
}

// Check says how the archive differs from the catalogue's entry.
func (a *Archive) Check(p *Package) error {
	if a.Name != p.Name || a.Version != p.Version {
		return fmt.Errorf("package %s: its archive holds %s", p.ID(), a.id())
	}
	if p.ABI != "" && !strings.EqualFold(a.ABI, p.ABI) {
		return fmt.Errorf("package %s: its archive is for ABI %q, the catalogue says %q", p.ID(), a.ABI, p.ABI)
	}
	return nil
}

// Open returns the content of one file, of which the path is given with or without
// its first slash. It unpacks all that comes before it.
func (a *Archive) Open(name string) (io.ReadCloser, error) {
	name = path.Clean("/" + name)
	fail := func(err error) error { return fmt.Errorf("package %s: open %s: %w", a.id(), name, err) }
	want := ""
	for _, e := range a.Entries {
		switch {
		case e.Path != name:
		case e.Kind == tree.File:
			want = name
		case e.Kind == tree.HardLink:
			want = a.file(e.Link)
		}
	}
	if want == "" {
		return nil, fail(fs.ErrNotExist)
	}
	t, done, err := a.open()
	if err != nil {
		return nil, err
	}
	for {
		h, err := t.Next()
		if err != nil {
			done()
			return nil, fail(err)
		}
		if h.Name == want && h.Typeflag != tar.TypeLink {
			return &archiveFile{t, done}, nil
		}
	}
}

// file follows hard links to the file that has the content.
func (a *Archive) file(name string) string {
	for _, e := range a.Entries {
		if e.Path == name && e.Kind == tree.HardLink {
			return a.file(e.Link)
		}
	}
	return name
}

type archiveFile struct {
	io.Reader
	done func()
}

func (f *archiveFile) Close() error {
	f.done()
	return nil
}
