package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/referee"
)

// noise is content that does not compress to nothing; the same for the same size.
func noise(size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(size), 1))
	for i := range b {
		b[i] = "0123456789abcdef"[r.IntN(16)]
	}
	return b
}

func file(p string, size int) tree.Entry {
	e := tree.FileEntry(p, noise(size))
	e.ModTime = time.Unix(1700000000, 123456789)
	return e
}

func dir(p string, perm uint16) tree.Entry {
	return tree.Entry{Path: p, Kind: tree.Dir, Perm: perm, Owner: "root", Group: "wheel", ModTime: time.Unix(1600000000, 0)}
}

func link(kind tree.Kind, p, to string) tree.Entry {
	return tree.Entry{Path: p, Kind: kind, Perm: 0o755, Owner: "root", Group: "wheel", ModTime: time.Unix(1500000000, 0), Link: to}
}

func newTree(t testing.TB, entries ...tree.Entry) *tree.Tree {
	t.Helper()
	tr, err := tree.New(entries)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// sample has every kind, sizes around the block and frame sizes, flags, set-id
// bits, long names, and names that are not UTF-8.
func sample(t testing.TB) *tree.Tree {
	entries := []tree.Entry{dir(".", 0o755), dir("var", 0o755), dir("var/empty", 0o555), dir("tmp", 0o1777),
		link(tree.Symlink, "etc/os-release", "../var/run/os-release"), link(tree.HardLink, "bin/link", "bin/f512"), link(tree.HardLink, "bin/a", "bin/f513"),
		link(tree.HardLink, "usr/bin/link2", "bin/f512"), link(tree.Symlink, "dangling", strings.Repeat("x/", 200))}
	entries[2].Flags = tree.Immutable
	for _, n := range []int{0, 1, 511, 512, 513, 65536 - 512, 65535, 65536, 65537, 3 * 65536, 200000, 700000} {
		entries = append(entries, file(fmt.Sprintf("bin/f%d", n), n))
	}
	su := file("bin/su", 1000)
	su.Perm, su.Owner, su.Group, su.UID, su.GID, su.Flags = 0o4555, "www", "nogroup", 80, 65533, tree.Immutable|tree.NoDump
	entries = append(entries, su, file("long/"+strings.Repeat("n", 255), 10), file(strings.Repeat("deep/", 60)+"end", 7),
		file("etc/F\u0151tan\xfas\xedtv\xe1ny=x y.pem", 33))
	return newTree(t, entries...)
}

func write(t testing.TB, tr *tree.Tree, o Options) ([]byte, Info) {
	t.Helper()
	var b bytes.Buffer
	info, err := Write(&b, tr, o)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), info
}

// text is the mtree form of what a layer of t carries.
func text(t testing.TB, tr *tree.Tree) string {
	t.Helper()
	var b strings.Builder
	if err := tr.WriteMtree(&b, true); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRoundTrip(t *testing.T) {
	tr := sample(t)
	var first []byte
	for _, w := range []int{1, 2, 7} {
		b, info := write(t, tr, Options{Workers: w, FrameSize: minFrameSize})
		if first == nil {
			first = b
		} else if !bytes.Equal(first, b) {
			t.Fatalf("bytes differ with %d workers", w)
		}
		implied := 0
		for e := range tr.All() {
			if e.Implied {
				implied++
			}
		}
		if info.Size != int64(len(b)) || info.ContentSize != tr.Size() || info.Entries != tr.Len()-implied {
			t.Errorf("info %+v, want size %d, content %d, entries %d", info, len(b), tr.Size(), tr.Len()-implied)
		}
		if err := Verify(bytes.NewReader(b), info.Size, info.SHA256); err != nil {
			t.Error(err)
		}
	}
	got, err := Tree(bytes.NewReader(first), int64(len(first)))
	if err != nil {
		t.Fatal(err)
	}
	if g, w := text(t, got), text(t, tr); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	again, _ := write(t, got, Options{FrameSize: minFrameSize})
	if !bytes.Equal(first, again) {
		t.Error("a layer read and written again has other bytes")
	}
}

func TestEmpty(t *testing.T) {
	b, info := write(t, newTree(t), Options{})
	if info.Entries != 0 || info.ContentSize != 0 {
		t.Errorf("info %+v", info)
	}
	if tr, err := Tree(bytes.NewReader(b), info.Size); err != nil || tr.Len() != 1 {
		t.Errorf("%v, %v", tr, err)
	}
}

// TestFrames reads each frame that does not continue a large file as a tar of its own.
func TestFrames(t *testing.T) {
	var entries []tree.Entry
	for i := range 300 {
		entries = append(entries, file(fmt.Sprintf("f%03d", i), i*97))
	}
	b, _ := write(t, newTree(t, entries...), Options{FrameSize: minFrameSize})
	a, err := openArchive(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if len(a.frames) < 10 {
		t.Fatalf("%d frames", len(a.frames))
	}
	seen := 0
	for i, f := range a.frames {
		if f.size > minFrameSize {
			t.Errorf("frame %d has %d bytes", i, f.size)
		}
		members, err := ReadTar(io.NewSectionReader(a, f.start, int64(f.size)), int64(f.size))
		if err != nil {
			t.Errorf("frame %d does not begin at an entry: %v", i, err)
		}
		seen += len(members)
	}
	if seen != len(entries) {
		t.Errorf("%d entries in all frames, want %d", seen, len(entries))
	}
}

// TestReferees has zstd and tar read a layer.
func TestReferees(t *testing.T) {
	zstdPath, tarPath := referee.Need(t, "zstd"), referee.Need(t, "tar")
	tr := sample(t)
	b, _ := write(t, tr, Options{FrameSize: minFrameSize})
	name := filepath.Join(t.TempDir(), "layer.tar.zst")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	referee.Run(t, zstdPath, "-q", "-t", name)
	raw, err := exec.Command(zstdPath, "-q", "-dc", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tarPath, "-t", "--quoting-style=literal")
	cmd.Stdin, cmd.Env = bytes.NewReader(raw), append(os.Environ(), "LC_ALL=C")
	list, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for e := range tr.All() {
		switch {
		case e.Implied:
		case e.Kind == tree.Dir:
			want = append(want, e.Path+"/")
		default:
			want = append(want, e.Path)
		}
	}
	if got := strings.Split(strings.TrimSuffix(string(list), "\n"), "\n"); !slices.Equal(got, want) {
		t.Errorf("tar lists\n%q\nwant\n%q", got, want)
	}
}

// TestReadTarSparse reads a tar with holes, as release builds on ZFS may make them.
func TestReadTarSparse(t *testing.T) {
	tarPath := referee.Need(t, "tar")
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1<<20)
	for _, off := range []int64{0, 300000, 1<<20 - 5} {
		copy(want[off:], "hello")
		if _, err := f.WriteAt([]byte("hello"), off); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	os.WriteFile(filepath.Join(dir, "after"), []byte("after"), 0o644)
	for _, format := range []string{"posix", "gnu"} {
		out := filepath.Join(t.TempDir(), "t.tar")
		referee.Run(t, tarPath, "--format="+format, "--sparse", "-C", dir, "-cf", out, "./holes", "./after")
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 200000 {
			t.Skipf("the file system here keeps no holes (%d bytes)", len(b))
		}
		r := bytes.NewReader(b)
		members, err := ReadTar(r, r.Size())
		if err != nil {
			t.Fatal(err)
		}
		tr := newTree(t, Entries(r, members)...)
		if got, err := tr.ReadFile("holes", 1<<20); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v, content equal: %v", format, err, bytes.Equal(got, want))
		}
		if got, err := tr.ReadFile("after", 100); err != nil || string(got) != "after" {
			t.Errorf("%s: %q, %v", format, got, err)
		}
	}
}

// rawTar makes a tar of headers alone; files contain their own name.
func rawTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for i := range headers {
		h := &headers[i]
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(tw, h.Name)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pack makes a layer of any bytes.
func pack(t testing.TB, raw []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	out := enc.EncodeAll(raw, nil)
	table := seekTable{}
	table.add(len(out), len(raw))
	b, err := table.bytes()
	if err != nil {
		t.Fatal(err)
	}
	return append(out, b...)
}

func TestReadTarRefuses(t *testing.T) {
	for _, c := range []struct {
		h    tar.Header
		want string
	}{
		{tar.Header{Name: "../x", Typeflag: tar.TypeReg}, `tar "../x": name leads outside`},
		{tar.Header{Name: "a/../../x", Typeflag: tar.TypeReg}, `name leads outside`},
		{tar.Header{Name: "/etc/x", Typeflag: tar.TypeReg}, `tar "/etc/x": absolute name`},
		{tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../y"}, `tar x: hard link: tar "../y": name leads outside`},
		{tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "/y"}, `hard link: tar "/y": absolute name`},
		{tar.Header{Name: "dev/null", Typeflag: tar.TypeChar}, "tar dev/null: device nodes are not supported"},
		{tar.Header{Name: "dev/ada0", Typeflag: tar.TypeBlock}, "device nodes are not supported"},
		{tar.Header{Name: "p", Typeflag: tar.TypeFifo}, "tar p: fifos are not supported"},
		{tar.Header{Name: "x", Typeflag: tar.TypeReg, PAXRecords: map[string]string{fflags: "schg,wings"}, Format: tar.FormatPAX},
			`tar x: unknown file flag "wings"`},
	} {
		b := rawTar(t, c.h)
		if _, err := ReadTar(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.h.Name, err, c.want)
		}
	}
	b := rawTar(t, tar.Header{Name: "./a/b", Typeflag: tar.TypeReg})
	if _, err := ReadTar(bytes.NewReader(b[:515]), 515); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("truncated: %v", err)
	}
}

func TestReadTarNames(t *testing.T) {
	b := rawTar(t, tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./a/b", Typeflag: tar.TypeReg, Mode: 0o600},
		tar.Header{Name: "./c/", Typeflag: tar.TypeDir, Uname: "operator", Uid: 7},
		tar.Header{Name: "./c/l", Typeflag: tar.TypeLink, Linkname: "./a/b"}, tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Mode: 0o644})
	members, err := ReadTar(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	got := text(t, newTree(t, Entries(bytes.NewReader(b), members)...))
	for _, want := range []string{"./a/b type=file mode=0644", "./c type=dir mode=0644 uname=operator", "hardlink=./a/b", "./a type=dir mode=0755"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

type failAfter int

func (f *failAfter) Write(p []byte) (int, error) {
	if *f -= failAfter(len(p)); *f < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestWriteErrors(t *testing.T) {
	big := newTree(t, file("a", 5<<20), file("b", 5<<20))
	w := failAfter(100000)
	if _, err := Write(&w, big, Options{FrameSize: minFrameSize}); err == nil || err.Error() != "write layer: disk full" {
		t.Errorf("got %v", err)
	}
	short := file("etc/short", 1000)
	short.Size = 2000
	if _, err := Write(io.Discard, newTree(t, short), Options{}); err == nil || err.Error() != "write layer: tar etc/short: 1000 bytes read, 2000 described" {
		t.Errorf("got %v", err)
	}
	long := file("etc/long", 1000)
	long.Size = 500
	if _, err := Write(io.Discard, newTree(t, long), Options{}); err == nil || !strings.Contains(err.Error(), "tar etc/long: archive/tar: write too long") {
		t.Errorf("got %v", err)
	}
	if _, err := Write(io.Discard, big, Options{FrameSize: 5}); err == nil || !strings.Contains(err.Error(), "frame size 5") {
		t.Errorf("got %v", err)
	}
}

func TestDamaged(t *testing.T) {
	b, info := write(t, sample(t), Options{FrameSize: minFrameSize})
	for _, c := range []struct {
		what string
		edit func([]byte) []byte
		want string
	}{
		{"cut", func(b []byte) []byte { return b[:len(b)-100] }, "not a layer"},
		{"empty", func(b []byte) []byte { return nil }, "not a layer"},
		{"gap", func(b []byte) []byte { return slices.Insert(b, 1000, 0, 0, 0) }, "seek table: frames end at byte"},
		{"bit", func(b []byte) []byte { b[2000] ^= 1; return b }, "frame 0: "},
		{"frames", func(b []byte) []byte { b[len(b)-6] = 0x7f; return b }, "larger than the layer"},
	} {
		d := c.edit(bytes.Clone(b))
		_, err := Tree(bytes.NewReader(d), int64(len(d)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Tree got %v, want %s", c.what, err, c.want)
		}
		err = Unpack(context.Background(), bytes.NewReader(d), int64(len(d)), t.TempDir(), UnpackOptions{SkipOwners: true})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Unpack got %v, want %s", c.what, err, c.want)
		}
		if err := Verify(bytes.NewReader(d), int64(len(d)), info.SHA256); err == nil || !strings.Contains(err.Error(), "its sha256 is") {
			t.Errorf("%s: Verify got %v", c.what, err)
		}
	}
}

func FuzzReadTar(f *testing.F) {
	var b bytes.Buffer
	if err := WriteTar(&b, newTree(f, dir("a", 0o755), file("a/b", 600), link(tree.HardLink, "a/c", "a/b"), link(tree.Symlink, "s", "t"))); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(rawTar(f, tar.Header{Name: "x", Typeflag: tar.TypeReg}, tar.Header{Name: "x/y", Typeflag: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		members, err := ReadTar(r, r.Size())
		if err != nil {
			return
		}
		tr, err := tree.New(Entries(r, members))
		if err != nil {
			return
		}
		for e := range tr.All() {
			if e.Kind == tree.File && e.Size < 1<<20 {
				if _, err := tr.ReadFile(e.Path, 1<<20); err != nil {
					t.Errorf("%s: %v", e.Path, err)
				}
			}
		}
	})
}

func FuzzTree(f *testing.F) {
	b, _ := write(f, newTree(f, file("a", 100), file("b", 70000)), Options{FrameSize: minFrameSize})
	f.Add(b)
	f.Add(pack(f, rawTar(f, tar.Header{Name: "x", Typeflag: tar.TypeReg})))
	f.Fuzz(func(t *testing.T, b []byte) {
		Tree(bytes.NewReader(b), int64(len(b)))
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add(uint(0), uint(65536), uint(65535), "name")
	f.Add(uint(131072-512), uint(1), uint(200000), strings.Repeat("é", 127))
	f.Fuzz(func(t *testing.T, x, y, z uint, name string) {
		var entries []tree.Entry
		for i, n := range []uint{x, y, z} {
			entries = append(entries, file(fmt.Sprintf("%s%d", name, i), int(n%(300<<10))))
		}
		tr, err := tree.New(entries)
		if err != nil {
			return
		}
		b, _ := write(t, tr, Options{FrameSize: minFrameSize})
		got, err := Tree(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if g, w := text(t, got), text(t, tr); g != w {
			t.Errorf("got\n%s\nwant\n%s", g, w)
		}
	})
}
