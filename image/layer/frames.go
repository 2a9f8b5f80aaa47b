package layer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// The seek table of zstd's contrib/seekable_format/zstd_seekable_compression_format.md,
// version 0.1.0. Numbers are little endian 32 bit:
//
//	skippableMagic, size of what follows
//	for each frame: compressed size, decompressed size
//	number of frames, descriptor byte, seekableMagic
const (
	skippableMagic = 0x184D2A5E
	seekableMagic  = 0x8F92EAB1

	seekHeader    = 4 + 4
	seekEntry     = 4 + 4
	seekFooter    = 4 + 1 + 4
	seekChecksums = 0x80 // descriptor: entries have a third number; never written, accepted
	seekReserved  = 0x7c // descriptor: must be 0
)

type seekTable struct{ sizes [][2]int }

func (t *seekTable) add(compressed, raw int) { t.sizes = append(t.sizes, [2]int{compressed, raw}) }

func (t *seekTable) bytes() ([]byte, error) {
	n := seekHeader + len(t.sizes)*seekEntry + seekFooter
	if n-seekHeader > math.MaxUint32 {
		return nil, fmt.Errorf("seek table of %d frames is too large", len(t.sizes))
	}
	le := binary.LittleEndian
	b := make([]byte, 0, n)
	b = le.AppendUint32(b, skippableMagic)
	b = le.AppendUint32(b, uint32(n-seekHeader))
	for _, s := range t.sizes { // both are at most maxFrameSize and a little
		b = le.AppendUint32(b, uint32(s[0]))
		b = le.AppendUint32(b, uint32(s[1]))
	}
	b = le.AppendUint32(b, uint32(len(t.sizes)))
	b = append(b, 0)
	return le.AppendUint32(b, seekableMagic), nil
}

// frame is one zstd frame of an archive.
type frame struct {
	off   int64 // in the file
	csize int
	start int64 // in the tar
	size  int
}

// archive is an opened layer; as an io.ReaderAt it is the tar inside.
type archive struct {
	r      io.ReaderAt
	frames []frame
	size   int64 // of the tar

	mu     sync.Mutex // guards what ReadAt keeps
	dec    *zstd.Decoder
	cached int // index of the frame in buf, -1 = none
	buf    []byte
	cbuf   []byte
}

var errNotLayer = errors.New("not a layer: no seek table at its end")

// openArchive reads the seek table of a layer of size bytes.
func openArchive(r io.ReaderAt, size int64) (*archive, error) {
	if size < seekHeader+seekFooter {
		return nil, errNotLayer
	}
	le := binary.LittleEndian
	var foot [seekFooter]byte
	if err := readFull(r, foot[:], size-seekFooter); err != nil {
		return nil, err
	}
	if le.Uint32(foot[5:]) != seekableMagic || foot[4]&seekReserved != 0 {
		return nil, errNotLayer
	}
	entry := int64(seekEntry)
	if foot[4]&seekChecksums != 0 {
		entry += 4
	}
	n := int64(le.Uint32(foot[:]))
	tableSize := seekHeader + n*entry + seekFooter
	if tableSize > size {
		return nil, fmt.Errorf("seek table of %d frames is larger than the layer", n)
	}
	table := make([]byte, tableSize)
	if err := readFull(r, table, size-tableSize); err != nil {
		return nil, err
	}
	if le.Uint32(table) != skippableMagic || int64(le.Uint32(table[4:])) != tableSize-seekHeader {
		return nil, errors.New("seek table: bad header")
	}
	a := &archive{r: r, frames: make([]frame, n), cached: -1}
	var off int64
	for i := range a.frames {
		b := table[seekHeader+int64(i)*entry:]
		csize, raw := le.Uint32(b), le.Uint32(b[4:])
		if csize == 0 || raw == 0 || raw > maxFrameSize || csize > maxFrameSize+maxFrameSize/8 {
			return nil, fmt.Errorf("seek table: frame %d has %d bytes for %d", i, csize, raw)
		}
		a.frames[i] = frame{off: off, csize: int(csize), start: a.size, size: int(raw)}
		off += int64(csize)
		a.size += int64(raw)
	}
	if off != size-tableSize {
		return nil, fmt.Errorf("seek table: frames end at byte %d, not at %d", off, size-tableSize)
	}
	return a, nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func newDecoder(workers int) (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(workers), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxFrameSize), zstd.WithDecodeAllCapLimit(true))
}

// decode decodes frame i, reusing the buffers it is given.
func (a *archive) decode(dec *zstd.Decoder, i int, cbuf, buf []byte) (c, b []byte, err error) {
	f := &a.frames[i]
	cbuf, buf = grow(cbuf, f.csize), grow(buf, f.size)
	if err := readFull(a.r, cbuf, f.off); err != nil {
		return cbuf, buf, fmt.Errorf("frame %d: %w", i, err)
	}
	out, err := dec.DecodeAll(cbuf, buf[:0:f.size])
	if err != nil {
		return cbuf, buf, fmt.Errorf("frame %d: %w", i, err)
	}
	if len(out) != f.size {
		return cbuf, buf, fmt.Errorf("frame %d: %d bytes, %d in the seek table", i, len(out), f.size)
	}
	return cbuf, out, nil
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// ReadAt reads from the tar, decoding one frame at a time and keeping the last.
func (a *archive) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for i := sort.Search(len(a.frames), func(i int) bool { return a.frames[i].start > off }) - 1; n < len(p); i++ {
		if i < 0 || i >= len(a.frames) || off >= a.size {
			return n, io.EOF
		}
		if err := a.load(i); err != nil {
			return n, err
		}
		k := copy(p[n:], a.buf[off-a.frames[i].start:])
		n, off = n+k, off+int64(k)
	}
	return n, nil
}

func (a *archive) load(i int) error {
	if a.cached == i {
		return nil
	}
	if a.dec == nil {
		dec, err := newDecoder(1)
		if err != nil {
			return err
		}
		a.dec = dec
	}
	a.cached = -1
	var err error
	a.cbuf, a.buf, err = a.decode(a.dec, i, a.cbuf, a.buf)
	if err == nil {
		a.cached = i
	}
	return err
}

// stream decodes all frames with some workers and reads as the tar, in order.
// Close must be called; it waits for the workers.
type stream struct {
	ctx    context.Context
	order  chan *slot
	free   chan *slot
	cancel context.CancelFunc
	wg     sync.WaitGroup
	cur    *slot
	rest   []byte
	done   int64 // bytes read
}

type slot struct {
	cbuf, buf []byte
	err       error
	ready     chan struct{}
	index     int
}

func (a *archive) stream(ctx context.Context, workers int) (*stream, error) {
	dec, err := newDecoder(workers)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{ctx: ctx, order: make(chan *slot, workers+1), free: make(chan *slot, workers+1), cancel: cancel}
	for range workers + 1 {
		s.free <- &slot{ready: make(chan struct{}, 1)}
	}
	todo := make(chan *slot, workers+1)
	s.wg.Go(func() {
		defer close(s.order)
		defer close(todo)
		for i := range a.frames {
			select {
			case sl := <-s.free:
				sl.index = i
				s.order <- sl // there are never more slots than these hold
				todo <- sl
			case <-ctx.Done():
				return
			}
		}
	})
	var workersLeft sync.WaitGroup
	for range workers {
		workersLeft.Add(1)
		s.wg.Go(func() {
			defer workersLeft.Done()
			for sl := range todo {
				sl.cbuf, sl.buf, sl.err = a.decode(dec, sl.index, sl.cbuf, sl.buf)
				sl.ready <- struct{}{}
			}
		})
	}
	s.wg.Go(func() { workersLeft.Wait(); dec.Close() })
	return s, nil
}

func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.cur != nil {
			if s.cur.err != nil {
				return 0, s.cur.err
			}
			s.free <- s.cur
			s.cur = nil
		}
		sl, ok := <-s.order
		if !ok {
			if err := s.ctx.Err(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		<-sl.ready
		s.cur = sl
		if sl.err != nil {
			return 0, sl.err
		}
		s.rest = sl.buf
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	s.done += int64(n)
	return n, nil
}

func (s *stream) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}
