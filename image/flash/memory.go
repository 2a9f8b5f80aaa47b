package flash

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/rig-freebsd/rig/internal/vdisk"
)

// memory is a part of a disk that is kept in memory, without its zeros.
type memory struct {
	size   int64
	chunks map[int64][]byte // by offset, each of chunkSize
}

const (
	chunkSize   = 64 << 10
	memoryLimit = 128 << 20 // bytes of chunks; the ESP of an image holds less than 2 MiB
)

func newMemory(size int64) *memory { return &memory{size: size, chunks: map[int64][]byte{}} }

// WriteAt implements io.WriterAt.
func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > m.size-int64(len(p)) {
		return 0, fmt.Errorf("%d bytes at %d are outside of %d", len(p), off, m.size)
	}
	for n := 0; n < len(p); {
		at := (off + int64(n)) % chunkSize
		part := p[n:min(len(p), n+int(chunkSize-at))]
		base := off + int64(n) - at
		c := m.chunks[base]
		if c == nil && !vdisk.IsZero(part) {
			if len(m.chunks)*chunkSize >= memoryLimit {
				return n, errors.New("more than fits into memory")
			}
			c = make([]byte, chunkSize)
			m.chunks[base] = c
		}
		if c != nil {
			copy(c[at:], part)
		}
		n += len(part)
	}
	return len(p), nil
}

// ReadAt implements io.ReaderAt.
func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	want := p
	if off > m.size-int64(len(p)) {
		want = p[:max(0, m.size-off)]
	}
	for n := 0; n < len(want); {
		at := (off + int64(n)) % chunkSize
		part := want[n:min(len(want), n+int(chunkSize-at))]
		if c := m.chunks[off+int64(n)-at]; c != nil {
			copy(part, c[at:])
		} else {
			clear(part)
		}
		n += len(part)
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(p), nil
}

// cachedReader serves small reads at any place from large aligned ones, as disks
// that are read without the system's cache want them.
type cachedReader struct {
	r    io.ReaderAt
	size int64

	mu   sync.Mutex
	page map[int64][]byte
	used []int64 // offsets of pages, that of the oldest first
}

const (
	pageSize = 1 << 20
	pages    = 8
)

func newCachedReader(r io.ReaderAt, size int64) *cachedReader {
	return &cachedReader{r: r, size: size, page: map[int64][]byte{}}
}

// ReadAt implements io.ReaderAt.
func (c *cachedReader) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= c.size {
			return n, io.EOF
		}
		b, err := c.load(at - at%pageSize)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], b[at%pageSize:])
	}
	return n, nil
}

func (c *cachedReader) load(off int64) ([]byte, error) {
	if b, ok := c.page[off]; ok {
		return b, nil
	}
	var b []byte
	if len(c.used) == pages {
		b = c.page[c.used[0]][:pageSize]
		delete(c.page, c.used[0])
		c.used = c.used[1:]
	} else {
		b = aligned(pageSize)
	}
	b = b[:min(pageSize, c.size-off)]
	if n, err := c.r.ReadAt(b, off); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	c.page[off] = b
	c.used = append(c.used, off)
	return b, nil
}
