package fat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/referee"
)

// memory is a destination that starts as garbage.
type memory []byte

func garbage(n int64) memory { return bytes.Repeat(memory{0xa5}, int(n)) }

func (m memory) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > int64(len(m)) {
		return 0, fmt.Errorf("write of %d bytes at %d is outside the volume", len(b), off)
	}
	return copy(m[off:], b), nil
}

var when = time.Date(2026, 3, 4, 5, 6, 7, 120e6, time.UTC)

func file(p string, content []byte) tree.Entry {
	e := tree.FileEntry(p, content)
	e.ModTime = when
	return e
}

func mkdir(p string) tree.Entry {
	return tree.Entry{Path: p, Kind: tree.Dir, Perm: 0o755, Owner: "root", Group: "wheel", ModTime: when}
}

func mustTree(t testing.TB, entries ...tree.Entry) *tree.Tree {
	t.Helper()
	tr, err := tree.New(entries)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// pattern is n bytes that differ from place to place.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(n) | 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func esp(t testing.TB) *tree.Tree {
	return mustTree(t,
		file("EFI/BOOT/BOOTX64.EFI", pattern(665600)),
		file("EFI/freebsd/loader.env", []byte("rootdev=disk0p3:\n")),
		file("rig/answers.toml", []byte("[machine]\n")),
		file("README.TXT", []byte("read me\r\n")),
		file("empty", nil),
	)
}

// roundTrip lays t out, writes it over garbage, checks it and compares it with
// what is read back.
func roundTrip(t testing.TB, tr *tree.Tree, o Options) (memory, *FS) {
	t.Helper()
	p, err := Layout(tr, o)
	if err != nil {
		t.Fatal(err)
	}
	m := garbage(p.opts.Size)
	if err := p.Write(m); err != nil {
		t.Fatal(err)
	}
	return m, readBack(t, tr, bytes.NewReader(m), p)
}

func readBack(t testing.TB, tr *tree.Tree, r io.ReaderAt, p *Plan) *FS {
	t.Helper()
	fs, err := Open(r, p.opts.Size)
	if err != nil {
		t.Fatal(err)
	}
	if fs.geometry != p.geometry {
		t.Errorf("geometry read %+v, written %+v", fs.geometry, p.geometry)
	}
	if err := fs.Check(); err != nil {
		t.Error(err)
	}
	got, err := fs.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if g, w := listing(t, got), listing(t, canonical(t, tr)); g != w {
		t.Errorf("read back:\n%s\nwant:\n%s", g, w)
	}
	return fs
}

// canonical is what FAT keeps of a tree.
func canonical(t testing.TB, tr *tree.Tree) *tree.Tree {
	var out []tree.Entry
	for e := range tr.All() {
		c := *e
		c.Perm, c.Owner, c.Group, c.UID, c.GID, c.Implied = 0o644, "root", "wheel", 0, 0, false
		if c.Kind == tree.Dir {
			c.Perm = 0o755
		}
		c.ModTime = c.ModTime.UTC().Truncate(2 * time.Second)
		if c.ModTime.Before(dosEpoch) || c.Path == "." {
			c.ModTime = dosEpoch
		}
		out = append(out, c)
	}
	return mustTree(t, out...)
}

func listing(t testing.TB, tr *tree.Tree) string {
	t.Helper()
	var b strings.Builder
	if err := tr.WriteMtree(&b, true); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func save(t testing.TB, m memory) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fat.img")
	if err := os.WriteFile(name, m, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// fsck fails the test when fsck.fat has anything to say but its two lines. Where
// FreeBSD's own checker is installed, it judges too.
func fsck(t testing.TB, name string) {
	t.Helper()
	out := referee.Run(t, "fsck.fat", "-n", name)
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 2 {
		t.Errorf("fsck.fat is not silent:\n%s", out)
	}
	if _, ok := referee.Find("fsck_msdosfs"); ok {
		out := referee.Run(t, "fsck_msdosfs", "-n", name)
		if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 5 {
			t.Errorf("fsck_msdosfs -n has more to say than its three phases and the totals:\n%s", out)
		}
	}
}

// TestMatrix formats volumes of many sizes, in sparse files, and has fsck.fat
// and our reader judge them.
func TestMatrix(t *testing.T) {
	referee.Need(t, "fsck.fat")
	const k, m, g = 1 << 10, 1 << 20, 1 << 30
	for _, c := range []struct {
		size    int64
		sector  int
		bits    int
		cluster int64
	}{
		{720 * k, 512, 12, 512}, {1440 * k, 512, 12, 512}, {2 * m, 512, 12, 512}, {2075 * k, 512, 12, 1024},
		{2100 * k, 512, 16, 512}, {4 * m, 512, 16, 512}, {16 * m, 512, 16, 512}, {33000 * k, 512, 16, 512}, {33100 * k, 512, 16, 1024},
		{33292 * k, 512, 32, 512}, {64 * m, 512, 32, 512}, {260 * m, 512, 32, 512}, {261 * m, 512, 32, 4096},
		{512 * m, 512, 32, 4096}, {1*g + 512, 512, 32, 4096}, {4 * g, 512, 32, 4096}, {9 * g, 512, 32, 8192},
		{17 * g, 512, 32, 16384}, {40 * g, 512, 32, 32768},
		{1 * m, 4096, 12, 4096}, {15 * m, 4096, 12, 4096}, {16 * m, 4096, 12, 8192}, {17 * m, 4096, 16, 4096}, {64 * m, 4096, 16, 4096},
		{255 * m, 4096, 16, 4096}, {260 * m, 4096, 32, 4096}, {300 * m, 4096, 32, 4096}, {4 * g, 4096, 32, 4096},
	} {
		t.Run(fmt.Sprintf("%d-%d", c.size, c.sector), func(t *testing.T) {
			t.Parallel()
			tr := esp(t)
			p, err := Layout(tr, Options{Size: c.size, SectorSize: c.sector, Label: "EFISYS", Serial: 0x1234abcd, Time: when})
			if err != nil {
				t.Fatal(err)
			}
			if p.bits != c.bits || p.clusterSize != c.cluster {
				t.Errorf("FAT%d with clusters of %d, want FAT%d, %d", p.bits, p.clusterSize, c.bits, c.cluster)
			}
			f, err := os.Create(filepath.Join(t.TempDir(), "fat.img"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := errors.Join(f.Truncate(c.size), p.Write(f)); err != nil {
				t.Fatal(err)
			}
			fs := readBack(t, tr, f, p)
			if fs.Label() != "EFISYS" || fs.Serial() != 0x1234abcd {
				t.Errorf("label %q, serial %#x", fs.Label(), fs.Serial())
			}
			fsck(t, f.Name())
		})
	}
}

// TestTypeBoundaries walks over the sizes where the type changes.
func TestTypeBoundaries(t *testing.T) {
	tr := mustTree(t, file("a long name.txt", pattern(700)))
	for _, mid := range []int64{4085, 65525} {
		for d := int64(-40); d <= 1100; d += 7 {
			size := (mid + d) * 512
			p, err := Layout(tr, Options{Size: size})
			if err != nil {
				t.Fatalf("%d: %v", size, err)
			}
			switch n := p.clusters; {
			case p.bits == 12 && n >= minClusters16-typeMargin,
				p.bits == 16 && (n < minClusters16+typeMargin || n >= minClusters32-typeMargin),
				p.bits == 32 && n < minClusters32:
				t.Errorf("%d bytes: FAT%d with %d clusters", size, p.bits, n)
			}
			// One sector less can be too little for the clusters it frees.
			if need := p.fatSectorsFor(int64(p.clusters)); int64(p.fatSectors) < need || int64(p.fatSectors) > need+1 {
				t.Errorf("%d bytes: FAT of %d sectors, %d needed", size, p.fatSectors, need)
			}
			if d%4 == 0 && d < 200 && mid < 5000 {
				m, _ := roundTrip(t, tr, Options{Size: size})
				fsck(t, save(t, m))
			}
		}
	}
}

// TestGolden pins the listing of the main use and what mtools makes of it.
func TestGolden(t *testing.T) {
	m, fs := roundTrip(t, esp(t), Options{Size: 34 << 20, Label: "rig", Time: when})
	got, err := fs.Tree()
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "esp.mtree", listing(t, got))
	if fs.Label() != "RIG" {
		t.Errorf("label %q", fs.Label())
	}

	img := save(t, m)
	compareGolden(t, "esp.mdir", referee.Run(t, "mdir", "-/", "-i", img))
	out := filepath.Join(t.TempDir(), "out")
	referee.Run(t, "mcopy", "-n", "-i", img, "::EFI/BOOT/BOOTX64.EFI", out)
	if b, err := os.ReadFile(out); err != nil || !bytes.Equal(b, pattern(665600)) {
		t.Errorf("mcopy: %d bytes differ, %v", len(b), err)
	}
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("RIG_UPDATE") != "" {
		if err := errors.Join(os.MkdirAll("testdata", 0o777), os.WriteFile(path, []byte(got), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (RIG_UPDATE=1 rewrites it): got\n%s\nwant\n%s", path, got, want)
	}
}

func TestDeterminism(t *testing.T) {
	o := Options{Size: 3 << 20, Label: "A", Serial: 7, Time: when, HiddenSectors: 2048}
	a, _ := roundTrip(t, esp(t), o)
	b, _ := roundTrip(t, esp(t), o)
	if !bytes.Equal(a, b) {
		t.Error("two images of one tree differ")
	}
	if h := a[28:32]; !bytes.Equal(h, []byte{0, 8, 0, 0}) {
		t.Errorf("hidden sectors % x", h)
	}
}

// TestUntouched makes sure free clusters keep what the destination held.
func TestUntouched(t *testing.T) {
	for _, size := range []int64{1 << 20, 3 << 20, 34 << 20} {
		p, err := Layout(mustTree(t, file("a", pattern(513))), Options{Size: size})
		if err != nil {
			t.Fatal(err)
		}
		m := garbage(size)
		if err := p.Write(m); err != nil {
			t.Fatal(err)
		}
		free := m[p.clusterOff(p.next):]
		if !bytes.Equal(free, garbage(int64(len(free)))) {
			t.Errorf("FAT%d: a free cluster was written", p.bits)
		}
		if i := bytes.Index(m[:p.clusterOff(p.next)], garbage(64)); i >= 0 {
			t.Errorf("FAT%d: garbage is left at %d", p.bits, i)
		}
	}
}

func TestRanges(t *testing.T) {
	m, fs := roundTrip(t, esp(t), Options{Size: 260 << 20})
	rs, err := fs.Ranges("RIG/Answers.toml")
	if err != nil {
		t.Fatal(err)
	}
	if len(rs) != 1 || string(m[rs[0].Off:][:rs[0].Len]) != "[machine]\n" {
		t.Errorf("ranges %v", rs)
	}
	for path, want := range map[string]string{
		"rig/none": "fat rig/none: no such file",
		"EFI":      "fat EFI: it is a directory",
	} {
		if _, err := fs.Ranges(path); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if rs, err := fs.Ranges("empty"); err != nil || len(rs) != 0 {
		t.Errorf("empty: %v, %v", rs, err)
	}
}

// TestFull fills a volume to its last cluster.
func TestFull(t *testing.T) {
	for _, size := range []int64{256 << 10, 3 << 20, 34 << 20} {
		p, err := Layout(mustTree(t), Options{Size: size})
		if err != nil {
			t.Fatal(err)
		}
		room := int64(p.clusters-(p.next-firstCluster)) * p.clusterSize
		tr := mustTree(t, file("FILL", pattern(int(room))))
		m, _ := roundTrip(t, tr, Options{Size: size})
		fsck(t, save(t, m))

		_, err = Layout(mustTree(t, file("FILL", pattern(int(room))), file("LAST", []byte{1})), Options{Size: size})
		if err == nil || !strings.HasPrefix(err.Error(), "fat LAST: volume is full: ") {
			t.Errorf("%v", err)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct{ in, want time.Time }{
		{time.Time{}, when.Truncate(2 * time.Second)}, // Options.Time
		{time.Unix(0, 0), dosEpoch},
		{time.Date(1979, 12, 31, 23, 59, 59, 0, time.UTC), dosEpoch},
		{time.Date(2026, 1, 1, 0, 30, 1, 0, time.FixedZone("", 3600)), time.Date(2025, 12, 31, 23, 30, 0, 0, time.UTC)},
		{time.Date(2108, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)},
	} {
		p := &Plan{opts: Options{Time: when}}
		e := p.dirent(c.in)
		if got := fromDOS(e.MDate, e.MTime); !got.Equal(c.want) {
			t.Errorf("%v became %v, want %v", c.in, got, c.want)
		}
	}
	if _, _, h := dosTime(when); h != 112 {
		t.Errorf("7.12 s: %d hundredths, want 112", h)
	}
	if got := fromDOS(put16(0), put16(0)); !got.Equal(dosEpoch) {
		t.Errorf("no date became %v", got)
	}
}

func TestLayoutErrors(t *testing.T) {
	big := tree.Entry{Path: "big.bin", Kind: tree.File, Size: 4 << 30, Open: tree.Bytes(nil)}
	for _, c := range []struct {
		entries []tree.Entry
		o       Options
		want    string
	}{
		{[]tree.Entry{{Path: "l", Kind: tree.Symlink, Link: "x"}}, Options{}, "fat l: it is a link; FAT has only files and directories"},
		{[]tree.Entry{file("a", nil), {Path: "b", Kind: tree.HardLink, Link: "a"}}, Options{}, "fat b: it is a hardlink; FAT has only files and directories"},
		{[]tree.Entry{big}, Options{}, "fat big.bin: 4294967296 bytes; a file on FAT has at most 4294967295"},
		{[]tree.Entry{file("d/a:b", nil)}, Options{}, `fat d/a:b: name "a:b" contains ':', which FAT cannot store`},
		{[]tree.Entry{file("a\x01", nil)}, Options{}, `fat a` + "\x01" + `: name "a\x01" contains '\x01', which FAT cannot store`},
		{[]tree.Entry{file("a.", nil)}, Options{}, `fat a.: name "a." ends with a dot or a space, which FAT drivers drop`},
		{[]tree.Entry{file("\xff", nil)}, Options{}, "fat \xff: name \"\\xff\" is not UTF-8"},
		{[]tree.Entry{file("d/File", nil), file("d/fILE", nil)}, Options{}, `fat d/fILE: differs from "File" only in case`},
		{[]tree.Entry{file("a", pattern(1<<20))}, Options{Size: 1 << 20}, "fat a: volume is full: 2048 clusters of 512 bytes are needed in all, FAT12 in 1048576 bytes has 2003"},
		{nil, Options{Size: 1000}, "fat: 1000 bytes are not 1 to 4294967295 sectors of 512"},
		{nil, Options{Size: -512}, "fat: -512 bytes are not 1 to 4294967295 sectors of 512"},
		{nil, Options{Size: 8192}, "fat: no FAT volume of 8192 bytes in sectors of 512 with 512 root entries is possible"},
		{nil, Options{SectorSize: 1024}, "fat: sector size 1024 is neither 512 nor 4096"},
		{nil, Options{Label: "TWELVE CHARS"}, `fat: label "TWELVE CHARS" must have 1 to 11 characters and no space at its ends`},
		{nil, Options{Label: "a.b"}, `fat: label "A.B" contains '.'`},
		{[]tree.Entry{file(strings.Repeat("deep/", 205)+"x", nil)}, Options{}, "fat " + strings.Repeat("deep/", 205) + "x: path of 1026 bytes; 1024 is the limit"},
	} {
		if c.o.Size == 0 {
			c.o.Size = 64 << 20
		}
		_, err := Layout(mustTree(t, c.entries...), c.o)
		if err == nil || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
	// All at once.
	_, err := Layout(mustTree(t, file("a*", nil), file("b?", nil)), Options{Size: 1 << 20})
	if err == nil || strings.Count(err.Error(), "FAT cannot store") != 2 {
		t.Errorf("%v, want two problems", err)
	}
}

func TestWriteErrors(t *testing.T) {
	for size, want := range map[int64]string{
		5: "fat: write a: content is longer than the described size",
		9: "fat: write a: 9 bytes described, 9 missing: unexpected EOF",
	} {
		e := file("a", []byte("123456"))
		e.Size = size
		p, err := Layout(mustTree(t, e), Options{Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Write(garbage(1 << 20)); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
