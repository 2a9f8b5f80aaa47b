package probe

import (
	"encoding/binary"
	"io"
	"slices"
)

// place is a disk or a part of it, in which magics are looked for.
type place struct {
	r            io.ReaderAt
	start        int64 // on the disk
	size, sector int64
	parts        []Part // what is in these is not the place's own
	err          error  // of the first read that failed
}

// own reports whether off is in none of the place's parts. A part that begins where
// the place does hides nothing: hybrid ISOs have such.
func (p *place) own(off int64) bool {
	off += p.start
	return !slices.ContainsFunc(p.parts, func(q Part) bool { return q.Start > p.start && off >= q.Start && off < q.Start+q.Size })
}

// at returns n bytes from off on, counted from the end when off is negative; nil
// when that is not within the place or cannot be read.
func (p *place) at(off int64, n int) []byte {
	if off < 0 {
		off += p.size
	}
	if off < 0 || off > p.size-int64(n) {
		return nil
	}
	b := make([]byte, n)
	if got, err := p.r.ReadAt(b, p.start+off); got < n {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		if p.err == nil {
			p.err = err
		}
		return nil
	}
	return b
}

// has reports whether text is at off.
func (p *place) has(off int64, text string) bool { return string(p.at(off, len(text))) == text }

// le16, le32 and be32 are numbers at off, 0 when there is nothing.
func (p *place) le16(off int64) uint16 {
	if b := p.at(off, 2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (p *place) le32(off int64) uint32 {
	if b := p.at(off, 4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (p *place) be32(off int64) uint32 {
	if b := p.at(off, 4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// pages serves small reads from pages that are read once.
type pages struct {
	r     io.ReaderAt
	pages map[int64]page
}

type page struct {
	b   []byte
	err error // why it is short
}

const (
	pageSize  = 64 << 10
	pagesKept = 64
)

func newPages(r io.ReaderAt) *pages { return &pages{r: r, pages: map[int64]page{}} }

// ReadAt implements io.ReaderAt, for one reader at a time.
func (c *pages) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		base := (off + int64(n)) / pageSize * pageSize
		p, ok := c.pages[base]
		if !ok {
			if len(c.pages) >= pagesKept {
				clear(c.pages)
			}
			p.b = make([]byte, pageSize)
			got, err := c.r.ReadAt(p.b, base)
			p.b, p.err = p.b[:got], err
			c.pages[base] = p
		}
		at := off + int64(n) - base
		if at >= int64(len(p.b)) {
			if p.err == nil {
				return n, io.ErrUnexpectedEOF
			}
			return n, p.err
		}
		n += copy(b[n:], p.b[at:])
	}
	return n, nil
}
