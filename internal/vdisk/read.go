package vdisk

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// Image is a virtual disk opened for reading.
type Image interface {
	io.ReaderAt
	Size() int64                 // of the virtual disk
	Allocated(off, n int64) bool // whether the image stores any of these bytes
}

// Blocks makes an io.ReaderAt of a function that reads whole blocks. It keeps the
// last block of which only a part was asked for, and may be used by several
// goroutines at once.
type Blocks struct {
	size, block int64
	fill        func(i int64, block []byte) error

	mu     sync.Mutex
	number int64 // of the block in cache
	cache  []byte
}

// NewBlocks reads a virtual disk of size bytes; fill reads block i of the given
// size.
func NewBlocks(size, block int64, fill func(i int64, b []byte) error) *Blocks {
	return &Blocks{size: size, block: block, fill: fill}
}

// Size is the size of the virtual disk.
func (b *Blocks) Size() int64 { return b.size }

// ReadAt reads len(p) bytes from off on.
func (b *Blocks) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("negative offset %d", off)
	}
	for n < len(p) {
		if off >= b.size {
			return n, io.EOF
		}
		i, at := off/b.block, off%b.block
		want := p[n:min(int64(len(p)), int64(n)+b.block-at, int64(n)+b.size-off)]
		if int64(len(want)) == b.block {
			err = b.fill(i, want)
		} else {
			err = b.part(i, at, want)
		}
		if err != nil {
			return n, err
		}
		n, off = n+len(want), off+int64(len(want))
	}
	return n, nil
}

func (b *Blocks) part(i, at int64, p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cache == nil || b.number != i {
		block := b.cache
		if block == nil {
			block = make([]byte, b.block)
		}
		b.cache = nil
		if err := b.fill(i, block); err != nil {
			return err
		}
		b.number, b.cache = i, block
	}
	copy(p, b.cache[at:])
	return nil
}

// Verify compares an image with the source it was made from. The image may be
// longer by less than align, and then is zeros there.
func Verify(img Image, src Source, align int64) error {
	if want := Align(src.Size, align); img.Size() != want {
		return fmt.Errorf("it holds %d bytes, not %d", img.Size(), want)
	}
	const chunk = 512 << 10
	jobs := func(yield func(int64) bool) {
		for i := int64(0); i*chunk < img.Size(); i++ {
			if (src.HasData(i*chunk, chunk) || img.Allocated(i*chunk, chunk)) && !yield(i) {
				return
			}
		}
	}
	return InOrder(jobs, Workers(0), func() func(int64, *struct{}) error {
		want, got := make([]byte, chunk), make([]byte, chunk)
		return func(i int64, _ *struct{}) error {
			n := min(chunk, img.Size()-i*chunk)
			if err := src.Read(want[:n], i*chunk); err != nil {
				return err
			}
			if _, err := img.ReadAt(got[:n], i*chunk); err != nil {
				return err
			}
			if !bytes.Equal(want[:n], got[:n]) {
				at := i * chunk
				for k := range want[:n] {
					if want[k] != got[k] {
						at += int64(k)
						break
					}
				}
				return fmt.Errorf("byte %d differs from its source", at)
			}
			return nil
		}
	}, func(int64, *struct{}) error { return nil })
}

// ReadFull reads len(p) bytes at off; an end before that is an
// io.ErrUnexpectedEOF.
func ReadFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
