package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/image/vmdk"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// media writes four media of one bundle in one call, beside the image alone; all else
// is in the cache.
func (b *bench) media() error {
	cache, img := filepath.Join(b.dir, "cold"), filepath.Join(b.dir, "a.img")
	var all []string
	for _, ending := range []string{".img", ".iso", ".ova", ".vdi"} {
		all = append(all, filepath.Join(b.dir, "m"+ending))
	}
	err := b.pairs("media: img+iso+ova+vdi / img alone, warm cache", 2.5, 0,
		func() (result, error) { return b.build("--cache", cache, "-o", strings.Join(all, ",")) },
		func() (result, error) { return b.build("--cache", cache, "-o", img) })
	for _, name := range all {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// vmdk makes a streamOptimized VMDK of the image, beside qemu-img.
func (b *bench) vmdk() error {
	const what = "VMDK, read back / qemu-img convert"
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		return b.skip(what, err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	img, out := filepath.Join(b.dir, "a.img"), filepath.Join(b.dir, "a.vmdk")
	return b.pairs(what, 0.5, 0,
		func() (result, error) { defer os.Remove(out); return timed(nil, self, "vmdk", img, out) },
		func() (result, error) {
			defer os.Remove(out)
			return timed(nil, qemu, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", img, out)
		})
}

// writeVMDK is qemu-img convert with rig's writer, and what rig never leaves out: it
// reads back what it wrote.
func writeVMDK(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	src, err := vdisk.FileSource(in)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	n, err := vmdk.Write(out, src, vmdk.Options{UUID: "72696773-7461-4765-8000-726967696e73"})
	if err != nil {
		return err
	}
	return errors.Join(vmdk.Verify(out, n, src), out.Close())
}
