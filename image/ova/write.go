package ova

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Firmware of a machine.
type Firmware string

const (
	BIOS Firmware = "bios"
	EFI  Firmware = "efi"
)

// Machine is what an appliance holds.
type Machine struct {
	Name        string // any text, what VirtualBox shows
	File        string // base name: File.ovf, File.mf
	UUID        string
	Description string
	Firmware    Firmware
	CPUs        int
	Memory      int    // MiB
	Disks       []Disk // of SATA port 0 on; the first one boots
	NICs        []NIC
	SerialFile  string // where VirtualBox writes what the serial port says; "" = not connected
}

// Disk is a streamOptimized VMDK, of an empty disk as well.
type Disk struct {
	Name     string // of the file in the archive, "rig-disk1.vmdk"
	UUID     string
	Capacity int64 // of the virtual disk
	R        io.ReaderAt
	Length   int64    // of the file
	Sum      [32]byte // SHA-256 of the file; zero = it is read once more to know
}

// Kind is what an adapter is connected to.
type Kind string

const (
	NAT      Kind = "NAT"
	Bridged  Kind = "Bridged"
	Internal Kind = "Internal" // promiscuous mode allowed, as if_bridge(4) needs
)

// NIC is a virtio network adapter.
type NIC struct {
	Kind Kind
	Name string // of an interface of VirtualBox's machine, or of the internal network; "" for NAT
	MAC  net.HardwareAddr
}

// Options of an archive.
type Options struct {
	Time time.Time // of all files
}

var fileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,90}$`)

// problems collects what is wrong.
type problems []error

func (p *problems) add(format string, a ...any) {
	*p = append(*p, fmt.Errorf("ova: "+format, a...))
}

// Validate reports everything that is wrong with m.
func (m *Machine) Validate() error {
	var p problems
	if m.Name == "" || len(m.Name) > 200 || !printable(m.Name) || strings.ContainsAny(m.Name, `/\`) {
		p.add("name %q", m.Name)
	}
	if !printable(strings.ReplaceAll(m.Description, "\n", "")) {
		p.add("description %q", m.Description)
	}
	if !printable(m.SerialFile) {
		p.add("serial file %q", m.SerialFile)
	}
	if !fileName.MatchString(m.File) {
		p.add("%q is not a name of a file", m.File)
	}
	if m.Firmware != BIOS && m.Firmware != EFI {
		p.add("firmware %q is neither bios nor efi", m.Firmware)
	}
	if m.CPUs < 1 || m.CPUs > 64 {
		p.add("%d CPUs; 1 to 64 can be", m.CPUs)
	}
	if m.Memory < 64 || m.Memory > 2<<20 {
		p.add("%d MiB of memory; 64 to 2097152 can be", m.Memory)
	}
	m.validateUUIDs(&p)
	m.validateDisks(&p)
	m.validateNICs(&p)
	return errors.Join(p...)
}

func (m *Machine) validateUUIDs(p *problems) {
	ids := map[string]string{}
	check := func(what, id string) {
		id = strings.ToLower(id)
		if _, err := vdisk.ParseUUID(id); err != nil {
			p.add("%s: %w", what, err)
		} else if first, twice := ids[id]; twice {
			p.add("%s: UUID %s is also that of %s", what, id, first)
		} else {
			ids[id] = what
		}
	}
	check("machine", m.UUID)
	for i, d := range m.Disks {
		check(fmt.Sprintf("disk %d", i+1), d.UUID)
	}
}

func (m *Machine) validateDisks(p *problems) {
	if len(m.Disks) < 1 || len(m.Disks) > maxPorts {
		p.add("%d disks; 1 to %d can be", len(m.Disks), maxPorts)
	}
	names := map[string]bool{}
	for i, d := range m.Disks {
		name := strings.ToLower(d.Name) // VirtualBox compares without case
		if !fileName.MatchString(d.Name) || path.Ext(d.Name) != ".vmdk" || names[name] {
			p.add("disk %d: %q is not the name of a .vmdk file, or used twice", i+1, d.Name)
		}
		names[name] = true
		if d.Capacity <= 0 || d.Capacity%vdisk.Sector != 0 {
			p.add("disk %d: capacity %d", i+1, d.Capacity)
		}
		if d.R == nil || d.Length <= 0 {
			p.add("disk %d: no file; VirtualBox does not import such a disk from an archive", i+1)
		}
	}
}

func (m *Machine) validateNICs(p *problems) {
	if len(m.NICs) > maxAdapters {
		p.add("%d adapters; up to %d can be", len(m.NICs), maxAdapters)
	}
	macs := map[string]bool{}
	for i, n := range m.NICs {
		if err := n.validate(); err != nil {
			p.add("adapter %d: %w", i+1, err)
		} else if macs[n.Address()] {
			p.add("adapter %d: MAC address %s is used twice", i+1, n.MAC)
		}
		macs[n.Address()] = true
	}
}

func (n NIC) validate() error {
	switch {
	case n.Kind != NAT && n.Kind != Bridged && n.Kind != Internal:
		return fmt.Errorf("kind %q is none of NAT, Bridged, Internal", n.Kind)
	case (n.Name == "") != (n.Kind == NAT) || !printable(n.Name):
		return fmt.Errorf("name %q for %s", n.Name, n.Kind)
	case len(n.MAC) != 6 || n.MAC[0]&1 != 0:
		return fmt.Errorf("%q is not a MAC address of one adapter", n.MAC)
	}
	return nil
}

// printable reports whether XML and VirtualBox take s as it is.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// What the template asks for.

func (m *Machine) ControllerID() int { return controllerID }
func (m *Machine) FirstDisk() int    { return controllerID + 1 }
func (m *Machine) FirstNIC() int     { return controllerID + 1 + len(m.Disks) }
func (m *Machine) Ports() int        { return max(4, len(m.Disks)) }

// Networks are the kinds in use, each once.
func (m *Machine) Networks() []Kind {
	var out []Kind
	for _, n := range m.NICs {
		if !slices.Contains(out, n.Kind) {
			out = append(out, n.Kind)
		}
	}
	return out
}

// SerialMode is the end of the Port element.
func (m *Machine) SerialMode() string {
	if m.SerialFile == "" {
		return `hostMode="Disconnected"`
	}
	return fmt.Sprintf(`hostMode="RawFile" path="%s"`, escape(m.SerialFile))
}

// Address is the MAC address as VirtualBox writes it.
func (n NIC) Address() string { return fmt.Sprintf("%X", []byte(n.MAC)) }

// Attachment is the child of the Adapter element.
func (n NIC) Attachment() string {
	switch n.Kind {
	case Bridged:
		return fmt.Sprintf(`<BridgedInterface name="%s"/>`, escape(n.Name))
	case Internal:
		return fmt.Sprintf(`<InternalNetwork name="%s"/>`, escape(n.Name))
	}
	return "<NAT/>"
}

// Descriptor returns the text of the .ovf file.
func (m *Machine) Descriptor() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := descriptor.Execute(&b, m); err != nil {
		return nil, fmt.Errorf("ova: descriptor: %w", err)
	}
	return b.Bytes(), nil
}

// manifest is the text of the .mf file, in the form of openssl-dgst(1).
func (m *Machine) manifest(ovf []byte, sums [][32]byte) []byte {
	b := fmt.Appendf(nil, "SHA256 (%s.ovf)= %x\n", m.File, sha256.Sum256(ovf))
	for i, d := range m.Disks {
		b = fmt.Appendf(b, "SHA256 (%s)= %x\n", d.Name, sums[i])
	}
	return b
}

// Write writes the archive forward and returns its length: descriptor, manifest,
// disks. The same input gives the same bytes. After Write, use [Verify], which also
// compares the disks with their Sums.
func Write(w io.Writer, m *Machine, o Options) (n int64, err error) {
	ovf, err := m.Descriptor()
	if err != nil {
		return 0, err
	}
	sums := make([][32]byte, len(m.Disks))
	for i, d := range m.Disks {
		if sums[i] = d.Sum; sums[i] != [32]byte{} {
			continue
		}
		if sums[i], err = sumOf(d.R, 0, d.Length); err != nil {
			return 0, fmt.Errorf("write ova: %s: %w", d.Name, err)
		}
	}
	count := &counter{w: w}
	tw := tar.NewWriter(count)
	for _, f := range []struct {
		name string
		data []byte
	}{{m.File + ".ovf", ovf}, {m.File + ".mf", m.manifest(ovf, sums)}} {
		if err := add(tw, f.name, bytes.NewReader(f.data), int64(len(f.data)), o.Time); err != nil {
			return 0, fmt.Errorf("write ova: %s: %w", f.name, err)
		}
	}
	for _, d := range m.Disks {
		if err := add(tw, d.Name, d.R, d.Length, o.Time); err != nil {
			return 0, fmt.Errorf("write ova: %s: %w", d.Name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return 0, fmt.Errorf("write ova: %w", err)
	}
	return count.n, nil
}

// add writes one file to tw. From 8 GiB on ustar has no room for the size, and GNU's
// form is used, which VirtualBox reads.
func add(tw *tar.Writer, name string, r io.ReaderAt, n int64, at time.Time) error {
	h := &tar.Header{Name: name, Size: n, Mode: 0o644, ModTime: at.Truncate(time.Second), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
	if n >= 8<<30 {
		h.Format = tar.FormatGNU
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	return copyN(tw, r, 0, n)
}

// sumOf is the SHA-256 of n bytes of r from off on.
func sumOf(r io.ReaderAt, off, n int64) (sum [32]byte, err error) {
	h := sha256.New()
	err = copyN(h, r, off, n)
	return [32]byte(h.Sum(nil)), err
}

func copyN(w io.Writer, r io.ReaderAt, off, n int64) error {
	got, err := io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(r, off, n), make([]byte, 1<<20))
	if err == nil && got != n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
