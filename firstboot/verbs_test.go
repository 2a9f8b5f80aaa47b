package firstboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fakebsd"
	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
)

func TestApply(t *testing.T) {
	steps := []Step{
		{Name: "one", Title: "first", Cmds: []run.Cmd{run.New("true", "a b"), run.New("pw", "usermod")}},
		{Name: "two", Title: "second", Cmds: []run.Cmd{run.New("false"), run.New("never")}},
		{Name: "three", Title: "third", Cmds: []run.Cmd{run.New("never")}},
	}
	steps[0].Cmds[1].Stdin, steps[0].Cmds[1].Secret = []byte("hunter2\n"), true
	var log bytes.Buffer
	var told []string
	m := &Machine{Log: NewJournal(&log), Run: run.NewScript(t, run.Expect{Line: "true 'a b'"}, run.Expect{Line: "pw usermod", Stdin: "hunter2\n"},
		run.Expect{Line: "false", Status: 3, Stderr: "no\n"})}
	err := m.Apply(context.Background(), steps, func(i, n int, s Step) { told = append(told, fmt.Sprintf("%d/%d %s", i, n, s.Name)) })
	var se *StepError
	if !errors.As(err, &se) || se.Step.Name != "two" || err.Error() != "step two (second): false: exit status 3: no" {
		t.Errorf("%v", err)
	}
	if got := strings.Join(told, ", "); got != "1/3 one, 2/3 two" {
		t.Errorf("told %s", got)
	}
	want := "rig: step 1/3 one: first\n+ true 'a b'\n+ pw usermod\nrig: step 2/3 two: second\n+ false\nrig: step two failed: false: exit status 3: no\n"
	if log.String() != want {
		t.Errorf("log:\n%s", log.String())
	}
	if len(m.Log.steps) != 2 || m.Log.steps[0].Error != "" || m.Log.steps[1].Error != "false: exit status 3: no" {
		t.Errorf("results %+v", m.Log.steps)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	m = &Machine{Log: NewJournal(&log), Run: run.NewScript(t)}
	if err := m.Apply(ctx, steps, nil); !errors.Is(err, context.Canceled) || !errors.As(err, &se) || se.Step.Name != "one" {
		t.Errorf("cancelled: %v", err)
	}
	if err := m.Apply(context.Background(), nil, nil); err != nil {
		t.Error(err)
	}
}

func TestExecUsage(t *testing.T) {
	m := &Machine{Run: run.NewScript(t)} // nothing may run
	for line, want := range map[string]string{
		"riginstall do":             "riginstall do: no verb given; there are answers, base-packages, ",
		"riginstall do nonsense":    "riginstall do nonsense: no such verb; there are answers, base-packages, ",
		"riginstall do put a b":     "riginstall do put a b: usage: riginstall do put FILE UID:GID MODE",
		"riginstall do verify-boot": "riginstall do verify-boot: ",
		"riginstall do switch a":    "riginstall do switch a: usage: riginstall do switch RIG-PARTITION DATASET …",
		"riginstall do unpack a b":  "riginstall do unpack a b: the image is not known",
		"riginstall do render /x":   "riginstall do render /x: the image is not known",
		"riginstall do result /x":   "riginstall do result /x: the image is not known",
	} {
		err := m.Exec(context.Background(), run.New(strings.Fields(line)...))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
		code := 2
		if strings.Contains(want, "not known") {
			code = 1
		}
		if diag.ExitCode(err) != code {
			t.Errorf("%s: exit status %d, want %d", line, diag.ExitCode(err), code)
		}
	}
}

// carry carries out one verb.
func carry(m *Machine, line string, stdin string) error {
	return m.Exec(context.Background(), run.Cmd{Argv: append([]string{place.Self, "do"}, strings.Fields(line)...), Stdin: []byte(stdin)})
}

func TestPutMkdirZero(t *testing.T) {
	m := &Machine{Root: t.TempDir()}
	me := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	for _, line := range []string{"mkdir /a/b " + me + " 0750", "put /a/b/f " + me + " 0640", "put /a/b/f " + me + " 0400"} {
		if err := carry(m, line, line); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(m.Root, "a/b/f")
	if b, err := os.ReadFile(file); err != nil || string(b) != "put /a/b/f "+me+" 0400" {
		t.Errorf("%q, %v", b, err)
	}
	for name, want := range map[string]os.FileMode{"a": 0o755, "a/b": 0o750, "a/b/f": 0o400} {
		if st, err := os.Stat(filepath.Join(m.Root, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	for line, want := range map[string]string{
		"put /a/b/f root:wheel 0600":    `owner "root:wheel" is not uid:gid`,
		"put /a/b/f " + me + " rw":      `mode "rw" is not octal`,
		"put /none/f " + me + " 0600":   "no such file or directory",
		"mkdir /a/b/f/g " + me + " 755": "not a directory",
		"zero none 0 1":                 "no such file or directory",
		"zero disk x 1":                 "invalid syntax",
	} {
		if err := carry(m, line, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
	if list, _ := os.ReadDir(filepath.Join(m.Root, "a/b")); len(list) != 1 {
		t.Errorf("left behind: %v", list)
	}

	disk := filepath.Join(m.Root, "dev/disk")
	content := bytes.Repeat([]byte{0xaa}, 3<<20)
	if err := errors.Join(os.Mkdir(filepath.Dir(disk), 0o755), os.WriteFile(disk, content, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := carry(m, "zero disk 512 1049088", ""); err != nil {
		t.Fatal(err)
	}
	clear(content[512 : 512+1049088])
	if b, _ := os.ReadFile(disk); !bytes.Equal(b, content) {
		t.Error("zero wrote something else")
	}
}

// machine is a fake FreeBSD's with its medium in place and nothing installed.
func machine(t *testing.T) (*fakebsd.Machine, *Machine) {
	t.Helper()
	f := fakebsd.New(t, true)
	set, err := answers.Resolve(f.Man.Questions, answers.Source{Name: "a", Data: []byte(fakebsd.Answers)})
	f.Check(err)
	f.Check(f.Mount("da0p3"))
	for _, name := range []string{"vtbd0p2", "vtbd0p3", "vtbd1p2", "vtbd1p3"} { // full of something else
		size := f.Man.Boot.ESPSize
		if strings.HasSuffix(name, "p3") {
			size = f.Man.Boot.RigSize
		}
		f.Check(os.WriteFile(f.Dev(name), bytes.Repeat([]byte("old content "), int(size)/12+1)[:size], 0o600))
	}
	return f, &Machine{Root: f.Root, Manifest: f.Man, Answers: set, Run: f, Log: NewJournal(&bytes.Buffer{})}
}

func TestBootPartitionsAlike(t *testing.T) {
	f, m := machine(t)
	for _, d := range []string{"vtbd0", "vtbd1"} {
		f.Check(carry(m, "copy-rig /dev/da0p3 /dev/"+d+"p3", ""))
		f.Check(carry(m, "write-esp /dev/da0p3 /dev/"+d+"p2", ""))
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(f.Dev(name))
		f.Check(err)
		return b
	}
	listing := func(part string) string {
		var b bytes.Buffer
		d, fsys, err := disk.OpenRig(f.Dev(part), f.Man.Boot.RigSize, false)
		f.Check(err)
		defer d.Close()
		tr, err := fsys.Tree()
		f.Check(err)
		if tr, err = tr.Filter(func(e *tree.Entry) bool { return e.Path != manifest.SwitchFile }); err == nil {
			err = tr.WriteMtree(&b, true)
		}
		f.Check(err)
		return b.String()
	}
	// plain is a rig partition without the text of its switch.
	plain := func(part string) []byte {
		d, fsys, err := disk.OpenRig(f.Dev(part), f.Man.Boot.RigSize, false)
		f.Check(err)
		defer d.Close()
		at, err := fsys.Ranges(manifest.SwitchFile)
		f.Check(err)
		b := read(part)
		clear(b[at[0].Off:][:at[0].Len])
		return b
	}
	medium := func(part string) string {
		text, err := disk.ReadSwitch(f.Dev(part), f.Man.Boot.RigSize)
		f.Check(err)
		return manifest.MediumOf(text)
	}
	if a, b := listing("da0p3"), listing("vtbd0p3"); a != b {
		t.Errorf("the copy is not the source:\n%s\n%s", a, b)
	}
	if !strings.Contains(listing("vtbd0p3"), "./"+manifest.ConfDir+" type=dir") {
		t.Error("loader.conf.d is missing")
	}
	if !bytes.Equal(plain("vtbd0p3"), plain("vtbd1p3")) {
		t.Error("two copies differ")
	}
	if a, b, c := medium("da0p3"), medium("vtbd0p3"), medium("vtbd1p3"); a != manifest.RawMedium || len(b) != 16 || len(c) != 16 || b == c {
		t.Errorf("ids %s, %s, %s; want one of its own for each copy", a, b, c)
	}
	if err := carry(m, "verify-boot vtbd0 vtbd1", ""); err != nil {
		t.Error(err)
	}

	// Switching changes one block, and a copy of a switched disk is a fresh one.
	before, was := read("vtbd0p3"), plain("vtbd0p3")
	f.Check(carry(m, "switch /dev/vtbd0p3 zroot/ROOT/x kernel-1", ""))
	after := read("vtbd0p3")
	first, last := -1, -1
	for i := range before {
		if before[i] != after[i] {
			if last = i; first < 0 {
				first = i
			}
		}
	}
	if first < 0 || first/manifest.SwitchSize != last/manifest.SwitchSize || first%manifest.SwitchSize >= 512 {
		t.Errorf("the switch changed bytes %d to %d", first, last)
	}
	if sw, err := disk.ReadSwitch(f.Dev("vtbd0p3"), f.Man.Boot.RigSize); err != nil || !strings.Contains(string(sw), `vfs.root.mountfrom="zfs:zroot/ROOT/x"`) ||
		!strings.Contains(string(sw), `kernel="kernel-1"`) {
		t.Errorf("%q, %v", sw, err)
	}
	f.Check(carry(m, "copy-rig /dev/vtbd0p3 /dev/vtbd1p3", ""))
	if !bytes.Equal(plain("vtbd1p3"), was) || len(medium("vtbd1p3")) != 16 {
		t.Error("the copy of a switched disk is switched")
	}

	// What is damaged is named, with its disk.
	f.Flip("vtbd1p3", f.Man.Layers[1].Path())
	f.Flip("vtbd0p3", manifest.MFSRoot)
	err := carry(m, "verify-boot vtbd0 vtbd1", "")
	want := fmt.Sprintf("riginstall do verify-boot vtbd0 vtbd1: vtbd0: %s: content differs from the manifest\nvtbd1: %s: content differs from the manifest",
		manifest.MFSRoot, f.Man.Layers[1].Path())
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	f.Check(carry(m, "write-esp /dev/da0p3 /dev/vtbd1p2", ""))
	f.Check(os.WriteFile(f.Dev("vtbd0p2"), make([]byte, f.Man.Boot.ESPSize), 0o600))
	if err := carry(m, "verify-boot vtbd0", ""); err == nil || !strings.Contains(err.Error(), "vtbd0: ") {
		t.Errorf("an empty ESP: %v", err)
	}
	if err := carry(m, "copy-rig /dev/vtbd0p2 /dev/vtbd1p3", ""); err == nil {
		t.Error("copied from an ESP")
	}
}

func TestForgetAnswers(t *testing.T) {
	f, m := machine(t)
	before, err := os.ReadFile(f.Dev("da0p2"))
	f.Check(err)
	if !bytes.Contains(before, []byte("0123456789abcdef")) {
		t.Fatal("no answers to forget")
	}
	f.Check(carry(m, "forget-answers /dev/da0p2", ""))
	after, err := os.ReadFile(f.Dev("da0p2"))
	f.Check(err)
	if bytes.Contains(after, []byte("0123456789abcdef")) || bytes.Contains(after, []byte("saltsalt")) {
		t.Error("secrets are still there")
	}
	b, err := disk.ReadESPFile(f.Dev("da0p2"), f.Man.Boot.ESPSize, manifest.AnswersFile)
	if err != nil || !strings.HasPrefix(string(b), "# used and wiped by riginstall\n") || strings.TrimSpace(string(b)) != "# used and wiped by riginstall" {
		t.Errorf("%q, %v", b, err)
	}
	if set, err := answers.Resolve(f.Man.Questions, answers.Source{Name: "a", Data: b}); err != nil || set.Bool(answers.KeyUnattended) {
		t.Errorf("wiped answers say %v, %v", set, err)
	}
	f.Check(carry(m, "forget-answers /dev/da0p2", "")) // twice
	f.Check(carry(m, "write-esp /dev/da0p3 /dev/vtbd0p2", ""))
	f.Check(carry(m, "forget-answers /dev/vtbd0p2", "")) // none there
}

// The ESP of a disk with sectors of 4096 bytes is a file system of such sectors, and
// answers come and go on it as on others.
func TestESPOf4Kn(t *testing.T) {
	f, m := machine(t)
	f.Check(carry(m, "copy-rig /dev/da0p3 /dev/vtbd0p3", ""))
	f.Check(carry(m, "write-esp /dev/da0p3 /dev/vtbd0p2 4096", ""))
	b, err := os.ReadFile(f.Dev("vtbd0p2"))
	f.Check(err)
	if b[11] != 0 || b[12] != 4096>>8 { // BPB_BytsPerSec
		t.Errorf("sectors of %#x%02x bytes", b[12], b[11])
	}
	if _, ok := referee.Find("fsck.fat"); ok {
		referee.Run(t, "fsck.fat", "-n", f.Dev("vtbd0p2"))
	}
	f.Check(carry(m, "verify-boot vtbd0", ""))
	if _, err := disk.ReadESPFile(f.Dev("vtbd0p2"), f.Man.Boot.ESPSize, manifest.AnswersFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("answers on a fresh ESP: %v", err)
	}
	f.Check(carry(m, "forget-answers /dev/vtbd0p2", ""))
	if err := carry(m, "write-esp /dev/da0p3 /dev/vtbd0p2 many", ""); err == nil || !strings.Contains(err.Error(), "sector size of /dev/vtbd0p2: ") {
		t.Errorf("sectors of many bytes: %v", err)
	}
}

func TestCheckFilesAndPool(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "mnt/etc"), 0o755), os.WriteFile(filepath.Join(root, "mnt/etc/pf.conf"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	m := &Machine{Root: root, Run: run.NewScript(t,
		run.Expect{Line: "chroot /mnt /sbin/pfctl -nf /etc/pf.conf", Status: 1, Stderr: "/etc/pf.conf:3: syntax error\n"},
		run.Expect{Line: "zpool status -j --json-int zroot", Stdout: fakebsd.ModuleFile(t, "zfs/testdata/status-healthy.json")},
		run.Expect{Line: "zpool status -j --json-int zroot", Stdout: fakebsd.ModuleFile(t, "zfs/testdata/status-healthy.json")})}
	if err := carry(m, "check-files /mnt", ""); err == nil || !strings.HasSuffix(err.Error(), "exit status 1: /etc/pf.conf:3: syntax error") {
		t.Error(err)
	}
	if err := carry(m, "verify-pool zroot 2 2", ""); err != nil {
		t.Error(err)
	}
	if err := carry(m, "verify-pool zroot 3 1", ""); err == nil ||
		err.Error() != "riginstall do verify-pool zroot 3 1: mirror-0 has 2 members, not 3; pool zroot has 2 spares, not 1" {
		t.Error(err)
	}
}

func TestInspectState(t *testing.T) {
	f := readFacts(t, "restart")
	m := fakebsd.Manifest()
	for _, tt := range []struct {
		name   string
		script []run.Expect
		image  string
		err    string
	}{
		{"complete", []run.Expect{{Line: "kldload -n zfs"}, {Line: "zpool import -f -N -o readonly=on -R /mnt 77"},
			{Line: "zfs get -Hp -o value rig:complete zroot-0a1b2c3d", Stdout: m.Image + "\n"}, {Line: "zpool export zroot-0a1b2c3d"}}, m.Image, ""},
		{"begun", []run.Expect{{Line: "kldload -n zfs"}, {Line: "zpool import -f -N -o readonly=on -R /mnt 77"},
			{Line: "zfs get -Hp -o value rig:complete zroot-0a1b2c3d", Stdout: "-\n"}, {Line: "zpool export zroot-0a1b2c3d"}}, "", ""},
		{"not importable", []run.Expect{{Line: "kldload -n zfs"}, {Line: "zpool import -f -N -o readonly=on -R /mnt 77", Status: 1, Stderr: "I/O error"}}, "", ""},
		{"no zfs", []run.Expect{{Line: "kldload -n zfs", Status: 1, Stderr: "kldload: can't load zfs"}}, "", "kldload -n zfs: exit status 1: kldload: can't load zfs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Inspect(context.Background(), run.NewScript(t, tt.script...), "", f, m, "")
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("%v", err)
				}
				return
			}
			var left []string
			for _, d := range s.Unfinished {
				left = append(left, d.Name)
			}
			if err != nil || s.PoolImage != tt.image || s.Complete(m.Image) != (tt.image != "") || !slices.Equal(left, []string{"vtbd0", "vtbd1", "vtbd2"}) {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
	// Blank disks and the pool of somebody else are not imported.
	for _, name := range []string{"stick", "wipe"} {
		if s, err := Inspect(context.Background(), run.NewScript(t), "", readFacts(t, name), m, ""); err != nil || s.PoolImage != "" || s.Unfinished != nil {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

func TestScriptIsSafe(t *testing.T) {
	steps := []Step{{Name: "a", Title: "wipe da0 (pool x\nrm -rf /\x1b[2J)", Cmds: []run.Cmd{
		run.New("gpart", "modify", "-l", "it's $(x)", "da0"), put("/f", "0:0", "0600", "EOF\n$x `y`\n"), put("/g", "0:0", "0600", "no newline"),
		{Argv: do("put", "/h", "0:0", "0600").Argv, Stdin: []byte("hunter2"), Secret: true},
	}}}
	want := `#!/bin/sh -e

# 1/1 a: wipe da0 (pool x?rm -rf /?[2J)
gpart modify -l 'it'\''s $(x)' da0
riginstall do put /f 0:0 0600 << 'EOF_'
EOF
$x ` + "`y`" + `
EOF_
printf %s 'no newline' | riginstall do put /g 0:0 0600
riginstall do put /h 0:0 0600 < SECRET # 7 bytes, not shown
`
	if got := script(t, steps); got != want {
		t.Errorf("got\n%s", got)
	}
}
