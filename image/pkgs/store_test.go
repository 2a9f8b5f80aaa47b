package pkgs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/pkgtest"
)

func TestStore(t *testing.T) {
	for typ := -1; typ <= 5; typ++ {
		if typ == 3 || typ == 4 { // bytes that no JSON carries
			continue
		}
		dir := t.TempDir()
		pkgtest.Repo{Pkgs: demo(), SumType: typ}.Write(t, dir)
		s := newServer(t, dir)
		for _, url := range []string{dir, s.URL} {
			repo, store := Repo{Name: "demo", URL: url, Unsigned: true}, &Store{Dir: t.TempDir()}
			c, err := Open(ctx, repo, Options{Cache: store.Dir})
			if err != nil {
				t.Fatal(err)
			}
			list := c.Packages()
			list = append(list, list[0])
			fetch := func(o Options) []File {
				t.Helper()
				s.requests()
				files, err := store.Fetch(ctx, repo, list, o)
				if err != nil {
					t.Fatal(err)
				}
				for i, f := range files {
					b, err := os.ReadFile(f.Path)
					if err != nil || f.Package != list[i] || f.Size != int64(len(b)) || f.Path != filepath.Join(store.Dir, "pkgs", pkgtest.Sum(-1, b)+".pkg") ||
						f.SHA256 != pkgtest.Sum(-1, b) || list[i].Sum != pkgtest.Sum(typ, b) {
						t.Errorf("sum %d: %+v, %v", typ, f, err)
					}
				}
				return files
			}
			files := fetch(Options{})
			if got := s.requests(); strings.Count(got, "GET") != 3 && url != dir {
				t.Errorf("requests %s", got)
			}
			fetch(Options{Offline: true})
			if err := os.WriteFile(files[1].Path, []byte("damaged"), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err = store.Fetch(ctx, repo, list, Options{Offline: true})
			if err == nil || err.Error() != "package libhi-0.9 of demo: it is not in the cache" || diag.HintOf(err) != "run once with access to the repository" {
				t.Errorf("got %v, hint %q", err, diag.HintOf(err))
			}
			fetch(Options{})
			if got := s.requests(); got != "GET /All/libhi-0.9.pkg" && url != dir {
				t.Errorf("requests %s", got)
			}
			if left, _ := filepath.Glob(filepath.Join(store.Dir, "pkgs", "*.part")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		}
	}
}

// openAll returns a repository's packages without the cache.
func openAll(t *testing.T, repo Repo) []*Package {
	t.Helper()
	c, err := Open(ctx, repo, Options{Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return c.Packages()
}

func TestStoreProgress(t *testing.T) {
	dir := t.TempDir()
	pkgtest.Repo{Pkgs: demo()}.Write(t, dir)
	s := newServer(t, dir)
	for _, url := range []string{dir, s.URL} {
		repo, store := Repo{Name: "demo", URL: url, Unsigned: true}, &Store{Dir: t.TempDir()}
		list := openAll(t, repo)
		want := int64(0)
		for _, p := range list {
			want += p.Size
		}
		for range 2 {
			last := int64(0)
			_, err := store.Fetch(ctx, repo, list, Options{Progress: func(what string, done, total int64) {
				if what != "packages of demo" || total != want || done < last || done > total {
					t.Errorf("%s %d of %d after %d, all are %d", what, done, total, last, want)
				}
				last = done
			}})
			if err != nil || last != want {
				t.Errorf("%d of %d, %v", last, want, err)
			}
		}
	}
}

func TestStoreResumes(t *testing.T) {
	dir := t.TempDir()
	p := demo()[2]
	p.Packing = "tar"
	pkgtest.Repo{Pkgs: []pkgtest.Pkg{p}, SumType: 2}.Write(t, dir)
	whole, err := os.ReadFile(filepath.Join(dir, "All", "pkg-2.8.0.pkg"))
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, dir)
	repo := Repo{Name: "demo", URL: s.URL, Unsigned: true}
	list := openAll(t, repo)
	for _, c := range []struct {
		part []byte
		want string
	}{
		{nil, "GET /All/pkg-2.8.0.pkg"},
		{whole[:1000], "GET /All/pkg-2.8.0.pkg bytes=1000-"},
		{whole, fmt.Sprintf("GET /All/pkg-2.8.0.pkg bytes=%d-", len(whole))},
		{make([]byte, 1000), "GET /All/pkg-2.8.0.pkg bytes=1000-, GET /All/pkg-2.8.0.pkg"},
	} {
		store := &Store{Dir: t.TempDir()}
		stopped, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := store.Fetch(stopped, repo, list, Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if c.part != nil {
			s.fail = func(*http.Request) int { return http.StatusTeapot } // leaves an empty part with the right name
			store.Fetch(ctx, repo, list, Options{})
			s.fail = func(*http.Request) int { return 0 }
			parts, _ := filepath.Glob(filepath.Join(store.Dir, "pkgs", "*.part"))
			if len(parts) != 1 {
				t.Fatal(parts)
			}
			if err := os.WriteFile(parts[0], c.part, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s.requests()
		files, err := store.Fetch(ctx, repo, list, Options{Logf: t.Logf})
		if err != nil || len(files) != 1 {
			t.Errorf("%v", err)
		}
		if got := s.requests(); got != c.want {
			t.Errorf("requests %s, want %s", got, c.want)
		}
	}
}

func TestStoreWrong(t *testing.T) {
	evil := pkgtest.Pkg{Name: "evil", Files: []pkgtest.File{{Path: "/../x"}}}
	alter := func(with []byte) func(string, []byte) []byte {
		return func(name string, b []byte) []byte {
			if strings.HasPrefix(name, "All/libhi") {
				return with
			}
			return b
		}
	}
	for _, c := range []struct {
		r          pkgtest.Repo
		change     func(p *Package)
		want, hint string
	}{
		{pkgtest.Repo{Alter: alter(nil)}, nil, "package libhi-0.9 of demo: ", "the repository has changed since its catalogue was read"},
		{pkgtest.Repo{Alter: alter([]byte("x")), SumType: 1}, nil, "package libhi-0.9 of demo: its sha256 is 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881, the catalogue says ", "in the middle of an update"},
		{pkgtest.Repo{Alter: alter([]byte("x")), SumType: 2}, nil, "package libhi-0.9 of demo: its blake2b is ", "in the middle of an update"},
		{pkgtest.Repo{Pkgs: []pkgtest.Pkg{evil}}, nil, `package evil-1.0 of demo: package evil-1.0: entry "/../x": its path contains ..`, ""},
		{pkgtest.Repo{}, func(p *Package) { p.Version += ".1" }, "package libhi-0.9.1 of demo: package libhi-0.9.1: its archive holds libhi-0.9", ""},
		{pkgtest.Repo{}, func(p *Package) { p.Size-- }, "package libhi-0.9 of demo: ", ""},
		{pkgtest.Repo{}, func(p *Package) { p.Size++ }, "package libhi-0.9 of demo: it has ", ""},
		{pkgtest.Repo{}, func(p *Package) { p.Sum = "no" }, `package libhi-0.9 of demo: sum "no"`, ""},
	} {
		dir := t.TempDir()
		if c.r.Pkgs == nil {
			c.r.Pkgs = demo()
		}
		c.r.Write(t, dir)
		s := newServer(t, dir)
		for _, url := range []string{dir, s.URL} {
			repo, store := Repo{Name: "demo", URL: url, Unsigned: true}, &Store{Dir: t.TempDir()}
			list := openAll(t, repo)
			if c.change != nil {
				c.change(list[1])
			}
			_, err := store.Fetch(ctx, repo, list, Options{Logf: t.Logf})
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || !strings.Contains(diag.HintOf(err), c.hint) {
				t.Errorf("got %v, hint %q, want %s, %s", err, diag.HintOf(err), c.want, c.hint)
			}
			kept, _ := filepath.Glob(filepath.Join(store.Dir, "pkgs", "*.pkg"))
			for _, k := range kept {
				b, err := os.ReadFile(k)
				if err != nil || bytes.Contains(b, []byte("evil")) || filepath.Base(k) != pkgtest.Sum(-1, b)+".pkg" {
					t.Errorf("kept %s, %v", k, err)
				}
			}
		}
	}
}

// Two that fetch at once take turns.
func TestStoreShared(t *testing.T) {
	dir, store := t.TempDir(), &Store{Dir: t.TempDir()}
	pkgtest.Repo{Pkgs: demo(), SumType: 2}.Write(t, dir)
	s := newServer(t, dir)
	repo := Repo{Name: "demo", URL: s.URL, Unsigned: true}
	list := openAll(t, repo)
	s.requests()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := store.Fetch(ctx, repo, list, Options{}); err != nil {
				t.Error(err)
			}
			if _, err := Open(ctx, repo, Options{Cache: store.Dir}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.requests(); strings.Count(got, "GET /All/") != len(list) || strings.Count(got, "GET /data.pkg") != 1 {
		t.Errorf("requests %s", got)
	}
}
