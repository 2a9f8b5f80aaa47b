package layer

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/rig-freebsd/rig/image/tree"
)

// packer makes frames of chunks. Several goroutines use one.
type packer struct {
	enc  *zstd.Encoder
	size int // of a frame
	r    io.ReaderAt
	like map[string]frame // of r, by recipe
}

// byRecipe are the frames of l whose recipe is known.
func (l *Layer) byRecipe() map[string]frame {
	if l == nil {
		return nil
	}
	out := map[string]frame{}
	off := int64(0)
	for _, f := range l.Frames {
		if f.Recipe != "" {
			out[f.Recipe] = frame{off: off, csize: f.Compressed, size: f.Size}
		}
		off += int64(f.Compressed)
	}
	return out
}

// pack makes the frame of a chunk, or takes it from where it was made before.
func (p *packer) pack(ch *chunk) error {
	ch.recipe = ch.makeRecipe()
	if f, ok := p.like[ch.recipe]; ok && f.size == ch.size {
		ch.out = grow(ch.out, f.csize)
		return readFull(p.r, ch.out, f.off)
	}
	if ch.raw == nil {
		ch.raw = make([]byte, 0, p.size)
	}
	if err := ch.fill(); err != nil {
		return err
	}
	ch.out = p.enc.EncodeAll(ch.raw, ch.out[:0])
	return nil
}

// makeRecipe is a hash of all that a chunk's bytes depend on, "" when it is not known.
func (ch *chunk) makeRecipe() string {
	h := sha256.New()
	var b []byte
	head := ch.head
	for _, p := range ch.parts {
		b = binary.AppendVarint(b[:0], int64(p.n))
		if p.e == nil {
			b = append(append(b, 'h'), head[:p.n]...)
			head = head[p.n:]
		} else {
			if p.e.Sum == "" {
				return ""
			}
			b = append(binary.AppendVarint(append(b, 'c'), p.off), p.e.Sum...)
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fill reads what the chunk is made of.
func (ch *chunk) fill() error {
	ch.raw = ch.raw[:ch.size]
	to, head := ch.raw, ch.head
	for _, p := range ch.parts {
		if p.e == nil {
			copy(to, head[:p.n])
			head = head[p.n:]
		} else if err := p.read(to[:p.n]); err != nil {
			return fmt.Errorf("tar %s: %w", p.e.Path, err)
		}
		to = to[p.n:]
	}
	return nil
}

// read reads the part of a file.
func (p *part) read(b []byte) error {
	r, err := p.e.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := tree.Skip(r, p.off); err != nil {
		return err
	}
	switch n, err := io.ReadFull(r, b); {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return fmt.Errorf("%d bytes read, %d described", p.off+int64(n), p.e.Size)
	case err != nil:
		return err
	}
	if p.off+int64(p.n) < p.e.Size {
		return nil
	}
	var one [1]byte
	switch n, err := io.ReadFull(r, one[:]); {
	case n > 0:
		return tar.ErrWriteTooLong
	case err != io.EOF:
		return err
	}
	if p.off == 0 && p.e.Sum != "" {
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != p.e.Sum {
			return errors.New("its content changed while it was read")
		}
	}
	return nil
}
