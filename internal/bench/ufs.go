package main

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
)

// writeUFS is makefs with rig's writer: the directory dir becomes the image file.
func writeUFS(dir, img string) error {
	t, err := hostTree(dir)
	if err != nil {
		return err
	}
	plan, err := ufs.Layout(t, ufs.Options{Label: "bench"})
	if err != nil {
		return err
	}
	f, err := os.Create(img)
	if err != nil {
		return err
	}
	if err := f.Truncate(plan.Size()); err != nil {
		return err
	}
	if err := plan.Write(f); err != nil {
		return err
	}
	return f.Close()
}

// hostTree describes a directory of this machine, as makefs does: with hard links.
func hostTree(dir string) (*tree.Tree, error) {
	var out []tree.Entry
	first := map[uint64]string{} // by inode
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		e := tree.Entry{Path: filepath.ToSlash(rel), Perm: uint16(st.Mode().Perm()), ModTime: st.ModTime()}
		sys := st.Sys().(*syscall.Stat_t)
		switch {
		case d.IsDir():
			e.Kind = tree.Dir
		case st.Mode()&fs.ModeSymlink != 0:
			e.Kind = tree.Symlink
			if e.Link, err = os.Readlink(p); err != nil {
				return err
			}
		case sys.Nlink > 1 && first[uint64(sys.Ino)] != "":
			e.Kind, e.Link = tree.HardLink, first[uint64(sys.Ino)]
		default:
			first[uint64(sys.Ino)] = e.Path
			e.Kind, e.Size = tree.File, st.Size()
			e.Open = func() (io.ReadCloser, error) { return os.Open(p) }
		}
		out = append(out, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tree.New(out)
}
