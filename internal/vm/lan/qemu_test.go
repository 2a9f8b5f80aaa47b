package lan_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
	"github.com/rig-freebsd/rig/internal/vm/lan"
)

// dhcp is what of BOOTP (RFC 951) and DHCP (RFC 2131) a boot ROM needs: an offer
// for a discover, an acknowledgement for a request.
func dhcp(request []byte, server, yours netip.Addr) []byte {
	const (
		fixed  = 236
		cookie = "\x63\x82\x53\x63"
	)
	if len(request) < fixed+4 || request[0] != 1 || string(request[fixed:fixed+4]) != cookie {
		return nil
	}
	kind := byte(2) // offer
	if at := bytes.Index(request[fixed+4:], []byte{53, 1, 3}); at >= 0 {
		kind = 5 // acknowledgement
	}
	b := bytes.Clone(request[:fixed])
	b[0] = 2
	copy(b[16:], yours.AsSlice())
	b = append(b, cookie...)
	b = append(b, 53, 1, kind, 54, 4)
	b = append(b, server.AsSlice()...)
	b = append(b, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 3, 4)
	return append(append(b, server.AsSlice()...), 255)
}

var (
	gateway = netip.MustParseAddr("10.0.0.1")
	guest   = netip.MustParseAddr("10.0.0.110")
	card    = net.HardwareAddr{0x52, 0x54, 0, 0x72, 0x69, 1}
)

// bootROM is a machine with nothing but a card that boots by DHCP.
func bootROM(t *testing.T, sw *lan.Switch) *vm.Machine {
	t.Helper()
	if _, err := vm.FindQEMU(); err != nil {
		if strings.Contains(","+os.Getenv("RIG_REQUIRE")+",", ",qemu,") {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	port, cable, err := sw.Plug("guest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	m, err := vm.Start(t.Context(), vm.Config{Name: "ipxe", Firmware: vm.BIOS, Accel: "tcg", CPUs: 1, Memory: 64 << 20, Dir: t.TempDir(),
		NICs: []vm.NIC{{MAC: card.String(), Cable: cable, BootIndex: 1}}})
	cable.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.PowerOff)
	return m
}

// The boot ROM of a real QEMU gets an address over a cable and answers pings at it.
func TestQEMU(t *testing.T) {
	sw := lan.New(1)
	out, err := lan.NewHost(sw, "gateway", net.HardwareAddr{2, 0, 0, 0, 0, 1}, gateway)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	said := make(chan lan.Packet, 64)
	defer sw.Tap(func(s lan.Seen) {
		if p, err := lan.ParsePacket(s.Frame); err == nil && p.DstPort == 67 && s.Port == "guest" {
			said <- p
		}
	})()
	m := bootROM(t, sw)
	limit := time.After(time.Minute)
	for acknowledged := false; !acknowledged; {
		select {
		case p := <-said:
			if !bytes.Equal(p.SrcMAC, card) {
				t.Fatalf("%v comes from %v", p, p.SrcMAC)
			}
			reply := dhcp(p.Payload, gateway, guest)
			if reply == nil {
				continue
			}
			if err := out.Inject(t.Context(), lan.Packet{DstMAC: lan.Broadcast, Src: gateway, Dst: netip.MustParseAddr("255.255.255.255"),
				Proto: lan.UDP, SrcPort: 67, DstPort: 68, Payload: reply}); err != nil {
				t.Fatal(err)
			}
			acknowledged = bytes.Contains(reply, []byte{53, 1, 5})
		case <-m.Done():
			t.Fatalf("the machine ended: %v", m.Wait(t.Context()))
		case <-limit:
			t.Skip("no DHCP from the boot ROM: there may be none for this card")
		}
	}
	got := lan.Silent
	for try := 0; try < 10 && got != lan.Open; try++ {
		if got, err = out.Ping(t.Context(), netip.MustParseAddr("8.8.4.4"), guest, 2*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if got != lan.Open {
		t.Errorf("ping: %v", got)
	}
	if mac, err := out.Resolve(t.Context(), guest); err != nil || !bytes.Equal(mac, card) {
		t.Errorf("ARP: %v %v", mac, err)
	}
}
