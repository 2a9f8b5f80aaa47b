// Package image turns a profile, release sets and overlays into a bootable disk
// image: config → layers and memory root → layout → bytes, read back.
//
// The image is a GPT disk of three partitions: freebsd-boot (gptboot), an EFI
// system partition (FAT32) and "rig" (UFS2), which holds loader, kernel, the
// installer's memory root and the bundle. Equal inputs give equal bytes on every
// host. Nothing large is held in memory; what is expensive to make is cached by
// content. Sizes are bytes.
package image

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"rig/dist"
	"rig/image/ufs"
	"rig/image/uzip"
	"rig/internal/diag"
	"rig/layer"
	"rig/live"
	"rig/manifest"
	"rig/overlay"
	"rig/tree"
)

// Options of Build.
type Options struct {
	Profile     fs.FS
	ProfileName string   // how messages call the profile: a directory, or "webrig"
	Output      string   // path of the image, whose ending says what it is: see formatOf
	Also        []string // more media of the same bundle
	Appliance   Appliance
	Network     Network
	Servers     []Server // one for each of Output and Also, instead of Answers and Appliance
	Sets        string   // directory with release sets, "" = look for them
	Cache       string   // "" = the user's cache directory
	Packages    string   // repository to use instead of the profile's: URL or directory; NoPackages
	Unlocked    bool     // pass over the profile's lock
	Demo        bool     // synthetic sets, no FreeBSD and no packages inside
	Answers     []byte   // for the ESP, nil for none
	AnswersName string
	// Riginstall returns the path of riginstall for freebsd/amd64.
	Riginstall func(ctx context.Context) (string, error)
	Progress   func(what string, done, total int64) // called by several goroutines
	Logf       func(format string, args ...any)
}

// Result is what Build made.
type Result struct {
	Path     string             `json:"path"`
	Size     int64              `json:"size"` // of the image; the file is sparse
	Bundle   int64              `json:"bundle"`
	Media    []Medium           `json:"media"`
	Manifest *manifest.Manifest `json:"manifest"`
}

type builder struct {
	Options
	cfg     *Config
	lock    *Lock // nil when the profile has none
	cache   cache
	chosen  *chosen
	sets    *dist.Sets
	version string     // of the base system: "15.1-RELEASE-p1"
	base    *tree.Tree // owners resolved, no empty password
	kern    *tree.Tree
	acc     *tree.Accounts
	at      time.Time // of every file rigimage makes
	man     *manifest.Manifest
	gz      map[string]artifact // kernel and modules for the loader, by path

	mu  sync.Mutex   // guards rig while layers and memory root are made
	rig []tree.Entry // of the rig partition
}

// add puts files on the rig partition; their order does not matter.
func (b *builder) add(e ...tree.Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rig = append(b.rig, e...)
}

// Build makes the image. Output appears complete or not at all.
func Build(ctx context.Context, o Options) (*Result, error) {
	if err := o.CheckOutputs(); err != nil {
		return nil, err
	}
	if err := o.Network.check(); err != nil {
		return nil, err
	}
	b, err := newBuilder(o)
	if err != nil {
		return nil, err
	}
	defer b.close()
	if err := b.inputs(ctx); err != nil {
		return nil, err
	}
	work := []func(context.Context) error{b.memoryRoot, b.packages}
	if !b.cfg.pkgbase() {
		work = append(work, b.releaseLayers)
	}
	if err := together(ctx, work...); err != nil {
		return nil, err
	}
	if err := b.overlays(ctx); err != nil {
		return nil, err
	}
	if err := b.checkLockedOverlays(); err != nil {
		return nil, err
	}
	if err := b.bootTree(); err != nil {
		return nil, err
	}
	return b.write(ctx)
}

// newBuilder reads and checks what the user wrote.
func newBuilder(o Options) (*builder, error) {
	b := &builder{Options: o}
	if b.Progress == nil {
		b.Progress = func(string, int64, int64) {}
	}
	if b.Logf == nil {
		b.Logf = func(string, ...any) {}
	}
	dir, err := cacheDir(o.Cache)
	if err != nil {
		return nil, err
	}
	b.cache = cache{dir}
	if b.cfg, err = LoadConfig(o.Profile, filepath.Join(o.ProfileName, ConfigFile)); err != nil {
		return nil, err
	}
	if err := b.checkAnswers(); err != nil {
		return nil, err
	}
	if b.Demo && b.cfg.pkgbase() {
		return nil, diag.Inputf("%s: a demo has no packages, and %s asks for a base system of packages", b.ProfileName, ConfigFile)
	}
	if err := b.loadLock(); err != nil {
		return nil, err
	}
	b.man = &manifest.Manifest{Schema: manifest.Schema, Name: b.cfg.Name,
		FreeBSD: manifest.FreeBSD{Version: b.cfg.FreeBSD.Version, Arch: b.cfg.FreeBSD.Arch},
		Pool:    b.cfg.Pool, Boot: b.cfg.Boot.manifest(), Questions: b.cfg.Questions}
	return b, nil
}

func (b *builder) close() {
	if b.sets != nil {
		b.sets.Close()
	}
}

// inputs opens the base system, as sets or as packages.
func (b *builder) inputs(ctx context.Context) error {
	if !b.cfg.pkgbase() {
		if err := b.locateSets(ctx); err != nil {
			return err
		}
		if err := b.checkLockedSets(); err != nil {
			return err
		}
		return b.openSets(ctx)
	}
	if err := b.choose(ctx); err != nil {
		return err
	}
	b.man.FreeBSD.Host, b.man.FreeBSD.Jail = b.chosen.roots[hostBaseRoot], b.chosen.roots[jailBaseRoot]
	var err error
	if b.sets, err = dist.Packages(b.distOptions(), b.chosen.baseArchives()); err != nil {
		return err
	}
	return b.openSets(ctx)
}

// packages chooses packages, unless inputs did, and puts them into the bundle.
func (b *builder) packages(ctx context.Context) error {
	if b.chosen == nil {
		if err := b.choose(ctx); err != nil {
			return err
		}
	}
	return b.bundlePackages(ctx)
}

// together runs functions at the same time. When one fails the others are
// cancelled, and its error is returned.
func together(ctx context.Context, fs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, f := range fs {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (b *builder) distOptions() dist.Options {
	return dist.Options{Dir: b.Sets, Cache: b.cache.dir, Version: b.cfg.FreeBSD.Version, Arch: b.cfg.FreeBSD.Arch,
		Progress: b.Progress, Logf: b.Logf}
}

func (b *builder) locateSets(ctx context.Context) (err error) {
	o := b.distOptions()
	if b.Demo {
		programs := append(live.Programs(), b.cfg.Live.Programs...)
		o.Dir = filepath.Join(b.cache.dir, "demo-"+key(append(programs, live.Modules()...)...)[:12])
		if _, err := os.Stat(filepath.Join(o.Dir, "MANIFEST")); err != nil {
			if err := dist.WriteDemoSets(o.Dir, programs); err != nil {
				return err
			}
		}
	}
	b.sets, err = dist.Locate(ctx, o, "base", "kernel")
	return err
}

// openSets decodes base and kernel.
func (b *builder) openSets(ctx context.Context) error {
	var raw *tree.Tree
	err := together(ctx, b.kernel, func(ctx context.Context) (err error) {
		raw, err = b.sets.Tree(ctx, "base")
		return err
	})
	if err != nil {
		return err
	}
	if b.version, err = dist.Version(raw); err != nil {
		return err
	}
	if !b.Demo && !strings.HasPrefix(b.version, b.cfg.FreeBSD.Version) {
		return diag.Inputf("%s asks for FreeBSD %s and the base system is %s", b.ProfileName, b.cfg.FreeBSD.Version, b.version)
	}
	e, _ := raw.Lookup("bin/freebsd-version")
	b.at = e.ModTime
	return b.resolve(raw)
}

// kernel decodes the kernel set and compresses what the loader loads of it.
func (b *builder) kernel(ctx context.Context) (err error) {
	if b.kern, err = b.sets.Tree(ctx, "kernel"); err != nil {
		return err
	}
	set, _ := b.sets.Get("kernel")
	b.gz = map[string]artifact{}
	for _, name := range append([]string{"kernel"}, loaderModules()...) {
		p := "boot/kernel/" + name
		e, ok := b.kern.Lookup(p)
		if !ok || e.Kind != tree.File {
			return fmt.Errorf("kernel set: %s is missing", p)
		}
		b.Progress("compress "+name, 0, 0)
		b.gz[p], err = b.cache.get(ctx, "boot", key("gzip", set.SHA256, p), func(f *os.File) (layer.Info, error) { return gzipped(ctx, f, e) })
		if err != nil {
			return fmt.Errorf("compress %s: %w", p, err)
		}
	}
	return nil
}

// resolve gives base and kernel numeric owners by base's own accounts, and locks
// the accounts that base ships with an empty password.
func (b *builder) resolve(raw *tree.Tree) error {
	passwd, err := raw.ReadFile("etc/master.passwd", 1<<20)
	if err != nil {
		return err
	}
	group, err := raw.ReadFile("etc/group", 1<<20)
	if err != nil {
		return err
	}
	if b.acc, err = tree.ParseAccounts(bytes.NewReader(passwd), bytes.NewReader(group)); err != nil {
		return err
	}
	old, _ := raw.Lookup("etc/master.passwd")
	locked := *old
	text := manifest.LockAccounts(passwd)
	locked.Size, locked.Open = int64(len(text)), tree.Bytes(text)
	upper, err := tree.New([]tree.Entry{locked})
	if err != nil {
		return err
	}
	if raw, err = tree.Merge(raw, upper); err != nil {
		return err
	}
	if b.base, err = raw.Resolve(b.acc); err != nil {
		return err
	}
	b.kern, err = b.kern.Resolve(b.acc)
	return err
}

// releaseLayers makes the layers of the sets.
func (b *builder) releaseLayers(ctx context.Context) error {
	for _, l := range []struct {
		role manifest.LayerRole
		set  string
		tree *tree.Tree
	}{{manifest.LayerBase, "base", b.base}, {manifest.LayerKernel, "kernel", b.kern}} {
		set, _ := b.sets.Get(l.set)
		if err := b.layer(ctx, manifest.Layer{Role: l.role}, key("layer", set.SHA256), l.tree); err != nil {
			return err
		}
	}
	return nil
}

// layer puts a tree into the bundle.
func (b *builder) layer(ctx context.Context, l manifest.Layer, key string, t *tree.Tree) error {
	b.Progress("layer "+string(l.Role)+" "+l.Jail, 0, 0)
	a, err := b.cache.get(ctx, "layers", key, func(f *os.File) (layer.Info, error) {
		return layer.Write(stopper{ctx, f}, t, layer.Options{})
	})
	if err != nil {
		return fmt.Errorf("layer %s%s: %w", l.Role, l.Jail, err)
	}
	l.SHA256, l.Size, l.ContentSize, l.Entries = a.SHA256, a.Size, a.ContentSize, a.Entries
	l.Templates = overlay.Templates(t)
	if !slices.ContainsFunc(b.man.Layers, func(o manifest.Layer) bool { return o.SHA256 == l.SHA256 }) {
		b.add(a.entry(l.Path(), b.like(0o644)))
	}
	b.man.Layers = append(b.man.Layers, l)
	return nil
}

// like is a root-owned file of the image's own time.
func (b *builder) like(perm uint16) tree.Entry {
	return tree.Entry{Kind: tree.File, Perm: perm, ModTime: b.at}
}

// overlays reads host and jails of the profile.
func (b *builder) overlays(ctx context.Context) error {
	c := b.cfg
	b.man.Datasets = slices.Clone(c.Datasets)
	b.man.Users = users(c.Host.Users)
	b.man.Host = manifest.Host{Packages: b.chosen.roots[hostRoot], Services: c.Host.Services, Run: c.Host.Run}
	if err := b.overlay(ctx, manifest.Layer{Role: manifest.LayerHost}, c.Host); err != nil {
		return err
	}
	for _, j := range c.Jails {
		if err := b.overlay(ctx, manifest.Layer{Role: manifest.LayerJail, Jail: j.Name}, j); err != nil {
			return err
		}
		for _, d := range j.Datasets {
			d.Name = "jails/" + j.Name + "/" + d.Name
			b.man.Datasets = append(b.man.Datasets, d)
		}
		b.man.Jails = append(b.man.Jails, manifest.Jail{Name: j.Name, Interfaces: j.Interfaces, Users: users(j.Users),
			Packages: b.chosen.roots[j.Name], Services: j.Services, Run: j.Run})
	}
	return nil
}

func (b *builder) overlay(ctx context.Context, l manifest.Layer, r RootConfig) error {
	dir := r.overlay()
	t, err := overlay.Load(b.Profile, dir, overlay.Options{Time: b.at})
	if errors.Is(err, fs.ErrNotExist) {
		return diag.Hint(diag.Inputf("%s: there is no overlay directory %s", b.ProfileName, dir), "make it, or name another with overlay = \"…\" in %s", ConfigFile)
	}
	if err != nil {
		return err
	}
	acc := &tree.Accounts{Users: map[string]uint32{}, Groups: map[string]uint32{}}
	for name, id := range b.acc.Users {
		acc.Users[name] = id
	}
	for name, id := range b.acc.Groups {
		acc.Groups[name] = id
	}
	for _, u := range r.Users {
		acc.Users[u.Name], acc.Groups[u.Name] = uint32(u.UID), uint32(u.UID)
	}
	if t, err = t.Resolve(acc); err != nil {
		return diag.Input(fmt.Errorf("overlay %s: %w", dir, err))
	}
	if err := b.checkTemplates(dir, t); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := t.WriteMtree(&text, true); err != nil {
		return err
	}
	return b.layer(ctx, l, key("overlay", text.String()), t)
}

// bootTree is loader, kernel and what they load before a root is mounted.
func (b *builder) bootTree() error {
	base, err := bootBase(b.base)
	if err != nil {
		return err
	}
	for e := range base.All() {
		x := *e
		x.Flags = 0
		if x.Kind == tree.HardLink {
			f, _ := base.Lookup(x.Link)
			x = *f
			x.Path = e.Path
		}
		b.add(x)
	}
	for p, a := range b.gz {
		b.add(a.entry(p+".gz", b.like(0o555)))
	}
	if e, ok := b.kern.Lookup("boot/kernel/linker.hints"); ok {
		b.add(*e)
	}
	b.add(bootFile(localLua, []byte(consoleLua), b.at),
		tree.Entry{Path: manifest.ConfDir, Kind: tree.Dir, Perm: 0o755, ModTime: b.at})
	return nil
}

// memoryRoot makes the installer's root: a UFS2 image, compressed as uzip.
func (b *builder) memoryRoot(ctx context.Context) error {
	b.Progress("installer root", 0, 0)
	prog, err := b.Riginstall(ctx)
	if err != nil {
		return err
	}
	sum, err := hashFile(prog)
	if err != nil {
		return err
	}
	programs := append(live.Programs(), b.cfg.Live.Programs...)
	base, _ := b.sets.Get("base")
	kern, _ := b.sets.Get("kernel")
	k := key(append([]string{"mfsroot", live.Recipe(), base.SHA256, kern.SHA256, hex.EncodeToString(sum)}, programs...)...)
	a, err := b.cache.get(ctx, "boot", k, func(f *os.File) (layer.Info, error) { return b.writeMemoryRoot(ctx, f, prog, programs) })
	if err != nil {
		return fmt.Errorf("installer root: %w", err)
	}
	b.add(a.entry(manifest.MFSRoot, b.like(0o644)))
	return nil
}

func (b *builder) writeMemoryRoot(ctx context.Context, f *os.File, prog string, programs []string) (layer.Info, error) {
	st, err := os.Stat(prog)
	if err != nil {
		return layer.Info{}, err
	}
	self := b.like(0o555)
	self.Path, self.Size = live.Riginstall, st.Size()
	self.Open = func() (io.ReadCloser, error) { return os.Open(prog) }
	root, err := live.Root(b.base, live.Options{Programs: programs, Riginstall: self, Kernel: b.kern, Time: b.at})
	if err != nil {
		return layer.Info{}, err
	}
	if root, err = root.Resolve(b.acc); err != nil {
		return layer.Info{}, err
	}
	plan, err := ufs.Layout(root, ufs.Options{Label: "mfsroot", ID: manifest.FSID("mfsroot"), Time: b.at})
	if err != nil {
		return layer.Info{}, err
	}
	raw, err := os.CreateTemp(filepath.Dir(f.Name()), ".mfsroot-*")
	if err != nil {
		return layer.Info{}, err
	}
	defer os.Remove(raw.Name())
	defer raw.Close()
	if err := raw.Truncate(plan.Size()); err != nil {
		return layer.Info{}, err
	}
	if err := plan.Write(raw); err != nil {
		return layer.Info{}, err
	}
	n, err := uzip.Write(stopper{ctx, f}, raw, plan.Size(), uzip.Options{})
	if err != nil {
		return layer.Info{}, err
	}
	if err := uzip.Verify(f, n, raw, plan.Size()); err != nil {
		return layer.Info{}, err
	}
	sum, err := hashFile(f.Name())
	if err != nil {
		return layer.Info{}, err
	}
	return sized(f, sum, plan.Size())
}

// identify computes the image id from everything that is in the image, then adds
// the files that carry it.
func (b *builder) identify(esp *tree.Tree) (*tree.Tree, error) {
	b.man.Image = b.cfg.Name + "-0" // any valid id; it is not part of the sum yet
	for _, e := range b.rig {
		if e.Kind == tree.File && !strings.HasPrefix(e.Path, manifest.LayerDir+"/") {
			if err := b.addFile(manifest.RoleRig, &e); err != nil {
				return nil, err
			}
		}
	}
	for e := range esp.All() {
		if e.Kind == tree.File {
			if err := b.addFile(manifest.RoleESP, e); err != nil {
				return nil, err
			}
		}
	}
	b.man.Files = append(b.man.Files, manifest.BootFile{Part: manifest.RoleRig, Path: manifest.LoaderConf, SHA256: hex.EncodeToString(make([]byte, 32))})
	sortFiles(b.man.Files)
	id, err := b.man.ID([]byte(loaderConf("", b.man.Boot)))
	if err != nil {
		return nil, err
	}
	b.man.Image = id
	conf := bootFile(manifest.LoaderConf, []byte(loaderConf(b.man.Image, b.man.Boot)), b.at)
	b.man.Files = slices.DeleteFunc(b.man.Files, func(f manifest.BootFile) bool { return f.Path == conf.Path })
	if err := b.addFile(manifest.RoleRig, &conf); err != nil {
		return nil, err
	}
	sortFiles(b.man.Files)
	text, err := b.man.Encode()
	if err != nil {
		return nil, err
	}
	b.rig = append(b.rig, conf, bootFile(manifest.SwitchFile, manifest.InstallSwitch(), b.at), bootFile(manifest.File, text, b.at))
	for i := range b.rig {
		b.rig[i].Owner, b.rig[i].Group, b.rig[i].UID, b.rig[i].GID = "", "", 0, 0
	}
	t, err := tree.New(b.rig)
	if err != nil {
		return nil, err
	}
	return t.Resolve(b.acc)
}

// sizeRig makes room for three bundles of this size, in whole 64 MiB, where the
// profile does not say how large the rig partition is.
func (b *builder) sizeRig() {
	const step = 64 << 20
	bundle := int64(1 << 20) // what identify adds
	for _, e := range b.rig {
		bundle += e.Size
	}
	if b.cfg.Boot.RigSize == 0 {
		b.man.Boot.RigSize = max(defaultRig, (3*bundle+step-1)/step*step)
	}
}

func sortFiles(f []manifest.BootFile) {
	slices.SortFunc(f, func(a, b manifest.BootFile) int {
		if c := strings.Compare(string(a.Part), string(b.Part)); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
}

func (b *builder) addFile(part manifest.Role, e *tree.Entry) error {
	sum, err := e.Digest()
	if err != nil {
		return err
	}
	b.man.Files = append(b.man.Files, manifest.BootFile{Part: part, Path: e.Path, Size: e.Size, SHA256: sum})
	return nil
}

// write makes the media.
func (b *builder) write(ctx context.Context) (*Result, error) {
	loader, _ := b.base.Lookup("boot/loader.efi")
	if loader.Kind == tree.HardLink {
		loader, _ = b.base.Lookup(loader.Link)
	}
	esp, err := manifest.ESP(*loader, nil, loader.ModTime)
	if err != nil {
		return nil, err
	}
	b.sizeRig()
	root, err := b.identify(esp)
	if err != nil {
		return nil, err
	}
	made, err := b.writeMedia(ctx, *loader, root)
	if err != nil {
		return nil, err
	}
	return &Result{Path: b.Output, Size: b.man.Boot.ImageSize(), Bundle: root.Size(), Media: made, Manifest: b.man}, nil
}
