package pkgs_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/internal/pkgtest"
)

// BenchmarkAssemble400 makes a bundle's repository of 400 packages that are in the
// store, and copies the same files twice: the ratio is to stay below 1.
func BenchmarkAssemble400(b *testing.B) {
	dir, cache := b.TempDir(), b.TempDir()
	var list []pkgtest.Pkg
	for i := range 400 {
		content := make([]byte, 250<<10) // that does not compress
		if _, err := rand.Read(content); err != nil {
			b.Fatal(err)
		}
		list = append(list, pkgtest.Pkg{Name: fmt.Sprintf("p%03d", i), Files: []pkgtest.File{{Path: fmt.Sprintf("/usr/local/share/p%03d", i), Content: string(content)}}})
	}
	pkgtest.Repo{Pkgs: list, SumType: 2}.Write(b, dir)
	repo := pkgs.Repo{URL: dir, Unsigned: true}
	o := pkgs.Options{Cache: cache}
	cat, err := pkgs.Open(b.Context(), repo, o)
	if err != nil {
		b.Fatal(err)
	}
	store := pkgs.Store{Dir: cache}
	files, err := store.Fetch(b.Context(), repo, cat.Packages(), o)
	if err != nil {
		b.Fatal(err)
	}
	out := func() *os.File {
		f, err := os.Create(filepath.Join(dir, "out"))
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	var assemble, twice time.Duration
	for b.Loop() {
		start := time.Now()
		got, err := store.Fetch(b.Context(), repo, cat.Packages(), o)
		if err != nil {
			b.Fatal(err)
		}
		entries, err := pkgs.LocalRepo(got, time.Unix(0, 0))
		if err != nil {
			b.Fatal(err)
		}
		f := out()
		for _, e := range entries {
			if e.Open == nil {
				continue
			}
			r, err := e.Open()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(struct{ io.Writer }{f}, struct{ io.Reader }{r}); err != nil {
				b.Fatal(err)
			}
			r.Close()
		}
		f.Close()
		assemble += time.Since(start)
		start = time.Now()
		for range 2 {
			f := out()
			for _, x := range files {
				r, err := os.Open(x.Path)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(struct{ io.Writer }{f}, struct{ io.Reader }{r}); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
			f.Close()
		}
		twice += time.Since(start)
	}
	b.ReportMetric(float64(assemble)/float64(twice), "of-two-copies")
	b.ReportMetric(float64(assemble.Milliseconds())/float64(b.N), "ms-assemble")
}
