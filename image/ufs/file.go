package ufs

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// file reads one regular file; what no extent covers reads as zeros.
type file struct {
	f    *FS
	name string
	size int64
	exts []extent
	pos  int64
}

func (f *FS) open(name string, size int64, exts []extent) io.ReadCloser {
	return &file{f: f, name: name, size: size, exts: exts}
}

// Read implements io.Reader; it returns at most what is contiguous.
func (r *file) Read(b []byte) (int, error) {
	if r.pos >= r.size {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, nil
	}
	b = b[:min(int64(len(b)), r.size-r.pos)]
	bs := int64(r.f.sb.Bsize)
	i := sort.Search(len(r.exts), func(i int) bool { return r.exts[i].lbn*bs > r.pos })
	if i > 0 {
		x := r.exts[i-1]
		at := r.pos - x.lbn*bs
		if left := x.frags*int64(r.f.sb.Fsize) - at; left > 0 {
			b = b[:min(int64(len(b)), left)]
			if err := r.f.read(b, x.addr*int64(r.f.sb.Fsize)+at); err != nil {
				return 0, fmt.Errorf("read %s: %w", r.name, err)
			}
			r.pos += int64(len(b))
			return len(b), nil
		}
	}
	if i < len(r.exts) {
		b = b[:min(int64(len(b)), r.exts[i].lbn*bs-r.pos)]
	}
	clear(b)
	r.pos += int64(len(b))
	return len(b), nil
}

// Seek implements io.Seeker.
func (r *file) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.pos
	case io.SeekEnd:
		off += r.size
	}
	if off < 0 {
		return 0, fmt.Errorf("seek %s: %w", r.name, errors.New("before the beginning"))
	}
	r.pos = off
	return off, nil
}

// Close implements io.Closer.
func (r *file) Close() error { return nil }
