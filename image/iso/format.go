// Package iso writes and reads ISO 9660 volumes with Rock Ridge names, owners,
// modes, times and links, and an El Torito boot catalog for BIOS and UEFI: the
// file systems of CD images that also start from a USB stick.
//
// References: ECMA-119 2nd edition for the volume, SUSP 1.12 and RRIP 1.12 (IEEE
// P1281 and P1282 drafts) for Rock Ridge, El Torito 1.0 and UEFI 2.10 §13.3.2 for
// the catalog; names of fields follow FreeBSD 15.1 sys/fs/cd9660/{iso.h,
// cd9660_rrip.h}. What readers really do comes from sys/fs/cd9660 (kernel),
// stand/libsa/{cd9660.c,cd9660read.c} (loader, isoboot), stand/i386/cdboot, and
// usr.sbin/makefs/cd9660 for what cdboot expects.
//
// The volume is interchange level 2 with plain names of up to 31 characters, but
// directories may be deeper than the 8 levels of ECMA-119 §6.8.2.1: they are not
// relocated, as FreeBSD, Linux and every Rock Ridge reader walk them all the
// same. A tree's chflags(2) have no place in the format and are dropped; times
// are whole seconds from 1900 to 2155. Left out: files of 4 GiB and more (they
// need several extents, which FreeBSD cannot read), Joliet, extended attribute
// records, relocated directories, volumes without Rock Ridge (when reading).
//
// Readers differ in names: cdboot sees plain ones only; isoboot and the loader see
// Rock Ridge ones only, up to 250 bytes; Linux cuts them at 253. isoboot takes the
// first entry that begins with what it looks for, and all three need a zero behind
// the last record of a block: see plainName.compare and recordOff.
//
// A volume keeps its system area, the first 32 KiB, zero, so that [Range]s of a
// Plan and package gpt make it a hybrid: a primary table fits there together with
// isoboot, a backup in Options.Tail. Offsets and sizes are in bytes unless a name
// says blocks, which are 2048 bytes.
package iso

import (
	"encoding/binary"
	"time"
	"unsafe"
)

// Numbers of ECMA-119 §7.2 and §7.3 without alignment: little-endian, big-endian,
// or both one after the other.
type (
	le16   [2]byte
	le32   [4]byte
	be32   [4]byte
	both16 [4]byte // isonum_723
	both32 [8]byte // isonum_733
)

func (v le16) get() uint16   { return binary.LittleEndian.Uint16(v[:]) }
func (v le32) get() uint32   { return binary.LittleEndian.Uint32(v[:]) }
func (v be32) get() uint32   { return binary.BigEndian.Uint32(v[:]) }
func (v both16) get() uint16 { return binary.LittleEndian.Uint16(v[:]) }
func (v both32) get() uint32 { return binary.LittleEndian.Uint32(v[:]) }

func (v both16) same() bool { return v == putBoth16(v.get()) }
func (v both32) same() bool { return v == putBoth32(v.get()) }

func put16(n uint16) (v le16)   { binary.LittleEndian.PutUint16(v[:], n); return v }
func put32(n uint32) (v le32)   { binary.LittleEndian.PutUint32(v[:], n); return v }
func putBE32(n uint32) (v be32) { binary.BigEndian.PutUint32(v[:], n); return v }

func putBoth16(n uint16) (v both16) {
	binary.LittleEndian.PutUint16(v[:], n)
	binary.BigEndian.PutUint16(v[2:], n)
	return v
}

func putBoth32(n uint32) (v both32) {
	binary.LittleEndian.PutUint32(v[:], n)
	binary.BigEndian.PutUint32(v[4:], n)
	return v
}

// date7 is a time of ECMA-119 §9.1.5: year-1900, month, day, hour, minute, second,
// and the zone in quarters of an hour. date17 is one of §8.4.26.1, in digits.
type (
	date7  [7]byte
	date17 [17]byte
)

// descHeader begins every volume descriptor.
type descHeader struct {
	Type    uint8
	ID      [5]byte // ISO_STANDARD_ID
	Version uint8
}

// primary is struct iso_primary_descriptor.
type primary struct {
	descHeader
	_             uint8
	System        [32]byte // a-characters
	Volume        [32]byte // d-characters
	_             [8]byte
	Space         both32 // blocks of the volume
	_             [32]byte
	SetSize       both16
	Sequence      both16
	BlockSize     both16
	PathSize      both32 // bytes
	PathL         le32   // block
	OptPathL      le32
	PathM         be32
	OptPathM      be32
	Root          dirRecord
	RootName      uint8 // 0
	SetID         [128]byte
	Publisher     [128]byte
	Preparer      [128]byte
	Application   [128]byte
	Copyright     [37]byte
	Abstract      [37]byte
	Bibliographic [37]byte
	Created       date17
	Modified      date17
	Expires       date17
	Effective     date17
	FileVersion   uint8
	_             uint8
	_             [512]byte // application use
	_             [653]byte
}

// bootRecord is the Boot Record Volume Descriptor of El Torito 1.0 figure 7.
type bootRecord struct {
	descHeader
	System  [32]byte
	_       [32]byte
	Catalog le32 // block
	_       [1973]byte
}

// dirRecord is struct iso_directory_record without the name, which a pad byte
// follows when its length is even, and then Rock Ridge.
type dirRecord struct {
	Len      uint8
	ExtLen   uint8  // blocks of an extended attribute record
	Extent   both32 // block
	Size     both32 // bytes
	Date     date7
	Flags    uint8
	Unit     uint8
	Gap      uint8
	Sequence both16
	NameLen  uint8
}

// pathRecord is struct ptable_ent without the name, in one of both byte orders.
type pathRecord struct {
	NameLen uint8
	ExtLen  uint8
	Extent  [4]byte // block
	Parent  [2]byte // number of a directory, from 1
}

// suspHeader is ISO_SUSP_HEADER: it begins every field of Rock Ridge.
type suspHeader struct {
	Sig     [2]byte
	Len     uint8
	Version uint8 // 1
}

type (
	// suspSP is ISO_RRIP_OFFSET, first field of the root's "." record.
	suspSP struct {
		suspHeader
		Check [2]byte // 0xbe 0xef
		Skip  uint8
	}
	// suspCE is ISO_RRIP_CONT: the fields go on at an offset of a block.
	suspCE struct {
		suspHeader
		Block, Off, Size both32
	}
	// suspER is ISO_RRIP_EXTREF; three strings follow.
	suspER struct {
		suspHeader
		IDLen, DesLen, SrcLen, ExtVersion uint8
	}
	// rripPX is ISO_RRIP_ATTR with the serial number of RRIP 1.12.
	rripPX struct {
		suspHeader
		Mode, Links, UID, GID, Serial both32
	}
	// rripTF is ISO_RRIP_TSTAMP with one time. FreeBSD and Linux take it for
	// the others too.
	rripTF struct {
		suspHeader
		Flags  uint8
		Modify date7
	}
	// rripNM is ISO_RRIP_ALTNAME; a name or a part of it follows.
	rripNM struct {
		suspHeader
		Flags uint8
	}
	// rripSL is ISO_RRIP_SLINK; components follow.
	rripSL struct {
		suspHeader
		Flags uint8
	}
	// slComponent is ISO_RRIP_SLINK_COMPONENT; its text follows.
	slComponent struct{ Flags, Len uint8 }
)

// validation is El Torito's first entry, figure 2.
type validation struct {
	Header   uint8 // 1
	Platform uint8
	_        [2]byte
	ID       [24]byte
	Checksum le16 // makes the sum of all 16-bit words 0
	Key      [2]byte
}

// bootEntry is El Torito's initial/default entry, figure 3, and section entry,
// figure 5.
type bootEntry struct {
	Indicator uint8
	Media     uint8 // 0 = no emulation
	Segment   le16  // 0 = 0x7c0
	System    uint8
	_         uint8
	Count     le16 // sectors of 512 bytes
	Block     le32
	_         [20]byte
}

// sectionHeader is El Torito's figure 4.
type sectionHeader struct {
	Indicator uint8
	Platform  uint8
	Entries   le16
	ID        [28]byte
}

var (
	_ [blockSize]byte      = [unsafe.Sizeof(primary{})]byte{}
	_ [blockSize]byte      = [unsafe.Sizeof(bootRecord{})]byte{}
	_ [dirRecordSize]byte  = [unsafe.Sizeof(dirRecord{})]byte{}
	_ [pathRecordSize]byte = [unsafe.Sizeof(pathRecord{})]byte{}
	_ [suspHeaderSize]byte = [unsafe.Sizeof(suspHeader{})]byte{}
	_ [7]byte              = [unsafe.Sizeof(suspSP{})]byte{}
	_ [ceSize]byte         = [unsafe.Sizeof(suspCE{})]byte{}
	_ [8]byte              = [unsafe.Sizeof(suspER{})]byte{}
	_ [44]byte             = [unsafe.Sizeof(rripPX{})]byte{}
	_ [12]byte             = [unsafe.Sizeof(rripTF{})]byte{}
	_ [nmSize]byte         = [unsafe.Sizeof(rripNM{})]byte{}
	_ [slSize]byte         = [unsafe.Sizeof(rripSL{})]byte{}
	_ [catalogEntry]byte   = [unsafe.Sizeof(validation{})]byte{}
	_ [catalogEntry]byte   = [unsafe.Sizeof(bootEntry{})]byte{}
	_ [catalogEntry]byte   = [unsafe.Sizeof(sectionHeader{})]byte{}
)

const (
	blockSize = 2048 // ISO_DEFAULT_BLOCK_SIZE

	dirRecordSize  = 33 // ISO_DIRECTORY_RECORD_SIZE
	pathRecordSize = 8  // PTFIXSZ
	suspHeaderSize = 4
	ceSize         = 28
	nmSize         = 5
	slSize         = 5
	catalogEntry   = 32

	descBoot    = 0
	descPrimary = 1   // ISO_VD_PRIMARY
	descEnd     = 255 // ISO_VD_END
	firstDesc   = 16  // block
	lastDesc    = 100 // cd9660_vfsops.c looks no further

	flagDir        = 0x02
	flagAssociated = 0x04
	flagMulti      = 0x80 // more extents follow

	flagContinue = 0x01 // ISO_SUSP_CFLAG_*: of NM, SL and components
	flagCurrent  = 0x02
	flagParent   = 0x04
	flagRoot     = 0x08

	tfCreate = 0x01 // ISO_SUSP_TSTAMP_*
	tfModify = 0x02
	tfLong   = 0x80

	modeType = 0o170000 // POSIX file types in PX
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000

	bootable     = 0x88
	platformBIOS = 0
	platformEFI  = 0xef
	moreSections = 0x90
	lastSection  = 0x91

	maxRecord = 254  // its length is one byte, and even
	maxField  = 255  // of a SUSP field
	maxName   = 255  // NAME_MAX
	maxLink   = 1023 // MAXPATHLEN with its NUL; cd9660_rrip_slink copies no more
	maxPath   = 1023 // the same
	maxFile   = 1<<32 - 1
	maxDirs   = 1<<16 - 1 // a path table numbers parents with 16 bits
	maxBlocks = 1<<31 - 1 // im_volume_space_size is an int
	maxHops   = 32        // continuation areas of one record: Linux follows no more
	// geom_label copies 31 characters of the 32 (g_label_iso9660.c).
	maxVolume    = 31
	maxPublisher = 128
	maxBaseExt   = 30 // ECMA-119 §7.5.1: name and extension
	maxDirName   = 31 // §7.6.3
	maxExt       = 8  // ours: the rest is the name's
)

const (
	standardID = "CD001"
	elTorito   = "EL TORITO SPECIFICATION"
	systemID   = "FREEBSD"
	appID      = "RIG"

	erID  = "IEEE_1282" // RRIP 1.12 §4.1 and §5.1; cd9660_rrip_extref knows it
	erDes = "THE IEEE 1282 PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS"
	erSrc = "PLEASE CONTACT THE IEEE STANDARDS DEPARTMENT, PISCATAWAY, NJ, USA FOR THE 1282 SPECIFICATION."
)

// Room of the system area that a GPT with 128 entries leaves: from LBA 34 to the
// first volume descriptor at LBA 64.
const (
	sector      = 512
	systemArea  = firstDesc * blockSize
	isobootOff  = 34 * sector
	maxISOBoot  = systemArea - isobootOff
	bootKeyLow  = 0x55
	bootKeyHigh = 0xaa
)

// marshal is the on-disk form of one of the structs above.
func marshal(v any) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		panic(err) // not a struct of fixed size
	}
	return b
}

// unmarshal decodes one of the structs above from b, which is long enough.
func unmarshal(b []byte, v any) {
	if _, err := binary.Decode(b, binary.LittleEndian, v); err != nil {
		panic(err)
	}
}

func blocks(size int64) int64 { return (size + blockSize - 1) / blockSize }

var (
	firstDate7 = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	lastDate7  = time.Date(2155, 12, 31, 23, 59, 59, 0, time.UTC)
)

// clampTime is t in UTC as a date7 can say it.
func clampTime(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Second)
	if t.Before(firstDate7) {
		return firstDate7
	}
	if t.After(lastDate7) {
		return lastDate7
	}
	return t
}

func putDate7(t time.Time) date7 {
	t = clampTime(t)
	return date7{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0}
}

// get is the time; the epoch when it is nonsense.
func (d date7) get() time.Time {
	y, m, day := 1900+int(d[0]), time.Month(d[1]), int(d[2])
	t := time.Date(y, m, day, int(d[3]), int(d[4]), int(d[5]), 0, time.UTC)
	if yy, mm, dd := t.Date(); yy != y || mm != m || dd != day {
		return time.Unix(0, 0).UTC()
	}
	return t.Add(-time.Duration(int8(d[6])) * 15 * time.Minute)
}

func putDate17(t time.Time) (d date17) {
	copy(d[:], clampTime(t).Format("20060102150405")+"00")
	return d
}

// noDate is a date17 that is not specified.
var noDate = date17{'0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', 0}
