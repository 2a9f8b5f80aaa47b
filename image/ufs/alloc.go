package ufs

import (
	"sort"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
)

// geometry fills a superblock for a file system of frags fragments and at least
// so many inodes: as few equal cylinder groups as their maps allow.
func geometry(frags, inodes int64) (superblock, error) {
	sb := superblock{
		Sblkno: roundup(howmany[int32](sblockLoc+sblockSize, fsize), frag),
		Bsize:  bsize, Fsize: fsize, Frag: frag, Minfree: minFree,
		Bmask: ^(bsize - 1), Fmask: ^(fsize - 1), Qbmask: bsize - 1, Qfmask: fsize - 1,
		Bshift: log2(bsize), Fshift: log2(fsize), Fragshift: log2(frag), Fsbtodb: log2(fsize / sectorSize),
		Maxcontig: maxContig, Contigsumsize: min(maxContig, fsMaxClust), Maxbpg: bsize / 8,
		Sbsize: roundup[int32](int32(sizeofSuper), fsize), Nindir: bsize / 8, Inopb: bsize / inodeSize,
		Maxbsize: bsize, Clean: 1, OldFlags: flagsMoved, OldInodefmt: inodeFmt44, Maxsymlinklen: maxInline,
		Sblockloc: sblockLoc, Sblockactualloc: sblockLoc, Maxfilesize: maxFileSize(bsize),
		Avgfilesize: 16384, Avgfpdir: 64, // AVFILESIZ, AFPDIR
		Size: frags, Providersize: frags, Magic: magicUFS2,
	}
	sb.Cblkno = sb.Sblkno + roundup[int32](sblockSize/fsize, frag)
	sb.Iblkno = sb.Cblkno + frag
	if inodes > 1<<32-int64(sb.Inopb) || frags > maxFrags {
		return sb, diag.Inputf("layout ufs of %d bytes with %d inodes: larger than this writer makes", frags*fsize, inodes)
	}
	// Each fragment and each inode has its bit in the block of a group.
	for ncg := howmany(max(frags, inodes), 8*bsize); ; ncg++ {
		fpg, ipg := roundup(howmany(frags, ncg), frag), roundup(howmany(inodes, ncg), int64(sb.Inopb))
		sb.Ncg, sb.Fpg, sb.Ipg = uint32(ncg), int32(fpg), uint32(ipg)
		sb.Dblkno = sb.Iblkno + int32(ipg/(inodesPerFrag))
		sb.Cssize = roundup(int32(ncg)*int32(sizeofCsum), fsize)
		if int64(sb.Dblkno)+int64(sb.Cssize/fsize) >= frags-(ncg-1)*fpg {
			return sb, diag.Inputf("layout ufs of %d bytes: too small for %d inodes", frags*fsize, inodes)
		}
		if sb.mapBytes() < bsize-8 { // newfs leaves the same margin
			break
		}
	}
	sb.Cgsize = int32(roundup(sb.mapBytes(), fsize))
	sb.Metaspace = int64(sb.Fpg) * minFree / 200 / frag * frag // half of minfree, as newfs
	sb.Csaddr = sb.cgData(0)
	sb.Dsize = sb.Size - int64(sb.Sblkno) - int64(sb.Ncg)*int64(sb.Dblkno-sb.Sblkno) - int64(sb.Cssize/fsize)
	return sb, nil
}

const (
	inodesPerFrag = fsize / inodeSize
	maxFrags      = 16 << 40 / fsize // keeps the map of fragments below 512 MiB
)

// smallest is a number of fragments geometry accepts, not far above the least.
func smallest(inodes int64) int64 {
	for frags := roundup(max(64, inodes/inodesPerFrag), frag); ; frags += roundup(max(1, frags>>10), frag) {
		if _, err := geometry(frags, inodes); err == nil || frags > maxFrags {
			return frags
		}
	}
}

// allocator hands out fragments from low addresses to high; what tails of files
// leave of a block is kept for the next tails.
type allocator struct {
	used    bitmap
	size    int64
	next    int64         // no free whole block is below it
	partial [frag][]int64 // free runs of 1…7 fragments
	lacking int64         // fragments asked for that were not there
}

// blocks appends n blocks that begin with block lbn of a file to exts. Behind the
// end of the file system it goes on, and counts what is lacking.
func (a *allocator) blocks(exts []extent, lbn, n int64) []extent {
	for ; n > 0; lbn, n = lbn+1, n-1 {
		for a.next/frag < int64(len(a.used)) && a.used[a.next/frag] != 0 {
			a.next += frag
		}
		if a.next+frag > a.size {
			a.lacking += frag
		}
		if a.next/frag == int64(len(a.used)) {
			a.used = append(a.used, 0)
		}
		a.used[a.next/frag] = 0xff
		if k := len(exts) - 1; k >= 0 && exts[k].addr+exts[k].frags == a.next && exts[k].lbn+exts[k].frags/frag == lbn {
			exts[k].frags += frag
		} else {
			exts = append(exts, extent{lbn, a.next, frag})
		}
		a.next += frag
	}
	return exts
}

// block returns one block.
func (a *allocator) block() int64 { return a.blocks(nil, 0, 1)[0].addr }

// tail returns k fragments, fewer than a block, from the fullest block with room.
func (a *allocator) tail(k int64) int64 {
	for have := k; have < frag; have++ {
		if l := a.partial[have]; len(l) > 0 {
			addr := l[len(l)-1]
			a.partial[have] = l[:len(l)-1]
			a.take(addr, k, have)
			return addr
		}
	}
	addr := a.block()
	a.used[addr/frag] = 0
	a.take(addr, k, frag)
	return addr
}

func (a *allocator) take(addr, k, have int64) {
	a.used.setRun(addr, k)
	if have > k {
		a.partial[have-k] = append(a.partial[have-k], addr+k)
	}
}

// place lays all data out in a file system of frags fragments. It returns how
// many fragments were lacking at least; the plan is of use only when none were.
func (p *Plan) place(o Options, frags, inodes int64) (lacking int64, err error) {
	if data := p.dataFrags(); data > frags {
		return data - frags, nil
	}
	if p.sb, err = geometry(frags, inodes); err != nil {
		return 0, err
	}
	sb := &p.sb
	copy(sb.Volname[:], o.Label)
	sb.ID = [2]uint32{uint32(p.id), uint32(p.id >> 32)}
	sb.Time, sb.Mtime = o.unix(), o.unix()
	if o.SoftUpdates {
		sb.Flags = flagSoftdep
	}
	a := &allocator{used: newBitmap(int64(sb.Ncg) * int64(sb.Fpg)), size: sb.Size}
	for c := range sb.Ncg {
		a.used.setRun(sb.cgMeta(c), sb.cgData(c)-sb.cgMeta(c))
	}
	cs := int64(sb.Cssize / fsize)
	a.used.setRun(sb.Csaddr, cs)
	if over := cs % frag; over > 0 {
		a.partial[frag-over] = append(a.partial[frag-over], sb.Csaddr+cs)
	}
	for i := range p.nodes {
		p.nodes[i].place(a)
	}
	if p.used = a.used; a.lacking == 0 {
		p.count()
	}
	return a.lacking, nil
}

// dataFrags is what files and directories take without indirect blocks.
func (p *Plan) dataFrags() int64 {
	total := int64(0)
	for i := range p.nodes {
		n := &p.nodes[i]
		for _, r := range n.runs() {
			total += r.frags
		}
		if blocks := howmany(n.size, bsize); blocks > 0 && blocks <= ndaddr && !n.inline() {
			total -= frag - howmany(n.size-(blocks-1)*bsize, fsize)
		}
	}
	return total
}

// count fills the maps of inodes and the superblock's totals.
func (p *Plan) count() {
	sb := &p.sb
	p.inUse = newBitmap(int64(sb.Ncg) * int64(sb.Ipg))
	p.inUse.setRun(0, rootIno+int64(len(p.nodes)))
	p.ndir = make([]int32, sb.Ncg)
	for i := range p.nodes {
		if p.nodes[i].entry.Kind == tree.Dir {
			p.ndir[p.nodes[i].ino/sb.Ipg]++
		}
	}
	sb.Cstotal = csumTotal{}
	for c := range sb.Ncg {
		_, cs := encodeCG(sb, c, cgHeader{}, p.used, p.inUse, p.ndir[c])
		sb.Cstotal.add(cs)
	}
}

func (t *csumTotal) add(cs csum) {
	t.Ndir += int64(cs.Ndir)
	t.Nbfree += int64(cs.Nbfree)
	t.Nifree += int64(cs.Nifree)
	t.Nffree += int64(cs.Nffree)
}

// place allocates the indirect blocks of a file, then its data, then its tail.
func (n *inode) place(a *allocator) {
	runs := n.runs()
	n.extents, n.indirs = nil, nil
	n.indirects(a, runs)
	blocks := howmany(n.size, bsize)
	for i, r := range runs {
		want := r.frags / frag
		tail := int64(frag)
		if i == len(runs)-1 && blocks <= ndaddr {
			tail = howmany(n.size-(blocks-1)*bsize, fsize)
		}
		if tail == frag {
			n.extents = a.blocks(n.extents, r.lbn, want)
			continue
		}
		n.extents = a.blocks(n.extents, r.lbn, want-1)
		n.extents = append(n.extents, extent{blocks - 1, a.tail(tail), tail})
	}
}

// indirects allocates what leads to runs: single, double and triple.
func (n *inode) indirects(a *allocator, runs []extent) {
	base, span := int64(ndaddr), int64(1)
	for level := range niaddr {
		n.indirectTree(a, runs, level, base, span)
		span *= bsize / 8
		base += span
	}
}

// indirectTree allocates the tree whose top has the level and begins at lbn;
// each address in the top leads to span blocks.
func (n *inode) indirectTree(a *allocator, runs []extent, level int, lbn, span int64) {
	end := lbn + span*(bsize/8)
	// Drop the runs that are before the tree.
	i := sort.Search(len(runs), func(i int) bool { return runs[i].lbn+runs[i].frags/frag > lbn })
	if i == len(runs) || runs[i].lbn >= end {
		return
	}
	n.indirs = append(n.indirs, indirect{level, lbn, a.block()})
	if level == 0 {
		return
	}
	for at := lbn; at < end; at += span {
		n.indirectTree(a, runs[i:], level-1, at, span/(bsize/8))
	}
}
