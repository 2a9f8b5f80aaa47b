package pxe

import (
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// discoveryControl is PXE's vendor option 6 in option 43: 8 is "boot the file named
// here", without a menu and without asking for boot servers.
var discoveryControl = []byte{6, 1, 8, 255}

// proxy answers beside the server that gives out addresses: an offer without one.
func (d *dhcp) proxy(req *dhcpv4.DHCPv4, rule *Rule, e Event) *dhcpv4.DHCPv4 {
	if req.MessageType() != dhcpv4.MessageTypeDiscover || rule == nil {
		return nil
	}
	e.Phase = Offer
	if rule.File == "" {
		if rule.RootPath == "" {
			return nil
		}
		d.emit(e)
		return d.whisper(req, rule)
	}
	d.emit(e)
	return d.bootServer(req, dhcpv4.MessageTypeOffer, rule)
}

// bootServer is an offer, or an acknowledgement of the PXE boot server's.
func (d *dhcp) bootServer(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType, rule *Rule) *dhcpv4.DHCPv4 {
	p := d.empty(req, kind)
	p.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
	d.boot(p, req, rule)
	if rule.Echo == "" {
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, discoveryControl))
	}
	return p
}

// whisper tells FreeBSD's loader its root path while it gets its address from
// another server. The loader wants both in one reply, and takes the first offer,
// so an offer without an address would be its end. But bootp.c keeps the options
// that it meets before the message type, in every packet with its transaction id,
// and goes on waiting when that type is not the expected one. Option 17 stands
// before option 53, since options are written in order; the type is one that no
// client expects from a server.
func (d *dhcp) whisper(req *dhcpv4.DHCPv4, rule *Rule) *dhcpv4.DHCPv4 {
	p := d.empty(req, dhcpv4.MessageTypeInform)
	p.UpdateOption(dhcpv4.OptRootPath(d.expand.Replace(rule.RootPath)))
	return p
}

// askBootServer answers at port 4011, where PXE clients ask for what the offer
// left open, nil for nothing.
func (d *dhcp) askBootServer(req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	c := clientOf(req)
	rule := d.match(c)
	if req.MessageType() != dhcpv4.MessageTypeRequest || !c.boots() || rule == nil || rule.File == "" {
		return nil
	}
	d.emit(Event{Phase: Offer, MAC: c.mac, IP: toAddr(req.ClientIPAddr), Client: rule.Name})
	p := d.bootServer(req, dhcpv4.MessageTypeAck, rule)
	p.ClientIPAddr = req.ClientIPAddr
	return p
}
