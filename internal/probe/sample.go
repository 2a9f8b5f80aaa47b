package probe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	edgeSize   = 1 << 20  // bytes at both ends that are read first: partition tables are there
	endSize    = 64 << 20 // bytes at both ends that are read whole
	samples    = 4096     // blocks between them
	sampleSize = 4 << 10  // bytes of each
	batch      = 16       // blocks that are read at once
	seed       = 0x726967 // the same places at each look: the hash names the disk
)

// block is a range of a disk that is looked at.
type block struct {
	off int64
	n   int
}

// sampler finds out whether a disk is one repeated byte. It stops at the first byte
// that is another one: then there is data.
type sampler struct {
	ctx  context.Context
	r    io.ReaderAt
	o    Options
	end  time.Time
	hash hash.Hash
	edge []byte // sum after both edges
	buf  []byte

	fill        byte
	began       bool
	data        int64 // where another byte was seen, -1 when none was
	late        bool  // time was over
	done, total int64 // bytes
}

func newSampler(ctx context.Context, r io.ReaderAt, o Options) *sampler {
	return &sampler{ctx: ctx, r: r, o: o, end: time.Now().Add(o.Limit), hash: sha256.New(), data: -1,
		total: min(o.Size, 2*endSize+samples*sampleSize)}
}

// edges looks at both ends, where most of what is recognised is.
func (s *sampler) edges() error {
	if err := s.read(cut(0, min(edgeSize, s.o.Size))); err != nil {
		return err
	}
	err := s.read(cut(max(edgeSize, s.o.Size-edgeSize), s.o.Size))
	s.edge = s.hash.Sum(nil)
	return err
}

// rest looks at everything else.
func (s *sampler) rest() error {
	size := s.o.Size
	if s.data >= 0 || size <= 2*edgeSize {
		return nil
	}
	if size <= 2*endSize+samples*sampleSize {
		return s.read(cut(edgeSize, size-edgeSize))
	}
	if err := s.read(cut(edgeSize, endSize)); err != nil {
		return err
	}
	if err := s.read(cut(size-endSize, size-edgeSize)); err != nil {
		return err
	}
	return s.read(places(size))
}

// cut is a range in blocks of 1 MiB.
func cut(from, to int64) []block {
	var out []block
	for off := from; off < to; off += 1 << 20 {
		out = append(out, block{off, int(min(1<<20, to-off))})
	}
	return out
}

// places chooses a block in each 1/4096 of a disk.
func places(size int64) []block {
	rnd := rand.New(rand.NewPCG(seed, uint64(size)))
	out := make([]block, samples)
	for i := range out {
		from, to := size/samples*int64(i), size/samples*int64(i+1)
		first := (from + sampleSize - 1) / sampleSize
		n := to/sampleSize - first
		out[i] = block{(first + rnd.Int64N(max(n, 1))) * sampleSize, sampleSize}
	}
	return out
}

// read looks at blocks in order; several are read at once.
func (s *sampler) read(blocks []block) error {
	for len(blocks) > 0 && s.data < 0 && !s.late {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if s.late = time.Now().After(s.end); s.late {
			return nil
		}
		n := 1
		for n < min(len(blocks), batch) && blocks[n].n <= sampleSize {
			n++
		}
		if err := s.several(blocks[:n]); err != nil {
			return err
		}
		blocks = blocks[n:]
		s.o.Progress(s.done, s.total)
	}
	return nil
}

func (s *sampler) several(blocks []block) error {
	bufs, errs := s.buffers(blocks), make([]error, len(blocks))
	var wg sync.WaitGroup
	for i, b := range blocks {
		wg.Go(func() {
			if n, err := s.r.ReadAt(bufs[i], b.off); n < b.n {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				errs[i] = err
			}
		})
	}
	wg.Wait()
	for i, b := range blocks {
		if errs[i] != nil {
			return errs[i]
		}
		s.take(bufs[i], b.off)
	}
	return nil
}

// buffers are for blocks until the next call.
func (s *sampler) buffers(blocks []block) [][]byte {
	total := 0
	for _, b := range blocks {
		total += b.n
	}
	if len(s.buf) < total {
		s.buf = make([]byte, total)
	}
	out, at := make([][]byte, len(blocks)), 0
	for i, b := range blocks {
		out[i] = s.buf[at : at+b.n]
		at += b.n
	}
	return out
}

// take judges what was read at off.
func (s *sampler) take(b []byte, off int64) {
	if s.data >= 0 {
		return
	}
	if !s.began {
		s.fill, s.began = b[0], true
	}
	s.done += int64(len(b))
	if uniform(b, s.fill) { // stands for its bytes, for speed
		fmt.Fprintf(s.hash, "%d %d %d\n", off, len(b), s.fill)
	} else {
		s.hash.Write(b)
		s.data = off + int64(slices.IndexFunc(b, func(c byte) bool { return c != s.fill }))
	}
}

// uniform reports whether b is fill only.
func uniform(b []byte, fill byte) bool {
	return len(b) == 0 || b[0] == fill && bytes.Equal(b[1:], b[:len(b)-1])
}

func (s *sampler) complete() bool { return s.began && s.data < 0 && !s.late }

// sum is a name by what was read: of the edges alone when time was over, since that
// depends on the disk's mood.
func (s *sampler) sum() string {
	if s.late && s.edge != nil {
		return digits(s.edge)
	}
	return digits(s.hash.Sum(nil))
}

// basis is what the verdict rests on.
func (s *sampler) basis() string {
	switch {
	case s.data >= 0:
		return fmt.Sprintf("data at byte %d", s.data)
	case s.late:
		return fmt.Sprintf("only %d of %d MiB were read within %s", s.done>>20, s.total>>20, s.o.Limit)
	case !s.began:
		return "it has no bytes"
	}
	what := fmt.Sprintf("first and last %d MiB and %d samples read as ", endSize>>20, samples)
	if s.o.Size <= 2*endSize+samples*sampleSize {
		what = "all of it reads as "
	}
	if s.fill == 0 {
		return what + "zeros"
	}
	return what + fmt.Sprintf("bytes of 0x%02x", s.fill)
}
