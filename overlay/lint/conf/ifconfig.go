package conf

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/internal/ipv4"
	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

// Ifconfig are the arguments of one ifconfig(8) of rc.conf.
type Ifconfig struct {
	Inet  []Addr
	Addm  []flaw.Word
	Ether flaw.Word // MAC address, "" when none is given
}

// Addr is an address with its prefix length.
type Addr struct {
	netip.Prefix
	At flaw.Pos
}

// ParseIfconfig reads arguments of ifconfig: addresses, bridge members, MAC
// address. Others are passed over.
func ParseIfconfig(t Value) (a Ifconfig, flaws []flaw.Flaw) {
	ws := t.Words()
	for i := 0; i < len(ws); i++ {
		arg := flaw.Word{}
		if i+1 < len(ws) {
			arg = ws[i+1]
		}
		switch w := ws[i]; w.Text {
		case "inet":
			mask := ""
			if i+3 < len(ws) && ws[i+2].Text == "netmask" {
				mask = ws[i+3].Text
			}
			p, msg := parseInet(arg.Text, mask)
			if msg != "" {
				if !t.Unknown {
					flaws = append(flaws, flaw.Flaw{At: w.At, Severity: flaw.Error, Text: msg})
				}
				break
			}
			a.Inet = append(a.Inet, Addr{p, arg.At})
			i++
		case "addm":
			a.Addm = append(a.Addm, arg)
			i++
		case "ether", "link", "lladdr":
			a.Ether = arg
			i++
		}
	}
	return a, flaws
}

// parseInet reads an address with its prefix length or mask.
func parseInet(s, mask string) (netip.Prefix, string) {
	if s == "" {
		return netip.Prefix{}, "inet without an address"
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is4() {
			return netip.Prefix{}, strconv.Quote(s) + " is not an IPv4 address with prefix length"
		}
		return p, ""
	}
	if mask == "" {
		return netip.Prefix{}, strconv.Quote(s) + " has no prefix length"
	}
	bits, holes := ipv4.MaskBits(mask)
	if holes == ipv4.ErrSyntax {
		return netip.Prefix{}, strconv.Quote(mask) + " is not a netmask"
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || holes != nil {
		return netip.Prefix{}, strconv.Quote(s) + " netmask " + mask + " is not an IPv4 address with mask"
	}
	return netip.PrefixFrom(a, bits), ""
}
