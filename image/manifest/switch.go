package manifest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// Boot environment variables of the loader that tell the kernel, and through
// kenv(1) riginstall, what was booted.
const (
	EnvImage = "rig.image" // image id of the medium
	// What tells a medium from others with the same image: what BIOS or UEFI hand to the
	// kernel, a drive's number, does not.
	EnvMedium = "rig.medium"
	// Of a machine booted from the network: the URL of the image's directory, where its
	// answers are, and who is told when it is installed.
	EnvURL        = "rig.url"
	EnvAnswersURL = "rig.answers_url"
	EnvDoneURL    = "rig.done_url"
	EnvMode       = "rig.mode" // "install" or "installed"
)

// RawMedium is the medium's id in an image as it was built. Whoever copies an image by
// other means than dd gives the copy an id of its own, see NewMedium.
const RawMedium = "image"

// NewMedium is a new id of a medium.
func NewMedium() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

// InstallSwitch is the content of SwitchFile on a medium with this id: it boots the
// installer, as its loader.conf says. The kernel then transfers at most 64 KiB at once:
// FreeBSD 15.1 gets nothing but timeouts when it asks a USB 3 stick of QEMU for more.
func InstallSwitch(medium string) []byte {
	return pad(fmt.Sprintf("# rig: this disk boots the installer\n%s=%q\nkern.maxphys=\"65536\"\n", EnvMedium, medium))
}

var mediumID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// MediumOf is the id in the text of a SwitchFile, "" when there is none that rig makes:
// the disk boots an installed system.
func MediumOf(text []byte) string {
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, EnvMedium+`="`); ok {
			if id, _, _ := strings.Cut(v, `"`); id == RawMedium || mediumID.MatchString(id) {
				return id
			}
		}
	}
	return ""
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
