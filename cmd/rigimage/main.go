// Rigimage builds bootable FreeBSD images with VNET jails, without root and on
// any machine.
//
// It has a file for each command, or for each of its modes, with usage, flags and what it
// prints; what is behind them is in the libraries.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
)

const usage = `rigimage builds bootable FreeBSD images with VNET jails.

usage: rigimage build [PROFILE] [-o rig.img,…] [--sets DIR] [--packages DIR|URL|none] [--answers FILE] [--demo] [--json]
       rigimage build [PROFILE] -o a.ova,b.ova --site site.toml [--bridge IF] [--bios]
                                            VirtualBox appliances of both servers
       rigimage run [IMAGE] [--bios] [--in-place] [--disks 4] [--disk-size 8G] [--mem 2G] [--keep DIR]
       rigimage run --pair [IMAGE] [--site site.toml] [--check] [--NET-loss 5%] [--NET-delay 20ms] [--NET-cut]
                                            both servers side by side, checked from outside
       rigimage init DIR [--profile PROFILE] [--no-prompt]
                                            write a profile, webrig by default, and a site file, to edit
       rigimage check [PROFILE] [--site site.toml] [--graph FILE.svg] [--matrix] [--json]
                                            all that can be known without building
       rigimage answers SITE.toml [-o DIR] [--profile PROFILE] [--seal]
                                            the answers of both servers from one file
       rigimage flash IMAGE DISK [--ssh user@host] [--answers FILE] [--force-serial SERIAL] [--yes]
                                            write an image onto a disk, here or there; --list shows disks
       rigimage serve DIR [--interface IF] [--dhcp full|proxy|off] [--answers DIR] [--once] [--json]
                                            boot and install machines over the network; --print dnsmasq|nginx|ipxe
       rigimage inspect IMAGE [--json]      what is in an image, hashes checked again
       rigimage inspect IMAGE --packages | --sbom
                                            its packages and why they are there; a bill of materials
       rigimage verify IMAGE [--json]       everything in an image that can be checked
       rigimage diff OLD NEW [--all] [--json]   what differs between two images
       rigimage cache ls | gc [--keep 30d] [--all] [--dry-run]
                                            what the cache has; remove what is not used
       rigimage lock PROFILE [--update]     pin every input of a profile's image
       rigimage answers [PROFILE] --template   a commented answers file
       rigimage --version

example: rigimage build -o rig.img && rigimage run rig.img

PROFILE is a directory with a rig.toml; without it the built-in profile webrig is
used. Release sets are looked for in --sets, $RIG_SETS, the user's cache, and then
on FreeBSD's mirror. "rigimage COMMAND --help" says more.

Exit status: 0 done, 1 failed, 2 bad usage or input.
`

// Version is set by the release build.
var Version = "development"

func main() {
	debug.SetMemoryLimit(200 << 20) // a build stays below 256 MiB on any number of cores
	os.Exit(runMain(os.Args[1:], cli.OS()))
}

func runMain(args []string, std cli.Stdio) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, args, std)
	if status, ok := quiet(err); ok {
		return status
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = diag.Hint(errors.New(strings.ReplaceAll(err.Error(), context.Canceled.Error(), "interrupted")), "%s", diag.HintOf(err))
	}
	return std.Fail("rigimage", err)
}

func dispatch(ctx context.Context, args []string, std cli.Stdio) error {
	if len(args) == 0 {
		fmt.Fprint(std.Out, usage)
		return diag.Inputf("no command given")
	}
	word, args := args[0], args[1:]
	switch word {
	case "build":
		return build(ctx, args, std)
	case "run":
		return runImage(ctx, args, std)
	case "init":
		return initProfile(ctx, args, std)
	case "flash":
		return flashDisk(ctx, args, std)
	case "serve":
		return serve(ctx, args, std)
	case "inspect":
		return inspect(ctx, args, std)
	case "verify":
		return verify(ctx, args, std)
	case "answers":
		return answersSite(ctx, args, std)
	case "diff":
		return diff(ctx, args, std)
	case "cache":
		return cacheCommand(ctx, args, std)
	case "lock":
		return lock(ctx, args, std)
	case "check":
		return check(args, std)
	case "version", "--version":
		fmt.Fprintln(std.Out, "rigimage", Version)
		return nil
	case "help", "-h", "-help", "--help":
		fmt.Fprint(std.Out, usage)
		return nil
	}
	return diag.Hint(diag.Inputf("unknown command %q", word), "rigimage --help shows the commands")
}
