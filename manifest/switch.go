package manifest

import "fmt"

// Boot environment variables of the loader that tell the kernel, and through
// kenv(1) riginstall, what was booted.
const (
	EnvImage = "rig.image" // image id of the medium
	// Of a machine booted from the network: the URL of the image's directory, where its
	// answers are, and who is told when it is installed.
	EnvURL        = "rig.url"
	EnvAnswersURL = "rig.answers_url"
	EnvDoneURL    = "rig.done_url"
	EnvMode       = "rig.mode" // "install" or "installed"
)

// InstallSwitch is the content of SwitchFile in an image: the disk boots the
// installer, as its loader.conf says.
func InstallSwitch() []byte {
	return pad("# Written by riginstall. Empty: this disk boots the installer.\n")
}

// InstalledSwitch is the content of SwitchFile on an installed disk: it boots
// the system in dataset ("zroot/ROOT/…"). kernel is the directory below /boot
// the kernel is loaded from, "" for the image's own. encrypted says that the pool
// is: geom_eli asks for its passphrase before the root is mounted. It asks for
// each disk anew, so that three mistakes, its default, would leave one disk out of
// the mirror. What counts is in the first 512 bytes, which a disk writes whole or
// not at all.
func InstalledSwitch(dataset, kernel string, encrypted bool) ([]byte, error) {
	text := fmt.Sprintf(`# rig: this disk boots the installed system
rig.mode="installed"
mfsroot_load="NO"
geom_uzip_load="NO"
zfs_load="YES"
vfs.root.mountfrom="zfs:%s"
vfs.root.mountfrom.options="rw"
`, dataset)
	if encrypted {
		text += "geom_eli_load=\"YES\"\nkern.geom.eli.tries=\"10\"\n"
	}
	if kernel != "" {
		text += fmt.Sprintf("kernel=%q\n", kernel)
	}
	if len(text) > 512 {
		return nil, fmt.Errorf("boot switch for %s: %d bytes do not fit one sector", dataset, len(text))
	}
	return pad(text), nil
}

// pad fills a SwitchFile with empty lines.
func pad(text string) []byte {
	b := make([]byte, SwitchSize)
	for i := copy(b, text); i < len(b); i++ {
		b[i] = '\n'
	}
	return b
}
