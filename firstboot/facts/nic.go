package facts

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/internal/ipv4"
)

// virtualNICs are drivers and interface groups without hardware of their own.
var virtualNICs = []string{
	"lo", "pflog", "pfsync", "bridge", "epair", "vlan", "tap", "tun", "gif", "gre", "wg", "ovpn", "lagg", "enc", "stf", "vxlan",
	"ipfw", "ipfwlog", "usbus", "disc", "edsc", "me", "ipsec", "vmnet",
}

// Interface is an interface as ifconfig(8) shows it.
type Interface struct {
	Name    string
	Up      bool
	MTU     int            // 0 when it is not said
	MAC     string         // "52:54:00:12:34:56", "" without one
	Inet    []netip.Prefix // IPv4 addresses
	Media   string         // "Ethernet autoselect (1000baseT <full-duplex>)"
	Status  string         // "active", "no carrier", "" when it has none
	Members []string       // of a bridge

	driver string
	groups []string
}

// ParseIfconfig reads what ifconfig prints (FreeBSD 15.1 sbin/ifconfig), also with
// -f inet:cidr: a line for each interface, then indented lines about it.
func ParseIfconfig(text string) ([]Interface, error) {
	var all []Interface
	for n, line := range strings.Split(text, "\n") {
		var err error
		switch {
		case strings.TrimSpace(line) == "":
		case line[0] != '\t' && line[0] != ' ':
			var i Interface
			if i, err = newInterface(line); err == nil {
				all = append(all, i)
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
	return all, nil
}

// NICs are the interfaces in what ifconfig -a prints that have hardware of their own and
// an Ethernet address.
func NICs(text string) ([]NIC, error) {
	all, err := ParseIfconfig(text)
	if err != nil {
		return nil, err
	}
	var nics []NIC
	for _, i := range all {
		if i.MAC != "" && !i.virtual() {
			nics = append(nics, NIC{Device: i.Name, MAC: i.MAC, Driver: i.driver, Up: i.Up, Media: i.Media, Inet: i.Inet,
				Link: i.Status == "active" || i.Status == "associated"})
		}
	}
	return nics, nil
}

// newInterface reads "vtnet0: flags=1008843<UP,BROADCAST,…> metric 0 mtu 1500".
func newInterface(line string) (Interface, error) {
	name, rest, ok := strings.Cut(line, ": flags=")
	if !ok || name == "" || strings.ContainsAny(name, " \t") {
		return Interface{}, fmt.Errorf("%q is not the first line of an interface", line)
	}
	_, flags, some := strings.Cut(rest, "<") // there are none in "flags=0 metric"
	flags, _, closed := strings.Cut(flags, ">")
	if some != closed {
		return Interface{}, fmt.Errorf("%q is not the first line of an interface", line)
	}
	i := Interface{Name: name, Up: slices.Contains(strings.Split(flags, ","), "UP")}
	i.driver, _ = place.SplitUnit(name)
	words := strings.Fields(rest)
	if at := slices.Index(words, "mtu"); at >= 0 && at+1 < len(words) {
		i.MTU, _ = strconv.Atoi(words[at+1])
	}
	return i, nil
}

// add reads a line about the interface, as words.
func (i *Interface) add(words []string) error {
	var value string
	if len(words) > 1 {
		value = words[1]
	}
	switch words[0] {
	case "ether":
		mac, err := net.ParseMAC(value)
		if err != nil {
			return fmt.Errorf("%s: %w", i.Name, err)
		}
		i.MAC = mac.String()
	case "inet":
		p, err := InetPrefix(words)
		if err != nil {
			return fmt.Errorf("%s: %w", i.Name, err)
		}
		i.Inet = append(i.Inet, p)
	case "media:":
		i.Media = strings.Join(words[1:], " ")
	case "status:":
		i.Status = strings.Join(words[1:], " ")
	case "member:":
		if value != "" {
			i.Members = append(i.Members, value)
		}
	case "groups:":
		i.groups = words[1:]
	case "drivername:": // of a renamed interface; printed with -D
		i.driver, _ = place.SplitUnit(value)
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
	ones, err := ipv4.MaskBits(words[i+1])
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q: netmask %s %w", line, words[i+1], err)
	}
	return netip.PrefixFrom(addr, ones), nil
}

// virtual reports whether the interface has no hardware. The driver's name tells,
// and for a renamed interface its groups.
func (i *Interface) virtual() bool {
	if slices.Contains(virtualNICs, i.driver) {
		return true
	}
	if stem := strings.TrimRight(i.Name, "ab"); stem != i.Name { // epair0a
		if s, unit := place.SplitUnit(stem); s == "epair" && unit >= 0 {
			return true
		}
	}
	return slices.ContainsFunc(i.groups, func(g string) bool { return slices.Contains(virtualNICs, g) })
}
