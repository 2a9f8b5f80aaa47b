// Package sets makes trees of FreeBSD release sets: base.txz, kernel.txz and their
// kin, as release/Makefile packs them and release/scripts/make-manifest.sh lists
// them in MANIFEST (FreeBSD 13 to 15).
//
// Sets come from a directory, from the cache or from a mirror. Every set is hashed
// against MANIFEST each time. A set is decoded once, its xz blocks in parallel,
// into an uncompressed tar in the cache; entries open at their offset in it.
//
// Below the cache directory: sets/<version>-<arch>/ holds downloads,
// tars/<sha256 of the set>.tar decoded sets and .idx their entries. All of it may
// be removed at any time. Left out: signatures (MANIFEST has none; trust is the
// mirror's TLS or whoever filled the directory). Packages makes the same sets of
// pkgbase's packages. Sizes are bytes.
package sets

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
)

// DefaultMirror is where Locate downloads from.
const DefaultMirror = "https://download.freebsd.org/releases"

// Options of Locate. Version and Arch are needed only when Dir and $RIG_SETS are
// both empty.
type Options struct {
	Dir      string // directory of sets and MANIFEST; "" = $RIG_SETS, then cache and mirror
	Cache    string // "" = os.UserCacheDir()/rig
	Mirror   string // sets are at Mirror/Arch/Version/; "" = DefaultMirror
	Version  string // "15.1-RELEASE"
	Arch     string // "amd64"
	Progress func(what string, done, total int64)
	Logf     func(string, ...any)
}

// Set is a release set whose content matched MANIFEST.
type Set struct {
	Name   string // "base"
	Path   string
	SHA256 string // hex
	Size   int64
}

// Sets are located sets. Trees stay readable until Close.
type Sets struct {
	list     []Set
	archives map[string][]Archive // of pkgbase: what a set is made of
	cache    string
	o        Options

	keeping sync.WaitGroup // decoded sets on their way into the cache

	mu   sync.Mutex
	tars map[string]*openTar
}

type openTar struct {
	mu sync.Mutex
	f  *os.File
	t  *tree.Tree
}

// Locate finds the named sets ("base", "kernel"), or every set of MANIFEST when no
// name is given, and checks their hashes. It looks in Options.Dir or else in
// $RIG_SETS, and nowhere else when one is given; otherwise in the cache, into which
// it downloads what is missing. What is wrong with given files counts as bad input.
func Locate(ctx context.Context, o Options, names ...string) (*Sets, error) {
	o = o.withDefaults()
	if o.Cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, diag.Hint(fmt.Errorf("locate sets: %w", err), "set XDG_CACHE_HOME or HOME")
		}
		o.Cache = filepath.Join(base, "rig")
	}
	s := &Sets{cache: o.Cache, o: o, tars: map[string]*openTar{}}
	var err error
	if o.Dir != "" {
		s.list, err = o.given(ctx, names)
	} else {
		s.list, err = o.cached(ctx, names)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (o Options) withDefaults() Options {
	if o.Dir == "" {
		o.Dir = os.Getenv("RIG_SETS")
	}
	if o.Mirror == "" {
		o.Mirror = DefaultMirror
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	var mu sync.Mutex // sets are hashed and decoded in parallel
	progress := o.Progress
	o.Progress = func(what string, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		progress(what, done, total)
	}
	return o
}

// given checks sets in a directory that the user named.
func (o Options) given(ctx context.Context, names []string) ([]Set, error) {
	m, err := readManifest(o.Dir)
	if err != nil {
		return nil, diag.Hint(diag.Input(fmt.Errorf("sets in %s: %w", o.Dir, err)), "%s", putHint(o, o.Dir, names))
	}
	list, errs := o.check(ctx, o.Dir, m, orAll(names, m))
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sets in %s: %w", o.Dir, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, diag.Hint(diag.Input(fmt.Errorf("sets in %s: %w", o.Dir, err)), "%s", putHint(o, o.Dir, names))
	}
	return list, nil
}

func putHint(o Options, dir string, names []string) string {
	files := []string{manifestName}
	for _, n := range names {
		files = append(files, n+suffix)
	}
	if len(names) == 0 {
		files = append(files, "the sets it lists")
	}
	what := ""
	if o.Version != "" {
		what = " of FreeBSD " + o.Version + " " + o.Arch
	}
	return fmt.Sprintf("put %s%s into %s; the release's directory on %s or /usr/freebsd-dist on its install media has them; `rigimage build --demo` needs none",
		strings.Join(files, ", "), what, dir, DefaultMirror)
}

// cached checks sets in the cache and downloads those that are missing or corrupt.
func (o Options) cached(ctx context.Context, names []string) ([]Set, error) {
	for _, s := range []string{o.Version, o.Arch} {
		if s == "" || strings.ContainsAny(s, "/\\") || strings.HasPrefix(s, ".") {
			return nil, diag.Inputf("locate sets: version %q and architecture %q do not name a release", o.Version, o.Arch)
		}
	}
	dir := filepath.Join(o.Cache, "sets", o.Version+"-"+o.Arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, diag.Hint(fmt.Errorf("locate sets: %w", err), "name a writable cache directory, or the directory of the sets with --sets")
	}
	f := newFetcher(o)
	fail := func(err error) error {
		hint := putHint(o, dir, names) + "; --sets names another directory"
		return diag.Hint(fmt.Errorf("sets of FreeBSD %s %s: %w", o.Version, o.Arch, err), "%s", hint)
	}
	m, err := readManifest(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			o.Logf("%v; downloading it again", err)
		}
		if m, err = f.manifest(ctx, dir); err != nil {
			return nil, fail(err)
		}
	}
	names = orAll(names, m)
	list, errs := o.check(ctx, dir, m, names)
	for i, err := range errs {
		if err == nil {
			continue
		}
		var absent *notListedError
		if errors.As(err, &absent) {
			return nil, fail(err)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			o.Logf("%v; downloading it again", err)
		}
		line, _ := find(m, names[i])
		if list[i], err = f.set(ctx, dir, names[i], line.SHA256); err != nil {
			return nil, fail(err)
		}
	}
	return list, nil
}

func orAll(names []string, m []ManifestLine) []string {
	if len(names) > 0 {
		return names
	}
	for _, l := range m {
		names = append(names, strings.TrimSuffix(l.File, suffix))
	}
	return names
}

const (
	manifestName = "MANIFEST"
	suffix       = ".txz"
)

type notListedError struct {
	name string
	have []string
}

func (e *notListedError) Error() string {
	return fmt.Sprintf("%s is not in MANIFEST, which lists %s", e.name+suffix, strings.Join(e.have, " "))
}

func find(m []ManifestLine, name string) (ManifestLine, error) {
	e := &notListedError{name: name}
	for _, l := range m {
		if l.File == name+suffix {
			return l, nil
		}
		e.have = append(e.have, l.File)
	}
	return ManifestLine{}, e
}

// check hashes the named sets in parallel. Sets and errors are in the order of
// names.
func (o Options) check(ctx context.Context, dir string, m []ManifestLine, names []string) ([]Set, []error) {
	list, errs := make([]Set, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	limit := make(chan struct{}, 4)
	for i, name := range names {
		line, err := find(m, name)
		if err != nil {
			errs[i] = err
			continue
		}
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			list[i], errs[i] = o.checkSet(ctx, filepath.Join(dir, name+suffix), name, line.SHA256)
		})
	}
	wg.Wait()
	return list, errs
}

func (o Options) checkSet(ctx context.Context, path, name, sha string) (Set, error) {
	got, size, err := hashFile(path, func(done, total int64) error {
		o.Progress("check "+name+suffix, done, total)
		return ctx.Err()
	})
	if err != nil {
		return Set{}, err
	}
	if got != sha {
		return Set{}, fmt.Errorf("%s is corrupt: its sha256 is %s, MANIFEST says %s", name+suffix, got, sha)
	}
	return Set{Name: name, Path: path, SHA256: sha, Size: size}, nil
}

func hashFile(path string, progress func(done, total int64) error) (sha string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	if !fi.Mode().IsRegular() {
		return "", 0, fmt.Errorf("%s is not a regular file", path)
	}
	h := sha256.New()
	buf := make([]byte, 512<<10)
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		size += int64(n)
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), size, nil
		}
		if err != nil {
			return "", 0, err
		}
		if err := progress(size, fi.Size()); err != nil {
			return "", 0, err
		}
	}
}

// Get returns a located set.
func (s *Sets) Get(name string) (Set, bool) {
	i := slices.IndexFunc(s.list, func(x Set) bool { return x.Name == name })
	if i < 0 {
		return Set{}, false
	}
	return s.list[i], true
}

// URL is where a set comes from: on the mirror, or in the directory that was named.
func (s *Sets) URL(name string) string {
	if s.o.Dir != "" {
		return filepath.Join(s.o.Dir, name+suffix)
	}
	return strings.TrimRight(s.o.Mirror, "/") + "/" + s.o.Arch + "/" + s.o.Version + "/" + name + suffix
}

// All returns the located sets in the order they were asked for.
func (s *Sets) All() []Set { return slices.Clone(s.list) }

// Tree returns a set's tree, decoding the set into the cache when it is not there
// yet. Entries may be opened until Close. Several sets may be asked for at once.
func (s *Sets) Tree(ctx context.Context, name string) (*tree.Tree, error) {
	set, ok := s.Get(name)
	if !ok {
		return nil, fmt.Errorf("read set %s: it was not located", name)
	}
	s.mu.Lock()
	o := s.tars[name]
	if o == nil {
		o = &openTar{}
		s.tars[name] = o
	}
	s.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.t != nil {
		return o.t, nil
	}
	path := filepath.Join(s.cache, "tars", set.SHA256+".tar")
	f, members, err := openCachedTar(path, set.SHA256)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.o.Logf("%v; decoding %s again", err, name+suffix)
		}
		if f, members, err = s.decode(ctx, set, path); err != nil {
			return nil, fmt.Errorf("read set %s: %w", name, err)
		}
	}
	t, err := tree.New(layer.Entries(f, members))
	if err != nil {
		s.keeping.Wait()
		f.Close()
		return nil, fmt.Errorf("read set %s: %w", name, err)
	}
	o.f, o.t = f, t
	return t, nil
}

// decode writes the set's tar and its index into the cache and opens the tar.
func (s *Sets) decode(ctx context.Context, set Set, path string) (*os.File, []layer.Member, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, err
	}
	out, err := os.CreateTemp(filepath.Dir(path), "*.tmp")
	if err != nil {
		return nil, nil, err
	}
	ok := false
	defer func() {
		if !ok {
			out.Close()
			os.Remove(out.Name())
		}
	}()
	size, err := s.expand(ctx, set, out)
	if err != nil {
		return nil, nil, err
	}
	members, err := layer.ReadTar(out, size)
	if err != nil {
		return nil, nil, err
	}
	ok = true
	s.keeping.Go(func() { // disks are slow, and nobody needs the name before Close
		if err := keepTar(out, path, set.SHA256, members); err != nil { // the next start decodes again
			s.o.Logf("cache %s: %v", set.Name, err)
		}
	})
	return out, members, nil
}

// expand writes a set's tar to out and returns its size.
func (s *Sets) expand(ctx context.Context, set Set, out *os.File) (int64, error) {
	if s.archives != nil {
		return s.unpackArchives(ctx, set, out)
	}
	// The tar will be trusted by its name: hash once more what is decoded.
	if _, err := s.o.checkSet(ctx, set.Path, set.Name, set.SHA256); err != nil {
		return 0, err
	}
	in, err := os.Open(set.Path)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	what := "decode " + set.Name + suffix
	return decodeXZ(ctx, in, set.Size, out, func(done, total int64) { s.o.Progress(what, done, total) })
}

// keepTar gives a decoded set its name, and its index, once it is safely on disk.
func keepTar(tar *os.File, path, sha string, members []layer.Member) error {
	err := tar.Sync()
	if err == nil {
		err = os.Rename(tar.Name(), path)
	}
	if err != nil {
		os.Remove(tar.Name())
		return err
	}
	return writeIndex(tar, path, sha, members)
}

// Close waits until decoded sets are in the cache and closes the files behind all
// trees.
func (s *Sets) Close() error {
	s.keeping.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, o := range s.tars {
		if o.f != nil {
			errs = append(errs, o.f.Close())
		}
	}
	clear(s.tars)
	return errors.Join(errs...)
}

var userland = regexp.MustCompile(`(?m)^USERLAND_VERSION="([^"\n]+)"`)

// Libraries tells which shared libraries a base tree has.
func Libraries(t *tree.Tree) func(string) bool {
	libs := map[string]bool{}
	for e := range t.All() {
		if dir, name := path.Split(e.Path); (dir == "lib/" || dir == "usr/lib/") && strings.Contains(name, ".so.") {
			libs[name] = true
		}
	}
	return func(lib string) bool { return libs[lib] }
}

// Version returns the release a base tree is of, "15.1-RELEASE-p1", as its
// freebsd-version(1) prints it.
func Version(t *tree.Tree) (string, error) {
	const file = "bin/freebsd-version"
	b, err := t.ReadFile(file, 1<<20)
	if err != nil {
		return "", fmt.Errorf("version of the base set: %w", err)
	}
	m := userland.FindSubmatch(b)
	if m == nil {
		return "", fmt.Errorf("version of the base set: no USERLAND_VERSION in %s", file)
	}
	return string(m[1]), nil
}
