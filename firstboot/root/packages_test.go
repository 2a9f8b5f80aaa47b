package root

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
)

func TestPackagesVerb(t *testing.T) {
	const inJail = "/rig/rig/pkg-static -c /mnt/jails/pg_j -o REPOS_DIR=/media/repos -o ASSUME_ALWAYS_YES=yes " +
		"-o IGNORE_OSVERSION=yes -o SYSLOG=no install -r rig spiped 2>&1"
	const empty = "/rig/rig/pkg-static -r /mnt -o REPOS_DIR=/rig/rig/pkgs/repos-base -o ASSUME_ALWAYS_YES=yes " +
		"-o IGNORE_OSVERSION=yes -o SYSLOG=no install -r rig FreeBSD-set-base 2>&1"
	for _, c := range []struct {
		verb   []string
		argv   string
		output string
		status int
		want   string
	}{
		{[]string{"packages", "/mnt/jails/pg_j", "spiped"}, inJail, "[1/1] Extracting spiped-1.6.4: done\n", 0, ""},
		{[]string{"base-packages", "/mnt", "FreeBSD-set-base"}, empty, "", 0, ""},
		// pkg goes on after such a script, and exits with 0.
		{[]string{"packages", "/mnt/jails/pg_j", "spiped"}, inJail, "the key is missing\npkg-static: POST-INSTALL script failed\n", 0,
			"install spiped in /mnt/jails/pg_j: pkg-static: POST-INSTALL script failed; pkg says:\nthe key is missing\npkg-static: POST-INSTALL script failed"},
		{[]string{"packages", "/mnt/jails/pg_j", "spiped"}, inJail, "pkg-static: no space left\n", 70,
			"install spiped in /mnt/jails/pg_j: exit status 70; pkg says:\npkg-static: no space left"},
	} {
		var log bytes.Buffer
		m := System{Logf: func(format string, a ...any) { fmt.Fprintf(&log, format+"\n", a...) }, Run: run.NewScript(t, run.Expect{Line: run.Quote([]string{"sh", "-c", c.argv}), Stdout: c.output, Status: c.status})}
		install := m.Packages
		if c.verb[0] == "base-packages" {
			install = m.BasePackages
		}
		err := install(t.Context(), c.verb[1], c.verb[2:])
		if c.want == "" {
			if err != nil {
				t.Errorf("%v: %v", c.verb, err)
			}
		} else if err == nil || !strings.HasSuffix(err.Error(), c.want) || !strings.Contains(diag.HintOf(err), "leave out the package") {
			t.Errorf("%v: %v (%s)\nwant %s", c.verb, err, diag.HintOf(err), c.want)
		}
		if !strings.Contains(log.String(), strings.TrimSpace(c.output)) {
			t.Errorf("%v: the log lacks what pkg said: %s", c.verb, log.String())
		}
	}
}

func TestLockAccounts(t *testing.T) {
	root := t.TempDir()
	name := filepath.Join(root, "mnt/etc/master.passwd")
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte("root::0:0::0:0:Charlie &:/root:/bin/sh\ndaemon:*:1:1::0:0::/:/x\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := (System{Root: root}).LockAccounts("/mnt"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(name); string(got) != "root:*:0:0::0:0:Charlie &:/root:/bin/sh\ndaemon:*:1:1::0:0::/:/x\n" {
		t.Errorf("master.passwd is %s", got)
	}
}
