package disk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/text"
	"github.com/rig-freebsd/rig/zfs"
)

// bootModules are the modules the loader takes from beside the kernel.
func bootModules() []string { return []string{"zfs.ko", "xdr.ko", "geom_eli.ko", "linker.hints"} }

// kernelFiles are what makes a kernel another one. linker.hints is rewritten on a
// running system, and xdr.ko comes with zfs.ko.
func kernelFiles() []string { return []string{"kernel", "zfs.ko", "geom_eli.ko"} }

// KernelPrefix begins the directories below /boot of a rig partition that hold
// kernels of units; the image's own kernel stays in "kernel".
const KernelPrefix = "kernel-"

// Bootsync keeps the disks of an installed server in step.
type Bootsync struct {
	Run  run.Runner
	Root string // where the machine's file system is, "" for /
	Logf func(format string, args ...any)

	Datasets zfs.Lister // zfs.ListDatasets when nil
}

// Sync brings every rig partition in step with the active unit (the pool's bootfs): its
// kernel is copied beside the others, and the switch names it and the dataset. The switch
// is one block written in place, so a disk boots either the old system or the new one,
// whenever the power goes.
func (s Bootsync) Sync(ctx context.Context) error {
	m, res, err := place.Record(s.Root)
	if err != nil {
		return err
	}
	unit, err := ActiveUnit(ctx, s.Run)
	if err != nil {
		return err
	}
	if err := s.whole(unit, m); err != nil {
		return err
	}
	dir, done, err := s.mountRoot(ctx, unit)
	if err != nil {
		return err
	}
	defer done()
	id, err := KernelID(filepath.Join(dir, "boot/kernel"))
	if err != nil {
		return err
	}
	kernel := KernelPrefix + id
	if id == res.Kernel {
		kernel = "" // every rig partition has the image's kernel as its own
	}
	geli, err := facts.AskEncryption(ctx, s.Run)
	if err != nil {
		return err
	}
	text, err := manifest.InstalledSwitch(unit.Root(), kernel, geli.Boot)
	if err != nil {
		return err
	}
	// A disk that an interrupted install left "installing" follows as well.
	disks, _ := filepath.Glob(s.Root + place.GPT + string(manifest.RoleRig) + "-*")
	left, _ := filepath.Glob(s.Root + place.GPT + string(manifest.Installing) + "-*")
	if disks = append(disks, left...); len(disks) == 0 {
		return errors.New("find rig partitions: there is none in /dev/gpt")
	}
	var errs []error
	for _, dev := range disks {
		changed, err := s.disk(ctx, dev, dir, kernel, text, m.Boot.RigSize)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", strings.TrimPrefix(dev, s.Root), err))
		} else if changed {
			s.Logf("%s boots %s with kernel %s", filepath.Base(dev), unit.Root(), id)
		}
	}
	return errors.Join(errs...)
}

// RunningUnit is the unit whose root is mounted at /.
func RunningUnit(ctx context.Context, r run.Runner) (manifest.Unit, error) {
	out, err := r.Run(ctx, run.New("zfs", "list", "-H", "-o", "name", "/"))
	if err != nil {
		return manifest.Unit{}, err
	}
	unit, ok := manifest.ParseUnit(strings.TrimSpace(string(out)))
	if !ok {
		return manifest.Unit{}, fmt.Errorf("the root file system %q is no boot environment", strings.TrimSpace(string(out)))
	}
	return unit, nil
}

// ActiveUnit is what the disks are to boot: the bootfs of the pool that the running
// root is in.
func ActiveUnit(ctx context.Context, r run.Runner) (manifest.Unit, error) {
	running, err := RunningUnit(ctx, r)
	if err != nil {
		return manifest.Unit{}, err
	}
	out, err := r.Run(ctx, run.New("zpool", "get", "-Hp", "-o", "value", "bootfs", running.Pool))
	if err != nil {
		return manifest.Unit{}, err
	}
	unit, ok := manifest.ParseUnit(strings.TrimSpace(string(out)))
	if !ok || unit.Pool != running.Pool {
		return manifest.Unit{}, diag.Hint(fmt.Errorf("the bootfs of pool %s is %q, which is no boot environment", running.Pool, strings.TrimSpace(string(out))),
			"bectl activate %s", running.Name)
	}
	return unit, nil
}

// whole refuses a unit that the roots of jails are missing from, as one made by
// "bectl create" without -r.
func (s Bootsync) whole(unit manifest.Unit, m *manifest.Manifest) error {
	list, err := s.Datasets.List(unit.Root())
	if err != nil {
		return err
	}
	missing := MissingJails(list, unit, m)
	if len(missing) == 0 {
		return nil
	}
	return diag.Hint(fmt.Errorf("boot environment %s is without the roots of %s: the server would come up without them", unit.Name, text.Listing(missing)),
		"bectl activate another one; \"bectl create -r NAME\" makes one with jails")
}

// MissingJails are the jails of an image that have no root among a unit's datasets.
func MissingJails(datasets []zfs.DatasetInfo, unit manifest.Unit, m *manifest.Manifest) (missing []string) {
	for _, j := range m.Jails {
		if !slices.ContainsFunc(datasets, func(d zfs.DatasetInfo) bool { return d.Name == unit.Jail(j.Name) }) {
			missing = append(missing, j.Name)
		}
	}
	return missing
}

// mountRoot returns where the files of a unit's host are: "/" for the running one, else
// a temporary mount.
func (s Bootsync) mountRoot(ctx context.Context, unit manifest.Unit) (string, func(), error) {
	out, err := s.Run.Run(ctx, run.New("zfs", "get", "-Hp", "-o", "value", "mounted,mountpoint", unit.Root()))
	if err != nil {
		return "", nil, err
	}
	if f := strings.Fields(string(out)); len(f) == 2 && f[0] == "yes" {
		return s.Root + f[1], func() {}, nil
	}
	dir, err := os.MkdirTemp(s.Root+os.TempDir(), "rig-be-")
	if err != nil {
		return "", nil, err
	}
	if _, err := s.Run.Run(ctx, run.New("mount", "-t", "zfs", "-o", "ro", unit.Root(), dir)); err != nil {
		os.Remove(dir)
		return "", nil, err
	}
	return dir, func() {
		_, _ = s.Run.Run(context.WithoutCancel(ctx), run.New("umount", dir))
		os.Remove(dir)
	}, nil
}

// KernelID names a kernel by the content of what the loader takes.
func KernelID(dir string) (string, error) {
	return kernelID(func(name string) (io.ReadCloser, error) { return os.Open(filepath.Join(dir, name)) })
}

// KernelIDOf is KernelID for a directory of a tree.
func KernelIDOf(t *tree.Tree, dir string) (string, error) {
	return kernelID(func(name string) (io.ReadCloser, error) {
		e, ok := t.Lookup(dir + "/" + name)
		if !ok {
			return nil, fmt.Errorf("%s/%s is missing", dir, name)
		}
		return e.Open()
	})
}

func kernelID(open func(name string) (io.ReadCloser, error)) (string, error) {
	h := sha256.New()
	for _, name := range kernelFiles() {
		f, err := open(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s\n", name)
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// disk makes one rig partition boot what text says and reports whether it did not yet.
// kernel is the directory to fill from root's, "" for the image's.
func (s Bootsync) disk(ctx context.Context, dev, root, kernel string, text []byte, size int64) (bool, error) {
	have, err := ReadSwitch(dev, size)
	if err != nil {
		return false, err
	}
	if string(have) == string(text) {
		return false, nil
	}
	if kernel != "" {
		if err := s.copyKernel(ctx, dev, root, kernel); err != nil {
			return false, err
		}
	}
	return true, WriteSwitch(dev, size, text)
}

// copyKernel puts a kernel on a rig partition and removes those that neither the
// old switch nor the new one names.
func (s Bootsync) copyKernel(ctx context.Context, dev, root, kernel string) (err error) {
	if _, err := s.Run.Run(ctx, run.New("fsck_ffs", "-p", dev)); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.Root+os.TempDir(), "rig-boot-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if _, err := s.Run.Run(ctx, run.New("mount", "-t", "ufs", "-o", "noatime", dev, dir)); err != nil {
		return err
	}
	defer func() {
		_, uerr := s.Run.Run(context.WithoutCancel(ctx), run.New("umount", dir))
		err = errors.Join(err, uerr)
	}()
	old, _ := os.ReadFile(filepath.Join(dir, manifest.SwitchFile))
	boot := filepath.Join(dir, "boot")
	all, err := filepath.Glob(filepath.Join(boot, KernelPrefix+"*"))
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(p string) bool {
		return filepath.Base(p) == kernel || strings.Contains(string(old), `"`+filepath.Base(p)+`"`)
	})
	for _, p := range all {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	to := filepath.Join(boot, kernel)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, name := range append([]string{"kernel"}, bootModules()...) {
		if err := copySynced(filepath.Join(to, name), filepath.Join(root, "boot/kernel", name)); err != nil {
			return err
		}
	}
	return nil
}

// copySynced copies a file and makes the copy durable.
func copySynced(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o555)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}
