package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/vm"
	"github.com/rig-freebsd/rig/overlay/answers"
)

const runUsage = `usage: rigimage run [IMAGE] [--bios] [--in-place] [--disks 4] [--disk-size 8G] [--mem 2G] [--keep DIR]

Boots an image in QEMU, with empty disks, two network cards and the serial console
on this terminal. IMAGE is rig.img by default, in any form that build writes but a
directory, and is not written to.

  --bios           boot by BIOS; otherwise by UEFI (package ovmf)
  --in-place       the image is on disk 1, as on a rented server; otherwise it is a stick
  --disks N        disks of the machine
  --disk-size SIZE of each disk
  --mem SIZE       memory
  --keep DIR       keep the disks in DIR, and use those that are there; without
                   IMAGE, boot what was installed on them

Two servers of one site: see "rigimage run --pair --help".

KVM is used where it can run FreeBSD, else emulation (about a minute to a login).

example: rigimage run rig.img --keep /var/tmp/rig-a
`

func runImage(ctx context.Context, args []string, std cli.Stdio) error {
	if slices.Contains(args, "--pair") || slices.Contains(args, "-pair") {
		return runPair(ctx, args, std)
	}
	fl := std.Flags(runUsage)
	bios := fl.Bool("bios", false, "")
	inPlace := fl.Bool("in-place", false, "")
	disks := fl.Int("disks", 4, "")
	diskSize := fl.String("disk-size", "8G", "")
	mem := fl.String("mem", "2G", "")
	keep := fl.String("keep", "", "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	o := vm.RunOptions{Image: "rig.img", InPlace: *inPlace, Disks: *disks, Keep: *keep}
	if len(rest) > 0 {
		o.Image = rest[0]
	} else if _, err := os.Stat(filepath.Join(*keep, "disk1.img")); *keep != "" && err == nil {
		o.Image = "" // boot what was installed
	}
	if *bios {
		o.Firmware = vm.BIOS
	}
	if _, err := os.Stat(o.Image); o.Image == "rig.img" && err != nil {
		return diag.Hint(diag.Input(err), "\"rigimage build\" makes rig.img")
	}
	for _, s := range []struct {
		flag, text string
		into       *int64
	}{{"--disk-size", *diskSize, &o.DiskSize}, {"--mem", *mem, &o.Memory}} {
		v, err := answers.ParseText(&answers.Question{Key: s.flag, Type: answers.Size}, s.text)
		if err != nil {
			return diag.Inputf("%s %s: %w", s.flag, s.text, err)
		}
		*s.into = v.(int64)
	}
	if o.Image != "" {
		path, done, err := bootableImage(ctx, o.Image, *keep, std)
		if err != nil {
			return err
		}
		defer done()
		o.Image = path
	}
	return vm.Run(ctx, o, std.In, std.Out)
}
