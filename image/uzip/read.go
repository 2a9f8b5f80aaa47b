package uzip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zlib"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Reader reads the blocks of an image. It may be used by several goroutines at
// once, each with an inflater of its own.
type Reader struct {
	r         io.ReaderAt
	blockSize int64
	toc       []int64 // start of each block, and the end of the image
}

// inflater is what reading one block needs; the next block uses it again.
type inflater struct {
	in    bytes.Reader
	raw   []byte
	block []byte
	zr    io.ReadCloser
}

// Open reads the header and the table of an image of size bytes and checks both
// as the kernel does. Memory is 8 bytes a block; no more is allocated than the
// image is long.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	var h header
	if err := binary.Read(io.NewSectionReader(r, 0, min(size, headerSize)), binary.BigEndian, &h); err != nil {
		return nil, fmt.Errorf("open uzip: header: %w", noEOF(err))
	}
	if err := h.check(size); err != nil {
		return nil, fmt.Errorf("open uzip: %w", err)
	}
	u := &Reader{r: r, blockSize: int64(h.BlockSize)}
	if err := u.readTable(int64(h.Blocks), size); err != nil {
		return nil, fmt.Errorf("open uzip: %w", err)
	}
	return u, nil
}

func (h *header) check(size int64) error {
	if !bytes.HasPrefix(h.Magic[:], []byte(magicStart)) {
		return errors.New("not a cloop image: it does not begin with #!/bin/sh")
	}
	c, v := h.Magic[ofsCompress], h.Magic[ofsVersion]
	if c != compressZlib || v != '2' {
		return fmt.Errorf("unsupported form %q; only V2 (zlib) is", string([]byte{c, v}))
	}
	if err := checkBlockSize(int64(h.BlockSize)); err != nil {
		return err
	}
	if h.Blocks == 0 {
		return errors.New("no blocks")
	}
	if end := tableEnd(int64(h.Blocks)); end > size {
		return fmt.Errorf("the table of %d blocks ends at %d, behind the image of %d bytes", h.Blocks, end, size)
	}
	return nil
}

// readTable reads in pieces, so that a wrong count costs no more memory than r
// has bytes.
func (u *Reader) readTable(blocks, size int64) error {
	const piece = 64 << 10
	low, prev := tableEnd(blocks), int64(0)
	buf := make([]byte, piece*offsetSize)
	for i := int64(0); i < blocks; {
		b := buf[:min(piece, blocks-i)*offsetSize]
		if _, err := io.ReadFull(io.NewSectionReader(u.r, headerSize+i*offsetSize, int64(len(b))), b); err != nil {
			return fmt.Errorf("table: %w", noEOF(err))
		}
		for ; len(b) > 0; b, i = b[offsetSize:], i+1 {
			off := int64(binary.BigEndian.Uint64(b))
			if off < low || off > size {
				return fmt.Errorf("block %d: offset %d is not between %d and %d", i, uint64(off), low, size)
			}
			if off < prev {
				return fmt.Errorf("block %d: offset %d is before the block before it (deduplicated images are not supported)", i, off)
			}
			if bound := compressBound(u.blockSize); i > 0 && off-prev > bound {
				return fmt.Errorf("block %d: %d bytes; at most %d can be", i-1, off-prev, bound)
			}
			u.toc = append(u.toc, off)
			prev = off
		}
	}
	// Entry n says nothing in this version: the last block ends with the medium.
	u.toc = append(u.toc, min(size, prev+compressBound(u.blockSize)))
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Size is the size of the content in bytes: that of the source, rounded up to
// the block size.
func (u *Reader) Size() int64 { return int64(len(u.toc)-1) * u.blockSize }

func (u *Reader) inflater() *inflater {
	return &inflater{raw: make([]byte, compressBound(u.blockSize)), block: make([]byte, u.blockSize)}
}

// inflate reads block i into f.block.
func (u *Reader) inflate(f *inflater, i int64) error {
	raw := f.raw[:u.toc[i+1]-u.toc[i]]
	if len(raw) == 0 {
		clear(f.block)
		return nil
	}
	if _, err := io.ReadFull(io.NewSectionReader(u.r, u.toc[i], int64(len(raw))), raw); err != nil {
		return fmt.Errorf("uzip block %d: %w", i, noEOF(err))
	}
	err := f.run(raw)
	last := i == int64(len(u.toc))-2
	if err != nil && last && isZero(raw) { // padding behind a last block of zeros: g_uzip_do
		clear(f.block)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("uzip block %d: %w", i, err)
	}
	return nil
}

func (f *inflater) run(raw []byte) (err error) {
	f.in.Reset(raw)
	if f.zr == nil {
		f.zr, err = zlib.NewReader(&f.in)
	} else {
		err = f.zr.(zlib.Resetter).Reset(&f.in, nil)
	}
	if err != nil {
		return noEOF(err)
	}
	if _, err := io.ReadFull(f.zr, f.block); err != nil {
		return noEOF(err)
	}
	var one [1]byte
	switch n, err := f.zr.Read(one[:]); {
	case n > 0:
		return fmt.Errorf("it inflates to more than %d bytes", len(f.block))
	case err != io.EOF: // the checksum
		return err
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Verify reads the image of n bytes back and compares it with the size bytes of
// src it was made from: the table by the kernel's rules, the length, every block.
func Verify(img io.ReaderAt, n int64, src io.ReaderAt, size int64) error {
	u, err := Open(img, n)
	if err != nil {
		return err
	}
	blocks := blocksOf(size, u.blockSize)
	if n%sector != 0 {
		return fmt.Errorf("verify uzip: image of %d bytes is not padded to %d", n, sector)
	}
	if blocks != int64(len(u.toc))-1 {
		return fmt.Errorf("verify uzip: it holds %d bytes, not %d", u.Size(), blocks*u.blockSize)
	}
	return vdisk.InOrder(upTo(blocks), int(min(int64(runtime.GOMAXPROCS(0)), blocks)), func() func(int64, *struct{}) error {
		f, want := u.inflater(), make([]byte, u.blockSize)
		return func(i int64, _ *struct{}) error {
			if err := readBlock(src, size, i, want); err != nil {
				return fmt.Errorf("verify uzip: %w", err)
			}
			if err := u.inflate(f, i); err != nil {
				return fmt.Errorf("verify uzip: %w", err)
			}
			if !bytes.Equal(want, f.block) {
				return fmt.Errorf("verify uzip: block %d (at %d) differs from its source", i, i*u.blockSize)
			}
			return nil
		}
	}, func(int64, *struct{}) error { return nil })
}
