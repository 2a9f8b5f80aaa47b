package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// strictDisk is a device that takes whole sectors only, and answers as told.
type strictDisk struct {
	data   []byte
	sector int
	answer func(n int, off int64) (int, error) // how much of n it gives, nil for all

	mu      sync.Mutex
	largest int
	reads   int
}

func (d *strictDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	d.largest, d.reads = max(d.largest, len(p)), d.reads+1
	d.mu.Unlock()
	if len(p)%d.sector != 0 || off%int64(d.sector) != 0 {
		return 0, syscall.EINVAL
	}
	n, err := len(p), error(nil)
	if d.answer != nil {
		n, err = d.answer(n, off)
	}
	if off >= int64(len(d.data)) {
		return 0, io.EOF
	}
	got := copy(p[:n], d.data[off:])
	if got < len(p) && err == nil {
		err = io.EOF // as os.File.ReadAt says it
	}
	return got, err
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{7})
	r.Read(b)
	return b
}

func TestReader(t *testing.T) {
	const size = 1<<20 + 3*512
	for _, tt := range []struct {
		name   string
		answer func(n int, off int64) (int, error)
	}{
		{"a good disk", nil},
		{"nothing above 64 KiB", func(n int, _ int64) (int, error) {
			if n > 64<<10 {
				return 0, nil
			}
			return n, nil
		}},
		{"nothing above 4 KiB", func(n int, _ int64) (int, error) {
			if n > 4<<10 {
				return 0, nil
			}
			return n, nil
		}},
		{"a sector at a time", func(n int, _ int64) (int, error) { return 512, nil }},
		{"half of each", func(n int, _ int64) (int, error) { return max(n/2, 512), nil }},
		{"errors above a sector", func(n int, _ int64) (int, error) {
			if n > 512 {
				return 0, syscall.EIO
			}
			return n, nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &strictDisk{data: randomBytes(size), sector: 512, answer: tt.answer}
			for _, known := range []int64{size, 0} {
				r := NewReader(d, "da0", 512, known)
				for _, off := range []int64{0, 1, 511, 512, 513, 64 << 10, 64<<10 - 1, size - 513, size - 1} {
					for _, n := range []int{1, 511, 512, 513, 64 << 10, 64<<10 + 1, 200 << 10, size} {
						want := d.data[off:min(off+int64(n), size)]
						b := make([]byte, n)
						got, err := r.ReadAt(b, off)
						if !bytes.Equal(b[:got], want) || got < n && err != io.EOF || got == n && err != nil {
							t.Fatalf("size %d: %d bytes at %d: %d, %v", known, n, off, got, err)
						}
					}
				}
				for _, off := range []int64{-1, size, size + 1} {
					if n, err := r.ReadAt(make([]byte, 1), off); n != 0 || err != io.EOF {
						t.Errorf("at %d: %d, %v", off, n, err)
					}
				}
			}
			if d.largest > 64<<10 {
				t.Errorf("%d bytes were asked for at once", d.largest)
			}
		})
	}
}

// What cannot be read is named to the sector, and what lies before it is there.
func TestReaderErrors(t *testing.T) {
	const size, bad = 1 << 20, 300<<10 + 512
	covers := func(n int, off int64) bool { return off <= bad && off+int64(n) > bad }
	for _, tt := range []struct {
		name   string
		answer func(n int, off int64) (int, error)
		want   string
		is     error
		most   int // reads of the piece it is in, and of those before
	}{
		{"bad sector", func(n int, off int64) (int, error) {
			if covers(n, off) {
				return 0, syscall.EIO
			}
			return n, nil
		}, "read /dev/da0: 512 bytes at 307712: input/output error", syscall.EIO, 40},
		{"nothing and no error", func(n int, off int64) (int, error) {
			if covers(n, off) {
				return 0, nil
			}
			return n, nil
		}, "read /dev/da0: 512 bytes at 307712: unexpected EOF", io.ErrUnexpectedEOF, 40},
		{"gone", func(n int, off int64) (int, error) { return 0, syscall.ENXIO }, "read /dev/da0: 65536 bytes at 0: ", syscall.ENXIO, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &strictDisk{data: randomBytes(size), sector: 512, answer: tt.answer}
			b := make([]byte, size)
			n, err := NewReader(d, "/dev/da0", 512, size).ReadAt(b, 0)
			if !errors.Is(err, tt.is) || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if !bytes.Equal(b[:n], d.data[:n]) || tt.is != syscall.ENXIO && n != bad {
				t.Errorf("%d bytes were read", n)
			}
			if d.reads > tt.most {
				t.Errorf("%d reads", d.reads)
			}
		})
	}
}

// A file grows while it is written; its end need not be a sector's.
func TestDevice(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	want := randomBytes(400<<10 + 7)
	if err := os.WriteFile(name, want, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(name, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	check := func() {
		t.Helper()
		for _, n := range []int{100, len(want)} {
			for off := 0; off < len(want); off += 99991 {
				b := make([]byte, n)
				got, err := d.ReadAt(b, int64(off))
				if short := off+n > len(want); !bytes.Equal(b[:got], want[off:min(off+n, len(want))]) || short != (err == io.EOF) {
					t.Fatalf("%d bytes at %d: %d, %v", n, off, got, err)
				}
			}
		}
	}
	check()
	more := randomBytes(10000)
	for _, off := range []int{5, 4096, len(want) - 10, len(want) + 100} {
		if _, err := d.WriteAt(more, int64(off)); err != nil {
			t.Fatal(err)
		}
		want = append(want, make([]byte, max(0, off+len(more)-len(want)))...)
		copy(want[off:], more)
		check()
	}
	if _, err := Open(filepath.Join(name, "x"), 0, false); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("open below a file: %v", err)
	}
	if _, err := Open(name, 3, false); err == nil || !strings.Contains(err.Error(), "sectors of 3 bytes are not supported") {
		t.Errorf("sectors of 3 bytes: %v", err)
	}
}

func BenchmarkReader(b *testing.B) {
	name := filepath.Join(b.TempDir(), "disk")
	const size = 256 << 20
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 4<<20)
	for what, r := range map[string]io.ReaderAt{"whole": f, "pieces": NewReader(f, name, 512, size)} {
		b.Run(fmt.Sprint(what), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				for off := int64(0); off < size; off += int64(len(buf)) {
					if _, err := r.ReadAt(buf, off); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
