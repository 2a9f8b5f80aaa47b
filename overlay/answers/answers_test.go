package answers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/diag"
)

func ptr(n int64) *int64 { return &n }

// A key pair made for this test; the public half is all there is.
const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann@laptop"

const testHash = "$6$salt$" + "0123456789abcdefghij0123456789abcdefghij0123456789abcdefghij0123456789abcdefghijABCDEF"

// rigQuestions are those of a small profile.
func rigQuestions() []Question {
	return []Question{
		{Key: "server.name", Type: Label, Required: true, Max: ptr(20), Prompt: "Server name"},
		{Key: "server.domain", Type: Domain, Default: "example.lan"},
		{Key: "server.role", Type: Choice, Choices: []string{"primary", "replica"}, Default: "primary"},
		{Key: "xnic.match", Type: NIC, Default: "auto", Distinct: "nics"},
		{Key: "xnic.inet", Type: CIDR, Required: true, Distinct: "addresses", Outside: []string{"10.0.2.0/24", "10.0.3.0/24"},
			Help: "The public address. Its prefix length may be anything up to /32; the gateway may then be outside the subnet."},
		{Key: "xnic.gateway", Type: IP, Required: true, GatewayOf: "xnic.inet"},
		{Key: "xnic.resolvers", Type: IP, List: true},
		{Key: "inic.match", Type: NIC, Distinct: "nics"},
		{Key: "inic.inet", Type: CIDR, Distinct: "addresses", Apart: []string{"xnic.inet"}},
		{Key: "inic.vlan", Type: VLAN, Default: 0},
		{Key: "inic.mtu", Type: Int, Min: ptr(576), Max: ptr(9000), Default: 1500},
		{Key: "private.node", Type: IP, Within: "inic.inet", Distinct: "addresses"},
		{Key: "private.peers", Type: IP, List: true, Within: "inic.inet", Distinct: "addresses"},
		{Key: "peers.admin", Type: Net, List: true},
		{Key: "users.ann.keys", Type: SSHKey, List: true},
		{Key: "secrets.spiped_key", Type: Secret, Generate: true, Min: ptr(8)},
		{Key: "secrets.root", Type: PasswordHash, Generate: true, Required: true},
		{Key: "db.cache", Type: Size, Default: "256m", Min: ptr(1 << 20)},
		{Key: "web.port", Type: Port, Default: 443},
		{Key: "web.motto", Type: Text},
		{Key: "web.tls", Type: Bool, Default: true},
	}
}

const goodFile = `schema = 1
[server]
name = "hvm"
[xnic]
match = "52-54-00-AA-bb-01"
inet = "192.0.2.155/29"
gateway = "198.51.100.1"
resolvers = ["192.0.2.1", "192.0.2.2"]
[inic]
match = "vtnet1"
inet = "192.168.56.110/24"
vlan = 7
[private]
node = "192.168.56.30"
peers = ["192.168.56.31"]
[peers]
admin = ["203.0.113.7", "198.51.100.77/24"]
[users.ann]
keys = ["` + testKey + `"]
[secrets]
spiped_key = "hunter2hunter2"
root = "` + testHash + `"
[disks]
mirror = ["serial:A", "/dev/ada1"]
spares = ["serial:C"]
swap = "4g"
`

func mustResolve(t *testing.T, sources ...Source) *Set {
	t.Helper()
	s, err := Resolve(rigQuestions(), sources...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestQuestionsOfTestsAreValid(t *testing.T) {
	if err := ValidateQuestions(rigQuestions()); err != nil {
		t.Fatal(err)
	}
}

func TestResolve(t *testing.T) {
	s := mustResolve(t, Source{Name: "answers.toml", Data: []byte(goodFile)},
		Source{Name: "kenv", Values: map[string]string{
			"server.name": "hvn", "xnic.resolvers": "192.0.2.3, 192.0.2.4", "disks.mirror": "serial:X serial:Y", "disks.wipe": "yes",
			"web.tls": "off", "inic.vlan": "9", "db.cache": "1G",
		}})
	for key, want := range map[string]any{
		"server.name":        "hvn",
		"server.domain":      "example.lan",
		"xnic.match":         NICMatch{MAC: "52:54:00:aa:bb:01"},
		"xnic.inet":          netip.MustParsePrefix("192.0.2.155/29"),
		"xnic.gateway":       netip.MustParseAddr("198.51.100.1"),
		"xnic.resolvers":     []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.4")},
		"inic.match":         NICMatch{Device: "vtnet1"},
		"inic.vlan":          int64(9),
		"peers.admin":        []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("198.51.100.0/24")},
		"users.ann.keys":     []string{testKey},
		"secrets.spiped_key": SecretValue("hunter2hunter2"),
		"db.cache":           int64(1 << 30),
		"web.port":           int64(443),
		"web.tls":            false,
		"install.after":      "reboot",
		"disks":              DiskWish{Mirror: []string{"serial:X", "serial:Y"}, Wipe: true},
	} {
		if got, _ := s.Get(key); !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %#v, want %#v", key, got, want)
		}
	}
	for key, want := range map[string]string{"server.name": "kenv", "xnic.inet": "answers.toml", "web.port": "default", "web.motto": ""} {
		if got := s.Origin(key); got != want {
			t.Errorf("origin of %s = %q, want %q", key, got, want)
		}
	}
	if m := s.Missing(); len(m) != 0 {
		t.Errorf("missing %v", m)
	}
}

func TestMissing(t *testing.T) {
	s := mustResolve(t, Source{Name: "a", Data: []byte("[disks]\n[xnic]\n")})
	var got []string
	for _, q := range s.Missing() {
		got = append(got, q.Key)
	}
	if want := []string{"server.name", "xnic.inet", "xnic.gateway", "disks"}; !reflect.DeepEqual(got, want) {
		t.Errorf("missing %v, want %v", got, want)
	}
	if g := s.Ungenerated(); len(g) != 2 || g[0].Key != "secrets.spiped_key" {
		t.Errorf("ungenerated: %v", g)
	}
}

// Every case is a file whose problems are exactly those, with carets.
var badFiles = []struct{ name, toml, want string }{
	{"gateway is own address", "schema = 1\n\n[xnic]\n\ninet = \"10.0.0.110/24\"\n\ngateway = \"10.0.0.110\"\n",
		`answers.toml:7:11: xnic.gateway: 10.0.0.110 is the server's own address (xnic.inet); expected the router's
    gateway = "10.0.0.110"
              ^`},
	{"gateway is broadcast", "xnic.inet = \"10.0.0.110/24\"\nxnic.gateway = \"10.0.0.255\"",
		`answers.toml:2:16: xnic.gateway: 10.0.0.255 is the broadcast address of 10.0.0.0/24 (xnic.inet); expected the router's
    xnic.gateway = "10.0.0.255"
                   ^`},
	{"all at once", `xnic = { inet = "10.0.0.0/24", gateway = "10.0.0.1000" }
inic.inte = "1.2.3.4/8" # typo
web.port = "80"
db = 5
`, `answers.toml:1:17: xnic.inet: 10.0.0.0 is the network address of 10.0.0.0/24; expected the machine's own address, as 192.0.2.10/24
    xnic = { inet = "10.0.0.0/24", gateway = "10.0.0.1000" }
                    ^
answers.toml:1:42: xnic.gateway: "10.0.0.1000" is not valid; expected an IPv4 address, as 192.0.2.10
    xnic = { inet = "10.0.0.0/24", gateway = "10.0.0.1000" }
                                             ^
answers.toml:2:6: inic.inte: unknown key; did you mean inic.inet?
    inic.inte = *********** # typo
         ^
answers.toml:3:12: web.port: found a string; expected a whole number without quotes
    web.port = "80"
               ^
answers.toml:4:6: db: found a number; expected a table, as [db]
    db = 5
         ^`},
	{"list item", "[xnic]\nresolvers = [\"192.0.2.1\",\n\t\"::1\"]",
		"answers.toml:3:2: xnic.resolvers[1]: IPv6 is not supported yet; expected an IPv4 address, as 192.0.2.10\n    \t\"::1\"]\n    \t^"},
	{"not a list", "[xnic]\nresolvers = \"192.0.2.1\"",
		`answers.toml:2:13: xnic.resolvers: found a string; expected a list, as ["192.0.2.10"]
    resolvers = "192.0.2.1"
                ^`},
	{"within", "[inic]\ninet = \"192.168.1.5/24\"\n[private]\nnode = \"192.168.2.1\"\npeers = [\"192.168.1.6\", \"192.168.1.5\", \"192.168.1.0\"]",
		`answers.toml:4:8: private.node: 192.168.2.1 is not in 192.168.1.0/24 (inic.inet); expected an address of that network
    node = "192.168.2.1"
           ^
answers.toml:5:25: private.peers[1]: 192.168.1.5 is also inic.inet; expected different values
    peers = ["192.168.1.6", "192.168.1.5", "192.168.1.0"]
                            ^
answers.toml:5:40: private.peers[2]: 192.168.1.0 is the network address of 192.168.1.0/24 (inic.inet); expected a machine's address
    peers = ["192.168.1.6", "192.168.1.5", "192.168.1.0"]
                                           ^`},
	{"outside and apart", "xnic.inet = \"10.0.2.15/24\"\ninic.inet = \"10.0.2.77/28\"",
		`answers.toml:1:13: xnic.inet: 10.0.2.0/24 overlaps 10.0.2.0/24, which the server uses itself; expected an address outside it
    xnic.inet = "10.0.2.15/24"
                ^
answers.toml:2:13: inic.inet: 10.0.2.64/28 overlaps 10.0.2.0/24 (xnic.inet); expected separate networks
    inic.inet = "10.0.2.77/28"
                ^`},
	{"one NIC twice", "inic.match = \"auto\"",
		`answers.toml:1:14: inic.match: auto is also xnic.match; expected different values
    inic.match = "auto"
                 ^`},
	{"disks", "[disks]\nmirror = [\"serial:A\", \"disk one\"]\nwhipe = true\nswap = \"much\"",
		`answers.toml:2:23: disks.mirror[1]: "disk one" is no disk; expected its serial number, as "serial:S3Z8NB0K", or a device name, as "ada0"
    mirror = ["serial:A", "disk one"]
                          ^
answers.toml:3:9: disks.whipe: unknown key; did you mean wipe?
    whipe = true
            ^
answers.toml:4:8: disks.swap: "much" is no size; expected a number and a unit, as 512m or 2g
    swap = "much"
           ^`},
	{"one disk", "[disks]\nmirror = [\"serial:A\"]",
		`answers.toml:1:2: disks: 1 disk in the mirror; expected at least two, or a rule
    [disks]
     ^`},
	{"unattended wipe by name", "install.unattended = true\n[disks]\nmirror = [\"ada0\", \"serial:B\"]\nwipe = true",
		`answers.toml:2:2: disks: an unattended wipe of disks named by device (ada0), which can be other disks at the next start; expected serial numbers, as "serial:S3Z8NB0K"
    [disks]
     ^`},
	{"passphrase", "[install]\npassphrase = \"hunter2\"",
		`answers.toml:2:14: install.passphrase: 7 bytes long; expected 8 to 255
    passphrase = *********
                 ^`},
	{"passphrase beyond ASCII", "[install]\npassphrase = \"hünter2hunter2\"",
		`answers.toml:2:14: install.passphrase: characters beyond ASCII; expected what the prompt at the start can take
    passphrase = *****************
                 ^`},
	{"schema", "schema = 2\nnew = 1",
		`answers.toml:1:10: schema: 2 is newer than this program knows (1); use the riginstall of a newer image
    schema = 2
             ^`},
	{"schema type", "schema = \"1\"",
		`answers.toml:1:10: schema: found a string; expected schema = 1
    schema = "1"
             ^`},
	{"secret does not show", "[secrets]\nspiped_key = \"s3cret\" # the key\nroot = \"s3cret\"",
		`answers.toml:2:14: secrets.spiped_key: 6 bytes long; expected at least 8
    spiped_key = ******** # the key
                 ^
answers.toml:3:8: secrets.root: not a password hash; expected a password hash as made by openssl passwd -6, or * for no password
    root = ********
           ^`},
	{"syntax does not show secrets", "[secrets]\nspiped_key = s3cret",
		`answers.toml:2:14: not a TOML value; expected strings in quotes, closed on the same line
    spiped_key = ******
                 ^`},
	{"syntax", "[server]\nname \"x\"",
		`answers.toml:2:6: expected '.' or '=', but got '"' instead
    name "x"
         ^`},
	{"twice", "[server]\nname = \"a\"\nname = \"b\"",
		`answers.toml:3:1: Key 'server.name' has already been defined.
    name = "b"
    ^`},
	{"quoted key", `"xnic.inet" = "192.0.2.1/24"`,
		`answers.toml:1:1: "xnic.inet": unknown key; did you mean xnic.inet?
    "xnic.inet" = "192.0.2.1/24"
    ^`},
	{"array of tables", "[[xnic]]\ninet = \"192.0.2.1/24\"",
		`answers.toml:1:3: xnic: found an array of tables; expected a table, as [xnic]
    [[xnic]]
      ^`},
}

func TestResolveProblems(t *testing.T) {
	for _, tt := range badFiles {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Resolve(rigQuestions(), Source{Name: "answers.toml", Data: []byte(tt.toml)})
			if err == nil {
				t.Fatal("no error")
			}
			if got := err.Error(); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
			if code := diag.ExitCode(err); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
		})
	}
}

func TestResolveBothSources(t *testing.T) {
	_, err := Resolve(rigQuestions(),
		Source{Name: "esp", Data: []byte("xnic.inet = \"192.0.2.1/24\"\nweb.port = 0\n")},
		Source{Name: "kenv", Values: map[string]string{"xnic.gateway": "192.0.2.1", "web.prot": "1", "disks.wipe": "maybe", "web.tls": "x"}})
	want := `esp:2:12: web.port: 0 is out of range; expected 1 to 65535
    web.port = 0
               ^
kenv: web.prot: unknown key; did you mean web.port?
kenv: web.tls: "x" is not valid; expected yes or no
kenv: disks.wipe: found a string; expected true or false
kenv: xnic.gateway: 192.0.2.1 is the server's own address (xnic.inet); expected the router's`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestResolveLargeFile(t *testing.T) {
	_, err := Resolve(nil, Source{Name: "a", Data: make([]byte, maxFile+1)})
	if want := "a: larger than 256 KiB; that is no answers file"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestResolveFromWindows(t *testing.T) { // Notepad: a byte order mark, CRLF
	s := mustResolve(t, Source{Name: "a", Data: []byte("\ufeff[server]\r\nname = \"hvm\"\r\n")})
	if got := s.String("server.name"); got != "hvm" {
		t.Errorf("server.name = %q", got)
	}
	_, err := Resolve(rigQuestions(), Source{Name: "a", Data: []byte("\ufeff[server]\r\nname = \"HVM\"\r\n")})
	if want := "a:2:8: server.name: \"HVM\" is not valid"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Disks are one answer: a stronger source's disks never meet a weaker one's wipe.
func TestDisksAreNotMerged(t *testing.T) {
	s := mustResolve(t,
		Source{Name: "esp", Data: []byte("[disks]\nmirror=[\"serial:A\",\"serial:B\"]\nwipe=true")},
		Source{Name: "file", Data: []byte("[disks]\nrule=\"largest-equal\"\nswap=0")})
	if got, want := s.Disks(KeyDisks), (DiskWish{Rule: RuleLargestEqual, Swap: NoSwap}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSet(t *testing.T) {
	s := mustResolve(t, Source{Name: "a", Data: []byte("xnic.gateway = \"192.0.2.1\"")})
	for _, tt := range []struct {
		key  string
		v    any
		want string
	}{
		{"xnic.inet", netip.MustParsePrefix("192.0.2.1/24"), "xnic.gateway: 192.0.2.1 is the server's own address (xnic.inet); expected the router's"},
		{"xnic.inet", "192.0.2.9/24", ""},
		{"xnic.gateway", netip.MustParseAddr("192.0.2.9"), "192.0.2.9 is the server's own address (xnic.inet); expected the router's"},
		{"xnic.gateway", "192.0.2.256", `"192.0.2.256" is not valid; expected an IPv4 address, as 192.0.2.10`},
		{"xnic.resolvers", []string{"192.0.2.1", "x"}, `[1]: "x" is not valid; expected an IPv4 address, as 192.0.2.10`},
		{"disks", DiskWish{Mirror: []string{"ada0", "/dev/ada0"}}, "disk ada0 is named twice"},
		{"disks", map[string]any{"mirror": []any{"serial:"}}, `mirror[0]: "serial:" has no usable serial number; expected serial: and 1 to 64 printable characters`},
		{"disks", DiskWish{Mirror: []string{"ada0", "ada1"}, Wipe: true}, ""},
		{"xnic.nope", "", "set xnic.nope: no such question"},
		{"inic.match", NICMatch{MAC: "52:54:00:12:34:56", Device: "vtnet1"}, ""},
	} {
		err := s.Set(tt.key, tt.v)
		if got := fmt.Sprint(err); err != nil && got != tt.want || err == nil && tt.want != "" {
			t.Errorf("Set(%s, %v): %v, want %q", tt.key, tt.v, err, tt.want)
		}
	}
	if got := s.Addr("xnic.gateway"); got.String() != "192.0.2.1" {
		t.Errorf("a refused Set changed the gateway to %s", got)
	}
	if got := s.NIC("inic.match"); got.Device != "vtnet1" || got.MAC != "52:54:00:12:34:56" {
		t.Errorf("a found NIC lost a field: %#v", got)
	}
	if got := s.Origin("disks"); got != OriginPrompt {
		t.Errorf("origin %q", got)
	}
	if err := errors.Join(s.Set("web.port", 8080), s.Set("web.port", nil), s.Set("xnic.gateway", nil)); err != nil {
		t.Error(err)
	}
	if s.Int("web.port") != 443 || s.Origin("web.port") != OriginDefault || s.Addr("xnic.gateway").IsValid() {
		t.Error("Set(nil) did not go back to the default")
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

// Check shows conflicts that Set let pass because the other side came later.
func TestCheck(t *testing.T) {
	s := mustResolve(t, Source{Name: "a.toml", Data: []byte("[disks]\nmirror=[\"ada0\",\"ada1\"]\nwipe=true")})
	s.vals[KeyUnattended] = answer{v: true, origin: "x"}
	err := s.Check()
	if want := "a.toml:1:2: disks: an unattended wipe"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s…", err, want)
	}
}

func TestRedactedIsJSON(t *testing.T) {
	s := mustResolve(t, Source{Name: "a", Data: []byte(goodFile)})
	b, err := json.Marshal(s.Redacted())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"secrets.root":"[secret]"`, `"xnic.inet":"192.0.2.155/29"`, `"inic.vlan":7`, `"peers.admin":["203.0.113.7/32","198.51.100.0/24"]`, `"xnic.match":"mac:52:54:00:aa:bb:01"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
}

// A pool is encrypted when that is answered, which then needs a passphrase, or
// when there is one.
func TestEncrypted(t *testing.T) {
	for _, tt := range []struct {
		name, text      string
		want, lacksPass bool
		qs              []Question
	}{
		{"nothing said", "", false, false, nil},
		{"wanted", "encrypt = true", true, true, nil},
		{"a passphrase", "passphrase = 'hunter2hunter2'", true, false, nil},
		{"both, that of a default", "encrypt = false\npassphrase = 'hunter2hunter2'", true, false, nil},
		{"both", "encrypt = true\npassphrase = 'hunter2hunter2'", true, false, nil},
		{"wanted by the profile", "", true, true, []Question{{Key: KeyEncrypt, Type: Bool, Default: true}}},
		{"not even by the profile", "encrypt = false", false, false, []Question{{Key: KeyEncrypt, Type: Bool, Default: true}}},
		{"a profile without a default", "passphrase = 'hunter2hunter2'", true, false, []Question{{Key: KeyEncrypt, Type: Bool}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Resolve(tt.qs, Source{Name: "f", Data: []byte("[install]\nunattended = true\n" + tt.text)})
			if err != nil {
				t.Fatal(err)
			}
			lacks := slices.ContainsFunc(s.Missing(), func(q Question) bool { return q.Key == KeyPassphrase })
			if s.Encrypted() != tt.want || lacks != tt.lacksPass {
				t.Errorf("encrypted %v, lacks a passphrase %v", s.Encrypted(), lacks)
			}
			if err := s.CheckUnattended(); strings.Contains(fmt.Sprint(err), KeyPassphrase) != tt.lacksPass {
				t.Errorf("unattended: %v", err)
			}
			if text := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(text, "hunter2") {
				t.Errorf("it prints as %s", text)
			}
		})
	}
}
