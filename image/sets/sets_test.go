package sets

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
)

var ctx = context.Background()

func demoDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := WriteDemoSets(dir, []string{"/sbin/zpool", "usr/sbin/pkg"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func readTree(t *testing.T, o Options, name string) (*tree.Tree, *Sets) {
	t.Helper()
	s, err := Locate(ctx, o, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	tr, err := s.Tree(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return tr, s
}

func TestDemo(t *testing.T) {
	dir, cache := demoDir(t), t.TempDir()
	s, err := Locate(ctx, Options{Dir: dir, Cache: cache}, "base", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if list := s.All(); len(list) != 2 || list[0].Name != "base" || list[1].Name != "kernel" {
		t.Errorf("located %v", list)
	}
	base, err := s.Tree(ctx, "base")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := s.Tree(ctx, "kernel")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := Version(base); err != nil || v != DemoVersion {
		t.Errorf("version %q, %v", v, err)
	}
	for _, p := range []string{"etc/passwd", "etc/group", "boot/gptboot", "boot/loader", "boot/loader.efi", "boot/defaults/loader.conf",
		"boot/lua/loader.lua", "boot/device.hints", "sbin/zpool", "sbin/gpart", "usr/sbin/pkg"} {
		if b, err := base.ReadFile(p, 1<<20); err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", p, len(b), err)
		}
	}
	for _, p := range []string{"kernel", "zfs.ko", "linker.hints", "if_vlan.ko", "nullfs.ko"} {
		if b, err := kernel.ReadFile("boot/kernel/"+p, 1<<20); err != nil || string(b) != demoText {
			t.Errorf("%s: %q, %v", p, b, err)
		}
	}
	if b, err := base.ReadFile("boot/pmbr", 512); err != nil || len(b) != 512 || string(b[510:]) != "\x55\xaa" {
		t.Errorf("pmbr: %d bytes, %v", len(b), err)
	}
	for p, want := range map[string]string{"var/empty": "schg", "usr/bin/su": "schg", "bin/sh": ""} {
		if e, ok := base.Lookup(p); !ok || e.Flags.String() != want {
			t.Errorf("%s: flags %q, want %q", p, e.Flags, want)
		}
	}
	if e, _ := base.Lookup("rescue/sh"); e.Kind != tree.HardLink || e.Link != "rescue/[" {
		t.Errorf("rescue/sh: %+v", e)
	}
	acc := accounts(t, base)
	if _, err := base.Resolve(acc); err != nil {
		t.Error(err)
	}
	again := demoDir(t)
	for _, f := range []string{"MANIFEST", "base.txz", "kernel.txz"} {
		a, err1 := os.ReadFile(filepath.Join(dir, f))
		b, err2 := os.ReadFile(filepath.Join(again, f))
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: other bytes the second time", f)
		}
	}
}

func accounts(t *testing.T, base *tree.Tree) *tree.Accounts {
	t.Helper()
	passwd, err := base.ReadFile("etc/master.passwd", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	group, err := base.ReadFile("etc/group", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	acc, err := tree.ParseAccounts(bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		t.Fatal(err)
	}
	return acc
}

func mtree(t *testing.T, tr *tree.Tree) string {
	t.Helper()
	var b strings.Builder
	if err := tr.WriteMtree(&b, true); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestWarm reads a set through the index that the first run left, and again after
// the cache was damaged in several ways.
func TestWarm(t *testing.T) {
	dir, cache := demoDir(t), t.TempDir()
	o := Options{Dir: dir, Cache: cache}
	cold, s := readTree(t, o, "base")
	want := mtree(t, cold)
	set, _ := s.Get("base")
	tar := filepath.Join(cache, "tars", set.SHA256+".tar")
	if err := s.Close(); err != nil { // a decoded set is in the cache from now on
		t.Fatal(err)
	}

	for _, c := range []struct {
		what    string
		damage  func() error
		decodes bool
	}{
		{"nothing", func() error { return nil }, false},
		{"index removed", func() error { return os.Remove(indexPath(tar)) }, true},
		{"index cut", func() error { return os.Truncate(indexPath(tar), 100) }, true},
		{"index of another format", func() error { return os.WriteFile(indexPath(tar), []byte("rig set index 0\n"), 0o644) }, true},
		{"tar touched", func() error { return os.Chtimes(tar, time.Time{}, time.Unix(1, 0)) }, true},
		{"tar cut", func() error { return os.Truncate(tar, 1024) }, true},
		{"tar removed", func() error { return os.Remove(tar) }, true},
		{"nothing again", func() error { return nil }, false},
	} {
		if err := c.damage(); err != nil {
			t.Fatal(err)
		}
		decoded := false
		o.Progress = func(what string, done, total int64) { decoded = decoded || what == "decode base.txz" }
		tr, s := readTree(t, o, "base")
		if got := mtree(t, tr); got != want {
			t.Errorf("%s: the tree differs:\n%s", c.what, got)
		}
		if decoded != c.decodes {
			t.Errorf("%s: decoded: %v", c.what, decoded)
		}
		s.Close()
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "tars", "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestGivenDirectory(t *testing.T) {
	for _, c := range []struct {
		what   string
		edit   func(dir string) error
		names  []string
		want   string
		hinted string
	}{
		{"no MANIFEST", func(d string) error { return os.Remove(filepath.Join(d, "MANIFEST")) }, []string{"base"},
			"MANIFEST: no such file", "put MANIFEST, base.txz into "},
		{"no set", func(d string) error { return os.Remove(filepath.Join(d, "base.txz")) }, []string{"base", "kernel"},
			"base.txz: no such file", "put MANIFEST, base.txz, kernel.txz into "},
		{"not listed", nil, []string{"base", "lib32"}, "lib32.txz is not in MANIFEST, which lists base.txz kernel.txz", "rigimage build --demo"},
		{"corrupt", func(d string) error { return os.WriteFile(filepath.Join(d, "base.txz"), []byte("x"), 0o644) }, []string{"kernel", "base"},
			"base.txz is corrupt: its sha256 is 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881, MANIFEST says ", "put MANIFEST"},
		{"bad MANIFEST", func(d string) error { return os.WriteFile(filepath.Join(d, "MANIFEST"), []byte("<html>\n"), 0o644) }, nil,
			"MANIFEST:1: 1 columns", "put MANIFEST"},
	} {
		dir := demoDir(t)
		if c.edit != nil {
			if err := c.edit(dir); err != nil {
				t.Fatal(err)
			}
		}
		for _, env := range []bool{false, true} {
			o := Options{Dir: dir, Cache: t.TempDir()}
			t.Setenv("RIG_SETS", "")
			if env {
				o.Dir = ""
				t.Setenv("RIG_SETS", dir)
			}
			_, err := Locate(ctx, o, c.names...)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "sets in "+dir) {
				t.Errorf("%s: got %v, want %s", c.what, err, c.want)
			}
			if diag.ExitCode(err) != 2 {
				t.Errorf("%s: exit code %d", c.what, diag.ExitCode(err))
			}
			if h := diag.HintOf(err); !strings.Contains(h, c.hinted) {
				t.Errorf("%s: hint %q", c.what, h)
			}
		}
	}
	s, err := Locate(ctx, Options{Dir: demoDir(t), Cache: t.TempDir()})
	if err != nil || len(s.All()) != 2 {
		t.Errorf("without names: %v, %v", s, err)
	}
	if _, err := s.Tree(ctx, "src"); err == nil || err.Error() != "read set src: it was not located" {
		t.Errorf("got %v", err)
	}
}

func TestTreeErrors(t *testing.T) {
	dir := demoDir(t)
	s, err := Locate(ctx, Options{Dir: dir, Cache: t.TempDir()}, "base")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "base.txz"), []byte("changed since"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tree(ctx, "base"); err == nil || !strings.Contains(err.Error(), "read set base: base.txz is corrupt") {
		t.Errorf("got %v", err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Locate(canceled, Options{Dir: demoDir(t), Cache: t.TempDir()}, "base"); !errors.Is(err, context.Canceled) || diag.ExitCode(err) != 1 {
		t.Errorf("canceled: %v", err)
	}
}

func TestVersion(t *testing.T) {
	tr, err := tree.New([]tree.Entry{tree.FileEntry("bin/freebsd-version", []byte("# USERLAND_VERSION=\"no\"\nUSERLAND_VERSION=\"15.1-RELEASE-p1\"\n"))})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := Version(tr); v != "15.1-RELEASE-p1" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	empty, _ := tree.New(nil)
	if _, err := Version(empty); err == nil || !strings.Contains(err.Error(), "version of the base set: read bin/freebsd-version: no such file") {
		t.Errorf("got %v", err)
	}
}

func TestParseManifest(t *testing.T) {
	const sha = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
	m, err := ParseManifest(strings.NewReader("base.txz\t" + sha + "\t29123\tbase\t\"Base system (MANDATORY)\"\ton\n" +
		"base-dbg.txz\t" + strings.ToUpper(sha) + "\t2100\tbase_dbg\t\"Base system (Debugging)\"\toff\nmine.txz\t" + sha + "\n"))
	want := []ManifestLine{{"base.txz", sha, 29123, "base", "Base system (MANDATORY)", true},
		{"base-dbg.txz", sha, 2100, "base_dbg", "Base system (Debugging)", false}, {File: "mine.txz", SHA256: sha}}
	if err != nil || len(m) != 3 || m[0] != want[0] || m[1] != want[1] || m[2] != want[2] {
		t.Errorf("%+v, %v", m, err)
	}
	for text, want := range map[string]string{
		"": "MANIFEST: lists no set",
		"base.txz " + sha + "\n../base.txz\t" + sha + "\n": "MANIFEST:1: 1 columns separated by tabs; expected name, sha256, files, set, description, on or off\n" +
			`MANIFEST:2: "../base.txz" is not a file name`,
		"base.txz\t" + sha[1:]:                                 "MANIFEST:1: base.txz: \"" + sha[1:] + "\" is not a sha256",
		"base.txz\t" + sha + "\nbase.txz\t" + sha:              "MANIFEST:2: base.txz is listed twice",
		"base.txz\t" + sha + "\t-1":                            `MANIFEST:1: base.txz: "-1" is not a number of files`,
		"base.txz\t" + sha + "\t1\tbase\t\"Base\"\tmaybe\n":    `MANIFEST:1: base.txz: "maybe" is neither on nor off`,
		strings.Repeat("\n", maxManifest) + "base.txz\t" + sha: "larger than",
	} {
		if _, err := ParseManifest(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %s", text, err, want)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	const sha = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
	f.Add("base.txz\t" + sha + "\t29123\tbase\t\"Base system (MANDATORY)\"\ton\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseManifest(strings.NewReader(text))
		if (err == nil) != (len(m) > 0) {
			t.Errorf("%d lines, %v", len(m), err)
		}
		for _, l := range m {
			if filepath.Base(l.File) != l.File || len(l.SHA256) != 64 {
				t.Errorf("accepted %+v", l)
			}
		}
	})
}

func FuzzIndex(f *testing.F) {
	e := tree.FileEntry("a/b", []byte("x"))
	e.Flags = tree.Immutable
	members := []layer.Member{{Entry: e, Header: 512, Data: 1024}, {Entry: tree.Entry{Path: "l", Kind: tree.Symlink, Link: "é"}, Data: -1}}
	const sha, size = "abc", 1 << 20
	good := encodeIndex(sha, size, demoTime, members)
	f.Add(good, 0, byte(0))
	f.Fuzz(func(t *testing.T, b []byte, at int, x byte) {
		got, err := decodeIndex(b, sha, size, demoTime)
		if err == nil && !bytes.Equal(encodeIndex(sha, size, demoTime, got), b) {
			t.Error("accepted, but other bytes when written again")
		}
		if at < 0 {
			return
		}
		d := bytes.Clone(good[:len(good)-32]) // with a right sum, so that the fields are reached
		d[at%len(d)] ^= x
		if got, err := decodeIndex(resum(d), sha, size, demoTime); err == nil {
			for _, m := range got {
				if m.Data > size || m.Size > size {
					t.Errorf("accepted %+v", m)
				}
			}
		}
	})
}

func TestUnwritableCache(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RIG_SETS", "")
	_, err := Locate(ctx, Options{Cache: file, Version: "15.1-RELEASE", Arch: "amd64"}, "base")
	var pathErr *fs.PathError
	if !errors.As(err, &pathErr) || diag.ExitCode(err) != 1 || !strings.Contains(diag.HintOf(err), "--sets") {
		t.Errorf("got %v, hint %q", err, diag.HintOf(err))
	}
	_, err = Locate(ctx, Options{Cache: t.TempDir(), Version: "../15", Arch: "amd64"}, "base")
	if err == nil || diag.ExitCode(err) != 2 || !strings.Contains(err.Error(), `version "../15" and architecture "amd64" do not name a release`) {
		t.Errorf("got %v", err)
	}
}
