package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/iso"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/media"
	"github.com/rig-freebsd/rig/image/ova"
	"github.com/rig-freebsd/rig/image/qcow2"
	"github.com/rig-freebsd/rig/image/vdi"
	"github.com/rig-freebsd/rig/image/vmdk"
	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Every medium is of the same image, byte by byte where it holds the raw disk.
func TestMedia(t *testing.T) {
	dir := t.TempDir()
	o := options(t, dir)
	name := func(ending string) string { return filepath.Join(dir, "rig"+ending) }
	o.Also = []string{name(".img.zst"), name(".iso"), name(".vmdk"), name(".vdi"), name(".qcow2"), name(".ova")}
	r := build(t, o)
	if len(r.Media) != 7 || r.Media[0].Path != o.Output {
		t.Errorf("media: %+v", r.Media)
	}
	raw, size := open(t, o.Output)
	compare := func(what string, img io.ReaderAt, n int64) {
		t.Helper()
		a, b := make([]byte, 1<<20), make([]byte, 1<<20)
		for off := int64(0); off < size; off += int64(len(a)) {
			k := min(int64(len(a)), size-off)
			if _, err := raw.ReadAt(a[:k], off); err != nil {
				t.Fatal(err)
			}
			if err := vdisk.ReadFull(img, b[:k], off); err != nil || !bytes.Equal(a[:k], b[:k]) {
				t.Fatalf("%s differs in the MiB at %d: %v", what, off, err)
			}
		}
		if n < size {
			t.Errorf("%s has %d bytes, the image %d", what, n, size)
		}
	}
	f, n := open(t, name(".vmdk"))
	vm, err := vmdk.Open(f, n)
	must(t, err)
	compare("vmdk", vm, vm.Size())
	f, n = open(t, name(".vdi"))
	vd, err := vdi.Open(f, n)
	must(t, err)
	compare("vdi", vd, vd.Size())
	f, n = open(t, name(".qcow2"))
	q, err := qcow2.Open(f, n)
	must(t, err)
	compare("qcow2", q, q.Size())
	f, n = open(t, name(".ova"))
	appliance, err := ova.Open(f, n)
	must(t, err)
	must(t, appliance.Check())
	if appliance.Disks() != 4 {
		t.Errorf("the appliance has %d disks", appliance.Disks())
	}
	disk := appliance.Disk(0)
	vm, err = vmdk.Open(disk, disk.Size())
	must(t, err)
	if vm.Size() != 8<<30 {
		t.Errorf("the appliance's first disk has %d bytes", vm.Size())
	}
	compare("disk 1 of the ova", vm, vm.Size())
	f, _ = open(t, name(".img.zst"))
	dec, err := zstd.NewReader(f)
	must(t, err)
	defer dec.Close()
	h, err := os.CreateTemp(dir, "unpacked")
	must(t, err)
	defer h.Close()
	n, err = io.Copy(h, dec)
	must(t, err)
	compare("img.zst", h, n)
	for _, ending := range []string{".vmdk", ".vdi", ".qcow2"} {
		if _, ok := referee.Find("qemu-img"); ok {
			referee.Run(t, "qemu-img", "compare", "-f", "raw", o.Output, name(ending))
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, name string) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	must(t, err)
	return f, st.Size()
}

// An ISO has the files of the rig partition, boots by El Torito, and by a GPT when it
// is written to a stick. Answers are in it, for whoever owns it only.
func TestISO(t *testing.T) {
	o := options(t, t.TempDir())
	_, _, rig, _ := trees(t, build(t, o).Path)
	o.Output = filepath.Join(t.TempDir(), "rig.iso")
	o.Answers = []byte("[install]\nafter = \"shell\"\n")
	r := build(t, o)
	f, size := open(t, o.Output)
	fsys, err := iso.Open(f, size)
	must(t, err)
	must(t, fsys.Check())
	if fsys.Volume() != manifest.ISOLabel(r.Manifest.Image) || !strings.HasPrefix(fsys.Volume(), "RIG_") {
		t.Errorf("volume %s", fsys.Volume())
	}
	got, err := fsys.Tree()
	must(t, err)
	for e := range rig.All() {
		g, ok := got.Lookup(e.Path)
		if !ok || g.Kind != e.Kind || g.Perm != e.Perm || g.Size != e.Size {
			t.Errorf("%s: %+v, in the image %+v", e.Path, g, e)
			continue
		}
		a, _ := e.Digest()
		if b, err := g.Digest(); a != b || err != nil {
			t.Errorf("%s: content differs: %v", e.Path, err)
		}
	}
	if e, ok := got.Lookup(manifest.AnswersFile); !ok || e.Perm != 0o600 {
		t.Errorf("answers: %+v", e)
	}
	if st, _ := os.Stat(o.Output); st.Mode().Perm() != 0o600 {
		t.Errorf("an ISO with answers has mode %v", st.Mode())
	}
	table, err := gpt.Read(f, size, 512)
	must(t, err)
	if len(table.Partitions) != 2 || table.Partitions[0].Type != gpt.FreeBSDBoot || table.Partitions[1].Type != gpt.EFI {
		t.Errorf("partitions %+v", table.Partitions)
	}
	boots, err := fsys.Boots()
	must(t, err)
	if len(boots) != 2 || boots[0].EFI || !boots[1].EFI || boots[1].Range.Off != table.Partitions[1].Start {
		t.Errorf("El Torito: %+v", boots)
	}
}

func TestMediaErrors(t *testing.T) {
	o := options(t, t.TempDir())
	o.Also = []string{o.Output}
	if _, err := Build(context.Background(), o); err == nil || err.Error() != "write "+o.Output+": it is named twice" {
		t.Errorf("one name twice: %v", err)
	}
	o.Also = []string{filepath.Join(t.TempDir(), "no", "x.iso")}
	if _, err := Build(context.Background(), o); err == nil || !strings.Contains(err.Error(), "there is no directory") {
		t.Errorf("no directory: %v", err)
	}
	if got := files(t, filepath.Dir(o.Output)); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// Media of two servers differ in the files of answers on the ESP and in what must be
// each machine's own: names, addresses, UUIDs. The image is made once.
func TestServers(t *testing.T) {
	dir := t.TempDir()
	o := options(t, dir)
	name := func(base string) string { return filepath.Join(dir, base) }
	o.Output, o.Also = name("a.ova"), []string{name("b.ova"), name("b.img"), name("a.vdi")}
	server := func(n string, mac byte) media.Server {
		return media.Server{Answers: []byte("[server]\nname = \"" + n + "\"\n"), AnswersName: n,
			Appliance: media.Appliance{Name: n, MACs: [2]net.HardwareAddr{{2, 0, 0, 0, 0, mac}, nil}}}
	}
	a, b := server("rega", 1), server("regb", 2)
	o.Servers = []media.Server{a, b, b, a}
	var raw atomic.Int32
	o.Progress = func(what string, _, _ int64) {
		if what == "read back" {
			raw.Add(1)
		}
	}
	r := build(t, o)
	var text [2]string
	var disk [2]*vmdk.Reader
	for i := range 2 {
		f, n := open(t, r.Media[i].Path)
		p, err := ova.Open(f, n)
		must(t, err)
		must(t, p.Check())
		text[i] = descriptor(t, f)
		disk[i], err = vmdk.Open(p.Disk(0), p.Disk(0).Size())
		must(t, err)
	}
	img, size := open(t, name("b.img"))
	parts := r.Manifest.Boot.Parts()
	const block = 4096
	x, y, z := make([]byte, block), make([]byte, block), make([]byte, block)
	differ := 0
	for off := int64(0); off < 2*size; off += block { // nothing is behind
		clear(z)
		must(t, vdisk.ReadFull(disk[0], x, off))
		must(t, vdisk.ReadFull(disk[1], y, off))
		if off < size {
			must(t, vdisk.ReadFull(img, z, off))
		}
		if !bytes.Equal(y, z) {
			t.Fatalf("b.ova and b.img differ at %d", off)
		}
		if bytes.Equal(x, y) {
			continue
		}
		if differ++; off < parts[1].Start || off >= parts[1].Start+parts[1].Size {
			t.Fatalf("the appliances differ at %d, outside of the ESP", off)
		}
	}
	if differ == 0 {
		t.Error("the appliances have the same answers")
	}
	if n := raw.Load(); n != 1 { // b.img, which all others are made of
		t.Errorf("%d raw images were made", n)
	}
	compareMachines(t, text)
}

// descriptor is the text of the first file of an appliance.
func descriptor(t *testing.T, f *os.File) string {
	t.Helper()
	r := tar.NewReader(f)
	_, err := r.Next()
	must(t, err)
	text, err := io.ReadAll(r)
	must(t, err)
	return string(text)
}

// compareMachines checks that all UUIDs and MAC addresses differ, and nothing else but
// names.
func compareMachines(t *testing.T, text [2]string) {
	t.Helper()
	for _, what := range []string{`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, `MACAddress="[0-9A-F]{12}"`, `(href|ovf:id|name)="reg[ab]`} {
		own := regexp.MustCompile(what)
		seen := map[string]bool{}
		for _, s := range own.FindAllString(text[0], -1) {
			seen[s] = true
		}
		for _, s := range own.FindAllString(text[1], -1) {
			if seen[s] {
				t.Errorf("both machines have %s", s)
			}
		}
		if len(seen) == 0 {
			t.Errorf("nothing is like %s", what)
		}
		for i := range text {
			text[i] = own.ReplaceAllString(text[i], "")
		}
	}
	own := regexp.MustCompile(`reg[ab]|ovf:size="\d+"`)
	if x, y := own.ReplaceAllString(text[0], ""), own.ReplaceAllString(text[1], ""); x != y {
		t.Errorf("the machines differ in more:\n%s\n%s", x, y)
	}
}
