// Package layer writes and unpacks layers: trees stored as
// rig/layers/<sha256>.tar.zst.
//
// A layer is a pax tar (POSIX.1-2001, see tar.go for the records used) cut into
// zstd frames (RFC 8878) of about 4 MiB that do not depend on each other, so that
// writing and unpacking use all cores. A seek table in the zstd seekable format
// 0.1.0 (facebook/zstd contrib/seekable_format) is the last, skippable frame; so
// `zstd -dc layer | tar t` reads a layer like any other file.
//
// The bytes depend on the tree and on Options.FrameSize only. Left out: extended
// attributes, ACLs, holes, device nodes, fifos. Sizes are bytes.
package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/image/tree"
)

const (
	defaultFrameSize = 4 << 20
	minFrameSize     = 64 << 10
	maxFrameSize     = 32 << 20 // uncompressed; readers refuse more

	// memoryBudget bounds the frames in flight and the encoders' state; a worker
	// of Write holds about frameCost frames.
	memoryBudget = 96 << 20
	frameCost    = 4
)

// Options of Write. The zero value is good.
type Options struct {
	Workers   int    // reading and compressing goroutines, 0 = as many as cores and memory allow
	FrameSize int    // uncompressed bytes of a frame, 0 = 4 MiB
	Like      *Layer // whose frames are taken where they would become the same again, nil for none
}

// Info describes a layer that was written.
type Info struct {
	SHA256      string  // of the layer file, in hex
	Size        int64   // of the layer file
	ContentSize int64   // of all regular files, hard links counted once
	Entries     int     // Implied directories, which a layer does not carry, not counted
	Frames      []Frame `json:",omitempty"` // in the order of the file
}

// Frame describes one frame. Sizes are those before and after compression.
type Frame struct {
	Recipe     string // in hex, of what the frame is made of; "" when a file's Sum was not known
	Size       int
	Compressed int
}

// Layer is a file that Write made with the same FrameSize.
type Layer struct {
	R      io.ReaderAt
	Frames []Frame
}

// workers returns how many goroutines fit cores and memory.
func workers(wanted, frameSize int) int {
	if wanted <= 0 {
		wanted = runtime.GOMAXPROCS(0)
	}
	return max(1, min(wanted, memoryBudget/(frameCost*frameSize)))
}

// Write writes t as a layer. Implied directories are left out. A frame begins at
// a tar entry wherever the entry fits into one frame; larger files span frames. A
// file that lies in one frame is compared with its Sum, if that is known.
func Write(w io.Writer, t *tree.Tree, o Options) (Info, error) {
	if o.FrameSize == 0 {
		o.FrameSize = defaultFrameSize
	}
	if o.FrameSize < minFrameSize || o.FrameSize > maxFrameSize {
		return Info{}, fmt.Errorf("write layer: frame size %d is not between %d and %d", o.FrameSize, minFrameSize, maxFrameSize)
	}
	n := workers(o.Workers, o.FrameSize)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(n), zstd.WithLowerEncoderMem(true),
		zstd.WithWindowSize(windowSize(o.FrameSize)))
	if err != nil {
		return Info{}, fmt.Errorf("write layer: %w", err)
	}
	defer enc.Close()
	c := newCutter(o.FrameSize, n)
	p := &packer{enc: enc, like: o.Like.byRecipe(), size: o.FrameSize}
	if o.Like != nil {
		p.r = o.Like.R
	}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ch := range c.todo {
				ch.err = p.pack(ch)
				ch.ready <- struct{}{}
			}
		})
	}
	var info Info
	var readErr error
	wg.Go(func() {
		info, readErr = c.produce(t)
		close(c.todo)
		close(c.order)
	})
	sum := sha256.New()
	out := &counter{w: io.MultiWriter(w, sum)}
	frames, writeErr := c.drain(out)
	wg.Wait()
	switch {
	case writeErr != nil: // readErr then only says that the producer was stopped
		return Info{}, fmt.Errorf("write layer: %w", writeErr)
	case readErr != nil:
		return Info{}, fmt.Errorf("write layer: %w", readErr)
	}
	info.SHA256, info.Size, info.Frames = hex.EncodeToString(sum.Sum(nil)), out.n, frames
	return info, nil
}

// windowSize is the power of two that covers a frame, at most 8 MiB.
func windowSize(frame int) int {
	w := minFrameSize
	for w < frame && w < 8<<20 {
		w <<= 1
	}
	return w
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Verify checks that the layer is the one that sha (hex) names.
func Verify(r io.ReaderAt, size int64, sha string) error {
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(r, 0, size), make([]byte, 256<<10))
	if err != nil {
		return fmt.Errorf("verify %s: %w", sha, err)
	}
	if n != size {
		return fmt.Errorf("verify %s: %d bytes; expected %d", sha, n, size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(got, sha) {
		return fmt.Errorf("verify %s: its sha256 is %s", sha, got)
	}
	return nil
}

// Tree reads a layer's entries. Content is decoded when an entry is opened; r
// must stay readable as long as the tree is in use.
func Tree(r io.ReaderAt, size int64) (*tree.Tree, error) {
	a, err := openArchive(r, size)
	if err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	members, err := ReadTar(a, a.size)
	if err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	t, err := tree.New(Entries(a, members))
	if err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	return t, nil
}
