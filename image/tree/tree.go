// Package tree is the form in the middle: a sorted list of file-system entries
// that sources (release sets, overlay directories, generated files) return and
// writers (UFS2, FAT, tar layers) drain.
//
// A Tree holds descriptions, never content: regular files open lazily. Its text
// form is mtree(5) (see [Tree.WriteMtree]), so every golden file can be reviewed.
// Device nodes, fifos and sockets are left out on purpose: devfs makes the
// former, programs make the latter.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"time"
)

// Kind says what an Entry is.
type Kind uint8

const (
	File Kind = iota + 1
	Dir
	Symlink
	HardLink // another name of the File at Entry.Link
)

func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Dir:
		return "dir"
	case Symlink:
		return "link"
	case HardLink:
		return "hardlink"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Entry describes one name. Path is relative, slash separated and clean; the
// root is ".". A HardLink repeats the owner, mode, flags and time of its File.
type Entry struct {
	Path    string
	Kind    Kind
	Perm    uint16 // permission, set-id and sticky bits (07777)
	UID     uint32
	GID     uint32
	Owner   string // user name; authoritative over UID until Resolve, "" = use UID
	Group   string // group name; the same for GID
	Flags   Flags  // chflags(2) bits
	ModTime time.Time
	Link    string // Symlink: target as stored; HardLink: Path of its File
	Size    int64  // bytes, File only
	Open    Opener // content, File only; nil only when Size is 0
	Sum     string // SHA-256 of the content in hex, File only; "" when its source does not know it
	// Holes are the runs of a File that were never written, in order and apart.
	// They read as zeros: Open yields them too, and a reader that is an
	// io.Seeker lets writers pass over them. A hint: writers without sparse
	// files ignore it, and the text form does not carry it.
	Holes []Range
	// Implied marks a directory that no source described: it exists because
	// something is inside it. Merge never lets it override a described one, and
	// layers do not carry it.
	Implied bool
}

// PermOf is a file's mode as Entry.Perm has it.
func PermOf(m fs.FileMode) uint16 {
	p := uint16(m.Perm())
	for bit, mode := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&mode != 0 {
			p |= bit
		}
	}
	return p
}

// Range is a run of bytes.
type Range struct{ Off, Len int64 }

// End is the offset of the first byte behind the range.
func (r Range) End() int64 { return r.Off + r.Len }

// Opener opens an entry's content from its beginning. It must yield exactly
// Entry.Size bytes, the same ones each time.
type Opener func() (io.ReadCloser, error)

// Tree is a valid, sorted set of entries; build one with New.
type Tree struct {
	entries []Entry
	index   map[string]int
}

// Bytes returns an Opener for content that is in memory.
func Bytes(b []byte) Opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// FileEntry is a root-owned regular file of 0644 with content in memory.
func FileEntry(p string, content []byte) Entry {
	return Entry{Path: p, Kind: File, Perm: 0o644, Owner: "root", Group: "wheel",
		ModTime: time.Unix(0, 0), Size: int64(len(content)), Open: Bytes(content)}
}

// New sorts entries and returns them as a Tree. Parents come before their
// children; missing parents (the root too) are added as Implied directories of
// root:wheel 0755. Of several names of one file, the first in sort order
// becomes the File and the others HardLinks to it. All problems are reported at
// once.
func New(entries []Entry) (*Tree, error) {
	t := &Tree{entries: slices.Clone(entries), index: make(map[string]int, len(entries))}
	var errs []error
	seen := make(map[string]bool, len(entries))
	for i := range t.entries {
		e := &t.entries[i]
		if err := e.validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		if seen[e.Path] {
			errs = append(errs, fmt.Errorf("tree %s: described twice", e.Path))
		}
		seen[e.Path] = true
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for i := 0; i < len(entries); i++ {
		for p := t.entries[i].Path; p != "."; {
			p = path.Dir(p)
			if seen[p] {
				break
			}
			seen[p] = true
			t.entries = append(t.entries, implied(p))
		}
	}
	if len(entries) == 0 {
		t.entries = append(t.entries, implied("."))
	}
	slices.SortFunc(t.entries, func(a, b Entry) int { return ComparePaths(a.Path, b.Path) })
	t.reindex()
	for i := range t.entries {
		e := &t.entries[i]
		if e.Path == "." {
			continue
		}
		if p := &t.entries[t.index[path.Dir(e.Path)]]; p.Kind != Dir {
			errs = append(errs, fmt.Errorf("tree %s: its parent is a %s, not a directory", e.Path, p.Kind))
		}
	}
	errs = append(errs, t.canonLinks()...)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return t, nil
}

func implied(p string) Entry {
	return Entry{Path: p, Kind: Dir, Perm: 0o755, Owner: "root", Group: "wheel", ModTime: time.Unix(0, 0), Implied: true}
}

func (e *Entry) validate() error {
	switch {
	case e.Path == "" || e.Path[0] == '/' || path.Clean(e.Path) != e.Path ||
		e.Path == ".." || strings.HasPrefix(e.Path, "../") || strings.IndexByte(e.Path, 0) >= 0:
		return fmt.Errorf("tree %q: path must be relative, clean and inside the root", e.Path)
	case e.Perm&^0o7777 != 0:
		return fmt.Errorf("tree %s: mode %#o has bits outside 07777", e.Path, e.Perm)
	}
	for name := range strings.SplitSeq(e.Path, "/") {
		if len(name) > 255 {
			return fmt.Errorf("tree %s: name of %d bytes; 255 is the limit", e.Path, len(name))
		}
	}
	switch e.Kind {
	case File:
		if e.Size < 0 || e.Size > 0 && e.Open == nil {
			return fmt.Errorf("tree %s: file of %d bytes without content", e.Path, e.Size)
		}
	case Symlink, HardLink:
		if e.Link == "" || strings.IndexByte(e.Link, 0) >= 0 {
			return fmt.Errorf("tree %s: %s without a target", e.Path, e.Kind)
		}
	case Dir:
	default:
		return fmt.Errorf("tree %s: unknown %s", e.Path, e.Kind)
	}
	return e.validateHoles()
}

func (e *Entry) validateHoles() error {
	if len(e.Holes) > 0 && e.Kind != File {
		return fmt.Errorf("tree %s: a %s with holes", e.Path, e.Kind)
	}
	end := int64(0)
	for _, h := range e.Holes {
		if h.Len <= 0 || h.Off < end || h.Len > e.Size-h.Off {
			return fmt.Errorf("tree %s: hole of %d bytes at %d is out of order or outside the file", e.Path, h.Len, h.Off)
		}
		end = h.End()
	}
	return nil
}

// canonLinks points every hard link at its File directly and makes the first
// name in order the File.
func (t *Tree) canonLinks() []error {
	var errs []error
	first := map[string]int{} // File path as given → index of the first name
	target := make(map[int]string)
	for i := range t.entries {
		e := &t.entries[i]
		if e.Kind != HardLink {
			continue
		}
		p, hops := path.Clean(e.Link), 0
		for {
			j, ok := t.index[p]
			if !ok {
				errs = append(errs, fmt.Errorf("tree %s: hard link to %s, which does not exist", e.Path, p))
				break
			}
			if t.entries[j].Kind == File {
				target[i] = p
				if k, ok := first[p]; !ok || i < k {
					first[p] = min(i, j)
				}
				break
			}
			if hops++; t.entries[j].Kind != HardLink || hops > 16 {
				errs = append(errs, fmt.Errorf("tree %s: hard link to %s, which is a %s", e.Path, p, t.entries[j].Kind))
				break
			}
			p = path.Clean(t.entries[j].Link)
		}
	}
	for i, p := range target {
		src := t.entries[t.index[p]]
		e := &t.entries[i]
		name, to := e.Path, t.entries[first[p]].Path // to may be e itself: read it first
		*e = src
		e.Path, e.Kind, e.Link, e.Size, e.Open, e.Sum, e.Holes = name, HardLink, to, 0, nil, "", nil
	}
	for p, k := range first {
		j := t.index[p]
		if k == j {
			continue
		}
		a, b := &t.entries[k], &t.entries[j]
		a.Path, b.Path = b.Path, a.Path
		t.entries[k], t.entries[j] = t.entries[j], t.entries[k]
	}
	return errs
}

func (t *Tree) reindex() {
	clear(t.index)
	for i := range t.entries {
		t.index[t.entries[i].Path] = i
	}
}

// ComparePaths orders paths so that a directory is followed by everything in it
// before its next sibling.
func ComparePaths(a, b string) int {
	if a == "." || b == "." {
		switch {
		case a == b:
			return 0
		case a == ".":
			return -1
		}
		return 1
	}
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

// Len returns the number of entries, the root included.
func (t *Tree) Len() int { return len(t.entries) }

// All yields the entries in order. They must not be changed.
func (t *Tree) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for i := range t.entries {
			if !yield(&t.entries[i]) {
				return
			}
		}
	}
}

// Lookup returns the entry at a path.
func (t *Tree) Lookup(p string) (*Entry, bool) {
	i, ok := t.index[p]
	if !ok {
		return nil, false
	}
	return &t.entries[i], true
}

// ReadFile returns the content of a regular file or hard link, which must not
// be larger than limit bytes.
func (t *Tree) ReadFile(p string, limit int64) ([]byte, error) {
	e, ok := t.Lookup(p)
	if ok && e.Kind == HardLink {
		e, ok = t.Lookup(e.Link)
	}
	if !ok {
		return nil, fmt.Errorf("read %s: no such file in the tree", p)
	}
	if e.Kind != File {
		return nil, fmt.Errorf("read %s: it is a %s", p, e.Kind)
	}
	if e.Size > limit {
		return nil, fmt.Errorf("read %s: %d bytes; at most %d expected", p, e.Size, limit)
	}
	if e.Size == 0 {
		return nil, nil
	}
	r, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	defer r.Close()
	b := make([]byte, e.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	return b, nil
}

// Filter returns the tree of the entries that keep accepts. A hard link whose
// File is dropped becomes the File itself.
func (t *Tree) Filter(keep func(*Entry) bool) (*Tree, error) {
	var out []Entry
	kept := map[string]string{} // File path → name that now is the File
	for i := range t.entries {
		e := t.entries[i]
		if !keep(&e) {
			continue
		}
		if e.Kind == HardLink {
			if to, ok := kept[e.Link]; ok {
				e.Link = to
			} else {
				name, src := e.Path, t.entries[t.index[e.Link]]
				kept[e.Link] = name
				e = src
				e.Path = name
			}
		} else if e.Kind == File {
			kept[e.Path] = e.Path
		}
		out = append(out, e)
	}
	return New(out)
}

// Merge lays upper over lower: what both describe is upper's, except that an
// Implied directory never replaces a described one. A directory cannot replace
// something else or be replaced.
func Merge(lower, upper *Tree) (*Tree, error) {
	var errs []error
	low, err := lower.Filter(func(e *Entry) bool {
		u, both := upper.Lookup(e.Path)
		if !both {
			return true
		}
		if (e.Kind == Dir) != (u.Kind == Dir) {
			errs = append(errs, fmt.Errorf("merge %s: a %s cannot replace a %s", e.Path, u.Kind, e.Kind))
		}
		return u.Implied
	})
	if err != nil {
		return nil, err
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	all := slices.Clone(low.entries)
	// Filter re-implies parents; a described directory of upper replaces those.
	all = slices.DeleteFunc(all, func(e Entry) bool {
		u, ok := upper.Lookup(e.Path)
		return ok && (e.Implied || !u.Implied)
	})
	have := make(map[string]bool, len(all))
	for i := range all {
		have[all[i].Path] = true
	}
	for _, e := range upper.entries {
		if !have[e.Path] {
			all = append(all, e)
		}
	}
	return New(all)
}

// Size returns the bytes of all regular files, hard links counted once.
func (t *Tree) Size() int64 {
	var n int64
	for i := range t.entries {
		n += t.entries[i].Size
	}
	return n
}

// Skip passes over n bytes of an open file.
func Skip(r io.Reader, n int64) error {
	if n == 0 {
		return nil
	}
	if s, ok := r.(io.Seeker); ok {
		_, err := s.Seek(n, io.SeekCurrent)
		return err
	}
	_, err := io.CopyN(io.Discard, r, n)
	return err
}
