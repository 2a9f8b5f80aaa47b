// Package facts asks the machine what it is: firmware, disks and what they hold, network
// interfaces, encryption. It changes nothing.
package facts

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/zfs"
)

// Facts is what riginstall knows about the machine it runs on.
type Facts struct {
	Firmware string            `json:"firmware"` // "UEFI" or "BIOS"
	Memory   int64             `json:"memory"`   // bytes
	Release  string            `json:"release"`  // "15.1-RELEASE-p1"
	SMBIOS   map[string]string `json:"smbios"`   // kenv smbios.*, without the prefix: "system.serial"
	Kenv     map[string]string `json:"kenv"`     // the kernel environment, smbios.* left out
	Disks    []Disk            `json:"disks"`    // by name
	NICs     []NIC             `json:"nics"`     // in the kernel's order
}

// Disk is a disk that may become a target.
type Disk struct {
	Name       string      `json:"name"` // "vtbd0"
	Serial     string      `json:"serial,omitempty"`
	Model      string      `json:"model,omitempty"`
	LUNID      string      `json:"lunID,omitempty"` // WWN or EUI
	GUID       string      `json:"guid,omitempty"`  // of the GPT
	Size       int64       `json:"size"`            // bytes
	SectorSize int         `json:"sectorSize"`      // bytes
	StripeSize int         `json:"stripeSize"`      // bytes, the physical sector where the disk tells; else 0
	Rotation   int         `json:"rotation"`        // revolutions per minute, 0 for flash, -1 when unknown
	ReadOnly   bool        `json:"readOnly,omitempty"`
	InUse      bool        `json:"inUse,omitempty"`   // something on it is open: mounted, swap, a pool
	Scheme     string      `json:"scheme,omitempty"`  // "GPT", "MBR" …, "" without a partition table
	Corrupt    bool        `json:"corrupt,omitempty"` // the partition table is damaged
	Partitions []Partition `json:"partitions,omitempty"`
	Blank      bool        `json:"blank"`
	Basis      string      `json:"basis,omitempty"` // what that rests on, when nothing is recognised
	Hash       string      `json:"hash,omitempty"`  // 8 hex digits of a hash of what was read
	Holds      string      `json:"holds,omitempty"` // what is on it, for people; "" when blank
	PoolLabels []PoolLabel `json:"poolLabels,omitempty"`
}

// Partition is one partition of a disk; those nested in an MBR slice follow it.
type Partition struct {
	Index int    `json:"index"`
	Name  string `json:"name"` // "vtbd0p3"
	Type  string `json:"type"` // "freebsd-zfs", "efi", "!0fc63daf-…"
	Label string `json:"label,omitempty"`
	GUID  string `json:"guid,omitempty"`
	Start int64  `json:"start"`           // bytes from the beginning of the disk
	Size  int64  `json:"size"`            // bytes
	Holds string `json:"holds,omitempty"` // "ufs2", "fat32", "pool zroot (exported)", "" when nothing is recognised
}

// PoolLabel is a ZFS label and the provider it is on.
type PoolLabel struct {
	Provider string    `json:"provider"` // "vtbd0p5", or the disk itself
	Label    zfs.Label `json:"label"`
}

// NIC is a network interface with hardware behind it.
type NIC struct {
	Device string         `json:"device"` // "vtnet0"
	MAC    string         `json:"mac"`    // "52:54:00:12:34:56"
	Driver string         `json:"driver"` // "vtnet"
	Up     bool           `json:"up"`
	Link   bool           `json:"link"`
	Media  string         `json:"media,omitempty"`
	Inet   []netip.Prefix `json:"inet,omitempty"`

	Answers bool `json:"-"` // the gateway, asked for there, answered
}

// Prober is where Probe gets its facts from.
type Prober struct {
	Run run.Runner
	// OpenDisk opens a disk for reading; OpenDevice on a machine. It is called for
	// several disks at once, and read in whole sectors.
	OpenDisk func(name string) (io.ReaderAt, io.Closer, error)
	// Progress is told how far the look at a disk is; it may be nil, and is called for
	// several disks at once.
	Progress func(disk string, done, total int64)
}

// OpenDevice opens /dev/name for reading.
func OpenDevice(name string) (io.ReaderAt, io.Closer, error) {
	f, err := os.Open("/dev/" + name)
	if err != nil {
		return nil, nil, err
	}
	return f, f, nil
}

// Probe asks the machine. It changes nothing. A disk that cannot be read is no
// error: it is not blank, and Holds says why.
func Probe(ctx context.Context, p Prober) (*Facts, error) {
	f := &Facts{}
	if err := p.system(ctx, f); err != nil {
		return nil, fmt.Errorf("probe system: %w", err)
	}
	if err := p.disks(ctx, f); err != nil {
		return nil, fmt.Errorf("probe disks: %w", err)
	}
	out, err := p.Run.Run(ctx, run.New("ifconfig", "-a"))
	if err == nil {
		f.NICs, err = NICs(string(out))
	}
	if err != nil {
		return nil, fmt.Errorf("probe network interfaces: %w", err)
	}
	return f, nil
}

// system reads what the kernel and the firmware say of the machine.
func (p Prober) system(ctx context.Context, f *Facts) error {
	out, err := p.Run.Run(ctx, run.New("sysctl", "-n", "machdep.bootmethod", "hw.physmem", "kern.osrelease"))
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 3 {
		return fmt.Errorf("sysctl printed %d lines, not 3: %q", len(lines), out)
	}
	f.Firmware, f.Release = lines[0], lines[2]
	if f.Memory, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return fmt.Errorf("hw.physmem: %w", err)
	}
	if out, err = p.Run.Run(ctx, run.New("kenv")); err != nil {
		return err
	}
	f.Kenv, f.SMBIOS = map[string]string{}, map[string]string{}
	for k, v := range parseKenv(string(out)) {
		if name, ok := strings.CutPrefix(k, "smbios."); ok {
			f.SMBIOS[name] = v
		} else {
			f.Kenv[k] = v
		}
	}
	return nil
}

// disks lists the disks and looks into all of them at once.
func (p Prober) disks(ctx context.Context, f *Facts) error {
	out, err := p.Run.Run(ctx, run.New("sysctl", "-b", "kern.geom.confxml"))
	if err != nil {
		return err
	}
	if f.Disks, err = parseGeom(out); err != nil {
		return err
	}
	if out, err = p.Run.Run(ctx, run.New("sysctl", "-i", "kern.geom.disk")); err != nil {
		return err
	}
	protected := writeProtected(string(out))
	var wg sync.WaitGroup
	for i := range f.Disks {
		d := &f.Disks[i]
		// Not d.ReadOnly = …: that is SETcc to memory, which QEMU 7.2's emulation
		// gets wrong when the page is touched for the first time.
		if slices.Contains(protected, d.Name) {
			d.ReadOnly = true
		}
		wg.Go(func() {
			if err := p.look(ctx, d); err != nil {
				d.Blank, d.Holds = false, "cannot be read: "+err.Error()
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

func (p Prober) look(ctx context.Context, d *Disk) error {
	progress := func(done, total int64) {
		if p.Progress != nil {
			p.Progress(d.Name, done, total)
		}
	}
	progress(0, 1)
	defer progress(1, 1)
	r, closer, err := p.OpenDisk(d.Name)
	if err != nil {
		return err
	}
	defer closer.Close() // only read from
	return d.inspect(ctx, r, progress)
}

// writeProtected lists the disks whose kern.geom.disk.NAME.flags say so.
func writeProtected(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		key, flags, _ := strings.Cut(line, ":")
		name, isFlags := strings.CutSuffix(strings.TrimPrefix(key, "kern.geom.disk."), ".flags")
		if isFlags && strings.Contains(flags, "WRITEPROTECT") {
			names = append(names, name)
		}
	}
	return names
}

// parseKenv reads what kenv(1) prints: name="value" lines, values as they are,
// with whatever quotes and line breaks they contain.
func parseKenv(text string) map[string]string {
	out := map[string]string{}
	var name, value string
	open := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if open {
			value += "\n" + line
		} else if name, value, open = strings.Cut(line, "=\""); !open {
			continue
		}
		if v, done := strings.CutSuffix(value, "\""); done {
			out[name], open = v, false
		}
	}
	return out
}

// Target is d as zfs.Match takes it. Ours and BootMedium are for the caller to set.
func (d Disk) Target() zfs.Disk {
	return zfs.Disk{
		Name: d.Name, Serial: d.Serial, Model: d.Model, Size: d.Size, SectorSize: d.SectorSize,
		Blank: d.Blank, Hash: d.Hash, Holds: d.Holds, ReadOnly: d.ReadOnly, InUse: d.InUse,
	}
}
