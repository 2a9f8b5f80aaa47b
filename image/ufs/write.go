package ufs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// Write writes the file system to dst: all metadata and the allocated blocks,
// nothing else. What dst held before does not matter. The primary superblock
// comes last, after the old one has been wiped: an interrupted Write leaves no
// file system. A file whose content has not the described size is an error that
// names it.
func (p *Plan) Write(dst io.WriterAt) error {
	w := &window{dst: dst, buf: make([]byte, windowSize)}
	if err := p.writeBootArea(w); err != nil {
		return err
	}
	sums := make([]csum, p.sb.Ncg)
	for c := range p.sb.Ncg {
		cs, err := p.writeGroup(w, c)
		if err != nil {
			return err
		}
		sums[c] = cs
	}
	if err := w.rewind(); err != nil {
		return err
	}
	if err := p.writeSummary(w, sums); err != nil {
		return err
	}
	for i := range p.nodes {
		if err := p.writeData(w, &p.nodes[i]); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	return p.writeSuper(dst)
}

// writeBootArea wipes everything up to the first copy of the superblock, but for
// the recovery record.
func (p *Plan) writeBootArea(w *window) error {
	sb := &p.sb
	b := make([]byte, int64(sb.Sblkno)*fsize)
	r := fsrecovery{Magic: sb.Magic, Fsbtodb: sb.Fsbtodb, Sblkno: sb.Sblkno, Fpg: sb.Fpg, Ncg: sb.Ncg}
	encode(b[sblockLoc-binary.Size(r):], &r)
	return w.put(0, b)
}

// writeGroup writes the superblock copy of a cylinder group, its maps and its
// inodes.
func (p *Plan) writeGroup(w *window, c uint32) (csum, error) {
	sb := p.sb
	at := sb.cgBase(c)
	sb.Sblockactualloc = (at + int64(sb.Sblkno)) * fsize // as newfs(8) does
	b := make([]byte, int64(sb.Cblkno-sb.Sblkno)*fsize)
	encode(b, &sb)
	if err := w.put(sb.Sblockactualloc, b); err != nil {
		return csum{}, err
	}
	first := int64(c) * int64(sb.Ipg)
	here := min(int64(len(p.nodes))+rootIno-first, int64(sb.Ipg))
	// fsck_ffs keeps two blocks of inodes ready in each group, and so does newfs.
	inited := min(int64(sb.Ipg), max(2*int64(sb.Inopb), roundup(max(here, 0), int64(sb.Inopb))))
	h := cgHeader{Initediblk: uint32(inited), Time: sb.Time}
	b, cs := encodeCG(&sb, c, h, p.used, p.inUse, p.ndir[c])
	b = append(b, make([]byte, bsize-len(b))...)
	if err := w.put((at+int64(sb.Cblkno))*fsize, b); err != nil {
		return cs, err
	}
	for i := int64(0); i < inited; i += int64(sb.Inopb) {
		clear(b)
		for j := range int64(sb.Inopb) {
			if n := first + i + j - rootIno; n >= 0 && n < int64(len(p.nodes)) {
				d := p.dinode(&p.nodes[n])
				encode(b[j*inodeSize:], &d)
			}
		}
		if err := w.put(sb.inodeOff(uint32(first+i)), b); err != nil {
			return cs, err
		}
	}
	return cs, nil
}

func (p *Plan) writeSummary(w *window, sums []csum) error {
	b := make([]byte, p.sb.Cssize)
	for c, cs := range sums {
		encode(b[c*sizeofCsum:], &cs)
	}
	return w.put(p.sb.Csaddr*fsize, b)
}

func (p *Plan) writeSuper(dst io.WriterAt) error {
	b := make([]byte, sblockSize)
	encode(b, &p.sb)
	if _, err := dst.WriteAt(b, sblockLoc); err != nil {
		return fmt.Errorf("write superblock: %w", err)
	}
	return nil
}

// dinode is the inode as it is stored.
func (p *Plan) dinode(n *inode) dinode {
	e := n.entry
	d := dinode{Mode: n.mode(), Nlink: uint16(n.nlink), UID: e.UID, GID: e.GID, Size: uint64(n.size),
		Gen: p.generation(n.ino), Flags: uint32(e.Flags), Dirdepth: n.depth}
	mtime := e.ModTime
	if mtime.IsZero() {
		mtime = time.Unix(p.sb.Time, 0)
	}
	s, ns := mtime.Unix(), int32(mtime.Nanosecond())
	d.Atime, d.Mtime, d.Ctime, d.Birthtime = s, s, s, s
	d.Atimensec, d.Mtimensec, d.Ctimensec, d.Birthtimensec = ns, ns, ns, ns
	if n.inline() {
		var b [maxInline]byte
		copy(b[:], e.Link)
		decode(b[:], &d.DB)
		decode(b[ndaddr*8:], &d.IB)
		return d
	}
	for _, x := range n.extents {
		d.Blocks += uint64(x.frags) * (fsize / sectorSize)
	}
	d.Blocks += uint64(len(n.indirs)) * (bsize / sectorSize)
	for i := range d.DB {
		d.DB[i] = n.addr(int64(i))
	}
	base, span := int64(ndaddr), int64(1)
	for i := range d.IB {
		d.IB[i] = n.indirAddr(i, base)
		span *= bsize / 8
		base += span
	}
	return d
}

// generation is di_gen: it must differ between uses of an inode number and never
// be 0. This is the finaliser of splitmix64 over the identity and the number.
func (p *Plan) generation(ino uint32) uint32 {
	z := p.id + uint64(ino)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return max(uint32(z^z>>31), 1)
}

// addr is the fragment address of a block of the file, 0 in a hole.
func (n *inode) addr(lbn int64) int64 {
	i := sort.Search(len(n.extents), func(i int) bool { return n.extents[i].lbn > lbn }) - 1
	if i < 0 {
		return 0
	}
	x := n.extents[i]
	if at := (lbn - x.lbn) * frag; at < x.frags {
		return x.addr + at
	}
	return 0
}

func (n *inode) indirAddr(level int, lbn int64) int64 {
	for _, d := range n.indirs {
		if d.level == level && d.lbn == lbn {
			return d.addr
		}
	}
	return 0
}

// writeData writes what an inode points to: indirect blocks, then content.
func (p *Plan) writeData(w *window, n *inode) error {
	if err := n.writeIndirects(w); err != nil {
		return err
	}
	switch {
	case n.entry.Kind == tree.Dir:
		return n.writeBytes(w, n.dirBytes())
	case n.entry.Kind == tree.Symlink:
		return n.writeBytes(w, []byte(n.entry.Link))
	case n.entry.Open == nil: // it is empty
		return nil
	}
	r, err := n.entry.Open()
	if err != nil {
		return fmt.Errorf("write %s: %w", n.entry.Path, err)
	}
	if err = n.writeFile(w, r); err != nil {
		r.Close()
		return err
	}
	if err := r.Close(); err != nil {
		return fmt.Errorf("write %s: %w", n.entry.Path, err)
	}
	return nil
}

func (n *inode) writeIndirects(w *window) error {
	if len(n.indirs) == 0 {
		return nil
	}
	type key struct {
		level int
		lbn   int64
	}
	addr := make(map[key]int64, len(n.indirs))
	for _, d := range n.indirs {
		addr[key{d.level, d.lbn}] = d.addr
	}
	b := make([]byte, bsize)
	for _, d := range n.indirs {
		span := int64(1)
		for range d.level {
			span *= bsize / 8
		}
		for i := range int64(bsize / 8) {
			at := n.addr(d.lbn + i)
			if d.level > 0 {
				at = addr[key{d.level - 1, d.lbn + i*span}]
			}
			binary.LittleEndian.PutUint64(b[i*8:], uint64(at))
		}
		if err := w.put(d.addr*fsize, b); err != nil {
			return err
		}
	}
	return nil
}

// writeBytes writes content that is in memory; the last fragment is padded.
func (n *inode) writeBytes(w *window, b []byte) error {
	b = append(b, make([]byte, roundup(int64(len(b)), bsize)-int64(len(b)))...)
	for _, x := range n.extents {
		if err := w.put(x.addr*fsize, b[x.lbn*bsize:][:x.frags*fsize]); err != nil {
			return err
		}
	}
	return nil
}

// writeFile streams a file into its extents.
func (n *inode) writeFile(w *window, r io.Reader) error {
	fail := func(err error) error { return fmt.Errorf("write %s: %w", n.entry.Path, err) }
	pos := int64(0)
	short := func(err error, got int) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fail(fmt.Errorf("content ends after %d bytes, %d described", pos+int64(got), n.size))
		}
		return fail(err)
	}
	for _, x := range n.extents {
		if err := tree.Skip(r, x.lbn*bsize-pos); err != nil {
			return short(err, 0)
		}
		pos = x.lbn * bsize
		for off, left := x.addr*fsize, x.frags*fsize; left > 0; {
			b, err := w.space(off, left)
			if err != nil {
				return err
			}
			want := max(min(int64(len(b)), n.size-pos), 0)
			if got, err := io.ReadFull(r, b[:want]); err != nil {
				return short(err, got)
			}
			clear(b[want:])
			if err := w.done(off, b); err != nil {
				return err
			}
			pos += want
			off, left = off+int64(len(b)), left-int64(len(b))
		}
	}
	var one [1]byte
	switch k, err := io.ReadFull(r, one[:]); {
	case k > 0:
		return fail(fmt.Errorf("content goes on after %d bytes, %d described", n.size, n.size))
	case err != io.EOF:
		return fail(err)
	}
	return nil
}
