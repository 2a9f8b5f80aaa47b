package firstboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/source"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fakebsd"
	"github.com/rig-freebsd/rig/internal/prompt"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
)

const passphrase = "correct horse battery"

// encryptedInstaller is a run on a machine whose answers ask for encryption.
func encryptedInstaller(f *fakebsd.Machine) (*Installer, *bytes.Buffer) {
	in, out := installerOn(f)
	in.AnswersFile = filepath.Join(f.Root, "passphrase.toml")
	f.Check(os.WriteFile(in.AnswersFile, []byte("[install]\npassphrase = '"+passphrase+"'\n"), 0o600))
	return in, out
}

func checkSealed(f *fakebsd.Machine) {
	f.T.Helper()
	if len(f.Sealed) != 4 || len(f.Opened) != 0 {
		f.T.Errorf("encrypted %v, still open %v", f.Sealed, f.Opened)
	}
	for _, p := range f.Sealed {
		if p != passphrase {
			f.T.Errorf("passphrase %q", p)
		}
	}
}

func TestInstallEncrypted(t *testing.T) {
	for name, stick := range map[string]bool{"from a stick": true, "in place": false} {
		t.Run(name, func(t *testing.T) {
			f := fakebsd.New(t, stick)
			in, out := encryptedInstaller(f)
			if _, err := in.Install(context.Background()); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			checkInstalled(f)
			checkSealed(f)
			read := func(name string) string {
				b, err := os.ReadFile(filepath.Join(f.Root, "mnt", name))
				f.Check(err)
				return string(b)
			}
			for _, text := range []string{out.String(), strings.Join(f.Lines, "\n"), read("var/db/rig/result.json"), read("var/db/rig/install.log")} {
				if strings.Contains(text, passphrase) {
					t.Error("the passphrase is in a log, an argument or the result")
				}
			}
			if !strings.Contains(read("var/db/rig/result.json"), `"install.passphrase": "[secret]"`) {
				t.Error("the result does not say that the pool is encrypted")
			}
			if got := read("etc/rc.conf.d/dumpon"); !strings.Contains(got, "\ndumpdev=\"NO\"\n") {
				t.Errorf("a crash would write keys to disk: %s", got)
			}

			// A second run refuses; it looks into the disks for that, and closes them.
			f.Reboot()
			in, _ = encryptedInstaller(f)
			if _, err := in.Install(context.Background()); !errors.Is(err, ErrInstalled) {
				t.Errorf("second run: %v", err)
			}
			checkInstalled(f)
			checkSealed(f)

			// Without the passphrase it cannot know, and says so; the disks are
			// somebody's. They show that they hold something.
			for _, c := range []struct{ pass, want string }{
				{"", "rig: the pool on vtbd0, vtbd1, vtbd2, vtbd3 is encrypted and there is no install.passphrase: whether an installation there was complete is not known"},
				{"another one altogether", "rig: the pool on vtbd0, vtbd1, vtbd2, vtbd3 is encrypted and install.passphrase does not open it: whether an installation there was complete is not known"},
			} {
				f.Reboot()
				in, out := installerOn(f)
				if c.pass != "" {
					in, out = encryptedInstaller(f)
					f.Check(os.WriteFile(in.AnswersFile, []byte("[install]\npassphrase = '"+c.pass+"'\n"), 0o600))
				}
				_, err := in.Install(context.Background())
				if err == nil || errors.Is(err, ErrInstalled) || stick && (diag.ExitCode(err) != 2 || !strings.Contains(err.Error(), "(GELI)")) {
					t.Errorf("passphrase %q: %v", c.pass, err)
				}
				if !strings.Contains(out.String(), c.want) {
					t.Errorf("it says\n%s", out)
				}
				checkSealed(f)
			}
		})
	}
}

// The power goes at each step of an encrypted install in turn. The next start
// completes it, or finds it complete.
func TestPowerCutEncrypted(t *testing.T) {
	step := regexp.MustCompile(`(?m)^rig: step (\d+)/(\d+) (\S+):`)
	done := false
	for cut := 1; !done && !t.Failed(); cut++ {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			f := fakebsd.New(t, false)
			in, out := encryptedInstaller(f)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			in.Out = writerFunc(func(b []byte) {
				out.Write(b)
				if m := step.FindSubmatch(b); m != nil && string(m[1]) == fmt.Sprint(cut) {
					cancel()
				}
			})
			_, err := in.Install(ctx)
			if done = err == nil; done {
				return
			}
			f.Reboot()
			finished := f.Prop != ""
			in, out = encryptedInstaller(f)
			if _, err := in.Install(context.Background()); err != nil && !errors.Is(err, ErrInstalled) {
				t.Errorf("the next start fails: %v", err)
			}
			if again := strings.Contains(out.String(), " encrypt-vtbd0: "); again == finished {
				t.Errorf("the pool was complete: %v, encrypted once more: %v", finished, again)
			}
			checkInstalled(f)
			checkSealed(f)
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}

// A step that fails leaves no disk open: the next run in the same session completes.
func TestEncryptedStepFails(t *testing.T) {
	f := fakebsd.New(t, false)
	f.Fail["zfs create -p -o canmount=noauto zroot"] = "out of space"
	in, _ := encryptedInstaller(f)
	if _, err := in.Install(context.Background()); err == nil || len(f.Opened) != 0 {
		t.Fatalf("%v; open: %v", err, f.Opened)
	}
	clear(f.Fail)
	in, out := encryptedInstaller(f)
	if _, err := in.Install(context.Background()); err != nil {
		t.Fatalf("second run: %v\n%s", err, out)
	}
	checkInstalled(f)
	checkSealed(f)
}

// typist answers Input with what it was given, in order.
type typist struct {
	prompt.Prompter
	types  []string
	labels []string
	notes  []string
}

func (p *typist) Input(_ context.Context, q prompt.Question) (string, error) {
	for {
		if len(p.types) == 0 {
			return "", errors.New("nothing more is typed")
		}
		text := p.types[0]
		p.types = p.types[1:]
		p.labels = append(p.labels, q.Label)
		if !q.Secret {
			return "", fmt.Errorf("%s is shown", q.Label)
		}
		if q.Validate == nil {
			return text, nil
		}
		err := q.Validate(text)
		if err == nil {
			return text, nil
		}
		p.notes = append(p.notes, err.Error())
	}
}

func (p *typist) Note(text string) { p.notes = append(p.notes, text) }

func TestAskPassphrase(t *testing.T) {
	set, err := answers.Resolve(nil, answers.Source{Data: []byte("install.encrypt = true")})
	if err != nil {
		t.Fatal(err)
	}
	p := &typist{types: []string{"short", "correct horse", "correct house", "correct horse", "correct horse"}}
	in := &Installer{Prompt: p}
	for _, q := range set.Missing() {
		if q.Key == answers.KeyPassphrase {
			err = in.askPassphrase(t.Context(), set, q)
		}
	}
	const first = "Passphrase of the encrypted pool"
	if want := []string{first, first, first + ", again", first, first + ", again"}; err != nil || !slices.Equal(p.labels, want) || len(p.types) != 0 {
		t.Errorf("asked for %q, %v", p.labels, err)
	}
	if want := []string{"5 bytes long; expected 8 to 255", "The two are not the same; type it again."}; !slices.Equal(p.notes, want) {
		t.Errorf("said %q", p.notes)
	}
	if got := set.Secret(answers.KeyPassphrase).Reveal(); got != "correct horse" {
		t.Errorf("passphrase %q", got)
	}
}

// Answers are gone and switches are left: a person opens the pool, and the install
// is finished.
func TestOpenByHand(t *testing.T) {
	f := fakebsd.New(t, false)
	in, out := encryptedInstaller(f)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	in.Out = writerFunc(func(b []byte) {
		out.Write(b)
		if bytes.Contains(b, []byte(" switch-vtbd2:")) {
			cancel()
		}
	})
	if _, err := in.Install(ctx); err == nil {
		t.Fatal("it was not interrupted")
	}
	f.Reboot()
	in, out = installerOn(f)
	p := &typist{types: []string{"not this one", passphrase}}
	in.Prompt = p
	if _, err := in.Install(context.Background()); err != nil || !slices.Equal(p.notes, []string{"it opens none of these disks"}) {
		t.Fatalf("%v, %q\n%s", err, p.notes, out)
	}
	if !strings.Contains(out.String(), "rig: the pool is complete; switching the 2 disks an interrupted install left") || strings.Contains(out.String(), passphrase) {
		t.Errorf("%s", out)
	}
	checkInstalled(f)
	checkSealed(f)
}

func TestInspectEncrypted(t *testing.T) {
	m := fakebsd.Manifest()
	part := func(i int, label, holds string) facts.Partition {
		return facts.Partition{Index: i, Name: fmt.Sprintf("vtbd0p%d", i), Label: label, Holds: holds}
	}
	disk := func(parts ...facts.Partition) *facts.Facts {
		return &facts.Facts{Disks: []facts.Disk{{Name: "vtbd0", Partitions: parts}}}
	}
	ours := disk(part(3, "rig-S1", "ufs2"), part(5, "geli-S1", "GELI"))
	attach := run.Expect{Line: "geli attach -r -j - /dev/vtbd0p5", Stdin: "p\n"}
	for _, tt := range []struct {
		name   string
		facts  *facts.Facts
		pass   answers.SecretValue
		script []run.Expect
		want   State
		err    string
	}{
		{"no passphrase", ours, "", nil, State{Locked: ours.Disks}, ""},
		{"complete", ours, "p", []run.Expect{{Line: "kldload -n geom_eli"}, attach, {Line: "kldload -n zfs"},
			{Line: "zpool import -f -N -o readonly=on -R /mnt 77"}, {Line: "zfs get -Hp -o value rig:complete zroot-0a1b2c3d", Stdout: m.Image + "\n"},
			{Line: "zpool export zroot-0a1b2c3d"}, {Line: "geli detach vtbd0p5"}}, State{Encrypted: true, Pool: "zroot-0a1b2c3d", PoolImage: m.Image}, ""},
		{"no pool inside", ours, "p", []run.Expect{{Line: "kldload -n geom_eli"}, attach, {Line: "geli detach vtbd0p5"}}, State{Encrypted: true}, ""},
		{"not importable", ours, "p", []run.Expect{{Line: "kldload -n geom_eli"}, attach, {Line: "kldload -n zfs"},
			{Line: "zpool import -f -N -o readonly=on -R /mnt 77", Status: 1, Stderr: "I/O error"}, {Line: "geli detach vtbd0p5"}}, State{Encrypted: true}, ""},
		{"another passphrase", ours, "p", []run.Expect{{Line: "kldload -n geom_eli"}, {Line: attach.Line, Stdin: "p\n", Status: 1, Stderr: "Wrong key"}},
			State{Locked: ours.Disks}, ""},
		{"no module", ours, "p", []run.Expect{{Line: "kldload -n geom_eli", Status: 1, Stderr: "no"}}, State{}, "kldload -n geom_eli: exit status 1: no"},
		{"it does not close", ours, "p", []run.Expect{{Line: "kldload -n geom_eli"}, attach, {Line: "kldload -n zfs"},
			{Line: "zpool import -f -N -o readonly=on -R /mnt 77", Status: 1}, {Line: "geli detach vtbd0p5", Status: 1, Stderr: "busy"}},
			State{}, "geli detach vtbd0p5: exit status 1: busy"},
		{"somebody else's", disk(part(1, "geli-S1", "GELI")), "p", nil, State{}, ""},
		{"begun, not yet encrypted", disk(part(3, "installing-S1", ""), part(5, "geli-S1", "")), "p", nil, State{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakebsd.Machine{T: t, Root: t.TempDir(), PoolName: "zroot-0a1b2c3d"}
			f.Check(errors.Join(os.Mkdir(filepath.Join(f.Root, "dev"), 0o755), os.WriteFile(f.Dev("vtbd0p5.eli"), make([]byte, 4<<20), 0o600)))
			if tt.name != "no pool inside" {
				f.Label("vtbd0p5.eli")
			}
			s, err := Inspect(context.Background(), run.NewScript(t, tt.script...), f.Root, tt.facts, m, tt.pass)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || s.Encrypted != tt.want.Encrypted || s.Pool != tt.want.Pool || s.PoolImage != tt.want.PoolImage || len(s.Locked) != len(tt.want.Locked) {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

func TestFinishPlanEncrypted(t *testing.T) {
	got := script(t, FinishPlan(fakebsd.Manifest().Boot, manifest.Unit{Pool: "zroot", Name: "img"}, source.RigPartition{Disk: "vtbd0", Name: "vtbd0p3"}, []facts.Disk{{Name: "vtbd1", Serial: "S2"}}, true))
	if want := "riginstall do switch /dev/vtbd1p3 zroot/ROOT/img geli\n"; !strings.Contains(got, want) {
		t.Errorf("got\n%s", got)
	}
}

func TestEncryptedSwitch(t *testing.T) {
	b, err := manifest.InstalledSwitch("zroot/ROOT/webrig-15.1-1a2b3c4d5e6f", "kernel-0123456789ab", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"geom_eli_load=\"YES\"\n", "kern.geom.eli.tries=\"10\"\n", "kernel=\"kernel-0123456789ab\"\n"} {
		if !bytes.Contains(b[:512], []byte(want)) {
			t.Errorf("no %q in\n%s", want, bytes.TrimSpace(b))
		}
	}
}
