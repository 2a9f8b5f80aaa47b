package pxe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rig-freebsd/rig/internal/vm/lan"
	"golang.org/x/sys/unix"
)

// inNamespace runs the calling test once more, in a network namespace made for it;
// it is true there. In it rig0 has 10.9.0.1/24, and rig1 is at the other end of
// the wire.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "RIG_PXE_NAMESPACE"
	if os.Getenv(mark) == t.Name() {
		ip(t, "link", "set", "lo", "up")
		ip(t, "link", "add", "rig0", "type", "veth", "peer", "name", "rig1")
		ip(t, "addr", "add", "10.9.0.1/24", "broadcast", "+", "dev", "rig0")
		ip(t, "link", "set", "rig0", "up")
		ip(t, "link", "set", "rig1", "up")
		return true
	}
	unshare, ipPath := referee.Need(t, "unshare"), referee.Need(t, "ip")
	flags := "-rn"
	if os.Getuid() == 0 {
		flags = "-n"
	}
	if out, err := exec.Command(unshare, flags, ipPath, "link", "add", "rig0", "type", "veth", "peer", "name", "rig1").CombinedOutput(); err != nil {
		t.Skipf("NO NETWORK NAMESPACE: unshare %s: %v: %s; nothing was tried on a wire", flags, err, out)
	}
	cmd := exec.Command(unshare, flags, os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "2m")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("in a namespace: %v\n%s", err, out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name())):
		t.Skipf("%s", out)
	default:
		t.Logf("%s", out)
	}
	return false
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(referee.Need(t, "ip"), args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// wire is what firmware has: frames.
type wire struct {
	t  *testing.T
	fd int
	hw net.HardwareAddr
}

func newWire(t *testing.T, name string) *wire {
	t.Helper()
	iface, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	proto := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: iface.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	return &wire{t, fd, iface.HardwareAddr}
}

func (w *wire) send(from, to netip.AddrPort, dst net.HardwareAddr, b []byte) {
	w.t.Helper()
	f := lan.Packet{SrcMAC: w.hw, DstMAC: dst, Src: from.Addr(), Dst: to.Addr(), SrcPort: from.Port(), DstPort: to.Port(), Proto: lan.UDP, Payload: b}.Frame()
	if _, err := unix.Write(w.fd, f); err != nil {
		w.t.Fatal(err)
	}
}

// hear waits for a packet to a port that is not this wire's own.
func (w *wire) hear(port uint16) lan.Packet {
	w.t.Helper()
	b := make([]byte, 2000)
	for {
		n, err := unix.Read(w.fd, b)
		if err != nil {
			w.t.Fatalf("nothing for port %d: %v", port, err)
		}
		p, err := lan.ParsePacket(b[:n])
		if err == nil && p.Proto == lan.UDP && p.DstPort == port && !bytes.Equal(p.SrcMAC, w.hw) {
			p.Payload = bytes.Clone(p.Payload)
			return p
		}
	}
}

var (
	nobody    = netip.MustParseAddrPort("0.0.0.0:68")
	toServers = netip.MustParseAddrPort("255.255.255.255:67")
)

func TestWireFull(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s, rec := run(t, Options{Dir: tree(t), Interface: "rig0", Force: true})
	if s.Addr().String() != "10.9.0.1" || s.URL() != "http://10.9.0.1" {
		t.Errorf("%v %s", s.Addr(), s.URL())
	}
	w := newWire(t, "rig1")
	for i, k := range clientKinds {
		exchange := func(kind dhcpv4.MessageType, o ...dhcpv4.Option) *dhcpv4.DHCPv4 {
			t.Helper()
			w.send(nobody, toServers, lan.Broadcast, packet(kind, hw(byte(i)), k.class, k.user, k.arch, o...))
			f := w.hear(68)
			if f.Src != s.Addr() || f.SrcPort != 67 || f.Dst.String() != "255.255.255.255" || !bytes.Equal(f.DstMAC, lan.Broadcast) {
				t.Errorf("%v", f)
			}
			p, err := dhcpv4.FromBytes(f.Payload)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		offer := exchange(dhcpv4.MessageTypeDiscover)
		ack := exchange(dhcpv4.MessageTypeRequest, dhcpv4.OptRequestedIPAddress(offer.YourIPAddr), dhcpv4.OptServerIdentifier(offer.ServerIdentifier()))
		if ack.MessageType() != dhcpv4.MessageTypeAck || ack.BootFileName != k.file || ack.RootPath() != k.root {
			t.Errorf("%s: %s", k.name, ack.Summary())
		}
		rec.wait(t, k.name, func(e Event) bool {
			return e.Phase == Address && e.MAC == hw(byte(i)).String() && e.IP == toAddr(ack.YourIPAddr)
		})
	}
	var b bootp
	b.run(t, w.hw, func(q []byte) []byte {
		w.send(nobody, toServers, lan.Broadcast, q)
		return w.hear(68).Payload
	})
	if b.rootPath != "tftp://10.9.0.1/" {
		t.Errorf("%+v", b)
	}
}

func TestWireProxy(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	run(t, Options{Dir: tree(t), Interface: "rig0", DHCP: Proxy})
	w := newWire(t, "rig1")
	ip(t, "neigh", "add", "10.9.0.50", "lladdr", w.hw.String(), "dev", "rig0")
	k := clientKinds[2]
	w.send(nobody, toServers, lan.Broadcast, packet(dhcpv4.MessageTypeDiscover, hw(1), k.class, k.user, k.arch))
	p, err := dhcpv4.FromBytes(w.hear(68).Payload)
	if err != nil || !p.YourIPAddr.IsUnspecified() || p.BootFileName != k.file {
		t.Errorf("%v %v", p, err)
	}
	rig0, err := net.InterfaceByName("rig0")
	if err != nil {
		t.Fatal(err)
	}
	w.send(netip.MustParseAddrPort("10.9.0.50:4011"), netip.MustParseAddrPort("10.9.0.1:4011"), rig0.HardwareAddr,
		packet(dhcpv4.MessageTypeRequest, hw(1), k.class, k.user, k.arch))
	f := w.hear(4011)
	if p, err = dhcpv4.FromBytes(f.Payload); err != nil || f.Dst.String() != "10.9.0.50" || p.MessageType() != dhcpv4.MessageTypeAck || p.BootFileName != k.file {
		t.Errorf("%v %v %v", f, p, err)
	}
}

// A server that is there already is found by its offer, or by its answer to INFORM.
func TestWireSecondServer(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, answers := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeInform, 0} {
		o, err := Options{DHCP: Full}.complete(testSegment)
		if err != nil {
			t.Fatal(err)
		}
		other := segment{testSegment.iface, netip.MustParseAddr("10.9.0.77"), testSegment.prefix}
		d := newDHCP(o, other, func(Event) {})
		w := newWire(t, "rig1")
		var work sync.WaitGroup
		work.Go(func() {
			for range 2 {
				req := decode(w.hear(67).Payload)
				if req == nil || req.MessageType() != answers {
					continue
				}
				p := d.answer(req, time.Now())
				w.send(netip.MustParseAddrPort("10.9.0.77:67"), netip.MustParseAddrPort("255.255.255.255:68"), lan.Broadcast, p.ToBytes())
			}
		})
		s, err := New(Options{Dir: tree(t), Interface: "rig0"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		begin := time.Now()
		err = s.Run(ctx)
		cancel()
		work.Wait()
		if answers == 0 {
			if err != context.DeadlineExceeded {
				t.Errorf("nobody answers: %v", err)
			}
			continue
		}
		if err == nil || err.Error() != "serve rig0: there is a DHCP server on this network already, at 10.9.0.77" || !strings.Contains(diag.HintOf(err), "--dhcp proxy") {
			t.Errorf("%v: %v", answers, err)
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("%v: found after %v", answers, d)
		}
	}
}

// other is a namespace for the other end of the wire, by the id of a process in it.
func other(t *testing.T) (run func(name string, args ...string) (string, error)) {
	t.Helper()
	nsenter := referee.Need(t, "nsenter")
	cmd := exec.Command(referee.Need(t, "unshare"), "-n", "sh", "-c", "echo ready; exec sleep 100")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	pid := fmt.Sprint(cmd.Process.Pid)
	ip(t, "link", "set", "rig1", "netns", pid)
	run = func(name string, args ...string) (string, error) {
		b, err := exec.Command(nsenter, append([]string{"-t", pid, "-n", name}, args...)...).CombinedOutput()
		return string(b), err
	}
	for _, args := range []string{"link set lo up", "link set rig1 up"} {
		if out, err := run("ip", strings.Fields(args)...); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	return run
}

// Real clients get addresses, and files with them.
func TestWireClients(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	udhcpc, curl := referee.Need(t, "udhcpc"), referee.Need(t, "curl")
	s, rec := run(t, Options{Dir: tree(t), Interface: "rig0", Force: true, Router: netip.MustParseAddr("10.9.0.1")})
	there := other(t)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ $1 = bound ] || exit 0\nip addr add $ip/$mask dev $interface && ip route add default via $router && echo boots $siaddr $boot_file\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := there(udhcpc, "-f", "-q", "-n", "-i", "rig1", "-s", script, "-V", "PXEClient:Arch:00007:UNDI:003001", "-x", "0x5d:0007", "-O", "bootfile")
	if err != nil || !strings.Contains(out, "boots 10.9.0.1") || !strings.Contains(out, "boot/loader.efi") {
		t.Fatalf("udhcpc: %v: %s", err, out)
	}
	e := rec.wait(t, "address", func(e Event) bool { return e.Phase == Address })
	for _, url := range []string{s.URL() + "//boot/loader.efi", "tftp://10.9.0.1/boot/loader.efi"} {
		got, err := there(curl, "-sS", url)
		if err != nil {
			t.Errorf("curl %s: %v", url, err)
		}
		sameBytes(t, url, []byte(got), pattern(665600))
	}
	for _, phase := range []Phase{HTTP, TFTP} {
		f := rec.wait(t, string(phase), func(e Event) bool { return e.Phase == phase && e.Bytes == e.Total })
		if f.MAC != e.MAC || f.IP != e.IP {
			t.Errorf("%+v by %+v", f, e)
		}
	}
	dhclient, ok := referee.Find("dhclient")
	if !ok {
		t.Log("REFEREE MISSING: dhclient")
		return
	}
	dir := t.TempDir()
	leases := filepath.Join(dir, "leases")
	if err := os.WriteFile(leases, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := there(dhclient, "-1", "-v", "-sf", "/bin/true", "-cf", "/dev/null", "-lf", leases, "-pf", filepath.Join(dir, "pid"), "rig1"); err != nil {
		t.Errorf("dhclient: %v: %s", err, out)
	}
	there(dhclient, "-x", "-sf", "/bin/true", "-cf", "/dev/null", "-lf", leases, "-pf", filepath.Join(dir, "pid"), "rig1")
	if got, err := os.ReadFile(leases); err != nil || !strings.Contains(string(got), "fixed-address "+e.IP.String()) {
		t.Errorf("%v: %s", err, got)
	}
}

// dnsmasq is found although it first looks whether the address is in use.
func TestWireDnsmasq(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dnsmasq := referee.Need(t, "dnsmasq")
	there := other(t)
	if out, err := there("ip", "addr", "add", "10.9.0.2/24", "broadcast", "+", "dev", "rig1"); err != nil {
		t.Fatal(out)
	}
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	if out, err := there(dnsmasq, "--port=0", "--conf-file=/dev/null", "--user=root", "--interface=rig1", "--bind-interfaces", "--pid-file="+pid,
		"--dhcp-range=10.9.0.20,10.9.0.30", "--dhcp-leasefile="+filepath.Join(dir, "leases")); err != nil {
		t.Fatalf("dnsmasq: %v: %s", err, out)
	}
	defer exec.Command("sh", "-c", "kill $(cat "+pid+")").Run()
	s, err := New(Options{Dir: tree(t), Interface: "rig0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already, at 10.9.0.2") {
		t.Fatal(err)
	}
}

// dnsmasq with the printed configuration tells every client what the server does.
func TestWirePrinted(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dnsmasq := referee.Need(t, "dnsmasq")
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte(printed(t, "dnsmasq", Options{Dir: tree(t)})), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dnsmasq, "--conf-file="+conf, "--user=root", "--keep-in-foreground", "--no-ping", "--pid-file="+filepath.Join(dir, "pid"),
		"--dhcp-leasefile="+filepath.Join(dir, "leases"), "--log-facility="+filepath.Join(dir, "log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for range 100 {
		if b, _ := os.ReadFile(filepath.Join(dir, "log")); bytes.Contains(b, []byte("TFTP root is")) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	w := newWire(t, "rig1")
	for i, k := range clientKinds {
		w.send(nobody, toServers, lan.Broadcast, packet(dhcpv4.MessageTypeDiscover, hw(byte(i)), k.class, k.user, k.arch))
		p, err := dhcpv4.FromBytes(w.hear(68).Payload)
		if err != nil {
			t.Fatal(err)
		}
		file := cmpOr(p.BootFileNameOption(), p.BootFileName)
		if strings.TrimRight(file, "\x00") != k.file || p.RootPath() != k.root || p.ClassIdentifier() != k.echo || len(p.Router()) != 0 {
			t.Errorf("%s: file %q: %s", k.name, file, p.Summary())
		}
		if has := p.GetOneOption(optEtherboot) != nil; has != strings.Contains(k.user, "iPXE") {
			t.Errorf("%s: option 175 sent: %v", k.name, has)
		}
	}
}
