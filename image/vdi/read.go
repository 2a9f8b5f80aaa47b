package vdi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Reader reads the virtual disk of an image. It may be used by several goroutines
// at once.
type Reader struct {
	*vdisk.Blocks
	r      io.ReaderAt
	data   int64 // offset of the first block
	blocks []uint32
}

// Open reads header and map of an image of size bytes and checks them. No more
// memory is allocated than the image is long.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	v, err := open(r, size)
	if err != nil {
		return nil, fmt.Errorf("open vdi: %w", err)
	}
	return v, nil
}

func open(r io.ReaderAt, size int64) (*Reader, error) {
	var h header
	b := make([]byte, binary.Size(&h))
	if err := vdisk.ReadFull(r, b, 0); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &h); err != nil {
		return nil, err
	}
	disk, err := h.check(size)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	v := &Reader{r: r, data: int64(h.DataOffset), blocks: make([]uint32, h.Blocks)}
	b = make([]byte, 4*len(v.blocks))
	if err := vdisk.ReadFull(r, b, int64(h.MapOffset)); err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, v.blocks); err != nil {
		return nil, err
	}
	if err := v.checkMap(h.Allocated); err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	v.Blocks = vdisk.NewBlocks(disk, readSize, v.fill)
	return v, nil
}

// check returns the size of the virtual disk.
func (h *header) check(size int64) (int64, error) {
	disk := uint64(h.DiskSize[0]) | uint64(h.DiskSize[1])<<32
	switch {
	case h.Signature != signature:
		return 0, errors.New("not a VDI: the signature is not there")
	case h.Version != version || h.HeaderSize != headerSize || h.Type != typeDynamic || h.BlockSize != blockSize || h.BlockExtra != 0:
		return 0, fmt.Errorf("version %d.%d, type %d, blocks of %d bytes; only dynamic images of version 1.1 with blocks of 1 MiB are supported",
			h.Version>>16, h.Version&0xffff, h.Type, h.BlockSize)
	case h.Legacy.SectorSize != vdisk.Sector || h.LCHS.SectorSize != vdisk.Sector:
		return 0, errors.New("sectors are not of 512 bytes")
	case h.UUID == uuid{} || h.Modified == uuid{}:
		return 0, errors.New("a UUID is nil")
	case h.Parent != uuid{}:
		return 0, errors.New("it has a parent")
	case disk == 0 || disk%vdisk.Sector != 0 || disk > math.MaxInt64-blockSize || vdisk.Align(int64(disk), blockSize)/blockSize != int64(h.Blocks):
		return 0, fmt.Errorf("%d blocks for a disk of %d bytes", h.Blocks, disk)
	case h.MapOffset < mapOffset || int64(h.MapOffset)+4*int64(h.Blocks) > int64(h.DataOffset):
		return 0, fmt.Errorf("map at %d, data at %d", h.MapOffset, h.DataOffset)
	case h.Allocated > h.Blocks || size != int64(h.DataOffset)+int64(h.Allocated)*blockSize:
		return 0, fmt.Errorf("%d blocks in an image of %d bytes", h.Allocated, size)
	}
	return int64(disk), nil
}

// checkMap asks for each of the allocated blocks once.
func (v *Reader) checkMap(allocated uint32) error {
	seen, n := make([]bool, allocated), uint32(0)
	for i, b := range v.blocks {
		switch {
		case b == unallocated || b == zeroBlock:
			continue
		case b >= allocated:
			return fmt.Errorf("block %d is stored as %d of %d", i, b, allocated)
		case seen[b]:
			return fmt.Errorf("block %d is stored as %d, as is another", i, b)
		}
		seen[b] = true
		n++
	}
	if n != allocated {
		return fmt.Errorf("%d of %d stored blocks are in use", n, allocated)
	}
	return nil
}

// Allocated reports whether a block is stored that holds any of the n bytes at
// off.
func (v *Reader) Allocated(off, n int64) bool {
	for i := off / blockSize; i*blockSize < min(off+n, v.Size()); i++ {
		if v.blocks[i] < zeroBlock {
			return true
		}
	}
	return false
}

// readSize is what is read at once; it divides a block.
const readSize = 64 << 10

func (v *Reader) fill(i int64, b []byte) error {
	block, at := i*readSize/blockSize, i*readSize%blockSize
	if v.blocks[block] >= zeroBlock {
		clear(b)
		return nil
	}
	if err := vdisk.ReadFull(v.r, b, v.data+int64(v.blocks[block])*blockSize+at); err != nil {
		return fmt.Errorf("vdi block %d: %w", block, err)
	}
	return nil
}

// Verify reads the image of n bytes back and compares it with the source it was
// made from: header, map, every block.
func Verify(img io.ReaderAt, n int64, src vdisk.Source) error {
	v, err := Open(img, n)
	if err == nil {
		err = vdisk.Verify(v, src, vdisk.Sector)
	}
	if err != nil {
		return fmt.Errorf("verify vdi: %w", err)
	}
	return nil
}
