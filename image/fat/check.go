package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"
)

// maxProblems bounds what a damaged volume can make us say.
const maxProblems = 50

// walker visits everything in a volume once and marks the clusters it uses.
// Problems are hard when something cannot be read, else soft.
type walker struct {
	f     *FS
	visit func(p string, it *item, rs []Range)
	used  []uint64 // a bit a cluster
	taken uint32   // clusters marked

	problems []error
	hard     int // of problems
	more     int // not kept
}

func (w *walker) report(hard bool, p string, err error) {
	if hard {
		w.hard++
	}
	if len(w.problems) >= maxProblems {
		w.more++
		return
	}
	w.problems = append(w.problems, &problem{hard, p, err})
}

type problem struct {
	hard bool
	path string
	err  error
}

func (p *problem) Error() string { return p.path + ": " + p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

// err joins the problems found, or only the hard ones.
func (w *walker) err(hardOnly bool) error {
	if hardOnly && w.hard == 0 {
		return nil
	}
	var errs []error
	for _, p := range w.problems {
		if h := p.(*problem).hard; h || !hardOnly {
			errs = append(errs, p)
		}
	}
	if w.more > 0 {
		errs = append(errs, fmt.Errorf("and %d more problems", w.more))
	}
	return errors.Join(errs...)
}

// mark claims a cluster.
func (w *walker) mark(c uint32) error {
	bit := uint64(1) << (c % 64)
	if w.used[c/64]&bit != 0 {
		return fmt.Errorf("cluster %d is used twice", c)
	}
	w.used[c/64] |= bit
	w.taken++
	return nil
}

// dir is a directory still to be read.
type dir struct {
	path   string
	first  uint32 // cluster; 0 is the root region
	parent uint32 // what .. must name
}

// run walks all directories, without recursion: depth is the volume's choice.
func (w *walker) run() {
	w.used = make([]uint64, (uint64(w.f.clusters)+firstCluster+63)/64)
	todo := []dir{{path: ".", first: w.f.rootCluster}}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		b, err := w.content(d)
		if err != nil {
			w.report(true, d.path, err)
		}
		items := parseDir(b, func(err error) { w.report(false, d.path, err) })
		if d.path != "." {
			items = w.dots(d, items)
		}
		todo = append(todo, w.children(d, items)...)
	}
}

// content reads a directory and marks its clusters.
func (w *walker) content(d dir) ([]byte, error) {
	f := w.f
	rs := []Range{{f.rootOff(), f.rootSize()}}
	if d.first != 0 {
		runs, err := f.chain(d.first, w.mark)
		if err != nil {
			return nil, err
		}
		var n int64
		for _, r := range runs {
			n += int64(r.n) * f.clusterSize
		}
		if n > max(maxDirSlots*direntSize, f.clusterSize) {
			return nil, fmt.Errorf("a directory of %d bytes; %d is the limit", n, maxDirSlots*direntSize)
		}
		rs, _ = f.ranges(runs, n)
	}
	var b []byte
	for _, r := range rs {
		part := make([]byte, r.Len)
		if err := readFull(f.r, part, r.Off); err != nil {
			return nil, err
		}
		b = append(b, part...)
	}
	return b, nil
}

// dots checks the first two entries and returns the rest.
func (w *walker) dots(d dir, items []item) []item {
	for i, want := range []struct {
		name  [11]byte
		first uint32
	}{{dotName, d.first}, {dotdot, d.parent}} {
		if len(items) == 0 || items[0].Name != want.name {
			w.report(false, d.path, fmt.Errorf("entry %d is not %q", i, shortName(want.name)))
			continue
		}
		if it := &items[0]; !it.isDir() || it.cluster() != want.first {
			w.report(false, d.path, fmt.Errorf("%q names cluster %d, not %d", it.name, it.cluster(), want.first))
		}
		items = items[1:]
	}
	return items
}

// children visits the entries of d and returns the directories among them.
func (w *walker) children(d dir, items []item) []dir {
	var dirs []dir
	seen := map[string]bool{}
	for i := range items {
		it := &items[i]
		if it.Attr&attrVolume != 0 {
			if d.path != "." {
				w.report(false, d.path, fmt.Errorf("a volume label %q outside the root", it.name))
			}
			continue
		}
		p := path.Join(d.path, it.name)
		if err := checkRead(it.name, p); err != nil {
			w.report(true, d.path, err)
			continue
		}
		if key, short := fold(it.name), shortName(it.Name).String(); seen[key] || seen[short] {
			w.report(false, p, errors.New("a second entry of this name"))
			if seen[key] {
				continue // drivers find the first
			}
		} else {
			seen[key], seen[short] = true, true
		}
		if !it.isDir() {
			w.file(p, it)
			continue
		}
		if !w.f.valid(it.cluster()) {
			w.report(true, p, fmt.Errorf("directory in cluster %d", it.cluster()))
			continue
		}
		if it.Size.get() != 0 {
			w.report(false, p, fmt.Errorf("directory with a size of %d", it.Size.get()))
		}
		up := d.first
		if d.path == "." {
			up = 0
		}
		if w.visit != nil {
			w.visit(p, it, nil)
		}
		dirs = append(dirs, dir{path: p, first: it.cluster(), parent: up})
	}
	return dirs
}

// checkRead refuses names that a tree cannot hold.
func checkRead(name, p string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || len(name) > 255:
		return fmt.Errorf("name %q cannot be used", name)
	case len(p) > maxPath:
		return fmt.Errorf("a path of %d bytes; %d is the limit", len(p), maxPath)
	}
	return nil
}

// file follows the chain of a file and compares it with its size.
func (w *walker) file(p string, it *item) {
	size, first := int64(it.Size.get()), it.cluster()
	var runs []run
	var err error
	if first != 0 {
		runs, err = w.f.chain(first, w.mark)
	}
	rs, enough := w.f.ranges(runs, size)
	switch {
	case err != nil:
		w.report(!enough, p, err)
	case !enough:
		err = fmt.Errorf("%d bytes, but its clusters hold less", size)
		w.report(true, p, err)
	case first != 0 && total(runs) != (size+w.f.clusterSize-1)/w.f.clusterSize:
		w.report(false, p, fmt.Errorf("%d clusters for %d bytes", total(runs), size))
	}
	if enough && w.visit != nil {
		w.visit(p, it, rs)
	}
}

func total(runs []run) (n int64) {
	for _, r := range runs {
		n += int64(r.n)
	}
	return n
}

// Check reads all metadata and reports every inconsistency: boot sectors, FATs
// that differ, chains that cross, end early or belong to nothing, directories,
// long names, the count of free clusters.
func (f *FS) Check() error {
	w := walker{f: f}
	if err := f.checkFATs(); err != nil {
		w.report(true, "FAT", err)
	}
	w.run()
	free := w.checkFree()
	if f.bits == 32 {
		if err := f.checkInfo(free); err != nil {
			w.report(false, "FSInfo", err)
		}
		if err := f.checkBackup(); err != nil {
			w.report(false, "backup boot sector", err)
		}
	}
	if err := w.err(false); err != nil {
		return fmt.Errorf("check fat: %w", err)
	}
	return nil
}

// checkFATs compares all copies and the first two entries.
func (f *FS) checkFATs() error {
	const piece = 1 << 20
	var a, b []byte
	for off := int64(0); off < f.fatSize(); off += piece {
		n := min(piece, f.fatSize()-off)
		if a == nil {
			a, b = make([]byte, n), make([]byte, n)
		}
		if err := readFull(f.r, a[:n], f.fatOff(0)+off); err != nil {
			return err
		}
		for i := 1; i < int(f.fatCopies); i++ {
			if err := readFull(f.r, b[:n], f.fatOff(i)+off); err != nil {
				return err
			}
			if !bytes.Equal(a[:n], b[:n]) {
				return fmt.Errorf("copy %d differs from the first", i+1)
			}
		}
	}
	first, err := f.fatEntry(0)
	if err != nil {
		return err
	}
	second, err := f.fatEntry(1)
	if err != nil {
		return err
	}
	if first&^0xff != 0x0fffff00 || first&0xf0 != 0xf0 || second < clusterEOFS {
		return fmt.Errorf("it begins with %#x, %#x (not cleanly unmounted?)", first, second)
	}
	return nil
}

// checkFree reports used clusters that nothing owns and returns the number of
// free ones.
func (w *walker) checkFree() (free uint32) {
	var lost uint32
	at := uint32(0)
	for c := uint32(firstCluster); w.f.valid(c); c++ {
		v, err := w.f.fatEntry(c)
		if err != nil {
			w.report(true, "FAT", err)
			return free
		}
		owned := w.used[c/64]&(1<<(c%64)) != 0
		switch {
		case v == clusterFree:
			free++
		case !owned && v != clusterBad:
			if lost == 0 {
				at = c
			}
			lost++
		}
	}
	if lost > 0 {
		w.report(false, "FAT", fmt.Errorf("%d clusters from %d on belong to nothing", lost, at))
	}
	return free
}

func (f *FS) checkInfo(free uint32) error {
	var i fsinfo
	b := make([]byte, bootSize)
	if err := readFull(f.r, b, int64(f.info)*f.sectorSize); err != nil {
		return err
	}
	binary.Decode(b, binary.LittleEndian, &i)
	if i.Sig1 != infoSig1 || i.Sig2 != infoSig2 || i.Sig3 != infoSig3 {
		return errors.New("wrong signatures")
	}
	if n := i.Free.get(); n != free {
		return fmt.Errorf("it counts %d free clusters, there are %d", n, free)
	}
	return nil
}

func (f *FS) checkBackup() error {
	if f.back == 0 || f.back >= f.reserved {
		return fmt.Errorf("sector %d is not reserved", f.back)
	}
	a, b := make([]byte, bootSize), make([]byte, bootSize)
	if err := errors.Join(readFull(f.r, a, 0), readFull(f.r, b, int64(f.back)*f.sectorSize)); err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return errors.New("differs from the boot sector")
	}
	return nil
}
