package overlay

import (
	"fmt"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
)

// profileFile is the text of a file of the default profile, a template's as it is.
func profileFile(t *testing.T, root, name string) string {
	t.Helper()
	text, err := load(t, root).ReadFile(name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pick returns the first group of expr in a file, which must be there.
func pick(t *testing.T, root, name, expr string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)` + expr).FindStringSubmatch(profileFile(t, root, name))
	if m == nil {
		t.Fatalf("%s/%s has no %s", root, name, expr)
	}
	return m[1]
}

func hosts(text, name string) string {
	m := regexp.MustCompile(`(?m)^(\S+)\s+` + regexp.QuoteMeta(name) + `$`).FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return m[1]
}

// What is said in two places is the same in both.
func TestPlacesAgree(t *testing.T) {
	const host, pg, node, nginx = "host", "jails/pg_j", "jails/node_j", "jails/nginx_j"
	ifconfig := func(root, name string) string {
		return pick(t, root, "etc/rc.conf", `^ifconfig_`+name+`="inet ([0-9.]+)/24"`)
	}
	var (
		a, b       = server("a"), server("b")
		nodeA      = renderTree(t, node, a)["etc/hosts"]
		nodeB      = renderTree(t, node, b)["etc/hosts"]
		nginxHosts = renderTree(t, nginx, a)["etc/hosts"]
		hostHosts  = renderTree(t, host, a)["etc/hosts"]
		listen     = renderTree(t, pg, a)["usr/local/etc/postgresql/conf.d/20-listen.conf"]

		env        = "usr/local/etc/app/env"
		upstream   = pick(t, nginx, "usr/local/etc/nginx/nginx.conf", `^\t\tserver (\S+);`)
		appAddress = pick(t, node, env, `^HOST="(.*)"`) + ":" + pick(t, node, env, `^PORT="(.*)"`)
		database   = pick(t, node, env, `^PGDATABASE="(.*)"`)
		role       = pick(t, node, env, `^PGUSER="(.*)"`)
		pgPort     = pick(t, node, env, `^PGPORT="(.*)"`)
		init       = "usr/local/etc/rc.d/rig_pginit"
		hba        = "usr/local/etc/postgresql/pg_hba.conf"
		replicate  = "usr/local/sbin/rig-replicate"
		cable      = ifconfig(pg, "node_pg_b")
	)
	for _, c := range []struct{ what, got, want string }{
		{"nginx_j in pf.conf", pick(t, host, "etc/pf.conf", `^nginx_j\s+= "(.*)"`), ifconfig(nginx, "ngx_b")},
		{"node_j in pf.conf", pick(t, host, "etc/pf.conf", `^node_j\s+= "(.*)"`), ifconfig(node, "node_b")},
		{"pg_j in pf.conf", pick(t, host, "etc/pf.conf", `^pg_j\s+= "(.*)"`), ifconfig(pg, "pg_b")},
		{"nginx_j in the host's hosts", hosts(hostHosts, "riga-rp"), ifconfig(nginx, "ngx_b")},
		{"node_j in the host's hosts", hosts(hostHosts, "riga-app"), ifconfig(node, "node_b")},
		{"pg_j in the host's hosts", hosts(hostHosts, "riga-db"), ifconfig(pg, "pg_b")},

		{"upstream of nginx", upstream, ifconfig(node, "ngx_node_b") + ":3000"},
		{"where the application listens", appAddress, upstream},
		{"app.l.lan", hosts(nginxHosts, "app.l.lan"), ifconfig(node, "ngx_node_b")},

		{"db.l.lan on the primary", hosts(nodeA, "db.l.lan"), cable},
		{"db.l.lan on the replica", hosts(nodeB, "db.l.lan"), "192.168.56.31"},
		{"database name of the application", pick(t, node, env, `^PGHOST="(.*)"`), "db.l.lan"},
		{"rig-dbrole primary", pick(t, node, "usr/local/sbin/rig-dbrole", `^primary\)\s+addr="(.*)"`), cable},
		{"N2P of the application", pick(t, node, "etc/rc.conf", `N2P_source="(.*)"`), "[`/bin/cat /etc/ip_inode_b`]:" + pgPort},
		{"N2P between the servers", strings.TrimPrefix(pick(t, node, "etc/rc.conf", `N2P_target="(.*)"`), "[`/bin/cat /etc/ip_peer_ipg_b`]"),
			strings.TrimPrefix(pick(t, pg, "etc/rc.conf", `N2P_source="(.*)"`), "[`/bin/cat /etc/ip_ipg_b`]")},
		{"PGC to PGS", strings.TrimPrefix(pick(t, pg, "etc/rc.conf", `PGC_target="(.*)"`), "[`/bin/cat /etc/ip_peer_ipg_b`]"),
			strings.TrimPrefix(pick(t, pg, "etc/rc.conf", `PGS_source="(.*)"`), "[`/bin/cat /etc/ip_ipg_b`]")},
		{"N2P to PostgreSQL", pick(t, pg, "etc/rc.conf", `N2P_target=".*\]:(\d+)"`), pgPort},
		{"PGS to PostgreSQL", pick(t, pg, "etc/rc.conf", `PGS_target=".*\]:(\d+)"`), pgPort},
		{"port of rig-replicate", pick(t, pg, replicate, `^port=(\d+)`), pick(t, pg, "etc/rc.conf", `PGC_source=".*\]:(\d+)"`)},
		{"port of rig-dbrole", pick(t, pg, "usr/local/sbin/rig-dbrole", ` -p (\d+) `), pick(t, pg, "etc/rc.conf", `PGC_source=".*\]:(\d+)"`)},
		{"listen_addresses", pick2(listen, `listen_addresses = '127.0.0.1, (.*)'`), cable + ", 192.168.56.40"},
		{"node_j in pg_hba.conf", pick(t, pg, hba, `^host\s+\S+\s+\S+\s+([0-9./]+)\s`), ifconfig(node, "node_pg_a") + "/32"},
		{"database in pg_hba.conf", pick(t, pg, hba, `^host\s+(\S+)\s+\S+\s+samehost`), database},
		{"database of rig_pginit", pick(t, pg, init, `CREATE DATABASE (\w+)`), database},
		{"its owner", pick(t, pg, init, `CREATE DATABASE \w+ OWNER (\w+)`), role},
		{"role in pg_hba.conf", pick(t, pg, hba, `^host\s+`+database+`\s+(\S+)\s+samehost`), role},
		{"role of the replica", pick(t, pg, hba, `^host\s+replication\s+(\S+)`), pick(t, pg, replicate, ` -U (\w+)`)},
		{"it is made", pick(t, pg, init, `CREATE ROLE (\w+) LOGIN REPLICATION`), pick(t, pg, replicate, ` -U (\w+)`)},
		{"role of backups", pick(t, pg, init, `CREATE ROLE (\w+) LOGIN IN ROLE`), pick(t, pg, hba, `^local\s+`+database+`\s+(\S+)`)},
		{"pg_hba.conf", pick(t, pg, "usr/local/etc/postgresql/conf.d/10-rig.conf", `^hba_file = '/(.*)'`), hba},
		{"data directory's dataset", path.Dir(pick(t, pg, "etc/rc.conf", `^postgresql_data="(.*?)"`)), "/var/db/postgres"},
		{"directory of passwords", pick(t, pg, init, `_dir="/(.*)"`), path.Dir(hba)},
		{"log of PostgreSQL", pick(t, pg, "usr/local/etc/newsyslog.conf.d/postgresql.conf", `^(/var/log/\S+)`),
			pick(t, pg, "usr/local/etc/syslog.d/postgresql.conf", `(/var/log/\S+)`)},
		{"its name in syslog", pick(t, pg, "usr/local/etc/syslog.d/postgresql.conf", `^!(\w+)`),
			pick(t, pg, "usr/local/etc/postgresql/conf.d/10-rig.conf", `^syslog_ident = '(.*)'`)},

		{"certificate", path.Dir(pick(t, nginx, "usr/local/etc/nginx/nginx.conf", `ssl_certificate (\S+);`)),
			pick(t, nginx, "usr/local/etc/rc.d/rig_cert", `_dir="(.*)"`)},
		{"pid file of nginx", pick(t, nginx, "usr/local/etc/newsyslog.conf.d/nginx.conf", `(/var/run/\S+)`),
			pick(t, nginx, "usr/local/etc/nginx/nginx.conf", `^pid (.*);`)},
		{"log of nginx", pick(t, nginx, "usr/local/etc/newsyslog.conf.d/nginx.conf", `^(/var/log/.*)/\*`),
			path.Dir(pick(t, nginx, "usr/local/etc/nginx/nginx.conf", `access_log (\S+)`))},
		{"pid file of the application", pick(t, node, "usr/local/etc/newsyslog.conf.d/app.conf", `(/var/run/\S+)`),
			pick(t, node, "usr/local/etc/rc.d/app", `^pidfile="(.*)"`)},
		{"log of the application", pick(t, node, "usr/local/etc/newsyslog.conf.d/app.conf", `^(/var/log/\S+)`),
			pick(t, node, "usr/local/etc/rc.d/app", ` -o (\S+)`)},
		{"environment of the application", pick(t, node, "usr/local/etc/rc.d/app", `app_env_file:="/(.*)"`), env},
		{"tunnel script", profileFile(t, node, "usr/local/etc/rc.d/rig_tunnels"), profileFile(t, pg, "usr/local/etc/rc.d/rig_tunnels")},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, elsewhere %s", c.what, c.got, c.want)
		}
	}
}

func pick2(text, expr string) string {
	if m := regexp.MustCompile(expr).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// The directories that services and deployments write to exist, and are whose they
// must be; secrets are nobody else's.
func TestOwners(t *testing.T) {
	for _, c := range []struct {
		root, path, owner, group string
		perm                     uint16
	}{
		{"jails/nginx_j", "usr/local/etc/nginx/tls", "deployer", "deployer", 0o700},
		{"jails/nginx_j", "usr/local/www/site", "deployer", "deployer", 0o755},
		{"jails/nginx_j", "usr/local/etc/doas.conf", "root", "wheel", 0o600},
		{"jails/nginx_j", "var/log/nginx", "root", "deployer", 0o750},
		{"jails/node_j", "usr/local/app", "deployer", "deployer", 0o755},
		{"jails/node_j", "usr/local/etc/app/secrets", "deployer", "node", 0o750},
		{"jails/node_j", "usr/local/etc/app/db.pass.tmpl", "root", "wheel", 0o600},
		{"jails/node_j", "usr/local/etc/app/env", "root", "wheel", 0o644},
		{"jails/node_j", "usr/local/etc/doas.conf", "root", "wheel", 0o600},
		{"jails/node_j", "etc/spiped.key.tmpl", "root", "wheel", 0o600},
		{"jails/pg_j", "etc/spiped.key.tmpl", "root", "wheel", 0o600},
		{"jails/pg_j", "usr/local/etc/postgresql/app.pass.tmpl", "root", "wheel", 0o600},
		{"jails/pg_j", "usr/local/etc/postgresql/replicator.pass.tmpl", "root", "wheel", 0o600},
		{"jails/pg_j", "usr/local/etc/postgresql/pg_hba.conf", "root", "wheel", 0o644},
	} {
		e, ok := load(t, c.root).Lookup(c.path)
		if !ok {
			t.Errorf("%s/%s is not there", c.root, c.path)
			continue
		}
		if e.Owner != c.owner || e.Group != c.group || e.Perm != c.perm {
			t.Errorf("%s/%s is %s:%s %o, want %s:%s %o", c.root, c.path, e.Owner, e.Group, e.Perm, c.owner, c.group, c.perm)
		}
	}
}

// Every template that reveals a secret is for its owner alone.
func TestSecretsAreClosed(t *testing.T) {
	for _, root := range roots {
		tr := load(t, root)
		for _, p := range Templates(tr) {
			text, _ := tr.ReadFile(p, 1<<20)
			if e, _ := tr.Lookup(p); strings.Contains(string(text), ".secrets.") && e.Perm&0o077 != 0 {
				t.Errorf("%s/%s: mode %o", root, p, e.Perm)
			}
		}
	}
}

func isScript(e *tree.Entry, text []byte) bool {
	return e.Kind == tree.File && strings.HasPrefix(string(text), "#!/bin/sh\n")
}

// Every script parses and may be executed; every rc script says what it provides,
// and is enabled or harmless.
func TestScripts(t *testing.T) {
	found := 0
	for _, root := range roots {
		tr := load(t, root)
		rcconf := profileFile(t, root, "etc/rc.conf")
		for e := range tr.All() {
			if e.Kind != tree.File {
				continue
			}
			text, err := tr.ReadFile(e.Path, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			name := root + "/" + e.Path
			isRC := path.Base(path.Dir(e.Path)) == "rc.d"
			if e.Path == "etc/rc.conf" || e.Path == "usr/local/etc/app/env" {
				shParses(t, name, text)
			}
			if !isScript(e, text) {
				if isRC || e.Perm&0o111 != 0 {
					t.Errorf("%s does not begin with #!/bin/sh", name)
				}
				continue
			}
			found++
			if e.Perm != 0o555 {
				t.Errorf("%s: mode %o, want 555", name, e.Perm)
			}
			shParses(t, name, text)
			if !isRC {
				continue
			}
			if service := path.Base(e.Path); !strings.Contains(string(text), "# PROVIDE: "+service+"\n") ||
				!strings.Contains(string(text), `rcvar="`+service+`_enable"`) {
				t.Errorf("%s does not provide %s, or has another rcvar", name, service)
			} else if !strings.Contains(rcconf, "\n"+service+"_enable=\"YES\"") {
				t.Errorf("%s: rc.conf does not enable it", name)
			}
		}
	}
	if found < 12 {
		t.Errorf("only %d scripts found", found)
	}
}

func shParses(t *testing.T, name string, text []byte) {
	t.Helper()
	cmd := exec.Command("sh", "-n")
	cmd.Stdin = strings.NewReader(string(text))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", name, err, out)
	}
}

// doas.conf lets deployer handle the service of its jail and nothing else.
func TestDoas(t *testing.T) {
	for root, service := range map[string]string{"jails/nginx_j": "nginx", "jails/node_j": "app"} {
		var verbs []string
		for line := range strings.Lines(profileFile(t, root, "usr/local/etc/doas.conf")) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			verb, ok := strings.CutPrefix(strings.TrimSpace(line), fmt.Sprintf("permit nopass deployer as root cmd service args %s ", service))
			if !ok {
				t.Errorf("%s: %s", root, line)
			}
			verbs = append(verbs, verb)
		}
		if !slices.Contains(verbs, "restart") {
			t.Errorf("%s: deployer may not restart %s", root, service)
		}
	}
}
