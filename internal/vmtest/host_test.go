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

// TestRigimageOnFreeBSD: on a FreeBSD host, rigimage as an ordinary user builds what
// it builds here, and as root flashes it, onto the disk that nothing uses.
func TestRigimageOnFreeBSD(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	sets := Need(t).Sets
	Record(t, "rigimage on FreeBSD: the same image, flash", "BIOS")
	here := filepath.Join(Dir(t), "rig.img")
	rigimage(t, "build", "--sets", sets, "--packages", "none", "-o", here)

	d := anyInstalled(t)
	in, target := vm.Disk{Path: filepath.Join(d.Dir, "in.img"), Serial: "RIG-IN", BootIndex: 8}, vm.Disk{Path: filepath.Join(d.Dir, "target.img"), Serial: "RIG-TARGET", BootIndex: 9}
	if err := vm.CreateDisk(target.Path, diskSize); err != nil {
		t.Fatal(err)
	}
	writeTar(t, in.Path, filepath.Join(sets, "MANIFEST"), filepath.Join(sets, "base.txz"), filepath.Join(sets, "kernel.txz"), releasedForFreeBSD(t, d.Dir))
	c := d.Config(vm.BIOS, 1, 2, 3, 4)
	c.Disks = append(c.Disks, in, target)
	v := Start(t, c)
	v.Login("root", rootPassword)
	pool := poolName(v)
	v.Session.Limit = InstallLimit // it decodes the sets
	v.Must("mkdir /host && tar xpf /dev/vtbd4 -C /host && chown -R nobody /host")
	v.Must("cd /host && su -m nobody -c 'HOME=/host ./rigimage build --sets /host --packages none -o rig.img' >build.log 2>&1 || { tail build.log; false; }")

	list := v.Must("/host/rigimage flash --list")
	for _, want := range []string{"/dev/vtbd0, serial RIG-D1", "a member: ZFS member of pool " + pool + " (label 0 1 2 3) (partition 5)", "/dev/vtbd5, serial RIG-TARGET, 6G\n    blank (first and last 64 MiB and 4096 samples read as zeros)\n"} {
		if !strings.Contains(list, want) {
			t.Errorf("--list does not say %q:\n%s", want, list)
		}
	}
	for disk, what := range map[string]string{"vtbd0": "a member: ZFS member of pool " + pool, "vtbd3": "a member: ZFS member without a pool's name: a spare"} {
		out, status := v.Run("/host/rigimage flash /host/rig.img /dev/" + disk + " --yes")
		if status != 2 || !strings.Contains(out, what) {
			t.Errorf("flash onto %s of the pool: status %d:\n%s", disk, status, out)
		}
	}
	if out := v.Must("/host/rigimage flash /host/rig.img serial:RIG-TARGET --yes"); !strings.Contains(out, "written and read back") {
		t.Errorf("flash: %s", out)
	}
	v.Must("zpool status -x | grep 'all pools are healthy'")
	v.PowerOff()
	if want, got := bootFiles(t, vm.Disk{Path: here}), bootFiles(t, target); got != want {
		t.Errorf("the image built on FreeBSD is not the one built here:\n%s", firstDifference(want, got))
	}
	v = Start(t, vm.Config{Name: "rig", Firmware: vm.UEFI, Dir: Dir(t), Disks: []vm.Disk{target}, NICs: c.NICs})
	v.Expect(BootLimit, "Enter: install from this console")
	v.PowerOff()
}

// releasedForFreeBSD is rigimage as "make" makes it, with riginstall inside, for a
// FreeBSD host.
func releasedForFreeBSD(t *testing.T, dir string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	guest, embed, overlay, out := filepath.Join(dir, "riginstall"), filepath.Join(dir, "embed.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "rigimage")
	text := "//go:build embed_riginstall\n\npackage main\n\nimport _ \"embed\"\n\n//go:embed riginstall.freebsd-amd64\nvar embedded []byte\n"
	replace := fmt.Sprintf(`{"Replace": {%q: %q, %q: %q}}`, filepath.Join(root, "cmd/rigimage/embed_release.go"), embed, filepath.Join(root, "cmd/rigimage/riginstall.freebsd-amd64"), guest)
	if err := errors.Join(os.WriteFile(embed, []byte(text), 0o644), os.WriteFile(overlay, []byte(replace), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", guest, "github.com/rig-freebsd/rig/cmd/riginstall"},
		{"-overlay", overlay, "-tags", "embed_riginstall", "-o", out, "github.com/rig-freebsd/rig/cmd/rigimage"},
	} {
		cmd := exec.Command("go", append([]string{"build"}, args...)...)
		cmd.Env = append(os.Environ(), "GOOS=freebsd", "GOARCH=amd64", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	return out
}

// writeTar writes files as a tar onto a disk.
func writeTar(t *testing.T, disk string, files ...string) {
	t.Helper()
	out, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(out)
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		st, err := f.Stat()
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: filepath.Base(name), Mode: int64(st.Mode().Perm()), Size: st.Size(), Typeflag: tar.TypeReg})
		}
		if err == nil {
			_, err = io.Copy(w, f)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), out.Truncate(256<<20), out.Close()); err != nil {
		t.Fatal(err)
	}
}
