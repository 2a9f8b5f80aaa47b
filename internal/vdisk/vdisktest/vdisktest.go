// Package vdisktest has the disks and the round trip that tests of disk formats share.
package vdisktest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Memory is a destination that grows and starts as garbage.
type Memory struct{ B []byte }

func (m *Memory) WriteAt(b []byte, off int64) (int, error) {
	for int64(len(m.B)) < off+int64(len(b)) {
		m.B = append(m.B, bytes.Repeat([]byte{0xa5}, 1<<16)...)
	}
	return copy(m.B[off:], b), nil
}

// Sample is n bytes of text, noise and zeros, in stretches of several clusters.
func Sample(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(uint64(n), seed))
	b := make([]byte, 0, n+1<<20)
	for len(b) < n {
		k := 1 + r.IntN(200_000)
		switch r.IntN(3) {
		case 0:
			b = append(b, make([]byte, 4*k)...)
		case 1:
			b = append(b, Noise(k)...)
		case 2:
			for i := 0; i < k; i += 30 {
				b = fmt.Appendf(b, "line %d of a text file %d\n", i, r.IntN(100))
			}
		}
	}
	return b[:n]
}

// Noise is n bytes that do not compress.
func Noise(n int) []byte {
	b, c := make([]byte, n), rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	c.Read(b)
	return b
}

// Source is a disk without holes.
func Source(b []byte) vdisk.Source {
	return vdisk.Source{R: bytes.NewReader(b), Size: int64(len(b))}
}

// RoundTrip makes an image of a disk, which must be the same when another write makes
// it again, and must pass its reading back.
func RoundTrip(t *testing.T, write, again func() []byte, verify func(img io.ReaderAt, n int64) error) []byte {
	t.Helper()
	img := write()
	if !bytes.Equal(img, again()) {
		t.Error("the second run made another image")
	}
	if err := verify(bytes.NewReader(img), int64(len(img))); err != nil {
		t.Error(err)
	}
	return img
}

// Sparse is a disk of which only some runs are data, without memory for the rest.
type Sparse struct {
	Size int64
	Data []tree.Range
}

func (s Sparse) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = byte((off + int64(i)) >> 7)
	}
	return len(p), nil
}

// Source is the disk with its holes.
func (s Sparse) Source() vdisk.Source {
	src := vdisk.Source{R: s, Size: s.Size}
	end := int64(0)
	for _, d := range append(s.Data, tree.Range{Off: s.Size}) {
		if d.Off > end {
			src.Holes = append(src.Holes, tree.Range{Off: end, Len: d.Off - end})
		}
		end = d.End()
	}
	return src
}

// RandomSparse has data of all lengths at all distances.
func RandomSparse(r *rand.Rand, size int64) Sparse {
	s := Sparse{Size: size}
	for off := r.Int64N(size / 8); off < size; {
		n := min(1+r.Int64N([]int64{1, 513, 1 << 16, 1 << 20}[r.IntN(4)]), size-off)
		s.Data = append(s.Data, tree.Range{Off: off, Len: n})
		off += n + 1 + r.Int64N([]int64{1, 4096, 1 << 17, size / 5}[r.IntN(4)])
	}
	return s
}

// Large is a file of this many bytes, more than 5 GiB, most of it a hole, and its name.
func Large(t *testing.T, size int64) (src vdisk.Source, name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "raw")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 1<<30 + 12345, 4<<30 - 5, 5 << 30, size - 70_000} {
		f.WriteAt(Sample(70_000, 3), off)
	}
	if src, err = vdisk.FileSource(f); err != nil {
		t.Fatal(err)
	}
	return src, name
}

// Raws calls f with disks of these sizes, mixed, empty and of noise, each also as a file.
func Raws(t *testing.T, sizes []int, f func(b []byte, raw string)) {
	t.Helper()
	for _, size := range sizes {
		for _, b := range [][]byte{Sample(size, 2), make([]byte, size), Noise(size)} {
			raw := filepath.Join(t.TempDir(), "raw")
			if err := os.WriteFile(raw, b, 0o600); err != nil {
				t.Fatal(err)
			}
			f(b, raw)
		}
	}
}

// Discard takes an image and keeps nothing; it notes how much of the heap is in use.
type Discard struct {
	n    int
	most uint64
}

func (d *Discard) Write(b []byte) (int, error) { return d.WriteAt(b, 0) }

func (d *Discard) WriteAt(b []byte, _ int64) (int, error) {
	if d.n++; d.n%20 == 0 {
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		d.most = max(d.most, now.HeapInuse)
	}
	return len(b), nil
}

// Frugal fails when write takes more than 64 MiB for a disk of 256 MiB.
func Frugal(t *testing.T, write func(d *Discard, src vdisk.Source) error) {
	t.Helper()
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	d := &Discard{most: before.HeapInuse}
	if err := write(d, vdisk.Source{R: Sparse{}, Size: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	if used := d.most - before.HeapInuse; used > 64<<20 {
		t.Errorf("%d MiB", used>>20)
	}
}
