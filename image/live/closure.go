// Package live composes the root file system of the installer: programs of base,
// closed over what they need to run (Closure), and the few generated files that
// turn them into a system of its own (Root). It boots from a read-only memory
// disk and has no rc.d: /etc/rc is one short script.
//
// What a program needs is read from its ELF headers (DT_NEEDED, interpreter,
// RPATH and RUNPATH as rtld(1) of FreeBSD 15.1 searches them) and from a "#!"
// line. What it opens by itself while it runs is not visible there; opened lists
// the cases that matter here.
package live

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/tree"
)

// maxProgram bounds the programs and libraries that are looked into, in bytes.
const maxProgram = 32 << 20

// maxLinks is where a chain of symbolic links is taken for a loop (MAXSYMLINKS).
const maxLinks = 32

// libraryPath is STANDARD_LIBRARY_PATH of rtld; the hints file adds nothing in
// an installer root.
var libraryPath = []string{"lib", "usr/lib"}

// opened lists what programs and libraries load by name while they run.
var opened = map[string][]string{
	"sbin/dhclient": {"sbin/dhclient-script"},
}

// Closure returns the part of t that running programs takes: the programs, their
// interpreters and libraries, every symbolic link on the way, and the
// directories they are in with their modes. extra names files taken as they are
// and directories taken whole. Paths may begin with a slash. Everything that is
// missing is reported at once.
func Closure(t *tree.Tree, programs []string, extra ...string) (*tree.Tree, error) {
	c := &closure{t: t, picked: map[string]bool{}}
	for _, p := range programs {
		c.need(clean(p), "")
	}
	for _, p := range extra {
		c.take(clean(p))
	}
	if len(c.missing) > 0 {
		slices.Sort(c.missing)
		return nil, fmt.Errorf("live: base has not all that the installer needs:\n  %s",
			strings.Join(slices.Compact(c.missing), "\n  "))
	}
	if len(c.errs) > 0 {
		return nil, fmt.Errorf("live: %w", errors.Join(c.errs...))
	}
	return t.Filter(func(e *tree.Entry) bool { return c.picked[e.Path] })
}

func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

type closure struct {
	t       *tree.Tree
	picked  map[string]bool // paths of t in the result
	missing []string
	errs    []error
}

// need picks the file at p, with all it needs itself, for the sake of by, "" for
// the caller.
func (c *closure) need(p, by string) {
	e := c.walk(p)
	if e == nil {
		msg := "/" + p
		if by != "" {
			msg += ", which /" + by + " needs"
		}
		c.missing = append(c.missing, msg)
		return
	}
	if c.picked[e.Path] {
		return
	}
	c.picked[e.Path] = true
	if e.Kind == tree.Dir {
		c.errs = append(c.errs, fmt.Errorf("/%s: a directory, not a program", p))
		return
	}
	for _, q := range opened[e.Path] {
		c.need(q, e.Path)
	}
	// The class library of gpart(8), a name of geom(8), is geom_part.so.
	if class, ok := strings.CutPrefix(e.Path, "sbin/g"); ok {
		if lib := "lib/geom/geom_" + class + ".so"; c.has(lib) {
			c.need(lib, e.Path)
		}
	}
	if err := c.inspect(e); err != nil {
		c.errs = append(c.errs, fmt.Errorf("/%s: %w", e.Path, err))
	}
}

// take picks what is at p, a directory with everything in it.
func (c *closure) take(p string) {
	e := c.walk(p)
	if e == nil {
		// A link out of the tree is all right where nobody runs it.
		if l, ok := c.t.Lookup(p); !ok || l.Kind != tree.Symlink {
			c.missing = append(c.missing, "/"+p)
		}
		return
	}
	c.picked[e.Path] = true
	if e.Kind != tree.Dir {
		return
	}
	for sub := range c.t.All() {
		if strings.HasPrefix(sub.Path, e.Path+"/") {
			c.picked[sub.Path] = true
		}
	}
}

func (c *closure) has(p string) bool {
	_, ok := c.t.Lookup(p)
	return ok
}

// walk resolves p like namei(9) does: it picks the directories and symbolic links
// on the way and returns the entry at the end, which it does not pick; nil when
// there is none.
func (c *closure) walk(p string) *tree.Entry {
	todo, at := strings.Split(p, "/"), ""
	var way []string
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if at = path.Dir(at); at == "." {
				at = ""
			}
			continue
		}
		here := path.Join(at, name)
		e, ok := c.t.Lookup(here)
		if !ok {
			return nil
		}
		if e.Kind == tree.Symlink {
			if links++; links > maxLinks {
				return nil
			}
			way = append(way, here)
			if path.IsAbs(e.Link) {
				at = ""
			}
			todo = append(strings.Split(e.Link, "/"), todo...)
			continue
		}
		if len(todo) == 0 {
			c.pickAll(way)
			return e
		}
		way = append(way, here)
		at = here
	}
	c.pickAll(way)
	if at == "" {
		at = "."
	}
	e, _ := c.t.Lookup(at)
	return e
}

func (c *closure) pickAll(paths []string) {
	for _, p := range paths {
		c.picked[p] = true
	}
}

// inspect needs what the content of e says it needs.
func (c *closure) inspect(e *tree.Entry) error {
	b, err := c.t.ReadFile(e.Path, maxProgram)
	if err != nil {
		return err
	}
	switch {
	case bytes.HasPrefix(b, []byte(elf.ELFMAG)):
		return c.inspectELF(e.Path, b)
	case bytes.HasPrefix(b, []byte("#!")):
		line, _, _ := bytes.Cut(b[2:], []byte("\n"))
		if f := strings.Fields(string(line)); len(f) > 0 && path.IsAbs(f[0]) {
			c.need(clean(f[0]), e.Path)
		}
	}
	return nil
}

func (c *closure) inspectELF(name string, b []byte) error {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		s := make([]byte, min(p.Filesz, 1024))
		if _, err := p.ReadAt(s, 0); err != nil {
			return fmt.Errorf("interpreter: %w", err)
		}
		c.need(clean(string(bytes.TrimRight(s, "\x00"))), name)
	}
	libs, err := f.DynString(elf.DT_NEEDED)
	if err != nil {
		return fmt.Errorf("needed libraries: %w", err)
	}
	dirs, err := searchDirs(f, name)
	if err != nil {
		return err
	}
	for _, lib := range libs {
		i := slices.IndexFunc(dirs, func(d string) bool { return c.has(path.Join(d, lib)) })
		switch {
		case path.IsAbs(lib):
			c.need(clean(lib), name)
		case i < 0:
			c.missing = append(c.missing, fmt.Sprintf("%s, which /%s needs", lib, name))
		default:
			c.need(path.Join(dirs[i], lib), name)
		}
	}
	return nil
}

// searchDirs is where rtld(1) looks for the libraries of f, in order.
func searchDirs(f *elf.File, name string) ([]string, error) {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		lists, err := f.DynString(tag)
		if err != nil {
			return nil, fmt.Errorf("library path: %w", err)
		}
		for _, list := range lists {
			for d := range strings.SplitSeq(list, ":") {
				d = strings.NewReplacer("${ORIGIN}", "/"+path.Dir(name), "$ORIGIN", "/"+path.Dir(name)).Replace(d)
				dirs = append(dirs, clean(d))
			}
		}
	}
	return append(dirs, libraryPath...), nil
}
