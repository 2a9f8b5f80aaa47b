package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

var root = os.Geteuid() == 0

func unpack(t testing.TB, b []byte, dir string, o UnpackOptions) error {
	t.Helper()
	o.SkipOwners = o.SkipOwners || !root
	return Unpack(context.Background(), bytes.NewReader(b), int64(len(b)), dir, o)
}

// compare checks that dir is what tr describes.
func compare(t *testing.T, tr *tree.Tree, dir string, acc *tree.Accounts) {
	t.Helper()
	for e := range tr.All() {
		name := filepath.Join(dir, e.Path)
		fi, err := os.Lstat(name)
		if err != nil {
			t.Errorf("%s: %v", e.Path, err)
			continue
		}
		st := fi.Sys().(*syscall.Stat_t)
		var typ fs.FileMode
		switch e.Kind {
		case tree.Dir:
			typ = fs.ModeDir
		case tree.Symlink:
			typ = fs.ModeSymlink
			if to, _ := os.Readlink(name); to != e.Link {
				t.Errorf("%s: link to %q, want %q", e.Path, to, e.Link)
			}
		case tree.HardLink:
			other, err := os.Lstat(filepath.Join(dir, e.Link))
			if err != nil || !os.SameFile(fi, other) {
				t.Errorf("%s: not the same file as %s", e.Path, e.Link)
			}
		case tree.File:
			got, err := os.ReadFile(name)
			want, _ := tr.ReadFile(e.Path, 1<<30)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, want %d (%v)", e.Path, len(got), len(want), err)
			}
		}
		if fi.Mode().Type() != typ {
			t.Errorf("%s: type %v", e.Path, fi.Mode().Type())
		}
		if e.Implied {
			continue
		}
		wantMode := uint32(e.Perm)
		if !root && e.Kind != tree.Dir {
			wantMode &= 0o1777
		}
		if got := uint32(st.Mode) & 0o7777; e.Kind != tree.Symlink && got != wantMode {
			t.Errorf("%s: mode %o, want %o", e.Path, got, wantMode)
		}
		if !fi.ModTime().Equal(e.ModTime) {
			t.Errorf("%s: time %v, want %v", e.Path, fi.ModTime(), e.ModTime)
		}
		uid, gid := e.UID, e.GID
		if acc != nil {
			uid, gid = acc.Users[e.Owner], acc.Groups[e.Group]
		}
		if root && (st.Uid != uid || st.Gid != gid) {
			t.Errorf("%s: owner %d:%d, want %d:%d", e.Path, st.Uid, st.Gid, uid, gid)
		}
	}
}

func TestUnpack(t *testing.T) {
	tr := sample(t)
	b, _ := write(t, tr, Options{FrameSize: minFrameSize})
	acc := &tree.Accounts{Users: map[string]uint32{"root": 0, "www": 8080}, Groups: map[string]uint32{"wheel": 0, "nogroup": 9999}}
	for _, o := range []UnpackOptions{{Workers: 1}, {Workers: 5}, {Accounts: acc}} {
		dir := filepath.Join(t.TempDir(), "new")
		last, total := int64(-1), int64(0)
		o.Progress = func(done, all int64) {
			if done < last {
				t.Errorf("progress went from %d to %d", last, done)
			}
			last, total = done, all
		}
		for range 2 { // the second run replaces everything
			last = -1
			if err := unpack(t, b, dir, o); err != nil {
				t.Fatal(err)
			}
			compare(t, tr, dir, o.Accounts)
			if last != total || total == 0 {
				t.Errorf("progress ended at %d of %d", last, total)
			}
		}
		noLeftovers(t, dir)
	}
}

func TestUnpackUnknownOwner(t *testing.T) {
	if !root {
		t.Skip("only root sets owners")
	}
	e := file("etc/x", 10)
	e.Group = "nobody"
	b, _ := write(t, newTree(t, e), Options{})
	acc := &tree.Accounts{Users: map[string]uint32{"root": 0}, Groups: map[string]uint32{"wheel": 0}}
	dir := t.TempDir()
	if err := unpack(t, b, dir, UnpackOptions{Accounts: acc}); err == nil || !strings.HasSuffix(err.Error(), "etc/x: unknown group nobody") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "etc/x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file without its owner was left: %v", err)
	}
}

func noLeftovers(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(p), ".rig-unpack") {
			t.Errorf("%s was left behind", p)
		}
		return err
	})
}

func TestUnpackOverlay(t *testing.T) {
	base := newTree(t, dir("etc", 0o755), file("etc/a", 100), file("etc/b", 100), file("etc/keep", 50), link(tree.HardLink, "etc/c", "etc/a"),
		link(tree.Symlink, "etc/s", "a"), dir("var", 0o700))
	over := newTree(t, dir("etc", 0o750), file("etc/a", 200), link(tree.Symlink, "etc/b", "keep"), file("etc/s", 10),
		link(tree.HardLink, "etc/t", "etc/s"), link(tree.HardLink, "etc/keep", "etc/a"), file("new/dir/x", 5))
	dir := t.TempDir()
	for _, tr := range []*tree.Tree{base, over} {
		b, _ := write(t, tr, Options{})
		if err := unpack(t, b, dir, UnpackOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, over, dir, nil)
	if got, err := os.ReadFile(filepath.Join(dir, "etc/c")); err != nil || len(got) != 100 {
		t.Errorf("etc/c, the other name of what was replaced, has %d bytes (%v)", len(got), err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "var")); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("var: %v, %v", fi.Mode(), err)
	}
	noLeftovers(t, dir)
}

func TestUnpackRefuses(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	reg := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	sym := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	for _, c := range []struct {
		what    string
		prepare func(dir string) error
		headers []tar.Header
		want    string
	}{
		{"parent", nil, []tar.Header{reg("../x")}, "name leads outside"},
		{"absolute", nil, []tar.Header{reg("/x")}, "absolute name"},
		{"through a symlink", nil, []tar.Header{sym("d", outside), reg("d/x")}, "d is a symlink, not a directory"},
		{"through an inner symlink", nil, []tar.Header{sym("d", "e"), {Name: "e/", Typeflag: tar.TypeDir}, reg("d/x")}, "d is a symlink, not a directory"},
		{"through an old symlink", func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "d")) },
			[]tar.Header{reg("d/deep/x")}, "d is a symlink, not a directory"},
		{"directory for a symlink", func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "d")) },
			[]tar.Header{{Name: "d/", Typeflag: tar.TypeDir}}, "d: a directory cannot replace a symlink"},
		{"file for a directory", func(dir string) error { return os.Mkdir(filepath.Join(dir, "d"), 0o755) },
			[]tar.Header{reg("d")}, "d: it cannot replace a directory"},
		{"hard link through a symlink", nil, []tar.Header{sym("d", outside), {Name: "x", Typeflag: tar.TypeLink, Linkname: "d/secret"}},
			"d is a symlink, not a directory"},
		{"hard link to a symlink", nil, []tar.Header{sym("d", secret), {Name: "x", Typeflag: tar.TypeLink, Linkname: "d"}}, "x: hard link to a symlink"},
		{"hard link to nothing", nil, []tar.Header{{Name: "x", Typeflag: tar.TypeLink, Linkname: "y"}}, "x: hard link: "},
		{"device", nil, []tar.Header{{Name: "x", Typeflag: tar.TypeChar}}, "device nodes are not supported"},
		{"root", nil, []tar.Header{reg(".")}, "the root is a file"},
	} {
		dir := t.TempDir()
		if c.prepare != nil {
			if err := c.prepare(dir); err != nil {
				t.Fatal(err)
			}
		}
		err := unpack(t, pack(t, rawTar(t, c.headers...)), dir, UnpackOptions{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.what, err, c.want)
		}
		noLeftovers(t, dir)
	}
	if got, _ := os.ReadFile(secret); string(got) != "secret" {
		t.Errorf("the file outside is now %q", got)
	}
	if list, _ := os.ReadDir(outside); len(list) != 1 {
		t.Errorf("files appeared outside: %v", list)
	}
}

// TestUnpackWriteThroughFile has a symlink where a file goes: it is replaced, not followed.
func TestUnpackWriteThroughFile(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "x")
	if err := os.Symlink(outside, filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	b, _ := write(t, newTree(t, file("f", 10)), Options{})
	if err := unpack(t, b, dir, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(outside); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("written through the symlink: %v", err)
	}
}

func TestUnpackCancel(t *testing.T) {
	var entries []tree.Entry
	for i := range 50 {
		entries = append(entries, file("f"+string(rune('A'+i)), 100000))
	}
	b, _ := write(t, newTree(t, entries...), Options{FrameSize: minFrameSize})
	ctx, cancel := context.WithCancel(context.Background())
	o := UnpackOptions{SkipOwners: true, Progress: func(done, total int64) { cancel() }}
	start := time.Now()
	if err := Unpack(ctx, bytes.NewReader(b), int64(len(b)), t.TempDir(), o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(rawTar(f, tar.Header{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "a/b", Typeflag: tar.TypeReg},
		tar.Header{Name: "c", Typeflag: tar.TypeLink, Linkname: "a/b"}, tar.Header{Name: "a/s", Typeflag: tar.TypeSymlink, Linkname: "../../x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		top := t.TempDir()
		unpack(t, pack(t, append(b, 0)), filepath.Join(top, "in"), UnpackOptions{SkipOwners: true, Workers: 2})
		if list, _ := os.ReadDir(top); len(list) > 1 {
			t.Errorf("files appeared outside: %v", list)
		}
	})
}
