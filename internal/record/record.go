// Package record writes and reads the small files of the cache: a magic line, then
// signed varints and strings with their length in front, then the SHA-256 of all
// before. What is damaged, cut off or of another format is refused as a whole.
package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
)

// Writer builds a file in memory.
type Writer struct{ b []byte }

// NewWriter begins a file; size is about how long it will be.
func NewWriter(magic string, size int) *Writer {
	return &Writer{append(make([]byte, 0, size+len(magic)+sha256.Size), magic...)}
}

func (w *Writer) Num(n int64)  { w.b = binary.AppendVarint(w.b, n) }
func (w *Writer) Str(s string) { w.Num(int64(len(s))); w.b = append(w.b, s...) }

// Bytes ends the file and returns it.
func (w *Writer) Bytes() []byte {
	sum := sha256.Sum256(w.b)
	return append(w.b, sum[:]...)
}

// Replace puts a file into the place of an older one, complete or not at all.
func Replace(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

// Reader reads a file. What is wrong shows at the end: see Done.
type Reader struct {
	rest string
	bad  bool
}

// NewReader checks magic and sum of a file. Strings that are read are parts of one.
func NewReader(b []byte, magic string) *Reader {
	n := len(b) - sha256.Size
	if n < len(magic) || string(b[:len(magic)]) != magic {
		return &Reader{bad: true}
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return &Reader{bad: true}
	}
	return &Reader{rest: string(b[len(magic):n])}
}

// Num reads a number, which must be within bounds.
func (r *Reader) Num(low, high int64) int64 {
	var u uint64
	for i := 0; i < len(r.rest) && i < binary.MaxVarintLen64; i++ {
		c := r.rest[i]
		u |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.rest = r.rest[i+1:]
			n := int64(u>>1) ^ -int64(u&1)
			if n < low || n > high {
				break
			}
			return n
		}
	}
	r.bad = true
	return 0
}

// Count reads how many items follow, of which each takes at least one byte.
func (r *Reader) Count() int { return int(r.Num(0, int64(len(r.rest)))) }

// Str reads a string.
func (r *Reader) Str() string {
	n := r.Num(0, math.MaxInt32)
	if n > int64(len(r.rest)) {
		r.bad = true
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

// Bad reports whether what was read so far is not what it should be.
func (r *Reader) Bad() bool { return r.bad }

// Done reports whether everything was as it should be and nothing is left.
func (r *Reader) Done() bool { return !r.bad && r.rest == "" }
