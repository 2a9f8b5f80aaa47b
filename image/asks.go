package image

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/rig-freebsd/rig/overlay/answers"
)

// AskConfig is what "rigimage init" asks, or writes, for the site file: questions of
// the profile in turn, for both servers at once or for A and then for B.
type AskConfig struct {
	Keys     []string `toml:"keys"`
	Common   bool     `toml:"common"`   // one answer for both servers
	Optional bool     `toml:"optional"` // no answer will do; the installer asks then
	Default  []string `toml:"default"`  // what is offered: for both, or for A and for B
	Like     string   `toml:"like"`     // offered is what was answered to this key, in the same table
	Nth      []int64  `toml:"nth"`      // offered is this address of the subnet: for A, for B
	Answer   []string `toml:"answer"`   // not asked: what is written for A and for B

	// Subnet is the prompt for a network that answers no question: the nth of
	// what comes after are addresses in it. Default has its default.
	Subnet string `toml:"subnet"`
}

// validateAsks checks what init asks.
func (c *Config) validateAsks(d *decoder) {
	subnet := false
	for i, a := range c.Asks {
		at := func(key string) []string { return []string{"ask", answers.Index(i), key} }
		d.require((a.Subnet == "") != (len(a.Keys) == 0), "expected keys of questions, or a subnet", at("keys")...)
		if a.Subnet != "" {
			subnet = true
			d.require(len(a.Default) <= 1 && !a.Common && !a.Optional && a.Like == "" && a.Nth == nil && a.Answer == nil, "a subnet has one default, and nothing else", at("subnet")...)
			for _, text := range a.Default {
				p, err := netip.ParsePrefix(text)
				d.require(err == nil && p.Addr().Is4() && p == p.Masked(), fmt.Sprintf("%q is no network, as 192.0.2.0/24", text), at("default")...)
			}
			continue
		}
		q := d.askedFor(c, a, i)
		values := 2
		if a.Common {
			values = 1
		}
		given := 0
		for _, l := range []struct {
			key string
			n   int
		}{{"default", len(a.Default)}, {"nth", len(a.Nth)}, {"answer", len(a.Answer)}} {
			if l.n == 0 {
				continue
			}
			given++
			d.require(l.n == values, fmt.Sprintf("expected %d, one for each server, or one when it is common", values), at(l.key)...)
		}
		if a.Like != "" {
			given++
			d.require(slices.ContainsFunc(c.Questions, func(o answers.Question) bool { return o.Key == a.Like }), fmt.Sprintf("there is no question %q", a.Like), at("like")...)
		}
		d.require(given <= 1 && (given == 0 || len(a.Keys) == 1), "expected at most one of default, like, nth and answer, for a single key", at("keys")...)
		d.require(a.Nth == nil || subnet && q != nil && !q.List && (q.Type == answers.IP || q.Type == answers.CIDR),
			"only for a question of type ip or cidr, after a subnet", at("nth")...)
	}
}

// askedFor checks the keys of the i-th ask and the answers it holds, and returns the
// question of the first.
func (d *decoder) askedFor(c *Config, a AskConfig, i int) (first *answers.Question) {
	for n, key := range a.Keys {
		here := []string{"ask", answers.Index(i), "keys", answers.Index(n)}
		k := slices.IndexFunc(c.Questions, func(q answers.Question) bool { return q.Key == key })
		if k < 0 {
			d.add(fmt.Sprintf("there is no question %q", key), here...)
			continue
		}
		q := &c.Questions[k]
		d.require(!q.Hidden() && q.Peer == "" && q.Type != answers.Disks, "a secret, disks or what follows from the other server is not asked for here", here...)
		d.require(!a.Common || !q.Differ, "the servers' answers must differ, so they have none in common", here...)
		d.require(a.Common || a.Answer != nil || !q.Same || q.Type == answers.CIDR, "the servers' answers must be the same; expected common = true", here...)
		if n == 0 {
			first = q
		}
	}
	for n, text := range a.Answer {
		if first == nil {
			break
		}
		_, err := answers.ParseText(first, text)
		d.require(err == nil, fmt.Sprint(err), "ask", answers.Index(i), "answer", answers.Index(n))
	}
	return first
}
