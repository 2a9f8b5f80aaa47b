// Package network finds the cards that answers mean, gets an address for an install from
// the network, and watches over settings that are on trial.
package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// FindNIC returns the interface a match names. "auto" takes of those with a link
// that are not taken, by MAC, for something else, the only one, or the only one on
// which the gateway answers.
func FindNIC(f *facts.Facts, want answers.NICMatch, taken map[string]string) (facts.NIC, error) {
	var found []facts.NIC
	for _, n := range f.NICs {
		_, other := taken[n.MAC]
		switch {
		case want.MAC != "" && strings.EqualFold(n.MAC, want.MAC),
			want.MAC == "" && want.Device != "" && n.Device == want.Device,
			want.MAC == "" && want.Device == "" && n.Link && !other:
			found = append(found, n)
		}
	}
	if len(found) > 1 {
		if on := slices.DeleteFunc(slices.Clone(found), func(n facts.NIC) bool { return !n.Answers }); len(on) == 1 {
			found = on
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var present []string
	for _, n := range f.NICs {
		present = append(present, n.Device+" "+n.MAC)
	}
	if len(present) == 0 {
		return facts.NIC{}, fmt.Errorf("no network interface is present")
	}
	what := "no interface matches " + want.String()
	if len(found) > 1 {
		what = fmt.Sprintf("%d interfaces match %s", len(found), want)
	}
	return facts.NIC{}, fmt.Errorf("%s; present are %s", what, strings.Join(present, ", "))
}

// Cards are the network cards of a machine, and who can be asked on them.
type Cards struct {
	Facts *facts.Facts
	Run   run.Runner
	Who   func(ctx context.Context, ifname string, from, target netip.Addr) (net.HardwareAddr, error) // arp.Who; nil: "auto" goes by links only
}

// linkTime is what a card may need to get a link after it was brought up.
const linkTime = 5 * time.Second

// AskGateways finds out, when "auto" has to choose among several cards, on which of
// them the gateway answers. Cards are brought up for it.
func (c Cards) AskGateways(ctx context.Context, m *manifest.Manifest, set *answers.Set) error {
	for _, q := range m.Questions {
		if _, given := set.Get(q.Key); c.Who == nil || q.Type != answers.NIC || !given || set.NIC(q.Key).Rule == "" || len(c.Facts.NICs) < 2 {
			continue
		}
		from, gateway, ok := gatewayOf(m, set, q.Key)
		if !ok {
			continue
		}
		if err := c.bringUp(ctx); err != nil {
			return err
		}
		for i := range c.Facts.NICs {
			n := &c.Facts.NICs[i]
			if !n.Link {
				continue
			}
			limit, cancel := context.WithTimeout(ctx, linkTime)
			_, err := c.Who(limit, n.Device, from, gateway)
			cancel()
			n.Answers = err == nil
		}
	}
	return nil
}

// gatewayOf is the gateway of the network whose card a question asks for, and the
// address that speaks to it.
func gatewayOf(m *manifest.Manifest, set *answers.Set, key string) (from, gateway netip.Addr, ok bool) {
	i := slices.IndexFunc(m.Networks, func(n manifest.Network) bool { return n.NIC == key && n.Gateway != "" })
	if i < 0 {
		return from, gateway, false
	}
	from, gateway = set.Prefix(m.Networks[i].Address).Addr(), set.Addr(m.Networks[i].Gateway)
	return from, gateway, from.IsValid() && gateway.IsValid()
}

// bringUp brings up the cards that are down and looks at their links again.
func (c Cards) bringUp(ctx context.Context) error {
	down := slices.DeleteFunc(slices.Clone(c.Facts.NICs), func(n facts.NIC) bool { return n.Up })
	for _, n := range down {
		if _, err := c.Run.Run(ctx, run.New("ifconfig", n.Device, "up")); err != nil {
			return fmt.Errorf("bring up %s: %w", n.Device, err)
		}
	}
	if len(down) == 0 {
		return nil
	}
	select {
	case <-time.After(linkTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	out, err := c.Run.Run(ctx, run.New("ifconfig", "-a"))
	if err == nil {
		c.Facts.NICs, err = facts.NICs(string(out))
	}
	if err != nil {
		return fmt.Errorf("probe network interfaces: %w", err)
	}
	return nil
}

// Resolve replaces every answered NIC match by the MAC and device it stands
// for on this machine; two questions must not get the same one. Those that name
// an interface come first, "auto" takes of what is left.
func Resolve(f *facts.Facts, m *manifest.Manifest, set *answers.Set) error {
	var named, auto []string
	for _, q := range m.Questions {
		if _, given := set.Get(q.Key); q.Type != answers.NIC || !given {
			continue
		}
		if n := set.NIC(q.Key); n.MAC == "" && n.Device == "" {
			auto = append(auto, q.Key)
		} else {
			named = append(named, q.Key)
		}
	}
	var ps diag.Problems
	taken := map[string]string{}
	for _, key := range append(named, auto...) {
		n, err := FindNIC(f, set.NIC(key), taken)
		if other, dup := taken[n.MAC]; err == nil && dup {
			err = fmt.Errorf("%s %s is %s already", n.Device, n.MAC, other)
		}
		if err == nil {
			taken[n.MAC] = key
			err = set.SetFrom(key, answers.NICMatch{MAC: n.MAC, Device: n.Device}, set.Origin(key))
		}
		if err != nil {
			ps.Add(diag.Problem{File: set.Origin(key), Key: key, Msg: err.Error()})
		}
	}
	return ps.Err()
}
