package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
)

// smallFile is the size up to which a file is copied and written by a worker;
// larger ones are written as they are decoded. Bytes.
const smallFile = 512 << 10

// UnpackOptions of Unpack. The zero value is good for root.
type UnpackOptions struct {
	Workers    int                     // decoding and writing goroutines, 0 = as many as cores and memory allow
	Progress   func(done, total int64) // bytes of the tar; called from one goroutine at a time
	Accounts   *tree.Accounts          // ids of owner names, which must all be known; nil = the ids in the layer
	SkipOwners bool                    // leave owners and set-id bits alone, for callers that are not root
}

// Unpack writes the layer into dir, which is made when it does not exist.
//
// Over an existing tree it behaves as an overlay: files, symlinks and hard links
// are replaced atomically; directories stay and get the layer's owner and mode.
// A directory is never replaced by something else, nor the reverse, and nothing is
// written through a symlink or outside dir. Owners, modes and times are set as the
// layer says; chflags(2) bits last, on FreeBSD only. After an error the tree is
// incomplete; a second run completes it.
func Unpack(ctx context.Context, r io.ReaderAt, size int64, dir string, o UnpackOptions) error {
	if !o.SkipOwners && os.Geteuid() != 0 {
		return diag.Hint(fmt.Errorf("unpack into %s: only root can set owners", dir), "run it as root")
	}
	a, err := openArchive(r, size)
	if err != nil {
		return fmt.Errorf("unpack into %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer root.Close()
	u := &unpacker{o: o, root: root, known: map[string]bool{".": true}}
	if err := u.run(ctx, a); err != nil {
		return fmt.Errorf("unpack into %s: %w", dir, err)
	}
	return nil
}

type unpacker struct {
	o     UnpackOptions
	root  *os.Root
	known map[string]bool // directories seen to be directories
	cur   *dirHandle      // directory of the entry before
	temps atomic.Int64
	jobs  chan job

	// For the end, because they need or would prevent what comes before.
	links, dirs, flagged []tree.Entry
}

// job is a small file for a worker.
type job struct {
	dir  *dirHandle
	e    tree.Entry
	data []byte
}

// run reads the tar in order and makes directories, symlinks and large files
// itself; small files go to workers.
func (u *unpacker) run(parent context.Context, a *archive) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	n := workers(u.o.Workers, defaultFrameSize)
	s, err := a.stream(ctx, n)
	if err != nil {
		return err
	}
	defer s.Close()

	u.jobs = make(chan job, n)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for j := range u.jobs {
				if ctx.Err() == nil {
					if err := u.writeFile(j.dir, &j.e, bytes.NewReader(j.data)); err != nil {
						cancel(err)
					}
				}
				j.dir.release()
			}
		})
	}
	err = u.readAll(ctx, a, s)
	close(u.jobs)
	wg.Wait()
	defer func() {
		if u.cur != nil {
			u.cur.release()
		}
	}()
	if ctx.Err() != nil { // a worker's error, or the caller's; what the reader says follows from it
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return u.finish(ctx)
}

func (u *unpacker) readAll(ctx context.Context, a *archive, s *stream) error {
	tr := tar.NewReader(s)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("tar: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := Entry(h)
		if err != nil {
			return err
		}
		if err := u.add(e, tr); err != nil {
			return err
		}
		if u.o.Progress != nil {
			u.o.Progress(s.done, a.size)
		}
	}
	_, err := io.Copy(io.Discard, s) // the padding; shows that all frames are sound
	if err == nil && u.o.Progress != nil {
		u.o.Progress(a.size, a.size)
	}
	return err
}

func (u *unpacker) add(e tree.Entry, content io.Reader) error {
	if e.Path == "." {
		if e.Kind != tree.Dir {
			return fmt.Errorf("the root is a %s", e.Kind)
		}
		u.dirs = append(u.dirs, e)
		u.remember(&e)
		d, err := u.dir(".")
		if err != nil {
			return err
		}
		return clearFlags(d.fd(), ".")
	}
	d, err := u.dir(path.Dir(e.Path))
	if err != nil {
		return err
	}
	u.remember(&e)
	switch e.Kind {
	case tree.Dir:
		u.dirs = append(u.dirs, e)
		return u.makeDir(d, &e)
	case tree.HardLink:
		u.links = append(u.links, e)
		return nil
	case tree.Symlink:
		return u.writeSymlink(d, &e)
	}
	if e.Size > smallFile {
		return u.writeFile(d, &e, content)
	}
	data := make([]byte, e.Size)
	if _, err := io.ReadFull(content, data); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	d.refs.Add(1)
	u.jobs <- job{d, e, data}
	return nil
}

func (u *unpacker) remember(e *tree.Entry) {
	if e.Flags != 0 && e.Kind != tree.HardLink {
		u.flagged = append(u.flagged, *e)
	}
}

// finish makes hard links, then gives directories their owner, mode and time,
// children first, then sets flags, children first.
func (u *unpacker) finish(ctx context.Context) error {
	for i := range u.links {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := u.writeLink(&u.links[i]); err != nil {
			return err
		}
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		e := &u.dirs[i]
		d, err := openDir(u.root, e.Path)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		err = u.setMeta(d.f, d, ".", e)
		d.release()
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	for i := len(u.flagged) - 1; i >= 0; i-- {
		e := &u.flagged[i]
		d, err := openDir(u.root, path.Dir(e.Path))
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		err = setFlags(d.fd(), path.Base(e.Path), uint32(e.Flags))
		d.release()
		if err != nil {
			return fmt.Errorf("chflags %s %s: %w", e.Flags, e.Path, err)
		}
	}
	return nil
}

// dirHandle is an open directory. Names are then looked up in it without walking
// the whole path again. The last release closes it.
type dirHandle struct {
	path string
	root *os.Root
	f    *os.File
	refs atomic.Int32
}

func openDir(root *os.Root, p string) (*dirHandle, error) {
	sub, err := root.OpenRoot(p)
	if err != nil {
		return nil, err
	}
	f, err := sub.Open(".")
	if err != nil {
		sub.Close()
		return nil, err
	}
	d := &dirHandle{path: p, root: sub, f: f}
	d.refs.Store(1)
	return d, nil
}

func (d *dirHandle) fd() int { return int(d.f.Fd()) }

func (d *dirHandle) release() {
	if d.refs.Add(-1) == 0 {
		d.f.Close()
		d.root.Close()
	}
}

// dir returns the directory p, making it and its parents when they are missing.
// Symlinks on the way are refused.
func (u *unpacker) dir(p string) (*dirHandle, error) {
	if u.cur != nil && u.cur.path == p {
		return u.cur, nil
	}
	if err := u.knowDir(p); err != nil {
		return nil, err
	}
	d, err := openDir(u.root, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	if u.cur != nil {
		u.cur.release()
	}
	u.cur = d
	return d, nil
}

func (u *unpacker) knowDir(p string) error {
	if u.known[p] {
		return nil
	}
	if err := u.knowDir(path.Dir(p)); err != nil {
		return err
	}
	fi, err := u.root.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		err = u.root.Mkdir(p, 0o755)
	} else if err == nil && !fi.IsDir() {
		err = fmt.Errorf("%s is a %s, not a directory", p, kindName(fi))
	}
	if err == nil {
		u.known[p] = true
	}
	return err
}

func kindName(fi fs.FileInfo) string {
	switch {
	case fi.IsDir():
		return "directory"
	case fi.Mode()&fs.ModeSymlink != 0:
		return "symlink"
	case fi.Mode().IsRegular():
		return "file"
	}
	return "special file"
}

func (u *unpacker) makeDir(d *dirHandle, e *tree.Entry) error {
	base := path.Base(e.Path)
	err := d.root.Mkdir(base, 0o700) // the final mode comes last
	if errors.Is(err, fs.ErrExist) {
		fi, lerr := d.root.Lstat(base)
		switch {
		case lerr != nil:
			err = lerr
		case !fi.IsDir():
			return fmt.Errorf("%s: a directory cannot replace a %s", e.Path, kindName(fi))
		default:
			err = clearFlags(d.fd(), base)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	u.known[e.Path] = true
	return nil
}

// writeFile makes a regular file under its name or, when that is taken, under a
// temporary one that then replaces it.
func (u *unpacker) writeFile(d *dirHandle, e *tree.Entry, content io.Reader) error {
	base := path.Base(e.Path)
	name := base
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		name = u.tempName(d)
		f, err = d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	n, err := io.Copy(f, content)
	if err == nil && n != e.Size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = u.setMeta(f, d, name, e)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && name != base {
		err = replace(d, name, base)
	}
	if err != nil {
		d.root.Remove(name)
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

func (u *unpacker) writeSymlink(d *dirHandle, e *tree.Entry) error {
	base := path.Base(e.Path)
	name := base
	err := d.root.Symlink(e.Link, name)
	if errors.Is(err, fs.ErrExist) {
		name = u.tempName(d)
		err = d.root.Symlink(e.Link, name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	if !u.o.SkipOwners {
		var uid, gid int
		if uid, gid, err = u.owner(e); err == nil {
			err = d.root.Lchown(name, uid, gid)
		}
	}
	if err == nil {
		err = setTime(d.fd(), name, e.ModTime)
	}
	if err == nil && name != base {
		err = replace(d, name, base)
	}
	if err != nil {
		d.root.Remove(name)
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

func (u *unpacker) writeLink(e *tree.Entry) error {
	for _, p := range []string{path.Dir(e.Path), path.Dir(e.Link)} {
		if err := u.knowDir(p); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	target, err := u.root.Lstat(e.Link)
	if err != nil {
		return fmt.Errorf("%s: hard link: %w", e.Path, err)
	}
	if !target.Mode().IsRegular() {
		return fmt.Errorf("%s: hard link to a %s", e.Path, kindName(target))
	}
	err = u.root.Link(e.Link, e.Path)
	if !errors.Is(err, fs.ErrExist) {
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		return nil
	}
	old, err := u.root.Lstat(e.Path)
	if err != nil || os.SameFile(old, target) { // rename(2) of one file over itself does nothing
		return err
	}
	d, err := u.dir(path.Dir(e.Path))
	if err != nil {
		return err
	}
	name := u.tempName(d)
	temp := path.Join(d.path, name)
	if err = u.root.Link(e.Link, temp); err == nil {
		if err = replace(d, name, path.Base(e.Path)); err != nil {
			u.root.Remove(temp)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// tempName returns a name for something that will be renamed, and removes what an
// interrupted run may have left there.
func (u *unpacker) tempName(d *dirHandle) string {
	name := ".rig-unpack." + strconv.FormatInt(u.temps.Add(1), 10)
	d.root.Remove(name)
	return name
}

// replace renames from over to, whatever to's flags, unless it is a directory.
func replace(d *dirHandle, from, to string) error {
	fi, err := d.root.Lstat(to)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return errors.New("it cannot replace a directory")
	}
	if err := clearFlags(d.fd(), to); err != nil {
		return err
	}
	return d.root.Rename(from, to)
}

// setMeta sets owner, then mode (chown clears set-id bits), then time of the open
// file f, which is name in d.
func (u *unpacker) setMeta(f *os.File, d *dirHandle, name string, e *tree.Entry) error {
	perm := e.Perm
	if u.o.SkipOwners {
		if perm &^= 0o6000; e.Kind == tree.Dir {
			perm |= e.Perm & 0o2000 // no privilege, only inheritance
		}
	} else {
		uid, gid, err := u.owner(e)
		if err != nil {
			return err
		}
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(fileMode(perm)); err != nil {
		return err
	}
	return setTime(d.fd(), name, e.ModTime)
}

func (u *unpacker) owner(e *tree.Entry) (uid, gid int, err error) {
	uid, gid = int(e.UID), int(e.GID)
	if u.o.Accounts == nil {
		return uid, gid, nil
	}
	if e.Owner != "" {
		id, ok := u.o.Accounts.Users[e.Owner]
		if !ok {
			return 0, 0, fmt.Errorf("unknown user %s", e.Owner)
		}
		uid = int(id)
	}
	if e.Group != "" {
		id, ok := u.o.Accounts.Groups[e.Group]
		if !ok {
			return 0, 0, fmt.Errorf("unknown group %s", e.Group)
		}
		gid = int(id)
	}
	return uid, gid, nil
}

func fileMode(perm uint16) fs.FileMode {
	m := fs.FileMode(perm & 0o777)
	if perm&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if perm&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if perm&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}
