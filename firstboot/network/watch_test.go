package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/arp"
	"github.com/rig-freebsd/rig/internal/fakebsd"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// segment answers for the gateways on it, by "interface address".
type segment map[string]bool

func (s segment) who(ctx context.Context, ifname string, from, target netip.Addr) (net.HardwareAddr, error) {
	if s[ifname+" "+target.String()] {
		return net.HardwareAddr{2, 0, 0, 0, 0, 1}, nil
	}
	<-ctx.Done()
	return nil, arp.ErrSilent
}

// host is a runner that knows which cards have a DHCP server and what ran.
type host struct {
	dhcp map[string]string // address by card
	got  map[string]bool   // cards that dhclient has run on
	ran  []string
}

const twoCards = `xnic: flags=8843<UP> metric 0 mtu 1500
	ether 52:54:00:72:69:01
%s	status: active
inic: flags=8843<UP> metric 0 mtu 1500
	ether 52:54:00:72:69:02
%s	status: active
ibridge: flags=8843<UP> metric 0 mtu 1500
	ether 02:00:00:00:00:09
	groups: bridge
	member: inode_a flags=143<LEARNING>
	member: inic flags=143<LEARNING>
`

func (h *host) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := c.String()
	if c.Argv[0] == "ifconfig" && len(c.Argv) == 2 {
		inet := map[string]string{}
		for dev := range h.got {
			inet[dev] = "\tinet " + h.dhcp[dev] + " netmask 0xffffff00\n"
		}
		all := fmt.Sprintf(twoCards, inet["xnic"], inet["inic"])
		if c.Argv[1] == "-a" {
			return []byte(all), nil
		}
		_, one, _ := strings.Cut(all, c.Argv[1]+": flags")
		one, _, _ = strings.Cut(one, "inic: ")
		one, _, _ = strings.Cut(one, "ibridge: ")
		return []byte(c.Argv[1] + ": flags" + one), nil
	}
	h.ran = append(h.ran, line)
	switch c.Argv[0] {
	case "dhclient":
		if h.dhcp[c.Argv[1]] != "" {
			h.got[c.Argv[1]] = true
		}
	case "route":
		if c.Argv[2] == "delete" {
			return nil, &run.Error{Argv: c.Argv, Status: 1, Err: os.ErrNotExist}
		}
	case "pfctl":
		if len(c.Stdin) > 0 && strings.Count(string(c.Stdin), "pass") != 2 {
			return nil, fmt.Errorf("rules: %s", c.Stdin)
		}
	}
	return nil, nil
}

func TestWatch(t *testing.T) {
	const drop = "ifconfig xnic inet 192.0.2.10 -alias|route -n delete default|"
	for name, tt := range map[string]struct {
		etc, working string // gateway; the address is 192.0.2.10 and, of what worked last, 192.0.2.9
		segment      segment
		dhcp         map[string]string
		ran          string // commands, or "" for none
		said         string // in what was said last
		keeps        string // the gateway of what worked last, afterwards
		fallback     string // in its file
	}{
		"first boot, all is well": {etc: "192.0.2.1", segment: segment{"xnic 192.0.2.1": true},
			said: "gateway 192.0.2.1 (02:00:00:00:00:01) answers 192.0.2.10/24 on xnic: these settings work", keeps: "192.0.2.1"},
		"changed, all is well": {etc: "192.0.2.1", working: "192.0.2.7", segment: segment{"xnic 192.0.2.1": true},
			said: "these settings work", keeps: "192.0.2.1"},
		"changed, silence; what worked last works": {etc: "192.0.2.1", working: "192.0.2.7", segment: segment{"xnic 192.0.2.7": true},
			ran:   drop + "ifconfig xnic inet 192.0.2.9/24|route -n add default 192.0.2.7|",
			said:  `keep them with "riginstall confirm"`,
			keeps: "192.0.2.7", fallback: "the settings that worked last are in use: 192.0.2.9/24"},
		"first boot, silence; DHCP on xnic": {etc: "192.0.2.1", dhcp: map[string]string{"xnic": "198.51.100.7"},
			ran: drop + "pfctl -f -|dhclient xnic|", said: "Mend /etc/xnic, /etc/gateway or /etc/xnic_mac and restart",
			fallback: "rescue networking is in use: 198.51.100.7/24 by DHCP on xnic (52:54:00:72:69:01); ssh admin@198.51.100.7"},
		"first boot, cables swapped": {etc: "192.0.2.1", segment: segment{"inic 192.0.2.1": true}, dhcp: map[string]string{"inic": "192.0.2.77"},
			ran: drop + "pfctl -f -|ifconfig ibridge deletem inic|dhclient inic|", said: "Mend /etc/xnic, /etc/gateway or /etc/xnic_mac and restart",
			fallback: "192.0.2.77/24 by DHCP on inic"},
		"changed, silence; nothing works but DHCP on the other card": {etc: "192.0.2.1", working: "192.0.2.7", dhcp: map[string]string{"inic": "192.0.2.77"},
			ran: drop + "ifconfig xnic inet 192.0.2.9/24|route -n add default 192.0.2.7|ifconfig xnic inet 192.0.2.9 -alias|route -n delete default|" +
				drop + "pfctl -f -|dhclient xnic|pkill -x dhclient|pfctl -f -|ifconfig ibridge deletem inic|dhclient inic|",
			said: "Mend /etc/xnic", keeps: "192.0.2.7", fallback: "DHCP on inic"},
		"a file that cannot be read": {etc: "nonsense", dhcp: map[string]string{"xnic": "198.51.100.7"},
			ran: "route -n delete default|pfctl -f -|dhclient xnic|", said: "Mend /etc/xnic", fallback: "198.51.100.7/24 by DHCP on xnic"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{dhcp: tt.dhcp, got: map[string]bool{}}
			w, said := netWatch(t, h, tt.segment, tt.etc)
			if tt.working != "" {
				if err := w.keep(settings{"xnic": "inet 192.0.2.9/24", "gateway": tt.working}); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Watch(t.Context()); err != nil {
				t.Fatal(err)
			}
			ran := ""
			for _, line := range h.ran {
				ran += line + "|"
			}
			if ran != tt.ran {
				t.Errorf("ran\n%s, want\n%s", ran, tt.ran)
			}
			if len(*said) == 0 || !strings.Contains((*said)[len(*said)-1], tt.said) {
				t.Errorf("said %q, want at the end %q", *said, tt.said)
			}
			kept, _ := w.readSettings(w.path(place.NetDir))
			if kept["gateway"] != tt.keeps {
				t.Errorf("%v is kept, want gateway %q", kept, tt.keeps)
			}
			note, _ := os.ReadFile(w.path(place.NetFallback))
			if !strings.Contains(string(note), tt.fallback) || (tt.fallback == "") != (len(note) == 0) {
				t.Errorf("the note is %q, want %q", note, tt.fallback)
			}
		})
	}
}

// netWatch is a watch of a machine whose /etc has this gateway.
func netWatch(t *testing.T, h *host, s segment, gateway string) (*Watcher, *[]string) {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"xnic": "inet 192.0.2.10/24\n", "xnic_mac": "52:54:00:72:69:01\n", "xnic_routes": "\n", "gateway": gateway + "\n"} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	said := new([]string)
	net := manifest.Network{Name: "public", Interface: "xnic", Trial: &manifest.Trial{Address: "xnic", Card: "xnic_mac", Route: "xnic_routes", Gateway: "gateway"}}
	return &Watcher{Root: root, Net: net, Login: "admin", Run: h, Who: s.who, Limit: 20 * time.Millisecond, Question: 5 * time.Millisecond, Rest: time.Millisecond,
		Say: func(format string, args ...any) { *said = append(*said, fmt.Sprintf(format, args...)) }}, said
}

// A gateway that comes back later is found, and what rc brought up is back.
func TestWatchAgain(t *testing.T) {
	h, s := &host{got: map[string]bool{}}, segment{}
	w, said := netWatch(t, h, s, "192.0.2.1")
	say := w.Say
	w.Say = func(format string, args ...any) {
		say(format, args...)
		if strings.Contains(format, "this console is the way in") {
			s["xnic 192.0.2.1"] = true
		}
	}
	if err := w.Watch(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(h.ran, "|")
	if !strings.HasSuffix(all, "pkill -x dhclient|ifconfig ibridge addm inic|service netif restart xnic|service routing restart|pfctl -f /etc/pf.conf") {
		t.Errorf("ran %s", all)
	}
	if got := (*said)[len(*said)-1]; !strings.Contains(got, "these settings work") {
		t.Errorf("said %q", *said)
	}
}

// A confirmation ends a watch, and none begins while nothing changed.
func TestConfirm(t *testing.T) {
	h := &host{got: map[string]bool{}}
	w, _ := netWatch(t, h, segment{}, "192.0.2.1")
	w.Limit = time.Minute
	done := make(chan error)
	go func() { done <- w.Watch(t.Context()) }()
	time.Sleep(10 * time.Millisecond)
	if fallback, err := w.Confirm(); err != nil || fallback {
		t.Fatal(fallback, err)
	}
	if err := <-done; err != nil || len(h.ran) != 0 {
		t.Errorf("%v; ran %q", err, h.ran)
	}
	if ok, err := w.Confirmed(); !ok || err != nil {
		t.Errorf("confirmed: %t %v", ok, err)
	}
	os.WriteFile(w.path("/etc/gateway"), []byte("192.0.2.2\n"), 0o644)
	if ok, err := w.Confirmed(); ok || err != nil {
		t.Errorf("another gateway is confirmed: %t %v", ok, err)
	}
	os.WriteFile(w.path("/etc/xnic"), []byte("DHCP\n"), 0o644)
	if _, err := w.Confirm(); err == nil || err.Error() != `confirm the network settings: /etc/xnic is "DHCP", not "inet ADDRESS/LENGTH"` {
		t.Error(err)
	}
}

// What is on trial is what the installed manifest says, and nothing where it says so.
func TestLoadWatch(t *testing.T) {
	dir := t.TempDir()
	write := func(m *manifest.Manifest) {
		t.Helper()
		text, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, place.ResultDir), 0o700), os.WriteFile(filepath.Join(dir, place.ResultDir, "manifest.json"), text, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := LoadWatcher(dir); err == nil || !strings.HasPrefix(err.Error(), "network settings: this is not a system riginstall made: ") {
		t.Error(err)
	}
	m := fakebsd.Manifest()
	write(m)
	if _, err := LoadWatcher(dir); err == nil || err.Error() != "network settings: image "+m.Image+" puts none on trial" {
		t.Error(err)
	}
	m.Questions = append(m.Questions, answers.Question{Key: "lan.card", Type: answers.NIC}, answers.Question{Key: "lan.inet", Type: answers.CIDR}, answers.Question{Key: "lan.router", Type: answers.IP})
	m.Users[1].Name = "ops"
	trial := &manifest.Trial{Address: "lan", Gateway: "router"}
	m.Networks = []manifest.Network{{Name: "lan", Interface: "em0", NIC: "lan.card", Address: "lan.inet", Gateway: "lan.router", Trial: trial}}
	write(m)
	w, err := LoadWatcher(dir)
	if err != nil {
		t.Fatal(err)
	}
	if w.Login != "ops" || w.Net.Interface != "em0" || strings.Join(w.Net.Trial.Files(), " ") != "lan router" {
		t.Errorf("%+v", w)
	}
}
