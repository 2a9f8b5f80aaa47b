package reader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/image/ova"
	"github.com/rig-freebsd/rig/image/qcow2"
	"github.com/rig-freebsd/rig/image/vdi"
	"github.com/rig-freebsd/rig/image/vmdk"
	"github.com/rig-freebsd/rig/internal/blockdev"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"github.com/rig-freebsd/rig/internal/work"
)

// magic is what a form begins with.
type magic struct {
	form Form
	at   int
	want string
}

// An ISO has a partition table too, so it comes before disks.
var magics = []magic{
	{Zstd, 0, "\x28\xb5\x2f\xfd"},
	{VMDK, 0, "KDMV"},
	{QCOW2, 0, "QFI\xfb"},
	{VDI, 64, "\x7f\x10\xda\xbe"}, // VDI_IMAGE_SIGNATURE, little endian
	{OVA, 257, "ustar"},
	{ISO, 32<<10 + 1, "CD001"},
	{Raw, 512, "EFI PART"},
	{Raw, 4096, "EFI PART"},
}

// others are compressions that rigimage does not write.
var others = map[string]string{"\x1f\x8b": "gunzip", "\xfd7zXZ\x00": "unxz"}

// headSize is as much of a file's beginning as tells its form.
const headSize = 32<<10 + 512

// FormOf recognises a form by the first bytes; "" is none.
func FormOf(head []byte) Form {
	for _, m := range magics {
		if len(head) >= m.at && bytes.HasPrefix(head[m.at:], []byte(m.want)) {
			return m.form
		}
	}
	return ""
}

// head reads the first bytes of a file.
func head(r io.ReaderAt, size int64) ([]byte, error) {
	b := make([]byte, min(size, headSize))
	return b, vdisk.ReadFull(r, b, 0)
}

// FormOfFile recognises the form of a file.
func FormOfFile(name string) (Form, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, headSize)
	n, err := io.ReadFull(f, b)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return "", err
	}
	return FormOf(b[:n]), nil
}

// openFile opens what is in a file of any form.
func (i *Image) openFile(ctx context.Context, r io.ReaderAt, size int64) error {
	i.Size = size
	b, err := head(r, size)
	if err != nil {
		return err
	}
	switch i.Form = FormOf(b); i.Form {
	case Zstd:
		return i.openZstd(ctx, r, size)
	case VMDK:
		return i.openVMDK(r, size)
	case VDI:
		d, err := vdi.Open(r, size)
		if err != nil {
			return err
		}
		return i.openDisk(d, d.Size(), 512)
	case QCOW2:
		d, err := qcow2.Open(r, size)
		if err != nil {
			return err
		}
		i.checks = append(i.checks, formCheck{"qcow2", func(context.Context) error { return d.Check() }})
		return i.openDisk(d, d.Size(), 512)
	case OVA:
		return i.openOVA(ctx, r, size)
	case ISO:
		return i.openISO(r, size)
	case Raw:
		return i.openDisk(r, size, sectorSize(b))
	}
	for magic, program := range others {
		if bytes.HasPrefix(b, []byte(magic)) {
			return &ForeignError{i.Path, "it is compressed by another program than zstd (" + program + " unpacks it)"}
		}
	}
	if size == 0 {
		return &ForeignError{i.Path, "it is empty"}
	}
	// The beginning of a disk can be damaged, and its other table be good.
	i.Form = Raw
	if err := i.openDisk(r, size, 512); err == nil {
		return nil
	}
	return &ForeignError{i.Path, "there is no partition table, volume or virtual disk in it"}
}

// sectorSize is that of a disk which begins so.
func sectorSize(b []byte) int {
	if len(b) > 4104 && string(b[4096:4104]) == "EFI PART" && string(b[512:520]) != "EFI PART" {
		return 4096
	}
	return 512
}

func (i *Image) openVMDK(r io.ReaderAt, size int64) error {
	d, err := vmdk.Open(r, size)
	if err != nil {
		return err
	}
	i.checks = append(i.checks, formCheck{"vmdk", func(context.Context) error { return d.Check() }})
	return i.openDisk(d, d.Size(), 512)
}

// openOVA opens the first disk of an appliance, where it is in the archive.
func (i *Image) openOVA(ctx context.Context, r io.ReaderAt, size int64) error {
	p, err := ova.Open(r, size)
	if err != nil {
		return err
	}
	if err := p.Check(); err != nil {
		return err
	}
	if p.Disks() == 0 {
		return errors.New("it has no disks")
	}
	i.checks = append(i.checks, formCheck{"appliance", func(ctx context.Context) error { return ova.Verify(work.Until(ctx, r), size) }})
	disk := p.Disk(0)
	return i.openVMDK(disk, disk.Size())
}

// openZstd unpacks a compressed image. A zstd frame ends with a checksum, which is
// compared.
func (i *Image) openZstd(ctx context.Context, r io.ReaderAt, size int64) error {
	f, err := i.temp()
	if err != nil {
		return err
	}
	in := io.NewSectionReader(work.Until(ctx, r), 0, size)
	dec, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return err
	}
	defer dec.Close()
	n, err := sparse(f, dec, func() {
		at, _ := in.Seek(0, io.SeekCurrent) // of a SectionReader does not fail
		i.o.Progress("unpack", at, size)
	})
	if err != nil {
		return fmt.Errorf("unpack: behind byte %d of the disk: %w", n, err)
	}
	b, err := head(f, n)
	if err != nil {
		return err
	}
	if FormOf(b) != Raw {
		return &ForeignError{i.Path, "what is compressed in it is no disk"}
	}
	return i.openDisk(f, n, sectorSize(b))
}

const maxWindow = 64 << 20 // bytes of the decoder's window; rigimage's is 4 MiB

// temp makes a file without a name: it is gone with the process.
func (i *Image) temp() (*os.File, error) {
	f, err := os.CreateTemp(i.o.Temp, "rigimage-*")
	if err != nil {
		return nil, err
	}
	i.closeLater(f.Close)
	return f, os.Remove(f.Name())
}

// sparse copies to a file and leaves holes for zeros.
func sparse(f *os.File, r io.Reader, progress func()) (int64, error) {
	b := make([]byte, 256<<10)
	for off := int64(0); ; {
		n, err := io.ReadFull(r, b)
		if n > 0 && !vdisk.IsZero(b[:n]) {
			if _, err := f.WriteAt(b[:n], off); err != nil {
				return off, err
			}
		}
		off += int64(n)
		progress()
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF && n > 0 && ended(r):
			return off, f.Truncate(off)
		case err != nil:
			return off, err
		}
	}
}

// ended tells the end of a stream from a stream that was cut: io.ReadFull says the
// same of both.
func ended(r io.Reader) bool {
	var one [1]byte
	n, err := r.Read(one[:])
	return n == 0 && err == io.EOF
}

// openDevice opens a disk.
func (i *Image) openDevice() error {
	i.Form = Disk
	sector, err := blockdev.SectorSize(i.Path)
	if err != nil {
		return err
	}
	d, err := blockdev.Open(i.Path, int64(sector), false)
	if err != nil {
		return err
	}
	i.closeLater(d.Close)
	if i.Size, err = d.Size(); err != nil {
		return err
	}
	b, err := head(d, i.Size)
	if err != nil {
		return err
	}
	if FormOf(b) == ISO {
		return i.openISO(d, i.Size)
	}
	return i.openDisk(d, i.Size, sectorSize(b))
}
