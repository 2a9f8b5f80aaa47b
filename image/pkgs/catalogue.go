package pkgs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/unpack"
)

// Repo is where packages come from.
type Repo struct {
	Name         string   // for messages; "" = the URL
	URL          string   // https:, http:, file: or a directory; pkg+ before it is ignored
	Fingerprints []string // trusted keys: hex of their sha256
	Revoked      []string // keys that are no longer, the same way
	Unsigned     bool     // trust whatever is there
}

// Options of Open and Store.Fetch.
type Options struct {
	Cache     string // of catalogues; "" = os.UserCacheDir()/rig
	ABI       string // that every package must fit, "FreeBSD:15:amd64"; "" = any
	OSVersion int    // for Package.Fits: __FreeBSD_version, 0 = any
	Offline   bool   // use what was fetched before
	Progress  func(what string, done, total int64)
	Logf      func(format string, args ...any) // by several goroutines
}

// Catalogue is what a repository has.
type Catalogue struct {
	Repo Repo
	list []*Package
}

// Packages returns all packages, by name and then version.
func (c *Catalogue) Packages() []*Package { return slices.Clone(c.list) }

const (
	maxArchive  = 256 << 20 // bytes of a catalogue's archive
	maxUnpacked = 1 << 30   // bytes of what is in it, as in pkg
	batchSize   = 256 << 10 // bytes of entries decoded at once
)

// Open reads a repository's catalogue. It downloads nothing but a header when the
// catalogue in the cache is still the server's.
func Open(ctx context.Context, repo Repo, o Options) (*Catalogue, error) {
	repo, err := repo.normal()
	if err != nil {
		return nil, err
	}
	var list []*Package
	if dir, ok := repo.dir(); ok {
		list, err = openDir(ctx, repo, dir, o)
	} else {
		list, err = openRemote(ctx, repo, o)
	}
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", repo.Name, err)
	}
	slices.SortFunc(list, func(a, b *Package) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), CompareVersions(a.Version, b.Version))
	})
	return &Catalogue{Repo: repo, list: list}, nil
}

// normal checks the repository and returns it in one form.
func (r Repo) normal() (Repo, error) {
	r.URL = strings.TrimRight(strings.TrimPrefix(r.URL, "pkg+"), "/")
	r.Name = cmp.Or(r.Name, r.URL)
	if r.URL == "" {
		return r, diag.Inputf("repository %s: no URL", r.Name)
	}
	if u, err := url.Parse(r.URL); strings.Contains(r.URL, "://") && (err != nil || !slices.Contains([]string{"http", "https", "file"}, u.Scheme)) {
		return r, diag.Inputf("repository %s: URL %s is none of https, http, file", r.Name, r.URL)
	}
	if len(r.Fingerprints) == 0 && !r.Unsigned {
		return r, diag.Hint(diag.Inputf("repository %s: no fingerprints of trusted keys", r.Name),
			"name them, or say that the repository is unsigned")
	}
	return r, nil
}

// dir is the directory of a local repository.
func (r Repo) dir() (string, bool) {
	if p, ok := strings.CutPrefix(r.URL, "file://"); ok {
		return filepath.FromSlash(strings.TrimPrefix(p, "localhost")), true
	}
	return filepath.FromSlash(r.URL), !strings.Contains(r.URL, "://")
}

func (r Repo) fileURL(name string) string { return r.URL + "/" + (&url.URL{Path: name}).EscapedPath() }

// source is an archive with a catalogue.
type source struct {
	Archive string // its name in the repository
	Member  string // of it
	Lines   bool   // the member is packagesite.yaml, not data
}

// locate finds the repository's catalogue. get returns the path of a file of the
// repository, fs.ErrNotExist when there is none.
func locate(get func(name string, limit int64) (string, error)) (source, string, error) {
	m := defaultMeta()
	file, err := get(metaFile, maxMeta)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return source{}, "", err
	default:
		text, err := os.ReadFile(file)
		if err == nil {
			m, err = parseMeta(text)
		}
		if err != nil {
			return source{}, "", err
		}
	}
	for _, s := range []source{
		{m.dataArchive + ".pkg", m.data, false},
		{m.dataArchive + "." + m.packing, m.data, false},
		{m.manifestArchive + ".pkg", m.manifests, true},
		{m.manifestArchive + "." + m.packing, m.manifests, true},
	} {
		file, err := get(s.Archive, maxArchive)
		if !errors.Is(err, fs.ErrNotExist) {
			return s, file, err
		}
	}
	return source{}, "", diag.Hint(fmt.Errorf("neither %s.pkg nor %s.pkg is there", m.dataArchive, m.manifestArchive),
		"check the URL: it is what pkg -vv shows, with ABI and branch at its end")
}

func openDir(ctx context.Context, repo Repo, dir string, o Options) ([]*Package, error) {
	s, file, err := locate(func(name string, _ int64) (string, error) {
		p := filepath.Join(dir, name)
		_, err := os.Stat(p)
		return p, err
	})
	if err != nil {
		return nil, err
	}
	return load(ctx, repo, s, file, o)
}

// load reads the archive file. The signature is checked before anything is decoded.
func load(ctx context.Context, repo Repo, s source, file string, o Options) ([]*Package, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var signed [sha256.Size]byte
	if !repo.Unsigned {
		h := sha256.New()
		sigs, err := readCatalogue(ctx, f, s, func(r io.Reader) error {
			_, err := io.CopyBuffer(struct{ io.Writer }{h}, r, make([]byte, readBuffer))
			return err
		})
		if err != nil {
			return nil, err
		}
		signed = [sha256.Size]byte(h.Sum(nil))
		if err := sigs.verify(signed, repo.Fingerprints, repo.Revoked); err != nil {
			return nil, diag.Hint(fmt.Errorf("%s: %w", s.Archive, err), "compare the repository's fingerprints with those in /usr/share/keys on FreeBSD; do not use it otherwise")
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	var list []*Package
	_, err = readCatalogue(ctx, f, s, func(r io.Reader) (err error) {
		h := sha256.New()
		list, err = decodePackages(io.TeeReader(r, h), s.Lines, func(p *Package) error { return p.check(o.ABI) })
		if err == nil && !repo.Unsigned && [sha256.Size]byte(h.Sum(nil)) != signed {
			err = errors.New("changed while it was read")
		}
		return err
	})
	return list, err
}

// readCatalogue passes the catalogue to content and returns the archive's
// signatures.
func readCatalogue(ctx context.Context, r io.Reader, s source, content func(io.Reader) error) (signatures, error) {
	fail := func(err error) error { return fmt.Errorf("%s: %w", s.Archive, err) }
	in, done, err := unpack.Open(contextReader{ctx, r}, runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, fail(err)
	}
	defer done()
	var sigs signatures
	members, found := 0, false
	for t := newTarReader(in, maxUnpacked); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fail(err)
		}
		switch ext := path.Ext(h.Name); {
		case h.Name == s.Member:
			if found {
				return nil, fail(fmt.Errorf("%s is there twice", h.Name))
			}
			found = true
			if err := content(t); err != nil {
				return nil, fail(fmt.Errorf("%s: %w", h.Name, unpackError(err)))
			}
		case ext == ".sig" || ext == ".pub":
			if members++; members > maxSignatures || h.Size > maxSignature {
				return nil, fail(errors.New("too many or too large signatures"))
			}
			b, err := io.ReadAll(t)
			if err == nil {
				err = sigs.add(h.Name, b)
			}
			if err != nil {
				return nil, fail(unpackError(err))
			}
		}
	}
	if !found {
		return nil, fail(fmt.Errorf("no %s in it", s.Member))
	}
	return sigs, nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// check completes an entry and refuses what cannot be used safely.
func (p *Package) check(abi string) error {
	for _, s := range []string{p.Name, p.Version} {
		if s == "" || s[0] == '.' || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '/' || r == '\\' || r == 0x7f }) {
			return fmt.Errorf("name %q and version %q do not name a package", p.Name, p.Version)
		}
	}
	p.Path = cmp.Or(p.Path, p.RepoPath)
	if !fs.ValidPath(p.Path) || p.Path == "." || strings.ContainsAny(p.Path, "\\\x00") {
		return fmt.Errorf("path %q does not stay in the repository", p.Path)
	}
	if _, err := ParseSum(p.Sum); err != nil {
		return err
	}
	if p.Size < 0 || p.FlatSize < 0 {
		return fmt.Errorf("sizes %d and %d", p.Size, p.FlatSize)
	}
	return p.Fits(abi, 0)
}

// Fits says why the package cannot be installed on a system: it was built for
// another ABI, or for a newer version of the same. "" and 0 are not compared. As in
// pkg, a package's ABI may end early or have wildcards (utils.c is_valid_abi).
func (p *Package) Fits(abi string, osVersion int) error {
	if abi != "" {
		have, want := strings.ToLower(p.ABI), strings.ToLower(abi)
		ok, err := path.Match(have, want)
		if have == "" || err != nil || !ok && !strings.HasPrefix(want+":", have+":") {
			return fmt.Errorf("it is for ABI %q, not for %s", p.ABI, abi)
		}
	}
	if v, ok := p.Annotations["FreeBSD_version"]; ok && osVersion != 0 {
		n, err := strconv.Atoi(v)
		if err != nil || n <= 0 {
			return fmt.Errorf("FreeBSD_version %q is not a number", v)
		}
		if n > osVersion {
			return fmt.Errorf("it was built on FreeBSD %d, which is newer than %d", n, osVersion)
		}
	}
	return nil
}

func (o Options) cacheDir() (string, error) {
	if o.Cache != "" {
		return o.Cache, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", diag.Hint(err, "set XDG_CACHE_HOME or HOME")
	}
	return filepath.Join(base, "rig"), nil
}

func (o Options) logf(format string, args ...any) {
	if o.Logf != nil {
		o.Logf(format, args...)
	}
}

// CatalogueFile is the catalogue that ReadCatalogue reads, in a repository that
// LocalRepo wrote.
const CatalogueFile = "packagesite.pkg"

// ReadCatalogue reads a CatalogueFile, in its order: by name and then version. It
// takes what Open takes of an unsigned repository.
func ReadCatalogue(ctx context.Context, r io.Reader) ([]*Package, error) {
	var list []*Package
	s := source{Archive: CatalogueFile, Member: defaultMeta().manifests, Lines: true}
	_, err := readCatalogue(ctx, r, s, func(r io.Reader) (err error) {
		list, err = decodePackages(r, s.Lines, func(p *Package) error { return p.check("") })
		return err
	})
	return list, err
}
