package uzip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
	"iter"
	"math"
	"runtime"

	"github.com/klauspost/compress/zlib"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// DefaultLevel is the compression level of Options.Level 0. BenchmarkLevels, 40 MB
// of programs and libraries, klauspost/compress 1.20.3, 64 KiB blocks: level 1
// 47.2 % at 94 MB a CPU-second, 6 41.9 % at 59, 7 41.1 % at 36, 8 40.9 % at 31, 9
// 40.8 % at 14. Blocks of 128 KiB save another 0.5 points.
const DefaultLevel = 7

// Options say how to compress; the zero value is what rig's images use.
type Options struct {
	BlockSize int // bytes, a multiple of 512; 0 = 65536
	Level     int // 1 (fast) to 9 (small); 0 = DefaultLevel
	Workers   int // goroutines that compress; 0 = GOMAXPROCS
}

func (o Options) withDefaults() (Options, error) {
	if o.BlockSize == 0 {
		o.BlockSize = defaultSize
	}
	if o.Level == 0 {
		o.Level = DefaultLevel
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Level < 1 || o.Level > 9 {
		return o, fmt.Errorf("level %d is not between 1 and 9", o.Level)
	}
	return o, checkBlockSize(int64(o.BlockSize))
}

// Write compresses the size bytes of src to dst from offset 0 on and returns the
// length of the image, a multiple of 512. The last block is filled up with zeros,
// so the provider's size is size rounded up to the block size. The same input
// and Options give the same bytes, however many Workers there are. Memory is
// about 4 blocks a worker and 8 bytes a block.
//
// src is read by several goroutines at once. After Write, use [Verify].
func Write(dst io.WriterAt, src io.ReaderAt, size int64, o Options) (n int64, err error) {
	if o, err = o.withDefaults(); err != nil {
		return 0, fmt.Errorf("write uzip: %w", err)
	}
	blocks := blocksOf(size, int64(o.BlockSize))
	if size <= 0 || blocks >= math.MaxUint32 {
		return 0, fmt.Errorf("write uzip: cannot make blocks of %d bytes of %d bytes", o.BlockSize, size)
	}

	start := tableEnd(blocks)
	w := bufio.NewWriterSize(io.NewOffsetWriter(dst, start), 1<<20)
	toc := make([]uint64, 0, blocks+1)
	end := start
	err = vdisk.InOrder(upTo(blocks), int(min(int64(o.Workers), blocks)), func() func(int64, *bytes.Buffer) error {
		return newCompressor(src, size, blocks, o)
	}, func(_ int64, block *bytes.Buffer) error {
		toc = append(toc, uint64(end))
		end += int64(block.Len())
		_, err := w.Write(block.Bytes())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("write uzip: %w", err)
	}
	toc = append(toc, uint64(end))
	if pad := -end & (sector - 1); pad > 0 {
		w.Write(make([]byte, pad)) // Flush reports the error
		end += pad
	}
	if err := w.Flush(); err != nil {
		return 0, fmt.Errorf("write uzip: %w", err)
	}

	h := header{BlockSize: uint32(o.BlockSize), Blocks: uint32(blocks)}
	copy(h.Magic[:], magic)
	var head bytes.Buffer
	binary.Write(&head, binary.BigEndian, &h) // a bytes.Buffer does not fail
	binary.Write(&head, binary.BigEndian, toc)
	if _, err := dst.WriteAt(head.Bytes(), 0); err != nil {
		return 0, fmt.Errorf("write uzip: %w", err)
	}
	return end, nil
}

// upTo yields the numbers of n blocks.
func upTo(n int64) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

// newCompressor returns the work of one worker: block i of src as a zlib stream,
// or nothing at all when it is all zeros and not the last.
func newCompressor(src io.ReaderAt, size, blocks int64, o Options) func(i int64, out *bytes.Buffer) error {
	block := make([]byte, o.BlockSize)
	zero := make([]byte, o.BlockSize)
	zw, bad := zlib.NewWriterLevel(io.Discard, o.Level)
	bound := int(compressBound(int64(o.BlockSize)))
	return func(i int64, out *bytes.Buffer) error {
		if bad != nil {
			return bad
		}
		out.Reset()
		if err := readBlock(src, size, i, block); err != nil {
			return err
		}
		last := i == blocks-1 // must not be empty, see the package comment
		if !last && bytes.Equal(block, zero) {
			return nil
		}
		zw.Reset(out)
		if _, err := zw.Write(block); err != nil {
			return err
		}
		if err := zw.Close(); err != nil {
			return err
		}
		if out.Len() > bound {
			out.Reset()
			stored(out, block)
		}
		return nil
	}
}

// readBlock fills block from block i of src, whose end is at size, and adds
// zeros.
func readBlock(src io.ReaderAt, size, i int64, block []byte) error {
	off := i * int64(len(block))
	want := block[:min(int64(len(block)), size-off)]
	n, err := src.ReadAt(want, off)
	if n < len(want) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at %d: %w", len(want), off, err)
	}
	clear(block[len(want):])
	return nil
}

// stored writes block as a zlib stream of stored deflate blocks (RFC 1950, RFC
// 1951 §3.2.4), 5 bytes for each 65535: always within compressBound.
func stored(out *bytes.Buffer, block []byte) {
	sum := adler32.Checksum(block)
	out.Write([]byte{0x78, 0x01})
	for {
		n := min(len(block), math.MaxUint16)
		final := byte(0)
		if n == len(block) {
			final = 1
		}
		out.WriteByte(final)
		var l [4]byte
		binary.LittleEndian.PutUint16(l[:], uint16(n))
		binary.LittleEndian.PutUint16(l[2:], ^uint16(n))
		out.Write(l[:])
		out.Write(block[:n])
		if block = block[n:]; final == 1 {
			break
		}
	}
	out.Write(binary.BigEndian.AppendUint32(nil, sum))
}
