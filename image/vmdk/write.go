package vmdk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/klauspost/compress/zlib"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// DefaultLevel is the compression level of Options.Level 0. BenchmarkLevels, 64 MB
// of programs, klauspost/compress 1.20.3: level 1 44.0 % at 161 MB a CPU-second, 2
// 43.0 % at 156, 3 41.4 % at 128, 4 40.4 % at 103, 6 39.3 % at 88.
const DefaultLevel = 2

// Options describe an image.
type Options struct {
	ID      string // content id: equal contents, equal id; the CID derives from it
	UUID    string // of the image, for VirtualBox
	Name    string // of the file, in the descriptor; "" = disk.vmdk
	Level   int    // 1 (fast) to 9 (small); 0 = DefaultLevel
	Workers int    // goroutines that compress; 0 = all cores, at most 16

	// Like is an image, by the same Level, of a disk that has the same bytes wherever
	// Same says so: its grains are copied, which is what compressing them again gives.
	Like *Reader
	Same func(off, n int64) bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = "disk.vmdk"
	}
	if o.Level == 0 {
		o.Level = DefaultLevel
	}
	o.Workers = vdisk.Workers(o.Workers)
	switch _, err := vdisk.ParseUUID(o.UUID); {
	case err != nil:
		return o, err
	case o.Level < 1 || o.Level > 9:
		return o, fmt.Errorf("level %d is not between 1 and 9", o.Level)
	case strings.ContainsAny(o.Name, "\"\r\n\x00/") || len(o.Name) > 255:
		return o, fmt.Errorf("%q is not a file name", o.Name)
	}
	o.UUID = strings.ToLower(o.UUID)
	return o, nil
}

// chunk is what one worker compresses at a time: it divides what a grain table
// describes.
const chunk = 8 * grainSize

// piece is a compressed chunk: grains as they are in the file.
type piece struct {
	buf    bytes.Buffer
	grains []grain
}

type grain struct {
	number int64
	at     int // in buf
}

// Write writes src as an image to w and returns its length. The virtual disk is as
// long as src, rounded up to 64 KiB. The same input and Options give the same
// bytes, however many Workers there are. Memory is about 2 MiB a worker. After
// Write, use [Verify].
func Write(w io.Writer, src vdisk.Source, o Options) (n int64, err error) {
	if o, err = o.withDefaults(); err == nil {
		err = src.Validate()
	}
	if err != nil {
		return 0, fmt.Errorf("write vmdk: %w", err)
	}
	capacity := lba(vdisk.Align(src.Size, grainSize) / vdisk.Sector)
	iw := &writer{w: w, directory: make([]uint32, tablesOf(capacity)), current: -1}
	h := newHeader(capacity)
	iw.start(h, descriptor(capacity, o))
	err = vdisk.InOrder(src.Chunks(chunk), o.Workers, func() func(int64, *piece) error {
		return newCompressor(src, o)
	}, iw.add)
	if err != nil {
		return 0, fmt.Errorf("write vmdk: %w", err)
	}
	iw.finishTable()
	h.DirectoryOffset = put64(iw.writeDirectory())
	iw.marker(markerFooter, 1)
	iw.write(h)
	iw.marker(markerEnd, 0)
	if iw.err != nil {
		return 0, fmt.Errorf("write vmdk: %w", iw.err)
	}
	return iw.pos, nil
}

func newHeader(capacity lba) *header {
	h := &header{Version: put32(version), Flags: put32(flags),
		Capacity: put64(capacity), GrainSize: put64(lba(grainSectors)), TableEntries: put32(tableEntries),
		DescriptorOffset: put64(descriptorAt), DescriptorSize: put64(descriptorSectors),
		DirectoryOffset: put64(atEnd), Overhead: put64(firstGrain), Compression: put16(compressionDeflate)}
	copy(h.Magic[:], magic)
	copy(h.LineEnds[:], lineEnds)
	return h
}

// tablesOf is the number of grain tables that describe capacity.
func tablesOf(capacity lba) int64 {
	const each = grainSectors * tableEntries
	return int64(capacity/each) + min(1, int64(capacity%each))
}

// writer writes forward; the first error stays in err.
type writer struct {
	w         io.Writer
	pos       int64
	err       error
	directory []uint32 // sectors of the tables
	current   int64    // number of table, -1 before the first
	table     [tableEntries]uint32
}

func (w *writer) bytes(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
		w.pos += int64(len(b))
	}
}

// write writes a structure or table, filled up to whole sectors.
func (w *writer) write(v any) {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, v) // a bytes.Buffer does not fail
	b.Write(make([]byte, -b.Len()&(vdisk.Sector-1)))
	w.bytes(b.Bytes())
}

func (w *writer) marker(kind uint32, sectors lba) {
	w.write(&marker{Sectors: put64(sectors), Type: put32(kind)})
}

// sector is where the next write goes. The tables hold 32 bits, so a file of 2 TiB
// is the limit.
func (w *writer) sector() uint32 {
	if n := w.pos / vdisk.Sector; n <= math.MaxUint32 {
		return uint32(n)
	}
	if w.err == nil {
		w.err = errors.New("the image would be longer than 2 TiB")
	}
	return 0
}

// start writes everything before the first grain.
func (w *writer) start(h *header, text string) {
	head := make([]byte, int64(firstGrain)*vdisk.Sector)
	copy(head[int64(descriptorAt)*vdisk.Sector:], text)
	binary.Encode(head, binary.LittleEndian, h)
	w.bytes(head)
}

// add writes one chunk's grains and, before the first that belongs to another
// table, the table before.
func (w *writer) add(_ int64, p *piece) error {
	if len(p.grains) == 0 {
		return nil
	}
	if t := p.grains[0].number / tableEntries; t != w.current {
		w.finishTable()
		w.current = t
	}
	first := w.sector()
	for _, g := range p.grains {
		w.table[g.number%tableEntries] = first + uint32(g.at/vdisk.Sector)
	}
	w.bytes(p.buf.Bytes())
	return w.err
}

func (w *writer) finishTable() {
	if w.current < 0 {
		return
	}
	w.marker(markerTable, tableSize/vdisk.Sector)
	w.directory[w.current] = w.sector()
	w.write(&w.table)
	clear(w.table[:])
}

func (w *writer) writeDirectory() lba {
	w.marker(markerDirectory, lba(vdisk.Align(4*int64(len(w.directory)), vdisk.Sector)/vdisk.Sector))
	at := w.sector()
	w.write(w.directory)
	return lba(at)
}

// same reports whether the bytes are those of Like.
func (o *Options) same(off, n int64) bool { return o.Like != nil && o.Same(off, n) }

// newCompressor returns the work of one goroutine: the grains of a chunk of src
// that are not zeros.
func newCompressor(src vdisk.Source, o Options) func(int64, *piece) error {
	block := make([]byte, chunk)
	zw, err := zlib.NewWriterLevel(io.Discard, o.Level)
	return func(i int64, p *piece) error {
		p.buf.Reset()
		p.grains = p.grains[:0]
		if err != nil {
			return err
		}
		if o.same(i*chunk, chunk) {
			return p.copy(o.Like, i*(chunk/grainSize))
		}
		if err := src.Read(block, i*chunk); err != nil {
			return err
		}
		for k := range int64(chunk / grainSize) {
			b := block[k*grainSize:][:grainSize]
			if vdisk.IsZero(b) {
				continue
			}
			if err := p.add(zw, i*(chunk/grainSize)+k, b); err != nil {
				return err
			}
		}
		return nil
	}
}

// copy takes a chunk's grains from another image; number is the first.
func (p *piece) copy(from *Reader, number int64) error {
	for g := number; g < number+chunk/grainSize; g++ {
		b, err := from.stored(g)
		if err != nil {
			return fmt.Errorf("grain %d: %w", g, err)
		}
		if b != nil {
			p.grains = append(p.grains, grain{g, p.buf.Len()})
			p.buf.Write(b)
		}
	}
	return nil
}

func (p *piece) add(zw *zlib.Writer, number int64, b []byte) error {
	at := p.buf.Len()
	p.grains = append(p.grains, grain{number, at})
	p.buf.Write(make([]byte, grainMarkerSize))
	zw.Reset(&p.buf)
	if _, err := zw.Write(b); err != nil {
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	n := p.buf.Len() - at
	if n > maxStored {
		return fmt.Errorf("grain %d: %d bytes compressed; VirtualBox reads %d", number, n, maxStored)
	}
	m := grainMarker{put64(lba(number) * grainSectors), put32(uint32(n - grainMarkerSize))}
	binary.Encode(p.buf.Bytes()[at:], binary.LittleEndian, &m)
	p.buf.Write(make([]byte, -n&(vdisk.Sector-1)))
	return nil
}
