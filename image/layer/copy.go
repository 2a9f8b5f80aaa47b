package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// CopyTree fills the empty directory to with what is below from: content, owners,
// modes, times, symlinks, hard links, and on FreeBSD flags and NFSv4 ACLs. Between
// datasets of one pool the content is shared (copy_file_range(2), block cloning), so a
// copy takes little room and no time to speak of.
//
// It refuses devices, pipes, sockets, and other file systems mounted below from.
// progress, which may be nil, is told how many bytes of files were copied.
func CopyTree(ctx context.Context, from, to string, progress func(done int64)) error {
	c := &copier{from: from, to: to, links: map[inode]string{}, progress: progress}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

type copier struct {
	from, to string
	links    map[inode]string // first copy of each file with several links
	done     int64            // bytes
	progress func(int64)

	// Done at the end, children first: directories, as filling them changes their time, and
	// flags, which forbid what comes before.
	dirs, flagged []copied
}

// copied is an entry and where its copy is.
type copied struct {
	src, dst string
	info     fs.FileInfo
	st       *syscall.Stat_t
}

func (c *copier) run(ctx context.Context) error {
	if list, err := os.ReadDir(c.to); err != nil {
		return err
	} else if len(list) > 0 {
		return fmt.Errorf("there is %s in it already", list[0].Name())
	}
	var root uint64
	err := filepath.WalkDir(c.from, func(src string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		e := copied{src: src, dst: filepath.Join(c.to, src[len(c.from):])}
		if e.info, err = os.Lstat(src); err != nil {
			return err
		}
		e.st = e.info.Sys().(*syscall.Stat_t) // on every system this is built for
		if src == c.from {
			root = uint64(e.st.Dev)
		} else if uint64(e.st.Dev) != root {
			return fmt.Errorf("%s: another file system is mounted there", src)
		}
		if err := c.copy(e); err != nil {
			return fmt.Errorf("%s: %w", src, err)
		}
		if c.progress != nil {
			c.progress(c.done)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.finish()
}

func (c *copier) copy(e copied) error {
	switch e.info.Mode().Type() {
	case fs.ModeDir:
		c.dirs = append(c.dirs, e)
		if e.src == c.from {
			return nil
		}
		return os.Mkdir(e.dst, 0o700)
	case fs.ModeSymlink:
		to, err := os.Readlink(e.src)
		if err == nil {
			err = os.Symlink(to, e.dst)
		}
		if err == nil {
			err = os.Lchown(e.dst, int(e.st.Uid), int(e.st.Gid))
		}
		if err == nil {
			err = setTime(unix.AT_FDCWD, e.dst, e.info.ModTime())
		}
		c.flag(e)
		return err
	case 0:
		return c.copyFile(e)
	}
	return fmt.Errorf("a %s is not copied", kindName(e.info))
}

func (c *copier) copyFile(e copied) error {
	id := inode{uint64(e.st.Dev), uint64(e.st.Ino)}
	if first, ok := c.links[id]; ok {
		return os.Link(first, e.dst)
	}
	if e.st.Nlink > 1 {
		c.links[id] = e.dst
	}
	in, err := os.Open(e.src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(e.dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, in) // copy_file_range(2) where the system has it
	c.done += n
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	c.flag(e)
	return e.setMeta()
}

// flag remembers what has flags.
func (c *copier) flag(e copied) {
	if flagsOf(e.st) != 0 {
		c.flagged = append(c.flagged, e)
	}
}

// setMeta gives a copy its owner, mode, ACL and time.
func (e copied) setMeta() error {
	if err := os.Lchown(e.dst, int(e.st.Uid), int(e.st.Gid)); err != nil {
		return err
	}
	if err := os.Chmod(e.dst, e.info.Mode()); err != nil {
		return err
	}
	if err := copyACL(e.src, e.dst); err != nil {
		return fmt.Errorf("ACL: %w", err)
	}
	return setTime(unix.AT_FDCWD, e.dst, e.info.ModTime())
}

func (c *copier) finish() error {
	for i := len(c.dirs) - 1; i >= 0; i-- {
		e := c.dirs[i]
		if err := e.setMeta(); err != nil {
			return fmt.Errorf("%s: %w", e.src, err)
		}
		c.flag(e)
	}
	for _, e := range c.flagged {
		if err := setFlags(unix.AT_FDCWD, e.dst, flagsOf(e.st)); err != nil {
			return fmt.Errorf("chflags %s: %w", e.dst, err)
		}
	}
	return nil
}
