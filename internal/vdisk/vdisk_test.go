package vdisk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// ones is a reader that must not be asked for what lies in a hole.
type ones struct {
	t     *testing.T
	holes []tree.Range
}

func (o ones) ReadAt(p []byte, off int64) (int, error) {
	for _, h := range o.holes {
		if off < h.End() && h.Off < off+int64(len(p)) {
			o.t.Errorf("%d bytes at %d were read; a hole is at %d", len(p), off, h.Off)
		}
	}
	for i := range p {
		p[i] = 1
	}
	return len(p), nil
}

// TestSource compares Read, HasData and Chunks with a map of the bytes.
func TestSource(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		s := Source{Size: 1 + r.Int64N(300)}
		want := bytes.Repeat([]byte{1}, int(s.Size))
		for off := r.Int64N(20); off < s.Size; {
			h := tree.Range{Off: off, Len: min(1+r.Int64N(60), s.Size-off)}
			s.Holes = append(s.Holes, h)
			clear(want[h.Off:h.End()])
			off = h.End() + r.Int64N(30)
		}
		s.R = ones{t, s.Holes}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		chunk := 1 + r.Int64N(40)
		var chunks []int64
		for off := int64(0); off < s.Size; off += chunk {
			p := bytes.Repeat([]byte{9}, int(chunk))
			if err := s.Read(p, off); err != nil {
				t.Fatal(err)
			}
			part := want[off:min(off+chunk, s.Size)]
			if !bytes.Equal(p[:len(part)], part) || !IsZero(p[len(part):]) {
				t.Fatalf("seed %d: %d bytes at %d", seed, chunk, off)
			}
			data := bytes.IndexByte(part, 1) >= 0
			if s.HasData(off, chunk) != data {
				t.Fatalf("seed %d: HasData(%d, %d) = %v", seed, off, chunk, !data)
			}
			if data {
				chunks = append(chunks, off/chunk)
			}
		}
		if got := slices.Collect(s.Chunks(chunk)); !slices.Equal(got, chunks) {
			t.Fatalf("seed %d: chunks %v, want %v", seed, got, chunks)
		}
	}
}

func TestValidate(t *testing.T) {
	for want, s := range map[string]Source{
		"source: size 0 is not positive":                                                   {},
		"source: no reader for 1 bytes outside of holes":                                   {Size: 10, Holes: []tree.Range{{Len: 4}, {Off: 5, Len: 5}}},
		"source: hole 1 (2 bytes at 3) is empty, out of order or outside of 10 bytes":      {Size: 10, Holes: []tree.Range{{Len: 4}, {Off: 3, Len: 2}}},
		"source: hole 0 (0 bytes at 3) is empty, out of order or outside of 10 bytes":      {Size: 10, Holes: []tree.Range{{Off: 3}}},
		"source: hole 0 (9223372036854775807 bytes at 3) is empty, out of order or outsid": {Size: 10, Holes: []tree.Range{{Off: 3, Len: 1<<63 - 1}}},
	} {
		if err := s.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if err := Empty(1 << 40).Validate(); err != nil {
		t.Error(err)
	}
}

func TestFileSource(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt([]byte("data"), 1<<20)
	f.Truncate(3<<20 + 5)
	s, err := FileSource(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil || s.Size != 3<<20+5 || !s.HasData(1<<20, 4) {
		t.Errorf("%v %+v", err, s)
	}
	got := make([]byte, s.Size)
	if err := s.Read(got, 0); err != nil || string(got[1<<20:][:4]) != "data" || !IsZero(got[:1<<20]) || !IsZero(got[1<<20+4:]) {
		t.Error(err)
	}
}

func TestInOrder(t *testing.T) {
	jobs := func(yield func(int64) bool) {
		for i := range int64(500) {
			if !yield(3 * i) {
				return
			}
		}
	}
	var mine error
	run := func(workers int, fail int64) (got []int64, err error) {
		err = InOrder(jobs, workers, func() func(int64, *int64) error {
			return func(i int64, out *int64) error {
				time.Sleep(time.Duration(i%7) * 10 * time.Microsecond)
				if *out = i; i >= fail {
					return fmt.Errorf("job %d", i)
				}
				return nil
			}
		}, func(i int64, out *int64) error {
			if i != *out {
				t.Errorf("result %d for job %d", *out, i)
			}
			got = append(got, i)
			return mine
		})
		return got, err
	}
	for _, workers := range []int{1, 2, 7} {
		if got, err := run(workers, 1<<40); err != nil || !slices.Equal(got, slices.Collect(jobs)) {
			t.Errorf("%d workers: %d results, %v", workers, len(got), err)
		}
		if got, err := run(workers, 90); err == nil || err.Error() != "job 90" || len(got) != 30 {
			t.Errorf("%d workers: %d results, %v", workers, len(got), err)
		}
		mine = io.ErrShortWrite
		if got, err := run(workers, 1<<40); !errors.Is(err, mine) || len(got) != 1 {
			t.Errorf("%d workers: %d results, %v", workers, len(got), err)
		}
		mine = nil
	}
}

// stored is an image of which block i is made of the byte i+1.
func stored(size int64) *Blocks {
	return NewBlocks(size, 10, func(i int64, b []byte) error {
		if i == 7 {
			return io.ErrClosedPipe
		}
		for k := range b {
			b[k] = byte(i + 1)
		}
		return nil
	})
}

func TestBlocks(t *testing.T) {
	b := stored(65)
	for _, c := range []struct{ off, n int64 }{{0, 10}, {3, 4}, {3, 30}, {0, 65}, {64, 1}, {10, 20}} {
		p := make([]byte, c.n)
		if n, err := b.ReadAt(p, c.off); int64(n) != c.n || err != nil {
			t.Fatal(n, err)
		}
		for k := range p {
			if p[k] != byte((c.off+int64(k))/10+1) {
				t.Fatalf("%d bytes at %d: %v", c.n, c.off, p)
			}
		}
	}
	p := make([]byte, 20)
	if n, err := b.ReadAt(p, 60); n != 5 || err != io.EOF {
		t.Error(n, err)
	}
	if _, err := b.ReadAt(p, -1); err == nil || err.Error() != "negative offset -1" {
		t.Error(err)
	}
	b = stored(100)
	if n, err := b.ReadAt(p, 62); n != 8 || err != io.ErrClosedPipe {
		t.Error(n, err)
	}
	if n, err := b.ReadAt(p[:3], 73); n != 0 || err != io.ErrClosedPipe {
		t.Error(n, err)
	}
	if n, err := b.ReadAt(p[:3], 83); n != 3 || err != nil || p[0] != 9 {
		t.Error(n, err)
	}
}

func TestParseUUID(t *testing.T) {
	id, err := ParseUUID("C52b2b8a-da74-8ccd-bca1-2efb3b9d6cd0")
	if err != nil || id[0] != 0xc5 || id[15] != 0xd0 {
		t.Error(id, err)
	}
	for s, want := range map[string]string{
		"": `"" is not a UUID`, "{c52b2b8a-da74-8ccd-bca1-2efb3b9d6cd0}": `"{c52b2b8a-da74-8ccd-bca1-2efb3b9d6cd0}" is not a UUID`,
		"00000000-0000-0000-0000-000000000000": `"00000000-0000-0000-0000-000000000000" is the nil UUID`,
	} {
		if _, err := ParseUUID(s); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// TestSplice compares a spliced disk, and what its holes say, with the bytes.
func TestSplice(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 8))
		make := func(size int64, fill byte) (Source, []byte) {
			s := Source{Size: size}
			want := bytes.Repeat([]byte{fill}, int(size))
			for off := r.Int64N(20); off < size; {
				h := tree.Range{Off: off, Len: min(1+r.Int64N(60), size-off)}
				s.Holes = append(s.Holes, h)
				clear(want[h.Off:h.End()])
				off = h.End() + r.Int64N(30)
			}
			s.R = bytes.NewReader(want)
			return s, want
		}
		outer, want := make(1+r.Int64N(300), 1)
		at := r.Int64N(outer.Size)
		inner, part := make(1+r.Int64N(outer.Size-at), 2)
		copy(want[at:], part)
		s := outer.Splice(at, inner)
		if err := s.Validate(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		off := r.Int64N(outer.Size)
		n := 1 + r.Int64N(outer.Size-off)
		got := bytes.Repeat([]byte{9}, int(n))
		if err := s.Read(got, off); err != nil || !bytes.Equal(got, want[off:][:n]) {
			t.Fatalf("seed %d: %d bytes at %d: %v", seed, n, off, err)
		}
		for i, b := range want {
			if s.HasData(int64(i), 1) != (b != 0) {
				t.Fatalf("seed %d: HasData(%d) with byte %d", seed, i, b)
			}
		}
	}
}
