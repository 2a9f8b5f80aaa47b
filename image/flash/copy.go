package flash

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sync"

	"github.com/rig-freebsd/rig/image/flash/disks"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"golang.org/x/sys/unix"
)

const (
	blockSize = 4 << 20  // bytes of a write or read
	zeroRun   = 64 << 20 // bytes that are made zero at once
	depth     = 4        // writes or reads under way
)

// piece is a run of the disk that was written, as it must read back.
type piece struct {
	off, n int64 // bytes
	zero   bool
	sum    uint64 // of what is not zeros
}

// feed fills b with the next bytes for the disk, or says that they are zeros. The
// caller asks for exactly total bytes in all.
type feed func(b []byte) (zero bool, err error)

// copier writes to and reads from one disk.
type copier struct {
	dev    device
	disk   *disks.Disk
	place  func(off int64) string // "partition rig"
	seed   maphash.Seed
	pieces []piece
	phase  string
	total  int64 // bytes of the phase
	report func(what string, done, total int64)

	mu   sync.Mutex
	done int64
}

// begin starts a phase of total bytes.
func (c *copier) begin(phase string, total int64) {
	c.phase, c.total, c.done = phase, total, 0
	c.report(phase, 0, total)
}

func (c *copier) advance(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	c.report(c.phase, c.done, c.total)
}

// job is one write or read; its buffer comes from and returns to the pool.
type job struct {
	piece int
	b     []byte // nil for zeros
}

// write takes n bytes from next and writes them from off on, several blocks at a
// time, while next decodes what follows. Zeros are left to the disk.
func (c *copier) write(ctx context.Context, off, n int64, next feed) error {
	return c.parallel(ctx, c.writePiece, func(free func() ([]byte, bool), send func(job) bool) error {
		zeros := piece{zero: true}
		flush := func() bool {
			if zeros.n == 0 {
				return true
			}
			at := c.add(zeros)
			zeros.n = 0
			return send(job{piece: at})
		}
		var spare []byte // was not needed for zeros
		for end := off + n; off < end; {
			b, ok := spare, true
			if b == nil {
				if b, ok = free(); !ok {
					return nil
				}
			}
			b, spare = b[:min(blockSize, end-off)], nil
			zero, err := next(b)
			if err != nil {
				return err
			}
			size := int64(len(b))
			if zero {
				if zeros.n == 0 {
					zeros.off = off
				}
				zeros.n += size
				spare = b[:blockSize]
				if ctx.Err() != nil || zeros.n >= zeroRun && !flush() {
					return nil
				}
			} else if !flush() || !send(job{c.add(piece{off: off, n: size}), b}) {
				return nil
			}
			off += size
		}
		flush()
		return nil
	})
}

// add remembers a piece; only the sending side calls it.
func (c *copier) add(p piece) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pieces = append(c.pieces, p)
	return len(c.pieces) - 1
}

func (c *copier) at(i int) piece {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pieces[i]
}

func (c *copier) writePiece(j job) error {
	p := c.at(j.piece)
	if p.zero {
		if err := c.dev.Zero(p.off, p.n); err != nil {
			return c.failed("write", p.off, err)
		}
	} else {
		n, err := c.dev.WriteAt(j.b, p.off)
		if err != nil {
			return c.failed("write", p.off+int64(n), err)
		}
		sum := maphash.Bytes(c.seed, j.b)
		c.mu.Lock()
		c.pieces[j.piece].sum = sum
		c.mu.Unlock()
	}
	c.advance(p.n)
	return nil
}

// readBack compares all pieces with what the disk has.
func (c *copier) readBack(ctx context.Context) error {
	return c.parallel(ctx, c.readPiece, func(free func() ([]byte, bool), send func(job) bool) error {
		for i := range c.pieces {
			b, ok := free()
			if !ok || !send(job{i, b}) {
				return nil
			}
		}
		return nil
	})
}

func (c *copier) readPiece(j job) error {
	p := c.at(j.piece)
	for off, end := p.off, p.off+p.n; off < end; {
		b := j.b[:min(blockSize, end-off)]
		if n, err := c.dev.ReadAt(b, off); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return c.failed("read back", off+int64(n), err)
		}
		if p.zero && !vdisk.IsZero(b) || !p.zero && maphash.Bytes(c.seed, b) != p.sum {
			return diag.Hint(fmt.Errorf("read back %s: the %d bytes from byte %d on (%s) are not what was written", c.disk.Path, len(b), off, c.place(off)),
				"the disk does not keep what it is given: use another one")
		}
		off += int64(len(b))
		c.advance(int64(len(b)))
	}
	return nil
}

// parallel runs source, which sends jobs, and several workers that do them. The
// first error ends all.
func (c *copier) parallel(ctx context.Context, work func(job) error, source func(free func() ([]byte, bool), send func(job) bool) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := make(chan job)
	pool := make(chan []byte, depth+2)
	for range cap(pool) {
		pool <- nil
	}
	var wg sync.WaitGroup
	for range depth {
		wg.Go(func() {
			for j := range jobs {
				if ctx.Err() == nil {
					if err := work(j); err != nil {
						cancel(err)
					}
				}
				if j.b != nil {
					pool <- j.b[:blockSize]
				}
			}
		})
	}
	free := func() ([]byte, bool) {
		select {
		case b := <-pool:
			if b == nil {
				b = aligned(blockSize)
			}
			return b, ctx.Err() == nil
		case <-ctx.Done():
			return nil, false
		}
	}
	send := func(j job) bool {
		select {
		case jobs <- j:
			return true
		case <-ctx.Done():
			return false
		}
	}
	if err := source(free, send); err != nil {
		cancel(err)
	}
	close(jobs)
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// failed says where on the disk and what to do.
func (c *copier) failed(op string, off int64, err error) error {
	return diskError(op, c.disk, off, c.place(off), err)
}

func diskError(op string, d *disks.Disk, off int64, place string, err error) error {
	err, hint := fmt.Errorf("%s %s at byte %d of %d (%s): %w", op, d.Path, off, d.Size, place, err), ""
	switch {
	case errors.Is(err, unix.ENOSPC) && d.File:
		hint = "the file system that holds this file is full"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrShortWrite):
		hint = "the disk ends earlier than it says: it is counterfeit, failing, or was made smaller meanwhile"
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		hint = "the disk is gone: look at its cable and at the system's log"
	case errors.Is(err, unix.EIO):
		hint = "the disk fails: look at the system's log (dmesg) and at smartctl -a, and use another one"
	}
	if hint == "" {
		return err
	}
	return diag.Hint(err, "%s", hint)
}
