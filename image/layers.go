package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/live"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/image/uzip"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/sums"
	"github.com/rig-freebsd/rig/internal/work"
	"github.com/rig-freebsd/rig/overlay"
)

// parts is what is made of the inputs, before it is put together.
type parts struct {
	layers   []made   // base, kernel, host, jails
	root     artifact // the installer's
	chosen   *chosen
	packages []tree.Entry // of the rig partition
}

// made is a layer as the manifest has it, and its file.
type made struct {
	manifest.Layer
	file artifact
}

// parts makes layers, the installer's root, and the repository of packages. What does
// not need each other is made at the same time; layers are made one after the other,
// for memory.
func (j *job) parts(ctx context.Context, in *inputs) (*parts, error) {
	p := &parts{chosen: in.chosen}
	var release, overlays []made
	var loaded []*loaded
	err := work.Together(ctx, func(ctx context.Context) (err error) {
		p.root, err = j.memoryRoot(ctx, in)
		return err
	}, func(ctx context.Context) (err error) {
		if p.chosen == nil {
			if p.chosen, err = j.choose(ctx, in.base); err != nil {
				return err
			}
		}
		p.packages, err = j.bundlePackages(ctx, p.chosen, in)
		return err
	}, func(ctx context.Context) (err error) {
		release, err = j.releaseLayers(ctx, in)
		return err
	}, func(ctx context.Context) (err error) {
		loaded, err = j.loadOverlays(ctx, in)
		return err
	})
	if err != nil {
		return nil, err
	}
	if overlays, err = j.overlayLayers(ctx, loaded); err != nil {
		return nil, err
	}
	p.layers = append(release, overlays...)
	return p, j.checkLockedOverlays(overlays)
}

// releaseLayers makes the layers of the sets; where the base system is packages, there
// are none.
func (j *job) releaseLayers(ctx context.Context, in *inputs) ([]made, error) {
	if j.cfg.pkgbase() {
		return nil, nil
	}
	base, err := j.layer(ctx, manifest.Layer{Role: manifest.LayerBase}, key("layer", in.setSum("base")), "", in.base)
	if err != nil {
		return nil, err
	}
	kern, err := j.layer(ctx, manifest.Layer{Role: manifest.LayerKernel}, key("layer", in.setSum("kernel")), "", in.kern)
	return []made{base, kern}, err
}

// layer makes the layer of a tree. before is the key of a layer that is probably much
// like it, "" for none.
func (j *job) layer(ctx context.Context, l manifest.Layer, key, before string, t *tree.Tree) (made, error) {
	j.Progress("layer "+string(l.Role)+" "+l.Jail, 0, 0)
	a, err := j.cache.get(ctx, "layers", key, func(f *os.File) (layer.Info, error) {
		like, err := j.cache.layer(before)
		if err != nil || like == nil {
			return layer.Write(work.On(ctx, f), t, layer.Options{})
		}
		defer like.Close()
		return layer.Write(work.On(ctx, f), t, layer.Options{Like: &like.Layer})
	})
	if err != nil {
		return made{}, fmt.Errorf("layer %s%s: %w", l.Role, l.Jail, err)
	}
	l.SHA256, l.Size, l.ContentSize, l.Entries = a.SHA256, a.Size, a.ContentSize, a.Entries
	l.Templates = overlay.Templates(t)
	return made{l, a}, nil
}

// loaded is an overlay that was read and checked.
type loaded struct {
	layer manifest.Layer // what it will be
	tree  *tree.Tree
	key   string
	known *sums.Cache // of its files; notes the key of the layer made of them last
}

// loadOverlays reads the overlays of host and jails.
func (j *job) loadOverlays(ctx context.Context, in *inputs) ([]*loaded, error) {
	roots := append([]RootConfig{j.cfg.Host}, j.cfg.Jails...)
	var out []*loaded
	for i, r := range roots {
		l := manifest.Layer{Role: manifest.LayerHost}
		if i > 0 {
			l = manifest.Layer{Role: manifest.LayerJail, Jail: r.Name}
		}
		o, err := j.loadOverlay(l, r, in)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func (j *job) loadOverlay(l manifest.Layer, r RootConfig, in *inputs) (*loaded, error) {
	dir := r.overlay()
	known := j.cache.sums(j.ProfileName, dir)
	t, err := overlay.Load(j.Profile, dir, overlay.Options{Time: in.at, Sums: known})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, diag.Hint(diag.Inputf("%s: there is no overlay directory %s", j.ProfileName, dir), "make it, or name another with overlay = \"…\" in %s", ConfigFile)
	}
	if err != nil {
		return nil, err
	}
	if t, err = t.Resolve(r.accounts(in.acc)); err != nil {
		return nil, diag.Input(fmt.Errorf("overlay %s: %w", dir, err))
	}
	if err := j.checkTemplates(dir, t); err != nil {
		return nil, err
	}
	text := sha256.New()
	if err := t.WriteMtree(text, true); err != nil {
		return nil, err
	}
	return &loaded{l, t, key("overlay", hex.EncodeToString(text.Sum(nil))), known}, nil
}

// accounts are those of base and the root's own.
func (r *RootConfig) accounts(base *tree.Accounts) *tree.Accounts {
	acc := &tree.Accounts{Users: maps.Clone(base.Users), Groups: maps.Clone(base.Groups)}
	for _, u := range r.Users {
		acc.Users[u.Name], acc.Groups[u.Name] = uint32(u.UID), uint32(u.UID)
	}
	return acc
}

func (j *job) overlayLayers(ctx context.Context, overlays []*loaded) ([]made, error) {
	var out []made
	for i, o := range overlays {
		m, err := j.layer(ctx, o.layer, o.key, o.known.Note, o.tree)
		if err != nil {
			return nil, err
		}
		o.known.Note = o.key
		if err := o.known.Save(); err != nil { // the next build reads the files again
			j.Logf("cache sums of overlay %s: %v", reader.OverlayRoot(o.layer), err)
		}
		out = append(out, m)
		overlays[i] = nil // the tree of 100,000 files
	}
	return out, nil
}

// memoryRoot makes the installer's root: a UFS2 image, compressed as uzip.
func (j *job) memoryRoot(ctx context.Context, in *inputs) (artifact, error) {
	j.Progress("installer root", 0, 0)
	prog, err := j.Riginstall(ctx)
	if err != nil {
		return artifact{}, err
	}
	sum, err := hashFile(prog)
	if err != nil {
		return artifact{}, err
	}
	programs := j.programs()
	k := key(append([]string{"mfsroot", live.Recipe(), in.setSum("base"), in.setSum("kernel"), hex.EncodeToString(sum)}, programs...)...)
	a, err := j.cache.get(ctx, "boot", k, func(f *os.File) (layer.Info, error) { return in.writeMemoryRoot(ctx, f, prog, programs) })
	if err != nil {
		return a, fmt.Errorf("installer root: %w", err)
	}
	return a, nil
}

func (in *inputs) writeMemoryRoot(ctx context.Context, f *os.File, prog string, programs []string) (layer.Info, error) {
	st, err := os.Stat(prog)
	if err != nil {
		return layer.Info{}, err
	}
	self := in.own(0o555)
	self.Path, self.Size = live.Riginstall, st.Size()
	self.Open = func() (io.ReadCloser, error) { return os.Open(prog) }
	root, err := live.Root(in.base, live.Options{Programs: programs, Riginstall: self, Kernel: in.kern, Time: in.at})
	if err != nil {
		return layer.Info{}, err
	}
	if root, err = root.Resolve(in.acc); err != nil {
		return layer.Info{}, err
	}
	plan, err := ufs.Layout(root, ufs.Options{Label: "mfsroot", ID: manifest.FSID("mfsroot"), Time: in.at})
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
	n, err := uzip.Write(work.On(ctx, f), raw, plan.Size(), uzip.Options{})
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
