package lint

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/BurntSushi/toml"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/overlay"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update || os.Getenv("RIG_UPDATE") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update rewrites it); now it is\n%s", file, got)
	}
}

const bothAnswers = `
[server]
domain = "example.lan"
[peers]
orch = ["10.0.0.220"]
admin = ["203.0.113.0/24"]
[net]
payments = ["198.51.100.0/24"]
[users]
admin_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXolgVcSJD74dSxEoSJ442yVNTzdxZDsm/yg+8NKuSp a"]
deployer_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXolgVcSJD74dSxEoSJ442yVNTzdxZDsm/yg+8NKuSp d"]
`

// values are what differs, by question.
func values(a bool) map[string]string {
	if a {
		return map[string]string{
			"server.name": "rega", "server.role": "primary", "xnic.inet": "10.0.0.110/24", "xnic.gateway": "10.0.0.1",
			"xnic.match": "auto", "inic.match": "mac:52:54:00:00:0a:02", "inic.inet": "192.168.56.110/24",
			"private.node": "192.168.56.30", "private.pg": "192.168.56.40",
			"private.peer_node": "192.168.56.31", "private.peer_pg": "192.168.56.41", "peers.xnic": "10.0.0.111",
		}
	}
	return map[string]string{
		"server.name": "regb", "server.role": "replica", "xnic.inet": "10.0.0.111/24", "xnic.gateway": "10.0.0.1",
		"xnic.match": "auto", "inic.match": "mac:52:54:00:00:0b:02", "inic.inet": "192.168.56.111/24",
		"private.node": "192.168.56.31", "private.pg": "192.168.56.41",
		"private.peer_node": "192.168.56.30", "private.peer_pg": "192.168.56.40", "peers.xnic": "10.0.0.110",
	}
}

// edit replaces a text of a file of the profile.
type edit struct{ file, old, new string }

// input is the default profile with edits, and its two servers.
func input(t *testing.T, edits ...edit) Input {
	t.Helper()
	fsys := fstest.MapFS{}
	err := fs.WalkDir(overlay.Webrig(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(overlay.Webrig(), name)
		fsys[name] = &fstest.MapFile{Data: text, Mode: 0o644}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		f := fsys[e.file]
		if f == nil || !strings.Contains(string(f.Data), e.old) {
			t.Fatalf("%s does not hold %q", e.file, e.old)
		}
		f.Data = []byte(strings.Replace(string(f.Data), e.old, e.new, 1))
	}
	var p struct {
		Question []answers.Question
		Jail     []Root
		Network  []manifest.Network
		Check    []manifest.Check
	}
	if _, err := toml.Decode(string(fsys["rig.toml"].Data), &p); err != nil {
		t.Fatal(err)
	}
	in := Input{FS: fsys, Name: "webrig", Config: Config{Host: Root{Overlay: "host"}, Jails: p.Jail, Reach: manifest.Reach{Networks: p.Network, Checks: p.Check}}}
	for _, q := range answers.All(p.Question) {
		in.Config.Questions = append(in.Config.Questions, q.Key)
	}
	for _, a := range []bool{true, false} {
		in.Servers = append(in.Servers, answered(t, p.Question, values(a), nil))
	}
	return in
}

// answered is a server with answers, of which changes are made.
func answered(t *testing.T, qs []answers.Question, v, changes map[string]string) Server {
	t.Helper()
	maps.Copy(v, changes)
	set, err := answers.Resolve(qs, answers.Source{Name: "a", Data: []byte(bothAnswers)}, answers.Source{Name: "v", Values: v})
	if err != nil {
		t.Fatal(err)
	}
	return Server{Name: v["server.name"], Data: set.Data(), Answers: set}
}

func run(t *testing.T, in Input) *Report {
	t.Helper()
	r, err := Check(in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func all(r *Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s: %s\n", f.Severity, f.Problem.String())
	}
	return b.String()
}

func TestWebrig(t *testing.T) {
	r := run(t, input(t))
	if len(r.Findings) > 0 {
		t.Errorf("the default profile has findings:\n%s", all(r))
	}
	var b bytes.Buffer
	for _, row := range r.Matrix {
		fmt.Fprintf(&b, "%s | %s | %s | %s | %s | %s\n", row.From, row.To, row.Proto, row.Port, row.By, row.Note)
		for _, s := range row.Rules {
			if !strings.HasPrefix(s, "pf.conf:") {
				t.Errorf("%s to %s: rule %q", row.From, row.To, s)
			}
		}
	}
	golden(t, "matrix.txt", b.Bytes())
}

// Each case spoils one line of the default profile.
func TestFindings(t *testing.T) {
	const (
		rc     = "host/etc/rc.conf"
		pf     = "host/etc/pf.conf"
		jail   = "host/etc/jail.conf"
		nodeRC = "jails/node_j/etc/rc.conf"
		pgRC   = "jails/pg_j/etc/rc.conf"
	)
	tests := []struct {
		edit
		sev flaw.Severity
		at  string // what stands at the place; "" for a place in another file or none
		msg string
	}{
		// Templates
		{edit{"host/etc/gateway.tmpl", "xnic.gateway", "xnic.gatewai"}, flaw.Error, ".xnic.gatewai", "no question defines xnic.gatewai"},
		{edit{"host/etc/gateway.tmpl", "{{.xnic.gateway}}", "{{addr .server.name}}"}, flaw.Error, "addr .server", `<addr .server.name>: error calling addr: "rega" is not an IPv4 address or network (for rega)`},
		{edit{"host/etc/gateway.tmpl", "{{.xnic.gateway}}", "{{if}}"}, flaw.Error, "", "missing value for if"},
		// rc.conf
		{edit{rc, "/bin/cat /etc/xnic`", "/bin/cat /etc/xnicc`"}, flaw.Error, "/etc/xnicc", "reads /etc/xnicc, which is nowhere"},
		{edit{rc, `epair0a_name="ngx_a"`, `epair0a_name="ngx_to_xbridge_a"`}, flaw.Error, `ngx_to_xbridge_a"`, "ngx_to_xbridge_a has 16 characters; an interface has at most 15"},
		{edit{rc, `epair1a_name="node_a"`, `epair1a_name="ngx_a"`}, flaw.Error, "", "ngx_a is already the name of another interface, in line …"},
		{edit{rc, "epair5 epair6", "epair5"}, flaw.Error, "ifconfig_epair6a_name", "epair6a is not in cloned_interfaces, so that nothing gets the name ipg_a"},
		{edit{rc, "ifconfig_ngx_a=", "ifconfig_ngx_z="}, flaw.Error, "ifconfig_ngx_z", "ifconfig_ngx_z configures ngx_z, which is no interface of host"},
		{edit{rc, `ifconfig_ipg_a="`, `ifconfig_ipg_b="inet 10.0.9.1/24 `}, flaw.Error, "10.0.9.1/24", "ipg_b gets an address and then moves into pg_j, which loses it"},
		{edit{nodeRC, "ifconfig_node_b=", "ifconfig_nodeb="}, flaw.Error, "ifconfig_nodeb", "ifconfig_nodeb configures nodeb, which is no interface of node_j"},
		{edit{rc, "10.0.2.1/24", "10.0.2.1"}, flaw.Error, "inet 10.0.2.1", `"10.0.2.1" has no prefix length`},
		// Cables and bridges
		{edit{rc, "addm ngx_a ", ""}, flaw.Error, `ngx_a"`, "ngx_a is in no jail and on no bridge; the other end is ngx_b"},
		{edit{rc, "addm ngx_a ", "addm ngx_b "}, flaw.Error, "ngx_b addm", "xbridge: ngx_b goes into nginx_j"},
		{edit{rc, "addm inode_a", "addm inode_a addm pg_a"}, flaw.Error, "pg_a addm ipg_a up", "ibridge: pg_a is already on xbridge"},
		{edit{rc, "addm inode_a", "addm inode_x"}, flaw.Error, "inode_x", "ibridge: there is no interface inode_x"},
		{edit{rc, `ifconfig_inic="`, `ifconfig_inic="inet 10.9.9.1/24 `}, flaw.Error, "10.9.9.1/24", "inic is on ibridge and has an address; addresses belong on the bridge"},
		// jail.conf and rig.toml
		{edit{jail, `"ipg_b"`, `"ipg_c"`}, flaw.Error, `"ipg_c"`, "rc.conf of the host makes no interface ipg_c"},
		{edit{jail, `"ipg_b"`, `"ipg_c"`}, flaw.Error, `"ipg_c"`, "interface ipg_c of pg_j is not in rig.toml"},
		{edit{jail, `"node_b", "ngx_node_b"`, `"node_b", "pg_b"`}, flaw.Error, `"pg_b", "inode_b"`, "pg_b is already in pg_j"},
		{edit{"rig.toml", `interfaces = ["pg_b", `, `interfaces = ["pg_b", "pg_c", `}, flaw.Error, `["pg_b", "pg_c"`, "jail.conf does not give pg_j the interface pg_c"},
		{edit{jail, "pg_j {", "pgsql_j {"}, flaw.Error, "pgsql_j", "rig.toml has no jail pgsql_j"},
		{edit{jail, "vnet;", ""}, flaw.Error, "pg_j {", `pg_j has interfaces and no network stack of its own: "vnet;" is missing`},
		{edit{jail, `"/jails/$name"`, `"/jail/$name"`}, flaw.Error, `"/jail/$name"`, "path of pg_j is not /jails/pg_j, where the installer puts it"},
		{edit{jail, "mount.devfs;", "mount.devfs"}, flaw.Error, "", `"devfs_ruleset" after mount.devfs: is a ";" or "=" missing?`},
		// Addresses
		{edit{pgRC, "10.0.2.40/24", "10.0.2.30/24"}, flaw.Error, "10.0.2.30/24", "node_b has 10.0.2.30 of rega already"},
		{edit{pgRC, "10.0.2.40/24", "10.0.9.40/24"}, flaw.Error, "10.0.9.40/24", "pg_b has 10.0.9.40/24 on xbridge, whose network is 10.0.2.0/24 (rega)"},
		{edit{pgRC, "10.0.2.40/24", "10.0.2.255/24"}, flaw.Error, "10.0.2.255/24", "pg_b has 10.0.2.255/24, which is the network's own or broadcast address (rega)"},
		{edit{rc, "10.0.2.1/24", "10.0.0.1/22"}, flaw.Error, "", "xnic and xbridge have overlapping networks, 10.0.0.0/24 and 10.0.0.0/22 (rega)"},
		{edit{"host/etc/mac/ibridge.tmpl", ".rig.hostuuid", `"x"`}, flaw.Error, "", "ibridge of regb has the same MAC address as ibridge of rega"},
		{edit{pgRC, `defaultrouter="10.0.2.1"`, `defaultrouter="10.0.2.9"`}, flaw.Error, "10.0.2.9", "nothing that pg_b is connected to has the gateway's address 10.0.2.9"},
		{edit{pgRC, `defaultrouter="10.0.2.1"`, `defaultrouter="10.5.2.1"`}, flaw.Error, "10.5.2.1", "the gateway 10.5.2.1 is in no network of pg_j, and there is no route to it (rega)"},
		{edit{rc, "defaultrouter=", "default_router="}, flaw.Error, "", "there is no defaultrouter"},
		// pf
		{edit{pf, "from $xbridge_net", "from $xbridgenet"}, flaw.Error, "$xbridgenet", "macro $xbridgenet is not defined (above here)"},
		{edit{pf, "from <bypass>", "from <bypas>"}, flaw.Error, "<bypas>", "table <bypas> is not defined"},
		{edit{pf, "overload <ratelimit>", "overload <rate>"}, flaw.Error, "<rate>", "table <rate> is not defined"},
		{edit{pf, "from <bypass>", "from any"}, flaw.Warning, "<bypass>", "table <bypass> is used nowhere"},
		{edit{pf, `port_email  = "465"`, "port_email  = \"465\"\nport_imap = \"993\""}, flaw.Warning, "port_imap", "macro port_imap is used nowhere"},
		{edit{pf, `"/etc/ips_stripe"`, `"/etc/ips_strip"`}, flaw.Error, `"/etc/ips_strip"`, "/etc/ips_strip is nowhere; pfctl loads no rule at all without it"},
		{edit{pf, "pass in  quick on inode_a", "pass in  quick on inode_q"}, flaw.Error, "inode_q", "there is no interface inode_q on the host"},
		{edit{pf, "pass in  quick on inode_a", "pass in  quick on inode_b"}, flaw.Error, "inode_b", "inode_b is in node_j, where pf of the host does not see it"},
		{edit{pf, `node_j      = "10.0.2.30"`, `node_j      = "10.0.2.31"`}, flaw.Error, "$node_j  port 22", "rdr goes to 10.0.2.31, which is no address of a jail"},
		{edit{pf, "block log all\n", "block log all\nset limit states 1000\n"}, flaw.Error, "set limit", "options must stand before filter rules; pfctl loads nothing otherwise"},
		{edit{pf, "block log all\n", "block lgo all\n"}, flaw.Warning, "lgo", `"lgo" is not understood here; the matrix is without this rule`},
		{edit{"host/etc/sysctl.conf", "pfil_bridge=1", "pfil_bridge=0"}, flaw.Error, "", "pf has rules for members of a bridge, which need net.link.bridge.pfil_member=1 and net.link.bridge.pfil_bridge=1"},
		{edit{"host/etc/ips_blocklist", "# Filled", "300.1.2.3\n# Filled"}, flaw.Error, "300.1.2.3", `"300.1.2.3" is not an IPv4 address or network`},
		{edit{"host/etc/ips_blocklist", "# Filled", "10.0.0.0/8\n# Filled"}, flaw.Error, "10.0.0.0/8", "<blocklist> holds 10.0.0.0/8, so that pf drops rega's own network, 10.0.0.0/24"},
		{edit{"host/etc/ips_blocklist", "# Filled", "10.0.0.1\n# Filled"}, flaw.Error, "10.0.0.1", "<blocklist> holds 10.0.0.1/32, so that pf drops rega's gateway, 10.0.0.1"},
		{edit{"host/etc/ips_blocklist", "# Filled", "10.0.0.111\n# Filled"}, flaw.Error, "10.0.0.111", "<blocklist> holds 10.0.0.111/32, so that pf drops the other server regb, 10.0.0.111"},
		{edit{"host/etc/ips_blocklist", "# Filled", "203.0.113.64/26\n# Filled"}, flaw.Error, "203.0.113.64/26", "<blocklist> holds 203.0.113.64/26, so that pf drops what <xpeers> lets in, 203.0.113.0/24"},
		{edit{"host/etc/ips_martians.tmpl", " .peers.admin", ""}, flaw.Error, "", "<martians> holds 203.0.113.0/24, so that pf drops what <xpeers> lets in, 203.0.113.0/24"},
		{edit{"jails/nginx_j/etc/rc.conf", `nginx_enable="YES"`, `nginx_enable="NO"`}, flaw.Warning, "", "pf lets outside reach port 443/tcp of nginx_j, where nothing listens"},
		// What rig.toml says of networks and of who gets through
		{edit{"rig.toml", `interface = "inic"`, `interface = "inik"`}, flaw.Error, `"inik"`, "rc.conf of the host has no interface inik"},
		{edit{"rig.toml", `card = "xnic_mac"`, `card = "xnic_card"`}, flaw.Error, "{ address", "/etc/xnic_card is nowhere, and the network's settings are on trial by it"},
		{edit{pf, `port_web    = "{ 443 80 }"`, `port_web    = "443"`}, flaw.Error, "", "web 80: the way from 151.101.1.69 to 10.0.0.110:80 is closed: pf of rega blocks it in on xnic (pf.conf:…"},
		{edit{pf, "from <xpeers> to { (xnic)", "from any to { (xnic)"}, flaw.Error, "", "SSH: the way from 151.101.1.69 to 10.0.0.110:22 is open by pf.conf:…"},
		{edit{"rig.toml", "5434, 5435]\nwant = \"silent\"", "5434, 5435]\nwant = \"passes\""}, flaw.Error, `"passes"`, "tunnels node_j: the way from 192.168.56.1 to 192.168.56.30:5432 is closed: pf of rega blocks it in on inic (pf.conf:…"},
		{edit{"rig.toml", "ports = [5434]", "ports = [5432]"}, flaw.Error, "", "peer's pg_j: the way from 192.168.56.41 to 192.168.56.40:5432 is closed: pf of regb blocks it in on ipg_a (pf.conf:…"},
		{edit{"rig.toml", "ports = [22, 5432, 5433, 5435]", "ports = [22, 5434]"}, flaw.Error, "", "peer's pg_j, other ports: the way from 192.168.56.41 to 192.168.56.40:5434 is open by pf.conf:…"},
		{edit{"rig.toml", "to = \"private.node\"\nproto = \"arp\"\nwant = \"answers\"", "to = \"private.peer_node\"\nproto = \"arp\"\nwant = \"answers\""}, flaw.Error, `"answers"`, "private node_j: nothing on rega has 192.168.56.31"},
		{edit{pf, "block log all\n", "block lgo all\n"}, flaw.Warning, "", "SSH: the way from 151.101.1.69 to 10.0.0.110:22 is open (rega)"},
		// Tunnels and ports
		{edit{nodeRC, "]:5433", "]:5436"}, flaw.Error, "", "pipe N2P: 192.168.56.41:5436 decrypts nothing on the other server; the ends there are at 192.168.56.41:5433, 192.168.56.41:5434 (from rega)"},
		{edit{nodeRC, "]:5433", "]:5436"}, flaw.Warning, "", "pipe N2P of pg_j: no end of another server encrypts to 192.168.56.41:5433 (regb)"},
		{edit{nodeRC, `N2P_key="/etc/spiped.key"`, `N2P_key="/etc/spipe.key"`}, flaw.Error, `/etc/spipe.key"`, "pipe N2P: there is no key file /etc/spipe.key in node_j"},
		{edit{"jails/node_j.mtree", "./etc/spiped.key\t\t\ttype=file mode=0600", "./etc/spiped.key\t\t\ttype=file mode=0640"}, flaw.Error, "", "pipe N2P: mode 0640 lets others read the key file /etc/spiped.key"},
		{edit{nodeRC, "N2P_source=\"[`/bin/cat /etc/ip_inode_b`", "N2P_source=\"[`/bin/cat /etc/ip_peer_ipg_b`"}, flaw.Error, "", "pipe N2P: 192.168.56.41 is no address of node_j (rega)"},
		{edit{pf, "<inode_j>  to <pgpeer> port 5433", "<inode_j>  to <pgpeer> port 5439"}, flaw.Error, "", "pipe N2P: the way from node_j of rega to 192.168.56.41:5433 is closed: pf of rega blocks it in on inode_a (pf.conf:…"},
		{edit{pgRC, "PGS_target=\"[`/bin/cat /etc/ip_ipg_b`]:5432", "PGS_target=\"[`/bin/cat /etc/ip_ipg_b`]:5431"}, flaw.Error, "", "pipe PGS: nothing in pg_j listens at 192.168.56.40:5431"},
		{edit{pgRC, `PGC_mode="encrypt"`, `PGC_mode="encode"`}, flaw.Error, `encode"`, `pipe PGC: mode "encode"; expected encrypt or decrypt`},
		{edit{pgRC, "spiped_pipe_PGC_key=", "spiped_pipe_PCG_key="}, flaw.Error, "spiped_pipes", "pipe PGC: there is no spiped_pipe_PGC_key"},
		{edit{pgRC, "]:5435", "]:5434"}, flaw.Error, "", "spiped PGS and spiped PGC of pg_j both listen at port 5434 (192.168.56.40)"},
		{edit{pgRC, `postgresql_enable="YES"`, `postgresql_enable="NO"`}, flaw.Error, "", "pipe N2P: nothing in pg_j listens at 192.168.56.40:5432"},
		{edit{"jails/nginx_j/usr/local/etc/nginx/nginx.conf", "10.0.3.30:3000", "10.0.3.31:3000"}, flaw.Error, "10.0.3.31:3000", "nginx of nginx_j does not reach 10.0.3.31:3000: node_j does not forward to 10.0.3.31"},
		{edit{"jails/nginx_j/usr/local/etc/nginx/nginx.conf", "10.0.3.30:3000", "10.0.3.30:3001"}, flaw.Warning, "10.0.3.30:3001", "nginx of nginx_j asks 10.0.3.30:3001, where nothing in node_j listens"},
	}
	for _, tt := range tests {
		t.Run(tt.file+" "+tt.new, func(t *testing.T) {
			in := input(t, tt.edit)
			r := run(t, in)
			want, open := strings.CutSuffix(tt.msg, "…") // what follows is a line number
			for _, f := range r.Findings {
				if f.Severity == tt.sev && (f.Problem.Msg == want || open && strings.HasPrefix(f.Problem.Msg, want)) {
					if tt.at != "" {
						checkPlace(t, in, tt.edit, tt.at, f)
					}
					return
				}
			}
			t.Errorf("no %s %q; found\n%s", tt.sev, want, all(r))
		})
	}
}

// checkPlace wants a finding where a text stands in the edited file: one of the
// places it stands at.
func checkPlace(t *testing.T, in Input, e edit, at string, f Finding) {
	t.Helper()
	text, _ := fs.ReadFile(in.FS, e.file)
	at = strings.TrimPrefix(at, `"`)
	if f.Problem.File != "webrig/"+e.file {
		t.Errorf("found in %s, want %s", f.Problem.File, e.file)
	}
	for off := 0; ; off++ {
		i := strings.Index(string(text)[off:], at)
		if i < 0 {
			t.Errorf("found in line %d column %d, which is not where %q is", f.Problem.Line, f.Problem.Col, at)
			return
		}
		off += i
		line, col := flaw.LineCol(string(text), off)
		if line == f.Problem.Line && (col == f.Problem.Col || col == f.Problem.Col+1) {
			return
		}
	}
}

// Answers that do not go with each other or with the profile.
func TestServers(t *testing.T) {
	outside := map[string]string{"xnic.inet": "45.33.7.9/32", "xnic.gateway": "45.33.0.1"}
	tests := []struct {
		name  string
		a, b  map[string]string
		edits []edit
		want  string // finding; "" for none
	}{
		{"gateway outside", outside, nil, nil, ""},
		{"gateway outside, no route", outside, nil, []edit{{"host/etc/xnic_routes.tmpl", "xgateway", ""}},
			"the gateway 45.33.0.1 is in no network of host, and there is no route to it (rega)"},
		{"gateway outside, route by no interface", outside, nil, []edit{{"host/etc/rc.conf", "-iface xnic", "-iface xnik"}},
			"there is no interface xnik"},
		{"route without its variable", outside, nil, []edit{{"host/etc/rc.conf", "route_xgateway=", "route_xgate="}},
			"route xgateway is in static_routes and there is no route_xgateway"},
		{"equal private addresses", nil, map[string]string{"private.pg": "192.168.56.40", "private.peer_pg": "192.168.56.42"}, nil,
			"ipg_b of regb has the same address as ipg_b of rega: 192.168.56.40"},
		{"equal public addresses", nil, map[string]string{"xnic.inet": "10.0.0.110/24", "peers.xnic": "10.0.0.120"}, nil,
			"xnic of regb has the same address as xnic of rega: 10.0.0.110"},
		{"private networks that differ", nil, map[string]string{"inic.inet": "192.168.0.111/16"}, nil,
			"ibridge of regb is the network 192.168.0.0/16, that of rega is 192.168.56.0/24"},
		{"peer that is not the peer", map[string]string{"private.peer_pg": "192.168.56.99"}, nil, nil,
			"pipe PGC: 192.168.56.99:5434 decrypts nothing on the other server; the ends there are at 192.168.56.41:5433, 192.168.56.41:5434 (from rega)"},
		{"keys that differ", map[string]string{"secrets.spiped_key": strings.Repeat("k", 32)}, map[string]string{"secrets.spiped_key": strings.Repeat("K", 32)}, nil,
			"pipe N2P: the keys of rega and regb differ"},
		{"vlan", map[string]string{"inic.vlan": "2000"}, map[string]string{"inic.vlan": "2000"}, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t, tt.edits...)
			var p struct{ Question []answers.Question }
			text, _ := fs.ReadFile(in.FS, "rig.toml")
			if _, err := toml.Decode(string(text), &p); err != nil {
				t.Fatal(err)
			}
			in.Servers = []Server{answered(t, p.Question, values(true), tt.a), answered(t, p.Question, values(false), tt.b)}
			r := run(t, in)
			if tt.want == "" {
				if len(r.Findings) > 0 {
					t.Errorf("found\n%s", all(r))
				}
				return
			}
			if !strings.Contains(all(r), ": "+tt.want+"\n") {
				t.Errorf("no %q; found\n%s", tt.want, all(r))
			}
			if strings.Contains(fmt.Sprint(r.Source), strings.Repeat("k", 32)) {
				t.Error("the report holds a secret")
			}
		})
	}
}

// Without servers what needs no answers is checked.
func TestNoServers(t *testing.T) {
	in := input(t)
	in.Servers = nil
	if r := run(t, in); len(r.Findings)+len(r.Matrix)+len(r.Rig.Servers) > 0 {
		t.Errorf("found\n%s", all(r))
	}
	in = input(t, edit{"host/etc/gateway.tmpl", "xnic.gateway", "xnic.gatewai"}, edit{"host/etc/pf.conf", "from <bypass>", "from <bypas>"})
	in.Servers = nil
	got := all(run(t, in))
	for _, want := range []string{"error: webrig/host/etc/gateway.tmpl:1:3: no question defines xnic.gatewai\n", ": table <bypas> is not defined\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q; found\n%s", want, got)
		}
	}
}

// Rows that are not the same for both servers say so.
func TestWriteMatrix(t *testing.T) {
	in := input(t)
	var p struct{ Question []answers.Question }
	text, _ := fs.ReadFile(in.FS, "rig.toml")
	if _, err := toml.Decode(string(text), &p); err != nil {
		t.Fatal(err)
	}
	in.Servers[0] = answered(t, p.Question, values(true), map[string]string{"net.ntp": "192.168.56.5"})
	var b bytes.Buffer
	if err := WriteMatrix(&b, run(t, in)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range strings.Split(b.String(), "\n") {
		f := strings.Fields(line)
		if len(f) > 5 && f[3] == "123" {
			f[5] = "RULE"
			got = append(got, strings.Join(f, " "))
		}
	}
	want := "host <ntp_private> udp 123 pf RULE only rega\nhost <ntp_public> udp 123 pf RULE only regb"
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s\nin\n%s", s, want, b.String())
	}
}

// Rules that are too wide show in the matrix.
func TestWideRules(t *testing.T) {
	const pf = "host/etc/pf.conf"
	tests := []struct {
		edits []edit
		want  string
	}{
		{[]edit{{pf, "from <nodepeer> to <ipg_j>  port 5433", "from any to <ipg_j> port 5433"}, {pf, "from <nodepeer> to <ipg_j>  port 5433", "from any to <ipg_j> port 5433"}},
			"others on inic|pg_j|tcp|5433"},
		{[]edit{{pf, "block log all\n", "block log all\npass in quick on xnic inet proto tcp from any to any port 22\n"}}, "outside|host|tcp|22"},
		{[]edit{{pf, "anchor \"patching\"", "pass in quick on xbridge inet from $pg_j to any\npass out quick on xnic inet from any to any"}}, "pg_j|outside|tcp|any"},
		{[]edit{{pf, "anchor \"patching\"", "pass in quick on xbridge inet from $pg_j to any"}}, "pg_j|host|icmp|"},
	}
	for _, tt := range tests {
		found := false
		for _, r := range run(t, input(t, tt.edits...)).Matrix {
			found = found || strings.Join([]string{r.From, r.To, r.Proto, r.Port}, "|") == tt.want
		}
		if !found {
			t.Errorf("no row %s", tt.want)
		}
	}
}

// One mistake does not bring findings about everything that depends on it.
func TestNoCascade(t *testing.T) {
	for _, tt := range []struct {
		edit
		want int
	}{
		{edit{"host/etc/xnic.tmpl", "xnic.inet", "xnic.inett"}, 1},
		{edit{"host/etc/ips_xnic_peers.tmpl", ".peers.orch", ".peers.orchh"}, 1},
		{edit{"jails/pg_j/etc/ip_ipg_b.tmpl", ".private.pg", ".private.pgg"}, 1},
		{edit{"host/etc/jail.conf", `"ipg_b"`, `"ipg_c"`}, 6},
		{edit{"host/etc/rc.conf", `epair0a_name="ngx_a"`, `epair0a_name="ngx_z"`}, 3},
	} {
		if r := run(t, input(t, tt.edit)); len(r.Findings) != tt.want {
			t.Errorf("%s: %d findings, want %d:\n%s", tt.new, len(r.Findings), tt.want, all(r))
		}
	}
}

// Errors carry the line and a caret.
func TestErr(t *testing.T) {
	in := input(t, edit{"host/etc/jail.conf", `"ipg_b"`, `"ipg_c"`})
	in.Config.Jails[0].Interfaces[2] = "ipg_c"
	got := run(t, in).Err()
	want := "    \tvnet.interface = \"pg_b\", \"node_pg_b\", \"ipg_c\";\n    \t                                      ^"
	if got == nil || !strings.Contains(got.Error(), want) {
		t.Errorf("error is\n%v\nwant\n%s", got, want)
	}
}
