package pf

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// env is a router with a card to the world, 198.51.100.2/24, and one inside,
// 10.1.0.1/24.
func env(t *testing.T) *Env {
	t.Helper()
	friends, fl := ParseTable("friends", "192.0.2.0/24 !192.0.2.128/25\n192.0.2.130 # back in\n")
	if len(fl) > 0 {
		t.Fatal(fl)
	}
	return &Env{
		Addrs:  map[string][]netip.Prefix{"em0": {netip.MustParsePrefix("198.51.100.2/24"), netip.MustParsePrefix("198.51.100.3/24")}, "em1": {netip.MustParsePrefix("10.1.0.1/24")}},
		Tables: map[string]Table{"friends": friends},
		Route: func(a netip.Addr) (string, bool) {
			if netip.MustParsePrefix("10.1.0.0/24").Contains(a) {
				return "em1", true
			}
			return "em0", !netip.MustParsePrefix("172.16.0.0/12").Contains(a)
		},
	}
}

func TestEval(t *testing.T) {
	const head = `
web = "10.1.0.80"
ports = "{ http, 443 }"
all_web = "{ $web 10.1.0.81 }"
table <friends> persist file "/etc/friends"
set skip on lo0
`
	in := func(src, dst string, port uint16) Packet {
		return Packet{Iface: "em0", Proto: "tcp", Src: addr(src), Dst: addr(dst), Sport: 40000, Dport: port}
	}
	out := func(src, dst string, port uint16) Packet {
		p := in(src, dst, port)
		p.Out = true
		return p
	}
	tests := []struct {
		name, rules string
		pkt         Packet
		want        string // "pass" or "block", the deciding rule's number from 1, and what was translated
	}{
		{"no rule", "", in("192.0.2.1", "10.1.0.80", 80), "pass 0"},
		{"last match", "block all\npass in on em0 to $web port $ports\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"last match blocks", "pass all\nblock all\n", in("192.0.2.1", "10.1.0.80", 80), "block 2"},
		{"quick", "pass quick all\nblock all\n", in("192.0.2.1", "10.1.0.80", 80), "pass 1"},
		{"port outside of the list", "block all\npass to $web port $ports\n", in("192.0.2.1", "10.1.0.80", 81), "block 1"},
		{"direction", "block all\npass out all\n", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
		{"interface", "block all\npass on em1 all\n", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
		{"not this interface", "pass all\nblock on ! em0 all\n", in("192.0.2.1", "10.1.0.80", 80), "pass 1"},
		{"interface group", "block all\npass on em all\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"list of interfaces", "block all\npass on { em1 em0 } all\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"protocol", "block all\npass proto { udp, icmp } all\n", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
		{"inet6 is another world", "pass all\nblock quick inet6 all\n", in("192.0.2.1", "10.1.0.80", 80), "pass 1"},
		{"macro in a list", "block all\npass to $all_web\n", in("192.0.2.1", "10.1.0.81", 80), "pass 2"},
		{"not this host", "block all\npass to ! $web\n", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
		{"short network", "block all\npass to 10.1/16\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"table", "block all\npass from <friends>\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"excepted in table", "block all\npass from <friends>\n", in("192.0.2.129", "10.1.0.80", 80), "block 1"},
		{"most specific in table", "block all\npass from <friends>\n", in("192.0.2.130", "10.1.0.80", 80), "pass 2"},
		{"not in table", "block all\npass from ! <friends>\n", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
		{"source port", "block all\npass from any port 40000 to any\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"port range", "block all\npass to port 70:90\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"port between", "block all\npass to port 80 >< 90\n", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
		{"port outside of", "block all\npass to port 90 <> 100\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"port operators", "block all\npass to port { != 80, > 80, < 80 }\npass to port >= 81\npass to port <= 79", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
		{"no port in icmp", "block all\npass to port 80\n", Packet{Iface: "em0", Proto: "icmp", Src: addr("192.0.2.1"), Dst: addr("10.1.0.80"), Dport: 80}, "block 1"},
		{"own address", "block all\npass to (em0)\n", in("192.0.2.1", "198.51.100.3", 80), "pass 2"},
		{"first own address", "block all\npass to (em0:0)\n", in("192.0.2.1", "198.51.100.3", 80), "block 1"},
		{"own network", "block all\npass from em0:network\n", in("198.51.100.77", "198.51.100.2", 80), "pass 2"},
		{"broadcast", "block all\npass to em0:broadcast\n", in("198.51.100.77", "198.51.100.255", 80), "pass 2"},
		{"self", "block all\npass to self\n", in("192.0.2.1", "10.1.0.1", 80), "pass 2"},
		{"no route", "pass all\nblock from no-route\n", in("172.16.1.1", "10.1.0.80", 80), "block 2"},
		{"reverse path", "pass all\nblock from urpf-failed\n", in("10.1.0.9", "10.1.0.80", 80), "block 2"},
		{"reverse path in a list", "pass all\nblock in from { <friends> urpf-failed }\n", in("9.9.9.9", "10.1.0.80", 80), "pass 1"},
		{"antispoof elsewhere", "antispoof quick for em1\npass all\n", in("10.1.0.9", "10.1.0.80", 80), "block 1"},
		{"antispoof own address", "antispoof log quick for { em1, (em0) } inet\npass all\n", in("198.51.100.2", "10.1.0.80", 80), "block 4"},
		{"antispoof lets others", "antispoof quick for em1\npass all\n", in("192.0.2.1", "10.1.0.80", 80), "pass 3"},
		{"skip", "block all\n", Packet{Iface: "lo0", Proto: "tcp", Src: addr("127.0.0.1"), Dst: addr("127.0.0.1")}, "pass 0"},
		{"tagged", "block all\npass tagged x\n", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
		{"not tagged", "block all\npass ! tagged x\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"tag is set and stays", "match in all tag x\nblock all\npass tagged x\n", in("192.0.2.1", "10.1.0.80", 80), "pass 3 tag x"},
		{"state options", "block all\npass proto tcp to $web \\\n  flags S/SA keep state (max-src-conn-rate 100/10, overload <friends> flush global)\n", in("192.0.2.1", "10.1.0.80", 80), "pass 2"},
		{"returns", "block return in all\nblock return-icmp (3) to port 81\n", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
		{"anchor is empty", "pass all\nanchor \"x\" on em0\n", in("192.0.2.1", "10.1.0.80", 80), "pass 1"},
		{"braces over lines", "block all\npass to {\n $web # the site\n 10.1.0.82\n} port 80\n", in("192.0.2.1", "10.1.0.82", 80), "pass 2"},
		{"rdr before filter", "rdr on em0 proto tcp to (em0) port 8080 -> $web port 80\nblock all\npass to $web port 80\n", in("192.0.2.1", "198.51.100.2", 8080), "pass 2 10.1.0.80:80"},
		{"rdr keeps the port", "rdr on em0 proto tcp to (em0) port $ports -> $web\nblock all\n", in("192.0.2.1", "198.51.100.2", 443), "block 1 10.1.0.80:443"},
		{"rdr pass", "rdr pass on em0 proto tcp to (em0) port 80 -> $web\nblock all\n", in("192.0.2.1", "198.51.100.2", 80), "pass rdr 10.1.0.80:80"},
		{"first rdr counts", "no rdr on em0 proto tcp from <friends>\nrdr on em0 proto tcp to (em0) port 80 -> $web\nblock all\n", in("192.0.2.1", "198.51.100.2", 80), "block 1"},
		{"rdr not on the way out", "rdr on em0 proto tcp to any port 80 -> $web\nblock all\n", out("10.1.0.80", "192.0.2.1", 80), "block 1"},
		{"nat before filter", "nat on em0 inet from 10.1.0.0/24 to any -> (em0:0)\nblock all\npass out from (em0)\n", out("10.1.0.80", "192.0.2.1", 80), "pass 2 from 198.51.100.2"},
		{"nat not on the way in", "nat on em0 from any to any -> (em0)\nblock all\n", in("192.0.2.1", "10.1.0.80", 80), "block 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, fl := Parse("pf.conf", head+tt.rules)
			if len(fl) > 0 {
				t.Fatal(fl)
			}
			v := c.Eval(env(t), tt.pkt)
			if got := show(c, tt.pkt, v); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func show(c *Ruleset, p Packet, v Verdict) string {
	s := "block"
	if v.Pass {
		s = "pass"
	}
	n := " 0"
	for i, r := range c.Rules {
		if r == v.Rule {
			n = fmt.Sprintf(" %d", i+1)
		}
	}
	if v.Rule != nil && v.Rule == v.Nat {
		n = " " + v.Rule.Kind
	}
	s += n
	if v.Pkt.Dst != p.Dst || v.Pkt.Dport != p.Dport {
		s += fmt.Sprintf(" %s:%d", v.Pkt.Dst, v.Pkt.Dport)
	}
	if v.Pkt.Src != p.Src {
		s += " from " + v.Pkt.Src.String()
	}
	if v.Pkt.Tag != "" {
		s += " tag " + v.Pkt.Tag
	}
	return s
}

func TestParsePFFlaws(t *testing.T) {
	tests := []struct{ text, want string }{
		{"pass from $x\n", "1:11 error macro $x is not defined (above here)"},
		{"pass to port $x\n", "1:14 error macro $x is not defined (above here)"},
		{"a = \"b\n", "1:5 error a quote is opened here and not closed"},
		{"table <a>\ntable <a>\n", "2:7 error table <a> is defined twice"},
		{"pass all\nscrub in all\n", "2:1 error normalization must stand before filter rules; pfctl loads nothing otherwise"},
		{"pass to 10.0.0.300\n", `1:9 error "10.0.0.300" is not an IPv4 address or network`},
		{"pass all bogus\n", `1:10 warning "bogus" is not understood here; the matrix is without this rule`},
		{"frob\n", `1:1 warning "frob" is not understood here; the matrix is without this rule`},
		{"rdr on em0 to port 80\n", `1:22 warning the end of the line is not understood here; the matrix is without this rule`},
		{"anchor \"x\" {\n pass all\n}\n", `1:12 warning "{" is not understood here; the matrix is without this rule`},
		{"pass to port 99999\n", `1:14 warning "99999" is not understood here; the matrix is without this rule`},
	}
	for _, tt := range tests {
		_, fl := Parse("pf.conf", tt.text)
		var got []string
		for _, f := range fl {
			got = append(got, fmt.Sprintf("%d:%d %s %s", f.At.Line, f.At.Col, f.Severity, f.Text))
		}
		if strings.Join(got, "\n") != tt.want {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestTableCovers(t *testing.T) {
	tbl, _ := ParseTable("t", "10.0.0.0/8\n!10.1.0.0/16\n10.1.2.0/24\n192.0.2.7\n")
	tests := []struct{ net, want string }{
		{"10.2.0.0/16", "10.0.0.0/8"},  // inside of an entry
		{"10.1.0.0/24", ""},            // inside of an exception
		{"10.1.0.0/16", "10.1.2.0/24"}, // around an entry within the exception
		{"10.1.2.3/32", "10.1.2.0/24"},
		{"192.0.2.0/24", "192.0.2.7/32"}, // around an entry
		{"192.0.3.0/24", ""},
		{"0.0.0.0/0", "10.0.0.0/8"},
	}
	for _, tt := range tests {
		got := ""
		if e, ok := tbl.Covers(netip.MustParsePrefix(tt.net)); ok {
			got = e.Prefix.String()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.net, got, tt.want)
		}
	}
}
