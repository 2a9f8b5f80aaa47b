package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/image/media"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay"
)

const buildUsage = `usage: rigimage build [PROFILE] [-o rig.img,…] [--sets DIR] [--packages DIR|URL|none] [--answers FILE] [--demo] [--json]
       rigimage build [PROFILE] -o a.ova,b.ova --site SITE.toml [--bridge IF] [--bios] …

Builds a bootable disk image from a profile, FreeBSD release sets and packages.

  -o FILE,FILE…    the image (default rig.img), in as many forms as there are names: the
                   ending says which. img: to flash or dd; img.zst: compressed; iso: virtual
                   media, or dd'ed to a stick; vmdk, vdi, qcow2: a disk for a hypervisor;
                   ova: a VirtualBox appliance with three empty disks beside the image's;
                   a name that ends in "/", or any with --format pxe: a directory for network
                   boot, for "rigimage serve" or any web and TFTP server
  --url URL        where that directory will be found by HTTP; without it, on the server that
                   TFTP came from
  --answers-url U  where each machine finds its answers: {mac}, {serial} and {uuid} in it
                   stand for the machine's own, {id} for each of them in turn
  --sets DIR       directory with MANIFEST, base.txz and kernel.txz
  --packages REPO  take packages from this repository of pkg(8), a URL or a directory,
                   instead of those rig.toml names or FreeBSD's; none leaves them out
  --answers FILE   put these answers on the image's ESP, for an unattended install
  --site FILE      two VirtualBox appliances, one of each server of a site file, which
                   install themselves and share a private network. What is missing of
                   keys and passwords is made as by "rigimage answers". Disks and cards
                   are the appliance's. PROFILE is by default the site file's directory
                   when that has a rig.toml
  --bridge IF      of an .ova: connect the public card to this interface of the machine
                   that runs it, by its name there; NAT otherwise, where the server's public address,
                   which is not one of NAT's, is out of reach
  --bios           of an .ova: boot by BIOS, not UEFI
  --demo           use tiny synthetic sets: the image has no FreeBSD in it
  --cache DIR      where sets and finished layers are kept (default: the user's cache)
  --json           print what was built as JSON

example: rigimage build --answers server-a.toml -o server-a.img
         rigimage build --site site.toml --bridge en0 -o rega.ova,regb.ova
`

func build(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(buildUsage)
	out := fl.String("o", "rig.img", "")
	file := fl.String("answers", "", "")
	sitePath := fl.String("site", "", "")
	form := fl.String("format", "", "")
	asJSON := fl.Bool("json", false, "")
	var o image.Options
	fl.StringVar(&o.Sets, "sets", "", "")
	fl.StringVar(&o.Packages, "packages", "", "")
	fl.StringVar(&o.Cache, "cache", "", "")
	fl.StringVar(&o.Appliance.Bridge, "bridge", "", "")
	fl.BoolVar(&o.Appliance.BIOS, "bios", false, "")
	fl.BoolVar(&o.Demo, "demo", false, "")
	fl.StringVar(&o.Network.URL, "url", "", "")
	fl.StringVar(&o.Network.AnswersURL, "answers-url", "", "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	outputs := strings.Split(*out, ",")
	switch {
	case *form == "pxe" && len(outputs) == 1:
		outputs[0] = strings.TrimRight(outputs[0], "/") + "/"
	case *form != "":
		return diag.Hint(diag.Inputf("--format %s", *form), "--format pxe with one name in -o is a directory for network boot; other forms go by the ending of their names")
	}
	o.Output, o.Also, o.AnswersName, o.Network.URL = outputs[0], outputs[1:], *file, strings.TrimRight(o.Network.URL, "/")
	if err := checkMedia(&o, outputs, *sitePath); err != nil {
		return err
	}
	if err := o.CheckOutputs(); err != nil {
		return err
	}
	if *sitePath != "" {
		err = buildSite(&o, *sitePath, rest, *asJSON, std)
	} else {
		o.Profile, o.ProfileName, err = profile(rest)
	}
	if err != nil {
		return err
	}
	if *file != "" {
		if o.Answers, err = os.ReadFile(*file); err != nil {
			return diag.Input(err)
		}
	}
	progress := cli.NewProgress(std.Err)
	o.Progress = progress.Report
	o.Logf = func(format string, a ...any) { fmt.Fprintf(std.Err, format+"\n", a...) }
	o.Riginstall = func(ctx context.Context) (string, error) { return riginstallBinary(ctx, o.Cache) }
	start := time.Now()
	res, err := image.Build(ctx, o)
	progress.Done()
	if err != nil {
		return err
	}
	if *asJSON {
		b, err := json.MarshalIndent(res, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(std.Out, "%s\n", b)
		return err
	}
	size := fmt.Sprintf(" in %d MiB (sparse)", res.Size>>20)
	if media.IsDirectory(res.Path) {
		size = ""
	}
	fmt.Fprintf(std.Out, "%s: image %s, %d MiB of bundle%s, %.1f s\n",
		res.Path, res.Manifest.Image, res.Bundle>>20, size, time.Since(start).Seconds())
	for _, m := range res.Media[1:] {
		fmt.Fprintf(std.Out, "%s: %d MiB\n", m.Path, m.Size>>20)
	}
	if o.Demo {
		fmt.Fprintln(std.Out, "DEMO: there is no FreeBSD in this image and nothing will boot; leave out --demo for a real one.")
	}
	return nil
}

// builtin is the name of the built-in profile.
const builtin = "webrig"

// profile opens the profile named by the arguments, the built-in one by default.
func profile(args []string) (fs.FS, string, error) {
	if len(args) == 0 {
		return overlay.Webrig(), builtin, nil
	}
	dir := filepath.Clean(args[0])
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return nil, "", diag.Hint(diag.Inputf("profile %s: no such directory", dir), "\"rigimage init %s\" makes one", dir)
	}
	return os.DirFS(dir), dir, nil
}
