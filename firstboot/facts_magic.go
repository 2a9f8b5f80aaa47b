package firstboot

import (
	"encoding/binary"
	"io"
	"slices"
)

// magic is a constant by which content is recognised.
type magic struct {
	name string
	at   int64 // bytes from the beginning, or from the end when negative
	want string
}

const (
	headSize = 80 << 10  // holds every magic counted from the beginning
	tailSize = 132 << 10 // holds every magic counted from the end
)

// bootSector is what a provider holds that ends its first sector like a PC's and
// has nothing else to recognise.
const bootSector = "a boot sector"

// magics are looked for in this order. ZFS labels and ext need more than a
// constant and are recognised elsewhere. GEOM classes keep their metadata in the
// last sector, which has 512 or 4096 bytes.
var magics = []magic{
	{"geli", -512, "GEOM::ELI"},
	{"geli", -4096, "GEOM::ELI"},
	{"gmirror", -512, "GEOM::MIRROR"},
	{"gmirror", -4096, "GEOM::MIRROR"},
	{"graid3", -512, "GEOM::RAID3"},
	{"gstripe", -512, "GEOM::STRIPE"},
	{"gconcat", -512, "GEOM::CONCAT"},
	{"gmultipath", -512, "GEOM::MULTIPATH"},
	{"glabel", -512, "GEOM::LABEL"},
	{"luks", 0, "LUKS\xba\xbe"},
	{"bitlocker", 3, "-FVE-FS-"},
	{"mdraid", 0, "\xfc\x4e\x2b\xa9"},           // 1.1; 0xa92b4efc
	{"mdraid", 4 << 10, "\xfc\x4e\x2b\xa9"},     // 1.2
	{"lvm", 0, "LABELONE"},                      // in one of the first four sectors
	{"lvm", 512, "LABELONE"},                    //
	{"lvm", 1024, "LABELONE"},                   //
	{"lvm", 1536, "LABELONE"},                   //
	{"ufs2", 64<<10 + 1372, "\x19\x01\x54\x19"}, // fs_magic of struct fs, 0x19540119
	{"ufs1", 8<<10 + 1372, "\x54\x19\x01\x00"},  // 0x00011954
	{"xfs", 0, "XFSB"},
	{"btrfs", 64<<10 + 64, "_BHRfS_M"},
	{"ntfs", 3, "NTFS    "},
	{"exfat", 3, "EXFAT   "},
	{"fat12", 54, "FAT12   "},
	{"fat16", 54, "FAT16   "},
	{"fat32", 82, "FAT32   "},
	{"hfs+", 1024, "H+"},
	{"hfs+", 1024, "HX"},
	{"apfs", 32, "NXSB"},
	{"jfs", 32 << 10, "JFS1"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"iso9660", 32<<10 + 1, "CD001"},
	{"linux swap", 4<<10 - 10, "SWAPSPACE2"},
	{"linux swap", 4<<10 - 10, "SWAP-SPACE"},
}

// signatures lists what is recognised on a provider of size bytes, each once.
func signatures(r io.ReaderAt, size int64) ([]string, error) {
	head := make([]byte, min(size, headSize))
	if err := readFull(r, head, 0); err != nil {
		return nil, err
	}
	tail := make([]byte, min(size, tailSize))
	if err := readFull(r, tail, size-int64(len(tail))); err != nil {
		return nil, err
	}
	var found []string
	add := func(name string) {
		if name != "" && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	for _, m := range magics {
		b, at := head, m.at
		if m.at < 0 {
			b, at = tail, int64(len(tail))+m.at
		}
		if hasAt(b, at, m.want) {
			add(m.name)
		}
	}
	if mdraidAtEnd(tail, size) {
		add("mdraid")
	}
	add(extVersion(head))
	if len(found) == 0 && hasAt(head, 510, "\x55\xaa") {
		add(bootSector)
	}
	return found, nil
}

func hasAt(b []byte, at int64, want string) bool {
	return at >= 0 && at+int64(len(want)) <= int64(len(b)) && string(b[at:at+int64(len(want))]) == want
}

// mdraidAtEnd looks for the superblocks at the end: version 0.90 in the last
// whole 64 KiB but one, version 1.0 8 KiB before the end, rounded down to 4 KiB.
func mdraidAtEnd(tail []byte, size int64) bool {
	base := size - int64(len(tail))
	for _, at := range []int64{size&^(64<<10-1) - 64<<10, (size - 8<<10) &^ (4<<10 - 1)} {
		if hasAt(tail, at-base, "\xfc\x4e\x2b\xa9") {
			return true
		}
	}
	return false
}

// extVersion tells ext2, ext3 and ext4 apart by their features (Linux
// fs/ext4/ext4.h, struct ext4_super_block at byte 1024).
func extVersion(head []byte) string {
	const super = 1024
	if !hasAt(head, super+56, "\x53\xef") || len(head) < super+104 {
		return ""
	}
	compat := binary.LittleEndian.Uint32(head[super+92:])
	incompat := binary.LittleEndian.Uint32(head[super+96:])
	roCompat := binary.LittleEndian.Uint32(head[super+100:])
	const (
		hasJournal   = 0x4
		ext3Incompat = 0x2 | 0x4 | 0x8 | 0x10 // filetype, recover, journal device, meta_bg
		ext3ROCompat = 0x1 | 0x2 | 0x4        // sparse_super, large_file, btree_dir
	)
	switch {
	case incompat&^ext3Incompat != 0 || roCompat&^ext3ROCompat != 0:
		return "ext4"
	case compat&hasJournal != 0:
		return "ext3"
	}
	return "ext2"
}
