// Package overlay turns a directory of configuration files into a tree, and
// renders the templates in it.
//
// Owners and modes come from an mtree(5) file beside the directory, never from
// the machine that builds: "host/" has "host.mtree". Only exceptions are
// listed there. What is not listed is a file of root:wheel 0644; a directory
// that is not listed is Implied, so that laying the overlay over base never
// changes the mode of a directory of base.
//
// A name that ends in ".tmpl" is a text/template: the installer renders it on
// the target from the answers, into the name without the suffix. See [Render]
// for the functions and [Variables] for what a template may refer to.
//
// The default profile is in this package too: see [Webrig].
package overlay

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/sums"
)

// Suffix marks a template.
const Suffix = ".tmpl"

// maxReaders is how many files are read at once: few disks get faster by more.
const maxReaders = 8

// Options are the choices of Load.
type Options struct {
	Time time.Time   // modification time of every entry; the zero value is the epoch
	Sums *sums.Cache // what is known of the files' content; with it every file has its Sum
}

// Load returns the tree of the directory dir of fsys, with owners and modes from
// the file dir.mtree when there is one. An mtree line of type=dir or type=link
// makes the directory or symbolic link when the directory tree does not hold
// it; any other line must be about something that exists. A line about NAME is
// also about the template NAME.tmpl. Every problem is reported, as
// *diag.Problems.
func Load(fsys fs.FS, dir string, o Options) (*tree.Tree, error) {
	if o.Time.IsZero() {
		o.Time = time.Unix(0, 0)
	}
	l := &loader{fsys: fsys, opt: o, index: map[string]int{}}
	if err := l.walk(dir); err != nil {
		return nil, fmt.Errorf("load overlay %s: %w", dir, err)
	}
	if err := l.each(l.stat); err != nil {
		return nil, fmt.Errorf("load overlay %s: %w", dir, err)
	}
	if err := l.owners(dir + ".mtree"); err != nil {
		return nil, fmt.Errorf("load overlay %s: %w", dir, err)
	}
	for p := range l.index {
		if other, ok := strings.CutSuffix(p, Suffix); ok {
			if _, both := l.index[other]; both {
				l.bad(path.Join(dir, p), 0, "%s exists too, and this template would be rendered over it", other)
			}
		}
	}
	if err := l.problems.Err(); err != nil {
		return nil, err
	}
	if o.Sums != nil {
		if err := l.each(l.read); err != nil {
			return nil, err
		}
		for _, f := range l.files {
			o.Sums.Saw(l.entries[f.entry].Path, f.state, l.entries[f.entry].Sum)
		}
	}
	return tree.New(l.entries)
}

type loader struct {
	fsys     fs.FS
	opt      Options
	entries  []tree.Entry
	index    map[string]int // path → entry
	files    []file
	problems diag.Problems
}

// file is an entry that is a file.
type file struct {
	entry int
	name  fs.DirEntry
	state sums.State
	err   error
}

func (l *loader) bad(file string, line int, format string, args ...any) {
	l.problems.Add(diag.Problem{File: file, Line: line, Msg: fmt.Sprintf(format, args...)})
}

func (l *loader) add(e tree.Entry) {
	l.index[e.Path] = len(l.entries)
	l.entries = append(l.entries, e)
}

func (l *loader) walk(dir string) error {
	return fs.WalkDir(l.fsys, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		p := strings.TrimPrefix(strings.TrimPrefix(name, dir), "/")
		if p == "" {
			if !d.IsDir() {
				return fmt.Errorf("%s is not a directory", name)
			}
			return nil
		}
		if leftover(d.Name()) {
			l.bad(name, 0, "looks like something an editor or a desktop left behind; delete it")
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		e := tree.Entry{Path: p, Perm: 0o644, Owner: "root", Group: "wheel", ModTime: l.opt.Time}
		switch d.Type() {
		case 0:
			e.Kind, e.Open = tree.File, l.opener(name)
			l.files = append(l.files, file{entry: len(l.entries), name: d})
		case fs.ModeDir:
			e.Kind, e.Perm, e.Implied = tree.Dir, 0o755, true
		case fs.ModeSymlink:
			e.Kind, e.Perm = tree.Symlink, 0o755
			if e.Link, err = fs.ReadLink(l.fsys, name); err != nil {
				return err
			}
		default:
			l.bad(name, 0, "only files, directories and symbolic links can be in an overlay")
			return nil
		}
		l.add(e)
		return nil
	})
}

// leftover says whether a name is one that editors and desktops make by
// themselves, and that nobody wants on a server.
func leftover(name string) bool {
	return name == ".DS_Store" || name == "Thumbs.db" ||
		strings.HasPrefix(name, ".#") || strings.HasPrefix(name, "._") ||
		strings.HasSuffix(name, "~") || strings.HasSuffix(name, ".swp") ||
		strings.HasSuffix(name, ".orig") || strings.HasSuffix(name, ".rej") ||
		(len(name) > 2 && name[0] == '#' && name[len(name)-1] == '#')
}

// owners applies the mtree file.
func (l *loader) owners(file string) error {
	f, err := l.fsys.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	set := "/set uname=root gname=wheel"
	said := map[string]int{} // path → line
	sc := bufio.NewScanner(f)
	for line := 1; sc.Scan(); line++ {
		text := strings.TrimSpace(sc.Text())
		switch {
		case text == "" || text[0] == '#':
		case strings.HasPrefix(text, "/set"):
			if _, err := tree.ReadMtree(strings.NewReader(text)); err != nil {
				l.bad(file, line, "%v", cause(err))
				continue
			}
			set += strings.TrimPrefix(text, "/set")
		default:
			p, err := l.line(set, text)
			if err != nil {
				l.bad(file, line, "%v", err)
				continue
			}
			if first, twice := said[p]; twice {
				l.bad(file, line, "./%s: already described in line %d", p, first)
			}
			said[p] = line
		}
	}
	return sc.Err()
}

// line applies one line about a path and returns the path.
func (l *loader) line(set, text string) (string, error) {
	// What the line says is known once its path is; its defaults depend on what
	// is at that path. So it is read twice.
	es, err := tree.ReadMtree(strings.NewReader("/set type=file\n" + set + "\n" + text))
	if err != nil {
		return "", cause(err)
	}
	p := es[0].Path
	i, exists := l.index[p]
	if !exists {
		i, exists = l.index[p+Suffix]
	}
	kind := es[0].Kind
	if exists {
		kind = l.entries[i].Kind
	}
	perm := "0755"
	if kind == tree.File {
		perm = "0644"
	}
	head := fmt.Sprintf("/set type=%s mode=%s\n%s\n", kind, perm, set)
	if es, err = tree.ReadMtree(strings.NewReader(head + text)); err != nil {
		return "", cause(err)
	}
	e := es[0]
	e.ModTime, e.Implied = l.opt.Time, false
	switch {
	case e.Kind == tree.Symlink && e.Link == "":
		return "", fmt.Errorf("./%s: type=link needs link=", p)
	case e.Kind != tree.Symlink && e.Link != "":
		return "", fmt.Errorf("./%s: link= without type=link", p)
	case exists:
		have := &l.entries[i]
		if have.Kind != e.Kind || (e.Kind == tree.Symlink && e.Link != have.Link) {
			return "", fmt.Errorf("./%s: it is a %s in the overlay", p, have.Kind)
		}
		e.Path, e.Size, e.Open, e.Sum, e.Link = have.Path, have.Size, have.Open, have.Sum, have.Link
		*have = e
	case e.Kind == tree.File:
		return "", fmt.Errorf("./%s: no such file in the overlay", p)
	default:
		l.add(e)
	}
	return p, nil
}

// cause strips the line number of an error of tree.ReadMtree, which is not that
// of our file.
func cause(err error) error {
	if in := errors.Unwrap(err); in != nil {
		return in
	}
	if _, msg, ok := strings.Cut(err.Error(), ": "); ok {
		return errors.New(msg)
	}
	return err
}

// each does something for every file, several at once, and stops soon after an error.
func (l *loader) each(do func(*file, *tree.Entry) error) error {
	const batch = 64
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), maxReaders) {
		wg.Go(func() {
			for failed.Load() == 0 {
				end := int(next.Add(batch))
				for i := end - batch; i < min(end, len(l.files)); i++ {
					f := &l.files[i]
					if f.err = do(f, &l.entries[f.entry]); f.err != nil {
						failed.Store(1)
						break
					}
				}
				if end >= len(l.files) {
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range l.files {
		if err := l.files[i].err; err != nil {
			return err
		}
	}
	return nil
}

// stat asks for a file's size, and whether its content is known.
func (l *loader) stat(f *file, e *tree.Entry) error {
	info, err := f.name.Info()
	if err != nil {
		return err
	}
	e.Size = info.Size()
	if l.opt.Sums != nil {
		f.state = sums.Stat(info)
		e.Sum = l.opt.Sums.Known(e.Path, f.state)
	}
	return nil
}

// read reads a file that is not known.
func (l *loader) read(f *file, e *tree.Entry) (err error) {
	e.Sum, err = e.Digest()
	return err
}

func (l *loader) opener(name string) tree.Opener {
	return func() (io.ReadCloser, error) { return l.fsys.Open(name) }
}

// Templates returns the paths of the templates in a tree, in its order.
func Templates(t *tree.Tree) []string {
	var out []string
	for e := range t.All() {
		if e.Kind == tree.File && strings.HasSuffix(e.Path, Suffix) {
			out = append(out, e.Path)
		}
	}
	return out
}

// Target is the name a template is rendered into.
func Target(name string) string { return strings.TrimSuffix(name, Suffix) }
