package uzip

import (
	"bytes"
	stdzlib "compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// memory is a destination that grows and starts as garbage.
type memory struct{ b []byte }

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	for int64(len(m.b)) < off+int64(len(b)) {
		m.b = append(m.b, 0xa5)
	}
	return copy(m.b[off:], b), nil
}

// sample is n bytes of text, noise and zeros, in stretches of several blocks.
func sample(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 9))
	b := make([]byte, 0, n)
	for len(b) < n {
		k := 1 + r.IntN(40000)
		switch r.IntN(3) {
		case 0:
			b = append(b, make([]byte, 3*k)...)
		case 1:
			for range k {
				b = append(b, byte(r.Uint32()))
			}
		case 2:
			for i := 0; i < k; i += 30 {
				b = fmt.Appendf(b, "line %d of a text file %d\n", i, r.IntN(100))
			}
		}
	}
	return b[:n]
}

func write(t testing.TB, src []byte, o Options) []byte {
	t.Helper()
	m := &memory{}
	n, err := Write(m, bytes.NewReader(src), int64(len(src)), o)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(len(m.b)) || n%512 != 0 {
		t.Fatalf("%d bytes returned, %d written", n, len(m.b))
	}
	return m.b
}

// kernel reads an image as sys/geom/uzip/g_uzip.c does, with the zlib of the
// standard library, and panics where the kernel would fail or corrupt its state.
func kernel(t testing.TB, img []byte) []byte {
	t.Helper()
	if !strings.HasPrefix(string(img), "#!/bin/sh\n") || img[0x0b] != 'V' || img[0x0c] < '2' {
		t.Fatalf("magic %q", img[:23])
	}
	blksz := binary.BigEndian.Uint32(img[128:])
	n := binary.BigEndian.Uint32(img[132:])
	toc := make([]uint64, n+1)
	for i := range toc {
		toc[i] = binary.BigEndian.Uint64(img[136+8*i:])
	}
	if end := toc[n]; end > uint64(len(img)) || uint64(len(img))-end >= 512 {
		t.Fatalf("the table ends at %d of %d bytes", end, len(img))
	}
	toc[n] = uint64(len(img)) // version < 4: mediasize
	var out []byte
	for i := range n {
		raw := img[toc[i]:toc[i+1]]
		if toc[i] < uint64(136+8*(n+1)) {
			t.Fatalf("block %d at %d", i, toc[i])
		}
		if len(raw) == 0 {
			if i == n-1 {
				t.Fatal("the last block is empty: geom_uzip would inflate its padding")
			}
			out = append(out, make([]byte, blksz)...)
			continue
		}
		if i < n-1 && int64(len(raw)) > compressBound(int64(blksz)) {
			t.Fatalf("block %d of %d bytes", i, len(raw))
		}
		zr, err := stdzlib.NewReader(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(zr)
		if err != nil || len(b) != int(blksz) {
			t.Fatalf("block %d: %d bytes, %v", i, len(b), err)
		}
		out = append(out, b...)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	const bs = 4096
	for _, size := range []int{1, 511, 512, bs - 1, bs, bs + 1, 2 * bs, 10*bs + 17, 300 * bs} {
		for name, src := range map[string][]byte{
			"mixed": sample(size),
			"zeros": make([]byte, size),
			"noise": func() []byte {
				b := make([]byte, size)
				rand.NewChaCha8([32]byte{1}).Read(b)
				return b
			}(),
		} {
			img := write(t, src, Options{BlockSize: bs})
			want := append(bytes.Clone(src), make([]byte, -size&(bs-1))...)
			if !bytes.Equal(kernel(t, img), want) {
				t.Fatalf("%s of %d bytes: the kernel reads something else", name, size)
			}
			u, err := Open(bytes.NewReader(img), int64(len(img)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := content(u)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s of %d bytes: read back %d, %v", name, size, len(got), err)
			}
			if err := Verify(bytes.NewReader(img), int64(len(img)), bytes.NewReader(src), int64(size)); err != nil {
				t.Error(err)
			}
			if name == "zeros" && size == 300*bs && len(img) > 3072 {
				t.Errorf("300 blocks of zeros take %d bytes", len(img))
			}
		}
	}
}

// TestBlockSizes includes the largest one and the default.
func TestBlockSizes(t *testing.T) {
	src := sample(1_200_001)
	for _, bs := range []int{0, 512, 16 << 10, 128 << 10, 1015296} {
		img := write(t, src, Options{BlockSize: bs})
		if got := kernel(t, img); !bytes.Equal(got[:len(src)], src) {
			t.Errorf("block size %d: the kernel reads something else", bs)
		}
	}
}

// TestNoise is about blocks that do not shrink: none may exceed compressBound.
func TestNoise(t *testing.T) {
	src := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{2}).Read(src)
	for _, level := range []int{1, 6, 9} {
		for _, bs := range []int{512, 64 << 10, 512 << 10} {
			if !bytes.Equal(kernel(t, write(t, src, Options{BlockSize: bs, Level: level})), src) {
				t.Errorf("level %d, block size %d", level, bs)
			}
		}
	}
}

func TestStored(t *testing.T) {
	for _, n := range []int{512, 65535 - 511, 65536, 1 << 19} {
		b := sample(n)
		var out bytes.Buffer
		stored(&out, b)
		if int64(out.Len()) > compressBound(int64(n)) {
			t.Errorf("%d bytes became %d", n, out.Len())
		}
		zr, err := stdzlib.NewReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(zr); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestDeterminism(t *testing.T) {
	src := sample(2 << 20)
	for _, level := range []int{1, 5, 6, 9} {
		want := write(t, src, Options{BlockSize: 16 << 10, Level: level, Workers: 1})
		for _, workers := range []int{2, 7, 500} {
			if !bytes.Equal(write(t, src, Options{BlockSize: 16 << 10, Level: level, Workers: workers}), want) {
				t.Errorf("level %d: %d workers make another image than 1", level, workers)
			}
		}
	}
}

// broken fails in the middle.
type broken struct{}

func (broken) ReadAt(b []byte, off int64) (int, error) {
	if off >= 8192 {
		return 0, fmt.Errorf("bad sector at %d", off)
	}
	return len(b), nil
}

func (broken) WriteAt([]byte, int64) (int, error) { return 0, errors.New("disk full") }

func TestWriteErrors(t *testing.T) {
	for _, c := range []struct {
		dst  io.WriterAt
		src  io.ReaderAt
		size int64
		o    Options
		want string
	}{
		{&memory{}, broken{}, 1 << 30, Options{BlockSize: 512}, "write uzip: read 512 bytes at 8192: bad sector at 8192"},
		{&memory{}, bytes.NewReader(make([]byte, 100)), 1000, Options{BlockSize: 512}, "write uzip: read 512 bytes at 0: unexpected EOF"},
		{broken{}, bytes.NewReader(sample(1 << 20)), 1 << 20, Options{}, "write uzip: disk full"},
		{&memory{}, nil, 0, Options{}, "write uzip: cannot make blocks of 65536 bytes of 0 bytes"},
		{&memory{}, nil, 1 << 50, Options{}, "write uzip: cannot make blocks of 65536 bytes of 1125899906842624 bytes"},
		{&memory{}, nil, 1, Options{BlockSize: 1000}, "write uzip: block size 1000 is not a multiple of 512"},
		{&memory{}, nil, 1, Options{BlockSize: -512}, "write uzip: block size -512 is not a multiple of 512"},
		{&memory{}, nil, 1, Options{BlockSize: 1 << 20}, "write uzip: block size 1048576 is too large: a compressed block must fit one read of 1048576 bytes"},
		{&memory{}, nil, 1, Options{Level: 10}, "write uzip: level 10 is not between 1 and 9"},
	} {
		if n, err := Write(c.dst, c.src, c.size, c.o); n != 0 || err == nil || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

func TestVerifyErrors(t *testing.T) {
	src := sample(50_000)
	img := write(t, src, Options{BlockSize: 4096})
	verify := func(img, src []byte) error {
		return Verify(bytes.NewReader(img), int64(len(img)), bytes.NewReader(src), int64(len(src)))
	}
	other := bytes.Clone(src)
	other[20_000]++
	flipped := bytes.Clone(img)
	start := binary.BigEndian.Uint64(img[136+8*12:]) // of the last block
	flipped[start+20] ^= 0x10
	for want, err := range map[string]error{
		"verify uzip: block 4 (at 16384) differs from its source":                      verify(img, other),
		"verify uzip: it holds 53248 bytes, not 57344":                                 verify(img, append(other, other[:4096]...)),
		fmt.Sprintf("verify uzip: image of %d bytes is not padded to 512", len(img)+1): verify(append(bytes.Clone(img), 0), src),
		"verify uzip: uzip block 12: ":                                                 verify(flipped, src),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	img := write(t, sample(50_000), Options{BlockSize: 4096}) // 13 blocks
	for want, damage := range map[string]map[int]byte{
		"open uzip: not a cloop image: it does not begin with #!/bin/sh":                                      {0: 'x'},
		`open uzip: unsupported form "L3"; only V2 (zlib) is`:                                                 {11: 'L', 12: '3'},
		"open uzip: block size 4097 is not a multiple of 512":                                                 {131: 1},
		"open uzip: block size 268439552 is too large: a compressed block must fit one read of 1048576 bytes": {128: 0x10},
		"open uzip: no blocks": {135: 0},
		fmt.Sprintf("open uzip: the table of 4278190093 blocks ends at 34225520888, behind the image of %d bytes", len(img)): {132: 0xff},
		fmt.Sprintf("open uzip: block 0: offset 232 is not between 248 and %d", len(img)):                                    {136 + 7: 232},
		fmt.Sprintf("open uzip: block 2: offset 9223372036854775808 is not between 248 and %d", len(img)):                    {},
		"open uzip: block 1: offset 248 is before the block before it (deduplicated images are not supported)":               {},
	} {
		b := bytes.Clone(img)
		for at, v := range damage {
			b[at] = v
		}
		if strings.Contains(want, "block 2") {
			binary.BigEndian.PutUint64(b[136+16:], 1<<63)
		}
		if strings.Contains(want, "block 1:") {
			binary.BigEndian.PutUint64(b[136:], 249)
			binary.BigEndian.PutUint64(b[136+8:], 248)
		}
		if _, err := Open(bytes.NewReader(b), int64(len(b))); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if _, err := Open(bytes.NewReader(img[:100]), 100); err == nil || err.Error() != "open uzip: header: unexpected EOF" {
		t.Error(err)
	}
	// A size that lies must not make Open believe the header.
	binary.BigEndian.PutUint32(img[132:], 1<<31)
	if _, err := Open(bytes.NewReader(img), 1<<40); err == nil {
		t.Error("a table of 16 GiB in an image of some KiB was accepted")
	}
}

// TestMkuzipLastBlock reads the form that mkuzip makes of a source that ends in
// zeros: an empty last block with padding behind it.
func TestMkuzipLastBlock(t *testing.T) {
	img := write(t, sample(4096), Options{BlockSize: 4096})
	end := binary.BigEndian.Uint64(img[144:])
	b := bytes.Clone(img[:136])
	b[135] = 2
	for _, off := range []uint64{152 + 8, end + 8, end + 8} {
		b = binary.BigEndian.AppendUint64(b, off)
	}
	b = append(b, img[152:end]...)
	b = append(b, make([]byte, 512-len(b)%512)...)
	u, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := content(u); err != nil || !bytes.Equal(got, append(sample(4096), make([]byte, 4096)...)) {
		t.Error(err)
	}
}

// content is all that an image holds.
func content(u *Reader) ([]byte, error) {
	var out []byte
	f := u.inflater()
	for i := range int64(len(u.toc)) - 1 {
		if err := u.inflate(f, i); err != nil {
			return out, err
		}
		out = append(out, f.block...)
	}
	return out, nil
}

// exercise reads all of an image that may be damaged in any way.
func exercise(b []byte) {
	u, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil || u.Size() > 64<<20 {
		return
	}
	f := u.inflater()
	for i := range int64(len(u.toc)) - 1 {
		u.inflate(f, i)
	}
}

// TestCorrupted fails by panicking or by never coming back.
func TestCorrupted(t *testing.T) {
	img := write(t, sample(50_000), Options{BlockSize: 4096})
	r := rand.New(rand.NewPCG(4, 4))
	for range 1000 {
		b := bytes.Clone(img)
		for range 1 + r.IntN(3) {
			at := r.IntN(len(b))
			if r.IntN(2) == 0 {
				at = 120 + r.IntN(136)
			}
			b[at] = []byte{0, 1, 0x7f, 0x80, 0xff, byte(r.Uint32())}[r.IntN(6)]
		}
		exercise(b[:len(b)-r.IntN(2)*r.IntN(len(b))])
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(write(f, sample(50_000), Options{BlockSize: 4096}))
	f.Add(write(f, make([]byte, 3000), Options{BlockSize: 512}))
	f.Fuzz(func(_ *testing.T, b []byte) { exercise(b) })
}

// BenchmarkLevels compresses the file RIG_UZIP_SAMPLE: a UFS image of a FreeBSD
// root, or a tar of one.
func BenchmarkLevels(b *testing.B) {
	name := os.Getenv("RIG_UZIP_SAMPLE")
	if name == "" {
		b.Skip("RIG_UZIP_SAMPLE is not set")
	}
	src, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	for _, bs := range []int{64 << 10, 128 << 10, 256 << 10} {
		for level := 1; level <= 9; level++ {
			b.Run(fmt.Sprintf("%dk-%d", bs>>10, level), func(b *testing.B) {
				b.SetBytes(int64(len(src)))
				for b.Loop() {
					n := len(write(b, src, Options{BlockSize: bs, Level: level, Workers: 1}))
					b.ReportMetric(float64(n)/float64(len(src))*100, "%size")
				}
			})
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	src := sample(32 << 20)
	img := write(b, src, Options{})
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if err := Verify(bytes.NewReader(img), int64(len(img)), bytes.NewReader(src), int64(len(src))); err != nil {
			b.Fatal(err)
		}
	}
}
