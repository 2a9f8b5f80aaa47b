package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/live"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/sets"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/work"
)

// inputs is the base system that a build begins with. Its trees can be read until sets
// are closed.
type inputs struct {
	release *sets.Sets
	version string     // "15.1-RELEASE-p1"
	base    *tree.Tree // owners resolved, no empty password
	kern    *tree.Tree
	acc     *tree.Accounts
	at      time.Time           // of every file rigimage makes
	loader  map[string]artifact // kernel and modules for the loader, compressed, by path
	chosen  *chosen             // packages, where the base system is made of them; else nil
}

// inputs opens the base system, as sets or as packages.
func (j *job) inputs(ctx context.Context) (*inputs, error) {
	var chosen *chosen
	var release *sets.Sets
	var err error
	if j.cfg.pkgbase() {
		if chosen, err = j.choose(ctx, nil); err != nil {
			return nil, err
		}
		release, err = sets.Packages(j.distOptions(), chosen.baseArchives())
	} else {
		release, err = j.locateSets(ctx)
	}
	if err != nil {
		return nil, err
	}
	in, err := j.openSets(ctx, release)
	if err != nil {
		release.Close()
		return nil, err
	}
	in.chosen = chosen
	return in, nil
}

func (j *job) distOptions() sets.Options {
	return sets.Options{Dir: j.Sets, Cache: j.cache.dir, Version: j.cfg.FreeBSD.Version, Arch: j.cfg.FreeBSD.Arch,
		Progress: j.Progress, Logf: j.Logf}
}

// locateSets finds the release sets, and compares them with the lock.
func (j *job) locateSets(ctx context.Context) (*sets.Sets, error) {
	o := j.distOptions()
	if j.Demo {
		programs := j.programs()
		o.Dir = filepath.Join(j.cache.dir, "demo-"+key(append(programs, live.Modules()...)...)[:12])
		if _, err := os.Stat(filepath.Join(o.Dir, "MANIFEST")); err != nil {
			if err := sets.WriteDemoSets(o.Dir, programs); err != nil {
				return nil, err
			}
		}
	}
	release, err := sets.Locate(ctx, o, "base", "kernel")
	if err != nil {
		return nil, err
	}
	if err := j.checkLockedSets(release); err != nil {
		release.Close()
		return nil, err
	}
	return release, nil
}

// programs are those of the installer's root.
func (j *job) programs() []string { return append(live.Programs(), j.cfg.Live.Programs...) }

// openSets decodes base and kernel.
func (j *job) openSets(ctx context.Context, release *sets.Sets) (*inputs, error) {
	in := &inputs{release: release}
	var base, kern *tree.Tree
	err := work.Together(ctx, func(ctx context.Context) (err error) {
		if kern, err = release.Tree(ctx, "kernel"); err == nil {
			in.loader, err = j.compressKernel(ctx, release, kern)
		}
		return err
	}, func(ctx context.Context) (err error) {
		base, err = release.Tree(ctx, "base")
		return err
	})
	if err != nil {
		return nil, err
	}
	if in.version, err = sets.Version(base); err != nil {
		return nil, err
	}
	if !j.Demo && !strings.HasPrefix(in.version, j.cfg.FreeBSD.Version) {
		return nil, diag.Inputf("%s asks for FreeBSD %s and the base system is %s", j.ProfileName, j.cfg.FreeBSD.Version, in.version)
	}
	e, _ := base.Lookup("bin/freebsd-version")
	in.at = e.ModTime
	if in.acc, err = accounts(base); err != nil {
		return nil, err
	}
	if base, err = lockAccounts(base); err != nil {
		return nil, err
	}
	if in.base, err = base.Resolve(in.acc); err != nil {
		return nil, err
	}
	in.kern, err = kern.Resolve(in.acc)
	return in, err
}

// compressKernel compresses what the loader loads of the kernel set.
func (j *job) compressKernel(ctx context.Context, release *sets.Sets, kern *tree.Tree) (map[string]artifact, error) {
	set, _ := release.Get("kernel")
	out := map[string]artifact{}
	for _, name := range append([]string{"kernel"}, loaderModules()...) {
		p := "boot/kernel/" + name
		e, ok := kern.Lookup(p)
		if !ok || e.Kind != tree.File {
			return nil, fmt.Errorf("kernel set: %s is missing", p)
		}
		j.Progress("compress "+name, 0, 0)
		a, err := j.cache.get(ctx, "boot", key("gzip", set.SHA256, p), func(f *os.File) (layer.Info, error) { return gzipped(ctx, f, e) })
		if err != nil {
			return nil, fmt.Errorf("compress %s: %w", p, err)
		}
		out[p] = a
	}
	return out, nil
}

// accounts are base's own.
func accounts(base *tree.Tree) (*tree.Accounts, error) {
	passwd, err := base.ReadFile("etc/master.passwd", 1<<20)
	if err != nil {
		return nil, err
	}
	group, err := base.ReadFile("etc/group", 1<<20)
	if err != nil {
		return nil, err
	}
	return tree.ParseAccounts(bytes.NewReader(passwd), bytes.NewReader(group))
}

// lockAccounts locks the accounts that base ships with an empty password.
func lockAccounts(base *tree.Tree) (*tree.Tree, error) {
	const file = "etc/master.passwd"
	passwd, err := base.ReadFile(file, 1<<20)
	if err != nil {
		return nil, err
	}
	old, _ := base.Lookup(file)
	locked := *old
	text := manifest.LockAccounts(passwd)
	locked.Size, locked.Open = int64(len(text)), tree.Bytes(text)
	upper, err := tree.New([]tree.Entry{locked})
	if err != nil {
		return nil, err
	}
	return tree.Merge(base, upper)
}

// own is a root-owned file of the image's own time.
func (in *inputs) own(perm uint16) tree.Entry {
	return tree.Entry{Kind: tree.File, Perm: perm, ModTime: in.at}
}

// setSum is the SHA-256 of a set, which was located.
func (in *inputs) setSum(name string) string {
	set, _ := in.release.Get(name)
	return set.SHA256
}
