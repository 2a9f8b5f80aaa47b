package facts

import (
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"rig/firstboot/place"
	"slices"
	"strconv"
	"strings"
)

// virtualNICs are drivers and interface groups without hardware of their own.
var virtualNICs = []string{
	"lo", "pflog", "pfsync", "bridge", "epair", "vlan", "tap", "tun", "gif", "gre", "wg", "ovpn", "lagg", "enc", "stf", "vxlan",
	"ipfw", "ipfwlog", "usbus", "disc", "edsc", "me", "ipsec", "vmnet",
}

// nicText is an interface as its text is read.
type nicText struct {
	NIC
	groups []string
}

// ParseIfconfig reads what ifconfig -a prints (FreeBSD 15.1 sbin/ifconfig): a
// line per interface, then indented lines about it. Interfaces without hardware
// or without an Ethernet address are left out.
func ParseIfconfig(text string) ([]NIC, error) {
	var all []*nicText
	for n, line := range strings.Split(text, "\n") {
		var err error
		switch {
		case strings.TrimSpace(line) == "":
		case line[0] != '\t' && line[0] != ' ':
			var nic *nicText
			if nic, err = newNIC(line); err == nil {
				all = append(all, nic)
			}
		case len(all) == 0:
			err = fmt.Errorf("%q belongs to no interface", line)
		default:
			err = all[len(all)-1].add(strings.Fields(line))
		}
		if err != nil {
			return nil, fmt.Errorf("output of ifconfig, line %d: %w", n+1, err)
		}
	}
	var nics []NIC
	for _, nic := range all {
		if nic.MAC != "" && !nic.virtual() {
			nics = append(nics, nic.NIC)
		}
	}
	return nics, nil
}

// newNIC reads "vtnet0: flags=1008843<UP,BROADCAST,…> metric 0 mtu 1500".
func newNIC(line string) (*nicText, error) {
	name, rest, ok := strings.Cut(line, ": flags=")
	if !ok || name == "" || strings.ContainsAny(name, " \t") {
		return nil, fmt.Errorf("%q is not the first line of an interface", line)
	}
	_, rest, _ = strings.Cut(rest, "<")
	flags, _, _ := strings.Cut(rest, ">")
	stem, _ := place.SplitUnit(name)
	return &nicText{NIC: NIC{Device: name, Driver: stem, Up: slices.Contains(strings.Split(flags, ","), "UP")}}, nil
}

// add reads a line about the interface, as words.
func (n *nicText) add(words []string) error {
	var value string
	if len(words) > 1 {
		value = words[1]
	}
	switch words[0] {
	case "ether":
		mac, err := net.ParseMAC(value)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Device, err)
		}
		n.MAC = mac.String()
	case "inet":
		p, err := InetPrefix(words)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Device, err)
		}
		n.Inet = append(n.Inet, p)
	case "media:":
		n.Media = strings.Join(words[1:], " ")
	case "status:":
		n.Link = value == "active" || value == "associated"
	case "groups:":
		n.groups = words[1:]
	case "drivername:": // of a renamed interface; printed with -D
		n.Driver, _ = place.SplitUnit(value)
	}
	return nil
}

// InetPrefix reads "inet 192.0.2.2 netmask 0xffffff00 broadcast 192.0.2.255" and
// the form of -f inet:cidr, "inet 192.0.2.2/24 broadcast 192.0.2.255".
func InetPrefix(words []string) (netip.Prefix, error) {
	line := strings.Join(words, " ")
	if len(words) < 2 {
		return netip.Prefix{}, fmt.Errorf("%q has no address", line)
	}
	if strings.Contains(words[1], "/") {
		p, err := netip.ParsePrefix(words[1])
		if err != nil || !p.Addr().Is4() {
			return netip.Prefix{}, fmt.Errorf("%q has no IPv4 prefix", line)
		}
		return p, nil
	}
	addr, err := netip.ParseAddr(words[1])
	if err != nil || !addr.Is4() {
		return netip.Prefix{}, fmt.Errorf("%q has no IPv4 address", line)
	}
	i := slices.Index(words, "netmask")
	if i < 0 || i+1 >= len(words) {
		return netip.Prefix{}, fmt.Errorf("%q has no netmask", line)
	}
	ones, err := maskBits(words[i+1])
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q: %w", line, err)
	}
	return netip.PrefixFrom(addr, ones), nil
}

// maskBits counts the ones of a netmask, "0xffffff00" or "255.255.255.0".
func maskBits(s string) (int, error) {
	var mask uint32
	if v, err := strconv.ParseUint(s, 0, 32); err == nil {
		mask = uint32(v)
	} else if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		for _, b := range a.As4() {
			mask = mask<<8 | uint32(b)
		}
	} else {
		return 0, fmt.Errorf("netmask %s cannot be read", s)
	}
	ones := bits.LeadingZeros32(^mask)
	if mask<<ones != 0 {
		return 0, fmt.Errorf("netmask %s has holes", s)
	}
	return ones, nil
}

// virtual reports whether the interface has no hardware. The driver's name tells,
// and for a renamed interface its groups.
func (n *nicText) virtual() bool {
	if slices.Contains(virtualNICs, n.Driver) {
		return true
	}
	if stem := strings.TrimRight(n.Device, "ab"); stem != n.Device { // epair0a
		if s, unit := place.SplitUnit(stem); s == "epair" && unit >= 0 {
			return true
		}
	}
	return slices.ContainsFunc(n.groups, func(g string) bool { return slices.Contains(virtualNICs, g) })
}
