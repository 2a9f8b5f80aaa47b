package flash

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"rig/image/gpt"
	"rig/internal/vdisk"
	"rig/zfs"
)

// magic is a constant by which content is recognised. firstboot knows more of
// them; these are what servers for rent and their rescue systems hold.
type magic struct {
	at     int64 // bytes from the beginning, or from the end when negative
	want   string
	name   string
	member bool // a part of something larger
}

var magics = []magic{
	{0, "\xfc\x4e\x2b\xa9", "Linux md", true},       // version 1.1; 0xa92b4efc
	{4 << 10, "\xfc\x4e\x2b\xa9", "Linux md", true}, // 1.2
	{0, "LABELONE", "LVM", true},                    // in one of the first four sectors
	{512, "LABELONE", "LVM", true},
	{1024, "LABELONE", "LVM", true},
	{1536, "LABELONE", "LVM", true},
	{-512, "GEOM::MIRROR", "gmirror", true},
	{-4096, "GEOM::MIRROR", "gmirror", true},
	{-512, "GEOM::RAID", "graid", true},
	{-512, "GEOM::ELI", "geli", false},
	{-4096, "GEOM::ELI", "geli", false},
	{0, "LUKS\xba\xbe", "LUKS", false},
	{64<<10 + 64, "_BHRfS_M", "btrfs", false},
	{1024 + 56, "\x53\xef", "ext", false},
	{0, "XFSB", "xfs", false},
	{64<<10 + 1372, "\x19\x01\x54\x19", "ufs2", false}, // fs_magic of struct fs
	{3, "NTFS    ", "ntfs", false},
	{3, "EXFAT   ", "exfat", false},
	{54, "FAT1", "fat", false},
	{82, "FAT32   ", "fat", false},
	{1024, "H+", "hfs+", false},
	{32, "NXSB", "apfs", false},
	{4<<10 - 10, "SWAPSPACE2", "Linux swap", false},
	{32<<10 + 1, "CD001", "iso9660", false},
}

// inspect says what is on a disk: its table, what its partitions hold, and of what
// it is a member.
func inspect(r io.ReaderAt, size int64, sector int) (holds, member []string, err error) {
	look := func(off, n int64, where string) (string, error) {
		name, isMember, err := recognise(io.NewSectionReader(r, off, n), n)
		if isMember {
			member = append(member, "a member of "+name+where)
		}
		return name, err
	}
	parts, scheme, err := partitions(r, size, sector)
	if err != nil {
		return nil, nil, err
	}
	if scheme == "" {
		name, err := look(0, size, "")
		switch {
		case err != nil:
			return nil, member, err
		case name != "":
			holds = append(holds, name)
		default:
			blank, err := blankEnds(r, size)
			if err != nil || blank {
				return nil, member, err
			}
			holds = append(holds, "data without a partition table")
		}
		return holds, member, nil
	}
	for i, p := range parts {
		text := fmt.Sprintf("%s partition %d, %s", scheme, i+1, zfs.FormatSize(p.Size))
		if p.Label != "" {
			text += fmt.Sprintf(", %q", p.Label)
		}
		if p.Start+p.Size <= size {
			name, err := look(p.Start, p.Size, fmt.Sprintf(" (partition %d)", i+1))
			if err != nil {
				return holds, member, err
			}
			if name != "" {
				text += ": " + name
			}
		}
		holds = append(holds, text)
	}
	if len(parts) == 0 {
		holds = append(holds, scheme+" without partitions")
	}
	if name, err := look(0, size, ""); err == nil && name != "" && len(parts) == 0 {
		holds = append(holds, name)
	}
	return holds, member, nil
}

// partitions reads a GPT, or the first four of an MBR.
func partitions(r io.ReaderAt, size int64, sector int) ([]gpt.Partition, string, error) {
	if size < 64<<10 {
		return nil, "", nil
	}
	t, err := gpt.Read(r, size, sector)
	var damage *gpt.DamageError
	if t != nil && (err == nil || errors.As(err, &damage)) {
		return t.Partitions, "GPT", nil
	}
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, "", err
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, "", nil
	}
	var out []gpt.Partition
	for e := b[446:510]; len(e) > 0; e = e[16:] { // struct dos_partition of sys/sys/disk/mbr.h
		start, n := int64(binary.LittleEndian.Uint32(e[8:])), int64(binary.LittleEndian.Uint32(e[12:]))
		switch {
		case e[4] == 0:
			continue
		case e[0]&0x7f != 0 || start == 0: // the boot sector of a file system
			return nil, "", nil
		}
		out = append(out, gpt.Partition{Start: start * int64(sector), Size: n * int64(sector)})
	}
	if out == nil {
		return nil, "", nil
	}
	return out, "MBR", nil
}

// recognise names what a disk or partition holds, "" when it is nothing known.
func recognise(r io.ReaderAt, size int64) (name string, member bool, err error) {
	label, err := zfs.ReadLabel(r, size)
	if err != nil {
		return "", false, err
	}
	if label != nil {
		return label.String(), true, nil
	}
	for _, m := range magics {
		if has(r, size, m.at, m.want) {
			return m.name, m.member, nil
		}
	}
	// Superblocks of md at the end: version 0.90 in the last whole 64 KiB but one,
	// 1.0 8 KiB before the end.
	for _, at := range []int64{size&^(64<<10-1) - 64<<10, (size - 8<<10) &^ (4<<10 - 1)} {
		if at > 0 && has(r, size, at, "\xfc\x4e\x2b\xa9") {
			return "Linux md", true, nil
		}
	}
	return "", false, nil
}

func has(r io.ReaderAt, size, at int64, want string) bool {
	if at < 0 {
		at += size
	}
	b := make([]byte, len(want))
	if at < 0 || at+int64(len(b)) > size {
		return false
	}
	n, _ := r.ReadAt(b, at)
	return n == len(b) && string(b) == want
}

// blankEnds reports whether the first and the last MiB are zeros.
func blankEnds(r io.ReaderAt, size int64) (bool, error) {
	b := make([]byte, min(size, 1<<20))
	for _, at := range []int64{0, size - int64(len(b))} {
		if n, err := r.ReadAt(b, at); n < len(b) {
			return false, err
		}
		if !vdisk.IsZero(b) {
			return false, nil
		}
	}
	return true, nil
}
