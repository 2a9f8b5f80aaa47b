package pxe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var testSegment = segment{&net.Interface{Name: "rig0", Index: 7}, netip.MustParseAddr("10.9.0.1"), netip.MustParsePrefix("10.9.0.1/24")}

func newTestDHCP(t *testing.T, o Options) (*dhcp, *[]Event) {
	t.Helper()
	o, err := o.complete(testSegment)
	if err != nil {
		t.Fatal(err)
	}
	var events []Event
	return newDHCP(o, testSegment, func(e Event) { events = append(events, e) }), &events
}

func hw(n byte) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0, 0, n} }

// packet is a client's. class, user and arch may be empty.
func packet(kind dhcpv4.MessageType, mac net.HardwareAddr, class, user string, arch int, more ...dhcpv4.Option) []byte {
	p := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: mac,
		TransactionID: dhcpv4.TransactionID{1, 2, 3, mac[5]}, Options: dhcpv4.Options{}}
	p.UpdateOption(dhcpv4.OptMessageType(kind))
	p.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionBootfileName,
		dhcpv4.OptionTFTPServerName, dhcpv4.OptionVendorSpecificInformation))
	if class != "" {
		p.UpdateOption(dhcpv4.OptClassIdentifier(class))
	}
	if user != "" {
		p.UpdateOption(dhcpv4.OptUserClass(user))
	}
	if arch >= 0 {
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, binary.BigEndian.AppendUint16(nil, uint16(arch))))
	}
	for _, o := range more {
		p.UpdateOption(o)
	}
	return p.ToBytes()
}

func (d *dhcp) ask(t *testing.T, b []byte) *dhcpv4.DHCPv4 {
	t.Helper()
	req := decode(b)
	if req == nil {
		t.Fatal("not decoded")
	}
	p := d.answer(req, time.Now())
	if p == nil {
		return nil
	}
	p, err := dhcpv4.FromBytes(p.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

type clientKind struct {
	name, class, user string
	arch              int
	rule, file, root  string
	echo              string
}

// clientKinds are as those programs were seen to ask, or as their sources say.
var clientKinds = []clientKind{
	{"BIOS ROM", "PXEClient:Arch:00000:UNDI:002001", "", 0, "bios", "boot/pxeboot", "", ""},
	{"QEMU's iPXE ROM", "PXEClient:Arch:00000:UNDI:002001", "iPXE", 0, "ipxebios", "boot/pxeboot", "", ""},
	{"OVMF PXE", "PXEClient:Arch:00007:UNDI:003001", "", 7, "efi", "boot/loader.efi", "", ""},
	{"older UEFI PXE", "PXEClient:Arch:00009:UNDI:003016", "", 9, "efi", "boot/loader.efi", "", ""},
	{"OVMF HTTP", "HTTPClient:Arch:00016:UNDI:003001", "", 16, "http", "http://10.9.0.1/boot/loader.efi", "", "HTTPClient"},
	{"iPXE on UEFI", "PXEClient:Arch:00007:UNDI:003010", "\x04iPXE", 7, "ipxe", "http://10.9.0.1/boot.ipxe", "", ""},
	{"loader", "PXEClient", "\x07FreeBSD", -1, "loader", "", "tftp://10.9.0.1/", ""},
	{"dhclient", "", "", -1, "", "", "", ""},
	{"32-bit UEFI", "PXEClient:Arch:00006:UNDI:003000", "", 6, "", "", "", ""},
}

func TestFull(t *testing.T) {
	for _, k := range clientKinds {
		t.Run(k.name, func(t *testing.T) {
			d, events := newTestDHCP(t, Options{DHCP: Full, Router: netip.MustParseAddr("10.9.0.254"), DNS: []netip.Addr{netip.MustParseAddr("10.9.0.253")}})
			offer := d.ask(t, packet(dhcpv4.MessageTypeDiscover, hw(1), k.class, k.user, k.arch))
			if offer == nil || offer.MessageType() != dhcpv4.MessageTypeOffer {
				t.Fatalf("no offer: %v", offer)
			}
			ack := d.ask(t, packet(dhcpv4.MessageTypeRequest, hw(1), k.class, k.user, k.arch,
				dhcpv4.OptRequestedIPAddress(offer.YourIPAddr), dhcpv4.OptServerIdentifier(offer.ServerIdentifier())))
			if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
				t.Fatalf("no acknowledgement: %v", ack)
			}
			for _, p := range []*dhcpv4.DHCPv4{offer, ack} {
				if p.BootFileName != k.file || p.RootPath() != k.root || p.ClassIdentifier() != k.echo {
					t.Errorf("%v: file %q, root path %q, class %q", p.MessageType(), p.BootFileName, p.RootPath(), p.ClassIdentifier())
				}
				if k.file != "" && p.BootFileNameOption() != k.file {
					t.Errorf("option 67 is %q", p.BootFileNameOption())
				}
				if !p.YourIPAddr.Equal(offer.YourIPAddr) || number(toAddr(p.YourIPAddr)) < number(d.leases.r.First) || p.ServerIPAddr.String() != "10.9.0.1" ||
					net.IP(p.SubnetMask()).String() != "255.255.255.0" || len(p.Router()) != 1 || len(p.DNS()) != 1 || p.IPAddressLeaseTime(0) != time.Hour {
					t.Errorf("%s", p.Summary())
				}
				if has := p.GetOneOption(optEtherboot) != nil; has != (strings.Contains(k.user, "iPXE")) {
					t.Errorf("option 175 sent: %v", has)
				}
			}
			var phases []string
			for _, e := range *events {
				if e.MAC != "52:54:00:00:00:01" || e.Client != k.rule {
					t.Errorf("%+v", e)
				}
				phases = append(phases, string(e.Phase))
			}
			if got := strings.Join(phases, " "); got != "discover offer address" {
				t.Errorf("events: %s", got)
			}
			if e := (*events)[0]; k.arch == 6 && (e.Err == nil || e.Err.Error() != "architecture 6 (32-bit UEFI): nothing to boot") {
				t.Errorf("%v", e.Err)
			}
		})
	}
}

func TestProxy(t *testing.T) {
	for _, k := range clientKinds {
		t.Run(k.name, func(t *testing.T) {
			d, _ := newTestDHCP(t, Options{DHCP: Proxy})
			p := d.ask(t, packet(dhcpv4.MessageTypeDiscover, hw(1), k.class, k.user, k.arch))
			if k.rule == "" || k.rule == "loader" {
				if k.rule == "" && p != nil {
					t.Errorf("answered: %s", p.Summary())
				}
				return
			}
			echo := cmpOr(k.echo, "PXEClient")
			if p == nil || !p.YourIPAddr.IsUnspecified() || p.BootFileName != k.file || p.ClassIdentifier() != echo || p.RootPath() != "" ||
				p.GetOneOption(dhcpv4.OptionIPAddressLeaseTime) != nil || p.GetOneOption(dhcpv4.OptionSubnetMask) != nil {
				t.Fatalf("%v", p)
			}
			if got := p.GetOneOption(dhcpv4.OptionVendorSpecificInformation); (k.echo == "") != bytes.Equal(got, discoveryControl) {
				t.Errorf("option 43: %v", got)
			}
			if p := d.ask(t, packet(dhcpv4.MessageTypeRequest, hw(1), k.class, k.user, k.arch)); p != nil {
				t.Errorf("a request at port 67 is the other server's: %s", p.Summary())
			}
			ack := d.askBootServer(decode(packet(dhcpv4.MessageTypeRequest, hw(1), k.class, k.user, k.arch)))
			if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || ack.BootFileName != k.file {
				t.Errorf("at port 4011: %v", ack)
			}
		})
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// bootp is the client of stand/libsa/bootp.c: what it takes from packets, in the
// order in which it does.
type bootp struct {
	expect   dhcpv4.MessageType
	ok       bool
	rootPath string
	env      string // dhcp.root-path, which the first packet sets
	server   []byte
	yiaddr   netip.Addr
}

// fill is bootp_fill_request.
func (bootp) fill() []byte {
	return append(append([]byte{60, 9}, "PXEClient"...), append([]byte{77, 8, 7}, "FreeBSD\x37\x07\x11\x0c\x10\x03\x01\x1a\x36\xff"...)...)
}

func (b *bootp) packet(mac net.HardwareAddr, options ...byte) []byte {
	p := make([]byte, 236, 300)
	p[0], p[1], p[2] = 1, 1, 6
	copy(p[4:], []byte{0, 0, 0, 1})
	copy(p[28:], mac)
	p = append(p, 99, 130, 83, 99)
	p = append(append(p, options...), b.fill()...)
	return append(p, make([]byte, max(0, 300-len(p)))...)
}

// receive is bootprecv and vend_rfc1048: false is for a packet that it goes on
// waiting after.
func (b *bootp) receive(p []byte) bool {
	if !bytes.Equal(p[4:8], []byte{0, 0, 0, 1}) {
		return false
	}
	walk := func(do func(tag byte, v []byte) bool) bool {
		for o := p[240:]; len(o) > 1 && o[0] != 255; {
			if o[0] == 0 { // bootp.c takes a length even here; nobody pads between options
				o = o[1:]
				continue
			}
			n := int(o[1])
			if !do(o[0], o[2:2+n]) {
				return false
			}
			o = o[2+n:]
		}
		return true
	}
	walk(func(tag byte, v []byte) bool { // setenv_
		if tag == 17 && b.env == "" {
			b.env = string(v)
		}
		return true
	})
	if !walk(func(tag byte, v []byte) bool {
		switch tag {
		case 17:
			b.rootPath = b.env
		case 53:
			if dhcpv4.MessageType(v[0]) != b.expect {
				return false
			}
			b.ok = true
		case 54:
			b.server = v
		}
		return true
	}) {
		return false
	}
	b.yiaddr = netip.AddrFrom4([4]byte(p[16:20]))
	return true
}

// run asks, and hears at each step the answers of all servers in that order.
func (b *bootp) run(t *testing.T, mac net.HardwareAddr, servers ...func([]byte) []byte) {
	t.Helper()
	hear := func(q []byte) bool {
		got := false
		for _, s := range servers {
			if a := s(q); a != nil && !got {
				got = b.receive(a)
			}
		}
		return got
	}
	b.expect = dhcpv4.MessageTypeOffer
	if !hear(b.packet(mac, 53, 1, 1)) {
		t.Fatal("no offer")
	}
	b.expect = dhcpv4.MessageTypeAck
	ip := b.yiaddr.As4()
	q := append([]byte{53, 1, 3, 50, 4}, ip[:]...)
	q = append(append(q, 54, 4), b.server...)
	if !hear(b.packet(mac, append(q, 51, 4, 0, 0, 1, 44)...)) {
		t.Fatal("no acknowledgement")
	}
}

func (d *dhcp) bytes(b []byte) []byte {
	req := decode(b)
	if req == nil {
		return nil
	}
	if p := d.answer(req, time.Now()); p != nil {
		return p.ToBytes()
	}
	return nil
}

func TestLoaderFull(t *testing.T) {
	d, _ := newTestDHCP(t, Options{DHCP: Full})
	var b bootp
	b.run(t, hw(3), d.bytes)
	if b.rootPath != "tftp://10.9.0.1/" || !b.yiaddr.IsValid() || d.leases.macOf(b.yiaddr) != hw(3).String() {
		t.Errorf("%+v", b)
	}
}

// The loader gets its address from a server that knows nothing of it, and its root
// path from the proxy, whichever answers first.
func TestLoaderProxy(t *testing.T) {
	for _, first := range []string{"proxy", "other"} {
		t.Run(first, func(t *testing.T) {
			proxy, _ := newTestDHCP(t, Options{DHCP: Proxy})
			other, _ := newTestDHCP(t, Options{DHCP: Full, Rules: []Rule{}})
			proxy.server = netip.MustParseAddr("10.9.0.2")
			var b bootp
			if first == "proxy" {
				b.run(t, hw(3), proxy.bytes, other.bytes)
			} else {
				// The offer ends the first wait; what the proxy said is read in the second.
				var late []byte
				b.run(t, hw(3), func(q []byte) []byte {
					if late != nil && b.receive(late) {
						t.Error("the proxy's packet was taken for an answer")
					}
					late = proxy.bytes(q)
					return other.bytes(q)
				})
			}
			if b.rootPath != "tftp://10.9.0.1/" || other.leases.macOf(b.yiaddr) != hw(3).String() {
				t.Errorf("%+v", b)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	d, events := newTestDHCP(t, Options{DHCP: Full})
	req := func(mac net.HardwareAddr, o ...dhcpv4.Option) *dhcpv4.DHCPv4 {
		return d.ask(t, packet(dhcpv4.MessageTypeRequest, mac, "", "", -1, o...))
	}
	ip := net.IP{10, 9, 0, 140}
	if p := req(hw(1), dhcpv4.OptRequestedIPAddress(ip)); p == nil || p.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("a free address, after a restart: %v", p)
	}
	for what, p := range map[string]*dhcpv4.DHCPv4{
		"someone else's":    req(hw(2), dhcpv4.OptRequestedIPAddress(ip)),
		"of another net":    req(hw(2), dhcpv4.OptRequestedIPAddress(net.IP{192, 168, 1, 5})),
		"the server's":      req(hw(2), dhcpv4.OptRequestedIPAddress(net.IP{10, 9, 0, 1})),
		"outside the range": req(hw(2), dhcpv4.OptRequestedIPAddress(net.IP{10, 9, 0, 2})),
		"none":              req(hw(2)),
	} {
		if p == nil || p.MessageType() != dhcpv4.MessageTypeNak || !p.IsBroadcast() {
			t.Errorf("%s: %v", what, p)
		}
	}
	if p := req(hw(1), dhcpv4.OptRequestedIPAddress(ip), dhcpv4.OptServerIdentifier(net.IP{10, 9, 0, 77})); p != nil {
		t.Errorf("a request to another server was answered: %v", p)
	}
	if e := (*events)[len(*events)-1]; e.Phase != Elsewhere || e.IP.String() != "10.9.0.77" {
		t.Errorf("%+v", e)
	}
	if p := req(hw(2), dhcpv4.OptRequestedIPAddress(ip)); p.MessageType() != dhcpv4.MessageTypeAck {
		t.Error("the address of one who took another server's is not free")
	}
	d.ask(t, packet(dhcpv4.MessageTypeDecline, hw(2), "", "", -1, dhcpv4.OptRequestedIPAddress(ip)))
	if p := req(hw(1), dhcpv4.OptRequestedIPAddress(ip)); p.MessageType() != dhcpv4.MessageTypeNak {
		t.Error("a declined address was given out")
	}
	if p := d.ask(t, packet(dhcpv4.MessageTypeInform, hw(5), "", "", -1)); p.MessageType() != dhcpv4.MessageTypeAck || !p.YourIPAddr.IsUnspecified() {
		t.Errorf("INFORM: %v", p)
	}
}

func TestLeases(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := Range{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.4")}
	l := newLeases(r, netip.MustParseAddr("10.9.0.1"))
	seen := map[netip.Addr]bool{}
	for n := byte(1); n <= 3; n++ {
		ip, ok := l.offer(hw(n).String(), netip.Addr{}, now)
		if !ok || seen[ip] || ip == l.own {
			t.Fatalf("%d: %v %v", n, ip, ok)
		}
		seen[ip] = true
		if again, _ := l.offer(hw(n).String(), netip.Addr{}, now); again != ip {
			t.Errorf("another address for the same machine: %v, %v", ip, again)
		}
	}
	if ip, ok := l.offer("x", netip.Addr{}, now); ok {
		t.Errorf("a fifth address: %v", ip)
	}
	if _, ok := l.offer("x", netip.Addr{}, now.Add(2*offerTime)); !ok {
		t.Error("offers that nobody took are kept for ever")
	}
	if len(l.byIP) != 3 || len(l.byMAC) != 3 {
		t.Errorf("%d addresses of %d machines", len(l.byIP), len(l.byMAC))
	}
	a, b := newLeases(r, l.own), newLeases(r, l.own)
	x, _ := a.offer("y", netip.Addr{}, now)
	if y, _ := b.offer("y", netip.Addr{}, now); x != y {
		t.Errorf("%v, after a restart %v", x, y)
	}
}

func TestOptions(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{DHCP: "on"}, `dhcp: "on" is none of full, proxy, off`},
		{Options{Lease: time.Second}, "lease: 1s is not between"},
		{Options{Count: -1}, "count: -1 is negative"},
		{Options{Ports: Ports{TFTP: 70000}}, "ports.tftp: 70000 is no port"},
		{Options{Range: Range{addr("10.9.0.9"), addr("10.9.0.8")}}, "range: 10.9.0.9-10.9.0.8 does not go"},
		{Options{Range: Range{addr("10.9.0.9"), addr("10.9.1.8")}}, "range: 10.9.0.9-10.9.1.8 is not in 10.9.0.1-10.9.0.254, the network of rig0"},
		{Options{Range: Range{addr("10.9.0.1"), addr("10.9.0.1")}}, "range: 10.9.0.1 is this machine's own"},
		{Options{Router: addr("10.8.0.1")}, "router: 10.8.0.1 is not in 10.9.0.0/24"},
		{Options{DNS: []netip.Addr{addr("::1")}}, "dns: ::1 is not an IPv4 address"},
	} {
		if _, err := c.o.complete(testSegment); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	for net, want := range map[string]string{"10.9.0.1/24": "10.9.0.128-10.9.0.254", "10.9.0.1/16": "10.9.128.0-10.9.128.199", "10.9.0.1/30": "10.9.0.2-10.9.0.2"} {
		seg := testSegment
		seg.prefix = netip.MustParsePrefix(net)
		o, err := Options{}.complete(seg)
		if err != nil || o.Range.String() != want {
			t.Errorf("%s: %v %v", net, o.Range, err)
		}
	}
	if _, err := findSegment("nosuch0", netip.Addr{}); err == nil || !strings.Contains(err.Error(), "there is no interface nosuch0 with an IPv4 address") {
		t.Error(err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := packet(dhcpv4.MessageTypeDiscover, hw(1), "", "", -1)
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	for what, b := range map[string][]byte{
		"nothing":          nil,
		"short":            good[:200],
		"an answer":        change(func(b []byte) { b[0] = 2 }),
		"not Ethernet":     change(func(b []byte) { b[1] = 32 }),
		"another length":   change(func(b []byte) { b[2] = 16 }),
		"by a relay":       change(func(b []byte) { b[24] = 10 }),
		"BOOTP":            change(func(b []byte) { b[240] = 12 }),
		"no cookie":        change(func(b []byte) { b[236] = 0 }),
		"a truncated list": append(bytes.Clone(good[:240]), 53, 9, 1),
	} {
		if decode(b) != nil {
			t.Errorf("%s is taken for a request", what)
		}
	}
}

func FuzzDHCP(f *testing.F) {
	for _, k := range clientKinds {
		f.Add(packet(dhcpv4.MessageTypeDiscover, hw(1), k.class, k.user, k.arch))
		f.Add(packet(dhcpv4.MessageTypeRequest, hw(1), k.class, k.user, k.arch, dhcpv4.OptRequestedIPAddress(net.IP{10, 9, 0, 140})))
	}
	var b bootp
	f.Add(b.packet(hw(1), 53, 1, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		req := decode(b)
		if req == nil {
			return
		}
		for _, m := range []Mode{Full, Proxy} {
			o, err := Options{DHCP: m}.complete(testSegment)
			if err != nil {
				t.Fatal(err)
			}
			d := newDHCP(o, testSegment, func(Event) {})
			for _, p := range []*dhcpv4.DHCPv4{d.answer(req, time.Now()), d.askBootServer(req)} {
				if p == nil {
					continue
				}
				back, err := dhcpv4.FromBytes(p.ToBytes())
				if err != nil || back.OpCode != dhcpv4.OpcodeBootReply || back.TransactionID != req.TransactionID {
					t.Errorf("the answer cannot be read: %v", err)
				}
			}
		}
	})
}

func ExampleRange() {
	fmt.Println(Range{netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("10.0.0.199")})
	// Output: 10.0.0.100-10.0.0.199
}

// A machine that is installed gets an address and nothing to boot.
func TestDone(t *testing.T) {
	for _, mode := range []Mode{Full, Proxy} {
		d, events := newTestDHCP(t, Options{DHCP: mode})
		d.done = func(mac string) bool { return mac == hw(1).String() }
		for n, file := range map[byte]string{1: "", 2: "boot/loader.efi"} {
			p := d.ask(t, packet(dhcpv4.MessageTypeDiscover, hw(n), "PXEClient:Arch:00007:UNDI:003000", "", 7))
			switch {
			case p == nil && file == "" && mode == Proxy:
			case p == nil || p.BootFileName != file || toAddr(p.YourIPAddr).IsValid() != (mode == Full):
				t.Errorf("%s, machine %d: %+v", mode, n, p)
			}
		}
		for _, e := range *events {
			if e.Err != nil {
				t.Errorf("%s: %+v", mode, e)
			}
		}
	}
}
