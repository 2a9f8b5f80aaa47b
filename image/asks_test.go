package image

import (
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const networkProfile = tinyProfile + `
[[question]]
key = "lan.card"
type = "nic"
[[question]]
key = "lan.inet"
type = "cidr"
[[question]]
key = "lan.router"
type = "ip"
same = true
[[question]]
key = "lan.secret"
type = "secret"
[[network]]
name = "lan"
interface = "em0"
nic = "lan.card"
address = "lan.inet"
gateway = "lan.router"
link = true
trial = { address = "lan", gateway = "router" }
[[check]]
name = "web"
from = ["outside"]
to = "lan.inet"
ports = [443]
want = "passes"
local = [8443, 9443]
[[ask]]
subnet = "Network"
default = ["192.0.2.0/24"]
[[ask]]
keys = ["lan.inet"]
nth = [5, 6]
[[ask]]
keys = ["lan.router"]
common = true
`

func load(text string) error {
	_, err := LoadConfig(fstest.MapFS{ConfigFile: &fstest.MapFile{Data: []byte(text)}}, "x.toml")
	return err
}

// Each case spoils one line, and is reported at its place.
func TestNetworkTables(t *testing.T) {
	if err := load(networkProfile); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ old, new, at, want string }{
		{`link = true`, `links = true`, "links", "network[0].links: unknown key; known here are address, gateway, interface, link, name, nic, trial, vlan"},
		{`link = true`, `link = "yes"`, `"yes"`, "network[0].link: expected true or false"},
		{`nic = "lan.card"`, `nic = "lan.inet"`, "\"lan.inet\"\naddress", `network[0].nic: there is no question "lan.inet" of type nic`},
		{`address = "lan", g`, `address = "etc/lan", g`, `"etc/lan"`, `network[0].trial.address: "etc/lan"; expected the name of a file in /etc`},
		{`gateway = "router" }`, `gateway = "router", cards = "x" }`, `cards`, "network[0].trial.cards: unknown key; known here are address, card, gateway, route"},
		{`gateway = "lan.router"` + "\n", "", `{ address`, "network[0].trial: the network has no gateway to ask whether its settings work"},
		{`[[check]]`, "[[network]]\nname = \"lan\"\ninterface = \"em1\"\nnic = \"lan.card\"\naddress = \"lan.inet\"\n[[check]]", "\"lan\"\ninterface = \"em1\"", "network[1].name: two networks have this name"},
		{`from = ["outside"]`, `form = ["outside"]`, "form", "check[0].form: unknown key; known here are from, local, name, ports, proto, to, want"},
		{`["outside"]`, `["outsiders"]`, `["outsiders"]`, `check[0].from: "outsiders"; expected outside, martian, neighbour, or a question of type ip or net`},
		{`to = "lan.inet"`, `to = "lan.router"`, `"lan.router"` + "\nports", `check[0].to: "lan.router"; expected the question for a network's address, or for one within it`},
		{`ports = [443]`, `ports = [443, 70000]`, `[443, 70000]`, "check[0].ports: 70000; expected 1 to 65535, each once"},
		{`"passes"`, `"pass"`, `"pass"`, `check[0].want: "pass"; expected one of [passes answers refused silent]`},
		{`ports = [443]`, `ports = [443]` + "\nproto = \"sctp\"", `"sctp"`, `check[0].proto: "sctp"; expected tcp, icmp or arp`},
		{`local = [8443, 9443]`, `local = [8443]`, `[8443]`, "check[0].local: expected two ports, for server A and for server B"},
		{`keys = ["lan.router"]`, `keys = ["lan.card", "lan.rooter"]`, `"lan.rooter"`, `ask[2].keys[1]: there is no question "lan.rooter"`},
		{`keys = ["lan.router"]`, `keys = ["lan.secret"]`, `"lan.secret"]`, "ask[2].keys[0]: a secret, disks or what follows from the other server is not asked for here"},
		{"common = true\n", "", `"lan.router"]` + "\n", "ask[2].keys[0]: the servers' answers must be the same; expected common = true"},
		{`nth = [5, 6]`, `nth = [5]`, `[5]`, "ask[1].nth: expected 2, one for each server, or one when it is common"},
		{`subnet = "Network"`, `keys = ["lan.card"]`, `[5, 6]`, "ask[1].nth: only for a question of type ip or cidr, after a subnet"},
		{`nth = [5, 6]`, `answer = ["192.0.2.5/24", "x"]`, `"x"]`, `ask[1].answer[1]: "x" is not valid; expected an IPv4 address with prefix length, as 192.0.2.10/24`},
		{`["192.0.2.0/24"]`, `["192.0.2.1/24"]`, `["192.0.2.1/24"]`, `ask[0].default: "192.0.2.1/24" is no network, as 192.0.2.0/24`},
	} {
		text := strings.Replace(networkProfile, tt.old, tt.new, 1)
		err := load(text)
		off := strings.LastIndex(text, tt.at)
		if err == nil || off < 0 {
			t.Errorf("%s: %v, place %d", tt.new, err, off)
			continue
		}
		line, col := 1+strings.Count(text[:off], "\n"), off-strings.LastIndexByte(text[:off], '\n')
		lines := strings.Split(text, "\n")
		indent := strings.Repeat(" ", col-1)
		if got, want := err.Error(), "x.toml:"+strconv.Itoa(line)+":"+strconv.Itoa(col)+": "+tt.want+"\n    "+lines[line-1]+"\n    "+indent+"^"; !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}
