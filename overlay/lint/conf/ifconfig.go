package conf

import (
	"net/netip"
	"strconv"
	"strings"

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
	bits := 0
	switch {
	case strings.Contains(s, "/"):
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is4() {
			return netip.Prefix{}, strconv.Quote(s) + " is not an IPv4 address with prefix length"
		}
		return p, ""
	case strings.HasPrefix(mask, "0x"):
		n, err := strconv.ParseUint(mask[2:], 16, 32)
		if err != nil {
			return netip.Prefix{}, strconv.Quote(mask) + " is not a netmask"
		}
		bits = ones(uint32(n))
	case mask != "":
		m, err := netip.ParseAddr(mask)
		if err != nil || !m.Is4() {
			return netip.Prefix{}, strconv.Quote(mask) + " is not a netmask"
		}
		b := m.As4()
		bits = ones(uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]))
	default:
		return netip.Prefix{}, strconv.Quote(s) + " has no prefix length"
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || bits < 0 {
		return netip.Prefix{}, strconv.Quote(s) + " netmask " + mask + " is not an IPv4 address with mask"
	}
	return netip.PrefixFrom(a, bits), ""
}

// ones is the prefix length of a mask, -1 when it has holes.
func ones(m uint32) int {
	n := 0
	for m&(1<<31) != 0 {
		n, m = n+1, m<<1
	}
	if m != 0 {
		return -1
	}
	return n
}
