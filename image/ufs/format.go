// Package ufs writes and reads UFS2 file systems, little-endian, as FreeBSD 15.1
// defines them (sys/ufs/ffs/fs.h, sys/ufs/ufs/dinode.h, sys/ufs/ufs/dir.h).
//
// [Layout] gives every inode, directory, indirect block and file its place
// before anything is written; [Plan.Write] then writes forward, the superblock
// last. [Open] reads any UFS2 file system of the same byte order, [FS.Check]
// does what fsck_ffs -n does, [Verify] compares an image with its tree.
//
// Written are blocks of 32768 and fragments of 4096 bytes, with cluster maps as
// newfs(8) makes them. Left out: UFS1, big-endian, soft update journals,
// snapshots, extended attributes and ACLs, device nodes, check hashes (read, not
// written; FreeBSD accepts file systems without them, makefs(8) makes such).
//
// Units: a fragment address counts fragments from the start of the file system,
// a logical block number (lbn) counts blocks from the start of a file.
package ufs

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"unsafe"
)

// Sizes in bytes unless said otherwise.
const (
	sblockLoc  = 65536 // SBLOCK_UFS2: where the superblock is
	sblockSize = 8192  // SBLOCKSIZE: room for a superblock

	fsize = 4096          // what Layout uses for fs_fsize
	bsize = 32768         // and for fs_bsize
	frag  = bsize / fsize // fragments in a block

	minBsize   = 4096  // MINBSIZE
	maxBsize   = 65536 // MAXBSIZE
	maxFrag    = 8     // MAXFRAG
	sectorSize = 512   // DEV_BSIZE

	ndaddr     = 12  // UFS_NDADDR: direct addresses in an inode
	niaddr     = 3   // UFS_NIADDR: indirect addresses in an inode
	inodeSize  = 256 // sizeof(struct ufs2_dinode)
	maxInline  = (ndaddr + niaddr) * 8
	rootIno    = 2     // UFS_ROOTINO
	linkMax    = 65500 // UFS_LINK_MAX
	maxVolLen  = 32    // MAXVOLLEN, with its NUL
	maxContig  = 32    // fs_maxcontig: blocks in a transfer of 1 MiB (newfs)
	fsMaxClust = 16    // FS_MAXCONTIG: most entries of a cluster summary
	minFree    = 8     // MINFREE: per cent
	dirBlkSize = 512   // DIRBLKSIZ: entries never cross such a chunk
	maxName    = 255   // UFS_MAXNAMLEN
	maxLink    = 1023  // MAXPATHLEN less its NUL: longest symlink target
	maxPath    = 4096  // longest path this package follows
)

const (
	magicUFS2   = 0x19540119 // FS_UFS2_MAGIC
	magicBad    = 0x19960408 // FS_BAD_MAGIC: newfs did not finish
	magicCG     = 0x00090255 // CG_MAGIC
	flagsMoved  = -0x80      // FS_FLAGS_UPDATED as fs_old_flags' signed byte
	inodeFmt44  = 2          // FS_44INODEFMT
	sfSnapshot  = 0x00200000 // SF_SNAPSHOT
	flagSoftdep = 0x2        // FS_DOSOFTDEP
	flagCkHash  = 0x200      // FS_METACKHASH
	ckSuper     = 0x1        // CK_SUPERBLOCK
	ckCG        = 0x2        // CK_CYLGRP
	ckInode     = 0x4        // CK_INODE
)

// File types of di_mode (IFMT); shifted by 12 they are directory entry types.
const (
	ifMT   = 0o170000
	ifIFO  = 0o010000
	ifCHR  = 0o020000
	ifDIR  = 0o040000
	ifBLK  = 0o060000
	ifREG  = 0o100000
	ifLNK  = 0o120000
	ifSOCK = 0o140000
)

// superblock is struct fs of sys/ufs/ffs/fs.h.
type superblock struct {
	Firstfield      int32
	Unused1         int32
	Sblkno          int32 // fragments into a cylinder group: superblock copy
	Cblkno          int32 // cylinder group block
	Iblkno          int32 // inodes
	Dblkno          int32 // data
	OldCgoffset     int32
	OldCgmask       int32
	OldTime         int32
	OldSize         int32
	OldDsize        int32
	Ncg             uint32
	Bsize           int32
	Fsize           int32
	Frag            int32
	Minfree         int32 // per cent
	OldRotdelay     int32
	OldRps          int32
	Bmask           int32
	Fmask           int32
	Bshift          int32
	Fshift          int32
	Maxcontig       int32 // blocks
	Maxbpg          int32
	Fragshift       int32
	Fsbtodb         int32
	Sbsize          int32
	Spare1          [2]int32
	Nindir          int32 // addresses in an indirect block
	Inopb           uint32
	OldNspf         int32
	Optim           int32
	OldNpsect       int32
	OldInterleave   int32
	OldTrackskew    int32
	ID              [2]uint32
	OldCsaddr       int32
	Cssize          int32 // bytes
	Cgsize          int32 // bytes
	Spare2          int32
	OldNsect        int32
	OldSpc          int32
	OldNcyl         int32
	OldCpg          int32
	Ipg             uint32 // inodes in a cylinder group
	Fpg             int32  // fragments in a cylinder group
	OldCstotal      csum
	Fmod            int8
	Clean           int8
	Ronly           int8
	OldFlags        int8
	Fsmnt           [468]byte
	Volname         [maxVolLen]byte
	Swuid           uint64
	Pad             int32
	Cgrotor         int32
	Ocsp            [15]uint64
	Si              uint64
	OldCpc          int32
	Maxbsize        int32
	Unrefs          int64
	Providersize    int64 // fragments
	Metaspace       int64 // fragments
	SaveMaxfilesize uint64
	Sparecon64      [12]int64
	Sblockactualloc int64 // bytes
	Sblockloc       int64 // bytes
	Cstotal         csumTotal
	Time            int64
	Size            int64 // fragments
	Dsize           int64 // fragments
	Csaddr          int64 // fragment address
	Pendingblocks   int64
	Pendinginodes   uint32
	Snapinum        [20]uint32
	Avgfilesize     uint32
	Avgfpdir        uint32
	AvailableSpare  uint32
	Mtime           int64
	Sujfree         int32
	Sparecon32      [21]int32
	Ckhash          uint32
	Metackhash      uint32
	Flags           int32
	Contigsumsize   int32
	Maxsymlinklen   int32
	OldInodefmt     int32
	Maxfilesize     uint64
	Qbmask          int64
	Qfmask          int64
	State           int32
	OldPostblformat int32
	OldNrpos        int32
	Spare5          [2]int32
	Magic           int32
}

// csum is struct csum: what is free in one cylinder group.
type csum struct{ Ndir, Nbfree, Nifree, Nffree int32 }

// csumTotal is struct csum_total. Numclusters is not maintained: fsck wants 0.
type csumTotal struct {
	Ndir, Nbfree, Nifree, Nffree, Numclusters int64
	Spare                                     [3]int64
}

// cgHeader is struct cg, followed in its block by the maps.
type cgHeader struct {
	Firstfield    int32
	Magic         int32
	OldTime       int32
	Cgx           uint32
	OldNcyl       int16
	OldNiblk      int16
	Ndblk         uint32 // fragments in this group
	Cs            csum
	Rotor         uint32
	Frotor        uint32
	Irotor        uint32
	Frsum         [maxFrag]uint32 // runs of 1…7 free fragments within blocks
	OldBtotoff    int32
	OldBoff       int32
	Iusedoff      uint32 // bytes into the block, as are all …off
	Freeoff       uint32
	Nextfreeoff   uint32
	Clustersumoff uint32
	Clusteroff    uint32
	Nclusterblks  uint32
	Niblk         uint32
	Initediblk    uint32 // inodes beyond were never written
	Unrefs        uint32
	Sparecon32    int32
	Ckhash        uint32
	Time          int64
	Sparecon64    [3]int64
}

// dinode is struct ufs2_dinode of sys/ufs/ufs/dinode.h. A symlink shorter than
// 120 bytes is stored over DB and IB.
type dinode struct {
	Mode                                           uint16
	Nlink                                          uint16
	UID, GID                                       uint32
	Blksize                                        uint32
	Size                                           uint64
	Blocks                                         uint64 // of 512 bytes, indirect blocks included
	Atime, Mtime, Ctime, Birthtime                 int64
	Mtimensec, Atimensec, Ctimensec, Birthtimensec int32
	Gen                                            uint32
	Kernflags                                      uint32
	Flags                                          uint32 // chflags(2)
	Extsize                                        uint32
	Extb                                           [2]int64
	DB                                             [ndaddr]int64
	IB                                             [niaddr]int64
	Modrev                                         uint64
	Dirdepth                                       uint32 // directories: levels below the root
	Ckhash                                         uint32
	Spare                                          [2]uint32
}

// direntHeader is struct direct of sys/ufs/ufs/dir.h before its name.
type direntHeader struct {
	Ino    uint32
	Reclen uint16
	Type   uint8
	Namlen uint8
}

// fsrecovery is struct fsrecovery, at the end of the sector before the
// superblock: what fsck needs to find the copies.
type fsrecovery struct {
	Magic, Fsbtodb, Sblkno, Fpg int32
	Ncg                         uint32
}

const (
	sizeofSuper  = int(unsafe.Sizeof(superblock{}))
	sizeofCG     = int(unsafe.Sizeof(cgHeader{}))
	sizeofCsum   = int(unsafe.Sizeof(csum{}))
	sizeofDirent = int(unsafe.Sizeof(direntHeader{}))
)

var (
	_ [1376]byte      = [sizeofSuper]byte{}
	_ [168]byte       = [sizeofCG]byte{}
	_ [16]byte        = [sizeofCsum]byte{}
	_ [64]byte        = [unsafe.Sizeof(csumTotal{})]byte{}
	_ [inodeSize]byte = [unsafe.Sizeof(dinode{})]byte{}
	_ [8]byte         = [sizeofDirent]byte{}
	_ [20]byte        = [unsafe.Sizeof(fsrecovery{})]byte{}
	// Offsets that a misplaced pad would move.
	_ [712]byte  = [unsafe.Offsetof(superblock{}.Swuid)]byte{}
	_ [1008]byte = [unsafe.Offsetof(superblock{}.Cstotal)]byte{}
	_ [1116]byte = [unsafe.Offsetof(superblock{}.Snapinum)]byte{}
	_ [1372]byte = [unsafe.Offsetof(superblock{}.Magic)]byte{}
	_ [136]byte  = [unsafe.Offsetof(cgHeader{}.Time)]byte{}
	_ [112]byte  = [unsafe.Offsetof(dinode{}.DB)]byte{}
	_ [240]byte  = [unsafe.Offsetof(dinode{}.Dirdepth)]byte{}
)

// encode writes v at the beginning of b, little-endian; b must be long enough.
func encode(b []byte, v any) {
	if _, err := binary.Encode(b, binary.LittleEndian, v); err != nil {
		panic(err) // a format struct and its buffer are constants of this package
	}
}

// decode reads v from the beginning of b, which must be long enough.
func decode(b []byte, v any) {
	if _, err := binary.Decode(b, binary.LittleEndian, v); err != nil {
		panic(err)
	}
}

// ckhash is calculate_crc32c(~0, …) of sys/libkern/gsb_crc32.c: CRC-32C without
// the final inversion.
func ckhash(b []byte) uint32 { return ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func howmany[T int | int32 | int64 | uint32](n, unit T) T { return (n + unit - 1) / unit }
func roundup[T int | int32 | int64 | uint32](n, unit T) T { return howmany(n, unit) * unit }
func log2(n int32) int32                                  { return int32(bits.Len32(uint32(n)) - 1) }
func powerOf2(n int32) bool                               { return n > 0 && n&(n-1) == 0 }

// bitmap is a set of small numbers, the lowest bit of a byte first.
type bitmap []byte

func newBitmap(n int64) bitmap    { return make(bitmap, howmany(n, 8)) }
func (m bitmap) has(i int64) bool { return m[i>>3]&(1<<(i&7)) != 0 }
func (m bitmap) set(i int64)      { m[i>>3] |= 1 << (i & 7) }
func (m bitmap) setRun(i, n int64) { // n from i
	for end := i + n; i < end; i++ {
		m.set(i)
	}
}

// Addresses within the file system, in fragments (the cg… macros of fs.h).

func (sb *superblock) cgBase(c uint32) int64 { return int64(c) * int64(sb.Fpg) }
func (sb *superblock) cgData(c uint32) int64 { return sb.cgBase(c) + int64(sb.Dblkno) }

// cgMeta is where a group's own structures begin; before it, group 0 has the
// boot area and the superblock, the others have data.
func (sb *superblock) cgMeta(c uint32) int64 {
	if c == 0 {
		return 0
	}
	return sb.cgBase(c) + int64(sb.Sblkno)
}

// cgFrags is cg_ndblk: how many fragments the group has.
func (sb *superblock) cgFrags(c uint32) int64 {
	return min(int64(sb.Fpg), sb.Size-sb.cgBase(c))
}

// inodeOff is the byte offset of an inode.
func (sb *superblock) inodeOff(ino uint32) int64 {
	return (sb.cgBase(ino/sb.Ipg)+int64(sb.Iblkno))*int64(sb.Fsize) + int64(ino%sb.Ipg)*inodeSize
}

// mapBytes is CGSIZE of fs.h: the bytes of a cylinder group and its maps.
func (sb *superblock) mapBytes() int64 {
	n := int64(sizeofCG) + howmany(int64(sb.Ipg), 8) + howmany(int64(sb.Fpg), 8) + 4
	if sb.Contigsumsize > 0 {
		n += 4*int64(sb.Contigsumsize) + howmany(int64(sb.Fpg>>sb.Fragshift), 8)
	}
	return n
}

// blockFrags is how many fragments hold block lbn of a file of size bytes
// (sblksize of fs.h).
func (sb *superblock) blockFrags(size, lbn int64) int64 {
	if lbn >= ndaddr || size >= (lbn+1)*int64(sb.Bsize) {
		return int64(sb.Frag)
	}
	return howmany(size-lbn*int64(sb.Bsize), int64(sb.Fsize))
}

func (sb *superblock) label() string {
	s, _, _ := bytes.Cut(sb.Volname[:], []byte{0})
	return string(s)
}

func maxFileSize(bsize int64) uint64 {
	n := uint64(bsize*ndaddr - 1)
	for i, per := 0, uint64(bsize); i < niaddr; i++ {
		per *= uint64(bsize / 8)
		n += per
	}
	return n
}

// encodeCG returns the block of cylinder group c, Cgsize bytes, from the maps
// of the whole file system. h supplies what the maps do not say (times, rotors,
// Initediblk, Unrefs, Ckhash); its other fields are computed.
func encodeCG(sb *superblock, c uint32, h cgHeader, used, inodes bitmap, ndir int32) ([]byte, csum) {
	h = cgHeader{OldTime: h.OldTime, Rotor: h.Rotor, Frotor: h.Frotor, Irotor: h.Irotor,
		Initediblk: h.Initediblk, Unrefs: h.Unrefs, Ckhash: h.Ckhash, Time: h.Time,
		Magic: magicCG, Cgx: c, Niblk: sb.Ipg, Ndblk: uint32(sb.cgFrags(c)), Iusedoff: uint32(sizeofCG)}
	h.Freeoff = h.Iusedoff + howmany(sb.Ipg, 8)
	h.Nextfreeoff = h.Freeoff + howmany(uint32(sb.Fpg), 8)
	if sb.Contigsumsize > 0 {
		h.Nclusterblks = h.Ndblk >> sb.Fragshift
		h.Clustersumoff = roundup(h.Nextfreeoff, 4) - 4
		h.Clusteroff = h.Clustersumoff + uint32(sb.Contigsumsize+1)*4
		h.Nextfreeoff = h.Clusteroff + howmany(uint32(sb.Fpg>>sb.Fragshift), 8)
	}
	b := make([]byte, sb.Cgsize)
	h.Cs.Ndir, h.Cs.Nifree = ndir, int32(sb.Ipg)
	iused := bitmap(b[h.Iusedoff:])
	for i := range int64(sb.Ipg) {
		if inodes.has(int64(c)*int64(sb.Ipg) + i) {
			iused.set(i)
			h.Cs.Nifree--
		}
	}
	sb.encodeBlockMaps(b, &h, used)
	encode(b, &h)
	return b, h.Cs
}

// encodeBlockMaps fills the maps of fragments and clusters in the block b of a
// group, and their counts in its header.
func (sb *superblock) encodeBlockMaps(b []byte, h *cgHeader, used bitmap) {
	free, clusters := bitmap(b[h.Freeoff:]), bitmap(b[h.Clusteroff:])
	n, perBlock, run := int64(h.Ndblk), int64(sb.Frag), uint32(0)
	endCluster := func() {
		if run > 0 {
			at := b[h.Clustersumoff+4*min(run, uint32(sb.Contigsumsize)):]
			binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)+1)
			run = 0
		}
	}
	base := sb.cgBase(h.Cgx)
	for i := int64(0); i < n; i += perBlock {
		freeHere, fragRun := int64(0), int64(0)
		var runs [maxFrag + 1]uint32
		for j := i; j < min(i+perBlock, n); j++ {
			if used.has(base + j) {
				runs[fragRun]++
				fragRun = 0
				continue
			}
			free.set(j)
			freeHere++
			fragRun++
		}
		runs[fragRun]++
		if freeHere == perBlock {
			h.Cs.Nbfree++
			if sb.Contigsumsize > 0 {
				clusters.set(i / perBlock)
				run++
			}
			continue
		}
		h.Cs.Nffree += int32(freeHere)
		for k := 1; k < maxFrag; k++ {
			h.Frsum[k] += runs[k]
		}
		if sb.Contigsumsize > 0 {
			endCluster()
		}
	}
	if sb.Contigsumsize > 0 {
		endCluster()
	}
}
