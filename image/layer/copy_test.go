package layer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCopyTree(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	at := time.Date(2025, 3, 1, 12, 0, 0, 123456000, time.UTC)
	name := func(dir, p string) string { return filepath.Join(dir, p) }
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(name(from, "usr/bin"), 0o755), os.Mkdir(name(from, "tmp"), 0o755), os.Chmod(name(from, "tmp"), 0o1777|os.ModeSticky),
		os.WriteFile(name(from, "usr/bin/su"), []byte(strings.Repeat("x", 300_000)), 0o644), os.Chmod(name(from, "usr/bin/su"), 0o555|os.ModeSetuid),
		os.Link(name(from, "usr/bin/su"), name(from, "usr/bin/zz")), os.Link(name(from, "usr/bin/su"), name(from, "first")),
		os.Symlink("/usr/bin/nowhere", name(from, "link")), os.WriteFile(name(from, "empty"), nil, 0o400), os.WriteFile(name(from, "secret"), []byte("s"), 0o600))
	if os.Geteuid() == 0 {
		must(os.Lchown(name(from, "secret"), 770, 771), os.Lchown(name(from, "link"), 5, 6), os.Lchown(name(from, "tmp"), 7, 8))
	}
	for _, p := range []string{"usr/bin/su", "secret", "usr/bin", "tmp", "."} {
		must(os.Chtimes(name(from, p), at, at))
	}
	var n int64
	must(CopyTree(context.Background(), from, to, func(done int64) { n = done }))
	if n != 300_001 {
		t.Errorf("%d bytes", n)
	}
	must(filepath.Walk(from, func(p string, want os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, p)
		got, err := os.Lstat(name(to, rel))
		if err != nil {
			return err
		}
		w, g := want.Sys().(*syscall.Stat_t), got.Sys().(*syscall.Stat_t)
		if got.Mode() != want.Mode() || !got.ModTime().Equal(want.ModTime()) || g.Uid != w.Uid || g.Gid != w.Gid || g.Nlink != w.Nlink {
			t.Errorf("%s: %v %v %d:%d %d links, want %v %v %d:%d %d", rel, got.Mode(), got.ModTime(), g.Uid, g.Gid, g.Nlink, want.Mode(), want.ModTime(), w.Uid, w.Gid, w.Nlink)
		}
		if want.Mode().IsRegular() {
			a, err1 := os.ReadFile(p)
			b, err2 := os.ReadFile(name(to, rel))
			if string(a) != string(b) {
				t.Errorf("%s: other content", rel)
			}
			return errors.Join(err1, err2)
		}
		return nil
	}))
	if to, err := os.Readlink(name(to, "link")); err != nil || to != "/usr/bin/nowhere" {
		t.Error(to, err)
	}
	a, _ := os.Stat(name(to, "first"))
	b, _ := os.Stat(name(to, "usr/bin/zz"))
	if !os.SameFile(a, b) {
		t.Error("hard links became copies")
	}
}

func TestCopyTreeRefuses(t *testing.T) {
	full, pipe := t.TempDir(), t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(full, "f"), nil, 0o600), syscall.Mkfifo(filepath.Join(pipe, "p"), 0o600)); err != nil {
		t.Fatal(err)
	}
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tt := range []struct {
		ctx            context.Context
		from, to, want string
	}{
		{context.Background(), pipe, full, "there is f in it already"},
		{context.Background(), pipe, t.TempDir(), "/p: a special file is not copied"},
		{context.Background(), filepath.Join(full, "none"), t.TempDir(), "no such file or directory"},
		{context.Background(), full, filepath.Join(full, "none"), "no such file or directory"},
		{stopped, full, t.TempDir(), "context canceled"},
	} {
		if err := CopyTree(tt.ctx, tt.from, tt.to, nil); err == nil || !strings.HasPrefix(err.Error(), "copy "+tt.from+" to "+tt.to+": ") || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("got %v, want …%s", err, tt.want)
		}
	}
}
