package vmtest

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/pxe"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"github.com/rig-freebsd/rig/internal/vm"
)

// TestNetwork: a machine without anything on its disks is booted from the network and
// installed over it, in every way that firmware knows.
func TestNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		how  string
		fw   vm.Firmware
		disk string // bus
		full bool
		set  func(*testing.T, *vm.Config)
		uses string // what must have been asked for, in this way
		mode pxe.Mode
	}{
		// OVMF tries PXE first, then HTTP; the setting of edk2's leaves PXE out.
		{"HTTP", vm.UEFI, vm.BusNVMe, false, func(t *testing.T, c *vm.Config) {
			firmwarePXE(t, c)
			for _, v := range []string{"4", "6"} {
				c.Extra = append(c.Extra, "-fw_cfg", "name=opt/org.tianocore/IPv"+v+"PXESupport,string=n")
			}
		}, "http boot/loader.efi", pxe.Full},
		{"PXE, TFTP", vm.UEFI, vm.BusAHCI, true, firmwarePXE, "tftp boot/loader.efi", pxe.Full},
		{"PXE, TFTP", vm.BIOS, vm.BusVirtio, true, nil, "tftp boot/pxeboot", pxe.Full},
		{"iPXE", vm.BIOS, vm.BusAHCI, true, ipxeKernel, "http boot.ipxe", pxe.Full},
		{"iPXE in the card", vm.UEFI, vm.BusVirtio, true, nil, "http boot.ipxe", pxe.Full},
		{"iPXE on a stick", vm.UEFI, vm.BusNVMe, true, ipxeStick, "http boot.ipxe", pxe.Full},
		{"PXE beside a DHCP server", vm.UEFI, vm.BusVirtio, true, firmwarePXE, "tftp boot/loader.efi", pxe.Proxy},
		{"PXE beside a DHCP server", vm.BIOS, vm.BusNVMe, true, nil, "tftp boot/pxeboot", pxe.Proxy},
	} {
		t.Run(testName(c.fw, c.how), func(t *testing.T) {
			if c.full {
				fullOnly(t)
			}
			Need(t)
			note := Record(t, "install over the network, "+c.how, c.fw.String())
			*note = "disks on " + c.disk
			s := newSegment(t)
			dir, answersDir := netImage(t), answersFor(t, "52-54-00-72-69-01")
			d := NewDisks(t, 4, diskSize).On(c.disk, 512)
			config := d.Config(c.fw, 1, 2, 3, 4)
			config.RebootExits = true
			s.attach(&config)
			if c.set != nil {
				c.set(t, &config)
			}
			if c.mode == pxe.Proxy {
				s.dhcpServer()
			}
			p := s.serve(dir, answersDir, "--dhcp", string(c.mode))
			waitInstalled(Start(t, config))
			p.end(t)
			if text := p.text(); !transferred(p, c.uses) {
				t.Errorf("nobody took %s:\n%s", c.uses, text)
			}
			isServer(t, d, c.fw)
		})
	}
}

// TestNetworkDamaged: a machine without answers waits for a person; an image with a
// wrong byte makes no disk bootable; the next boot, of the whole image, installs.
func TestNetworkDamaged(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	Record(t, "install over the network: no answers, then a wrong byte, then mended", vm.UEFI.String())
	s := newSegment(t)
	dir, answersDir := netImage(t), answersFor(t, "52-54-00-72-69-01")
	d := NewDisks(t, 4, diskSize)
	config := d.Config(vm.UEFI, 1, 2, 3, 4)
	config.RebootExits = true
	s.attach(&config)
	p := s.serve(dir, answersDir)

	name := filepath.Join(answersDir, "52-54-00-72-69-01.toml")
	if err := os.Rename(name, name+".away"); err != nil {
		t.Fatal(err)
	}
	v := Start(t, config)
	v.Expect(2*BootLimit, regexp.MustCompile(`riginstall: error: get this machine's answers: \S+ has none of `))
	v.Expect(BootLimit, "Enter: install from this console")
	v.PowerOff()
	if err := os.Rename(name+".away", name); err != nil {
		t.Fatal(err)
	}
	for _, disk := range d.List {
		if f := openDisk(t, disk); !zeros(t, f, 0, diskSize) {
			t.Errorf("%s was written to without answers", disk.Serial)
		}
	}

	mend := flipByte(t, biggest(t, filepath.Join(dir, "rig", "layers")))
	v = Start(t, config)
	v.Expect(InstallLimit, regexp.MustCompile(`riginstall: error: .*its sha256 is`))
	v.Expect(CommandLimit, "Enter: install from this console")
	v.PowerOff()
	for _, disk := range d.List {
		f := openDisk(t, disk)
		table, err := gpt.Read(f, diskSize, 512)
		if err != nil {
			t.Fatalf("%s: %v", disk.Serial, err)
		}
		if !zeros(t, f, 0, 440) {
			t.Errorf("%s has boot code", disk.Serial)
		}
		for _, p := range table.Partitions {
			if slices.Contains([]gpt.Type{gpt.FreeBSDBoot, gpt.EFI, gpt.FreeBSDUFS}, p.Type) && !zeros(t, f, p.Start, p.Size) {
				t.Errorf("%s: partition %s is not empty", disk.Serial, p.Label)
			}
		}
	}

	mend()
	waitInstalled(Start(t, config))
	p.end(t)
	isServer(t, d, vm.UEFI)
}

// zeros reports whether there is nothing in a part of a disk.
func zeros(t *testing.T, f *os.File, off, n int64) bool {
	t.Helper()
	src, err := vdisk.FileSource(f)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	for end := off + n; off < end; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-off)]
		if !src.HasData(off, int64(len(buf))) {
			continue
		}
		if err := src.Read(buf, off); err != nil {
			t.Fatal(err)
		}
		if !vdisk.IsZero(buf) {
			return false
		}
	}
	return true
}

// biggest is the longest file of a directory.
func biggest(t *testing.T, dir string) string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files: %v", dir, err)
	}
	size := func(e os.DirEntry) int64 {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	return filepath.Join(dir, slices.MaxFunc(files, func(a, b os.DirEntry) int { return cmp.Compare(size(a), size(b)) }).Name())
}

// flipByte changes a byte in the middle of a file; mend changes it back.
func flipByte(t *testing.T, path string) (mend func()) {
	t.Helper()
	flip := func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		_, err = f.ReadAt(b[:], st.Size()/2)
		b[0] ^= 1
		if err == nil {
			_, err = f.WriteAt(b[:], st.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flip()
	return flip
}

// transferred reports whether a file went out to the end in some way: "tftp boot/pxeboot".
func transferred(p *served, what string) bool {
	phase, file, _ := strings.Cut(what, " ")
	for _, e := range p.events {
		if e["phase"] == phase && e["file"] == file && e["error"] == nil {
			return true
		}
	}
	return false
}

// netImage is a directory for network boot.
func netImage(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(Dir(t), "pxe")
	rigimage(t, "build", "--sets", Need(t).Sets, "--packages", "none", "--format", "pxe", "-o", dir)
	return dir
}

// answersFor is a directory with the answers of one machine.
func answersFor(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(Dir(t), "answers")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".toml"), []byte(answers{}.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// firmwarePXE leaves the network to the firmware: the card has no ROM.
func firmwarePXE(_ *testing.T, c *vm.Config) { c.NICs[0].NoROM, c.NICs[0].Model = true, "" }

// chainScript has an iPXE of its own get the script a server has.
const chainScript = "#!ipxe\ndhcp\nchain http://10.9.0.1/boot.ipxe\n"

// ipxeFile is a program of Debian's package ipxe.
func ipxeFile(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join("/usr/lib/ipxe", name)
	if _, err := os.Stat(path); err != nil {
		skip(t, "ipxe", path+" is missing: install ipxe")
	}
	return path
}

// ipxeKernel starts iPXE as QEMU starts a Linux kernel; the script is its initrd.
func ipxeKernel(t *testing.T, c *vm.Config) {
	script := filepath.Join(c.Dir, "script.ipxe")
	if err := os.WriteFile(script, []byte(chainScript), 0o644); err != nil {
		t.Fatal(err)
	}
	c.NICs[0].BootIndex = 0
	c.Extra = append(c.Extra, "-kernel", ipxeFile(t, "ipxe.lkrn"), "-initrd", script)
}

// ipxeStick starts iPXE from a stick, where it finds the script beside itself.
func ipxeStick(t *testing.T, c *vm.Config) {
	stick := efiStick(t, c.Dir, map[string]string{"EFI/BOOT/BOOTX64.EFI": readFile(t, ipxeFile(t, "ipxe.efi")), "autoexec.ipxe": chainScript})
	c.NICs[0].BootIndex = 0
	c.Disks = append([]vm.Disk{{Path: stick, Serial: "RIG-IPXE", BootIndex: 1, Snapshot: true}}, c.Disks...)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// efiStick is an EFI system partition without a table around it, which firmware takes
// too.
func efiStick(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	const size = 8 << 20
	var entries []tree.Entry
	for name, content := range files {
		entries = append(entries, tree.FileEntry(name, []byte(content)))
	}
	tr, err := tree.New(entries)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := fat.Layout(tr, fat.Options{Size: size, Label: "STICK"})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "stick.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(size), plan.Write(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
