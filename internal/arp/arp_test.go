package arp

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
)

// Frames as tcpdump -XX shows them.
func TestFrames(t *testing.T) {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0x72, 0x69, 1}
	me, gw := netip.MustParseAddr("10.0.0.110"), netip.MustParseAddr("10.0.0.1")
	const asked = "ffffffffffff" + "525400726901" + "0806" + "0001" + "0800" + "06" + "04" + "0001" +
		"525400726901" + "0a00006e" + "000000000000" + "0a000001" + "000000000000000000000000000000000000"
	if got := hex.EncodeToString(request(mac, me, gw)); got != asked {
		t.Errorf("request\n%s, want\n%s", got, asked)
	}
	if got := hex.EncodeToString(request(mac, netip.Addr{}, gw)[28:32]); got != "00000000" {
		t.Errorf("a machine without an address asks as %s", got)
	}
	const said = "525400726901" + "525500000002" + "0806" + "0001" + "0800" + "06" + "04" + "0002" +
		"525500000002" + "0a000001" + "525400726901" + "0a00006e"
	reply, _ := hex.DecodeString(said)
	if got, ok := answer(reply, gw); !ok || got.String() != "52:55:00:00:00:02" {
		t.Errorf("answer: %v %v", got, ok)
	}
	if got, ok := answer(reply, me); ok {
		t.Errorf("%v answers for somebody else", got)
	}
	for _, change := range []struct {
		at int
		to byte
	}{{13, 0x00}, {17, 0xdd}, {18, 8}, {21, 1}, {31, 9}} {
		b := append([]byte(nil), reply...)
		b[change.at] = change.to
		if got, ok := answer(b, gw); ok {
			t.Errorf("byte %d = %d is an answer: %v", change.at, change.to, got)
		}
	}
	if _, ok := answer(reply[:41], gw); ok {
		t.Error("a short frame is an answer")
	}
}
