package ova

import (
	"archive/tar"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/internal/vdisk"
)

// maxText is the longest descriptor or manifest that is read.
const maxText = 1 << 20

// Package is an archive opened for reading.
type Package struct {
	r     io.ReaderAt
	files []member // in the order of the archive
	ovf   envelope
	sums  map[string]string // by name, from the manifest
}

type member struct {
	name     string
	off, len int64
}

var manifestLine = regexp.MustCompile(`^SHA256 ?\(([^()]+)\)= ([0-9a-f]{64})$`)

// Open reads the headers, the descriptor and the manifest of an archive of size
// bytes.
func Open(r io.ReaderAt, size int64) (*Package, error) {
	p := &Package{r: r, sums: map[string]string{}}
	if err := p.open(size); err != nil {
		return nil, fmt.Errorf("open ova: %w", err)
	}
	return p, nil
}

func (p *Package) open(size int64) error {
	s := io.NewSectionReader(p.r, 0, size)
	for tr := tar.NewReader(s); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%q is not a regular file", h.Name)
		}
		off, _ := s.Seek(0, io.SeekCurrent) // of a SectionReader does not fail
		if h.Size > size-off {
			return fmt.Errorf("%q: %w", h.Name, io.ErrUnexpectedEOF)
		}
		if len(p.files) == 100 {
			return errors.New("more than 100 files")
		}
		p.files = append(p.files, member{h.Name, off, h.Size})
	}
	if len(p.files) < 2 || path.Ext(p.files[0].name) != ".ovf" {
		return errors.New("the first file is not an .ovf")
	}
	if want := strings.TrimSuffix(p.files[0].name, ".ovf") + ".mf"; p.files[1].name != want {
		return fmt.Errorf("the second file is %q, not %q", p.files[1].name, want)
	}
	text, err := p.text(0)
	if err != nil {
		return err
	}
	if err := xml.Unmarshal(text, &p.ovf); err != nil {
		return fmt.Errorf("%s: %w", p.files[0].name, err)
	}
	if text, err = p.text(1); err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		m := manifestLine.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			return fmt.Errorf("%s: no SHA256 line: %q", p.files[1].name, line)
		}
		p.sums[m[1]] = m[2]
	}
	return nil
}

func (p *Package) text(i int) ([]byte, error) {
	f := p.files[i]
	if f.len > maxText {
		return nil, fmt.Errorf("%s: %d bytes of text", f.name, f.len)
	}
	b := make([]byte, f.len)
	if err := vdisk.ReadFull(p.r, b, f.off); err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	return b, nil
}

// Disks is the number of disks.
func (p *Package) Disks() int { return len(p.files) - 2 }

// Disk returns the VMDK of disk i.
func (p *Package) Disk(i int) *io.SectionReader {
	f := p.files[2+i]
	return io.NewSectionReader(p.r, f.off, f.len)
}

// Check applies the rules by which VirtualBox imports an appliance, and reports
// everything that is against them.
func (p *Package) Check() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("check ova: "+format, a...)) }
	e := &p.ovf
	if e.XMLName.Local != "Envelope" || e.XMLName.Space != envelopeNS {
		bad("the root element is %q of %q", e.XMLName.Local, e.XMLName.Space)
	}
	if len(e.System) != 1 || len(e.System[0].Machines) != 1 {
		bad("not one VirtualSystem with one vbox:Machine")
		return errors.Join(errs...)
	}
	p.checkFiles(bad)
	p.checkItems(bad)
	p.checkMachine(bad)
	return errors.Join(errs...)
}

// checkFiles compares the archive with References and DiskSection.
func (p *Package) checkFiles(bad func(string, ...any)) {
	e, refs := &p.ovf, map[string]bool{}
	if len(e.Files) != len(p.files)-2 {
		bad("References has %d files, the archive %d", len(e.Files), len(p.files)-2)
		return
	}
	for i, f := range e.Files {
		if have := p.files[2+i]; have.name != f.Href || have.len != f.Size {
			bad("file %d is %q of %d bytes, in References %q of %d", i+1, have.name, have.len, f.Href, f.Size)
		}
		if path.Ext(f.Href) == "" {
			bad("file %d: %q has no extension", i+1, f.Href)
		}
		refs[f.ID] = true
	}
	ids := map[string]bool{}
	for i, d := range e.Disks {
		if _, err := vdisk.ParseUUID(d.UUID); err != nil || d.UUID != strings.ToLower(d.UUID) || ids[d.UUID] {
			bad("disk %s: vbox:uuid %q is not one in lower case, or used twice", d.ID, d.UUID)
		}
		if d.Capacity <= 0 || d.Format != diskFormat {
			bad("disk %s: capacity %d, format %q", d.ID, d.Capacity, d.Format)
		}
		if !refs[d.FileRef] {
			bad("disk %s: no file %q of its own", d.ID, d.FileRef)
		}
		if i < len(e.Files) && e.Files[i].ID != d.FileRef || i > 0 && d.ID <= e.Disks[i-1].ID {
			bad("disk %s: not in the order of the files", d.ID)
		}
		ids[d.UUID] = true
		delete(refs, d.FileRef)
	}
	if len(refs) > 0 {
		bad("%d files belong to no disk", len(refs))
	}
}

// checkItems looks at the generic hardware.
func (p *Package) checkItems(bad func(string, ...any)) {
	sys := &p.ovf.System[0]
	m := &sys.Machines[0]
	if sys.OSType != "FreeBSD_64" || m.OSType != sys.OSType {
		bad("vbox:OSType %q, OSType of vbox:Machine %q", sys.OSType, m.OSType)
	}
	byType, ids := map[int][]item{}, map[int]bool{}
	for _, it := range sys.Items {
		if ids[it.ID] {
			bad("InstanceID %d is used twice", it.ID)
		}
		ids[it.ID] = true
		byType[it.Type] = append(byType[it.Type], it)
	}
	if c := byType[typeCPU]; len(c) != 1 || c[0].Quantity != m.Hardware.CPU.Count || c[0].Quantity < 1 {
		bad("CPUs: %+v; vbox:Machine has %d", c, m.Hardware.CPU.Count)
	}
	if c := byType[typeMemory]; len(c) != 1 || c[0].Quantity != m.Hardware.Memory.Size || c[0].Units != "MegaBytes" {
		bad("memory: %+v; vbox:Machine has %d", c, m.Hardware.Memory.Size)
	}
	ctl := byType[typeStorage]
	if len(ctl) != 1 || ctl[0].SubType != "AHCI" {
		bad("storage controllers: %+v", ctl)
		return
	}
	ports, hosts := map[int]bool{}, map[string]bool{}
	for _, it := range byType[typeDisk] {
		if it.Parent != ctl[0].ID || ports[it.AddressOnParent] || hosts[it.HostResource] {
			bad("disk item %d: parent %d, address %d, %s", it.ID, it.Parent, it.AddressOnParent, it.HostResource)
		}
		ports[it.AddressOnParent], hosts[it.HostResource] = true, true
	}
	for _, d := range p.ovf.Disks {
		if !hosts["/disk/"+d.ID] || len(hosts) != len(p.ovf.Disks) {
			bad("disk %s: %d items, none of them its own, for %d disks", d.ID, len(hosts), len(p.ovf.Disks))
		}
	}
	for _, it := range byType[typeEthernet] {
		if !slices.Contains(p.ovf.Networks, network{it.Connection}) {
			bad("adapter item %d: no network %q", it.ID, it.Connection)
		}
	}
	if len(byType[typeEthernet]) != len(m.Hardware.Adapters) {
		bad("%d adapter items; vbox:Machine has %d", len(byType[typeEthernet]), len(m.Hardware.Adapters))
	}
}

var (
	bracedUUID = regexp.MustCompile(`^\{([0-9a-f-]{36})\}$`)
	macForm    = regexp.MustCompile(`^[0-9A-F][02468ACE][0-9A-F]{10}$`)
)

// checkMachine looks at vbox:Machine.
func (p *Package) checkMachine(bad func(string, ...any)) {
	m := &p.ovf.System[0].Machines[0]
	if !strings.HasPrefix(m.Version, "1.16-") || !bracedUUID.MatchString(m.UUID) || m.Name == "" {
		bad("vbox:Machine of version %q, UUID %q, name %q", m.Version, m.UUID, m.Name)
	}
	if f := m.Hardware.Firmware.Type; f != "" && f != "EFI" {
		bad("firmware %q", f)
	}
	slots := map[int]bool{}
	for _, a := range m.Hardware.Adapters {
		kinds := 0
		for _, is := range []bool{a.NAT != nil, a.Bridged != nil && a.Bridged.Name != "", a.Internal != nil && a.Internal.Name != ""} {
			if is {
				kinds++
			}
		}
		if !a.Enabled || slots[a.Slot] || a.Slot < 0 || a.Slot >= maxAdapters || !macForm.MatchString(a.MAC) || a.Type != "virtio" || kinds != 1 {
			bad("adapter in slot %d: MAC address %q, type %q, %d attachments", a.Slot, a.MAC, a.Type, kinds)
		}
		if (a.Promiscuous == "AllowAll") != (a.Internal != nil) {
			bad("adapter in slot %d: promiscuous mode %q", a.Slot, a.Promiscuous)
		}
		slots[a.Slot] = true
	}
	if len(m.Controllers) != 1 || m.Controllers[0].Type != "AHCI" {
		bad("not one AHCI controller in StorageControllers of vbox:Machine")
		return
	}
	c := m.Controllers[0]
	want, ports := map[string]bool{}, map[int]bool{}
	for _, d := range p.ovf.Disks {
		want[d.UUID] = true
	}
	for _, d := range c.Devices {
		id := bracedUUID.FindStringSubmatch(d.Image.UUID)
		if d.Type != "HardDisk" || id == nil || !want[id[1]] || ports[d.Port] || d.Port < 0 || d.Port >= c.Ports || c.Ports > maxPorts {
			bad("%s at port %d of %d: image %s is not that of a Disk, or attached twice", d.Type, d.Port, c.Ports, d.Image.UUID)
			continue
		}
		ports[d.Port] = true
		delete(want, id[1])
	}
	for _, d := range p.ovf.Disks {
		if want[d.UUID] {
			bad("disk %s is not attached", d.ID)
		}
	}
}

// Verify reads an archive of n bytes back: rules of import, and the sum of every
// file.
func Verify(r io.ReaderAt, n int64) error {
	p, err := Open(r, n)
	if err == nil {
		err = p.Check()
	}
	if err == nil {
		err = p.verifySums()
	}
	if err != nil {
		return fmt.Errorf("verify ova: %w", err)
	}
	return nil
}

func (p *Package) verifySums() error {
	for i, f := range p.files {
		if i == 1 {
			continue
		}
		sum, err := sumOf(p.r, f.off, f.len)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if got := fmt.Sprintf("%x", sum); got != p.sums[f.name] {
			return fmt.Errorf("%s: its SHA-256 is %s, in the manifest %q", f.name, got, p.sums[f.name])
		}
	}
	if len(p.sums) != len(p.files)-1 {
		return fmt.Errorf("%s: %d sums for %d files", p.files[1].name, len(p.sums), len(p.files)-1)
	}
	return nil
}
