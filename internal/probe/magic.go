package probe

import (
	"encoding/binary"
	"slices"
	"strings"
)

// magic is a constant by which content is recognised, and where it is.
type magic struct {
	name   string
	at     where
	want   string                           // "" when only verify can tell
	verify func(p *place, off int64) string // "" when it is none after all, else its name; nil takes the constant alone
	member bool                             // a part of something larger
}

// where lists the offsets at which a magic may be in a place.
type where func(p *place) []int64

// at is from the beginning.
func at(offs ...int64) where { return func(*place) []int64 { return offs } }

// lastSectors is off bytes into the nth last sector, of 512 bytes and of the place's
// own size.
func lastSectors(n, off int64) where {
	return func(p *place) []int64 {
		out := []int64{p.size - n*512 + off}
		for _, s := range []int64{p.sector, 4096} {
			if o := p.size - p.size%s - n*s + off; !slices.Contains(out, o) {
				out = append(out, o)
			}
		}
		return out
	}
}

// everySector is each of the first n sectors of 512 bytes, and of the place's own size.
func everySector(n, off int64) where {
	return func(p *place) []int64 {
		var out []int64
		for i := range n {
			out = append(out, i*512+off)
			if p.sector != 512 {
				out = append(out, i*p.sector+off)
			}
		}
		return out
	}
}

// aligned is n bytes before the end, rounded down to whole units.
func aligned(unit, n, off int64) where {
	return func(p *place) []int64 { return []int64{(p.size-n)/unit*unit + off} }
}

func both(a, b where) where {
	return func(p *place) []int64 { return append(slices.Clone(a(p)), b(p)...) }
}

// magics are all that is recognised, members and encryption first. Where no
// other source is given, the places are those of util-linux's libblkid 2.39.
func magics() []magic {
	return []magic{
		// FreeBSD's GEOM classes keep their metadata in the last sector (sys/geom/*/g_*.h).
		{"GEOM", lastSectors(1, 0), "GEOM::", geomClass, true},
		{"gjournal journal", at(0), "GJHDR", nil, true},
		// Firmware RAID, as graid(8) knows it (sys/geom/raid/md_*.c).
		{"Intel RAID (IMSM)", lastSectors(2, 0), "Intel Raid ISM Cfg Sig. ", nil, true},
		{"JMicron RAID", lastSectors(1, 0), "JM", jmicron, true},
		{"NVidia RAID", lastSectors(2, 0), "NVIDIA  ", nil, true},
		{"Promise RAID", promisePlaces, "Promise Technology, Inc.", nil, true},
		{"Promise RAID (ataraid)", promisePlaces, "FreeBSD ATA driver RAID ", nil, true},
		{"Silicon Image RAID", lastSectors(1, 262), "\x95\x10", siliconImage, true},
		{"DDF RAID", both(lastSectors(1, 0), lastSectors(257, 0)), "\xde\x11\xde\x11", nil, true},
		{"DDF RAID", lastSectors(1, 0), "\x11\xde\x11\xde", nil, true},
		// Of ata(4) before graid, and Linux's dmraid.
		{"Adaptec RAID", lastSectors(1, 0), "\x37\xfc\x4d\x1e", nil, true},
		{"HighPoint RAID", at(9*512 + 32), "\xf0\x16\x78\x5a", nil, true},
		{"HighPoint RAID", at(9*512 + 32), "\xfd\x16\x78\x5a", nil, true},
		{"HighPoint RAID", lastSectors(11, 0), "\xf3\x16\x78\x5a", nil, true},
		{"HighPoint RAID", lastSectors(11, 0), "\xfd\x16\x78\x5a", nil, true},
		{"LSI MegaRAID", lastSectors(1, 0), "$XIDE$", nil, true},
		{"VIA RAID", lastSectors(1, 0), "\x55\xaa", viaRAID, true},
		{"ITE RAID", lastSectors(2, 0), "Integrated Technology Express Inc", nil, true},

		{"Linux md 0.90", aligned(64<<10, 64<<10, 0), "\xfc\x4e\x2b\xa9", nil, true},
		{"Linux md 0.90", aligned(64<<10, 64<<10, 0), "\xa9\x2b\x4e\xfc", nil, true},
		{"Linux md 1.0", aligned(4<<10, 8<<10, 0), "\xfc\x4e\x2b\xa9", nil, true},
		{"Linux md 1.1", at(0), "\xfc\x4e\x2b\xa9", nil, true},
		{"Linux md 1.2", at(4 << 10), "\xfc\x4e\x2b\xa9", nil, true},
		{"LVM2 physical volume", everySector(4, 0), "LABELONE", nil, true},
		{"LVM1 physical volume", at(0), "HM\x01\x00", nil, true},
		{"LVM1 physical volume", at(0), "HM\x02\x00", nil, true},
		{"bcache", at(4<<10 + 24), "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", nil, true},
		{"bcachefs", at(4<<10 + 24), "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", nil, true},
		{zfsName, at(0), "", func(p *place, _ int64) string { return zfsLabels(p) }, true},
		{"DRBD", aligned(4<<10, 4<<10, 60), "\x83\x74\x02", drbd, true},
		{"Ceph BlueStore", at(0), "bluestore block device", nil, true},
		{"VDO", at(0), "dmvdo001", nil, true},
		{"Stratis", at(512+4, 9*512+4), "!Stra0tis\x86\xff\x02^\x41rh", nil, true},
		{"VMFS volume", at(1 << 20), "\x0d\xd0\x01\xc0", nil, true},
		{"VMFS", at(2 << 20), "\x5e\xf1\xab\x2f", nil, false},
		{"Oracle ASM", at(32), "ORCLDISK", nil, true},
		{"Windows dynamic disk", both(at(6*512), lastSectors(1, 0)), "PRIVHEAD", nil, true},
		{"Windows Storage Spaces", at(0, 4<<10), "SPACEDB ", nil, true},

		{"LUKS1", at(0), "LUKS\xba\xbe\x00\x01", nil, false},
		{"LUKS2", at(0), "LUKS\xba\xbe\x00\x02", nil, false},
		{"LUKS2 (secondary header)", at(16<<10, 32<<10, 64<<10, 128<<10, 256<<10, 512<<10, 1<<20, 2<<20, 4<<20), "SKUL\xba\xbe\x00\x02", nil, false},
		{"BitLocker", at(3), "-FVE-FS-", nil, false},
		{"FileVault", at(88), "CS", coreStorage, false},

		// sys/ufs/ffs/fs.h: SBLOCKSEARCH, fs_magic is at 1372.
		{"UFS2", at(64<<10+1372, 8<<10+1372, 1372, 256<<10+1372), "\x19\x01\x54\x19", nil, false},
		{"UFS2", at(64<<10+1372, 8<<10+1372, 1372, 256<<10+1372), "\x19\x54\x01\x19", nil, false},
		{"UFS1", at(8<<10+1372, 64<<10+1372, 1372, 256<<10+1372), "\x54\x19\x01\x00", nil, false},
		{"UFS1", at(8<<10+1372, 64<<10+1372, 1372, 256<<10+1372), "\x00\x01\x19\x54", nil, false},
		{"ext", at(1024 + 56), "\x53\xef", extVersion, false},
		{"XFS", at(0), "XFSB", nil, false},
		{"XFS log", at(0), "XLOG", nil, false},
		{"btrfs", at(64<<10+64, 64<<20+64, 256<<30+64), "_BHRfS_M", nil, false},
		{"F2FS", at(1024, 4<<10+1024), "\x10\x20\xf5\xf2", nil, false},
		{"NTFS", at(3), "NTFS    ", nil, false},
		{"exFAT", at(3), "EXFAT   ", nil, false},
		{"ReFS", at(3), "ReFS\x00\x00\x00\x00", nil, false},
		{"FAT", at(0), "", fatVersion, false},
		{"HPFS", at(8 << 10), "\x49\xe8\x95\xf9", nil, false},
		{"HFS+", at(1024), "H+\x00\x04", nil, false},
		{"HFSX", at(1024), "HX\x00\x05", nil, false},
		{"HFS", at(1024), "BD", hfs, false},
		{"APFS", at(32), "NXSB", nil, false},
		{"ISO 9660", at(32<<10 + 1), "CD001", nil, false},
		{"High Sierra CD", at(32<<10 + 9), "CDROM", nil, false},
		{"UDF", udfPlaces, "NSR0", nil, false},
		{"squashfs", at(0), "hsqs", nil, false},
		{"squashfs", at(0), "sqsh", nil, false},
		{"EROFS", at(1024), "\xe2\xe1\xf5\xe0", nil, false},
		{"cramfs", at(0, 512), "\x45\x3d\xcd\x28", nil, false},
		{"romfs", at(0), "-rom1fs-", nil, false},
		{"JFS", at(32 << 10), "JFS1", nil, false},
		{"ReiserFS", at(64<<10+52, 8<<10+52, 64<<10+20), "ReIsEr", nil, false},
		{"Reiser4", at(64 << 10), "ReIsEr4", nil, false},
		{"NILFS2", both(at(1024+6), aligned(4<<10, 4<<10, 6)), "\x34\x34", nilfs, false},
		{"OCFS2", at(1<<10, 2<<10, 4<<10, 8<<10), "OCFSV2", nil, false},
		{"GFS2", at(64 << 10), "\x01\x16\x19\x70", nil, false},
		{"minix", at(1024 + 16), "", minix, false},
		{"BeFS", at(512+32, 32), "1SFB", nil, false}, // usr.sbin/fstyp/befs.c
		{"BeFS", at(512+32, 32), "BFS1", nil, false},
		{"HAMMER", at(0), "\x31\x30\x52\xc5\x4d\x4d\x41\xc8", nil, false},  // HAMMER_FSBUF_VOLUME, usr.sbin/fstyp/hammer_disk.h
		{"HAMMER", at(0), "\xc8\x41\x4d\x4d\xc5\x52\x30\x31", nil, false},  //
		{"HAMMER2", at(0), "\x11\x20\x17\x05\x32\x4d\x41\x48", nil, false}, // HAMMER2_VOLUME_ID_HBO, hammer2_disk.h
		{"HAMMER2", at(0), "\x48\x41\x4d\x32\x05\x17\x20\x11", nil, false}, //
		{"VxFS", at(1 << 10), "\xf5\xfc\x01\xa5", nil, false},
		{"VxFS", at(8 << 10), "\xa5\x01\xfc\xf5", nil, false},
		{"zonefs", at(0), "SFOZ", nil, false},
		{"Linux swap", swapPlaces, "SWAPSPACE2", nil, false},
		{"Linux swap", swapPlaces, "SWAP-SPACE", nil, false},
		{"Linux swap with a suspended system", swapPlaces, "S1SUSPEND", nil, false},
		{"Linux swap with a suspended system", swapPlaces, "S2SUSPEND", nil, false},
		{"Linux swap with a suspended system", swapPlaces, "ULSUSPEND", nil, false},
		{"Linux swap with a suspended system", swapPlaces, "LINHIB0001", nil, false},
		{"FreeBSD kernel dump", lastSectors(1, 0), "FreeBSD Kernel Dump", nil, false},

		{"Solaris VTOC", at(512 + 12), "\xee\xde\x0d\x60", nil, false},
		{"Sun disk label", at(508), "\xda\xbe", nil, false},
		{"SGI disk label", at(0), "\x0b\xe5\xa9\x41", nil, false},
		{"DragonFly disklabel64", at(512), "\x59\x4c\x46\xc4", nil, false},
	}
}

const (
	// BootSector is what a place holds that ends its first sector like a PC's and has
	// nothing else to recognise.
	BootSector = "a boot sector"
	// GELI is FreeBSD's encryption.
	GELI = "GELI"

	zfsName = "ZFS"
)

// recognise lists the magics in a place, each name once. A read error is in p.err.
func recognise(p *place) []Found {
	var out []Found
	for _, m := range magics() {
		for _, off := range m.at(p) {
			if off < 0 || !p.has(off, m.want) || !p.own(off) {
				continue
			}
			name := m.name
			if m.verify != nil {
				name = m.verify(p, off)
			}
			if name != "" && !slices.ContainsFunc(out, func(f Found) bool { return f.Name == name }) {
				out = append(out, Found{Name: name, Member: m.member, ZFS: m.name == zfsName})
			}
		}
	}
	return out
}

// geomClass names the class that metadata in a last sector is of: GELI, gmirror.
func geomClass(p *place, off int64) string {
	b := p.at(off, 16)
	if b == nil {
		return ""
	}
	name, _, _ := strings.Cut(string(b[len("GEOM::"):]), "\x00")
	switch name {
	case "ELI":
		return GELI
	case "":
		return "GEOM"
	}
	return "g" + strings.ToLower(name)
}

// jmicron sums the 64 words of the structure to zero.
func jmicron(p *place, off int64) string {
	b := p.at(off, 128)
	var sum uint16
	for i := 0; i < len(b); i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	if b == nil || sum != 0 {
		return ""
	}
	return "JMicron RAID"
}

// siliconImage wants version 2 behind the vendor, and the sum of 160 words zero.
func siliconImage(p *place, off int64) string {
	b := p.at(off-262, 320)
	var sum uint16
	for i := 0; i < len(b); i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	if b == nil || sum != 0 || binary.LittleEndian.Uint16(b[266:]) != 2 {
		return ""
	}
	return "Silicon Image RAID"
}

// viaRAID sums 50 bytes into the one behind them (libblkid's via_raid.c).
func viaRAID(p *place, off int64) string {
	b := p.at(off, 51)
	if b == nil || b[2] > 2 {
		return ""
	}
	var sum byte
	for _, c := range b[:50] {
		sum += c
	}
	if sum != b[50] {
		return ""
	}
	return "VIA RAID"
}

// promisePlaces are 63 sectors before the end, and 14 less for each further volume;
// and where the controllers' own programs have put it (libblkid's promise_raid.c).
func promisePlaces(p *place) []int64 {
	var out []int64
	for _, n := range []int64{63, 49, 35, 21, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087} {
		out = append(out, p.size-n*512)
		if p.sector != 512 {
			out = append(out, p.size-n*p.sector)
		}
	}
	return out
}

// swapPlaces are at the end of the first page, of 4 to 64 KiB.
func swapPlaces(*place) []int64 {
	var out []int64
	for page := int64(4 << 10); page <= 64<<10; page *= 2 {
		out = append(out, page-10)
	}
	return out
}

// udfPlaces are the descriptors of ECMA-167's volume recognition sequence.
func udfPlaces(*place) []int64 {
	var out []int64
	for i := range int64(64) {
		out = append(out, 32<<10+i*2048+1)
	}
	return out
}

// drbd tells the magics of versions 8.0 to 9 apart from others that begin so.
func drbd(p *place, off int64) string {
	if n := p.be32(off); n >= 0x83740267 && n <= 0x8374026e {
		return "DRBD"
	}
	return ""
}

// coreStorage has the size of its blocks behind the signature.
func coreStorage(p *place, off int64) string {
	n := p.le32(off + 8)
	return plausible(n == 512 || n == 4096, "FileVault")
}

// hfs wants allocation blocks of whole sectors.
func hfs(p *place, off int64) string {
	if n := p.be32(off + 20); n == 0 || n%512 != 0 {
		return ""
	}
	return "HFS"
}

// nilfs wants the superblock's length behind its magic, and revision 2.
func nilfs(p *place, off int64) string {
	if n := p.le16(off + 2); p.le32(off-6) == 2 && n >= 64 && n <= 1024 {
		return "NILFS2"
	}
	return ""
}

// minix has a magic of 16 bits, of version 1 and 2 at byte 16 and of 3 at 24 of its
// superblock, and a state or a block size that is possible.
func minix(p *place, off int64) string {
	b := p.at(1024, 32)
	if b == nil {
		return ""
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint16(b[16:]) {
		case 0x137f, 0x138f:
			return plausible(order.Uint16(b[18:]) <= 3, "minix 1")
		case 0x2468, 0x2478:
			return plausible(order.Uint16(b[18:]) <= 3, "minix 2")
		}
		if order.Uint16(b[24:]) == 0x4d5a {
			bs := order.Uint16(b[28:])
			return plausible(bs >= 1024 && bs&(bs-1) == 0, "minix 3")
		}
	}
	return ""
}

func plausible(ok bool, name string) string {
	if ok {
		return name
	}
	return ""
}

// extVersion tells ext2, ext3 and ext4 apart by their features (Linux
// fs/ext4/ext4.h, struct ext4_super_block at byte 1024).
func extVersion(p *place, off int64) string {
	const super = 1024
	compat, incompat, roCompat := p.le32(super+92), p.le32(super+96), p.le32(super+100)
	const (
		hasJournal   = 0x4
		journalDev   = 0x8
		ext3Incompat = 0x2 | 0x4 | 0x8 | 0x10 // filetype, recover, journal device, meta_bg
		ext3ROCompat = 0x1 | 0x2 | 0x4        // sparse_super, large_file, btree_dir
	)
	switch {
	case incompat&journalDev != 0:
		return "ext journal"
	case incompat&^ext3Incompat != 0 || roCompat&^ext3ROCompat != 0:
		return "ext4"
	case compat&hasJournal != 0:
		return "ext3"
	}
	return "ext2"
}

// fatVersion recognises FAT by its parameter block, with and without the text that
// names it.
func fatVersion(p *place, _ int64) string {
	b := p.at(0, 512)
	if b == nil {
		return ""
	}
	u16 := func(at int) int { return int(binary.LittleEndian.Uint16(b[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	sector, cluster, reserved, fats, root, media := u16(11), int(b[13]), u16(14), int(b[16]), u16(17), b[21]
	power := func(n int) bool { return n > 0 && n&(n-1) == 0 }
	if !power(sector) || sector < 512 || sector > 4096 || !power(cluster) || reserved == 0 || fats == 0 || fats > 4 || media < 0xf0 && media != 0 {
		for _, t := range []struct {
			at   int
			text string
		}{{54, "FAT12   "}, {54, "FAT16   "}, {82, "FAT32   "}} {
			if string(b[t.at:t.at+8]) == t.text {
				return strings.TrimSpace(t.text)
			}
		}
		return ""
	}
	sectors, perFAT := int64(u16(19)), int64(u16(22))
	if sectors == 0 {
		sectors = u32(32)
	}
	if perFAT == 0 {
		perFAT = u32(36)
	}
	data := sectors - int64(reserved) - int64(fats)*perFAT - int64((root*32+sector-1)/sector)
	if perFAT == 0 || data <= 0 {
		return ""
	}
	switch clusters := data / int64(cluster); {
	case u16(22) == 0:
		return "FAT32"
	case clusters < 4085:
		return "FAT12"
	}
	return "FAT16"
}
