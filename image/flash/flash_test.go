package flash

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/flash/disks"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rig-freebsd/rig/overlay"
	"golang.org/x/sys/unix"
)

// demo is an image with small partitions and without FreeBSD, built once.
var demo = sync.OnceValues(func() (string, error) {
	profile := fstest.MapFS{}
	err := fs.WalkDir(overlay.Webrig(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(overlay.Webrig(), p)
		profile[p] = &fstest.MapFile{Data: b, Mode: 0o644}
		return err
	})
	if err != nil {
		return "", err
	}
	c := profile[image.ConfigFile]
	c.Data = bytes.Replace(c.Data, []byte("[boot]\n"), []byte("[boot]\nesp_size = \"40m\"\nrig_size = \"24m\"\n"), 1)
	prog := filepath.Join(workDir, "riginstall")
	if err := os.WriteFile(prog, []byte("a stand-in for riginstall\n"), 0o755); err != nil {
		return "", err
	}
	out := filepath.Join(workDir, "demo.img")
	_, err = image.Build(context.Background(), image.Options{Profile: profile, ProfileName: "my-rig", Output: out, Cache: filepath.Join(workDir, "cache"),
		Demo: true, Riginstall: func(context.Context) (string, error) { return prog, nil }})
	return out, err
})

var workDir string

func TestMain(m *testing.M) {
	var err error
	if workDir, err = os.MkdirTemp("", "flash-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(workDir)
	os.Exit(code)
}

func demoImage(t testing.TB) string {
	t.Helper()
	p, err := demo()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// blankFile is a disk in a file, filled with what must not survive when dirty.
func blankFile(t testing.TB, size int64, dirty bool) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if dirty {
		junk := bytes.Repeat([]byte("old data "), 1<<17)
		for off := int64(0); off < size; off += int64(len(junk)) {
			if _, err := f.WriteAt(junk[:min(int64(len(junk)), size-off)], off); err != nil {
				t.Fatal(err)
			}
		}
	}
	return name
}

func disk(t testing.TB, name string) *disks.Disk {
	t.Helper()
	d, err := disks.Find(context.Background(), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func file(t testing.TB, name string) *Image {
	t.Helper()
	im, err := File(name)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func attempt(o Options) (*Plan, *Result, error) {
	p, err := Prepare(context.Background(), o)
	if err != nil {
		return nil, nil, err
	}
	r, err := p.Write(context.Background())
	return p, r, err
}

func flashed(t testing.TB, o Options) *Result {
	t.Helper()
	_, r, err := attempt(o)
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, diag.HintOf(err))
	}
	return r
}

// same compares a part of an image with that of a disk it was written to, but for the
// block with the medium's id: each disk has one of its own.
func same(t testing.TB, a, b string, off, n int64) {
	t.Helper()
	const rigStart, rigSize = 41 << 20, 24 << 20 // of demo
	var sums [2][32]byte
	var ids [2]string
	for i, name := range []string{a, b} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fsys, err := ufs.Open(io.NewSectionReader(f, rigStart, rigSize), rigSize)
		if err != nil {
			t.Fatal(err)
		}
		at, err := fsys.Ranges(manifest.SwitchFile)
		if err != nil {
			t.Fatal(err)
		}
		text := make([]byte, at[0].Len)
		if _, err := f.ReadAt(text, rigStart+at[0].Off); err != nil {
			t.Fatal(err)
		}
		ids[i] = manifest.MediumOf(text)
		h := sha256.New()
		before := min(n, rigStart+at[0].Off-off)
		for _, r := range [][2]int64{{off, before}, {off + before + at[0].Len, max(0, n-before-at[0].Len)}} {
			if _, err := io.Copy(h, io.NewSectionReader(f, r[0], r[1])); err != nil {
				t.Fatal(err)
			}
		}
		sums[i] = [32]byte(h.Sum(nil))
	}
	if sums[0] != sums[1] {
		t.Errorf("%d bytes at %d of %s and %s differ", n, off, a, b)
	}
	if ids[0] != manifest.RawMedium || len(ids[1]) != 16 {
		t.Errorf("the image's id is %q, the disk's %q", ids[0], ids[1])
	}
}

// noTable fails when anything of a partition table is on the disk.
func noTable(t testing.TB, name string, sector int) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[:headSize], make([]byte, headSize)) {
		t.Error("the first MiB is not zeros")
	}
	if _, err := gpt.Read(bytes.NewReader(b), int64(len(b))&^4095, sector); err == nil {
		t.Error("there is a partition table")
	}
}

const end = (1 + 40 + 24) << 20 // of the demo image's last partition

func TestSources(t *testing.T) {
	img := demoImage(t)
	plain, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	var gz, zs bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(plain)
	z.Close()
	e, _ := zstd.NewWriter(&zs)
	e.Write(plain)
	e.Close()
	packed := map[string][]byte{"img": plain, "img.gz": gz.Bytes(), "img.zst": zs.Bytes()}
	if xz, ok := referee.Find("xz"); ok {
		out, err := exec.Command(xz, "-0", "-c", img).Output()
		if err != nil {
			t.Fatal(err)
		}
		packed["img.xz"] = out
	}
	for name, b := range packed {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,stream=%v", name, stream), func(t *testing.T) {
				to := blankFile(t, 100<<20, true)
				o := Options{Disk: disk(t, to), Image: Stream("(standard input)", bytes.NewReader(b))}
				if !stream {
					p := filepath.Join(t.TempDir(), name)
					if err := os.WriteFile(p, b, 0o600); err != nil {
						t.Fatal(err)
					}
					o.Image = file(t, p)
				}
				r := flashed(t, o)
				if r.Bytes != 64<<20 || r.Written == 0 || r.Written > 32<<20 || r.Answers || !strings.HasPrefix(r.Image, "webrig-15.1-") {
					t.Errorf("result %+v", r)
				}
				same(t, img, to, 0, 440)
				same(t, img, to, manifest.BootStart, end-manifest.BootStart)
				i, err := reader.Open(t.Context(), to, reader.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer i.Close()
				v, err := i.Verify(t.Context(), true)
				if err != nil || len(v.Problems) > 0 {
					t.Errorf("verify: %v %+v", err, v)
				}
				referee.Run(t, "sgdisk", "-v", to)
			})
		}
	}
}

func TestOnceMore(t *testing.T) {
	to := blankFile(t, 80<<20, false)
	if d := disk(t, to); !d.Blank() {
		t.Errorf("a blank disk: %+v", d)
	}
	flashed(t, Options{Disk: disk(t, to), Image: file(t, demoImage(t))})
	d := disk(t, to)
	if len(d.Holds) != 4 || !strings.Contains(d.Holds[3], `GPT partition 3, 24M, "rig": UFS2`) || d.Member != nil {
		t.Errorf("a flashed disk holds %q, member %q", d.Holds, d.Member)
	}
	flashed(t, Options{Disk: d, Image: file(t, demoImage(t))})
	same(t, demoImage(t), to, manifest.BootStart, end-manifest.BootStart)
}

const secret = "correct horse battery staple"

func TestAnswers(t *testing.T) {
	img := demoImage(t)
	good := []byte("schema = 1\n[server]\nname = \"rega\"\n")
	to := blankFile(t, 80<<20, false)
	o := Options{Disk: disk(t, to), Image: file(t, img), Answers: good, AnswersName: "a.toml"}
	if r := flashed(t, o); !r.Answers {
		t.Error("the result does not say that there are answers")
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fsys, err := fat.Open(io.NewSectionReader(f, manifest.ESPStart, 40<<20), 40<<20)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := fsys.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := tr.ReadFile(manifest.AnswersFile, 1<<20); err != nil || !bytes.Equal(b, good) {
		t.Errorf("answers on the disk: %q, %v", b, err)
	}
	same(t, img, to, 41<<20, 24<<20)

	// What was flashed is an image too: it says that it contains answers.
	p, err := Prepare(context.Background(), Options{Disk: disk(t, blankFile(t, 80<<20, false)), Image: file(t, to)})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Embedded || !strings.Contains(p.String(), "the image contains answers, which may hold secrets") {
		t.Errorf("plan does not say so:\n%s", p)
	}
}

func TestBadAnswers(t *testing.T) {
	img := demoImage(t)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, want, streamed string }{
		{"syntax", "schema = 1\n[server\n", "a.toml:2:", "a.toml:2:"},
		{"disks", "schema = 1\n[disks]\nmirror = 7\n", "a.toml:3:", "a.toml:3:"},
		{"unknown", "schema = 1\n[server]\nnmae = \"" + secret + "\"\n", "a.toml:3:1: server.nmae: unknown key", "server.nmae: unknown key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := blankFile(t, 80<<20, true)
			before := sumOf(t, to)
			o := Options{Disk: disk(t, to), Image: file(t, img), Answers: []byte(c.text), AnswersName: "a.toml"}
			_, _, err := attempt(o)
			wantError(t, err, c.want)
			if before != sumOf(t, to) {
				t.Error("the disk was written to")
			}
			o.Image = Stream("-", bytes.NewReader(b))
			_, _, err = attempt(o)
			wantError(t, err, c.streamed)
			for _, e := range []error{err} {
				if strings.Contains(e.Error()+diag.HintOf(e), secret) {
					t.Error("a secret is printed")
				}
			}
			if c.name == "unknown" { // known only once the manifest is there
				noTable(t, to, 512)
			}
		})
	}
}

func sumOf(t testing.TB, name string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func wantError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error()+"\n"+diag.HintOf(err), want) {
		t.Errorf("error %v (hint %q), want %q", err, diag.HintOf(err), want)
	}
}

func TestRefusals(t *testing.T) {
	img := demoImage(t)
	for _, c := range []struct {
		name string
		d    disks.Disk
		o    Options
		want string
	}{
		{"small", disks.Disk{Size: 60 << 20, SectorSize: 512}, Options{}, "it has 62914560 bytes, the image needs"},
		{"mounted", disks.Disk{Size: 1 << 30, SectorSize: 512, Serial: "S1", InUse: []string{"sda1 is mounted on /"}}, Options{}, "it is in use: sda1 is mounted on /\nif it is the right one and all of that may be lost: --force-serial S1"},
		{"member", disks.Disk{Size: 1 << 30, SectorSize: 512, Member: []string{"a member of LVM"}}, Options{}, "--force-serial /dev/none"},
		{"other serial", disks.Disk{Size: 1 << 30, SectorSize: 512, Serial: "S1"}, Options{Force: "S2"}, `its serial number is "S1", not "S2"`},
		{"read-only", disks.Disk{Size: 1 << 30, SectorSize: 512, ReadOnly: true}, Options{}, "it is read-only"},
		{"sectors", disks.Disk{Size: 1 << 30, SectorSize: 2048}, Options{}, "sectors of 2048 bytes; only 512 and 4096 are supported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.d.Path = "/dev/none"
			c.o.Disk, c.o.Image = &c.d, file(t, img)
			_, err := Prepare(context.Background(), c.o)
			wantError(t, err, c.want)
			if diag.ExitCode(err) != 2 {
				t.Errorf("exit status %d", diag.ExitCode(err))
			}
		})
	}
}

func TestDamagedImages(t *testing.T) {
	img := demoImage(t)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(b)
	flipped[bytes.Index(flipped, []byte("Written by rigimage: consoles"))] ^= 1
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(b)
	z.Close()
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"flipped", flipped, "boot/lua/local.lua: its hash is not the manifest's"},
		{"cut short", b[:50<<20], "it ends too early"},
		{"gzip cut short", gz.Bytes()[:gz.Len()-9], "it ends too early"},
		{"not an image", make([]byte, 2<<20), "it is not a disk image rigimage made"},
		{"empty", nil, "it ends too early, behind byte 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "x.img")
			if err := os.WriteFile(p, c.b, 0o600); err != nil {
				t.Fatal(err)
			}
			to := blankFile(t, 80<<20, true)
			before := sumOf(t, to)
			_, _, err := attempt(Options{Disk: disk(t, to), Image: file(t, p)})
			wantError(t, err, c.want)
			if before != sumOf(t, to) {
				t.Error("the disk was written to")
			}
			_, _, err = attempt(Options{Disk: disk(t, to), Image: Stream("-", bytes.NewReader(c.b))})
			wantError(t, err, c.want)
			if before != sumOf(t, to) { // then it was begun
				wantError(t, err, "has no partition table now: nothing boots from it")
				noTable(t, to, 512)
			}
		})
	}
}

func TestInterrupt(t *testing.T) {
	to := blankFile(t, 80<<20, true)
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{Disk: disk(t, to), Image: file(t, demoImage(t)), open: func(d *disks.Disk) (device, error) {
		dev, err := openDevice(d)
		return &badDisk{device: dev, onWrite: cancel}, err
	}}
	p, err := Prepare(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Write(ctx)
	wantError(t, err, "interrupted\n"+to+" has no partition table now: nothing boots from it\nrun the same command again")
	noTable(t, to, 512)
	flashed(t, Options{Disk: disk(t, to), Image: file(t, demoImage(t))})
}

// loop attaches a file as a device with sectors of a size.
func loop(t testing.TB, size int64, sector int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("LOOP DEVICE MISSING: only root can attach one; nothing was tried on a device")
	}
	setup, ok := referee.Find("losetup")
	if !ok {
		t.Skip("LOOP DEVICE MISSING: there is no losetup; nothing was tried on a device")
	}
	name := blankFile(t, size, true)
	out, err := exec.Command(setup, "-f", "--show", "--sector-size", fmt.Sprint(sector), name).CombinedOutput()
	if err != nil {
		t.Skipf("LOOP DEVICE MISSING: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		for range 20 { // udev may be looking at it
			if err = exec.Command(setup, "-d", dev).Run(); err == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("losetup -d %s: %v", dev, err)
	})
	return dev
}

func TestLoop(t *testing.T) {
	img := demoImage(t)
	dev := loop(t, 90<<20, 512)
	old := disk(t, dev)
	flashed(t, Options{Disk: old, Image: file(t, img), Force: old.ID()})
	same(t, img, dev, manifest.BootStart, end-manifest.BootStart)
	referee.Run(t, "sgdisk", "-v", dev)
	if d := disk(t, dev); len(d.Holds) != 4 || d.SectorSize != 512 {
		t.Errorf("%+v", d)
	}
	// While something holds it, nobody else writes.
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _, err = attempt(Options{Disk: disk(t, dev), Image: file(t, img)})
	wantError(t, err, "something of this system uses it")
}

func Test4Kn(t *testing.T) {
	img := demoImage(t)
	dev := loop(t, 90<<20, 4096)
	d := disk(t, dev)
	if d.SectorSize != 4096 {
		t.Fatalf("sectors of %d bytes", d.SectorSize)
	}
	r := flashed(t, Options{Disk: d, Image: file(t, img), Answers: []byte("schema = 1\n"), AnswersName: "a.toml"})
	if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "by UEFI only") }) {
		t.Errorf("notes %q", r.Notes)
	}
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := gpt.Read(newCachedReader(f, d.Size), d.Size, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if p := table.Partitions[0]; p.Start != 24<<10 || p.Size != 508<<10 {
		t.Errorf("boot partition of %d bytes at %d", p.Size, p.Start)
	}
	same(t, img, dev, 41<<20, 24<<20)
	esp := filepath.Join(t.TempDir(), "esp")
	b := make([]byte, 40<<20)
	if _, err := f.ReadAt(b, manifest.ESPStart); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(esp, b, 0o600); err != nil {
		t.Fatal(err)
	}
	referee.Run(t, "sgdisk", "-v", dev)
	referee.Run(t, "fsck.fat", "-n", esp)
}
