package vmdk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Reader reads the virtual disk of an image. It may be used by several goroutines
// at once.
type Reader struct {
	*vdisk.Blocks
	r         io.ReaderAt
	length    int64 // of the file
	capacity  lba
	directory []uint32
	inflaters sync.Pool

	mu     sync.Mutex // guards the last table used
	number int64
	table  *[tableEntries]uint32
}

// Open reads header, footer and directory of an image of size bytes and checks
// that they are of the kind that Write makes. No more memory is allocated than the
// image is long.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	v := &Reader{r: r, length: size, number: -1}
	if err := v.open(); err != nil {
		return nil, fmt.Errorf("open vmdk: %w", err)
	}
	v.Blocks = vdisk.NewBlocks(int64(v.capacity)*vdisk.Sector, grainSize, v.fill)
	return v, nil
}

func (v *Reader) open() error {
	if v.length%vdisk.Sector != 0 || v.length < (int64(firstGrain)+3)*vdisk.Sector {
		return fmt.Errorf("%d bytes are not a streamOptimized image", v.length)
	}
	var h, f header
	if err := v.readStruct(0, &h); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if err := h.check(); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if h.DirectoryOffset.get() != atEnd {
		return errors.New("header: the grain directory is not at the end")
	}
	end := lba(v.length / vdisk.Sector)
	if err := v.wantMarker(end-3, markerFooter, 1); err != nil {
		return err
	}
	if err := v.wantMarker(end-1, markerEnd, 0); err != nil {
		return err
	}
	if err := v.readStruct(end-2, &f); err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	directory := f.DirectoryOffset
	if f.DirectoryOffset = h.DirectoryOffset; f != h {
		return errors.New("footer: it differs from the header")
	}
	v.capacity = lba(h.Capacity.get())
	return v.readDirectory(lba(directory.get()), end-3)
}

func (h *header) check() error {
	switch {
	case string(h.Magic[:]) != magic:
		return errors.New("not a VMDK: it does not begin with KDMV")
	case h.Version.get() != version || h.Flags.get() != flags || h.Compression.get() != compressionDeflate:
		return fmt.Errorf("version %d, flags %#x, compression %d; only streamOptimized images of version 3 are supported",
			h.Version.get(), h.Flags.get(), h.Compression.get())
	case string(h.LineEnds[:]) != lineEnds:
		return errors.New("line ends were converted")
	case h.GrainSize.get() != grainSectors || h.TableEntries.get() != tableEntries:
		return fmt.Errorf("grains of %d sectors, tables of %d entries; only 128 and 512 are supported", h.GrainSize.get(), h.TableEntries.get())
	case h.Capacity.get() == 0 || h.Capacity.get()%grainSectors != 0 || h.Capacity.get() > math.MaxInt64/vdisk.Sector:
		return fmt.Errorf("capacity of %d sectors", h.Capacity.get())
	case h.DescriptorOffset.get() != uint64(descriptorAt) || h.DescriptorSize.get() != uint64(descriptorSectors) || h.Overhead.get() != uint64(firstGrain):
		return errors.New("descriptor or first grain are elsewhere")
	}
	return nil
}

// readDirectory reads the directory at sector at; end is behind the last sector of
// metadata.
func (v *Reader) readDirectory(at, end lba) error {
	n := tablesOf(v.capacity)
	sectors := lba(vdisk.Align(4*n, vdisk.Sector) / vdisk.Sector)
	if at <= firstGrain || at > end || sectors != end-at {
		return fmt.Errorf("directory: %d tables at sector %d do not end at sector %d", n, at, end)
	}
	if err := v.wantMarker(at-1, markerDirectory, sectors); err != nil {
		return err
	}
	v.directory = make([]uint32, n)
	if err := v.readStruct(at, v.directory); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	for i, t := range v.directory {
		if t != 0 && (lba(t) <= firstGrain || lba(t)+tableSize/vdisk.Sector >= at) {
			return fmt.Errorf("directory: table %d at sector %d", i, t)
		}
	}
	return nil
}

func (v *Reader) readStruct(at lba, p any) error {
	b := make([]byte, binary.Size(p))
	if err := vdisk.ReadFull(v.r, b, int64(at)*vdisk.Sector); err != nil {
		return err
	}
	_, err := binary.Decode(b, binary.LittleEndian, p)
	return err
}

func (v *Reader) wantMarker(at lba, kind uint32, sectors lba) error {
	var m marker
	if err := v.readStruct(at, &m); err != nil {
		return fmt.Errorf("marker at sector %d: %w", at, err)
	}
	if m.Size.get() != 0 || m.Type.get() != kind || m.Sectors.get() != uint64(sectors) {
		return fmt.Errorf("marker at sector %d: no marker of type %d for %d sectors", at, kind, sectors)
	}
	return nil
}

// entry is the sector of a grain, 0 when it is not stored.
func (v *Reader) entry(grain int64) (lba, error) {
	t := grain / tableEntries
	if v.directory[t] == 0 {
		return 0, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.number != t {
		table := new([tableEntries]uint32)
		if err := v.readStruct(lba(v.directory[t]), table); err != nil {
			return 0, fmt.Errorf("grain table %d: %w", t, err)
		}
		v.number, v.table = t, table
	}
	return lba(v.table[grain%tableEntries]), nil
}

// Allocated reports whether a grain is stored that holds any of the n bytes at
// off.
func (v *Reader) Allocated(off, n int64) bool {
	for g := off / grainSize; g*grainSize < min(off+n, v.Size()); g++ {
		if at, err := v.entry(g); err != nil || at != 0 {
			return true
		}
	}
	return false
}

// inflater is what reading one grain needs, kept to be used again.
type inflater struct {
	in  bytes.Reader
	raw [maxStored]byte
	zr  io.ReadCloser
}

func (v *Reader) fill(i int64, block []byte) error {
	at, err := v.entry(i)
	if err == nil && at == 0 {
		clear(block)
		return nil
	}
	if err == nil {
		err = v.inflate(at, i, block)
	}
	if err != nil {
		return fmt.Errorf("vmdk grain %d: %w", i, err)
	}
	return nil
}

func (v *Reader) inflate(at lba, i int64, block []byte) error {
	m, err := v.grainAt(at)
	if err != nil {
		return err
	}
	if got := lba(m.LBA.get()); got != lba(i)*grainSectors {
		return fmt.Errorf("at sector %d is that of sector %d of the disk", at, got)
	}
	f, _ := v.inflaters.Get().(*inflater)
	if f == nil {
		f = new(inflater)
	}
	defer v.inflaters.Put(f)
	raw := f.raw[:m.Size.get()]
	if err := vdisk.ReadFull(v.r, raw, int64(at)*vdisk.Sector+grainMarkerSize); err != nil {
		return err
	}
	return f.run(raw, block)
}

// grainAt reads and checks the marker of a grain.
func (v *Reader) grainAt(at lba) (m grainMarker, err error) {
	if at < firstGrain || at >= lba(v.length/vdisk.Sector) {
		return m, fmt.Errorf("sector %d is not in the image", at)
	}
	if err := v.readStruct(at, &m); err != nil {
		return m, err
	}
	if n := m.Size.get(); n == 0 || n > maxStored-grainMarkerSize {
		return m, fmt.Errorf("%d bytes compressed", n)
	}
	return m, nil
}

// stored is a grain as it is in the image, with its marker and in whole sectors; nil
// when it is not there.
func (v *Reader) stored(i int64) ([]byte, error) {
	at, err := v.entry(i)
	if at == 0 || err != nil {
		return nil, err
	}
	m, err := v.grainAt(at)
	if err != nil {
		return nil, err
	}
	b := make([]byte, vdisk.Align(grainMarkerSize+int64(m.Size.get()), vdisk.Sector))
	return b, vdisk.ReadFull(v.r, b, int64(at)*vdisk.Sector)
}

func (f *inflater) run(raw, block []byte) (err error) {
	f.in.Reset(raw)
	if f.zr == nil {
		f.zr, err = zlib.NewReader(&f.in)
	} else {
		err = f.zr.(zlib.Resetter).Reset(&f.in, nil)
	}
	if err != nil {
		return noEOF(err)
	}
	if _, err := io.ReadFull(f.zr, block); err != nil {
		return noEOF(err)
	}
	var one [1]byte
	switch n, err := f.zr.Read(one[:]); {
	case n > 0:
		return fmt.Errorf("it inflates to more than %d bytes", len(block))
	case err != io.EOF: // the checksum
		return err
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Descriptor returns the text embedded in the image.
func (v *Reader) Descriptor() (string, error) {
	b := make([]byte, int64(descriptorSectors)*vdisk.Sector)
	if err := vdisk.ReadFull(v.r, b, int64(descriptorAt)*vdisk.Sector); err != nil {
		return "", fmt.Errorf("vmdk descriptor: %w", err)
	}
	return string(bytes.TrimRight(b, "\x00")), nil
}

// Check walks the image from marker to marker, as VirtualBox does when it imports
// one, and compares what it finds with the tables: every grain once, ascending,
// nothing in between.
func (v *Reader) Check() error {
	stored, err := v.walk()
	for t := int64(0); err == nil && t < int64(len(v.directory)); t++ {
		if v.directory[t] == 0 {
			continue
		}
		if _, err = v.entry(t * tableEntries); err == nil { // v.table is this table
			for _, at := range v.table {
				stored -= int(min(at, 1))
			}
		}
	}
	if err == nil && stored != 0 {
		err = errors.New("the tables list grains that are not in the stream")
	}
	if err != nil {
		return fmt.Errorf("check vmdk: %w", err)
	}
	return nil
}

// walk returns the number of grains in the stream.
func (v *Reader) walk() (stored int, err error) {
	for at, next := firstGrain, lba(0); ; stored++ {
		var m marker
		for {
			if err := v.readStruct(at, &m); err != nil {
				return 0, fmt.Errorf("sector %d: %w", at, err)
			}
			if m.Size.get() != 0 || m.Type.get() != markerTable {
				break
			}
			if m.Sectors.get() != tableSize/vdisk.Sector {
				return 0, fmt.Errorf("sector %d: a table of %d sectors", at, m.Sectors.get())
			}
			at += 1 + tableSize/vdisk.Sector
		}
		if m.Size.get() == 0 {
			return stored, nil // the directory and what follows it were checked by Open
		}
		g, err := v.grainAt(at)
		if err != nil {
			return 0, err
		}
		disk := lba(g.LBA.get())
		if disk < next || disk%grainSectors != 0 || disk >= v.capacity {
			return 0, fmt.Errorf("at sector %d is a grain of sector %d; at least %d was to come", at, disk, next)
		}
		e, err := v.entry(int64(disk / grainSectors))
		if err != nil {
			return 0, err
		}
		if e != at {
			return 0, fmt.Errorf("at sector %d is a grain that its table has at %d", at, e)
		}
		next = disk + grainSectors
		at += lba(vdisk.Align(grainMarkerSize+int64(g.Size.get()), vdisk.Sector) / vdisk.Sector)
	}
}

// Verify reads the image of n bytes back and compares it with the source it was
// made from: structure, length, every grain.
func Verify(img io.ReaderAt, n int64, src vdisk.Source) error {
	return VerifyLike(img, n, src, Options{})
}

// VerifyLike is Verify of an image that was made by these Options: grains that were
// copied from Like, which was verified, are compared as they are stored.
func VerifyLike(img io.ReaderAt, n int64, src vdisk.Source, o Options) error {
	v, err := Open(img, n)
	if err == nil {
		err = v.Check()
	}
	if err == nil {
		err = vdisk.Verify(alike{v, src, o}, src, grainSize)
	}
	if err != nil {
		return fmt.Errorf("verify vmdk: %w", err)
	}
	return nil
}

// alike is an image that reads as its source where its stored grains are those of
// another.
type alike struct {
	*Reader
	src vdisk.Source
	o   Options
}

func (a alike) ReadAt(p []byte, off int64) (int, error) {
	if n := int64(len(p)); off%grainSize != 0 || n%grainSize != 0 || !a.o.same(off, n) {
		return a.Reader.ReadAt(p, off)
	}
	for g := off / grainSize; g < (off+int64(len(p)))/grainSize; g++ {
		x, err := a.stored(g)
		if err != nil {
			return 0, err
		}
		y, err := a.o.Like.stored(g)
		if err != nil {
			return 0, err
		}
		if !bytes.Equal(x, y) {
			return 0, fmt.Errorf("grain %d is stored differently from where it was copied", g)
		}
	}
	return len(p), a.src.Read(p, off)
}
