package pxe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/rig-freebsd/rig/internal/diag"
)

// How long to wait for other DHCP servers: dnsmasq looks for three seconds whether
// an address is in use before it offers it. It answers INFORM at once.
const (
	probeWait  = 3500 * time.Millisecond
	probeAgain = 1500 * time.Millisecond
)

// refuseSecond is an error when there is a DHCP server on the segment.
func (s *Server) refuseSecond(ctx context.Context) error {
	other, err := s.probe(ctx)
	if err != nil {
		return fmt.Errorf("look for another DHCP server on %s: %w", s.seg.iface.Name, err)
	}
	if !other.IsValid() {
		return nil
	}
	return diag.Hint(fmt.Errorf("serve %s: there is a DHCP server on this network already, at %v", s.seg.iface.Name, other),
		"--dhcp proxy leaves the addresses to it and only says what to boot; --dhcp off is for a server with the settings of --print dnsmasq")
}

// probe asks for an address, and as one who has it for the other settings; it
// returns who answers, the zero address when nobody does.
func (s *Server) probe(ctx context.Context) (netip.Addr, error) {
	sock, err := listen(ctx, s.seg, s.o.Ports.Client, true)
	if err != nil {
		return netip.Addr{}, err
	}
	defer sock.conn.Close()
	stop := context.AfterFunc(ctx, func() { sock.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var xid dhcpv4.TransactionID
	rand.Read(xid[:]) // does not fail
	end := time.Now().Add(probeWait)
	buf := make([]byte, 64<<10)
	for time.Now().Before(end) {
		for _, b := range s.questions(xid) {
			if err := sock.broadcast(b, s.o.Ports.DHCP); err != nil {
				return netip.Addr{}, err
			}
		}
		again := time.Now().Add(probeAgain)
		if end.Sub(again) < probeAgain {
			again = end
		}
		other, err := s.await(ctx, sock, xid, again, buf)
		if err != nil || other.IsValid() {
			return other, err
		}
	}
	return netip.Addr{}, nil
}

// questions are DISCOVER and INFORM.
func (s *Server) questions(xid dhcpv4.TransactionID) [][]byte {
	hw := s.seg.iface.HardwareAddr
	if len(hw) != 6 {
		hw = []byte{2, 0, 0, 0, 0, 1}
	}
	p := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: hw, TransactionID: xid,
		Options: dhcpv4.Options{}}
	p.SetBroadcast()
	p.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover))
	discover := p.ToBytes()
	p.ClientIPAddr = s.seg.addr.AsSlice()
	p.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeInform))
	return [][]byte{discover, p.ToBytes()}
}

// await waits for an answer until a time.
func (s *Server) await(ctx context.Context, sock *socket, xid dhcpv4.TransactionID, until time.Time, buf []byte) (netip.Addr, error) {
	sock.conn.SetReadDeadline(until)
	for {
		if err := context.Cause(ctx); err != nil {
			return netip.Addr{}, err
		}
		n, from, err := sock.receive(buf)
		var timeout interface{ Timeout() bool }
		if errors.As(err, &timeout) && timeout.Timeout() {
			return netip.Addr{}, context.Cause(ctx)
		}
		if err != nil {
			if passing(err) {
				continue
			}
			return netip.Addr{}, err
		}
		p, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || p.OpCode != dhcpv4.OpcodeBootReply || p.TransactionID != xid {
			continue
		}
		if p.MessageType() == dhcpv4.MessageTypeOffer && !toAddr(p.YourIPAddr).IsValid() {
			continue // of a proxy
		}
		if id := toAddr(p.ServerIdentifier()); id.IsValid() {
			return id, nil
		}
		return from.Addr(), nil
	}
}
