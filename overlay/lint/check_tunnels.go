package lint

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/rig-freebsd/rig/overlay/lint/flaw"
	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

// checkTunnels follows each tunnel from the end that encrypts to the service
// behind the other server's end.
func (c *checker) checkTunnels(n *network) {
	pair := len(n.rig.Servers) > 1
	for _, m := range n.rig.Servers {
		for _, j := range m.nodes() {
			for _, p := range j.Pipes {
				c.pipeEnd(m, j, p)
				pair = pair && p.Source.IsValid() && p.Target.IsValid()
			}
		}
	}
	if !pair { // or an end is not known, which is reported
		return
	}
	called := map[*Pipe]bool{}
	for _, m := range n.rig.Servers {
		for _, j := range m.nodes() {
			for _, p := range j.Pipes {
				if p.Mode == "encrypt" {
					c.encrypts(n, m, j, p, called)
				}
			}
		}
	}
	for _, m := range n.rig.Servers {
		for _, j := range m.nodes() {
			for _, p := range j.Pipes {
				if p.Mode == "decrypt" && !called[p] {
					c.warn(p.source, "pipe %s of %s: no end of another server encrypts to %s (%s)", p.Name, j.Name, p.Source, m.Name)
				}
			}
		}
	}
}

// pipeEnd judges what one end says by itself.
func (c *checker) pipeEnd(m *Machine, j *Node, p *Pipe) {
	if c.wired && p.Source.IsValid() && j.owner(p.Source.Addr()) == nil {
		c.bad(p.source, "pipe %s: %s is no address of %s (%s)", p.Name, p.Source.Addr(), j.Name, m.Name)
	}
	if p.Key != "" {
		switch f := j.root.files[p.Key]; {
		case f == nil:
			c.bad(p.key, "pipe %s: there is no key file %s in %s", p.Name, p.Key, j.Name)
		case f.perm&0o077 != 0:
			c.bad(p.key, "pipe %s: mode %04o lets others read the key file %s", p.Name, f.perm, p.Key)
		}
	}
	if p.Mode != "decrypt" || !p.Target.IsValid() {
		return
	}
	a := p.Target.Addr()
	if j.owner(a) == nil && !a.IsLoopback() {
		if !c.wired {
			return
		}
		c.bad(p.target, "pipe %s: what it decrypts goes to %s, which is no address of %s (%s)", p.Name, a, j.Name, m.Name)
	} else if !j.listens(a, "tcp", p.Target.Port()) {
		c.bad(p.target, "pipe %s: nothing in %s listens at %s", p.Name, j.Name, p.Target)
	}
}

// encrypts finds the other end of a pipe, compares the keys and tries the way.
func (c *checker) encrypts(n *network, m *Machine, j *Node, p *Pipe, called map[*Pipe]bool) {
	var ends []string
	for _, o := range n.rig.Servers {
		for _, k := range o.nodes() {
			for _, q := range k.Pipes {
				if o == m || q.Mode != "decrypt" {
					continue
				}
				if q.Source != p.Target {
					ends = append(ends, q.Source.String())
					continue
				}
				called[q] = true
				a, b := j.root.text(p.Key), k.root.text(q.Key)
				if a != b && a != "" && b != "" {
					c.bad(p.key, "pipe %s: the keys of %s and %s differ", p.Name, m.Name, o.Name)
				}
				if !c.wired {
					return
				}
				if f := n.send(j, pf.Packet{Proto: "tcp", Dst: p.Target.Addr(), Dport: p.Target.Port()}); !f.passed || f.node != k {
					c.bad(p.target, "pipe %s: the way from %s of %s to %s is closed: %s", p.Name, j.Name, m.Name, p.Target, f.why(k))
				}
				return
			}
		}
	}
	msg := "no other server has a tunnel's end"
	if len(ends) > 0 {
		msg = "the ends there are at " + strings.Join(ends, ", ")
	}
	c.bad(p.target, "pipe %s: %s decrypts nothing on the other server; %s (from %s)", p.Name, p.Target, msg, m.Name)
}

// why says why a packet did not reach a node.
func (f flow) why(want *Node) string {
	switch {
	case !f.passed:
		return f.reason
	case f.node == nil:
		return "it ends outside"
	}
	return fmt.Sprintf("it ends at %s, not at %s", f.node.Name, want.Name)
}

var nginxUpstream = regexp.MustCompile(`(?m)^[ \t]*(?:server|proxy_pass)[ \t]+(?:https?://)?(\d+\.\d+\.\d+\.\d+:\d+)`)

// checkUpstreams tries the way from nginx to the addresses it passes requests to.
func (c *checker) checkUpstreams(n *network) {
	if !c.wired {
		return
	}
	for _, m := range n.rig.Servers {
		for _, j := range m.nodes() {
			for name, f := range j.root.files {
				if !strings.HasPrefix(name, "/usr/local/etc/nginx/") || !j.rc.Maybe("nginx_enable") {
					continue
				}
				for _, loc := range nginxUpstream.FindAllStringSubmatchIndex(f.text, -1) {
					to, err := netip.ParseAddrPort(f.text[loc[2]:loc[3]])
					if err != nil || to.Addr().IsLoopback() {
						continue
					}
					line, col := flaw.LineCol(f.text, loc[2])
					at := flaw.Pos{File: f.label, Line: line, Col: col}
					fl := n.send(j, pf.Packet{Proto: "tcp", Dst: to.Addr(), Dport: to.Port()})
					if !fl.passed || fl.node == nil {
						c.bad(at, "nginx of %s does not reach %s: %s", j.Name, to, fl.why(j))
					} else if !fl.node.listens(fl.addr, "tcp", fl.port) {
						c.warn(at, "nginx of %s asks %s, where nothing in %s listens", j.Name, to, fl.node.Name)
					}
				}
			}
		}
	}
}

// checkPorts looks for two services at one port of a node.
func (c *checker) checkPorts(m *Machine) {
	for _, n := range m.nodes() {
		for i, a := range n.Listen {
			for _, b := range n.Listen[:i] {
				same := !a.Addr.IsValid() || !b.Addr.IsValid() || a.Addr == b.Addr
				if a.Proto != b.Proto || a.Port != b.Port || !same || a.maybe || b.maybe || a.By == b.By {
					continue
				}
				c.bad(a.at, "%s and %s of %s both listen at port %d (%s)", b.By, a.By, n.Name, a.Port, addrText(a.Addr, b.Addr))
			}
		}
	}
}

func addrText(as ...netip.Addr) string {
	for _, a := range as {
		if a.IsValid() {
			return a.String()
		}
	}
	return "all addresses"
}
