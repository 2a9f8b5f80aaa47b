package firstboot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fakebsd"
)

// checkInstalled checks a machine whose install ended: every disk boots the new
// system, has the same boot files and no answers; the pool is let go.
func checkInstalled(f *fakebsd.Machine) {
	f.T.Helper()
	want, err := manifest.InstalledSwitch(f.Unit().Root(), "", f.Sealed != nil)
	f.Check(err)
	b := disk.Boot{Root: f.Root, Manifest: f.Man}
	for i := range 4 {
		d := fmt.Sprintf("vtbd%d", i)
		if got := f.Part(d, 3).Label; got != fmt.Sprintf("rig-S%d", i+1) {
			f.T.Errorf("%s: rig partition is labelled %s", d, got)
		}
		if sw, err := disk.ReadSwitch(f.Dev(d+"p3"), f.Man.Boot.RigSize); err != nil || !bytes.Equal(sw, want) {
			f.T.Errorf("%s: switch %.60q, %v", d, sw, err)
		}
		if err := b.Verify([]string{d}); err != nil {
			f.T.Errorf("%s: %v", d, err)
		}
		esp, err := os.ReadFile(f.Dev(d + "p2"))
		f.Check(err)
		if bytes.Contains(esp, []byte("0123456789abcdef")) || bytes.Contains(esp, []byte("saltsalt")) {
			f.T.Errorf("%s: its ESP holds secrets", d)
		}
	}
	if f.Imported || f.Mounted || f.Prop != f.Man.Image {
		f.T.Errorf("pool imported %v, medium mounted %v, complete for %q", f.Imported, f.Mounted, f.Prop)
	}
}

func TestInstall(t *testing.T) {
	for name, stick := range map[string]bool{"from a stick": true, "in place": false} {
		t.Run(name, func(t *testing.T) {
			f := fakebsd.New(t, stick)
			in, out := installerOn(f)
			after, err := in.Install(context.Background())
			if err != nil || after != "poweroff" {
				t.Fatalf("%q, %v\n%s", after, err, out)
			}
			checkInstalled(f)
			read := func(name string) string {
				b, err := os.ReadFile(filepath.Join(f.Root, "mnt", name))
				f.Check(err)
				return string(b)
			}
			if got := read("etc/hostname"); got != "www\n" {
				t.Errorf("hostname %q", got)
			}
			if got := read("jails/pg_j/etc/key"); got != "0123456789abcdef0123456789abcdefpg_j\n" {
				t.Errorf("jail's key %q", got)
			}
			if st, err := os.Stat(filepath.Join(f.Root, "mnt/jails/pg_j/etc/key")); err != nil || st.Mode() != 0o600 {
				t.Errorf("jail's key: %v, %v", st, err)
			}
			if _, err := os.Stat(filepath.Join(f.Root, "mnt/etc/hostname.tmpl")); err == nil {
				t.Error("the template is still there")
			}
			var res place.Result
			f.Check(json.Unmarshal([]byte(read("var/db/rig/result.json")), &res))
			if res.Image != f.Man.Image || len(res.Steps) < 20 || res.Answers["secrets.tunnel"] != "[secret]" {
				t.Errorf("result %+v", res)
			}
			if got := f.Stdin["pw -R /mnt usermod -n root -H 0"]; !strings.HasPrefix(got, "$6$") || strings.Count(got, "\n") != 1 {
				t.Errorf("pw read %q", got)
			}
			for _, text := range []string{out.String(), strings.Join(f.Lines, "\n"), read("var/db/rig/result.json"), read("var/db/rig/install.log")} {
				if strings.Contains(text, "saltsalt") || strings.Contains(text, "0123456789abcdef0123456789abcdef") {
					t.Error("a secret is in a log, an argument or the result")
				}
			}

			// A second run refuses.
			f.Reboot()
			in, _ = installerOn(f)
			_, err = in.Install(context.Background())
			want := ErrInstalled.Error() + ": pool " + f.PoolName + " is complete with image " + f.Man.Image
			if !errors.Is(err, ErrInstalled) || err.Error() != want || !strings.Contains(diag.HintOf(err), "rig.force=YES") {
				t.Errorf("second run: %v; hint %s", err, diag.HintOf(err))
			}
			checkInstalled(f)
		})
	}
}

// installerOn is one run of riginstall on the machine.
func installerOn(f *fakebsd.Machine) (*Installer, *bytes.Buffer) {
	var out bytes.Buffer
	return &Installer{Root: f.Root, Out: &out, Run: f, Log: NewJournal(&out), Prober: facts.Prober{Run: f, OpenDisk: f.Open}, Datasets: f.Datasets}, &out
}

// The power goes at each step in turn. The next start either completes the
// install or finds it complete.
func TestPowerCut(t *testing.T) {
	step := regexp.MustCompile(`(?m)^rig: step (\d+)/(\d+) (\S+):`)
	done := false
	cut := 1
	for ; !done && !t.Failed(); cut++ {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			f := fakebsd.New(t, false)
			in, out := installerOn(f)
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
			var se *StepError
			if !errors.As(err, &se) {
				t.Fatal(err)
			}
			f.Reboot()
			in, out = installerOn(f)
			if _, err := in.Install(context.Background()); err != nil && !errors.Is(err, ErrInstalled) {
				t.Errorf("the next start fails: %v", err)
			}
			checkInstalled(f)
			if t.Failed() {
				t.Logf("the power went in step %s\n%s", se.Step.Name, out)
			}
		})
	}
	if cut < 20 {
		t.Errorf("only %d steps", cut)
	}
}

type writerFunc func([]byte)

func (w writerFunc) Write(b []byte) (int, error) { w(b); return len(b), nil }

// What goes wrong before the first step leaves the machine as it was, the medium
// not mounted, so that another try can follow.
func TestInstallRefuses(t *testing.T) {
	writes := regexp.MustCompile(`^(gpart|zpool create|zfs set|pw) `)
	for _, tt := range []struct {
		name, want string
		code       int
		spoil      func(f *fakebsd.Machine, in *Installer)
	}{
		{"a disk holds something", "vtbd1 (serial S2, 4G, unknown data (data at byte 1))", 2, func(f *fakebsd.Machine, _ *Installer) {
			f.Check(os.WriteFile(f.Dev("vtbd1"), bytes.Repeat([]byte("data"), 1<<20), 0o600))
			f.Check(os.Truncate(f.Dev("vtbd1"), 4<<30))
		}},
		{"a disk holds something behind its first MiB", "vtbd1 (serial S2, 4G, unknown data (data at byte 1048576))", 2, func(f *fakebsd.Machine, _ *Installer) {
			f.Check(os.WriteFile(f.Dev("vtbd1"), append(make([]byte, 1<<20), bytes.Repeat([]byte("data"), 1<<20)...), 0o600))
			f.Check(os.Truncate(f.Dev("vtbd1"), 4<<30))
		}},
		{"a disk too small", "vtbd3 (serial S4, 1G, blank): too small", 2, func(f *fakebsd.Machine, _ *Installer) {
			f.Disk("vtbd3").Size = 1 << 30
		}},
		{"a damaged layer", "layer base of vtbd0p3: ", 1, func(f *fakebsd.Machine, _ *Installer) { f.Flip("vtbd0p3", f.Man.Layers[0].Path()) }},
		{"another medium", `find the installation medium: no partition holds image "` + "IMAGE" + `"`, 1, func(f *fakebsd.Machine, _ *Installer) {
			f.Disk("vtbd0").Parts[2].Label = "data"
		}},
		{"wrong answers", "disks: found a string", 2, func(f *fakebsd.Machine, in *Installer) {
			in.AnswersFile = filepath.Join(f.Root, "a.toml")
			f.Check(os.WriteFile(in.AnswersFile, []byte("[server]\nnmae = 1\n[disks]\nmirror = \"S1\"\n"), 0o600))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := fakebsd.New(t, false)
			in, _ := installerOn(f)
			tt.spoil(f, in)
			_, err := in.Install(context.Background())
			want := strings.ReplaceAll(tt.want, "IMAGE", f.Man.Image)
			if err == nil || !strings.Contains(err.Error(), want) && tt.name != "wrong answers" {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if tt.name == "wrong answers" && (!strings.Contains(err.Error(), "server.nmae: unknown key") || !strings.Contains(err.Error(), "disks.mirror: ")) {
				t.Errorf("not all problems at once: %v", err)
			}
			if got := diag.ExitCode(err); got != tt.code {
				t.Errorf("exit status %d, want %d: %v", got, tt.code, err)
			}
			for _, l := range f.Lines {
				if writes.MatchString(l) {
					t.Errorf("ran %s", l)
				}
			}
			if f.Mounted {
				t.Error("the medium is still mounted")
			}
		})
	}
}

// A step that fails is named with its command and what that said; the next run
// in the same session completes.
func TestInstallStepFails(t *testing.T) {
	f := fakebsd.New(t, false)
	f.Fail["zfs create -p -o canmount=noauto zroot"] = "cannot create 'pg_j': out of space"
	in, _ := installerOn(f)
	_, err := in.Install(context.Background())
	var se *StepError
	if !errors.As(err, &se) || se.Step.Name != "jail-pg_j" || diag.ExitCode(err) != 1 ||
		!strings.HasSuffix(err.Error(), "exit status 1: cannot create 'pg_j': out of space") {
		t.Fatalf("%v", err)
	}
	clear(f.Fail)
	in, out := installerOn(f)
	if _, err := in.Install(context.Background()); err != nil {
		t.Fatalf("second run: %v\n%s", err, out)
	}
	checkInstalled(f)
}

func TestPlanOnly(t *testing.T) {
	f := fakebsd.New(t, true)
	in, out := installerOn(f)
	in.PlanOnly = true
	if after, err := in.Install(context.Background()); err != nil || after != "" {
		t.Fatal(after, err)
	}
	if text := out.String(); !strings.Contains(text, "#!/bin/sh -e\n") || !strings.Contains(text, "# 1/") || strings.Contains(text, "saltsalt") {
		t.Errorf("plan:\n%s", text)
	}
	for _, l := range f.Lines {
		if strings.HasPrefix(l, "gpart") || strings.HasPrefix(l, "zpool") {
			t.Errorf("ran %s", l)
		}
	}
	if f.Mounted {
		t.Error("the medium is still mounted")
	}
}
