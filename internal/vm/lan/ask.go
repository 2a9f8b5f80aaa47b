package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// askAgain is when a question that may have been lost is repeated.
const askAgain = time.Second

// asker is the MAC address of who asks, a locally administered one; the last
// two bytes count, so that no two questions come from one address.
var asker = net.HardwareAddr{0x02, 0x72, 0x69, 0x67, 0, 0}

// Ask asks all of the switch, on a VLAN or (0) without a tag, who has an address,
// as one who has none (RFC 5227), again and again until somebody answers or ctx
// ends. Then the error wraps ErrNobody.
func (s *Switch) Ask(ctx context.Context, vlan uint16, a netip.Addr) (net.HardwareAddr, error) {
	hw := slices.Clone(asker)
	n := s.asked.Add(1)
	hw[4], hw[5] = byte(n>>8), byte(n)
	p := s.Attach("ask")
	defer p.Close()
	question := ARP{VLAN: vlan, Op: ARPRequest, SenderMAC: hw, TargetMAC: make(net.HardwareAddr, 6),
		Sender: netip.IPv4Unspecified(), Target: a}.Frame()
	for {
		if err := p.Send(question); err != nil {
			return nil, err
		}
		answer, err := p.answer(ctx, vlan, a)
		if err == nil {
			return answer.SenderMAC, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("ask for %v: %w: %w", a, ErrNobody, context.Cause(ctx))
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
	}
}

// answer waits for an ARP reply from the owner of a until it is time to ask again.
func (p *Port) answer(ctx context.Context, vlan uint16, a netip.Addr) (ARP, error) {
	ctx, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	for {
		frame, err := p.Recv(ctx)
		if err != nil {
			return ARP{}, err
		}
		if r, err := ParseARP(frame); err == nil && r.Op == ARPReply && r.Sender == a && r.VLAN == vlan {
			return r, nil
		}
	}
}
