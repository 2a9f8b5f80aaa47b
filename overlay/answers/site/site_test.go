package site

import (
	"bytes"
	"fmt"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay"
	"github.com/rig-freebsd/rig/overlay/answers"
)

func ptr(n int64) *int64 { return &n }

// questions are those of a small profile.
func questions() []answers.Question {
	return []answers.Question{
		{Key: "server.name", Type: answers.Label, Required: true, Differ: true},
		{Key: "server.domain", Type: answers.Domain, Same: true},
		{Key: "xnic.match", Type: answers.NIC, Default: "auto", Differ: true},
		{Key: "xnic.inet", Type: answers.CIDR, Required: true, Distinct: "public"},
		{Key: "xnic.gateway", Type: answers.IP, Required: true, GatewayOf: "xnic.inet"},
		{Key: "inic.inet", Type: answers.CIDR, Required: true, Distinct: "private", Same: true, Apart: []string{"xnic.inet"}},
		{Key: "inic.mtu", Type: answers.Int, Default: 1500, Min: ptr(1280), Same: true},
		{Key: "private.node", Type: answers.IP, Required: true, Within: "inic.inet", Distinct: "private"},
		{Key: "private.peer_node", Type: answers.IP, Required: true, Within: "inic.inet", Distinct: "private", Peer: "private.node"},
		{Key: "peers.xnic", Type: answers.IP, List: true, Default: []any{}, Distinct: "public", Peer: "xnic.inet"},
		{Key: "secrets.key", Type: answers.Secret, Generate: true, Required: true, Min: ptr(8), Max: ptr(64), Same: true},
		{Key: "secrets.root", Type: answers.PasswordHash, Generate: true, Required: true},
	}
}

const good = `schema = 1
[common]
server.domain = "example.lan"
xnic.gateway = "192.0.2.1"
disks.rule = "largest-equal"
install.unattended = true
[a]
server.name = "rega"
xnic = { inet = "192.0.2.10/24", match = "mac:52:54:00:00:00:0a" }
inic.inet = "10.1.0.1/24"
private.node = "10.1.0.30"
[b]
server.name = "regb"
xnic = { inet = "192.0.2.11/24", match = "mac:52:54:00:00:00:0b" }
inic.inet = "10.1.0.2/24"
private.node = "10.1.0.31"
`

func mustParse(t *testing.T, text string) *Site {
	t.Helper()
	s, err := Parse("site.toml", []byte(text), questions())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParse(t *testing.T) {
	if err := answers.ValidateQuestions(questions()); err != nil {
		t.Fatal(err)
	}
	s := mustParse(t, good)
	for i, want := range []map[string]any{
		{"server.name": "rega", "server.domain": "example.lan", "xnic.gateway": "192.0.2.1", "private.node": "10.1.0.30",
			"private.peer_node": "10.1.0.31", "peers.xnic": "[192.0.2.11]", "inic.mtu": "1500", "disks": "largest-equal"},
		{"server.name": "regb", "server.domain": "example.lan", "xnic.gateway": "192.0.2.1", "private.node": "10.1.0.31",
			"private.peer_node": "10.1.0.30", "peers.xnic": "[192.0.2.10]", "inic.mtu": "1500", "disks": "largest-equal"},
	} {
		v := s.Servers[i]
		if v.Letter != letters[i] || v.Name != want["server.name"] {
			t.Errorf("server %d is %s, %s", i, v.Letter, v.Name)
		}
		for key, w := range want {
			if got, _ := v.Set.Get(key); fmt.Sprint(got) != w {
				t.Errorf("%s: %s = %v, want %v", v.Name, key, got, w)
			}
		}
	}
	if err := s.CheckUnattended(); err != nil {
		t.Error(err)
	}
	if g := s.Gaps(); len(g) != 0 {
		t.Errorf("gaps %v", g)
	}
}

// A server's own answer is stronger than the common one, and what is said of the
// other server may be repeated.
func TestParseOverrides(t *testing.T) {
	s := mustParse(t, good+"xnic.gateway = \"192.0.2.2\"\nprivate.peer_node = \"10.1.0.30\"\npeers.xnic = [\"192.0.2.99\", \"192.0.2.10\"]\n")
	if a, b := s.Servers[0].Set.Addr("xnic.gateway"), s.Servers[1].Set.Addr("xnic.gateway"); a.String() != "192.0.2.1" || b.String() != "192.0.2.2" {
		t.Errorf("gateways %s and %s", a, b)
	}
	if got := fmt.Sprint(s.Servers[1].Set.Addrs("peers.xnic")); got != "[192.0.2.99 192.0.2.10]" {
		t.Errorf("peers.xnic = %s", got)
	}
}

// edit changes the good file: pairs of old and new text, each found once.
func edit(t *testing.T, pairs ...string) string {
	t.Helper()
	text := good
	for i := 0; i < len(pairs); i += 2 {
		if strings.Count(text, pairs[i]) != 1 {
			t.Fatalf("%q is not there once", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

// Every case is an edit of the good file whose problems are exactly those.
var bad = []struct {
	name  string
	edits []string
	want  string
}{
	{"peer is not the other", []string{`"10.1.0.30"`, `"10.1.0.30"` + "\nprivate.peer_node = \"10.1.0.32\""},
		`site.toml:12:21: a.private.peer_node: 10.1.0.32 is not server B's private.node, 10.1.0.31 (site.toml:17:16); leave it out, it follows from there
    private.peer_node = "10.1.0.32"
                        ^`},
	{"peer list lacks the other", []string{"[b]", "peers.xnic = [\"192.0.2.12\"]\n[b]"},
		`site.toml:12:14: a.peers.xnic: [192.0.2.12] lacks server B's xnic.inet, 192.0.2.11/24 (site.toml:15:17); leave it out, it follows from there
    peers.xnic = ["192.0.2.12"]
                 ^`},
	{"equal addresses", []string{"10.1.0.31", "10.1.0.1", "192.0.2.11", "192.0.2.10"},
		`site.toml:14:17: b.xnic.inet: 192.0.2.10 is also server A's xnic.inet (site.toml:9:17); expected different ones
    xnic = { inet = "192.0.2.10/24", match = "mac:52:54:00:00:00:0b" }
                    ^
site.toml:16:16: b.private.node: 10.1.0.1 is also server A's inic.inet (site.toml:10:13); expected different ones
    private.node = "10.1.0.1"
                   ^`},
	{"equal in common", []string{"[a]\nserver.name = \"rega\"", "server.name = \"reg\"\n[a]", "server.name = \"regb\"", ""},
		`site.toml:7:15: common.server.name: reg on both servers; expected different ones, under [a] and [b]
    server.name = "reg"
                  ^`},
	{"equal names and cards", []string{"regb", "rega", "00:0b", "00:0A"},
		`site.toml:13:15: b.server.name: rega is also server A's server.name (site.toml:8:15); expected different ones
    server.name = "rega"
                  ^
site.toml:14:42: b.xnic.match: mac:52:54:00:00:00:0a is also server A's xnic.match (site.toml:9:42); expected different ones
    xnic = { inet = "192.0.2.11/24", match = "mac:52:54:00:00:00:0A" }
                                             ^`},
	{"two private networks", []string{`"10.1.0.2/24"`, `"10.2.0.2/24"`, `"10.1.0.31"`, `"10.2.0.31"`},
		`site.toml:15:13: b.inic.inet: 10.2.0.2/24 is in another network than 10.1.0.1/24 of server A (site.toml:10:13); expected one network for both
    inic.inet = "10.2.0.2/24"
                ^`},
	{"networks of two lengths", []string{`"10.1.0.2/24"`, `"10.1.0.2/25"`},
		`site.toml:15:13: b.inic.inet: 10.1.0.2/25 is in another network than 10.1.0.1/24 of server A (site.toml:10:13); expected one network for both
    inic.inet = "10.1.0.2/25"
                ^`},
	{"same against a default", []string{"[a]\n", "[a]\ninic.mtu = 9000\n"},
		`site.toml:8:12: a.inic.mtu: 9000, but 1500 on server B (the default); both servers have the same: put it under [common]
    inic.mtu = 9000
               ^`},
	{"same for one alone", []string{"server.domain = \"example.lan\"\n", "", "[b]\n", "[b]\nserver.domain = \"example.org\"\n"},
		`site.toml:12:17: b.server.domain: server A has none; both servers have the same: put it under [common]
    server.domain = "example.org"
                    ^`},
	{"secrets do not show", []string{"[a]\n", "[a]\nsecrets.key = \"hunter2hunter2\"\n", "[b]\n", "[b]\nsecrets.key = \"hunter3hunter3\"\nsecrets.root = \"hunter4\"\n"},
		`site.toml:14:15: b.secrets.key: it differs from server A's (site.toml:8:15); both servers have the same: put it under [common]
    secrets.key = ****************
                  ^
site.toml:15:16: b.secrets.root: not a password hash; expected a password hash as made by openssl passwd -6, or * for no password
    secrets.root = *********
                   ^`},
	{"within a server, once", []string{"192.0.2.1\"", "192.0.2.255\""},
		`site.toml:4:16: common.xnic.gateway: 192.0.2.255 is the broadcast address of 192.0.2.0/24 (xnic.inet); expected the router's
    xnic.gateway = "192.0.2.255"
                   ^`},
	{"overlapping networks", []string{"192.0.2.10/24", "10.1.0.77/16", "192.0.2.11/24", "192.0.2.11/24"},
		`site.toml:10:13: a.inic.inet: 10.1.0.0/24 overlaps 10.1.0.0/16 (xnic.inet); expected separate networks
    inic.inet = "10.1.0.1/24"
                ^`},
	{"unknown", []string{"server.domain", "server.domian", "[b]", "[c]\nx = 1\n[b]", "xnic.gateway", "xnic.getaway"},
		`site.toml:3:8: common.server.domian: unknown key; did you mean server.domain?
    server.domian = *************
           ^
site.toml:4:6: common.xnic.getaway: unknown key; did you mean xnic.gateway?
    xnic.getaway = ***********
         ^
site.toml:12:2: c: unknown table; known here are a, b, common
    [c]
     ^`},
	{"answers outside the tables", []string{"[common]\n", "server.name = \"x\"\n[common]\n"},
		`site.toml:2:1: server: unknown table; known here are a, b, common
    server.name = "x"
    ^`},
	{"no table", []string{"[common]", "a = 1\n[x]", "[a]", "[y]"},
		`site.toml:2:5: a: found a number; expected a table, as [a]
    a = 1
        ^
site.toml:3:2: x: unknown table; known here are a, b, common
    [x]
     ^
site.toml:8:2: y: unknown table; known here are a, b, common
    [y]
     ^`},
	{"a question is no table", []string{"xnic.gateway = \"192.0.2.1\"\n", "", "[a]", "xnic = 5\n[a]"},
		`site.toml:6:8: common.xnic: found a number; expected a table, as [common.xnic]
    xnic = 5
           ^`},
	{"syntax", []string{"[b]", "[b"},
		"site.toml:12:3: expected '.' or ']' to end table name, but got '\\n' instead\n    [b\n      ^"},
	{"schema", []string{"schema = 1", "schema = 2"},
		`site.toml:1:10: schema: 2 is newer than this program knows (1); use a newer rigimage
    schema = 2
             ^`},
}

func TestProblems(t *testing.T) {
	for _, tt := range bad {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("site.toml", []byte(edit(t, tt.edits...)), questions())
			if got := fmt.Sprint(err); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
			if code := diag.ExitCode(err); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
		})
	}
}

// A problem of an answer that follows from the other server's is shown there.
func TestDerivedProblem(t *testing.T) {
	qs := questions()
	for i := range qs {
		if qs[i].Key == "inic.inet" {
			qs[i].Same = false
		}
	}
	text := edit(t, `"10.1.0.2/24"`, `"10.2.0.2/24"`, `"10.1.0.31"`, `"10.2.0.31"`)
	_, err := Parse("site.toml", []byte(text), qs)
	want := `site.toml:11:16: a.private.node: as the other server's private.peer_node: 10.1.0.30 is not in 10.2.0.0/24 (inic.inet); expected an address of that network
    private.node = "10.1.0.30"
                   ^
site.toml:16:16: b.private.node: as the other server's private.peer_node: 10.2.0.31 is not in 10.1.0.0/24 (inic.inet); expected an address of that network
    private.node = "10.2.0.31"
                   ^`
	if fmt.Sprint(err) != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestGaps(t *testing.T) {
	text := edit(t, "private.node = \"10.1.0.31\"\n", "", "install.unattended = true\n", "", "[a]\n", "[a]\ninstall.unattended = true\n",
		`inet = "192.0.2.10/24", `, "", "disks.rule = \"largest-equal\"\n", "")
	s := mustParse(t, text)
	var got []string
	for _, g := range s.Gaps() {
		got = append(got, g.Server.Letter+" "+g.Question.Key)
	}
	// A's private.peer_node follows from B's private.node.
	if want := []string{"a xnic.inet", "a disks", "b private.node", "b disks"}; !reflect.DeepEqual(got, want) {
		t.Errorf("gaps %v, want %v", got, want)
	}
	want := `site.toml:5:2: a.disks: no answer, and an unattended install asks nobody
    [a]
     ^
site.toml:8:8: a.xnic.inet: no answer, and an unattended install asks nobody
    xnic = { match = "mac:52:54:00:00:00:0a" }
           ^`
	if err := s.CheckUnattended(); fmt.Sprint(err) != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func answersOf(t *testing.T, s *Site, i int) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteAnswers(&b, &s.Servers[i]); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestGenerate(t *testing.T) {
	s := mustParse(t, good)
	passwords, err := s.Generate()
	if err != nil {
		t.Fatal(err)
	}
	a, b := s.Servers[0].Set, s.Servers[1].Set
	if k := a.Secret("secrets.key"); k != b.Secret("secrets.key") || len(k) != 64 {
		t.Errorf("keys of %d and %d characters", len(k), len(b.Secret("secrets.key")))
	}
	if len(passwords) != 2 || passwords[0].Text == passwords[1].Text || passwords[1].Server.Name != "regb" || passwords[1].Key != "secrets.root" {
		t.Fatalf("passwords %+v", passwords)
	}
	for i, p := range passwords {
		if len(p.Text) != 20 {
			t.Errorf("password of %d characters", len(p.Text))
		}
		hash := s.Servers[i].Set.Secret("secrets.root").Reveal()
		if salt := strings.Split(hash, "$")[2]; sha512crypt(p.Text.Reveal(), salt) != hash {
			t.Error("the hash is not the password's")
		}
	}
	text := s.Secrets()
	for _, p := range passwords {
		if bytes.Contains(text, []byte(p.Text.Reveal())) || strings.Contains(answersOf(t, s, 0)+answersOf(t, s, 1), p.Text.Reveal()) {
			t.Error("a file has a password")
		}
	}

	// With the secrets kept, the answers stay and nothing is made.
	again, err := Load(File{"site.toml", []byte(good)}, File{"site.secrets.toml", text}, questions())
	if err != nil {
		t.Fatal(err)
	}
	if p, err := again.Generate(); err != nil || len(p) != 0 || again.Secrets() != nil {
		t.Errorf("made %v, %v, %v", p, again.Secrets(), err)
	}
	for i := range s.Servers {
		one, two := answersOf(t, s, i), answersOf(t, again, i)
		if one != two {
			t.Errorf("answers differ:\n%s\n%s", one, two)
		}
		read, err := answers.Resolve(questions(), answers.Source{Name: "answers.toml", Data: []byte(one)})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(read.Data(), s.Servers[i].Set.Data()) {
			t.Errorf("read back: %v, want %v", read.Data(), s.Servers[i].Set.Data())
		}
	}
}

// What the secrets file has stays when more is made, and the site file is
// stronger.
func TestSecretsAreKept(t *testing.T) {
	const kept = "schema = 1\n[common]\nsecrets.key = \"kept \\\"key\\\"\"\n[b]\nsecrets.root = \"*\"\n"
	s, err := Load(File{"site.toml", []byte(edit(t, "[common]\n", "[common]\nsecrets.key = \"of the site file\"\n"))}, File{"site.secrets.toml", []byte(kept)}, questions())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Servers[0].Set.Secret("secrets.key").Reveal(); got != "of the site file" {
		t.Errorf("key %q", got)
	}
	p, err := s.Generate()
	if err != nil || len(p) != 1 || p[0].Server.Name != "rega" {
		t.Fatalf("made %v, %v", p, err)
	}
	want := `# Secrets that "rigimage answers" made for site.toml, whose own answers win. Keep this file, for
# its owner alone. What is removed here is made anew the next time.

schema = 1

[common]
secrets.key = "kept \"key\""

[a]
secrets.root = "HASH"

[b]
secrets.root = "*"
`
	want = strings.Replace(want, "HASH", s.Servers[0].Set.Secret("secrets.root").Reveal(), 1)
	if got := string(s.Secrets()); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestSecretsFileProblems(t *testing.T) {
	_, err := Load(File{"site.toml", []byte(good)}, File{"s.secrets.toml", []byte("[common]\nserver.domain = \"x\"\n[b]\nsecrets.key = \"hunter2hunter2\"")}, questions())
	want := `s.secrets.toml:2:17: common.server.domain: no secret; put it into site.toml
    server.domain = "x"
                    ^
s.secrets.toml:4:15: b.secrets.key: server A has none; both servers have the same: put it under [common]
    secrets.key = ****************
                  ^`
	if fmt.Sprint(err) != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// The example of the default profile is complete, and is RIG's network.
func TestWebrigExample(t *testing.T) {
	cfg, err := image.LoadConfig(overlay.Webrig(), "rig.toml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := overlay.Webrig().Open("site.toml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(f); err != nil {
		t.Fatal(err)
	}
	s, err := Parse("site.toml", text.Bytes(), cfg.Questions)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CheckUnattended(); err != nil || len(s.Gaps()) != 0 {
		t.Errorf("%v, gaps %v", err, s.Gaps())
	}
	for i, want := range []string{
		"rega primary 10.0.0.110/24 10.0.0.1 192.168.56.110/24 192.168.56.30 192.168.56.40 192.168.56.31 192.168.56.41 [10.0.0.111]",
		"regb replica 10.0.0.111/24 10.0.0.1 192.168.56.111/24 192.168.56.31 192.168.56.41 192.168.56.30 192.168.56.40 [10.0.0.110]",
	} {
		var got []string
		for _, key := range []string{"server.name", "server.role", "xnic.inet", "xnic.gateway", "inic.inet",
			"private.node", "private.pg", "private.peer_node", "private.peer_pg", "peers.xnic"} {
			v, _ := s.Servers[i].Set.Get(key)
			got = append(got, fmt.Sprint(v))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
		}
	}
}

// Vectors of Drepper's paper with 5000 rounds, and openssl as the referee.
func TestSHA512Crypt(t *testing.T) {
	for _, tt := range []struct{ password, salt, want string }{
		{"Hello world!", "saltstring", "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"},
	} {
		if got := sha512crypt(tt.password, tt.salt); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is the referee")
	}
	for _, n := range []int{1, 7, 20, 63, 64, 65, 100} {
		password, salt := strings.Repeat("pass.word", 12)[:n], "abcdefgh01234567"[:1+n%16]
		out, err := exec.Command(openssl, "passwd", "-6", "-salt", salt, password).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := sha512crypt(password, salt), strings.TrimSpace(string(out)); got != want {
			t.Errorf("%d characters:\ngot  %s\nwant %s", n, got, want)
		}
	}
}

// Names become files: equal ones are refused without the profile's help, and what
// is no label names nothing.
func TestNames(t *testing.T) {
	qs := []answers.Question{{Key: KeyName, Type: answers.Label}}
	_, err := Parse("s", []byte("[common]\nserver.name = \"x\""), qs)
	want := "s:2:15: common.server.name: x on both servers; expected different ones, under [a] and [b]\n    server.name = \"x\"\n                  ^"
	if fmt.Sprint(err) != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	qs[0].Type = answers.Text
	s, err := Parse("s", []byte("[common]\nserver.name = \"../x\""), qs)
	if err != nil || s.Servers[0].Name != "a" || s.Servers[1].Name != "b" {
		t.Errorf("%+v, %v", s, err)
	}
}
