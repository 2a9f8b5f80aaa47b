package image

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rig-freebsd/rig/image/live"
	"github.com/rig-freebsd/rig/image/sets"
	"github.com/rig-freebsd/rig/internal/diag"
)

// failure builds into a directory that holds an older image, wants this error and
// exit status, and sees that the directory is as it was.
func failure(t *testing.T, o Options, code int, want string) {
	t.Helper()
	failureOf(t, context.Background(), o, code, want)
}

func failureOf(t *testing.T, ctx context.Context, o Options, code int, want string) error {
	t.Helper()
	dir := t.TempDir()
	if o.Output == "" {
		o.Output = filepath.Join(dir, "rig.img")
		if err := os.WriteFile(o.Output, []byte("older"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Build(ctx, o)
	if err == nil {
		t.Fatal("the image was built")
	}
	if got := err.Error(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if got := diag.ExitCode(err); got != code {
		t.Errorf("exit status %d, want %d", got, code)
	}
	if o.Output != filepath.Join(dir, "rig.img") {
		return err
	}
	if got := files(t, dir); got != "rig.img" {
		t.Errorf("left behind: %s", got)
	}
	if b, _ := os.ReadFile(o.Output); string(b) != "older" {
		t.Errorf("the older image was touched")
	}
	return err
}

func failing(t *testing.T) Options {
	o := options(t, t.TempDir())
	o.Output = ""
	return o
}

const tinyProfile = `schema = 1
name = "tiny"
[freebsd]
version = "15.1-RELEASE"
arch = "amd64"
[pool]
name = "zroot"
ashift = 12
`

func TestConfigErrors(t *testing.T) {
	for _, tt := range []struct{ name, toml, want string }{
		{"unknown key", tinyProfile + "ashfit = 12\n", `my-rig/rig.toml:9:1: pool.ashfit: unknown key; known here are ashift, name, props, root
    ashfit = 12
    ^`},
		{"wrong type", strings.Replace(tinyProfile, "ashift = 12", "ashift = \"12\"", 1), `my-rig/rig.toml:8:10: pool.ashift: expected a whole number
    ashift = "12"
             ^`},
		{"several", `schema = "1"
name = "tiny"
colour = "red"
[freebsd]
	version = 15.1
[pool]
name = ["zroot"]
props = "autotrim=on"
[boot]
rig_size = "two"
[[jail]]
name = "a"
[[jail]]
name = "b"
[[jail.users]]
uid = "1001"
hoem = "/"
`, `my-rig/rig.toml:1:10: schema: expected a whole number
    schema = "1"
             ^
my-rig/rig.toml:3:1: colour: unknown key; known here are ask, boot, check, dataset, freebsd, host, jail, live, name, network, pool, question, repository, schema
    colour = "red"
    ^
my-rig/rig.toml:5:12: freebsd.version: expected a string in quotes
    	version = 15.1
    	          ^
my-rig/rig.toml:7:8: pool.name: expected a string in quotes
    name = ["zroot"]
           ^
my-rig/rig.toml:8:9: pool.props: expected a table
    props = "autotrim=on"
            ^
my-rig/rig.toml:10:12: boot.rig_size: expected a size, as "512m" or "2g"
    rig_size = "two"
               ^
my-rig/rig.toml:16:7: jail[1].users[0].uid: expected a whole number
    uid = "1001"
          ^
my-rig/rig.toml:17:1: jail[1].users[0].hoem: unknown key; known here are comment, groups, home, keys, name, password_hash, shell, uid
    hoem = "/"
    ^`},
		{"values", `schema = 2
name = "Tiny"
[freebsd]
version = "15.1"
arch = "i386"
[pool]
ashift = 8
[boot]
console = "lpt"
swap = 1000
[[jail]]
name = "a-b"
[[jail]]
name = "x"
[[jail.users]]
uid = 70000
keys = "users.keys"
`, `my-rig/rig.toml:1:10: schema: must be 1
    schema = 2
             ^
my-rig/rig.toml:2:8: name: expected a short name of a-z, 0-9 and -
    name = "Tiny"
           ^
my-rig/rig.toml:4:11: freebsd.version: expected a release such as "15.1-RELEASE"
    version = "15.1"
              ^
my-rig/rig.toml:5:8: freebsd.arch: only amd64 is supported
    arch = "i386"
           ^
my-rig/rig.toml:6:2: pool.name: is missing
    [pool]
     ^
my-rig/rig.toml:7:10: pool.ashift: expected 9 to 16 (12 for disks of today)
    ashift = 8
             ^
my-rig/rig.toml:9:11: boot.console: expected both, video or serial
    console = "lpt"
              ^
my-rig/rig.toml:10:8: boot.swap: expected whole MiB, as "512m" or "2g"
    swap = 1000
           ^
my-rig/rig.toml:12:8: jail[0].name: expected a name of a-z, 0-9 and _
    name = "a-b"
           ^
my-rig/rig.toml:15:8: jail[1].users[0]: a user has no name
    [[jail.users]]
           ^
my-rig/rig.toml:15:8: jail[1].users[0]: user : no question "users.keys" of type ssh_key
    [[jail.users]]
           ^
my-rig/rig.toml:16:7: jail[1].users[0].uid: uid must be between 1 and 65533
    uid = 70000
          ^`},
		{"jails", `schema = 1
name = "tiny"
[freebsd]
version = "15.1-RELEASE"
arch = "amd64"
[pool]
name = "zroot-{id}"
ashift = 12
[host]
keep = ["etc/ips"]
[[host.users]]
name = "root"
password_hash = "secrets.root"
[[jail]]
name = "a"
keep = ["/a", "/a", "/b/[x"]
[[jail.users]]
name = "root"
password_hash = "secrets.root"
[[question]]
key = "secrets.root"
type = "password_hash"
`, `my-rig/rig.toml:10:9: host.keep[0]: expected a clean absolute path below the root, as /usr/local/etc/nginx/tls
    keep = ["etc/ips"]
            ^
my-rig/rig.toml:16:15: jail[0].keep[1]: the path is there twice
    keep = ["/a", "/a", "/b/[x"]
                  ^
my-rig/rig.toml:16:21: jail[0].keep[2]: a [ is not closed
    keep = ["/a", "/a", "/b/[x"]
                        ^
my-rig/rig.toml:19:17: jail[0].users[0].password_hash: it is also a password of the host; a jail has passwords of its own, or none
    password_hash = "secrets.root"
                    ^`},
		{"no TOML", "schema = 1\nname = tiny\n", `my-rig/rig.toml:2:8: expected value but found "tiny" instead
    name = tiny
           ^`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := failing(t)
			o.Profile = fstest.MapFS{ConfigFile: {Data: []byte(tt.toml)}}
			failure(t, o, 2, tt.want)
		})
	}
	o := failing(t)
	o.Profile = fstest.MapFS{}
	failure(t, o, 2, "read profile: open rig.toml: file does not exist")
}

func TestProfileErrors(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(fstest.MapFS)
	}{
		{"overlay missing", "my-rig: there is no overlay directory jails/pg_x", func(p fstest.MapFS) {
			edit(t, p, `overlay = "jails/pg_j"`, `overlay = "jails/pg_x"`)
		}},
		{"editor's leavings", "host/etc/rc.conf~: looks like something an editor or a desktop left behind; delete it", func(p fstest.MapFS) {
			p["host/etc/rc.conf~"] = &fstest.MapFile{}
		}},
		{"undefined variable", "my-rig/host/etc/a.tmpl: xnic.adress: no question of rig.toml defines it\n" +
			"my-rig/host/etc/b.tmpl: nothing: no question of rig.toml defines it", func(p fstest.MapFS) {
			p["host/etc/a.tmpl"] = &fstest.MapFile{Data: []byte("{{.xnic.inet.Addr}} {{.xnic.adress}} {{.rig.image}}")}
			p["host/etc/b.tmpl"] = &fstest.MapFile{Data: []byte("{{.nothing}}")}
		}},
		{"unknown owner", "overlay host: resolve etc/pf.conf: unknown user nosuch", func(p fstest.MapFS) {
			p["host.mtree"] = &fstest.MapFile{Data: []byte("./etc/pf.conf uname=nosuch\n")}
		}},
		{"a jail that was deleted", "my-rig: there is no overlay directory jails/nginx_j", func(p fstest.MapFS) {
			for name := range p {
				if strings.HasPrefix(name, "jails/nginx_j/") {
					delete(p, name)
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := failing(t)
			tt.change(o.Profile.(fstest.MapFS))
			failure(t, o, 2, tt.want)
		})
	}
}

// large makes riginstall 3 MiB that cannot be compressed.
func large(t *testing.T, o *Options) {
	t.Helper()
	b := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(b)
	prog := filepath.Join(t.TempDir(), "riginstall")
	if err := os.WriteFile(prog, b, 0o755); err != nil {
		t.Fatal(err)
	}
	o.Riginstall = func(context.Context) (string, error) { return prog, nil }
}

func TestRigPartitionTooSmall(t *testing.T) {
	o := failing(t)
	large(t, &o)
	edit(t, o.Profile.(fstest.MapFS), `rig_size = "24m"`, `rig_size = "1m"`)
	dir := t.TempDir()
	o.Output = filepath.Join(dir, "rig.img")
	_, err := Build(context.Background(), o)
	if err == nil || !strings.HasPrefix(err.Error(), "write "+o.Output+": layout ufs of 1048576 bytes: the tree needs ") || diag.HintOf(err) != "raise rig_size in [boot] of rig.toml" {
		t.Errorf("%v; hint %q", err, diag.HintOf(err))
	}
	if got := files(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestAnswerErrors(t *testing.T) {
	o := failing(t)
	o.AnswersName = "a.toml"
	o.Answers = []byte(`[xnic]
inet = "192.0.2.10/24"
gateway = "192.0.2.10"
[inic]
inet = "10.0.2.5/24"
vlan = "many"
[server]
nmae = "www"
[secrets]
root_hash = "plain"
`)
	failure(t, o, 2, `a.toml:3:11: xnic.gateway: 192.0.2.10 is the server's own address (xnic.inet); expected the router's
    gateway = "192.0.2.10"
              ^
a.toml:5:8: inic.inet: 10.0.2.0/24 overlaps 10.0.2.0/24, which the server uses itself; expected an address outside it
    inet = "10.0.2.5/24"
           ^
a.toml:6:8: inic.vlan: found a string; expected a whole number without quotes
    vlan = "many"
           ^
a.toml:8:1: server.nmae: unknown key; did you mean server.name?
    nmae = *****
    ^
a.toml:10:13: secrets.root_hash: not a password hash; expected a password hash as made by openssl passwd -6, or * for no password
    root_hash = *******
                ^`)

	o.Answers = []byte("[install]\nunattended = true\n[disks]\nrule = \"largest-equal\"\n")
	_, err := Build(context.Background(), withOutput(o, t.TempDir()))
	for _, key := range []string{"server.name", "xnic.inet", "users.admin_keys"} {
		if line := "a.toml: " + key + ": no answer, and an unattended install asks nobody"; err == nil || !strings.Contains(err.Error(), line) {
			t.Errorf("%v lacks %q", err, line)
		}
	}
}

func withOutput(o Options, dir string) Options {
	o.Output = filepath.Join(dir, "rig.img")
	return o
}

func TestOutputErrors(t *testing.T) {
	dir := t.TempDir()
	o := options(t, dir)
	o.Riginstall = func(context.Context) (string, error) {
		t.Error("work was done")
		return "", errors.New("no")
	}
	o.Output = filepath.Join(dir, "no", "rig.img")
	failure(t, o, 2, fmt.Sprintf("write %s: there is no directory %s", o.Output, filepath.Dir(o.Output)))
	o.Output = dir
	failure(t, o, 2, fmt.Sprintf("write %s: it is a directory", dir))
	if got := files(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// demoSets writes sets to spoil.
func demoSets(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := sets.WriteDemoSets(dir, live.Programs()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSetErrors(t *testing.T) {
	read := func(dir, name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write := func(dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(dir string)
		want  string // DIR stands for the directory
	}{
		{"no directory", func(dir string) { os.RemoveAll(dir) }, "sets in DIR: open DIR/MANIFEST: no such file or directory"},
		{"no MANIFEST", func(dir string) { os.Remove(filepath.Join(dir, "MANIFEST")) }, "sets in DIR: open DIR/MANIFEST: no such file or directory"},
		{"missing set", func(dir string) { os.Remove(filepath.Join(dir, "kernel.txz")) }, "sets in DIR: open DIR/kernel.txz: no such file or directory"},
		{"absent from MANIFEST", func(dir string) {
			first, _, _ := strings.Cut(read(dir, "MANIFEST"), "\n")
			write(dir, "MANIFEST", first+"\n")
		}, "sets in DIR: kernel.txz is not in MANIFEST, which lists base.txz"},
		{"corrupt set", func(dir string) { write(dir, "base.txz", read(dir, "base.txz")+"x") },
			"sets in DIR: base.txz is corrupt: its sha256 is GOT, MANIFEST says WANT"},
		{"cut short", func(dir string) { write(dir, "base.txz", read(dir, "base.txz")[:1000]) },
			"sets in DIR: base.txz is corrupt: its sha256 is GOT, MANIFEST says WANT"},
		{"other version", func(string) {}, "my-rig asks for FreeBSD 15.1-RELEASE and the base system is 15.1-DEMO"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := demoSets(t)
			_, line, _ := strings.Cut(read(dir, "MANIFEST"), "\t")
			want, _, _ := strings.Cut(line, "\t")
			tt.spoil(dir)
			got := ""
			if _, err := os.Stat(filepath.Join(dir, "base.txz")); err == nil {
				got = sum(t, filepath.Join(dir, "base.txz"))
			}
			o := failing(t)
			o.Demo, o.Sets = false, dir
			failure(t, o, 2, strings.NewReplacer("DIR", dir, "GOT", got, "WANT", want).Replace(tt.want))
		})
	}
}

// A build that is stopped, in whatever phase, leaves no file and says why.
func TestCancel(t *testing.T) {
	for _, phase := range []string{"", "check base.txz", "layer host", "write image", "read back"} {
		t.Run(phase, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			o := failing(t)
			large(t, &o)
			o.Progress = func(what string, _, _ int64) {
				if strings.TrimSpace(what) == phase {
					cancel()
				}
			}
			if phase == "" {
				cancel()
			}
			dir := t.TempDir()
			o.Output = filepath.Join(dir, "rig.img")
			_, err := Build(ctx, o)
			if !errors.Is(err, context.Canceled) || diag.ExitCode(err) != 1 {
				t.Errorf("%v, exit status %d", err, diag.ExitCode(err))
			}
			if got := files(t, dir); got != "" {
				t.Errorf("left behind: %s", got)
			}
			o.Progress = nil
			if _, err := Build(context.Background(), o); err != nil { // nor anything half made in the cache
				t.Error(err)
			}
		})
	}
}

func TestRiginstallMissing(t *testing.T) {
	o := failing(t)
	o.Riginstall = func(context.Context) (string, error) { return "", errors.New("no riginstall") }
	failure(t, o, 1, "no riginstall")
	o.Riginstall = func(context.Context) (string, error) { return filepath.Join(o.Cache, "none"), nil }
	failure(t, o, 1, fmt.Sprintf("open %s/none: no such file or directory", o.Cache))
}
