package vmdk

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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"github.com/rig-freebsd/rig/internal/vdisk/vdisktest"
)

const testUUID = "c52b2b8a-da74-8ccd-bca1-2efb3b9d6cd0"

var options = Options{ID: "test", UUID: testUUID}

func write(t testing.TB, src vdisk.Source, o Options) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := Write(&b, src, o)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) {
		t.Fatalf("%d bytes returned, %d written", n, b.Len())
	}
	return b.Bytes()
}

func roundTrip(t *testing.T, src vdisk.Source) []byte {
	t.Helper()
	one := options
	one.Workers = 1
	return vdisktest.RoundTrip(t, func() []byte { return write(t, src, options) }, func() []byte { return write(t, src, one) },
		func(img io.ReaderAt, n int64) error { return Verify(img, n, src) })
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []int{1, 511, 512, grainSize - 1, grainSize, grainSize + 1, chunk, 10*grainSize + 17, tableEntries*grainSize + 5*grainSize + 512} {
		for name, b := range map[string][]byte{"mixed": vdisktest.Sample(size, 1), "zeros": make([]byte, size), "noise": vdisktest.Noise(size)} {
			t.Run(fmt.Sprintf("%s-%d", name, size), func(t *testing.T) {
				img := roundTrip(t, vdisktest.Source(b))
				if name == "zeros" && len(img) != 68096 {
					t.Errorf("an empty disk takes %d bytes", len(img))
				}
				if name == "noise" && float64(len(img)) > 1.01*float64(size)+140_000 {
					t.Errorf("%d bytes for %d of noise", len(img), size)
				}
			})
		}
	}
}

func TestSparse(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		roundTrip(t, vdisktest.RandomSparse(r, 1+r.Int64N(9)*r.Int64N(5<<20)+8).Source())
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// judge gives an image to qemu-img, with the raw disk to compare when there is one.
func judge(t *testing.T, img []byte, size int64, raw string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.vmdk")
	if err := os.WriteFile(name, img, 0o600); err != nil {
		t.Fatal(err)
	}
	var info struct {
		Size     int64  `json:"virtual-size"`
		Format   string `json:"format"`
		Specific struct {
			Data struct {
				CID        uint32 `json:"cid"`
				CreateType string `json:"create-type"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal([]byte(referee.Run(t, "qemu-img", "info", "--output=json", name)), &info); err != nil {
		t.Fatal(err)
	}
	if info.Size != size || info.Format != "vmdk" || info.Specific.Data.CreateType != "streamOptimized" || info.Specific.Data.CID != contentID("test") {
		t.Errorf("qemu-img info: %+v", info)
	}
	referee.Run(t, "qemu-img", "check", "-f", "vmdk", name)
	if raw != "" {
		referee.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, name)
	}
}

func TestReferee(t *testing.T) {
	referee.Need(t, "qemu-img")
	vdisktest.Raws(t, []int{512, grainSize - 512, 3<<20 + 512, tableEntries*grainSize + 3*grainSize}, func(b []byte, raw string) {
		judge(t, write(t, vdisktest.Source(b), options), vdisk.Align(int64(len(b)), grainSize), raw)
	})
}

// TestLarge is a file of 9 GiB, most of it a hole.
func TestLarge(t *testing.T) {
	const size = 9<<30 + 64<<10
	src, name := vdisktest.Large(t, size)
	img := write(t, src, options)
	if err := Verify(bytes.NewReader(img), int64(len(img)), src); err != nil {
		t.Error(err)
	}
	if _, ok := referee.Find("qemu-img"); ok {
		judge(t, img, size, name)
	}
}

// An image made like another of a disk that is partly the same has the bytes it has
// otherwise, and damage is found in what was copied and in what was not.
func TestLike(t *testing.T) {
	const size, at = 40 << 20, 7 << 20
	first := vdisktest.RandomSparse(rand.New(rand.NewPCG(3, 3)), size).Source()
	other := first.Splice(at, vdisktest.Source(vdisktest.Noise(1<<20)))
	one, want := write(t, first, options), write(t, other, options)
	like, err := Open(bytes.NewReader(one), int64(len(one)))
	if err != nil {
		t.Fatal(err)
	}
	var copied atomic.Int32
	o := options
	o.Like, o.Same = like, func(off, n int64) bool {
		same := off+n <= at || off >= at+1<<20
		if same {
			copied.Add(1)
		}
		return same
	}
	got := write(t, other, o)
	if !bytes.Equal(got, want) || copied.Load() == 0 {
		t.Fatalf("the image differs from one made without another, or nothing was copied")
	}
	if err := VerifyLike(bytes.NewReader(got), int64(len(got)), other, o); err != nil {
		t.Error(err)
	}
	v, err := Open(bytes.NewReader(got), int64(len(got)))
	if err != nil {
		t.Fatal(err)
	}
	for g, message := range map[int64]string{at / grainSize: "vmdk grain ", 0: "is stored differently from where it was copied"} {
		for ; ; g++ {
			if e, err := v.entry(g); err != nil || e != 0 {
				bad := bytes.Clone(got)
				bad[int64(e)*512+grainMarkerSize+20] ^= 1
				if err := VerifyLike(bytes.NewReader(bad), int64(len(bad)), other, o); err == nil || !strings.Contains(err.Error(), message) {
					t.Errorf("damage in grain %d: %v", g, err)
				}
				break
			}
		}
	}
}

func TestHuge(t *testing.T) {
	s := vdisktest.Sparse{Size: 8 << 40, Data: []tree.Range{{Off: 5, Len: 1}, {Off: 7 << 40, Len: 100_000}}}
	img := write(t, s.Source(), options)
	if err := Verify(bytes.NewReader(img), int64(len(img)), s.Source()); err != nil {
		t.Error(err)
	}
}

func TestMemory(t *testing.T) {
	o := options
	o.Workers = 16
	vdisktest.Frugal(t, func(d *vdisktest.Discard, src vdisk.Source) error {
		_, err := Write(d, src, o)
		return err
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestDescriptor(t *testing.T) {
	o := options
	o.Name, o.UUID = "rig-disk1.vmdk", strings.ToUpper(testUUID)
	img := write(t, vdisk.Empty(8<<30), o)
	v, err := Open(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := v.Descriptor()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nCID=" + fmt.Sprintf("%08x", contentID("test")) + "\n", "\nRDONLY 16777216 SPARSE \"rig-disk1.vmdk\"\n",
		"\nddb.uuid.image = \"" + testUUID + "\"\n", "\nddb.uuid.modification = \"" + testUUID + "\"\n", "\nddb.geometry.cylinders = \"1044\"\n"} {
		if !strings.Contains(d, want) {
			t.Errorf("no %q in\n%s", want, d)
		}
	}
	if contentID("a") == contentID("b") {
		t.Error("two contents have the same CID")
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteErrors(t *testing.T) {
	ok := vdisktest.Source(make([]byte, 1000))
	for want, c := range map[string]struct {
		src vdisk.Source
		o   Options
	}{
		`write vmdk: "" is not a UUID`:                                 {ok, Options{}},
		`write vmdk: level 10 is not between 1 and 9`:                  {ok, Options{UUID: testUUID, Level: 10}},
		`write vmdk: "a\"b" is not a file name`:                        {ok, Options{UUID: testUUID, Name: `a"b`}},
		`write vmdk: source: size 0 is not positive`:                   {vdisktest.Source(nil), options},
		`write vmdk: read 1 bytes at 0: io: read/write on closed pipe`: {vdisk.Source{R: failing{}, Size: 1}, options},
		`write vmdk: read 1000 bytes at 0: unexpected EOF`:             {vdisk.Source{R: strings.NewReader("x"), Size: 1000}, options},
	} {
		if _, err := Write(io.Discard, c.src, c.o); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	full := writerFunc(func([]byte) (int, error) { return 0, io.ErrShortWrite })
	if _, err := Write(full, vdisktest.Source(vdisktest.Noise(5<<20)), options); err == nil || err.Error() != "write vmdk: short write" {
		t.Error(err)
	}
}

func TestReadErrors(t *testing.T) {
	raw := append(vdisktest.Noise(grainSize), make([]byte, grainSize)...)
	raw = append(raw, vdisktest.Noise(grainSize)...)
	img := write(t, vdisktest.Source(raw), options)
	for want, damage := range map[string]func(b []byte) []byte{
		"open vmdk: 512 bytes are not a streamOptimized image":             func(b []byte) []byte { return b[:512] },
		"open vmdk: header: not a VMDK: it does not begin with KDMV":       func(b []byte) []byte { b[0] = 'X'; return b },
		"open vmdk: header: version 1, flags 0x30001, compression 1; ":     func(b []byte) []byte { b[4] = 1; return b },
		"open vmdk: header: line ends were converted":                      func(b []byte) []byte { b[75] = '\n'; return b },
		"open vmdk: footer: it differs from the header":                    func(b []byte) []byte { b[12]++; b[12] += 127; return b },
		"open vmdk: header: capacity of 385 sectors":                       func(b []byte) []byte { b[12]++; return b },
		"open vmdk: marker at sector ":                                     func(b []byte) []byte { return b[:len(b)-512] },
		"verify vmdk: check vmdk: at sector 128 is a grain that its table": func(b []byte) []byte { b[tableOf(b)]++; return b },
		"verify vmdk: check vmdk: the tables list grains":                  func(b []byte) []byte { b[tableOf(b)+4] = 128; return b },
		"verify vmdk: vmdk grain 0: ":                                      func(b []byte) []byte { b[65536+12+1000] ^= 4; return b },
		"verify vmdk: it holds 196608 bytes, not 131072":                   nil,
	} {
		b, src := bytes.Clone(img), vdisktest.Source(raw)
		if damage == nil {
			src = vdisktest.Source(raw[:2*grainSize])
		} else {
			b = damage(b)
		}
		err := Verify(bytes.NewReader(b), int64(len(b)), src)
		if err == nil || !strings.HasPrefix(strings.TrimPrefix(err.Error(), "verify vmdk: "), strings.TrimPrefix(want, "verify vmdk: ")) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	other := bytes.Clone(raw)
	other[2*grainSize+77] ^= 1
	if err := Verify(bytes.NewReader(img), int64(len(img)), vdisktest.Source(other)); err == nil || err.Error() != "verify vmdk: byte 131149 differs from its source" {
		t.Error(err)
	}
}

// tableOf is where the only grain table of an image is.
func tableOf(b []byte) int { return len(b) - 3*512 - 512 - 512 - tableSize }

// exercise reads an image that may be damaged in any way.
func exercise(b []byte) {
	v, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return
	}
	v.Check()
	v.Descriptor()
	p := make([]byte, 100_000)
	for off := int64(0); off < min(v.Size(), 2<<20); off += int64(len(p)) {
		v.ReadAt(p, off)
	}
	v.ReadAt(p, v.Size()-1000)
}

// TestCorrupted fails by panicking or by never coming back.
func TestCorrupted(t *testing.T) {
	img := write(t, vdisktest.Source(vdisktest.Sample(700_000, 5)), options)
	r := rand.New(rand.NewPCG(4, 4))
	for range 1000 {
		b := bytes.Clone(img)
		for range 1 + r.IntN(3) {
			at := r.IntN(len(b))
			switch r.IntN(3) {
			case 0:
				at = r.IntN(80)
			case 1:
				at = len(b) - 1 - r.IntN(512*12)
			}
			b[at] = []byte{0, 1, 0x7f, 0x80, 0xff, byte(r.Uint32())}[r.IntN(6)]
		}
		exercise(b[:len(b)-r.IntN(2)*r.IntN(len(b))])
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(write(f, vdisktest.Source(vdisktest.Sample(150_000, 6)), options))
	f.Add(write(f, vdisk.Empty(1<<33), options))
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
		img := write(t, src, options)
		if err := Verify(bytes.NewReader(img), int64(len(img)), src); err != nil {
			t.Fatal(err)
		}
	})
}

// program is n bytes that compress like an installed system: the programs and
// sources of this machine's Go, or text and noise.
func program(t testing.TB, n int) []byte {
	t.Helper()
	var b []byte
	filepath.WalkDir(filepath.Join(runtime.GOROOT(), "pkg"), func(p string, d os.DirEntry, err error) error {
		if len(b) >= n {
			return filepath.SkipAll
		}
		if err == nil && d.Type().IsRegular() {
			c, _ := os.ReadFile(p)
			b = append(b, c...)
			b = append(b, make([]byte, -len(c)&4095)...)
		}
		return nil
	})
	for len(b) < n {
		b = append(b, vdisktest.Sample(8<<20, uint64(len(b)))...)
	}
	return b[:n]
}

// TestSpeed measures Write and qemu-img convert in turns, on the same file:
// programs for the most part, a third of it holes.
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
	const data = 128 << 20
	f.WriteAt(program(t, data), 1<<20)
	if err := f.Truncate(data + data/2); err != nil {
		t.Fatal(err)
	}
	ours, theirs := time.Hour, time.Hour
	var size, qemuSize int64
	for range 3 {
		start := time.Now()
		out := filepath.Join(dir, "qemu.vmdk")
		if b, err := exec.Command(qemu, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, out).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		theirs = min(theirs, time.Since(start))
		if fi, err := os.Stat(out); err == nil {
			qemuSize = fi.Size()
		}

		start = time.Now()
		w, err := os.Create(filepath.Join(dir, "rig.vmdk"))
		if err != nil {
			t.Fatal(err)
		}
		src, err := vdisk.FileSource(f)
		if err != nil {
			t.Fatal(err)
		}
		if size, err = Write(w, src, options); err != nil {
			t.Fatal(err)
		}
		w.Close()
		ours = min(ours, time.Since(start))
	}
	ratio := float64(theirs) / float64(ours)
	t.Logf("rig %v, %d bytes; qemu-img %v, %d bytes; %.1f times as fast, %d cores", ours, size, theirs, qemuSize, ratio, runtime.GOMAXPROCS(0))
	if ratio < 2 {
		t.Errorf("%.1f times as fast as qemu-img; at least 2 was to be", ratio)
	}
}

// BenchmarkLevels compresses programs, with one worker; RIG_VMDK_SAMPLE names
// another raw disk.
func BenchmarkLevels(b *testing.B) {
	src := vdisktest.Source(program(b, 64<<20))
	if name := os.Getenv("RIG_VMDK_SAMPLE"); name != "" {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		if src, err = vdisk.FileSource(f); err != nil {
			b.Fatal(err)
		}
	}
	for level := 1; level <= 6; level++ {
		b.Run(fmt.Sprint(level), func(b *testing.B) {
			o := options
			o.Level, o.Workers = level, 1
			var total int64
			before := cpuTime(b)
			for b.Loop() {
				n, err := Write(io.Discard, src, o)
				if err != nil {
					b.Fatal(err)
				}
				total += src.Size
				b.ReportMetric(float64(n)/float64(src.Size)*100, "%size")
			}
			b.ReportMetric(float64(total)/1e6/(cpuTime(b)-before).Seconds(), "MB/CPU-s")
		})
	}
}

// cpuTime of this process: what a busy machine does not change.
func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkVerify(b *testing.B) {
	src := vdisktest.Source(program(b, 64<<20))
	img := write(b, src, options)
	b.SetBytes(src.Size)
	for b.Loop() {
		if err := Verify(bytes.NewReader(img), int64(len(img)), src); err != nil {
			b.Fatal(err)
		}
	}
}
