package answers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"text/template"
)

var parseTests = []struct {
	q    Question
	in   string
	want string // fmt.Sprint of the value, or "error: …"
}{
	{Question{Type: Label}, " www1 ", "www1"},
	{Question{Type: Label}, "WWW", `error: "WWW" is not valid; expected a host label, as www1 (lower-case letters, digits and inner hyphens, at most 63)`},
	{Question{Type: Label}, strings.Repeat("a", 63), strings.Repeat("a", 63)},
	{Question{Type: Label, Max: ptr(5)}, "abcdef", "error: 6 bytes long; expected at most 5"},
	{Question{Type: Domain}, "example.org", "example.org"},
	{Question{Type: Domain}, "example..org", `error: "example..org" is not valid; expected a domain name, as example.org (lower-case labels separated by dots)`},
	{Question{Type: Domain}, "", "error: nothing given; expected a domain name, as example.org (lower-case labels separated by dots)"},
	{Question{Type: IP}, "192.0.2.10", "192.0.2.10"},
	{Question{Type: IP}, "192.0.2.010", `error: "192.0.2.010" is not valid; expected an IPv4 address, as 192.0.2.10`},
	{Question{Type: IP}, "2001:db8::1", "error: IPv6 is not supported yet; expected an IPv4 address, as 192.0.2.10"},
	{Question{Type: IP}, "::ffff:1.2.3.4", "error: IPv6 is not supported yet; expected an IPv4 address, as 192.0.2.10"},
	{Question{Type: IP}, "0.0.0.0", "error: 0.0.0.0 is not the address of one machine; expected an IPv4 address, as 192.0.2.10"},
	{Question{Type: IP}, "224.0.0.1", "error: 224.0.0.1 is not the address of one machine; expected an IPv4 address, as 192.0.2.10"},
	{Question{Type: IP, List: true}, "192.0.2.1, 192.0.2.2 192.0.2.3", "[192.0.2.1 192.0.2.2 192.0.2.3]"},
	{Question{Type: IP, List: true}, " , ", "error: nothing given; expected a list; each is an IPv4 address, as 192.0.2.10"},
	{Question{Type: CIDR}, "192.0.2.10/24", "192.0.2.10/24"},
	{Question{Type: CIDR}, "192.0.2.10/32", "192.0.2.10/32"},
	{Question{Type: CIDR}, "192.0.2.10/31", "192.0.2.10/31"},
	{Question{Type: CIDR}, "192.0.2.10", `error: "192.0.2.10" is not valid; expected an IPv4 address with prefix length, as 192.0.2.10/24`},
	{Question{Type: CIDR}, "192.0.2.255/24", "error: 192.0.2.255 is the broadcast address of 192.0.2.0/24; expected the machine's own address, as 192.0.2.10/24"},
	{Question{Type: CIDR}, "192.0.2.1/0", "error: 192.0.2.1/0 has no network in its prefix; expected an IPv4 address with prefix length, as 192.0.2.10/24"},
	{Question{Type: CIDR}, "127.0.0.1/8", "error: 127.0.0.1 is not the address of one machine; expected an IPv4 address with prefix length, as 192.0.2.10/24"},
	{Question{Type: CIDR}, "fe80::1/64", "error: IPv6 is not supported yet; expected an IPv4 address with prefix length, as 192.0.2.10/24"},
	{Question{Type: Net}, "10.1.2.3/8", "10.0.0.0/8"},
	{Question{Type: Net}, "10.1.2.3", "10.1.2.3/32"},
	{Question{Type: Net}, "10/24", `error: "10/24" is not valid; expected an IPv4 network or address, as 192.0.2.0/24`},
	{Question{Type: NIC}, "mac:52:54:00:12:34:56", "mac:52:54:00:12:34:56"},
	{Question{Type: NIC}, "52:54:00:AB:34:56", "mac:52:54:00:ab:34:56"},
	{Question{Type: NIC}, "vtnet0", "vtnet0"},
	{Question{Type: NIC}, "link+gateway", "auto"},
	{Question{Type: NIC}, "01:00:5e:00:00:01", "error: 01:00:5e:00:00:01 is not the MAC address of one interface; expected a unicast one, as mac:52:54:00:12:34:56"},
	{Question{Type: NIC}, "mac:5254", `error: "mac:5254" is no MAC address; expected six hexadecimal bytes, as mac:52:54:00:12:34:56`},
	{Question{Type: NIC}, "eth", `error: "eth" is no network interface; expected its MAC address, as mac:52:54:00:12:34:56, its device name, as vtnet0, or auto`},
	{Question{Type: VLAN}, "0", "0"},
	{Question{Type: VLAN}, "4094", "4094"},
	{Question{Type: VLAN}, "4095", "error: 4095 is out of range; expected 0 to 4094"},
	{Question{Type: VLAN, Min: ptr(2)}, "1", "error: 1 is out of range; expected 2 to 4094"},
	{Question{Type: Port}, "x", `error: "x" is not valid; expected a port number, as 8080 (1 to 65535)`},
	{Question{Type: Int, Min: ptr(5)}, "4", "error: 4 is out of range; expected at least 5"},
	{Question{Type: Int, Min: ptr(5), Max: ptr(5)}, "4", "error: 4 is out of range; expected exactly 5"},
	{Question{Type: Choice, Choices: []string{"a", "b"}}, "c", `error: "c" is not valid; expected one of a, b`},
	{Question{Type: Size}, "2G", "2147483648"},
	{Question{Type: Size}, "0", "0"},
	{Question{Type: Size}, "9999999t", "error: 9999999t is too large a size"},
	{Question{Type: Size}, "-1g", `error: "-1g" is no size; expected a number and a unit, as 512m or 2g`},
	{Question{Type: Size, Max: ptr(1 << 30)}, "2g", "error: 2g is out of range; expected at most 1g"},
	{Question{Type: Bool}, "Yes", "true"},
	{Question{Type: Bool}, "maybe", `error: "maybe" is not valid; expected yes or no`},
	{Question{Type: Text}, "a b", "a b"},
	{Question{Type: Text}, "a\xff", "error: text with bytes that are not UTF-8, or with NUL; expected text"},
	{Question{Type: Text, Secret: true}, " a ", "[secret]"},
	{Question{Type: Secret}, "", "error: nothing given; expected a secret"},
	{Question{Type: PasswordHash}, testHash, "[secret]"},
	{Question{Type: PasswordHash}, "*", "[secret]"},
	{Question{Type: PasswordHash}, "letmein", "error: not a password hash; expected a password hash as made by openssl passwd -6, or * for no password"},
	{Question{Type: SSHKey}, testKey, testKey},
	{Question{Type: SSHKey}, "ssh-dss AAAA", `error: "ssh-dss" is no type of SSH key that sshd accepts; expected the line of a .pub file, as ssh-ed25519 AAAA… name`},
	{Question{Type: SSHKey}, "ssh-rsa", "error: the key ends after its type; expected the line of a .pub file, as ssh-ed25519 AAAA… name"},
	{Question{Type: SSHKey}, "ssh-rsa AAA!", "error: the key is damaged (its base64 does not decode); expected the line of a .pub file, as ssh-ed25519 AAAA… name"},
	{Question{Type: SSHKey}, "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAA", "error: the key is not of the type ssh-rsa it says; expected the line of a .pub file, as ssh-ed25519 AAAA… name"},
	{Question{Type: SSHKey}, strings.Replace(testKey, "4f ", " ", 1), "error: the key is damaged (its base64 does not decode); expected the line of a .pub file, as ssh-ed25519 AAAA… name"},
	{Question{Type: SSHKey}, strings.Replace(testKey, "HR4f ", " ", 1), "error: the key is cut short; expected the line of a .pub file, as ssh-ed25519 AAAA… name"},
	{Question{Type: SSHKey}, "-----BEGIN OPENSSH PRIVATE KEY-----", "error: this is a private key; expected the line of a .pub file, as ssh-ed25519 AAAA… name"},
	{Question{Type: SSHKey, List: true}, testKey + " at home, " + testKey, "[" + testKey + " at home " + testKey + "]"},
	{Question{Type: Disks}, "ada0,ada1 spare serial:C wipe swap=2g", "ada0 ada1 spare serial:C wipe swap=2g"},
	{Question{Type: Disks}, "largest-equal swap=none", "largest-equal swap=none"},
	{Question{Type: Disks}, "largest-equal ada0", "error: both a rule and named disks; expected one of them"},
	{Question{Type: Disks}, "largest-equal wipe", "error: wipe with a rule; a rule takes blank disks only, name the disks to wipe by serial"},
	{Question{Type: Disks}, "rule=biggest", `error: rule "biggest" is unknown; expected "largest-equal"`},
	{Question{Type: Disks}, "ada0 spare ada1", "error: 1 disk in the mirror; expected at least two, or a rule"},
	{Question{Type: Disks}, "ada0 ada1 spare ada0", "error: disk ada0 is named twice"},
	{Question{Type: Disks}, "ada0 ada1 swap=5", `error: swap of 5 bytes; expected at least 1m, as "2g", or "none"`},
}

func TestParseText(t *testing.T) {
	for _, tt := range parseTests {
		v, err := ParseText(&tt.q, tt.in)
		got := fmt.Sprint(v)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tt.want {
			t.Errorf("ParseText(%s, %q)\n got %s\nwant %s", tt.q.Type, tt.in, got, tt.want)
		}
	}
}

func TestEveryTypeIsDescribed(t *testing.T) {
	for _, sp := range specs {
		typ := sp.typ
		if sp.noun == "" {
			t.Errorf("%s has no description", typ)
		}
		q := Question{Key: "q", Type: typ}
		if typ == Choice || strings.Contains(sp.example, "…") {
			continue
		}
		if _, err := ParseText(&q, sp.example); err != nil {
			t.Errorf("%s: the example is wrong: %v", typ, err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := mustResolve(t, Source{Name: "a", Data: []byte("secrets.spiped_key = \"hunter2hunter2\"")})
	secret := s.Secret("secrets.spiped_key")
	if secret.Reveal() != "hunter2hunter2" {
		t.Fatal("Reveal does not")
	}
	var b bytes.Buffer
	type wrap struct{ Key SecretValue }
	for _, v := range []any{secret, &secret, []SecretValue{secret}, wrap{secret}, map[string]any{"k": secret}, s, struct{ S *Set }{s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&b, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
		fmt.Fprintln(&b, v)
	}
	if err := json.NewEncoder(&b).Encode(map[string]any{"a": wrap{secret}, "b": s.Data(), "c": s.Redacted()}); err != nil {
		t.Fatal(err)
	}
	if err := s.TOML(&b, false); err != nil {
		t.Fatal(err)
	}
	if err := template.Must(template.New("").Parse("{{.secrets.spiped_key}}{{printf `%s %q` .secrets.spiped_key .secrets.spiped_key}}")).Execute(&b, s.Data()); err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"hunter", "68756e746572"} {
		if strings.Contains(b.String(), leak) {
			t.Errorf("%q is in\n%s", leak, b.String())
		}
	}
}

func TestDataInTemplates(t *testing.T) {
	const text = `{{.server.name}} {{.xnic.inet.Addr}}/{{.xnic.inet.Bits}}` +
		`{{if .inic.inet}} no{{end}}{{if .inic.vlan}} no{{end}}{{if .private.node}} no{{end}}{{if .peers.admin}} no{{end}}` +
		`{{if .web.motto}} no{{end}}{{if .secrets.root}} no{{end}}{{if .disks}} no{{end}}{{if .install.unattended}} no{{end}}` +
		`{{range .xnic.resolvers}} {{.}}{{end}} {{.secrets.spiped_key.Reveal}}`
	s := mustResolve(t, Source{Name: "a", Values: map[string]string{
		"server.name": "hvm", "xnic.inet": "192.0.2.5/24", "xnic.resolvers": "1.1.1.1 8.8.8.8", "secrets.spiped_key": "hunter2hunter2"}})
	var b strings.Builder
	tmpl := template.Must(template.New("").Option("missingkey=error").Parse(text))
	if err := tmpl.Execute(&b, s.Data()); err != nil {
		t.Fatal(err)
	}
	if want := "hvm 192.0.2.5/24 1.1.1.1 8.8.8.8 hunter2hunter2"; b.String() != want {
		t.Errorf("got %s, want %s", b.String(), want)
	}
}

func TestTOMLRoundTrip(t *testing.T) {
	s := mustResolve(t, Source{Name: "a", Data: []byte(goodFile)})
	for key, v := range map[string]any{"web.motto": "a \"b\"\\\n\tc\x7fü", "db.cache": "3m", "disks": DiskWish{Rule: RuleLargestEqual, Swap: NoSwap}} {
		if err := s.Set(key, v); err != nil {
			t.Fatal(err)
		}
		again := roundTrip(t, s)
		if !reflect.DeepEqual(s.Data(), again.Data()) {
			t.Errorf("got %#v\nwant %#v", again.Data(), s.Data())
		}
	}
}

func roundTrip(t *testing.T, s *Set) *Set {
	t.Helper()
	var b bytes.Buffer
	if err := s.TOML(&b, true); err != nil {
		t.Fatal(err)
	}
	again, err := Resolve(s.qs, Source{Name: "saved", Data: b.Bytes()})
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	return again
}

func TestTemplateGolden(t *testing.T) {
	var b bytes.Buffer
	if err := Template(rigQuestions(), &b); err != nil {
		t.Fatal(err)
	}
	const file = "testdata/template.toml"
	if os.Getenv("RIG_UPDATE") != "" {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("RIG_UPDATE=1 go test writes %s anew; got\n%s", file, b.String())
	}
	// As printed it answers nothing, and each of its settings is of the right type.
	mustResolve(t, Source{Name: file, Data: b.Bytes()})
	var on strings.Builder
	for l := range strings.Lines(b.String()) {
		if strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "# ") && l != "#\n" && !strings.Contains(l, "…") {
			l = l[1:]
		}
		on.WriteString(l)
	}
	qs := rigQuestions()
	for i := range qs {
		qs[i].Distinct, qs[i].Within, qs[i].Apart = "", "", nil
	}
	qs[5].GatewayOf = ""
	if _, err := Resolve(qs, Source{Name: "all settings", Data: []byte(on.String())}); err != nil {
		t.Error(err)
	}
}

func TestValidateQuestions(t *testing.T) {
	net := Question{Key: "net", Type: CIDR}
	for _, tt := range []struct {
		want string
		qs   []Question
	}{
		{`X: key "X"; expected parts of lower-case letters, digits and underscores joined by dots, as lan.inet`, []Question{{Key: "X", Type: Int}}},
		{"schema: key schema is the answers file's own", []Question{{Key: "schema", Type: Int}}},
		{"rig.x: key rig is what templates know the image by", []Question{{Key: "rig.x", Type: Int}}},
		{`a: unknown type "str"; expected one of label, domain, ip, cidr, net, nic, vlan, port, int, choice, ssh_key, secret, password_hash, disks, size, bool, text`, []Question{{Key: "a", Type: "str"}}},
		{"a: the key is used by two questions", []Question{{Key: "a", Type: Int}, {Key: "a", Type: Int}}},
		{"a: the key is also the table of a.b", []Question{{Key: "a", Type: Int}, {Key: "a.b", Type: Int}}},
		{"install: the key is also the table of install.unattended\ninstall: the key is also the table of install.after\n" +
			"install: the key is also the table of install.encrypt\ninstall: the key is also the table of install.passphrase", []Question{{Key: "install", Type: Int}}},
		{"disks.x: the key is below that of the question disks", []Question{{Key: "disks.x", Type: Int}}},
		{"disks: a built-in question keeps its type (disks) and choices", []Question{{Key: "disks", Type: Text}}},
		{`a: default: "x" is not valid; expected an IPv4 address, as 192.0.2.10`, []Question{{Key: "a", Type: IP, Default: "x"}}},
		{"a: default[1]: found a number; expected an IPv4 address, as 192.0.2.10, in quotes", []Question{{Key: "a", Type: IP, List: true, Default: []any{"1.2.3.4", 5}}}},
		{"a: default of a secret; it would be in every image", []Question{{Key: "a", Type: Secret, Default: "x"}}},
		{"disks: default.wipe: an image must not ask for wiping", []Question{{Key: "disks", Type: Disks, Default: map[string]any{"mirror": []any{"serial:A", "serial:B"}, "wipe": true}}}},
		{"a: type choice with 1 choice; expected at least two", []Question{{Key: "a", Type: Choice, Choices: []string{"x"}}}},
		{`a: choice "x y"; expected a word without blanks and commas`, []Question{{Key: "a", Type: Choice, Choices: []string{"x y", "z"}}}},
		{"a: choices do not go with type int", []Question{{Key: "a", Type: Int, Choices: []string{"x"}}}},
		{"a: min 2 is above max 1", []Question{{Key: "a", Type: Int, Min: ptr(2), Max: ptr(1)}}},
		{"a: min and max do not go with type ip", []Question{{Key: "a", Type: IP, Min: ptr(2)}}},
		{"a: list does not go with type bool", []Question{{Key: "a", Type: Bool, List: true}}},
		{"a: secret does not go with type int; it goes with text, secret and password_hash", []Question{{Key: "a", Type: Int, Secret: true}}},
		{"a: generate goes with type secret or password_hash that is no list", []Question{{Key: "a", Type: Text, Generate: true}}},
		{`a: within: there is no question "nett"; did you mean net?`, []Question{net, {Key: "a", Type: IP, Within: "nett"}}},
		{"a: gateway_of: b is of type ip; expected a single cidr", []Question{{Key: "a", Type: IP, GatewayOf: "b"}, {Key: "b", Type: IP}}},
		{"net: apart: the question relates to itself", []Question{{Key: "net", Type: CIDR, Apart: []string{"net"}}}},
		{`net: outside "10.0.2.1/24"; expected an IPv4 network, as 10.0.2.0/24`, []Question{{Key: "net", Type: CIDR, Outside: []string{"10.0.2.1/24"}}}},
		{"a: within goes with type ip, not int", []Question{net, {Key: "a", Type: Int, Within: "net"}}},
		{`a: nothing else is in the distinct group "g"`, []Question{{Key: "a", Type: IP, Distinct: "g"}}},
		{`a: peer: there is no question "nett"; did you mean net?`, []Question{net, {Key: "a", Type: CIDR, Peer: "nett"}}},
		{"a: peer: the question relates to itself; same says that both servers have one answer", []Question{{Key: "a", Type: IP, Peer: "a"}}},
		{"a: peer: b is itself the other server's answer", []Question{net, {Key: "a", Type: IP, Peer: "b"}, {Key: "b", Type: IP, Peer: "net"}}},
		{"a: peer: b is a list; expected a single answer", []Question{{Key: "a", Type: IP, Peer: "b"}, {Key: "b", Type: IP, List: true}}},
		{"a: peer: b is of type label; expected ip or cidr", []Question{{Key: "a", Type: IP, Peer: "b"}, {Key: "b", Type: Label}}},
		{"a: peer: net is of type cidr; expected net", []Question{net, {Key: "a", Type: Net, Peer: "net"}}},
		{"a: peer does not go with disks, bool and secrets", []Question{{Key: "a", Type: Secret, Peer: "b"}, {Key: "b", Type: Secret}}},
		{"a: peer: b is a secret", []Question{{Key: "a", Type: Text, Peer: "b"}, {Key: "b", Type: Text, Secret: true}}},
		{"a: same does not go with type disks; every server has its own", []Question{{Key: "a", Type: Disks, Same: true}}},
		{"a: same does not go with a list of cidr", []Question{{Key: "a", Type: CIDR, List: true, Same: true}}},
		{"a: differ does not go with disks, bool, secrets and lists", []Question{{Key: "a", Type: IP, List: true, Differ: true}}},
		{"a: both same and differ; expected one of them", []Question{{Key: "a", Type: IP, Same: true, Differ: true}}},
		{"a: peer with same or differ; the other server's answer says it all", []Question{net, {Key: "a", Type: IP, Peer: "net", Differ: true}}},
		{"a: distinct does not go with disks, bool and secrets", []Question{{Key: "a", Type: Secret, Distinct: "g"}, {Key: "b", Type: IP, Distinct: "g"}}},
	} {
		err := ValidateQuestions(tt.qs)
		if got := fmt.Sprint(err); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
		if err := Template(tt.qs, io.Discard); err == nil {
			t.Errorf("Template accepts %q", tt.want)
		}
	}
}

func TestSizeRoundTrip(t *testing.T) {
	for _, n := range []int64{0, 1, 1023, 1024, 1536, 1 << 20, 3 << 30, 1 << 40, 5 << 40, 1<<63 - 1} {
		if got, err := ParseSize(FormatSize(n)); err != nil || got != n {
			t.Errorf("%d → %s → %d, %v", n, FormatSize(n), got, err)
		}
	}
}
