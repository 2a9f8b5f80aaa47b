package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"rig/image/fat"
	"rig/image/gpt"
	"rig/image/iso"
	"rig/image/ova"
	"rig/image/qcow2"
	"rig/image/vdi"
	"rig/image/vmdk"
	"rig/internal/diag"
	"rig/internal/vdisk"
	"rig/manifest"
	"rig/tree"
)

// format is a kind of media, by the ending of its name.
type format struct {
	ending string
	ofRaw  bool // it is made of the raw image
	write  func(*media, context.Context, *os.File) error
}

// formatOf finds the format of a name; one without a known ending is a raw image.
func formatOf(name string) format {
	raw := format{".img", false, (*media).raw}
	for _, f := range []format{
		{".img.zst", true, (*media).zstd},
		{".iso", false, (*media).iso},
		{".vmdk", true, (*media).vmdk},
		{".vdi", true, (*media).vdi},
		{".qcow2", true, (*media).qcow2},
		{".ova", true, (*media).ova},
	} {
		if strings.HasSuffix(name, f.ending) {
			return f
		}
	}
	return raw
}

// Appliance is what an .ova has beyond its image.
type Appliance struct {
	Name   string
	MACs   [2]net.HardwareAddr // of the public and the private card
	BIOS   bool                // boots by BIOS, not UEFI
	Bridge string              // host interface of the public card; "" is NAT
}

// Medium is one file that Build made.
type Medium struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // of the file, which may be sparse
}

// media writes the same bundle in several forms.
type media struct {
	*disk
	image *os.File // the raw image, written and read back
}

// writeMedia writes every output under a temporary name, reads it back, and gives all
// of them their names together.
func (b *builder) writeMedia(ctx context.Context, esp, rig *tree.Tree) (made []Medium, err error) {
	outputs := append([]string{b.Output}, b.Also...)
	d := &disk{builder: b, parts: b.man.Boot.Parts(), esp: esp, rig: rig, id: b.man.Image}
	m := &media{disk: d}
	var temporary []*os.File
	dirs := map[string]string{}
	defer func() {
		for _, dir := range dirs {
			os.RemoveAll(dir)
		}
		for _, f := range temporary {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	create := func(beside string) (*os.File, error) {
		f, err := os.CreateTemp(filepath.Dir(beside), "."+filepath.Base(beside)+".partial-*")
		if err == nil {
			temporary = append(temporary, f)
		}
		return f, err
	}
	// The raw image first: others are made of it.
	order := slices.Clone(outputs)
	slices.SortStableFunc(order, func(x, y string) int { return boolInt(formatOf(x).ofRaw) - boolInt(formatOf(y).ofRaw) })
	files := map[string]*os.File{}
	for _, name := range order {
		if isDirectory(name) {
			if dirs[name], err = m.directory(ctx, name); err != nil {
				return nil, fmt.Errorf("write %s: %w", name, err)
			}
			continue
		}
		format := formatOf(name)
		if format.ofRaw && m.image == nil {
			if m.image, err = create(b.Output); err == nil {
				err = m.raw(ctx, m.image)
			}
		}
		if err == nil {
			files[name], err = create(name)
		}
		if err == nil {
			err = format.write(m, ctx, files[name])
		}
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		if format.ending == ".img" {
			m.image = files[name]
		}
	}
	for _, name := range outputs {
		if isDirectory(name) {
			made = append(made, Medium{name, m.rig.Size()})
			continue
		}
		st, err := files[name].Stat()
		if err != nil {
			return nil, err
		}
		made = append(made, Medium{name, st.Size()})
	}
	return made, b.publish(ctx, outputs, files, dirs)
}

// publish gives finished files their names.
func (b *builder) publish(ctx context.Context, outputs []string, files map[string]*os.File, dirs map[string]string) error {
	mode := fs.FileMode(0o644)
	if b.Answers != nil { // which may hold secrets
		mode = 0o600
	}
	for name := range files {
		if err := errors.Join(files[name].Chmod(mode), files[name].Close()); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, name := range outputs {
		var err error
		if isDirectory(name) {
			err = replaceDirectory(dirs[name], name)
		} else {
			err = os.Rename(files[name].Name(), name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// raw writes the disk image itself, or a second copy of it.
func (m *media) raw(ctx context.Context, out *os.File) error {
	m.disk.f = out
	if err := m.disk.write(ctx); err != nil {
		return err
	}
	m.Progress("read back", 0, 0)
	if err := m.disk.verify(ctx); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return nil
}

// source is the raw image as other formats read it.
func (m *media) source(ctx context.Context, what string) (vdisk.Source, error) {
	s, err := vdisk.FileSource(m.image)
	s.R = stopper{ctx, m.image}
	m.Progress(what, 0, 0)
	return s, err
}

func (m *media) guid(role string) string { return gpt.DeriveGUID(m.id, role) }

func (m *media) vmdk(ctx context.Context, out *os.File) error {
	return m.writeVMDK(ctx, out, "disk.vmdk", "vmdk")
}

func (m *media) writeVMDK(ctx context.Context, out *os.File, name, role string) error {
	src, err := m.source(ctx, "write vmdk")
	if err != nil {
		return err
	}
	return writeVMDK(stopper{ctx, out}, src, vmdk.Options{ID: m.id, UUID: m.guid(role), Name: name})
}

func writeVMDK(out stopper, src vdisk.Source, o vmdk.Options) error {
	n, err := vmdk.Write(out, src, o)
	if err != nil {
		return err
	}
	return vmdk.Verify(out, n, src)
}

func (m *media) vdi(ctx context.Context, out *os.File) error {
	src, err := m.source(ctx, "write vdi")
	if err != nil {
		return err
	}
	n, err := vdi.Write(stopper{ctx, out}, src, vdi.Options{UUID: m.guid("vdi")})
	if err != nil {
		return err
	}
	return vdi.Verify(stopper{ctx, out}, n, src)
}

func (m *media) qcow2(ctx context.Context, out *os.File) error {
	src, err := m.source(ctx, "write qcow2")
	if err != nil {
		return err
	}
	n, err := qcow2.Write(stopper{ctx, out}, src, qcow2.Options{})
	if err != nil {
		return err
	}
	return qcow2.Verify(stopper{ctx, out}, n, src)
}

// zstd compresses the raw image as one frame, with a checksum that is compared.
func (m *media) zstd(ctx context.Context, out *os.File) error {
	src, err := m.source(ctx, "write zstd")
	if err != nil {
		return err
	}
	enc, err := zstd.NewWriter(stopper{ctx, out}, zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(4<<20), zstd.WithEncoderConcurrency(2))
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
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	dec, err := zstd.NewReader(out, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
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

// emptyDisk is the size of an appliance's disks beside the image's.
const emptyDisk = 8 << 30

// ova writes a VirtualBox appliance: the image on the first disk, which becomes the
// first member of the mirror, and three empty disks.
func (m *media) ova(ctx context.Context, out *os.File) error {
	dir, err := os.MkdirTemp(filepath.Dir(out.Name()), ".ova-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	a := m.Appliance
	if a.Name == "" {
		a.Name = m.man.Name
	}
	machine := &ova.Machine{Name: a.Name, File: m.man.Name, UUID: m.guid("machine " + a.Name), Description: "rig image " + m.id,
		Firmware: ova.EFI, CPUs: 2, Memory: 2048}
	if a.BIOS {
		machine.Firmware = ova.BIOS
	}
	image, err := vdisk.FileSource(m.image)
	if err != nil {
		return err
	}
	image.R, image.Size = stopper{ctx, m.image}, max(image.Size, emptyDisk)
	st, err := m.image.Stat()
	if err != nil {
		return err
	}
	if st.Size() < image.Size { // room for the pool behind the image
		image.Holes = append(image.Holes, tree.Range{Off: st.Size(), Len: image.Size - st.Size()})
	}
	for i, src := range []vdisk.Source{image, vdisk.Empty(emptyDisk), vdisk.Empty(emptyDisk), vdisk.Empty(emptyDisk)} {
		name := fmt.Sprintf("%s-disk%d.vmdk", m.man.Name, i+1)
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		uuid := m.guid(fmt.Sprintf("%s disk %d", a.Name, i+1))
		m.Progress("write "+name, 0, 0)
		if err := writeVMDK(stopper{ctx, f}, src, vmdk.Options{ID: m.id, UUID: uuid, Name: name}); err != nil {
			return err
		}
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		machine.Disks = append(machine.Disks, ova.Disk{Name: name, UUID: uuid, Capacity: src.Size, R: f, Length: fi.Size()})
	}
	public := ova.NIC{Kind: ova.NAT, MAC: a.MACs[0]}
	if a.Bridge != "" {
		public = ova.NIC{Kind: ova.Bridged, Name: a.Bridge, MAC: a.MACs[0]}
	}
	machine.NICs = []ova.NIC{public, {Kind: ova.Internal, Name: "rig-private", MAC: a.MACs[1]}}
	for i := range machine.NICs {
		if machine.NICs[i].MAC == nil {
			machine.NICs[i].MAC = deriveMAC(m.id, a.Name, i)
		}
	}
	n, err := ova.Write(stopper{ctx, out}, machine, ova.Options{Time: m.at})
	if err != nil {
		return err
	}
	return ova.Verify(stopper{ctx, out}, n)
}

// deriveMAC is an address in VirtualBox's own range, 08:00:27.
func deriveMAC(image, name string, card int) net.HardwareAddr {
	sum := crc32.ChecksumIEEE(fmt.Appendf(nil, "%s %s %d", image, name, card))
	return net.HardwareAddr{0x08, 0x00, 0x27, byte(sum >> 16), byte(sum >> 8), byte(sum)}
}

// isoESP is the size of the EFI system partition inside an ISO: loader and README.
const isoESP = 4 << 20

// iso writes a hybrid: El Torito for BIOS and UEFI, and the same by a GPT when it is
// written to a stick.
func (m *media) iso(ctx context.Context, out *os.File) error {
	var extra []tree.Entry
	for _, name := range []string{"boot/cdboot", "boot/isoboot"} {
		e, ok := m.base.Lookup(name)
		if !ok {
			return diag.Inputf("base set: %s is missing, which an ISO boots by", name)
		}
		x := *e
		x.Flags = 0
		extra = append(extra, x)
	}
	if m.Answers != nil {
		e := bootFile(manifest.AnswersFile, m.Answers, m.at)
		e.Perm = 0o600
		extra = append(extra, e)
	}
	upper, err := tree.New(extra)
	if err != nil {
		return err
	}
	t, err := tree.Merge(m.rig, upper)
	if err != nil {
		return err
	}
	if t, err = t.Resolve(m.acc); err != nil {
		return err
	}
	isoboot, err := m.base.ReadFile("boot/isoboot", 64<<10)
	if err != nil {
		return err
	}
	esp, err := m.isoESP()
	if err != nil {
		return err
	}
	o := iso.Options{Volume: manifest.ISOLabel(m.id), Publisher: "RIG", Time: m.at, BIOSBoot: "boot/cdboot",
		ESP: tree.Bytes(esp), ESPSize: int64(len(esp)), ISOBoot: isoboot, Tail: 33 * 512}
	p, err := iso.Layout(t, o)
	if err != nil {
		return err
	}
	m.Progress("write iso", 0, 0)
	if err := out.Truncate(p.Size()); err != nil {
		return err
	}
	if err := p.Write(stopper{ctx, out}); err != nil {
		return err
	}
	pmbr, err := m.base.ReadFile("boot/pmbr", 512)
	if err != nil {
		return err
	}
	table := gpt.Table{DiskGUID: m.guid("iso"), SectorSize: 512, DiskSize: p.Size(), Partitions: []gpt.Partition{
		{Type: gpt.FreeBSDBoot, Label: "isoboot", GUID: m.guid("iso boot"), Start: p.ISOBoot().Off, Size: p.ISOBoot().Len},
		{Type: gpt.EFI, Label: "isoefi", GUID: m.guid("iso efi"), Start: p.ESP().Off, Size: p.ESP().Len},
	}}
	if err := table.Write(out, pmbr); err != nil {
		return err
	}
	m.Progress("read back", 0, 0)
	if _, err := gpt.Read(out, p.Size(), 512); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return iso.Verify(stopper{ctx, out}, p.Size(), t, o)
}

// isoESP is the EFI system partition of an ISO.
func (m *media) isoESP() ([]byte, error) {
	p, err := fat.Layout(m.esp, fat.Options{Size: isoESP, Label: "EFISYS", Serial: crc32.ChecksumIEEE([]byte(m.id)), Time: m.at})
	if err != nil {
		return nil, err
	}
	b := make(memory, isoESP)
	if err := p.Write(b); err != nil {
		return nil, err
	}
	f, err := fat.Open(bytes.NewReader(b), isoESP)
	if err != nil {
		return nil, err
	}
	return b, f.Check()
}

// memory is a small disk.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if n := copy(m[min(off, int64(len(m))):], p); n < len(p) {
		return n, io.ErrShortWrite
	}
	return len(p), nil
}
