package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/rig-freebsd/rig/internal/blockdev"
)

const gib = 1 << 30

func TestBlank(t *testing.T) {
	const ends = "blank (first and last 64 MiB and 4096 samples read as zeros)"
	for _, tt := range []struct {
		name string
		disk sparse
		want string
	}{
		{"zeros", sparse{size: 8 * gib}, ends},
		{"4 TB", sparse{size: 4000787030016}, ends},
		{"erased flash", sparse{size: 8 * gib, fill: 0xff}, "blank (first and last 64 MiB and 4096 samples read as bytes of 0xff)"},
		{"small", sparse{size: 80<<20 + 512}, "blank (all of it reads as zeros)"},
		{"tiny", sparse{size: 512}, "blank (all of it reads as zeros)"},
		{"nothing", sparse{}, "unknown data (it has no bytes)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			if v := verdict(t, tt.disk, Options{}); v.String() != tt.want || (v.Kind == Blank) != strings.HasPrefix(tt.want, "blank") {
				t.Errorf("got  %s\nwant %s", v, tt.want)
			}
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("it took %s", d)
			}
		})
	}
}

// Nothing that is not blank may look so: what an earlier recogniser overlooked.
func TestNotBlank(t *testing.T) {
	const size = 8 * gib
	for name, d := range map[string]sparse{
		"data from 1 MiB on, both ends zeroed":   {size: size, data: map[int64]string{1 << 20: strings.Repeat("data", 1<<20)}},
		"data behind 64 MiB, both ends zeroed":   {size: size, data: map[int64]string{64 << 20: strings.Repeat("data", 1<<20)}},
		"a byte near the end of the first 64":    {size: size, data: map[int64]string{64<<20 - 1: "x"}},
		"a byte in the first MiB":                {size: size, data: map[int64]string{77777: "x"}},
		"a byte at the beginning of the last 64": {size: size, data: map[int64]string{size - 64<<20: "x"}},
		"a byte near the end":                    {size: size, data: map[int64]string{size - 2<<20: "x"}},
		"the last byte":                          {size: size, data: map[int64]string{size - 1: "x"}},
		"another byte in the last stripe":        {size: size, fill: 0xff, data: map[int64]string{size - size/4096: strings.Repeat("\x00", size/4096)}},
		"a small disk, a byte in the middle":     {size: 90 << 20, data: map[int64]string{45 << 20: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			if v := verdict(t, d, Options{}); v.Kind != Unknown || !strings.HasPrefix(v.String(), "unknown data (data at byte ") {
				t.Errorf("%s, %s", v.Kind, v)
			}
		})
	}
	for _, stripe := range []int64{33, 100, 2048, 4000, 4062} {
		t.Run(fmt.Sprintf("stripe %d", stripe), func(t *testing.T) {
			d := sparse{size: size, data: map[int64]string{stripe * size / 4096: strings.Repeat("x", size/4096)}}
			if v := verdict(t, d, Options{}); v.Kind != Unknown {
				t.Errorf("%s, %s", v.Kind, v)
			}
		})
	}
}

// slow is a disk on which time passes.
type slow struct {
	sparse
	by    time.Duration
	reads atomic.Int64
}

func (s *slow) ReadAt(b []byte, off int64) (int, error) {
	s.reads.Add(1)
	time.Sleep(s.by)
	return s.sparse.ReadAt(b, off)
}

// A disk that was not seen in time is not blank, and has a name all the same.
func TestTimeBound(t *testing.T) {
	var names []string
	for _, by := range []time.Duration{2 * time.Millisecond, 5 * time.Millisecond} {
		d := &slow{sparse: sparse{size: 8 * gib}, by: by}
		v, err := Disk(context.Background(), d, Options{Size: d.size, Limit: 150 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if v.Kind != Unknown || !strings.HasPrefix(v.String(), "unknown data (only ") || !strings.HasSuffix(v.String(), " of 144 MiB were read within 150ms)") {
			t.Errorf("%s, %s", v.Kind, v)
		}
		names = append(names, v.Hash)
	}
	if names[0] != names[1] || len(names[0]) != 8 {
		t.Errorf("names %q", names)
	}
}

func TestCancelAndErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Disk(ctx, sparse{size: gib}, Options{Size: gib}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	bad := errors.New("input/output error")
	for _, at := range []int64{0, 1 << 19, 50 << 20, gib / 2, gib - 1} {
		r := failing{sparse{size: gib}, at, bad}
		if v, err := Disk(context.Background(), r, Options{Size: gib}); !errors.Is(err, bad) && !(at == gib/2 && v.Kind == Blank) {
			t.Errorf("error at %d: %v, %v", at, v, err)
		}
	}
	if _, err := Disk(context.Background(), sparse{size: gib / 2}, Options{Size: gib}); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("a disk that ends early: %v", err)
	}
}

type failing struct {
	sparse
	at  int64
	err error
}

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off <= f.at && off+int64(len(b)) > f.at {
		return 0, f.err
	}
	return f.sparse.ReadAt(b, off)
}

func TestHashAndProgress(t *testing.T) {
	last, calls := int64(0), 0
	o := Options{Progress: func(done, total int64) {
		if done < last || done > total {
			t.Errorf("%d of %d after %d", done, total, last)
		}
		last, calls = done, calls+1
	}}
	a := verdict(t, sparse{size: 4 * gib}, o)
	if last != 144<<20 || calls < 100 {
		t.Errorf("progress ended at %d after %d calls", last, calls)
	}
	b := verdict(t, sparse{size: 4 * gib}, Options{})
	c := verdict(t, sparse{size: 4 * gib, data: map[int64]string{30 << 20: "one"}}, Options{})
	d := verdict(t, sparse{size: 4 * gib, data: map[int64]string{30 << 20: "two"}}, Options{})
	e := verdict(t, sparse{size: 4 * gib, data: map[int64]string{0: "XFSB", 512: "3"}}, Options{})
	f := verdict(t, sparse{size: 4 * gib, data: map[int64]string{0: "XFSB", 512: "4"}}, Options{})
	if a.Hash != b.Hash || c.Hash == d.Hash || a.Hash == c.Hash || e.Hash == f.Hash || len(e.Hash) != 8 {
		t.Errorf("names %s %s, %s %s, %s %s", a.Hash, b.Hash, c.Hash, d.Hash, e.Hash, f.Hash)
	}
}

// The figure that the limit is chosen for, without the disk: a blank file of 8 GiB.
func TestBlankFileIsQuick(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	const size = 8 * gib
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start := time.Now()
	v, err := Disk(context.Background(), blockdev.NewReader(f, name, 512, size), Options{Size: size})
	if err != nil || v.Kind != Blank {
		t.Fatalf("%v, %v", v, err)
	}
	took := time.Since(start)
	if t.Log(took); took > 10*time.Second {
		t.Errorf("a blank file of 8 GiB took %s", took)
	}
}

// gptEntry is an entry of a GPT, in sectors.
type gptEntry struct {
	first, last uint64
	label       string
}

// gptVector is a header and its entries (UEFI 2.10 §5.3), each with its offset in a
// disk.
func gptVector(ss, header, table int64, entrySize, count uint32, entries ...gptEntry) map[int64]string {
	h := make([]byte, ss)
	copy(h, "EFI PART")
	binary.LittleEndian.PutUint32(h[8:], 0x10000)
	binary.LittleEndian.PutUint32(h[12:], uint32(ss)) // allowed: up to the sector
	binary.LittleEndian.PutUint64(h[24:], uint64(header/ss))
	binary.LittleEndian.PutUint64(h[72:], uint64(table/ss))
	binary.LittleEndian.PutUint32(h[80:], count)
	binary.LittleEndian.PutUint32(h[84:], entrySize)
	t := make([]byte, int(entrySize)*len(entries))
	for i, e := range entries {
		b := t[i*int(entrySize):]
		b[0] = 1
		binary.LittleEndian.PutUint64(b[32:], e.first)
		binary.LittleEndian.PutUint64(b[40:], e.last)
		for j, c := range utf16.Encode([]rune(e.label)) {
			binary.LittleEndian.PutUint16(b[56+2*j:], c)
		}
	}
	return map[int64]string{header: string(h), table: string(t)}
}

func join(maps ...map[int64]string) map[int64]string {
	out := map[int64]string{}
	for _, m := range maps {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

func bsdVector(base uint32, parts ...[2]uint32) string {
	b := make([]byte, 512)
	binary.LittleEndian.PutUint32(b, bsdMagic)
	binary.LittleEndian.PutUint32(b[40:], 512)
	binary.LittleEndian.PutUint32(b[132:], bsdMagic)
	binary.LittleEndian.PutUint16(b[138:], 8)
	for i, p := range parts {
		binary.LittleEndian.PutUint32(b[148+i*16:], p[1])
		binary.LittleEndian.PutUint32(b[148+i*16+4:], p[0])
	}
	return string(b)
}

// Whatever a table looks like, it is one, and what it names is looked at.
func TestTables(t *testing.T) {
	const size = 256 << 20
	const mib = 2048 // sectors
	two := []gptEntry{{mib, 2*mib - 1, "boot"}, {2 * mib, 4*mib - 1, "root"}}
	xfs := map[int64]string{2 << 20: "XFSB"}
	ext := func(at int64) map[int64]string { return map[int64]string{at + 1080: "\x53\xef"} }
	ebr := func(first slot, more ...slot) string { return mbrVector(append([]slot{first}, more...)...) }
	apmVector := map[int64]string{0: "ER\x02\x00", 512: "PM\x00\x00" + be(uint32(2), uint32(1), uint32(63)), 1024: "PM\x00\x00" + be(uint32(2), uint32(4096), uint32(8192)),
		2<<20 + 1024: "H+\x00\x04"}
	for _, tt := range []struct {
		name   string
		sector int
		data   map[int64]string
		want   string
	}{
		{"GPT", 512, join(gptVector(512, 512, 1024, 128, 128, two...), xfs), "GPT with 2 partitions; partition 2: XFS"},
		{"GPT of nothing", 512, gptVector(512, 512, 1024, 128, 128), "GPT with no partitions"},
		{"GPT, backup only", 512, join(gptVector(512, size-512, size-33*512, 128, 128, two...), xfs), "GPT with 2 partitions; partition 2: XFS"},
		{"GPT, entries of 1024 bytes", 512, join(gptVector(512, 512, 1024, 1024, 16, two...), xfs), "GPT with 2 partitions; partition 2: XFS"},
		{"GPT, a bad entry", 512, join(gptVector(512, 512, 1024, 128, 128, gptEntry{1 << 60, 1 << 61, ""}, two[1]), xfs), "GPT with 2 partitions; partition 2: XFS"},
		{"GPT, an entry backwards", 512, join(gptVector(512, 512, 1024, 128, 128, gptEntry{9, 8, ""}, two[1]), xfs), "GPT with 2 partitions; partition 2: XFS"},
		{"GPT, entries nowhere", 512, gptVector(512, 512, size, 128, 128), "GPT with no partitions"},
		{"GPT, sectors of 4096", 4096, join(gptVector(4096, 4096, 8192, 128, 128, gptEntry{256, 511, ""}), map[int64]string{1 << 20: "XFSB"}), "GPT with 1 partition; partition 1: XFS"},
		{"GPT of a case with other sectors", 512, join(gptVector(4096, 4096, 8192, 128, 128, gptEntry{256, 511, ""}), map[int64]string{1 << 20: "XFSB"}), "GPT with 1 partition; partition 1: XFS"},
		{"copies that differ", 512, join(gptVector(512, 512, 1024, 128, 128, two[0]), gptVector(512, size-512, size-33*512, 128, 128, gptEntry{}, two[1]), xfs),
			"GPT with 2 partitions; partition 2: XFS"},
		{"protective MBR alone", 512, map[int64]string{0: mbrVector(slot{0xee, 0, 512, size - 512})}, "a boot sector"},
		{"ZFS on a partition that is the whole disk", 512, join(gptVector(512, 512, 1024, 128, 128, gptEntry{mib, size/512 - 34, "zfs"}), map[int64]string{
			1<<20 + 16<<10: zfsVector("tank"), 1<<20 + (size-34*512+512-1<<20)/(256<<10)*(256<<10) - 256<<10 + 16<<10: zfsVector("tank")}),
			"GPT with 1 partition; partition 1: ZFS member of pool tank (label 0 3)"},
		{"MBR", 512, join(map[int64]string{0: mbrVector(slot{0x83, 0x80, 1 << 20, 1 << 20})}, ext(1<<20)), "MBR with 1 partition; partition 1: ext2"},
		{"MBR, a bad entry", 512, join(map[int64]string{0: mbrVector(slot{0x83, 0x80, 1 << 20, 1 << 20}, slot{0x77, 0x77, 1 << 39, 7 << 20}, slot{0x83, 0x12, 4 << 20, 1 << 20})}, ext(4<<20)),
			"MBR with 3 partitions; partition 3: ext2"},
		{"logical partitions", 512, join(map[int64]string{0: mbrVector(slot{0x83, 0, 1 << 20, 1 << 20}, slot{0x05, 0, 8 << 20, 100 << 20}),
			8 << 20:  ebr(slot{0x83, 0, 1 << 20, 1 << 20}, slot{0x05, 0, 20 << 20, 30 << 20}),
			28 << 20: ebr(slot{0x83, 0, 1 << 20, 1 << 20})}, ext(9<<20), ext(29<<20)), "MBR with 3 partitions; partition 5: ext2; partition 6: ext2"},
		{"a chain of EBRs without an end", 512, map[int64]string{0: mbrVector(slot{0x0f, 0, 8 << 20, 100 << 20}), 8 << 20: ebr(slot{0x83, 0, 1 << 20, 1 << 20}, slot{0x05, 0, 512, 512}),
			8<<20 + 512: ebr(slot{0x83, 0, 1 << 20, 1 << 20}, slot{0x05, 0, 512, 512})}, "MBR with 128 partitions"},
		{"slice with a BSD label", 512, join(map[int64]string{0: mbrVector(slot{0xa5, 0x80, 1 << 20, 100 << 20}),
			1<<20 + 512: bsdVector(0, [2]uint32{0, 0}, [2]uint32{16 + 4096, 8192}, [2]uint32{0, 204800})},
			map[int64]string{1<<20 + (16+4096)*512 + 64<<10 + 1372: "\x19\x01\x54\x19"}),
			"MBR with 1 partition; slice 1: BSD label with 1 partition; slice 1, partition b: UFS2"},
		{"slice with an absolute label", 512, join(map[int64]string{0: mbrVector(slot{0xa5, 0x80, 1 << 20, 100 << 20}),
			1<<20 + 512: bsdVector(0, [2]uint32{mib + 16, 8192}, [2]uint32{}, [2]uint32{mib, 204800})},
			map[int64]string{1<<20 + 16*512 + 8<<10 + 1372: "\x54\x19\x01\x00"}),
			"MBR with 1 partition; slice 1: BSD label with 1 partition; slice 1, partition a: UFS1"},
		{"BSD label on the disk", 512, map[int64]string{512: bsdVector(0, [2]uint32{4096, 8192}), 2<<20 + 8<<10 + 1372: "\x54\x19\x01\x00"},
			"BSD label with 1 partition; partition a: UFS1"},
		{"APM", 512, apmVector, "APM with 2 partitions; partition 2: HFS+"},
		{"FAT on the disk is no MBR", 512, map[int64]string{0: fatVector(128, 0, 512, 4, "FAT16   ", 54)}, "FAT16"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if v := verdict(t, sparse{size: size, data: tt.data}, Options{Sector: tt.sector}); v.Kind != Known || v.String() != tt.want {
				t.Errorf("%s\n got %s\nwant %s", v.Kind, v, tt.want)
			}
		})
	}
}

// Places that somebody else knows of are looked at too; labels and places are told.
func TestParts(t *testing.T) {
	d := sparse{size: 256 << 20, data: join(gptVector(512, 512, 1024, 128, 128, gptEntry{2048, 4095, "größe"}), map[int64]string{77 << 20: "XFSB", 1<<20 + 1080: "\x53\xef"})}
	v := verdict(t, d, Options{Places: []Part{{Where: "da0p7", Start: 77 << 20, Size: 1 << 20}, {Start: 255 << 20, Size: 2 << 20}, {Start: -1, Size: 1}}})
	if got, want := v.String(), "GPT with 1 partition; partition 1: ext2; da0p7: XFS"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if v.Parts[0].Label != "größe" || v.Parts[0].Start != 1<<20 || v.Parts[0].Size != 1<<20 || v.At(77<<20, 1<<20) != "XFS" || v.At(1, 2) != "" {
		t.Errorf("%+v", v)
	}
}

func FuzzDisk(f *testing.F) {
	f.Add([]byte(mbrVector(slot{0x05, 0, 512, 4096}) + bsdVector(0, [2]uint32{1, 2})))
	for _, s := range gptVector(512, 512, 1024, 128, 4, gptEntry{3, 9, "x"}) {
		f.Add([]byte(zeros(512) + s))
	}
	f.Add([]byte(zfsVector("tank")[:4096]))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 16<<10 { // each input takes milliseconds
			return
		}
		d := sparse{size: 512 << 10, data: map[int64]string{0: string(b), 300 << 10: string(b)}}
		v := verdict(t, d, Options{})
		if v.Kind == Blank && strings.Trim(string(b), "\x00") != "" {
			t.Error("blank")
		}
	})
}
