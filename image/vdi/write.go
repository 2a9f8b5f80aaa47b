package vdi

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Options describe an image.
type Options struct {
	UUID     string // of the image
	Modified string // UUID of this content; "" = UUID
}

// Write writes src as an image to dst from offset 0 on, blocks first and header
// last, and returns its length. The virtual disk is as long as src, rounded up to
// 512. The same input gives the same bytes. Memory is a few MiB and 4 bytes a
// block. After Write, use [Verify].
func Write(dst io.WriterAt, src vdisk.Source, o Options) (n int64, err error) {
	h, err := newHeader(src, o)
	if err != nil {
		return 0, fmt.Errorf("write vdi: %w", err)
	}
	blocks := make([]uint32, h.Blocks)
	for i := range blocks {
		blocks[i] = unallocated
	}
	end := int64(h.DataOffset)
	err = vdisk.InOrder(src.Chunks(blockSize), min(vdisk.Workers(0), 4), func() func(int64, *[]byte) error {
		return func(i int64, b *[]byte) error {
			if *b == nil {
				*b = make([]byte, blockSize)
			}
			return src.Read(*b, i*blockSize)
		}
	}, func(i int64, b *[]byte) error {
		if vdisk.IsZero(*b) {
			return nil
		}
		blocks[i] = h.Allocated
		h.Allocated++
		_, err := dst.WriteAt(*b, end)
		end += blockSize
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("write vdi: %w", err)
	}
	head := make([]byte, h.DataOffset)
	binary.Encode(head, binary.LittleEndian, h)
	binary.Encode(head[mapOffset:], binary.LittleEndian, blocks)
	if _, err := dst.WriteAt(head, 0); err != nil {
		return 0, fmt.Errorf("write vdi: %w", err)
	}
	return end, nil
}

func newHeader(src vdisk.Source, o Options) (*header, error) {
	if err := src.Validate(); err != nil {
		return nil, err
	}
	n := vdisk.Align(src.Size, blockSize) / blockSize
	if n > int64(maxBlocks) || dataOffset(n) > 1<<31 {
		return nil, fmt.Errorf("%d bytes are too many", src.Size)
	}
	size := vdisk.Align(src.Size, vdisk.Sector)
	h := &header{Signature: signature, Version: version, HeaderSize: headerSize, Type: typeDynamic,
		MapOffset: mapOffset, DataOffset: uint32(dataOffset(n)), DiskSize: [2]uint32{uint32(size), uint32(size >> 32)},
		BlockSize: blockSize, Blocks: uint32(n),
		Legacy: geometry{SectorSize: vdisk.Sector}, LCHS: geometry{SectorSize: vdisk.Sector}}
	copy(h.Info[:], info)
	if o.Modified == "" {
		o.Modified = o.UUID
	}
	var err error
	if h.UUID, err = newUUID(o.UUID); err != nil {
		return nil, err
	}
	if h.Modified, err = newUUID(o.Modified); err != nil {
		return nil, err
	}
	return h, nil
}
