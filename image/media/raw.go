package media

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"github.com/rig-freebsd/rig/internal/work"
)

// rawImage is a disk image that was written, and that other media are made of.
type rawImage struct {
	*target // whose ESP it has

	mu      sync.Mutex
	patches map[int]*os.File // ESPs of other servers
}

// what calls a raw image in messages; one without a name is only what others are made
// of.
func (t *target) what() string {
	if t.name == "" {
		return "write raw image"
	}
	return "write " + t.name
}

// writeImage writes the disk image of a target.
func (p *press) writeImage(ctx context.Context, t *target) error {
	beside := t.name
	if beside == "" {
		beside = p.scratch.beside
	}
	return named(t.what(), func(ctx context.Context) (err error) {
		if t.out, err = p.scratch.create(beside); err != nil {
			return err
		}
		return p.writeDisk(ctx, t.out, t.esp)
	})(ctx)
}

// checkImage reads it back.
func (p *press) checkImage(ctx context.Context, t *target) error {
	p.progress("read back", 0, 0)
	if err := p.verifyDisk(work.On(ctx, t.out)); err != nil {
		return fmt.Errorf("%s: read back: %w", t.what(), err)
	}
	return nil
}

// writeDisk writes table, boot code and file systems into an empty file.
func (p *press) writeDisk(ctx context.Context, f *os.File, esp *tree.Tree) error {
	b := p.Manifest.Boot
	if err := f.Truncate(b.ImageSize()); err != nil {
		return err
	}
	table := gpt.Table{DiskGUID: p.guid("disk"), SectorSize: 512, DiskSize: b.ImageSize()}
	types := map[manifest.Role]gpt.Type{manifest.RoleBoot: gpt.FreeBSDBoot, manifest.RoleESP: gpt.EFI, manifest.RoleRig: gpt.FreeBSDUFS}
	for _, x := range b.Parts() {
		table.Partitions = append(table.Partitions, gpt.Partition{Type: types[x.Role], Label: string(x.Role),
			GUID: p.guid(string(x.Role)), Start: x.Start, Size: x.Size})
	}
	pmbr, err := p.Base.ReadFile("boot/pmbr", 512)
	if err != nil {
		return err
	}
	if err := table.Write(f, pmbr); err != nil {
		return err
	}
	gptboot, err := p.Base.ReadFile("boot/gptboot", manifest.BootSize)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(gptboot, p.part(manifest.RoleBoot).Start); err != nil {
		return err
	}
	if err := p.writeESP(io.NewOffsetWriter(f, p.part(manifest.RoleESP).Start), esp); err != nil {
		return err
	}
	rig := p.part(manifest.RoleRig)
	up, err := ufs.Layout(p.Rig, ufs.Options{Label: "rig", Size: rig.Size, ID: manifest.FSID(p.Manifest.Image), Time: p.Time})
	if err != nil {
		return diag.Hint(err, "raise rig_size in [boot] of rig.toml")
	}
	return up.Write(&work.Meter{W: io.NewOffsetWriter(work.On(ctx, f), rig.Start), Total: p.Rig.Size(),
		Report: func(n, total int64) { p.progress("write image", n, total) }})
}

// verifyDisk reads back what was written: table, file systems, every file.
func (p *press) verifyDisk(r io.ReaderAt) error {
	if _, err := gpt.Read(r, p.Manifest.Boot.ImageSize(), 512); err != nil {
		return err
	}
	x := p.part(manifest.RoleESP)
	if err := p.verifyESP(io.NewSectionReader(r, x.Start, x.Size)); err != nil {
		return err
	}
	x = p.part(manifest.RoleRig)
	return ufs.Verify(io.NewSectionReader(r, x.Start, x.Size), x.Size, p.Rig)
}

// guid is that of a part of the image.
func (b *Bundle) guid(role string) string { return gpt.DeriveGUID(b.Manifest.Image, role) }

// part is where the partition with this role is.
func (b *Bundle) part(r manifest.Role) manifest.Part { return b.Manifest.Boot.Part(r) }

// writeESP writes the EFI system partition onto zeros.
func (b *Bundle) writeESP(w io.WriterAt, esp *tree.Tree) error {
	x := b.part(manifest.RoleESP)
	p, err := fat.Layout(esp, fat.Options{Size: x.Size, Label: "EFISYS", Serial: crc32.ChecksumIEEE([]byte(b.Manifest.Image)), Time: b.Time,
		HiddenSectors: uint32(x.Start / 512)})
	if err != nil {
		return err
	}
	return p.Write(w)
}

// verifyESP reads it back.
func (b *Bundle) verifyESP(r io.ReaderAt) error {
	f, err := fat.Open(r, b.part(manifest.RoleESP).Size)
	if err != nil {
		return err
	}
	return f.Check()
}

// source is the raw image as other formats read it, with the ESP of the target's
// server.
func (p *press) source(ctx context.Context, image *rawImage, t *target) (vdisk.Source, error) {
	s, err := fileSource(ctx, image.out)
	if err != nil {
		return s, err
	}
	p.progress("write "+t.format.ending[1:], 0, 0)
	if t.server == image.server {
		return s, nil
	}
	f, err := p.patch(ctx, image, t)
	if err != nil {
		return s, err
	}
	esp, err := fileSource(ctx, f)
	if err != nil {
		return s, err
	}
	return s.Splice(p.part(manifest.RoleESP).Start, esp), nil
}

func fileSource(ctx context.Context, f *os.File) (vdisk.Source, error) {
	s, err := vdisk.FileSource(f)
	s.R = work.On(ctx, f)
	return s, err
}

// patch is the ESP of a server that the raw image is not for.
func (p *press) patch(ctx context.Context, image *rawImage, t *target) (*os.File, error) {
	image.mu.Lock()
	defer image.mu.Unlock()
	if f := image.patches[t.server]; f != nil {
		return f, nil
	}
	f, err := p.scratch.create(p.scratch.beside)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(p.part(manifest.RoleESP).Size); err != nil {
		return nil, err
	}
	if err := p.writeESP(f, t.esp); err != nil {
		return nil, err
	}
	if err := p.verifyESP(work.On(ctx, f)); err != nil {
		return nil, fmt.Errorf("read back: %w", err)
	}
	image.patches[t.server] = f
	return f, nil
}
