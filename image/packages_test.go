package image

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rig-freebsd/rig/image/live"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/sets"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/pkgtest"
)

var testPackages = []pkgtest.Pkg{
	{Name: "pkg", Version: "2.8", Files: []pkgtest.File{{Path: "/usr/local/sbin/pkg-static", Content: "static pkg\n", Mode: 0o755}}},
	{Name: "libmore", Version: "3", ShlibsProvided: []string{"libmore.so.3"}},
	{Name: "db17-server", Version: "17.1", ShlibsRequired: []string{"libmore.so.3"}},
	{Name: "db18-server", Version: "18.0", ShlibsRequired: []string{"libmore.so.3"}},
	{Name: "db19-server", Version: "19.b1"},
	{Name: "web", Deps: []pkgtest.Dep{{Name: "common", Origin: "test/common", Version: "1.0"}}},
	{Name: "common"},
	{Name: "unwanted"},
}

// withPackages are options for an image with packages from a repository of its own.
func withPackages(t testing.TB, packages []pkgtest.Pkg) Options {
	t.Helper()
	o := options(t, t.TempDir())
	o.Demo, o.Sets, o.Packages = false, demoSets(t), filepath.Join(t.TempDir(), "repo")
	pkgtest.Repo{Pkgs: packages, SumType: 2}.Write(t, o.Packages)
	p := o.Profile.(fstest.MapFS)
	edit(t, p, `version = "15.1-RELEASE"`, `version = "15.1-DEMO"`)
	edit(t, p, `packages = ["rsync", "cpu-microcode"]`, `packages = ["web"]`)
	edit(t, p, `packages = ["postgresql*-server", "postgresql*-client", "spiped", "openssh-portable"]`, `packages = ["db*-server"]`)
	edit(t, p, `packages = ["node", "postgresql*-client", "spiped", "openssh-portable", "doas", "rsync"]`, `packages = []`)
	edit(t, p, `packages = ["nginx-full", "openssh-portable", "doas", "rsync"]`, `packages = ["web"]`)
	return o
}

// packed lists the packages on an image's rig partition and reads a file of it.
func packed(t testing.TB, path string) (packages []string, read func(string) string) {
	t.Helper()
	_, _, rig, _ := trees(t, path)
	for e := range rig.All() {
		if name, ok := strings.CutPrefix(e.Path, manifest.PkgDir+"/All/"); ok {
			packages = append(packages, name)
		}
	}
	return packages, func(name string) string {
		b, err := rig.ReadFile(name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

func TestPackages(t *testing.T) {
	t.Parallel()
	o := withPackages(t, testPackages)
	r := build(t, o)
	m := r.Manifest
	if got := strings.Join(m.Host.Packages, " "); got != "pkg web" {
		t.Errorf("host: %s", got)
	}
	for jail, want := range map[string]string{"pg_j": "db18-server", "node_j": "", "nginx_j": "web"} {
		i := slices.IndexFunc(m.Jails, func(j manifest.Jail) bool { return j.Name == jail })
		if got := strings.Join(m.Jails[i].Packages, " "); got != want {
			t.Errorf("%s: %s, want %s", jail, got, want)
		}
	}
	packages, read := packed(t, r.Path)
	want := []string{"common-1.0.pkg", "db18-server-18.0.pkg", "libmore-3.pkg", "pkg-2.8.pkg", "web-1.0.pkg"}
	if !slices.Equal(packages, want) {
		t.Errorf("the bundle has %v, want %v", packages, want)
	}
	if got := read(manifest.PkgStatic); got != "static pkg\n" {
		t.Errorf("pkg-static is %q", got)
	}
	if got := read("rig/pkgs/repos/rig.conf"); got != "rig: { url: \"file:///media\", signature_type: \"none\", enabled: yes }\n" {
		t.Errorf("rig.conf: %s", got)
	}
	if !m.Repository() {
		t.Error("the manifest says there is no repository")
	}
	first := sum(t, r.Path)
	o.Cache = t.TempDir()
	if build(t, o); sum(t, o.Output) != first {
		t.Error("another cache gives another image")
	}
	o.Packages = NoPackages
	r = build(t, o)
	if packages, _ := packed(t, r.Path); len(packages) > 0 || r.Manifest.Repository() || len(r.Manifest.Host.Packages) > 0 {
		t.Errorf("without packages: %v, host %v", packages, r.Manifest.Host.Packages)
	}
}

func TestPackagesErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want, hint string
		change           func(*Options)
	}{
		{"unknown name", "packages: ", "rig.toml names them; --packages none builds an image without packages", func(o *Options) {
			edit(t, o.Profile.(fstest.MapFS), `packages = ["db*-server"]`, `packages = ["db*-client", "wbe"]`)
		}},
		{"no repository", "packages: repository packages: neither data.pkg nor packagesite.pkg is there", "check the URL", func(o *Options) { o.Packages = t.TempDir() }},
		{"no pkg", "no package pkg", "rig.toml names them", func(o *Options) {
			o.Packages = t.TempDir()
			pkgtest.Repo{Pkgs: testPackages[1:]}.Write(t, o.Packages)
		}},
		{"unsigned", "packages: repository mine: data.pkg: it is not signed", "do not use it otherwise", func(o *Options) {
			edit(t, o.Profile.(fstest.MapFS), "[pool]\n", "[[repository]]\nname = \"mine\"\nurl = \""+o.Packages+"\"\nfingerprints = [\""+strings.Repeat("a", 64)+"\"]\n\n[pool]\n")
			o.Packages = ""
		}},
		{"altered package", "package web-1.0 of packages: ", "", func(o *Options) {
			o.Packages = t.TempDir()
			pkgtest.Repo{Pkgs: testPackages, Alter: func(name string, b []byte) []byte {
				if name == "All/web-1.0.pkg" {
					b[len(b)/2] ^= 1
				}
				return b
			}}.Write(t, o.Packages)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := withPackages(t, testPackages)
			c.change(&o)
			_, err := Build(context.Background(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(diag.HintOf(err), c.hint) {
				t.Errorf("got  %v (%s)\nwant %s (%s)", err, diag.HintOf(err), c.want, c.hint)
			}
			if got := files(t, filepath.Dir(o.Output)); got != "" {
				t.Errorf("left behind: %s", got)
			}
		})
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	o := withPackages(t, testPackages)
	p := o.Profile.(fstest.MapFS)
	l, err := MakeLock(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	text, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := MakeLock(context.Background(), o)
	if err != nil || len(l.Moved(again)) > 0 {
		t.Errorf("a second lock differs: %v %v", l.Moved(again), err)
	}
	free := build(t, o).Manifest.Image
	p[LockFile] = &fstest.MapFile{Data: text}

	// A newer repository, and then none: the lock decides.
	newer := append(slices.Clone(testPackages), pkgtest.Pkg{Name: "db20-server", Version: "20"})
	pkgtest.Repo{Pkgs: newer}.Write(t, o.Packages)
	if got := build(t, o).Manifest.Image; got != free {
		t.Errorf("with a lock the image is %s, want %s", got, free)
	}
	moved, err := MakeLock(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Join(l.Moved(moved), "\n")
	for _, want := range []string{"package db18-server: 18.0 (", "package db20-server: 20 (", "packages of pg_j: db18-server → db20-server"} {
		if !strings.Contains(lines, want) {
			t.Errorf("no %q in\n%s", want, lines)
		}
	}
	if err := os.RemoveAll(o.Packages); err != nil {
		t.Fatal(err)
	}
	if got := build(t, o).Manifest.Image; got != free {
		t.Errorf("offline the image is %s, want %s", got, free)
	}

	for _, c := range []struct {
		what, want string
		change     func(fstest.MapFS, *Options)
	}{
		{"overlay", "my-rig/rig.lock: overlay pg_j: it was changed since the lock was made", func(p fstest.MapFS, _ *Options) {
			p["jails/pg_j/etc/new"] = &fstest.MapFile{Data: []byte("x\n"), Mode: 0o644}
		}},
		{"packages", "my-rig/rig.lock: root nginx_j: it does not ask for the packages that rig.toml asks for", func(p fstest.MapFS, _ *Options) {
			text := string(p[ConfigFile].Data)
			i := strings.LastIndex(text, `packages = ["web"]`)
			p[ConfigFile] = &fstest.MapFile{Data: []byte(text[:i] + `packages = ["web", "common"]` + text[i+len(`packages = ["web"]`):])}
		}},
		{"sets", "my-rig/rig.lock: set base: its sha256 is ", func(_ fstest.MapFS, o *Options) {
			o.Sets = filepath.Join(t.TempDir(), "other")
			if err := sets.WriteDemoSets(o.Sets, live.Programs()[:len(live.Programs())-1]); err != nil {
				t.Fatal(err)
			}
		}},
		{"key", "my-rig/rig.lock:1:1: sum: unknown key", func(p fstest.MapFS, _ *Options) {
			p[LockFile] = &fstest.MapFile{Data: append([]byte("sum = 1\n"), text...)}
		}},
	} {
		q, o := fstest.MapFS{}, o
		for name, f := range p {
			q[name] = f
		}
		o.Profile = q
		c.change(q, &o)
		_, err := Build(context.Background(), o)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(diag.HintOf(err), "rigimage lock --update") {
			t.Errorf("%s: %v (%s), want %s", c.what, err, diag.HintOf(err), c.want)
		}
	}
}

// basePackages is the demo base system as packages, and testPackages.
func basePackages(t testing.TB) []pkgtest.Pkg {
	t.Helper()
	sets, err := sets.Locate(t.Context(), sets.Options{Dir: demoSets(t), Cache: t.TempDir()}, "base", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	defer sets.Close()
	base, err := sets.Tree(t.Context(), "base")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := sets.Tree(t.Context(), "kernel")
	if err != nil {
		t.Fatal(err)
	}
	return append(slices.Clone(testPackages), pkgtest.Base(t, "15.1", base, kernel)...)
}

// A base system of packages boots by the same files as one of sets, and brings no
// layer of base or kernel.
func TestPkgbase(t *testing.T) {
	t.Parallel()
	o := withPackages(t, basePackages(t))
	sets := build(t, o).Manifest
	edit(t, o.Profile.(fstest.MapFS), `arch = "amd64"`, "arch = \"amd64\"\nfrom = \"pkgbase\"")
	r := build(t, o)
	m := r.Manifest
	if !slices.Equal(m.FreeBSD.Host, []string{"FreeBSD-set-base", "FreeBSD-kernel-generic"}) || !slices.Equal(m.FreeBSD.Jail, []string{"FreeBSD-set-minimal-jail"}) {
		t.Errorf("the base system is %v and %v", m.FreeBSD.Host, m.FreeBSD.Jail)
	}
	for _, l := range m.Layers {
		if l.Role == manifest.LayerBase || l.Role == manifest.LayerKernel {
			t.Errorf("there is a layer %s", l.Role)
		}
	}
	packages, _ := packed(t, r.Path)
	for _, p := range []string{"FreeBSD-runtime-15.1.pkg", "FreeBSD-kernel-generic-15.1.pkg", "FreeBSD-set-minimal-jail-15.1.pkg", "web-1.0.pkg"} {
		if !slices.Contains(packages, p) {
			t.Errorf("the bundle lacks %s: %v", p, packages)
		}
	}
	boot := func(m *manifest.Manifest) (out []string) {
		for _, f := range m.Files {
			if strings.HasPrefix(f.Path, "boot/") && f.Path != "boot/loader.conf" {
				out = append(out, f.Path+" "+f.SHA256)
			}
		}
		return out
	}
	if a, b := boot(sets), boot(m); !slices.Equal(a, b) {
		t.Errorf("boot files of sets:\n%s\nof packages:\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
}
