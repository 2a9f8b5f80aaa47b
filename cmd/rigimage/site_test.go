package main

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/overlay/answers"
	"golang.org/x/crypto/ssh"
)

// What is sealed to an administrator's SSH key opens with its private half, keys
// of kinds that age does not know beside it or not.
func TestSeal(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " ann@laptop"
	sealed, err := sealTo("users.admin_keys", []string{"sk-ssh-ed25519@openssh.com AAAA x", line}, "rega: root password: x\n")
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := agessh.ParseIdentity(pem.EncodeToMemory(block))
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(string(sealed))), id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "rega: root password: x\n" {
		t.Errorf("opened %q, %v", got, err)
	}
}

func TestPasswordOf(t *testing.T) {
	cfg := &image.Config{
		Host:  image.RootConfig{Users: []image.UserConfig{{Name: "root", PasswordHash: "secrets.root_hash"}, {Name: "admin"}}},
		Jails: []image.RootConfig{{Users: []image.UserConfig{{Name: "root", PasswordHash: "secrets.root_hash"}, {Name: "ops", PasswordHash: "secrets.ops"}}}},
	}
	for key, want := range map[string]string{
		"secrets.root_hash": "root password", "secrets.ops": "ops password", "secrets.other": "password for secrets.other",
	} {
		if got := passwordOf(cfg, key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

// A file is replaced whole, by one that its owner alone may read, or not at all.
func TestWritePrivate(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x.toml")
	if err := os.WriteFile(name, []byte("old and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writePrivate(name, []byte("new")); err != nil {
		t.Fatal(err)
	}
	got, err := readPrivate(name)
	if err != nil || string(got) != "new" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := writePrivate(filepath.Join(name, "below"), nil); err == nil {
		t.Error("a file became a directory")
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writePrivate(filepath.Join(dir, "d"), nil); err == nil {
		t.Error("a directory was replaced")
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}

func TestNthAddress(t *testing.T) {
	for _, tt := range []struct {
		net      string
		n        uint32
		ip, cidr string
	}{
		{"192.168.56.0/24", 110, "192.168.56.110", "192.168.56.110/24"},
		{"10.8.0.0/16", 30, "10.8.0.30", "10.8.0.30/16"},
		{"10.8.0.128/25", 30, "10.8.0.158", "10.8.0.158/25"},
		{"10.8.0.0/28", 30, "", ""},
	} {
		p := netip.MustParsePrefix(tt.net)
		if ip, cidr := nthAddress(p, tt.n, answers.IP), nthAddress(p, tt.n, answers.CIDR); fmt.Sprint(ip, cidr) != fmt.Sprint(tt.ip, tt.cidr) {
			t.Errorf("%s: %s and %s", tt.net, ip, cidr)
		}
	}
}
