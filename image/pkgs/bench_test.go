package pkgs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/pkgtest"
)

// manyEntries are lines of a catalogue like FreeBSD-ports': 1.6 KB each.
func manyEntries(n int) [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	hexOf := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ybndrfg8ejkmcpqxot1uwisza345h769"[r.IntN(32)]
		}
		return string(b)
	}
	lines := make([][]byte, n)
	for i := range lines {
		p := pkgtest.Pkg{Name: fmt.Sprintf("p5-Module-Name-%05d", i), Version: fmt.Sprintf("%d.%d.%d_%d", r.IntN(20), r.IntN(20), r.IntN(90), r.IntN(5)),
			Comment: "Perl extension that has a comment " + hexOf(20), Desc: strings.Repeat("Words of a description, "+hexOf(6)+"\n", 7),
			Categories: []string{"devel", "perl5"}, ShlibsRequired: []string{"libc.so.7", "libm.so.5", "libthr.so.3"},
			ShlibsProvided: []string{"libx" + hexOf(4) + ".so.1"}, Licenses: []string{"ART10", "GPLv1+"},
			Annotations: map[string]string{"FreeBSD_version": "1500068", "build_timestamp": "2026-08-01T10:00:00+0000", "built_by": "poudriere-git-3.4.2",
				"port_checkout_unclean": "no", "port_git_hash": hexOf(10), "ports_top_checkout_unclean": "no", "ports_top_git_hash": hexOf(10)},
			Options: map[string]string{"DOCS": "on", "EXAMPLES": "off", "NLS": "on"}}
		for range r.IntN(8) {
			p.Deps = append(p.Deps, pkgtest.Dep{Name: fmt.Sprintf("p5-Module-Name-%05d", r.IntN(n)), Version: "1.2.3_4"})
		}
		line := p.Manifest()
		path := fmt.Sprintf("All/Hashed/%s~%s.pkg", p.ID(), hexOf(10))
		lines[i] = fmt.Appendf(line[:len(line)-1], `,"sum":"2$%sy","path":%q,"repopath":%q,"pkgsize":%d}`, hexOf(102), path, path, r.IntN(1<<24))
	}
	return lines
}

// manyDir writes a signed repository of n packages that are not there.
func manyDir(t testing.TB, n int) Repo {
	dir := t.TempDir()
	key := pkgtest.NewKey(t, "rsa")
	entries := manyEntries(n)
	size := 0
	for _, e := range entries {
		size += len(e)
	}
	t.Logf("%d entries of %d bytes", n, size/n)
	pkgtest.Repo{Entries: entries, Keys: []*pkgtest.Key{key}}.Write(t, dir)
	return Repo{URL: dir, Fingerprints: []string{key.Fingerprint()}}
}

func BenchmarkOpen36k(b *testing.B) {
	repo := manyDir(b, 36000)
	b.ReportAllocs()
	for b.Loop() {
		c, err := Open(context.Background(), repo, Options{ABI: abi15})
		if err != nil || len(c.list) != 36000 {
			b.Fatal(err)
		}
	}
}

// Opening needs the packages' memory and little more.
func TestOpenMemory(t *testing.T) {
	const n = 6000
	repo := manyDir(t, n)
	runtime.GC()
	var before, m runtime.MemStats
	runtime.ReadMemStats(&before)
	stop, peak := make(chan bool), make(chan uint64)
	go func() {
		most := uint64(0)
		for {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	c, err := Open(context.Background(), repo, Options{ABI: abi15})
	stop <- true
	if err != nil || len(c.list) != n {
		t.Fatal(err)
	}
	used := int64(<-peak) - int64(before.HeapAlloc)
	t.Logf("%d MiB at most", used>>20)
	if used > 60<<20 {
		t.Errorf("%d MiB for %d packages", used>>20, n)
	}
}

// The test binary as a program that opens once, for `/usr/bin/time -v`.
func TestOpenOnce(t *testing.T) {
	dir := os.Getenv("RIG_OPEN")
	if dir == "" {
		t.Skip("RIG_OPEN names no repository")
	}
	start := time.Now()
	c, err := Open(context.Background(), Repo{URL: dir, Unsigned: os.Getenv("RIG_KEY") == "", Fingerprints: []string{os.Getenv("RIG_KEY")}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile("/proc/self/status")
	_, hwm, _ := strings.Cut(string(text), "VmHWM:")
	hwm, _, _ = strings.Cut(hwm, "\n")
	t.Logf("%d packages in %v, peak RSS %s", len(c.Packages()), time.Since(start), strings.TrimSpace(hwm))
}

func TestWriteMany(t *testing.T) {
	dir := os.Getenv("RIG_WRITE")
	if dir == "" {
		t.Skip("RIG_WRITE names no directory")
	}
	key := pkgtest.NewKey(t, "rsa")
	pkgtest.Repo{Entries: manyEntries(36000), Keys: []*pkgtest.Key{key}}.Write(t, dir)
	os.WriteFile(dir+"/key", []byte(key.Fingerprint()), 0o644)
}
