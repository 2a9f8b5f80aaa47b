package layer

import (
	"archive/tar"
	"bytes"
	"io"

	"github.com/rig-freebsd/rig/image/tree"
)

// chunk is one frame on its way: the producer says what it is made of, a worker
// makes it, drain writes it.
type chunk struct {
	parts []part
	head  []byte // headers and padding of all parts
	size  int    // bytes of all parts

	raw, out []byte
	recipe   string
	err      error
	ready    chan struct{}
}

// part is a run of bytes of a chunk: of a file's content from off on, or the next of
// its head.
type part struct {
	e   *tree.Entry // nil for head
	off int64
	n   int
}

// cutter cuts a tar into chunks. It reads no content: workers do.
type cutter struct {
	size  int
	cur   *chunk
	todo  chan *chunk   // to the workers
	order chan *chunk   // the same chunks, to drain
	free  chan *chunk   // empty ones
	stop  chan struct{} // closed by drain when there was an error
}

func newCutter(size, workers int) *cutter {
	c := &cutter{size: size, todo: make(chan *chunk, workers), order: make(chan *chunk, workers+2),
		free: make(chan *chunk, workers+2), stop: make(chan struct{})}
	for range workers + 2 {
		c.free <- &chunk{ready: make(chan struct{}, 1)}
	}
	return c
}

// produce cuts what WriteTar would write.
func (c *cutter) produce(t *tree.Tree) (Info, error) {
	var info Info
	var head bytes.Buffer
	var zeros [2 * 512]byte
	for e := range t.All() {
		if e.Implied {
			continue
		}
		if err := c.startEntry(e.Size); err != nil {
			return info, err
		}
		head.Reset()
		if err := writeHeader(tar.NewWriter(&head), e); err != nil {
			return info, err
		}
		if err := c.header(head.Bytes()); err != nil {
			return info, err
		}
		if err := c.content(e); err != nil {
			return info, err
		}
		if err := c.header(zeros[:-e.Size&511]); err != nil {
			return info, err
		}
		info.Entries++
		info.ContentSize += e.Size
	}
	if err := c.header(zeros[:]); err != nil { // the end of a tar
		return info, err
	}
	return info, c.cut()
}

// startEntry begins a new frame if the entry to come fits into a frame, but not
// into the rest of this one.
func (c *cutter) startEntry(size int64) error {
	const headers = 5 * 512 // the most that is common: pax header, its records, header
	if c.cur == nil {
		return nil
	}
	have, need := int64(c.cur.size), headers+(size+511)&^511
	if have+need > int64(c.size) && (need <= int64(c.size) || have >= int64(c.size)/2) {
		return c.cut()
	}
	return nil
}

// header adds bytes.
func (c *cutter) header(b []byte) error {
	for len(b) > 0 {
		n, err := c.room(int64(len(b)))
		if err != nil {
			return err
		}
		c.cur.head = append(c.cur.head, b[:n]...)
		if err := c.add(part{n: n}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// content adds the content of a file.
func (c *cutter) content(e *tree.Entry) error {
	for off := int64(0); off < e.Size; {
		n, err := c.room(e.Size - off)
		if err != nil {
			return err
		}
		if err := c.add(part{e: e, off: off, n: n}); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// room returns how many of n bytes the current chunk has room for.
func (c *cutter) room(n int64) (int, error) {
	if c.cur == nil {
		select {
		case c.cur = <-c.free:
		case <-c.stop:
			return 0, io.ErrClosedPipe
		}
		c.cur.parts, c.cur.head, c.cur.size = c.cur.parts[:0], c.cur.head[:0], 0
	}
	return int(min(n, int64(c.size-c.cur.size))), nil
}

func (c *cutter) add(p part) error {
	c.cur.parts = append(c.cur.parts, p)
	if c.cur.size += p.n; c.cur.size == c.size {
		return c.cut()
	}
	return nil
}

// cut hands the current chunk on. There are never more chunks than the channels
// hold, so it does not block.
func (c *cutter) cut() error {
	if c.cur == nil {
		return nil
	}
	c.order <- c.cur
	c.todo <- c.cur
	c.cur = nil
	return nil
}

// drain writes the frames in order, then the seek table. Of several errors it returns
// the one of the first frame.
func (c *cutter) drain(w io.Writer) (frames []Frame, err error) {
	var table seekTable
	for ch := range c.order {
		<-ch.ready
		if err == nil {
			if err = ch.err; err == nil {
				_, err = w.Write(ch.out)
			}
			if err != nil {
				close(c.stop)
			}
		}
		table.add(len(ch.out), ch.size)
		frames = append(frames, Frame{Recipe: ch.recipe, Size: ch.size, Compressed: len(ch.out)})
		c.free <- ch
	}
	if err != nil {
		return nil, err
	}
	b, err := table.bytes()
	if err == nil {
		_, err = w.Write(b)
	}
	return frames, err
}
