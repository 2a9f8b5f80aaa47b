package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"rig/image/fat"
	"rig/image/gpt"
	"rig/image/iso"
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
	raw := format{".img", false, (*media).writeRaw}
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

// Medium is one file that Build made.
type Medium struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // of the file, which may be sparse
}

// media writes the bundle in one form.
type media struct {
	*disk
	*shared
	Server     // whom it is for
	server int // its number
}

// shared is what all media of one call have.
type shared struct {
	beside string // where temporary files go that are no output

	mu   sync.Mutex
	temp []*os.File // all files so far, under their temporary names

	patching sync.Mutex
	patches  map[int]*os.File // ESPs of servers

	image    *os.File     // the raw image, written and read back; set before any medium is made of it
	imageOf  int          // the server whose ESP it has
	grains   *vmdk.Reader // a VMDK of the image, nil before the first; VMDKs are made one after the other
	grainsOf int          // the server it is for
}

// writeMedia writes every output under a temporary name, reads it back, and gives all
// of them their names together.
func (b *builder) writeMedia(ctx context.Context, loader tree.Entry, rig *tree.Tree) (made []Medium, err error) {
	s := &shared{beside: filepath.Clean(b.Output), patches: map[int]*os.File{}}
	defer s.remove()
	outputs := b.outputs()
	files, dirs := make([]*os.File, len(outputs)), make([]string, len(outputs))
	defer func() {
		for _, dir := range dirs {
			if dir != "" {
				os.RemoveAll(dir)
			}
		}
	}()
	var order schedule
	for i, name := range outputs {
		m := &media{disk: &disk{builder: b, parts: b.man.Boot.Parts(), rig: rig, id: b.man.Image}, shared: s}
		if IsDirectory(name) {
			order.free = append(order.free, named("write "+name, func(ctx context.Context) (err error) {
				dirs[i], err = m.directory(ctx, name)
				return err
			}))
			continue
		}
		m.server, m.Server = b.serverOf(i)
		if m.esp, err = manifest.ESP(loader, m.Answers, loader.ModTime); err != nil {
			return nil, err
		}
		f := formatOf(name)
		order.add(m, f, named("write "+name, func(ctx context.Context) (err error) {
			if files[i], err = m.create(name); err == nil {
				err = f.write(m, ctx, files[i])
			}
			if err == nil && s.image == nil && f.ending == ".img" {
				s.image, s.imageOf = files[i], m.server
			}
			return err
		}), named("write "+name, m.checkRaw))
	}
	if err := order.run(ctx); err != nil {
		return nil, err
	}
	for i, name := range outputs {
		if IsDirectory(name) {
			made = append(made, Medium{name, rig.Size()})
			continue
		}
		st, err := files[i].Stat()
		if err != nil {
			return nil, err
		}
		made = append(made, Medium{name, st.Size()})
	}
	return made, b.publish(ctx, outputs, files, dirs)
}

type work = func(context.Context) error

// named says of an error what was being done.
func named(what string, w work) work {
	return func(ctx context.Context) error {
		if err := w(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
}

// schedule is which media are written at the same time.
type schedule struct {
	source *media // the first that is made of the raw image
	raw    []work // raw images
	ofRaw  []work // made of the first of them, and what reads it back
	vmdks  []work // made of it as well, and sharing what is compressed
	free   []work // those that wait for nothing
}

// add takes what writes a medium and, for a raw image, what reads it back.
func (s *schedule) add(m *media, f format, w, check work) {
	if f.ofRaw && s.source == nil {
		s.source = m
	}
	switch f.ending {
	case ".img":
		if len(s.raw) == 0 {
			s.raw, s.ofRaw = []work{w}, append(s.ofRaw, check)
		} else {
			s.raw = append(s.raw, oneByOne([]work{w, check}))
		}
	case ".vmdk", ".ova":
		s.vmdks = append(s.vmdks, w)
	default:
		if f.ofRaw {
			s.ofRaw = append(s.ofRaw, w)
		} else {
			s.free = append(s.free, w)
		}
	}
}

func (s *schedule) run(ctx context.Context) error {
	if len(s.raw) == 0 && s.source != nil {
		const what = "write raw image"
		s.raw, s.ofRaw = []work{named(what, s.source.temporary)}, append(s.ofRaw, named(what, s.source.checkRaw))
	}
	return together(ctx, append(s.free, func(ctx context.Context) error {
		if len(s.raw) == 0 {
			return nil
		}
		if err := s.raw[0](ctx); err != nil {
			return err
		}
		return together(ctx, append(s.ofRaw, oneByOne(s.raw[1:]), oneByOne(s.vmdks))...)
	})...)
}

func oneByOne(ws []work) work {
	return func(ctx context.Context) error {
		for _, w := range ws {
			if err := w(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// create makes a file that is removed unless it gets its name.
func (s *shared) create(beside string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(beside), "."+filepath.Base(beside)+".partial-*")
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.temp = append(s.temp, f)
	}
	return f, err
}

func (s *shared) remove() {
	for _, f := range s.temp {
		f.Close()
		os.Remove(f.Name())
	}
}

// temporary writes a raw image that others are made of and nobody asked for.
func (m *media) temporary(ctx context.Context) (err error) {
	if m.image, err = m.create(m.beside); err != nil {
		return err
	}
	m.imageOf = m.server
	return m.writeRaw(ctx, m.image)
}

// publish gives finished files their names.
func (b *builder) publish(ctx context.Context, outputs []string, files []*os.File, dirs []string) error {
	for i, f := range files {
		if f == nil {
			continue
		}
		mode := fs.FileMode(0o644)
		if _, v := b.serverOf(i); v.Answers != nil { // which may hold secrets
			mode = 0o600
		}
		if err := errors.Join(f.Chmod(mode), f.Close()); err != nil {
			return fmt.Errorf("write %s: %w", outputs[i], err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for i, f := range files {
		var err error
		if f == nil {
			err = replaceDirectory(dirs[i], outputs[i])
		} else {
			err = os.Rename(f.Name(), outputs[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeRaw writes the disk image itself, or a second copy of it.
func (m *media) writeRaw(ctx context.Context, out *os.File) error {
	m.disk.f = out
	return m.disk.write(ctx)
}

func (m *media) checkRaw(ctx context.Context) error {
	m.Progress("read back", 0, 0)
	if err := m.disk.verify(ctx); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return nil
}

// source is the raw image as other formats read it, with the ESP of the server.
func (m *media) source(ctx context.Context, what string) (vdisk.Source, error) {
	s, err := vdisk.FileSource(m.image)
	if err != nil {
		return s, err
	}
	s.R = stopper{ctx, m.image}
	m.Progress(what, 0, 0)
	if m.server == m.imageOf {
		return s, nil
	}
	esp, err := m.patch(ctx)
	if err != nil {
		return s, err
	}
	return s.Splice(m.parts[1].Start, esp), nil
}

// patch is the ESP of a server whose the raw image has not.
func (m *media) patch(ctx context.Context) (s vdisk.Source, err error) {
	f, err := m.patchFile(ctx)
	if err != nil {
		return s, err
	}
	if s, err = vdisk.FileSource(f); err == nil {
		s.R = stopper{ctx, f}
	}
	return s, err
}

func (m *media) patchFile(ctx context.Context) (*os.File, error) {
	m.patching.Lock()
	defer m.patching.Unlock()
	if f := m.patches[m.server]; f != nil {
		return f, nil
	}
	f, err := m.create(m.beside)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(m.parts[1].Size); err != nil {
		return nil, err
	}
	if err := m.writeESP(f); err != nil {
		return nil, err
	}
	if err := m.verifyESP(stopper{ctx, f}); err != nil {
		return nil, fmt.Errorf("read back: %w", err)
	}
	m.patches[m.server] = f
	return f, nil
}

func (m *media) guid(role string) string { return gpt.DeriveGUID(m.id, role) }

// own is a role that servers of different names play each for itself.
func (m *media) own(role string) string {
	if m.Appliance.Name == "" {
		return role
	}
	return role + " of " + m.Appliance.Name
}

func (m *media) vmdk(ctx context.Context, out *os.File) error {
	src, err := m.source(ctx, "write vmdk")
	if err != nil {
		return err
	}
	_, check, err := m.writeVMDK(ctx, out, io.Discard, src, vmdk.Options{ID: m.id, UUID: m.guid(m.own("vmdk")), Name: "disk.vmdk"})
	if err != nil {
		return err
	}
	return check(ctx)
}

// writeVMDK writes a disk that begins as the image does, to also as well, and returns
// its length and what reads it back. The first one is compressed; others take from it
// what they have in common.
func (m *media) writeVMDK(ctx context.Context, out *os.File, also io.Writer, src vdisk.Source, o vmdk.Options) (n int64, check work, err error) {
	if m.grains != nil {
		o.Like, o.Same = m.grains, m.same
	}
	if n, err = vmdk.Write(io.MultiWriter(stopper{ctx, out}, also), src, o); err != nil {
		return 0, nil, err
	}
	return n, func(ctx context.Context) error {
		err := vmdk.VerifyLike(stopper{ctx, out}, n, src, o)
		if err == nil && m.grains == nil {
			m.grainsOf = m.server
			m.grains, err = vmdk.Open(out, n)
		}
		return err
	}, nil
}

// same reports whether a disk of this server has these bytes from the image, as the
// one has that was compressed.
func (m *media) same(off, n int64) bool {
	esp := m.parts[1]
	return off+n <= m.man.Boot.ImageSize() && (m.server == m.grainsOf || off+n <= esp.Start || off >= esp.Start+esp.Size)
}

func (m *media) vdi(ctx context.Context, out *os.File) error {
	src, err := m.source(ctx, "write vdi")
	if err != nil {
		return err
	}
	n, err := vdi.Write(stopper{ctx, out}, src, vdi.Options{UUID: m.guid(m.own("vdi"))})
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
