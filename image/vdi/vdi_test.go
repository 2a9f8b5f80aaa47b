package vdi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"github.com/rig-freebsd/rig/internal/vdisk/vdisktest"
)

var options = []Options{{UUID: testUUID, Modified: "00000001-0002-0003-0405-060708090a0b"}}

const testUUID = "c52b2b8a-da74-8ccd-bca1-2efb3b9d6cd0"

func write(t testing.TB, src vdisk.Source, o Options) []byte {
	t.Helper()
	m := &vdisktest.Memory{}
	n, err := Write(m, src, o)
	if err != nil {
		t.Fatal(err)
	}
	if n > int64(len(m.B)) {
		t.Fatalf("%d bytes returned, %d written", n, len(m.B))
	}
	return m.B[:n]
}

func roundTrip(t *testing.T, src vdisk.Source, o Options) []byte {
	t.Helper()
	w := func() []byte { return write(t, src, o) }
	return vdisktest.RoundTrip(t, w, w, func(img io.ReaderAt, n int64) error { return Verify(img, n, src) })
}

func TestRoundTrip(t *testing.T) {
	for _, o := range options {
		for _, size := range []int{1, 511, 512, blockSize - 1, blockSize, blockSize + 1, 10*blockSize + 17, 33 << 20} {
			for name, b := range map[string][]byte{"mixed": vdisktest.Sample(size, 1), "zeros": make([]byte, size), "noise": vdisktest.Noise(size)} {
				t.Run(fmt.Sprintf("%+v-%s-%d", o, name, size), func(t *testing.T) {
					img := roundTrip(t, vdisktest.Source(b), o)
					if name == "zeros" && len(img) != 1<<20 {
						t.Errorf("an empty disk takes %d bytes", len(img))
					}
				})
			}
		}
	}
}

func TestSparse(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		roundTrip(t, vdisktest.RandomSparse(r, 1+r.Int64N(9)*r.Int64N(5<<20)+8).Source(), options[r.IntN(len(options))])
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// judge gives an image to qemu-img, with the raw disk to compare when there is one.
func judge(t *testing.T, img []byte, size int64, raw string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.vdi")
	if err := os.WriteFile(name, img, 0o600); err != nil {
		t.Fatal(err)
	}
	var info struct {
		Size    int64  `json:"virtual-size"`
		Format  string `json:"format"`
		Cluster int    `json:"cluster-size"`
	}
	if err := json.Unmarshal([]byte(referee.Run(t, "qemu-img", "info", "--output=json", name)), &info); err != nil {
		t.Fatal(err)
	}
	if info.Size != size || info.Format != "vdi" || info.Cluster != blockSize {
		t.Errorf("qemu-img info: %+v", info)
	}
	if out := referee.Run(t, "qemu-img", "check", "-f", "vdi", name); !strings.Contains(out, "No errors were found on the image.") {
		t.Error(out)
	}
	if raw != "" {
		referee.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "vdi", raw, name)
	}
}

func TestReferee(t *testing.T) {
	referee.Need(t, "qemu-img")
	for _, o := range options {
		vdisktest.Raws(t, []int{512, 65536 - 512, 3<<20 + 512, 33 << 20}, func(b []byte, raw string) {
			judge(t, write(t, vdisktest.Source(b), o), int64(len(b)), raw)
		})
	}
}

// TestLarge is a file of 9 GiB, most of it a hole.
func TestLarge(t *testing.T) {
	const size = 9<<30 + 512
	src, name := vdisktest.Large(t, size)
	for _, o := range options {
		img := write(t, src, o)
		if err := Verify(bytes.NewReader(img), int64(len(img)), src); err != nil {
			t.Error(err)
		}
		if _, ok := referee.Find("qemu-img"); ok {
			judge(t, img, size, name)
		}
	}
}

// TestHuge is a disk of 4 TiB: nothing may cost time for what is not there.
func TestHuge(t *testing.T) {
	s := vdisktest.Sparse{Size: 4 << 40, Data: []tree.Range{{Off: 5, Len: 1}, {Off: 4<<40 - 1<<30, Len: 100_000}}}
	img := write(t, s.Source(), options[0])
	if err := Verify(bytes.NewReader(img), int64(len(img)), s.Source()); err != nil {
		t.Error(err)
	}
}

func TestMemory(t *testing.T) {
	for _, o := range options {
		vdisktest.Frugal(t, func(d *vdisktest.Discard, src vdisk.Source) error {
			_, err := Write(d, src, o)
			return err
		})
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error)  { return 0, io.ErrClosedPipe }
func (failing) WriteAt([]byte, int64) (int, error) { return 0, io.ErrShortWrite }

func TestWriteErrors(t *testing.T) {
	for want, src := range map[string]vdisk.Source{
		"write vdi: source: size 0 is not positive":                   vdisktest.Source(nil),
		"write vdi: read 1 bytes at 0: io: read/write on closed pipe": {R: failing{}, Size: 1},
		"write vdi: short write":                                      vdisktest.Source(vdisktest.Noise(5 << 20)),
		"write vdi: 2305843009213693952 bytes are too many":           vdisk.Empty(1 << 61),
	} {
		if _, err := Write(failing{}, src, options[0]); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	for _, o := range []Options{{}, {UUID: testUUID, Modified: "x"}, {UUID: "00000000-0000-0000-0000-000000000000"}} {
		if _, err := Write(failing{}, vdisktest.Source(vdisktest.Noise(9)), o); err == nil || !strings.Contains(err.Error(), "UUID") {
			t.Error(err)
		}
	}
}

func TestReadErrors(t *testing.T) {
	raw := append(vdisktest.Noise(blockSize), make([]byte, blockSize)...)
	raw = append(raw, vdisktest.Noise(700)...)
	img := write(t, vdisktest.Source(raw), options[0])
	for want, damage := range map[string]func(b []byte) []byte{
		"open vdi: header: unexpected EOF":                          func(b []byte) []byte { return b[:300] },
		"open vdi: header: not a VDI: the signature is not there":   func(b []byte) []byte { b[64] = 0; return b },
		"open vdi: header: version 1.1, type 2, blocks of 1048576 ": func(b []byte) []byte { b[76] = 2; return b },
		"open vdi: header: 4 blocks for a disk of 2098176 bytes":    func(b []byte) []byte { b[384] = 4; return b },
		"open vdi: header: 2 blocks in an image of 3145727 bytes":   func(b []byte) []byte { return b[:len(b)-1] },
		"open vdi: header: a UUID is nil":                           func(b []byte) []byte { clear(b[392:408]); return b },
		"open vdi: map: block 2 is stored as 0, as is another":      func(b []byte) []byte { b[512+8] = 0; return b },
		"open vdi: map: block 0 is stored as 2 of 2":                func(b []byte) []byte { b[512] = 2; return b },
		"verify vdi: byte 100 differs from its source":              func(b []byte) []byte { b[1<<20+100] ^= 1; return b },
		"verify vdi: byte 2097853 differs from its source":          func(b []byte) []byte { b[2<<20+701] ^= 1; return b },
	} {
		b := damage(bytes.Clone(img))
		err := Verify(bytes.NewReader(b), int64(len(b)), vdisktest.Source(raw))
		if err == nil || !strings.HasPrefix(strings.TrimPrefix(err.Error(), "verify vdi: "), strings.TrimPrefix(want, "verify vdi: ")) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// TestHeader compares with the bytes VirtualBox's structures have.
func TestHeader(t *testing.T) {
	img := write(t, vdisk.Empty(5<<30), options[0])
	for off, want := range map[int]string{
		0: "<<< Oracle VirtualBox Disk Image >>>\n\x00", 64: "\x7f\x10\xda\xbe\x01\x00\x01\x00\x90\x01\x00\x00\x01\x00\x00\x00",
		340: "\x00\x02\x00\x00\x00\x00\x10\x00", 360: "\x00\x02\x00\x00", 368: "\x00\x00\x00\x40\x01\x00\x00\x00\x00\x00\x10\x00",
		392: "\x8a\x2b\x2b\xc5\x74\xda\xcd\x8c\xbc\xa1\x2e\xfb\x3b\x9d\x6c\xd0\x01\x00\x00\x00\x02\x00\x03\x00\x04\x05",
	} {
		if got := string(img[off:][:len(want)]); got != want {
			t.Errorf("at %d: %q, want %q", off, got, want)
		}
	}
}

// exercise reads an image that may be damaged in any way.
func exercise(b []byte) {
	v, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return
	}
	v.Allocated(0, 1<<20)
	p := make([]byte, 100_000)
	for off := int64(0); off < min(v.Size(), 2<<20); off += int64(len(p)) {
		v.ReadAt(p, off)
	}
	v.ReadAt(p, max(0, v.Size()-1000))
}

// TestCorrupted fails by panicking or by never coming back.
func TestCorrupted(t *testing.T) {
	img := write(t, vdisktest.Source(vdisktest.Sample(700_000, 5)), options[len(options)-1])
	r := rand.New(rand.NewPCG(4, 4))
	for range 500 {
		b := bytes.Clone(img)
		for range 1 + r.IntN(3) {
			at := r.IntN(len(b))
			switch r.IntN(3) {
			case 0:
				at = r.IntN(700)
			case 1:
				at = r.IntN(len(b)/65536)*65536 + r.IntN(90)
			}
			b[at] = []byte{0, 1, 0x7f, 0x80, 0xff, byte(r.Uint32())}[r.IntN(6)]
		}
		exercise(b[:len(b)-r.IntN(2)*r.IntN(len(b))])
	}
}

func FuzzOpen(f *testing.F) {
	for _, o := range options {
		f.Add(write(f, vdisktest.Source(vdisktest.Sample(150_000, 6)), o))
		f.Add(write(f, vdisk.Empty(1<<33), o))
	}
	f.Fuzz(func(_ *testing.T, b []byte) { exercise(b) })
}

// FuzzShapes is the round trip of disks of any size and of any runs of data.
func FuzzShapes(f *testing.F) {
	f.Add(uint64(1), int64(1<<20))
	f.Add(uint64(2), int64(40<<20))
	f.Fuzz(func(t *testing.T, seed uint64, size int64) {
		if size < 8 || size > 64<<20 {
			return
		}
		src := vdisktest.RandomSparse(rand.New(rand.NewPCG(seed, 1)), size).Source()
		img := write(t, src, options[int(seed%uint64(len(options)))])
		if err := Verify(bytes.NewReader(img), int64(len(img)), src); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSpeed logs how Write compares with qemu-img convert on the same file.
func TestSpeed(t *testing.T) {
	qemu := referee.Need(t, "qemu-img")
	if testing.Short() {
		t.Skip("-short")
	}
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt(vdisktest.Sample(96<<20, 9), 1<<20)
	if err := f.Truncate(160 << 20); err != nil {
		t.Fatal(err)
	}
	for _, o := range options {
		args := []string{"convert", "-f", "raw", "-O", "vdi"}
		ours, theirs := time.Hour, time.Hour
		for range 3 {
			start := time.Now()
			if b, err := exec.Command(qemu, append(args, raw, filepath.Join(dir, "qemu"))...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, b)
			}
			theirs = min(theirs, time.Since(start))
			start = time.Now()
			w, err := os.Create(filepath.Join(dir, "rig"))
			if err != nil {
				t.Fatal(err)
			}
			src, err := vdisk.FileSource(f)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Write(w, src, o); err != nil {
				t.Fatal(err)
			}
			w.Close()
			ours = min(ours, time.Since(start))
		}
		t.Logf("%+v: rig %v, qemu-img %v; %.1f times as fast, %d cores", o, ours, theirs, float64(theirs)/float64(ours), runtime.GOMAXPROCS(0))
	}
}
