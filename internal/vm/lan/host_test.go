package lan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

var (
	gateway  = netip.MustParseAddr("10.0.0.1")
	server   = netip.MustParseAddr("10.0.0.110")
	stranger = netip.MustParseAddr("8.8.4.4")
)

func newHost(t *testing.T, sw *Switch, n byte, addrs ...netip.Addr) *Host {
	t.Helper()
	h, err := NewHost(sw, fmt.Sprint("host", n), hw(n), addrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// world is a gateway and a server on one switch.
func world(t *testing.T) (sw *Switch, out, srv *Host) {
	sw = New(1)
	return sw, newHost(t, sw, 1, gateway), newHost(t, sw, 2, server)
}

func echoAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

func TestTCP(t *testing.T) {
	sw, out, srv := world(t)
	if err := sw.SetLine(Line{Loss: 0.02, Delay: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	l, err := srv.Listen(netip.AddrPortFrom(server, 443))
	if err != nil {
		t.Fatal(err)
	}
	go echoAll(l)
	c, err := out.Dial(t.Context(), stranger, netip.AddrPortFrom(server, 443))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != stranger {
		t.Errorf("from %v", got)
	}
	text := strings.Repeat("0123456789abcdef", 16<<10)
	go func() {
		io.WriteString(c, text)
		c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != text {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(text), err)
	}
}

func TestProbe(t *testing.T) {
	sw, out, srv := world(t)
	l, err := srv.Listen(netip.AddrPortFrom(server, 22))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tt := range []struct {
		dst  string
		want Answer
	}{
		{"10.0.0.110:22", Open}, {"10.0.0.110:23", Refused}, {"10.0.0.99:22", Nobody},
	} {
		if got, err := out.Probe(t.Context(), stranger, netip.MustParseAddrPort(tt.dst), 10*time.Second); err != nil || got != tt.want {
			t.Errorf("probe %s: %v %v, want %v", tt.dst, got, err, tt.want)
		}
	}
	if got, err := out.Ping(t.Context(), stranger, server, 5*time.Second); err != nil || got != Open {
		t.Errorf("ping: %v %v", got, err)
	}
	if err := sw.SetLine(Line{Cut: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := out.Probe(t.Context(), stranger, netip.AddrPortFrom(server, 22), 100*time.Millisecond); err != nil || got != Silent {
		t.Errorf("probe of a cut line: %v %v", got, err)
	}
	if got, err := out.Ping(t.Context(), stranger, server, 100*time.Millisecond); err != nil || got != Silent {
		t.Errorf("ping on a cut line: %v %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := out.Probe(ctx, stranger, netip.AddrPortFrom(server, 22), time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_, err = out.Dial(t.Context(), netip.MustParseAddr("::1"), netip.AddrPortFrom(server, 22))
	if err == nil || err.Error() != "dial 10.0.0.110:22 from ::1: address ::1: not the IPv4 address of a host" {
		t.Errorf("IPv6: %v", err)
	}
}

func TestUDP(t *testing.T) {
	_, out, srv := world(t)
	in, err := srv.ListenUDP(netip.AddrPortFrom(server, 53))
	if err != nil {
		t.Fatal(err)
	}
	if err := out.source(t.Context(), stranger, server); err != nil {
		t.Fatal(err)
	}
	local, remote := full(netip.AddrPortFrom(stranger, 0)), full(netip.AddrPortFrom(server, 53))
	c, err := gonet.DialUDP(out.stack, &local, &remote, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "who?")
	buf := make([]byte, 100)
	n, from, err := in.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "who?" || from.(*net.UDPAddr).AddrPort().Addr() != stranger {
		t.Fatalf("%q from %v: %v", buf[:n], from, err)
	}
	if _, err := in.WriteTo([]byte("me"), from); err != nil {
		t.Fatal(err)
	}
	if n, err = c.Read(buf); err != nil || string(buf[:n]) != "me" {
		t.Errorf("%q %v", buf[:n], err)
	}
}

// A connection sees the reset the other side sends.
func TestReset(t *testing.T) {
	_, out, srv := world(t)
	at := netip.AddrPortFrom(server, 443)
	l, err := srv.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	go echoAll(l)
	c, err := out.Dial(t.Context(), stranger, at)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	srv.Close() // as a machine whose power is cut, and that then knows nothing of the connection
	newHost(t, out.port.sw, 2, server)
	io.WriteString(c, "x")
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "connection reset by peer") {
		t.Errorf("after a reset: %v", err)
	}
}

// spy records the packets on a switch.
type spy struct {
	mu  sync.Mutex
	all []Packet
}

func (s *spy) see(f Seen) {
	if p, err := ParsePacket(f.Frame); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all = append(s.all, p)
	}
}

func (s *spy) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, p := range s.all {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// A spoofed packet is seen, and so is to whom the answer goes.
func TestInject(t *testing.T) {
	sw, out, srv := world(t)
	if err := srv.AddAddr(netip.MustParseAddr("192.0.2.7")); err != nil {
		t.Fatal(err)
	}
	victim := newHost(t, sw, 3, netip.MustParseAddr("10.0.0.7"))
	var s spy
	defer sw.Tap(s.see)()
	for _, p := range []Packet{
		{Src: victim.first, Dst: server, Proto: TCP, SrcPort: 1000, DstPort: 80, Flags: SYN, Seq: 7},
		{Src: victim.first, Dst: server, Proto: UDP, SrcPort: 1001, DstPort: 81, Payload: []byte("odd")},
		{SrcMAC: hw(77), Src: victim.first, Dst: server, Proto: ICMP, Type: EchoRequest, ID: 5, Sequence: 1, Payload: []byte("ping")},
	} {
		if err := out.Inject(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"10.0.0.7:1000 > 10.0.0.110:80 tcp S", "10.0.0.110:80 > 10.0.0.7:1000 tcp R.",
		"10.0.0.7:1001 > 10.0.0.110:81 udp 3", "10.0.0.110 > 10.0.0.7 icmp 3/3",
		"10.0.0.7 > 10.0.0.110 icmp 8/0", "10.0.0.110 > 10.0.0.7 icmp 0/0",
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		missing := ""
		for _, w := range want {
			if !strings.Contains(s.text(), w+"\n") {
				missing += w + "\n"
			}
		}
		if missing == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not seen:\n%sof\n%s", missing, s.text())
		}
	}
	if err := out.Inject(t.Context(), Packet{Dst: netip.MustParseAddr("10.0.0.9"), Proto: TCP}); !errors.Is(err, ErrNobody) {
		t.Errorf("to nobody: %v", err)
	}
}

func TestPacketRoundTrip(t *testing.T) {
	for _, p := range []Packet{
		{Src: server, Dst: gateway, Proto: TCP, SrcPort: 1, DstPort: 2, Flags: RST | ACK, Seq: 3, Ack: 4, TTL: 9, Payload: []byte("abc")},
		{Src: server, Dst: gateway, Proto: UDP, SrcPort: 1, DstPort: 2, TTL: 64, VLAN: 7, Payload: []byte("abcd")},
		{Src: server, Dst: gateway, Proto: ICMP, Type: 8, Code: 1, ID: 2, Sequence: 3, TTL: 64, Payload: []byte{}},
		{Src: server, Dst: gateway, Proto: 99, TTL: 64, Payload: []byte("gre")},
	} {
		p.SrcMAC, p.DstMAC = hw(1), hw(2)
		got, err := ParsePacket(clone(p.Frame()))
		if err != nil || fmt.Sprintf("%+v %q", got, got.Payload) != fmt.Sprintf("%+v %q", p, p.Payload) {
			t.Errorf("%v:\ngot  %#v\nwant %#v\n%v", p, got, p, err)
		}
	}
	a := ARP{VLAN: 5, Op: ARPReply, SenderMAC: hw(1), TargetMAC: hw(2), Sender: server, Target: gateway}
	if got, err := ParseARP(clone(a.Frame())); err != nil || fmt.Sprint(got) != fmt.Sprint(a) {
		t.Errorf("got %v, want %v: %v", got, a, err)
	}
}

// No frame, however odd, makes the parsers fail but with an error.
func FuzzParse(f *testing.F) {
	f.Add(Packet{Src: server, Dst: gateway, Proto: TCP, DstPort: 2}.Frame())
	f.Add(Packet{Src: server, Dst: gateway, Proto: UDP, VLAN: 7}.Frame())
	f.Add(Packet{Src: server, Dst: gateway, Proto: ICMP}.Frame())
	f.Add(ARP{Op: ARPRequest, Sender: server, Target: gateway}.Frame())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParsePacket(b); err == nil {
			_ = p.String()
		}
		ParseARP(b)
	})
}

func TestAsk(t *testing.T) {
	sw, _, _ := world(t)
	if err := sw.SetLine(Line{Loss: 0.3}); err != nil {
		t.Fatal(err)
	}
	got, err := sw.Ask(t.Context(), 0, server)
	if err != nil || got.String() != hw(2).String() {
		t.Errorf("%v %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := sw.Ask(ctx, 0, netip.MustParseAddr("10.0.0.99")); !errors.Is(err, ErrNobody) {
		t.Errorf("nobody: %v", err)
	}
	// On a VLAN, a tag is in question and answer.
	if err := sw.SetLine(Line{}); err != nil {
		t.Fatal(err)
	}
	p := sw.Attach("tagged")
	go func() {
		for {
			f, err := p.Recv(t.Context())
			if err != nil {
				return
			}
			if q, err := ParseARP(f); err == nil && q.VLAN == 7 && q.Sender == netip.IPv4Unspecified() {
				p.Send(ARP{VLAN: 7, Op: ARPReply, SenderMAC: hw(9), TargetMAC: q.SenderMAC, Sender: q.Target, Target: q.Sender}.Frame())
			}
		}
	}()
	if got, err := sw.Ask(t.Context(), 7, stranger); err != nil || got.String() != hw(9).String() {
		t.Errorf("tagged: %v %v", got, err)
	}
}

func TestRelay(t *testing.T) {
	_, out, srv := world(t)
	at := netip.AddrPortFrom(server, 443)
	inside, err := srv.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	go echoAll(inside)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- out.Relay(t.Context(), l, stranger, at) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "through")
	c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "through" {
		t.Errorf("%q %v", got, err)
	}
	l.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNewHostRefuses(t *testing.T) {
	sw := New(1)
	for _, tt := range []struct {
		hw    net.HardwareAddr
		addrs []netip.Addr
		want  string
	}{
		{Broadcast, []netip.Addr{gateway}, "host x: ff:ff:ff:ff:ff:ff is not the MAC address of a card"},
		{hw(1), nil, "host x: no address"},
		{hw(1), []netip.Addr{netip.IPv4Unspecified()}, "host x: address 0.0.0.0: not the IPv4 address of a host"},
	} {
		if _, err := NewHost(sw, "x", tt.hw, tt.addrs...); err == nil || err.Error() != tt.want {
			t.Errorf("want %q, got %v", tt.want, err)
		}
	}
}
