package reader

import (
	"errors"
	"fmt"
	"io"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/iso"
)

// volume is an ISO: in a file, on a disc, or on a stick.
type volume struct {
	r     io.ReaderAt
	fs    *iso.FS
	table *gpt.Table // in its system area
	boots []iso.Boot
	esp   *fat.FS
	efi   iso.Range
}

// openISO reads the volume and the EFI system partition in it.
func (i *Image) openISO(r io.ReaderAt, size int64) (err error) {
	v := &volume{r: r}
	if v.fs, err = iso.Open(r, size); err != nil {
		return err
	}
	if i.Rig, err = v.fs.Tree(); err != nil {
		return err
	}
	if v.boots, err = v.fs.Boots(); err != nil {
		return err
	}
	for _, b := range v.boots {
		if b.EFI {
			v.efi = b.Range
		}
	}
	if v.efi.Len == 0 {
		return &ForeignError{i.Path, "it is an ISO without an EFI system partition"}
	}
	if v.esp, err = fat.Open(io.NewSectionReader(r, v.efi.Off, v.efi.Len), v.efi.Len); err == nil {
		i.ESP, err = v.esp.Tree()
	}
	if err != nil {
		return fmt.Errorf("EFI system partition: %w", err)
	}
	if err := v.readTable(i); err != nil {
		return err
	}
	i.Partitions = append(i.Partitions, Partition{Label: v.fs.Volume(), Type: "iso9660", Size: v.fs.Size()})
	i.Partitions[len(i.Partitions)-1].count(i.Rig)
	return i.finish(v)
}

// readTable reads the table by which the ISO boots from a stick. Its backup is where
// the ISO ends.
func (v *volume) readTable(i *Image) error {
	table, err := gpt.Read(v.r, v.fs.Size(), 512)
	var damage *gpt.DamageError
	if errors.As(err, &damage) {
		i.faults = append(i.faults, fault{checkTable, err})
	} else if err != nil {
		return err
	}
	v.table = table
	for _, p := range table.Partitions {
		x := Partition{Label: p.Label, Type: p.Type.String(), Start: p.Start, Size: p.Size}
		if p.Type == gpt.EFI {
			x.count(i.ESP)
		}
		i.Partitions = append(i.Partitions, x)
	}
	return nil
}

// file implements medium.
func (v *volume) file(path string) (io.ReaderAt, error) {
	g, err := v.fs.FileRange(path)
	return io.NewSectionReader(v.r, g.Off, g.Len), err
}
