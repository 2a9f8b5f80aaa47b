package blockdev

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// pieceSize is the most that is read at once. FreeBSD 15.1 answers a read of
	// 128 KiB from a USB stick after 63 seconds with 0 bytes and no error; 64 KiB
	// and less it reads at once.
	pieceSize = 64 << 10
	// pieces is how many of them are under way when more is wanted, so that a disk is
	// as fast as with large reads.
	pieces = 8
)

// Reader reads any range of a device, which takes whole sectors only, in pieces. A
// short answer before the end of the device is continued, then asked for again in
// smaller pieces, down to a sector. It is an io.ReaderAt for several readers at once.
type Reader struct {
	r            io.ReaderAt
	name         string
	sector, size int64 // bytes
}

// ReadError is a read that a device did not carry out.
type ReadError struct {
	Name string
	Off  int64 // bytes from the beginning of the device
	Len  int   // bytes of the smallest read that failed
	Err  error
}

func (e *ReadError) Error() string {
	return fmt.Sprintf("read %s: %d bytes at %d: %v", e.Name, e.Len, e.Off, e.Err)
}

func (e *ReadError) Unwrap() error { return e.Err }

// NewReader reads from r, a device called name of size bytes in sectors of sector
// bytes. A size of 0 is one that is not known: then the device ends where it answers
// with nothing.
func NewReader(r io.ReaderAt, name string, sector, size int64) *Reader {
	return &Reader{r: r, name: name, sector: max(sector, 1), size: size}
}

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || r.size > 0 && off >= r.size {
		return 0, io.EOF
	}
	want := int64(len(p))
	if r.size > 0 {
		want = min(want, r.size-off)
	}
	n, err := r.read(p[:want], off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// read reads whole sectors around what is wanted, when that is not whole sectors.
func (r *Reader) read(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	lo, hi := off-off%r.sector, end+(r.sector-end%r.sector)%r.sector
	if r.size > 0 {
		hi = max(min(hi, r.size), end)
	}
	if lo == off && hi == end {
		return r.whole(p, off)
	}
	buf := make([]byte, hi-lo)
	n, err := r.whole(buf, lo)
	got := copy(p, buf[min(off-lo, int64(n)):n])
	if got == len(p) {
		err = nil
	}
	return got, err
}

// whole reads whole sectors, several pieces at once.
func (r *Reader) whole(p []byte, off int64) (int, error) {
	if len(p) <= pieceSize {
		return r.piece(p, off)
	}
	type result struct {
		n   int
		err error
	}
	results := make([]result, (len(p)+pieceSize-1)/pieceSize)
	next := make(chan int, len(results))
	for i := range results {
		next <- i
	}
	close(next)
	var wg sync.WaitGroup
	var first atomic.Int64 // piece that failed; those before it are wanted, those behind it are not
	first.Store(int64(len(results)))
	for range min(pieces, len(results)) {
		wg.Go(func() {
			for i := range next {
				if int64(i) > first.Load() {
					return
				}
				at := i * pieceSize
				n, err := r.piece(p[at:min(at+pieceSize, len(p))], off+int64(at))
				results[i] = result{n, err}
				for was := first.Load(); err != nil && int64(i) < was && !first.CompareAndSwap(was, int64(i)); {
					was = first.Load()
				}
			}
		})
	}
	wg.Wait()
	n, whole := 0, true // up to the first piece that is not there
	var err error
	for i, res := range results {
		if err == nil {
			err = res.err
		}
		if whole {
			n += res.n
			whole = res.n == min(pieceSize, len(p)-i*pieceSize)
		}
	}
	return n, err
}

// piece reads at most pieceSize.
func (r *Reader) piece(p []byte, off int64) (int, error) {
	n, most := 0, len(p)
	for n < len(p) {
		b := p[n:min(n+most, len(p))]
		got, err := r.r.ReadAt(b, off+int64(n))
		if got < len(b) {
			got -= got % int(r.sector)
		}
		n += got
		switch {
		case got == len(b):
			continue
		case err == nil, errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
			if r.size == 0 {
				err = io.EOF
			}
		case !errors.Is(err, syscall.EIO): // smaller reads would not help
			return n, &ReadError{r.name, off + int64(n), len(b), err}
		}
		if got > 0 {
			continue
		}
		if int64(len(b)) > r.sector {
			most = r.smaller(len(b))
			continue
		}
		if err == io.EOF {
			return n, err
		}
		return n, &ReadError{r.name, off + int64(n), len(b), err}
	}
	return n, nil
}

// smaller is half of n in whole sectors.
func (r *Reader) smaller(n int) int {
	half := int64(n) / 2
	return int(max(half-half%r.sector, r.sector))
}
