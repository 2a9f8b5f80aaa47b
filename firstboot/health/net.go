package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/network"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/internal/text"
)

// iface is an interface as rc.conf wants it or as ifconfig shows it.
type iface struct {
	name    string
	inet    []netip.Prefix
	dhcp    bool     // wanted: an address of any kind
	ether   string   // "" when rc.conf does not say
	mtu     int      // 0 when rc.conf does not say
	members []string // of a bridge
	up      bool     // shown
	status  string   // shown: "active", "no carrier", "" when it has none
}

// checkNetwork compares interfaces and routes of host and jails with their rc.conf,
// and the sysctls packets depend on.
func (v *verifier) checkNetwork(ctx context.Context) []Check {
	r := &rows{area: "network"}
	switch why, err := readOptional(v.path(place.NetFallback)); {
	case err != nil:
		r.fail("settings", err)
	case why != nil:
		r.add("settings", Failed, "those of /etc did not work and others are in use: "+text.OneLine(strings.TrimSpace(string(why))),
			"mend "+v.trialFiles()+" and restart, or keep them with: riginstall confirm")
	}
	v.checkStack(ctx, r, "", nil)
	for _, j := range v.jails {
		switch {
		case !j.vnet:
		case !v.up[j.name]:
			r.skip(j.name, "the jail does not run")
		default:
			v.checkStack(ctx, r, j.name, j.interfaces)
		}
	}
	v.checkSysctls(ctx, r)
	return r.list
}

// trialFiles names the files whose settings are on trial.
func (v *verifier) trialFiles() string {
	i := v.m.Reach().Trial()
	if i < 0 {
		return "them"
	}
	t := v.m.Networks[i].Trial
	return network.InEtc("and", t.Address, t.Gateway)
}

// checkStack looks at the network stack of the host or of a jail, which has to have
// the interfaces given.
func (v *verifier) checkStack(ctx context.Context, r *rows, jail string, given []string) {
	where := "host"
	var in []string
	if jail != "" {
		where, in = jail, []string{"-j", jail}
	}
	rc, err := v.rcConf(ctx, jail)
	if err != nil {
		r.fail(where+" rc.conf", err)
		return
	}
	want, err := wantedInterfaces(rc)
	if err != nil {
		r.fail(where+" rc.conf", err)
		return
	}
	out, err := v.output(ctx, slices.Concat([]string{"ifconfig"}, in, []string{"-f", "inet:cidr"})...)
	if err != nil {
		r.fail(where+" interfaces", err)
		return
	}
	have, err := shownInterfaces(out)
	if err != nil {
		r.fail(where+" interfaces", err)
		return
	}
	compareInterfaces(r, where, want, given, have)
	v.checkRoute(ctx, r, where, in, rc["defaultrouter"])
}

func (v *verifier) checkRoute(ctx context.Context, r *rows, where string, in []string, want string) {
	check := where + " default route"
	if want == "" || strings.EqualFold(want, "NO") {
		r.skip(check, "rc.conf names none")
		return
	}
	out, err := v.output(ctx, slices.Concat([]string{"netstat", "--libxo", "json", "-rn4"}, in)...)
	if err != nil {
		r.fail(check, err)
		return
	}
	gateway, dev, err := defaultRoute(out)
	switch {
	case err != nil:
		r.fail(check, err)
	case gateway == "":
		r.add(check, Failed, "there is none; rc.conf says "+want, "service routing restart")
	case gateway != want:
		r.add(check, Failed, fmt.Sprintf("it goes to %s, not to %s", gateway, want), "service routing restart")
	default:
		r.ok(check, "%s by %s", gateway, dev)
	}
}

var rcSuffix = regexp.MustCompile(`_(name|ipv6|descr|aliases|alias[0-9]+)$`)

// wantedInterfaces reads the variables ifconfig_NAME and ifconfig_NAME_aliasN of
// rc.conf(5), by the name as variables have it: "vlan_100" for vlan.100.
func wantedInterfaces(rc map[string]string) (map[string]*iface, error) {
	out := map[string]*iface{}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(rc)) {
		name, ok := strings.CutPrefix(key, "ifconfig_")
		if !ok || name == "DEFAULT" {
			continue
		}
		if suffix := rcSuffix.FindString(name); suffix != "" {
			if !strings.HasPrefix(suffix, "_alias") || suffix == "_aliases" {
				continue
			}
			name = strings.TrimSuffix(name, suffix)
		}
		if out[name] == nil {
			out[name] = &iface{name: name}
		}
		if err := out[name].want(strings.Fields(rc[key])); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	return out, errors.Join(errs...)
}

// want adds what the words of an ifconfig_NAME say.
func (w *iface) want(words []string) error {
	for i := 0; i < len(words); i++ {
		var next string
		if i+1 < len(words) {
			next = words[i+1]
		}
		var err error
		switch word := words[i]; strings.ToLower(word) {
		case "dhcp", "syncdhcp", "nosyncdhcp":
			w.dhcp = true
			continue
		case "inet":
			var p netip.Prefix
			p, err = facts.InetPrefix(words[i:])
			w.inet = append(w.inet, p)
		case "ether", "link", "lladdr":
			var mac net.HardwareAddr
			mac, err = net.ParseMAC(next)
			w.ether = mac.String()
		case "mtu":
			w.mtu, err = strconv.Atoi(next)
		case "addm":
			w.members = append(w.members, next)
		default:
			continue
		}
		if err != nil {
			return err
		}
		i++
	}
	return nil
}

// shownInterfaces are those in what ifconfig -f inet:cidr prints, by name.
func shownInterfaces(text string) (map[string]*iface, error) {
	list, err := facts.ParseIfconfig(text)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("output of ifconfig: no interface")
	}
	out := map[string]*iface{}
	for _, i := range list {
		out[i.Name] = &iface{name: i.Name, inet: i.Inet, ether: i.MAC, mtu: i.MTU, members: i.Members, up: i.Up, status: i.Status}
	}
	return out, nil
}

// variableName is an interface's name as variables of rc.conf have it.
func variableName(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(".-/+", r) {
			return '_'
		}
		return r
	}, name)
}

// compareInterfaces adds a row for each interface that has to be there: those with
// an address, the members of bridges, and those given to a jail.
func compareInterfaces(r *rows, where string, want map[string]*iface, given []string, have map[string]*iface) {
	shown := map[string]*iface{}
	for _, h := range have {
		shown[variableName(h.name)] = h
	}
	need := map[string]bool{}
	for _, n := range given {
		need[variableName(n)] = true
	}
	for n, w := range want {
		if n != "lo0" && (len(w.inet) > 0 || w.dhcp || len(w.members) > 0) {
			need[n] = true
		}
		for _, m := range w.members {
			need[variableName(m)] = true
		}
	}
	for _, n := range slices.Sorted(maps.Keys(need)) {
		w := want[n]
		if w == nil {
			w = &iface{name: n}
		}
		compareInterface(r, where+" "+n, w, shown[n])
	}
	for _, n := range slices.Sorted(maps.Keys(shown)) {
		if h := shown[n]; !need[n] && n != "lo0" && len(h.inet) > 0 {
			r.add(where+" "+text.Printable(h.name), Warning, "it has "+prefixes(h.inet)+", of which rc.conf says nothing", "")
		}
	}
}

func compareInterface(r *rows, check string, w, h *iface) {
	const remedy = "a restart of the server or the jail sets it up as rc.conf says"
	if h == nil {
		r.add(check, Failed, "there is no such interface", remedy)
		return
	}
	var bad []string
	badf := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	missing, extra := difference(w.inet, h.inet)
	if len(missing) > 0 {
		badf("it lacks %s", prefixes(missing))
	}
	if w.dhcp && len(h.inet) == 0 {
		badf("it has no address")
	}
	if w.ether != "" && w.ether != h.ether {
		badf("its MAC address is %s, not %s", h.ether, w.ether)
	}
	if w.mtu != 0 && w.mtu != h.mtu {
		badf("its MTU is %d, not %d", h.mtu, w.mtu)
	}
	if lost := without(w.members, h.members); len(lost) > 0 {
		badf("%s not in the bridge", strings.Join(lost, ", "))
	}
	if !h.up {
		badf("it is down")
	}
	if h.status == "no carrier" {
		badf("it has no link")
	}
	if len(bad) > 0 {
		r.add(check, Failed, strings.Join(bad, "; "), remedy)
		return
	}
	if more := without(h.members, w.members); len(more) > 0 {
		r.add(check, Warning, "in the bridge and not in rc.conf: "+strings.Join(more, ", "), "")
		return
	}
	if len(extra) > 0 && !w.dhcp {
		r.add(check, Warning, "it also has "+prefixes(extra)+", of which rc.conf says nothing", "")
		return
	}
	var parts []string
	if len(h.inet) > 0 {
		parts = append(parts, prefixes(h.inet))
	}
	if len(h.members) > 0 {
		parts = append(parts, "members "+strings.Join(h.members, " "))
	}
	r.ok(check, "%s", strings.Join(append(parts, "up"), ", "))
}

// difference returns what of want is not in have, and the reverse.
func difference(want, have []netip.Prefix) (missing, extra []netip.Prefix) {
	for _, p := range want {
		if !slices.Contains(have, p) {
			missing = append(missing, p)
		}
	}
	for _, p := range have {
		if !slices.Contains(want, p) {
			extra = append(extra, p)
		}
	}
	return missing, extra
}

func prefixes(list []netip.Prefix) string { return facts.NIC{Inet: list}.Addresses() }

// defaultRoute finds the IPv4 default route in the output of netstat --libxo json
// -rn4 (FreeBSD 15.1 usr.bin/netstat/route.c); "" when there is none.
func defaultRoute(printed string) (gateway, dev string, err error) {
	var out struct {
		Statistics *struct {
			Info struct {
				Table struct {
					Family []struct {
						Name  string `json:"address-family"`
						Entry []struct {
							Destination string `json:"destination"`
							Gateway     string `json:"gateway"`
							Interface   string `json:"interface-name"`
						} `json:"rt-entry"`
					} `json:"rt-family"`
				} `json:"route-table"`
			} `json:"route-information"`
		} `json:"statistics"`
	}
	if err := json.Unmarshal([]byte(printed), &out); err != nil {
		return "", "", fmt.Errorf("output of netstat: %w", err)
	}
	if out.Statistics == nil {
		return "", "", errors.New("output of netstat: no statistics")
	}
	for _, f := range out.Statistics.Info.Table.Family {
		if f.Name != "Internet" {
			continue
		}
		for _, e := range f.Entry {
			if e.Destination == "default" {
				return text.Printable(e.Gateway), text.Printable(e.Interface), nil
			}
		}
	}
	return "", "", nil
}

// checkSysctls compares what decides whether packets are forwarded and filtered.
func (v *verifier) checkSysctls(ctx context.Context, r *rows) {
	want, err := v.wantedSysctls(ctx)
	if err != nil {
		r.fail("sysctl", err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		out, err := v.output(ctx, "sysctl", "-n", name)
		got := strings.TrimSpace(out)
		switch {
		case err != nil:
			r.fail(name, err)
		case got != want[name]:
			r.add(name, Failed, fmt.Sprintf("it is %s, not %s", got, want[name]), "sysctl "+name+"="+want[name])
		default:
			r.ok(name, "%s", got)
		}
	}
}

// wantedSysctls are those of sysctl.conf about bridges, which pf depends on, and
// forwarding when rc.conf wants a gateway.
func (v *verifier) wantedSysctls(ctx context.Context) (map[string]string, error) {
	want := map[string]string{}
	b, err := readOptional(v.path("etc/sysctl.conf"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		text, _, _ := strings.Cut(line, "#")
		name, value, ok := strings.Cut(strings.TrimSpace(text), "=")
		if ok && strings.HasPrefix(name, "net.link.bridge.") {
			want[strings.TrimSpace(name)] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	rc, err := v.rcConf(ctx, "")
	if err == nil && wantYes(rc["gateway_enable"]) {
		want["net.inet.ip.forwarding"] = "1"
	}
	return want, err
}
