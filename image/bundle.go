package image

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/media"
	"github.com/rig-freebsd/rig/image/tree"
)

// bundle puts the parts together.
func (j *job) bundle(in *inputs, p *parts) (*media.Bundle, error) {
	files, err := in.bootFiles()
	if err != nil {
		return nil, err
	}
	loader, _ := in.base.Lookup("boot/loader.efi") // bootFiles has seen it
	if loader.Kind == tree.HardLink {
		loader, _ = in.base.Lookup(loader.Link)
	}
	files = append(append(files, p.packages...), p.root.entry(manifest.MFSRoot, in.own(0o644)))
	man := j.manifest(p)
	layers := p.files(in)
	if j.cfg.Boot.RigSize == 0 {
		man.Boot.RigSize = rigSize(slices.Concat(files, layers))
	}
	esp, err := manifest.ESP(*loader, nil, loader.ModTime)
	if err != nil {
		return nil, err
	}
	own, err := identify(man, files, esp, in.at)
	if err != nil {
		return nil, err
	}
	files = slices.Concat(files, layers, own)
	for i := range files {
		files[i].Owner, files[i].Group, files[i].UID, files[i].GID = "", "", 0, 0
	}
	rig, err := tree.New(files)
	if err != nil {
		return nil, err
	}
	if rig, err = rig.Resolve(in.acc); err != nil {
		return nil, err
	}
	return &media.Bundle{Manifest: man, Rig: rig, Loader: *loader, Base: in.base, Accounts: in.acc, Time: in.at}, nil
}

// files are those of the layers, each once.
func (p *parts) files(in *inputs) []tree.Entry {
	var out []tree.Entry
	for i, l := range p.layers {
		if !slices.ContainsFunc(p.layers[:i], func(o made) bool { return o.SHA256 == l.SHA256 }) {
			out = append(out, l.file.entry(l.Path(), in.own(0o644)))
		}
	}
	return out
}

// manifest is what the profile and the parts say of an image. The files of the boot
// partitions, and the id, are not in it yet.
func (j *job) manifest(p *parts) *manifest.Manifest {
	c := j.cfg
	m := &manifest.Manifest{Schema: manifest.Schema, Name: c.Name,
		FreeBSD: manifest.FreeBSD{Version: c.FreeBSD.Version, Arch: c.FreeBSD.Arch},
		Pool:    c.Pool, Boot: c.Boot.manifest(), Questions: c.Questions, Datasets: slices.Clone(c.Datasets), Users: users(c.Host.Users),
		Host:     manifest.Host{Packages: p.chosen.roots[hostRoot], Services: c.Host.Services, Run: c.Host.Run, Keep: c.Host.Keep},
		Networks: c.Networks, Checks: c.Checks}
	if c.pkgbase() {
		m.FreeBSD.Host, m.FreeBSD.Jail = p.chosen.roots[hostBaseRoot], p.chosen.roots[jailBaseRoot]
	}
	for _, l := range p.layers {
		m.Layers = append(m.Layers, l.Layer)
	}
	for _, j := range c.Jails {
		for _, d := range j.Datasets {
			d.Name = manifest.DataDir + "/" + j.Name + "/" + d.Name
			m.Datasets = append(m.Datasets, d)
		}
		m.Jails = append(m.Jails, manifest.Jail{Name: j.Name, Interfaces: j.Interfaces, Users: users(j.Users),
			Packages: p.chosen.roots[j.Name], Services: j.Services, Run: j.Run, Keep: j.Keep})
	}
	return m
}

// bootFiles are loader, kernel and what they load before a root is mounted.
func (in *inputs) bootFiles() ([]tree.Entry, error) {
	base, err := bootBase(in.base)
	if err != nil {
		return nil, err
	}
	var out []tree.Entry
	for e := range base.All() {
		x := *e
		x.Flags = 0
		if x.Kind == tree.HardLink {
			f, _ := base.Lookup(x.Link)
			x = *f
			x.Path = e.Path
		}
		out = append(out, x)
	}
	for p, a := range in.loader {
		out = append(out, a.entry(p+".gz", in.own(0o555)))
	}
	if e, ok := in.kern.Lookup("boot/kernel/linker.hints"); ok {
		out = append(out, *e)
	}
	return append(out, bootFile(localLua, []byte(consoleLua), in.at),
		tree.Entry{Path: manifest.ConfDir, Kind: tree.Dir, Perm: 0o755, ModTime: in.at}), nil
}

// identify computes the image id from everything that is in the image, and returns the
// files that carry it. files are those of the rig partition beside layers, which the
// manifest has already.
func identify(m *manifest.Manifest, files []tree.Entry, esp *tree.Tree, at time.Time) ([]tree.Entry, error) {
	name := m.Name
	m.Image = name + "-0" // any valid id; it is not part of the sum yet
	for i := range files {
		if err := addFile(m, manifest.RoleRig, &files[i]); err != nil {
			return nil, err
		}
	}
	for e := range esp.All() {
		if err := addFile(m, manifest.RoleESP, e); err != nil {
			return nil, err
		}
	}
	conf := bootFile(manifest.LoaderConf, nil, at)
	m.Files = append(m.Files, manifest.BootFile{Part: manifest.RoleRig, Path: conf.Path, SHA256: hex.EncodeToString(make([]byte, 32))})
	sortFiles(m.Files)
	id, err := m.ID([]byte(loaderConf("", m.Boot)))
	if err != nil {
		return nil, err
	}
	m.Image = id
	conf = bootFile(conf.Path, []byte(loaderConf(m.Image, m.Boot)), at)
	m.Files = slices.DeleteFunc(m.Files, func(f manifest.BootFile) bool { return f.Path == conf.Path })
	if err := addFile(m, manifest.RoleRig, &conf); err != nil {
		return nil, err
	}
	sortFiles(m.Files)
	text, err := m.Encode()
	if err != nil {
		return nil, err
	}
	return []tree.Entry{conf, bootFile(manifest.SwitchFile, manifest.InstallSwitch(manifest.RawMedium), at), bootFile(manifest.File, text, at)}, nil
}

// rigSize is room for three bundles of these files, in whole 64 MiB.
func rigSize(files []tree.Entry) int64 {
	const step = 64 << 20
	bundle := int64(1 << 20) // what identify adds
	for _, e := range files {
		bundle += e.Size
	}
	return max(defaultRig, (3*bundle+step-1)/step*step)
}

func sortFiles(f []manifest.BootFile) {
	slices.SortFunc(f, func(a, b manifest.BootFile) int {
		if c := strings.Compare(string(a.Part), string(b.Part)); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
}

// addFile lists a file of a boot partition.
func addFile(m *manifest.Manifest, part manifest.Role, e *tree.Entry) error {
	if e.Kind != tree.File {
		return nil
	}
	sum, err := e.Digest()
	if err != nil {
		return err
	}
	m.Files = append(m.Files, manifest.BootFile{Part: part, Path: e.Path, Size: e.Size, SHA256: sum})
	return nil
}
