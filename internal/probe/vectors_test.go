package probe

import (
	"context"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

// sparse is a disk of zeros but for what is at some offsets.
type sparse struct {
	size int64
	data map[int64]string
	fill byte
}

func (s sparse) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), s.size-off))
	clear(b[:n])
	for i := 0; s.fill != 0 && i < n; i++ {
		b[i] = s.fill
	}
	for at, text := range s.data {
		lo, hi := max(at, off), min(at+int64(len(text)), off+int64(n))
		if lo < hi {
			copy(b[lo-off:hi-off], text[lo-at:hi-at])
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// le is numbers of 16, 32 and 64 bits in little-endian order.
func le(v ...any) string {
	var b []byte
	for _, x := range v {
		b, _ = binary.Append(b, binary.LittleEndian, x)
	}
	return string(b)
}

func be(v ...any) string {
	var b []byte
	for _, x := range v {
		b, _ = binary.Append(b, binary.BigEndian, x)
	}
	return string(b)
}

func zeros(n int) string { return strings.Repeat("\x00", n) }

// summed16 sets the word at to so that all words of s sum to zero.
func summed16(s string, at int) string {
	b := []byte(s)
	var sum uint16
	for i := 0; i < len(b); i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	binary.LittleEndian.PutUint16(b[at:], binary.LittleEndian.Uint16(b[at:])-sum)
	return string(b)
}

// zfsVector is a label's nvlist and what ends its block: a packed nvlist in XDR with
// one string (module/nvpair/nvpair.c), zec_magic of zio_eck_t (sys/zio.h).
func zfsVector(pool string) string {
	pad := zeros((4 - len(pool)%4) % 4)
	value := be(uint32(9), uint32(1), uint32(len(pool))) + pool + pad
	pair := be(uint32(4)) + "name" + value
	nv := "\x01\x01\x00\x00" + be(uint32(0), uint32(1)) + be(uint32(8+len(pair)), uint32(64)) + pair + zeros(8)
	return nv + zeros(112<<10-40-len(nv)) + le(uint64(0x210da7ab10c7a11)) + zeros(32)
}

// fatVector is a parameter block; text goes where BS_FilSysType is (Microsoft's fatgen103).
func fatVector(perFAT16 uint16, perFAT32 uint32, root uint16, cluster byte, text string, textAt int) string {
	b := []byte("\xeb\x3c\x90MSDOS5.0" + le(uint16(512)) + string(cluster) + le(uint16(1)) + "\x02" + le(root, uint16(0)) + "\xf8" +
		le(perFAT16, uint16(63), uint16(255), uint32(0), uint32(131072), perFAT32))
	b = append(b, zeros(512-len(b))...)
	copy(b[textAt:], text)
	b[510], b[511] = 0x55, 0xaa
	return string(b)
}

const vectorSize = 64<<20 + 3*512 // not a multiple of anything

// vectors are magics at their places by the headers that are named, on a disk
// without a table.
func vectors() map[string]struct {
	at   int64 // from the end when negative
	text string
	want string
} {
	type v = struct {
		at   int64
		text string
		want string
	}
	const round64, round4 = vectorSize&^(64<<10-1) - 64<<10, (vectorSize-8<<10)&^(4<<10-1) - 0
	zfsEnd := int64(vectorSize) &^ (256<<10 - 1)
	jm := summed16("JM"+le(uint16(1), uint16(0))+zeros(122), 4)
	sii := summed16(zeros(260)+le(uint16(0x3114), uint16(0x1095), uint16(0), uint16(2))+zeros(52), 318)
	via := "\x55\xaa\x00" + zeros(47) + "\xff"
	promise := "Promise Technology, Inc."
	ext := func(compat, incompat, ro uint32) string { return "\x53\xef" + zeros(34) + le(compat, incompat, ro) }
	return map[string]v{
		// cryptsetup's docs/on-disk-format-luks2.pdf, lib/luks1/luks.h
		"LUKS1":                   {0, "LUKS\xba\xbe\x00\x01", "LUKS1"},
		"LUKS2":                   {0, "LUKS\xba\xbe\x00\x02", "LUKS2"},
		"LUKS2 secondary, 16 KiB": {16 << 10, "SKUL\xba\xbe\x00\x02", "LUKS2 (secondary header)"},
		"LUKS2 secondary, 4 MiB":  {4 << 20, "SKUL\xba\xbe\x00\x02", "LUKS2 (secondary header)"},
		"LVM2, sector 0":          {0, "LABELONE", "LVM2 physical volume"}, // lib/label/label.h
		"LVM2, sector 1":          {512, "LABELONE", "LVM2 physical volume"},
		"LVM2, sector 2":          {1024, "LABELONE", "LVM2 physical volume"},
		"LVM2, sector 3":          {1536, "LABELONE", "LVM2 physical volume"},
		"LVM1":                    {0, "HM\x01\x00", "LVM1 physical volume"},
		"md 0.90":                 {round64, "\xfc\x4e\x2b\xa9", "Linux md 0.90"}, // linux/raid/md_p.h
		"md 0.90, big-endian":     {round64, "\xa9\x2b\x4e\xfc", "Linux md 0.90"},
		"md 1.0":                  {round4, "\xfc\x4e\x2b\xa9", "Linux md 1.0"},
		"md 1.1":                  {0, "\xfc\x4e\x2b\xa9", "Linux md 1.1"},
		"md 1.2":                  {4096, "\xfc\x4e\x2b\xa9", "Linux md 1.2"},
		"DDF":                     {-512, "\xde\x11\xde\x11", "DDF RAID"}, // sys/geom/raid/md_ddf.h
		"DDF, little-endian":      {-512, "\x11\xde\x11\xde", "DDF RAID"},
		"IMSM":                    {-1024, "Intel Raid ISM Cfg Sig. 1.3.00", "Intel RAID (IMSM)"}, // md_intel.c
		"JMicron":                 {-512, jm, "JMicron RAID"},                                     // md_jmicron.c
		"NVidia":                  {-1024, "NVIDIA  ", "NVidia RAID"},                             // md_nvidia.c
		"Promise":                 {-63 * 512, promise, "Promise RAID"},                           // md_promise.c
		"Promise, second volume":  {-49 * 512, promise, "Promise RAID"},
		"ataraid":                 {-63 * 512, "FreeBSD ATA driver RAID ", "Promise RAID (ataraid)"},
		"Silicon Image":           {-512, sii, "Silicon Image RAID"}, // md_sii.c
		"Adaptec":                 {-512, "\x37\xfc\x4d\x1e", "Adaptec RAID"},
		"HighPoint 37x":           {9*512 + 32, "\xf0\x16\x78\x5a", "HighPoint RAID"},
		"HighPoint 45x":           {-11 * 512, "\xf3\x16\x78\x5a", "HighPoint RAID"},
		"LSI":                     {-512, "$XIDE$", "LSI MegaRAID"},
		"VIA":                     {-512, via, "VIA RAID"},
		"gmirror":                 {-512, "GEOM::MIRROR\x00\x00\x00\x00", "gmirror"}, // sys/geom/*/g_*.h
		"gstripe":                 {-512, "GEOM::STRIPE\x00\x00\x00\x00", "gstripe"},
		"gconcat":                 {-512, "GEOM::CONCAT\x00\x00\x00\x00", "gconcat"},
		"graid3":                  {-512, "GEOM::RAID3\x00\x00\x00\x00\x00", "graid3"},
		"glabel":                  {-512, "GEOM::LABEL\x00\x00\x00\x00\x00", "glabel"},
		"gjournal":                {-512, "GEOM::JOURNAL\x00\x00\x00", "gjournal"},
		"gvirstor":                {-512, "GEOM::VIRSTOR\x00\x00\x00", "gvirstor"},
		"gmultipath":              {-512, "GEOM::MULTIPATH\x00", "gmultipath"},
		"gcache":                  {-512, "GEOM::CACHE\x00\x00\x00\x00\x00", "gcache"},
		"gshsec":                  {-512, "GEOM::SHSEC\x00\x00\x00\x00\x00", "gshsec"},
		"GELI":                    {-512, "GEOM::ELI\x00\x00\x00\x00\x00\x00\x00", "GELI"},
		"GELI, sectors of 4096":   {vectorSize - vectorSize%4096 - 4096, "GEOM::ELI\x00\x00\x00\x00\x00\x00\x00", "GELI"},
		"bcache":                  {4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"},
		"bcachefs":                {4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs"},
		"VMFS volume":             {1 << 20, "\x0d\xd0\x01\xc0", "VMFS volume"}, // libblkid/src/superblocks/vmfs.c
		"VMFS":                    {2 << 20, "\x5e\xf1\xab\x2f", "VMFS"},
		"APFS":                    {32, "NXSB", "APFS"}, // usr.sbin/fstyp/apfs.c
		"HFS+":                    {1024, "H+\x00\x04", "HFS+"},
		"HFSX":                    {1024, "HX\x00\x05", "HFSX"},
		"HFS":                     {1024, "BD" + zeros(18) + be(uint32(4096)), "HFS"},
		"FileVault":               {88, "CS" + zeros(6) + le(uint32(512)), "FileVault"},
		"ReFS":                    {3, "ReFS\x00\x00\x00\x00", "ReFS"},
		"BitLocker":               {3, "-FVE-FS-", "BitLocker"},
		"BlueStore":               {0, "bluestore block device\n", "Ceph BlueStore"},
		"DRBD 8.4":                {(vectorSize-4096)&^4095 + 60, be(uint32(0x8374026b)), "DRBD"}, // drbd_int.h: struct meta_data_on_disk
		"DRBD 9":                  {(vectorSize-4096)&^4095 + 60, be(uint32(0x8374026d)), "DRBD"},
		"ZFS label 0":             {16 << 10, zfsVector("tank"), "ZFS member of pool tank (label 0)"},
		"ZFS label 1":             {256<<10 + 16<<10, zfsVector("tank"), "ZFS member of pool tank (label 1)"},
		"ZFS label 2":             {zfsEnd - 512<<10 + 16<<10, zfsVector("ab"), "ZFS member of pool ab (label 2)"},
		"ZFS label 3":             {zfsEnd - 256<<10 + 16<<10, zfsVector("x"), "ZFS member of pool x (label 3)"},
		"ZFS, an uberblock only":  {128<<10 + 3<<10, le(uint64(0x00bab10c)), "ZFS member without a pool's name: a spare, a cache or a damaged label (label 0)"},
		"swap, 4 KiB":             {4096 - 10, "SWAPSPACE2", "Linux swap"},
		"swap, 8 KiB":             {8192 - 10, "SWAPSPACE2", "Linux swap"},
		"swap, 16 KiB":            {16384 - 10, "SWAPSPACE2", "Linux swap"},
		"swap, 64 KiB":            {65536 - 10, "SWAPSPACE2", "Linux swap"},
		"old swap":                {4096 - 10, "SWAP-SPACE", "Linux swap"},
		"suspended":               {4096 - 10, "S1SUSPEND", "Linux swap with a suspended system"},
		"UFS1":                    {8192 + 1372, "\x54\x19\x01\x00", "UFS1"}, // sys/ufs/ffs/fs.h
		"UFS1, big-endian":        {8192 + 1372, "\x00\x01\x19\x54", "UFS1"},
		"UFS2":                    {64<<10 + 1372, "\x19\x01\x54\x19", "UFS2"},
		"UFS2, floppy":            {1372, "\x19\x01\x54\x19", "UFS2"},
		"UFS2, UFS1's place":      {8192 + 1372, "\x19\x01\x54\x19", "UFS2"},
		"UFS2, piggy":             {256<<10 + 1372, "\x19\x01\x54\x19", "UFS2"},
		"ext2":                    {1080, ext(0, 2, 1), "ext2"},
		"ext3":                    {1080, ext(4, 2, 1), "ext3"},
		"ext4":                    {1080, ext(4, 0x40, 0x10), "ext4"},
		"ext journal":             {1080, ext(0, 8, 0), "ext journal"},
		"XFS":                     {0, "XFSB", "XFS"},
		"btrfs":                   {64<<10 + 64, "_BHRfS_M", "btrfs"},
		"btrfs, mirror":           {64<<20 + 64, "_BHRfS_M", "btrfs"},
		"F2FS":                    {1024, "\x10\x20\xf5\xf2", "F2FS"},
		"F2FS, second superblock": {4096 + 1024, "\x10\x20\xf5\xf2", "F2FS"},
		"NTFS":                    {3, "NTFS    ", "NTFS"},
		"exFAT":                   {3, "EXFAT   ", "exFAT"},
		"FAT12":                   {0, fatVector(9, 0, 512, 64, "FAT12   ", 54), "FAT12"},
		"FAT16":                   {0, fatVector(128, 0, 512, 4, "FAT16   ", 54), "FAT16"},
		"FAT32":                   {0, fatVector(0, 1024, 0, 1, "FAT32   ", 82), "FAT32"},
		"FAT32 without text":      {0, fatVector(0, 1024, 0, 1, "", 82), "FAT32"},
		"HPFS":                    {8192, "\x49\xe8\x95\xf9", "HPFS"},
		"ISO 9660":                {32769, "CD001", "ISO 9660"},
		"UDF":                     {32769 + 2048, "NSR02", "UDF"},
		"UDF, after other":        {32769 + 5*2048, "NSR03", "UDF"},
		"squashfs":                {0, "hsqs", "squashfs"},
		"EROFS":                   {1024, "\xe2\xe1\xf5\xe0", "EROFS"},
		"cramfs":                  {0, "\x45\x3d\xcd\x28", "cramfs"},
		"romfs":                   {0, "-rom1fs-", "romfs"},
		"HAMMER":                  {0, le(uint64(0xC8414D4DC5523031)), "HAMMER"}, // hammer_disk.h
		"HAMMER2":                 {0, le(uint64(0x48414d3205172011)), "HAMMER2"},
		"minix 1":                 {1024 + 16, le(uint16(0x138f), uint16(1)), "minix 1"}, // linux/magic.h, minix_fs.h
		"minix 2":                 {1024 + 16, le(uint16(0x2478), uint16(1)), "minix 2"},
		"minix 3":                 {1024 + 24, le(uint16(0x4d5a), uint16(0), uint16(4096)), "minix 3"},
		"JFS":                     {32768, "JFS1", "JFS"},
		"ReiserFS":                {64<<10 + 52, "ReIsEr2Fs", "ReiserFS"},
		"Reiser4":                 {64 << 10, "ReIsEr4", "Reiser4"},
		"NILFS2":                  {1024, le(uint32(2), uint16(0), uint16(0x3434), uint16(0x118)), "NILFS2"},
		"NILFS2, second":          {(vectorSize - 4096) &^ 4095, le(uint32(2), uint16(0), uint16(0x3434), uint16(0x118)), "NILFS2"},
		"OCFS2":                   {8192, "OCFSV2", "OCFS2"},
		"GFS2":                    {65536, "\x01\x16\x19\x70", "GFS2"},
		"VDO":                     {0, "dmvdo001", "VDO"},
		"Stratis":                 {512 + 4, "!Stra0tis\x86\xff\x02^\x41rh", "Stratis"},
		"Oracle ASM":              {32, "ORCLDISK", "Oracle ASM"},
		"dynamic disk":            {6 * 512, "PRIVHEAD", "Windows dynamic disk"},
		"Storage Spaces":          {4096, "SPACEDB ", "Windows Storage Spaces"},
		"BeFS":                    {512 + 32, le(uint32(0x42465331)), "BeFS"}, // usr.sbin/fstyp/befs.c
		"VxFS":                    {1024, "\xf5\xfc\x01\xa5", "VxFS"},
		"kernel dump":             {-512, "FreeBSD Kernel Dump", "FreeBSD kernel dump"},
		"Sun label":               {508, "\xda\xbe", "Sun disk label"},
		"SGI label":               {0, "\x0b\xe5\xa9\x41", "SGI disk label"},
		"Solaris VTOC":            {512 + 12, le(uint32(0x600DDEEE)), "Solaris VTOC"},
		"DragonFly label":         {512, le(uint32(0xc4464c59)), "DragonFly disklabel64"},
		"a boot sector":           {510, "\x55\xaa", "a boot sector"},
	}
}

func verdict(t *testing.T, s sparse, o Options) *Verdict {
	t.Helper()
	o.Size = s.size
	v, err := Disk(context.Background(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Each is recognised on the disk itself, and behind a partition table.
func TestVectors(t *testing.T) {
	all := vectors()
	if len(all) < 100 {
		t.Errorf("only %d vectors", len(all))
	}
	for name, vec := range all {
		t.Run(name, func(t *testing.T) {
			off := vec.at
			if off < 0 {
				off += vectorSize
			}
			v := verdict(t, sparse{size: vectorSize, data: map[int64]string{off: vec.text}}, Options{})
			if v.Kind != Known || v.String() != vec.want {
				t.Errorf("on a disk: %s, %q, want %q", v.Kind, v, vec.want)
			}
			const start = 1 << 20
			d := sparse{size: 256 << 20, data: map[int64]string{0: mbrVector(slot{0x83, 0, start, vectorSize}), start + off: vec.text}}
			v = verdict(t, d, Options{})
			if want := "MBR with 1 partition; partition 1: " + vec.want; v.Kind != Known || !strings.HasPrefix(v.String(), want) {
				t.Errorf("in a partition: %s, %q, want %q", v.Kind, v, want)
			}
		})
	}
}

func mbrVector(entries ...slot) string {
	b := make([]byte, 512)
	for i, s := range entries {
		e := b[mbrSlots+i*mbrSlotSize:]
		e[0], e[4] = s.status, s.kind
		binary.LittleEndian.PutUint32(e[8:], uint32(s.start/512))
		binary.LittleEndian.PutUint32(e[12:], uint32(s.size/512))
	}
	b[510], b[511] = 0x55, 0xaa
	return string(b)
}
