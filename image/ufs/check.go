package ufs

import (
	"bytes"
	"errors"
	"fmt"
)

const maxProblems = 100

// problems collects what is wrong, up to a bound.
type problems struct {
	errs []error
	more int
}

func (p *problems) add(format string, args ...any) {
	if len(p.errs) < maxProblems {
		p.errs = append(p.errs, fmt.Errorf(format, args...))
	} else {
		p.more++
	}
}

func (p *problems) err() error {
	if p.more > 0 {
		p.errs = append(p.errs, fmt.Errorf("and %d more problems", p.more))
	}
	return errors.Join(p.errs...)
}

// checker holds what the passes of Check find out.
type checker struct {
	problems
	f      *FS
	groups []cgHeader
	used   bitmap // fragments that are metadata or belong to a file
	inUse  bitmap // inodes
	ndir   []int32
	state  []([]inodeState) // by group, the initialised inodes
	depths bool             // some directory has a dirdepth
}

type inodeState struct {
	mode  uint16
	nlink uint16
	refs  uint32 // names found
	depth uint32 // di_dirdepth
}

// Check does what fsck_ffs -n does: it reads all metadata and compares addresses,
// link counts, maps and totals with each other. The error lists every
// inconsistency, up to a hundred.
func (f *FS) Check() error {
	sb := &f.sb
	c := &checker{f: f, used: newBitmap(int64(sb.Ncg) * int64(sb.Fpg)), inUse: newBitmap(int64(sb.Ncg) * int64(sb.Ipg))}
	if sb.Clean != 1 || sb.Flags&0x5 != 0 { // FS_UNCLEAN, FS_NEEDSFSCK
		c.add("superblock: not clean: clean %d, flags %#x", sb.Clean, sb.Flags)
	}
	for g := range sb.Ncg {
		c.used.setRun(sb.cgMeta(g), sb.cgData(g)-sb.cgMeta(g))
	}
	c.used.setRun(sb.Csaddr, int64(sb.Cssize/sb.Fsize))
	c.inUse.setRun(0, rootIno)
	for g := range sb.Ncg {
		c.group(g)
	}
	c.names()
	c.links()
	c.maps()
	if err := c.err(); err != nil {
		return fmt.Errorf("check ufs: %w", err)
	}
	return nil
}

// group reads the headers and the inodes of a cylinder group.
func (c *checker) group(g uint32) {
	sb := &c.f.sb
	c.groups, c.ndir, c.state = append(c.groups, cgHeader{}), append(c.ndir, 0), append(c.state, nil)
	b := make([]byte, sb.Bsize)
	if err := c.f.read(b[:sizeofSuper], (sb.cgBase(g)+int64(sb.Sblkno))*int64(sb.Fsize)); err != nil {
		c.add("cylinder group %d: superblock copy: %w", g, err)
	}
	var dup superblock
	decode(b, &dup)
	if dup.Magic != sb.Magic || dup.Fpg != sb.Fpg || dup.Ipg != sb.Ipg || dup.Bsize != sb.Bsize || dup.Fsize != sb.Fsize || dup.ID != sb.ID {
		c.add("cylinder group %d: the copy of the superblock is of another file system", g)
	}
	if err := c.f.read(b, (sb.cgBase(g)+int64(sb.Cblkno))*int64(sb.Fsize)); err != nil {
		c.add("cylinder group %d: %w", g, err)
		return
	}
	h := &c.groups[g]
	decode(b, h)
	if h.Magic != magicCG || h.Cgx != g || h.Niblk != sb.Ipg || h.Initediblk > sb.Ipg || h.Initediblk%sb.Inopb != 0 {
		c.add("cylinder group %d: bad header: magic %#x, number %d, %d inodes, %d initialised",
			g, uint32(h.Magic), h.Cgx, h.Niblk, h.Initediblk)
		h.Initediblk = min(sb.Ipg, h.Initediblk/sb.Inopb*sb.Inopb)
	}
	if c.hashed(ckCG) {
		clear(b[132:136])
		if sum := ckhash(b[:sb.Cgsize]); sum != h.Ckhash {
			c.add("cylinder group %d: check hash is %#08x, its content gives %#08x", g, h.Ckhash, sum)
		}
	}
	c.state[g] = make([]inodeState, h.Initediblk)
	for i := uint32(0); i < h.Initediblk; i += sb.Inopb {
		first := g*sb.Ipg + i
		if err := c.f.read(b, sb.inodeOff(first)); err != nil {
			c.add("inode %d: %w", first, err)
			return
		}
		for j := range sb.Inopb {
			if first+j >= rootIno {
				c.inode(first+j, b[j*inodeSize:][:inodeSize])
			}
		}
	}
}

func (c *checker) hashed(kind uint32) bool {
	return c.f.sb.Flags&flagCkHash != 0 && c.f.sb.Metackhash&kind != 0
}

var zeroInode [inodeSize]byte

// inode checks one inode by itself and marks its blocks.
func (c *checker) inode(ino uint32, b []byte) {
	if bytes.Equal(b, zeroInode[:]) {
		return
	}
	var d dinode
	decode(b, &d)
	if d.Mode&ifMT == 0 {
		if d.Mode != 0 || d.Size != 0 || d.DB != [ndaddr]int64{} || d.IB != [niaddr]int64{} {
			c.add("inode %d: partially allocated", ino)
		}
		return
	}
	sb := &c.f.sb
	if c.hashed(ckInode) {
		clear(b[244:248])
		if sum := ckhash(b); sum != d.Ckhash {
			c.add("inode %d: check hash is %#08x, its content gives %#08x", ino, d.Ckhash, sum)
		}
	}
	c.inUse.set(int64(ino))
	c.state[ino/sb.Ipg][ino%sb.Ipg] = inodeState{mode: d.Mode, nlink: d.Nlink, depth: d.Dirdepth}
	switch d.Mode & ifMT {
	case ifDIR:
		c.ndir[ino/sb.Ipg]++
		c.depths = c.depths || d.Dirdepth != 0
	case ifREG, ifLNK:
	case ifCHR, ifBLK:
		if d.Size != 0 {
			c.add("inode %d: device of %d bytes", ino, d.Size)
		}
		return // DB[0] is the device
	case ifIFO, ifSOCK:
		if d.Size != 0 {
			c.add("inode %d: special file of %d bytes", ino, d.Size)
			return
		}
	default:
		c.add("inode %d: mode %#o has no file type", ino, d.Mode)
		return
	}
	c.blocks(ino, &d)
}

// blocks marks the blocks of an inode and checks what it says of them.
func (c *checker) blocks(ino uint32, d *dinode) {
	sb := &c.f.sb
	if d.inline() {
		var b [maxInline]byte
		encode(b[:], &d.DB)
		encode(b[ndaddr*8:], &d.IB)
		if len(bytes.Trim(b[d.Size:], "\x00")) > 0 || bytes.IndexByte(b[:d.Size], 0) >= 0 {
			c.add("inode %d: symlink of %d bytes with a NUL or more behind it", ino, d.Size)
		}
		if d.Blocks != 0 {
			c.add("inode %d: counts %d sectors, has 0", ino, d.Blocks)
		}
		return
	}
	count, last := int64(0), int64(-1)
	mark := func(lbn, addr, frags int64) error {
		count += frags
		last = max(last, lbn)
		for a := addr; a < addr+frags; a++ {
			if c.used.has(a) {
				c.add("inode %d: fragment %d is in use twice", ino, a)
			}
			c.used.set(a)
		}
		return nil
	}
	if err := c.f.walk(d, mark); err != nil {
		c.add("inode %d: %w", ino, err)
		return
	}
	for i, addr := range d.Extb {
		off := int64(i) * int64(sb.Bsize)
		switch n := min(howmany(int64(d.Extsize)-off, int64(sb.Fsize)), int64(sb.Frag)); {
		case addr == 0:
		case n <= 0 || !sb.addressOK(addr, n):
			c.add("inode %d: bad address %d of extended attributes", ino, addr)
		default:
			_ = mark(-1, addr, n)
		}
	}
	if sectors := uint64(count) * uint64(sb.Fsize/sectorSize); d.Blocks != sectors {
		c.add("inode %d: counts %d sectors, has %d", ino, d.Blocks, sectors)
	}
	if d.Size > 0 && last < (int64(d.Size)-1)/int64(sb.Bsize) {
		c.add("inode %d: %d bytes, but its last block is %d", ino, d.Size, last)
	}
}

// stateOf returns what is known of an inode, nil when it is free.
func (c *checker) stateOf(ino uint32) *inodeState {
	g := ino / c.f.sb.Ipg
	if g >= c.f.sb.Ncg || ino%c.f.sb.Ipg >= uint32(len(c.state[g])) {
		return nil
	}
	if s := &c.state[g][ino%c.f.sb.Ipg]; s.mode != 0 {
		return s
	}
	return nil
}

type dirJob struct {
	path        string
	ino, parent uint32
	depth       uint32
}

// names walks the directories from the root and counts the names of inodes.
func (c *checker) names() {
	root := c.stateOf(rootIno)
	if root == nil || root.mode&ifMT != ifDIR {
		c.add("inode %d: the root is no directory", rootIno)
		return
	}
	seen := map[uint32]bool{rootIno: true}
	for queue := []dirJob{{"/", rootIno, rootIno, 0}}; len(queue) > 0; queue = queue[1:] {
		for _, sub := range c.directory(queue[0]) {
			if seen[sub.ino] {
				c.add("%s: directory %d has a second name", sub.path, sub.ino)
				continue
			}
			seen[sub.ino] = true
			queue = append(queue, sub)
		}
	}
}

// directory checks one directory and returns those in it.
func (c *checker) directory(j dirJob) []dirJob {
	d, err := c.f.inode(j.ino)
	if err != nil {
		c.add("%s: %w", j.path, err)
		return nil
	}
	if c.depths && d.Dirdepth != j.depth { // all 0: made before FreeBSD 14
		c.add("%s: dirdepth is %d, not %d", j.path, d.Dirdepth, j.depth)
	}
	list, err := c.f.dirents(&d)
	if err != nil {
		c.add("%s: %w", j.path, err)
		return nil
	}
	var subs []dirJob
	names := make(map[string]bool, len(list))
	for i, e := range list {
		s := c.stateOf(e.ino)
		if s == nil {
			c.add("%s%s: leads to free inode %d", j.path, e.name, e.ino)
			continue
		}
		s.refs++
		if uint16(e.typ) != s.mode>>12 {
			c.add("%s%s: entry type is %d, mode %#o", j.path, e.name, e.typ, s.mode)
		}
		if names[e.name] {
			c.add("%s%s: two entries of one name", j.path, e.name)
		}
		names[e.name] = true
		switch {
		case i == 0 && e.ino != j.ino:
			c.add("%s: \".\" is inode %d, not %d", j.path, e.ino, j.ino)
		case i == 1 && e.ino != j.parent:
			c.add("%s: \"..\" is inode %d, not %d", j.path, e.ino, j.parent)
		case i > 1 && s.mode&ifMT == ifDIR:
			sub := dirJob{j.path + e.name + "/", e.ino, j.ino, j.depth + 1}
			if len(sub.path) > maxPath {
				c.add("%.60s…: path of %d bytes", sub.path, len(sub.path))
				continue
			}
			subs = append(subs, sub)
		}
	}
	return subs
}

// links compares link counts with the names found.
func (c *checker) links() {
	for g, group := range c.state {
		for i, s := range group {
			if s.mode == 0 || uint32(s.nlink) == s.refs {
				continue
			}
			ino := uint32(g)*c.f.sb.Ipg + uint32(i)
			if s.refs == 0 {
				c.add("inode %d: in use without a name", ino)
			} else {
				c.add("inode %d: link count is %d, names %d", ino, s.nlink, s.refs)
			}
		}
	}
}

// maps compares the maps and totals with what was found.
func (c *checker) maps() {
	sb := &c.f.sb
	sums := make([]byte, sb.Cssize)
	if err := c.f.read(sums, sb.Csaddr*int64(sb.Fsize)); err != nil {
		c.add("summary: %w", err)
		return
	}
	var total csumTotal
	have := make([]byte, sb.Cgsize)
	for g := range sb.Ncg {
		if err := c.f.read(have, (sb.cgBase(g)+int64(sb.Cblkno))*int64(sb.Fsize)); err != nil {
			c.add("cylinder group %d: %w", g, err)
			return
		}
		want, cs := encodeCG(sb, g, c.groups[g], c.used, c.inUse, c.ndir[g])
		total.add(cs)
		var there csum
		decode(sums[int(g)*sizeofCsum:], &there)
		if there != cs {
			c.add("cylinder group %d: summary is %+v, not %+v", g, there, cs)
		}
		c.groupMaps(g, have, want)
	}
	if total != sb.Cstotal {
		c.add("superblock: totals are %+v, not %+v", sb.Cstotal, total)
	}
}

func (c *checker) groupMaps(g uint32, have, want []byte) {
	var h, w cgHeader
	decode(have, &h)
	decode(want, &w)
	// fsck resets rotors that are out of range.
	if h.Rotor >= h.Ndblk || h.Frotor >= h.Ndblk || h.Irotor >= c.f.sb.Ipg {
		c.add("cylinder group %d: rotors %d, %d, %d are out of range", g, h.Rotor, h.Frotor, h.Irotor)
	}
	if h != w {
		c.add("cylinder group %d: header is %+v, not %+v", g, h, w)
	}
	part := func(what string, from, to uint32) {
		diff, first := 0, uint32(0)
		for i := from; i < to; i++ {
			if have[i] != want[i] {
				if diff++; diff == 1 {
					first = i - from
				}
			}
		}
		if diff > 0 {
			c.add("cylinder group %d: map of %s differs in %d bytes, the first at %d", g, what, diff, first)
		}
	}
	part("inodes", w.Iusedoff, w.Freeoff)
	part("free fragments", w.Freeoff, w.Freeoff+howmany(uint32(c.f.sb.Fpg), 8))
	if w.Clusteroff != 0 {
		part("clusters", w.Freeoff+howmany(uint32(c.f.sb.Fpg), 8), w.Nextfreeoff)
	}
}
