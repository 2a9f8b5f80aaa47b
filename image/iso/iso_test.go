package iso

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/tree"
)

var update = flag.Bool("update", false, "write the golden files")

var epoch = time.Unix(1_750_000_000, 123_456_789)

func mkfile(p string, size int, seed byte) tree.Entry {
	e := tree.FileEntry(p, pattern(size, seed))
	e.Owner, e.Group, e.ModTime = "", "", epoch
	return e
}

// pattern is content that differs between offsets and between seeds.
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

func mkhard(p, to string) tree.Entry { return tree.Entry{Path: p, Kind: tree.HardLink, Link: to} }

func mktree(t testing.TB, entries ...tree.Entry) *tree.Tree {
	t.Helper()
	tr, err := tree.New(entries)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// memory is a destination that starts as garbage.
type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > int64(len(m)) {
		return 0, fmt.Errorf("write of %d bytes at %d is outside the volume", len(b), off)
	}
	return copy(m[off:], b), nil
}

// roundTrip lays t out, writes it over garbage and verifies it.
func roundTrip(t testing.TB, tr *tree.Tree, o Options) (*Plan, memory) {
	t.Helper()
	p, err := Layout(tr, o)
	if err != nil {
		t.Fatal(err)
	}
	m := memory(bytes.Repeat([]byte{0xa5}, int(p.Size())))
	if err := p.Write(m); err != nil {
		t.Fatal(err)
	}
	if err := Verify(bytes.NewReader(m), p.Size(), tr, o); err != nil {
		t.Fatal(err)
	}
	return p, m
}

func save(t testing.TB, m memory) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "rig.iso")
	if err := os.WriteFile(name, m, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// sample is a tree with something of everything.
func sample(t testing.TB) *tree.Tree {
	es := []tree.Entry{mkdir("."), mkdir("empty"),
		mkfile("boot/cdboot", 1219, 1), mkfile("boot/loader", 5000, 2), mkfile("boot/loader.efi", 3000, 3),
		mkfile("boot/loader_lua", 10, 4), mkfile("boot/loader.conf", 20, 5), mkfile("boot/kernel/kernel", 70000, 6),
		mklink("slash", "/"), mklink("abs", "/usr//lib/"), mklink("up", "../../x/./y"), mklink("dot", "."), mklink("doubled", "//x"),
		mklink("long", strings.Repeat("directory/", 100)+"end"), mklink("longest", strings.Repeat("x", maxLink)),
		mklink("parts", strings.Repeat("a/", 511)+"b"), mklink("slashes", strings.Repeat("/", maxLink)),
		mklink(strings.Repeat("l", 255), strings.Repeat("t", 1000)), mklink(strings.Repeat("m", 255), strings.Repeat("u/", 500)),
		mkfile("ünïcödé/日本語.txt", 100, 7), mkfile("\xff\xfe bytes", 100, 8), mkfile("a\nb\tc", 5, 8),
		mkfile("README", 1, 9), mkfile("readme", 2, 10), mkfile("ReadMe", 3, 11), mkfile("readme.", 4, 12), mkfile("BOOT/LOADER", 3, 13),
		mkfile(".profile", 5, 13), mkfile("a.tar.gz", 5, 14), mkfile("...", 6, 15), mkfile("x.verylongextension", 6, 15),
		mkfile(strings.Repeat("d/", 200)+"leaf", 7, 16),
	}
	for i, size := range []int{0, 1, 2047, 2048, 2049, 4096, 100_000, 1<<20 + 1} {
		es = append(es, mkfile(fmt.Sprintf("files/f%02d", i), size, byte(i)))
	}
	for _, n := range []int{100, 139, 140, 141, 142, 143, 144, 145, 146, 147, 148, 149, 150, 249, 250, 251, 254, 255} {
		es = append(es, mkfile("names/"+strings.Repeat("n", n), n, byte(n)))
	}
	suid := mkfile("bin/su", 5000, 77)
	suid.Perm, suid.UID, suid.GID, suid.Flags = 0o4511, 1001, 1<<29, tree.Immutable
	es = append(es, suid, mkhard("bin/zu", "bin/su"), mkhard("again", "bin/su"), mkfile("h/0", 0, 0), mkhard("h/1", "h/0"))
	for i := range 400 { // more than a block of records, also where the loader looks
		es = append(es, mkfile(fmt.Sprintf("many/%s%04d", strings.Repeat("e", i%40), i), i%3, byte(i)),
			mkfile(fmt.Sprintf("boot/modules/%04d.ko", i), 0, 0))
	}
	old, far := mkfile("old", 3, 1), mkfile("far", 3, 2)
	far.UID, far.GID = math.MaxUint32, math.MaxUint32
	old.ModTime, far.ModTime = time.Time{}, time.Date(2100, 2, 28, 23, 59, 59, 0, time.UTC)
	sticky := mkdir("tmp")
	sticky.Perm = 0o1777
	return mktree(t, append(es, old, far, sticky)...)
}

var options = Options{Volume: "RIG_TEST", Publisher: "RIG. HTTPS://EXAMPLE.ORG/", Time: epoch}

// bootOptions are options of a volume that starts everywhere.
func bootOptions() Options {
	o := options
	o.BIOSBoot = "boot/cdboot"
	o.ESP, o.ESPSize = tree.Bytes(pattern(300<<10, 99)), 300<<10
	o.ISOBoot = pattern(14001, 98)
	o.Tail = 33 * 512
	return o
}

func TestRoundTrip(t *testing.T) {
	for name, o := range map[string]Options{"plain": options, "boot": bootOptions(), "zero": {}} {
		t.Run(name, func(t *testing.T) {
			p, m := roundTrip(t, sample(t), o)
			f, err := Open(bytes.NewReader(m), int64(len(m)))
			if err != nil {
				t.Fatal(err)
			}
			if f.Volume() != o.Volume || f.Publisher() != o.Publisher || f.Size() != p.Size() {
				t.Errorf("volume %q, publisher %q, %d bytes", f.Volume(), f.Publisher(), f.Size())
			}
			for e := range sample(t).All() {
				if e.Kind == tree.Dir || e.Kind == tree.Symlink || strings.HasPrefix(e.Path, "many/") || strings.HasPrefix(e.Path, "boot/modules/") {
					continue
				}
				a, err1 := p.FileRange(e.Path)
				b, err2 := f.FileRange(e.Path)
				if err := errors.Join(err1, err2); err != nil || a != b || a.Off%blockSize != 0 {
					t.Errorf("%s: planned at %v, read at %v, %v", e.Path, a, b, err)
				}
			}
		})
	}
}

// TestGolden is the listing of what was read back.
func TestGolden(t *testing.T) {
	tr := mktree(t, mkfile("boot/cdboot", 1219, 1), mkfile("boot/loader", 2049, 2), mkhard("boot/zfsloader", "boot/loader"),
		mklink("sys", "usr/src/sys"), mkfile(strings.Repeat("long", 60)+".txt", 0, 0), mkdir("usr/src/sys"))
	o := options
	o.BIOSBoot = "boot/cdboot"
	_, m := roundTrip(t, tr, o)
	f, err := Open(bytes.NewReader(m), int64(len(m)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Tree()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := got.WriteMtree(&b, true); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/small.mtree"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("got:\n%s\nwant:\n%s", b.Bytes(), want)
	}
}

func TestReproducible(t *testing.T) {
	_, a := roundTrip(t, sample(t), bootOptions())
	_, b := roundTrip(t, sample(t), bootOptions())
	if !bytes.Equal(a, b) {
		t.Error("two volumes of one tree differ")
	}
}

// TestPlainNames: cdboot looks for these by bytes, and isoboot takes the first
// entry of a directory that begins with what it looks for.
func TestPlainNames(t *testing.T) {
	p, err := Layout(sample(t), options)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"boot": "BOOT", "BOOT": "BOOT_1", "boot/loader": "LOADER.;1", "boot/loader.efi": "LOADER.EFI;1", "boot/loader_lua": "LOADER_LUA.;1",
		"readme": "README.;1", "README": "README_1.;1", "ReadMe": "README_2.;1", "readme.": "README_3.;1",
		".profile": "_PROFILE.;1", "a.tar.gz": "A_TAR.GZ;1", "...": "__.;1", "x.verylongextension": "X_VERYLONGEXTENSION.;1",
		"ünïcödé": "_N_C_D_", "names/" + strings.Repeat("n", 255): strings.Repeat("N", 27) + "_17.;1",
	} {
		if got := p.names[name].plain.id(); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, d := range p.dirs {
		for i, c := range d.children {
			for _, before := range d.children[:i] {
				a, b := filepath.Base(before.entry.Path), filepath.Base(c.entry.Path)
				if len(a) > len(b) && strings.HasPrefix(a, b) && len(b) < maxDirName && strings.ToLower(b) == b && fold(b) == strings.ToUpper(b) {
					t.Errorf("%s: %q comes before %q", d.entry.Path, a, b)
				}
			}
		}
	}
}

// TestHybrid is a whole image: GPT over the system area and the tail, ESP and
// isoboot as partitions.
func TestHybrid(t *testing.T) {
	hybrid(t)
}

func hybrid(t *testing.T) (*gpt.Table, memory) {
	tr := sample(t)
	o := bootOptions()
	o.ESP, o.ESPSize = nil, 2048<<10
	p, err := Layout(tr, o)
	if err != nil {
		t.Fatal(err)
	}
	m := make(memory, p.Size())
	if err := p.Write(m); err != nil {
		t.Fatal(err)
	}
	esp := p.ESP()
	loader, err := tr.ReadFile("boot/loader.efi", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	fp, err := fat.Layout(mktree(t, tree.FileEntry("EFI/BOOT/BOOTX64.EFI", loader)),
		fat.Options{Size: esp.Len, Label: "EFISYS", Time: epoch, HiddenSectors: uint32(esp.Off / sector)})
	if err != nil {
		t.Fatal(err)
	}
	if err := fp.Write(io.NewOffsetWriter(m, esp.Off)); err != nil {
		t.Fatal(err)
	}
	table := &gpt.Table{DiskGUID: gpt.DeriveGUID("iso", "disk"), SectorSize: 512, DiskSize: p.Size(), Partitions: []gpt.Partition{
		{Type: gpt.FreeBSDBoot, Label: "isoboot", GUID: gpt.DeriveGUID("iso", "boot"), Start: p.ISOBoot().Off, Size: p.ISOBoot().Len},
		{Type: gpt.EFI, Label: "efi", GUID: gpt.DeriveGUID("iso", "esp"), Start: esp.Off, Size: esp.Len},
	}}
	pmbr := bytes.Repeat([]byte{0xcc}, 512)
	pmbr[510], pmbr[511] = 0x55, 0xaa
	if err := table.Write(m, pmbr); err != nil {
		t.Fatal(err)
	}

	if err := Verify(bytes.NewReader(m), p.Size(), tr, o); err != nil {
		t.Error(err)
	}
	got, err := gpt.Read(bytes.NewReader(m), p.Size(), 512)
	if err != nil {
		t.Fatal(err)
	}
	boot := got.Partitions[0]
	if b := m[boot.Start:][:boot.Size]; boot.Start != 34*512 || boot.Start+boot.Size > 64*512 || !bytes.HasPrefix(b, o.ISOBoot) {
		t.Errorf("isoboot has %d bytes at %d", boot.Size, boot.Start)
	}
	ff, err := fat.Open(io.NewSectionReader(bytes.NewReader(m), got.Partitions[1].Start, got.Partitions[1].Size), esp.Len)
	if err != nil {
		t.Fatal(err)
	}
	if err := ff.Check(); err != nil {
		t.Error(err)
	}
	return table, m
}

func TestBoots(t *testing.T) {
	o := bootOptions()
	for _, c := range []struct {
		bios string
		esp  int64
		want string
	}{
		{"", 0, "[]"},
		{"boot/cdboot", 0, "[bios 2048]"},
		{"", 65535 * 512, "[efi 33553920]"},
		{"boot/loader", 4096, "[bios 6144 efi 4096]"},
		{"boot/loader", 65536 * 512, "[bios 6144 efi 33572864]"}, // to the end: with the tail
	} {
		o.BIOSBoot, o.ESP, o.ESPSize = c.bios, nil, c.esp
		_, m := roundTrip(t, sample(t), o)
		f, err := Open(bytes.NewReader(m), int64(len(m)))
		if err != nil {
			t.Fatal(err)
		}
		boots, err := f.Boots()
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, b := range boots {
			got = append(got, fmt.Sprintf("%s %d", map[bool]string{false: "bios", true: "efi"}[b.EFI], b.Range.Len))
		}
		if s := fmt.Sprint(got); s != c.want {
			t.Errorf("%s, %d: %s, want %s", c.bios, c.esp, s, c.want)
		}
	}
}

func TestLayoutErrors(t *testing.T) {
	tr := sample(t)
	for want, o := range map[string]Options{
		`layout iso: volume "rig" may have capitals, digits and "_" only`:                     {Volume: "rig"},
		`has 32 characters; 31 is the limit`:                                                  {Volume: strings.Repeat("V", 32)},
		`layout iso: publisher of 129 characters; 128 is the limit`:                           {Publisher: strings.Repeat("P", 129)},
		`publisher "me" may have capitals, digits, space and !"%&'()*+,-./:;<=>?_ only`:       {Publisher: "me"},
		`layout iso: isoboot of 15361 bytes; the system area has room for 15360 behind a GPT`: {ISOBoot: make([]byte, 15361)},
		`layout iso: ESP of -1 bytes and tail of 0 must not be negative`:                      {ESPSize: -1},
		`layout iso: ESP of 513 bytes is not a whole number of sectors of 512`:                {ESPSize: 513},
		`layout iso: ESP without a size`:                                                      {ESP: tree.Bytes(nil)},
		`layout iso: BIOS boot image: locate boot/none: no such file in the iso`:              {BIOSBoot: "boot/none"},
		`layout iso: BIOS boot image: locate boot: it is a dir`:                               {BIOSBoot: "boot"},
		`layout iso: BIOS boot image files/f00 has 0 bytes; 1 to 33552384 can be loaded`:      {BIOSBoot: "files/f00"},
		`layout iso: 2147483649 blocks of 2048 bytes; 2147483647 is the limit`:                {Tail: 2147480000 * 2048, ISOBoot: nil},
	} {
		if o.Tail > 0 {
			p, err := Layout(tr, Options{})
			if err != nil {
				t.Fatal(err)
			}
			o.Tail = (maxBlocks + 2 - p.blocks) * blockSize
		}
		_, err := Layout(tr, o)
		wantError(t, err, want)
	}
	huge := tree.Entry{Path: "huge", Kind: tree.File, Size: 1 << 32, Open: tree.Bytes(nil)}
	_, err := Layout(mktree(t, huge, mklink("l", strings.Repeat("x", 1024)), mkfile(strings.Repeat("d/", 511)+"xx", 1, 1)), Options{})
	wantError(t, err, "layout huge: file of 4294967296 bytes; FreeBSD reads at most 4294967295 from ISO 9660")
	wantError(t, err, "layout l: symlink target of 1024 bytes; 1023 is the limit")
	wantError(t, err, "path of 1024 bytes; 1023 is the limit")
	var dirs []tree.Entry
	for i := range maxDirs {
		dirs = append(dirs, mkdir(fmt.Sprint(i)))
	}
	_, err = Layout(mktree(t, dirs...), Options{})
	wantError(t, err, "layout iso: 65536 directories; 65535 is the limit")
	if _, err := Layout(mktree(t, dirs[1:]...), Options{}); err != nil {
		t.Error(err)
	}
}

func TestWriteErrors(t *testing.T) {
	short, long := mkfile("short", 10, 1), mkfile("long", 10, 1)
	short.Open, long.Open = tree.Bytes(make([]byte, 9)), tree.Bytes(make([]byte, 11))
	for want, c := range map[string]struct {
		e tree.Entry
		o Options
	}{
		"write iso: short: 10 bytes described, 1 missing: unexpected EOF":  {e: short},
		"write iso: long: content is longer than the described 10 bytes":   {e: long},
		"write iso: ESP: 512 bytes described, 502 missing: unexpected EOF": {e: mkfile("a", 1, 1), o: Options{ESP: tree.Bytes(make([]byte, 10)), ESPSize: 512}},
	} {
		p, err := Layout(mktree(t, c.e), c.o)
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, p.Write(make(memory, p.Size())), want)
	}
	p, err := Layout(sample(t), options)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, p.Write(make(memory, p.Size()-1)), "is outside the volume")
}

func TestVerifyErrors(t *testing.T) {
	good := func() []tree.Entry {
		return []tree.Entry{mkfile("a", 3000, 1), mkdir("d"), mklink("l", "t"), mkfile("d/x", 1, 1)}
	}
	o := options
	o.BIOSBoot = "a"
	o.ESP, o.ESPSize = tree.Bytes(pattern(1024, 1)), 1024
	p, m := roundTrip(t, mktree(t, good()...), o)
	for want, change := range map[string]func(es []tree.Entry, o *Options) []tree.Entry{
		"d/x: nothing described it": func(es []tree.Entry, _ *Options) []tree.Entry { return es[:3] },
		"b: missing":                func(es []tree.Entry, _ *Options) []tree.Entry { return append(es, mkdir("b")) },
		"a: mode is 0644, not 0600": func(es []tree.Entry, _ *Options) []tree.Entry { es[0].Perm = 0o600; return es },
		"a: owner is 0:0, not 7:0":  func(es []tree.Entry, _ *Options) []tree.Entry { es[0].UID = 7; return es },
		"a: size is 3000, not 2999": func(es []tree.Entry, _ *Options) []tree.Entry { es[0].Size--; return es },
		"a: time is 2025-06-15T15:06:40Z, not 2025-06-15T15:06:41Z": func(es []tree.Entry, _ *Options) []tree.Entry {
			es[0].ModTime = epoch.Add(time.Second)
			return es
		},
		`l: link is "t", not "u"`:                      func(es []tree.Entry, _ *Options) []tree.Entry { es[2].Link = "u"; return es },
		"l: kind is link, not dir":                     func(es []tree.Entry, _ *Options) []tree.Entry { es[2].Kind = tree.Dir; return es },
		"a: content differs at byte 0":                 func(es []tree.Entry, _ *Options) []tree.Entry { es[0].Open = tree.Bytes(pattern(3000, 2)); return es },
		`volume "RIG_TEST" of publisher`:               func(es []tree.Entry, o *Options) []tree.Entry { o.Volume = "X"; return es },
		"boot catalog: its first entry is not d/x":     func(es []tree.Entry, o *Options) []tree.Entry { o.BIOSBoot = "d/x"; return es },
		"boot catalog: no ESP of 2048 bytes":           func(es []tree.Entry, o *Options) []tree.Entry { o.ESPSize = 2048; return es },
		"boot catalog: 1 more entries than described":  func(es []tree.Entry, o *Options) []tree.Entry { o.ESPSize = 0; return es },
		"boot catalog: ESP: content differs at byte 0": func(es []tree.Entry, o *Options) []tree.Entry { o.ESP = tree.Bytes(pattern(1024, 2)); return es },
	} {
		o := o
		es := change(good(), &o)
		wantError(t, Verify(bytes.NewReader(m), p.Size(), mktree(t, es...), o), want)
	}
	if err := Verify(bytes.NewReader(m), p.Size(), mktree(t, good()...), o); err != nil {
		t.Error(err)
	}
}

// BenchmarkWrite writes 100 MiB of files of 100 KiB.
func BenchmarkWrite(b *testing.B) {
	var es []tree.Entry
	for i := range 1024 {
		es = append(es, mkfile(fmt.Sprintf("d%d/f%d", i/50, i), 100<<10, byte(i)))
	}
	tr := mktree(b, es...)
	f, err := os.Create(filepath.Join(b.TempDir(), "rig.iso"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(tr.Size())
	b.ReportAllocs()
	for b.Loop() {
		p, err := Layout(tr, options)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Write(f); err != nil {
			b.Fatal(err)
		}
	}
}
