package gpt

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	lib "github.com/diskfs/go-diskfs/partition/gpt"
)

// DamageError says that one copy of a table, or the protective MBR, is bad while
// another copy is good.
type DamageError struct {
	Part string // "primary", "backup" or "protective MBR"
	Err  error
}

func (e *DamageError) Error() string { return "gpt: " + e.Part + ": " + e.Err.Error() }
func (e *DamageError) Unwrap() error { return e.Err }

// Read reads the table of a disk of size bytes and checks the protective MBR and
// the checksums of both copies. When only one copy is good, the table comes from
// it, together with a *DamageError. GUIDs are in lower case; empty entries are
// dropped.
func Read(r io.ReaderAt, size int64, sectorSize int) (*Table, error) {
	if sectorSize == 0 {
		sectorSize = 512
	}
	ss := int64(sectorSize)
	if ss != 512 && ss != 4096 || size%ss != 0 || size < 3*ss {
		return nil, fmt.Errorf("gpt: %d bytes in sectors of %d are not a disk", size, sectorSize)
	}
	primary, err1 := readCopy(r, 1, size, ss)
	backup, err2 := readCopy(r, uint64(size/ss)-1, size, ss)
	switch {
	case err1 != nil && err2 != nil:
		return nil, fmt.Errorf("gpt: primary: %w; backup: %w", err1, err2)
	case err1 != nil:
		t, err := backup.decode(size, ss)
		if err != nil {
			return nil, err
		}
		return t, &DamageError{"primary", err1}
	}
	t, err := primary.decode(size, ss)
	if err != nil {
		return nil, err
	}
	if err2 == nil {
		err2 = primary.alike(backup)
	}
	if err2 != nil {
		return t, &DamageError{"backup", err2}
	}
	if err := checkMBR(r, size/ss); err != nil {
		return t, &DamageError{"protective MBR", err}
	}
	return t, nil
}

// tableCopy is one of the two copies, with good checksums.
type tableCopy struct {
	*header
	sector []byte // the header's
	table  []byte
}

func readCopy(r io.ReaderAt, lba uint64, size, ss int64) (*tableCopy, error) {
	c := &tableCopy{sector: make([]byte, ss)}
	if err := readFull(r, c.sector, int64(lba)*ss); err != nil {
		return nil, fmt.Errorf("header at LBA %d: %w", lba, err)
	}
	var err error
	if c.header, err = decodeHeader(c.sector, lba, uint64(size/ss), ss); err != nil {
		return nil, fmt.Errorf("header at LBA %d: %w", lba, err)
	}
	c.table = make([]byte, c.Entries*entrySize)
	if err := readFull(r, c.table, int64(c.Table)*ss); err != nil {
		return nil, fmt.Errorf("table at LBA %d: %w", c.Table, err)
	}
	if crc32.ChecksumIEEE(c.table) != c.TableCRC {
		return nil, fmt.Errorf("table at LBA %d: wrong checksum", c.Table)
	}
	return c, nil
}

// alike compares what both copies must agree on.
func (c *tableCopy) alike(b *tableCopy) error {
	if c.Alt != b.Self || b.Alt != c.Self {
		return fmt.Errorf("the copies do not name each other: LBA %d names %d, LBA %d names %d", c.Self, c.Alt, b.Self, b.Alt)
	}
	if c.GUID != b.GUID || c.First != b.First || c.Last != b.Last || !bytes.Equal(c.table, b.table) {
		return errors.New("differs from the primary")
	}
	return nil
}

// decode has go-diskfs decode the entries. It is shown the copy as if it were
// the primary one of a disk that holds nothing else.
func (c *tableCopy) decode(size, ss int64) (*Table, error) {
	l, err := lib.Read(&memDisk{[]part{
		{0, append(make([]byte, ss), c.sector...)},
		{int64(c.Table) * ss, c.table},
	}}, int(ss), int(ss))
	if err != nil {
		return nil, fmt.Errorf("gpt: %w", err)
	}
	t := &Table{DiskGUID: strings.ToLower(l.GUID), SectorSize: int(ss), DiskSize: size}
	for _, p := range l.Partitions {
		if p.Start < c.First || p.End > c.Last || p.Start > p.End {
			return nil, fmt.Errorf("gpt: partition %d (%s): LBA %d to %d is outside the usable area from %d to %d",
				p.Index, p.Name, p.Start, p.End, c.First, c.Last)
		}
		t.Partitions = append(t.Partitions, Partition{
			Type:       Type(strings.ToLower(string(p.Type))),
			Label:      p.Name,
			GUID:       strings.ToLower(p.GUID),
			Start:      int64(p.Start) * ss,
			Size:       int64(p.End-p.Start+1) * ss,
			Attributes: p.Attributes,
		})
	}
	return t, nil
}

// checkMBR compares the first sector with what Write makes, boot code excepted.
// Foreign tools fill in other CHS values and sizes; type and start are what
// firmware looks at (UEFI 2.10 §5.2.3).
func checkMBR(r io.ReaderAt, sectors int64) error {
	b := make([]byte, mbrSize)
	if err := readFull(r, b, 0); err != nil {
		return err
	}
	want := protectiveMBR(nil, uint64(sectors))
	if !bytes.Equal(b[mbrSize-2:], want[mbrSize-2:]) {
		return errors.New("no boot signature")
	}
	for e := b[bootCodeSize+6 : mbrSize-2]; len(e) > 0; e = e[mbrEntrySize:] {
		if e[4] == 0xee && bytes.Equal(e[8:12], []byte{1, 0, 0, 0}) {
			return nil
		}
	}
	return errors.New("no entry of type 0xee that starts at LBA 1")
}

// PMBRCode returns the boot code of a disk: the 440 bytes that came from
// /boot/pmbr, all zeros when there are none.
func PMBRCode(r io.ReaderAt) ([]byte, error) {
	b := make([]byte, bootCodeSize)
	if err := readFull(r, b, 0); err != nil {
		return nil, fmt.Errorf("gpt: read boot code: %w", err)
	}
	return b, nil
}
