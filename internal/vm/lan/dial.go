package lan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// ErrNobody is an address nobody on the network answers for by ARP.
var ErrNobody = errors.New("nobody has this address")

// ErrRefused is a connection that was answered with RST or an ICMP error.
var ErrRefused = errors.New("refused")

// Answer is what a host says to the first packet of a connection.
type Answer int

// The answers. Silent is none within the time given, from an address that
// somebody has.
const (
	Silent Answer = iota
	Open
	Refused
	Nobody
)

func (a Answer) String() string { return [...]string{"silent", "open", "refused", "nobody"}[a] }

// Resolve asks by ARP for the MAC address of a.
func (h *Host) Resolve(ctx context.Context, a netip.Addr) (net.HardwareAddr, error) {
	if !a.Is4() {
		return nil, fmt.Errorf("resolve %v: not an IPv4 address", a)
	}
	result := make(chan stack.LinkResolutionResult, 1)
	err := h.stack.GetLinkAddress(nicID, address(a), address(h.first), ipv4.ProtocolNumber,
		func(r stack.LinkResolutionResult) { result <- r })
	if _, wait := err.(*tcpip.ErrWouldBlock); err != nil && !wait {
		return nil, fmt.Errorf("resolve %v: %v", a, err)
	}
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, fmt.Errorf("resolve %v: %w", a, ErrNobody)
		}
		return net.HardwareAddr(r.LinkAddress), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("resolve %v: %w", a, context.Cause(ctx))
	}
}

// source makes src an address of the host and finds dst's MAC address, which is
// asked for with the host's first address, as a router would.
func (h *Host) source(ctx context.Context, src, dst netip.Addr) error {
	if err := h.AddAddr(src); err != nil {
		return err
	}
	_, err := h.Resolve(ctx, dst)
	return err
}

// Dial connects by TCP from src, which becomes an address of the host, to dst.
// The error wraps ErrRefused, ErrNobody or that of ctx.
func (h *Host) Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	if err := h.source(ctx, src, dst.Addr()); err != nil {
		return nil, fmt.Errorf("dial %v from %v: %w", dst, src, err)
	}
	c, err := gonet.DialTCPWithBind(ctx, h.stack, tcpip.FullAddress{NIC: nicID, Addr: address(src)}, full(dst), ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("dial %v from %v: %w", dst, src, refused(err))
	}
	return c, nil
}

// refused makes the stack's word for an answer ErrRefused.
func refused(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) {
		return err
	}
	for _, r := range []tcpip.Error{&tcpip.ErrConnectionRefused{}, &tcpip.ErrConnectionReset{},
		&tcpip.ErrHostUnreachable{}, &tcpip.ErrNetworkUnreachable{}} {
		if op.Err.Error() == r.String() {
			return fmt.Errorf("%w: %s", ErrRefused, r)
		}
	}
	return err
}

// Probe begins a TCP connection and hangs up. It waits for the answer up to limit.
func (h *Host) Probe(ctx context.Context, src netip.Addr, dst netip.AddrPort, limit time.Duration) (Answer, error) {
	inner, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := h.Dial(inner, src, dst)
	switch {
	case err == nil:
		return Open, c.Close()
	case errors.Is(err, ErrRefused):
		return Refused, nil
	case errors.Is(err, ErrNobody):
		return Nobody, nil
	case ctx.Err() == nil && inner.Err() != nil:
		return Silent, nil
	}
	return Silent, err
}

// Listen accepts TCP connections at an address, which the host gets, and port.
func (h *Host) Listen(at netip.AddrPort) (net.Listener, error) {
	if err := h.AddAddr(at.Addr()); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := gonet.ListenTCP(h.stack, full(at), ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listen at %v: %w", at, err)
	}
	return l, nil
}

// ListenUDP receives UDP at an address, which the host gets, and port.
func (h *Host) ListenUDP(at netip.AddrPort) (net.PacketConn, error) {
	if err := h.AddAddr(at.Addr()); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	local := full(at)
	c, err := gonet.DialUDP(h.stack, &local, nil, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listen at %v by UDP: %w", at, err)
	}
	return c, nil
}

// Ping sends one echo request from src, which becomes an address of the host, and
// waits for the reply up to limit: Open, Silent or Nobody.
func (h *Host) Ping(ctx context.Context, src, dst netip.Addr, limit time.Duration) (Answer, error) {
	inner, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := h.source(inner, src, dst); err != nil {
		switch {
		case errors.Is(err, ErrNobody):
			return Nobody, nil
		case ctx.Err() == nil && inner.Err() != nil:
			return Silent, nil
		}
		return Silent, fmt.Errorf("ping %v from %v: %w", dst, src, err)
	}
	c, err := h.echo(src, dst)
	if err != nil {
		return Silent, fmt.Errorf("ping %v from %v: %w", dst, src, err)
	}
	defer c.Close()
	defer context.AfterFunc(inner, func() { c.SetReadDeadline(time.Now()) })()
	request := header.ICMPv4(make([]byte, header.ICMPv4MinimumSize+32))
	request.SetType(header.ICMPv4Echo)
	if _, err := c.Write(request); err != nil {
		return Silent, fmt.Errorf("ping %v from %v: %w", dst, src, err)
	}
	if _, err := c.Read(make([]byte, mtu)); err != nil {
		return Silent, ctx.Err()
	}
	return Open, nil
}

// echo is a socket for echo requests.
func (h *Host) echo(src, dst netip.Addr) (net.Conn, error) {
	var wq waiter.Queue
	ep, terr := h.stack.NewEndpoint(icmp.ProtocolNumber4, ipv4.ProtocolNumber, &wq)
	if terr != nil {
		return nil, errors.New(terr.String())
	}
	terr = ep.Bind(tcpip.FullAddress{NIC: nicID, Addr: address(src)})
	if terr == nil {
		terr = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: address(dst)})
	}
	if terr != nil {
		ep.Close()
		return nil, errors.New(terr.String())
	}
	return gonet.NewUDPConn(&wq, ep), nil
}

// Relay connects what comes in at l with dst, from src, until l is closed.
// Connections that cannot be made are closed at once.
func (h *Host) Relay(ctx context.Context, l net.Listener, src netip.Addr, dst netip.AddrPort) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		in, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("relay to %v: %w", dst, err)
		}
		go func() {
			defer in.Close()
			limit, stop := context.WithTimeout(ctx, dialLimit)
			defer stop()
			out, err := h.Dial(limit, src, dst)
			if err != nil {
				return
			}
			defer out.Close()
			defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
			join(in, out)
		}()
	}
}

const dialLimit = 30 * time.Second

// join copies both ways until both sides have said their last.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	for _, d := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			io.Copy(d[0], d[1]) // an end is an end, whatever the reason
			if w, ok := d[0].(interface{ CloseWrite() error }); ok {
				w.CloseWrite()
			}
		})
	}
	both.Wait()
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: address(a.Addr()), Port: a.Port()}
}
