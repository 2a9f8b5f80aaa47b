package vmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
)

// unitLimit is what bectl(8) may need for one thing: it takes about a second. Jails that
// are clones of one snapshot make it go on for ever.
const unitLimit = 30 * time.Second

// TestUnit: bectl creates, mounts, activates, boots and destroys host and jails as one,
// and what is changed in a jail goes back with the host.
func TestUnit(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	note := Record(t, "bectl create -r, mount, activate, boot, back, destroy -o of host and jails", "BIOS")
	d := anyInstalled(t)
	v := boot(t, d, vm.BIOS)
	waitJails(v)
	old := strings.TrimSpace(v.Must("zfs list -Ho name / | sed 's,.*/,,'"))
	pool := poolName(v)
	if out := v.Must("bectl list -H"); !regexp.MustCompile(regexp.QuoteMeta(old) + `\s+NR\s`).MatchString(out) {
		t.Errorf("bectl list:\n%s", out)
	}
	v.Must("echo old >/jails/pg_j/root/state; echo row >/jails/pg_j/var/db/postgres/row; sync")

	var times []string
	timed := func(what, command string) {
		t.Helper()
		begin := time.Now()
		v.Session.Limit = unitLimit
		v.Must(command)
		v.Session.Limit = 0
		times = append(times, fmt.Sprintf("%s %.1f s", what, time.Since(begin).Seconds()))
	}
	timed("create -r", "bectl create -r next")
	for _, j := range []string{"", "/pg_j", "/node_j", "/nginx_j"} {
		v.Must("zfs list -Ho name " + pool + "/ROOT/next/jails" + j)
	}
	timed("mount", "bectl mount next /media && test -f /media/jails/pg_j/etc/rc.conf && echo next >/media/jails/pg_j/root/state && bectl umount next")
	timed("activate", "bectl activate next")
	shutdown(v, "-p", "guest-shutdown")
	sameBootFiles(t, d)

	v = boot(t, d, vm.UEFI, 3)
	waitJails(v)
	if out := v.Must("zfs list -Ho name /; mount -p | grep -c '/ROOT/next/jails/'; cat /jails/pg_j/root/state /jails/pg_j/var/db/postgres/row"); strings.Join(strings.Fields(out), " ") != pool+"/ROOT/next 3 next row" {
		t.Errorf("after activate: %s", out)
	}
	checkJails(t, v)
	v.Must("echo more >>/jails/pg_j/var/db/postgres/row; sync")
	timed("back", "bectl activate "+old)
	shutdown(v, "-p", "guest-shutdown")

	v = boot(t, d, vm.BIOS, 2)
	waitJails(v)
	// The jail went back with its host; its data, in no unit, did not.
	if out := v.Must("zfs list -Ho name /; cat /jails/pg_j/root/state /jails/pg_j/var/db/postgres/row"); strings.Join(strings.Fields(out), " ") != pool+"/ROOT/"+old+" old row more" {
		t.Errorf("after going back: %s", out)
	}
	timed("destroy -o", "bectl destroy -o next")
	checkServer(t, v)

	// An environment without jails: verify warns, bootsync does not follow.
	v.Must("bectl create plain")
	if out, _ := v.Run("riginstall verify"); !strings.Contains(out, "without the roots of pg_j, node_j, nginx_j") {
		t.Errorf("verify does not warn of an environment without jails:\n%s", out)
	}
	v.Must("bectl activate plain")
	if out, status := v.Run("riginstall bootsync"); status != 1 || !strings.Contains(out, "plain is without the roots of pg_j, node_j, nginx_j") || !strings.Contains(out, "bectl create -r NAME") {
		t.Errorf("bootsync: %d\n%s", status, out)
	}
	v.Must("bectl activate " + old + " && bectl destroy -o plain && riginstall bootsync")
	*note = strings.Join(times, ", ")
}

// TestForeignPool is a trial: which pool does the kernel mount its root from when a disk
// of another server is there? With a name of its own, this server's.
func TestForeignPool(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	note := Record(t, "another server's disks beside this one's, before and behind", "BIOS")
	a, b := anyInstalled(t), anyInstalledAgain(t)
	v := boot(t, a, vm.BIOS)
	pool := poolName(v)
	v.Must("echo " + pool + " >/root/whose && sync")
	shutdown(v, "-p", "guest-shutdown")
	for i := range b.List {
		b.List[i].Serial = fmt.Sprintf("OTHER-D%d", i+1)
	}
	for _, first := range []bool{true, false} {
		c := a.Clone(t).Config(vm.BIOS, 1)
		if first {
			c.Disks = append(b.Clone(t).List, c.Disks...)
		} else {
			c.Disks = append(c.Disks, b.Clone(t).List...)
		}
		v := Start(t, c)
		v.Login("root", rootPassword)
		if out := v.Must("zfs list -Ho name /; cat /root/whose"); !strings.HasPrefix(out, pool+"/") || !strings.HasSuffix(strings.TrimSpace(out), pool) {
			t.Errorf("foreign disks first: %v: the root is %s", first, out)
		}
		v.PowerOff()
	}
	*note = "the root is this server's"
}

// anyInstalledAgain is another server made of the same image.
func anyInstalledAgain(t testing.TB) Disks {
	return Shared(t, "another server", func(t testing.TB) Disks {
		d := machine(t, buildImage(t, &answers{}), inPlace)
		waitInstalled(Start(t, inPlace.config(d, "", vm.BIOS)))
		return d
	})
}

// TestSpace: what an install of many jails takes in time and room.
func TestSpace(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	for _, jails := range []int{3, 12} {
		t.Run(strconv.Itoa(jails), func(t *testing.T) {
			note := Record(t, fmt.Sprintf("time and room of an install with %d jails", jails), "BIOS")
			d := machine(t, manyJails(t, jails), inPlace)
			start := time.Now()
			waitInstalled(Start(t, inPlace.config(d, "", vm.BIOS)))
			took := time.Since(start)
			v := boot(t, d, vm.BIOS)
			out := v.Must("zpool list -Hpo allocated,bclonesaved; grep -o '\"name\": \"[^\"]*\"\\|\"seconds\": [0-9.]*' /var/db/rig/result.json | paste - - | grep -E 'base|root|jail'; du -xAsm / | cut -f1")
			f := strings.Fields(out)
			alloc, _ := strconv.ParseInt(f[0], 10, 64)
			saved, _ := strconv.ParseInt(f[1], 10, 64)
			*note = fmt.Sprintf("install %d s, %d MiB allocated, %d MiB shared", int(took.Seconds()), alloc>>20, saved>>20)
			t.Logf("%d jails: %s", jails, out)
			if n := strings.TrimSpace(v.Must("zfs list -Hro name / | grep -c /jails/")); n != strconv.Itoa(jails) {
				t.Errorf("%s roots of jails", n)
			}
		})
	}
}

// manyJails is an image of a profile with more jails than the default's, empty ones.
func manyJails(t *testing.T, n int) string {
	t.Helper()
	env := Need(t)
	dir := Dir(t)
	profile, img, file := filepath.Join(dir, "profile"), filepath.Join(dir, "rig.img"), filepath.Join(dir, "answers.toml")
	rigimage(t, "init", profile)
	toml, err := os.OpenFile(filepath.Join(profile, "rig.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := 3; i < n; i++ {
		fmt.Fprintf(toml, "\n[[jail]]\nname = \"more%d_j\"\noverlay = \"jails/more\"\n", i)
	}
	if err := toml.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(profile, "jails/more/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(profile, "jails/more/etc/rc.conf"), []byte("sshd_enable=\"NO\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(answers{}.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	rigimage(t, "build", profile, "--sets", env.Sets, "--packages", "none", "--answers", file, "-o", img)
	return img
}
