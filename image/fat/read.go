package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/rig-freebsd/rig/image/tree"
)

// FS is a volume that is read. It may be used by several goroutines at once.
type FS struct {
	geometry
	r     io.ReaderAt
	label string
	id    uint32
	info  uint32 // sector of the FSInfo, FAT32
	back  uint32 // sector of the backup boot sector, FAT32

	mu    sync.Mutex // guards the piece of the first FAT read last
	page  int64      // its number, -1 = none
	cache []byte
}

// Range is a part of the volume, in bytes.
type Range struct{ Off, Len int64 }

// pageSize holds whole entries of 16 and 32 bits; a FAT of 12 fits one page.
const pageSize = 64 << 10

// Open reads the boot sector of a volume of at most size bytes.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, bootSize)
	if err := readFull(r, b, 0); err != nil {
		return nil, fmt.Errorf("open fat: boot sector: %w", err)
	}
	f := &FS{r: r, page: -1}
	if err := f.decodeBoot(b, size); err != nil {
		return nil, fmt.Errorf("open fat: %w", err)
	}
	return f, nil
}

// decodeBoot checks what mountmsdosfs checks, and that all regions lie inside
// the volume.
func (f *FS) decodeBoot(b []byte, size int64) error {
	var s16 boot16
	var s32 boot32
	binary.Decode(b, binary.LittleEndian, &s16) // both have the size of b
	binary.Decode(b, binary.LittleEndian, &s32)
	h := &s16.bpb
	ext := &s16.extboot
	f.sectorSize = int64(h.SectorSize.get())
	f.clusterSize = int64(h.ClusterSize) * f.sectorSize
	switch {
	case s16.Magic != bootMagic:
		return errors.New("no boot sector signature")
	case f.sectorSize < 512 || f.sectorSize > 4096 || bits.OnesCount16(h.SectorSize.get()) != 1:
		return fmt.Errorf("sector size %d", f.sectorSize)
	case bits.OnesCount8(h.ClusterSize) != 1 || f.clusterSize > maxCluster:
		return fmt.Errorf("%d sectors a cluster", h.ClusterSize)
	case h.Reserved.get() == 0 || h.FATs == 0:
		return fmt.Errorf("%d reserved sectors and %d FATs", h.Reserved.get(), h.FATs)
	}
	f.reserved, f.fatCopies = uint32(h.Reserved.get()), uint32(h.FATs)
	f.rootEntries, f.fatSectors = uint32(h.RootEntries.get()), uint32(h.FATSectors16.get())
	if f.sectors = uint32(h.Sectors16.get()); f.sectors == 0 {
		f.sectors = h.Sectors32.get()
	}
	if f.rootEntries == 0 {
		if f.fatSectors != 0 || s32.Version.get() != 0 {
			return errors.New("FAT32 of an unknown version")
		}
		f.bits, f.fatSectors, f.rootCluster = 32, s32.FATSectors32.get(), s32.Root.get()
		f.info, f.back = uint32(s32.FSInfo.get()), uint32(s32.Backup.get())
		ext = &s32.extboot
	}
	if f.size() > size {
		return fmt.Errorf("it has %d bytes, %d are there", f.size(), size)
	}
	n := f.countClusters()
	if f.bits == 0 {
		f.bits = 12
		if n >= minClusters16 {
			f.bits = 16
		}
	}
	switch {
	case f.fatSectors == 0 || n == 0 || n > maxClusters32 || f.bits == 16 && n >= minClusters32:
		return fmt.Errorf("%d clusters and %d sectors a FAT", n, f.fatSectors)
	case f.fatSectorsFor(n) > int64(f.fatSectors):
		return fmt.Errorf("a FAT of %d sectors is too small for %d clusters", f.fatSectors, n)
	}
	f.clusters = uint32(n)
	if f.bits == 32 && !f.valid(f.rootCluster) {
		return fmt.Errorf("root directory in cluster %d of %d", f.rootCluster, n)
	}
	if ext.Signature == 0x29 {
		f.id = ext.Serial.get()
		if ext.Label != noName {
			f.label = strings.TrimRight(string(ext.Label[:]), " \x00")
		}
	}
	return nil
}

// Bits is 12, 16 or 32.
func (f *FS) Bits() int { return f.bits }

// Size is the size of the volume in bytes.
func (f *FS) Size() int64 { return f.size() }

// Label is the label of the boot sector, "" when there is none.
func (f *FS) Label() string { return f.label }

// Serial is the volume id.
func (f *FS) Serial() uint32 { return f.id }

// fatEntry is the value of cluster c in the first FAT, without its reserved bits
// and, on FAT12 and FAT16, widened so that the constants of FAT32 apply.
func (f *FS) fatEntry(c uint32) (uint32, error) {
	off := int64(c) * int64(f.bits) / 8
	width := int64(f.bits+7) / 8
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := off / pageSize; p != f.page {
		b := make([]byte, min(pageSize, f.fatSize()-p*pageSize))
		if err := readFull(f.r, b, f.fatOff(0)+p*pageSize); err != nil {
			return 0, fmt.Errorf("FAT at cluster %d: %w", c, err)
		}
		f.page, f.cache = p, b
	}
	return f.widen(entryAt(f.cache[off%pageSize:][:width], f.bits, c)), nil
}

func entryAt(b []byte, bits int, c uint32) uint32 {
	switch bits {
	case 32:
		return binary.LittleEndian.Uint32(b) & 0x0fffffff
	case 16:
		return uint32(binary.LittleEndian.Uint16(b))
	}
	v := uint32(binary.LittleEndian.Uint16(b))
	if c%2 == 1 {
		return v >> 4
	}
	return v & 0xfff
}

// widen maps the reserved values at the top of 12 and 16 bits to those of 28.
func (f *FS) widen(v uint32) uint32 {
	if f.bits != 32 && v >= f.mask(clusterBad) {
		v |= 0x0fffffff &^ f.mask(math.MaxUint32)
	}
	return v
}

// run is a series of clusters that follow each other.
type run struct{ first, n uint32 }

// chain follows the FAT from c to its end and calls visit for each cluster, which
// may stop it with an error.
func (f *FS) chain(c uint32, visit func(c uint32) error) ([]run, error) {
	var runs []run
	for steps := uint32(0); ; steps++ {
		if !f.valid(c) {
			return runs, fmt.Errorf("chain leads to cluster %d, the last is %d", c, f.clusters+1)
		}
		if steps >= f.clusters {
			return runs, errors.New("chain never ends")
		}
		if visit != nil {
			if err := visit(c); err != nil {
				return runs, err
			}
		}
		if n := len(runs); n > 0 && runs[n-1].first+runs[n-1].n == c {
			runs[n-1].n++
		} else {
			runs = append(runs, run{c, 1})
		}
		next, err := f.fatEntry(c)
		if err != nil {
			return runs, err
		}
		if next >= clusterEOFS {
			return runs, nil
		}
		c = next
	}
}

// ranges turns runs into bytes, cut to size; ok is false when they are too short.
func (f *FS) ranges(runs []run, size int64) (out []Range, ok bool) {
	for _, r := range runs {
		if size == 0 {
			break
		}
		n := min(int64(r.n)*f.clusterSize, size)
		out = append(out, Range{f.clusterOff(r.first), n})
		size -= n
	}
	return out, size == 0
}

// item is one name of a directory, with its long entries resolved.
type item struct {
	dirent
	name string // long when there is one
	long bool
}

func (it *item) isDir() bool { return it.Attr&attrDirectory != 0 }

func (it *item) modTime() time.Time { return fromDOS(it.MDate, it.MTime) }

// parseDir decodes the entries of a directory. Long entries that fit no short
// one are reported and ignored, as drivers do. Volume labels are returned too.
func parseDir(b []byte, soft func(error)) []item {
	var items []item
	var lfn longName
	for ; len(b) >= direntSize && b[0] != slotEmpty; b = b[direntSize:] {
		if b[0] == slotDeleted {
			lfn.drop(soft)
			continue
		}
		var e dirent
		binary.Decode(b[:direntSize], binary.LittleEndian, &e)
		if e.Attr&attrMask == attrLong {
			var w winent
			binary.Decode(b[:direntSize], binary.LittleEndian, &w)
			lfn.add(&w, soft)
			continue
		}
		it := item{dirent: e}
		if e.Attr&attrVolume == 0 {
			it.name, it.long = lfn.take(e.Name, soft)
		} else {
			lfn.drop(soft)
		}
		if !it.long {
			it.name = lowered(&e).String()
		}
		items = append(items, it)
	}
	lfn.drop(soft)
	return items
}

// lowered applies the NT case flags to the short name.
func lowered(e *dirent) shortName {
	n := shortName(e.Name)
	lower := func(b []byte) { copy(b, bytes.ToLower(bytes.Clone(b))) }
	if e.Case&lowerBase != 0 {
		lower(n[:8])
	}
	if e.Case&lowerExt != 0 {
		lower(n[8:])
	}
	return n
}

// longName collects the long entries before a short one.
type longName struct {
	units []uint16
	next  uint8 // number of the part that must follow; 0 = none is missing
	sum   uint8
	open  bool
}

func (l *longName) drop(soft func(error)) {
	if l.open {
		soft(errors.New("a long name without its short name"))
	}
	*l = longName{}
}

func (l *longName) add(w *winent, soft func(error)) {
	seq := w.Seq & winSeq
	if w.Seq&winLast != 0 {
		l.drop(soft)
		if seq == 0 || seq > (winMax+winChars-1)/winChars {
			soft(fmt.Errorf("a long name of %d parts", seq))
			return
		}
		*l = longName{units: make([]uint16, int(seq)*winChars), next: seq, sum: w.Sum, open: true}
	}
	if !l.open || seq != l.next || w.Sum != l.sum {
		l.open = true
		l.drop(soft)
		return
	}
	part := append(append(append(make([]byte, 0, 2*winChars), w.Part1[:]...), w.Part2[:]...), w.Part3[:]...)
	for i := range winChars {
		l.units[int(seq-1)*winChars+i] = binary.LittleEndian.Uint16(part[2*i:])
	}
	l.next--
}

// take returns the long name of a short entry, if there is one.
func (l *longName) take(short shortName, soft func(error)) (string, bool) {
	if !l.open {
		return "", false
	}
	if l.next != 0 || l.sum != short.sum() {
		l.drop(soft)
		return "", false
	}
	units := l.units
	*l = longName{}
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	return string(utf16.Decode(units)), true
}

// Tree reads the directories. Files open lazily, straight from r; owners and
// modes are root:wheel, 0644 and 0755, times are UTC. A directory or chain that
// makes no sense is an error; damage that does not matter for reading is left to
// Check.
func (f *FS) Tree() (*tree.Tree, error) {
	entries := []tree.Entry{{Path: ".", Kind: tree.Dir, Perm: 0o755, Owner: "root", Group: "wheel", ModTime: dosEpoch}}
	w := walker{f: f, visit: func(p string, it *item, rs []Range) {
		e := tree.Entry{Path: p, Kind: tree.Dir, Perm: 0o755, Owner: "root", Group: "wheel", ModTime: it.modTime()}
		if !it.isDir() {
			e.Kind, e.Perm, e.Size = tree.File, 0o644, int64(it.Size.get())
			if e.Size > 0 {
				e.Open = f.opener(rs)
			}
		}
		entries = append(entries, e)
	}}
	w.run()
	if err := w.err(true); err != nil {
		return nil, fmt.Errorf("read fat: %w", err)
	}
	t, err := tree.New(entries)
	if err != nil {
		return nil, fmt.Errorf("read fat: %w", err)
	}
	return t, nil
}

func (f *FS) opener(rs []Range) tree.Opener {
	return func() (io.ReadCloser, error) {
		parts := make([]io.Reader, len(rs))
		for i, r := range rs {
			parts[i] = io.NewSectionReader(f.r, r.Off, r.Len)
		}
		return io.NopCloser(io.MultiReader(parts...)), nil
	}
}

// Ranges returns where the content of a file is on the volume, in order and cut
// to its size. Case does not matter.
func (f *FS) Ranges(path string) ([]Range, error) {
	var found []Range
	var it item
	ok, key := false, fold(path)
	w := walker{f: f, visit: func(p string, i *item, rs []Range) {
		if !ok && fold(p) == key {
			found, it, ok = rs, *i, true
		}
	}}
	w.run()
	switch {
	case !ok:
		return nil, errors.Join(fmt.Errorf("fat %s: no such file", path), w.err(true))
	case it.isDir():
		return nil, fmt.Errorf("fat %s: it is a directory", path)
	}
	return found, nil
}

// readFull reads len(b) bytes at off.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
