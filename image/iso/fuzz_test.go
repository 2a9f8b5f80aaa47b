package iso

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/referee"
)

var noise = pattern(1<<20, 9)

// shapes turns bytes into a tree: four for each entry.
func shapes(b []byte) []tree.Entry {
	sizes := []int{0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 10, 100000}
	letters := []string{"n", "N", "é", "日", ".", "_", " ", "\xff", "0", "\\"}
	var es []tree.Entry
	dir, files := ".", []string{}
	for i := 0; len(b) >= 4 && i < 100; i, b = i+1, b[4:] {
		kind, a, c, d := b[0], b[1], b[2], b[3]
		letter := letters[int(c)%len(letters)]
		name := fmt.Sprintf("%s%d", strings.Repeat(letter, int(d)/len(letter)), i)
		name = name[max(0, len(name)-255):]
		p := strings.TrimPrefix(dir+"/"+name, "./")
		if len(p) > maxPath {
			dir = "."
			continue
		}
		e := tree.Entry{Path: p, Perm: uint16(a)<<4 | uint16(c)&0xf, UID: uint32(c), GID: uint32(d) << 24, ModTime: time.Unix(int64(a)<<24, int64(c))}
		switch kind % 6 {
		case 0, 1:
			content := noise[int(d)*64:][:sizes[int(a)%len(sizes)]+int(c)%3]
			e.Kind, e.Size, e.Open = tree.File, int64(len(content)), tree.Bytes(content)
			files = append(files, p)
		case 2:
			e.Kind, dir = tree.Dir, p
		case 3:
			link := strings.Repeat([]string{"l", "l/", "/", "../", "./x", "long/er"}[int(c)%6], 1+int(a)*4)
			e.Kind, e.Link = tree.Symlink, cut(link, maxLink)
		case 4:
			dir = "."
			continue
		case 5:
			if len(files) == 0 {
				continue
			}
			e = tree.Entry{Path: p, Kind: tree.HardLink, Link: files[int(a)%len(files)]}
		}
		es = append(es, e)
	}
	return es
}

func FuzzShapes(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte("\x00\x03\x00\x00\x02\x00\x00\xff\x00\x09\x00\xff\x03\x1e\x00\x00\x05\x00\x00\x00"), uint16(1))
	f.Add([]byte(strings.Repeat("\x00\x01\x00\xf0\x01\x08\x01\x20", 60)), uint16(2048))
	f.Add([]byte(strings.Repeat("\x02\x01\x00\xf0", 12)+"\x00\x00\x00\x00"), uint16(0))
	f.Add([]byte(strings.Repeat("\x03\xff\x02\xff\x03\xf0\x01\xfe", 40)), uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, esp uint16) {
		tr, err := tree.New(shapes(b))
		if err != nil {
			t.Fatal(err)
		}
		size := int64(esp%64) * sector
		roundTrip(t, tr, Options{Volume: "FUZZ", ESPSize: size, ESP: nil, Tail: int64(esp)})
	})
}

// TestShapes is FuzzShapes with libarchive as the judge.
func TestShapes(t *testing.T) {
	for seed := range uint64(24) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 4*(1+r.IntN(100)))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		tr, err := tree.New(shapes(b))
		if err != nil {
			t.Fatal(err)
		}
		_, m := roundTrip(t, tr, options)
		if _, ok := referee.Find("bsdtar"); ok {
			libarchive(t, tr, save(t, m))
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// seeds are small volumes.
func seeds(t testing.TB) [][]byte {
	o := options
	o.BIOSBoot, o.ESPSize = "boot/loader", 2048
	_, a := roundTrip(t, mktree(t, mkfile("boot/loader", 3000, 1), mkhard("boot/l", "boot/loader"), mklink("x", "/usr//../y"),
		mklink("long", strings.Repeat("z/", 500)), mkfile(strings.Repeat("n", 255), 1, 2), mkdir("d/e/f")), o)
	_, b := roundTrip(t, mktree(t), Options{})
	return [][]byte{a, b}
}

// exercise reads everything of a volume that may be damaged in any way.
func exercise(b []byte) {
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return
	}
	f.Check()
	f.Boots()
	f.FileRange("boot/loader")
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

func FuzzRead(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s[systemArea:])
	}
	f.Fuzz(func(_ *testing.T, b []byte) { exercise(append(make([]byte, systemArea), b...)) })
}

// TestCorrupted damages metadata at random. It fails by panicking or by never
// coming back.
func TestCorrupted(t *testing.T) {
	good := seeds(t)[0]
	f, err := Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	end := int64(f.pv.Root.Extent.get())*blockSize + 10*blockSize
	for range 5000 {
		b := bytes.Clone(good)
		for range 1 + r.IntN(4) {
			at := systemArea + r.Int64N(end-systemArea)
			if r.IntN(2) == 0 { // where there is something
				for b[at] == 0 {
					at = systemArea + r.Int64N(end-systemArea)
				}
			}
			b[at] = []byte{0, 1, 2, 3, 0x7f, 0x80, 0xff, byte(r.Uint32())}[r.IntN(8)]
		}
		exercise(b)
	}
}

// TestCheck damages one thing at a time and names the message.
func TestCheck(t *testing.T) {
	good := seeds(t)[0]
	f, err := Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	pathL, pathM, catalog := int(f.pv.PathL.get())*blockSize, int(f.pv.PathM.get())*blockSize, int(f.catalog)*blockSize
	find := func(s string) int { // once, behind the catalog
		i := bytes.Index(good[catalog:], []byte(s))
		if i < 0 {
			t.Fatalf("no %q", s)
		}
		return catalog + i
	}
	loader := find("LOADER.;1") - dirRecordSize
	pv := firstDesc * blockSize
	dot := loader / blockSize * blockSize // "." of boot
	last := map[int]byte{}                // records up to the end of the block and over it
	for at := loader + int(good[loader]); at < dot+blockSize; at += 255 {
		last[at], last[at+32] = 255, 1
	}
	px := loader + dirRecordSize + len("LOADER.;1")
	both := func(at int, v byte) map[int]byte { return map[int]byte{at: v, at + 7: v} } // lowest byte of a both32
	for want, damage := range map[string]map[int]byte{
		"primary descriptor: its numbers differ between byte orders":        {pv + 84: 1},
		`boot: record "LOADER.;1": its numbers differ between byte orders`:  {loader + 6: 1},
		"boot/loader: 2 links, it says 3":                                   both(px+12, 3),
		"boot: its own record differs from that in its parent":              {dot + 34 + 4: 0xff},
		`boot: record 0 is not "\x00"`:                                      {dot + dirRecordSize: 5},
		`boot: record "\x00" names block 99, not`:                           both(dot+2, 99),
		"boot/loader: overlaps boot catalog in block":                       both(loader+2, byte(catalog/blockSize)),
		"path table: L: directory 1 in block 0 is none":                     {pathL + 2: 0},
		`path table: M: directory 2 is "BOOX" in 1, not boot`:               {pathM + 10 + 8 + 3: 'X'},
		"path table: L: it ends within a record":                            {pathL: 200},
		"boot catalog: read boot catalog: wrong checksum or signature":      {catalog + 4: 1},
		"boot catalog: read boot catalog: 4096 bytes at":                    {catalog + 32 + 10: 0xff},
		`boot/loader: record "AOADER.;1" is not behind "L.;1" in order`:     {loader + dirRecordSize: 'A'},
		`boot: record "LOADER.;1": field PX of 43 bytes`:                    {px + 2: 43},
		`boot: record "LOADER.;1": no field PX`:                             {px: 'X'},
		`boot: record "LOADER.;1": mode 0140644 is no file, directory or`:   {px + 5: 0xc1},
		`boot: record "LOADER.;1": mode 040644 does not suit the flags 0x0`: {px + 5: 0x41},
		`boot: record "LOADER.;1": several extents, interleaving`:           {loader + 25: flagMulti},
		"boot/loader: 3000 bytes in block 16777":                            {loader + 5: 1},
		"boot: a record of 90 bytes with a name of 99":                      {loader: 90, loader + 32: 99},
		"boot: a record that does not end in its block":                     last,
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
		wantError(t, bad.Check(), want)
	}
}

func TestOpenErrors(t *testing.T) {
	good := seeds(t)[0]
	pv := firstDesc * blockSize
	f, err := Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	fields := int(f.pv.Root.Extent.get())*blockSize + dirRecordSize + 1
	ce := fields + 7 + 44 + 12
	for want, damage := range map[string]map[int]byte{
		"open iso: no descriptor in block 16":                               {pv + 1: 0},
		"open iso: no primary descriptor":                                   {pv: 2},
		"open iso: blocks of 512 bytes; only 2048 are supported":            {pv + 129: 2},
		"open iso: it has 16842752 bytes, 65536 are there":                  {pv + 81: 32},
		"open iso: boot catalog in block 255 of 32":                         {pv + blockSize + 71: 255},
		"open iso: 2048 bytes in block 255 are outside the volume of":       {pv + 158: 255},
		"open iso: no Rock Ridge":                                           {fields: 'X'},
		`open iso: root directory: field "PX" of 3 bytes`:                   {fields + 7 + 2: 3},
		"open iso: root directory: continuation area of 181 bytes at 2040":  {ce + 12: 0xf8, ce + 13: 7},
		"open iso: root directory: continuation area: block 255 is outside": {ce + 4: 255},
	} {
		b := bytes.Clone(good)
		for at, v := range damage {
			b[at] = v
		}
		_, err := Open(bytes.NewReader(b), int64(len(b)))
		wantError(t, err, want)
	}
	_, err = Open(bytes.NewReader(nil), 0)
	wantError(t, err, "open iso: descriptor in block 16: block 16 is outside the volume of 0")
}
