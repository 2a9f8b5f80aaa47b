package ufs

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
)

// hostTree describes a directory of this machine.
func hostTree(t testing.TB, root string) *tree.Tree {
	var es []tree.Entry
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(root, p)
		e := tree.Entry{Path: rel, Perm: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid, ModTime: fi.ModTime()}
		switch {
		case fi.IsDir():
			e.Kind = tree.Dir
		case fi.Mode().Type() == fs.ModeSymlink:
			e.Kind = tree.Symlink
			e.Link, err = os.Readlink(p)
		case first[st.Ino] != "":
			e.Kind, e.Link = tree.HardLink, first[st.Ino]
		case fi.Mode().IsRegular():
			first[st.Ino] = rel
			e.Kind, e.Size = tree.File, fi.Size()
			e.Open = func() (io.ReadCloser, error) { return os.Open(p) }
		default:
			return nil
		}
		es = append(es, e)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mktree(t, es...)
}

// A tree of this machine, with all its hard links, owners and times.
func TestHostTree(t *testing.T) {
	tr := hostTree(t, "../..")
	image(t, tr, Options{})
}

// BenchmarkWrite lays out and writes RIG_BENCH_TREE, by default Go's own tree.
func BenchmarkWrite(b *testing.B) {
	root := os.Getenv("RIG_BENCH_TREE")
	if root == "" {
		root = "/usr/local/go"
	}
	if _, err := os.Stat(root); err != nil {
		b.Skip(err)
	}
	tr := hostTree(b, root)
	b.SetBytes(tr.Size())
	for b.Loop() {
		p, err := Layout(tr, Options{})
		if err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(filepath.Join(b.TempDir(), "img"))
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Write(f); err != nil {
			b.Fatal(err)
		}
		f.Close()
		_ = os.Remove(f.Name())
	}
}
