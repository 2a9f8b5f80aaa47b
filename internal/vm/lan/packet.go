package lan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Protocols of IPv4.
const (
	ICMP uint8 = 1
	TCP  uint8 = 6
	UDP  uint8 = 17
)

// Flags of TCP.
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Types of ICMP.
const (
	EchoReply   uint8 = 0
	Unreachable uint8 = 3
	EchoRequest uint8 = 8
)

// Operations of ARP.
const (
	ARPRequest uint16 = 1
	ARPReply   uint16 = 2
)

// Broadcast is everybody's MAC address.
var Broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Packet is an IPv4 packet in a frame, as a value. Nothing in it has to be true.
type Packet struct {
	SrcMAC, DstMAC net.HardwareAddr
	VLAN           uint16 // 0: without a tag
	Src, Dst       netip.Addr
	TTL            uint8 // 64 when 0
	Proto          uint8

	SrcPort, DstPort uint16 // TCP, UDP
	Flags            uint8  // TCP
	Seq, Ack         uint32 // TCP

	Type, Code   uint8  // ICMP
	ID, Sequence uint16 // ICMP echo

	Payload []byte
}

// String is "203.0.113.5:4711 > 10.0.0.110:443 tcp S".
func (p Packet) String() string {
	switch p.Proto {
	case TCP:
		var flags strings.Builder
		for i, c := range "FSRP." {
			if p.Flags&(1<<i) != 0 {
				flags.WriteRune(c)
			}
		}
		return fmt.Sprintf("%v:%d > %v:%d tcp %s", p.Src, p.SrcPort, p.Dst, p.DstPort, flags.String())
	case UDP:
		return fmt.Sprintf("%v:%d > %v:%d udp %d", p.Src, p.SrcPort, p.Dst, p.DstPort, len(p.Payload))
	case ICMP:
		return fmt.Sprintf("%v > %v icmp %d/%d", p.Src, p.Dst, p.Type, p.Code)
	}
	return fmt.Sprintf("%v > %v proto %d", p.Src, p.Dst, p.Proto)
}

// Frame is the packet as bytes, with correct checksums.
func (p Packet) Frame() []byte {
	l4 := p.transport()
	b := etherHeader(p.DstMAC, p.SrcMAC, p.VLAN, uint16(header.IPv4ProtocolNumber))
	at := len(b)
	b = append(b, make([]byte, header.IPv4MinimumSize)...)
	if p.TTL == 0 {
		p.TTL = 64
	}
	ip := header.IPv4(b[at:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(header.IPv4MinimumSize + len(l4)), TTL: p.TTL, Protocol: p.Proto,
		SrcAddr: address(p.Src), DstAddr: address(p.Dst)})
	ip.SetChecksum(^ip.CalculateChecksum())
	return append(b, l4...)
}

// transport is the packet's content.
func (p Packet) transport() []byte {
	pseudo := func(n int) uint16 {
		sum := header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(p.Proto), address(p.Src), address(p.Dst), uint16(n))
		return checksum.Checksum(p.Payload, sum)
	}
	switch p.Proto {
	case TCP:
		h := header.TCP(make([]byte, header.TCPMinimumSize))
		h.Encode(&header.TCPFields{SrcPort: p.SrcPort, DstPort: p.DstPort, SeqNum: p.Seq, AckNum: p.Ack,
			DataOffset: header.TCPMinimumSize, Flags: header.TCPFlags(p.Flags), WindowSize: 0xffff})
		h.SetChecksum(^h.CalculateChecksum(pseudo(len(h) + len(p.Payload))))
		return append(h, p.Payload...)
	case UDP:
		h := header.UDP(make([]byte, header.UDPMinimumSize))
		h.Encode(&header.UDPFields{SrcPort: p.SrcPort, DstPort: p.DstPort, Length: uint16(len(h) + len(p.Payload))})
		h.SetChecksum(^h.CalculateChecksum(pseudo(len(h) + len(p.Payload))))
		return append(h, p.Payload...)
	case ICMP:
		h := header.ICMPv4(make([]byte, header.ICMPv4MinimumSize))
		h.SetType(header.ICMPv4Type(p.Type))
		h.SetCode(header.ICMPv4Code(p.Code))
		h.SetIdent(p.ID)
		h.SetSequence(p.Sequence)
		h.SetChecksum(header.ICMPv4Checksum(h, checksum.Checksum(p.Payload, 0)))
		return append(h, p.Payload...)
	}
	return p.Payload
}

var errNotIPv4 = errors.New("not an IPv4 packet")

// ParsePacket reads the IPv4 packet in a frame. Of later fragments, and of other
// protocols than ICMP, TCP and UDP, all is Payload.
func ParsePacket(frame []byte) (Packet, error) {
	var p Packet
	var kind uint16
	rest, err := p.header(frame, &kind)
	if err != nil {
		return p, err
	}
	ip := header.IPv4(rest)
	if kind != uint16(header.IPv4ProtocolNumber) || !ip.IsValid(len(rest)) {
		return p, errNotIPv4
	}
	p.Src, p.Dst = netipOf(ip.SourceAddress()), netipOf(ip.DestinationAddress())
	p.TTL, p.Proto, p.Payload = ip.TTL(), ip.Protocol(), ip.Payload()
	if ip.FragmentOffset() != 0 {
		return p, nil
	}
	switch b := p.Payload; {
	case p.Proto == TCP && len(b) >= header.TCPMinimumSize:
		h := header.TCP(b)
		if int(h.DataOffset()) < header.TCPMinimumSize || int(h.DataOffset()) > len(b) {
			return p, fmt.Errorf("TCP header of %d bytes in %d", h.DataOffset(), len(b))
		}
		p.SrcPort, p.DstPort, p.Flags = h.SourcePort(), h.DestinationPort(), uint8(h.Flags())
		p.Seq, p.Ack, p.Payload = h.SequenceNumber(), h.AckNumber(), h.Payload()
	case p.Proto == UDP && len(b) >= header.UDPMinimumSize:
		h := header.UDP(b)
		p.SrcPort, p.DstPort, p.Payload = h.SourcePort(), h.DestinationPort(), b[header.UDPMinimumSize:]
	case p.Proto == ICMP && len(b) >= header.ICMPv4MinimumSize:
		h := header.ICMPv4(b)
		p.Type, p.Code, p.ID, p.Sequence = uint8(h.Type()), uint8(h.Code()), h.Ident(), h.Sequence()
		p.Payload = b[header.ICMPv4MinimumSize:]
	}
	return p, nil
}

// header reads the header of a frame and returns what follows it.
func (p *Packet) header(frame []byte, kind *uint16) (rest []byte, err error) {
	if len(frame) < headerSize {
		return nil, fmt.Errorf("frame of %d bytes", len(frame))
	}
	p.DstMAC, p.SrcMAC = net.HardwareAddr(frame[:6]), net.HardwareAddr(frame[6:12])
	*kind, rest = binary.BigEndian.Uint16(frame[12:]), frame[headerSize:]
	if *kind == etherVLAN && len(rest) >= 4 {
		p.VLAN = binary.BigEndian.Uint16(rest) & 0xfff
		*kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	return rest, nil
}

const etherVLAN = 0x8100

// etherHeader is the header of a frame.
func etherHeader(dst, src net.HardwareAddr, vlan, kind uint16) []byte {
	b := make([]byte, 12, 128)
	copy(b, dst)
	copy(b[6:], src)
	if vlan != 0 {
		b = binary.BigEndian.AppendUint16(b, etherVLAN)
		b = binary.BigEndian.AppendUint16(b, vlan)
	}
	return binary.BigEndian.AppendUint16(b, kind)
}

// ARP is a question or answer about who has an IPv4 address, in a frame from
// SenderMAC to everybody (ARPRequest) or to TargetMAC.
type ARP struct {
	VLAN                 uint16
	Op                   uint16
	SenderMAC, TargetMAC net.HardwareAddr
	Sender, Target       netip.Addr
}

// Frame is the packet as bytes.
func (a ARP) Frame() []byte {
	to := a.TargetMAC
	if a.Op == ARPRequest {
		to = Broadcast
	}
	b := etherHeader(to, a.SenderMAC, a.VLAN, uint16(header.ARPProtocolNumber))
	at := len(b)
	b = append(b, make([]byte, header.ARPSize)...)
	h := header.ARP(b[at:])
	h.SetIPv4OverEthernet()
	h.SetOp(header.ARPOp(a.Op))
	copy(h.HardwareAddressSender(), a.SenderMAC)
	copy(h.HardwareAddressTarget(), a.TargetMAC)
	copy(h.ProtocolAddressSender(), a.Sender.AsSlice())
	copy(h.ProtocolAddressTarget(), a.Target.AsSlice())
	return b
}

// ParseARP reads an ARP packet for IPv4 in a frame.
func ParseARP(frame []byte) (ARP, error) {
	var p Packet
	var kind uint16
	rest, err := p.header(frame, &kind)
	if err != nil {
		return ARP{}, err
	}
	h := header.ARP(rest)
	if kind != uint16(header.ARPProtocolNumber) || !h.IsValid() {
		return ARP{}, errors.New("not an ARP packet")
	}
	sender, _ := netip.AddrFromSlice(h.ProtocolAddressSender())
	target, _ := netip.AddrFromSlice(h.ProtocolAddressTarget())
	return ARP{VLAN: p.VLAN, Op: uint16(h.Op()), Sender: sender, Target: target,
		SenderMAC: net.HardwareAddr(h.HardwareAddressSender()), TargetMAC: net.HardwareAddr(h.HardwareAddressTarget())}, nil
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }

func netipOf(a tcpip.Address) netip.Addr { return netip.AddrFrom4(a.As4()) }
