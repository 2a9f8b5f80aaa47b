package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rig-freebsd/rig/overlay"
)

// profile is the built-in profile with small partitions, in memory.
func profile(t testing.TB) fstest.MapFS {
	t.Helper()
	out := fstest.MapFS{}
	err := fs.WalkDir(overlay.Webrig(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(overlay.Webrig(), p)
		out[p] = &fstest.MapFile{Data: b, Mode: 0o644}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	edit(t, out, "[boot]\n", "[boot]\nesp_size = \"40m\"\nrig_size = \"24m\"\n")
	return out
}

// edit replaces text of rig.toml.
func edit(t testing.TB, p fstest.MapFS, old, new string) {
	t.Helper()
	text := string(p[ConfigFile].Data)
	if !strings.Contains(text, old) {
		t.Fatalf("rig.toml has no %q", old)
	}
	p[ConfigFile] = &fstest.MapFile{Data: []byte(strings.Replace(text, old, new, 1))}
}

// options build the profile from demo sets into a directory of its own.
func options(t testing.TB, dir string) Options {
	t.Helper()
	prog := filepath.Join(t.TempDir(), "riginstall")
	if err := os.WriteFile(prog, []byte("a stand-in for riginstall\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return Options{Profile: profile(t), ProfileName: "my-rig", Output: filepath.Join(dir, "rig.img"), Cache: t.TempDir(), Demo: true,
		Riginstall: func(context.Context) (string, error) { return prog, nil }}
}

func build(t testing.TB, o Options) *Result {
	t.Helper()
	r, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sum(t testing.TB, name string) string {
	t.Helper()
	b, err := hashFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", b)
}

// files lists a directory.
func files(t testing.TB, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// The same inputs give the same bytes: from a warm cache, from an empty one, in
// another directory, time zone and umask, on one processor.
func TestBuildIsReproducible(t *testing.T) {
	dir := t.TempDir()
	o := options(t, dir)
	o.Answers, o.AnswersName = []byte("[install]\nafter = \"poweroff\"\n"), "a.toml"
	first := build(t, o)
	want := sum(t, first.Path)
	o.Output = filepath.Join(dir, "again.img")
	build(t, o)
	if got := sum(t, o.Output); got != want {
		t.Errorf("warm cache: %s, want %s", got, want)
	}

	other := options(t, t.TempDir())
	other.Answers, other.AnswersName, other.ProfileName = o.Answers, "elsewhere/b.toml", "another name"
	t.Chdir(filepath.Dir(other.Output))
	other.Output = "rig.img"
	zone := time.Local
	time.Local = time.FixedZone("UTC+5:45", 5*3600+45*60)
	mask, procs := syscall.Umask(0o077), runtime.GOMAXPROCS(1)
	second := build(t, other)
	runtime.GOMAXPROCS(procs)
	syscall.Umask(mask)
	time.Local = zone
	if got := sum(t, second.Path); got != want {
		t.Errorf("elsewhere: %s, want %s", got, want)
	}
	if first.Manifest.Image != second.Manifest.Image {
		t.Errorf("image ids %s and %s", first.Manifest.Image, second.Manifest.Image)
	}
	if got := files(t, dir); got != "again.img rig.img" {
		t.Errorf("%s holds %s", dir, got)
	}
	if st, err := os.Stat(first.Path); err != nil || st.Mode() != 0o600 || st.Size() != first.Size {
		t.Errorf("an image with answers: mode %v, %d bytes, %v", st.Mode(), st.Size(), err)
	}
}

// What changes an image changes its id; what does not, does not.
func TestImageID(t *testing.T) {
	o := options(t, t.TempDir())
	id := func(o Options) string { return build(t, o).Manifest.Image }
	plain := id(o)
	if !regexp.MustCompile(`^webrig-15\.1-[0-9a-f]{12}$`).MatchString(plain) {
		t.Errorf("image id %q", plain)
	}
	withAnswers := o
	withAnswers.Answers = []byte("[install]\nafter = \"shell\"\n")
	if got := id(withAnswers); got != plain {
		t.Errorf("answers changed the id: %s", got)
	}
	if st, err := os.Stat(o.Output); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	seen := map[string]string{plain: "the first"}
	for name, change := range map[string]func(*Options, fstest.MapFS){
		"overlay file": func(_ *Options, p fstest.MapFS) { p["host/etc/new"] = &fstest.MapFile{Data: []byte("x")} },
		"menu delay":   func(_ *Options, p fstest.MapFS) { edit(t, p, "menu_delay = 3", "menu_delay = 4") },
		"question":     func(_ *Options, p fstest.MapFS) { edit(t, p, "prompt = \"Gateway\"", "prompt = \"Router\"") },
		"riginstall": func(o *Options, _ fstest.MapFS) {
			prog := filepath.Join(t.TempDir(), "other")
			os.WriteFile(prog, []byte("another riginstall\n"), 0o755)
			o.Riginstall = func(context.Context) (string, error) { return prog, nil }
		},
	} {
		c, p := o, maps.Clone(o.Profile.(fstest.MapFS))
		c.Profile = p
		change(&c, p)
		got := id(c)
		if other, dup := seen[got]; dup {
			t.Errorf("%s: the id is that of %s", name, other)
		}
		seen[got] = name
	}
}

// trees reads the ESP and the rig partition of an image.
func trees(t testing.TB, name string) (f *os.File, esp, rig *tree.Tree, parts []gpt.Partition) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, _ := f.Stat()
	table, err := gpt.Read(f, st.Size(), 512)
	if err != nil {
		t.Fatal(err)
	}
	i, err := reader.Open(t.Context(), name, reader.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return f, i.ESP, i.Rig, table.Partitions
}

// What an image holds, as text. RIG_UPDATE=1 writes the listings anew.
func TestListings(t *testing.T) {
	o := options(t, t.TempDir())
	o.Answers = []byte("[install]\nafter = \"shell\"\n")
	r := build(t, o)
	_, esp, rig, _ := trees(t, r.Path)
	for name, tr := range map[string]*tree.Tree{"esp.mtree": esp, "rig.mtree": rig} {
		var b bytes.Buffer
		if err := tr.WriteMtree(&b, true); err != nil {
			t.Fatal(err)
		}
		golden(t, name, stable(r.Manifest, b.String()))
	}
	text, err := rig.ReadFile("boot/loader.conf", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "loader.conf", stable(r.Manifest, string(text)))
}

// stable leaves out of a listing what depends on how a library compresses, the
// order of layers too.
func stable(m *manifest.Manifest, text string) string {
	for _, l := range m.Layers {
		text = strings.ReplaceAll(text, l.SHA256, strings.Trim(string(l.Role)+"-"+l.Jail, "-"))
	}
	text = strings.ReplaceAll(text, m.Image, "IMAGE")
	if head, list, ok := strings.Cut(text, "\n. "); ok {
		lines := strings.Split(strings.TrimSuffix(list, "\n"), "\n")
		slices.Sort(lines[1:])
		text = head + "\n. " + strings.Join(lines, "\n") + "\n"
	}
	return regexp.MustCompile(`(?m)^(\./(?:.*\.(?:gz|zst|uzip)|rig/manifest.json|boot/loader.conf) .*) size=.*$`).ReplaceAllString(text, "$1")
}

func golden(t testing.TB, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("RIG_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; RIG_UPDATE=1 accepts what is there now:\n%s", file, got)
	}
}

// Programs of others judge table and file systems, and read every file.
func TestReferees(t *testing.T) {
	r := build(t, options(t, t.TempDir()))
	f, esp, rig, parts := trees(t, r.Path)
	t.Run("sgdisk", func(t *testing.T) {
		if out := referee.Run(t, "sgdisk", "-v", r.Path); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk -v: %s", out)
		}
	})
	t.Run("fsck.fat", func(t *testing.T) {
		referee.Need(t, "fsck.fat")
		part := filepath.Join(t.TempDir(), "esp.img")
		out, err := os.Create(part)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if _, err := io.Copy(out, io.NewSectionReader(f, parts[1].Start, parts[1].Size)); err != nil {
			t.Fatal(err)
		}
		referee.Run(t, "fsck.fat", "-n", part)
	})
	t.Run("grub-fstest", func(t *testing.T) {
		referee.Need(t, "grub-fstest")
		for dev, tr := range map[string]*tree.Tree{"(loop0,gpt2)/": esp, "(loop0,gpt3)/": rig} {
			for e := range tr.All() {
				if e.Kind != tree.File {
					continue
				}
				want, err := tr.ReadFile(e.Path, 1<<30)
				if err != nil {
					t.Fatal(err)
				}
				host := filepath.Join(t.TempDir(), "want")
				if err := os.WriteFile(host, want, 0o644); err != nil {
					t.Fatal(err)
				}
				if out := referee.Run(t, "grub-fstest", r.Path, "cmp", dev+e.Path, host); out != "" {
					t.Errorf("grub-fstest cmp %s%s: %s", dev, e.Path, out)
				}
			}
		}
	})
}

// The manifest lists exactly what is on the boot partitions, and the boot area
// holds gptboot.
func TestManifestIsComplete(t *testing.T) {
	r := build(t, options(t, t.TempDir()))
	f, esp, rig, parts := trees(t, r.Path)
	listed := []string{"rig " + manifest.File, "rig " + manifest.SwitchFile}
	for _, l := range r.Manifest.Layers {
		listed = append(listed, "rig "+l.Path())
	}
	for _, b := range r.Manifest.Files {
		listed = append(listed, string(b.Part)+" "+b.Path)
	}
	var there []string
	for part, tr := range map[string]*tree.Tree{"efi ": esp, "rig ": rig} {
		for e := range tr.All() {
			if e.Kind != tree.Dir {
				there = append(there, part+e.Path)
			}
			if e.UID != 0 || e.GID != 0 {
				t.Errorf("%s%s belongs to %d:%d", part, e.Path, e.UID, e.GID)
			}
		}
	}
	slices.Sort(listed)
	slices.Sort(there)
	if !slices.Equal(slices.Compact(listed), there) {
		t.Errorf("listed %q\nthere %q", listed, there)
	}
	sw, err := rig.ReadFile(manifest.SwitchFile, manifest.SwitchSize)
	if err != nil || !bytes.Equal(sw, manifest.InstallSwitch(manifest.RawMedium)) {
		t.Errorf("switch: %q, %v", sw, err)
	}
	boot := make([]byte, 28)
	if _, err := f.ReadAt(boot, parts[0].Start); err != nil || string(boot) != "rig demo, no FreeBSD inside\n" {
		t.Errorf("boot partition: %q, %v", boot, err)
	}
}

// A damaged cache is not trusted, and is mended.
func TestDamagedCache(t *testing.T) {
	o := options(t, t.TempDir())
	r := build(t, o)
	want := sum(t, r.Path)
	for _, kind := range []string{"layers", "boot"} {
		list, _ := filepath.Glob(filepath.Join(o.Cache, kind, "*"))
		n := 0
		for _, name := range list {
			if filepath.Ext(name) == ".json" {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n == 0 {
			t.Fatalf("no %s in the cache", kind)
		}
	}
	build(t, o)
	if got := sum(t, r.Path); got != want {
		t.Errorf("built %s from a damaged cache, want %s", got, want)
	}
}

// Sums of content do not depend on this package's own hashing.
func TestLayerNames(t *testing.T) {
	r := build(t, options(t, t.TempDir()))
	_, _, rig, _ := trees(t, r.Path)
	for _, l := range r.Manifest.Layers {
		b, err := rig.ReadFile(l.Path(), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(b)); got != l.SHA256 || int64(len(b)) != l.Size {
			t.Errorf("%s %s: %s, %d bytes", l.Role, l.Jail, got, len(b))
		}
	}
}
