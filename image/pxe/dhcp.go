package pxe

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// dhcp decides what each packet is answered; its methods touch no socket.
type dhcp struct {
	mode   Mode
	server netip.Addr
	prefix netip.Prefix
	router netip.Addr
	dns    []netip.Addr
	lease  time.Duration
	rules  []Rule
	expand *strings.Replacer
	leases *leases
	emit   func(Event)
	done   func(mac string) bool // not to be booted any more; may be nil
}

func newDHCP(o Options, seg segment, emit func(Event)) *dhcp {
	return &dhcp{mode: o.DHCP, server: seg.addr, prefix: seg.prefix, router: o.Router, dns: o.DNS, lease: o.Lease, rules: o.Rules,
		expand: expander(seg.addr, o.Ports.HTTP), leases: newLeases(o.Range, seg.addr), emit: emit}
}

// decode reads a request from Ethernet; nil is for what is none.
func decode(b []byte) *dhcpv4.DHCPv4 {
	p, err := dhcpv4.FromBytes(b)
	if err != nil || p.OpCode != dhcpv4.OpcodeBootRequest || p.HWType != iana.HWTypeEthernet || len(p.ClientHWAddr) != 6 ||
		!p.GatewayIPAddr.IsUnspecified() || len(p.GetOneOption(dhcpv4.OptionDHCPMessageType)) != 1 {
		return nil
	}
	return p
}

// answer is the reply to a packet at the DHCP server's port, nil for none.
func (d *dhcp) answer(req *dhcpv4.DHCPv4, now time.Time) *dhcpv4.DHCPv4 {
	c := clientOf(req)
	rule := d.match(c)
	e := Event{MAC: c.mac}
	if rule != nil {
		e.Client = rule.Name
	}
	if req.MessageType() == dhcpv4.MessageTypeDiscover {
		e.Phase = Discover
		if rule == nil && c.boots() && !d.finished(c) {
			e.Err = unknown(c)
		}
		if d.mode == Full || c.boots() {
			d.emit(e)
		}
	}
	if d.mode == Proxy {
		return d.proxy(req, rule, e)
	}
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return d.discover(req, rule, e, now)
	case dhcpv4.MessageTypeRequest:
		return d.request(req, rule, e, now)
	case dhcpv4.MessageTypeInform:
		return d.reply(req, dhcpv4.MessageTypeAck, netip.Addr{}, rule)
	case dhcpv4.MessageTypeRelease:
		d.leases.release(c.mac)
	case dhcpv4.MessageTypeDecline:
		d.leases.decline(c.mac, now)
	}
	return nil
}

func (d *dhcp) finished(c client) bool { return d.done != nil && d.done(c.mac) }

// match is the rule for a client that is still to be booted.
func (d *dhcp) match(c client) *Rule {
	if d.finished(c) {
		return nil
	}
	return match(d.rules, c)
}

func unknown(c client) error {
	if len(c.arch) == 0 {
		return fmt.Errorf("class %q, without an architecture: nothing to boot", c.class)
	}
	name := archNames[c.arch[0]]
	if name == "" {
		name = "unknown"
	}
	return fmt.Errorf("architecture %d (%s): nothing to boot", c.arch[0], name)
}

func (d *dhcp) discover(req *dhcpv4.DHCPv4, rule *Rule, e Event, now time.Time) *dhcpv4.DHCPv4 {
	ip, ok := d.leases.offer(e.MAC, toAddr(req.RequestedIPAddress()), now)
	e.Phase, e.IP = Offer, ip
	if !ok {
		e.Err = fmt.Errorf("no address left in %v", d.leases.r)
		d.emit(e)
		return nil
	}
	d.emit(e)
	return d.reply(req, dhcpv4.MessageTypeOffer, ip, rule)
}

// request is RFC 2131, 4.3.2. This server is the only one on the segment, so what
// it does not agree to is refused rather than left to others.
func (d *dhcp) request(req *dhcpv4.DHCPv4, rule *Rule, e Event, now time.Time) *dhcpv4.DHCPv4 {
	want := toAddr(req.RequestedIPAddress())
	if other := toAddr(req.ServerIdentifier()); other.IsValid() && other != d.server {
		d.leases.release(e.MAC)
		e.Phase, e.IP = Elsewhere, other
		d.emit(e)
		return nil
	}
	if !want.IsValid() {
		want = toAddr(req.ClientIPAddr) // renewing
	}
	if !d.leases.bind(e.MAC, want, now.Add(d.lease), now) {
		return d.refuse(req)
	}
	e.Phase, e.IP = Address, want
	d.emit(e)
	return d.reply(req, dhcpv4.MessageTypeAck, want, rule)
}

func (d *dhcp) refuse(req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	p := d.empty(req, dhcpv4.MessageTypeNak)
	p.SetBroadcast()
	return p
}

// empty is an answer without anything in it.
func (d *dhcp) empty(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	p := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootReply, HWType: req.HWType, TransactionID: req.TransactionID, Flags: req.Flags,
		ClientHWAddr: req.ClientHWAddr, ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero,
		GatewayIPAddr: net.IPv4zero, Options: dhcpv4.Options{}}
	p.UpdateOption(dhcpv4.OptMessageType(kind))
	p.UpdateOption(dhcpv4.OptServerIdentifier(d.server.AsSlice()))
	if id := req.GetOneOption(dhcpv4.OptionClientIdentifier); id != nil { // RFC 6842
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, id))
	}
	if id := req.GetOneOption(dhcpv4.OptionClientMachineIdentifier); id != nil { // RFC 4578
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	}
	return p
}

// reply is an answer with addresses, without ip one to INFORM.
func (d *dhcp) reply(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType, ip netip.Addr, rule *Rule) *dhcpv4.DHCPv4 {
	p := d.empty(req, kind)
	p.ClientIPAddr = req.ClientIPAddr
	if ip.IsValid() {
		p.YourIPAddr = ip.AsSlice()
		p.UpdateOption(dhcpv4.OptIPAddressLeaseTime(d.lease))
	}
	p.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(d.prefix.Bits(), 32)))
	_, high := hosts(d.prefix)
	p.UpdateOption(dhcpv4.OptBroadcastAddress(addrOf(high + 1).AsSlice()))
	if d.router.IsValid() {
		p.UpdateOption(dhcpv4.OptRouter(d.router.AsSlice()))
	}
	if len(d.dns) > 0 {
		var list []net.IP
		for _, a := range d.dns {
			list = append(list, a.AsSlice())
		}
		p.UpdateOption(dhcpv4.OptDNS(list...))
	}
	d.boot(p, req, rule)
	return p
}

// optEtherboot is iPXE's own option; 176 in it is "no-proxydhcp": it need not wait
// for another server that says what to boot.
const optEtherboot = dhcpv4.GenericOptionCode(175)

var noProxyDHCP = []byte{176, 1, 1}

// boot adds what a rule says.
func (d *dhcp) boot(p, req *dhcpv4.DHCPv4, rule *Rule) {
	p.ServerIPAddr = d.server.AsSlice()
	if rule == nil {
		return
	}
	if rule.File != "" {
		p.BootFileName = d.expand.Replace(rule.File)
		if req.IsOptionRequested(dhcpv4.OptionBootfileName) || rule.Echo == "HTTPClient" {
			p.UpdateOption(dhcpv4.OptBootFileName(p.BootFileName))
		}
		if req.IsOptionRequested(dhcpv4.OptionTFTPServerName) {
			p.UpdateOption(dhcpv4.OptTFTPServerName(d.server.String()))
		}
	}
	if rule.RootPath != "" {
		p.UpdateOption(dhcpv4.OptRootPath(d.expand.Replace(rule.RootPath)))
	}
	if rule.Echo != "" {
		p.UpdateOption(dhcpv4.OptClassIdentifier(rule.Echo))
	}
	if d.mode == Full && rule.User == "iPXE" {
		p.UpdateOption(dhcpv4.OptGeneric(optEtherboot, noProxyDHCP))
	}
}

// toAddr is not valid for a missing or zero address.
func toAddr(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
