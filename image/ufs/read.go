package ufs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/rig-freebsd/rig/image/tree"
)

// FS is a file system that is there to be read.
type FS struct {
	r    io.ReaderAt
	size int64 // bytes there are
	sb   superblock
}

// Open reads the superblock and refuses what validate_sblock of the kernel
// (sys/ufs/ffs/ffs_subr.c) refuses, and what is larger than size bytes.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r, size: size}
	b := make([]byte, sblockSize)
	if err := f.read(b, sblockLoc); err != nil {
		return nil, fmt.Errorf("open ufs: superblock: %w", err)
	}
	decode(b, &f.sb)
	if err := f.sb.validate(size); err != nil {
		return nil, fmt.Errorf("open ufs: %w", err)
	}
	if f.sb.Flags&flagCkHash != 0 && f.sb.Metackhash&ckSuper != 0 {
		b = b[:f.sb.Sbsize]
		clear(b[unsafe.Offsetof(f.sb.Ckhash):][:4])
		if sum := ckhash(b); sum != f.sb.Ckhash {
			return nil, fmt.Errorf("open ufs: superblock: check hash is %#08x, its content gives %#08x", f.sb.Ckhash, sum)
		}
	}
	return f, nil
}

// Label is the volume name.
func (f *FS) Label() string { return f.sb.label() }

// Size is the size of the file system in bytes.
func (f *FS) Size() int64 { return f.sb.Size * int64(f.sb.Fsize) }

// validate returns everything that is wrong with a superblock.
func (sb *superblock) validate(size int64) error {
	switch {
	case sb.Magic == magicBad:
		return errors.New("superblock: newfs did not finish")
	case sb.Magic != magicUFS2:
		return fmt.Errorf("superblock: magic is %#x, not %#x", uint32(sb.Magic), magicUFS2)
	}
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("superblock: "+format, args...))
		}
	}
	sb.validateShape(check)
	if len(errs) == 0 { // what follows divides by the shape
		sb.validateLayout(check, size)
	}
	return errors.Join(errs...)
}

// validateShape checks the constants and everything a later check divides by.
func (sb *superblock) validateShape(check func(ok bool, format string, args ...any)) {
	check(sb.Sblockactualloc == sblockLoc || sb.Sblockactualloc == 0, "sblockactualloc is %d", sb.Sblockactualloc)
	check(sb.Sblockloc == sblockLoc, "sblockloc is %d", sb.Sblockloc)
	check(sb.Maxsymlinklen == maxInline, "maxsymlinklen is %d", sb.Maxsymlinklen)
	check(sb.Bsize >= minBsize && sb.Bsize <= maxBsize && powerOf2(sb.Bsize), "bsize is %d", sb.Bsize)
	check(sb.Fsize >= sectorSize && powerOf2(sb.Fsize), "fsize is %d", sb.Fsize)
	check(sb.Frag >= 1 && sb.Frag <= maxFrag && int64(sb.Frag)*int64(sb.Fsize) == int64(sb.Bsize), "frag is %d", sb.Frag)
	check(sb.Nindir == sb.Bsize/8, "nindir is %d", sb.Nindir)
	check(sb.Inopb == uint32(sb.Bsize/inodeSize), "inopb is %d", sb.Inopb)
	check(sb.Fpg >= 3*sb.Frag, "fpg is %d", sb.Fpg)
	check(sb.Ncg >= 1, "ncg is %d", sb.Ncg)
	inodes := int64(sb.Ipg) * int64(sb.Ncg)
	check(sb.Ipg >= sb.Inopb && inodes <= 1<<32-int64(sb.Inopb), "%d groups of %d inodes", sb.Ncg, sb.Ipg)
	cs := sb.Cstotal
	check(cs.Nifree >= 0 && cs.Nifree <= inodes, "nifree is %d", cs.Nifree)
	check(cs.Ndir >= 0 && cs.Ndir <= inodes-cs.Nifree, "ndir is %d", cs.Ndir)
	check(sb.Sbsize >= int32(sizeofSuper) && sb.Sbsize <= sblockSize && sb.Sbsize%sectorSize == 0, "sbsize is %d", sb.Sbsize)
	check(sb.Maxbsize == 0 || powerOf2(sb.Maxbsize) && sb.Maxbsize >= sb.Bsize &&
		int64(sb.Maxbsize) <= fsMaxClust*int64(sb.Bsize), "maxbsize is %d", sb.Maxbsize)
	check(sb.Bmask == ^(sb.Bsize-1) && sb.Qbmask == int64(sb.Bsize)-1, "bmask is %#x, qbmask %#x", sb.Bmask, sb.Qbmask)
	check(sb.Fmask == ^(sb.Fsize-1) && sb.Qfmask == int64(sb.Fsize)-1, "fmask is %#x, qfmask %#x", sb.Fmask, sb.Qfmask)
	check(sb.Bshift == log2(sb.Bsize) && sb.Fshift == log2(sb.Fsize), "bshift is %d, fshift %d", sb.Bshift, sb.Fshift)
	check(sb.Fragshift == log2(sb.Frag), "fragshift is %d", sb.Fragshift)
	check(sb.Fsbtodb == log2(sb.Fsize/sectorSize), "fsbtodb is %d", sb.Fsbtodb)
	check(sb.OldCgoffset == 0 || sb.OldCgoffset > 0 && ^sb.OldCgmask >= 0 &&
		int64(sb.OldCgoffset)*int64(^sb.OldCgmask) <= int64(sb.Fpg), "old_cgoffset is %d", sb.OldCgoffset)
	check(sb.Maxcontig >= 0 && sb.Maxcontig <= 256, "maxcontig is %d", sb.Maxcontig)
	// The kernel says nothing of contigsumsize when maxcontig is 1.
	check(sb.Contigsumsize >= 0 && sb.Contigsumsize <= fsMaxClust &&
		(sb.Maxcontig != 0 || sb.Contigsumsize == 0) &&
		(sb.Maxcontig <= 1 || sb.Contigsumsize == min(sb.Maxcontig, fsMaxClust)), "contigsumsize is %d", sb.Contigsumsize)
}

// validateLayout checks addresses and sizes against each other and the device.
func (sb *superblock) validateLayout(check func(ok bool, format string, args ...any), size int64) {
	check(sb.mapBytes() <= int64(sb.Bsize), "maps of a group take %d bytes, a block has %d", sb.mapBytes(), sb.Bsize)
	check(sb.Cgsize >= sb.Fsize && sb.Cgsize <= sb.Bsize && sb.Cgsize%sb.Fsize == 0 &&
		int64(sb.Cgsize) >= sb.mapBytes(), "cgsize is %d", sb.Cgsize)
	check(sb.Ipg%sb.Inopb == 0, "ipg is %d, inopb %d", sb.Ipg, sb.Inopb)
	sblkno := roundup(howmany(sblockLoc+sblockSize, sb.Fsize), sb.Frag)
	cblkno := sblkno + roundup(howmany(sblockSize, sb.Fsize), sb.Frag)
	check(sb.Sblkno == sblkno, "sblkno is %d, not %d", sb.Sblkno, sblkno)
	check(sb.Cblkno == cblkno, "cblkno is %d, not %d", sb.Cblkno, cblkno)
	check(sb.Iblkno == cblkno+sb.Frag, "iblkno is %d, not %d", sb.Iblkno, cblkno+sb.Frag)
	dblkno := int64(cblkno+sb.Frag) + int64(sb.Ipg)/(int64(sb.Inopb)>>sb.Fragshift)
	check(int64(sb.Dblkno) == dblkno, "dblkno is %d, not %d", sb.Dblkno, dblkno)
	check(sb.Metaspace >= 0 && sb.Metaspace <= int64(sb.Fpg)/2, "metaspace is %d", sb.Metaspace)
	check(sb.Minfree <= 99, "minfree is %d", sb.Minfree)
	limit := maxFileSize(int64(sb.Bsize))
	check(sb.Maxfilesize <= limit, "maxfilesize is %d, at most %d", sb.Maxfilesize, limit)
	groups := int64(sb.Ncg)
	check(sb.Size >= 8*int64(sb.Frag) && sb.Size > (groups-1)*int64(sb.Fpg) && sb.Size <= groups*int64(sb.Fpg),
		"size is %d fragments in %d groups of %d", sb.Size, sb.Ncg, sb.Fpg)
	check(sb.Size <= size/int64(sb.Fsize), "size is %d fragments of %d, the device has %d bytes", sb.Size, sb.Fsize, size)
	// Beyond the kernel's checks: inodes of the last group must be there.
	check(sb.Size-(groups-1)*int64(sb.Fpg) >= dblkno && dblkno <= int64(sb.Fpg),
		"the last group ends within its inodes, at fragment %d", sb.Size)
	cssize := roundup(groups*int64(sizeofCsum), int64(sb.Fsize))
	check(int64(sb.Cssize) == cssize, "cssize is %d, not %d", sb.Cssize, cssize)
	cs := cssize / int64(sb.Fsize)
	fpg := int64(sb.Fpg)
	check(sb.Csaddr >= 0 && sb.Csaddr <= sb.Size-cs && sb.Csaddr%fpg >= dblkno &&
		sb.Csaddr/fpg == (sb.Csaddr+cs)/fpg, "csaddr is %d", sb.Csaddr)
}

// read fills b from a byte offset.
func (f *FS) read(b []byte, off int64) error {
	if off < 0 || off > f.size-int64(len(b)) {
		return fmt.Errorf("read of %d bytes at %d: %w", len(b), off, io.ErrUnexpectedEOF)
	}
	n, err := f.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read of %d bytes at %d: %w", len(b), off, err)
}

// inode reads one inode.
func (f *FS) inode(ino uint32) (d dinode, err error) {
	if ino < rootIno || uint64(ino) >= uint64(f.sb.Ipg)*uint64(f.sb.Ncg) {
		return d, fmt.Errorf("inode %d does not exist", ino)
	}
	var b [inodeSize]byte
	if err := f.read(b[:], f.sb.inodeOff(ino)); err != nil {
		return d, fmt.Errorf("inode %d: %w", ino, err)
	}
	decode(b[:], &d)
	return d, nil
}

// addressOK says whether n fragments at addr can be data (chkrange of fsck_ffs).
func (sb *superblock) addressOK(addr, n int64) bool {
	if addr <= 0 || n <= 0 || addr >= sb.Size || n > sb.Size-addr || addr%int64(sb.Frag)+n > int64(sb.Frag) {
		return false
	}
	c := uint32(addr / int64(sb.Fpg))
	if addr < sb.cgData(c) {
		return addr+n <= sb.cgMeta(c)
	}
	return addr+n <= sb.cgBase(c)+int64(sb.Fpg)
}

var errTooMany = errors.New("more blocks than the file system has")

// walk calls fn for every block of a file, indirect blocks (lbn -1) before what
// they lead to. Addresses are checked before fn sees them.
func (f *FS) walk(d *dinode, fn func(lbn, addr, frags int64) error) error {
	if d.inline() {
		return nil
	}
	if d.Size > maxFileSize(int64(f.sb.Bsize)) {
		return fmt.Errorf("size of %d bytes", d.Size)
	}
	size, total := int64(d.Size), int64(0)
	blocks := howmany(size, int64(f.sb.Bsize))
	visit := func(lbn, addr, frags int64) error {
		if !f.sb.addressOK(addr, frags) {
			return fmt.Errorf("bad block address %d", addr)
		}
		if total += frags; total > f.sb.Size {
			return errTooMany
		}
		return fn(lbn, addr, frags)
	}
	for i, addr := range d.DB {
		switch lbn := int64(i); {
		case addr == 0:
		case lbn >= blocks:
			return fmt.Errorf("block %d is behind the end", lbn)
		default:
			if err := visit(lbn, addr, f.sb.blockFrags(size, lbn)); err != nil {
				return err
			}
		}
	}
	base, span := int64(ndaddr), int64(1)
	for _, addr := range d.IB {
		if addr != 0 {
			if err := f.walkIndirect(addr, base, span, blocks, visit); err != nil {
				return err
			}
		}
		span *= int64(f.sb.Nindir)
		base += span
	}
	return nil
}

// walkIndirect walks one indirect block; its addresses lead to span blocks each,
// the first of them to block lbn.
func (f *FS) walkIndirect(addr, lbn, span, blocks int64, visit func(lbn, addr, frags int64) error) error {
	if lbn >= blocks {
		return fmt.Errorf("indirect block for block %d is behind the end", lbn)
	}
	if err := visit(-1, addr, int64(f.sb.Frag)); err != nil {
		return err
	}
	b := make([]byte, f.sb.Bsize)
	if err := f.read(b, addr*int64(f.sb.Fsize)); err != nil {
		return err
	}
	for ; len(b) > 0; b, lbn = b[8:], lbn+span {
		child := int64(binary.LittleEndian.Uint64(b))
		if child == 0 {
			continue
		}
		var err error
		switch {
		case lbn >= blocks:
			err = fmt.Errorf("block %d is behind the end", lbn)
		case span == 1:
			err = visit(lbn, child, int64(f.sb.Frag))
		default:
			err = f.walkIndirect(child, lbn, span/int64(f.sb.Nindir), blocks, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *dinode) inline() bool { return d.Mode&ifMT == ifLNK && d.Size < maxInline }

// extents returns where the data of a file is; gaps are holes.
func (f *FS) extents(d *dinode) ([]extent, error) {
	var out []extent
	err := f.walk(d, func(lbn, addr, frags int64) error {
		if lbn < 0 {
			return nil
		}
		if n := len(out) - 1; n >= 0 && out[n].addr+out[n].frags == addr &&
			out[n].lbn*int64(f.sb.Frag)+out[n].frags == lbn*int64(f.sb.Frag) {
			out[n].frags += frags
		} else {
			out = append(out, extent{lbn, addr, frags})
		}
		return nil
	})
	return out, err
}

// content reads all of a directory or a long symlink: files without holes.
func (f *FS) content(d *dinode) ([]byte, error) {
	exts, err := f.extents(d)
	if err != nil {
		return nil, err
	}
	have, end := int64(0), int64(0)
	for _, x := range exts {
		if x.lbn*int64(f.sb.Bsize) != have {
			return nil, fmt.Errorf("hole at byte %d", have)
		}
		end = x.lbn*int64(f.sb.Bsize) + x.frags*int64(f.sb.Fsize)
		have = roundup(end, int64(f.sb.Bsize))
	}
	if uint64(end) < d.Size {
		return nil, fmt.Errorf("hole at byte %d", end)
	}
	b := make([]byte, end)
	for _, x := range exts {
		if err := f.read(b[x.lbn*int64(f.sb.Bsize):][:x.frags*int64(f.sb.Fsize)], x.addr*int64(f.sb.Fsize)); err != nil {
			return nil, err
		}
	}
	return b[:d.Size], nil
}

// dirents parses a directory. Every entry that breaks a rule of dirscan in
// fsck_ffs is an error.
func (f *FS) dirents(d *dinode) ([]dirent, error) {
	if d.Size == 0 || d.Size%dirBlkSize != 0 {
		return nil, fmt.Errorf("directory of %d bytes", d.Size)
	}
	b, err := f.content(d)
	if err != nil {
		return nil, err
	}
	var out []dirent
	for off := 0; off < len(b); {
		var h direntHeader
		room := dirBlkSize - off%dirBlkSize
		if room < sizeofDirent {
			return nil, fmt.Errorf("directory entry at %d crosses a chunk", off)
		}
		decode(b[off:], &h)
		need := roundup(sizeofDirent+int(h.Namlen)+1, 4)
		if int(h.Reclen) > room || h.Reclen%4 != 0 || int(h.Reclen) < sizeofDirent || h.Ino != 0 && int(h.Reclen) < need {
			return nil, fmt.Errorf("directory entry at %d has length %d", off, h.Reclen)
		}
		if h.Ino != 0 {
			name := string(b[off+sizeofDirent:][:h.Namlen])
			if name == "" || strings.ContainsAny(name, "/\x00") || b[off+sizeofDirent+int(h.Namlen)] != 0 {
				return nil, fmt.Errorf("directory entry at %d has the name %q", off, name)
			}
			out = append(out, dirent{name, h.Ino, h.Type})
		}
		off += int(h.Reclen)
	}
	if len(out) < 2 || out[0].name != "." || out[1].name != ".." {
		return nil, errors.New(`directory does not begin with "." and ".."`)
	}
	return out, nil
}

// Tree describes everything in the file system. Files open lazily, from r.
func (f *FS) Tree() (*tree.Tree, error) {
	w := &treeWalk{f: f, first: map[uint32]string{}}
	if err := w.visit(".", rootIno); err != nil {
		return nil, fmt.Errorf("read ufs: %w", err)
	}
	t, err := tree.New(w.out)
	if err != nil {
		return nil, fmt.Errorf("read ufs: %w", err)
	}
	return t, nil
}

type treeWalk struct {
	f     *FS
	out   []tree.Entry
	first map[uint32]string // first path of each inode
}

func (w *treeWalk) visit(name string, ino uint32) error {
	fail := func(err error) error { return fmt.Errorf("%s: %w", name, err) }
	if len(name) > maxPath {
		return fmt.Errorf("%.60s…: path of %d bytes", name, len(name))
	}
	d, err := w.f.inode(ino)
	if err != nil {
		return fail(err)
	}
	e := tree.Entry{Path: name, Perm: d.Mode & 0o7777, UID: d.UID, GID: d.GID,
		Flags: tree.Flags(d.Flags), ModTime: time.Unix(d.Mtime, int64(d.Mtimensec))}
	seen, again := w.first[ino]
	w.first[ino] = name
	switch kind := d.Mode & ifMT; {
	case again && kind == ifREG:
		e.Kind, e.Link = tree.HardLink, seen
		w.first[ino] = seen
	case again && kind == ifDIR:
		return fail(fmt.Errorf("inode %d is also %s", ino, seen))
	case kind == ifDIR:
		e.Kind = tree.Dir
		w.out = append(w.out, e)
		return w.visitDir(name, &d)
	case kind == ifREG:
		e.Kind, e.Size = tree.File, int64(d.Size)
		exts, err := w.f.extents(&d)
		if err != nil {
			return fail(err)
		}
		e.Holes = w.f.holes(exts, e.Size)
		e.Open = func() (io.ReadCloser, error) { return w.f.open(name, e.Size, exts), nil }
	case kind == ifLNK:
		e.Kind = tree.Symlink
		if e.Link, err = w.f.readlink(&d); err != nil {
			return fail(err)
		}
	default:
		return fail(fmt.Errorf("mode %#o is not of a file, directory or symlink", d.Mode))
	}
	w.out = append(w.out, e)
	return nil
}

func (w *treeWalk) visitDir(name string, d *dinode) error {
	list, err := w.f.dirents(d)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, c := range list[2:] {
		if c.name == "." || c.name == ".." {
			return fmt.Errorf("%s: second entry %q", name, c.name)
		}
		if err := w.visit(path.Join(name, c.name), c.ino); err != nil {
			return err
		}
	}
	return nil
}

func (f *FS) readlink(d *dinode) (string, error) {
	if d.inline() {
		var b [maxInline]byte
		encode(b[:], &d.DB)
		encode(b[ndaddr*8:], &d.IB)
		return string(b[:d.Size]), nil
	}
	if d.Size > maxPath {
		return "", fmt.Errorf("symlink target of %d bytes", d.Size)
	}
	b, err := f.content(d)
	return string(b), err
}

// holes is the complement of extents.
func (f *FS) holes(exts []extent, size int64) []tree.Range {
	var out []tree.Range
	pos := int64(0)
	for _, x := range exts {
		if at := x.lbn * int64(f.sb.Bsize); at > pos {
			out = append(out, tree.Range{Off: pos, Len: at - pos})
		}
		pos = x.lbn*int64(f.sb.Bsize) + x.frags*int64(f.sb.Fsize)
	}
	if pos < size {
		out = append(out, tree.Range{Off: pos, Len: size - pos})
	}
	return out
}

// Ranges returns where the data of a regular file is, in order and without its
// holes.
func (f *FS) Ranges(name string) ([]Range, error) {
	fail := func(err error) error { return fmt.Errorf("locate %s: %w", name, err) }
	d, err := f.inode(rootIno)
	if err != nil {
		return nil, fail(err)
	}
	for part := range strings.SplitSeq(name, "/") {
		if d.Mode&ifMT != ifDIR {
			return nil, fail(fmt.Errorf("%s is below what is no directory", part))
		}
		list, err := f.dirents(&d)
		if err != nil {
			return nil, fail(err)
		}
		i := slices.IndexFunc(list, func(d dirent) bool { return d.name == part })
		if i < 0 {
			return nil, fail(fmt.Errorf("no %s in the ufs", part))
		}
		if d, err = f.inode(list[i].ino); err != nil {
			return nil, fail(err)
		}
	}
	if d.Mode&ifMT != ifREG {
		return nil, fail(errors.New("it is not a file"))
	}
	exts, err := f.extents(&d)
	if err != nil {
		return nil, fail(err)
	}
	return ranges(&f.sb, exts, int64(d.Size)), nil
}
