package health

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/zfs"
)

func TestVerifySwitch(t *testing.T) {
	kernel := tree.FileEntry("boot/kernel-1/kernel", []byte("k"))
	zfsko := tree.FileEntry("boot/kernel-1/zfs.ko", []byte("z"))
	eliko := tree.FileEntry("boot/kernel-1/geom_eli.ko", []byte("e"))
	full, err := tree.New([]tree.Entry{kernel, zfsko, eliko})
	if err != nil {
		t.Fatal(err)
	}
	id, err := disk.KernelIDOf(full, "boot/kernel-1")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "kernel"), []byte("k"), 0o600), os.WriteFile(filepath.Join(dir, "zfs.ko"), []byte("z"), 0o600),
		os.WriteFile(filepath.Join(dir, "geom_eli.ko"), []byte("e"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if want, err := disk.KernelID(dir); err != nil || id != want {
		t.Errorf("a kernel is %s on a rig partition and %s in the pool, %v", id, want, err)
	}
	kernel.Path, zfsko.Path, eliko.Path = "boot/"+disk.KernelPrefix+id+"/kernel", "boot/"+disk.KernelPrefix+id+"/zfs.ko", "boot/"+disk.KernelPrefix+id+"/geom_eli.ko"
	right, err := tree.New([]tree.Entry{kernel, zfsko, eliko})
	if err != nil {
		t.Fatal(err)
	}
	half, err := tree.New([]tree.Entry{kernel})
	if err != nil {
		t.Fatal(err)
	}
	text := func(be, k string) []byte {
		b, err := manifest.InstalledSwitch(be, k, false)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const be = "zroot/ROOT/x"
	k := disk.KernelPrefix + id
	for _, tt := range []struct {
		name string
		t    *tree.Tree
		text []byte
		wish bootWish
		want string
	}{
		{"the image's kernel", full, text(be, ""), bootWish{be: be, text: text(be, "")}, ""},
		{"its own kernel", right, text(be, k), bootWish{be: be, kernel: k, text: text(be, k)}, ""},
		{"not mounted", full, text(be, "kernel-9"), bootWish{be: be}, ""},
		{"not mounted, another", full, text("zroot/ROOT/y", ""), bootWish{be: be}, "it does not boot zroot/ROOT/x"},
		{"another environment", full, text("zroot/ROOT/y", ""), bootWish{be: be, text: text(be, "")},
			"it does not boot zroot/ROOT/x with the image's kernel: its switch says otherwise"},
		{"the installer", full, manifest.InstallSwitch("x"), bootWish{be: be, kernel: k, text: text(be, k)},
			"it does not boot zroot/ROOT/x with " + k + ": its switch says otherwise"},
		{"another kernel by that name", full, text(be, "kernel-1"), bootWish{be: be, kernel: "kernel-1", text: text(be, "kernel-1")},
			"boot/kernel-1 is another kernel than that of zroot/ROOT/x"},
		{"half a kernel", half, text(be, k), bootWish{be: be, kernel: k, text: text(be, k)}, "boot/" + k + "/zfs.ko is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) { wantText(t, compareSwitch(tt.t, string(tt.text), tt.wish), tt.want) })
	}
}

func TestVerifyBootWish(t *testing.T) {
	const asked = "zpool get -Hp -o value bootfs zroot"
	const where = "zfs get -Hp -o value mounted,mountpoint zroot/ROOT/x"
	roots := func(names ...string) (list []zfs.DatasetInfo) {
		for _, n := range names {
			n, origin, _ := strings.Cut(n, "<")
			list = append(list, zfs.DatasetInfo{Name: "zroot/ROOT" + n, Origin: origin})
		}
		return list
	}
	whole := roots("", "/x", "/x/jails", "/x/jails/pg_j", "/x/jails/bare")
	for _, tt := range []struct {
		name     string
		datasets []zfs.DatasetInfo
		mounted  string
		err      string
		rows     []string
		kernel   string
	}{
		{"a freebsd-update", whole, "yes\n/\n", "", []string{"ok boot environment: zroot/ROOT/x is active and runs"}, "kernel-a0ccd1037035"},
		{"activated", whole, "no\n/\n", "", []string{
			"warning boot environment: zroot/ROOT/x is active and not the one that runs -> restart to run it, or bectl activate the one you want"}, ""},
		{"strange", whole, "perhaps\n", `zfs get mounted,mountpoint zroot/ROOT/x printed "perhaps\n"`, nil, ""},
		{"another without jails", append(slices.Clone(whole), roots("/y", "/y@before")...), "yes\n/\n", "", []string{
			`warning jails of y: it is without the roots of pg_j, bare: bectl create was called without -r -> bectl destroy -o y; "bectl create -r NAME" makes one with jails`,
			"ok boot environment: zroot/ROOT/x is active and runs"}, "kernel-a0ccd1037035"},
		{"this one without a jail", whole[:4], "yes\n/\n", "", []string{
			"error jails of x: it is active and without the roots of bare -> bectl activate another one before the next restart",
			"ok boot environment: zroot/ROOT/x is active and runs"}, "kernel-a0ccd1037035"},
		{"clones of one base", roots("", "/x", "/x/jails", "/x/jails/pg_j<zroot/rig/base@i", "/x/jails/bare<zroot/rig/base@i"), "yes\n/\n", "", []string{
			"error clones of zroot/rig/base@i: zroot/ROOT/x/jails/pg_j and zroot/ROOT/x/jails/bare are: bectl activate would never end" +
				` -> make roots with zfs create and "riginstall do copy-tree", not with zfs clone`,
			"ok boot environment: zroot/ROOT/x is active and runs"}, "kernel-a0ccd1037035"},
		{"not listed", roots("", "/y"), "", "zfs list -r zroot/ROOT does not list zroot/ROOT/x", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			script := []run.Expect{{Line: "zfs list -H -o name /", Stdout: "zroot/ROOT/x\n"}, {Line: asked, Stdout: "zroot/ROOT/x\n"},
				{Line: where, Stdout: tt.mounted}}
			if tt.mounted == "" {
				script = script[:2]
			}
			if tt.kernel != "" {
				script = append(script, run.Expect{Line: "sysctl -b kern.geom.confxml", Stdout: "<mesh></mesh>"})
			}
			v := testVerifier(t, nil, script...)
			dir := v.path("boot/kernel")
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/kernel", []byte("k"), 0o600), os.WriteFile(dir+"/zfs.ko", []byte("z"), 0o600),
				os.WriteFile(dir+"/geom_eli.ko", []byte("e"), 0o600)); err != nil {
				t.Fatal(err)
			}
			v.res.Kernel = "the image's"
			v.Datasets = func(string) ([]zfs.DatasetInfo, error) { return tt.datasets, nil }
			r := &rows{}
			w, err := v.bootWish(t.Context(), r)
			wantText(t, err, tt.err)
			wantRows(t, r.list, tt.rows...)
			if w.kernel != tt.kernel {
				t.Errorf("kernel %q, want %q", w.kernel, tt.kernel)
			}
		})
	}
}

func TestVerifyBootDisks(t *testing.T) {
	v := testVerifier(t, nil)
	if err := os.MkdirAll(v.path("dev/gpt"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"rig-A", "rig-C", "installing-E", "zfs-A"} {
		if err := os.WriteFile(v.path("dev/gpt", n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v.status = &zfs.PoolStatus{
		Vdevs: []zfs.Vdev{{Name: "mirror-0", Type: "mirror", Children: []zfs.Vdev{
			member("A", "ONLINE", 0), {Name: "spare-1", Type: "spare", Children: []zfs.Vdev{member("B", "UNAVAIL", 0), member("C", "ONLINE", 0)}}}}},
		Spares: []zfs.Vdev{member("C", "INUSE", 0), member("D", "AVAIL", 0), {Name: "da7p5", Path: "/dev/da7p5", State: "AVAIL"}},
	}
	r := &rows{}
	var got []string
	for _, d := range v.bootDisks(r) {
		word := d.serial
		if d.absent {
			word += " absent"
		}
		if d.half {
			word += " half"
		}
		got = append(got, word)
	}
	if text := strings.Join(got, ", "); text != "A, B absent, C, D, E half" {
		t.Error(text)
	}
	wantRows(t, r.list, "error da7p5: it is in the pool and has no label of rig: nothing is known of its boot partitions"+
		" -> partition it like the others, with labels boot-, efi-, rig-, swap- and zfs-SERIAL")
}

// Each thing that can be wrong with one disk, on a machine that was installed.
func TestVerifyBootDisk(t *testing.T) {
	s := newServer(t)
	be := s.Unit().Root()
	s.Check(disk.WriteSwitch(s.Dev("vtbd2p3"), s.Man.Boot.RigSize, manifest.InstallSwitch("x")))
	s.Check(os.WriteFile(s.Dev("vtbd3p2"), make([]byte, s.Man.Boot.ESPSize), 0o600))
	esp, err := os.ReadFile(s.Dev("vtbd0p2"))
	s.Check(err)
	before, err := os.ReadFile(s.Dev("da0p2")) // the stick's still has its answers
	s.Check(err)
	s.Check(os.WriteFile(s.Dev("vtbd0p2"), before, 0o600))

	v, err := newVerifier(VerifyInput{Run: s.scripted("zfs list", "zpool get", "zfs get"), Root: s.root, Now: s.now, Datasets: s.roots})
	s.Check(err)
	v.geli = &facts.Encryption{}
	got := v.checkBoot(t.Context())
	wantRows(t, got,
		"ok boot environment: "+be+" is active and runs",
		"ok S1: both partitions as in the image, boots "+be+" with the image's kernel",
		"warning S1 answers: there are answers on its ESP; they may hold secrets -> riginstall do forget-answers /dev/gpt/efi-S1",
		"ok S2: both partitions as in the image, boots "+be+" with the image's kernel",
		"error S3: it does not boot "+be+" with the image's kernel: its switch says otherwise -> riginstall bootsync",
		got[5].words())
	if w := got[5].words(); !strings.HasPrefix(w, "error S4: ESP: ") || !strings.Contains(w, "riginstall do write-esp /dev/gpt/rig-S1 /dev/gpt/efi-S4") {
		t.Error(w)
	}
	s.Check(os.WriteFile(s.Dev("vtbd0p2"), esp, 0o600))
}

// scripted is a Script of those of the server's commands that begin with one of
// these, each once.
func (s *server) scripted(begin ...string) run.Runner {
	var script []run.Expect
	for _, line := range s.lines {
		for _, p := range begin {
			if strings.HasPrefix(line, p) && !slices.ContainsFunc(script, func(e run.Expect) bool { return e.Line == line }) {
				script = append(script, s.answer[line])
			}
		}
	}
	return run.NewScript(s.T, script...)
}
