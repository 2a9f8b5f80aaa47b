// Package vm runs virtual machines with QEMU (qemu-system-x86_64, 5.2 or newer):
// `rigimage run` and the boot tests use it.
//
// A Config is a machine as a value; Argv prints it as a QEMU command line and
// Start runs that line. The machine is a q35 with SeaBIOS or OVMF, virtio disks
// and NICs, a VGA nobody looks at, and serial ports that belong to this process.
// Serial ports and QMP are inherited sockets, not paths, so nothing is left
// behind and no path can be too long for a sockaddr_un.
//
// # Power cuts
//
// PowerOff kills QEMU with SIGKILL. What the guest's disk has acknowledged has
// gone through pwrite(2) to the host's page cache and survives the kill, whether
// the guest flushed it or not; a write under way may be cut anywhere. That is a
// disk without a volatile cache losing power. It holds for raw disks in all cache
// modes; a qcow2 keeps metadata inside QEMU and may lose more.
//
// Left out: migration, snapshots of running machines, other architectures.
// Sizes are bytes.
package vm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// Firmware is what starts the machine.
type Firmware int

// The two firmwares. UEFI is OVMF, BIOS is SeaBIOS.
const (
	UEFI Firmware = iota
	BIOS
)

func (f Firmware) String() string {
	if f == BIOS {
		return "BIOS"
	}
	return "UEFI"
}

// The buses a disk can be on, with FreeBSD's name for its devices.
const (
	BusVirtio = "virtio" // vtbd, the default
	BusNVMe   = "nvme"   // nda
	BusAHCI   = "ahci"   // ada, at most six with the CDs
	BusSCSI   = "scsi"   // da
	BusUSB    = "usb"    // da, removable, on a USB 3 controller (xhci)
	BusUSB2   = "usb2"   // likewise, USB 2 (ehci)
	BusCD     = "cd"     // cd
)

// Defaults of a Config.
const (
	defaultMemory = 2 << 30
	defaultCPUs   = 2
	defaultQEMU   = "qemu-system-x86_64"
	varsName      = "efivars.fd"
	firstFD       = 3  // the first inherited descriptor of a child
	ahciPorts     = 6  // of q35's own controller
	maxSerial     = 20 // bytes of a virtio-blk or NVMe serial number
)

// Config is a machine.
type Config struct {
	Name     string // "rig" when empty
	Firmware Firmware
	Memory   int64 // bytes, 2 GiB when 0
	CPUs     int   // 2 when 0
	Disks    []Disk
	NICs     []NIC

	// Accel is QEMU's -accel: "kvm", "tcg", "tcg,thread=multi", "hvf". When
	// empty, Start asks DecideAccel; Argv takes "tcg".
	Accel string

	Serials   int       // serial ports, 1 when 0
	SerialLog string    // file for the text of the first port ("" none); port n goes to SerialLog.n
	SerialOut io.Writer // gets what the first port sends, escape sequences included

	// Dir holds what the machine writes beside its disks: the UEFI variables
	// (efivars.fd, made when absent, so that they survive a restart) and
	// snapshots.
	Dir string

	Display     bool     // a window instead of nothing
	RebootExits bool     // a reboot of the guest ends QEMU, with ExitReason "guest-reset"
	SMBIOS      []string // arguments of -smbios, as "type=1,serial=A1"
	Extra       []string // arguments put last

	QEMU     string // program; FindQEMU when empty (Argv: qemu-system-x86_64)
	OVMFCode string // firmware; FindOVMF when empty (Argv: required by UEFI)
	OVMFVars string // template of the variables; FindOVMF when empty
}

// Disk is a disk of the machine. The order of Disks is the order of the guest's
// devices.
type Disk struct {
	Path   string
	Serial string // at most 20 bytes; what the guest calls the disk's serial number
	Format string // "raw" (default) or "qcow2"
	Bus    string // BusVirtio when empty

	// BootIndex orders boot devices from 1; 0 leaves it to the firmware.
	// SeaBIOS tries the first hard disk only.
	BootIndex int

	Snapshot   bool // writes go to a temporary file and are forgotten
	ReadOnly   bool
	SectorSize int // 512 or 4096, 512 when 0

	// Cache is QEMU's cache mode. "unsafe" when empty on raw disks: the
	// guest's flushes are not handed on to the host's disk, which a kill of
	// QEMU does not notice (see Power cuts) but a crash of the host would.
	// "writeback" when empty on qcow2.
	Cache string
}

// NIC is a network card.
type NIC struct {
	MAC   string
	Model string // "virtio-net-pci" when empty

	// Net is QEMU's -netdev without its id: "user" (NAT; "user,net=192.0.2.0/24,
	// host=192.0.2.1" sets the addresses), "socket,mcast=230.0.0.1:12345,
	// localaddr=127.0.0.1" (a wire between machines), "tap,ifname=tap0,script=no".
	// "none" or "" is a card with link whose cable goes nowhere.
	Net      string
	Forwards []Forward // of "user"

	// Cable is, instead of Net, one end of a pair of datagram sockets (AF_UNIX) of
	// which a datagram is a frame: a port of a switch (package lan). It stays the
	// caller's to close once the machine has started.
	Cable *os.File

	BootIndex int  // not 0: the card takes part in network boot
	NoROM     bool // by the firmware's own driver rather than the card's boot ROM, QEMU's iPXE
}

// Forward leads a TCP port of the host's 127.0.0.1 to the guest.
type Forward struct{ HostPort, GuestPort int }

// Argv is the QEMU command line of the machine. Serial port i is descriptor 3+i
// of the child, QMP the one after the last, then come the cables of its cards. It
// looks at nothing but c.
func (c Config) Argv() ([]string, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	argv := []string{c.QEMU,
		"-name", escape(c.Name),
		"-machine", "q35",
		"-accel", c.Accel, "-cpu", cpuModel(c.Accel),
		"-smp", fmt.Sprint(c.CPUs), "-m", fmt.Sprintf("%dM", c.Memory>>20),
		"-nodefaults", "-no-user-config",
		"-rtc", "base=utc",
		"-vga", "std",
		"-device", "virtio-rng-pci",
	}
	if !c.Display {
		argv = append(argv, "-display", "none")
	}
	if c.Firmware == UEFI {
		argv = append(argv,
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+escape(c.OVMFCode),
			"-drive", "if=pflash,unit=1,format=raw,file="+escape(c.varsPath()))
	}
	for i := range c.Serials {
		argv = append(argv,
			"-chardev", fmt.Sprintf("socket,id=serial%d,fd=%d", i, firstFD+i),
			"-serial", fmt.Sprintf("chardev:serial%d", i))
	}
	argv = append(argv,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", firstFD+c.Serials),
		"-mon", "chardev=qmp,mode=control")
	argv = append(argv, diskArgs(c.Disks)...)
	cable := firstFD + c.Serials + 1
	for i, n := range c.NICs {
		if n.Cable != nil {
			n.Net = fmt.Sprintf("socket,fd=%d", cable)
			cable++
		}
		argv = append(argv, n.args(i)...)
	}
	for _, s := range c.SMBIOS {
		argv = append(argv, "-smbios", s)
	}
	if c.RebootExits {
		argv = append(argv, "-no-reboot")
	}
	return append(argv, c.Extra...), nil
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "rig"
	}
	if c.QEMU == "" {
		c.QEMU = defaultQEMU
	}
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	if c.CPUs == 0 {
		c.CPUs = defaultCPUs
	}
	if c.Serials == 0 {
		c.Serials = 1
	}
	if c.Accel == "" {
		c.Accel = "tcg"
	}
	return c
}

func (c Config) varsPath() string { return filepath.Join(c.Dir, varsName) }

// validate reports everything wrong with c at once.
func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Memory < 1<<20 {
		bad("memory %d: less than 1 MiB", c.Memory)
	}
	if c.CPUs < 1 {
		bad("cpus %d: less than 1", c.CPUs)
	}
	if c.Serials < 1 || c.Serials > 4 {
		bad("serials %d: not 1 to 4", c.Serials)
	}
	if c.Firmware == UEFI && c.OVMFCode == "" {
		bad("firmware: UEFI without OVMF's code image")
	}
	if c.Firmware == UEFI && c.Dir == "" {
		bad("firmware: UEFI without a directory for its variables")
	}
	c.validateDisks(bad)
	c.validateNICs(bad)
	if err := errors.Join(errs...); err != nil {
		return diag.Input(fmt.Errorf("machine %s: %w", c.Name, err))
	}
	return nil
}

func (c Config) validateDisks(bad func(string, ...any)) {
	serials, ahci := map[string]int{}, 0
	for i, d := range c.Disks {
		if err := d.validate(); err != nil {
			bad("disk %d: %w", i+1, err)
		}
		if j, ok := serials[d.Serial]; ok && d.Serial != "" {
			bad("disk %d: serial %q is disk %d's too", i+1, d.Serial, j)
		}
		serials[d.Serial] = i + 1
		if d.Bus == BusAHCI || d.Bus == BusCD {
			ahci++
		}
	}
	if ahci > ahciPorts {
		bad("disks: %d on ahci, which has %d ports", ahci, ahciPorts)
	}
}

func (c Config) validateNICs(bad func(string, ...any)) {
	macs := map[string]int{}
	for i, n := range c.NICs {
		hw, err := net.ParseMAC(n.MAC)
		switch {
		case err != nil || len(hw) != 6:
			bad("nic %d: mac %q is not an Ethernet address", i+1, n.MAC)
			continue
		case macs[hw.String()] != 0:
			bad("nic %d: mac %s is nic %d's too", i+1, n.MAC, macs[hw.String()])
		}
		macs[hw.String()] = i + 1
		if n.Cable != nil && n.Net != "" {
			bad("nic %d: a cable and a %q network", i+1, n.backend())
		}
		if len(n.Forwards) > 0 && n.backend() != "user" {
			bad("nic %d: ports are forwarded on a %q network", i+1, n.backend())
		}
	}
}

func (d Disk) validate() error {
	switch d.Bus {
	case "", BusVirtio, BusNVMe, BusAHCI, BusSCSI, BusUSB, BusUSB2, BusCD:
	default:
		return fmt.Errorf("unknown bus %q", d.Bus)
	}
	switch {
	case d.Path == "":
		return errors.New("no path")
	case len(d.Serial) > maxSerial:
		return fmt.Errorf("serial %q is longer than %d bytes", d.Serial, maxSerial)
	case d.Bus == BusNVMe && d.Serial == "":
		return errors.New("an nvme disk needs a serial")
	case d.Format != "" && d.Format != "raw" && d.Format != "qcow2":
		return fmt.Errorf("unknown format %q", d.Format)
	case d.SectorSize != 0 && d.SectorSize != 512 && d.SectorSize != 4096:
		return fmt.Errorf("sector size %d is neither 512 nor 4096", d.SectorSize)
	case d.SectorSize == 4096 && (d.Bus == BusAHCI || d.Bus == BusCD):
		return fmt.Errorf("sector size 4096 on %s, which QEMU does not have", d.Bus)
	}
	return nil
}

// diskArgs are the controllers the disks need, then the disks.
func diskArgs(disks []Disk) []string {
	var argv []string
	have := map[string]bool{}
	port := 0
	for i, d := range disks {
		if !have[d.Bus] {
			have[d.Bus] = true
			switch d.Bus {
			case BusUSB:
				argv = append(argv, "-device", "qemu-xhci,id=xhci")
			case BusUSB2:
				argv = append(argv, "-device", "usb-ehci,id=ehci")
			case BusSCSI:
				argv = append(argv, "-device", "virtio-scsi-pci,id=scsi")
			}
		}
		argv = append(argv, "-drive", d.drive(i))
		dev := d.device(port)
		if d.Bus == BusAHCI || d.Bus == BusCD {
			port++
		}
		argv = append(argv, "-device", dev+d.properties(i))
	}
	return argv
}

// drive is the disk's -drive: the host's side.
func (d Disk) drive(i int) string {
	format, cache := d.Format, d.Cache
	if format == "" {
		format = "raw"
	}
	if cache == "" {
		cache = "unsafe"
		if format != "raw" {
			cache = "writeback"
		}
	}
	s := fmt.Sprintf("if=none,id=disk%d,format=%s,cache=%s,discard=unmap", i, format, cache)
	if d.Snapshot {
		s += ",snapshot=on"
	}
	if d.ReadOnly || d.Bus == BusCD {
		s += ",readonly=on"
	}
	return s + ",file=" + escape(d.Path)
}

// device is the device model; port counts the disks on q35's AHCI controller.
func (d Disk) device(port int) string {
	switch d.Bus {
	case BusNVMe:
		return "nvme"
	case BusAHCI:
		return fmt.Sprintf("ide-hd,bus=ide.%d", port)
	case BusCD:
		return fmt.Sprintf("ide-cd,bus=ide.%d", port)
	case BusSCSI:
		return "scsi-hd,bus=scsi.0"
	case BusUSB:
		return "usb-storage,bus=xhci.0,removable=on"
	case BusUSB2:
		return "usb-storage,bus=ehci.0,removable=on"
	}
	return "virtio-blk-pci"
}

func (d Disk) properties(i int) string {
	s := fmt.Sprintf(",drive=disk%d", i)
	if d.Serial != "" {
		s += ",serial=" + escape(d.Serial)
	}
	if d.BootIndex > 0 {
		s += fmt.Sprintf(",bootindex=%d", d.BootIndex)
	}
	if d.SectorSize > 0 {
		s += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%[1]d", d.SectorSize)
	}
	return s
}

// cables are the files a child gets behind the serial ports and QMP.
func (c Config) cables() []*os.File {
	var files []*os.File
	for _, n := range c.NICs {
		if n.Cable != nil {
			files = append(files, n.Cable)
		}
	}
	return files
}

func (n NIC) backend() string {
	kind, _, _ := strings.Cut(n.Net, ",")
	return kind
}

func (n NIC) args(i int) []string {
	kind, opts, _ := strings.Cut(n.Net, ",")
	if opts != "" {
		opts = "," + opts
	}
	if kind == "" || kind == "none" {
		kind, opts = "hubport", fmt.Sprintf(",hubid=%d", i)
	}
	for _, f := range n.Forwards {
		opts += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", f.HostPort, f.GuestPort)
	}
	model := n.Model
	if model == "" {
		model = "virtio-net-pci"
	}
	dev := fmt.Sprintf("%s,netdev=net%d,mac=%s", model, i, n.MAC)
	if n.BootIndex > 0 {
		dev += fmt.Sprintf(",bootindex=%d", n.BootIndex)
	}
	if n.BootIndex == 0 || n.NoROM {
		dev += ",romfile=" // no wait for DHCP, no package with ROMs needed
	}
	return []string{"-netdev", fmt.Sprintf("%s,id=net%d%s", kind, i, opts), "-device", dev}
}

func cpuModel(accel string) string {
	if strings.HasPrefix(accel, "tcg") {
		return "max"
	}
	return "host"
}

// escape makes s one value of a QEMU option list.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
