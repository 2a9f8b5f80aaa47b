// Package arp asks on a network segment who has an IPv4 address (RFC 826),
// without a socket of the kernel's IP stack: no firewall and no route is in the
// way, and the asking interface needs no address. FreeBSD's bpf(4) sends and
// receives; elsewhere Who fails.
package arp

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"
)

// ErrSilent is a question that nobody answered in time.
var ErrSilent = errors.New("no answer by ARP")

// interval is the time between two questions.
const interval = time.Second

const (
	headerLen = 14 // of Ethernet
	frameLen  = 60 // the least an Ethernet frame has, without its checksum
	etherARP  = 0x0806
	opRequest = 1
	opReply   = 2
)

// packet is the header of Ethernet and an ARP packet for IPv4.
type packet struct {
	Dst, Src             [6]byte
	EtherType            uint16
	Hardware, Protocol   uint16
	HardwareLen, AddrLen uint8
	Op                   uint16
	SenderMAC            [6]byte
	Sender               [4]byte
	TargetMAC            [6]byte
	Target               [4]byte
}

var _ [1]byte = [1 + headerLen + 28 - packetLen]byte{}

const packetLen = 42

// What arp_freebsd.go sends and reads builds everywhere, so that its tests run
// everywhere.

// request is the frame that asks everyone on the segment for the owner of target.
func request(mac net.HardwareAddr, from, target netip.Addr) []byte {
	p := packet{EtherType: etherARP, Hardware: 1, Protocol: 0x0800, HardwareLen: 6, AddrLen: 4, Op: opRequest, Target: target.As4()}
	for i := range p.Dst {
		p.Dst[i] = 0xff
	}
	copy(p.Src[:], mac)
	p.SenderMAC = p.Src
	if from.IsValid() {
		p.Sender = from.As4()
	}
	b, err := binary.Append(make([]byte, 0, frameLen), binary.BigEndian, p)
	if err != nil {
		panic(err) // packet has a fixed size
	}
	return b[:frameLen]
}

// answer is the MAC address of target's owner if frame says so.
func answer(frame []byte, target netip.Addr) (net.HardwareAddr, bool) {
	var p packet
	if _, err := binary.Decode(frame, binary.BigEndian, &p); err != nil {
		return nil, false
	}
	if p.EtherType != etherARP || p.Protocol != 0x0800 || p.HardwareLen != 6 || p.AddrLen != 4 || p.Op != opReply || p.Sender != target.As4() {
		return nil, false
	}
	return net.HardwareAddr(p.SenderMAC[:]), true
}

// Who asks on the interface for the owner of target, once a second until ctx ends,
// which is ErrSilent when it was a deadline. from is the asking address; the zero
// Addr asks as a machine without one does.
func Who(ctx context.Context, ifname string, from, target netip.Addr) (net.HardwareAddr, error) {
	mac, err := who(ctx, ifname, from, target)
	if errors.Is(err, context.DeadlineExceeded) {
		err = ErrSilent
	}
	return mac, err
}
