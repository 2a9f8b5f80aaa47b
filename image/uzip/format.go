// Package uzip writes and reads cloop V2.0 images with zlib blocks, the form
// that mkuzip(8) makes and geom_uzip(4) of FreeBSD presents as a read-only
// provider NAME.uzip.
//
// Read from FreeBSD 15.1: sys/geom/uzip/g_uzip_cloop.h (header), g_uzip.c
// (g_uzip_taste, g_uzip_parse_toc, g_uzip_do), g_uzip_zlib.c and
// usr.bin/mkuzip/mkuzip.c. What the kernel asks for:
//
//   - block size: a multiple of 512 (g_uzip_taste refuses others). Larger than
//     maxphys it only warns, but a block has to be read in one bio, so mkuzip
//     refuses compressBound(size) > MAXPHYS (1 MiB on amd64), and so does this
//     package, with room for sectors of 4096 bytes.
//   - offsets: at least 136+8*(n+1), at most the size of the medium; equal
//     neighbours mean a block of zeros (length 0, BLK_IS_NIL); an offset that goes
//     back is a back reference of the deduplicating forms, not written here.
//   - lengths: at most compressBound(block size), but for the last.
//   - the last offset, entry n, is ignored by versions before 4: the last block
//     reaches to the end of the medium (CLOOP_MINVER_RELIABLE_LASTBLKSZ) and
//     inflate stops at the end of its stream. The result is padded with zeros to
//     512, as mkuzip does, because providers are made of whole sectors.
//   - so a last block of zeros must not have length 0: with padding behind it the
//     kernel inflates the padding, fails, and although it then answers zeros
//     (g_uzip_do, "check if it's just zero padding") it skips the rewind of the
//     shared inflate state, which breaks the read after that. [Write] always
//     compresses the last block; mkuzip does not.
//   - the table is read sector by sector, so its size is no problem; 16 bytes of
//     kernel memory a block.
//   - each block is one zlib stream (inflate with Z_FINISH must end in
//     Z_STREAM_END with block size bytes of room).
//
// Left out: lzma and zstd blocks (V3.0 L, V4.0 Z) and deduplication (v, l, z).
// All sizes are in bytes; all integers on disk are big-endian.
package uzip

import (
	"fmt"
	"unsafe"
)

// header is struct cloop_header of sys/geom/uzip/g_uzip_cloop.h.
type header struct {
	Magic     [128]byte // magic, padded with zeros
	BlockSize uint32
	Blocks    uint32
}

var _ [136]byte = [unsafe.Sizeof(header{})]byte{}

const (
	headerSize = int64(unsafe.Sizeof(header{}))
	offsetSize = 8 // one entry of the table: uint64

	magicStart   = "#!/bin/sh\n"                 // CLOOP_MAGIC_START, all the kernel compares
	magic        = magicStart + "#V2.0 Format\n" // CLOOP_MAGIC_ZLIB of usr.bin/mkuzip/mkuz_zlib.h
	ofsCompress  = 0x0b                          // CLOOP_OFS_COMPR
	ofsVersion   = 0x0c                          // CLOOP_OFS_VERSN
	compressZlib = 'V'                           // CLOOP_COMP_LIBZ

	sector      = 512     // DEV_BSIZE: granularity of block and image sizes
	maxPhys     = 1 << 20 // MAXPHYS of amd64, the largest single read
	maxSector   = 4096    // of the medium; a block's read is widened to whole sectors
	defaultSize = 64 << 10
)

// compressBound is zlib's function of that name (sys/contrib/zlib/compress.c):
// the longest block the kernel accepts.
func compressBound(n int64) int64 { return n + n>>12 + n>>14 + n>>25 + 13 }

// checkBlockSize applies g_uzip_taste's and mkuzip's rules.
func checkBlockSize(n int64) error {
	switch {
	case n <= 0 || n%sector != 0:
		return fmt.Errorf("block size %d is not a multiple of %d", n, sector)
	case compressBound(n)+2*maxSector > maxPhys:
		return fmt.Errorf("block size %d is too large: a compressed block must fit one read of %d bytes", n, maxPhys)
	}
	return nil
}

// tableEnd is the smallest offset a block can have.
func tableEnd(blocks int64) int64 { return headerSize + offsetSize*(blocks+1) }

func blocksOf(size, blockSize int64) int64 { return (size + blockSize - 1) / blockSize }
