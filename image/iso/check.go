package iso

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/tree"
)

// maxProblems bounds what a damaged volume can make us say.
const maxProblems = 50

// walker visits every name of a volume once. Problems are hard when something
// cannot be read, else soft.
type walker struct {
	f     *FS
	visit func(*item)
	taken map[int64]bool // blocks of directories
	dirs  []dir          // walked
	used  []use          // extents of everything

	problems []problem
	hard     int // of problems
	more     int // not kept
}

// item is a name with what its record says.
type item struct {
	record
	attr
	path string
	kind tree.Kind
}

// dir is a directory to be read.
type dir struct {
	path         string
	id           string
	extent, size int64
	parent       int64 // extent
	attr         *attr // of its record in its parent; nil for the root
}

// use is something that takes room.
type use struct {
	block, blocks int64
	what          string
}

type problem struct {
	hard bool
	err  error
}

func (w *walker) report(hard bool, p string, err error) {
	if hard {
		w.hard++
	}
	if len(w.problems) >= maxProblems {
		w.more++
		return
	}
	w.problems = append(w.problems, problem{hard, fmt.Errorf("%s: %w", p, err)})
}

// err joins the problems found, or only the hard ones.
func (w *walker) err(hardOnly bool) error {
	if hardOnly && w.hard == 0 {
		return nil
	}
	var errs []error
	for _, p := range w.problems {
		if p.hard || !hardOnly {
			errs = append(errs, p.err)
		}
	}
	if w.more > 0 {
		errs = append(errs, fmt.Errorf("and %d more problems", w.more))
	}
	return errors.Join(errs...)
}

// run walks all directories, without recursion: depth is the volume's choice.
func (w *walker) run() {
	w.taken = map[int64]bool{}
	root := &w.f.pv.Root
	at := int64(root.Extent.get())
	todo := []dir{{path: ".", id: "\x00", extent: at, size: int64(root.Size.get()), parent: at}}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		records, err := w.records(d)
		if err != nil {
			w.report(true, d.path, err)
		}
		w.dirs = append(w.dirs, d)
		w.used = append(w.used, use{d.extent, blocks(d.size), d.path})
		todo = append(todo, w.children(d, w.dots(d, records))...)
	}
}

// records reads a directory.
func (w *walker) records(d dir) ([]*record, error) {
	if d.size == 0 || d.size%blockSize != 0 {
		return nil, fmt.Errorf("a directory of %d bytes", d.size)
	}
	if err := w.f.checkExtent(d.extent, d.size); err != nil {
		return nil, err
	}
	var out []*record
	for n := d.extent; n < d.extent+d.size/blockSize; n++ {
		if w.taken[n] {
			return out, fmt.Errorf("block %d is part of two directories", n)
		}
		w.taken[n] = true
		b, err := w.f.block(n)
		if err != nil {
			return out, err
		}
		for len(b) > 0 && b[0] != 0 {
			r, err := w.f.cutRecord(b)
			if err != nil {
				return out, err
			}
			if !r.Extent.same() || !r.Size.same() || !r.Sequence.same() {
				w.report(false, d.path, fmt.Errorf("record %q: its numbers differ between byte orders", r.id))
			}
			out = append(out, r)
			b = b[r.Len:]
		}
		if len(b) == 0 {
			w.report(false, d.path, fmt.Errorf("block %d has no zero behind its last record; the loader reads past it", n))
		}
	}
	return out, nil
}

// dots checks the first two records and returns the rest.
func (w *walker) dots(d dir, records []*record) []*record {
	for i, want := range []struct {
		id     string
		extent int64
	}{{"\x00", d.extent}, {"\x01", d.parent}} {
		if len(records) == 0 || records[0].id != want.id {
			w.report(false, d.path, fmt.Errorf("record %d is not %q", i, want.id))
			if d.path == "." && i == 0 {
				w.report(true, d.path, errors.New("the root has no attributes"))
			}
			continue
		}
		r := records[0]
		records = records[1:]
		if at := int64(r.Extent.get()); at != want.extent {
			w.report(false, d.path, fmt.Errorf("record %q names block %d, not %d", r.id, at, want.extent))
		}
		if i == 0 {
			w.self(d, r)
		}
	}
	return records
}

// self compares a directory's own record with that in its parent. The root's is
// the only one it has.
func (w *walker) self(d dir, r *record) {
	skip := w.f.skip
	if d.path == "." {
		skip = 0
	}
	it, err := w.item(d.path, r, skip)
	switch {
	case err != nil:
		w.report(d.path == ".", d.path, fmt.Errorf("record %q: %w", r.id, err))
	case d.path == ".":
		if w.visit != nil {
			w.visit(it)
		}
	case it.mode != d.attr.mode || it.uid != d.attr.uid || it.gid != d.attr.gid || it.serial != d.attr.serial || !it.mtime.Equal(d.attr.mtime):
		w.report(false, d.path, errors.New("its own record differs from that in its parent"))
	}
}

// item decodes a record.
func (w *walker) item(p string, r *record, skip int) (*item, error) {
	if skip > len(r.fields) {
		return nil, errNoRockRidge
	}
	a, err := w.f.attributes(r.fields[skip:])
	if err != nil {
		return nil, err
	}
	it := &item{record: *r, attr: *a, path: p}
	if !a.hasPX {
		return nil, errors.New("no field PX")
	}
	if !a.hasTF {
		it.mtime = r.Date.get()
	}
	switch a.mode & modeType {
	case modeDir:
		it.kind = tree.Dir
	case modeFile:
		it.kind = tree.File
	case modeLink:
		it.kind = tree.Symlink
	}
	switch {
	case it.kind == 0:
		return nil, fmt.Errorf("mode %#o is no file, directory or link", a.mode)
	case (it.kind == tree.Dir) != (r.Flags&flagDir != 0):
		return nil, fmt.Errorf("mode %#o does not suit the flags %#x of its record", a.mode, r.Flags)
	case r.Flags&(flagMulti|flagAssociated) != 0 || r.ExtLen != 0 || r.Unit != 0 || r.Gap != 0:
		return nil, errors.New("several extents, interleaving and extended attributes are not supported")
	case it.kind == tree.Symlink && (it.link == "" || strings.IndexByte(it.link, 0) >= 0):
		return nil, errors.New("a link without a target")
	}
	return it, nil
}

// children visits the entries of d and returns the directories among them.
func (w *walker) children(d dir, records []*record) []dir {
	var dirs []dir
	seen := map[string]bool{}
	for i, r := range records {
		it, err := w.item("", r, w.f.skip)
		if err != nil {
			w.report(true, d.path, fmt.Errorf("record %q: %w", r.id, err))
			continue
		}
		if it.name == "" {
			it.name = r.id
		}
		it.path = path.Join(d.path, it.name)
		switch err := checkRead(it); {
		case err != nil:
			w.report(true, d.path, err)
			continue
		case seen[it.name]:
			w.report(true, it.path, errors.New("a second entry of this name"))
			continue
		case i > 0 && parseID(records[i-1].id).compare(parseID(r.id)) >= 0:
			w.report(false, it.path, fmt.Errorf("record %q is not behind %q in order", r.id, records[i-1].id))
		}
		seen[it.name] = true
		at, size := int64(r.Extent.get()), int64(r.Size.get())
		if it.kind == tree.Dir {
			dirs = append(dirs, dir{it.path, r.id, at, size, d.extent, &it.attr})
		} else if size > 0 {
			if err := w.f.checkExtent(at, size); err != nil {
				w.report(true, it.path, err)
				continue
			}
			w.used = append(w.used, use{at, blocks(size), it.path})
		}
		if w.visit != nil {
			w.visit(it)
		}
	}
	return dirs
}

// parseID is the reverse of plainName.id.
func parseID(id string) plainName {
	id, _, _ = strings.Cut(id, ";")
	base, ext, _ := strings.Cut(id, ".")
	return plainName{base: base, ext: ext}
}

// checkRead refuses names that a tree cannot hold.
func checkRead(it *item) error {
	switch {
	case it.name == "." || it.name == ".." || strings.ContainsAny(it.name, "/\x00"):
		return fmt.Errorf("name %q cannot be used", it.name)
	case len(it.path) > maxPath:
		return fmt.Errorf("a path of %d bytes; %d is the limit", len(it.path), maxPath)
	}
	return nil
}

// Check reads all metadata and reports every inconsistency: numbers that differ
// between byte orders, records out of order, links counted wrong, path tables
// that do not describe the directories, extents that overlap, the boot catalog.
func (f *FS) Check() error {
	var items []*item
	names := map[uint32]uint32{} // serial → names of a file
	subdirs := map[string]uint32{}
	w := walker{f: f, visit: func(it *item) {
		items = append(items, it)
		switch {
		case it.kind != tree.Dir:
			names[it.serial]++
		case it.path != ".":
			subdirs[path.Dir(it.path)]++
		}
	}}
	w.run()
	for _, it := range items {
		want := names[it.serial]
		if it.kind == tree.Dir {
			want = 2 + subdirs[it.path]
		}
		if it.links != want && it.serial != 0 { // nobody counts without serial numbers
			w.report(false, it.path, fmt.Errorf("%d links, it says %d", want, it.links))
		}
	}
	if v := &f.pv; !v.Space.same() || !v.SetSize.same() || !v.Sequence.same() || !v.BlockSize.same() || !v.PathSize.same() ||
		!v.Root.Extent.same() || !v.Root.Size.same() {
		w.report(false, "primary descriptor", errors.New("its numbers differ between byte orders"))
	}
	if err := w.checkPathTables(); err != nil {
		w.report(false, "path table", err)
	}
	w.checkBoots()
	w.checkOverlaps()
	if err := w.err(false); err != nil {
		return fmt.Errorf("check iso: %w", err)
	}
	return nil
}

// checkPathTables compares both tables with the directories that were walked.
func (w *walker) checkPathTables() error {
	v := &w.f.pv
	size := int64(v.PathSize.get())
	known := make(map[int64]*dir, len(w.dirs))
	for i := range w.dirs {
		known[w.dirs[i].extent] = &w.dirs[i]
	}
	for _, t := range []struct {
		name  string
		block int64
		order binary.ByteOrder
	}{{"L", int64(v.PathL.get()), binary.LittleEndian}, {"M", int64(v.PathM.get()), binary.BigEndian}} {
		if err := w.f.checkExtent(t.block, size); err != nil {
			return err
		}
		if most := int64(len(w.dirs)) * (pathRecordSize + 256); size > most {
			return fmt.Errorf("%d bytes for %d directories", size, len(w.dirs))
		}
		b := make([]byte, size)
		if err := readFull(w.f.r, b, t.block*blockSize); err != nil {
			return err
		}
		w.used = append(w.used, use{t.block, blocks(size), "path table " + t.name})
		if err := checkPathTable(b, t.order, known); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}

func checkPathTable(b []byte, order binary.ByteOrder, known map[int64]*dir) error {
	var extents []int64
	for len(b) > 0 {
		var r pathRecord
		if len(b) < pathRecordSize {
			return errors.New("it ends within a record")
		}
		unmarshal(b, &r)
		n := pathRecordSize + int(r.NameLen) + int(r.NameLen)%2
		if n > len(b) {
			return errors.New("it ends within a record")
		}
		at := int64(order.Uint32(r.Extent[:]))
		extents = append(extents, at)
		d, ok := known[at]
		if !ok {
			return fmt.Errorf("directory %d in block %d is none", len(extents), at)
		}
		parent := int(order.Uint16(r.Parent[:]))
		if id := string(b[pathRecordSize:][:r.NameLen]); id != d.id || parent == 0 || parent > len(extents) || extents[parent-1] != d.parent {
			return fmt.Errorf("directory %d is %q in %d, not %s", len(extents), id, parent, d.path)
		}
		b = b[n:]
	}
	if len(extents) != len(known) {
		return fmt.Errorf("%d of %d directories", len(extents), len(known))
	}
	return nil
}

func (w *walker) checkBoots() {
	boots, err := w.f.Boots()
	if err != nil {
		w.report(false, "boot catalog", err)
	}
	if w.f.catalog != 0 {
		w.used = append(w.used, use{w.f.catalog, 1, "boot catalog"})
	}
	for _, b := range boots {
		if b.EFI && b.Range.End() < w.f.Size() {
			w.used = append(w.used, use{b.Range.Off / blockSize, blocks(b.Range.Len), "ESP"})
		}
	}
}

// checkOverlaps allows names to share a whole extent.
func (w *walker) checkOverlaps() {
	slices.SortStableFunc(w.used, func(a, b use) int {
		return cmp.Or(cmp.Compare(a.block, b.block), cmp.Compare(a.blocks, b.blocks))
	})
	last := use{0, firstDesc, "system area"}
	for _, u := range w.used {
		if u.block < last.block+last.blocks && (u.block != last.block || u.blocks != last.blocks) {
			w.report(false, u.what, fmt.Errorf("overlaps %s in block %d", last.what, u.block))
		}
		if u.block+u.blocks > last.block+last.blocks {
			last = u
		}
	}
}
