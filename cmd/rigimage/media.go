package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rig-freebsd/rig/image/flash"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// wrongForm says what an image is that a command does not take in its form, and what
// it does take.
func wrongForm(i *reader.Image, takes, hint string) error {
	return diag.Hint(diag.Inputf("%s is %s of image %s; %s", i.Path, i.Form.A(), i.Manifest.Image, takes), "%s", hint)
}

// bootableImage gives an image as a machine can boot it: the raw image or the ISO it
// is, or a raw image of its disk in dir, which done removes.
func bootableImage(ctx context.Context, name, dir string, std cli.Stdio) (path string, done func(), err error) {
	done = func() {}
	if _, err := os.Stat(name); err == nil {
		form, err := reader.FormOfFile(name)
		if err == nil && (form == reader.Raw || form == reader.ISO) {
			return name, done, nil
		}
	}
	i, err := openImage(ctx, name, std)
	if err != nil {
		return "", done, err
	}
	defer i.Close()
	src, ok, err := i.Source()
	switch {
	case err != nil:
		return "", done, err
	case i.Form == reader.Directory:
		return "", done, wrongForm(i, "a machine boots from images and ISOs here", "\"rigimage serve\" boots machines of a network from it")
	case !ok:
		return "", done, wrongForm(i, "run takes an ISO that is a file", "download it first")
	}
	if dir == "" {
		dir = os.Getenv("RIG_VM_DIR")
	}
	f, err := os.CreateTemp(dir, "rig-run-*.img")
	if err != nil {
		return "", done, err
	}
	done = func() { os.Remove(f.Name()) }
	progress := cli.NewProgress(std.Err)
	defer progress.Done()
	if err := errors.Join(copyDisk(ctx, f, src, i.Manifest.Boot.ImageSize(), progress.Report), f.Close()); err != nil {
		done()
		return "", func() {}, fmt.Errorf("unpack %s: %w", name, err)
	}
	return f.Name(), done, nil
}

// copyDisk writes the first n bytes of a disk to an empty file and leaves holes.
func copyDisk(ctx context.Context, f *os.File, src vdisk.Source, n int64, progress func(string, int64, int64)) error {
	b := make([]byte, 1<<20)
	for off := int64(0); off < n; off += int64(len(b)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		b = b[:min(int64(len(b)), n-off)]
		if !src.HasData(off, int64(len(b))) {
			continue
		}
		progress("unpack", off, n)
		if err := src.Read(b, off); err != nil {
			return err
		}
		if vdisk.IsZero(b) {
			continue
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
	return f.Truncate(n)
}

// flashImage is the image that is written to a disk: a raw or compressed one, which
// forward opens, or the disk in a virtual one.
func flashImage(ctx context.Context, name string, forward func(string) (*flash.Image, error), std cli.Stdio) (*flash.Image, io.Closer, error) {
	none := io.NopCloser(nil)
	if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
		form, err := reader.FormOfFile(name)
		if err != nil {
			return nil, none, diag.Input(err)
		}
		if form == reader.Raw || form == reader.Zstd || form == "" { // other compressions too
			im, err := forward(name)
			return im, none, err
		}
	} else if err != nil || !st.IsDir() {
		im, err := forward(name)
		return im, none, err
	}
	i, err := openImage(ctx, name, std)
	if err != nil {
		return nil, none, err
	}
	src, ok, err := i.Source()
	if err == nil && !ok {
		takes, hint := "flash takes .img, .img.zst, .vmdk, .vdi, .qcow2 and .ova", "\"rigimage build -o rig.img\" makes an image for a disk"
		if i.Form == reader.ISO {
			hint = "an ISO is a stick's content as it is: dd writes it. " + hint
		}
		err = wrongForm(i, takes, hint)
	}
	if err != nil {
		i.Close()
		return nil, none, err
	}
	return flash.Virtual(name, src), i, nil
}
