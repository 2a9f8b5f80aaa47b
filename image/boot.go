package image

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
)

// loaderModules are kernel modules the loader loads before the root is mounted:
// the uzip'ed memory root of the installer, and ZFS and GELI of the installed
// system. GELI needs crypto(4), which is in GENERIC.
func loaderModules() []string { return []string{"geom_uzip.ko", "zfs.ko", "xdr.ko", "geom_eli.ko"} }

// bootBase picks what the loader needs from the base tree.
func bootBase(base *tree.Tree) (*tree.Tree, error) {
	need := []string{"boot/loader", "boot/loader.efi", "boot/gptboot", "boot/pmbr", "boot/device.hints", "boot/defaults/loader.conf"}
	for _, p := range need {
		if _, ok := base.Lookup(p); !ok {
			return nil, fmt.Errorf("base set: %s is missing", p)
		}
	}
	return base.Filter(func(e *tree.Entry) bool {
		if e.Kind == tree.Dir {
			return slices.Contains([]string{".", "boot", "boot/defaults", "boot/lua"}, e.Path)
		}
		return slices.Contains(need, e.Path) || path.Dir(e.Path) == "boot/lua" && e.Path != localLua
	})
}

const localLua = "boot/lua/local.lua"

// consoleLua picks consoles by firmware: UEFI's own console reaches what the
// firmware redirects, BIOS needs both named.
const consoleLua = `-- Written by rigimage: consoles by firmware.
local core = require("core")
local want = loader.getenv("rig.console") or "both"
if core.isUEFIBoot() then
	loader.setenv("console", "efi")
elseif want == "serial" then
	loader.setenv("console", "comconsole")
elseif want == "video" then
	loader.setenv("console", "vidconsole")
else
	loader.setenv("console", "vidconsole,comconsole")
end
`

// loaderConf is /boot/loader.conf of the rig partition. It boots the installer;
// the switch file, read after it, turns that into the installed system.
func loaderConf(image string, b manifest.Boot) string {
	speed := b.Speed
	if speed == 0 {
		speed = 115200
	}
	console := b.Console
	if console == "" {
		console = manifest.ConsoleBoth
	}
	var s strings.Builder
	line := func(k, v string) { fmt.Fprintf(&s, "%s=%q\n", k, v) }
	s.WriteString("# Written by rigimage. Settings of your own belong into loader.conf.d/local.conf.\n")
	line(manifest.EnvImage, image)
	line(manifest.EnvMode, "install")
	line("rig.console", string(console))
	line("comconsole_speed", fmt.Sprint(speed))
	if console != manifest.ConsoleVideo {
		line("boot_multicons", "YES")
		line("hw.uart.console", fmt.Sprintf("io:0x3f8,br:%d", speed))
	}
	if console == manifest.ConsoleSerial {
		line("boot_serial", "YES")
	}
	line("autoboot_delay", fmt.Sprint(b.MenuDelay))
	line("beastie_disable", "YES")
	line("kernels_autodetect", "NO")
	line("module_path", "/boot/kernel;/boot/modules")
	line("hostuuid_load", "NO") // there is none here
	line("entropy_cache_load", "NO")
	line("kern.geom.label.disk_ident.enable", "0")
	line("kern.geom.label.gptid.enable", "0")
	line("vfs.mountroot.timeout", "30")
	s.WriteString("# The installer: a compressed memory root.\n")
	line("geom_uzip_load", "YES")
	line("mfsroot_load", "YES")
	line("mfsroot_type", "mfs_root")
	line("mfsroot_name", "/"+manifest.MFSRoot)
	line("vfs.root.mountfrom", "ufs:/dev/md0.uzip")
	line("vfs.root.mountfrom.options", "ro")
	return s.String()
}

// bootFile is a root-owned file of the rig partition.
func bootFile(p string, content []byte, at time.Time) tree.Entry {
	e := tree.FileEntry(p, content)
	e.ModTime = at
	return e
}
