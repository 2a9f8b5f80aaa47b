package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/rig-freebsd/rig/internal/diag"
	"golang.org/x/sys/unix"
)

// socket is one of UDP at a port of all addresses, for broadcasts of one interface.
type socket struct {
	conn *net.UDPConn
	seg  segment
}

// listen opens a socket at a port. A shared one may have others beside it, which hear
// the same broadcasts.
func listen(ctx context.Context, seg segment, port int, shared bool) (*socket, error) {
	reuse := 0
	if shared {
		reuse = 1
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				bind(int(fd), seg.iface))
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return nil, listenHint(err)
	}
	return &socket{conn.(*net.UDPConn), seg}, nil
}

// listenHint adds what can be done about a port that is not to be had.
func listenHint(err error) error {
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return diag.Hint(err, "ports below 1024 and DHCP are root's: run it with sudo or doas; or let servers that run already do it, with --dhcp off and what --print dnsmasq and nginx say")
	case errors.Is(err, unix.EADDRINUSE):
		return diag.Hint(err, "another server has this port: stop it, or let it serve the directory, with --dhcp off and what --print dnsmasq and nginx say")
	}
	return err
}

// receive waits for a packet that came by the interface.
func (s *socket) receive(b []byte) (n int, from netip.AddrPort, err error) {
	oob := make([]byte, 256)
	for {
		n, noob, _, from, err := s.conn.ReadMsgUDPAddrPort(b, oob)
		if err != nil || cameBy(oob[:noob], s.seg.iface) {
			return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
		}
	}
}

// broadcast sends to everyone on the interface's network.
func (s *socket) broadcast(b []byte, port int) error {
	_, err := s.conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(everyone(s.seg.prefix), uint16(port)))
	return err
}

// serveDHCP answers packets until the socket is closed. to says where an answer
// goes; not valid is a broadcast to clients.
func (s *Server) serveDHCP(sock *socket, answer func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4,
	to func(p *dhcpv4.DHCPv4, from netip.AddrPort) netip.AddrPort) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := sock.receive(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			s.logf("DHCP: receive: %v", err)
			if !passing(err) {
				return fmt.Errorf("receive DHCP: %w", err)
			}
			continue
		}
		req := decode(buf[:n])
		if req == nil {
			continue
		}
		p := answer(req)
		if p == nil {
			continue
		}
		if addr := to(p, from); addr.IsValid() {
			_, err = sock.conn.WriteToUDPAddrPort(p.ToBytes(), addr)
		} else {
			err = sock.broadcast(p.ToBytes(), s.o.Ports.Client)
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			s.logf("DHCP: answer %v: %v", req.ClientHWAddr, err)
		}
	}
}

// passing is for errors of a socket that tell of an earlier packet, or of a network
// that may come back.
func passing(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENOBUFS, unix.EINTR, unix.EMSGSIZE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Server) openDHCP() (service, error) {
	if s.o.DHCP == Off {
		return service{}, nil
	}
	sock, err := listen(context.Background(), s.seg, s.o.Ports.DHCP, s.o.DHCP == Proxy)
	if err != nil {
		return service{}, fmt.Errorf("DHCP server: %w", err)
	}
	answer := func(p *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 { return s.dhcp.answer(p, time.Now()) }
	// Who has an address is answered there. All others are told by broadcast: they
	// cannot answer ARP yet.
	to := func(p *dhcpv4.DHCPv4, _ netip.AddrPort) netip.AddrPort {
		a := toAddr(p.ClientIPAddr)
		if !a.IsValid() || !s.seg.prefix.Contains(a) {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(a, uint16(s.o.Ports.Client))
	}
	return service{func(context.Context) error { return s.serveDHCP(sock, answer, to) }, func() { sock.conn.Close() }}, nil
}

// openBootServer is for port 4011.
func (s *Server) openBootServer() (service, error) {
	if s.o.DHCP != Proxy {
		return service{}, nil
	}
	sock, err := listen(context.Background(), s.seg, s.o.Ports.Proxy, false)
	if err != nil {
		return service{}, fmt.Errorf("PXE boot server: %w", err)
	}
	to := func(_ *dhcpv4.DHCPv4, from netip.AddrPort) netip.AddrPort { return from }
	return service{func(context.Context) error { return s.serveDHCP(sock, s.dhcp.askBootServer, to) }, func() { sock.conn.Close() }}, nil
}
