package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Host is a TCP/IP stack at a port: ARP, IPv4, ICMP, TCP, UDP. It has any number
// of addresses, all at one MAC address, and sees the whole world as directly
// reachable. With a router's address for its first one it is, to the
// machines that send to that router, all the hosts behind it.
//
// It answers as a system does on which nothing runs: echo requests with replies,
// TCP with RST, UDP with ICMP. It has those addresses that were given to it, and
// those that connections were made from and listeners are at.
type Host struct {
	port  *Port
	hw    net.HardwareAddr
	first netip.Addr
	stack *stack.Stack
	ep    *channel.Endpoint
	stop  context.CancelFunc
	work  sync.WaitGroup

	mu   sync.Mutex
	have map[netip.Addr]bool
}

const (
	nicID = 1
	mtu   = 1500
	// hostQueue is the number of packets that wait to be sent.
	hostQueue = 1024
)

// NewHost attaches a host to a switch. hw is its MAC address; with the first of
// addrs, IPv4, it asks for those of others.
func NewHost(sw *Switch, name string, hw net.HardwareAddr, addrs ...netip.Addr) (*Host, error) {
	if len(hw) != 6 || hw[0]&1 != 0 {
		return nil, fmt.Errorf("host %s: %v is not the MAC address of a card", name, hw)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("host %s: no address", name)
	}
	h := &Host{hw: hw, first: addrs[0], have: map[netip.Addr]bool{}}
	h.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	h.ep = channel.New(hostQueue, mtu+headerSize, tcpip.LinkAddress(hw))
	if err := h.stack.CreateNIC(nicID, ethernet.New(h.ep)); err != nil {
		return nil, fmt.Errorf("host %s: %v", name, err)
	}
	all, err := tcpip.NewSubnet(tcpip.AddrFrom4([4]byte{}), tcpip.MaskFromBytes(make([]byte, 4)))
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	h.stack.SetRouteTable([]tcpip.Route{{Destination: all, NIC: nicID}})
	for _, a := range addrs {
		if err := h.AddAddr(a); err != nil {
			return nil, fmt.Errorf("host %s: %w", name, err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	h.port, h.stop = sw.Attach(name), stop
	h.work.Go(func() { h.receive(ctx) })
	h.work.Go(func() { h.send(ctx) })
	return h, nil
}

// AddAddr gives the host another address. One that it has is fine.
func (h *Host) AddAddr(a netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.have[a] {
		return nil
	}
	if !a.Is4() || a.IsUnspecified() || a.IsMulticast() {
		return fmt.Errorf("address %v: not the IPv4 address of a host", a)
	}
	properties := stack.AddressProperties{PEB: stack.NeverPrimaryEndpoint}
	if a == h.first {
		properties.PEB = stack.CanBePrimaryEndpoint
	}
	if err := h.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: address(a).WithPrefix()}, properties); err != nil {
		return fmt.Errorf("address %v: %v", a, err)
	}
	h.have[a] = true
	return nil
}

// Inject sends a packet with whatever addresses it has. Without a SrcMAC it comes
// from the host's. Without a DstMAC the owner of p.Dst is asked for first.
func (h *Host) Inject(ctx context.Context, p Packet) error {
	if p.SrcMAC == nil {
		p.SrcMAC = h.hw
	}
	if p.DstMAC == nil {
		var err error
		if p.DstMAC, err = h.Resolve(ctx, p.Dst); err != nil {
			return err
		}
	}
	return h.port.Send(p.Frame())
}

// receive hands frames to the stack, those that a card would take.
func (h *Host) receive(ctx context.Context) {
	for {
		frame, err := h.port.Recv(ctx)
		if err != nil {
			return
		}
		if frame[0]&1 == 0 && mac(frame[:6]) != mac(h.hw) {
			continue
		}
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		h.ep.InjectInbound(0, p) // the protocol is read from the frame
		p.DecRef()
	}
}

// send puts on the wire what the stack says.
func (h *Host) send(ctx context.Context) {
	for {
		p := h.ep.ReadContext(ctx)
		if p == nil {
			return
		}
		view := p.ToView()
		err := h.port.Send(view.AsSlice())
		view.Release()
		p.DecRef()
		if errors.Is(err, ErrClosed) {
			return
		}
	}
}

// Close ends the host's connections, without telling the others, and its port.
func (h *Host) Close() {
	h.stop()
	h.port.Close()
	h.work.Wait()
	h.stack.Close()
	h.ep.Close()
}
