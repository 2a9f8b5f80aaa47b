package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fakebsd"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/zfs"
)

// syncer is an installed server on which bootsync runs. A rig partition that is mounted
// is a directory, and what is in it when it is unmounted, or when the power goes, is what
// the partition holds.
type syncer struct {
	*fakebsd.Machine
	root     string // the installed system's file system
	bootfs   string
	datasets []string          // of bootfs
	mounted  map[string]string // directory → device
	calls    int
	cut      int // the power goes at this command, 0 for never
}

func newSyncer(t *testing.T) *syncer {
	f := fakebsd.New(t, true)
	f.PoolName = "zroot-0a1b2c3d"
	s := &syncer{Machine: f, root: filepath.Join(f.Root, "mnt"), mounted: map[string]string{}}
	s.bootfs = f.Unit().Root()
	s.datasets = []string{s.bootfs, s.bootfs + "/jails", s.bootfs + "/jails/pg_j"}
	for _, d := range []string{os.TempDir(), "dev/gpt", place.ResultDir} {
		s.Check(os.MkdirAll(filepath.Join(s.root, d), 0o755))
	}
	b := Boot{Root: f.Root, Manifest: f.Man}
	for i := range 4 {
		dev := fmt.Sprintf("/dev/vtbd%dp3", i)
		s.Check(os.WriteFile(f.Root+dev, nil, 0o600))
		s.Check(os.Truncate(f.Root+dev, f.Man.Boot.RigSize))
		s.Check(b.CopyRig("/dev/da0p3", dev))
		s.Check(b.Switch(dev, s.bootfs, "", false))
		s.Check(os.Symlink(f.Root+dev, s.labelled(fmt.Sprintf("S%d", i+1))))
	}
	s.Check(f.Mount("da0p3"))
	for _, l := range f.Man.Layers {
		if l.Role == manifest.LayerKernel {
			in, err := os.Open(filepath.Join(f.Root, place.BundleDir, l.Path()))
			s.Check(err)
			s.Check(errors.Join(layer.Unpack(t.Context(), in, l.Size, s.root, layer.UnpackOptions{}), in.Close()))
		}
	}
	m, err := os.ReadFile(filepath.Join(f.Root, place.BundleDir, manifest.File))
	s.Check(err)
	kernel, err := KernelID(filepath.Join(s.root, "boot/kernel"))
	s.Check(err)
	res, err := json.Marshal(place.Result{Kernel: kernel})
	s.Check(err)
	for name, b := range map[string][]byte{"manifest.json": m, "result.json": res} {
		s.Check(os.WriteFile(filepath.Join(s.root, place.ResultDir, name), b, 0o600))
	}
	return s
}

var errCut = errors.New("the power went")

func (s *syncer) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	s.calls++
	if s.cut > 0 && s.calls >= s.cut {
		return nil, errCut
	}
	line := c.String()
	switch {
	case line == "zfs list -H -o name /":
		return []byte(s.Unit().Root() + "\n"), nil
	case line == "zpool get -Hp -o value bootfs "+s.PoolName:
		return []byte(s.bootfs + "\n"), nil
	case line == "zfs get -Hp -o value mounted,mountpoint "+s.bootfs:
		if s.bootfs == s.Unit().Root() {
			return []byte("yes\n/\n"), nil
		}
		return []byte("no\n/\n"), nil
	case line == "sysctl -b kern.geom.confxml":
		return []byte("<mesh></mesh>"), nil
	case strings.HasPrefix(line, "mount -t zfs -o ro "+s.bootfs+" "): // the other environment is beside the root
		return nil, os.CopyFS(filepath.Join(c.Argv[len(c.Argv)-1], "boot"), os.DirFS(filepath.Join(s.root, "other")))
	case c.Argv[0] == "fsck_ffs":
		return nil, nil
	case strings.HasPrefix(line, "mount -t ufs -o noatime "):
		return nil, s.mount(c.Argv[5], c.Argv[6])
	case c.Argv[0] == "umount":
		return nil, s.unmount(c.Argv[1])
	}
	s.T.Errorf("bootsync ran %s", line)
	return nil, errors.New("not here")
}

// mount lays the files of a rig partition into a directory.
func (s *syncer) mount(dev, dir string) error {
	s.mounted[dir] = dev
	return fakebsd.LayFiles(dev, dir, s.Man.Boot.RigSize)
}

// unmount makes a rig partition of what is in the directory it was mounted at.
func (s *syncer) unmount(dir string) error {
	dev, ok := s.mounted[dir]
	delete(s.mounted, dir)
	if !ok { // a boot environment
		return os.RemoveAll(dir)
	}
	var entries []tree.Entry
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if d.IsDir() {
			entries = append(entries, tree.Entry{Path: rel, Kind: tree.Dir, Perm: 0o755})
			return nil
		}
		b, err := os.ReadFile(p)
		entries = append(entries, tree.FileEntry(rel, b))
		return err
	})
	if err != nil {
		return err
	}
	t, err := tree.New(entries)
	if err != nil {
		return err
	}
	plan, err := ufs.Layout(t, ufs.Options{Label: "rig", Size: s.Man.Boot.RigSize, ID: manifest.FSID(s.Man.Image)})
	if err != nil {
		return err
	}
	out, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(plan.Write(out), out.Close()); err != nil {
		return err
	}
	list, err := filepath.Glob(filepath.Join(dir, "*"))
	for _, p := range list {
		err = errors.Join(err, os.RemoveAll(p))
	}
	return err
}

// list stands for zfs.ListDatasets; it counts as a command.
func (s *syncer) list(string) (all []zfs.DatasetInfo, err error) {
	s.calls++
	if s.cut > 0 && s.calls >= s.cut {
		return nil, errCut
	}
	for _, name := range s.datasets {
		all = append(all, zfs.DatasetInfo{Name: name})
	}
	return all, nil
}

// power is the power coming back: what was mounted is on disk as far as it got.
func (s *syncer) power() {
	for dir := range s.mounted {
		s.Check(s.unmount(dir))
	}
	s.calls, s.cut = 0, 0
}

func (s *syncer) sync() (said string, err error) {
	var b strings.Builder
	err = Bootsync{Run: s, Root: s.root, Datasets: s.list, Logf: func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }}.Sync(context.Background())
	return b.String(), err
}

var (
	mountFrom = regexp.MustCompile(`(?m)^vfs\.root\.mountfrom="zfs:(\S+)"$`)
	kernelDir = regexp.MustCompile(`(?m)^kernel="(\S+)"$`)
)

// boots is what a disk boots as the loader would: "dataset with the content of the
// kernel". A kernel that is not whole is an error.
func (s *syncer) boots(serial string) string {
	s.T.Helper()
	d, fsys, err := OpenRig(s.labelled(serial), s.Man.Boot.RigSize, false)
	s.Check(err)
	defer d.Close()
	t, err := fsys.Tree()
	s.Check(err)
	text, err := t.ReadFile(manifest.SwitchFile, manifest.SwitchSize)
	s.Check(err)
	from := mountFrom.FindSubmatch(text)
	if from == nil {
		return "the installer"
	}
	k := kernelDir.FindSubmatch(text)
	if k == nil {
		return string(from[1]) + " with the image's"
	}
	dir := "boot/" + string(k[1])
	id, err := KernelIDOf(t, dir)
	if err != nil || KernelPrefix+id != string(k[1]) {
		s.T.Errorf("%s boots %s, which is not whole: %s, %v", serial, dir, id, err)
	}
	for _, name := range bootModules() {
		if _, ok := t.Lookup(dir + "/" + name); !ok {
			s.T.Errorf("%s boots %s, which has no %s", serial, dir, name)
		}
	}
	content, err := t.ReadFile(dir+"/kernel", 1<<20)
	s.Check(err)
	return string(from[1]) + " with " + string(content)
}

func (s *syncer) labelled(serial string) string { return filepath.Join(s.root, "dev/gpt/rig-"+serial) }

// kernels are the directories of kernels on a disk, the image's left out.
func (s *syncer) kernels(serial string) (names []string) {
	d, fsys, err := OpenRig(s.labelled(serial), s.Man.Boot.RigSize, false)
	s.Check(err)
	defer d.Close()
	t, err := fsys.Tree()
	s.Check(err)
	for e := range t.All() {
		if e.Kind == tree.Dir && strings.HasPrefix(e.Path, "boot/"+KernelPrefix) {
			names = append(names, e.Path)
		}
	}
	return names
}

// update gives the running boot environment another kernel.
func (s *syncer) update(content string) {
	s.Check(os.WriteFile(filepath.Join(s.root, "boot/kernel/kernel"), []byte(content), 0o555))
}

// all checks what the four disks boot.
func (s *syncer) all(want string) {
	s.T.Helper()
	for i := 1; i <= 4; i++ {
		if got := s.boots(fmt.Sprintf("S%d", i)); got != want {
			s.T.Errorf("S%d boots %s, want %s", i, got, want)
		}
	}
}

func TestBootsync(t *testing.T) {
	s := newSyncer(t)
	be := s.Unit().Root()
	if said, err := s.sync(); err != nil || said != "" {
		t.Errorf("in step already: %q, %v", said, err)
	}
	s.all(be + " with the image's")

	s.update("k2") // freebsd-update
	said, err := s.sync()
	if err != nil || strings.Count(said, "\n") != 4 || !strings.Contains(said, "rig-S3 boots "+be+" with kernel ") {
		t.Errorf("%q, %v", said, err)
	}
	s.all(be + " with k2")
	if said, err := s.sync(); err != nil || said != "" {
		t.Errorf("a second time: %q, %v", said, err)
	}
	s.update("k3") // k2 stays until k3 is what is booted, then it goes
	if _, err := s.sync(); err != nil {
		t.Error(err)
	}
	s.update("k4")
	if _, err := s.sync(); err != nil {
		t.Error(err)
	}
	s.all(be + " with k4")
	if k := s.kernels("S2"); len(k) != 2 {
		t.Errorf("kernels on S2: %v; want the one that is booted and the one before", k)
	}
}

// Another boot environment is activated, and back.
func TestBootsyncActivate(t *testing.T) {
	s := newSyncer(t)
	be := s.Unit().Root()
	s.Check(os.CopyFS(filepath.Join(s.root, "other"), os.DirFS(filepath.Join(s.root, "boot"))))
	s.bootfs = s.PoolName + "/ROOT/next"
	s.datasets = []string{s.bootfs, s.bootfs + "/jails/pg_j"}
	if _, err := s.sync(); err != nil {
		t.Fatal(err)
	}
	s.all(s.bootfs + " with the image's")
	s.Check(os.Remove(filepath.Join(s.root, "other/kernel/kernel")))
	s.Check(os.WriteFile(filepath.Join(s.root, "other/kernel/kernel"), []byte("next"), 0o555))
	if _, err := s.sync(); err != nil {
		t.Fatal(err)
	}
	s.all(s.bootfs + " with next")
	s.bootfs, s.datasets = be, []string{be, be + "/jails/pg_j"}
	if _, err := s.sync(); err != nil {
		t.Fatal(err)
	}
	s.all(be + " with the image's")
}

// Wherever the power goes, at each command and at each file, every disk boots the old
// system or the new one, whole; the next bootsync brings all to the new one.
func TestBootsyncPowerCut(t *testing.T) {
	s := newSyncer(t)
	be := s.Unit().Root()
	s.update("k1")
	if _, err := s.sync(); err != nil {
		t.Fatal(err)
	}
	generation := 1
	next := func() (before, after string) {
		before = fmt.Sprintf("%s with k%d", be, generation)
		generation++
		s.update(fmt.Sprintf("k%d", generation))
		return before, fmt.Sprintf("%s with k%d", be, generation)
	}
	settle := func(where, before, after string) {
		t.Helper()
		s.power()
		var got []string
		for i := 1; i <= 4; i++ {
			got = append(got, s.boots(fmt.Sprintf("S%d", i)))
		}
		for i, g := range got {
			if g != before && g != after {
				t.Errorf("%s: S%d boots %s, which is neither %s nor %s", where, i+1, g, before, after)
			}
		}
		if _, err := s.sync(); err != nil {
			t.Errorf("%s: the next bootsync: %v", where, err)
		}
		s.all(after)
		if t.Failed() {
			t.FailNow()
		}
	}
	before, after := next()
	s.calls = 0
	if _, err := s.sync(); err != nil {
		t.Fatal(err)
	}
	commands := s.calls
	settle("not at all", before, after)
	for cut := 1; cut <= commands; cut++ {
		before, after := next()
		s.calls, s.cut = 0, cut
		if _, err := s.sync(); !errors.Is(err, errCut) && !strings.Contains(fmt.Sprint(err), errCut.Error()) {
			t.Errorf("command %d: %v", cut, err)
		}
		settle(fmt.Sprintf("command %d of %d", cut, commands), before, after)
	}
	for _, name := range bootModules() {
		before, after := next()
		file := filepath.Join(s.root, "boot/kernel", name)
		b, err := os.ReadFile(file)
		s.Check(err)
		if name != "zfs.ko" && name != "geom_eli.ko" { // without these it does not begin
			s.Check(os.Remove(file))
			if _, err := s.sync(); err == nil {
				t.Errorf("%s is missing, and nothing is said", name)
			}
			s.Check(os.WriteFile(file, b, 0o555))
		}
		settle("file "+name, before, after)
	}
}

func TestBootsyncRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*syncer)
		want   string
		hint   string
	}{
		{"an environment without jails", func(s *syncer) {
			s.bootfs = s.PoolName + "/ROOT/plain"
			s.datasets = []string{s.bootfs}
		}, "boot environment plain is without the roots of pg_j: the server would come up without them", `bectl activate another one; "bectl create -r NAME" makes one with jails`},
		{"no bootfs", func(s *syncer) { s.bootfs = "-" }, "the bootfs of pool zroot is \"-\", which is no boot environment", "bectl activate UNIT"},
		{"another pool's", func(s *syncer) { s.bootfs = "tank/ROOT/a" }, "the bootfs of pool zroot is \"tank/ROOT/a\", which is no boot environment", "bectl activate UNIT"},
		{"no rig partitions", func(s *syncer) { s.Check(os.RemoveAll(filepath.Join(s.root, "dev/gpt"))) }, "find rig partitions: there is none in /dev/gpt", ""},
		{"not installed by rig", func(s *syncer) { s.Check(os.Remove(filepath.Join(s.root, place.ResultDir, "manifest.json"))) },
			"this is not a system riginstall made: open ROOT/var/db/rig/manifest.json: no such file or directory", ""},
		{"a damaged disk", func(s *syncer) {
			s.update("k2")
			s.Check(os.WriteFile(s.Dev("vtbd2p3"), make([]byte, s.Man.Boot.RigSize), 0o600))
		}, "/dev/gpt/rig-S3: ", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSyncer(t)
			be := s.Unit().Root()
			tt.change(s)
			_, err := s.sync()
			plain := strings.NewReplacer(s.PoolName, "zroot", s.root, "ROOT", s.Man.Image, "UNIT").Replace
			if err == nil || !strings.HasPrefix(plain(err.Error()), tt.want) || plain(diag.HintOf(err)) != tt.hint {
				t.Errorf("got  %v; hint %s\nwant %s; hint %s", err, diag.HintOf(err), tt.want, tt.hint)
			}
			switch tt.name {
			case "no rig partitions":
			case "a damaged disk": // the others follow
				for _, serial := range []string{"S1", "S2", "S4"} {
					if got := s.boots(serial); got != be+" with k2" {
						t.Errorf("%s boots %s", serial, got)
					}
				}
			default:
				s.all(be + " with the image's")
			}
		})
	}
}
