package vmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"rig/vm"
)

// isoImage is an ISO with these answers.
func isoImage(t testing.TB, a answers) string {
	t.Helper()
	dir := Dir(t)
	file, iso := filepath.Join(dir, "answers.toml"), filepath.Join(dir, "rig.iso")
	if err := os.WriteFile(file, []byte(a.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	rigimage(t, "build", "--sets", Need(t).Sets, "--packages", "none", "--answers", file, "-o", iso)
	return iso
}

// TestISO: the ISO installs a server from a drive and written to a stick, by both
// firmwares.
func TestISO(t *testing.T) {
	fullOnly(t)
	Need(t)
	for _, c := range []struct {
		where string
		disk  vm.Disk
		fw    vm.Firmware
	}{
		{"in a drive", vm.Disk{Bus: vm.BusCD, ReadOnly: true}, vm.UEFI},
		{"in a drive", vm.Disk{Bus: vm.BusCD, ReadOnly: true}, vm.BIOS},
		{"on a stick", vm.Disk{Serial: "RIG-STICK", Snapshot: true}, vm.UEFI},
		{"on a stick", vm.Disk{Serial: "RIG-STICK", Snapshot: true}, vm.BIOS},
	} {
		t.Run(fmt.Sprintf("%s/%s", c.fw, c.where), func(t *testing.T) {
			Record(t, "install, ISO "+c.where, c.fw.String())
			c.disk.Path, c.disk.BootIndex = isoImage(t, answers{}), 1
			d := NewDisks(t, 4, diskSize)
			config := d.Config(c.fw, 1, 2, 3, 4)
			config.Disks = append([]vm.Disk{c.disk}, config.Disks...)
			config.RebootExits = true
			waitInstalled(Start(t, config))
			sameBootFiles(t, d)
			v := boot(t, d, c.fw)
			waitJails(v)
			checkServer(t, v)
			shutdown(v, "-p", "guest-shutdown")
		})
	}
}
