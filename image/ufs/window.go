package ufs

import (
	"fmt"
	"io"
)

const windowSize = 1 << 20

// window gathers writes that are near each other, in whole fragments, and
// writes what was filled of it in as few calls as there are runs. It moves
// forward; writes behind it go straight through.
type window struct {
	dst    io.WriterAt
	base   int64 // byte offset, aligned to windowSize
	buf    []byte
	filled [windowSize / fsize]bool
	dirty  bool
	behind []byte // for writes before base
}

// space returns a buffer, of at most n bytes and at least one fragment, for
// what belongs at off. The caller fills all of it and calls done.
func (w *window) space(off, n int64) ([]byte, error) {
	if off < w.base {
		if w.behind == nil {
			w.behind = make([]byte, 2*bsize)
		}
		return w.behind[:min(n, w.base-off, int64(len(w.behind)))], nil
	}
	if off >= w.base+windowSize {
		if err := w.flush(); err != nil {
			return nil, err
		}
		w.base = off &^ (windowSize - 1)
	}
	at := off - w.base
	return w.buf[at:min(at+n, windowSize)], nil
}

// done takes back what space returned for off.
func (w *window) done(off int64, b []byte) error {
	if off < w.base {
		return w.write(b, off)
	}
	first := (off - w.base) / fsize
	for i := range int64(len(b)) / fsize {
		w.filled[first+i] = true
	}
	w.dirty = true
	return nil
}

// put writes b, whole fragments, at off.
func (w *window) put(off int64, b []byte) error {
	for len(b) > 0 {
		s, err := w.space(off, int64(len(b)))
		if err != nil {
			return err
		}
		n := copy(s, b)
		if err := w.done(off, s); err != nil {
			return err
		}
		off, b = off+int64(n), b[n:]
	}
	return nil
}

// rewind lets the window start over at the beginning.
func (w *window) rewind() error {
	err := w.flush()
	w.base = 0
	return err
}

func (w *window) flush() error {
	if !w.dirty {
		return nil
	}
	for i := 0; i < len(w.filled); {
		if !w.filled[i] {
			i++
			continue
		}
		end := i
		for end < len(w.filled) && w.filled[end] {
			end++
		}
		if err := w.write(w.buf[i*fsize:end*fsize], w.base+int64(i)*fsize); err != nil {
			return err
		}
		i = end
	}
	clear(w.filled[:])
	w.dirty = false
	return nil
}

func (w *window) write(b []byte, off int64) error {
	if _, err := w.dst.WriteAt(b, off); err != nil {
		return fmt.Errorf("write ufs at %d: %w", off, err)
	}
	return nil
}
