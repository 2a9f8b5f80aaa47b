package overlay

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var roots = []string{"host", "jails/pg_j", "jails/node_j", "jails/nginx_j"}

func load(t *testing.T, root string) *tree.Tree {
	t.Helper()
	tr, err := Load(Webrig(), root, Options{Time: time.Unix(1700000000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
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
		t.Errorf("%s differs (go test -update rewrites it):\n%s", file, diff(string(want), string(got)))
	}
}

func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\n-%s\n+%s", i+1, a, b)
		}
	}
	return ""
}

func TestWebrigTrees(t *testing.T) {
	for _, root := range roots {
		var b bytes.Buffer
		if err := load(t, root).WriteMtree(&b, false); err != nil {
			t.Fatal(err)
		}
		golden(t, strings.ReplaceAll(root, "/", "_")+".mtree", b.Bytes())
	}
}

func ips(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func nets(s ...string) (out []netip.Prefix) {
	for _, a := range s {
		out = append(out, netip.MustParsePrefix(a))
	}
	return out
}

// server is the answers of server A or B of the test network.
func server(name string) map[string]any {
	a := name == "a"
	pick := func(x, y string) string {
		if a {
			return x
		}
		return y
	}
	ip := netip.MustParseAddr
	return map[string]any{
		"server": map[string]any{"name": "rig" + name, "domain": "example.lan", "role": pick("primary", "replica")},
		"xnic": map[string]any{
			"match":   answers.NICMatch{MAC: pick("52:54:00:00:0a:01", "52:54:00:00:0b:01")},
			"inet":    netip.MustParsePrefix(pick("10.0.0.110/24", "10.0.0.111/24")),
			"gateway": ip("10.0.0.1")},
		"inic": map[string]any{
			"match": answers.NICMatch{MAC: pick("52:54:00:00:0a:02", "52:54:00:00:0b:02")},
			"inet":  netip.MustParsePrefix(pick("192.168.56.110/24", "192.168.56.111/24")),
			"vlan":  int64(0), "mtu": int64(1500)},
		"private": map[string]any{
			"node": ip(pick("192.168.56.30", "192.168.56.31")), "pg": ip(pick("192.168.56.40", "192.168.56.41")),
			"peer_node": ip(pick("192.168.56.31", "192.168.56.30")), "peer_pg": ip(pick("192.168.56.41", "192.168.56.40"))},
		"peers": map[string]any{
			"xnic": ips(pick("10.0.0.111", "10.0.0.110")), "orch": ips("10.0.0.220"),
			"admin": nets("10.0.0.0/24", "198.51.100.7/32")},
		"net": map[string]any{
			"resolvers": ips("1.1.1.1", "8.8.8.8"), "ntp": []netip.Addr(nil), "ntp_public": ips("162.159.200.1"),
			"payments": nets("192.0.2.64/26"), "email": nets("66.111.4.0/24")},
		"users": map[string]any{"admin_keys": []string{"ssh-ed25519 AAAA a"}, "deployer_keys": []string{"ssh-ed25519 AAAA d"}},
		"secrets": map[string]any{"spiped_key": answers.SecretValue("0123456789abcdef0123456789abcdef"),
			"app_password": answers.SecretValue("it's:app\\password"), "replicator_password": answers.SecretValue("it's:the\\replica's")},
		"rig": map[string]any{"hostuuid": pick("aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002")},
	}
}

func set(data map[string]any, key string, v any) map[string]any {
	group, name, _ := strings.Cut(key, ".")
	data[group].(map[string]any)[name] = v
	return data
}

func renderTree(t *testing.T, root string, data map[string]any) map[string]string {
	t.Helper()
	out := map[string]string{}
	tr := load(t, root)
	for _, p := range Templates(tr) {
		text, err := tr.ReadFile(p, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Render(root+"/"+p, text, data)
		if err != nil {
			t.Fatal(err)
		}
		out[Target(p)] = string(got)
	}
	return out
}

func TestWebrigRendered(t *testing.T) {
	for _, name := range []string{"a", "b"} {
		var b bytes.Buffer
		for _, root := range roots {
			files := renderTree(t, root, server(name))
			var names []string
			for n := range files {
				names = append(names, n)
			}
			slices.Sort(names)
			for _, n := range names {
				fmt.Fprintf(&b, "==> %s/%s\n%s", root, n, files[n])
				if !strings.HasSuffix(files[n], "\n") {
					t.Errorf("%s/%s: last line has no end", root, n)
				}
			}
		}
		golden(t, "rendered_"+name+".txt", b.Bytes())
	}
}

func TestRenderVariants(t *testing.T) {
	d := server("a")
	set(d, "xnic.inet", netip.MustParsePrefix("203.0.113.9/32"))
	set(d, "xnic.gateway", netip.MustParseAddr("198.51.100.1"))
	set(d, "net.ntp", ips("192.168.56.5"))
	set(d, "inic.vlan", int64(2000))
	got := renderTree(t, "host", d)
	for name, want := range map[string]string{
		"etc/xnic": "inet 203.0.113.9/32\n", "etc/xnic_routes": "xgateway\n", "etc/inic_vlan": "2000\n",
		"etc/ips_ntp_public": "# <ntp_public>: time servers outside, when there are none on the private network.\n",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	for name, want := range map[string]string{
		"etc/ips_martians":    "203.0.113.0/24\n!203.0.113.9/32\n",
		"etc/ntp.conf":        "\nserver 192.168.56.5 iburst\n",
		"etc/ips_ntp_private": "\n192.168.56.5\n",
	} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s lacks %q:\n%s", name, want, got[name])
		}
	}
	set(d, "xnic.match", answers.NICMatch{Rule: answers.RuleLinkGateway})
	_, err := Render("x", []byte("{{nic .xnic.match}}"), d)
	wantError(t, err, `x:1:3: <nic .xnic.match>: error calling nic: "auto" does not name one network interface`)
}

// Every interface has one MAC address, and no two of two servers are equal.
func TestMACs(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"a", "b"} {
		for _, root := range roots {
			for p, mac := range renderTree(t, root, server(name)) {
				if !strings.HasPrefix(p, "etc/mac/") {
					continue
				}
				if other, dup := seen[mac]; dup {
					t.Errorf("%s %s and %s have the same address %s", name, p, other, mac)
				}
				seen[mac] = name + " " + p
				if len(filepath.Base(p)) > 15 {
					t.Errorf("%s: longer than 15 characters", p)
				}
			}
		}
	}
	if len(seen) != 2*(7+3+4+2) {
		t.Errorf("%d addresses", len(seen))
	}
}

type profile struct {
	Schema   int                `toml:"schema"`
	Name     string             `toml:"name"`
	Question []answers.Question `toml:"question"`
	Jail     []struct {
		Name, Overlay string
		Interfaces    []string
	} `toml:"jail"`
}

func readProfile(t *testing.T) profile {
	t.Helper()
	text, err := fs.ReadFile(Webrig(), "rig.toml")
	if err != nil {
		t.Fatal(err)
	}
	var p profile
	if _, err := toml.Decode(string(text), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVariablesAreAsked(t *testing.T) {
	asked := map[string]bool{"rig.image": true, "rig.hostid": true, "rig.hostuuid": true, "rig.jail": true, "rig.disks": true, "rig.pool": true}
	for _, q := range readProfile(t).Question {
		asked[q.Key] = true
	}
	used := map[string]bool{"secrets.root_hash": true, "users.admin_keys": true, "users.deployer_keys": true} // the installer's
	for _, root := range roots {
		tr := load(t, root)
		for _, p := range Templates(tr) {
			text, _ := tr.ReadFile(p, 1<<20)
			vars, err := Variables(root+"/"+p, text)
			if err != nil {
				t.Error(err)
			}
			for _, v := range vars {
				if used[v] = true; !asked[v] {
					t.Errorf("%s/%s: no question defines %s", root, p, v)
				}
			}
		}
	}
	for key := range asked {
		if !used[key] && !strings.HasPrefix(key, "rig.") {
			t.Errorf("question %s is used nowhere", key)
		}
	}
}

// Each file that pf.conf reads and each value that an rc.conf reads exists after rendering.
func TestFilesExist(t *testing.T) {
	for _, root := range roots {
		tr := load(t, root)
		have := map[string]bool{}
		for e := range tr.All() {
			have["/"+Target(e.Path)] = true
		}
		for file, marks := range map[string][2]string{"etc/pf.conf": {`file "`, `"`}, "etc/rc.conf": {"/bin/cat ", "`"}} {
			if _, ok := tr.Lookup(file); !ok {
				continue
			}
			text, _ := tr.ReadFile(file, 1<<20)
			parts := strings.Split(string(text), marks[0])
			for _, part := range parts[1:] {
				name, _, ok := strings.Cut(part, marks[1])
				if !ok || strings.Contains(name, "\n") {
					continue
				}
				if !have[name] {
					t.Errorf("%s/%s reads %s, which is nowhere", root, file, name)
				}
			}
		}
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error is\n%v\nwant\n%s", err, want)
	}
	var ps *diag.Problems
	if !errors.As(err, &ps) {
		t.Errorf("%T is not bad input", err)
	}
}

func TestLoad(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s), Mode: 0o600} }
	fsys := fstest.MapFS{
		"o/etc/a.tmpl":  file("x"),
		"o/bin/run":     file("#!/bin/sh\n"),
		"o/etc/sub/b":   file(""),
		"o/usr/link":    &fstest.MapFile{Data: []byte("../bin/run"), Mode: fs.ModeSymlink | 0o777},
		"o.mtree":       file("# comment\n/set mode=0600\n./etc/a uname=www uid=80\n./bin/run type=file mode=4555\n./etc/sub mode=0700\n./var/db/x type=dir uid=770 gid=770\n./usr/l2 type=link link=run\n"),
		"other/ignored": file(""),
	}
	tr, err := Load(fsys, "o", Options{Time: time.Unix(5, 0)})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tr.WriteMtree(&b, true); err != nil {
		t.Fatal(err)
	}
	golden(t, "load.mtree", b.Bytes())
	if got := Templates(tr); !slices.Equal(got, []string{"etc/a.tmpl"}) {
		t.Errorf("templates %q", got)
	}

	fsys["o/etc/x~"] = file("")
	fsys["o/.DS_Store"] = file("")
	fsys["o/etc/sub/b.tmpl"] = file("")
	fsys["o.mtree"] = file("./none mode=0600\n./bin/run type=dir\n./bin/run mode=9\nbin/run\n./etc/sub mode=0700\n./etc/sub mode=0700\n./l type=link\n")
	_, err = Load(fsys, "o", Options{})
	for _, want := range []string{
		"o/etc/x~: looks like something an editor",
		"o/.DS_Store: looks like",
		"o/etc/sub/b.tmpl: etc/sub/b exists too",
		"o.mtree:1: ./none: no such file in the overlay",
		"o.mtree:2: ./bin/run: it is a file in the overlay",
		"o.mtree:3: mode=9 is not an octal mode",
		`o.mtree:4: path "bin/run" must begin with ./`,
		"o.mtree:6: ./etc/sub: already described in line 5",
		"o.mtree:7: ./l: type=link needs link=",
	} {
		wantError(t, err, want)
	}
}

func TestVariables(t *testing.T) {
	for text, want := range map[string]string{
		"{{.a.b}} {{.a.b.Reveal}} {{$.c}}":                   "a.b c",
		"{{with .a}}{{.b}}{{else}}{{.c}}{{end}}":             "a a.b c",
		"{{range .l}}{{.}}{{$.d.e}}{{end}}":                  "d.e l",
		"{{if eq .a.b \"x\"}}{{.c}}{{end}}":                  "a.b c",
		"{{join \" \" (list .x .y)}}{{(index .z 0).String}}": "x y z",
		"{{$v := .q.r}}{{$v}}{{$v.Reveal}}":                  "q.r",
		"plain":                                              "",
	} {
		got, err := Variables("t", []byte(text))
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q %v, want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"\n{{range .l}}{{.name}}{{end}}": "t:2:15: cannot tell which answer .name is here",
		"{{template \"x\"}}":             "t:1:",
		"{{define \"x\"}}{{end}}":        "define and block are not supported",
		"{{.a":                           "t:1: unclosed action",
		"{{nofunc .a}}":                  `t:1: function "nofunc" not defined`,
	} {
		_, err := Variables("t", []byte(text))
		wantError(t, err, want)
	}
}

func TestRenderErrors(t *testing.T) {
	data := map[string]any{"a": map[string]any{"b": "10.0.0.1/33", "n": nil}}
	for text, want := range map[string]string{
		"\n  {{.a.c}}":       "t:2:7: <.a.c>: map has no entry for key \"c\"\n      {{.a.c}}\n          ^",
		"{{.b}}":             `map has no entry for key "b"`,
		"{{network .a.b}}":   `"10.0.0.1/33" is not an IPv4 address or network`,
		"{{.a.n}}":           "a value is nil",
		"{{mac \"\" \"x\"}}": "needs the identity of the host",
	} {
		_, err := Render("t", []byte(text), data)
		wantError(t, err, want)
	}
}

func TestFuncs(t *testing.T) {
	data := map[string]any{"p": netip.MustParsePrefix("192.0.2.10/26"), "l": ips("1.1.1.1", "8.8.8.8"), "none": []netip.Addr{}}
	for text, want := range map[string]string{
		`{{addr .p}} {{network .p}} {{bits .p}} {{netmask .p}}`: "192.0.2.10 192.0.2.0/26 26 255.255.255.192",
		`{{netmask "0.0.0.0/0"}} {{netmask "1.2.3.4"}}`:         "0.0.0.0 255.255.255.255",
		`{{within "192.0.2.1" .p}} {{within "192.0.2.99" .p}}`:  "true false",
		`{{join " " (list .l .none "x")}}`:                      "1.1.1.1 8.8.8.8 x",
		`{{lines .l}}{{lines .none}}`:                           "1.1.1.1\n8.8.8.8\n",
		`{{join " " (carve (list "10.0.0.0/8" "192.0.2.0/28" "9.0.0.0/8") (list .p "10.1.0.0/16" "10.1.0.0/16"))}}`: "10.0.0.0/8 !10.1.0.0/16 9.0.0.0/8",
		`{{nic "mac:52:54:00:AA:00:01"}} {{nic "em0"}}`:                                                             "52:54:00:aa:00:01 em0",
	} {
		got, err := Render("t", []byte(text), data)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q %v, want %q", text, got, err, want)
		}
	}
}

// The answers of a file, as they come from the questions with their defaults, are all a
// template needs.
func TestAnswersRender(t *testing.T) {
	set, err := answers.Resolve(readProfile(t).Question, answers.Source{Name: "a.toml", Data: []byte(`schema = 1
[disks]
mirror = ["serial:A", "serial:B"]
[server]
name = "riga"
domain = "example.lan"
role = "primary"
[xnic]
match = "mac:52:54:00:00:0a:01"
inet = "10.0.0.110/24"
gateway = "10.0.0.1"
[inic]
match = "mac:52:54:00:00:0a:02"
inet = "192.168.56.110/24"
[private]
node = "192.168.56.30"
pg = "192.168.56.40"
peer_node = "192.168.56.31"
peer_pg = "192.168.56.41"
[peers]
admin = ["10.0.0.0/24"]
[users]
admin_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA a"]
deployer_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA d"]
[secrets]
spiped_key = "0123456789abcdef0123456789abcdef"
root_hash = "*"
app_password = "0123456789abcdef"
replicator_password = "fedcba9876543210"
`)})
	if err != nil {
		t.Fatal(err)
	}
	data := set.Data()
	data["rig"] = map[string]any{"hostuuid": "aaaaaaaa-0000-4000-8000-000000000001"}
	for _, root := range roots {
		renderTree(t, root, data)
	}
	if got := renderTree(t, "host", data)["etc/ips_xnic_peers"]; !strings.HasSuffix(got, ".\n10.0.0.0/24\n") {
		t.Errorf("peers: %q", got)
	}
	if got := renderTree(t, "jails/pg_j", data)["etc/spiped.key"]; got != "0123456789abcdef0123456789abcdef\n" {
		t.Errorf("key: %q", got)
	}
}
