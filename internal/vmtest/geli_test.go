package vmtest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
)

const poolPassphrase = "Correct-Horse Battery/42"

// enterRE is the kernel's prompt (sys/geom/eli/g_eli.c g_eli_taste). It names the
// partition as the first class sees it, not by its label.
var enterRE = regexp.MustCompile(`Enter passphrase for vtbd\d+p5: `)

// unlock types the passphrase at the kernel's prompt.
func unlock(v *VM, pass string) {
	v.t.Helper()
	v.Expect(BootLimit, enterRE)
	time.Sleep(300 * time.Millisecond)
	v.SendLine(pass)
}

// TestEncrypted: a server with an encrypted pool is installed, asks for the
// passphrase once for all its disks, and comes up without one of them.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	note := Record(t, "encrypted pool: install, wrong and right passphrase, disk 1 missing", "BIOS")
	img := buildImage(t, &answers{install: "passphrase = \"" + poolPassphrase + "\"\n"})
	d := machine(t, img, inPlace)
	start := time.Now()
	c := inPlace.config(d, img, vm.BIOS)
	c.Memory = inPlace.memory()
	waitInstalled(Start(t, c))
	*note = "install " + time.Since(start).Round(time.Second).String()
	sameBootFiles(t, d)

	v := Start(t, d.Config(vm.BIOS))
	unlock(v, "not the passphrase")
	v.Expect(BootLimit, regexp.MustCompile(`Wrong key for vtbd\d+p5\. Tries left: 9`))
	unlock(v, poolPassphrase)
	v.Login("root", rootPassword) // no other disk asks
	waitJails(v)
	checkServer(t, v)
	checkSealed(t, v)
	const marker = "rig-marker-8f0c1e57-in-the-clear"
	v.Must("echo " + marker + " >/root/marker && sync && zpool sync")
	if out := v.Must("riginstall bootsync"); strings.Contains(out, "boots") {
		t.Errorf("bootsync changed something: %s", out)
	}
	shutdown(v, "-p", "guest-shutdown")
	sameBootFiles(t, d)
	for _, disk := range d.List {
		if findOn(t, disk, "geom_eli_load=") < 0 {
			t.Errorf("%s: its switch does not load geom_eli, or this search finds nothing", disk.Serial)
		}
		for _, text := range []string{marker, poolPassphrase} {
			if at := findOn(t, disk, text); at >= 0 {
				t.Errorf("%s holds %q in the clear at %d", disk.Serial, text, at)
			}
		}
	}

	v = Start(t, d.Without(1).Config(vm.BIOS))
	unlock(v, poolPassphrase)
	v.Login("root", rootPassword)
	waitJails(v)
	waitSpare(v)
	if got := strings.TrimSpace(v.Must("cat /root/marker")); got != marker {
		t.Errorf("the marker reads %q", got)
	}
	shutdown(v, "-p", "guest-shutdown")
}

// checkSealed checks that the whole pool is encrypted, and that the passphrase is
// nowhere.
func checkSealed(t *testing.T, v *VM) {
	t.Helper()
	status := v.Must("zpool status")
	for i := range 4 {
		if name := fmt.Sprintf("vtbd%dp5.eli", i); !strings.Contains(status, name) {
			t.Errorf("no %s in the pool:\n%s", name, status)
		}
	}
	if out := v.Must("geli list | grep -c '^Flags:.*BOOT'; ls /dev/gpt | grep -c '^geli-' || true"); strings.Join(strings.Fields(out), " ") != "4 0" {
		t.Errorf("opened at the start, and not open: %q\n%s", out, v.Must("geli status; ls /dev/gpt"))
	}
	if out := v.Must("riginstall verify | grep -w encryption"); !strings.Contains(out, "all devices, AES-XTS 256") {
		t.Errorf("verify: %s", out)
	}
	if out := v.Must("grep -rlF '" + poolPassphrase + "' /var/db/rig /var/log /etc 2>/dev/null; sysctl -n kern.geom.eli.tries; dumpon -l"); strings.Join(strings.Fields(out), " ") != "10 /dev/null" {
		t.Errorf("the passphrase lies about, or tries and the dump device are not as they should be: %s", out)
	}
}

// findOn is where text first is on a disk, -1 when it is not.
func findOn(t *testing.T, disk vm.Disk, text string) int64 {
	t.Helper()
	f, err := os.Open(disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 4<<20)
	keep := 0 // bytes of the last read that a match may begin in
	for at := int64(0); ; {
		n, err := io.ReadFull(f, buf[keep:])
		if i := bytes.Index(buf[:keep+n], []byte(text)); i >= 0 {
			return at - int64(keep) + int64(i)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return -1
		}
		if err != nil {
			t.Fatal(err)
		}
		at += int64(n)
		keep = copy(buf, buf[len(buf)-len(text)+1:])
	}
}
