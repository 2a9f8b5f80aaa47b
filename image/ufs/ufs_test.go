package ufs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
)

var epoch = time.Unix(1_750_000_000, 123_456_789)

// mkfile is a file with content that differs between offsets and between seeds.
func mkfile(p string, size int, seed byte) tree.Entry {
	e := tree.FileEntry(p, pattern(size, seed))
	e.Owner, e.Group, e.ModTime = "", "", epoch
	return e
}

func pattern(size int, seed byte) []byte {
	b := make([]byte, size)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func mkdir(p string) tree.Entry {
	return tree.Entry{Path: p, Kind: tree.Dir, Perm: 0o755, ModTime: epoch}
}

func mklink(p, to string) tree.Entry {
	return tree.Entry{Path: p, Kind: tree.Symlink, Perm: 0o755, ModTime: epoch, Link: to}
}

func mktree(t testing.TB, entries ...tree.Entry) *tree.Tree {
	t.Helper()
	tr, err := tree.New(entries)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// sparseEntry is a file of mostly holes: data at the given runs, of the byte.
func sparseEntry(p string, size int64, data []tree.Range) tree.Entry {
	e := tree.Entry{Path: p, Kind: tree.File, Perm: 0o600, ModTime: epoch, Size: size}
	pos := int64(0)
	for _, d := range append(data, tree.Range{Off: size}) {
		if d.Off > pos {
			e.Holes = append(e.Holes, tree.Range{Off: pos, Len: d.Off - pos})
		}
		pos = d.End()
	}
	e.Open = func() (io.ReadCloser, error) { return &sparseReader{size: size, data: data}, nil }
	return e
}

type sparseReader struct {
	size, pos int64
	data      []tree.Range
}

func (s *sparseReader) Read(b []byte) (int, error) {
	if s.pos >= s.size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), s.size-s.pos)]
	clear(b)
	for i := range b {
		for _, d := range s.data {
			if at := s.pos + int64(i); at >= d.Off && at < d.End() {
				b[i] = byte(at>>12) | 1
			}
		}
	}
	s.pos += int64(len(b))
	return len(b), nil
}

func (s *sparseReader) Seek(off int64, _ int) (int64, error) { s.pos += off; return s.pos, nil }
func (s *sparseReader) Close() error                         { return nil }

// image writes t into a file full of garbage and verifies it.
func image(t testing.TB, tr *tree.Tree, o Options) (*Plan, *os.File) {
	t.Helper()
	p, err := Layout(tr, o)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "ufs.img"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if p.Size() <= 64<<20 {
		if _, err := f.Write(bytes.Repeat([]byte{0xa5}, int(p.Size()))); err != nil {
			t.Fatal(err)
		}
	} else if err := f.Truncate(p.Size()); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(f); err != nil {
		t.Fatal(err)
	}
	if err := Verify(f, p.Size(), tr); err != nil {
		t.Fatal(err)
	}
	return p, f
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error is %v, want %q in it", err, part)
	}
}

// sample is a tree with something of everything.
func sample(t testing.TB) *tree.Tree {
	const block = bsize
	es := []tree.Entry{mkdir("."), mkdir("empty"), mkdir("deep")}
	for i, size := range []int{0, 1, 119, 4095, 4096, 4097, 8192, block - 1, block, block + 1, 2*block - 4096,
		12*block - 4096, 12*block - 1, 12 * block, 12*block + 1, 13 * block, 40*block + 5} {
		es = append(es, mkfile(fmt.Sprintf("files/f%02d", i), size, byte(i)))
	}
	suid := mkfile("bin/su", 5000, 77)
	suid.Perm, suid.UID, suid.GID, suid.Flags = 0o4511, 0, 5, tree.Immutable|tree.NoDump
	es = append(es, suid, tree.Entry{Path: "bin/zu", Kind: tree.HardLink, Link: "bin/su"},
		tree.Entry{Path: "bin/again", Kind: tree.HardLink, Link: "bin/su"})
	for _, n := range []int{1, 59, 119, 120, 121, 1023} {
		es = append(es, mklink(fmt.Sprintf("links/l%04d", n), strings.Repeat("x", n)))
	}
	p := "deep"
	for i := range 60 {
		p += fmt.Sprintf("/%d", i%10)
	}
	es = append(es, mkfile(p+"/leaf", 10, 3), mkfile("long/"+strings.Repeat("n", 255), 20, 4),
		mkfile("long/"+strings.Repeat("m", 254), 20, 4))
	for i := range 900 { // more than a block of entries
		es = append(es, mkfile(fmt.Sprintf("many/%s%04d", strings.Repeat("e", i%40), i), i%3, byte(i)))
	}
	old := mkfile("old", 3, 1)
	old.ModTime = time.Time{}
	sticky := mkdir("tmp")
	sticky.Perm = 0o1777
	es = append(es, old, sticky,
		sparseEntry("sparse/a", 30*block+100, []tree.Range{{Off: block, Len: 10}, {Off: 20 * block, Len: 2 * block}}),
		sparseEntry("boot/sparse", 3*block, nil))
	return mktree(t, es...)
}

func TestRoundTrip(t *testing.T) {
	tr := sample(t)
	p, f := image(t, tr, Options{Label: "sample_1", ID: [8]byte{1, 2, 3}, Time: epoch, Free: 1 << 20, FreeInodes: 50, SoftUpdates: true})
	fs, err := Open(f, p.Size())
	if err != nil {
		t.Fatal(err)
	}
	if fs.Label() != "sample_1" || fs.Size() != p.Size() {
		t.Errorf("label %q, size %d, want sample_1, %d", fs.Label(), fs.Size(), p.Size())
	}
	if got := fs.sb.Cstotal.Nbfree * bsize; got < 1<<20 {
		t.Errorf("%d bytes free, 1 MiB wanted", got)
	}
	if fs.sb.Cstotal.Nifree < 50 {
		t.Errorf("%d inodes free, 50 wanted", fs.sb.Cstotal.Nifree)
	}
	for e := range tr.All() {
		if e.Kind != tree.File {
			continue
		}
		n := &p.nodes[p.inos[e.Path]-rootIno]
		a := ranges(&p.sb, n.extents, n.size)
		b, err := fs.Ranges(e.Path)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("%s: planned at %v, found at %v", e.Path, a, b)
		}
		if len(e.Holes) == 0 {
			checkRanges(t, f, e, a)
		}
	}
	_, f2 := image(t, tr, Options{Label: "sample_1", ID: [8]byte{1, 2, 3}, Time: epoch, Free: 1 << 20, FreeInodes: 50, SoftUpdates: true})
	if !bytes.Equal(readAll(t, f), readAll(t, f2)) {
		t.Error("two images of one tree differ")
	}
}

func readAll(t *testing.T, f *os.File) []byte {
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkRanges reads a file by its byte ranges.
func checkRanges(t *testing.T, f *os.File, e *tree.Entry, list []Range) {
	t.Helper()
	var got bytes.Buffer
	for _, r := range list {
		if _, err := io.Copy(&got, io.NewSectionReader(f, r.Off, r.Len)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := mktree(t, *e).ReadFile(e.Path, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s: its ranges hold other bytes", e.Path)
	}
}

func TestGolden(t *testing.T) {
	suid := mkfile("bin/su", 5000, 77)
	suid.Perm, suid.GID, suid.Flags = 0o4511, 5, tree.Immutable
	tr := mktree(t, mkdir("."), suid, tree.Entry{Path: "bin/zu", Kind: tree.HardLink, Link: "bin/su"},
		mkfile("etc/rc", 70000, 1), mkfile("etc/empty", 0, 1), mklink("etc/short", "rc"),
		mklink("etc/long", strings.Repeat("y", 130)), mkfile("with space\n#", 3, 9))
	p, f := image(t, tr, Options{Time: epoch})
	fs, err := Open(f, p.Size())
	if err != nil {
		t.Fatal(err)
	}
	back, err := fs.Tree()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := back.WriteMtree(&got, true); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/small.mtree"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the image reads as\n%s", got.String())
	}
}

func TestSizes(t *testing.T) {
	tr := sample(t)
	p, err := Layout(tr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	least := p.Size()
	for _, size := range []int64{least, least + 4096, least + bsize - 4096, least + bsize + 1234, 3 * least} {
		p, f := image(t, tr, Options{Size: size})
		if p.Size() != size/4096*4096 {
			t.Errorf("size %d became %d", size, p.Size())
		}
		f.Close()
	}
	_, err = Layout(tr, Options{Size: least - bsize})
	wantError(t, err, "the tree needs")
	if diag.HintOf(err) == "" || diag.ExitCode(err) != 2 {
		t.Errorf("%v: hint %q, status %d", err, diag.HintOf(err), diag.ExitCode(err))
	}
	image(t, mktree(t), Options{})
	image(t, mktree(t), Options{FreeInodes: 100000})
	image(t, mktree(t), Options{Free: 100 << 20})
}

// Several cylinder groups, in a sparse file: only metadata and files are written.
func TestGroups(t *testing.T) {
	tr := sample(t)
	p, f := image(t, tr, Options{Size: 2 << 30, FreeInodes: 60000})
	if p.sb.Ncg < 3 {
		t.Errorf("%d cylinder groups, several wanted", p.sb.Ncg)
	}
	fi, err := exec.Command("du", "-k", f.Name()).Output()
	var kb int64
	fmt.Sscan(string(fi), &kb)
	if err != nil || kb > 20<<10 {
		t.Errorf("du: %d KiB allocated, %v", kb, err)
	}
	grubCompare(t, f.Name(), tr, 40)
}

// A file that spans cylinder groups; many inodes make the groups small.
func TestGroupBoundary(t *testing.T) {
	const size, big = 400 << 20, 130 << 20
	e := mkfile("big", 0, 0)
	e.Size = big
	e.Open = func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeros{}, big)), nil }
	tr := mktree(t, e, mkfile("z", 100000, 1))
	p, err := Layout(tr, Options{Size: size, FreeInodes: 700000})
	if err != nil {
		t.Fatal(err)
	}
	n := &p.nodes[p.inos["big"]-rootIno]
	if list := ranges(&p.sb, n.extents, n.size); len(list) < 3 {
		t.Fatalf("ranges %v: the file should span groups and pass their metadata", list)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := p.Write(holeWriter{f}); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := Verify(f, size, tr); err != nil {
		t.Fatal(err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// holeWriter does not write zeros.
type holeWriter struct{ f *os.File }

func (h holeWriter) WriteAt(b []byte, off int64) (int, error) {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return len(b), nil
	}
	return h.f.WriteAt(b, off)
}

const (
	firstDouble = (12 + 4096) * int64(bsize)
	firstTriple = (12 + 4096 + 4096*4096) * int64(bsize)
)

// indirectTree has files at the edges of single, double and triple indirection.
func indirectTree(t *testing.T) *tree.Tree {
	const block = int64(bsize)
	one := func(off int64) tree.Range { return tree.Range{Off: off, Len: block} }
	return mktree(t,
		sparseEntry("double", firstDouble+5*block+7, []tree.Range{one(0), one(firstDouble - block), one(firstDouble),
			one(firstDouble + 3*block)}),
		sparseEntry("triple", firstTriple+4097*block, []tree.Range{one(12 * block), one(firstDouble + 5000*block),
			one(firstTriple - block), one(firstTriple), one(firstTriple + 4096*block)}),
		sparseEntry("edge1", 13*block, []tree.Range{one(11 * block), one(12 * block)}),
		sparseEntry("edge2", firstDouble+1, nil), sparseEntry("edge3", firstTriple+1, nil),
		sparseEntry("edge4", firstDouble, nil), sparseEntry("head", 12*block-5000, []tree.Range{one(3 * block)}))
}

func TestIndirect(t *testing.T) {
	const block, double, triple = int64(bsize), firstDouble, firstTriple
	tr := indirectTree(t)
	p, f := image(t, tr, Options{})
	if p.Size() > 64<<20 {
		t.Errorf("%d bytes for a few blocks", p.Size())
	}
	n := p.nodes[p.inos["triple"]-rootIno]
	var levels [3]int
	for _, d := range n.indirs {
		levels[d.level]++
	}
	if levels != [3]int{5, 2, 1} {
		t.Errorf("indirect blocks by level: %v", levels)
	}
	grub(t)
	for _, c := range []struct {
		name string
		off  int64
	}{{"double", double}, {"double", double + 3*block}, {"triple", double + 5000*block}, {"triple", triple}, {"triple", triple - 2*block}} {
		e, _ := tr.Lookup(c.name)
		r, _ := e.Open()
		_ = tree.Skip(r, c.off)
		want := make([]byte, 4096)
		_, _ = io.ReadFull(r, want)
		got := grubRead(t, f.Name(), c.name, c.off, 4096)
		if !bytes.Equal(got, want) {
			t.Errorf("grub reads %s at %d as %x…, not %x…", c.name, c.off, got[:min(8, len(got))], want[:8])
		}
	}
}

func TestErrors(t *testing.T) {
	file := mkfile("a", 10, 1)
	snap := file
	snap.Flags = sfSnapshot
	huge := file
	huge.Size = 1 << 52
	for _, c := range []struct {
		name string
		e    tree.Entry
		o    Options
		want string
	}{
		{"label", file, Options{Label: strings.Repeat("l", 32)}, "has 32 bytes; 31 is the limit"},
		{"label characters", file, Options{Label: "a b"}, "letters, digits"},
		{"negative", file, Options{Free: -1}, "must not be negative"},
		{"snapshot", snap, Options{}, "snapshot flag"},
		{"link", mklink("l", strings.Repeat("x", 1024)), Options{}, "symlink target of 1024 bytes; 1023 is the limit"},
		{"file", huge, Options{}, "is the limit of ufs"},
		{"path", mkfile(strings.Repeat("a/", 2100)+"b", 0, 0), Options{}, "path of 4201 bytes; 4096 is the limit"},
		{"small", file, Options{Size: 100 << 10}, "too small"},
		{"large", file, Options{Size: 1 << 60}, "larger than this writer makes"},
		{"inodes", file, Options{FreeInodes: 1 << 40}, "larger than this writer makes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Layout(mktree(t, c.e), c.o)
			wantError(t, err, c.want)
			if diag.ExitCode(err) != 2 {
				t.Errorf("%v: not bad input", err)
			}
		})
	}
}

// What the readers yield is checked against the description.
func TestWriteErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int64
		content string
		want    string
	}{
		{"short", 10, "12345", "write a/b: content ends after 5 bytes, 10 described"},
		{"none", 10, "", "write a/b: content ends after 0 bytes, 10 described"},
		{"long", 3, "12345", "write a/b: content goes on after 3 bytes, 3 described"},
		{"empty", 0, "1", "write a/b: content goes on after 0 bytes, 0 described"},
		{"two blocks", 70000, strings.Repeat("x", 66000), "content ends after 66000 bytes, 70000 described"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := mkfile("a/b", 0, 0)
			e.Size, e.Open = c.size, tree.Bytes([]byte(c.content))
			p, err := Layout(mktree(t, e), Options{})
			if err != nil {
				t.Fatal(err)
			}
			b := make(memory, p.Size())
			wantError(t, p.Write(b), c.want)
			if _, err := Open(b, p.Size()); err == nil {
				t.Error("a failed write left a file system")
			}
		})
	}
	e := mkfile("a", 1, 0)
	e.Open = func() (io.ReadCloser, error) { return nil, errors.New("no medium") }
	p, err := Layout(mktree(t, e), Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, p.Write(make(memory, p.Size())), "write a: no medium")
	wantError(t, p.Write(make(memory, 100<<10)), "write ufs at")
}

// memory is a device.
type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > int64(len(m)) {
		return 0, errors.New("beyond the end")
	}
	return copy(m[off:], b), nil
}

func (m memory) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(m).ReadAt(b, off)
}
