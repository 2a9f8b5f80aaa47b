package image

import (
	"context"
	"hash/crc32"
	"io"
	"os"

	"rig/image/fat"
	"rig/image/gpt"
	"rig/image/ufs"
	"rig/internal/diag"
	"rig/manifest"
	"rig/tree"
)

// disk is the image being written.
type disk struct {
	*builder
	f     *os.File
	parts []manifest.Part
	esp   *tree.Tree
	rig   *tree.Tree
	id    string
	table gpt.Table
}

func (d *disk) write(ctx context.Context) error {
	if err := d.f.Truncate(d.man.Boot.ImageSize()); err != nil {
		return err
	}
	d.table = gpt.Table{DiskGUID: gpt.DeriveGUID(d.id, "disk"), SectorSize: 512, DiskSize: d.man.Boot.ImageSize()}
	types := map[manifest.Role]gpt.Type{manifest.RoleBoot: gpt.FreeBSDBoot, manifest.RoleESP: gpt.EFI, manifest.RoleRig: gpt.FreeBSDUFS}
	for _, p := range d.parts {
		d.table.Partitions = append(d.table.Partitions, gpt.Partition{Type: types[p.Role], Label: string(p.Role),
			GUID: gpt.DeriveGUID(d.id, string(p.Role)), Start: p.Start, Size: p.Size})
	}
	pmbr, err := d.base.ReadFile("boot/pmbr", 512)
	if err != nil {
		return err
	}
	if err := d.table.Write(d.f, pmbr); err != nil {
		return err
	}
	gptboot, err := d.base.ReadFile("boot/gptboot", manifest.BootSize)
	if err != nil {
		return err
	}
	if _, err := d.f.WriteAt(gptboot, manifest.BootStart); err != nil {
		return err
	}
	if err := d.writeESP(io.NewOffsetWriter(d.f, d.parts[1].Start)); err != nil {
		return err
	}
	up, err := ufs.Layout(d.rig, ufs.Options{Label: "rig", Size: d.parts[2].Size, ID: manifest.FSID(d.id), Time: d.at})
	if err != nil {
		return diag.Hint(err, "raise rig_size in [boot] of %s", ConfigFile)
	}
	return up.Write(&meter{w: io.NewOffsetWriter(stopper{ctx, d.f}, d.parts[2].Start), total: d.rig.Size(),
		report: func(n, total int64) { d.Progress("write image", n, total) }})
}

// writeESP writes the EFI system partition onto zeros.
func (d *disk) writeESP(w io.WriterAt) error {
	p, err := fat.Layout(d.esp, fat.Options{Size: d.parts[1].Size, Label: "EFISYS", Serial: crc32.ChecksumIEEE([]byte(d.id)), Time: d.at,
		HiddenSectors: uint32(d.parts[1].Start / 512)})
	if err != nil {
		return err
	}
	return p.Write(w)
}

// verifyESP reads it back.
func (d *disk) verifyESP(r io.ReaderAt) error {
	f, err := fat.Open(r, d.parts[1].Size)
	if err != nil {
		return err
	}
	return f.Check()
}

// verify reads back what was written: table, file systems, every file.
func (d *disk) verify(ctx context.Context) error {
	r := stopper{ctx, d.f}
	if _, err := gpt.Read(r, d.table.DiskSize, 512); err != nil {
		return err
	}
	p := d.parts[1]
	if err := d.verifyESP(io.NewSectionReader(r, p.Start, p.Size)); err != nil {
		return err
	}
	p = d.parts[2]
	return ufs.Verify(io.NewSectionReader(r, p.Start, p.Size), p.Size, d.rig)
}

// meter reports how much was written.
type meter struct {
	w           io.WriterAt
	done, total int64
	report      func(done, total int64)
}

func (m *meter) WriteAt(p []byte, off int64) (int, error) {
	n, err := m.w.WriteAt(p, off)
	if m.done += int64(n); m.done <= m.total {
		m.report(m.done, m.total)
	}
	return n, err
}

// stopper is a file that refuses to be read and written once ctx is cancelled,
// so that Ctrl-C ends the longest piece of work soon.
type stopper struct {
	ctx context.Context
	f   *os.File
}

func (s stopper) Write(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.f.Write(p)
}

func (s stopper) WriteAt(p []byte, off int64) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.f.WriteAt(p, off)
}

func (s stopper) ReadAt(p []byte, off int64) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.f.ReadAt(p, off)
}
