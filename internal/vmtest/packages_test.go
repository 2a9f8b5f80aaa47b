package vmtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/sets"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/pkgtest"
	"github.com/rig-freebsd/rig/internal/vm"
)

// packagedImage is an image of the profile with these answers.
func packagedImage(t testing.TB, profile string, a answers) string {
	t.Helper()
	dir := Dir(t)
	file, img := filepath.Join(dir, "answers.toml"), filepath.Join(dir, "rig.img")
	if err := os.WriteFile(file, []byte(a.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	rigimage(t, "build", profile, "--sets", Need(t).Sets, "--answers", file, "-o", img)
	return img
}

// TestPackages: packages made and signed by the real pkg(8) come with the image and
// are installed without a network, in the host and in each jail.
func TestPackages(t *testing.T) {
	t.Parallel()
	Need(t)
	note := Record(t, "packages: made by pkg, in the image, installed offline, services run", "BIOS")
	r := testRepository(t)
	profile := packagesProfile(t, Dir(t), r)
	img := packagedImage(t, profile, answers{})
	d := machine(t, img, inPlace)
	c := inPlace.config(d, img, vm.BIOS)
	waitInstalled(Start(t, c))
	sameBootFiles(t, d)
	v := boot(t, d, vm.BIOS)
	waitJails(v)
	checkPackages(t, v)
	checkPool(t, v)
	checkJails(t, v)
	checkVerify(t, v)
	*note = strings.TrimSpace(v.Must("pkg info -q | wc -l")) + " packages in the host"
}

// checkPackages checks that every root has the packages of packagesProfile, with
// their users, services and the work of their scripts.
func checkPackages(t *testing.T, v *VM) {
	t.Helper()
	for _, c := range []struct {
		jail     string
		packages string // name-version of all, sorted
		services string
		users    string
	}{
		{"", "pkg-2.8.99.1 rig-common-1.0,1 rig-tool-1.2_3", "", ""},
		{"pg_j", "pgstand18-server-18.1 rig-common-1.0,1 spiped-1.6.4", "pgstand spiped", "postgres:770 spiped:259"},
		{"node_j", "appd-0.9 rig-common-1.0,1 spiped-1.6.4 webd-lib-3", "appd spiped", "appd:282 spiped:259"},
		{"nginx_j", "webd-2.0.1", "webd", "www2:281"},
	} {
		pkg, root := "pkg", ""
		if c.jail != "" {
			root = "/jails/" + c.jail
			pkg += " -c " + root
		}
		if got := strings.Join(strings.Fields(v.Must(pkg+" info -q | sort")), " "); got != c.packages {
			t.Errorf("%q has packages %s, want %s", c.jail, got, c.packages)
		}
		if out, status := v.Run(pkg + " check -s -a -q"); status != 0 || strings.TrimSpace(out) != "" {
			t.Errorf("%q: pkg check: exit status %d: %s", c.jail, status, out)
		}
		for _, s := range strings.Fields(c.services) {
			if out, status := v.Run("service -j " + c.jail + " " + s + " onestatus"); status != 0 {
				t.Errorf("%s: service %s: %s", c.jail, s, out)
			}
			if s != "spiped" {
				if out := v.Must("cat " + root + "/usr/local/share/" + s + "/installed"); !strings.Contains(out, "/usr/local") {
					t.Errorf("%s: the script of %s wrote %q", c.jail, s, out)
				}
			}
		}
		for _, u := range strings.Fields(c.users) {
			name, uid, _ := strings.Cut(u, ":")
			if got := strings.TrimSpace(v.Must("jexec " + c.jail + " id -u " + name)); got != uid {
				t.Errorf("%s: user %s has uid %s, want %s", c.jail, name, got, uid)
			}
		}
		if out := v.Must("ls -d " + root + "/var/db/pkg/repos " + root + "/var/cache/pkg " + root + "/media/* 2>/dev/null; true"); out != "" {
			t.Errorf("%q: left over from the install: %s", c.jail, out)
		}
	}
	if out := v.Must("rig-tool; mount -t nullfs,devfs -p | wc -l"); !strings.HasPrefix(out, "a tool\n") {
		t.Errorf("rig-tool: %s", out)
	}
}

// TestPkgbase: a base system of packages, of the same files as the sets, installs
// and boots, and pkg(8) looks after it.
func TestPkgbase(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	Record(t, "base system of packages: installed, boots", "UEFI")
	r := testRepository(t)
	dir := Dir(t)
	profile := packagesProfile(t, dir, r)
	pkgtest.Repo{Pkgs: baseOfSets(t)}.Write(t, filepath.Join(dir, "base"))
	file := filepath.Join(profile, "rig.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), `arch = "amd64"`, "arch = \"amd64\"\nfrom = \"pkgbase\"", 1) +
		"\n[[repository]]\nname = \"base\"\nurl = \"file://" + filepath.Join(dir, "base") + "\"\nsignature = \"none\"\nbase = true\n"
	if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	img := packagedImage(t, profile, answers{})
	d := machine(t, img, onStick)
	c := onStick.config(d, img, vm.UEFI)
	c.Memory = 2 << 30
	waitInstalled(Start(t, c))
	v := boot(t, d, vm.UEFI)
	waitJails(v)
	checkPool(t, v)
	checkJails(t, v)
	checkVerify(t, v)
	for root, want := range map[string]string{"": "FreeBSD-set-base FreeBSD-kernel-generic rig-tool", "/jails/pg_j": "FreeBSD-set-minimal-jail spiped"} {
		pkg := "pkg"
		if root != "" {
			pkg += " -c " + root
		}
		for _, name := range strings.Fields(want) {
			v.Must(pkg + " info -e " + name)
		}
	}
	if out := v.Must("pkg which /bin/sh; pkg which /boot/kernel/kernel"); !strings.Contains(out, "FreeBSD-runtime") || !strings.Contains(out, "FreeBSD-kernel-generic") {
		t.Errorf("pkg which: %s", out)
	}
	shutdown(v, "-p", "guest-shutdown")
	sameBootFiles(t, d)
}

// TestBrokenPackage: a package that cannot be configured ends the install with its
// own message, and the machine still boots the installer.
func TestBrokenPackage(t *testing.T) {
	t.Parallel()
	fullOnly(t)
	Need(t)
	Record(t, "packages: one fails, nothing is made bootable", "UEFI")
	r := testRepository(t)
	img := packagedImage(t, packagesProfile(t, Dir(t), r, `"rig-broken"`), answers{})
	d := machine(t, img, onStick)
	v := Start(t, onStick.config(d, img, vm.UEFI))
	if got := v.Expect(InstallLimit, installed,
		regexp.MustCompile(`riginstall: error: step jail-nginx_j .*: pkg-static: POST-INSTALL script failed; pkg says:`)); got.Index != 1 {
		t.Fatalf("install: %s\n%s", got.Text, v.Console.Tail(30))
	}
	v.Expect(CommandLimit, "this package cannot be configured")
	v.Expect(CommandLimit, "Enter: install from this console")
	v.PowerOff()
	if text := bootFiles(t, d.List[0]); !strings.Contains(text, "rig/mfsroot.uzip") {
		t.Errorf("disk 1 does not boot the installer:\n%s", text)
	}
	v = Start(t, d.Config(vm.UEFI, 1, 2, 3, 4))
	v.Expect(BootLimit, "Enter: install from this console") // the answers are on the stick
	v.PowerOff()
}

// baseOfSets is the base system of the sets as packages.
func baseOfSets(t testing.TB) []pkgtest.Pkg {
	t.Helper()
	sets, err := sets.Locate(t.Context(), sets.Options{Dir: Need(t).Sets}, "base", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	defer sets.Close()
	var trees []*tree.Tree
	for _, name := range []string{"base", "kernel"} {
		tr, err := sets.Tree(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		trees = append(trees, tr)
	}
	return pkgtest.Base(t, "15.1", trees[0], trees[1])
}
