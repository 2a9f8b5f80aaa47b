// Package gpt writes and reads GUID partition tables, revision 1.0 of the UEFI
// specification 2.10 chapter 5, with a protective MBR that may carry FreeBSD's
// pmbr(8) boot code.
//
// The tables themselves are made and decoded by go-diskfs' partition/gpt. This
// package adds what that leaves to its caller: checking a wish as a whole, boot
// code, the protective entry's CHS fields and its size on disks past 2^32
// sectors, sectors of 4096 bytes written whole, and a reader that checks both
// copies, says which one is bad, and never allocates what a header asks for.
//
// Facts come from FreeBSD 15.1: sys/sys/disk/gpt.h (types, attributes, entry),
// usr.bin/mkimg/gpt.c (placement), stand/i386/pmbr/pmbr.S (limits of boot code),
// stand/libsa/gpt.c (at most 128 entries).
//
// Left out: tables of other sizes than 128 entries of 128 bytes (when writing),
// hybrid MBRs, holes in the numbering. Sizes and offsets are in bytes, LBAs only
// appear in messages.
package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unsafe"
)

// Type is a partition type GUID in lower case.
type Type string

// Types of sys/sys/disk/gpt.h.
const (
	EFI         Type = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" // GPT_ENT_TYPE_EFI
	FreeBSDBoot Type = "83bd6b9d-7f41-11dc-be0b-001560b84f0f" // GPT_ENT_TYPE_FREEBSD_BOOT
	FreeBSDUFS  Type = "516e7cb6-6ecf-11d6-8ff8-00022d09712b" // GPT_ENT_TYPE_FREEBSD_UFS
	FreeBSDSwap Type = "516e7cb5-6ecf-11d6-8ff8-00022d09712b" // GPT_ENT_TYPE_FREEBSD_SWAP
	FreeBSDZFS  Type = "516e7cba-6ecf-11d6-8ff8-00022d09712b" // GPT_ENT_TYPE_FREEBSD_ZFS
)

// Attribute bits of sys/sys/disk/gpt.h, for Partition.Attributes.
const (
	Platform   uint64 = 1 << 0  // GPT_ENT_ATTR_PLATFORM
	BootMe     uint64 = 1 << 59 // GPT_ENT_ATTR_BOOTME
	BootOnce   uint64 = 1 << 58 // GPT_ENT_ATTR_BOOTONCE
	BootFailed uint64 = 1 << 57 // GPT_ENT_ATTR_BOOTFAILED
)

// String is gpart(8)'s name of the type, the GUID when it has none here.
func (t Type) String() string {
	switch t {
	case EFI:
		return "efi"
	case FreeBSDBoot:
		return "freebsd-boot"
	case FreeBSDUFS:
		return "freebsd-ufs"
	case FreeBSDSwap:
		return "freebsd-swap"
	case FreeBSDZFS:
		return "freebsd-zfs"
	}
	return string(t)
}

const (
	entries    = 128 // MAXTBLENTS of stand/libsa/gpt.c
	entrySize  = 128 // sizeof(struct gpt_ent)
	tableSize  = entries * entrySize
	maxEntries = 1024 // accepted when reading
	labelUnits = 36   // UTF-16 code units of gpt_ent.ent_name

	bootCodeSize = 440       // the disk signature follows at 440, the entries at 446
	pmbrLimit    = 545 << 10 // pmbr.S loads from 0x7c00 to 0x90000 and no further
)

// header is struct gpt_hdr of sys/sys/disk/gpt.h, 92 bytes on disk.
type header struct {
	Sig       [8]byte // GPT_HDR_SIG
	Revision  uint32  // GPT_HDR_REVISION
	Size      uint32
	CRC       uint32 // of Size bytes with this field 0
	_         uint32
	Self      uint64 // LBA
	Alt       uint64 // LBA of the other copy
	First     uint64 // first LBA for partitions
	Last      uint64 // last LBA for partitions
	GUID      [16]byte
	Table     uint64 // LBA
	Entries   uint32
	EntrySize uint32
	TableCRC  uint32
}

const headerSize = 92

var _ [headerSize]byte = [unsafe.Offsetof(header{}.TableCRC) + 4]byte{}

var signature = [8]byte{'E', 'F', 'I', ' ', 'P', 'A', 'R', 'T'}

// decodeHeader reads and checks one header found at LBA self on a disk of
// sectors sectors.
func decodeHeader(b []byte, self, sectors uint64, sectorSize int64) (*header, error) {
	var h header
	if _, err := binary.Decode(b[:headerSize], binary.LittleEndian, &h); err != nil {
		return nil, err
	}
	if h.Sig != signature {
		return nil, errors.New("no GPT signature")
	}
	sum := bytes.Clone(b[:headerSize])
	clear(sum[16:20]) // CRC
	tableSectors := (uint64(h.Entries)*uint64(h.EntrySize) + uint64(sectorSize) - 1) / uint64(sectorSize)
	switch {
	case h.Revision != 1<<16 || h.Size != headerSize:
		return nil, fmt.Errorf("header of revision %#x and %d bytes; only %#x and %d are known", h.Revision, h.Size, 1<<16, headerSize)
	case crc32.ChecksumIEEE(sum) != h.CRC:
		return nil, errors.New("wrong header checksum")
	case h.Self != self:
		return nil, fmt.Errorf("header says it is at LBA %d", h.Self)
	case h.EntrySize != entrySize || h.Entries == 0 || h.Entries > maxEntries:
		return nil, fmt.Errorf("table of %d entries of %d bytes is not supported", h.Entries, h.EntrySize)
	case h.Table < 2 || h.Table >= sectors || tableSectors > sectors-h.Table:
		return nil, fmt.Errorf("table at LBA %d is outside the disk of %d sectors", h.Table, sectors)
	case h.First > h.Last || h.Last >= sectors:
		return nil, fmt.Errorf("usable area from LBA %d to %d is outside the disk of %d sectors", h.First, h.Last, sectors)
	}
	return &h, nil
}

// mbrEntry is struct dos_partition of sys/sys/disk/mbr.h.
type mbrEntry struct {
	Status byte
	Start  [3]byte // head, sector, cylinder
	Type   byte
	End    [3]byte
	LBA    uint32
	Size   uint32 // sectors
}

// mbr is the first 512 bytes of the disk.
type mbr struct {
	Code      [bootCodeSize]byte
	Signature [4]byte // of the disk
	_         [2]byte
	Entry     [4 * mbrEntrySize]byte
	Magic     [2]byte // DOSMAGIC
}

const (
	mbrSize      = 512
	mbrEntrySize = 16
)

var (
	_ [mbrEntrySize]byte = [unsafe.Sizeof(mbrEntry{})]byte{}
	_ [mbrSize]byte      = [unsafe.Sizeof(mbr{})]byte{}
)

// protectiveMBR is what gpt_write_pmbr of usr.bin/mkimg/gpt.c makes, but for the
// 6 bytes behind the code: they belong to the disk signature and stay 0.
func protectiveMBR(code []byte, sectors uint64) []byte {
	e := mbrEntry{Start: [3]byte{0, 2, 0}, Type: 0xee, End: [3]byte{0xff, 0xff, 0xff},
		LBA: 1, Size: uint32(min(sectors-1, 1<<32-1))}
	m := mbr{Magic: [2]byte{0x55, 0xaa}}
	copy(m.Code[:], code)
	binary.Encode(m.Entry[:], binary.LittleEndian, &e)
	b, _ := binary.Append(nil, binary.LittleEndian, &m) // fixed sizes: cannot fail
	return b
}
