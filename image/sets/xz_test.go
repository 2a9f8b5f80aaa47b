package sets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/ulikunitz/xz"
)

func resum(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}

// sink is an io.WriterAt in memory.
type sink struct{ b []byte }

func (s *sink) WriteAt(p []byte, off int64) (int, error) {
	return copy(s.b[off:], p), nil
}

// textOf is compressible and does not repeat.
func textOf(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString([]string{"jail ", "zpool ", "mirror ", "spare\n", "pf ", "epair"}[r.IntN(6)])
	}
	return b.Bytes()[:n]
}

// stream is one xz stream, of several blocks when blockSize is smaller than b.
func stream(t testing.TB, b []byte, check byte, blockSize int64) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := xz.WriterConfig{DictCap: 1 << 20, CheckSum: check, BlockSize: blockSize}.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decode(b []byte, want int) ([]byte, error) {
	s := &sink{make([]byte, want)}
	n, err := decodeXZ(context.Background(), bytes.NewReader(b), int64(len(b)), s, func(done, total int64) {})
	return s.b[:min(n, int64(want))], err
}

func TestDecodeXZ(t *testing.T) {
	text := textOf(700000)
	three := bytes.Join([][]byte{stream(t, text[:300000], xz.CRC64, 70000), stream(t, text[300000:300001], xz.SHA256, 1<<20),
		stream(t, text[300001:], xz.CRC32, 1<<20)}, make([]byte, 8))
	for _, c := range []struct {
		what   string
		b      []byte
		want   []byte
		blocks int
	}{
		{"one block", stream(t, text, xz.CRC64, 1<<30), text, 1},
		{"blocks", stream(t, text, xz.CRC64, 100000), text, 7},
		{"no check", stream(t, text, xz.None, 400000), text, 2},
		{"streams and padding", append(three, 0, 0, 0, 0), text, 7},
	} {
		blocks, err := readXZIndex(bytes.NewReader(c.b), int64(len(c.b)))
		if err != nil || len(blocks) != c.blocks {
			t.Errorf("%s: %d blocks, %v", c.what, len(blocks), err)
			continue
		}
		for i := range blocks {
			if d := dictSize(bytes.NewReader(c.b), &blocks[i]); d != 1<<20 {
				t.Errorf("%s: dictionary of %d", c.what, d)
			}
		}
		if got, err := decode(c.b, len(c.want)); err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %d bytes, equal %v, %v", c.what, len(got), bytes.Equal(got, c.want), err)
		}
	}
}

func TestDecodeXZDamaged(t *testing.T) {
	text := textOf(500000)
	good := stream(t, text, xz.CRC64, 100000)
	for _, c := range []struct {
		what string
		edit func([]byte) []byte
		want string
	}{
		{"a bit in a block", func(b []byte) []byte { b[len(b)/2] ^= 4; return b }, "decode xz: block at byte "},
		{"a bit in the index", func(b []byte) []byte { b[len(b)-20] ^= 4; return b }, "decode xz: xz: data is corrupt"},
		{"cut", func(b []byte) []byte { return b[:len(b)/2] }, "decode xz: xz: data is truncated"},
		{"empty", func(b []byte) []byte { return nil }, "decode xz: xz: data is truncated"},
		{"something else", func(b []byte) []byte { return []byte("BZh91AY&SY, or so") }, "decode xz: xz: file format not recognized"},
	} {
		b := c.edit(bytes.Clone(good))
		if _, err := decode(b, len(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.what, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := decodeXZ(ctx, bytes.NewReader(good), int64(len(good)), &sink{make([]byte, len(text))}, func(done, total int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// TestDecodeXZReferee decodes what xz(1) made.
func TestDecodeXZReferee(t *testing.T) {
	xzPath := referee.Need(t, "xz")
	text := textOf(400 << 10)
	for _, args := range [][]string{{"-T2", "--block-size=100000"}, {"-T1"}, {"-9e", "--check=sha256"}, {"--x86", "--lzma2=preset=1", "--block-size=100000"}} {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
		referee.Run(t, xzPath, append(args, name)...)
		b, err := os.ReadFile(name + ".xz")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(b, len(text)); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// FuzzXZIndex finds blocks in any bytes, with a right CRC too; they must lie inside the file.
func FuzzXZIndex(f *testing.F) {
	good := stream(f, textOf(1000), xz.CRC64, 300)
	f.Add(good)
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte{0, 1, 5, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		blocks, err := readXZIndex(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			end := int64(0)
			for i := range blocks {
				x := &blocks[i]
				if x.off < end || x.off+x.padded() > int64(len(b)) || x.size < 0 || x.start < 0 {
					t.Errorf("block %+v in a file of %d bytes", x, len(b))
				}
				end = x.off + x.padded()
				if d := dictSize(bytes.NewReader(b), x); d < 4096 || d > maxDict {
					t.Errorf("dictionary of %d", d)
				}
			}
		}
		if blocks, err := parseXZIndex(binary.LittleEndian.AppendUint32(bytes.Clone(b), crc32.ChecksumIEEE(b))); err == nil {
			for _, x := range blocks {
				if x.unpadded < 5 || x.padded() < x.unpadded || x.size < 0 {
					t.Errorf("accepted %+v", x)
				}
			}
		}
	})
}

// FuzzDecodeXZ compares with the stream decoder of another author.
func FuzzDecodeXZ(f *testing.F) {
	f.Add(stream(f, textOf(1000), xz.CRC64, 300))
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 16
		got, err := decode(b, limit)
		if err != nil || len(got) == limit {
			return
		}
		z, err := xz.NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		want, err := io.ReadAll(io.LimitReader(z, limit))
		if err == nil && !bytes.Equal(got, want) {
			t.Errorf("%d bytes, the referee has %d", len(got), len(want))
		}
	})
}
