package gpt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/referee"
)

const mib = 1 << 20

// memory is a destination of two ends: a disk may be larger than the machine.
type memory struct {
	size       int64
	head, tail []byte
}

// garbage is a disk whose ends hold anything but zeros.
func garbage(size int64) *memory {
	n := min(size/2, 64<<10)
	return &memory{size, bytes.Repeat([]byte{0xa5}, int(n)), bytes.Repeat([]byte{0xa5}, int(n))}
}

func (m *memory) part(n int, off int64) ([]byte, error) {
	if off >= 0 && off+int64(n) <= int64(len(m.head)) {
		return m.head[off:][:n], nil
	}
	if at := off - (m.size - int64(len(m.tail))); at >= 0 && at+int64(n) <= int64(len(m.tail)) {
		return m.tail[at:][:n], nil
	}
	return nil, fmt.Errorf("%d bytes at %d", n, off)
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	p, err := m.part(len(b), off)
	return copy(p, b), err
}

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	p, err := m.part(len(b), off)
	return copy(b, p), err
}

// disk is the layout of an installed disk in small.
func disk(size int64, sectorSize int) *Table {
	t := &Table{DiskGUID: DeriveGUID("test", "disk"), SectorSize: sectorSize, DiskSize: size}
	off := int64(mib)
	for _, p := range []struct {
		typ   Type
		label string
		size  int64
		attr  uint64
	}{
		{FreeBSDBoot, "boot", 512 << 10, 0},
		{EFI, "efi", 3 * mib, 0},
		{FreeBSDUFS, "rig", 2 * mib, BootMe},
		{FreeBSDSwap, "swäp 日本", mib, BootOnce | BootFailed | Platform},
		{FreeBSDZFS, strings.Repeat("z", 36), mib, 0},
	} {
		t.Partitions = append(t.Partitions, Partition{p.typ, p.label, DeriveGUID("test", p.label), off, p.size, p.attr})
		off = Align(off+p.size, mib)
	}
	return t
}

func pmbr() []byte {
	b := bytes.Repeat([]byte{0xcc}, 512)
	b[510], b[511] = 0x55, 0xaa
	return b
}

func TestRoundTrip(t *testing.T) {
	for _, ss := range []int{0, 512, 4096} {
		for _, size := range []int64{10 * mib, 1 << 30, 3 << 40, 17 << 40} {
			want := disk(size, ss)
			m := garbage(size)
			if err := want.Write(m, pmbr()); err != nil {
				t.Fatal(err)
			}
			got, err := Read(m, size, ss)
			if err != nil {
				t.Fatal(err)
			}
			if want.SectorSize == 0 {
				want.SectorSize = 512
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("read %+v\nwrote %+v", got, want)
			}
			code, err := PMBRCode(m)
			if err != nil || !bytes.Equal(code, pmbr()[:440]) {
				t.Errorf("boot code %x, %v", code, err)
			}
			checkProtective(t, m.head[:512], size/int64(want.SectorSize))
			start, end := want.Usable()
			if bytes.Contains(m.head[440:start], []byte{0xa5, 0xa5}) || bytes.Contains(m.tail[int64(len(m.tail))-(size-end):], []byte{0xa5, 0xa5}) {
				t.Error("garbage is left in the tables")
			}
			if m.head[start] != 0xa5 || m.tail[int64(len(m.tail))-(size-end)-1] != 0xa5 {
				t.Error("something behind a table was written")
			}
		}
	}
}

// checkProtective compares with the bytes of usr.bin/mkimg/gpt.c.
func checkProtective(t *testing.T, b []byte, sectors int64) {
	t.Helper()
	n := uint32(min(sectors-1, 0xffffffff))
	want := append([]byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}, make([]byte, 48)...)
	if got := b[446:510]; !bytes.Equal(got, want) || b[510] != 0x55 || b[511] != 0xaa {
		t.Errorf("protective MBR % x, want % x", got, want)
	}
	if !bytes.Equal(b[440:446], make([]byte, 6)) {
		t.Errorf("disk signature % x, want zeros", b[440:446])
	}
}

// TestSgdisk has sgdisk(8) judge tables of 512-byte sectors, the only ones it
// reads from files.
func TestSgdisk(t *testing.T) {
	referee.Need(t, "sgdisk")
	for _, size := range []int64{10 * mib, 10*mib + 512, 40 << 30, 3 << 40} {
		want := disk(size, 512)
		f, err := os.Create(filepath.Join(t.TempDir(), "gpt.img"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := errors.Join(f.Truncate(size), want.Write(f, pmbr())); err != nil {
			t.Fatal(err)
		}
		if out := referee.Run(t, "sgdisk", "-v", f.Name()); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk -v:\n%s", out)
		}
		out := referee.Run(t, "sgdisk", "-i", "3", f.Name())
		for _, s := range []string{
			"Partition GUID code: " + strings.ToUpper(string(FreeBSDUFS)), "Partition unique GUID: " + strings.ToUpper(want.Partitions[2].GUID),
			"First sector: 10240 ", "Last sector: 14335 ", "Attribute flags: 0800000000000000", "Partition name: 'rig'",
		} {
			if !strings.Contains(out, s) {
				t.Errorf("sgdisk -i 3 lacks %q:\n%s", s, out)
			}
		}
		if out := referee.Run(t, "sgdisk", "-p", f.Name()); !strings.Contains(out, strings.ToUpper(want.DiskGUID)) || !strings.Contains(out, "swäp 日本") {
			t.Errorf("sgdisk -p:\n%s", out)
		}
	}
}

// TestFull has 128 partitions of one sector each, from the first usable sector
// to the last.
func TestFull(t *testing.T) {
	for _, ss := range []int64{512, 4096} {
		tb := &Table{DiskGUID: DeriveGUID("full", "disk"), SectorSize: int(ss), DiskSize: 3*ss + 2*tableSize + 128*ss}
		start, end := tb.Usable()
		for i := range int64(128) {
			tb.Partitions = append(tb.Partitions, Partition{FreeBSDZFS, fmt.Sprint("p", i), DeriveGUID("full", fmt.Sprint(i)), start + i*ss, ss, 0})
		}
		if end != start+128*ss {
			t.Fatalf("usable from %d to %d", start, end)
		}
		m := &memory{tb.DiskSize, make([]byte, tb.DiskSize), nil}
		if err := tb.Write(m, nil); err != nil {
			t.Fatal(err)
		}
		got, err := Read(m, tb.DiskSize, int(ss))
		if err != nil || !reflect.DeepEqual(got, tb) {
			t.Errorf("read back: %v", err)
		}
		if code, _ := PMBRCode(m); !bytes.Equal(code, make([]byte, 440)) {
			t.Error("boot code that nobody gave")
		}
		tb.Partitions = append(tb.Partitions, tb.Partitions[0])
		wantError(t, tb.Validate(), "gpt: 129 partitions; 128 is the limit")
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Table){
		"gpt: sector size 1024 is neither 512 nor 4096":                                      func(t *Table) { t.SectorSize = 1024 },
		"gpt: disk of 10485761 bytes is too small or not a whole number of sectors":          func(t *Table) { t.DiskSize++ },
		"gpt: disk of 34304 bytes is too small or not a whole number of sectors":             func(t *Table) { t.DiskSize = 67 * 512 },
		`gpt: disk: "" is not a GUID`:                                                        func(t *Table) { t.DiskGUID = "" },
		`gpt: partition 2 (efi): type: "efi" is not a GUID`:                                  func(t *Table) { t.Partitions[1].Type = "efi" },
		`gpt: partition 2 (efi): type: "00000000-0000-0000-0000-000000000000" is not a GUID`: func(t *Table) { t.Partitions[1].Type = nilGUID },
		`gpt: partition 2 (efi): "{x}" is not a GUID`:                                        func(t *Table) { t.Partitions[1].GUID = "{x}" },
		"gpt: partition 3 (rig): GUID " + strings.ToUpper(DeriveGUID("test", "boot")) + " is also that of partition 1": func(t *Table) {
			t.Partitions[2].GUID = strings.ToUpper(t.Partitions[0].GUID)
		},
		"gpt: partition 1 (boot): GUID " + DeriveGUID("test", "disk") + " is also that of the disk":   func(t *Table) { t.Partitions[0].GUID = t.DiskGUID },
		"gpt: partition 3 (efi): partition 2 has the same label":                                      func(t *Table) { t.Partitions[2].Label = "efi" },
		"label \"a🚀\" contains '🚀', which cannot be used":                                             func(t *Table) { t.Partitions[2].Label = "a🚀" },
		`label "a/b" contains '/', which cannot be used`:                                              func(t *Table) { t.Partitions[2].Label = "a/b" },
		`label "\xff" is not UTF-8`:                                                                   func(t *Table) { t.Partitions[2].Label = "\xff" },
		"has 37 characters; 36 is the limit":                                                          func(t *Table) { t.Partitions[2].Label = strings.Repeat("é", 37) },
		"gpt: partition 3 (rig): size of 0 bytes":                                                     func(t *Table) { t.Partitions[2].Size = 0 },
		"gpt: partition 3 (rig): start 5242881 and size 2097152 must be multiples of the sector size": func(t *Table) { t.Partitions[2].Start++ },
		"gpt: partition 1 (boot): 524288 bytes at 16896 are outside the usable area from 17408 to 10468864": func(t *Table) {
			t.Partitions[0].Start = 33 * 512
		},
		"gpt: partition 5 (" + strings.Repeat("z", 36) + "): 1048576 bytes at 9437184 are outside the usable area": func(t *Table) {
			t.Partitions[4].Start = 9 * mib
		},
		"gpt: partition 2 (efi) overlaps partition 1 (boot)":                            func(t *Table) { t.Partitions[1].Start = mib + 512 },
		"gpt: partition 5 (" + strings.Repeat("z", 36) + ") overlaps partition 2 (efi)": func(t *Table) { t.Partitions[4].Start = 3 * mib },
		"gpt: partition 1 (boot): 558592 bytes of boot code; pmbr loads at most 558080": func(t *Table) { t.Partitions[0].Size = pmbrLimit + 512 },
	} {
		tb := disk(10*mib, 512)
		change(tb)
		wantError(t, tb.Validate(), want)
		m := garbage(tb.DiskSize)
		if err := tb.Write(m, nil); err == nil || m.head[512] != 0xa5 {
			t.Errorf("%s: written nevertheless (%v)", want, err)
		}
	}
	// All at once.
	tb := disk(10*mib, 512)
	tb.Partitions[0].Size, tb.Partitions[1].GUID = 0, ""
	err := tb.Validate()
	wantError(t, err, "size of 0 bytes")
	wantError(t, err, `"" is not a GUID`)
	for _, code := range [][]byte{{}, make([]byte, 440), make([]byte, 512)} {
		wantError(t, disk(10*mib, 512).Write(garbage(10*mib), code), "is not a boot sector of 512 with its signature")
	}
}

// TestDamage damages one byte at a time; the table must come from the other copy
// and the error must name the bad one.
func TestDamage(t *testing.T) {
	const size = 10 * mib
	want := disk(size, 512)
	for _, c := range []struct {
		off  int64
		part string
		want string
	}{
		{512, "primary", "gpt: primary: header at LBA 1: no GPT signature"},
		{512 + 56, "primary", "gpt: primary: header at LBA 1: wrong header checksum"},
		{1024 + 3, "primary", "gpt: primary: table at LBA 2: wrong checksum"},
		{size - 512, "backup", "gpt: backup: header at LBA 20479: no GPT signature"},
		{size - 512 + 40, "backup", "gpt: backup: header at LBA 20479: wrong header checksum"},
		{size - 512 - 16384 + 200, "backup", "gpt: backup: table at LBA 20447: wrong checksum"},
		{510, "protective MBR", "gpt: protective MBR: no boot signature"},
		{450, "protective MBR", "gpt: protective MBR: no entry of type 0xee that starts at LBA 1"},
	} {
		m := garbage(size)
		if err := want.Write(m, nil); err != nil {
			t.Fatal(err)
		}
		b, _ := m.part(1, c.off)
		b[0] ^= 0x40
		got, err := Read(m, size, 512)
		var d *DamageError
		if !errors.As(err, &d) || d.Part != c.part || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: table %+v", c.want, got)
		}
	}
}

// TestStaleBackup has a backup that is good in itself but of another table.
func TestStaleBackup(t *testing.T) {
	const size = 10 * mib
	m, old := garbage(size), garbage(size)
	a, b := disk(size, 512), disk(size, 512)
	b.Partitions = b.Partitions[:2]
	if err := errors.Join(a.Write(m, nil), b.Write(old, nil)); err != nil {
		t.Fatal(err)
	}
	m.tail = old.tail
	got, err := Read(m, size, 512)
	if err == nil || err.Error() != "gpt: backup: differs from the primary" || len(got.Partitions) != 5 {
		t.Errorf("%v", err)
	}
}

func TestReadErrors(t *testing.T) {
	empty := &memory{mib, make([]byte, mib), nil}
	_, err := Read(empty, mib, 512)
	wantError(t, err, "gpt: primary: header at LBA 1: no GPT signature; backup: header at LBA 2047: no GPT signature")
	_, err = Read(empty, mib, 513)
	wantError(t, err, "gpt: 1048576 bytes in sectors of 513 are not a disk")
	_, err = Read(empty, 1024, 512)
	wantError(t, err, "gpt: 1024 bytes in sectors of 512 are not a disk")
	_, err = Read(bytes.NewReader(nil), mib, 512)
	wantError(t, err, "gpt: primary: header at LBA 1: unexpected EOF")

	m := garbage(10 * mib)
	if err := disk(10*mib, 512).Write(m, nil); err != nil {
		t.Fatal(err)
	}
	_, err = Read(m, 10*mib, 4096)
	wantError(t, err, "no GPT signature")
}

// TestCorrupted damages headers at random and repairs their checksums, so that
// every field is believed. It fails by panicking or by eating the memory.
func TestCorrupted(t *testing.T) {
	const size = 10 * mib
	r := rand.New(rand.NewPCG(1, 2))
	good := garbage(size)
	if err := disk(size, 512).Write(good, nil); err != nil {
		t.Fatal(err)
	}
	for range 4000 {
		m := &memory{size, bytes.Clone(good.head[:18<<10]), bytes.Clone(good.tail[len(good.tail)-17<<10:])}
		for _, h := range [][]byte{m.head[512:1024], m.tail[len(m.tail)-512:]} {
			for range r.IntN(4) {
				h[r.IntN(92)] = []byte{0, 1, 0x7f, 0x80, 0xff, byte(r.Uint32())}[r.IntN(6)]
			}
			resum(h)
		}
		m.head[1024+r.IntN(640)] = byte(r.Uint32())
		if r.IntN(2) == 0 {
			retable(m.head[512:1024], m.head[1024:][:tableSize])
		}
		Read(m, size, 512)
	}
}

func FuzzRead(f *testing.F) {
	t := disk(40<<10, 512)
	t.Partitions = t.Partitions[:1]
	t.Partitions[0].Start, t.Partitions[0].Size = 20<<10, 1<<10
	m := &memory{t.DiskSize, make([]byte, t.DiskSize), nil}
	if err := t.Write(m, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(m.head, false)
	f.Fuzz(func(_ *testing.T, b []byte, big bool) {
		ss := 512
		if big {
			ss = 4096
		}
		b = b[:len(b)/ss*ss]
		if len(b) >= 3*ss {
			retable(b[ss:], b[2*ss:][:min(len(b)-2*ss, tableSize)])
			resum(b[len(b)-ss:])
		}
		Read(bytes.NewReader(b), int64(len(b)), ss)
	})
}

func TestAlignAndGUID(t *testing.T) {
	for _, c := range [][3]int64{{0, 512, 0}, {1, 512, 512}, {512, 512, 512}, {mib + 1, mib, 2 * mib}} {
		if got := Align(c[0], c[1]); got != c[2] {
			t.Errorf("Align(%d, %d) = %d", c[0], c[1], got)
		}
	}
	// Pinned: changing it changes the identity of every image.
	if got := DeriveGUID("rig-15.1", "efi"); got != "c52b2b8a-da74-8ccd-bca1-2efb3b9d6cd0" {
		t.Errorf("DeriveGUID = %s", got)
	}
	if DeriveGUID("a", "b c") == DeriveGUID("a b", "c") || DeriveGUID("a", "b") == DeriveGUID("a", "c") {
		t.Error("two roles have the same GUID")
	}
	g := DeriveGUID("x", "y")
	if err := checkGUID(g); err != nil || g[14] != '8' || !strings.ContainsRune("89ab", rune(g[19])) {
		t.Errorf("%s is not a UUID of version 8", g)
	}
	if s := fmt.Sprintln(FreeBSDBoot, EFI, FreeBSDUFS, FreeBSDSwap, FreeBSDZFS, Type("x")); s != "freebsd-boot efi freebsd-ufs freebsd-swap freebsd-zfs x\n" {
		t.Error(s)
	}
}
