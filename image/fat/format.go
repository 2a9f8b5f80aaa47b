// Package fat formats and reads FAT12, FAT16 and FAT32 volumes with long names
// (VFAT), the file systems of EFI system partitions.
//
// References: Microsoft's "FAT32 File System Specification" 1.03 (FATGEN103) for
// the format, FreeBSD 15.1 sys/fs/msdosfs/{bpb.h,bootsect.h,direntry.h,fat.h} for
// the names of the fields and msdosfs_vfsops.c for what the kernel mounts,
// sbin/newfs_msdos/mkfs_msdos.c and tools/boot/install-boot.sh for defaults.
//
// A volume is laid out for a tree once, contiguously and in tree order; it is
// not a file system to be changed through this package. Owners, modes and flags
// have no place in the format: everything reads back as root:wheel, 0644 or
// 0755. Left out: links (refused), the NT lower-case flags when writing (a long
// name is written instead), code pages (short names are ASCII; other characters
// are in the long name), exFAT. Sizes are in bytes unless a name says sectors or
// clusters.
package fat

import (
	"encoding/binary"
	"unsafe"
)

// le16 and le32 are little-endian integers without alignment, as the byte arrays
// of bpb.h are.
type (
	le16 [2]byte
	le32 [4]byte
)

func (v le16) get() uint16 { return binary.LittleEndian.Uint16(v[:]) }
func (v le32) get() uint32 { return binary.LittleEndian.Uint32(v[:]) }

func put16(n uint16) (v le16) { binary.LittleEndian.PutUint16(v[:], n); return v }
func put32(n uint32) (v le32) { binary.LittleEndian.PutUint32(v[:], n); return v }

// bpb is struct byte_bpb50 of bpb.h with the jump and OEM name of bootsect.h
// before it.
type bpb struct {
	Jump         [3]byte
	OEM          [8]byte
	SectorSize   le16
	ClusterSize  uint8 // sectors
	Reserved     le16  // sectors
	FATs         uint8
	RootEntries  le16 // 0 on FAT32
	Sectors16    le16 // 0 when Sectors32 is used
	Media        uint8
	FATSectors16 le16 // 0 on FAT32
	Track        le16 // sectors
	Heads        le16
	Hidden       le32 // sectors before the volume
	Sectors32    le32
}

// bpb32 is what struct byte_bpb710 adds on FAT32.
type bpb32 struct {
	FATSectors32 le32
	ExtFlags     le16 // FATMIRROR clear: both FATs are alike
	Version      le16
	Root         le32 // cluster
	FSInfo       le16 // sector
	Backup       le16 // sector
	_            [12]byte
}

// extboot is struct extboot of bootsect.h.
type extboot struct {
	Drive     uint8
	Dirty     uint8 // bit 0: not cleanly unmounted
	Signature uint8 // 0x29: the fields below are valid
	Serial    le32
	Label     [11]byte
	Type      [8]byte // "FAT32   "; nothing may rely on it
}

// boot16 is the boot sector of FAT12 and FAT16 (struct bootsector50).
type boot16 struct {
	bpb
	extboot
	Code  [448]byte
	Magic [2]byte
}

// boot32 is the boot sector of FAT32 (struct bootsector710).
type boot32 struct {
	bpb
	bpb32
	extboot
	Code  [420]byte
	Magic [2]byte
}

// fsinfo is struct fsinfo of bpb.h.
type fsinfo struct {
	Sig1     [4]byte
	_        [480]byte
	Sig2     [4]byte
	Free     le32 // clusters
	NextFree le32 // cluster, a hint
	_        [12]byte
	Sig3     [4]byte
}

// dirent is struct direntry of direntry.h.
type dirent struct {
	Name       [11]byte
	Attr       uint8
	Case       uint8 // NT: lower-case base (0x08), extension (0x10)
	Hundredths uint8 // of CTime, 0 to 199
	CTime      le16
	CDate      le16
	ADate      le16
	ClusterHi  le16
	MTime      le16
	MDate      le16
	ClusterLo  le16
	Size       le32
}

// winent is struct winentry of direntry.h: 13 UTF-16 units of a long name.
type winent struct {
	Seq     uint8 // from 1; the first one on disk is the last part, with winLast
	Part1   [10]byte
	Attr    uint8 // attrLong
	_       uint8
	Sum     uint8 // winChksum of the short name
	Part2   [12]byte
	Cluster le16 // 0
	Part3   [4]byte
}

var (
	_ [36]byte         = [unsafe.Sizeof(bpb{})]byte{}
	_ [28]byte         = [unsafe.Sizeof(bpb32{})]byte{}
	_ [26]byte         = [unsafe.Sizeof(extboot{})]byte{}
	_ [bootSize]byte   = [unsafe.Sizeof(boot16{})]byte{}
	_ [bootSize]byte   = [unsafe.Sizeof(boot32{})]byte{}
	_ [bootSize]byte   = [unsafe.Sizeof(fsinfo{})]byte{}
	_ [direntSize]byte = [unsafe.Sizeof(dirent{})]byte{}
	_ [direntSize]byte = [unsafe.Sizeof(winent{})]byte{}
)

const (
	bootSize   = 512 // of each boot sector, whatever the sector size
	direntSize = 32

	attrVolume    = 0x08 // ATTR_VOLUME
	attrDirectory = 0x10 // ATTR_DIRECTORY
	attrArchive   = 0x20 // ATTR_ARCHIVE
	attrLong      = 0x0f // ATTR_WIN95
	attrMask      = 0x3f

	lowerBase = 0x08 // LCASE_BASE
	lowerExt  = 0x10 // LCASE_EXT

	slotEmpty   = 0x00 // SLOT_EMPTY: this entry and all behind it
	slotDeleted = 0xe5 // SLOT_DELETED
	slotE5      = 0x05 // SLOT_E5: the byte is 0xe5

	winLast  = 0x40 // WIN_LAST
	winSeq   = 0x3f // WIN_CNT
	winChars = 13   // WIN_CHARS
	winMax   = 255  // WIN_MAXLEN, UTF-16 units

	media       = 0xf8 // fixed disk
	fats        = 2
	defaultRoot = 512 // DEFRDE of mkfs_msdos.c: root entries of FAT12 and FAT16
	reserved32  = 32  // sectors before the first FAT on FAT32: FATGEN103, mkfs_msdos.c
	infoSector  = 1
	backupBoot  = 6 // FATGEN103: no other value is recommended

	firstCluster = 2        // CLUST_FIRST
	maxCluster   = 64 << 10 // MAXBSIZE: larger clusters do not mount (msdosfs_vfsops.c)
	maxDirSlots  = 65536    // entries of a directory: FATGEN103
	maxFile      = 1<<32 - 1
	maxPath      = 1024 // PATH_MAX of FreeBSD's sys/syslimits.h
)

// Cluster counts that decide the type (FATGEN103 "FAT Type Determination"). When
// formatting, a margin is kept where drivers are known to be off by a few:
// msdosfs_vfsops.c takes 4084 clusters for FAT16. FAT32 needs none, as it is
// recognised by RootEntries and FATSectors16; bsdinstall's 33292 KiB is 65528.
const (
	minClusters16 = 4085
	minClusters32 = 65525
	maxClusters32 = 0x0ffffff5
	typeMargin    = 16
)

// Values of FAT entries, for FAT32; the others are cut to their width.
const (
	clusterFree = 0
	clusterBad  = 0x0ffffff7 // CLUST_BAD
	clusterEOFS = 0x0ffffff8 // CLUST_EOFS: this and above end a chain
	clusterEOFE = 0x0fffffff // CLUST_EOFE, the one that is written
)

var (
	bootMagic = [2]byte{0x55, 0xaa}
	infoSig1  = [4]byte{'R', 'R', 'a', 'A'}
	infoSig2  = [4]byte{'r', 'r', 'A', 'a'}
	infoSig3  = [4]byte{0, 0, 0x55, 0xaa}
	oemName   = [8]byte{'B', 'S', 'D', '4', '.', '4', ' ', ' '} // newfs_msdos' default
	noName    = [11]byte{'N', 'O', ' ', 'N', 'A', 'M', 'E', ' ', ' ', ' ', ' '}
	dotName   = [11]byte{'.', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '}
	dotdot    = [11]byte{'.', '.', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '}

	// bootCode hands over to the next boot device (int 18h), then halts. It is
	// never run behind a GPT.
	bootCode = []byte{0xcd, 0x18, 0xf4, 0xeb, 0xfd}
)

// geometry is what a boot sector says, in useful units.
type geometry struct {
	bits        int   // 12, 16 or 32
	sectorSize  int64 // bytes
	clusterSize int64 // bytes
	sectors     uint32
	reserved    uint32 // sectors
	fatCopies   uint32
	fatSectors  uint32 // of one FAT
	rootEntries uint32 // 0 on FAT32
	rootCluster uint32 // FAT32
	clusters    uint32 // data clusters; their numbers are 2 to clusters+1
}

func (g *geometry) fatSize() int64      { return int64(g.fatSectors) * g.sectorSize }
func (g *geometry) fatOff(i int) int64  { return int64(g.reserved)*g.sectorSize + int64(i)*g.fatSize() }
func (g *geometry) rootOff() int64      { return g.fatOff(int(g.fatCopies)) }
func (g *geometry) rootSize() int64     { return int64(g.rootSectors()) * g.sectorSize }
func (g *geometry) dataOff() int64      { return g.rootOff() + g.rootSize() }
func (g *geometry) size() int64         { return int64(g.sectors) * g.sectorSize }
func (g *geometry) valid(c uint32) bool { return c >= firstCluster && c-firstCluster < g.clusters }

func (g *geometry) rootSectors() uint32 {
	return uint32((int64(g.rootEntries)*direntSize + g.sectorSize - 1) / g.sectorSize)
}

func (g *geometry) clusterOff(c uint32) int64 {
	return g.dataOff() + int64(c-firstCluster)*g.clusterSize
}

// countClusters is the number of whole clusters behind the metadata, 0 when that
// does not fit.
func (g *geometry) countClusters() int64 {
	return max(0, g.size()-g.dataOff()) / g.clusterSize
}

// fatSectorsFor is the size of one FAT for that many clusters.
func (g *geometry) fatSectorsFor(clusters int64) int64 {
	n := (clusters + firstCluster) * int64(g.bits)
	return (n + 8*g.sectorSize - 1) / (8 * g.sectorSize)
}

// mask is the value of FAT entries in this width.
func (g *geometry) mask(v uint32) uint32 {
	if g.bits == 32 {
		return v & 0x0fffffff
	}
	return v & (1<<g.bits - 1)
}

// marshal is the on-disk form of one of the structs above.
func marshal(v any) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		panic(err) // not a struct of fixed size
	}
	return b
}
