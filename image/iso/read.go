package iso

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// FS is a volume that is read. It may be used by several goroutines at once.
type FS struct {
	r       io.ReaderAt
	pv      primary
	blocks  int64
	skip    int   // bytes before the fields of a record, SP's Skip
	catalog int64 // block, 0 = not bootable
}

// Open reads the descriptors of a volume of at most size bytes. The volume must
// have Rock Ridge.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r, blocks: size / blockSize}
	if err := f.readDescriptors(); err != nil {
		return nil, fmt.Errorf("open iso: %w", err)
	}
	if err := f.checkPrimary(size); err != nil {
		return nil, fmt.Errorf("open iso: %w", err)
	}
	if err := f.findRockRidge(); err != nil {
		return nil, fmt.Errorf("open iso: %w", err)
	}
	return f, nil
}

// readDescriptors finds the first primary descriptor and the boot record.
func (f *FS) readDescriptors() error {
	found := false
	for n := int64(firstDesc); n < lastDesc; n++ {
		b, err := f.block(n)
		if err != nil {
			return fmt.Errorf("descriptor in block %d: %w", n, err)
		}
		var v primary
		unmarshal(b, &v)
		if string(v.ID[:]) != standardID {
			return fmt.Errorf("no descriptor in block %d", n)
		}
		switch v.Type {
		case descPrimary:
			if !found {
				f.pv, found = v, true
			}
		case descBoot:
			var boot bootRecord
			unmarshal(b, &boot)
			if text(boot.System[:]) == elTorito && f.catalog == 0 {
				f.catalog = int64(boot.Catalog.get())
			}
		case descEnd:
			if !found {
				return errors.New("no primary descriptor")
			}
			return nil
		}
	}
	return errors.New("the descriptors never end")
}

func (f *FS) checkPrimary(size int64) error {
	v := &f.pv
	f.blocks = int64(v.Space.get())
	switch {
	case v.BlockSize.get() != blockSize:
		return fmt.Errorf("blocks of %d bytes; only %d are supported", v.BlockSize.get(), blockSize)
	case f.blocks*blockSize > size:
		return fmt.Errorf("it has %d bytes, %d are there", f.blocks*blockSize, size)
	case f.catalog >= f.blocks:
		return fmt.Errorf("boot catalog in block %d of %d", f.catalog, f.blocks)
	}
	return f.checkExtent(int64(v.Root.Extent.get()), int64(v.Root.Size.get()))
}

func (f *FS) checkExtent(block, size int64) error {
	if block+blocks(size) > f.blocks {
		return fmt.Errorf("%d bytes in block %d are outside the volume of %d blocks", size, block, f.blocks)
	}
	return nil
}

var errNoRockRidge = errors.New("no Rock Ridge")

// findRockRidge wants SP and ER in the first record of the root, as FreeBSD does.
func (f *FS) findRockRidge() error {
	b, err := f.block(int64(f.pv.Root.Extent.get()))
	if err != nil {
		return err
	}
	rec, err := f.cutRecord(b)
	if err != nil {
		return fmt.Errorf("root directory: %w", err)
	}
	var sp suspSP
	if len(rec.fields) < 7 {
		return errNoRockRidge
	}
	if unmarshal(rec.fields, &sp); sp.suspHeader != header("SP", 7) || sp.Check != [2]byte{0xbe, 0xef} {
		return errNoRockRidge
	}
	known := false
	err = f.susp(rec.fields, func(sig string, b []byte) error {
		if sig != "ER" || len(b) < 8 {
			return nil
		}
		var er suspER
		unmarshal(b, &er)
		switch id := b[8:]; string(id[:min(len(id), int(er.IDLen))]) {
		case erID, "IEEE_P1282", "RRIP_1991A":
			known = true
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("root directory: %w", err)
	case !known:
		return errNoRockRidge
	}
	f.skip = int(sp.Skip)
	return nil
}

// Size is the size of the volume in bytes.
func (f *FS) Size() int64 { return f.blocks * blockSize }

// Volume is the label of the volume.
func (f *FS) Volume() string { return text(f.pv.Volume[:]) }

// Publisher is who published the volume.
func (f *FS) Publisher() string { return text(f.pv.Publisher[:]) }

func text(b []byte) string { return strings.TrimRight(string(b), " \x00") }

func (f *FS) block(n int64) ([]byte, error) {
	b := make([]byte, blockSize)
	if n < 0 || n >= f.blocks {
		return nil, fmt.Errorf("block %d is outside the volume of %d", n, f.blocks)
	}
	return b, readFull(f.r, b, n*blockSize)
}

// Boot is an image that El Torito's catalog names.
type Boot struct {
	EFI bool // for UEFI, else for a BIOS
	// Range is its place: for a BIOS what is loaded, for UEFI the system
	// partition, which reaches to the end of the volume when its size is not said.
	Range Range
}

// Boots reads the boot catalog: bootable entries without emulation, in order.
func (f *FS) Boots() ([]Boot, error) {
	if f.catalog == 0 {
		return nil, nil
	}
	b, err := f.block(f.catalog)
	if err != nil {
		return nil, fmt.Errorf("read boot catalog: %w", err)
	}
	var v validation
	unmarshal(b, &v)
	if v.Header != 1 || v.Key != [2]byte{bootKeyLow, bootKeyHigh} || sum16(b[:catalogEntry]) != 0 {
		return nil, errors.New("read boot catalog: wrong checksum or signature")
	}
	var out []Boot
	platform, left := v.Platform, 1 // entries left of the section
	for b = b[catalogEntry:]; len(b) > 0; b = b[catalogEntry:] {
		var e bootEntry
		unmarshal(b, &e)
		if left == 0 {
			var s sectionHeader
			unmarshal(b, &s)
			if s.Indicator != moreSections && s.Indicator != lastSection {
				break
			}
			platform, left = s.Platform, int(s.Entries.get())
			continue
		}
		left--
		if e.Indicator != bootable || e.Media != 0 {
			continue
		}
		boot := Boot{EFI: platform == platformEFI, Range: Range{Off: int64(e.Block.get()) * blockSize, Len: int64(e.Count.get()) * sector}}
		if boot.EFI && e.Count.get() < 2 {
			boot.Range.Len = f.Size() - boot.Range.Off
		}
		if boot.Range.Len <= 0 || boot.Range.End() > f.Size() {
			return nil, fmt.Errorf("read boot catalog: %d bytes at %d are outside the volume", boot.Range.Len, boot.Range.Off)
		}
		out = append(out, boot)
	}
	return out, nil
}

// record is a directory record cut into its parts.
type record struct {
	dirRecord
	id     string
	fields []byte // Rock Ridge, before its first CE
}

// cutRecord takes a record from the beginning of b; its length is not 0.
func (f *FS) cutRecord(b []byte) (*record, error) {
	if len(b) < dirRecordSize+1 {
		return nil, errors.New("a record that does not end in its block")
	}
	r := &record{}
	unmarshal(b, &r.dirRecord)
	n := dirRecordSize + int(r.NameLen)
	if n%2 == 1 {
		n++
	}
	switch {
	case int(r.Len) > len(b):
		return nil, errors.New("a record that does not end in its block")
	case r.NameLen == 0 || n > int(r.Len):
		return nil, fmt.Errorf("a record of %d bytes with a name of %d", r.Len, r.NameLen)
	}
	r.id = string(b[dirRecordSize:][:r.NameLen])
	r.fields = b[n:r.Len]
	return r, nil
}

// susp visits the fields of a record and of its continuation areas.
func (f *FS) susp(b []byte, visit func(sig string, field []byte) error) error {
	for range maxHops {
		var next *suspCE
		for len(b) >= suspHeaderSize && b[0] != 0 {
			var h suspHeader
			unmarshal(b, &h)
			if int(h.Len) < suspHeaderSize || int(h.Len) > len(b) {
				return fmt.Errorf("field %q of %d bytes", h.Sig, h.Len)
			}
			field := b[:h.Len]
			b = b[h.Len:]
			switch string(h.Sig[:]) {
			case "CE":
				if h.Len < ceSize {
					return fmt.Errorf("field %q of %d bytes", h.Sig, h.Len)
				}
				next = &suspCE{}
				unmarshal(field, next)
				continue
			case "ST":
				b = nil
				continue
			}
			if err := visit(string(h.Sig[:]), field); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		block, off, size := int64(next.Block.get()), int64(next.Off.get()), int64(next.Size.get())
		if off+size > blockSize {
			return fmt.Errorf("continuation area of %d bytes at %d of block %d leaves it", size, off, block)
		}
		whole, err := f.block(block)
		if err != nil {
			return fmt.Errorf("continuation area: %w", err)
		}
		b = whole[off:][:size]
	}
	return errors.New("more continuation areas than anyone follows")
}

// attr is what the fields of a record say.
type attr struct {
	mode, links, uid, gid uint32
	serial                uint32 // 0 = none
	hasPX, hasTF, hasSL   bool
	mtime                 time.Time
	name, link            string
}

// attributes decodes the fields of a record.
func (f *FS) attributes(fields []byte) (*attr, error) {
	a := &attr{}
	nameOpen, sl := true, symlink{first: true}
	err := f.susp(fields, func(sig string, b []byte) error {
		switch sig {
		case "PX":
			return a.px(b)
		case "TF":
			return a.tf(b)
		case "NM":
			if len(b) < nmSize || !nameOpen || b[4]&^flagContinue != 0 {
				return nil // "." and ".." may have one that says so
			}
			a.name += string(b[nmSize:])
			nameOpen = b[4] == flagContinue
		case "SL":
			a.hasSL = true
			return sl.add(b)
		case "CL", "PL", "RE", "ZF":
			return fmt.Errorf("field %s (relocated directory or compressed file) is not supported", sig)
		}
		return nil
	})
	a.link = sl.target()
	if len(a.name) > maxName {
		return nil, fmt.Errorf("name of %d bytes; %d is the limit", len(a.name), maxName)
	}
	return a, err
}

func (a *attr) px(b []byte) error {
	if len(b) != 36 && len(b) != 44 { // RRIP 1.10 has no serial number
		return fmt.Errorf("field PX of %d bytes", len(b))
	}
	var px rripPX
	unmarshal(append(b[:len(b):len(b)], make([]byte, 8)...), &px)
	a.hasPX, a.mode, a.links = true, px.Mode.get(), px.Links.get()
	a.uid, a.gid, a.serial = px.UID.get(), px.GID.get(), px.Serial.get()
	return nil
}

// tf takes the time of the last change from a field with any times.
func (a *attr) tf(b []byte) error {
	flags := byte(0)
	if len(b) > suspHeaderSize {
		flags, b = b[suspHeaderSize], b[suspHeaderSize+1:]
	}
	if flags&tfModify == 0 {
		return nil
	}
	size := len(date7{})
	if flags&tfLong != 0 {
		size = len(date17{})
	}
	if flags&tfCreate != 0 {
		b = b[min(size, len(b)):]
	}
	if len(b) < size {
		return errors.New("field TF without its times")
	}
	a.hasTF = true
	if flags&tfLong == 0 {
		a.mtime = date7(b[:size]).get()
		return nil
	}
	t, err := time.Parse("20060102150405", string(b[:14]))
	if err != nil {
		return errors.New("field TF with a time that is none")
	}
	a.mtime = t.Add(-time.Duration(int8(b[16])) * 15 * time.Minute)
	return nil
}

// symlink collects the components of a target.
type symlink struct {
	b     strings.Builder
	first bool // nothing came yet
	cont  bool // the last component goes on
	root  bool
}

func (s *symlink) add(b []byte) error {
	if len(b) < slSize {
		return errors.New("field SL without flags")
	}
	for b = b[slSize:]; len(b) >= 2; {
		var c slComponent
		unmarshal(b, &c)
		if 2+int(c.Len) > len(b) {
			return fmt.Errorf("field SL with a component of %d bytes", c.Len)
		}
		part := string(b[2:][:c.Len])
		b = b[2+int(c.Len):]
		if !s.first && !s.cont {
			s.b.WriteByte('/')
		}
		s.first, s.cont = false, c.Flags&flagContinue != 0
		switch c.Flags &^ flagContinue {
		case 0:
			s.b.WriteString(part)
		case flagCurrent:
			s.b.WriteString(".")
		case flagParent:
			s.b.WriteString("..")
		case flagRoot:
			s.root = true
		default:
			return fmt.Errorf("field SL with a component of flags %#x", c.Flags)
		}
	}
	return nil
}

// target is the whole target. A ROOT that stands alone is "/".
func (s *symlink) target() string {
	if s.root && s.b.Len() == 0 {
		return "/"
	}
	return s.b.String()
}

// Tree reads the directories. Files open lazily, straight from r; owners are
// numbers. Names of one file are hard links when they share its serial number, or
// with RRIP 1.10 its extent. What makes no sense is an error; damage that does
// not matter for reading is left to Check.
func (f *FS) Tree() (*tree.Tree, error) {
	var entries []tree.Entry
	first := map[[3]uint32]string{} // serial, extent, size → path
	w := walker{f: f, visit: func(it *item) {
		e := tree.Entry{Path: it.path, Kind: it.kind, Perm: uint16(it.mode & 0o7777), UID: it.uid, GID: it.gid, ModTime: it.mtime}
		size := it.Size.get()
		switch it.kind {
		case tree.Symlink:
			e.Link = it.link
		case tree.File:
			key := [3]uint32{it.serial, it.Extent.get(), size}
			if to, ok := first[key]; ok && it.links > 1 && (it.serial != 0 || size > 0) {
				e.Kind, e.Link = tree.HardLink, to
				break
			}
			first[key] = it.path
			if e.Size = int64(size); size > 0 {
				e.Open = f.opener(Range{Off: int64(it.Extent.get()) * blockSize, Len: e.Size})
			}
		}
		entries = append(entries, e)
	}}
	w.run()
	if err := w.err(true); err != nil {
		return nil, fmt.Errorf("read iso: %w", err)
	}
	t, err := tree.New(entries)
	if err != nil {
		return nil, fmt.Errorf("read iso: %w", err)
	}
	return t, nil
}

func (f *FS) opener(r Range) tree.Opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(f.r, r.Off, r.Len)), nil }
}

// FileRange returns where the content of a file is.
func (f *FS) FileRange(name string) (Range, error) {
	var found *item
	w := walker{f: f, visit: func(it *item) {
		if it.path == path.Clean(name) {
			found = it
		}
	}}
	w.run()
	switch {
	case found == nil:
		return Range{}, errors.Join(fmt.Errorf("locate %s: no such file in the iso", name), w.err(true))
	case found.kind != tree.File:
		return Range{}, fmt.Errorf("locate %s: it is a %s", name, found.kind)
	}
	return Range{Off: int64(found.Extent.get()) * blockSize, Len: int64(found.Size.get())}, nil
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
