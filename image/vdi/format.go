// Package vdi writes and reads dynamic VDI images, version 1.1, with blocks of 1
// MiB: the disks VirtualBox attaches as they are.
//
// Read from VirtualBox 7.1 src/VBox/Storage/VDICore.h (structures) and VDI.cpp
// (vdiValidateHeader: both geometries say 512 bytes a sector, neither UUID is nil)
// and QEMU 7.2 block/vdi.c. A block of zeros is not stored. Left out: fixed and
// differencing images, version 0. Sizes are in bytes; all integers on disk are
// little-endian.
package vdi

import (
	"unsafe"

	"github.com/rig-freebsd/rig/internal/vdisk"
)

// uuid is RTUUID: the first three fields little-endian.
type uuid [16]byte

func newUUID(s string) (uuid, error) {
	b, err := vdisk.ParseUUID(s)
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5], b[6], b[7] = b[5], b[4], b[7], b[6]
	return b, err
}

// geometry is VDIDISKGEOMETRY.
type geometry struct {
	Cylinders  uint32 // 0: to be guessed from the size
	Heads      uint32
	Sectors    uint32
	SectorSize uint32
}

// header is VDIPREHEADER with VDIHEADER1PLUS behind it. In Go's alignment the
// fields lie as in the packed C structures, but for DiskSize.
type header struct {
	Info      [64]byte
	Signature uint32
	Version   uint32

	HeaderSize  uint32 // from here on
	Type        uint32
	Flags       uint32
	Comment     [256]byte
	MapOffset   uint32
	DataOffset  uint32
	Legacy      geometry
	_           uint32
	DiskSize    [2]uint32 // low word, high word
	BlockSize   uint32
	BlockExtra  uint32
	Blocks      uint32
	Allocated   uint32 // blocks
	UUID        uuid
	Modified    uuid // changes with the content
	Parent      uuid
	ParentState uuid
	LCHS        geometry
}

var _ [72 + headerSize]byte = [unsafe.Sizeof(header{})]byte{}

const (
	info        = "<<< Oracle VirtualBox Disk Image >>>\n" // VDI_IMAGE_FILE_INFO
	signature   = 0xbeda107f                               // VDI_IMAGE_SIGNATURE
	version     = 1<<16 | 1                                // VDI_IMAGE_VERSION
	headerSize  = 400                                      // sizeof(VDIHEADER1PLUS)
	typeDynamic = 1                                        // VDI_IMAGE_TYPE_NORMAL

	blockSize   = 1 << 20
	mapOffset   = 512
	dataAlign   = 1 << 20        // VDI_DATA_ALIGN
	unallocated = ^uint32(0)     // VDI_IMAGE_BLOCK_FREE; of the map
	zeroBlock   = ^uint32(0) - 1 // VDI_IMAGE_BLOCK_ZERO; read only
	maxBlocks   = zeroBlock - 1
)

// dataOffset is where the first block is: behind the map of n blocks.
func dataOffset(n int64) int64 { return vdisk.Align(mapOffset+4*n, dataAlign) }
