// Package vdisk holds what the writers and readers of virtual disk formats
// (image/vmdk, image/vdi, image/qcow2) share: the raw disk they start from, work
// in parallel whose results keep their order, reading by blocks, comparing an
// image with its source, UUIDs.
//
// Sizes and offsets are in bytes.
package vdisk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"sort"

	"github.com/rig-freebsd/rig/image/tree"
	"golang.org/x/sys/unix"
)

// Sector is the size of a sector of every format here.
const Sector = 512

// Source is a raw disk.
type Source struct {
	R    io.ReaderAt // read by several goroutines at once; nil when all is a hole
	Size int64
	// Holes are runs known to be zeros, ascending, not overlapping; they are not
	// read. What is not listed may be zeros as well.
	Holes []tree.Range
}

// Empty is a disk of zeros.
func Empty(size int64) Source {
	return Source{Size: size, Holes: []tree.Range{{Off: 0, Len: size}}}
}

// FileSource is the disk in f, with the holes its file system knows of.
func FileSource(f *os.File) (Source, error) {
	fi, err := f.Stat()
	if err != nil {
		return Source{}, err
	}
	s := Source{R: f, Size: fi.Size()}
	for off := int64(0); off < s.Size; {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // no data up to the end
			data = s.Size
		case errors.Is(err, unix.EINVAL) && off == 0: // the file system does not tell
			return s, nil
		case err != nil:
			return Source{}, fmt.Errorf("find data of %s: %w", f.Name(), err)
		}
		if data = min(data, s.Size); data > off {
			s.Holes = append(s.Holes, tree.Range{Off: off, Len: data - off})
		}
		if data == s.Size {
			break
		}
		if off, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
			return Source{}, fmt.Errorf("find data of %s: %w", f.Name(), err)
		}
	}
	return s, nil
}

// Splice is s with the bytes of p in the place of its own from off on.
func (s Source) Splice(off int64, p Source) Source {
	in := tree.Range{Off: off, Len: p.Size}
	out := Source{R: spliced{s, p, in}, Size: s.Size}
	for _, h := range s.Holes {
		if end := min(h.End(), in.Off); end > h.Off {
			out.Holes = append(out.Holes, tree.Range{Off: h.Off, Len: end - h.Off})
		}
	}
	for _, h := range p.Holes {
		out.Holes = append(out.Holes, tree.Range{Off: off + h.Off, Len: h.Len})
	}
	for _, h := range s.Holes {
		if start := max(h.Off, in.End()); start < h.End() {
			out.Holes = append(out.Holes, tree.Range{Off: start, Len: h.End() - start})
		}
	}
	return out
}

// spliced reads from one source within a range, and from another elsewhere.
type spliced struct {
	outer, inner Source
	in           tree.Range
}

func (s spliced) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		at, from, end := off+int64(n), s.outer, int64(math.MaxInt64)
		start := at
		switch {
		case at < s.in.Off:
			end = s.in.Off
		case at < s.in.End():
			from, end, start = s.inner, s.in.End(), at-s.in.Off
		}
		part := p[n:min(int64(len(p)), int64(n)+end-at)]
		if err := from.Read(part, start); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(p), nil
}

// Validate reports what is wrong with s.
func (s Source) Validate() error {
	if s.Size <= 0 {
		return fmt.Errorf("source: size %d is not positive", s.Size)
	}
	end, covered := int64(0), int64(0)
	for i, h := range s.Holes {
		if h.Len <= 0 || h.Off < end || h.Off > s.Size || h.Len > s.Size-h.Off {
			return fmt.Errorf("source: hole %d (%d bytes at %d) is empty, out of order or outside of %d bytes", i, h.Len, h.Off, s.Size)
		}
		end, covered = h.End(), covered+h.Len
	}
	if s.R == nil && covered < s.Size {
		return fmt.Errorf("source: no reader for %d bytes outside of holes", s.Size-covered)
	}
	return nil
}

// hole returns the first hole that ends after off.
func (s Source) hole(off int64) int {
	return sort.Search(len(s.Holes), func(i int) bool { return s.Holes[i].End() > off })
}

// HasData reports whether any of the n bytes at off is outside of the holes.
func (s Source) HasData(off, n int64) bool {
	end := min(off+n, s.Size)
	for i := s.hole(off); off < end; i++ {
		if i == len(s.Holes) || s.Holes[i].Off > off {
			return true
		}
		off = s.Holes[i].End()
	}
	return false
}

// Chunks yields in order the numbers of the chunks of the given size that are not
// in a hole as a whole.
func (s Source) Chunks(size int64) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		hole := 0
		for i := int64(0); i*size < s.Size; {
			for hole < len(s.Holes) && s.Holes[hole].End() <= i*size {
				hole++
			}
			if !s.HasData(i*size, size) {
				// On to the chunk in which this hole ends.
				i = max(i+1, s.Holes[hole].End()/size)
				continue
			}
			if !yield(i) {
				return
			}
			i++
		}
	}
}

// Read fills p from off on: zeros in holes and behind the end.
func (s Source) Read(p []byte, off int64) error {
	for i := s.hole(off); len(p) > 0; i++ {
		start, end := s.Size, s.Size // of the hole
		if i < len(s.Holes) {
			start, end = s.Holes[i].Off, s.Holes[i].End()
		}
		if n := min(start-off, int64(len(p))); n > 0 {
			if got, err := s.R.ReadAt(p[:n], off); int64(got) < n {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("read %d bytes at %d: %w", n, off, err)
			}
			p, off = p[n:], off+n
		}
		n := int64(len(p))
		if i < len(s.Holes) {
			n = min(end-off, n)
		}
		clear(p[:n])
		p, off = p[n:], off+n
	}
	return nil
}

var zeros [64 << 10]byte

// IsZero reports whether b is zeros only.
func IsZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// Align rounds n up to a multiple of to.
func Align(n, to int64) int64 { return (n + to - 1) / to * to }
