package ova

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/vmdk"
	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

func uuidOf(n int) string { return fmt.Sprintf("C52b2b8a-da74-8ccd-bca1-2efb3b9d6c%02x", n) }

// disk is a VMDK, empty but for its first bytes.
func disk(t testing.TB, n int, size int64, text string) Disk {
	t.Helper()
	src := vdisk.Empty(size)
	if text != "" {
		src = vdisk.Source{R: strings.NewReader(text + strings.Repeat("\x00", int(size)-len(text))), Size: size}
	}
	var b bytes.Buffer
	name := fmt.Sprintf("rig-disk%d.vmdk", n)
	length, err := vmdk.Write(&b, src, vmdk.Options{ID: text, UUID: uuidOf(n), Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return Disk{Name: name, UUID: uuidOf(n), Capacity: size, R: bytes.NewReader(b.Bytes()), Length: length}
}

func example(t testing.TB) *Machine {
	t.Helper()
	return &Machine{Name: `rig "A" & <B> 日本`, File: "rig", UUID: uuidOf(0), Description: "first line\nsecond <line> & \"more\"",
		Firmware: EFI, CPUs: 2, Memory: 4096,
		Disks: []Disk{disk(t, 1, 1<<20, "boot"), disk(t, 2, 8<<30, ""), disk(t, 3, 8<<30, "")},
		NICs: []NIC{{Kind: Bridged, Name: `en0: Wi-Fi "x" <&>`, MAC: net.HardwareAddr{8, 0, 0x27, 0xaa, 0, 1}},
			{Kind: Internal, Name: "rig-private", MAC: net.HardwareAddr{8, 0, 0x27, 0xaa, 0, 2}}},
		SerialFile: "/tmp/rig & co.log"}
}

var at = Options{Time: time.Unix(1_790_000_000, 999)}

func write(t testing.TB, m *Machine) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := Write(&b, m, at)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) {
		t.Fatalf("%d bytes returned, %d written", n, b.Len())
	}
	return b.Bytes()
}

// TestArchive reads the archive as VirtualBox does: forward, once.
func TestArchive(t *testing.T) {
	m := example(t)
	ova := write(t, m)
	if !bytes.Equal(ova, write(t, m)) {
		t.Error("the second run made another archive")
	}
	if err := Verify(bytes.NewReader(ova), int64(len(ova))); err != nil {
		t.Error(err)
	}
	tr := tar.NewReader(bytes.NewReader(ova))
	manifest := ""
	for i, want := range []string{"rig.ovf", "rig.mf", "rig-disk1.vmdk", "rig-disk2.vmdk", "rig-disk3.vmdk"} {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != want || h.Mode != 0o644 || h.Uid != 0 || h.Uname != "" || h.ModTime.Unix() != 1_790_000_000 || h.Format != tar.FormatUSTAR {
			t.Errorf("file %d: %+v", i, h)
		}
		line := fmt.Sprintf("SHA256 (%s)= %x\n", h.Name, sha256.Sum256(b))
		switch i {
		case 0:
			manifest = line
		case 1:
			if !strings.HasPrefix(string(b), manifest) {
				t.Errorf("manifest: %q", b)
			}
			manifest = string(b)
		default:
			if !strings.Contains(manifest, "\n"+line) {
				t.Errorf("no %q in %q", line, manifest)
			}
			v, err := vmdk.Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if v.Size() != m.Disks[i-2].Capacity {
				t.Errorf("disk %d holds %d bytes", i-2, v.Size())
			}
		}
	}
	if _, err := tr.Next(); err != io.EOF {
		t.Error(err)
	}

	p, err := Open(bytes.NewReader(ova), int64(len(ova)))
	if err != nil {
		t.Fatal(err)
	}
	if p.Disks() != 3 || p.ovf.Disks[0].Capacity != 1<<20 || p.ovf.Disks[2].Capacity != 8<<30 {
		t.Error(p.Disks())
	}
	if err := vmdk.Verify(p.Disk(1), p.Disk(1).Size(), vdisk.Empty(8<<30)); err != nil {
		t.Error(err)
	}
}

// TestImport holds the descriptor against what VirtualBox's importer does with it.
func TestImport(t *testing.T) {
	for _, firmware := range []Firmware{EFI, BIOS} {
		m := example(t)
		m.Firmware = firmware
		if firmware == BIOS {
			m.SerialFile, m.NICs[0] = "", NIC{Kind: NAT, MAC: m.NICs[0].MAC}
		}
		text, err := m.Descriptor()
		if err != nil {
			t.Fatal(err)
		}
		var e envelope
		if err := xml.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		sys := e.System[0]
		vm := sys.Machines[0]
		if vm.Name != m.Name || vm.UUID != "{"+strings.ToLower(uuidOf(0))+"}" || vm.Hardware.CPU.Count != 2 || vm.Hardware.Memory.Size != 4096 {
			t.Errorf("%+v", vm)
		}
		if got := vm.Hardware.Firmware.Type; got != map[Firmware]string{EFI: "EFI", BIOS: ""}[firmware] {
			t.Errorf("firmware %q", got)
		}
		a := vm.Hardware.Adapters
		if len(a) != 2 || a[0].MAC != "080027AA0001" || a[1].MAC != "080027AA0002" || a[1].Internal.Name != "rig-private" ||
			a[0].Promiscuous != "" || a[1].Promiscuous != "AllowAll" || a[0].Type != "virtio" || a[1].Type != "virtio" {
			t.Errorf("%+v", a)
		}
		port := vm.Hardware.Ports[0]
		if firmware == EFI && (a[0].Bridged.Name != m.NICs[0].Name || port.Mode != "RawFile" || port.Path != m.SerialFile) {
			t.Errorf("%+v %+v", a[0].Bridged, port)
		}
		if firmware == BIOS && (a[0].NAT == nil || port.Mode != "Disconnected") {
			t.Errorf("%+v %+v", a[0], port)
		}
		// Every attachment at its port, by the UUID of its disk.
		for i, d := range vm.Controllers[0].Devices {
			if d.Port != i || d.Image.UUID != "{"+e.Disks[i].UUID+"}" || e.Disks[i].UUID != strings.ToLower(uuidOf(i+1)) || e.Disks[i].Capacity != m.Disks[i].Capacity {
				t.Errorf("%+v", d)
			}
		}
		// StorageControllers beside Hardware, not inside.
		s := string(text)
		if strings.Index(s, "</Hardware>") > strings.Index(s, "<StorageControllers>") {
			t.Error("StorageControllers inside Hardware")
		}
		if strings.Contains(s, m.Name) || !strings.Contains(s, "rig &#34;A&#34; &amp; &lt;B&gt; 日本") || !strings.Contains(s, "first line&#xA;second &lt;line&gt;") {
			t.Errorf("not escaped:\n%s", s)
		}
		if firmware == EFI {
			golden(t, text)
		}
		if _, ok := referee.Find("xmllint"); ok {
			name := filepath.Join(t.TempDir(), "rig.ovf")
			os.WriteFile(name, text, 0o600)
			referee.Run(t, "xmllint", "--noout", "--nonet", name)
		}
	}
}

// golden compares with testdata/rig.ovf; RIG_UPDATE=1 writes it.
func golden(t *testing.T, text []byte) {
	t.Helper()
	const name = "testdata/rig.ovf"
	if os.Getenv("RIG_UPDATE") == "1" {
		os.MkdirAll("testdata", 0o755)
		os.WriteFile(name, text, 0o644)
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Errorf("not %s:\n%s", name, text)
	}
}

func TestManyDisks(t *testing.T) {
	m := example(t)
	for n := 4; n <= 30; n++ {
		m.Disks = append(m.Disks, disk(t, n, 1<<30, ""))
	}
	ova := write(t, m)
	if err := Verify(bytes.NewReader(ova), int64(len(ova))); err != nil {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(m *Machine){
		`ova: name ""`:                                 func(m *Machine) { m.Name = "" },
		`ova: name "a/b"`:                              func(m *Machine) { m.Name = "a/b" },
		`ova: name "a\x01"`:                            func(m *Machine) { m.Name = "a\x01" },
		`ova: description "\xff"`:                      func(m *Machine) { m.Description = "\xff" },
		`ova: "../x" is not a name of a file`:          func(m *Machine) { m.File = "../x" },
		`ova: firmware "uefi" is neither bios nor efi`: func(m *Machine) { m.Firmware = "uefi" },
		`ova: 0 CPUs; 1 to 64 can be`:                  func(m *Machine) { m.CPUs = 0 },
		`ova: 63 MiB of memory; 64 to 2097152 can be`:  func(m *Machine) { m.Memory = 63 },
		`ova: machine: "x" is not a UUID`:              func(m *Machine) { m.UUID = "x" },
		`ova: disk 2: UUID ` + strings.ToLower(uuidOf(1)) + ` is also that of disk 1`:  func(m *Machine) { m.Disks[1].UUID = strings.ToUpper(uuidOf(1)) },
		`ova: disk 2: "RIG-disk1.vmdk" is not the name of a .vmdk file, or used twice`: func(m *Machine) { m.Disks[1].Name = "RIG-disk1.vmdk" },
		`ova: disk 1: "a.img" is not the name of a .vmdk file, or used twice`:          func(m *Machine) { m.Disks[0].Name = "a.img" },
		`ova: disk 3: capacity 100`: func(m *Machine) { m.Disks[2].Capacity = 100 },
		`ova: disk 3: no file; VirtualBox does not import such a disk from an archive`: func(m *Machine) { m.Disks[2].R = nil },
		`ova: 0 disks; 1 to 30 can be`:                                            func(m *Machine) { m.Disks = nil },
		`ova: adapter 1: kind "nat" is none of NAT, Bridged, Internal`:            func(m *Machine) { m.NICs[0].Kind = "nat" },
		`ova: adapter 2: name "" for Internal`:                                    func(m *Machine) { m.NICs[1].Name = "" },
		`ova: adapter 2: MAC address 08:00:27:aa:00:01 is used twice`:             func(m *Machine) { m.NICs[1].MAC = m.NICs[0].MAC },
		`ova: adapter 1: "01:00:00:00:00:00" is not a MAC address of one adapter`: func(m *Machine) { m.NICs[0].MAC = net.HardwareAddr{1, 0, 0, 0, 0, 0} },
	} {
		m := example(t)
		change(m)
		if err := m.Validate(); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if _, err := Write(io.Discard, m, at); err == nil {
			t.Errorf("written: %s", want)
		}
	}
	m := example(t)
	m.CPUs, m.Memory = -1, 0
	if err := m.Validate(); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("not every problem at once: %v", err)
	}
}

func TestWriteErrors(t *testing.T) {
	m := example(t)
	m.Disks[1].Sum[0] = 1
	var b bytes.Buffer
	n, err := Write(&b, m, at)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(bytes.NewReader(b.Bytes()), n); err == nil || !strings.HasPrefix(err.Error(), "verify ova: rig-disk2.vmdk: its SHA-256 is ") {
		t.Error(err)
	}
	m = example(t)
	m.Disks[0].Length++
	if _, err := Write(io.Discard, m, at); err == nil || err.Error() != "write ova: rig-disk1.vmdk: unexpected EOF" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// repack makes an archive with another descriptor and fitting sums.
func repack(t testing.TB, m *Machine, edit func(string) string, order ...int) []byte {
	t.Helper()
	text, err := m.Descriptor()
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(edit(string(text)))
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	mf := fmt.Sprintf("SHA256 (rig.ovf)= %x\n", sha256.Sum256(text))
	add(tw, "rig.ovf", bytes.NewReader(text), int64(len(text)), at.Time)
	for _, i := range order {
		sum, _ := sumOf(m.Disks[i].R, 0, m.Disks[i].Length)
		mf += fmt.Sprintf("SHA256 (%s)= %x\n", m.Disks[i].Name, sum)
	}
	add(tw, "rig.mf", strings.NewReader(mf), int64(len(mf)), at.Time)
	for _, i := range order {
		add(tw, m.Disks[i].Name, m.Disks[i].R, m.Disks[i].Length, at.Time)
	}
	tw.Close()
	return b.Bytes()
}

// TestRules breaks one rule of import at a time.
func TestRules(t *testing.T) {
	low := func(n int) string { return strings.ToLower(uuidOf(n)) }
	m := example(t)
	replace := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Errorf("no %q", old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	if b := repack(t, m, func(s string) string { return s }, 0, 1, 2); Verify(bytes.NewReader(b), int64(len(b))) != nil {
		t.Error("repack alone breaks a rule")
	}
	for want, edit := range map[string]func(string) string{
		"disk vmdisk02: no file \"\" of its own":                                     replace(` ovf:fileRef="file02"`, ""),
		"disk vmdisk02: no file \"file01\" of its own":                               replace(`ovf:fileRef="file02"`, `ovf:fileRef="file01"`),
		"disk vmdisk02: capacity 0":                                                  replace(`ovf:capacity="8589934592" ovf:diskId="vmdisk02"`, `ovf:capacity="0" ovf:diskId="vmdisk02"`),
		"disk vmdisk01: vbox:uuid \"C":                                               replace(`vbox:uuid="c`, `vbox:uuid="C`),
		"disk vmdisk02: not in the order of the files":                               replace(`diskId="vmdisk01"`, `diskId="vmdisk3"`),
		"HardDisk at port 0 of 4: image {" + low(9) + "} is not that of a Disk":      replace(`<Image uuid="{`+low(1), `<Image uuid="{`+low(9)),
		"HardDisk at port 0 of 4: image {" + low(2) + "} is not that of a Disk, or ": replace(`port="1"`, `port="0"`),
		"disk vmdisk01 is not attached":                                              replace(`type="HardDisk"`, `type="DVD"`),
		"file 1 is \"rig-disk1.vmdk\" of ":                                           replace(`href="rig-disk1.vmdk"`, `href="rig-disk9.vmdk"`),
		"not one AHCI controller in StorageControllers of vbox:Machine":              replace(`type="AHCI"`, `type="LsiLogic"`),
		"InstanceID 4 is used twice":                                                 replace(`InstanceID>5<`, `InstanceID>4<`),
		"disk item 4: parent 9":                                                      replace(`Parent>3<`, `Parent>9<`),
		"disk vmdisk01: 3 items, none of them its own":                               replace(`/disk/vmdisk01`, `/disk/x`),
		"memory: ":                replace(`>MegaBytes<`, `>KB<`),
		"CPUs: ":                  replace(`CPU count="2"`, `CPU count="3"`),
		"vbox:OSType \"FreeBSD\"": replace(`>FreeBSD_64</vbox`, `>FreeBSD</vbox`),
		"adapter in slot 1: promiscuous mode \"\"":         replace(` promiscuousModePolicy="AllowAll"`, ""),
		"adapter in slot 0: MAC address \"08:0027AA0001\"": replace(`080027AA0001`, `08:0027AA0001`),
		"adapter item 7: no network \"Bridged\"":           replace(`ovf:name="Bridged"`, `ovf:name="other"`),
		"vbox:Machine of version \"1.20-x\"":               replace(settings, "1.20-x"),
		"firmware \"EFI3\"":                                replace(`type="EFI"`, `type="EFI3"`),
		"the root element is \"Envelope\" of \"urn:x\"":    replace(` xmlns="`+envelopeNS, ` xmlns="urn:x`),
		"not one VirtualSystem with one vbox:Machine":      replace(machineNS, "urn:y"),
	} {
		b := repack(t, m, edit, 0, 1, 2)
		if err := Verify(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "check ova: "+want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	same := func(s string) string { return s }
	for want, b := range map[string][]byte{
		`verify ova: check ova: file 1 is "rig-disk2.vmdk" of `:              repack(t, m, same, 1, 0, 2),
		"verify ova: check ova: References has 3 files, the archive 2":       repack(t, m, same, 0, 1),
		"verify ova: open ova: the first file is not an .ovf":                repack(t, m, same)[:0],
		"verify ova: rig-disk1.vmdk: its SHA-256 is ":                        flip(write(t, m), "ddb.adapterType"),
		"verify ova: open ova: rig.mf: no SHA256 line: \"ZHA256 (rig.ovf)= ": flip(write(t, m), "SHA256 (rig.ovf)"),
		"verify ova: open ova: \"rig-disk3.vmdk\": unexpected EOF":           write(t, m)[:len(write(t, m))-4096],
	} {
		if err := Verify(bytes.NewReader(b), int64(len(b))); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// flip damages the first byte of what.
func flip(b []byte, what string) []byte {
	b[bytes.Index(b, []byte(what))] = 'Z'
	return b
}

func FuzzOpen(f *testing.F) {
	f.Add(write(f, example(f)))
	text, err := example(f).Descriptor()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		Verify(bytes.NewReader(b), int64(len(b)))
		var p Package
		if xml.Unmarshal(b, &p.ovf) == nil { // a descriptor alone
			p.files = make([]member, 5)
			p.Check()
		}
	})
}

// FuzzEscape puts any text where a machine has text.
func FuzzEscape(f *testing.F) {
	f.Add(`<&>"'`, "a\nb", "/tmp/x]]>")
	f.Fuzz(func(t *testing.T, name, description, serial string) {
		m := example(t)
		m.Name, m.Description, m.SerialFile = name, description, serial
		m.NICs[1].Name = name
		text, err := m.Descriptor()
		if err != nil {
			return
		}
		var e envelope
		if err := xml.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		vm := e.System[0].Machines[0]
		if vm.Name != name || vm.Hardware.Adapters[1].Internal.Name != name || vm.Hardware.Ports[0].Path != serial {
			t.Errorf("%q %q: %+v", name, serial, vm)
		}
	})
}
