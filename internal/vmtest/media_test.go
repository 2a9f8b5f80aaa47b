package vmtest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/vm"
)

// buildAs makes an image with these answers in the form its name says.
func buildAs(t testing.TB, a answers, name string) string {
	t.Helper()
	dir := Dir(t)
	file, out := filepath.Join(dir, "answers.toml"), filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(a.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	rigimage(t, "build", "--sets", Need(t).Sets, "--packages", "none", "--answers", file, "-o", out)
	return out
}

// runsFrom installs a machine that has its medium, and looks at the server.
func runsFrom(t *testing.T, d Disks, fw vm.Firmware, c vm.Config) {
	t.Helper()
	c.RebootExits = true
	waitInstalled(Start(t, c))
	isServer(t, d, fw)
}

// isServer boots what was installed and looks at everything.
func isServer(t *testing.T, d Disks, fw vm.Firmware) {
	t.Helper()
	sameBootFiles(t, d)
	v := boot(t, d, fw)
	waitJails(v)
	checkServer(t, v)
	shutdown(v, "-p", "guest-shutdown")
}

// TestISO: the ISO installs a server from a drive and written to a stick, by both
// firmwares.
func TestISO(t *testing.T) {
	t.Parallel()
	drive, stick := vm.Disk{Bus: vm.BusCD, ReadOnly: true, BootIndex: 1}, vm.Disk{Serial: "RIG-STICK", Bus: vm.BusUSB, Snapshot: true, BootIndex: 1}
	for _, c := range []struct {
		where string
		disk  vm.Disk
		fw    vm.Firmware
		bus   string // of the server's disks
		full  bool
	}{
		{"in a drive", drive, vm.UEFI, vm.BusNVMe, true},
		{"in a drive", drive, vm.BIOS, vm.BusAHCI, false},
		{"on a USB 3 stick", stick, vm.UEFI, vm.BusVirtio, true},
		{"on a USB 3 stick", stick, vm.BIOS, vm.BusSCSI, true},
	} {
		t.Run(testName(c.fw, c.where), func(t *testing.T) {
			if c.full {
				fullOnly(t)
			}
			Need(t)
			note := Record(t, "install, ISO "+c.where, c.fw.String())
			*note = "disks on " + c.bus
			c.disk.Path = buildAs(t, answers{}, "rig.iso")
			d := NewDisks(t, 4, diskSize).On(c.bus, 512)
			config := d.Config(c.fw, 1, 2, 3, 4)
			config.Disks = append([]vm.Disk{c.disk}, config.Disks...)
			runsFrom(t, d, c.fw, config)
		})
	}
}

func testName(fw vm.Firmware, how string) string {
	return strings.NewReplacer(" ", "_", ",", "", "'", "").Replace(fmt.Sprintf("%s/%s", fw, how))
}

// TestAppliance: the first disk of an appliance, as a hypervisor imports it, becomes a
// member of the mirror.
func TestAppliance(t *testing.T) {
	t.Parallel()
	for _, fw := range []vm.Firmware{vm.UEFI, vm.BIOS} {
		t.Run(fw.String(), func(t *testing.T) {
			fullOnly(t)
			Need(t)
			note := Record(t, "install, first disk of an .ova", fw.String())
			*note = "disks on ahci"
			d := NewDisks(t, 4, diskSize).On(vm.BusAHCI, 512)
			importDisk(t, buildAs(t, answers{}, "rig.ova"), d.List[0].Path)
			runsFrom(t, d, fw, d.Config(fw, 1, 2, 3, 4))
		})
	}
}

// importDisk makes a disk of an appliance's first VMDK.
func importDisk(t *testing.T, ova, disk string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		skip(t, "qemu", err.Error())
	}
	f, err := os.Open(ova)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	vmdk := filepath.Join(Dir(t), "disk.vmdk")
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s has no disk: %v", ova, err)
		}
		if !strings.HasSuffix(h.Name, "disk1.vmdk") {
			continue
		}
		out, err := os.Create(vmdk)
		if err == nil {
			_, err = io.Copy(out, r)
			err = errors.Join(err, out.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if out, err := exec.Command("qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, disk).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
}

// TestFlash: rigimage flash writes the image onto disk 1, of 512 or of 4096 bytes a
// sector, and puts the answers there.
func TestFlash(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		how    string
		fw     vm.Firmware
		bus    string
		sector int
	}{
		{"disk 1", vm.BIOS, vm.BusAHCI, 512},
		{"disk 1", vm.UEFI, vm.BusNVMe, 512},
		{"disk 1 of 4096 bytes a sector", vm.UEFI, vm.BusVirtio, 4096},
	} {
		t.Run(testName(c.fw, c.how), func(t *testing.T) {
			fullOnly(t)
			env := Need(t)
			note := Record(t, "install, flash onto "+c.how, c.fw.String())
			*note = "disks on " + c.bus
			dir := Dir(t)
			img, file := filepath.Join(dir, "rig.img.zst"), filepath.Join(dir, "answers.toml")
			if err := os.WriteFile(file, []byte(answers{}.text()), 0o600); err != nil {
				t.Fatal(err)
			}
			rigimage(t, "build", "--sets", env.Sets, "--packages", "none", "-o", img)
			d := NewDisks(t, 4, diskSize).On(c.bus, c.sector)
			rigimage(t, "flash", img, asDevice(t, d.List[0].Path, c.sector), "--answers", file, "--yes")
			runsFrom(t, d, c.fw, d.Config(c.fw, 1, 2, 3, 4))
		})
	}
}

// asDevice is a file as a block device with such sectors; a file by itself has 512.
func asDevice(t *testing.T, file string, sector int) string {
	t.Helper()
	if sector == 512 {
		return file
	}
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", fmt.Sprint(sector), file).CombinedOutput()
	if err != nil {
		skip(t, "losetup", fmt.Sprintf("losetup: %v: %s", err, out))
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", dev).Run() })
	return dev
}
