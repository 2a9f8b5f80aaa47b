package iso

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"path"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
)

// Options says what the volume is like beyond its files.
type Options struct {
	Volume    string    // label, /dev/iso9660/<Volume>: at most 31 of A-Z, 0-9 and "_"
	Publisher string    // at most 128 a-characters: capitals, digits, space and punctuation
	Time      time.Time // of the volume and of entries that have none; zero = 1970

	// BIOSBoot is the path of a file of the tree that a BIOS loads to 0x7c00 as a
	// whole and runs ("boot/cdboot"); "" = none.
	BIOSBoot string
	// ESP is the image of an EFI system partition of ESPSize bytes that UEFI
	// starts from; ESPSize 0 = none. When ESP is nil the room stays zero, and the
	// caller fills it after Write, at Plan.ESP.
	ESP     tree.Opener
	ESPSize int64
	// ISOBoot is the content of a freebsd-boot partition inside the system area
	// ("boot/isoboot", at most 15360 bytes); nil = none. It starts at LBA 34,
	// behind the table of package gpt, and Plan.ISOBoot says where.
	ISOBoot []byte
	// Tail is the room kept at the end for a backup GPT: 33 sectors of 512 bytes.
	Tail int64 // bytes, rounded up to blocks
}

// Range is a run of bytes of the volume.
type Range = tree.Range

// Plan is a volume laid out: every address is known, nothing is written.
type Plan struct {
	opts    Options
	root    *node
	files   []*node // that have content, in order of their extents: tree order
	dirs    []*node // in the order of the path table
	areas   []area  // continuation areas in the order of the records that need them
	names   map[string]*node
	catalog int64 // block, 0 = not bootable
	pathL   int64 // block
	pathM   int64
	pathLen int64 // bytes of each path table
	esp     int64 // block
	blocks  int64 // of the volume
}

// node is a name on its way to the volume.
type node struct {
	entry    *tree.Entry
	file     *node // itself, but for a hard link its File
	parent   *node // the root's is itself
	children []*node
	plain    plainName
	serial   uint32
	number   uint16 // directories: in the path table
	links    uint32 // names of a file; 2 and subdirectories of a directory
	extent   int64  // block; 0 when there is no content
	size     int64
}

// area is a run of SUSP fields outside of directory records; it lies in one block.
type area struct {
	block uint32
	off   uint16
	size  uint16
}

// Layout gives everything in t a place. Owners must have been resolved. All
// problems are reported at once, as bad input.
func Layout(t *tree.Tree, o Options) (*Plan, error) {
	p := &Plan{opts: o, names: make(map[string]*node, t.Len())}
	if err := errors.Join(o.validate(), p.addNodes(t)); err != nil {
		return nil, err
	}
	if err := errors.Join(p.checkBIOSBoot(), p.numberDirs()); err != nil {
		return nil, err
	}
	return p, p.allocate()
}

// Size is the size of the volume in bytes, Tail included.
func (p *Plan) Size() int64 { return p.blocks * blockSize }

// ESP is where the EFI system partition is; empty when there is none.
func (p *Plan) ESP() Range { return Range{Off: p.esp * blockSize, Len: p.opts.ESPSize} }

// ISOBoot is where Options.ISOBoot is, in whole sectors of 512 bytes; empty when
// there is none.
func (p *Plan) ISOBoot() Range {
	if len(p.opts.ISOBoot) == 0 {
		return Range{}
	}
	return Range{Off: isobootOff, Len: int64(len(p.opts.ISOBoot)+sector-1) / sector * sector}
}

// FileRange returns where the content of a file is; it is one run.
func (p *Plan) FileRange(name string) (Range, error) {
	n, ok := p.names[name]
	if !ok {
		return Range{}, diag.Inputf("locate %s: no such file in the iso", name)
	}
	if n.file.entry.Kind != tree.File {
		return Range{}, diag.Inputf("locate %s: it is a %s", name, n.entry.Kind)
	}
	return Range{Off: n.file.extent * blockSize, Len: n.file.size}, nil
}

const (
	dCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
	aCharacters = dCharacters + " !\"%&'()*+,-./:;<=>?"
)

func (o *Options) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, diag.Inputf("layout iso: "+format, args...)) }
	if len(o.Volume) > maxVolume {
		bad("volume %q has %d characters; %d is the limit", o.Volume, len(o.Volume), maxVolume)
	}
	if strings.ContainsFunc(o.Volume, notIn(dCharacters)) {
		bad("volume %q may have capitals, digits and \"_\" only", o.Volume)
	}
	if len(o.Publisher) > maxPublisher {
		bad("publisher of %d characters; %d is the limit", len(o.Publisher), maxPublisher)
	}
	if strings.ContainsFunc(o.Publisher, notIn(aCharacters)) {
		bad("publisher %q may have capitals, digits, space and !\"%%&'()*+,-./:;<=>?_ only", o.Publisher)
	}
	if len(o.ISOBoot) > maxISOBoot {
		bad("isoboot of %d bytes; the system area has room for %d behind a GPT", len(o.ISOBoot), maxISOBoot)
	}
	switch {
	case o.ESPSize < 0 || o.Tail < 0:
		bad("ESP of %d bytes and tail of %d must not be negative", o.ESPSize, o.Tail)
	case o.ESPSize%sector != 0:
		bad("ESP of %d bytes is not a whole number of sectors of %d", o.ESPSize, sector)
	case o.ESP != nil && o.ESPSize == 0:
		bad("ESP without a size")
	}
	return errors.Join(errs...)
}

func notIn(set string) func(rune) bool {
	return func(r rune) bool { return !strings.ContainsRune(set, r) }
}

// addNodes makes the nodes of t and checks them.
func (p *Plan) addNodes(t *tree.Tree) error {
	var errs []error
	serial := uint32(0)
	for e := range t.All() {
		if err := checkEntry(e); err != nil {
			errs = append(errs, err)
		}
		n := &node{entry: e, size: e.Size}
		n.file = n
		p.names[e.Path] = n
		if e.Kind == tree.HardLink {
			n.file = p.names[e.Link] // before it in tree order
		} else {
			serial++
			n.serial = serial
		}
		n.file.links++
		if e.Path == "." {
			n.parent, n.links, p.root = n, 2, n
			continue
		}
		n.parent = p.names[path.Dir(e.Path)]
		n.parent.children = append(n.parent.children, n)
		if e.Kind == tree.Dir {
			n.links++ // "."
			n.parent.links++
		}
		if e.Kind == tree.File && e.Size > 0 {
			p.files = append(p.files, n)
		}
	}
	return errors.Join(errs...)
}

func checkEntry(e *tree.Entry) error {
	switch {
	case len(e.Path) > maxPath:
		return diag.Inputf("layout %.60s…: path of %d bytes; %d is the limit", e.Path, len(e.Path), maxPath)
	case e.Kind == tree.Symlink && len(e.Link) > maxLink:
		return diag.Inputf("layout %s: symlink target of %d bytes; %d is the limit", e.Path, len(e.Link), maxLink)
	case e.Kind == tree.File && e.Size > maxFile:
		return diag.Inputf("layout %s: file of %d bytes; FreeBSD reads at most %d from ISO 9660", e.Path, e.Size, int64(maxFile))
	}
	return nil
}

func (p *Plan) checkBIOSBoot() error {
	name := p.opts.BIOSBoot
	if name == "" {
		return nil
	}
	r, err := p.FileRange(name)
	switch {
	case err != nil:
		return diag.Inputf("layout iso: BIOS boot image: %w", err)
	case r.Len == 0 || blocks(r.Len)*blockSize/sector > math.MaxUint16:
		return diag.Inputf("layout iso: BIOS boot image %s has %d bytes; 1 to %d can be loaded", name, r.Len, math.MaxUint16/4*blockSize)
	}
	return nil
}

// numberDirs names all entries and numbers the directories: by level, within a
// level by parent, within a parent by name (ECMA-119 §6.9.1).
func (p *Plan) numberDirs() error {
	p.dirs = []*node{p.root}
	for i := 0; i < len(p.dirs); i++ {
		d := p.dirs[i]
		nameChildren(d)
		for _, c := range d.children {
			if c.entry.Kind == tree.Dir {
				p.dirs = append(p.dirs, c)
			}
		}
	}
	if len(p.dirs) > maxDirs {
		return diag.Inputf("layout iso: %d directories; %d is the limit", len(p.dirs), maxDirs)
	}
	for i, d := range p.dirs {
		d.number = uint16(i + 1)
		p.pathLen += int64(len(pathEntry(d, binary.LittleEndian)))
	}
	return nil
}

// allocate places everything: descriptors, path tables, catalog, directories with
// their continuation areas, files, ESP, tail. An area lies before what its record
// describes, because libarchive does not go back for it.
func (p *Plan) allocate() error {
	next := int64(firstDesc) + 2 // primary, terminator
	take := func(size int64) int64 {
		at := next
		next += blocks(size)
		return at
	}
	bootable := p.opts.BIOSBoot != "" || p.opts.ESPSize > 0
	if bootable {
		take(blockSize) // boot record
	}
	p.pathL, p.pathM = take(p.pathLen), take(p.pathLen)
	if bootable {
		p.catalog = take(blockSize)
	}
	for _, d := range p.dirs {
		first := len(p.areas)
		d.size = p.measure(d)
		d.extent = take(d.size)
		take(placeAreas(p.areas[first:], next))
		if d.size > maxFile {
			return diag.Inputf("layout %s: a directory of %d bytes; %d is the limit", d.entry.Path, d.size, int64(maxFile))
		}
	}
	for _, n := range p.files {
		n.extent = take(n.size)
	}
	if p.opts.ESPSize > 0 {
		p.esp = take(p.opts.ESPSize)
	}
	take(p.opts.Tail)
	if p.blocks = next; next > maxBlocks {
		return diag.Inputf("layout iso: %d blocks of %d bytes; %d is the limit", next, blockSize, int64(maxBlocks))
	}
	return nil
}

// measure is the size of a directory, and notes the continuation areas that its
// records need.
func (p *Plan) measure(d *node) int64 {
	pos := int64(0)
	p.eachRecord(d, func(id string, _ *node, parts [][]byte) {
		n := recordLen(id, fieldsLen(parts[0], len(parts) > 1))
		pos = recordOff(pos, n) + n
		for i, part := range parts[1:] {
			p.areas = append(p.areas, area{size: uint16(fieldsLen(part, i+2 < len(parts)))})
		}
	})
	return blocks(pos) * blockSize
}

// placeAreas packs areas into blocks from the given one on, and returns how many
// bytes they take. cd9660_rrip_loop and Linux want an area within one block.
func placeAreas(areas []area, first int64) int64 {
	pos := int64(0)
	for i := range areas {
		a := &areas[i]
		if pos%blockSize+int64(a.size) > blockSize {
			pos = blocks(pos) * blockSize
		}
		a.block, a.off = uint32(first+pos/blockSize), uint16(pos%blockSize)
		pos += int64(a.size)
	}
	return pos
}

// recordOff is where a record of n bytes goes in a directory that ends at pos. It
// must end before its block does: the loader and cdboot find the end of a block by
// a zero behind its last record, and read on past a block that is full.
func recordOff(pos, n int64) int64 {
	if pos%blockSize+n >= blockSize {
		return blocks(pos+1) * blockSize
	}
	return pos
}

func recordLen(id string, fields int64) int64 {
	n := int64(dirRecordSize+len(id)) + fields
	if len(id)%2 == 0 {
		n++
	}
	return n + n%2
}

func fieldsLen(part []byte, more bool) int64 {
	if more {
		return int64(len(part)) + ceSize
	}
	return int64(len(part))
}

// eachRecord visits the records of a directory in order: identifier, what they
// describe, and their fields as split returns them.
func (p *Plan) eachRecord(d *node, visit func(id string, n *node, parts [][]byte)) {
	var first [][]byte
	if d == p.root {
		first = [][]byte{fieldSP(), p.fieldPX(d), p.fieldTF(d), fieldER()}
	} else {
		first = [][]byte{p.fieldPX(d), p.fieldTF(d)}
	}
	visit("\x00", d, split("\x00", first))
	visit("\x01", d.parent, split("\x01", [][]byte{p.fieldPX(d.parent), p.fieldTF(d.parent)}))
	for _, c := range d.children {
		fields := [][]byte{p.fieldPX(c.file), p.fieldTF(c.file)}
		fields = append(fields, fieldsNM(path.Base(c.entry.Path))...)
		if c.entry.Kind == tree.Symlink {
			fields = append(fields, fieldsSL(c.entry.Link)...)
		}
		visit(c.plain.id(), c.file, split(c.plain.id(), fields))
	}
}

// split divides fields among a record and the continuation areas it needs. Every
// part but the last leaves room for a CE, which is to follow it: the loader leaves
// a record at its CE, so nothing may be behind that.
func split(id string, fields [][]byte) [][]byte {
	var parts [][]byte
	room := maxRecord - recordLen(id, 0)
	for {
		all := bytes.Join(fields, nil)
		if int64(len(all)) <= room {
			return append(parts, all)
		}
		n, used := 0, int64(0)
		for used+int64(len(fields[n])) <= room-ceSize {
			used += int64(len(fields[n]))
			n++
		}
		parts = append(parts, all[:used])
		fields, room = fields[n:], blockSize
	}
}
