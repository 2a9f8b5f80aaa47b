package firstboot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rig/internal/run"
	"rig/manifest"
)

// bootModules are the modules the loader takes from beside the kernel.
func bootModules() []string { return []string{"zfs.ko", "xdr.ko", "geom_eli.ko", "linker.hints"} }

// kernelFiles are what makes a kernel another one. linker.hints is rewritten on a
// running system, and xdr.ko comes with zfs.ko.
func kernelFiles() []string { return []string{"kernel", "zfs.ko", "geom_eli.ko"} }

// kernelPrefix begins the directories below /boot of a rig partition that hold
// kernels of boot environments; the image's own kernel stays in "kernel".
const kernelPrefix = "kernel-"

// Bootsync brings every rig partition in step with the active boot environment
// (the pool's bootfs): its kernel is copied beside the others, and the switch
// names it and the dataset. The switch is one block written in place, so a disk
// boots either the old system or the new one, whenever the power goes.
func Bootsync(ctx context.Context, r run.Runner, logf func(string, ...any)) error {
	m, err := installedManifest()
	if err != nil {
		return err
	}
	be, err := activeBE(ctx, r, m.Pool.Name)
	if err != nil {
		return err
	}
	dir, done, err := mountBE(ctx, r, be)
	if err != nil {
		return err
	}
	defer done()
	id, err := kernelID(filepath.Join(dir, "boot/kernel"))
	if err != nil {
		return err
	}
	kernel := kernelPrefix + id
	if id == imageKernel() {
		kernel = "" // every rig partition has it as its own
	}
	geli, err := askGELI(ctx, r)
	if err != nil {
		return err
	}
	text, err := manifest.InstalledSwitch(be, kernel, geli.boot)
	if err != nil {
		return err
	}
	// A disk that an interrupted install left "installing" follows as well.
	disks, _ := filepath.Glob(devDir + "gpt/" + string(manifest.RoleRig) + "-*")
	left, _ := filepath.Glob(devDir + "gpt/" + string(manifest.Installing) + "-*")
	if disks = append(disks, left...); len(disks) == 0 {
		return errors.New("find rig partitions: there is none in /dev/gpt")
	}
	var errs []error
	for _, dev := range disks {
		changed, err := syncDisk(ctx, r, dev, dir, kernel, text, m.Boot.RigSize)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", dev, err))
		} else if changed {
			logf("%s boots %s with kernel %s", filepath.Base(dev), be, id)
		}
	}
	return errors.Join(errs...)
}

func installedManifest() (*manifest.Manifest, error) {
	f, err := os.Open(filepath.Join(ResultDir, "manifest.json"))
	if err != nil {
		return nil, fmt.Errorf("this is not a system riginstall made: %w", err)
	}
	defer f.Close()
	return manifest.Decode(f)
}

func activeBE(ctx context.Context, r run.Runner, pool string) (string, error) {
	out, err := r.Run(ctx, run.New("zpool", "get", "-Hp", "-o", "value", "bootfs", pool))
	if err != nil {
		return "", err
	}
	be := strings.TrimSpace(string(out))
	if !strings.HasPrefix(be, pool+"/") {
		return "", fmt.Errorf("pool %s has no bootfs (%q)", pool, be)
	}
	return be, nil
}

// mountBE returns where a boot environment's files are: "/" for the running one,
// else a temporary mount.
func mountBE(ctx context.Context, r run.Runner, be string) (string, func(), error) {
	out, err := r.Run(ctx, run.New("zfs", "get", "-Hp", "-o", "value", "mounted,mountpoint", be))
	if err != nil {
		return "", nil, err
	}
	if f := strings.Fields(string(out)); len(f) == 2 && f[0] == "yes" {
		return f[1], func() {}, nil
	}
	dir, err := os.MkdirTemp("", "rig-be-")
	if err != nil {
		return "", nil, err
	}
	if _, err := r.Run(ctx, run.New("mount", "-t", "zfs", "-o", "ro", be, dir)); err != nil {
		os.Remove(dir)
		return "", nil, err
	}
	return dir, func() {
		_, _ = r.Run(context.WithoutCancel(ctx), run.New("umount", dir))
		os.Remove(dir)
	}, nil
}

// kernelID names a kernel by the content of what the loader takes.
func kernelID(dir string) (string, error) {
	h := sha256.New()
	for _, name := range kernelFiles() {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s\n", name)
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// imageKernel is the kernelID of the image's kernel, recorded at install.
func imageKernel() string {
	b, err := os.ReadFile(filepath.Join(ResultDir, "result.json"))
	if err != nil {
		return ""
	}
	var res Result
	if err := json.Unmarshal(b, &res); err != nil {
		return ""
	}
	return res.Kernel
}

// syncDisk makes one rig partition boot what text says and reports whether it
// did not yet. kernel is the directory to fill from root's, "" for the image's.
func syncDisk(ctx context.Context, r run.Runner, dev, root, kernel string, text []byte, size int64) (bool, error) {
	have, err := readSwitch(dev, size)
	if err != nil {
		return false, err
	}
	if string(have) == string(text) {
		return false, nil
	}
	if kernel != "" {
		if err := copyKernel(ctx, r, dev, root, kernel); err != nil {
			return false, err
		}
	}
	return true, writeSwitch(dev, size, text)
}

// copyKernel puts a kernel on a rig partition and removes those that neither the
// old switch nor the new one names.
func copyKernel(ctx context.Context, r run.Runner, dev, root, kernel string) (err error) {
	if _, err := r.Run(ctx, run.New("fsck_ffs", "-p", dev)); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "rig-boot-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if _, err := r.Run(ctx, run.New("mount", "-t", "ufs", "-o", "noatime", dev, dir)); err != nil {
		return err
	}
	defer func() {
		_, uerr := r.Run(context.WithoutCancel(ctx), run.New("umount", dir))
		err = errors.Join(err, uerr)
	}()
	old, _ := os.ReadFile(filepath.Join(dir, manifest.SwitchFile))
	boot := filepath.Join(dir, "boot")
	all, err := filepath.Glob(filepath.Join(boot, kernelPrefix+"*"))
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
