package network

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
)

// Up gets an address by DHCP, unless a card has one: on the card that the loader
// came in by, else on the first one with a link on which there is a server.
func Up(ctx context.Context, r run.Runner, f *facts.Facts, logf func(format string, a ...any)) error {
	if slices.ContainsFunc(f.NICs, func(n facts.NIC) bool { return len(n.Inet) > 0 }) {
		return nil
	}
	cards := slices.Clone(f.NICs)
	came := f.Kenv["boot.netif.hwaddr"]
	slices.SortStableFunc(cards, func(a, b facts.NIC) int {
		return cardRank(b, came) - cardRank(a, came)
	})
	var failed []string
	for _, n := range cards {
		logf("asking for an address on %s (%s)", n.Device, n.MAC)
		if _, err := r.Run(ctx, run.New("dhclient", n.Device)); err != nil {
			failed = append(failed, fmt.Sprintf("%s (%s): %v", n.Device, n.MAC, err))
			continue
		}
		out, err := r.Run(ctx, run.New("ifconfig", n.Device))
		if err != nil {
			return err
		}
		now, err := facts.NICs(string(out))
		if err == nil && len(now) == 1 && len(now[0].Inet) > 0 {
			logf("%s has address %s", n.Device, now[0].Inet[0])
			return nil
		}
		failed = append(failed, fmt.Sprintf("%s (%s): no DHCP server answered", n.Device, n.MAC))
	}
	if len(failed) == 0 {
		failed = []string{"there is no network card"}
	}
	return NetHint(fmt.Errorf("get an address by DHCP: %s", strings.Join(failed, "; ")))
}

// cardRank is higher for cards that are better to ask on.
func cardRank(n facts.NIC, came string) int {
	rank := 0
	if strings.EqualFold(n.MAC, came) {
		rank += 2
	}
	if n.Link {
		rank++
	}
	return rank
}

// NetHint says what to do about a network that does not do what an install needs.
func NetHint(err error) error {
	return diag.Hint(err, "is the server there? Look with \"ifconfig\" and \"fetch\" in a shell; no disk was touched")
}
