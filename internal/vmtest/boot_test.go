package vmtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
)

// identity is what must differ between two servers made of one image.
type identity struct {
	hostUUID string
	macs     []string
}

var identities = map[string]identity{} // by test; TestInstall's alone

// TestInstall is proof 1: from the sets to a running server with its jails, by
// both firmwares, from a stick and from disk 1.
func TestInstall(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fw   vm.Firmware
		m    medium
		full bool
	}{
		{vm.UEFI, onStick, false},
		{vm.BIOS, inPlace, false},
		{vm.BIOS, onStick, true},
		{vm.UEFI, inPlace, true},
		{vm.UEFI, onStick2, true},
	} {
		t.Run(fmt.Sprintf("%s/%s", c.fw, c.m), func(t *testing.T) {
			if c.full {
				fullOnly(t)
			}
			Need(t)
			note := Record(t, "install, image "+where[c.m], c.fw.String())
			start := time.Now()
			d := installedBy(t, c.fw, c.m)
			*note = fmt.Sprintf("%d MiB of memory, install %d s", c.m.memory()>>20, int(time.Since(start).Seconds()))
			sameBootFiles(t, d)
			v := boot(t, d, c.fw)
			waitJails(v)
			checkServer(t, v)
			checkVerify(t, v)
			identities[t.Name()] = serverIdentity(v)
			shutdown(v, "-p", "guest-shutdown")
			sameBootFiles(t, d)
		})
	}
	t.Run("identity", func(t *testing.T) {
		if len(identities) < 2 {
			t.Skip("needs two installs")
		}
		checkDistinct(t, identities)
	})
}

func installName(fw vm.Firmware, m medium) string { return fmt.Sprintf("%s %s", fw, m) }

// installedBy is a server installed in this way; all tests of a process share the
// install, each with its own copy of the disks. Installs from a stick have 1 GiB
// of memory, which the installer must fit.
func installedBy(t testing.TB, fw vm.Firmware, m medium) Disks {
	t.Helper()
	return Shared(t, installName(fw, m), func(t testing.TB) Disks {
		img := buildImage(t, &answers{})
		d := machine(t, img, m)
		c := m.config(d, img, fw)
		c.Memory = m.memory()
		v := Start(t, c)
		keepCuts(v, d, fw, m)
		waitInstalled(v)
		return d
	})
}

// anyInstalled is a server for tests to which the way it was installed does not
// matter: the one CI installs anyway.
func anyInstalled(t testing.TB) Disks {
	t.Helper()
	return installedBy(t, vm.BIOS, inPlace)
}

// rootRE is the dataset of a server's root: a pool of its own name, the image's unit.
var rootRE = regexp.MustCompile(`zroot-[0-9a-f]{8}/ROOT/webrig-`)

// checkServer looks at everything a healthy server has.
func checkServer(t *testing.T, v *VM) {
	t.Helper()
	if root := v.Must("mount -p | awk '$2 == \"/\" { print $1 }'"); !rootRE.MatchString(root) {
		t.Errorf("the root is %q", root)
	}
	checkPool(t, v)
	checkJails(t, v)
	checkLinks(t, v)
	checkFirewall(t, v)
	v.Must("service zfsd status")
	if got := v.Must("sysctl -n kern.bootfile"); strings.TrimSpace(got) != "/boot/kernel/kernel" {
		t.Errorf("kern.bootfile is %q", got)
	}
	if out := v.Must("ls -l /etc/spiped.key 2>/dev/null; grep -rlE '0123456789abcdef0123456789abcdef|rigrigrig' /var/db/rig /var/log 2>/dev/null; true"); strings.TrimSpace(out) != "/var/db/rig/answers.toml" {
		t.Errorf("secrets lie about: %s", out)
	}
	if out := v.Must("stat -f '%Sp %u:%g' /var/db/rig /var/db/rig/answers.toml /jails"); strings.Join(strings.Fields(out), " ") != "drwx------ 0:0 -rw------- 0:0 drwx------ 0:0" {
		t.Errorf("answers and jails are open to others: %s", out)
	}
	if out := v.Must("grep -h '^root:' /jails/*/etc/master.passwd | cut -d: -f2 | sort -u"); strings.TrimSpace(out) != "*" {
		t.Errorf("root has a password in a jail: %s", out)
	}
	for _, j := range []string{"pg_j", "node_j"} {
		if out := v.Must("stat -f '%Sp %u:%g %z' /jails/" + j + "/etc/spiped.key"); strings.TrimSpace(out) != "-rw------- 0:0 32" && strings.TrimSpace(out) != "-rw------- 0:0 33" {
			t.Errorf("%s: spiped.key is %q", j, out)
		}
	}
	if out := v.Must("swapinfo | grep -c eli"); strings.TrimSpace(out) != "2" {
		t.Errorf("%s swap devices, want 2 encrypted ones", out)
	}
}

// checkVerify has the server look at itself.
func checkVerify(t *testing.T, v *VM) {
	t.Helper()
	old := v.Session.Limit
	v.Session.Limit = 2 * CommandLimit // it reads the boot partitions of every disk
	out, status := v.Run("riginstall verify")
	v.Session.Limit = old
	if status != 0 {
		t.Errorf("riginstall verify: exit status %d\n%s", status, out)
	}
	for _, area := range []string{"pool", "boot", "jails", "network", "firewall", "tunnels", "files"} {
		if !regexp.MustCompile(`(?mi)^` + area + `\b`).MatchString(out) {
			t.Errorf("riginstall verify says nothing of %s:\n%s", area, out)
		}
	}
}

// poolName is the name of the pool a server runs from.
func poolName(v *VM) string {
	v.t.Helper()
	pool, _, _ := strings.Cut(v.Must("zfs list -Ho name /"), "/")
	return pool
}

func checkPool(t *testing.T, v *VM) {
	t.Helper()
	pools := zpoolStatus(v).Pools
	p, ok := pools[poolName(v)]
	if len(pools) != 1 || !ok || p.State != "ONLINE" {
		t.Fatalf("pools %+v", pools)
	}
	mirrors := 0
	var walk func(map[string]vdev)
	walk = func(m map[string]vdev) {
		for name, d := range m {
			if d.State != "ONLINE" {
				t.Errorf("%s is %s", name, d.State)
			}
			if d.Type == "mirror" {
				mirrors++
				if len(d.Vdevs) != 2 {
					t.Errorf("%s has %d members", name, len(d.Vdevs))
				}
			}
			walk(d.Vdevs)
		}
	}
	walk(p.Vdevs)
	if mirrors != 1 || len(p.Spares) != 2 {
		t.Errorf("%d mirrors and %d spares, want 1 and 2", mirrors, len(p.Spares))
	}
	for name, s := range p.Spares {
		if s.State != "AVAIL" {
			t.Errorf("spare %s is %s", name, s.State)
		}
	}
}

// rigAddresses is RIG.md §1 for server A.
var rigAddresses = map[string]map[string]string{
	"":     {"xnic": "10.0.0.110/24", "xbridge": "10.0.2.1/24", "ibridge": "192.168.56.110/24"},
	"pg_j": {"pg_b": "10.0.2.40/24", "node_pg_b": "10.0.4.40/24", "ipg_b": "192.168.56.40/24"},
	"node_j": {"node_b": "10.0.2.30/24", "ngx_node_b": "10.0.3.30/24", "inode_b": "192.168.56.30/24",
		"node_pg_a": "10.0.4.30/24"},
	"nginx_j": {"ngx_b": "10.0.2.20/24", "ngx_node_a": "10.0.3.20/24"},
}

func checkJails(t *testing.T, v *VM) {
	t.Helper()
	var ls struct {
		Info struct {
			Jail []struct{ Hostname, Name, Path, Vnet string } `json:"jail"`
		} `json:"jail-information"`
	}
	out := v.Output("jls --libxo json -n name path vnet host.hostname")
	if err := json.Unmarshal(out, &ls); err != nil {
		t.Fatalf("jls: %v\n%s", err, out)
	}
	var names []string
	for _, j := range ls.Info.Jail {
		names = append(names, j.Name)
		if j.Path != "/jails/"+j.Name || j.Vnet != "new" && j.Vnet != "1" {
			t.Errorf("jail %+v", j)
		}
	}
	if !slices.Equal(names, []string{"pg_j", "node_j", "nginx_j"}) {
		t.Errorf("jails in order of start: %v", names)
	}
	for jail, want := range rigAddresses {
		in := ""
		if jail != "" {
			in = "jexec " + jail + " "
		}
		got := map[string]string{}
		dev := ""
		for line := range strings.Lines(v.Must(in + "ifconfig -f inet:cidr")) {
			f := strings.Fields(line)
			if line[0] != '\t' && line[0] != ' ' {
				dev, _, _ = strings.Cut(f[0], ":")
			} else if f[0] == "inet" && f[1] != "127.0.0.1/8" {
				got[dev] = f[1]
			}
		}
		for dev, addr := range want {
			if got[dev] != addr {
				t.Errorf("%q %s has address %q, want %s", jail, dev, got[dev], addr)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%q has addresses %v, want %v", jail, got, want)
		}
	}
}

// checkLinks pings along every link of RIG.md §1 with pf off, and shows that
// there is none where there should be none.
func checkLinks(t *testing.T, v *VM) {
	t.Helper()
	v.Must("pfctl -d")
	defer v.Must("pfctl -e")
	ping := func(jail, addr string) bool {
		in := ""
		if jail != "" {
			in = "jexec " + jail + " "
		}
		_, status := v.Run(in + "ping -n -c 1 -t 5 " + addr + " >/dev/null")
		return status == 0
	}
	for _, l := range []struct{ from, to string }{
		{"", "10.0.2.20"}, {"", "10.0.2.30"}, {"", "10.0.2.40"},
		{"nginx_j", "10.0.2.1"}, {"node_j", "10.0.2.1"}, {"pg_j", "10.0.2.1"},
		{"nginx_j", "10.0.3.30"}, {"node_j", "10.0.3.20"},
		{"node_j", "10.0.4.40"}, {"pg_j", "10.0.4.30"},
		{"node_j", "192.168.56.40"}, {"pg_j", "192.168.56.30"},
		{"", "192.168.56.30"}, {"", "192.168.56.40"},
		{"node_j", "192.168.56.110"},
	} {
		if !ping(l.from, l.to) {
			t.Errorf("no way from %q to %s", l.from, l.to)
		}
	}
	// nginx_j has no cable to pg_j, and 10.0.4 is on no bridge.
	for _, l := range []struct{ from, to string }{{"", "10.0.4.40"}, {"", "10.0.3.30"}, {"pg_j", "10.0.3.20"}} {
		if ping(l.from, l.to) {
			t.Errorf("there is a way from %q to %s", l.from, l.to)
		}
	}
}

// checkFirewall checks that the full rule set is loaded and does its part here.
func checkFirewall(t *testing.T, v *VM) {
	t.Helper()
	if out := v.Must("pfctl -si"); !strings.Contains(out, "Status: Enabled") {
		t.Errorf("pf: %s", out)
	}
	rules := v.Must("pfctl -sr")
	for _, want := range []string{"block drop log all", "<ratelimit>", "<blocklist>", "<martians>", "port = 5433", "port = 5434"} {
		if !strings.Contains(rules, want) {
			t.Errorf("no %q in the loaded rules:\n%s", want, rules)
		}
	}
	nat := v.Must("pfctl -sn")
	for _, port := range []string{"80", "443", "2220", "2230", "2240"} {
		if !regexp.MustCompile(`port = (` + port + `|http|https)\b`).MatchString(nat) {
			t.Errorf("no redirection of port %s:\n%s", port, nat)
		}
	}
	for _, table := range []string{"/etc/ips_blocklist", "/etc/ips_martians", "/etc/ips_stripe", "/etc/ips_fastmail",
		"/etc/ips_xnic_peers", "/etc/ip_ipg_b", "/etc/ip_inode_b", "/etc/ip_peer_ipg_b", "/etc/ip_peer_inode_b"} {
		v.Must("test -f " + table)
	}
	v.Must("pfctl -nf /etc/pf.conf")
	if out := v.Must("sysctl -n net.link.bridge.pfil_member net.link.bridge.pfil_bridge"); strings.Join(strings.Fields(out), "") != "11" {
		t.Errorf("bridges are not filtered: %s", out)
	}
	if _, status := v.Run("jexec node_j ping -n -c 1 -t 3 192.168.56.40 >/dev/null"); status == 0 {
		t.Errorf("with pf on, node_j reaches pg_j over the private network")
	}
	if _, status := v.Run("jexec nginx_j ping -n -c 1 -t 5 10.0.3.30 >/dev/null"); status != 0 {
		t.Errorf("with pf on, nginx_j does not reach node_j over their own cable")
	}
}

func serverIdentity(v *VM) identity {
	id := identity{hostUUID: strings.TrimSpace(v.Must("sysctl -n kern.hostuuid"))}
	out := v.Must("for j in pg_j node_j nginx_j; do jexec $j ifconfig; done; ifconfig xbridge; ifconfig ibridge")
	for _, m := range regexp.MustCompile(`ether ([0-9a-f:]{17})`).FindAllStringSubmatch(out, -1) {
		id.macs = append(id.macs, m[1])
	}
	return id
}

// checkDistinct checks that no two servers share a MAC address or hostid.
func checkDistinct(t *testing.T, all map[string]identity) {
	t.Helper()
	seen := map[string]string{}
	for test, id := range all {
		if len(id.macs) != 11 {
			t.Errorf("%s: %d MACs of jails and bridges, want 11: %v", test, len(id.macs), id.macs)
		}
		for _, x := range append(slices.Clone(id.macs), id.hostUUID) {
			if other, dup := seen[x]; dup {
				t.Errorf("%s and %s share %s", test, other, x)
			}
			seen[x] = test
		}
	}
}

// TestSpare is proof 2: a mirror member is gone, zfsd puts a spare in its place,
// and the server comes up again from each remaining disk.
func TestSpare(t *testing.T) {
	t.Parallel()
	Need(t)
	d := anyInstalled(t)
	Record(t, "mirror member missing, spare in use, reboot", "BIOS")
	const gone = 2
	left := d.Without(gone)
	v := boot(t, left, vm.BIOS)
	waitSpare(v)
	shutdown(v, "-p", "guest-shutdown")
	// Disks by their place in left: 1 is RIG-D1, 2 and 3 the spares.
	tries := []struct {
		fw    vm.Firmware
		first int
	}{{vm.BIOS, 2}, {vm.UEFI, 3}}
	if full() {
		tries = tries[:0]
		for _, fw := range []vm.Firmware{vm.BIOS, vm.UEFI} {
			for first := 1; first <= 3; first++ {
				tries = append(tries, struct {
					fw    vm.Firmware
					first int
				}{fw, first})
			}
		}
	}
	for _, c := range tries {
		t.Run(fmt.Sprintf("%s/first %s", c.fw, left.List[c.first-1].Serial), func(t *testing.T) {
			Record(t, "spare in use, boot from "+left.List[c.first-1].Serial, c.fw.String())
			v := boot(t, left.Clone(t), c.fw, c.first)
			if out := v.Must("zpool status; mount -p | head -1"); !strings.Contains(out, "spare-") || !rootRE.MatchString(out) {
				t.Errorf("came up without its spare in use:\n%s", out)
			}
		})
	}
}

// cutSteps are the journal steps proof 4 cuts the power at: each install leaves
// copies of its disks as they were at these steps.
var cutSteps = []struct {
	step string
	fw   vm.Firmware
	m    medium
	full bool
}{
	{"root", vm.BIOS, inPlace, false},
	{"switch-vtbd1", vm.BIOS, inPlace, false},
	{"boot-vtbd1", vm.BIOS, inPlace, true},
	{"configure-host", vm.BIOS, inPlace, true},
	{"complete", vm.BIOS, inPlace, true},
	{"partition-vtbd1", vm.UEFI, onStick, true},
	{"pool", vm.UEFI, onStick, true},
	{"base", vm.UEFI, onStick, true},
	{"jail-node_j", vm.UEFI, onStick, true},
	{"switch-vtbd2", vm.UEFI, onStick, true},
}

// cutDisks are the disks left at a step of an install, by [2]string{install, step}.
var cutDisks sync.Map

// keepCuts makes an install that is under way fill cutDisks.
func keepCuts(v *VM, d Disks, fw vm.Firmware, m medium) {
	for _, c := range cutSteps {
		if c.fw != fw || c.m != m || c.full && !full() {
			continue
		}
		v.FreezeAt(regexp.MustCompile(`rig: step \d+/\d+ `+regexp.QuoteMeta(c.step)+`:`), func() {
			var kept Disks
			dir, err := sharedDir()
			if err == nil {
				kept, err = d.cloneTo(dir)
			}
			if err != nil {
				v.t.Errorf("keep the disks at step %s: %v", c.step, err)
				return
			}
			cutDisks.Store([2]string{installName(fw, m), c.step}, kept)
		})
	}
}

// TestPowerCut is proof 4: wherever the power goes, the machine boots to the
// installer, which completes, or to the complete system.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for _, c := range cutSteps {
		t.Run(c.step, func(t *testing.T) {
			if c.full {
				fullOnly(t)
			}
			Need(t)
			note := Record(t, "power cut at "+c.step+", image "+where[c.m], c.fw.String())
			installedBy(t, c.fw, c.m)
			cut, ok := cutDisks.Load([2]string{installName(c.fw, c.m), c.step})
			if !ok {
				t.Fatalf("the install had no step %s", c.step)
			}
			d := cut.(Disks).Clone(t)
			img := ""
			if c.m == onStick {
				img = buildImage(t, &answers{})
			}
			v := Start(t, c.m.config(d, img, c.fw))
			got := v.Expect(InstallLimit, installed, loginPrompt, failedRE)
			switch got.Index {
			case 0:
				*note = "the installer completed"
				v.WaitExit(BootLimit, "guest-reset")
				v = boot(t, d, c.fw)
			case 1:
				*note = "the complete system came up"
				v.SendLine("") // for another prompt
				v.Login("root", rootPassword)
			default:
				t.Fatalf("after the cut: %s\n%s", got.Text, v.Console.Tail(30))
			}
			checkPool(t, v)
			v.Must("mount -p | grep -q '^zroot-.*/ROOT/webrig-.*[[:space:]]/[[:space:]]' && test -s /var/db/rig/result.json")
			if !c.full {
				waitJails(v)
				checkJails(t, v)
			}
		})
	}
}

// TestInstalledStick: the stick was left in a machine that is
// complete. It is refused and turned off, not installed again.
func TestInstalledStick(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	Record(t, "stick left in an installed server", "UEFI")
	img := buildImage(t, &answers{})
	v := Start(t, onStick.config(installedBy(t, vm.UEFI, onStick), img, vm.UEFI))
	v.Expect(BootLimit, regexp.MustCompile(`riginstall: error: this server is installed already: pool zroot-[0-9a-f]{8} is complete`))
	v.Expect(BootLimit, "rig.force=YES")
	v.WaitExit(BootLimit, "guest-shutdown")
}

// TestOldPool is proof 5: a server with an old pool is rebuilt from its saved
// answers when they say wipe, and left alone when they do not.
func TestOldPool(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	Record(t, "old pool: refused without wipe, rebuilt with it", "UEFI")
	d := anyInstalled(t) // its pool is the old one; the image is another
	other := otherImage(t, "")
	v := Start(t, onStick.config(d, other, vm.UEFI))
	v.Expect(InstallLimit, failedRE)
	v.Expect(CommandLimit, "Enter: install from this console")
	tail := v.Console.Tail(60)
	for _, serial := range []string{"RIG-D1", "RIG-D2", "RIG-D3", "RIG-D4"} {
		if !regexp.MustCompile(serial + `.*(pool zroot-|spare)`).MatchString(tail) {
			t.Errorf("the refusal does not list %s and what it holds:\n%s", serial, tail)
		}
	}
	v.PowerOff()
	v = boot(t, d, vm.UEFI) // nothing was touched
	v.PowerOff()

	wiping := otherImage(t, "wipe = true\n")
	waitInstalled(Start(t, onStick.config(d, wiping, vm.UEFI)))
	v = boot(t, d, vm.UEFI)
	waitJails(v)
	checkPool(t, v)
	checkJails(t, v)
}

// otherImage is an image of another id: the default profile with one more file.
func otherImage(t *testing.T, disks string) string {
	t.Helper()
	env := Need(t)
	dir := Dir(t)
	profile, img := filepath.Join(dir, "profile"), filepath.Join(dir, "rig.img")
	rigimage(t, "init", profile)
	if err := os.WriteFile(filepath.Join(profile, "host", "etc", "another"), []byte("image\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "answers.toml")
	if err := os.WriteFile(file, []byte(answers{disks: fourDisks + disks}.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	rigimage(t, "build", profile, "--sets", env.Sets, "--packages", "none", "--answers", file, "-o", img)
	return img
}

// TestBootsync is proof 6: the kernel of the boot environment changes as
// freebsd-update changes it, the server is shut down, the new kernel boots.
func TestBootsync(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	Record(t, "new kernel in the boot environment, shutdown, boot", "UEFI and BIOS")
	d := anyInstalled(t)
	v := boot(t, d, vm.BIOS)
	if out := v.Must("uname -r"); strings.TrimSpace(out) != "15.1-RELEASE-p1" {
		t.Fatalf("uname -r: %s", out)
	}
	v.Must("cp -Rp /boot/kernel /boot/kernel.old && LC_ALL=C sed -i '' 's/15\\.1-RELEASE-p1/15.1-RELEASE-p9/g' /boot/kernel/kernel")
	shutdown(v, "-p", "guest-shutdown")
	sameBootFiles(t, d)
	for _, c := range []struct {
		fw    vm.Firmware
		first int
	}{{vm.UEFI, 4}, {vm.BIOS, 2}} {
		v = boot(t, d, c.fw, c.first)
		if out := v.Must("uname -r; sysctl -n kern.bootfile"); strings.Join(strings.Fields(out), " ") != "15.1-RELEASE-p9 /boot/kernel/kernel" {
			t.Errorf("%s from disk %d: %s", c.fw, c.first, out)
		}
		v.Must("kldload -n nullfs && kldstat -n nullfs") // modules of the boot environment are found
		if out := v.Must("riginstall bootsync"); strings.Contains(out, "boots") {
			t.Errorf("bootsync changed something a second time: %s", out)
		}
		shutdown(v, "-p", "guest-shutdown")
	}
}

// TestNetFallback: new settings of the public network are kept when the gateway
// answers. When it does not, the last ones that worked are brought up, and without
// any, rescue networking.
func TestNetFallback(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	Record(t, "network settings on trial: kept, last working ones, rescue by DHCP", "BIOS")
	c := anyInstalled(t).Config(vm.BIOS)
	c.NICs[0].Net = strings.TrimSuffix(c.NICs[0].Net, ",restrict=on") // DHCP then names the router
	v := Start(t, c)
	v.Login("root", rootPassword)
	for deadline := time.Now().Add(Slow(CommandLimit)); ; time.Sleep(time.Second) {
		if out, _ := v.Run("cat /var/db/rig/net/gateway"); strings.TrimSpace(out) == "10.0.0.1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the settings that work were not kept: %s", v.Must("ls -l /var/db/rig/net; ps ax; tail /var/log/messages"))
		}
	}
	waitJails(v)

	v.Must("echo 10.0.0.77 >/etc/gateway; sysrc rig_netwatch_limit=20s")
	v.SendLine("shutdown -r now")
	v.Expect(2*BootLimit, "settings that worked last are in use: 10.0.0.110/24")
	v.SendLine("") // for another prompt
	v.Login("root", rootPassword)
	if out := v.Must("route -n get default"); !strings.Contains(out, "gateway: 10.0.0.1\n") {
		t.Errorf("the last working gateway is not in use:\n%s", out)
	}
	waitJails(v)

	v.Must("rm -r /var/db/rig/net")
	v.SendLine("shutdown -r now")
	addr := v.Expect(2*BootLimit, regexp.MustCompile(`rescue networking is in use: (10\.0\.0\.\d+)/24 by DHCP on xnic`)).Groups[1]
	v.SendLine("")
	v.Login("root", rootPassword)
	waitJails(v)
	if out := v.Must("ifconfig xnic; route -n get default; pfctl -sr"); !strings.Contains(out, "inet "+addr+" ") ||
		!strings.Contains(out, "gateway: 10.0.0.1\n") || !strings.Contains(out, "port = ssh") || strings.Contains(out, "xbridge") {
		t.Errorf("rescue networking:\n%s", out)
	}
	if out := v.Must("echo 10.0.0.1 >/etc/gateway; riginstall confirm"); !strings.Contains(out, "shutdown -r now") {
		t.Errorf("confirm: %s", out)
	}
	if out := v.Must("cat /var/db/rig/net/gateway"); strings.TrimSpace(out) != "10.0.0.1" {
		t.Errorf("gateway %s is kept", out)
	}
}

// TestStickAsks: an image without answers asks, whatever the stick is plugged into.
func TestStickAsks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fw vm.Firmware
		m  medium
	}{{vm.UEFI, onStick}, {vm.UEFI, onStick2}, {vm.BIOS, onStick2}} {
		t.Run(fmt.Sprintf("%s/%s", c.fw, c.m), func(t *testing.T) {
			fullOnly(t)
			Need(t)
			Record(t, "asks for answers, image without any "+where[c.m], c.fw.String())
			img := buildImage(t, nil)
			v := Start(t, c.m.config(machine(t, img, c.m), img, c.fw))
			v.Expect(BootLimit, "Enter: install from this console")
			time.Sleep(time.Second)
			v.Send("\r")
			v.Expect(CommandLimit, "Name of this server")
		})
	}
}

// TestPrompts is proof 3: the answers typed at the serial console, wrong ones
// included.
func TestPrompts(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	Record(t, "answers typed at the serial prompts, image on a USB 3 stick", "BIOS")
	img := buildImage(t, nil)
	d := machine(t, img, onStick)
	v := Start(t, onStick.config(d, img, vm.BIOS))
	v.Expect(BootLimit, "Enter: install from this console")
	time.Sleep(time.Second)
	v.Send("\r")
	type reply struct{ question, wrong, complaint, right string }
	for _, r := range []reply{
		{question: "Name of this server", wrong: "Not A Name", complaint: "expected", right: "rega"},
		{question: "Domain", right: "example.lan"},
		{question: "Role of this server", wrong: "master", complaint: "type a number", right: "primary"},
		{question: "Public address", wrong: "10.0.2.9/24", complaint: "10.0.2.0/24", right: "10.0.0.110/24"},
		{question: "Gateway", wrong: "10.0.0.110", complaint: "own address", right: "10.0.0.1"},
		{question: "Private network card", wrong: "em7", complaint: "vtnet1", right: "52:54:00:72:69:02"},
		{question: "Private address with prefix", right: "192.168.56.110/24"},
		{question: "Private address of node_j", wrong: "192.168.57.30", complaint: "192.168.56.0/24", right: "192.168.56.30"},
		{question: "Private address of pg_j", wrong: "192.168.56.30", complaint: "private.node", right: "192.168.56.40"},
		{question: "other server's node_j", right: "192.168.56.31"},
		{question: "other server's pg_j", right: "192.168.56.41"},
		{question: "administrators", right: "203.0.113.0/24"},
		{question: "keys of the administrator", wrong: "ssh-ed25519 nonsense", complaint: "key", right: testKey},
		{question: "keys for deployments", right: testKey},
		{question: "Disks:", wrong: "RIG-D1 RIG-D7", complaint: "RIG-D7", right: "vtbd0 vtbd1 spare vtbd2 vtbd3 swap=256m"},
	} {
		v.Expect(CommandLimit, r.question)
		if r.wrong != "" {
			time.Sleep(300 * time.Millisecond)
			v.Send(r.wrong + "\r")
			v.Expect(CommandLimit, r.complaint)
		}
		time.Sleep(300 * time.Millisecond)
		v.Send(r.right + "\r")
	}
	v.Expect(InstallLimit, regexp.MustCompile(`Install now`))
	time.Sleep(300 * time.Millisecond)
	v.Send("yes\r")
	pass := v.Expect(InstallLimit, regexp.MustCompile(`Generated password for secrets\.root_hash, shown only now: (\S+)\n`)).Groups[1]
	v.Expect(InstallLimit, installed)
	v.WaitExit(BootLimit, "guest-reset")
	sameBootFiles(t, d)
	v = Start(t, d.Config(vm.BIOS))
	v.Login("root", pass)
	if out, _ := v.Run("grep -rl '" + pass + "' /var/db/rig /var/log; true"); strings.Contains(out, "/") {
		t.Errorf("the generated password is in %s", out)
	}
	waitJails(v)
	checkPool(t, v)
	checkJails(t, v)
}
