package gpt

import (
	"bytes"
	"fmt"
	"io"

	lib "github.com/diskfs/go-diskfs/partition/gpt"
)

// Write validates t and writes the backup table, the primary table, and last the
// first sector with the protective MBR. pmbr is the content of /boot/pmbr, of
// which the first 440 bytes are used, or nil for no boot code. Everything
// between the tables is left alone. After Write, use [Read].
func (t *Table) Write(dst io.WriterAt, pmbr []byte) error {
	if err := t.Validate(); err != nil {
		return err
	}
	if pmbr != nil && (len(pmbr) != mbrSize || !bytes.Equal(pmbr[mbrSize-2:], []byte{0x55, 0xaa})) {
		return fmt.Errorf("gpt: boot code of %d bytes is not a boot sector of %d with its signature", len(pmbr), mbrSize)
	}
	ss := t.sectorSize()
	start, end := t.Usable()
	primary := part{0, make([]byte, start)}
	backup := part{end, make([]byte, t.DiskSize-end)}
	if err := t.lib().Write(&memDisk{[]part{primary, backup}}, t.DiskSize); err != nil {
		return fmt.Errorf("gpt: %w", err)
	}
	var code []byte
	if pmbr != nil {
		code = pmbr[:bootCodeSize]
	}
	copy(primary.b, protectiveMBR(code, uint64(t.DiskSize/ss)))

	for _, p := range []part{backup, {ss, primary.b[ss:]}, {0, primary.b[:ss]}} {
		if _, err := dst.WriteAt(p.b, p.off); err != nil {
			return fmt.Errorf("gpt: write %d bytes at %d: %w", len(p.b), p.off, err)
		}
	}
	return nil
}

// lib is t as go-diskfs describes it.
func (t *Table) lib() *lib.Table {
	ss := t.sectorSize()
	l := &lib.Table{LogicalSectorSize: int(ss), PhysicalSectorSize: int(ss), GUID: t.DiskGUID, ProtectiveMBR: true}
	for i, p := range t.Partitions {
		l.Partitions = append(l.Partitions, &lib.Partition{
			Index: i + 1,
			Start: uint64(p.Start / ss),
			End:   uint64((p.Start+p.Size)/ss) - 1,
			Size:  uint64(p.Size),
			Type:  lib.Type(p.Type), Name: p.Label, GUID: p.GUID, Attributes: p.Attributes,
		})
	}
	return l
}
