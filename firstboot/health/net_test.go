package health

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/fakebsd"
	"github.com/rig-freebsd/rig/internal/run"
)

// rigRC is what the profile's rc.conf comes to on server A, in part.
func rigRC() map[string]string {
	return map[string]string{
		"ifconfig_xnic":            "inet 10.0.0.110/24",
		"ifconfig_iphys":           "mtu 1500 up",
		"ifconfig_inic":            "mtu 1500 up",
		"ifconfig_bridge1_name":    "ibridge",
		"ifconfig_epair6a_name":    "ipg_a",
		"ifconfig_epair6b_name":    "ipg_b",
		"ifconfig_ibridge":         "inet 192.168.56.110/24 addm inic addm ipg_a up",
		"ifconfig_ibridge_alias0":  "ether 66:cb:03:f9:c3:a4",
		"ifconfig_ipg_a":           "ether a2:91:7f:51:4d:08 up",
		"ifconfig_lo0":             "inet 127.0.0.1/8",
		"ifconfig_DEFAULT":         "",
		"ifconfig_xnic_descr":      "public",
		"ifconfig_xnic_ipv6":       "inet6 -ifdisabled",
		"create_args_inic":         "vlan 0",
		"defaultrouter":            "10.0.0.1",
		"ifconfig_xnic_aliases":    "",
		"cloned_interfaces":        "bridge1 epair6",
		"vlans_iphys":              "inic",
		"route_xgateway":           "-host 10.0.0.1 -iface xnic",
		"ifconfig_local_gif0_name": "x",
	}
}

func TestVerifyInterfaces(t *testing.T) {
	const restart = " -> a restart of the server or the jail sets it up as rc.conf says"
	host := fakebsd.ModuleFile(t, "firstboot/health/testdata/ifconfig-host.txt")
	healthy := []string{
		"ok host ibridge: 192.168.56.110/24, members ipg_a inic, up",
		"ok host inic: up",
		"ok host ipg_a: up",
		"ok host xnic: 10.0.0.110/24, up",
	}
	with := func(i int, row ...string) []string {
		return append(append(append([]string{}, healthy[:i]...), row...), healthy[i+1:]...)
	}
	for _, tt := range []struct {
		name     string
		from, to string // in the output of ifconfig
		rc       string // "NAME=VALUE" to add
		given    []string
		want     []string
	}{
		{"as it should be", "", "", "", nil, healthy},
		{"another address", "10.0.0.110/24", "10.0.0.9/24", "", nil, with(3, "error host xnic: it lacks 10.0.0.110/24"+restart)},
		{"pflog without flags, as in a jail", "pflog0: flags=1000141<UP,RUNNING,PROMISC,LOWER_UP>", "pflog0: flags=0", "", nil, healthy},
		{"another length", "10.0.0.110/24", "10.0.0.110/16", "", nil, with(3, "error host xnic: it lacks 10.0.0.110/24"+restart)},
		{"an address more", "\tinet 10.0.0.110/24", "\tinet 10.0.0.8/32\n\tinet 10.0.0.110/24", "", nil,
			with(3, "warning host xnic: it also has 10.0.0.8/32, of which rc.conf says nothing")},
		{"no cable", "status: active\n\tnd6", "status: no carrier\n\tnd6", "", nil, with(3, "error host xnic: it has no link"+restart)},
		{"down", "1008843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST,LOWER_UP> metric 0 mtu 1500\n\toptions=4c00bb", "1008802<BROADCAST,SIMPLEX,MULTICAST> metric 0 mtu 1500\n\toptions=4c00bb",
			"", nil, with(3, "error host xnic: it is down"+restart)},
		{"another MAC address", "a2:91:7f:51:4d:08", "02:00:00:00:00:01", "", nil,
			with(2, "error host ipg_a: its MAC address is 02:00:00:00:00:01, not a2:91:7f:51:4d:08"+restart)},
		{"not in the bridge", "member: inic", "mumber: inic", "", nil, with(0, "error host ibridge: inic not in the bridge"+restart)},
		{"a member more", "\tmember: inic", "\tmember: xnic flags=1<X>\n\tmember: inic", "", nil,
			with(0, "warning host ibridge: in the bridge and not in rc.conf: xnic")},
		{"an interface that is not there", "", "", "", []string{"pg_b"},
			[]string{healthy[0], healthy[1], healthy[2], "error host pg_b: there is no such interface" + restart, healthy[3]}},
		{"an interface more", "pflog0: flags=1000141<UP,RUNNING,PROMISC,LOWER_UP> metric 0 mtu 33152\n", "wg0: flags=80c1<UP> metric 0 mtu 1420\n\tinet 10.9.0.1/24\n", "", nil,
			append(append([]string{}, healthy...), "warning host wg0: it has 10.9.0.1/24, of which rc.conf says nothing")},
		{"another MTU", "", "", "ifconfig_inic=mtu 9000 up", nil, with(1, "error host inic: its MTU is 1500, not 9000"+restart)},
		{"DHCP", "", "", "ifconfig_xnic=SYNCDHCP", nil, healthy},
		{"a name with a point", "pflog0: ", "inic.7: ", "ifconfig_inic_7=inet 10.7.0.1 netmask 255.255.255.0", nil,
			[]string{healthy[0], healthy[1], "error host inic_7: it lacks 10.7.0.1/24" + restart, healthy[2], healthy[3]}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.from != "" && !strings.Contains(host, tt.from) {
				t.Fatalf("no %q in the output", tt.from)
			}
			have, err := shownInterfaces(strings.Replace(host, tt.from, tt.to, 1))
			if err != nil {
				t.Fatal(err)
			}
			rc := rigRC()
			if name, value, ok := strings.Cut(tt.rc, "="); ok {
				rc[name] = value
			}
			want, err := wantedInterfaces(rc)
			if err != nil {
				t.Fatal(err)
			}
			r := &rows{}
			compareInterfaces(r, "host", want, tt.given, have)
			wantRows(t, r.list, tt.want...)
		})
	}
}

func TestVerifyInterfacesUnreadable(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "output of ifconfig: no interface",
		"ifconfig: no\n":                 `output of ifconfig, line 1: "ifconfig: no" is not the first line of an interface`,
		"\tinet 10.0.0.1/8\n":            `output of ifconfig, line 1: "\tinet 10.0.0.1/8" belongs to no interface`,
		"a: flags=1<UP> x\n\tinet b/8\n": `output of ifconfig, line 2: a: "inet b/8" has no IPv4 prefix`,
	} {
		_, err := shownInterfaces(text)
		wantText(t, err, want)
	}
	_, err := wantedInterfaces(map[string]string{"ifconfig_a": "inet 10.0.0/24", "ifconfig_b_alias0": "ether zz", "ifconfig_c": "mtu big"})
	wantText(t, err, `ifconfig_a: "inet 10.0.0/24" has no IPv4 prefix`+"\n"+`ifconfig_b_alias0: address zz: invalid MAC address`+
		"\n"+`ifconfig_c: strconv.Atoi: parsing "big": invalid syntax`)
}

func TestVerifyRoute(t *testing.T) {
	const line = "netstat --libxo json -rn4 -j pg_j"
	for _, tt := range []struct{ want, out, row string }{
		{"10.0.2.1", routes("10.0.2.1", "pg_b"), "ok pg_j default route: 10.0.2.1 by pg_b"},
		{"10.0.2.1", routes("10.0.2.9", "pg_b"), "error pg_j default route: it goes to 10.0.2.9, not to 10.0.2.1 -> service routing restart"},
		{"10.0.2.1", `{"statistics":{"route-information":{"route-table":{}}}}`,
			"error pg_j default route: there is none; rc.conf says 10.0.2.1 -> service routing restart"},
		{"10.0.2.1", `{}`, "error pg_j default route: output of netstat: no statistics"},
		{"NO", "", "skipped pg_j default route: rc.conf names none"},
	} {
		var script []run.Expect
		if tt.out != "" {
			script = append(script, run.Expect{Line: line, Stdout: tt.out})
		}
		r := &rows{}
		testVerifier(t, nil, script...).checkRoute(t.Context(), r, "pg_j", []string{"-j", "pg_j"}, tt.want)
		wantRows(t, r.list, tt.row)
	}
}

// Settings that did not work, and others in their place, are an error.
func TestVerifyFallback(t *testing.T) {
	v := testVerifier(t, nil)
	v.Run = mute{}
	v.m.Networks = []manifest.Network{{Name: "public", Trial: &manifest.Trial{Address: "xnic", Gateway: "gateway"}}}
	if err := errors.Join(os.MkdirAll(v.path(place.NetDir), 0o755), os.WriteFile(v.path(place.NetFallback), []byte("10.0.0.1 does not answer\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	wantRows(t, v.checkNetwork(t.Context())[:1], "error settings: those of /etc did not work and others are in use: 10.0.0.1 does not answer"+
		" -> mend /etc/xnic and /etc/gateway and restart, or keep them with: riginstall confirm")
}

func TestVerifyJails(t *testing.T) {
	conf, err := parseJailConf("name=pg_j\tpath=/jails/pg_j\tmount.devfs\tvnet\texec.stop=\"/bin/sh /etc/rc.shutdown jail\"\tvnet.interface=pg_b,node_pg_b,ipg_b\n" +
		"name=node_j\tpath=/jails/node_j\tvnet=new\nname=plain\tpath=/jails/plain\n")
	if err != nil || len(conf) != 3 || strings.Join(conf[0].interfaces, " ") != "pg_b node_pg_b ipg_b" || !conf[1].vnet || conf[2].vnet {
		t.Fatalf("%+v, %v", conf, err)
	}
	_, err = parseJailConf("what\n")
	wantText(t, err, `output of jail -e: "what" names no jail`)
	_, err = parseJls("[]")
	wantText(t, err, "output of jls: json: cannot unmarshal array into Go value of type struct { Info *struct { Jail []health.runningJail \"json:\\\"jail\\\"\" } \"json:\\\"jail-information\\\"\" }")
	_, err = parseJls("{}")
	wantText(t, err, "output of jls: no jail-information")
	_, err = parseJls(`{"jail-information":{"jail":[{"name":"x"}]}}`)
	wantText(t, err, "output of jls: a jail has no name or path")

	wish := []manifest.Jail{{Name: "pg_j"}, {Name: "node_j"}}
	const pg, node, plain = "ok pg_j: runs in /jails/pg_j with a network stack of its own", "ok node_j: runs in /jails/node_j with a network stack of its own", "ok plain: runs in /jails/plain"
	jail := func(name, vnet string) string {
		return `{"name":"` + name + `","path":"/jails/` + name + `","vnet":"` + vnet + `"}`
	}
	for _, tt := range []struct {
		name string
		have []string
		wish []manifest.Jail
		want []string
	}{
		{"in order", []string{jail("pg_j", "new"), jail("node_j", "new"), jail("plain", "inherit")}, wish,
			[]string{pg, node, plain, "ok order: started as in jail.conf: pg_j, node_j, plain"}},
		{"restarted", []string{jail("node_j", "new"), jail("plain", "inherit"), jail("pg_j", "new")}, wish,
			[]string{pg, node, plain, "warning order: started node_j, plain, pg_j; jail.conf says pg_j, node_j, plain" +
				" -> service jail restart, when a pause of all jails is acceptable"}},
		{"one missing, one more", []string{jail("pg_j", "new"), jail("node_j", "new"), jail("x", "new")}, wish,
			[]string{pg, node, "error plain: it does not run -> service jail start plain",
				"warning x: it runs and is not in /etc/jail.conf", "ok order: started as in jail.conf: pg_j, node_j"}},
		{"the host's network", []string{jail("pg_j", "inherit"), `{"name":"node_j","path":"/elsewhere","vnet":"new"}`, jail("plain", "inherit")}, nil,
			[]string{`error pg_j: vnet is "inherit"; jail.conf wants a network stack of its own: true -> service jail restart pg_j`,
				"error node_j: its root is /elsewhere, not /jails/node_j -> service jail restart node_j", plain,
				"ok order: started as in jail.conf: pg_j, node_j, plain"}},
		{"not in jail.conf", nil, []manifest.Jail{{Name: "nginx_j"}}, []string{
			"error nginx_j: it belongs to the image and is not in /etc/jail.conf", "error pg_j: it does not run -> service jail start pg_j",
			"error node_j: it does not run -> service jail start node_j", "error plain: it does not run -> service jail start plain"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have, err := parseJls(`{"jail-information":{"jail":[` + strings.Join(tt.have, ",") + `]}}`)
			if err != nil {
				t.Fatal(err)
			}
			r := &rows{}
			compareJails(r, tt.wish, conf, have)
			wantRows(t, r.list, tt.want...)
		})
	}
}

func TestVerifyServices(t *testing.T) {
	v := testVerifier(t, nil,
		run.Expect{Line: "service pf onestatus", Stdout: "Status: Enabled"},
		run.Expect{Line: "service sshd onestatus", Status: 1},
		run.Expect{Line: "service -j pg_j cron onestatus", Status: 1, Stderr: "cron is not running."})
	v.m.Host.Services = []string{"pf", "sshd"}
	v.m.Jails = []manifest.Jail{{Name: "pg_j", Services: []string{"cron"}}, {Name: "node_j", Services: []string{"cron"}}, {Name: "idle"}}
	v.up["pg_j"] = true
	wantRows(t, v.checkServices(t.Context()),
		"ok host pf: runs",
		"error host sshd: it does not run -> service sshd start",
		"error pg_j cron: it does not run -> service -j pg_j cron start",
		"skipped node_j: the jail does not run")
}

func TestParseRC(t *testing.T) {
	vars, err := parseRC("IFS=$' \\t\n'\nOPTIND=1\nPS1='# '\nempty=''\nmulti='a\nb=c'\nquote=$'it\\'s \\303\\244'\nrc_conf_files=/etc/rc.conf\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"IFS": " \t\n", "OPTIND": "1", "PS1": "# ", "empty": "", "multi": "a\nb=c", "quote": "it's ä"} {
		if got, ok := vars[name]; !ok || got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for text, want := range map[string]string{
		"":                "output of set: /etc/defaults/rc.conf was not read",
		"a=b\n":           "output of set: /etc/defaults/rc.conf was not read",
		"hello there\n":   `output of set: "hello there" is not a variable`,
		"a='b\n":          "output of set: a: a quote is not closed",
		"a=$'b\n":         "output of set: a: a quote is not closed",
		"a=$'\\q'\nb=c\n": `output of set: a: escape "\\q'\n" is unknown`,
	} {
		_, err := parseRC(text)
		wantText(t, err, want)
	}
}

func TestVerifyTunnels(t *testing.T) {
	rc := map[string]string{
		"spiped_pipe_N2P_source": "[192.168.56.30]:5432", "spiped_pipe_N2P_target": "[192.168.56.41]:5433", "spiped_pipe_N2P_mode": "encrypt",
		"spiped_pipe_BAD_source": "/var/run/socket",
	}
	spiped := func(command, addr string, port int) listener { return listener{command, addr, port} }
	const fine = "ok node_j N2P: encrypt at 192.168.56.30:5432, to [192.168.56.41]:5433"
	const none = "error node_j N2P: nothing listens at 192.168.56.30:5432 -> service -j node_j spiped restart"
	for _, tt := range []struct {
		have []listener
		want string
	}{
		{[]listener{spiped("spiped", "192.168.56.30", 5432)}, fine},
		{[]listener{spiped("spiped", "*", 5432)}, fine},
		{[]listener{spiped("nc", "192.168.56.30", 5432)}, "error node_j N2P: another program listens at 192.168.56.30:5432 -> sockstat -l -j node_j shows it"},
		{[]listener{spiped("spiped", "192.168.56.30", 5433), spiped("spiped", "10.0.2.30", 5432)}, none},
		{nil, none},
	} {
		r := &rows{}
		compareTunnels(r, "node_j", []string{"N2P"}, rc, tt.have)
		wantRows(t, r.list, tt.want)
	}
	r := &rows{}
	compareTunnels(r, "node_j", []string{"BAD", "NONE"}, rc, nil)
	wantRows(t, r.list, `error node_j BAD: source "/var/run/socket" is not an address and a port`, `error node_j NONE: source "" is not an address and a port`)
	_, err := parseSockstat("{}")
	wantText(t, err, "output of sockstat: no sockets")

	v := testVerifier(t, nil)
	v.jails = []jailConf{{name: "down", path: "/jails/down"}, {name: "node_j", path: "/jails/node_j"}, {name: "nginx_j", path: "/jails/nginx_j"}}
	v.up["node_j"], v.up["nginx_j"] = true, true
	v.rc["node_j"], v.rc["nginx_j"] = map[string]string{"spiped_enable": "YES", "spiped_pipes": "N2P"}, map[string]string{}
	wantRows(t, v.checkTunnels(t.Context()), "skipped node_j: spiped is not installed")
}

func TestVerifyTime(t *testing.T) {
	const head = "     remote           refid      st t when poll reach   delay   offset  jitter\n====\n"
	for _, tt := range []struct{ text, want string }{
		{ntpq("*"), "ok ntpd: follows 162.159.200.1, -0.541 ms off"},
		{ntpq("+"), `warning ntpd: none of 2 time servers is followed (yet) -> ntpq -pn: "reach" 0 means that no answer comes back, as when the firewall drops it`},
		{strings.Replace(ntpq("*"), "-0.541", "5541.1", 1), "warning ntpd: follows 162.159.200.1 and is 5541.1 ms off"},
		{strings.Replace(ntpq("*"), "-0.541", "a_bit", 1), `error ntpd: output of ntpq: offset "a_bit" is not a number`},
		{head, "warning ntpd: it knows no time server -> name one in /etc/ntp.conf"},
		{"No association ID's returned\n", `error ntpd: output of ntpq: "No association ID's returned" is not a server`},
	} {
		r := &rows{}
		judgeTime(r, tt.text)
		wantRows(t, r.list, tt.want)
	}
}
