package manifest

import (
	"fmt"
	"strings"
)

// Partition geometry every disk shares: the image's own three partitions are the
// first three of every installed disk, at the same places, and an install only
// appends to them. All figures are bytes.
const (
	BootStart = 40 * 512 // LBA 40: the first 4 KiB boundary behind the GPT
	BootSize  = 512 << 10
	ESPStart  = 1 << 20
	// tail is kept free behind the last partition: the backup GPT, and room for a
	// replacement disk that is a little smaller.
	tail = 8 << 20
	mib  = 1 << 20
)

// Role names a partition's purpose; with a disk's serial it is the GPT label.
type Role string

const (
	RoleBoot Role = "boot"
	RoleESP  Role = "efi"
	RoleRig  Role = "rig"
	RoleSwap Role = "swap"
	RoleZFS  Role = "zfs"
)

// Part is one partition of the layout; Index counts from 1 as in device names.
type Part struct {
	Index int
	Role  Role
	Type  string // gpart(8) alias
	Start int64  // bytes
	Size  int64  // bytes
}

// Parts returns the image's partitions: boot, efi, rig.
func (b Boot) Parts() []Part {
	return []Part{
		{1, RoleBoot, "freebsd-boot", BootStart, BootSize},
		{2, RoleESP, "efi", ESPStart, b.ESPSize},
		{3, RoleRig, "freebsd-ufs", ESPStart + b.ESPSize, b.RigSize},
	}
}

// Part is the image's partition with this role; its Index is 0 when there is none.
func (b Boot) Part(r Role) Part {
	for _, p := range b.Parts() {
		if p.Role == r {
			return p
		}
	}
	return Part{}
}

// Index is the number of a boot partition in the table of a disk, 0 for a role that none has.
func (b Boot) Index(r Role) int { return b.Part(r).Index }

// PartsOn returns Parts as they are on a disk with sectors of this many bytes. From 4096
// on the GPT reaches into boot, which then begins behind it: no BIOS boots such a disk.
func (b Boot) PartsOn(sector int64) []Part {
	parts := b.Parts()
	const table = 128 * 128 // bytes of the GPT's entries, behind two sectors
	first := (2*sector + table + sector - 1) / sector * sector
	if boot := &parts[0]; first > boot.Start {
		boot.Start, boot.Size = first, boot.Start+boot.Size-first
	}
	return parts
}

// ImageSize is the size of the disk image: the three partitions and the backup GPT.
func (b Boot) ImageSize() int64 { return ESPStart + b.ESPSize + b.RigSize + mib }

// Appended returns the partitions an install adds to a disk of size bytes: swap
// (when swap > 0) and zfs, which takes the rest.
func (b Boot) Appended(size, swap int64) ([]Part, error) {
	if size < b.MinDisk(swap) {
		return nil, fmt.Errorf("disk of %d MiB: %d MiB are needed (boot partitions %d, swap %d, pool at least %d)",
			size/mib, b.MinDisk(swap)/mib, b.ImageSize()/mib, swap/mib, int64(minPool)/mib)
	}
	start, index := ESPStart+b.ESPSize+b.RigSize, 4
	var parts []Part
	if swap > 0 {
		swap = (swap + mib - 1) / mib * mib
		parts = append(parts, Part{index, RoleSwap, "freebsd-swap", start, swap})
		start, index = start+swap, index+1
	}
	rest := (size - tail - start) / mib * mib
	return append(parts, Part{index, RoleZFS, "freebsd-zfs", start, rest}), nil
}

// minPool is the smallest zfs partition worth creating: host, jails and room to work.
const minPool = 2 << 30

// MinDisk is the smallest disk, in bytes, an install accepts.
func (b Boot) MinDisk(swap int64) int64 {
	return ESPStart + b.ESPSize + b.RigSize + (swap+mib-1)/mib*mib + minPool + tail
}

// ISOLabel is the volume label of an ISO of an image: /dev/iso9660/RIG_1A2B3C4D5E6F.
func ISOLabel(image string) string {
	return "RIG_" + strings.ToUpper(image[strings.LastIndexByte(image, '-')+1:])
}

// Label is the GPT label of a partition on the disk with this serial number:
// "zfs-S3X1". Serials are reduced to what a device name can carry.
func Label(r Role, serial string) string {
	clean := make([]byte, 0, len(serial))
	for i := range len(serial) {
		c := serial[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
			clean = append(clean, c)
		default:
			clean = append(clean, '_')
		}
	}
	if max := 36 - len(Installing) - 1; len(clean) > max {
		clean = clean[len(clean)-max:] // vendors put what differs last
	}
	return string(r) + "-" + string(clean)
}

// RoleGELI stands in place of RoleZFS in the label of a partition that holds an
// encrypted pool member.
const RoleGELI Role = "geli"

// Installing stands in place of RoleRig in the label of the rig partition of a
// disk whose installation began and is not finished. A restarted installer may
// overwrite such a disk, and only such a disk, without asking again.
const Installing Role = "installing"

// Paths on the rig partition, relative to its root.
const (
	File      = "rig/manifest.json"
	MFSRoot   = "rig/mfsroot.uzip"
	LayerDir  = "rig/layers"
	PkgDir    = "rig/pkgs"       // a repository for pkg(8)
	PkgStatic = "rig/pkg-static" // pkg(8), which needs nothing of the root it works on
	PkgRepo   = "rig"            // that repository's name
	// Directories in PkgDir with its pkg.conf(5): for a root that has PkgDir mounted,
	// and for the installer itself.
	PkgRepos     = "repos"
	PkgBaseRepos = "repos-base"
	SwitchFile   = "boot/loader.conf.local" // one padded block, overwritten in place
	SwitchSize   = 4096                     // bytes of SwitchFile
	ConfDir      = "boot/loader.conf.d"     // empty; the loader complains when there is none
)

// AnswersFile is the answers' path on the ESP.
const AnswersFile = "rig/answers.toml"
