package pkgs

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fetch"
	"golang.org/x/sys/unix"
)

// Store keeps packages by their content, below Dir/pkgs.
type Store struct {
	Dir string // "" = os.UserCacheDir()/rig
}

// File is a package in the store.
type File struct {
	*Package
	Path   string
	SHA256 string // hex, of the archive
	Size   int64  // of the archive
}

const downloads = 4 // at once

// Fetch returns the archives of packages of one repository, in the same order.
// Those that the store has are hashed again; the others are downloaded or copied,
// and kept when their sums are the catalogue's and Inspect finds nothing wrong.
func (s *Store) Fetch(ctx context.Context, repo Repo, list []*Package, o Options) ([]File, error) {
	repo, err := repo.normal()
	if err != nil {
		return nil, err
	}
	if s.Dir != "" {
		o.Cache = s.Dir
	}
	dir, err := o.cacheDir()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "pkgs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, diag.Hint(fmt.Errorf("store packages: %w", err), "name a writable cache directory")
	}
	f := &fetcher{repo: repo, dir: dir, o: o, sums: readSums(filepath.Join(dir, sumsFile)), done: map[string]int64{}}
	defer f.unlock()
	f.client = &fetch.Client{Logf: o.Logf, Progress: func(url string, done, _ int64) { f.progress(url, done) }}
	first := map[string]int{} // by sum
	for i, p := range list {
		if _, ok := first[p.Sum]; !ok {
			first[p.Sum] = i
			f.total += p.Size
		}
	}
	files, err := f.all(ctx, list, first)
	if err != nil {
		return nil, err
	}
	for i, p := range list {
		files[i] = files[first[p.Sum]]
		files[i].Package = p
	}
	return files, nil
}

// fetcher is one call of Store.Fetch.
type fetcher struct {
	repo   Repo
	dir    string
	o      Options
	client *fetch.Client
	total  int64

	locking sync.Once
	locked  *os.File // keeps other processes from bringing packages
	lockErr error

	mu    sync.Mutex
	sums  map[string]string // sha256 by the catalogue's sum
	done  map[string]int64  // bytes by URL
	shown int64
}

// all gets the packages of first, several at once. The error is the first one that
// is not a consequence of another.
func (f *fetcher) all(ctx context.Context, list []*Package, first map[string]int) ([]File, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	files := make([]File, len(list))
	limit := make(chan struct{}, downloads)
	var wg sync.WaitGroup
	for i, p := range list {
		if first[p.Sum] != i {
			continue
		}
		limit <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-limit }()
			var err error
			if files[i], err = f.get(ctx, p); err != nil {
				cancel(fmt.Errorf("package %s of %s: %w", p.ID(), f.repo.Name, err))
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return files, nil
}

// progress shows all packages as one.
func (f *fetcher) progress(url string, done int64) {
	if f.o.Progress == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done[url] = done
	sum := int64(0)
	for _, n := range f.done {
		sum += n
	}
	if f.shown = max(f.shown, sum); f.total > 0 {
		f.o.Progress("packages of "+f.repo.Name, min(f.shown, f.total), f.total)
	}
}

// get returns a package from the store, or brings it there.
func (f *fetcher) get(ctx context.Context, p *Package) (File, error) {
	sum, err := ParseSum(p.Sum)
	if err != nil {
		return File{}, err
	}
	url := f.repo.fileURL(p.Path)
	file, err := f.stored(ctx, p, sum)
	if err != nil && ctx.Err() == nil && f.o.Offline {
		return File{}, diag.Hint(errors.New("it is not in the cache"), "run once with access to the repository")
	}
	if err != nil && ctx.Err() == nil {
		if err := f.lock(ctx); err != nil {
			return File{}, err
		}
		file, err = f.stored(ctx, p, sum) // another process may have brought it
	}
	switch {
	case err == nil:
		f.progress(url, file.Size)
		return file, nil
	case ctx.Err() != nil:
		return File{}, ctx.Err()
	case !errors.Is(err, fs.ErrNotExist):
		f.o.logf("package %s in the cache: %v; fetching it again", p.ID(), err)
	}
	if file, err = f.bring(ctx, p, sum, url); err != nil {
		return File{}, err
	}
	return file, f.remember(p.Sum, file.SHA256)
}

// lock waits for other processes, once.
func (f *fetcher) lock(ctx context.Context) error {
	f.locking.Do(func() {
		f.locked, f.lockErr = lockFile(ctx, filepath.Join(f.dir, "lock"), f.o.logf)
		sums := readSums(filepath.Join(f.dir, sumsFile))
		f.mu.Lock()
		defer f.mu.Unlock()
		f.sums = sums
	})
	return f.lockErr
}

func (f *fetcher) unlock() {
	if f.locked != nil {
		f.locked.Close()
	}
}

// lockFile locks a file against other processes until it is closed.
func lockFile(ctx context.Context, name string, logf func(string, ...any)) (*os.File, error) {
	const pause = 200 * time.Millisecond
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if !said {
			logf("waiting for another process that uses %s", filepath.Dir(name))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		}
	}
}

// stored returns a package of the store, fs.ErrNotExist when it is not there.
func (f *fetcher) stored(ctx context.Context, p *Package, sum Sum) (File, error) {
	f.mu.Lock()
	sha := f.sums[p.Sum]
	f.mu.Unlock()
	if sum.typ.hash() == "sha256" {
		sha = hex.EncodeToString([]byte(sum.digest))
	}
	if sha == "" {
		return File{}, fs.ErrNotExist
	}
	file := File{Package: p, Path: filepath.Join(f.dir, sha+".pkg")}
	err := file.hash(ctx, nil)
	if err == nil && file.SHA256 != sha {
		err = fmt.Errorf("its sha256 is %s", file.SHA256)
	}
	if err == nil {
		_ = os.Chtimes(file.Path, time.Now(), time.Time{}) // it was used, for "rigimage cache gc"
	}
	return file, err
}

// hash reads the file, fills in its sha256 and size, and compares its sum with the
// catalogue's where that is not known to follow from the sha256.
func (f *File) hash(ctx context.Context, sum *Sum) error {
	in, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	var s hash.Hash
	out := io.Writer(h)
	if sum != nil {
		s = sum.New()
		out = io.MultiWriter(h, s)
	}
	f.Size, err = io.CopyBuffer(struct{ io.Writer }{out}, contextReader{ctx, in}, make([]byte, readBuffer))
	if err != nil {
		return err
	}
	f.SHA256 = hex.EncodeToString(h.Sum(nil))
	if sum == nil {
		return nil
	}
	return sum.Check(s)
}

// bring downloads or copies a package, checks it and gives it its name in the store.
func (f *fetcher) bring(ctx context.Context, p *Package, sum Sum, url string) (File, error) {
	id := sha256.Sum256([]byte(p.Sum))
	file := File{Package: p, Path: filepath.Join(f.dir, hex.EncodeToString(id[:16])+".part")}
	for {
		fi, err := os.Stat(file.Path)
		resumed := err == nil && fi.Size() > 0
		if dir, ok := f.repo.dir(); ok {
			resumed = false
			err = f.copy(ctx, filepath.Join(dir, filepath.FromSlash(p.Path)), file.Path, url)
		} else {
			err = f.client.File(ctx, url, file.Path, p.Size)
		}
		if err != nil {
			return File{}, f.hint(err)
		}
		if err = file.check(ctx, sum); err == nil {
			break
		}
		if ctx.Err() != nil {
			return File{}, ctx.Err()
		}
		if err := os.Remove(file.Path); err != nil {
			return File{}, err
		}
		if !resumed {
			return File{}, diag.Hint(err, "the repository may be in the middle of an update: run again later, or use another mirror")
		}
		f.o.logf("package %s: %v; fetching it from its beginning", p.ID(), err)
	}
	part := file.Path
	file.Path = filepath.Join(f.dir, file.SHA256+".pkg")
	return file, os.Rename(part, file.Path)
}

// check hashes and inspects a file that was just fetched.
func (f *File) check(ctx context.Context, sum Sum) error {
	if err := f.hash(ctx, &sum); err != nil {
		return err
	}
	if f.Package.Size != 0 && f.Size != f.Package.Size {
		return fmt.Errorf("it has %d bytes, the catalogue says %d", f.Size, f.Package.Size)
	}
	in, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	a, err := Inspect(in, f.Size)
	if err != nil {
		return err
	}
	return a.Check(f.Package)
}

func (f *fetcher) hint(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return diag.Hint(err, "the repository has changed since its catalogue was read: run again")
	}
	return diag.Hint(err, "check the network and the cache directory, and run again: what is there is kept")
}

// copy copies a file of a local repository; the kernel shares blocks where it can.
func (f *fetcher) copy(ctx context.Context, from, to, url string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	const piece = 16 << 20
	for done := int64(0); ; {
		n, err := io.CopyN(out, in, piece)
		done += n
		f.progress(url, done)
		if err == io.EOF {
			return out.Close()
		}
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return err
		}
	}
}

// sumsFile has lines of a catalogue's sum and the sha256 of the file that had it: from
// then on that one is checked, which is the faster.
const sumsFile = "sums"

func readSums(file string) map[string]string {
	sums := map[string]string{}
	in, err := os.Open(file)
	if err != nil {
		return sums
	}
	defer in.Close()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		sum, sha, ok := strings.Cut(lines.Text(), " ")
		if b, err := hex.DecodeString(sha); ok && err == nil && len(b) == sha256.Size {
			sums[sum] = sha
		}
	}
	return sums
}

func (f *fetcher) remember(sum, sha string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sums[sum] == sha {
		return nil
	}
	f.sums[sum] = sha
	out, err := os.OpenFile(filepath.Join(f.dir, sumsFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = fmt.Fprintf(out, "%s %s\n", sum, sha)
	return err
}
