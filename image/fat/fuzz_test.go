package fat

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/referee"
)

// letters are what random names are made of.
var letters = []rune("abcXYZ019 .-_~+,;=[]äßé日本語🚀'()&$%#@!^{}`")

func randomName(r *rand.Rand) string {
	n := 1 + r.IntN(12)
	if r.IntN(8) == 0 {
		n = 1 + r.IntN(60)
	}
	var b strings.Builder
	for range n {
		b.WriteRune(letters[r.IntN(len(letters))])
	}
	b.WriteString([]string{"", "x", ".TXT", ".conf", "~1"}[r.IntN(5)])
	return strings.TrimRight(b.String(), ". ")
}

// randomTree is a tree of names FAT can store, some of them deep, and of sizes
// around the cluster size.
func randomTree(t testing.TB, r *rand.Rand, n int, cluster int64) *tree.Tree {
	dirs := []string{""}
	seen := map[string]bool{}
	var out []tree.Entry
	for range n {
		name := randomName(r)
		p := dirs[r.IntN(len(dirs))] + name
		if name == "" || checkName(name) != nil || seen[fold(p)] || len(p) > 600 {
			continue
		}
		seen[fold(p)] = true
		if r.IntN(3) == 0 {
			out = append(out, mkdir(p))
			dirs = append(dirs, p+"/")
			continue
		}
		size := []int64{0, 1, cluster - 1, cluster, cluster + 1, r.Int64N(5 * cluster)}[r.IntN(6)]
		e := file(p, pattern(int(size)))
		e.ModTime = time.Unix(r.Int64N(1<<32), 0)
		out = append(out, e)
	}
	return mustTree(t, out...)
}

// TestShapes is the round trip of random trees, with fsck.fat as the judge of
// structure and mtools as that of names.
func TestShapes(t *testing.T) {
	referee.Need(t, "fsck.fat")
	for seed := range uint64(16) {
		r := rand.New(rand.NewPCG(seed, 1))
		o := []Options{
			{Size: 1 << 20}, {Size: 4 << 20}, {Size: 34 << 20, Label: "SHAPES"},
			{Size: 4 << 20, SectorSize: 4096}, {Size: 24 << 20, SectorSize: 4096},
		}[r.IntN(5)]
		tr := randomTree(t, r, 10+r.IntN(150), int64(max(512, o.SectorSize)))
		m, _ := roundTrip(t, tr, o)
		name := save(t, m)
		fsck(t, name)
		if seed%6 == 0 {
			mcopyAll(t, tr, name)
		}
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, listing(t, tr))
		}
	}
}

// mcopyAll has mtools copy everything out and compares. mtools maps characters
// it cannot write, so only files with names in ASCII are compared.
func mcopyAll(t *testing.T, tr *tree.Tree, img string) {
	out := t.TempDir()
	referee.Run(t, "mcopy", "-s", "-n", "-m", "-i", img, "::*", out)
	for e := range tr.All() {
		if e.Kind != tree.File || strings.ContainsFunc(e.Path, func(r rune) bool { return r > 0x7e }) {
			continue
		}
		want, _ := tr.ReadFile(e.Path, 1<<30)
		got, err := os.ReadFile(filepath.Join(out, filepath.FromSlash(e.Path)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("mcopy %s: %v", e.Path, err)
		}
	}
}

// TestExtremes: names of 255 units, a deep path, a directory of many entries in
// the root of each type.
func TestExtremes(t *testing.T) {
	referee.Need(t, "fsck.fat")
	for _, size := range []int64{2 << 20, 8 << 20, 40 << 20} {
		entries := []tree.Entry{
			file(strings.Repeat("n", 255), []byte("x")),
			file(strings.Repeat("w", 251)+".txt", []byte("y")),
			file(strings.Repeat("d/", 400)+"leaf", []byte("z")),
		}
		for i := range 700 {
			entries = append(entries, file(fmt.Sprintf("many/file number %d", i), nil), file(fmt.Sprintf("F%d.X", i), nil))
		}
		m, _ := roundTrip(t, mustTree(t, entries...), Options{Size: size})
		fsck(t, save(t, m))
	}
}

// exercise reads everything of a volume that may be damaged in any way.
func exercise(b []byte) {
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return
	}
	f.Check()
	f.Ranges("EFI/BOOT/BOOTX64.EFI")
	t, err := f.Tree()
	if err != nil {
		return
	}
	for e := range t.All() {
		if e.Open == nil {
			continue
		}
		r, err := e.Open()
		if err != nil {
			panic(err)
		}
		if n, err := io.Copy(io.Discard, r); n != e.Size || err != nil {
			panic(fmt.Sprintf("%s: %d bytes, want %d, %v", e.Path, n, e.Size, err))
		}
	}
}

// seeds are small volumes of each type.
func seeds(t testing.TB) [][]byte {
	var out [][]byte
	tr := mustTree(t, file("EFI/BOOT/BOOTX64.EFI", pattern(3000)), file("EFI/a longer name.conf", pattern(600)), mkdir("d/e/f"))
	for _, o := range []Options{{Size: 32 << 10}, {Size: 2200 << 10}, {Size: 33300 << 10}, {Size: 256 << 10, SectorSize: 4096}} {
		p, err := Layout(tr, o)
		if err != nil {
			t.Fatal(err)
		}
		m := make(memory, o.Size)
		if err := p.Write(m); err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// TestCorrupted damages metadata at random. It fails by panicking or by never
// coming back.
func TestCorrupted(t *testing.T) {
	for i, good := range seeds(t) {
		rounds := 600
		if len(good) > 1<<20 {
			rounds = 25
		}
		r := rand.New(rand.NewPCG(uint64(i), 2))
		f, err := Open(bytes.NewReader(good), int64(len(good)))
		if err != nil {
			t.Fatal(err)
		}
		areas := [][2]int64{{0, 512}, {f.fatOff(0), f.fatOff(0) + 64}, {f.rootOff(), f.dataOff() + 16*f.clusterSize}}
		for range rounds {
			undo := map[int64]byte{}
			for range 1 + r.IntN(4) {
				a := areas[r.IntN(len(areas))]
				at := a[0] + r.Int64N(a[1]-a[0])
				if _, ok := undo[at]; !ok {
					undo[at] = good[at]
				}
				good[at] = []byte{0, 1, 2, 3, 0x7f, 0x80, 0xff, byte(r.Uint32())}[r.IntN(8)]
			}
			exercise(good)
			for at, b := range undo {
				good[at] = b
			}
		}
		if err := f.Check(); err != nil {
			t.Fatal("the volume was not restored: ", err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, s := range seeds(f) {
		if len(s) < 100<<10 {
			f.Add(s)
		}
	}
	f.Fuzz(func(_ *testing.T, b []byte) { exercise(b) })
}

// TestCheck damages one thing at a time and names the message.
func TestCheck(t *testing.T) {
	good := seeds(t)[2] // FAT32
	f, err := Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	rs, err := f.Ranges("EFI/BOOT/BOOTX64.EFI")
	if err != nil {
		t.Fatal(err)
	}
	efi := uint32((rs[0].Off-f.dataOff())/f.clusterSize) + firstCluster
	both := func(c uint32, v byte) map[int64]byte { // low byte of a FAT entry, in both copies
		return map[int64]byte{f.fatOff(0) + int64(c)*4: v, f.fatOff(1) + int64(c)*4: v}
	}
	last := int64(f.clusters+1) * 4
	efiDir := f.clusterOff(3)
	for want, damage := range map[string]map[int64]byte{
		"FAT: copy 2 differs from the first":                                {f.fatOff(1) + 100: 1},
		"FAT: it begins with 0xfffff00, 0xfffffff (not cleanly unmounted?)": both(0, 0),
		"FAT: 1 clusters from 65543 on belong to nothing":                   {f.fatOff(0) + last: 0xff, f.fatOff(1) + last: 0xff, f.fatOff(0) + last + 1: 0xff, f.fatOff(1) + last + 1: 0xff},
		"EFI/BOOT/BOOTX64.EFI: chain leads to cluster 0, the last is 65543": both(efi, 0),
		"EFI/BOOT/BOOTX64.EFI: cluster 5 is used twice":                     both(efi, 5),
		"FSInfo: wrong signatures":                                          {512: 0},
		"FSInfo: it counts 65279 free clusters, there are 65528":            {512 + 488: 0xff, 512 + 489: 0xfe},
		"backup boot sector: differs from the boot sector":                  {6*512 + 100: 1},
		"EFI: \"..\" names cluster 7, not 0":                                {efiDir + 32 + 26: 7},
		"EFI: entry 0 is not \".\"":                                         {efiDir: 'x'},
		"EFI: a long name without its short name":                           {efiDir + 3*32 + 13: 0},
		"EFI/BOOT/BOOTX64.EFI: 6 clusters for 1 bytes":                      {f.clusterOff(4) + 2*32 + 28: 1, f.clusterOff(4) + 2*32 + 29: 0},
		"EFI/BOOT/BOOTX64.EFI: 68536 bytes, but its clusters hold less":     {f.clusterOff(4) + 2*32 + 30: 1},
		"d: directory in cluster 130816":                                    {f.clusterOff(2) + 64 + 20: 1, f.clusterOff(2) + 64 + 26: 0, f.clusterOff(2) + 64 + 27: 0xff},
	} {
		b := bytes.Clone(good)
		for at, v := range damage {
			b[at] = v
		}
		bad, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	good := seeds(t)[0]
	for want, damage := range map[string]map[int]byte{
		"open fat: no boot sector signature":             {510: 0},
		"open fat: sector size 513":                      {11: 1},
		"open fat: 3 sectors a cluster":                  {13: 3},
		"open fat: 1 reserved sectors and 0 FATs":        {16: 0},
		"open fat: it has 131072 bytes, 32768 are there": {19: 0, 20: 1},
		"open fat: 31 clusters and 0 sectors a FAT":      {22: 0},
		"open fat: FAT32 of an unknown version":          {17: 0, 18: 0},
	} {
		b := bytes.Clone(good)
		for at, v := range damage {
			b[at] = v
		}
		if _, err := Open(bytes.NewReader(b), int64(len(b))); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if _, err := Open(bytes.NewReader(nil), 0); err == nil || err.Error() != "open fat: boot sector: unexpected EOF" {
		t.Error(err)
	}
}
