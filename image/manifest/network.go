package manifest

import (
	"fmt"
	"path"
	"slices"

	"github.com/rig-freebsd/rig/overlay/answers"
)

// Network is a network that each server is on. Most of its fields are keys of the
// questions whose answers describe it.
type Network struct {
	Name      string `toml:"name" json:"name"`                           // for people: "public"
	Interface string `toml:"interface" json:"interface"`                 // as rc.conf calls the card: "em0", or a name it is given
	NIC       string `toml:"nic" json:"nic"`                             // a nic: which card that is
	Address   string `toml:"address" json:"address"`                     // a cidr: the server's own address
	Gateway   string `toml:"gateway,omitempty" json:"gateway,omitempty"` // an ip: the router, "" for none
	VLAN      string `toml:"vlan,omitempty" json:"vlan,omitempty"`       // a vlan, "" for none
	Link      bool   `toml:"link,omitempty" json:"link,omitempty"`       // it joins the two servers of a pair
	Trial     *Trial `toml:"trial,omitempty" json:"trial,omitempty"`     // nil: its settings are taken as they are
}

// Trial names the files below /etc that decide whether the server can be reached
// by a network. What they say is on trial until the gateway has answered.
type Trial struct {
	Address string `toml:"address" json:"address"`                 // "inet ADDRESS/LENGTH"
	Gateway string `toml:"gateway" json:"gateway"`                 // the router's address
	Route   string `toml:"route,omitempty" json:"route,omitempty"` // not empty when the router needs a route of its own
	Card    string `toml:"card,omitempty" json:"card,omitempty"`   // which card it is
}

// Files are the names below /etc, the gateway's last.
func (t Trial) Files() []string {
	return slices.DeleteFunc([]string{t.Address, t.Card, t.Route, t.Gateway}, func(s string) bool { return s == "" })
}

// Who sends the packets of a check, beside keys of questions.
const (
	FromOutside   = "outside"   // anybody behind the gateway, of whom no answer knows
	FromMartian   = "martian"   // behind the gateway with a private address, of which no answer knows
	FromNeighbour = "neighbour" // on the network itself, with an address of it that nobody has
)

// Proto is what a check sends.
type Proto string

const (
	TCP  Proto = "tcp" // a SYN to each port; also ""
	ICMP Proto = "icmp"
	ARP  Proto = "arp"
)

// Want is what must come of a check.
type Want string

const (
	WantPass   Want = "passes"  // it gets there, whether anything listens or not
	WantReply  Want = "answers" // and is answered
	WantRefuse Want = "refused"
	WantSilent Want = "silent" // it is dropped
)

// Check says whether packets from outside of a server get through to it.
type Check struct {
	Name  string   `toml:"name" json:"name"`
	From  []string `toml:"from" json:"from,omitempty"` // the first that has an address: a word as FromOutside, or the key of a question with addresses (of the other server, when they are its peer); none for arp
	To    string   `toml:"to" json:"to"`               // key of an ip or cidr: where to; a network's own address, or one within it
	Proto Proto    `toml:"proto" json:"proto,omitempty"`
	Ports []int64  `toml:"ports" json:"ports,omitempty"`
	Want  Want     `toml:"want" json:"want"`
	Local []int64  `toml:"local" json:"local,omitempty"` // ports of 127.0.0.1 that lead there, to server A and to server B, while a pair is simulated
}

// Reach is what a profile says of its networks and of who gets through in them.
type Reach struct {
	Networks []Network
	Checks   []Check
}

// Reach returns that of an image.
func (m *Manifest) Reach() Reach { return Reach{m.Networks, m.Checks} }

// Link returns the network that joins the two servers, -1 when there is none.
func (r Reach) Link() int {
	return slices.IndexFunc(r.Networks, func(n Network) bool { return n.Link })
}

// Trial returns the network whose settings are on trial, -1 when there is none.
func (r Reach) Trial() int {
	return slices.IndexFunc(r.Networks, func(n Network) bool { return n.Trial != nil })
}

// network returns the network that the address a question asks for is in, -1 when
// that cannot be known.
func (r Reach) network(qs []answers.Question, key string) int {
	within := ""
	if q := question(qs, key); q != nil {
		within = q.Within
	}
	return slices.IndexFunc(r.Networks, func(n Network) bool { return n.Address == key || within != "" && n.Address == within })
}

func question(qs []answers.Question, key string) *answers.Question {
	if i := slices.IndexFunc(qs, func(q answers.Question) bool { return q.Key == key }); i >= 0 {
		return &qs[i]
	}
	return nil
}

// Validate reports every mistake with its place: table "network" or "check", the
// index in it, and the key, which is dotted for tables in it.
func (r Reach) Validate(qs []answers.Question, report func(table string, i int, key, msg string)) {
	for i := range r.Networks {
		r.checkNetwork(i, qs, func(key, format string, args ...any) { report("network", i, key, fmt.Sprintf(format, args...)) })
	}
	for i, c := range r.Checks {
		r.checkCheck(c, qs, func(key, format string, args ...any) { report("check", i, key, fmt.Sprintf(format, args...)) })
	}
}

func (r Reach) checkNetwork(i int, qs []answers.Question, bad func(key, format string, args ...any)) {
	n := r.Networks[i]
	if !accountName.MatchString(n.Name) {
		bad("name", "expected a short name of a-z, 0-9, - and _")
	}
	if !ifaceName.MatchString(n.Interface) {
		bad("interface", "expected an interface's name, at most 15 characters")
	}
	for _, k := range []struct {
		key, question string
		typ           answers.Type
		optional      bool
	}{{"nic", n.NIC, answers.NIC, false}, {"address", n.Address, answers.CIDR, false}, {"gateway", n.Gateway, answers.IP, true}, {"vlan", n.VLAN, answers.VLAN, true}} {
		if k.question == "" && k.optional {
			continue
		}
		if q := question(qs, k.question); q == nil || q.Type != k.typ || q.List {
			bad(k.key, "there is no question %q of type %s", k.question, k.typ)
		}
	}
	for _, o := range r.Networks[:i] {
		switch {
		case o.Name == n.Name:
			bad("name", "two networks have this name")
		case o.Interface == n.Interface:
			bad("interface", "network %s is on it already", o.Name)
		case o.Address == n.Address:
			bad("address", "network %s has it already", o.Name)
		case o.Link && n.Link:
			bad("link", "network %s joins the servers already", o.Name)
		case o.Trial != nil && n.Trial != nil:
			bad("trial", "network %s is on trial already; expected one at most", o.Name)
		}
	}
	if n.Trial != nil {
		n.Trial.check(n, bad)
	}
}

func (t *Trial) check(n Network, bad func(key, format string, args ...any)) {
	if n.Gateway == "" {
		bad("trial", "the network has no gateway to ask whether its settings work")
	}
	for _, f := range []struct {
		key, name string
		optional  bool
	}{{"address", t.Address, false}, {"gateway", t.Gateway, false}, {"route", t.Route, true}, {"card", t.Card, true}} {
		switch {
		case f.name == "" && f.optional:
		case f.name == "" || f.name == "." || f.name == ".." || path.Base(f.name) != f.name:
			bad("trial."+f.key, "%q; expected the name of a file in /etc", f.name)
		}
	}
	for i, f := range t.Files() {
		if slices.Contains(t.Files()[:i], f) {
			bad("trial", "/etc/%s is there twice", f)
		}
	}
}

func (r Reach) checkCheck(c Check, qs []answers.Question, bad func(key, format string, args ...any)) {
	if c.Name == "" || !oneLine(c.Name) {
		bad("name", "expected a line that says what is checked")
	}
	n, to := r.network(qs, c.To), question(qs, c.To)
	if to == nil || to.List || to.Type != answers.IP && to.Type != answers.CIDR || n < 0 {
		bad("to", "%q; expected the question for a network's address, or for one within it", c.To)
	}
	c.checkFrom(r, n, qs, bad)
	wants := map[Proto][]Want{
		"": {WantPass, WantReply, WantRefuse, WantSilent}, ICMP: {WantReply, WantSilent}, ARP: {WantReply, WantSilent}}
	wants[TCP] = wants[""]
	switch known, ok := wants[c.Proto]; {
	case !ok:
		bad("proto", "%q; expected tcp, icmp or arp", c.Proto)
	case !slices.Contains(known, c.Want):
		bad("want", "%q; expected one of %v", c.Want, known)
	case (len(c.Ports) > 0) != (len(known) > 2):
		bad("ports", "expected ports with tcp, and with nothing else")
	}
	for i, p := range c.Ports {
		if p < 1 || p > 65535 || slices.Contains(c.Ports[:i], p) {
			bad("ports", "%d; expected 1 to 65535, each once", p)
		}
	}
	c.checkLocal(r, qs, bad)
}

// checkFrom checks who sends. n is the network of the target, -1 when not known.
func (c Check) checkFrom(r Reach, n int, qs []answers.Question, bad func(key, format string, args ...any)) {
	if (c.Proto == ARP) != (len(c.From) == 0) {
		bad("from", "expected who sends the packets, and nobody for arp")
	}
	for _, f := range c.From {
		behind := f != FromNeighbour
		if behind && f != FromOutside && f != FromMartian {
			q := question(qs, f)
			if q == nil || q.Type != answers.IP && q.Type != answers.Net {
				bad("from", "%q; expected %s, %s, %s, or a question of type ip or net", f, FromOutside, FromMartian, FromNeighbour)
				continue
			}
		}
		if n >= 0 && behind && r.peer(qs, f) != n && r.Networks[n].Gateway == "" {
			bad("from", "%q is behind a gateway, and network %s has none", f, r.Networks[n].Name)
		}
	}
}

func (c Check) checkLocal(r Reach, qs []answers.Question, bad func(key, format string, args ...any)) {
	if c.Local == nil {
		return
	}
	if len(c.Local) != 2 || c.Local[0] == c.Local[1] || slices.ContainsFunc(c.Local, func(p int64) bool { return p < 1 || p > 65535 }) {
		bad("local", "expected two ports, for server A and for server B")
	}
	if len(c.Ports) != 1 || c.Want != WantPass && c.Want != WantReply || slices.ContainsFunc(c.From, func(f string) bool { return f == FromNeighbour || r.peer(qs, f) >= 0 }) {
		bad("local", "only where one port is to pass from behind the gateway")
	}
}
