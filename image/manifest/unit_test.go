package manifest

import (
	"testing"

	"github.com/rig-freebsd/rig/zfs"
)

func TestPoolName(t *testing.T) {
	const uuid = "9b2e1f00-1111-4222-8333-444455556666"
	for _, tt := range []struct{ pattern, want string }{{"zroot-{id}", "zroot-9b2e1f00"}, {"tank", "tank"}, {"a{id}.b", "a9b2e1f00.b"}} {
		m := &Manifest{Pool: zfs.Pool{Name: tt.pattern}}
		if got := m.PoolName(uuid); got != tt.want || !m.NamesPool(got) {
			t.Errorf("%s: %s, and it is ours: %v", tt.pattern, got, m.NamesPool(got))
		}
	}
	m := &Manifest{Pool: zfs.Pool{Name: "zroot-{id}"}}
	for _, other := range []string{"", "zroot", "zroot-", "zroot-9b2e1f0", "zroot-9B2E1F00", "zroot-9b2e1f001", "tank-9b2e1f00"} {
		if m.NamesPool(other) {
			t.Errorf("%q is taken for one of ours", other)
		}
	}
}

func TestUnit(t *testing.T) {
	u := Unit{"zroot-9b2e1f00", "webrig-15.1-1a2b3c4d5e6f"}
	for got, want := range map[string]string{
		u.Root(): "zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f", u.Jail("pg_j"): "zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails/pg_j",
		u.Base("img"): "zroot-9b2e1f00/rig/base/img",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got, ok := ParseUnit(u.Root()); !ok || got != u {
		t.Errorf("%v %v", got, ok)
	}
	for _, other := range []string{"", "-", "zroot", "zroot/ROOT", "zroot/ROOT/", "/ROOT/a", "zroot/ROOT/a/jails", "zroot/home"} {
		if got, ok := ParseUnit(other); ok {
			t.Errorf("%q is taken for the root of unit %v", other, got)
		}
	}
}

func TestKeeps(t *testing.T) {
	keep := []string{"/usr/local/etc/nginx/tls", "/etc/ips_*"}
	for p, want := range map[string]bool{
		"usr/local/etc/nginx/tls": true, "usr/local/etc/nginx/tls/a/b": true, "usr/local/etc/nginx/tls2": false, "usr/local/etc/nginx": false,
		"etc/ips_blocklist": true, "etc/ips_": true, "etc/ip_x": false, "etc/ips_x/y": true, "jails/etc/ips_x": false,
		"etc/hostid": true, "etc/ssh/ssh_host_ed25519_key": true, "etc/ssh/sshd_config": false, "var/db/rig/answers.toml": true, "var/db/rigs": false,
	} {
		if got := Keeps(keep, p); got != want {
			t.Errorf("%s: %v", p, got)
		}
	}
}
