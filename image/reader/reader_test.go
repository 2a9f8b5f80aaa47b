package reader_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/media"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay"
)

// forms are the endings of what a build writes.
var forms = map[string]reader.Form{".img": reader.Raw, ".img.zst": reader.Zstd, ".iso": reader.ISO, ".vmdk": reader.VMDK,
	".vdi": reader.VDI, ".qcow2": reader.QCOW2, ".ova": reader.OVA, "/": reader.Directory}

const answersText = "[install]\nafter = \"shell\"\n"

// built is a demo image in every form, with answers, made once.
type built struct {
	dir string
	man *manifest.Manifest
}

func (b *built) name(ending string) string { return b.dir + "/rig" + ending }

var demo = sync.OnceValues(func() (*built, error) {
	dir, err := os.MkdirTemp("", "rig-reader-")
	if err != nil {
		return nil, err
	}
	made = dir
	b := &built{dir: dir}
	o, err := options(dir)
	if err != nil {
		return nil, err
	}
	o.Output = b.name(".img")
	for ending := range forms {
		if ending != ".img" && ending != "/" {
			o.Also = append(o.Also, b.name(ending))
		}
	}
	o.Answers = []byte(answersText)
	r, err := image.Build(context.Background(), o)
	if err != nil {
		return nil, err
	}
	b.man = r.Manifest
	o.Output, o.Also, o.Answers = b.name("/"), nil, nil
	o.Network = media.Network{URL: "http://10.9.0.1"}
	_, err = image.Build(context.Background(), o)
	return b, err
})

// made is the directory of what demo made.
var made string

func TestMain(m *testing.M) {
	status := m.Run()
	os.RemoveAll(made)
	os.Exit(status)
}

// options build the default profile with small partitions from demo sets.
func options(dir string) (image.Options, error) {
	profile := fstest.MapFS{}
	err := fs.WalkDir(overlay.Webrig(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(overlay.Webrig(), p)
		if p == image.ConfigFile {
			b = bytes.Replace(b, []byte("[boot]\n"), []byte("[boot]\nesp_size = \"36m\"\nrig_size = \"16m\"\n"), 1)
		}
		profile[p] = &fstest.MapFile{Data: b, Mode: 0o644}
		return err
	})
	prog := filepath.Join(dir, "riginstall")
	if err == nil {
		err = os.WriteFile(prog, []byte("a stand-in for riginstall\n"), 0o755)
	}
	return image.Options{Profile: profile, ProfileName: "my-rig", Cache: filepath.Join(dir, "cache"), Demo: true,
		Riginstall: func(context.Context) (string, error) { return prog, nil }}, err
}

func images(t testing.TB) *built {
	t.Helper()
	b, err := demo()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(t testing.TB, name string) *reader.Image {
	t.Helper()
	i, err := reader.Open(t.Context(), name, reader.Options{Temp: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

// listing is what a bundle's tree holds, without what media add.
func listing(t testing.TB, tr *tree.Tree) string {
	t.Helper()
	own := []string{"boot/cdboot", "boot/isoboot", "boot/pxeboot", "boot.ipxe", manifest.AnswersFile, manifest.SwitchFile}
	var b strings.Builder
	for e := range tr.All() {
		if e.Kind != tree.File || slices.Contains(own, e.Path) {
			continue
		}
		sum, err := e.Digest()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %d %s\n", e.Path, e.Size, sum)
	}
	return b.String()
}

// sameImage compares an image with the raw one: manifest, files, what is in layers.
func sameImage(t *testing.T, got *reader.Image, form reader.Form) {
	t.Helper()
	want := open(t, images(t).name(".img"))
	if got.Form != form || got.Manifest.Image != want.Manifest.Image {
		t.Errorf("%s, image %s; want %s, image %s", got.Form, got.Manifest.Image, form, want.Manifest.Image)
	}
	if a, b := listing(t, got.Rig), listing(t, want.Rig); a != b {
		t.Errorf("files\n%s\nof the image\n%s", a, b)
	}
	if (got.ESP == nil) != (form == reader.Directory) {
		t.Fatalf("ESP: %v", got.ESP)
	}
	if got.ESP != nil && listing(t, got.ESP) != listing(t, want.ESP) {
		t.Errorf("files of the ESP\n%s\nof the image\n%s", listing(t, got.ESP), listing(t, want.ESP))
	}
	if has := got.Answers() != nil; has != (form != reader.Directory) {
		t.Errorf("answers: %v", has)
	}
	d, err := reader.Diff(t.Context(), want, got, reader.DiffOptions{})
	if err != nil || d.FreeBSD != nil || len(d.Layers)+len(d.Manifest)+len(d.Packages)+len(d.Boot) > 0 {
		t.Errorf("differences: %+v, %v", d, err)
	}
	a, err := got.Layer(got.Manifest.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	if text, err := a.ReadFile("bin/freebsd-version", 1<<20); err != nil || !bytes.Contains(text, []byte("15.1")) {
		t.Errorf("a file of the base layer: %q, %v", text, err)
	}
	at, err := got.Time()
	if wanted, _ := want.Time(); err != nil || at != wanted || at.Year() != 2026 {
		t.Errorf("time %v, %v", at, err)
	}
}

// clean verifies an image in which nothing may be wrong.
func clean(t *testing.T, i *reader.Image) *reader.Verification {
	t.Helper()
	v, err := i.Verify(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Problems) > 0 {
		t.Errorf("problems: %q", v.Problems)
	}
	for _, c := range v.Checks {
		if c.Result != reader.OK && !(strings.HasPrefix(i.Path, "http") && c.What == "other files" && c.Result == reader.None) {
			t.Errorf("%s: %s: %s", c.What, c.Result, c.Text)
		}
	}
	return v
}

func TestForms(t *testing.T) {
	b := images(t)
	for ending, form := range forms {
		t.Run(strings.Trim(ending, "./"), func(t *testing.T) {
			i := open(t, b.name(ending))
			sameImage(t, i, form)
			v := clean(t, i)
			var outside []string
			for _, o := range v.Outside {
				outside = append(outside, o.Path+": "+o.Text)
			}
			text := strings.Join(outside, "\n")
			if form == reader.Directory {
				if !strings.Contains(text, manifest.SwitchFile+`: sets rig.url="http://10.9.0.1"`) || !strings.Contains(text, "boot.ipxe: script for iPXE") {
					t.Errorf("outside of hashes: %s", text)
				}
				return
			}
			if !strings.Contains(text, manifest.SwitchFile+": as built") || !strings.Contains(text, manifest.AnswersFile+": answers, 26 bytes") || strings.Contains(text, "shell") {
				t.Errorf("outside of hashes: %s", text)
			}
			src, disk, err := i.Source()
			if err != nil || disk != (form != reader.ISO) {
				t.Errorf("a disk: %v, %v", disk, err)
			}
			if disk {
				sameDisk(t, b.name(".img"), src.R, src.Size)
			}
		})
	}
}

func sameDisk(t *testing.T, img string, r io.ReaderAt, size int64) {
	t.Helper()
	want, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := r.ReadAt(got, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the disk of %d bytes is not the image's of %d", len(got), len(want))
	}
}

// A web server that gives parts, and one that does not.
func TestURL(t *testing.T) {
	b := images(t)
	var asked, whole int64
	var mu sync.Mutex
	files := http.FileServer(http.Dir(b.dir))
	parts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &counting{ResponseWriter: w}
		files.ServeHTTP(c, r)
		mu.Lock()
		defer mu.Unlock()
		if asked += c.n; r.Header.Get("Range") == "" {
			whole += c.n
		}
	}))
	defer parts.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		files.ServeHTTP(w, r)
	}))
	defer plain.Close()
	for ending, form := range forms {
		for kind, server := range map[string]string{"parts": parts.URL, "whole": plain.URL} {
			t.Run(strings.Trim(ending, "./")+" "+kind, func(t *testing.T) {
				i := open(t, server+"/rig"+ending)
				sameImage(t, i, form)
				clean(t, i)
			})
		}
	}
	asked = 0
	i := open(t, parts.URL+"/rig.img")
	if i.Manifest.Image != b.man.Image || asked > 8<<20 {
		t.Errorf("opening an image of %d bytes asked for %d", i.Size, asked)
	}
	if whole > 1<<20 { // manifests and what is tried first
		t.Errorf("%d bytes were not asked for by parts", whole)
	}
	lost := open(t, parts.URL+"/rig/")
	iso := open(t, parts.URL+"/rig.iso")
	parts.Close()
	for _, i := range []*reader.Image{lost, iso} { // a network that fails is no damage
		if v, err := i.Verify(t.Context(), true); err == nil || !strings.Contains(err.Error(), "connection refused") || diag.ExitCode(err) != 1 {
			t.Errorf("a server that is gone: %+v, %v", v, err)
		}
	}
	_, err := reader.Open(t.Context(), plain.URL+"/none.img", reader.Options{})
	if err == nil || !strings.Contains(err.Error(), "/none.img: neither a file nor a directory for network boot is there") || diag.ExitCode(err) != 2 {
		t.Errorf("nothing there: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "rigimage-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

type counting struct {
	http.ResponseWriter
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// What is no image, what is half of one, and what was changed, each with its words.
func TestRefused(t *testing.T) {
	b := images(t)
	dir := t.TempDir()
	put := func(name string, content []byte) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	read := func(ending string) []byte {
		t.Helper()
		c, err := os.ReadFile(b.name(ending))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cut := func(ending string, n int) string {
		c := read(ending)
		if n < 0 {
			n += len(c)
		}
		return put(fmt.Sprint("cut", n, ending), c[:n])
	}
	changed := bytes.Replace(read(".img"), []byte(`"mountpoint": "/home"`), []byte(`"mountpoint": "/hole"`), 1)
	blank := bytes.Replace(read(".img"), []byte("{\n  \"schema\""), []byte("{\n \t\"schema\""), 1)
	conf := bytes.Replace(read(".img"), []byte("autoboot_delay=\"3\""), []byte("autoboot_delay=\"4\""), 1)
	foreign := func(p, why string) string { return p + ": it is no image that rigimage built: " + why }
	none := filepath.Join(dir, "none")
	for _, c := range []struct{ name, want string }{
		{none, "stat " + none + ": no such file or directory"},
		{put("empty", nil), foreign("PATH", "it is empty")},
		{put("text", []byte("no image\n")), foreign("PATH", "there is no partition table, volume or virtual disk in it")},
		{put("zeros", make([]byte, 1<<20)), foreign("PATH", "there is no partition table, volume or virtual disk in it")},
		{put("x.img.gz", []byte("\x1f\x8b and more")), foreign("PATH", "it is compressed by another program than zstd (gunzip unpacks it)")},
		{dir, foreign("PATH", "it is a directory without rig/manifest.json")},
		{put("other.img", otherDisk(t)), foreign("PATH", "its partition table has no partitions efi and rig")},
		{cut(".img", 45<<20), "read PATH, a disk image: it ends at byte 47185920, before the end of partition rig"},
		{cut(".img", 30<<20), "read PATH, a disk image: it ends at byte 31457280, before the end of partition efi"},
		{cut(".img.zst", -100), "read PATH, a compressed disk image: unpack: behind byte "},
		{cut(".iso", -1<<20), "read PATH, an ISO: open iso: it has "},
		{cut(".vmdk", -512), "read PATH, a VMDK: open vmdk: marker at sector "},
		{cut(".vdi", -1<<20), "read PATH, a VDI: open vdi: header: "},
		{cut(".qcow2", -65536), "read PATH, a QCOW2: "},
		{cut(".ova", -50000), "read PATH, an appliance: open ova: "},
		{put("changed.img", changed), "read PATH, a disk image: manifest: it was changed: the image is " + b.man.Image + ", what it says gives webrig-15.1-"},
		{put("blank.img", blank), "read PATH, a disk image: manifest: it was changed: it has "},
		{put("conf.img", conf), "read PATH, a disk image: manifest: it was changed: the image is " + b.man.Image + ", what it says gives webrig-15.1-"},
	} {
		t.Run(filepath.Base(c.name), func(t *testing.T) {
			i, err := reader.Open(t.Context(), c.name, reader.Options{Temp: dir})
			if err == nil {
				i.Close()
			}
			want := strings.ReplaceAll(c.want, "PATH", c.name)
			if err == nil || !strings.HasPrefix(err.Error(), want) || diag.ExitCode(err) != 2 {
				t.Errorf("%v\nwant %s…", err, want)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "rigimage-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := reader.Open(ctx, b.name(".img.zst"), reader.Options{Temp: dir}); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

// otherDisk is a disk of somebody else.
func otherDisk(t *testing.T) []byte {
	b := make(memory, 4<<20)
	table := gpt.Table{DiskGUID: gpt.DeriveGUID("other", "disk"), DiskSize: int64(len(b)), Partitions: []gpt.Partition{
		{Type: gpt.EFI, Label: "efi", GUID: gpt.DeriveGUID("other", "efi"), Start: 1 << 20, Size: 1 << 20}}}
	if err := table.Write(b, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// damage changes a copy of an image in a file.
func damage(t *testing.T, ending string, change func(b []byte)) string {
	t.Helper()
	c, err := os.ReadFile(images(t).name(ending))
	if err != nil {
		t.Fatal(err)
	}
	change(c)
	name := filepath.Join(t.TempDir(), "bad"+ending)
	if err := os.WriteFile(name, c, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// flip changes a byte within the only place that has this content.
func flip(t *testing.T, content []byte) func([]byte) {
	return func(b []byte) {
		t.Helper()
		at := bytes.Index(b, content)
		if at < 0 || len(content) == 0 {
			t.Fatal("the content is not in the file in one piece")
		}
		b[at+len(content)/2] ^= 4
	}
}

// Whatever is changed is named by Verify.
func TestVerifyNames(t *testing.T) {
	b := images(t)
	rig := open(t, b.name(".img")).Rig
	content := func(p string) []byte {
		t.Helper()
		c, err := rig.ReadFile(p, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	base := b.man.Layers[0].Path()
	for _, c := range []struct {
		name, ending string
		change       func([]byte)
		want         []string // how problems begin
	}{
		{"layer", ".img", flip(t, content(base)), []string{base + ": its hash is not the manifest's"}},
		{"layer of an ISO", ".iso", flip(t, content(base)), []string{base + ": its hash is not the manifest's"}},
		{"boot file", ".img", flip(t, content("boot/lua/local.lua")), []string{"boot/lua/local.lua: its hash is not the manifest's"}},
		{"installer", ".vdi", flip(t, content(manifest.MFSRoot)), []string{manifest.MFSRoot + ": its hash is not the manifest's"}},
		{"pmbr", ".img", func(b []byte) { b[130] ^= 4 }, []string{"boot code of sector 0: it is not boot/pmbr of the bundle"}},
		{"pmbr of an ISO", ".iso", func(b []byte) { b[130] ^= 4 }, []string{"boot code of sector 0: it is not boot/pmbr of the bundle"}},
		{"gptboot", ".img", func(b []byte) { b[manifest.BootStart+10] ^= 4 }, []string{"boot partition: it is not boot/gptboot of the bundle"}},
		{"behind gptboot", ".img", func(b []byte) { b[manifest.BootStart+100] ^= 4 }, []string{"boot partition: there is something behind boot/gptboot"}},
		{"backup table", ".img", func(b []byte) { b[len(b)-512+60] ^= 4 }, []string{"gpt: backup: "}},
		{"table", ".img", func(b []byte) { b[1024+40] ^= 4 }, []string{"gpt: primary: "}},
		{"second FAT", ".img", func(b []byte) { b[1<<20+32*512+fatSize(b)*512+8] ^= 4 }, []string{"check fat: FAT: copy 2 differs from the first"}},
		{"cylinder group", ".img", func(b []byte) { b[37<<20+128<<10+60] ^= 4 }, []string{"check ufs: "}},
		{"ova", ".ova", func(b []byte) { b[len(b)-20000] ^= 4 }, []string{"verify ova: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := open(t, damage(t, c.ending, c.change)).Verify(t.Context(), true)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(v.Problems, c.want, strings.HasPrefix) {
				t.Errorf("problems %q\nwant %q", v.Problems, c.want)
			}
		})
	}
}

// fatSize is BPB_FATSz32 of the ESP, in sectors.
func fatSize(b []byte) int { return int(b[1<<20+36]) | int(b[1<<20+37])<<8 }

// A directory has no hashes of its own: what is not listed is named.
func TestVerifyDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(images(t).name("/"))); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"boot/lua/evil.lua": "x", "boot/pxeboot": "y", "boot/loader.conf.d/local.conf": "# no\nbeep=\"1\"\n"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "boot/loader.efi")); err != nil {
		t.Fatal(err)
	}
	v, err := open(t, dir).Verify(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"boot/loader.efi: missing", "boot/pxeboot: it is not that of the base layer", "boot/lua/evil.lua: the manifest does not list it"}
	if !slices.Equal(v.Problems, want) {
		t.Errorf("problems %q\nwant %q", v.Problems, want)
	}
	if !slices.Contains(v.Outside, reader.Outside{Path: "boot/loader.conf.d/local.conf", Text: `sets beep="1"`}) {
		t.Errorf("outside of hashes: %+v", v.Outside)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, dir).Verify(ctx, true); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

// An image that was copied onto a larger disk is whole, though its backup table is
// where the image ends.
func TestLargerDisk(t *testing.T) {
	for _, ending := range []string{".img", ".iso"} {
		name := damage(t, ending, func([]byte) {})
		if err := os.Truncate(name, 100<<20); err != nil {
			t.Fatal(err)
		}
		clean(t, open(t, name))
	}
}

// Any byte of an image that is changed is named: as a problem, or as one of those
// that no file and no structure needs.
func TestEveryByte(t *testing.T) {
	t.Run("img", func(t *testing.T) { flips(t, ".img", 500) })
	t.Run("iso", func(t *testing.T) { flips(t, ".iso", 200) })
}

func flips(t *testing.T, ending string, flips int) {
	name := damage(t, ending, func([]byte) {})
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	used := usedBytes(t, f)
	r := rand.New(rand.NewPCG(11, 4))
	if testing.Short() {
		flips /= 10
	}
	var problems, notes int
	for n := range flips {
		at := used[r.IntN(len(used))] + r.Int64N(usedBlock)
		bit := byte(1) << r.IntN(8)
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= bit
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		switch what := verdict(t, name, at); {
		case what == reader.Bad:
			problems++
		case what == reader.Note:
			notes++
		default:
			t.Errorf("flip %d: bit %#x of byte %d was not noticed", n, bit, at)
		}
		b[0] ^= bit
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d flips: %d problems, %d notes", flips, problems, notes)
	clean(t, open(t, name))
}

// verdict is what is said of an image of which the byte at some place was changed: a
// note must name the place.
func verdict(t *testing.T, name string, at int64) reader.Result {
	t.Helper()
	i, err := reader.Open(t.Context(), name, reader.Options{})
	if err != nil {
		return reader.Bad
	}
	defer i.Close()
	v, err := i.Verify(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Problems) > 0 {
		return reader.Bad
	}
	if v, err = i.Verify(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for _, o := range v.Outside {
		if o.Path == manifest.SwitchFile && strings.HasPrefix(o.Text, "not as built: ") {
			return reader.Note
		}
	}
	for _, c := range v.Checks {
		var named int64
		if _, err := fmt.Sscanf(c.Text[0], "byte %d (", &named); c.Result != reader.Note || err != nil {
			continue
		}
		if d := named - at; -8 < d && d < 8 { // ISO 9660 has numbers twice, in both byte orders: the other one is named
			return reader.Note
		}
	}
	return reader.OK
}

const usedBlock = 2048

// usedBytes are the blocks of a file that are not zeros.
func usedBytes(t *testing.T, f *os.File) (out []int64) {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(b); off += usedBlock {
		if bytes.ContainsFunc(b[off:off+usedBlock], func(r rune) bool { return r != 0 }) {
			out = append(out, int64(off))
		}
	}
	return out
}
