package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"rig/vm/lan"
)

// row is one check and what came of it.
type row struct {
	Server string `json:"server"`
	Check  string `json:"check"`
	From   string `json:"from"`
	To     string `json:"to"`
	Want   string `json:"want"`
	Got    string `json:"got"`
	OK     bool   `json:"ok"`
}

// pairCheck is a row with what finds it out. late is for what must not answer: it is
// tried once, after the others have shown that the servers are there.
type pairCheck struct {
	row
	late bool
	run  func(ctx context.Context) (got string, ok bool, err error)
}

const (
	tryLimit   = 3 * time.Second // of one try
	tryAgain   = 2 * time.Second
	wantPass   = "passes"
	wantSilent = "silent"
	wantReply  = "answers"
)

// The doors that pf.conf opens to administrators, and ports it opens to nobody.
var (
	sshPorts    = []uint16{22, 2220, 2230, 2240}
	closedPorts = []uint16{25, 3000, 5432, 5433, 5434, 8080}
	tunnelPorts = []uint16{5432, 5433, 5434, 5435}
)

// checks tries everything and returns the rows in their order.
func (p *pair) checks(ctx context.Context) ([]row, error) {
	macs := &macTable{at: map[string]string{}}
	var all []pairCheck
	for _, m := range p.members {
		all = append(all, p.publicChecks(m)...)
		all = append(all, p.privateChecks(m, macs)...)
	}
	if !p.line.Cut {
		all = append(all, pairCheck{row: row{Server: "both", Check: "private MAC addresses", Want: "all differ"}, late: true, run: macs.differ})
	}
	for _, late := range []bool{false, true} {
		var wg sync.WaitGroup
		errs := make([]error, len(all))
		for i := range all {
			if all[i].late == late {
				wg.Go(func() { errs[i] = all[i].settle(ctx) })
			}
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
	}
	rows := make([]row, len(all))
	for i := range all {
		rows[i] = all[i].row
	}
	return rows, nil
}

// settle runs the check until it is as wanted, or once if it is late.
func (c *pairCheck) settle(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		var err error
		if c.Got, c.OK, err = c.run(ctx); err != nil {
			return fmt.Errorf("check %s of %s: %w", c.Check, c.Server, err)
		}
		if c.OK || c.late {
			return nil
		}
		select {
		case <-limit.Done():
			return ctx.Err()
		case <-time.After(tryAgain):
		}
	}
}

// publicChecks are what the internet sees of a server.
func (p *pair) publicChecks(m *member) []pairCheck {
	addr, visitor, martian := m.address.Addr(), p.visitor(), p.martian()
	var all []pairCheck
	for _, port := range []uint16{443, 80} {
		all = append(all, p.door(m, p.world, fmt.Sprintf("web %d", port), visitor, addr, port))
	}
	for i, name := range []string{"host", "nginx_j", "node_j", "pg_j"} {
		all = append(all, p.door(m, p.world, "SSH "+name, m.admin, addr, sshPorts[i]))
	}
	ping := pairCheck{row: row{m.name, "ping", visitor.String(), addr.String(), wantSilent, "", false}, late: true,
		run: func(ctx context.Context) (string, bool, error) {
			a, err := p.world.Ping(ctx, visitor, addr, tryLimit)
			return a.String(), a == lan.Silent, err
		}}
	return append(all, ping,
		p.wall(m, p.world, "SSH", visitor, addr, sshPorts),
		p.wall(m, p.world, "other ports", visitor, addr, closedPorts),
		p.wall(m, p.world, "other ports", m.admin, addr, closedPorts),
		p.wall(m, p.world, "martian source", martian, addr, []uint16{22, 80, 443}))
}

// privateChecks are what is on the private network.
func (p *pair) privateChecks(m *member, macs *macTable) []pairCheck {
	var all []pairCheck
	for _, on := range []struct {
		name string
		addr netip.Addr
	}{{"host", m.private.Addr()}, {"node_j", m.node}, {"pg_j", m.pg}} {
		c := pairCheck{row: row{m.name, "private " + on.name, "ARP", on.addr.String(), wantReply, "", false}, late: p.line.Cut,
			run: func(ctx context.Context) (string, bool, error) {
				ctx, cancel := context.WithTimeout(ctx, tryLimit)
				defer cancel()
				mac, err := p.private.Ask(ctx, m.vlan, on.addr)
				if errors.Is(err, lan.ErrNobody) {
					return wantSilent, p.line.Cut, nil
				}
				macs.put(m.name+" "+on.name, mac)
				return mac.String(), !p.line.Cut, err
			}}
		if p.line.Cut {
			c.Want = wantSilent
		}
		all = append(all, c)
	}
	if p.intruder == nil || p.line.Cut {
		return all
	}
	return append(all,
		p.wall(m, p.intruder, "tunnels node_j", p.spare(), m.node, tunnelPorts),
		p.wall(m, p.intruder, "tunnels pg_j", p.spare(), m.pg, tunnelPorts))
}

// door is a port that the firewall lets src through to.
func (p *pair) door(m *member, h *lan.Host, name string, src, dst netip.Addr, port uint16) pairCheck {
	to := netip.AddrPortFrom(dst, port)
	return pairCheck{row: row{m.name, name, src.String(), to.String(), wantPass, "", false},
		run: func(ctx context.Context) (string, bool, error) {
			a, err := h.Probe(ctx, src, to, tryLimit)
			switch a {
			case lan.Open:
				return wantPass, true, err
			case lan.Refused:
				return wantPass + " (nothing listens)", true, err
			}
			return a.String(), false, err
		}}
}

// wall is ports that the firewall does not let src through to.
func (p *pair) wall(m *member, h *lan.Host, name string, src, dst netip.Addr, ports []uint16) pairCheck {
	var list []string
	for _, port := range ports {
		list = append(list, fmt.Sprint(port))
	}
	return pairCheck{row: row{m.name, name, src.String(), dst.String() + ":" + strings.Join(list, ","), wantSilent, "", false}, late: true,
		run: func(ctx context.Context) (string, bool, error) {
			said, errs := make([]lan.Answer, len(ports)), make([]error, len(ports))
			var wg sync.WaitGroup
			for i, port := range ports {
				wg.Go(func() { said[i], errs[i] = probe(ctx, h, src, netip.AddrPortFrom(dst, port)) })
			}
			wg.Wait()
			var leaks []string
			for i, a := range said {
				if a != lan.Silent {
					leaks = append(leaks, list[i]+" "+a.String())
				}
			}
			if len(leaks) == 0 {
				return wantSilent, true, errors.Join(errs...)
			}
			return strings.Join(leaks, ", "), false, errors.Join(errs...)
		}}
}

// probe is Host.Probe, with patience for ARP on a bad line.
func probe(ctx context.Context, h *lan.Host, src netip.Addr, dst netip.AddrPort) (a lan.Answer, err error) {
	for range 4 {
		if a, err = h.Probe(ctx, src, dst, tryLimit); a != lan.Nobody {
			break
		}
	}
	return a, err
}

// macTable collects who answers with which MAC address.
type macTable struct {
	mu sync.Mutex
	at map[string]string // by who
}

func (t *macTable) put(who string, mac net.HardwareAddr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at[who] = mac.String()
}

// differ reports whether no two have the same one.
func (t *macTable) differ(context.Context) (string, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	owners := map[string][]string{}
	for who, mac := range t.at {
		owners[mac] = append(owners[mac], who)
	}
	if len(owners) == len(t.at) {
		return fmt.Sprintf("%d, all differ", len(owners)), len(owners) > 0, nil
	}
	var same []string
	for mac, who := range owners {
		if len(who) > 1 {
			same = append(same, fmt.Sprintf("%s: %d", mac, len(who)))
		}
	}
	slices.Sort(same)
	return "the same: " + strings.Join(same, ", "), false, nil
}

// pick is the first of candidates that is in no network the servers know.
func (p *pair) pick(candidates ...string) netip.Addr {
	var a netip.Addr
	for _, c := range candidates {
		a = netip.MustParseAddr(c)
		if !p.known(a) {
			return a
		}
	}
	return a
}

// known reports whether a server has a rule of its own for an address.
func (p *pair) known(a netip.Addr) bool {
	for _, m := range p.members {
		nets := append(m.set.Prefixes(keyAdmins), m.address.Masked(), m.private.Masked())
		for _, n := range nets {
			if n.Contains(a) {
				return true
			}
		}
		for _, o := range append(m.set.Addrs(keyOrch), m.gateway) {
			if o == a {
				return true
			}
		}
	}
	return false
}

// visitor is anybody; martian is nobody, of a network that must not be outside.
func (p *pair) visitor() netip.Addr { return p.pick("151.101.1.69", "142.250.74.46", "17.253.144.10") }
func (p *pair) martian() netip.Addr { return p.pick("172.16.99.1", "192.168.199.1", "100.64.9.9") }

// spare is an address of the private network that nobody has.
func (p *pair) spare() netip.Addr {
	a := p.members[0].private.Masked().Addr().Next()
	for {
		free := true
		for _, m := range p.members {
			free = free && a != m.private.Addr() && a != m.node && a != m.pg
		}
		if free {
			return a
		}
		a = a.Next()
	}
}

// printRows prints the table.
func printRows(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tSERVER\tCHECK\tFROM\tTO\tWANT\tGOT")
	for _, r := range rows {
		mark := "ok"
		if !r.OK {
			mark = "FAILED"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, r.Server, r.Check, r.From, r.To, r.Want, r.Got)
	}
	t.Flush()
}
