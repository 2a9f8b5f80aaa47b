package reader

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// disk is a disk with a partition table: an image, a device, or a virtual one.
type disk struct {
	r               io.ReaderAt
	size            int64
	table           *gpt.Table
	boot, esp, rig  *gpt.Partition // boot can be missing
	espFS           *fat.FS
	rigFS           *ufs.FS
	espPart, rigRaw *io.SectionReader
}

// openDisk reads table and file systems of a disk of size bytes.
func (i *Image) openDisk(r io.ReaderAt, size int64, sector int) error {
	d := &disk{r: r, size: size}
	if err := d.readTable(i, sector); err != nil {
		return err
	}
	for n := range d.table.Partitions {
		d.choose(&d.table.Partitions[n])
	}
	if d.esp == nil || d.rig == nil {
		return &ForeignError{i.Path, "its partition table has no partitions efi and rig"}
	}
	if err := d.open(i); err != nil {
		return err
	}
	if err := i.finish(d); err != nil {
		return err
	}
	return d.inImage(i)
}

// readTable reads the table. One that is damaged in one copy is used.
func (d *disk) readTable(i *Image, sector int) error {
	var err error
	d.table, err = gpt.Read(d.r, d.size, sector)
	var damage *gpt.DamageError
	if errors.As(err, &damage) {
		i.faults = append(i.faults, fault{checkTable, err})
		return nil
	}
	if err != nil {
		return cmp.Or(d.cut(sector), err)
	}
	return nil
}

// cut says where a disk ends that is shorter than its table says.
func (d *disk) cut(sector int) error {
	const anySize = 1 << 50
	t, err := gpt.Read(d.r, anySize, sector)
	var damage *gpt.DamageError
	if !errors.As(err, &damage) || damage.Part != "backup" {
		return nil
	}
	for _, p := range t.Partitions {
		if p.Start+p.Size > d.size {
			return fmt.Errorf("it ends at byte %d, before the end of partition %s", d.size, p.Label)
		}
	}
	return fmt.Errorf("it ends at byte %d, before the end of the disk", d.size)
}

// choose takes the first partition of each kind.
func (d *disk) choose(p *gpt.Partition) {
	switch {
	case p.Type == gpt.FreeBSDBoot && d.boot == nil:
		d.boot = p
	case p.Type == gpt.EFI && d.esp == nil:
		d.esp = p
	case p.Type == gpt.FreeBSDUFS && d.rig == nil:
		d.rig = p
	}
}

// open reads both file systems.
func (d *disk) open(i *Image) error {
	d.espPart, d.rigRaw = io.NewSectionReader(d.r, d.esp.Start, d.esp.Size), io.NewSectionReader(d.r, d.rig.Start, d.rig.Size)
	var err error
	if d.rigFS, err = ufs.Open(d.rigRaw, d.rig.Size); err == nil {
		i.Rig, err = d.rigFS.Tree()
	}
	if err != nil {
		return fmt.Errorf("partition %s: %w", d.rig.Label, err)
	}
	if d.espFS, err = fat.Open(d.espPart, d.esp.Size); err == nil {
		i.ESP, err = d.espFS.Tree()
	}
	if err != nil {
		return fmt.Errorf("partition %s: %w", d.esp.Label, err)
	}
	for n, p := range d.table.Partitions {
		x := Partition{Label: p.Label, Type: p.Type.String(), Start: p.Start, Size: p.Size}
		switch &d.table.Partitions[n] {
		case d.esp:
			x.count(i.ESP)
		case d.rig:
			x.count(i.Rig)
		}
		i.Partitions = append(i.Partitions, x)
	}
	return nil
}

func (p *Partition) count(t *tree.Tree) { p.Files, p.Used = t.Len(), t.Size() }

// inImage looks for the backup table where the image ends, on a disk that is larger:
// an appliance's, or one that an image was copied to.
func (d *disk) inImage(i *Image) error {
	n := i.Manifest.Boot.ImageSize()
	if len(i.faults) == 0 || n >= d.size || d.table.SectorSize != 512 {
		return nil
	}
	table, err := gpt.Read(io.NewSectionReader(d.r, 0, n), n, 512)
	if err == nil {
		d.table.DiskSize, i.faults = table.DiskSize, nil
	}
	return nil
}

// file implements medium.
func (d *disk) file(path string) (io.ReaderAt, error) {
	list, err := d.rigFS.Ranges(path)
	return pieces{d.rigRaw, list}, err
}

// pieces reads a file that lies in several runs of a partition.
type pieces struct {
	r    io.ReaderAt
	list []ufs.Range
}

func (p pieces) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for _, x := range p.list {
		if off >= x.Len {
			off -= x.Len
			continue
		}
		k := int(min(int64(len(b)-n), x.Len-off))
		m, err := p.r.ReadAt(b[n:n+k], x.Off+off)
		if n += m; m < k {
			return n, err
		}
		if n == len(b) {
			return n, nil
		}
		off = 0
	}
	return n, io.EOF
}

// Source is the disk that the image is, up to where the image ends, as writers of
// disks take it; false when it is none, but an ISO or a directory.
func (i *Image) Source() (vdisk.Source, bool, error) {
	d, ok := i.medium.(*disk)
	if !ok {
		return vdisk.Source{}, false, nil
	}
	s := vdisk.Source{R: d.r, Size: min(d.size, i.Manifest.Boot.ImageSize())}
	if f, ok := d.r.(*os.File); ok {
		file, err := vdisk.FileSource(f)
		s.Holes = file.Holes
		return s, true, err
	}
	img, virtual := d.r.(vdisk.Image)
	if !virtual {
		return s, true, nil
	}
	const step = 1 << 20
	for off := int64(0); off < s.Size; off += step {
		n := min(step, s.Size-off)
		if img.Allocated(off, n) {
			continue
		}
		if k := len(s.Holes); k > 0 && s.Holes[k-1].End() == off {
			s.Holes[k-1].Len += n
		} else {
			s.Holes = append(s.Holes, tree.Range{Off: off, Len: n})
		}
	}
	return s, true, nil
}
