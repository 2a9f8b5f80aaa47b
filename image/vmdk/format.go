// Package vmdk writes and reads streamOptimized VMDK images, the form that OVF
// appliances carry: one sparse extent with an embedded descriptor, grains of 64
// KiB compressed with zlib and written in ascending order, tables behind what they
// describe, so that an image is written forward and may be read forward.
//
// Read from VMware's "Virtual Disk Format 5.0" technical note, VirtualBox 7.1
// src/VBox/Storage/VMDK.cpp (vmdkReadBinaryMetaExtent, vmdkStreamReadSequential,
// vmdkImageDeleteOrClose) and QEMU 7.2 block/vmdk.c (vmdk_open_vmdk4). What they
// ask for beyond the note:
//
//   - overHead is where VirtualBox starts to read forward: the first grain.
//   - a grain inflates to exactly 64 KiB, the last one as well, so the capacity is
//     a multiple of 64 KiB.
//   - marker and compressed grain fit in 66048 bytes (vmdkAllocStreamBuffers).
//   - the footer is the second last sector; before it is its marker, behind it the
//     end-of-stream marker (QEMU reads all three at once).
//   - QEMU opens version 3 only for reading.
//
// A grain of zeros is left out, a grain table without grains too: its entry in the
// directory is 0. Left out: every other create type, redundant directories,
// parents. Sizes are in bytes unless a name or type says sectors of 512 bytes; all
// integers on disk are little-endian.
package vmdk

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/rig-freebsd/rig/internal/vdisk"
)

// lba is a number of sectors, or a sector of the file.
type lba uint64

// le16, le32 and le64 are little-endian integers without alignment: the header is
// packed.
type (
	le16 [2]byte
	le32 [4]byte
	le64 [8]byte
)

func (v le16) get() uint16 { return binary.LittleEndian.Uint16(v[:]) }
func (v le32) get() uint32 { return binary.LittleEndian.Uint32(v[:]) }
func (v le64) get() uint64 { return binary.LittleEndian.Uint64(v[:]) }

func put16(n uint16) (v le16)       { binary.LittleEndian.PutUint16(v[:], n); return v }
func put32(n uint32) (v le32)       { binary.LittleEndian.PutUint32(v[:], n); return v }
func put64[T ~uint64](n T) (v le64) { binary.LittleEndian.PutUint64(v[:], uint64(n)); return v }

// header is SparseExtentHeader of VMDK.cpp; the footer has the same form.
type header struct {
	Magic            [4]byte // "KDMV"
	Version          le32
	Flags            le32
	Capacity         le64 // sectors, a multiple of GrainSize
	GrainSize        le64 // sectors
	DescriptorOffset le64 // sectors
	DescriptorSize   le64 // sectors
	TableEntries     le32 // in a grain table
	RedundantOffset  le64 // sectors
	DirectoryOffset  le64 // sectors, atEnd in the header
	Overhead         le64 // sectors: where the first grain is
	Unclean          uint8
	LineEnds         [4]byte // lineEnds
	Compression      le16
	_                [433]byte
}

var _ [vdisk.Sector]byte = [unsafe.Sizeof(header{})]byte{}

const (
	magic   = "KDMV" // VMDK_SPARSE_MAGICNUMBER
	version = 3
	atEnd   = ^uint64(0) // VMDK_GD_AT_END: see the footer

	flagLineEnds   = 1 << 0  // LineEnds is valid
	flagCompressed = 1 << 16 // grains are
	flagMarkers    = 1 << 17 // there are
	flags          = flagLineEnds | flagCompressed | flagMarkers

	lineEnds           = "\n \r\n"
	compressionDeflate = 1
)

// marker is VMDKMARKER of VMDK.cpp in a sector of its own, before metadata.
type marker struct {
	Sectors le64 // of metadata behind this sector
	Size    le32 // 0: this is no grain
	Type    le32
	_       [496]byte
}

var _ [vdisk.Sector]byte = [unsafe.Sizeof(marker{})]byte{}

// Values of marker.Type: VMDK_MARKER_*.
const (
	markerEnd       = 0
	markerTable     = 1
	markerDirectory = 2
	markerFooter    = 3
)

// grainMarker stands before the zlib stream of a grain, which ends filled up to a
// whole sector.
type grainMarker struct {
	LBA  le64 // of the virtual disk
	Size le32 // of the stream
}

var _ [grainMarkerSize]byte = [unsafe.Sizeof(grainMarker{})]byte{}

const (
	grainMarkerSize = 12

	grainSize    = 64 << 10
	grainSectors = grainSize / vdisk.Sector
	maxStored    = 66048 // VirtualBox's buffer for marker and stream

	tableEntries = 512 // 4 bytes each
	tableSize    = 4 * tableEntries

	descriptorAt      lba = 1
	descriptorSectors lba = 20
	firstGrain        lba = 128 // as VMware's and VirtualBox's own images
)

// descriptor is the text inside the image.
func descriptor(capacity lba, o Options) string {
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RDONLY %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.uuid.image = "%s"
ddb.uuid.modification = "%[5]s"
ddb.uuid.parent = "00000000-0000-0000-0000-000000000000"
ddb.uuid.parentmodification = "00000000-0000-0000-0000-000000000000"
`, contentID(o.ID), capacity, o.Name, max(1, min(capacity/(255*63), 65535)), o.UUID)
}

// contentID is the CID of an image: never one of the two values that mean none.
func contentID(id string) uint32 {
	sum := sha256.Sum256([]byte("rig vmdk cid " + id))
	return binary.LittleEndian.Uint32(sum[:]) &^ (1 << 31)
}
