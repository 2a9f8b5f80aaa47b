// Package qcow2 writes and reads QCOW2 images, version 3, with clusters of 64 KiB
// that are stored as they are or compressed with deflate: the disks of QEMU, and
// so of libvirt, Proxmox, OpenStack.
//
// Read from QEMU 7.2 docs/interop/qcow2.txt and block/qcow2*.c. Clusters of zeros
// are not stored. Every cluster of the file is in use, in the order: header, data
// with the L2 table that describes it behind it, L1 table, refcount blocks,
// refcount table. Deflate's window is 4 KiB, because QEMU inflates with no more.
// Left out: backing files, snapshots, encryption, zstd, extended L2 entries,
// external data files, header extensions. Sizes are in bytes; all integers on disk
// are big-endian.
package qcow2

import "unsafe"

// header is QCowHeader of block/qcow2.h.
type header struct {
	Magic            [4]byte
	Version          uint32
	BackingOffset    uint64
	BackingSize      uint32
	ClusterBits      uint32
	Size             uint64 // of the virtual disk
	Encryption       uint32
	L1Entries        uint32
	L1Offset         uint64
	RefTableOffset   uint64
	RefTableClusters uint32
	Snapshots        uint32
	SnapshotsOffset  uint64
	Incompatible     uint64 // features
	Compatible       uint64
	Autoclear        uint64
	RefcountOrder    uint32 // refcounts of 1<<RefcountOrder bits
	HeaderLength     uint32
}

var _ [headerLength]byte = [unsafe.Sizeof(header{})]byte{}

const (
	magic         = "QFI\xfb"
	version       = 3
	headerLength  = 104 // QCOW2 v3 without the compression type: deflate
	refcountOrder = 4   // 16 bits

	clusterBits = 16
	clusterSize = 1 << clusterBits

	l2Entries   = clusterSize / 8
	refsInBlock = clusterSize / 2
	maxL1       = 32 << 20 / 8 // entries: QCOW_MAX_L1_SIZE

	window = 4096 // inflateInit2(-12) in block/qcow2-threads.c
)

// entry is one of the L1 or the L2 table.
type entry uint64

const (
	copied     entry = 1 << 63 // the refcount is 1
	compressed entry = 1 << 62

	offsetMask entry = 1<<56 - 1<<9 // of entries that are not compressed

	// A compressed one has the offset in 62-(clusterBits-8) bits, and above it the
	// number of sectors after the first that it touches.
	packedBits       = 62 - (clusterBits - 8)
	packedMask entry = 1<<packedBits - 1
)

func (e entry) offset() int64 { return int64(e & offsetMask) }

// packed returns where a compressed cluster begins and the sector's end up to which
// it may reach.
func (e entry) packed() (start, end int64) {
	start = int64(e & packedMask)
	sectors := int64(e&^(copied|compressed)) >> packedBits
	return start, start&^511 + (sectors+1)*512
}

func pack(start, n int64) entry {
	sectors := (start+n-1)/512 - start/512
	return compressed | entry(sectors)<<packedBits | entry(start)
}
