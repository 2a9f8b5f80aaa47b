package facts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rig-freebsd/rig/internal/probe"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/zfs"
)

func readTestdata(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fakeDisk is a sparse disk that, like a device, reads whole sectors only.
type fakeDisk struct {
	size   int64
	sector int64
	data   map[int64]string // by offset
	fail   error
}

func (d fakeDisk) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case d.fail != nil:
		return 0, d.fail
	case off%d.sector != 0 || int64(len(p))%d.sector != 0:
		return 0, fmt.Errorf("unaligned read of %d bytes at %d", len(p), off)
	case off+int64(len(p)) > d.size:
		return 0, io.EOF
	}
	clear(p)
	for at, s := range d.data {
		lo, hi := max(at, off), min(at+int64(len(s)), off+int64(len(p)))
		if lo < hi {
			copy(p[lo-off:hi-off], s[lo-at:hi-at])
		}
	}
	return len(p), nil
}

func (fakeDisk) Close() error { return nil }

// gptHeader is as much of a GPT header as is looked at.
func gptHeader() string {
	b := make([]byte, 512)
	copy(b, "EFI PART")
	for i := range 16 {
		b[56+i] = byte(i)
	}
	return string(b)
}

const gib = 1 << 30

// fakeDisks are the disks of testdata/geom.confxml.
func fakeDisks() map[string]fakeDisk {
	bootSector := strings.Repeat("\x00", 510) + "\x55\xaa"
	ufs2 := map[int64]string{262<<20 + 64<<10 + 1372: "\x19\x01\x54\x19", 1<<20 + 82: "FAT32   ", 0: bootSector, 512: gptHeader()}
	return map[string]fakeDisk{
		"vtbd0": {size: 8 * gib, sector: 512, data: ufs2},
		"vtbd1": {size: 8 * gib, sector: 512},
		"nda0":  {size: 512110190592, sector: 512, data: map[int64]string{0: bootSector, 512: gptHeader(), 512110190592 - 512: gptHeader()}},
		"ada0":  {size: 4000787030016, sector: 512, data: map[int64]string{0: bootSector, 63*512 + 8<<10 + 8<<10 + 1372: "\x54\x19\x01\x00"}},
		"da2":   {size: 2 * gib, sector: 512, fail: errors.New("input/output error")},
		"da10":  {size: 16 * gib, sector: 4096, data: map[int64]string{16*gib - 4096: "GEOM::ELI"}},
	}
}

func fakeProber(t *testing.T, confxml string, disks map[string]fakeDisk) Prober {
	var mu sync.Mutex
	opened := map[string]int{}
	t.Cleanup(func() {
		for name, n := range opened {
			if n != 0 {
				t.Errorf("%s: not closed", name)
			}
		}
	})
	count := func(name string, by int) { mu.Lock(); opened[name] += by; mu.Unlock() }
	return Prober{
		Run: run.NewScript(t,
			run.Expect{Line: "sysctl -n machdep.bootmethod hw.physmem kern.osrelease", Stdout: "UEFI\n8540000256\n15.1-RELEASE-p1\n"},
			run.Expect{Line: "kenv", Stdout: readTestdata(t, "kenv.txt")},
			run.Expect{Line: "sysctl -b kern.geom.confxml", Stdout: confxml},
			run.Expect{Line: "sysctl -i kern.geom.disk", Stdout: "kern.geom.disk.da2.flags: 11e<OPEN,CANDELETE,WRITEPROTECT>\nkern.geom.disk.da2.led: \n" +
				"kern.geom.disk.vtbd0.flags: 1e<OPEN,CANDELETE,CANFLUSHCACHE,UNMAPPEDBIO>\n"},
			run.Expect{Line: "ifconfig -a", Stdout: readTestdata(t, "ifconfig.txt")}),
		OpenDisk: func(name string) (io.ReaderAt, io.Closer, error) {
			d, ok := disks[name]
			if !ok {
				return nil, nil, fmt.Errorf("open /dev/%s: %w", name, os.ErrNotExist)
			}
			count(name, 1)
			return d, closer(func() { count(name, -1) }), nil
		},
	}
}

type closer func()

func (c closer) Close() error { c(); return nil }

func probed(t *testing.T) *Facts {
	t.Helper()
	f, err := Probe(t.Context(), fakeProber(t, readTestdata(t, "geom.confxml")+"\x00", fakeDisks()))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestProbe(t *testing.T) {
	f := probed(t)
	if f.Firmware != "UEFI" || f.Memory != 8540000256 || f.Release != "15.1-RELEASE-p1" {
		t.Errorf("firmware %q, memory %d, release %q", f.Firmware, f.Memory, f.Release)
	}
	if got := f.SMBIOS["system.product"]; got != "Standard PC (Q35 + ICH9, 2009)" || len(f.SMBIOS) != 5 {
		t.Errorf("SMBIOS %q", f.SMBIOS)
	}
	if got := f.Kenv["rig.root_password"]; got != `correct "horse" battery` {
		t.Errorf("kenv value with quotes: %q", got)
	}
	if got := f.Kenv["two.lines"]; got != "first\nsecond" {
		t.Errorf("kenv value of two lines: %q", got)
	}
	got := make([]string, len(f.Disks))
	for i, d := range f.Disks {
		got[i] = fmt.Sprintf("%s|%s|%s|%d|%d|%s", d.Name, d.Serial, d.Model, d.Size, d.Rotation, d.Content())
	}
	want := []string{
		"ada0|WD-WCC7K0123456|WDC WD40EFRX-68N32N0|4000787030016|5400|MBR: 2G freebsd, 1G freebsd-ufs (UFS1), 1G !130",
		"da2|STICK1|SanDisk Ultra|2147483648|-1|cannot be read: read /dev/da2: 512 bytes at 512: input/output error; write protected",
		"da10|4KN1|Vendor 4Kn <disk> & more|17179869184|0|GELI; 4096-byte sectors",
		"nda0|S64GNX0T123456|SAMSUNG MZVL2512HCJQ-00B00|512110190592|0|GPT without partitions",
		"vtbd0|||8589934592|-1|GPT: 512K freebsd-boot, 260M efi (FAT32), 4G freebsd-ufs (UFS2); in use",
		"vtbd1|||8589934592|-1|blank (first and last 64 MiB and 4096 samples read as zeros)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("disks\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	v := f.Disks[4]
	if v.GUID != "03020100-0504-0706-0809-0a0b0c0d0e0f" || v.Scheme != "GPT" {
		t.Errorf("vtbd0: scheme %s, GUID %s", v.Scheme, v.GUID)
	}
	wantPart := Partition{Index: 2, Name: "vtbd0p2", Type: "efi", Label: "esp é", GUID: "0a1b2c02-1111-11f0-8000-525400123456",
		Start: 1 << 20, Size: 260 << 20, Holds: "FAT32"}
	if v.Partitions[1] != wantPart {
		t.Errorf("partition\n got %+v\nwant %+v", v.Partitions[1], wantPart)
	}
	if a := f.Disks[0]; a.Partitions[1].Name != "ada0s1a" || a.Partitions[1].Start != 63*512+8<<10 || a.StripeSize != 4096 || a.LUNID != "50014ee2b5a1c2d3" {
		t.Errorf("ada0: %+v", a)
	}
	target := f.Disks[4].Target()
	if target.String() != "vtbd0 (no serial: vtbd0:8G:"+v.Hash+", 8G, GPT: 512K freebsd-boot, 260M efi (FAT32), 4G freebsd-ufs (UFS2))" || target.Blank {
		t.Errorf("target %s", target)
	}
}

func TestProbeErrors(t *testing.T) {
	sysctl := run.Expect{Line: "sysctl -n machdep.bootmethod hw.physmem kern.osrelease", Stdout: "BIOS\n1024\n15.1-RELEASE\n"}
	kenv := run.Expect{Line: "kenv"}
	xml := run.Expect{Line: "sysctl -b kern.geom.confxml", Stdout: "<mesh></mesh>"}
	flags := run.Expect{Line: "sysctl -i kern.geom.disk"}
	failed := func(e run.Expect) run.Expect { e.Status, e.Stderr = 1, "no"; return e }
	said := func(e run.Expect, s string) run.Expect { e.Stdout = s; return e }
	tests := []struct {
		script []run.Expect
		want   string
	}{
		{[]run.Expect{failed(sysctl)}, "probe system: sysctl -n machdep.bootmethod hw.physmem kern.osrelease: exit status 1: no"},
		{[]run.Expect{said(sysctl, "BIOS\n")}, `probe system: sysctl printed 1 lines, not 3: "BIOS\n"`},
		{[]run.Expect{said(sysctl, "BIOS\nmuch\n15.1\n")}, `probe system: hw.physmem: strconv.ParseInt: parsing "much": invalid syntax`},
		{[]run.Expect{sysctl, failed(kenv)}, "probe system: kenv: exit status 1: no"},
		{[]run.Expect{sysctl, kenv, failed(xml)}, "probe disks: sysctl -b kern.geom.confxml: exit status 1: no"},
		{[]run.Expect{sysctl, kenv, said(xml, "<mesh>")}, "probe disks: decode kern.geom.confxml: XML syntax error on line 1: unexpected EOF"},
		{[]run.Expect{sysctl, kenv, xml, failed(flags)}, "probe disks: sysctl -i kern.geom.disk: exit status 1: no"},
		{[]run.Expect{sysctl, kenv, xml, flags, failed(run.Expect{Line: "ifconfig -a"})}, "probe network interfaces: ifconfig -a: exit status 1: no"},
		{[]run.Expect{sysctl, kenv, xml, flags, {Line: "ifconfig -a", Stdout: "\tether x\n"}},
			`probe network interfaces: output of ifconfig, line 1: "\tether x" belongs to no interface`},
	}
	for _, tt := range tests {
		_, err := Probe(t.Context(), Prober{Run: run.NewScript(t, tt.script...)})
		if err == nil || err.Error() != tt.want {
			t.Errorf("\n got %v\nwant %s", err, tt.want)
		}
	}
}

func TestProbeMissingDevice(t *testing.T) {
	f, err := Probe(t.Context(), fakeProber(t, readTestdata(t, "geom.confxml"), nil))
	if err != nil {
		t.Fatal(err)
	}
	if d := f.Disks[0]; d.Blank || d.Holds != "cannot be read: open /dev/ada0: file does not exist" {
		t.Errorf("blank %v, holds %q", d.Blank, d.Holds)
	}
}

func TestFactsJSON(t *testing.T) {
	b, err := probed(t).JSON()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("horse")) || !bytes.Contains(b, []byte(`"rig.root_password": "(hidden)"`)) {
		t.Error("a secret of the kernel environment is printed")
	}
	var back Facts
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if back.Disks[4].Partitions[2].Label != "rig" || back.NICs[0].Inet[0] != netip.MustParsePrefix("192.0.2.155/29") {
		t.Errorf("%s", b)
	}
}

func TestFactsText(t *testing.T) {
	f := probed(t)
	f.SMBIOS["system.serial"] = "A\x1b[2J"
	var b strings.Builder
	if err := f.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if want := readTestdata(t, "facts.txt"); b.String() != want {
		t.Errorf("\n got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestInspect(t *testing.T) {
	const size = 64 << 20
	part := func(typ string, start, length int64) Partition {
		return Partition{Name: "da0p1", Type: typ, Start: start, Size: length}
	}
	at := func(off int64, s string) map[int64]string { return map[int64]string{off: s} }
	gpt := map[int64]string{510: "\x55\xaa", 512: gptHeader(), size - 512: gptHeader()}
	tests := []struct {
		name string
		disk Disk
		data map[int64]string
		want string // "" means blank
	}{
		{"zeros", Disk{}, nil, ""},
		{"a byte in the first MiB", Disk{}, at(1<<20-1, "x"), "unknown data (data at byte 1048575)"},
		{"a byte in the last MiB", Disk{}, at(size-1<<20, "x"), "unknown data (data at byte 66060288)"},
		{"a byte between", Disk{}, at(size/2+77, "x"), "unknown data (data at byte 33554509)"},
		{"boot sector", Disk{}, at(510, "\x55\xaa"), "a boot sector"},
		{"mirror of a file system", Disk{}, map[int64]string{0: "XFSB", size - 512: "GEOM::MIRROR"}, "gmirror; XFS"},
		{"luks", Disk{}, at(0, "LUKS\xba\xbe\x00\x02"), "LUKS2"},
		{"empty GPT", Disk{Scheme: "GPT"}, gpt, "GPT without partitions"},
		{"a table that only the kernel knows", Disk{Scheme: "VTOC8"}, nil, "VTOC8 without partitions"},
		{"damaged empty GPT", Disk{Scheme: "GPT", Corrupt: true}, gpt, "GPT (damaged) without partitions"},
		{"empty MBR", Disk{Scheme: "MBR"}, nil, "MBR without partitions"},
		{"GPT that the kernel refused", Disk{}, gpt, "GPT with no partitions"},
		{"hybrid", Disk{Scheme: "MBR", Partitions: []Partition{part("efi", 1<<20, 1<<20)}}, at(32<<10+1, "CD001"),
			"MBR: 1M efi; ISO 9660 on the whole disk"},
		{"partition that the kernel does not see", Disk{Scheme: "MBR", Partitions: []Partition{part("efi", 1<<20, 1<<20)}},
			map[int64]string{446: "\x00\x00\x00\x00\x83\x00\x00\x00\x00\x20\x00\x00\x00\x20\x00\x00", 510: "\x55\xaa", 4 << 20: "XFSB"}, "MBR: 1M efi; partition 1: XFS"},
		{"partition beyond the end", Disk{Scheme: "GPT", Partitions: []Partition{part("efi", size-512, 1<<20)}}, nil,
			"GPT: 1M efi (beyond the end of the disk)"},
		{"many partitions", Disk{Scheme: "GPT", Partitions: slices.Repeat([]Partition{part("x", 0, 1<<20)}, 10)}, nil,
			"GPT: 1M x, 1M x, 1M x, 1M x, 1M x, 1M x, 1M x, 1M x and 2 more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := tt.disk
			d.Name, d.Size, d.SectorSize = "da0", size, 512
			if err := d.inspect(t.Context(), fakeDisk{size: size, sector: 512, data: tt.data}, nil); err != nil {
				t.Fatal(err)
			}
			if d.Holds != tt.want || d.Blank != (tt.want == "") || d.Blank && d.Basis != "all of it reads as zeros" || len(d.Hash) != 8 {
				t.Errorf("blank %v (%s), hash %s, holds %q, want %q", d.Blank, d.Basis, d.Hash, d.Holds, tt.want)
			}
		})
	}
}

func TestInspectPools(t *testing.T) {
	label := zfs.Label{Pool: "zroot", State: zfs.StateExported}
	d := Disk{Scheme: "GPT", Partitions: []Partition{{Name: "da0p4", Type: "freebsd-swap", Size: 2 << 30}, {Name: "da0p5", Type: "freebsd-zfs", Size: 6 << 30, Holds: label.String()}},
		PoolLabels: []PoolLabel{{"da0p5", label}, {"da0p6", label}, {"da0", zfs.Label{State: zfs.StateSpare}}}}
	if got, want := d.describe("ZFS spare", &probe.Verdict{}), "GPT: 2G freebsd-swap, 6G freebsd-zfs; pool zroot (exported); ZFS spare"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	d = Disk{PoolLabels: []PoolLabel{{"da0", zfs.Label{Pool: "tank"}}}}
	if got, want := d.describe("", &probe.Verdict{Found: []probe.Found{{ZFS: true}}}), "pool tank (active)"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestParseKenv(t *testing.T) {
	got := parseKenv("a=\"1\"\nnonsense\nb=\"\"\nc=\"x=\"y\"\"\nopen=\"never closed\n")
	if want := map[string]string{"a": "1", "b": "", "c": `x="y"`}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}
