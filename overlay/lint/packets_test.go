package lint

import (
	"net/netip"
	"testing"

	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// What a running FreeBSD does with the tunnels' rules for each setting of the two
// sysctls: 5433 is allowed, 5436 is not.
func TestBridgeFiltering(t *testing.T) {
	tests := []struct {
		member, bridge string
		allowed, other bool
	}{{"0", "0", true, true}, {"1", "0", false, false}, {"0", "1", false, false}, {"1", "1", true, false}}
	for _, tt := range tests {
		r := run(t, input(t,
			edit{"host/etc/sysctl.conf", "pfil_member=1", "pfil_member=" + tt.member},
			edit{"host/etc/sysctl.conf", "pfil_bridge=1", "pfil_bridge=" + tt.bridge}))
		n := &network{rig: r.Rig}
		var node *Node
		for _, j := range r.Rig.Servers[0].Jails {
			if j.Name == "node_j" {
				node = j
			}
		}
		for port, want := range map[uint16]bool{5433: tt.allowed, 5436: tt.other} {
			f := n.send(node, pf.Packet{Proto: "tcp", Dst: ip("192.168.56.41"), Dport: port})
			if f.passed != want {
				t.Errorf("pfil_member=%s pfil_bridge=%s port %d: passed %v (%s), want %v", tt.member, tt.bridge, port, f.passed, f.reason, want)
			}
		}
	}
}

// Packets that the rules of the default profile must stop, and where they do.
func TestWebrigPackets(t *testing.T) {
	r := run(t, input(t, edit{"host/etc/ips_blocklist", "# Filled", "192.0.2.66\n# Filled"}))
	n := &network{rig: r.Rig}
	m := r.Rig.Servers[0]
	rule := func(f flow) string {
		if f.block != nil {
			return f.block.Text
		}
		return f.reason
	}
	node := func(name string) *Node {
		for _, x := range m.nodes() {
			if x.Name == name {
				return x
			}
		}
		return nil
	}
	const rest = "block log all"
	tests := []struct {
		name, from, src, dst string
		port                 uint16
		want                 string
	}{
		{"web", "", "9.9.9.9", "10.0.0.110", 443, "nginx_j"},
		{"ssh from anybody", "", "9.9.9.9", "10.0.0.110", 22, rest},
		{"door from anybody", "", "9.9.9.9", "10.0.0.110", 2240, rest},
		{"ssh from an administrator", "", "203.0.113.5", "10.0.0.110", 22, "host"},
		{"door from an administrator", "", "203.0.113.5", "10.0.0.110", 2240, "pg_j"},
		{"blocklist", "", "192.0.2.66", "10.0.0.110", 443, "block in quick on xnic from { <blocklist> <ratelimit> }"},
		{"martian", "", "172.16.0.1", "10.0.0.110", 443, "block in log quick on xnic from <martians>"},
		{"spoofed as the server", "", "10.0.0.110", "10.0.0.110", 443, "antispoof quick for (xnic)"},
		{"spoofed as a jail", "", "10.0.2.30", "10.0.0.110", 443, "block in log quick on xnic from <martians>"},
		{"database from outside", "", "203.0.113.5", "10.0.0.110", 5432, rest},
		{"node_j asks a name", "node_j", "", "1.1.1.1", 443, rest},
		{"node_j pays", "node_j", "", "198.51.100.9", 443, "outside"},
		{"nginx_j calls out", "nginx_j", "", "198.51.100.9", 443, rest},
		{"node_j to the host", "node_j", "", "10.0.2.1", 22, rest},
		{"nginx_j to pg_j over the bridge", "nginx_j", "", "10.0.2.40", 5432, rest},
		{"node_j to pg_j by the cable", "node_j", "", "10.0.4.40", 5432, "pg_j"},
		{"node_j to the peer's database itself", "node_j", "", "192.168.56.41", 5432, rest},
		{"pg_j at the tunnel of node_j", "pg_j", "", "192.168.56.41", 5433, rest},
		{"nginx_j to the private network", "nginx_j", "", "192.168.56.41", 5433, rest},
		{"host to the other host", "host", "", "192.168.56.111", 22, rest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := pf.Packet{Proto: "tcp", Dst: ip(tt.dst), Dport: tt.port}
			if tt.src != "" {
				p.Src = ip(tt.src)
			}
			f := n.send(node(tt.from), p)
			got := rule(f)
			if f.passed && f.node == nil {
				got = "outside"
			} else if f.passed {
				got = f.node.Name
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
