package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/arp"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
)

// Watcher is commit-confirmed networking: settings that have not worked yet are
// in use on trial. When the gateway does not answer by ARP in time, the last
// ones that worked are brought up, and without any, or when they fail too, rescue
// networking: an address by DHCP, and SSH with the administrators' keys. /etc is
// left as it is; the next boot tries it again.
type Watcher struct {
	Root  string           // where the machine's file system is, "" for /
	Net   manifest.Network // with a Trial
	Login string           // who may log in by SSH, "" when nobody is known
	Run   run.Runner
	Who   func(ctx context.Context, ifname string, from, target netip.Addr) (net.HardwareAddr, error) // arp.Who
	Say   func(format string, args ...any)                                                            // to everyone at the consoles
	Limit time.Duration                                                                               // for the gateway to answer

	Question time.Duration // how long one card is asked for one address; 5 s when 0
	Rest     time.Duration // until settings that failed, with nothing to fall back on, are tried again; 1 min when 0
}

// LoadWatcher returns a watch over the network that the installed image's manifest
// puts on trial.
func LoadWatcher(root string) (*Watcher, error) {
	m, err := place.ReadManifest(root)
	if err != nil {
		return nil, fmt.Errorf("network settings: %w", err)
	}
	i := m.Reach().Trial()
	if i < 0 {
		return nil, diag.Hint(diag.Inputf("network settings: image %s puts none on trial", m.Image), "a trial of a [[network]] in rig.toml does")
	}
	w := &Watcher{Root: root, Net: m.Networks[i]}
	if u := slices.IndexFunc(m.Users, func(u manifest.User) bool { return u.Keys != "" }); u >= 0 {
		w.Login = m.Users[u].Name
	}
	return w, nil
}

// settings are the contents of the trial's files, by name.
type settings map[string]string

func (w *Watcher) readSettings(dir string) (settings, error) {
	s := settings{}
	for _, name := range w.Net.Trial.Files() {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		s[name] = strings.TrimSpace(string(b))
	}
	return s, nil
}

// equal reports whether two settings are the same.
func (w *Watcher) equal(a, b settings) bool {
	return !slices.ContainsFunc(w.Net.Trial.Files(), func(name string) bool { return a[name] != b[name] })
}

// parse returns the address and the gateway that settings say.
func (w *Watcher) parse(s settings) (addr netip.Prefix, gateway netip.Addr, err error) {
	t := w.Net.Trial
	text, ok := strings.CutPrefix(s[t.Address], "inet ")
	if !ok {
		return addr, gateway, fmt.Errorf(`/etc/%s is %q, not "inet ADDRESS/LENGTH"`, t.Address, s[t.Address])
	}
	text, _, _ = strings.Cut(strings.TrimSpace(text), " ")
	if addr, err = netip.ParsePrefix(text); err != nil {
		return addr, gateway, fmt.Errorf("/etc/%s: %w", t.Address, err)
	}
	if gateway, err = netip.ParseAddr(s[t.Gateway]); err != nil {
		return addr, gateway, fmt.Errorf("/etc/%s: %w", t.Gateway, err)
	}
	return addr, gateway, nil
}

func (w *Watcher) path(name string) string { return filepath.Join(w.Root, name) }

// state is what /etc says, and what worked last: nil when nothing has yet.
func (w *Watcher) state() (now, working settings, err error) {
	if now, err = w.readSettings(w.path("/etc")); err != nil {
		return nil, nil, fmt.Errorf("network settings: %w", err)
	}
	working, err = w.readSettings(w.path(place.NetDir))
	if errors.Is(err, os.ErrNotExist) {
		return now, nil, nil
	}
	return now, working, err
}

// Confirmed reports whether what /etc says has worked or was confirmed.
func (w *Watcher) Confirmed() (bool, error) {
	now, working, err := w.state()
	return err == nil && working != nil && w.equal(now, working), err
}

// Confirm makes what /etc says the settings that work, whatever the gateway says:
// a watch under way ends, none follows, and a later change that fails falls back
// on these. It reports whether others are in use now.
func (w *Watcher) Confirm() (fallback bool, err error) {
	now, err := w.readSettings(w.path("/etc"))
	if err == nil {
		_, _, err = w.parse(now)
	}
	if err != nil {
		return false, diag.Hint(fmt.Errorf("confirm the network settings: %w", err), "mend that file first")
	}
	if err := w.keep(now); err != nil {
		return false, err
	}
	_, err = os.Stat(w.path(place.NetFallback))
	return err == nil, nil
}

// keep makes s what worked last. The gateway's file is written last: without it
// there is no copy.
func (w *Watcher) keep(s settings) error {
	dir := w.path(place.NetDir)
	files := w.Net.Trial.Files()
	last := filepath.Join(dir, files[len(files)-1])
	if err := errors.Join(os.MkdirAll(dir, 0o755), remove(last)); err != nil {
		return fmt.Errorf("keep the network settings: %w", err)
	}
	for _, name := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s[name]+"\n"), 0o644); err != nil {
			return fmt.Errorf("keep the network settings: %w", err)
		}
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Watch tries what /etc says and returns when it works, was confirmed, or was
// replaced by something that works.
func (w *Watcher) Watch(ctx context.Context) error {
	if err := remove(w.path(place.NetFallback)); err != nil {
		return err
	}
	for {
		now, working, err := w.state()
		if err != nil {
			return err
		}
		if working != nil && w.equal(now, working) {
			return nil
		}
		why := w.try(ctx, now, w.Limit)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if why == nil {
			return w.keep(now)
		}
		if ok, err := w.Confirmed(); ok || err != nil {
			return err
		}
		w.Say("NETWORK: %v", why)
		if working != nil && w.lastWorking(ctx, now, working) || w.rescue(ctx, now) {
			return nil
		}
		w.Say("NETWORK: no DHCP server answered either: this console is the way in. The settings of /etc are tried again.")
		w.restore(ctx)
		select {
		case <-time.After(cmp.Or(w.Rest, time.Minute)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try waits until the gateway of s answers on the network's card, the settings are confirmed, or
// the time is over.
func (w *Watcher) try(ctx context.Context, s settings, limit time.Duration) error {
	addr, gateway, err := w.parse(s)
	if err != nil {
		return err
	}
	for end := time.Now().Add(limit); ; {
		mac, err := w.ask(ctx, w.Net.Interface, addr.Addr(), gateway)
		if err == nil {
			w.Say("network: gateway %s (%s) answers %s on %s: these settings work", gateway, mac, addr, w.Net.Interface)
			return nil
		}
		if ok, err := w.Confirmed(); ok || err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if time.Now().After(end) {
			return fmt.Errorf("with address %s on %s, gateway %s did not answer within %s: %w", addr, w.Net.Interface, gateway, limit, err)
		}
	}
}

// ask asks once, and takes its time in any case.
func (w *Watcher) ask(ctx context.Context, ifname string, from, target netip.Addr) (net.HardwareAddr, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(w.Question, 5*time.Second))
	defer cancel()
	mac, err := w.Who(ctx, ifname, from, target)
	if err != nil && !errors.Is(err, arp.ErrSilent) {
		<-ctx.Done()
	}
	return mac, err
}

// lastWorking brings up what worked last and reports whether it still does.
func (w *Watcher) lastWorking(ctx context.Context, now, working settings) bool {
	addr, gateway, err := w.parse(working)
	if err != nil {
		return false
	}
	w.dropAddress(ctx, now)
	w.run(ctx, "ifconfig", w.Net.Interface, "inet", addr.String())
	if working[w.Net.Trial.Route] != "" {
		w.run(ctx, "route", "-n", "add", "-host", gateway.String(), "-iface", w.Net.Interface)
	}
	w.run(ctx, "route", "-n", "add", "default", gateway.String())
	if err := w.try(ctx, working, w.Limit/4); err != nil {
		w.Say("NETWORK: nor do the settings that worked last: %v", err)
		w.dropAddress(ctx, working)
		return false
	}
	w.fellBack("the settings that worked last are in use: "+addr.String(),
		InEtc("and", w.Net.Trial.Address, w.Net.Trial.Gateway)+" still say the new ones: mend them and restart, or keep them with \"riginstall confirm\"")
	return true
}

// rescue gets an address by DHCP on the first card that has a server, and lets
// SSH in from everywhere; sshd(8) takes keys only.
func (w *Watcher) rescue(ctx context.Context, now settings) bool {
	w.dropAddress(ctx, now)
	login := w.Login
	if login != "" {
		login += "@"
	}
	for _, nic := range w.cards(ctx, now) {
		rules := fmt.Sprintf("set block-policy drop\nset skip on lo0\nblock log all\n"+
			"pass in quick on %[1]s inet proto tcp from any to (%[1]s) port 22\n"+
			"pass out quick on %[1]s inet proto udp from any port 68 to any port 67\n", nic.Device)
		if _, err := w.Run.Run(ctx, run.Cmd{Argv: []string{"pfctl", "-f", "-"}, Stdin: []byte(rules)}); err != nil {
			w.Say("NETWORK: %v", err)
		}
		if nic.bridge != "" {
			w.run(ctx, "ifconfig", nic.bridge, "deletem", nic.Device)
		}
		w.run(ctx, "dhclient", nic.Device)
		if addr, ok := w.address(ctx, nic.Device); ok {
			w.fellBack(fmt.Sprintf("rescue networking is in use: %s by DHCP on %s (%s); ssh %s%s", addr, nic.Device, nic.MAC, login, addr.Addr()),
				"the jails are cut off meanwhile. Mend "+InEtc("or", w.Net.Trial.Address, w.Net.Trial.Gateway, w.Net.Trial.Card)+" and restart")
			return true
		}
		w.run(ctx, "pkill", "-x", "dhclient")
		if nic.bridge != "" {
			w.run(ctx, "ifconfig", nic.bridge, "addm", nic.Device)
		}
	}
	return false
}

// card is a network card and the bridge it is in.
type card struct {
	facts.NIC
	bridge string
}

// cards are the network cards, the most promising first: those on which the
// gateway answers (the cables were swapped), the network's own, then the others with a link.
func (w *Watcher) cards(ctx context.Context, now settings) []card {
	out, err := w.Run.Run(ctx, run.New("ifconfig", "-a"))
	if err != nil {
		w.Say("NETWORK: %v", err)
		return []card{{NIC: facts.NIC{Device: w.Net.Interface}}}
	}
	nics, err := facts.NICs(string(out))
	if err != nil {
		w.Say("NETWORK: %v", err)
		return []card{{NIC: facts.NIC{Device: w.Net.Interface}}}
	}
	addr, gateway, bad := w.parse(now)
	var first, rest []card
	for _, n := range nics {
		c := card{n, bridgeOf(string(out), n.Device)}
		switch {
		case n.Device == w.Net.Interface:
			rest = slices.Insert(rest, 0, c)
		case !n.Link:
		case bad == nil && w.answers(ctx, n.Device, addr.Addr(), gateway):
			w.Say("NETWORK: gateway %s answers on %s (%s), not on %s: are the cables swapped, or the cards in /etc?", gateway, n.Device, n.MAC, w.Net.Interface)
			first = append(first, c)
		default:
			rest = append(rest, c)
		}
	}
	return append(first, rest...)
}

func (w *Watcher) answers(ctx context.Context, ifname string, from, target netip.Addr) bool {
	_, err := w.ask(ctx, ifname, from, target)
	return err == nil
}

// bridgeOf is the bridge that ifname is a member of by the output of ifconfig -a.
func bridgeOf(text, ifname string) string {
	all, _ := facts.ParseIfconfig(text)
	for _, i := range all {
		if slices.Contains(i.Members, ifname) {
			return i.Name
		}
	}
	return ""
}

// address is the IPv4 address an interface has.
func (w *Watcher) address(ctx context.Context, ifname string) (netip.Prefix, bool) {
	out, err := w.Run.Run(ctx, run.New("ifconfig", ifname))
	if err != nil {
		return netip.Prefix{}, false
	}
	nics, err := facts.NICs(string(out))
	if err != nil || len(nics) != 1 || len(nics[0].Inet) == 0 {
		return netip.Prefix{}, false
	}
	return nics[0].Inet[0], true
}

// dropAddress takes the settings' address and the default route away; there may be
// neither.
func (w *Watcher) dropAddress(ctx context.Context, s settings) {
	if addr, _, err := w.parse(s); err == nil {
		_, _ = w.Run.Run(ctx, run.New("ifconfig", w.Net.Interface, "inet", addr.Addr().String(), "-alias"))
	}
	_, _ = w.Run.Run(ctx, run.New("route", "-n", "delete", "default"))
}

// restore brings up what /etc says, as rc(8) does.
func (w *Watcher) restore(ctx context.Context) {
	w.run(ctx, "service", "netif", "restart", w.Net.Interface)
	w.run(ctx, "service", "routing", "restart")
	w.run(ctx, "pfctl", "-f", "/etc/pf.conf")
}

// run runs a command whose failure is told and survived.
func (w *Watcher) run(ctx context.Context, argv ...string) {
	if _, err := w.Run.Run(ctx, run.New(argv...)); err != nil {
		w.Say("NETWORK: %v", err)
	}
}

// InEtc names files for people: "/etc/a, /etc/b or /etc/c".
func InEtc(last string, names ...string) string {
	names = slices.DeleteFunc(names, func(n string) bool { return n == "" })
	text := "/etc/" + names[0]
	for i, n := range names[1:] {
		sep := ", "
		if i == len(names)-2 {
			sep = " " + last + " "
		}
		text += sep + "/etc/" + n
	}
	return text
}

// fellBack says what is in use and leaves a note for riginstall verify.
func (w *Watcher) fellBack(what, then string) {
	w.Say("NETWORK: %s.", what)
	w.Say("NETWORK: %s.", then)
	if err := os.MkdirAll(w.path(place.NetDir), 0o755); err != nil {
		w.Say("NETWORK: %v", err)
	}
	if err := os.WriteFile(w.path(place.NetFallback), []byte(what+"\n"+then+"\n"), 0o644); err != nil {
		w.Say("NETWORK: %v", err)
	}
}
