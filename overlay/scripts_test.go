package overlay

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/referee"
)

// sandbox is a directory that scripts of the profile take for the root: their
// absolute paths are moved into it, and programs in it come first.
type sandbox struct {
	t   *testing.T
	dir string
}

const calls = "calls" // what the programs of a sandbox were called with

func newSandbox(t *testing.T, root, letter string) *sandbox {
	t.Helper()
	s := &sandbox{t, t.TempDir()}
	tr := load(t, root)
	for e := range tr.All() {
		if e.Kind == tree.Dir {
			if err := os.MkdirAll(filepath.Join(s.dir, e.Path), 0o755); err != nil {
				t.Fatal(err)
			}
		} else if !strings.HasSuffix(e.Path, Suffix) {
			text, err := tr.ReadFile(e.Path, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			s.write(e.Path, string(text))
		}
	}
	for name, text := range renderTree(t, root, server(letter)) {
		s.write(name, text)
	}
	s.write("etc/rc.subr", "load_rc_config() { . /etc/rc.conf; }\nwarn() { echo \"$*\" >&2; }\nrun_rc_command() { ${name}_$1; }\n")
	s.program("su", `while [ "$1" != "-c" ]; do shift; done; echo "$2" >>/calls; exec sh -c "$2"`)
	s.program("chown", "")
	s.program("service", `echo "service $*" >>/calls`)
	return s
}

var absolute = regexp.MustCompile(`(^|[^\w.$/}*])/(etc|usr/local|usr/bin/su|var|calls)\b`)

// write puts a file into the sandbox, with its paths moved there.
func (s *sandbox) write(name, text string) {
	s.t.Helper()
	text = absolute.ReplaceAllString(text, "${1}"+s.dir+"/$2")
	text = strings.ReplaceAll(text, "PATH=/sbin:", "PATH="+s.dir+"/usr/local/bin:/sbin:")
	file := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sandbox) program(name, body string) {
	s.write("usr/local/bin/"+name, "#!/bin/sh\n"+body+"\n")
	if name == "su" {
		s.write("usr/bin/su", "#!/bin/sh\n"+body+"\n")
	}
}

// run runs a script and returns what it said, with its exit status at the end of
// the line when that is not 0.
func (s *sandbox) run(script string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command("sh", append([]string{filepath.Join(s.dir, script)}, args...)...)
	cmd.Env = []string{"PATH=" + s.dir + "/usr/local/bin:" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	text := strings.ReplaceAll(strings.TrimSpace(string(out)), s.dir, "")
	if err != nil {
		text = strings.TrimSpace(text + " (" + err.Error() + ")")
	}
	return text
}

func (s *sandbox) read(name string) string {
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(string(text), s.dir, "")
}

func (s *sandbox) want(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

// closed checks that a file is its owner's alone.
func (s *sandbox) closed(name string) {
	s.t.Helper()
	st, err := os.Stat(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Error(err)
	} else if st.Mode().Perm() != 0o600 {
		s.t.Errorf("%s: mode %v", name, st.Mode())
	}
}

func TestRigReplicate(t *testing.T) {
	const script = "usr/local/sbin/rig-replicate"
	s := newSandbox(t, "jails/pg_j", "a")
	s.want("on the primary", s.run(script),
		"rig-replicate: this server is the primary, the other one copies from it. To change that: rig-dbrole, on the host (exit status 1)")

	s = newSandbox(t, "jails/pg_j", "b")
	s.want("usage", s.run(script, "-f"), "rig-replicate: usage: rig-replicate [--force] (exit status 2)")
	s.want("without the package", s.run(script), "rig-replicate: package postgresql-server is not installed (exit status 1)")

	s.program("pg_basebackup", `while [ "$1" != "-D" ]; do shift; done; mkdir -p "$2" && echo 17 >"$2/PG_VERSION"`)
	s.program("psql", "echo streaming")
	const follows = "This server is a replica now, and follows the primary server."
	s.want("the first time", s.run(script), "Copying the database of the primary server.\n"+follows)
	s.want("data", s.read("var/db/postgres/data/PG_VERSION"), "17\n")
	s.want("password file", s.read("var/db/postgres/.pgpass"), `*:*:*:replicator:it's\:the\\replica's`+"\n")
	s.closed("var/db/postgres/.pgpass")
	log := s.read(calls)
	if !strings.Contains(log, "/usr/local/bin/pg_basebackup -w -h 192.168.56.41 -p 5435 -U replicator -X stream -c fast -R -D /var/db/postgres/data.new\n") {
		t.Errorf("called:\n%s", log)
	}
	if strings.Contains(log, "replica's") {
		t.Errorf("the password is in a command line:\n%s", log)
	}

	s.want("the second time", s.run(script), "rig-replicate: /var/db/postgres/data is not empty; --force moves it aside (exit status 1)")
	s.program("pg_basebackup", "exit 1")
	s.write("var/db/postgres/data/old", "old\n")
	s.want("a copy that fails", s.run(script, "--force"), "Copying the database of the primary server.\n"+
		"rig-replicate: no copy. Do the tunnels run, here and there (service spiped status), and is the password the same? (exit status 1)")
	s.want("the old data", s.read("var/db/postgres/data/old"), "old\n")

	s.program("pg_basebackup", `while [ "$1" != "-D" ]; do shift; done; mkdir -p "$2" && echo 18 >"$2/PG_VERSION"`)
	out := s.run(script, "--force")
	m := regexp.MustCompile(`^Copying the database of the primary server\.
The old data is in /(var/db/postgres/data\.old-\d{14}); delete it when it is not needed any more\.
` + regexp.QuoteMeta(follows) + `$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("with --force:\n%s", out)
	}
	s.want("the new data", s.read("var/db/postgres/data/PG_VERSION"), "18\n")
	s.want("the old data, aside", s.read(m[1]+"/old"), "old\n")
}

func TestRigDbrole(t *testing.T) {
	const script = "usr/local/sbin/rig-dbrole"
	s := newSandbox(t, "jails/pg_j", "b")
	s.program("pg_isready", "exit 0")
	s.program("pg_ctl", "")
	s.want("usage", s.run(script), "rig-dbrole: usage: rig-dbrole primary [--force] | replica (exit status 2)")
	s.want("no replica", s.run(script, "primary"), "rig-dbrole: the database in /var/db/postgres/data is no replica (exit status 1)")
	s.write("var/db/postgres/data/standby.signal", "")
	s.want("two primaries", s.run(script, "primary"), "rig-dbrole: the other server's database still answers. Stop it first "+
		"(there, on the host: jexec -l pg_j service postgresql stop), or say --force (exit status 1)")
	s.want("role", s.read("etc/dbrole"), "replica\n")
	s.program("pg_isready", "exit 2")
	s.want("promoted", s.run(script, "primary"), "pg_j: the database of this server is the primary one.")
	s.want("role", s.read("etc/dbrole"), "primary\n")
	s.want("called", s.read(calls), "/usr/local/bin/pg_ctl promote -w -D /var/db/postgres/data\n")

	s = newSandbox(t, "jails/node_j", "b")
	before := s.read("etc/hosts")
	s.want("usage", s.run(script, "x"), "usage: rig-dbrole primary | replica (exit status 2)")
	s.want("primary", s.run(script, "primary"), "node_j: the database is at 10.0.4.40.")
	s.want("hosts", s.read("etc/hosts"), strings.Replace(before, "192.168.56.31\tdb", "10.0.4.40\tdb", 1))
	s.want("role", s.read("etc/dbrole"), "primary\n")
	s.want("the application", s.read(calls), "service app status\nservice app restart\n")
	s.want("replica", s.run(script, "replica"), "node_j: the database is at 192.168.56.31.")
	s.want("hosts", s.read("etc/hosts"), before)

	s = newSandbox(t, "host", "a")
	s.program("jexec", `echo "jexec $*" >>/calls`)
	for arg, want := range map[string]string{
		"primary": "jexec -l pg_j /usr/local/sbin/rig-dbrole primary\njexec -l node_j /usr/local/sbin/rig-dbrole primary\n",
		"replica": "jexec -l node_j /usr/local/sbin/rig-dbrole replica\njexec -l pg_j /usr/local/sbin/rig-dbrole replica\n",
	} {
		s.write(calls, "")
		s.want(arg, s.run(script, arg), "")
		s.want(arg+" calls", s.read(calls), want)
	}
	s.program("jexec", `echo "jexec $*" >>/calls; exit 1`)
	s.write(calls, "")
	s.want("refused", s.run(script, "primary"), "(exit status 1)")
	s.want("refused calls", s.read(calls), "jexec -l pg_j /usr/local/sbin/rig-dbrole primary\n")
}

func TestRigPginit(t *testing.T) {
	const script = "usr/local/etc/rc.d/rig_pginit"
	initdb := `while [ "$1" != "-D" ]; do shift; done; mkdir -p "$2" && echo 17 >"$2/PG_VERSION"`
	s := newSandbox(t, "jails/pg_j", "a")
	s.want("without the package", s.run(script, "start"), "")
	s.program("initdb", initdb)
	s.program("postgres", "cat >>/calls")
	s.write("var/db/postgres/data/something", "")
	s.want("something else is there", s.run(script, "start"), "/var/db/postgres/data holds something that is no database; nothing was made (exit status 1)")
	if err := os.RemoveAll(filepath.Join(s.dir, "var/db/postgres/data")); err != nil {
		t.Fatal(err)
	}
	s.write(calls, "")
	s.want("the first time", s.run(script, "start"), "Making the database in /var/db/postgres/data.")
	s.want("settings", s.read("var/db/postgres/data/postgresql.conf"), "include_dir = '/usr/local/etc/postgresql/conf.d'\n")
	s.want("called", s.read(calls), `/usr/local/bin/initdb --encoding=utf-8 --lc-collate=C --auth=reject -D /var/db/postgres/data.new
/usr/local/bin/postgres --single -c exit_on_error=on -D /var/db/postgres/data.new postgres
CREATE ROLE appserver LOGIN PASSWORD 'it''s:app\password';
CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'it''s:the\replica''s';
CREATE ROLE deployer LOGIN IN ROLE pg_read_all_data;
CREATE DATABASE app OWNER appserver;
`)
	s.write(calls, "")
	s.want("the second time", s.run(script, "start"), "")
	s.want("called", s.read(calls), "")

	s = newSandbox(t, "jails/pg_j", "a")
	s.program("initdb", initdb)
	s.program("postgres", "cat >/dev/null; exit 1")
	s.want("roles that fail", s.run(script, "start"),
		"Making the database in /var/db/postgres/data.\ncannot make the database; what there is of it is in /var/db/postgres/data.new (exit status 1)")
	if _, err := os.Stat(filepath.Join(s.dir, "var/db/postgres/data")); err == nil {
		t.Error("a half-made database is in its place")
	}

	s = newSandbox(t, "jails/pg_j", "b")
	s.program("initdb", initdb)
	s.want("on the replica", s.run(script, "start"), "No data in /var/db/postgres/data yet. On the host: jexec -l pg_j rig-replicate")
}

func TestRigTunnels(t *testing.T) {
	for root, want := range map[string]string{
		"jails/pg_j":   "database faststop\npkill -KILL -F /var/run/spiped_N2P.pid spiped\npkill -KILL -F /var/run/spiped_PGC.pid spiped\n",
		"jails/node_j": "pkill -KILL -F /var/run/spiped_N2P.pid spiped\n",
	} {
		s := newSandbox(t, root, "a")
		s.program("pkill", `echo "pkill $*" >>/calls`)
		if root == "jails/pg_j" {
			s.write("usr/local/etc/rc.d/postgresql", "#!/bin/sh\necho database $* >>/calls\n")
		}
		s.write("var/run/spiped_N2P.pid", "1\n")
		s.write("var/run/spiped_PGS.pid", "")
		s.write("var/run/spiped_PGC.pid", "3\n")
		s.want(root, s.run("usr/local/etc/rc.d/rig_tunnels", "stop"), "")
		s.want(root+" calls", s.read(calls), want)
	}
}

func TestRigCert(t *testing.T) {
	if openssl := referee.Need(t, "openssl"); openssl != "/usr/bin/openssl" {
		t.Skipf("openssl is %s, not where FreeBSD has it", openssl)
	}
	const script, tls = "usr/local/etc/rc.d/rig_cert", "usr/local/etc/nginx/tls/"
	s := newSandbox(t, "jails/nginx_j", "a")
	s.want("the first start", s.run(script, "start"), "Made a self-signed certificate for riga.example.lan.")
	for _, name := range []string{"server.key", "server.crt"} {
		s.closed(tls + name)
	}
	block, _ := pem.Decode([]byte(s.read(tls + "server.crt")))
	if block == nil {
		t.Fatal("no PEM in server.crt")
	}
	crt, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if crt.Subject.String() != "CN=riga.example.lan" || crt.VerifyHostname("riga.example.lan") != nil || crt.IsCA {
		t.Errorf("subject %s, names %v, CA %v", crt.Subject, crt.DNSNames, crt.IsCA)
	}
	first := s.read(tls+"server.crt") + s.read(tls+"server.key")
	s.want("the second start", s.run(script, "start"), "")
	s.want("the same pair", s.read(tls+"server.crt")+s.read(tls+"server.key"), first)

	if err := os.Remove(filepath.Join(s.dir, tls, "server.key")); err != nil {
		t.Fatal(err)
	}
	s.want("half a pair", s.run(script, "start"), "/usr/local/etc/nginx/tls/server.crt has no server.key: deploy both (exit status 1)")
}
