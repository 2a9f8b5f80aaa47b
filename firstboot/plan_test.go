package firstboot

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/firstboot/root"
	"github.com/rig-freebsd/rig/firstboot/source"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/fakebsd"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

var testIdentity = root.Identity{HostUUID: "9b2e1f00-1111-4222-8333-444455556666", Passwords: map[string]string{"secrets.root": "generated-pass-word"}}

func readFacts(t testing.TB, name string) *facts.Facts {
	t.Helper()
	var f facts.Facts
	if err := json.Unmarshal([]byte(fakebsd.ModuleFile(t, "firstboot/testdata/plans/"+name+".facts.json")), &f); err != nil {
		t.Fatal(err)
	}
	return &f
}

// planFor goes the installer's way from facts and answers to a plan; only the
// identity is a fixed one.
func planFor(t testing.TB, name string, from source.Source, m *manifest.Manifest, more ...answers.Source) []Step {
	t.Helper()
	ctx, f := context.Background(), readFacts(t, name)
	r := &fakebsd.Runner{Answers: map[string]string{"zpool import": "!cannot import: I/O error"}}
	md, err := source.OpenMedium(ctx, r, fakebsd.MediumRoot(t, m), f)
	if err != nil {
		t.Fatal(err)
	}
	state, err := Inspect(ctx, r, "", f, md.Manifest, "")
	if err != nil {
		t.Fatal(err)
	}
	set, err := answers.Resolve(m.Questions, append(more, answers.Source{Name: name, Data: []byte(fakebsd.ModuleFile(t, "firstboot/testdata/plans/"+name+".answers.toml"))})...)
	if err != nil {
		t.Fatal(err)
	}
	in, err := (&Installer{}).decide(ctx, f, md, state, set)
	if err != nil {
		t.Fatal(err)
	}
	if _, given := set.Get("secrets.root"); given == (len(in.Identity.Passwords) > 0) {
		t.Errorf("hash given: %v, passwords generated: %d", given, len(in.Identity.Passwords))
	}
	in.Identity, in.Source = testIdentity, cmp.Or(from, in.Source)
	steps, err := Plan(*in)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := Plan(*in)
	if script(t, again) != script(t, steps) {
		t.Error("the same input gave another plan")
	}
	return steps
}

func script(t testing.TB, steps []Step) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteScript(&b, steps); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func noJails() *manifest.Manifest {
	m := fakebsd.Manifest()
	m.Jails, m.Layers, m.Datasets = nil, m.Layers[:3], m.Datasets[:3]
	return m
}

// withPackages is an image that brings packages.
func withPackages() *manifest.Manifest {
	m := fakebsd.Manifest()
	m.Host.Packages = []string{"pkg", "rsync"}
	m.Jails[0].Packages = []string{"postgresql17-server", "spiped"}
	m.Files = []manifest.BootFile{{Part: manifest.RoleRig, Path: manifest.PkgStatic, Size: 1, SHA256: strings.Repeat("e", 64)}}
	return m
}

// pkgbase is an image whose base system is packages too.
func pkgbase() *manifest.Manifest {
	m := withPackages()
	m.Layers = m.Layers[2:]
	m.FreeBSD.Host, m.FreeBSD.Jail = []string{"FreeBSD-set-base", "FreeBSD-kernel-generic"}, []string{"FreeBSD-set-minimal-jail"}
	return m
}

// The plans of these machines, as text. RIG_UPDATE=1 writes them anew.
func TestPlans(t *testing.T) {
	images := map[string]func() *manifest.Manifest{"no-jails": noJails, "packages": withPackages, "pkgbase": pkgbase, "net-pkgbase": pkgbase}
	machines := map[string]string{"packages": "stick", "pkgbase": "stick", "net": "stick", "net-pkgbase": "stick",
		"encrypted": "wipe", "encrypted-in-place": "restart-in-place"} // where not of the plan's own name
	sources := map[string]source.Source{"net": source.Web{URL: "http://10.9.0.1"}, "net-pkgbase": source.Web{URL: "http://10.9.0.1"}} // likewise
	for _, name := range []string{"stick", "in-place", "no-spares", "no-swap", "wipe", "restart", "restart-in-place", "rule", "no-jails", "generated", "nvme", "4kn",
		"packages", "pkgbase", "net", "net-pkgbase", "encrypted", "encrypted-in-place"} {
		t.Run(name, func(t *testing.T) {
			m := fakebsd.Manifest()
			if image := images[name]; image != nil {
				m = image()
			}
			var more []answers.Source
			if strings.HasPrefix(name, "encrypted") {
				more = append(more, answers.Source{Name: "passphrase", Data: []byte("install.passphrase = 'correct-horse'")})
			}
			steps := planFor(t, cmp.Or(machines[name], name), sources[name], m, more...)
			text := script(t, steps)
			file := filepath.Join("testdata/plans", name+".sh")
			if os.Getenv("RIG_UPDATE") != "" {
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := fakebsd.ModuleFile(t, "firstboot/testdata/plans/"+name+".sh"); text != want {
				t.Errorf("%s differs; RIG_UPDATE=1 accepts what is there now:\n%s", file, text)
			}
			if out, err := exec.Command("sh", "-n", file).CombinedOutput(); err != nil {
				t.Errorf("sh -n %s: %v: %s", file, err, out)
			}
			checkPlan(t, steps)
			for _, secret := range []string{"$6$", "saltsalt", "0123456789abcdef0123456789abcdef", "generated-pass-word", "correct-horse"} {
				if strings.Contains(text, secret) {
					t.Errorf("the plan shows the secret %s", secret)
				}
			}
		})
	}
}

var stepName = regexp.MustCompile(`^[a-z0-9._-]+$`)

// checkPlan holds for every plan: names are unique, riginstall's own commands
// exist and have the arguments they want, nothing boots the new system before the
// pool was exported, and the switch comes last.
func checkPlan(t *testing.T, steps []Step) {
	t.Helper()
	seen := map[string]bool{}
	exported := false
	for _, s := range steps {
		if seen[s.Name] || !stepName.MatchString(s.Name) || s.Title == "" || len(s.Cmds) == 0 {
			t.Errorf("step %q %q with %d commands: names are unique and plain", s.Name, s.Title, len(s.Cmds))
		}
		seen[s.Name] = true
		if exported && s.Name != "unmount" && !strings.HasPrefix(s.Name, "switch-") {
			t.Errorf("step %s comes after the export", s.Name)
		}
		for _, c := range s.Cmds {
			if c.Argv[0] == place.Self {
				checkVerb(t, c)
			}
			if c.Argv[0] == "zpool" && c.Argv[1] == "export" {
				exported = true
			}
			if c.Argv[0] == place.Self && c.Argv[2] == "switch" && !exported {
				t.Errorf("%s comes before the export", c)
			}
			if c.Secret && len(c.Stdin) > 0 && strings.Contains(c.String(), strings.TrimSpace(string(c.Stdin))) {
				t.Errorf("%s has its secret in argv", c.Argv[0])
			}
		}
	}
}

func checkVerb(t *testing.T, c run.Cmd) {
	t.Helper()
	if len(c.Argv) < 3 || c.Argv[1] != "do" {
		t.Errorf("%s: not a verb", c)
		return
	}
	v, ok := verbs()[c.Argv[2]]
	if !ok {
		t.Errorf("%s: no such verb", c)
		return
	}
	if !v.takes(len(c.Argv) - 3) {
		t.Errorf("%s: %d arguments; want %s", c, len(c.Argv)-3, v.args)
	}
}

// Every disk of an install gets the same partitions at the same places.
func TestPlanDisksAlike(t *testing.T) {
	tables := map[string][]string{}
	re := regexp.MustCompile(`^gpart add (-i \d -b \d+ -s \d+) -t \S+ -l (\w+)-\S+ (\w+)$`)
	for _, s := range planFor(t, "in-place", nil, fakebsd.Manifest()) {
		for _, c := range s.Cmds {
			if m := re.FindStringSubmatch(c.String()); m != nil {
				tables[m[3]] = append(tables[m[3]], m[1]+" "+m[2])
			}
		}
	}
	want := tables["vtbd1"]
	if len(tables) != 4 || len(want) != 5 {
		t.Fatalf("%q", tables)
	}
	if !slices.Equal(tables["vtbd0"], want[3:]) { // the image's own three are there
		t.Errorf("vtbd0: %q", tables["vtbd0"])
	}
	for _, d := range []string{"vtbd2", "vtbd3"} {
		if !slices.Equal(tables[d], want) {
			t.Errorf("%s: %q, vtbd1 %q", d, tables[d], want)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	f := readFacts(t, "stick")
	set, err := answers.Resolve(fakebsd.Manifest().Questions)
	if err != nil {
		t.Fatal(err)
	}
	encrypted := func(text string) *answers.Set {
		set, err := answers.Resolve(fakebsd.Manifest().Questions, answers.Source{Data: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	in := Input{Manifest: fakebsd.Manifest(), Facts: f, Answers: set, Identity: testIdentity, Source: source.RigPartition{Disk: "da0", Name: "da0p3"},
		Layout: &zfs.Layout{Mirror: []zfs.Disk{f.Disks[1].Target(), f.Disks[2].Target()}}}
	for _, tt := range []struct {
		want   string
		change func(*Input)
	}{
		{"plan: disk vtbd9 is in the layout and not in the facts", func(in *Input) { in.Layout.Mirror[0].Name = "vtbd9" }},
		{"plan: disks vtbd0 and vtbd1 would get the same labels (serial S1)", func(in *Input) { in.Facts.Disks[2].Serial = "S1" }},
		{"plan: vtbd0: disk of 4096 MiB: 6413 MiB are needed (boot partitions 2310, swap 2048, pool at least 2048)",
			func(in *Input) { in.Facts.Disks[1].Size = 4 << 30 }},
		{"plan: the pool is to be encrypted, and there is no install.passphrase", func(in *Input) { in.Answers = encrypted("install.encrypt = true") }},
		{"plan: pool.ashift 9 makes sectors of 512 bytes; an encrypted pool has 4096", func(in *Input) {
			in.Answers, in.Manifest = encrypted("install.passphrase = 'correct-horse'"), fakebsd.Manifest()
			in.Manifest.Pool.Ashift = 9
		}},
		{"plan: secrets.root has neither a hash nor a generated password", func(in *Input) { in.Identity.Passwords = nil }},
	} {
		c, facts := in, *f
		facts.Disks = slices.Clone(f.Disks)
		c.Facts, c.Layout = &facts, &zfs.Layout{Mirror: slices.Clone(in.Layout.Mirror)}
		tt.change(&c)
		_, err := Plan(c)
		if err == nil || strings.Split(err.Error(), "\n")[0] != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}

func TestFinishPlan(t *testing.T) {
	steps := FinishPlan(fakebsd.Manifest().Boot, manifest.Unit{Pool: "zroot", Name: "webrig-15.1-1a2b3c4d5e6f"}, source.RigPartition{Disk: "vtbd0", Name: "vtbd0p3"}, []facts.Disk{{Name: "vtbd1", Serial: "S2"}, {Name: "da3"}}, false)
	checkPlanOrder := "unmount switch-vtbd1 switch-da3"
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != checkPlanOrder {
		t.Errorf("steps %s", got)
	}
	want := `riginstall do forget-answers /dev/vtbd1p2
riginstall do switch /dev/vtbd1p3 zroot/ROOT/webrig-15.1-1a2b3c4d5e6f
gpart modify -i 3 -l rig-S2 vtbd1`
	if got := script(t, steps); !strings.Contains(got, want) || !strings.Contains(got, "gpart modify -i 3 -l rig-da3 da3") {
		t.Errorf("got\n%s", got)
	}
}
