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

	"rig/answers"
	"rig/internal/diag"
	"rig/internal/prompt"
	"rig/internal/run"
	"rig/manifest"
	"rig/zfs"
)

const passphrase = "correct horse battery"

// geli keeps what geli(8) does to the partitions. A name is a partition's, or
// gpt/LABEL.
func (f *fakeBSD) geli(verb, name, pass string, readOnly bool) error {
	name = strings.TrimPrefix(name, devDir)
	if label, ok := strings.CutPrefix(name, "gpt/"); ok {
		if name = f.labelled(label); name == "" {
			return errors.New("No such device: " + label)
		}
	}
	switch verb {
	case "init":
		if f.opened[name] || f.imported {
			return errors.New("Operation not permitted")
		}
		if f.sealed == nil {
			f.sealed = map[string]string{}
		}
		f.sealed[name] = pass
		w, err := os.OpenFile(f.dev(name), os.O_WRONLY, 0)
		f.check(err)
		st, err := w.Stat()
		f.check(err)
		_, err = w.WriteAt([]byte("GEOM::ELI"), st.Size()-512)
		f.check(errors.Join(err, w.Close()))
	case "attach":
		if f.sealed[name] != pass || f.opened[name] {
			return errors.New("Wrong key for " + name)
		}
		f.opened[name] = true
		inside, err := os.OpenFile(f.dev(name+".eli"), os.O_CREATE|os.O_RDWR, 0o600)
		f.check(err)
		st, err := os.Stat(f.dev(name))
		f.check(errors.Join(err, inside.Truncate(st.Size()-geliSector), inside.Close()))
	case "detach":
		if !f.opened[name] || f.imported {
			return errors.New("Device busy")
		}
		delete(f.opened, name)
	}
	return nil
}

// encryptedInstaller is a run on a machine whose answers ask for encryption.
func (f *fakeBSD) encryptedInstaller() (*Installer, *bytes.Buffer) {
	in, out := f.installer()
	in.AnswersFile = filepath.Join(f.root, "passphrase.toml")
	f.check(os.WriteFile(in.AnswersFile, []byte("[install]\npassphrase = '"+passphrase+"'\n"), 0o600))
	return in, out
}

func (f *fakeBSD) sealedAll() {
	f.t.Helper()
	if len(f.sealed) != 4 || len(f.opened) != 0 {
		f.t.Errorf("encrypted %v, still open %v", f.sealed, f.opened)
	}
	for _, p := range f.sealed {
		if p != passphrase {
			f.t.Errorf("passphrase %q", p)
		}
	}
}

func TestInstallEncrypted(t *testing.T) {
	for name, stick := range map[string]bool{"from a stick": true, "in place": false} {
		t.Run(name, func(t *testing.T) {
			f := newBSD(t, stick)
			in, out := f.encryptedInstaller()
			if _, err := in.Install(context.Background()); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			f.installed()
			f.sealedAll()
			read := func(name string) string {
				b, err := os.ReadFile(filepath.Join(f.root, "mnt", name))
				f.check(err)
				return string(b)
			}
			for _, text := range []string{out.String(), strings.Join(f.lines, "\n"), read("var/db/rig/result.json"), read("var/db/rig/install.log")} {
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
			f.reboot()
			in, _ = f.encryptedInstaller()
			if _, err := in.Install(context.Background()); !errors.Is(err, ErrInstalled) {
				t.Errorf("second run: %v", err)
			}
			f.installed()
			f.sealedAll()

			// Without the passphrase it cannot know, and says so; the disks are
			// somebody's. They show that they hold something.
			for _, c := range []struct{ pass, want string }{
				{"", "rig: the pool on vtbd0, vtbd1, vtbd2, vtbd3 is encrypted and there is no install.passphrase: whether an installation there was complete is not known"},
				{"another one altogether", "rig: the pool on vtbd0, vtbd1, vtbd2, vtbd3 is encrypted and install.passphrase does not open it: whether an installation there was complete is not known"},
			} {
				f.reboot()
				in, out := f.installer()
				if c.pass != "" {
					in, out = f.encryptedInstaller()
					f.check(os.WriteFile(in.AnswersFile, []byte("[install]\npassphrase = '"+c.pass+"'\n"), 0o600))
				}
				_, err := in.Install(context.Background())
				if err == nil || errors.Is(err, ErrInstalled) || stick && (diag.ExitCode(err) != 2 || !strings.Contains(err.Error(), "(GELI)")) {
					t.Errorf("passphrase %q: %v", c.pass, err)
				}
				if !strings.Contains(out.String(), c.want) {
					t.Errorf("it says\n%s", out)
				}
				f.sealedAll()
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
			f := newBSD(t, false)
			in, out := f.encryptedInstaller()
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
			f.reboot()
			finished := f.prop != ""
			in, out = f.encryptedInstaller()
			if _, err := in.Install(context.Background()); err != nil && !errors.Is(err, ErrInstalled) {
				t.Errorf("the next start fails: %v", err)
			}
			if again := strings.Contains(out.String(), " encrypt-vtbd0: "); again == finished {
				t.Errorf("the pool was complete: %v, encrypted once more: %v", finished, again)
			}
			f.installed()
			f.sealedAll()
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}

// A step that fails leaves no disk open: the next run in the same session completes.
func TestEncryptedStepFails(t *testing.T) {
	f := newBSD(t, false)
	f.fail["zfs create -p -o canmount=noauto zroot"] = "out of space"
	in, _ := f.encryptedInstaller()
	if _, err := in.Install(context.Background()); err == nil || len(f.opened) != 0 {
		t.Fatalf("%v; open: %v", err, f.opened)
	}
	clear(f.fail)
	in, out := f.encryptedInstaller()
	if _, err := in.Install(context.Background()); err != nil {
		t.Fatalf("second run: %v\n%s", err, out)
	}
	f.installed()
	f.sealedAll()
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
	f := newBSD(t, false)
	in, out := f.encryptedInstaller()
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
	f.reboot()
	in, out = f.installer()
	p := &typist{types: []string{"not this one", passphrase}}
	in.Prompt = p
	if _, err := in.Install(context.Background()); err != nil || !slices.Equal(p.notes, []string{"it opens none of these disks"}) {
		t.Fatalf("%v, %q\n%s", err, p.notes, out)
	}
	if !strings.Contains(out.String(), "rig: the pool is complete; switching the 2 disks an interrupted install left") || strings.Contains(out.String(), passphrase) {
		t.Errorf("%s", out)
	}
	f.installed()
	f.sealedAll()
}

func TestInspectEncrypted(t *testing.T) {
	m := testManifest()
	part := func(i int, label, holds string) Partition {
		return Partition{Index: i, Name: fmt.Sprintf("vtbd0p%d", i), Label: label, Holds: holds}
	}
	disk := func(parts ...Partition) *Facts { return &Facts{Disks: []Disk{{Name: "vtbd0", Partitions: parts}}} }
	ours := disk(part(3, "rig-S1", "ufs2"), part(5, "geli-S1", "GELI"))
	attach := run.Expect{Line: "geli attach -r -j - /dev/vtbd0p5", Stdin: "p\n"}
	for _, tt := range []struct {
		name   string
		facts  *Facts
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
			f := &fakeBSD{t: t, root: t.TempDir(), poolName: "zroot-0a1b2c3d"}
			f.check(errors.Join(os.Mkdir(filepath.Join(f.root, "dev"), 0o755), os.WriteFile(f.dev("vtbd0p5.eli"), make([]byte, 4<<20), 0o600)))
			if tt.name != "no pool inside" {
				f.label("vtbd0p5.eli")
			}
			s, err := Inspect(context.Background(), run.NewScript(t, tt.script...), f.root, tt.facts, m, tt.pass)
			if tt.err != "" {
				wantText(t, err, tt.err)
				return
			}
			if err != nil || s.Encrypted != tt.want.Encrypted || s.Pool != tt.want.Pool || s.PoolImage != tt.want.PoolImage || len(s.Locked) != len(tt.want.Locked) {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

func TestFinishPlanEncrypted(t *testing.T) {
	got := script(t, FinishPlan(manifest.Unit{Pool: "zroot", Name: "img"}, "vtbd0p3", []Disk{{Name: "vtbd1", Serial: "S2"}}, true))
	if want := "riginstall do switch /dev/vtbd1p3 zroot/ROOT/img geli\n"; !strings.Contains(got, want) {
		t.Errorf("got\n%s", got)
	}
}

// encryptedMesh is a machine of three encrypted disks: S1 was opened at the start,
// S2-x by hand, and S3 not.
const encryptedMesh = `<mesh>
<class><name>PART</name><geom><name>vtbd0</name><provider id="p1"><name>vtbd0p5</name></provider><provider id="r1"><name>vtbd0p3</name></provider></geom>
<geom><name>vtbd1</name><provider id="p2"><name>vtbd1p5</name></provider><provider id="r2"><name>vtbd1p3</name></provider></geom>
<geom><name>vtbd2</name><provider id="p3"><name>vtbd2p5</name></provider><provider id="w3"><name>vtbd2p4</name></provider></geom></class>
<class><name>LABEL</name><geom><consumer><provider ref="r1"/></consumer><provider id="l1"><name>gpt/rig-S1</name></provider></geom>
<geom><consumer><provider ref="r2"/></consumer><provider id="l2"><name>gpt/rig-S2-x</name></provider></geom>
<geom><consumer><provider ref="p2"/></consumer><provider id="g2"><name>gpt/geli-S2-x</name></provider></geom>
<geom><consumer><provider ref="p3"/></consumer><provider id="l3"><name>gpt/geli-S3</name></provider></geom></class>
<class><name>ELI</name><geom><name>vtbd0p5.eli</name><config><Flags>BOOT, AUTORESIZE</Flags><KeyLength>256</KeyLength><EncryptionAlgorithm>AES-XTS</EncryptionAlgorithm></config>
<consumer><provider ref="p1"/></consumer><provider id="e1"><name>vtbd0p5.eli</name></provider></geom>
<geom><name>vtbd1p5.eli</name><config><Flags>AUTORESIZE</Flags><KeyLength>128</KeyLength><EncryptionAlgorithm>AES-XTS</EncryptionAlgorithm></config>
<consumer><provider ref="p2"/></consumer><provider id="e2"><name>vtbd1p5.eli</name></provider></geom>
<geom><name>vtbd2p4.eli</name><config><Flags>ONETIME, W-DETACH</Flags><KeyLength>128</KeyLength><EncryptionAlgorithm>AES-XTS</EncryptionAlgorithm></config>
<consumer><provider ref="w3"/></consumer><provider id="e3"><name>vtbd2p4.eli</name></provider></geom></class></mesh>`

func TestParseGELI(t *testing.T) {
	s, err := parseGELI([]byte(encryptedMesh))
	if err != nil || !s.boot || s.under["vtbd0p5.eli"] != "AES-XTS 256" || s.under["vtbd1p5.eli"] != "AES-XTS 128" || s.under["vtbd0p5"] != "" ||
		!slices.Equal(s.locked, []string{"vtbd2p5"}) || s.serials["vtbd0p5.eli"] != "S1" || s.serials["vtbd1p5.eli"] != "S2-x" || len(s.serials) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	// Swap alone needs nothing at the start.
	if s, err := parseGELI([]byte(strings.Replace(encryptedMesh, "BOOT, ", "", 1))); err != nil || s.boot {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := parseGELI([]byte("<mesh")); err == nil || !strings.HasPrefix(err.Error(), "decode kern.geom.confxml: ") {
		t.Error(err)
	}
	if s, err := askGELI(t.Context(), run.NewScript(t, run.Expect{Line: "sysctl -b kern.geom.confxml", Stdout: encryptedMesh})); err != nil || !s.boot {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestVerifyEncryption(t *testing.T) {
	st := &zfs.PoolStatus{Name: "zroot",
		Vdevs:  []zfs.Vdev{{Name: "mirror-0", Type: "mirror", Children: []zfs.Vdev{disk("S1", "ONLINE", 0), disk("S2", "ONLINE", 0)}}},
		Spares: []zfs.Vdev{disk("S3", "UNAVAIL", 0)}}
	all := map[string]string{"gpt/zfs-S1": "AES-XTS 256", "gpt/zfs-S2": "AES-XTS 256"}
	for _, tt := range []struct {
		name   string
		geli   geliState
		wished bool
		want   []string
	}{
		{"not wanted", geliState{}, false, []string{"skipped encryption: it was not asked for"}},
		{"all", geliState{boot: true, under: all}, true, []string{"ok encryption: all devices, AES-XTS 256; the passphrase is asked for at the start"}},
		{"one in the clear", geliState{boot: true, under: map[string]string{"gpt/zfs-S1": "AES-XTS 256"}}, true, []string{
			"error encryption: gpt/zfs-S2: in the pool and not encrypted -> take it out of the pool and partition it again; docs/operations.md says how a disk of an encrypted pool is replaced"}},
		{"wanted, and nothing is", geliState{}, true, []string{
			"error encryption: gpt/zfs-S1, gpt/zfs-S2: in the pool and not encrypted -> take it out of the pool and partition it again; docs/operations.md says how a disk of an encrypted pool is replaced"}},
		{"not at the start", geliState{under: all}, true, []string{
			"error encryption: no passphrase will be asked for at the start, and the pool not be found -> geli configure -b every disk's partition"}},
		{"one locked", geliState{boot: true, under: all, locked: []string{"vtbd2p5"}}, true, []string{
			"ok encryption: all devices, AES-XTS 256; the passphrase is asked for at the start",
			"warning vtbd2p5: it was not opened at the start -> geli attach /dev/vtbd2p5, then: zpool online zroot /dev/vtbd2p5.eli"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &rows{}
			compareEncryption(r, st, tt.geli, tt.wished)
			wantRows(t, r.list, tt.want...)
		})
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
