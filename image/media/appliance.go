package media

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"net"

	"github.com/rig-freebsd/rig/image/ova"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/vmdk"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"github.com/rig-freebsd/rig/internal/work"
)

// Server is what the medium of a server has of its own; all else is alike.
type Server struct {
	Answers     []byte // for the ESP, nil for none
	AnswersName string
	Appliance   Appliance
}

// Appliance is what an .ova has beyond its image.
type Appliance struct {
	Name   string              // of the machine and, in the archive, of its files; "" is the image's
	MACs   [2]net.HardwareAddr // of the public and the private card
	BIOS   bool                // boots by BIOS, not UEFI
	Bridge string              // interface that the public card is bridged to, of VirtualBox's machine; "" is NAT
}

// NICs and disks of an appliance as FreeBSD's kernel calls them: virtio cards in the
// order of their slots, disks in the order of their SATA ports. What identifies them
// otherwise is not known when the appliance is made: VirtualBox gives new UUIDs to
// disks it imports, which their serial numbers are made of, and unless it is told
// "keepallmacs" new addresses to cards (7.1, ApplianceImplImport.cpp,
// i_importVBoxMachine).
var (
	ApplianceNICs  = [2]string{"vtnet0", "vtnet1"} // public, private
	ApplianceDisks = [4]string{"ada0", "ada1", "ada2", "ada3"}
)

// emptyDisk is the size of an appliance's disks beside the image's.
const emptyDisk = 8 << 30

// ova writes a VirtualBox appliance: the image on the first disk, which becomes the
// first member of the mirror, and three empty disks.
func (p *press) ova(ctx context.Context, t *target, image vdisk.Source) error {
	a, file := t.Appliance, t.Appliance.Name
	if file == "" {
		a.Name, file = p.Manifest.Name, p.Manifest.Name
	}
	machine := &ova.Machine{Name: a.Name, File: file, UUID: p.guid("machine " + a.Name), Description: "rig image " + p.Manifest.Image,
		Firmware: ova.EFI, CPUs: 2, Memory: 2048, NICs: a.nics(p.Manifest.Image)}
	if a.BIOS {
		machine.Firmware = ova.BIOS
	}
	if n := image.Size; n < emptyDisk { // room for the pool behind the image
		image.Size = emptyDisk
		image.Holes = append(image.Holes, tree.Range{Off: n, Len: emptyDisk - n})
	}
	var checks []step
	for i, src := range []vdisk.Source{image, vdisk.Empty(emptyDisk), vdisk.Empty(emptyDisk), vdisk.Empty(emptyDisk)} {
		d := ova.Disk{Name: fmt.Sprintf("%s-disk%d.vmdk", file, i+1), UUID: p.guid(fmt.Sprintf("%s disk %d", a.Name, i+1)), Capacity: src.Size}
		f, err := p.scratch.create(t.out.Name())
		if err != nil {
			return err
		}
		p.progress("write "+d.Name, 0, 0)
		sum := sha256.New()
		length, check, err := p.writeVMDK(ctx, t.server, f, sum, src, vmdk.Options{ID: p.Manifest.Image, UUID: d.UUID, Name: d.Name})
		if err != nil {
			return err
		}
		checks = append(checks, check)
		d.R, d.Length, d.Sum = f, length, [32]byte(sum.Sum(nil))
		machine.Disks = append(machine.Disks, d)
	}
	return work.Together(ctx, oneByOne(checks), func(ctx context.Context) error {
		n, err := ova.Write(work.On(ctx, t.out), machine, ova.Options{Time: p.Time})
		if err != nil {
			return err
		}
		return ova.Verify(work.On(ctx, t.out), n)
	})
}

// nics are the public card and the private one.
func (a *Appliance) nics(image string) []ova.NIC {
	public := ova.NIC{Kind: ova.NAT, MAC: a.MACs[0]}
	if a.Bridge != "" {
		public = ova.NIC{Kind: ova.Bridged, Name: a.Bridge, MAC: a.MACs[0]}
	}
	nics := []ova.NIC{public, {Kind: ova.Internal, Name: "rig-private", MAC: a.MACs[1]}}
	for i := range nics {
		if nics[i].MAC == nil {
			nics[i].MAC = deriveMAC(image, a.Name, i)
		}
	}
	return nics
}

// deriveMAC is an address in VirtualBox's own range, 08:00:27.
func deriveMAC(image, name string, card int) net.HardwareAddr {
	sum := crc32.ChecksumIEEE(fmt.Appendf(nil, "%s %s %d", image, name, card))
	return net.HardwareAddr{0x08, 0x00, 0x27, byte(sum >> 16), byte(sum >> 8), byte(sum)}
}
