package vmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// double is a test that is watched.
type double struct {
	testing.TB
	said   string
	failed bool
}

func (d *double) Helper()      {}
func (d *double) Failed() bool { return d.failed }
func (d *double) Skip(args ...any) {
	d.said = "skip: " + fmt.Sprint(args...)
	runtime.Goexit()
}

func (d *double) Fatalf(format string, args ...any) {
	d.failed, d.said = true, "fatal: "+fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// watch runs f as a test of its own.
func watch(t *testing.T, f func(t testing.TB)) *double {
	d := &double{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(d)
	}()
	<-done
	return d
}

func TestNeed(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", empty)
	t.Setenv("RIG_SETS", "")
	t.Setenv("RIG_REQUIRE", "")
	need := func(t testing.TB) { Need(t) }
	before := len(state.skipped)
	if runtime.GOOS == "linux" {
		if d := watch(t, need); !strings.HasPrefix(d.said, "skip: SKIP-VM: no FreeBSD sets: ") || len(state.skipped) != before+1 {
			t.Errorf("no sets: %s, %v", d.said, state.skipped)
		}
		for why := range state.skipped { // not a test that was skipped in earnest
			if strings.Contains(why, empty) {
				delete(state.skipped, why)
			}
		}
		t.Setenv("RIG_REQUIRE", "fsck.fat,freebsd")
		if d := watch(t, need); !strings.HasPrefix(d.said, "fatal: RIG_REQUIRE=fsck.fat,freebsd: no FreeBSD sets") {
			t.Errorf("required: %s", d.said)
		}
		t.Setenv("RIG_REQUIRE", "")
	}
	t.Setenv("RIG_SETS", empty)
	if d := watch(t, need); !strings.HasPrefix(d.said, "fatal: RIG_SETS: no FreeBSD sets: stat "+empty+"/MANIFEST") {
		t.Errorf("empty RIG_SETS: %s", d.said)
	}
	for _, name := range []string{"MANIFEST", "base.txz", "kernel.txz"} {
		os.WriteFile(filepath.Join(empty, name), nil, 0o644)
	}
	if dir, err := FindSets(); err != nil || dir != empty {
		t.Errorf("sets: %s, %v", dir, err)
	}
}

func TestSlow(t *testing.T) {
	for env, want := range map[string]time.Duration{"": 2 * time.Second, "3": 6 * time.Second, "0.5": time.Second, "no": 2 * time.Second} {
		t.Setenv("RIG_VM_SLOW", env)
		if got := Slow(2 * time.Second); got != want {
			t.Errorf("RIG_VM_SLOW=%s: %v", env, got)
		}
	}
}

func TestMatrix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "matrix.md")
	rows := []Row{
		{"stick", "UEFI", "pass", 95600 * time.Millisecond, ""},
		{"in place", "BIOS", "fail", time.Minute, "a|b\nc"},
		{"stick", "BIOS", "skip", 0, "no sets"},
	}
	date := time.Date(2026, 11, 23, 23, 30, 0, 0, time.FixedZone("", -3600))
	for range 2 {
		if err := WriteMatrix(path, Matrix{Of: "v1-2-gabc", Date: date, Accel: "tcg", Rows: rows}); err != nil {
			t.Fatal(err)
		}
	}
	want := `# Boot tests

FreeBSD 15.1-RELEASE-amd64 in QEMU (tcg), 2026-11-24, commit v1-2-gabc: 1 passed, 1 failed, 1 skipped. Written by ` + "`make matrix`" + `.

| scenario | firmware | result | time | note |
|---|---|---|---:|---|
| in place | BIOS | fail | 60 s | a\|b c |
| stick | BIOS | skip | 0 s | no sets |
| stick | UEFI | pass | 96 s |  |
`
	if got, _ := os.ReadFile(path); string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".matrix*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRecord(t *testing.T) {
	t.Run("one", func(t *testing.T) { *Record(t, "scenario", "UEFI") = "noted" })
	last := state.rows[len(state.rows)-1]
	if last.Scenario != "scenario" || last.Result != "pass" || last.Note != "noted" {
		t.Errorf("%+v", last)
	}
	state.rows = state.rows[:len(state.rows)-1]
}

func TestDisks(t *testing.T) {
	image := filepath.Join(t.TempDir(), "img")
	os.WriteFile(image, []byte("the image"), 0o644)
	d := NewDisks(t, 4, 1<<20)
	d.Put(t, 1, image)
	c := d.Config(vm.BIOS, 3, 1)
	var order []int
	for _, disk := range c.Disks {
		order = append(order, disk.BootIndex)
	}
	if fmt.Sprint(order) != "[3 4 2 5]" {
		t.Errorf("boot order %v", order)
	}
	copied := d.Clone(t)
	b, err := os.ReadFile(copied.List[0].Path)
	if err != nil || len(b) != 1<<20 || !strings.HasPrefix(string(b), "the image\x00") {
		t.Errorf("clone: %d bytes, %v", len(b), err)
	}
	if w := copied.Without(1, 4); len(w.List) != 2 || w.List[0].Serial != "RIG-D2" || w.List[1].Serial != "RIG-D3" {
		t.Errorf("without: %+v", w.List)
	}
}

func TestShared(t *testing.T) {
	builds := 0
	build := func(t testing.TB) Disks {
		builds++
		return NewDisks(t, 1, 4096)
	}
	var seen []string
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			d := Shared(t, "ok", build)
			seen = append(seen, d.List[0].Path)
			if _, err := os.Stat(d.List[0].Path); err != nil {
				t.Error(err)
			}
		})
	}
	if builds != 1 || seen[0] == seen[1] {
		t.Errorf("%d builds, %v", builds, seen)
	}
	fails := func(t testing.TB) Disks { t.Fatalf("no boot"); return Disks{} }
	if d := watch(t, func(t testing.TB) { Shared(t, "bad", fails) }); d.said != "fatal: no boot" {
		t.Error(d.said)
	}
	if d := watch(t, func(t testing.TB) { Shared(t, "bad", fails) }); d.said != "fatal: bad, which this test starts from, was not made: see TestShared" {
		t.Error(d.said)
	}
}

// The boot sector of vm's tests stands in for FreeBSD.
func TestVM(t *testing.T) {
	NeedQEMU(t)
	code, err := os.ReadFile("../vm/testdata/echo.bin")
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "echo.img")
	os.WriteFile(image, append(append(code, make([]byte, 510-len(code))...), 0x55, 0xaa), 0o644)
	logs := t.TempDir()
	t.Setenv("RIG_VM_LOGS", logs)
	d := NewDisks(t, 2, 1<<20)
	d.Put(t, 2, image)
	c := d.Config(vm.BIOS, 2)
	c.Accel, c.CPUs, c.Memory = "tcg", 1, 64<<20

	v := Start(t, c)
	v.Expect(2*time.Minute, "> ")
	v.SendLine("hello")
	v.Expect(2*time.Minute, regexp.MustCompile(`hel+o\n`))
	times := 0
	v.FreezeAt(regexp.MustCompile(`^step \d+ done$`), func() {
		times++
		if !frozen(v.PID()) {
			t.Error("the machine runs while its disks are kept")
		}
	})
	v.Send("step 1 begun\rstep 2 done\rstep 3 done\r")
	v.Expect(2*time.Minute, regexp.MustCompile(`step 3 done\n`))
	if times != 1 || frozen(v.PID()) {
		t.Errorf("frozen %d times, now %t", times, frozen(v.PID()))
	}
	v.PowerOff()

	v = Start(t, c)
	v.Expect(2*time.Minute, "> ")
	v.Send(".")
	v.WaitExit(2*time.Minute, "guest-shutdown")
	d1 := watch(t, func(t testing.TB) { v.For(t).Expect(time.Second, "login:") })
	if !strings.HasPrefix(d1.said, `fatal: rig: expect "login:": the machine ended: guest-shutdown`) {
		t.Error(d1.said)
	}
	if names, _ := filepath.Glob(filepath.Join(logs, "TestVM-rig-[12].log")); len(names) != 2 {
		t.Errorf("logs: %v", names)
	}
}

func TestWaitLogin(t *testing.T) {
	for text, want := range map[string]string{
		"Sep 1 login[3]: x\r\n\r\nlogin: ":   "",
		"Trying to mount\r\n\r\nmountroot> ": `boot failed at "mountroot> "`,
		"a\r\npanic: vm_fault\r\n":           `boot failed at "panic: "`,
		"nothing\r\n":                        `wait for login: expect /(?m)^login: /`,
	} {
		s := &Session{Console: vm.NewConsole(&fakeConn{Reader: strings.NewReader(text)}, nil)}
		err := s.WaitLogin(context.Background(), time.Second)
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.HasPrefix(got, want) && want != "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

type fakeConn struct{ *strings.Reader }

func (fakeConn) Write(p []byte) (int, error) { return len(p), nil }
func (fakeConn) Close() error                { return nil }
