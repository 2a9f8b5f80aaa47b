package pxe

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// segment is the network that is served.
type segment struct {
	iface  *net.Interface
	addr   netip.Addr   // this machine's
	prefix netip.Prefix // addr with the network's length
}

// findSegment finds the interface by its name, by an address of it, or as the only
// one with an IPv4 address beside the loopback.
func findSegment(name string, listen netip.Addr) (segment, error) {
	all, err := net.Interfaces()
	if err != nil {
		return segment{}, fmt.Errorf("list interfaces: %w", err)
	}
	var found []segment
	var have []string
	for _, iface := range all {
		addrs, err := iface.Addrs()
		if err != nil {
			return segment{}, fmt.Errorf("interface %s: %w", iface.Name, err)
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || !p.Addr().Is4() {
				continue
			}
			have = append(have, fmt.Sprintf("%s %v", iface.Name, p))
			loop := iface.Flags&net.FlagLoopback != 0
			if name == "" && !listen.IsValid() && loop || name != "" && name != iface.Name || listen.IsValid() && listen != p.Addr() {
				continue
			}
			found = append(found, segment{&iface, p.Addr(), p})
			if name != "" {
				break // its first address
			}
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	what := "an interface to serve"
	if name != "" {
		what = "interface " + name + " with an IPv4 address"
	}
	if listen.IsValid() {
		what += fmt.Sprintf(" and the address %v", listen)
	}
	text := "there is no " + strings.TrimPrefix(what, "an ")
	if len(found) > 1 {
		text = "there are several interfaces that could be served"
	}
	return segment{}, diag.Hint(diag.Inputf("%s", text), "name one of: %s", strings.Join(have, ", "))
}

// neighbour asks the kernel's ARP table, where it is a file, for the owner of an
// address; "" when it is not known.
func neighbour(ip netip.Addr) string {
	b, err := os.ReadFile("/proc/net/arp")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 3 && f[0] == ip.String() && f[3] != "00:00:00:00:00:00" {
			return f[3]
		}
	}
	return ""
}
