package iso

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/rig-freebsd/rig/image/tree"
)

// Write writes the whole volume to dst from its beginning to its end, each byte
// once: the system area but for Options.ISOBoot, the ESP without an opener, and
// the tail are zeros. Content is read once, in tree order; content that has not
// the described size is an error that names the file. A partition table goes over
// it afterwards; then use [Verify].
func (p *Plan) Write(dst io.WriterAt) error {
	w := &forward{dst: dst, buf: make([]byte, 0, bufSize)}
	for _, part := range []func(*forward) error{
		p.writeSystemArea,
		p.writeDescriptors,
		p.writePathTables,
		p.writeCatalog,
		p.writeDirs,
		p.writeFiles,
		p.writeESP,
		p.writeTail,
	} {
		if err := part(w); err != nil {
			return fmt.Errorf("write iso: %w", err)
		}
	}
	return w.flush()
}

func (p *Plan) writeSystemArea(w *forward) error {
	if err := w.zeros(isobootOff); err != nil {
		return err
	}
	if err := w.put(p.opts.ISOBoot); err != nil {
		return err
	}
	return w.zeros(systemArea)
}

func (p *Plan) writeDescriptors(w *forward) error {
	if err := w.put(marshal(p.primary())); err != nil {
		return err
	}
	if p.catalog != 0 {
		b := bootRecord{descHeader: descriptor(descBoot), Catalog: put32(uint32(p.catalog))}
		copy(b.System[:], elTorito)
		if err := w.put(marshal(&b)); err != nil {
			return err
		}
	}
	b := make([]byte, blockSize)
	copy(b, marshal(descriptor(descEnd)))
	return w.put(b)
}

func descriptor(typ uint8) descHeader {
	h := descHeader{Type: typ, Version: 1}
	copy(h.ID[:], standardID)
	return h
}

func (p *Plan) primary() *primary {
	at := putDate17(p.opts.time())
	v := &primary{
		descHeader:  descriptor(descPrimary),
		Space:       putBoth32(uint32(p.blocks)),
		SetSize:     putBoth16(1),
		Sequence:    putBoth16(1),
		BlockSize:   putBoth16(blockSize),
		PathSize:    putBoth32(uint32(p.pathLen)),
		PathL:       put32(uint32(p.pathL)),
		PathM:       putBE32(uint32(p.pathM)),
		Root:        p.dirRecord("\x00", p.root),
		Created:     at,
		Modified:    at,
		Expires:     noDate,
		Effective:   noDate,
		FileVersion: 1,
	}
	v.Root.Len = dirRecordSize + 1
	for _, s := range []struct {
		field []byte
		text  string
	}{
		{v.System[:], systemID}, {v.Volume[:], p.opts.Volume}, {v.SetID[:], p.opts.Volume},
		{v.Publisher[:], p.opts.Publisher}, {v.Preparer[:], ""}, {v.Application[:], appID},
		{v.Copyright[:], ""}, {v.Abstract[:], ""}, {v.Bibliographic[:], ""},
	} {
		for i := copy(s.field, s.text); i < len(s.field); i++ {
			s.field[i] = ' '
		}
	}
	return v
}

func (p *Plan) writePathTables(w *forward) error {
	for _, t := range []struct {
		block int64
		order binary.ByteOrder
	}{{p.pathL, binary.LittleEndian}, {p.pathM, binary.BigEndian}} {
		if err := w.zeros(t.block * blockSize); err != nil {
			return err
		}
		for _, d := range p.dirs {
			if err := w.put(pathEntry(d, t.order)); err != nil {
				return err
			}
		}
	}
	return nil
}

// pathEntry is the record of a directory in the path table of a byte order.
func pathEntry(d *node, order binary.ByteOrder) []byte {
	id := d.plain.id()
	if d.parent == d {
		id = "\x00"
	}
	r := pathRecord{NameLen: uint8(len(id))}
	order.PutUint32(r.Extent[:], uint32(d.extent))
	order.PutUint16(r.Parent[:], d.parent.number)
	b := append(marshal(&r), id...)
	if len(id)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

// writeCatalog writes El Torito's catalog. The first entry is the BIOS', that of
// UEFI stands in a section of its own; without a BIOS it is the first.
func (p *Plan) writeCatalog(w *forward) error {
	if p.catalog == 0 {
		return nil
	}
	if err := w.zeros(p.catalog * blockSize); err != nil {
		return err
	}
	efi := bootEntry{Indicator: bootable, Block: put32(uint32(p.esp)), Count: put16(p.espCount())}
	if p.opts.BIOSBoot == "" {
		return w.put(append(marshal(firstEntry(platformEFI)), marshal(&efi)...))
	}
	n := p.names[p.opts.BIOSBoot].file
	count := uint16(blocks(n.size) * (blockSize / sector)) // whole blocks, as makefs counts
	b := marshal(firstEntry(platformBIOS))
	b = append(b, marshal(&bootEntry{Indicator: bootable, Block: put32(uint32(n.extent)), Count: put16(count)})...)
	if p.esp != 0 {
		b = append(b, marshal(&sectionHeader{Indicator: lastSection, Platform: platformEFI, Entries: put16(1)})...)
		b = append(b, marshal(&efi)...)
	}
	return w.put(b)
}

// espCount is the size of the ESP in sectors. 0 says that it goes on to the end of
// the volume (UEFI 2.10 §13.3.2.1); it does so where 16 bits say no more, as
// nothing but the tail is behind it.
func (p *Plan) espCount() uint16 {
	if n := p.opts.ESPSize / sector; n <= math.MaxUint16 {
		return uint16(n)
	}
	return 0
}

func firstEntry(platform uint8) *validation {
	v := &validation{Header: 1, Platform: platform, Key: [2]byte{bootKeyLow, bootKeyHigh}}
	v.Checksum = put16(-sum16(marshal(v)))
	return v
}

func sum16(b []byte) (sum uint16) {
	for ; len(b) > 0; b = b[2:] {
		sum += binary.LittleEndian.Uint16(b)
	}
	return sum
}

// writeDirs writes each directory and then the continuation areas of its records.
func (p *Plan) writeDirs(w *forward) error {
	areas := p.areas
	for _, d := range p.dirs {
		start := d.extent * blockSize
		if err := w.zeros(start); err != nil {
			return err
		}
		var more [][]byte // content of the areas
		var failed error
		p.eachRecord(d, func(id string, n *node, parts [][]byte) {
			b := p.record(id, n, parts, areas[len(more):])
			if failed == nil {
				failed = w.zeros(start + recordOff(w.pos()-start, int64(len(b))))
			}
			if failed == nil {
				failed = w.put(b)
			}
			for i, part := range parts[1:] {
				if i+2 < len(parts) {
					part = slices.Concat(part, fieldCE(areas[len(more)+1]))
				}
				more = append(more, part)
			}
		})
		if failed != nil {
			return failed
		}
		for i, b := range more {
			if err := w.zeros(int64(areas[i].block)*blockSize + int64(areas[i].off)); err != nil {
				return err
			}
			if err := w.put(b); err != nil {
				return err
			}
		}
		areas = areas[len(more):]
	}
	return nil
}

// record is a directory record; more are the areas that its other parts have.
func (p *Plan) record(id string, n *node, parts [][]byte, more []area) []byte {
	r := p.dirRecord(id, n)
	b := append(marshal(&r), id...)
	if len(id)%2 == 0 {
		b = append(b, 0)
	}
	b = append(b, parts[0]...)
	if len(parts) > 1 {
		b = append(b, fieldCE(more[0])...)
	}
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b[0] = uint8(len(b)) // at most maxRecord: split saw to it
	return b
}

// dirRecord describes a node, but for the record's length.
func (p *Plan) dirRecord(id string, n *node) dirRecord {
	r := dirRecord{
		Extent:   putBoth32(uint32(n.extent)),
		Size:     putBoth32(uint32(n.size)),
		Date:     putDate7(p.time(n)),
		Sequence: putBoth16(1),
		NameLen:  uint8(len(id)),
	}
	if n.entry.Kind == tree.Dir {
		r.Flags = flagDir
	}
	return r
}

func (p *Plan) writeFiles(w *forward) error {
	for _, n := range p.files {
		if err := w.zeros(n.extent * blockSize); err != nil {
			return err
		}
		if err := w.copy(n.entry.Open, n.size); err != nil {
			return fmt.Errorf("%s: %w", n.entry.Path, err)
		}
	}
	return nil
}

func (p *Plan) writeESP(w *forward) error {
	if p.opts.ESP == nil {
		return nil
	}
	if err := w.zeros(p.esp * blockSize); err != nil {
		return err
	}
	if err := w.copy(p.opts.ESP, p.opts.ESPSize); err != nil {
		return fmt.Errorf("ESP: %w", err)
	}
	return nil
}

func (p *Plan) writeTail(w *forward) error { return w.zeros(p.Size()) }

const bufSize = 1 << 20

// forward writes to dst from its beginning on.
type forward struct {
	dst io.WriterAt
	off int64 // of buf
	buf []byte
}

func (w *forward) pos() int64 { return w.off + int64(len(w.buf)) }

func (w *forward) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if _, err := w.dst.WriteAt(w.buf, w.off); err != nil {
		return fmt.Errorf("%d bytes at %d: %w", len(w.buf), w.off, err)
	}
	w.off, w.buf = w.pos(), w.buf[:0]
	return nil
}

// room returns up to n bytes of the buffer to be filled; at least one if n > 0.
func (w *forward) room(n int64) ([]byte, error) {
	if len(w.buf) == cap(w.buf) {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	n = min(n, int64(cap(w.buf)-len(w.buf)))
	return w.buf[len(w.buf):][:n], nil
}

func (w *forward) put(b []byte) error {
	for len(b) > 0 {
		r, err := w.room(int64(len(b)))
		if err != nil {
			return err
		}
		b = b[copy(r, b):]
		w.buf = w.buf[:len(w.buf)+len(r)]
	}
	return nil
}

// zeros writes zeros up to the offset, which must not be behind.
func (w *forward) zeros(to int64) error {
	if to < w.pos() {
		panic(fmt.Sprintf("iso: layout goes back from %d to %d", w.pos(), to))
	}
	for w.pos() < to {
		r, err := w.room(to - w.pos())
		if err != nil {
			return err
		}
		clear(r)
		w.buf = w.buf[:len(w.buf)+len(r)]
	}
	return nil
}

// copy writes content of exactly size bytes.
func (w *forward) copy(open tree.Opener, size int64) error {
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	for left := size; left > 0; {
		b, err := w.room(left)
		if err != nil {
			return err
		}
		if n, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("%d bytes described, %d missing: %w", size, left-int64(n), err)
		}
		w.buf = w.buf[:len(w.buf)+len(b)]
		left -= int64(len(b))
	}
	if n, _ := io.ReadFull(r, make([]byte, 1)); n > 0 {
		return fmt.Errorf("content is longer than the described %d bytes", size)
	}
	return nil
}
