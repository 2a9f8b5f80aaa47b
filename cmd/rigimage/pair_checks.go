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

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/vm/lan"
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
	tryLimit = 3 * time.Second // of one try
	tryAgain = 2 * time.Second
)

// checks tries everything and returns the rows in their order.
func (p *pair) checks(ctx context.Context) ([]row, error) {
	all := p.tries()
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

// tries are the profile's checks of both servers, and what follows from them.
func (p *pair) tries() []pairCheck {
	macs := &macTable{at: map[string]string{}}
	var all []pairCheck
	asked := false // who has an address of the network that joins the servers
	for _, m := range p.members {
		for _, k := range m.packets {
			seg, cut := p.networks[k.Network], k.Network == p.link && p.line.Cut
			switch {
			case k.Check.Proto == manifest.ARP:
				all = append(all, p.arpCheck(m, k, cut, macs))
				asked = asked || k.Network == p.link
			case cut, k.Sender == manifest.Peer, k.Sender == manifest.Neighbour && seg.neighbour == nil: // nobody to try it from
			case k.Sender == manifest.Neighbour:
				all = append(all, ipCheck(m, k, seg.neighbour))
			default:
				all = append(all, ipCheck(m, k, seg.world))
			}
		}
	}
	if asked && !p.line.Cut {
		all = append(all, pairCheck{row: row{Server: "both", Check: p.reach.Networks[p.link].Name + " MAC addresses", Want: "all differ"}, late: true, run: macs.differ})
	}
	return all
}

// arpCheck asks who has an address.
func (p *pair) arpCheck(m *member, k manifest.Packet, cut bool, macs *macTable) pairCheck {
	want := k.Check.Want
	if cut {
		want = manifest.WantSilent
	}
	c := newCheck(m, k, want)
	c.From = "ARP"
	c.run = func(ctx context.Context) (string, bool, error) {
		ctx, cancel := context.WithTimeout(ctx, tryLimit)
		defer cancel()
		mac, err := p.networks[k.Network].sw.Ask(ctx, m.vlans[k.Network], k.To)
		if errors.Is(err, lan.ErrNobody) {
			return lan.Silent.String(), want == manifest.WantSilent, nil
		}
		if k.Network == p.link {
			macs.put(m.name+" "+k.To.String(), mac)
		}
		return mac.String(), want == manifest.WantReply, err
	}
	return c
}

// newCheck is the row of a check. What must not be answered is tried last.
func newCheck(m *member, k manifest.Packet, want manifest.Want) pairCheck {
	return pairCheck{row: row{Server: m.name, Check: k.Check.Name, From: k.From.String(), To: k.Target(), Want: string(want)},
		late: want == manifest.WantSilent}
}

// ipCheck sends packets to one address, to all ports of the check at once.
func ipCheck(m *member, k manifest.Packet, h *lan.Host) pairCheck {
	c := newCheck(m, k, k.Check.Want)
	if k.Check.Proto == manifest.ICMP {
		c.run = func(ctx context.Context) (string, bool, error) {
			a, err := h.Ping(ctx, k.From, k.To, tryLimit)
			got, ok := judge(k.Check, []lan.Answer{a})
			return got, ok, err
		}
		return c
	}
	ports := k.Check.Ports
	c.run = func(ctx context.Context) (string, bool, error) {
		said, errs := make([]lan.Answer, len(ports)), make([]error, len(ports))
		var wg sync.WaitGroup
		for i, port := range ports {
			wg.Go(func() { said[i], errs[i] = probe(ctx, h, k.From, netip.AddrPortFrom(k.To, uint16(port))) })
		}
		wg.Wait()
		got, ok := judge(k.Check, said)
		return got, ok, errors.Join(errs...)
	}
	return c
}

// judge says what came of a check, by port.
func judge(c manifest.Check, said []lan.Answer) (got string, ok bool) {
	var wrong []string
	for i, a := range said {
		switch {
		case wanted(c.Want, a):
		case len(said) == 1:
			return a.String(), false
		default:
			wrong = append(wrong, fmt.Sprintf("%d %s", c.Ports[i], a))
		}
	}
	switch {
	case len(wrong) > 0:
		return strings.Join(wrong, ", "), false
	case c.Want == manifest.WantPass && !slices.Contains(said, lan.Open):
		return string(c.Want) + " (nothing listens)", true
	}
	return string(c.Want), true
}

// wanted reports whether an answer is what a check wants.
func wanted(w manifest.Want, a lan.Answer) bool {
	switch w {
	case manifest.WantPass:
		return a == lan.Open || a == lan.Refused
	case manifest.WantReply:
		return a == lan.Open
	case manifest.WantRefuse:
		return a == lan.Refused
	}
	return a == lan.Silent
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
