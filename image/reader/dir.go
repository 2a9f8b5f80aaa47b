package reader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/fetch"
)

// Files that a directory for network boot has beside those of the rig partition.
const (
	pxeBoot = "boot/pxeboot"
	iPXE    = "boot.ipxe"
)

// directory is one for network boot, here.
type directory struct {
	i    *Image
	root string
}

func (d *directory) name(p string) string { return filepath.Join(d.root, filepath.FromSlash(p)) }

// openDirectory reads the tree of a directory.
func (i *Image) openDirectory() error {
	d := &directory{i, i.Path}
	if _, err := os.Stat(d.name(manifest.File)); errors.Is(err, fs.ErrNotExist) {
		return &ForeignError{i.Path, "it is a directory without " + manifest.File}
	}
	i.Form = Directory
	var err error
	if i.Rig, err = d.tree(); err != nil {
		return err
	}
	i.Size = i.Rig.Size()
	return i.finish(d)
}

func (d *directory) tree() (*tree.Tree, error) {
	var all []tree.Entry
	err := filepath.WalkDir(d.root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		p, err := filepath.Rel(d.root, name)
		if err != nil {
			return err
		}
		x := tree.Entry{Path: filepath.ToSlash(p), Kind: tree.Dir, Perm: uint16(st.Mode().Perm()), ModTime: st.ModTime()}
		switch {
		case st.IsDir():
		case st.Mode().IsRegular():
			x.Kind, x.Size = tree.File, st.Size()
			x.Open = func() (io.ReadCloser, error) { return os.Open(name) }
		default:
			return fmt.Errorf("%s is neither a file nor a directory", x.Path)
		}
		all = append(all, x)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tree.New(all)
}

// file implements medium.
func (d *directory) file(p string) (io.ReaderAt, error) {
	f, err := os.Open(d.name(p))
	if err != nil {
		return nil, err
	}
	d.i.closeLater(f.Close)
	return f, nil
}

// web is a directory for network boot on a web server. Its tree is what the manifest
// lists: a server gives no lists.
type web struct {
	i    *Image
	ctx  context.Context
	c    *fetch.Client
	base string
}

func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }

// openURL opens a directory or a file on a web server.
func (i *Image) openURL(ctx context.Context) error {
	w := &web{i, ctx, &fetch.Client{Progress: func(url string, done, total int64) { i.o.Progress("download", done, total) }}, strings.TrimRight(i.Path, "/")}
	var text []byte
	m, err := manifest.Read(func(name string, limit int64) ([]byte, error) {
		b, err := w.c.Bytes(ctx, w.base+"/"+name, limit)
		if name == manifest.File {
			text = b
		}
		return b, err
	})
	switch {
	case err == nil:
		i.Form, i.Manifest = Directory, m
		return w.open(text)
	case ctx.Err() != nil:
		return err
	case text != nil:
		i.Form = Directory
		return err
	}
	r, size, err := w.remote(w.base)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: neither a file nor a directory for network boot is there: %w", i.Path, err)
	}
	if err != nil {
		return err
	}
	return i.openFile(ctx, r, size)
}

// open makes the tree of the directory.
func (w *web) open(text []byte) (err error) {
	m := w.i.Manifest
	list := []tree.Entry{tree.FileEntry(manifest.File, text)}
	for _, f := range m.Files {
		if f.Part == manifest.RoleRig {
			list = append(list, w.entry(f.Path, f.Size))
		}
	}
	seen := map[string]bool{}
	for _, l := range m.Layers {
		if !seen[l.SHA256] {
			list = append(list, w.entry(l.Path(), l.Size))
		}
		seen[l.SHA256] = true
	}
	for _, p := range []string{manifest.SwitchFile, pxeBoot, iPXE} {
		size, err := w.c.Size(w.ctx, w.base+"/"+p)
		if err == nil && size >= 0 {
			list = append(list, w.entry(p, size))
		} else if !errors.Is(err, fs.ErrNotExist) && err != nil {
			return err
		}
	}
	w.i.medium = w
	if w.i.Rig, err = tree.New(list); err == nil {
		w.i.Size = w.i.Rig.Size()
	}
	return err
}

func (w *web) entry(p string, size int64) tree.Entry {
	e := tree.Entry{Path: p, Kind: tree.File, Perm: 0o644, Size: size}
	e.Open = func() (io.ReadCloser, error) {
		r, n, err := w.remote(w.base + "/" + p)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(io.NewSectionReader(r, 0, n)), nil
	}
	return e
}

// file implements medium.
func (w *web) file(p string) (io.ReaderAt, error) {
	r, _, err := w.remote(w.base + "/" + p)
	return r, err
}

// remote is random access to a file, which is downloaded where the server gives no
// parts.
func (w *web) remote(url string) (io.ReaderAt, int64, error) {
	r, err := w.c.Remote(w.ctx, url)
	if err == nil {
		return r, r.Size(), nil
	}
	if !errors.Is(err, fetch.ErrNoParts) {
		return nil, 0, err
	}
	f, err := os.CreateTemp(w.i.o.Temp, "rigimage-*")
	if err != nil {
		return nil, 0, err
	}
	w.i.closeLater(f.Close)
	defer os.Remove(f.Name())
	if err := w.c.File(w.ctx, url, f.Name(), 0); err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return f, st.Size(), nil
}
