package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/iso"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/qcow2"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/vdi"
	"github.com/rig-freebsd/rig/image/vmdk"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"github.com/rig-freebsd/rig/internal/work"
)

// role is one that servers of different names play each for itself.
func (t *target) role(role string) string {
	if t.Appliance.Name == "" {
		return role
	}
	return role + " of " + t.Appliance.Name
}

func (p *press) vmdk(ctx context.Context, t *target, src vdisk.Source) error {
	_, check, err := p.writeVMDK(ctx, t.server, t.out, io.Discard, src, vmdk.Options{ID: p.Manifest.Image, UUID: p.guid(t.role("vmdk")), Name: "disk.vmdk"})
	if err != nil {
		return err
	}
	return check(ctx)
}

// grains are those of the first VMDK of the image, from which others take what they have in
// common. VMDKs are made one after the other.
type grains struct {
	disk   *vmdk.Reader // nil before the first
	server int          // it is for
}

// writeVMDK writes a disk that begins as the image does, to also as well, and returns
// its length and what reads it back. The first one is compressed; others take from it
// what they have in common.
func (p *press) writeVMDK(ctx context.Context, server int, out *os.File, also io.Writer, src vdisk.Source, o vmdk.Options) (n int64, check step, err error) {
	g := p.grains
	if g.disk != nil {
		o.Like, o.Same = g.disk, func(off, n int64) bool { return p.same(server == g.server, off, n) }
	}
	if n, err = vmdk.Write(io.MultiWriter(work.On(ctx, out), also), src, o); err != nil {
		return 0, nil, err
	}
	return n, func(ctx context.Context) error {
		err := vmdk.VerifyLike(work.On(ctx, out), n, src, o)
		if err == nil && g.disk == nil {
			g.server = server
			g.disk, err = vmdk.Open(out, n)
		}
		return err
	}, nil
}

// same reports whether two disks have these bytes of the image in common, of one server
// or not.
func (b *Bundle) same(server bool, off, n int64) bool {
	esp := b.part(manifest.RoleESP)
	return off+n <= b.Manifest.Boot.ImageSize() && (server || off+n <= esp.Start || off >= esp.Start+esp.Size)
}

func (p *press) vdi(ctx context.Context, t *target, src vdisk.Source) error {
	n, err := vdi.Write(work.On(ctx, t.out), src, vdi.Options{UUID: p.guid(t.role("vdi"))})
	if err != nil {
		return err
	}
	return vdi.Verify(work.On(ctx, t.out), n, src)
}

func (p *press) qcow2(ctx context.Context, t *target, src vdisk.Source) error {
	n, err := qcow2.Write(work.On(ctx, t.out), src, qcow2.Options{})
	if err != nil {
		return err
	}
	return qcow2.Verify(work.On(ctx, t.out), n, src)
}

// zstd compresses the raw image as one frame, with a checksum that is compared.
func (p *press) zstd(ctx context.Context, t *target, src vdisk.Source) error {
	enc, err := zstd.NewWriter(work.On(ctx, t.out), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(4<<20), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); off < src.Size; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), src.Size-off)]
		if err := src.Read(buf, off); err != nil {
			return errors.Join(err, enc.Close())
		}
		if _, err := enc.Write(buf); err != nil {
			return errors.Join(err, enc.Close())
		}
	}
	if err := enc.Close(); err != nil {
		return err
	}
	if _, err := t.out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	dec, err := zstd.NewReader(t.out, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer dec.Close()
	n, err := io.Copy(io.Discard, struct{ io.Reader }{dec})
	if err == nil && n != src.Size {
		err = fmt.Errorf("read back: %d bytes; expected %d", n, src.Size)
	}
	return err
}

// isoESP is the size of the EFI system partition inside an ISO: loader and README.
const isoESP = 4 << 20

// iso writes a hybrid: El Torito for BIOS and UEFI, and the same by a GPT when it is
// written to a stick.
func (p *press) iso(ctx context.Context, t *target) error {
	var extra []tree.Entry
	for _, name := range []string{"boot/cdboot", "boot/isoboot"} {
		e, ok := p.Base.Lookup(name)
		if !ok {
			return diag.Inputf("base set: %s is missing, which an ISO boots by", name)
		}
		x := *e
		x.Flags = 0
		extra = append(extra, x)
	}
	if t.Answers != nil {
		e := p.file(manifest.AnswersFile, t.Answers)
		e.Perm = 0o600
		extra = append(extra, e)
	}
	upper, err := tree.New(extra)
	if err != nil {
		return err
	}
	files, err := tree.Merge(p.Rig, upper)
	if err != nil {
		return err
	}
	if files, err = files.Resolve(p.Accounts); err != nil {
		return err
	}
	isoboot, err := p.Base.ReadFile("boot/isoboot", 64<<10)
	if err != nil {
		return err
	}
	esp, err := p.isoESP(t.esp)
	if err != nil {
		return err
	}
	o := iso.Options{Volume: manifest.ISOLabel(p.Manifest.Image), Publisher: "RIG", Time: p.Time, BIOSBoot: "boot/cdboot",
		ESP: tree.Bytes(esp), ESPSize: int64(len(esp)), ISOBoot: isoboot, Tail: 33 * 512}
	plan, err := iso.Layout(files, o)
	if err != nil {
		return err
	}
	p.progress("write iso", 0, 0)
	if err := t.out.Truncate(plan.Size()); err != nil {
		return err
	}
	if err := plan.Write(work.On(ctx, t.out)); err != nil {
		return err
	}
	pmbr, err := p.Base.ReadFile("boot/pmbr", 512)
	if err != nil {
		return err
	}
	table := gpt.Table{DiskGUID: p.guid("iso"), SectorSize: 512, DiskSize: plan.Size(), Partitions: []gpt.Partition{
		{Type: gpt.FreeBSDBoot, Label: "isoboot", GUID: p.guid("iso boot"), Start: plan.ISOBoot().Off, Size: plan.ISOBoot().Len},
		{Type: gpt.EFI, Label: "isoefi", GUID: p.guid("iso efi"), Start: plan.ESP().Off, Size: plan.ESP().Len},
	}}
	if err := table.Write(t.out, pmbr); err != nil {
		return err
	}
	p.progress("read back", 0, 0)
	if _, err := gpt.Read(t.out, plan.Size(), 512); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return iso.Verify(work.On(ctx, t.out), plan.Size(), files, o)
}

// isoESP is the EFI system partition of an ISO.
func (b *Bundle) isoESP(esp *tree.Tree) ([]byte, error) {
	p, err := fat.Layout(esp, fat.Options{Size: isoESP, Label: "EFISYS", Serial: crc32.ChecksumIEEE([]byte(b.Manifest.Image)), Time: b.Time})
	if err != nil {
		return nil, err
	}
	disk := make(memory, isoESP)
	if err := p.Write(disk); err != nil {
		return nil, err
	}
	f, err := fat.Open(bytes.NewReader(disk), isoESP)
	if err != nil {
		return nil, err
	}
	return disk, f.Check()
}

// memory is a small disk.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if n := copy(m[min(off, int64(len(m))):], p); n < len(p) {
		return n, io.ErrShortWrite
	}
	return len(p), nil
}
