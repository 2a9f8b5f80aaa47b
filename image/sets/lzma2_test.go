package sets

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/ulikunitz/xz"
)

// Every kind of chunk: text, noise (plain chunks), zeros (long matches at short
// distances), all again (long distances), with xz(1)'s parameters of all kinds.
func TestLZMA2(t *testing.T) {
	referee.Need(t, "xz")
	text := textOf(3 << 20)
	noise := make([]byte, 300000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	text = bytes.Join([][]byte{text[:1<<20], noise, make([]byte, 5<<20), text, noise[:1000], text[:100]}, nil)
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, opt := range [][]string{
		{"-6"}, {"-0"}, {"-T2", "-6", "--block-size=1000000"}, {"-T1", "-0", "--check=crc32"}, {"-0", "--check=sha256"}, {"-0", "--check=none"},
		{"--lzma2=preset=0,dict=4KiB"}, {"--lzma2=preset=1,dict=100001"}, {"--lzma2=preset=1,lc=0,lp=4,pb=4"}, {"--lzma2=preset=1,lc=4,lp=0,pb=0"},
		{"--lzma2=preset=1,lc=1,lp=2,pb=1,dict=64KiB"}, {"--x86", "--lzma2=preset=0"}, {"--delta=dist=4", "--lzma2=preset=0"},
	} {
		b, err := exec.Command("xz", append(opt, "-c", path)...).Output()
		if err != nil {
			t.Fatal(opt, err)
		}
		if got, err := decode(b, len(text)); err != nil || !bytes.Equal(got, text) {
			t.Errorf("xz %v: %d bytes of %d, %v", opt, len(got), len(text), err)
		}
	}
}

// The library judges: what one of them decodes the other decodes, to the same.
func FuzzLZMA2(f *testing.F) {
	text := textOf(5000)
	for _, b := range [][]byte{text, text[:1], append(text[:100:100], make([]byte, 1000)...)} {
		file := stream(f, b, xz.None, 1<<20)
		blocks, err := readXZIndex(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			f.Fatal(err)
		}
		x := blocks[0]
		_, head, _ := blockHeader(bytes.NewReader(file), &x)
		f.Add(file[x.off+head:x.off+x.unpadded], uint(len(b)))
	}
	f.Add([]byte("\x01\x00\x02abc\x02\x00\x00d\x00"), uint(4))
	f.Fuzz(func(t *testing.T, payload []byte, size uint) {
		if size > 1<<20 {
			return
		}
		file := []byte{2, 0, 0x21, 1, 0, 0, 0, 0} // a dictionary of 4 KiB
		file = binary.LittleEndian.AppendUint32(file, crc32.ChecksumIEEE(file))
		x := xzBlock{unpadded: int64(len(file) + len(payload)), size: int64(size)}
		file = append(append(file, payload...), make([]byte, -len(payload)&3)...)
		own, lib := &sink{make([]byte, size)}, &sink{make([]byte, size)}
		err := x.decode(context.Background(), new(lzma2), bytes.NewReader(file), own, func(int) {})
		n := 0
		want := x.library(bytes.NewReader(file), func(p []byte) error {
			if n+len(p) > len(lib.b) {
				return errors.New("too much")
			}
			n += copy(lib.b[n:], p)
			return nil
		})
		if (err == nil) != (want == nil) || err == nil && !bytes.Equal(own.b, lib.b) {
			t.Errorf("own %v, library %v", err, want)
		}
	})
}
