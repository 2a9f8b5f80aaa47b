// Two servers from one image and one site file, on switches of our own: this
// process is everything outside of them. What RIG.md says of the network's
// behaviour, and where it is asserted:
//
//	§2    spiped carries what enters a tunnel to the other database, all four   tunnels
//	§5    packages in host and jails, their users, services and scripts     packages
//	§3.1  80 and 443 reach nginx_j from anywhere, nothing else answers      web
//	      100 connections in 10 s: <ratelimit>, connections end, let in     ratelimit
//	§3.2  SSH doors 22, 2220, 2230, 2240 from <xpeers> only                 ssh
//	§3.3  <blocklist>, <martians>, spoofed, urpf-failed are dropped         dropped
//	      <ratelimit>                                                       ratelimit
//	      no-route cannot happen: there is a default route                  (rule: checkFirewall)
//	§3.4  between the servers 5433 and 5434 of four addresses, no more      between
//	§3.5  node_j out: 53/udp, payments 443, e-mail 465; others nothing      out
//	      the host: NTP outside when there are no private servers           out
//	      patching is closed, opens, and closes by itself                   patching
//	§3.6  the jails' addresses become xnic's                                out
//	§3.7  loopback is not filtered; no IPv6; <bypass> is not limited        local, ratelimit
//	§3.8  doors for deploys: §3.2; nothing calls out: §3.5                  ssh, out
//	§6    inic has no address, ibridge has                                  local
//	      bridges filter                                                    between (and checkFirewall)
//	      MACs and hostids differ between the servers                       identity
//	      serial console login                                              every test logs in there
//	      jails stop in reverse order                                       stop
//	      the rest of §6 is looked at by checkServer
//	      a cut and a bad private line heal by themselves                   line
package vmtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
	"github.com/rig-freebsd/rig/internal/vm/lan"
	"golang.org/x/crypto/ssh"
)

var (
	xnicA, xnicB   = netip.MustParseAddr("10.0.0.110"), netip.MustParseAddr("10.0.0.111")
	gatewayAddr    = netip.MustParseAddr("10.0.0.1")
	anyone         = netip.MustParseAddr("93.184.216.7")
	administrator  = netip.MustParseAddr("203.0.113.5")
	payments       = netip.MustParseAddr("198.51.100.20")
	mailServer     = netip.MustParseAddr("66.111.4.50")
	resolver       = netip.MustParseAddr("1.1.1.1")
	ntpServer      = netip.MustParseAddr("162.159.200.1")
	privateInodeIP = map[string]string{"rega": "192.168.56.30", "regb": "192.168.56.31"}
	privateIpgIP   = map[string]string{"rega": "192.168.56.40", "regb": "192.168.56.41"}
)

// pair is both servers, running, and what surrounds them.
type pair struct {
	a, b            *VM
	public, private *lan.Switch
	world           *lan.Host // the gateway and everybody behind it
	stranger        *lan.Host // on the private line, where nobody else should be
	key             ssh.Signer
	packages        bool // the servers have packages
}

// answerLimit is how long a packet's answer is waited for.
func answerLimit() time.Duration { return Slow(5 * time.Second) }

func TestPair(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	note := Record(t, "two servers from one site file: install", "UEFI and BIOS")
	start := time.Now()
	p := startPair(t)
	*note = fmt.Sprintf("both installed and up after %d s", int(time.Since(start).Seconds()))
	t.Run("packages", func(t *testing.T) {
		if !p.packages {
			NeedTools(t)
		}
		Record(t, "pair: packages", "")
		checkPackages(t, p.a.For(t))
		checkPackages(t, p.b.For(t))
	})
	t.Run("tunnels", func(t *testing.T) {
		if !p.packages {
			NeedTools(t)
		}
		Record(t, "pair: spiped through the four tunnels", "")
		p.tunnels(t)
	})
	for _, v := range []*VM{p.a, p.b} {
		if p.packages { // spiped has ports that are wanted
			v.Must("service -j node_j spiped onestop; service -j pg_j spiped onestop")
		}
		listeners(v)
	}
	for _, c := range []struct {
		name string
		run  func(*pair, *testing.T)
	}{
		{"identity", (*pair).identity}, {"local", (*pair).local}, {"web", (*pair).web}, {"ssh", (*pair).ssh}, {"dropped", (*pair).dropped},
		{"between", (*pair).between}, {"out", (*pair).out}, {"patching", (*pair).patching}, {"line", (*pair).line}, {"ratelimit", (*pair).ratelimit},
		{"stop", (*pair).stop},
	} {
		t.Run(c.name, func(t *testing.T) {
			Record(t, "pair: "+c.name, "")
			q := *p
			q.a, q.b = p.a.For(t), p.b.For(t)
			c.run(&q, t)
		})
	}
}

// startPair installs both servers at the same time, and boots them on two switches.
func startPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{public: lan.New(1), private: lan.New(2)}
	var err error
	if p.world, err = lan.NewHost(p.public, "world", net.HardwareAddr{2, 0, 0, 0, 1, 1}, gatewayAddr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.world.Close)
	if p.stranger, err = lan.NewHost(p.private, "stranger", net.HardwareAddr{2, 0, 0, 0, 1, 2}, netip.MustParseAddr("192.168.56.99")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stranger.Close)

	made := installedPair(t, p)
	up := func(i int, name string) *VM {
		c := made.disks[i].Config([]vm.Firmware{vm.UEFI, vm.BIOS}[i])
		c.Name, c.NICs, c.CPUs = name, p.cards(t, i), 1 // there are two of them
		return Start(t, c)
	}
	p.packages = made.packages
	p.key, p.a, p.b = made.key, up(0, "rega"), up(1, "regb")
	for _, v := range []*VM{p.a, p.b} {
		v.Login("root", made.passwords[v.Config.Name])
		waitJails(v)
	}
	return p
}

// madePair is what an installation of both servers leaves.
type madePair struct {
	disks     [2]Disks
	passwords map[string]string // of root
	key       ssh.Signer        // of all other accounts
	packages  bool              // they have those of packagesProfile
}

// installedPair installs both servers at the same time. With RIG_VM_PAIR, a
// directory, they are kept there and taken from there again.
func installedPair(t *testing.T, p *pair) madePair {
	t.Helper()
	dir, keep := Dir(t), os.Getenv("RIG_VM_PAIR")
	names := [2]string{"rega", "regb"}
	if keep != "" {
		dir = keep
	}
	made := madePair{}
	for i, name := range names {
		made.disks[i] = namedDisks(filepath.Join(dir, name), 4)
	}
	done := filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err != nil {
		siteAnswers(t, dir)
		profile := []string{"build", "--packages", "none"}
		if _, err := findTools(); err == nil {
			profile = []string{"build", packagesProfile(t, dir, testRepository(t))}
		}
		var installs []*VM
		for i, name := range names {
			img := filepath.Join(dir, name+".img")
			rigimage(t, append(profile, "--sets", Need(t).Sets, "--answers", filepath.Join(dir, name+".toml"), "-o", img)...)
			d := made.disks[i]
			if err := os.Mkdir(d.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, disk := range d.List {
				if err := vm.CreateDisk(disk.Path, diskSize); err != nil {
					t.Fatal(err)
				}
			}
			c := onStick.config(d, img, []vm.Firmware{vm.UEFI, vm.BIOS}[i])
			c.Name, c.NICs, c.CPUs = name, p.cards(t, i), 1 // there are two of them
			installs = append(installs, Start(t, c))
		}
		for _, v := range installs {
			waitInstalled(v)
		}
		if err := os.WriteFile(done, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	made.passwords, made.key = siteSecrets(t, dir)
	_, err := os.Stat(filepath.Join(dir, "profile"))
	made.packages = err == nil
	if keep != "" {
		for i := range made.disks {
			made.disks[i] = made.disks[i].Clone(t)
		}
	}
	return made
}

// siteAnswers makes the answers of the profile's example site in dir, with a key of
// its own, and leaves the key and what rigimage said beside them.
func siteAnswers(t *testing.T, dir string) {
	t.Helper()
	site := filepath.Join(dir, "site.toml")
	text, err := os.ReadFile("../../overlay/webrig/site.toml")
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("[common.disks]\n"), []byte("[common.disks]\nswap = \"256m\"\n"), 1)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`"ssh-ed25519 [^"]*"`).ReplaceAll(text, fmt.Appendf(nil, "%q", bytes.TrimSpace(ssh.MarshalAuthorizedKey(pub))))
	if err := errors.Join(os.WriteFile(site, text, 0o600), os.WriteFile(filepath.Join(dir, "key"), private.Seed(), 0o600)); err != nil {
		t.Fatal(err)
	}
	out := rigimage(t, "answers", site, "-o", dir)
	if err := os.WriteFile(filepath.Join(dir, "said"), []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
}

// siteSecrets reads what siteAnswers left.
func siteSecrets(t *testing.T, dir string) (passwords map[string]string, key ssh.Signer) {
	t.Helper()
	out, err := os.ReadFile(filepath.Join(dir, "said"))
	if err != nil {
		t.Fatal(err)
	}
	passwords = map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(reg[ab]): .*: (\S+)$`).FindAllStringSubmatch(string(out), -1) {
		passwords[m[1]] = m[2]
	}
	if len(passwords) != 2 {
		t.Fatalf("no passwords in what rigimage answers said:\n%s", out)
	}
	seed, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	if key, err = ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed)); err != nil {
		t.Fatal(err)
	}
	return passwords, key
}

// cards are the network cards of server i (from 0), plugged.
func (p *pair) cards(t *testing.T, i int) []vm.NIC {
	t.Helper()
	var nics []vm.NIC
	for j, sw := range []*lan.Switch{p.public, p.private} {
		port, cable, err := sw.Plug(fmt.Sprintf("reg%c", 'a'+i))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { port.Close(); cable.Close() })
		nics = append(nics, vm.NIC{MAC: fmt.Sprintf("52:54:00:72:69:%c%d", 'a'+i, j+1), Cable: cable})
	}
	return nics
}

// listeners makes the jails say who they are on the ports of their services: a
// line with their name, then an echo.
func listeners(v *VM) {
	v.t.Helper()
	for jail, ports := range map[string]string{"nginx_j": "80 443 3000", "node_j": "3000 5432 5433 5434", "pg_j": "3000 5432 5433 5434 5435"} {
		v.Must("for p in " + ports + "; do echo rig$p $p/tcp; done >>/jails/" + jail + "/etc/services; printf '#!/bin/sh\\necho " + jail + "\\nexec cat\\n' >/jails/" + jail + "/root/say; chmod 755 /jails/" + jail + "/root/say; " +
			"for p in " + ports + "; do echo rig$p stream tcp nowait root /root/say say; done >/jails/" + jail + "/root/inetd.conf; " +
			"jexec " + jail + " inetd -R 0 /root/inetd.conf")
	}
}

// probe asks for a port of a server from some address of the world.
func (p *pair) probe(t *testing.T, src, dst netip.Addr, port uint16) lan.Answer {
	t.Helper()
	a, err := p.world.Probe(t.Context(), src, netip.AddrPortFrom(dst, port), answerLimit())
	if err != nil {
		t.Errorf("probe %v:%d from %v: %v", dst, port, src, err)
	}
	return a
}

// greeting is the first line a port says.
func (p *pair) greeting(t *testing.T, src, dst netip.Addr, port uint16) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerLimit())
	defer cancel()
	c, err := p.world.Dial(ctx, src, netip.AddrPortFrom(dst, port))
	if err != nil {
		t.Errorf("%v", err)
		return ""
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(Slow(30 * time.Second)))
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		t.Errorf("%v:%d from %v: %v", dst, port, src, err)
	}
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	return line
}

// silent checks that none of the ports answers.
func (p *pair) silent(t *testing.T, src, dst netip.Addr, ports ...uint16) {
	t.Helper()
	var wg sync.WaitGroup
	for _, port := range ports {
		wg.Go(func() {
			if got := p.probe(t, src, dst, port); got != lan.Silent {
				t.Errorf("%v answers %v on port %d: %v", dst, src, port, got)
			}
		})
	}
	wg.Wait()
}

func (p *pair) identity(t *testing.T) {
	all := map[string]identity{"rega": serverIdentity(p.a), "regb": serverIdentity(p.b)}
	checkDistinct(t, all)
	for _, v := range []*VM{p.a, p.b} {
		if len(v.Must("sysctl -n kern.hostuuid")) < 36 {
			t.Errorf("%s has no hostid", v.Config.Name)
		}
	}
}

func (p *pair) local(t *testing.T) {
	for _, v := range []*VM{p.a, p.b} {
		if out := v.Must("ifconfig inic; true"); strings.Contains(out, "inet ") {
			t.Errorf("%s: inic has an address:\n%s", v.Config.Name, out)
		}
		if out := v.Must("ifconfig -a | grep inet6 | grep -v ' ::1 ' | grep -v fe80::1%lo0; true"); strings.TrimSpace(out) != "" {
			t.Errorf("%s has IPv6 addresses:\n%s", v.Config.Name, out)
		}
		v.Must("nc -z -w 10 127.0.0.1 22")
	}
}

func (p *pair) web(t *testing.T) {
	for _, dst := range []netip.Addr{xnicA, xnicB} {
		for _, port := range []uint16{80, 443} {
			if got := p.greeting(t, anyone, dst, port); got != "nginx_j" {
				t.Errorf("%v:%d is %q, want nginx_j", dst, port, got)
			}
		}
		p.silent(t, anyone, dst, 21, 22, 23, 25, 53, 111, 2220, 2230, 2240, 3000, 5432, 5433, 5434, 5435, 8080)
		if got, err := p.world.Ping(t.Context(), anyone, dst, answerLimit()); got != lan.Silent || err != nil {
			t.Errorf("ping %v: %v %v", dst, got, err)
		}
	}
}

// ssh: behind each door is the right machine, and only <xpeers> find it.
func (p *pair) ssh(t *testing.T) {
	doors := map[uint16]struct{ user, suffix string }{22: {"admin", ""}, 2220: {"deployer", "-rp"}, 2230: {"deployer", "-app"}, 2240: {"deployer", "-db"}}
	for dst, server := range map[netip.Addr]string{xnicA: "rega", xnicB: "regb"} {
		for port, door := range doors {
			if got, want := p.sshHostname(t, administrator, dst, port, door.user), server+door.suffix+".example.lan"; got != want {
				t.Errorf("%s@%v:%d is %q, want %s", door.user, dst, port, got, want)
			}
			if got := p.greeting(t, netip.MustParseAddr("10.0.0.220"), dst, port); !strings.HasPrefix(got, "SSH-2.0-") {
				t.Errorf("%v:%d from the orchestration host is %q", dst, port, got)
			}
		}
		p.silent(t, anyone, dst, 22, 2220, 2230, 2240)
		p.silent(t, netip.MustParseAddr("203.0.112.255"), dst, 22, 2220, 2230, 2240) // beside the administrators' net
	}
}

// sshHostname logs in with the key of the site file and asks the machine's name.
func (p *pair) sshHostname(t *testing.T, src, dst netip.Addr, port uint16, user string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Slow(time.Minute))
	defer cancel()
	at := netip.AddrPortFrom(dst, port)
	conn, err := p.world.Dial(ctx, src, at)
	if err != nil {
		t.Errorf("%v", err)
		return ""
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c, chans, reqs, err := ssh.NewClientConn(conn, at.String(), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(p.key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		conn.Close()
		t.Errorf("ssh %s@%v: %v", user, at, err)
		return ""
	}
	client := ssh.NewClient(c, chans, reqs)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Errorf("ssh %s@%v: %v", user, at, err)
		return ""
	}
	out, err := session.Output("hostname")
	if err != nil {
		t.Errorf("ssh %s@%v hostname: %v", user, at, err)
	}
	return strings.TrimSpace(string(out))
}

// dropped injects the first packets of connections that must not get an answer.
func (p *pair) dropped(t *testing.T) {
	p.a.Must("pfctl -t blocklist -T add 93.184.216.66")
	type packet struct {
		src  string
		port uint16
		what string
	}
	packets := []packet{
		{"93.184.216.66", 443, "in <blocklist>"},
		{"127.0.0.5", 443, "martian"}, {"10.9.9.9", 443, "martian"}, {"172.16.5.5", 443, "martian"}, {"192.168.99.1", 443, "martian"},
		{"169.254.3.3", 443, "martian"}, {"198.18.7.7", 443, "martian"}, {"224.0.0.9", 443, "martian"}, {"240.1.1.1", 443, "martian"},
		{"10.0.0.110", 443, "our own address"},
		{"10.0.2.20", 22, "a jail's address"}, {"10.0.2.30", 443, "a jail's address"},
		{"192.168.56.30", 443, "an address of the private network"}, {"192.168.56.111", 22, "the other server's private address"},
	}
	const control = "93.184.216.8"
	got := map[netip.Addr]int{}
	var mu sync.Mutex
	stop := p.public.Tap(func(s lan.Seen) {
		q, err := lan.ParsePacket(s.Frame)
		if err == nil && s.Port == "rega" && q.Proto == lan.TCP {
			mu.Lock()
			got[q.Dst]++
			mu.Unlock()
		}
	})
	defer stop()
	for i, q := range append(packets, packet{control, 443, "control"}) {
		if err := p.world.Inject(t.Context(), lan.Packet{Src: netip.MustParseAddr(q.src), Dst: xnicA, Proto: lan.TCP, Flags: lan.SYN,
			SrcPort: uint16(20000 + i), DstPort: q.port, Seq: 1}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(answerLimit())
	mu.Lock()
	defer mu.Unlock()
	if got[netip.MustParseAddr(control)] == 0 {
		t.Error("the control packet was not answered either: the test shows nothing")
	}
	for _, q := range packets {
		if n := got[netip.MustParseAddr(q.src)]; n != 0 {
			t.Errorf("%d answers to %s, %s", n, q.src, q.what)
		}
	}
}

// between tries every pair of addresses on the private network.
func (p *pair) between(t *testing.T) {
	for _, way := range []struct {
		from *VM
		to   string
	}{{p.a, "regb"}, {p.b, "rega"}} {
		cases := []struct {
			target
			open string // the port
		}{
			{target{"node_j", privateIpgIP[way.to]}, "5433"},
			{target{"pg_j", privateIpgIP[way.to]}, "5434"},
			{target{"node_j", privateInodeIP[way.to]}, ""},
			{target{"pg_j", privateInodeIP[way.to]}, ""},
			{target{"", privateInodeIP[way.to]}, ""},
			{target{"", privateIpgIP[way.to]}, ""},
			{target{"nginx_j", privateIpgIP[way.to]}, ""},
		}
		var targets []target
		for _, c := range cases {
			targets = append(targets, c.target)
		}
		for i, got := range reachAll(way.from, targets, "22 3000 5432 5433 5434 5435") {
			if want := strings.Fields(cases[i].open); !slices.Equal(got, want) {
				t.Errorf("%s %q reaches %s on %v, want %v", way.from.Config.Name, cases[i].jail, cases[i].to, got, want)
			}
		}
	}
	// The tunnels' own ends, inside a jail.
	for _, v := range []*VM{p.a, p.b} {
		name := v.Config.Name
		if got := reach(v, "node_j", privateInodeIP[name], "5432"); !slices.Contains(got, "5432") {
			t.Errorf("%s: node_j does not reach its own end of N2P", name)
		}
		if got := reach(v, "pg_j", privateIpgIP[name], "5432 5435"); !slices.Contains(got, "5432") || !slices.Contains(got, "5435") {
			t.Errorf("%s: pg_j reaches of its own ends only %v", name, got)
		}
	}
	// Somebody else on the line reaches nothing.
	var wg sync.WaitGroup
	for _, dst := range []string{privateIpgIP["rega"], privateInodeIP["rega"], "192.168.56.110"} {
		for _, port := range []uint16{22, 5432, 5433, 5434} {
			wg.Go(func() {
				got, err := p.stranger.Probe(t.Context(), netip.MustParseAddr("192.168.56.99"), netip.AddrPortFrom(netip.MustParseAddr(dst), port), answerLimit())
				if err != nil || got != lan.Silent {
					t.Errorf("a stranger on the private line asks %s:%d: %v %v", dst, port, got, err)
				}
			})
		}
	}
	wg.Wait()
}

// tunnels: what enters a tunnel on one server comes out at the other's database,
// through the real spiped, both ways.
func (p *pair) tunnels(t *testing.T) {
	for _, v := range []*VM{p.a, p.b} {
		v.Must("printf '#!/bin/sh\\nread x; echo database of " + v.Config.Name + " got $x\\n' >/jails/pg_j/root/db; chmod 755 /jails/pg_j/root/db; " +
			"echo rigdb 5432/tcp >>/jails/pg_j/etc/services; echo rigdb stream tcp nowait root /root/db db >/jails/pg_j/root/db.conf; " +
			"jexec pg_j inetd -p /var/run/db.pid -R 0 /root/db.conf")
		defer v.Must("pkill -F /jails/pg_j/var/run/db.pid")
	}
	for _, way := range []struct {
		from *VM
		to   string
	}{{p.a, "regb"}, {p.b, "rega"}} {
		name := way.from.Config.Name
		for _, tunnel := range []struct{ what, jail, addr, port string }{
			{"N2P", "node_j", privateInodeIP[name], "5432"},
			{"PGC to PGS", "pg_j", privateIpgIP[name], "5435"},
		} {
			out := way.from.Must("echo hello | jexec " + tunnel.jail + " nc -w 20 " + tunnel.addr + " " + tunnel.port + "; true")
			if want := "database of " + way.to + " got hello"; strings.TrimSpace(out) != want {
				t.Errorf("%s: %s from %s: %q, want %q", name, tunnel.what, tunnel.jail, out, want)
			}
		}
	}
}

func in(jail string) string {
	if jail == "" {
		return ""
	}
	return "jexec " + jail + " "
}

// target is an address as seen from a jail, or from the host ("").
type target struct{ jail, to string }

// reachAll lists, for each target, those of the ports that can be connected to, and
// "ping" if it answers that.
func reachAll(v *VM, targets []target, ports string) [][]string {
	v.t.Helper()
	limit := int(answerLimit().Seconds())
	cmd := fmt.Sprintf("r() { i=$1; to=$2; shift 2; for p in %s; do (\"$@\" nc -z -w %d $to $p >/dev/null 2>&1 && echo open:$i:$p) & done; "+
		"(\"$@\" ping -n -c 1 -t %d $to >/dev/null 2>&1 && echo open:$i:ping) & }; ", ports, limit, limit)
	for i, c := range targets {
		cmd += fmt.Sprintf("r %d %s %s; ", i, c.to, strings.TrimSpace(cmp.Or(in(c.jail), "env")))
	}
	out := v.Must(cmd + "wait")
	open := make([][]string, len(targets))
	for _, m := range regexp.MustCompile(`open:(\d+):(\w+)`).FindAllStringSubmatch(out, -1) {
		i, err := strconv.Atoi(m[1])
		if err != nil || i >= len(open) {
			v.t.Fatalf("%q in\n%s", m[0], out)
		}
		open[i] = append(open[i], m[2])
	}
	for _, o := range open {
		slices.Sort(o)
	}
	return open
}

// reach is reachAll for one target.
func reach(v *VM, jail, to, ports string) []string {
	v.t.Helper()
	return reachAll(v, []target{{jail, to}}, ports)[0]
}

// out: what leaves by xnic, and in whose name.
func (p *pair) out(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]bool{} // "port sources" of UDP
	for at, answer := range map[netip.AddrPort]bool{netip.AddrPortFrom(resolver, 53): true, netip.AddrPortFrom(ntpServer, 123): false, netip.AddrPortFrom(anyone, 53): true} {
		c, err := p.world.ListenUDP(at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				mu.Lock()
				asked[fmt.Sprintf("%v from %v", at, netip.MustParseAddrPort(from.String()).Addr())] = true
				mu.Unlock()
				if answer {
					c.WriteTo(b[:n], from)
				}
			}
		}()
	}
	sources := map[string]string{}
	for _, at := range []string{payments.String() + ":443", payments.String() + ":80", mailServer.String() + ":465", mailServer.String() + ":25",
		anyone.String() + ":443", anyone.String() + ":80", anyone.String() + ":465", resolver.String() + ":53"} {
		l, err := p.world.Listen(netip.MustParseAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				mu.Lock()
				sources[at] = netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().String()
				mu.Unlock()
				c.Close()
			}
		}()
	}
	cases := []struct{ jail, to, open string }{
		{"node_j", payments.String(), "443"}, {"node_j", mailServer.String(), "465"}, {"node_j", anyone.String(), ""}, {"node_j", resolver.String(), ""},
		{"nginx_j", payments.String(), ""}, {"nginx_j", anyone.String(), ""}, {"pg_j", payments.String(), ""}, {"pg_j", anyone.String(), ""},
		{"", payments.String(), ""}, {"", anyone.String(), ""},
	}
	var targets []target
	for _, c := range cases {
		targets = append(targets, target{c.jail, c.to})
	}
	for i, got := range reachAll(p.a, targets, "25 53 80 443 465") {
		if want := strings.Fields(cases[i].open); !slices.Equal(got, want) {
			t.Errorf("%q reaches %s on %v, want %v", cases[i].jail, cases[i].to, got, want)
		}
	}
	udp := func(jail string, to netip.Addr) string {
		return strings.TrimSpace(p.a.Must("echo question | " + in(jail) + "nc -u -w " + fmt.Sprint(int(answerLimit().Seconds())) + " " + to.String() + " 53; true"))
	}
	if got := udp("node_j", resolver); got != "question" {
		t.Errorf("node_j's question to a resolver: %q", got)
	}
	if got := udp("node_j", anyone) + udp("pg_j", resolver) + udp("", resolver); got != "" {
		t.Errorf("others were answered, or by others: %q", got)
	}
	for deadline := time.Now().Add(Slow(4 * time.Minute)); ; time.Sleep(time.Second) {
		mu.Lock()
		done := asked[fmt.Sprintf("%v:123 from %v", ntpServer, xnicA)]
		mu.Unlock()
		if done {
			break
		}
		if time.Now().After(deadline) {
			t.Error("the host did not ask a time server")
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for at, src := range sources {
		if src != xnicA.String() {
			t.Errorf("%s was connected to from %s: not translated", at, src)
		}
	}
	if len(sources) != 2 {
		t.Errorf("connections came to %v", sources)
	}
	for what := range asked {
		if !strings.HasSuffix(what, " from "+xnicA.String()) && !strings.HasSuffix(what, " from "+xnicB.String()) {
			t.Errorf("asked was %s", what)
		}
	}
}

func (p *pair) patching(t *testing.T) {
	l, err := p.world.Listen(netip.AddrPortFrom(netip.MustParseAddr("93.184.216.5"), 443))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	open := func() bool { return slices.Contains(reach(p.a, "", "93.184.216.5", "443"), "443") }
	if open() {
		t.Error("the host gets out before patching is opened")
	}
	p.a.Must("rig-patching open 1")
	if !open() {
		t.Error("the host does not get out while patching is open")
	}
	for deadline := time.Now().Add(Slow(4 * time.Minute)); open(); time.Sleep(5 * time.Second) {
		if time.Now().After(deadline) {
			t.Fatal("patching does not close by itself")
		}
	}
}

// line: a bad private line is survived, and a cut one heals.
func (p *pair) line(t *testing.T) {
	set := func(l lan.Line) {
		if err := p.private.SetLine(l); err != nil {
			t.Fatal(err)
		}
	}
	defer set(lan.Line{})
	tunnel := func() bool { return slices.Contains(reach(p.b, "node_j", privateIpgIP["rega"], "5433"), "5433") }
	set(lan.Line{Loss: 0.05, Delay: 20 * time.Millisecond})
	if got := strings.TrimSpace(p.b.Must("head -c 200000 /dev/zero | jexec node_j nc -N -w 60 " + privateIpgIP["rega"] + " 5433 | wc -c")); got != "200005" {
		t.Errorf("%s bytes came back over a bad line, want 200005", got) // "pg_j\n" and the echo
	}
	set(lan.Line{Cut: true})
	if tunnel() {
		t.Error("the line is cut and the tunnel's port answers")
	}
	set(lan.Line{})
	for deadline := time.Now().Add(Slow(time.Minute)); !tunnel(); time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatal("the private line is back, and the tunnel's port does not answer")
		}
	}
}

func (p *pair) ratelimit(t *testing.T) {
	flood, bypass := netip.MustParseAddr("93.184.216.9"), netip.MustParseAddr("93.184.216.10")
	dst := netip.AddrPortFrom(xnicA, 443)
	held, err := p.world.Dial(t.Context(), flood, dst)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := echo(held, "nginx_j\n"); err != nil {
		t.Fatalf("the connection that is to be ended: %v", err)
	}
	p.a.Must("pfctl -t bypass -T add " + bypass.String())
	for _, src := range []netip.Addr{flood, bypass} {
		var wg sync.WaitGroup
		for range 130 {
			wg.Go(func() {
				if c, err := p.world.Dial(t.Context(), src, dst); err == nil {
					c.Close()
				}
			})
			time.Sleep(20 * time.Millisecond)
		}
		go wg.Wait()
	}
	var listed []string
	for deadline := time.Now().Add(Slow(15 * time.Second)); len(listed) == 0 && time.Now().Before(deadline); {
		listed = strings.Fields(p.a.Must("pfctl -t ratelimit -T show"))
	}
	if !slices.Equal(listed, []string{flood.String()}) {
		t.Fatalf("<ratelimit> holds %v", listed)
	}
	// Both wait for what does not come, and together end before cron lets the address in.
	goesOn := make(chan bool)
	go func() { goesOn <- echo(held, "") == nil }()
	if got := p.probe(t, flood, xnicA, 443); got != lan.Silent {
		t.Errorf("an address in <ratelimit>: %v", got)
	}
	if <-goesOn {
		t.Error("the open connection of an address in <ratelimit> goes on")
	}
	for _, src := range []netip.Addr{anyone, bypass} {
		if got := p.probe(t, src, xnicA, 443); got != lan.Open {
			t.Errorf("%v, which is not in <ratelimit>: %v", src, got)
		}
	}
	for deadline := time.Now().Add(Slow(5 * time.Minute)); p.probe(t, flood, xnicA, 443) != lan.Open; time.Sleep(5 * time.Second) {
		if time.Now().After(deadline) {
			t.Fatalf("the address is not let in again: %s", p.a.Must("pfctl -t ratelimit -vT show"))
		}
	}
}

// echo reads the greeting and has a line sent back.
func echo(c net.Conn, greeting string) error {
	if err := c.SetDeadline(time.Now().Add(Slow(15 * time.Second))); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return err
	}
	b := make([]byte, len(greeting)+6)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != greeting+"hello\n" {
		return fmt.Errorf("it says %q", b)
	}
	return nil
}

// stop stops the jails as rc.shutdown does, whose own words go to the first console.
func (p *pair) stop(t *testing.T) {
	for _, v := range []*VM{p.a, p.b} {
		if out := v.Must("service jail stop"); !strings.Contains(out, "Stopping jails: nginx_j node_j pg_j.") {
			t.Errorf("%s: %s", v.Config.Name, out)
		}
		if out := v.Must("jls name"); strings.Contains(out, "_j") {
			t.Errorf("%s: jails left: %s", v.Config.Name, out)
		}
		shutdown(v, "-p", "guest-shutdown")
	}
}
