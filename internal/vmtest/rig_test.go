package vmtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/vm"
)

// What every installed test server is reached with.
const (
	rootPassword = "rig-test"
	// openssl passwd -6 rig-test
	rootHash = "$6$rigrigrig$VT26BIQPia9E9Etlkt1YBvaly4s0wd0cxP6ZXez3PgCeJTgzyryYGNm4Fwu.kcoSjtLIxmgJ1rdkQMfiaz5RN."
	testKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM5DGA/ITSDmV5xctFzfNRU7+X0Kr6sohiGe0IAYd81g rig-test"
	diskSize = 6 << 30
)

// full reports whether make matrix runs: all scenarios, not the part for CI.
func full() bool { return os.Getenv("RIG_VM_FULL") != "" }

// fullOnly skips a scenario that only make matrix runs.
func fullOnly(t *testing.T) {
	t.Helper()
	if !full() {
		t.Skip("only with RIG_VM_FULL=1 (make matrix)")
	}
}

// answers is an answers file; fields replace lines of the default.
type answers struct {
	disks   string // the [disks] table without its header
	after   string
	install string // more lines of [install]
}

const fourDisks = `mirror = ["serial:RIG-D1", "serial:RIG-D2"]
spares = ["serial:RIG-D3", "serial:RIG-D4"]
swap = "256m"
`

func (a answers) text() string {
	if a.disks == "" {
		a.disks = fourDisks
	}
	if a.after == "" {
		a.after = "reboot"
	}
	return fmt.Sprintf(`schema = 1
[install]
unattended = true
after = %q
%s[server]
name = "rega"
domain = "example.lan"
role = "primary"
[xnic]
match = "mac:52:54:00:72:69:01"
inet = "10.0.0.110/24"
gateway = "10.0.0.1"
[inic]
match = "mac:52:54:00:72:69:02"
inet = "192.168.56.110/24"
[private]
node = "192.168.56.30"
pg = "192.168.56.40"
peer_node = "192.168.56.31"
peer_pg = "192.168.56.41"
[peers]
xnic = ["10.0.0.111"]
orch = ["10.0.0.220"]
admin = ["203.0.113.0/24"]
[users]
admin_keys = [%q]
deployer_keys = [%q]
[secrets]
spiped_key = "0123456789abcdef0123456789abcdef"
root_hash = '%s'
[disks]
%s`, a.after, a.install, testKey, testKey, rootHash, a.disks)
}

var built struct {
	sync.Once
	path string
}

// rigimage runs the command as a user would, from this checkout, and returns what
// it says.
func rigimage(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(rigimagePath(t), args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("rigimage %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// rigimagePath is the command, built once from this checkout.
func rigimagePath(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		dir, err := sharedDir()
		if err != nil {
			t.Fatal(err)
		}
		built.path = filepath.Join(dir, "rigimage")
		cmd := exec.Command("go", "build", "-o", built.path, "github.com/rig-freebsd/rig/cmd/rigimage")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build rigimage: %v\n%s", err, out)
		}
	})
	return built.path
}

// buildImage makes an image with these answers on its ESP; nil for none.
func buildImage(t testing.TB, a *answers) string {
	t.Helper()
	env := Need(t)
	dir := Dir(t)
	img := filepath.Join(dir, "rig.img")
	args := []string{"build", "--sets", env.Sets, "--packages", "none", "-o", img}
	if a != nil {
		file := filepath.Join(dir, "answers.toml")
		if err := os.WriteFile(file, []byte(a.text()), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--answers", file)
	}
	rigimage(t, args...)
	return img
}

// medium is how an image gets to a machine.
type medium int

const (
	onStick  medium = iota // on a USB 3 controller (xhci), beside four blank disks
	inPlace                // written to disk 1 of four, as on a rented server
	onStick2               // as onStick, on a USB 2 controller (ehci)
)

func (m medium) String() string { return [...]string{"stick", "in place", "USB 2 stick"}[m] }

// machine is four disks and an image, ready to install.
func machine(t testing.TB, img string, m medium) Disks {
	t.Helper()
	d := NewDisks(t, 4, diskSize)
	if m == inPlace {
		d.Put(t, 1, img)
	}
	return d
}

// memory is what a machine is installed with; from a stick the least it needs.
func (m medium) memory() int64 { return [...]int64{1 << 30, 2 << 30, 1 << 30}[m] }

// where is a medium in the matrix.
var where = map[medium]string{onStick: "on a USB 3 stick", inPlace: "on disk 1", onStick2: "on a USB 2 stick"}

func (m medium) config(d Disks, img string, fw vm.Firmware) vm.Config {
	c := d.Config(fw, 1, 2, 3, 4)
	if m != inPlace {
		stick := Stick(img)
		if m == onStick2 {
			stick.Bus = vm.BusUSB2
		}
		c.Disks = append([]vm.Disk{stick}, c.Disks...)
	}
	c.RebootExits = true
	return c
}

var (
	installed = regexp.MustCompile(`rig: \S+ is installed; every disk boots it`)
	failedRE  = regexp.MustCompile(`riginstall: error: .*`)
)

// waitInstalled waits until an unattended install is over and the machine off.
func waitInstalled(v *VM) {
	v.t.Helper()
	if got := v.Expect(InstallLimit, installed, failedRE); got.Index != 0 {
		time.Sleep(Slow(2 * time.Second)) // for the rest of what it says
		v.t.Fatalf("install: %s\n%s", got.Text, v.Console.Tail(30))
	}
	v.WaitExit(BootLimit, "guest-reset")
}

// boot starts an installed machine with these disks first and logs in.
func boot(t testing.TB, d Disks, fw vm.Firmware, order ...int) *VM {
	t.Helper()
	c := d.Config(fw, order...)
	v := Start(t, c)
	v.Login("root", rootPassword)
	return v
}

// waitJails waits until rc has started everything: the jails come last.
func waitJails(v *VM) {
	v.t.Helper()
	for deadline := time.Now().Add(Slow(BootLimit)); ; {
		if out := v.Must("jls -N name 2>/dev/null | wc -l; pgrep -f '^/bin/sh /etc/rc autoboot' | wc -l"); strings.Join(strings.Fields(out), " ") == "3 0" {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("the jails did not come up:\n%s", v.Must("jls; ps ax"))
		}
		time.Sleep(3 * time.Second)
	}
}

// waitSpare waits until zfsd has put a spare in use and it is complete.
func waitSpare(v *VM) {
	v.t.Helper()
	for deadline := time.Now().Add(Slow(5 * time.Minute)); ; time.Sleep(3 * time.Second) {
		out := v.Must("zpool status")
		if strings.Contains(out, "INUSE") && strings.Contains(out, "resilvered") && !strings.Contains(out, "in progress") {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("no spare was put in use:\n%s", out)
		}
	}
}

// shutdown turns a machine off as its owner would.
func shutdown(v *VM, how, reason string) {
	v.t.Helper()
	v.SendLine("shutdown " + how + " now")
	v.WaitExit(BootLimit, reason)
}

func openDisk(t testing.TB, disk vm.Disk) *os.File {
	t.Helper()
	f, err := os.Open(disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// bootFiles is what the boot partitions of a disk hold, as mtree text with
// digests; times, and what differs by design, left out.
func bootFiles(t testing.TB, disk vm.Disk) string {
	t.Helper()
	f := openDisk(t, disk)
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, st.Size(), cmp.Or(disk.SectorSize, 512))
	if err != nil {
		t.Fatalf("%s: %v", disk.Serial, err)
	}
	var b strings.Builder
	for _, p := range table.Partitions {
		r := io.NewSectionReader(f, p.Start, p.Size)
		var tr *tree.Tree
		switch p.Type {
		case gpt.EFI:
			fsys, err := fat.Open(r, p.Size)
			if err != nil {
				t.Fatalf("%s: %v", disk.Serial, err)
			}
			if err := fsys.Check(); err != nil {
				t.Errorf("%s: ESP: %v", disk.Serial, err)
			}
			tr, err = fsys.Tree()
			if err != nil {
				t.Fatal(err)
			}
		case gpt.FreeBSDUFS:
			fsys, err := ufs.Open(r, p.Size)
			if err != nil {
				t.Fatalf("%s: %v", disk.Serial, err)
			}
			if err := fsys.Check(); err != nil {
				t.Errorf("%s: rig partition: %v", disk.Serial, err)
			}
			tr, err = fsys.Tree()
			if err != nil {
				t.Fatal(err)
			}
		default:
			continue
		}
		tr, err := tr.Filter(func(e *tree.Entry) bool { return e.Path != "rig/answers.toml" })
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "# %s\n", p.Type)
		if err := tr.WriteMtree(&b, true); err != nil {
			t.Fatal(err)
		}
	}
	return regexp.MustCompile(` time=\S+`).ReplaceAllString(b.String(), "")
}

// sameBootFiles checks that every disk boots by the same files.
func sameBootFiles(t testing.TB, d Disks) {
	t.Helper()
	want := bootFiles(t, d.List[0])
	if !strings.Contains(want, "boot/kernel/kernel.gz") || !strings.Contains(want, "BOOTX64.EFI") {
		t.Fatalf("%s has no boot files:\n%s", d.List[0].Serial, want)
	}
	for _, disk := range d.List[1:] {
		if got := bootFiles(t, disk); got != want {
			t.Errorf("the boot files of %s are not those of %s:\n%s", disk.Serial, d.List[0].Serial, firstDifference(want, got))
		}
	}
}

func firstDifference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(la), len(lb)) {
		if la[i] != lb[i] {
			return "- " + la[i] + "\n+ " + lb[i]
		}
	}
	return fmt.Sprintf("%d and %d lines", len(la), len(lb))
}

// poolStatus is zpool status -j --json-int, as far as the tests look.
type poolStatus struct {
	Pools map[string]struct {
		State  string           `json:"state"`
		Vdevs  map[string]vdev  `json:"vdevs"`
		Spares map[string]spare `json:"spares"`
	} `json:"pools"`
}

type vdev struct {
	Type  string          `json:"vdev_type"`
	State string          `json:"state"`
	Vdevs map[string]vdev `json:"vdevs"`
}

type spare struct {
	State string `json:"state"`
}

func zpoolStatus(v *VM) poolStatus {
	v.t.Helper()
	var s poolStatus
	if err := json.Unmarshal(v.Output("zpool status -j --json-int"), &s); err != nil {
		v.t.Fatal(err)
	}
	return s
}
