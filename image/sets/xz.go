package sets

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/therootcompany/xz"
)

// The .xz file format 1.1.0 (tukaani.org/xz/xz-file-format.txt), as far as finding
// its blocks goes:
//
//	file    stream, padding of 4n zeros, stream, …
//	stream  header, block, block, …, index, footer
//	header  xzMagic, flags (2 bytes), CRC-32 of the flags
//	index   0, number of blocks, for each: unpadded size, uncompressed size; zeros up to 4n; CRC-32
//	footer  CRC-32 of the next two, index size / 4 - 1 (32 bit), flags, "YZ"
//
// Numbers of the index are LEB128 of at most 63 bits.
const (
	xzMagic       = "\xfd7zXZ\x00"
	xzFooterMagic = "YZ"
	xzEdge        = 12 // bytes of a header and of a footer

	maxDict    = 64 << 20 // dictionary of xz -9
	maxXZIndex = 16 << 20

	xzMemory = 64 << 20 // for the dictionaries of a set's decoders; two sets are decoded at once
	xzChunk  = 128 << 10
)

// xzBlock is one block of an .xz file, decodable on its own.
type xzBlock struct {
	off      int64 // of the block header in the file
	unpadded int64
	start    int64 // in the decoded data
	size     int64 // decoded
	flags    [2]byte
}

// padded is the bytes the block takes in the file.
func (b *xzBlock) padded() int64 { return (b.unpadded + 3) &^ 3 }

// decodeXZ decodes the file r of size bytes into w and returns the decoded size.
// The blocks that the index names are decoded in parallel; without a usable index
// the file is decoded as a stream. Blocks are checked by their CRC or hash.
// progress counts decoded bytes in the first case, encoded ones in the second.
func decodeXZ(ctx context.Context, r io.ReaderAt, size int64, w io.WriterAt, progress func(done, total int64)) (int64, error) {
	blocks, err := readXZIndex(r, size)
	if err != nil {
		return streamXZ(ctx, r, size, w, progress)
	}
	total := int64(0)
	workers := min(runtime.GOMAXPROCS(0), len(blocks))
	for i := range blocks {
		total += blocks[i].size
		workers = min(workers, max(1, int(xzMemory/(dictSize(r, &blocks[i])+2*lzma2MaxChunk))))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var mu sync.Mutex // progress is called in order
	report := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		progress(done.Add(int64(n)), total)
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			var err error
			d := new(lzma2)
			for err == nil && ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(len(blocks)) {
					return
				}
				err = blocks[i].decode(ctx, d, r, w, report)
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return 0, fmt.Errorf("decode xz: %w", context.Cause(ctx))
	}
	return total, nil
}

// decode decodes the block with d when it is LZMA2 and nothing else, as all sets
// are, and with the library when there is more to it.
func (b *xzBlock) decode(ctx context.Context, d *lzma2, r io.ReaderAt, w io.WriterAt, report func(int)) error {
	n := int64(0)
	emit := func(p []byte) error {
		if int64(len(p)) > b.size-n {
			return fmt.Errorf("more than the %d bytes of the index", b.size)
		}
		if _, err := w.WriteAt(p, b.start+n); err != nil {
			return err
		}
		n += int64(len(p))
		report(len(p))
		return ctx.Err()
	}
	dict, head, plain := blockHeader(r, b)
	sum, known := newXZCheck(b.flags[1])
	var err error
	if plain && known {
		err = b.lzma2(d, r, head, dict, sum, emit)
	} else {
		err = b.library(r, emit)
	}
	if err != nil {
		return fmt.Errorf("block at byte %d: %w", b.off, err)
	}
	return nil
}

// lzma2 decodes the block behind its header of head bytes: encoded bytes, zeros up
// to 4n, check.
func (b *xzBlock) lzma2(d *lzma2, r io.ReaderAt, head, dict int64, sum hash.Hash, emit func([]byte) error) error {
	check := int64(sum.Size())
	body := b.unpadded - head - check
	in := bufio.NewReaderSize(io.NewSectionReader(r, b.off+head, max(body, 0)), xzChunk)
	n := int64(0)
	err := d.decode(in, int(dict), b.size, func(p []byte) error {
		n += int64(len(p))
		sum.Write(p)
		return emit(p)
	})
	if err != nil {
		return err
	}
	if _, err := in.ReadByte(); err != io.EOF || n != b.size {
		return errLZMA
	}
	tail := make([]byte, -body&3+check)
	if err := readAt(r, tail, b.off+head+body); err != nil {
		return err
	}
	pad, have := tail[:-body&3], sum.Sum(nil)
	if b.flags[1] != xzSHA256 {
		slices.Reverse(have) // CRCs are little endian
	}
	if len(bytes.Trim(pad, "\x00")) > 0 || !bytes.Equal(have, tail[len(pad):]) {
		return errLZMA
	}
	return nil
}

// library decodes any block.
func (b *xzBlock) library(r io.ReaderAt, emit func([]byte) error) error {
	head, tail := b.envelope()
	z, err := xz.NewReader(io.MultiReader(bytes.NewReader(head), io.NewSectionReader(r, b.off, b.padded()), bytes.NewReader(tail)), maxDict)
	if err != nil {
		return err
	}
	buf := make([]byte, xzChunk)
	for {
		n, err := z.Read(buf)
		if err := emit(buf[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return nil // the decoder has compared the size with the index
		}
		if err != nil {
			return err
		}
	}
}

// envelope returns what makes the block a stream of its own: header; index and
// footer.
func (b *xzBlock) envelope() (head, tail []byte) {
	le := binary.LittleEndian
	head = append([]byte(xzMagic), b.flags[:]...)
	head = le.AppendUint32(head, crc32.ChecksumIEEE(b.flags[:]))

	tail = append(tail, 0, 1)
	tail = binary.AppendUvarint(tail, uint64(b.unpadded))
	tail = binary.AppendUvarint(tail, uint64(b.size))
	for len(tail)%4 != 0 {
		tail = append(tail, 0)
	}
	tail = le.AppendUint32(tail, crc32.ChecksumIEEE(tail))
	foot := le.AppendUint32(nil, uint32(len(tail)/4-1))
	foot = append(foot, b.flags[:]...)
	tail = le.AppendUint32(tail, crc32.ChecksumIEEE(foot))
	tail = append(tail, foot...)
	return head, append(tail, xzFooterMagic...)
}

// streamXZ decodes without parallelism.
func streamXZ(ctx context.Context, r io.ReaderAt, size int64, w io.WriterAt, progress func(done, total int64)) (int64, error) {
	in := io.NewSectionReader(r, 0, size)
	z, err := xz.NewReader(bufio.NewReaderSize(in, xzChunk), maxDict)
	if err != nil {
		return 0, fmt.Errorf("decode xz: %w", err)
	}
	buf := make([]byte, xzChunk)
	for n := int64(0); ; {
		k, err := z.Read(buf)
		if _, err := w.WriteAt(buf[:k], n); err != nil {
			return 0, err
		}
		n += int64(k)
		if pos, err := in.Seek(0, io.SeekCurrent); err == nil {
			progress(pos, size)
		}
		if err == io.EOF {
			return n, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, fmt.Errorf("decode xz: %w", err)
		}
	}
}

var errXZIndex = errors.New("xz: no usable index")

// readXZIndex returns the blocks of all streams of an .xz file, in order.
func readXZIndex(r io.ReaderAt, size int64) ([]xzBlock, error) {
	var streams [][]xzBlock // last first
	for end := size; end > 0; {
		var word [4]byte
		if end%4 != 0 || end < 2*xzEdge {
			return nil, errXZIndex
		}
		if err := readAt(r, word[:], end-4); err != nil {
			return nil, err
		}
		if word == [4]byte{} { // stream padding
			end -= 4
			continue
		}
		blocks, begin, err := readXZStream(r, end)
		if err != nil {
			return nil, err
		}
		streams = append(streams, blocks)
		end = begin
	}
	if len(streams) == 0 {
		return nil, errXZIndex
	}
	var all []xzBlock
	start := int64(0)
	for i := len(streams) - 1; i >= 0; i-- {
		for _, b := range streams[i] {
			b.start = start
			if start += b.size; start < 0 {
				return nil, errXZIndex
			}
			all = append(all, b)
		}
	}
	return all, nil
}

// readXZStream reads the index of the stream that ends at end and returns where it
// begins.
func readXZStream(r io.ReaderAt, end int64) ([]xzBlock, int64, error) {
	le := binary.LittleEndian
	var foot [xzEdge]byte
	if err := readAt(r, foot[:], end-xzEdge); err != nil {
		return nil, 0, err
	}
	indexSize := (int64(le.Uint32(foot[4:])) + 1) * 4
	indexOff := end - xzEdge - indexSize
	if string(foot[10:]) != xzFooterMagic || crc32.ChecksumIEEE(foot[4:10]) != le.Uint32(foot[:]) ||
		indexOff < xzEdge || indexSize > maxXZIndex {
		return nil, 0, errXZIndex
	}
	index := make([]byte, indexSize)
	if err := readAt(r, index, indexOff); err != nil {
		return nil, 0, err
	}
	blocks, err := parseXZIndex(index)
	if err != nil {
		return nil, 0, err
	}
	off := indexOff
	for i := len(blocks) - 1; i >= 0; i-- {
		b := &blocks[i]
		if b.padded() > off-xzEdge {
			return nil, 0, errXZIndex
		}
		off -= b.padded()
		b.off, b.flags = off, [2]byte(foot[8:10])
	}
	off -= xzEdge
	var head [xzEdge]byte
	if err := readAt(r, head[:], off); err != nil {
		return nil, 0, err
	}
	if string(head[:6]) != xzMagic || !bytes.Equal(head[6:8], foot[8:10]) || crc32.ChecksumIEEE(head[6:8]) != le.Uint32(head[8:]) {
		return nil, 0, errXZIndex
	}
	return blocks, off, nil
}

// parseXZIndex reads an index with its CRC.
func parseXZIndex(b []byte) ([]xzBlock, error) {
	if len(b) < 8 || b[0] != 0 {
		return nil, errXZIndex
	}
	body := b[:len(b)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(b[len(body):]) {
		return nil, errXZIndex
	}
	rest := body[1:]
	num := func() int64 {
		n, k := binary.Uvarint(rest)
		if k <= 0 || k > 9 || n > math.MaxInt64 {
			rest = nil
			return -1
		}
		rest = rest[k:]
		return int64(n)
	}
	n := num()
	if n < 0 || n > int64(len(rest))/2 {
		return nil, errXZIndex
	}
	blocks := make([]xzBlock, n)
	for i := range blocks {
		blocks[i].unpadded, blocks[i].size = num(), num()
		if blocks[i].unpadded < 5 || blocks[i].unpadded > math.MaxInt64-3 || blocks[i].size < 0 {
			return nil, errXZIndex
		}
	}
	if len(rest) > 3 || len(bytes.Trim(rest, "\x00")) > 0 {
		return nil, errXZIndex
	}
	return blocks, nil
}

// dictSize returns the LZMA2 dictionary size of a block, or maxDict when that
// cannot be told; the decoder then says what is wrong.
func dictSize(r io.ReaderAt, b *xzBlock) int64 {
	if dict, _, ok := blockHeader(r, b); ok {
		return dict
	}
	return maxDict
}

// blockHeader reads a block's header of head bytes. ok says that LZMA2 is the
// block's only filter; it has a dictionary of dict bytes.
//
//	header   size / 4 - 1, flags, [compressed size], [uncompressed size],
//	         for each filter: id, size of properties, properties; zeros; CRC-32
func blockHeader(r io.ReaderAt, b *xzBlock) (dict, head int64, ok bool) {
	h := make([]byte, min(1024, b.padded()))
	if readAt(r, h, b.off) != nil {
		return 0, 0, false
	}
	head = (int64(h[0]) + 1) * 4
	if h[0] == 0 || head > int64(len(h)) {
		return 0, 0, false
	}
	h = h[:head]
	rest := h[2 : head-4]
	num := func() uint64 {
		n, k := binary.Uvarint(rest)
		if k <= 0 {
			rest = nil
			return math.MaxUint64
		}
		rest = rest[k:]
		return n
	}
	const hasPacked, hasSize, lzma2ID = 0x40, 0x80, 0x21
	if h[1]&hasPacked != 0 {
		num()
	}
	if h[1]&hasSize != 0 {
		num()
	}
	if id, n := num(), num(); id != lzma2ID || n != 1 || len(rest) == 0 || rest[0] >= 40 {
		return 0, 0, false
	}
	dict = int64(2|rest[0]&1) << (rest[0]/2 + 11)
	ok = h[1]&^(hasPacked|hasSize) == 0 && dict <= maxDict && len(bytes.Trim(rest[1:], "\x00")) == 0 &&
		crc32.ChecksumIEEE(h[:head-4]) == binary.LittleEndian.Uint32(h[head-4:])
	return dict, head, ok
}

// xzSHA256 is the id of that check in stream flags.
const xzSHA256 = 0x0a

// newXZCheck returns the hash of a check id.
func newXZCheck(id byte) (h hash.Hash, known bool) {
	switch id {
	case 0:
		return noHash{}, true
	case 1:
		return crc32.NewIEEE(), true
	case 4:
		return crc64.New(crc64.MakeTable(crc64.ECMA)), true
	case xzSHA256:
		return sha256.New(), true
	}
	return nil, false
}

type noHash struct{}

func (noHash) Write(p []byte) (int, error) { return len(p), nil }
func (noHash) Sum(b []byte) []byte         { return b }
func (noHash) Reset()                      {}
func (noHash) Size() int                   { return 0 }
func (noHash) BlockSize() int              { return 1 }

func readAt(r io.ReaderAt, p []byte, off int64) error {
	if off < 0 {
		return errXZIndex
	}
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
