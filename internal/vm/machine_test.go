package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// needQEMU skips without QEMU, and fails where RIG_REQUIRE asks for it.
func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := FindQEMU(); err != nil {
		if strings.Contains(","+os.Getenv("RIG_REQUIRE")+",", ",qemu,") {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks
}

// echoDisk is a disk with the boot sector testdata/echo.asm.
func echoDisk(t testing.TB) string {
	code, err := os.ReadFile("testdata/echo.bin")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "echo.img")
	if err := os.WriteFile(path, bootSector(code), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func echoConfig(t testing.TB) Config {
	return Config{Firmware: BIOS, Accel: "tcg", CPUs: 1, Memory: 64 << 20, Dir: t.TempDir(),
		Disks: []Disk{{Path: echoDisk(t), Serial: "RIG-D1", BootIndex: 1}}}
}

func start(t *testing.T, c Config) *Machine {
	t.Helper()
	m, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.PowerOff)
	return m
}

func expect(t *testing.T, c *Console, patterns ...any) Match {
	t.Helper()
	m, err := c.ExpectIn(t.Context(), 2*time.Minute, patterns...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestMachine(t *testing.T) {
	needQEMU(t)
	t.Parallel()
	ctx := t.Context()
	c := echoConfig(t)
	c.Serials, c.SerialLog = 2, filepath.Join(c.Dir, "serial.log")
	c.NICs = []NIC{{MAC: "52:54:00:00:00:01", Net: "none"}, {MAC: "52:54:00:00:00:02", Net: "user"}}
	var raw bytes.Buffer
	c.SerialOut = &raw
	m := start(t, c)
	expect(t, m.Console, "rig boot sector\n> ")
	if err := m.Console.SendLine("hello, 123"); err != nil {
		t.Fatal(err)
	}
	if got := expect(t, m.Console, regexp.MustCompile(`(\w+), (\d+)\n`)); got.Groups[1] != "hello" || got.Groups[2] != "123" {
		t.Errorf("echo: %q", got.Groups)
	}
	if _, err := m.qmp.do(ctx, "system_reset", nil); err != nil {
		t.Fatal(err)
	}
	expect(t, m.Console, "rig boot sector\n> ")
	if _, err := m.qmp.do(ctx, "no_such", nil); err == nil || !strings.Contains(err.Error(), "qmp no_such: CommandNotFound") {
		t.Errorf("unknown command: %v", err)
	}
	if err := m.Console.Send("."); err != nil { // the guest powers off
		t.Fatal(err)
	}
	if err := m.Wait(ctx); err != nil || m.ExitReason() != "guest-shutdown" {
		t.Errorf("wait: %v, reason %q", err, m.ExitReason())
	}
	if alive(m.PID()) {
		t.Error("QEMU is alive")
	}
	_, err := m.Console.Expect(ctx, "more")
	if err == nil || !strings.Contains(err.Error(), "the machine ended: guest-shutdown") {
		t.Errorf("expect after the end: %v", err)
	}
	log, _ := os.ReadFile(c.SerialLog)
	if want := "rig boot sector\n> hello, 123\nrig boot sector\n> "; string(log) != want {
		t.Errorf("log %q, want %q", log, want)
	}
	if !strings.Contains(raw.String(), "sector\r\n") {
		t.Errorf("raw %q", raw.String())
	}
}

func TestMachineEnds(t *testing.T) {
	needQEMU(t)
	t.Parallel()
	c := echoConfig(t)
	c.RebootExits = true
	m := start(t, c)
	expect(t, m.Console, "> ")
	m.Console.Send("!")
	if err := m.Wait(t.Context()); err != nil || m.ExitReason() != "guest-reset" {
		t.Errorf("reboot: %v, reason %q", err, m.ExitReason())
	}

	m = start(t, c)
	m.PowerOff()
	if err := m.Wait(t.Context()); err != nil || alive(m.PID()) {
		t.Errorf("power cut: %v", err)
	}
	if _, err := m.Console.Expect(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "the machine ended: powered off") {
		t.Errorf("expect after a power cut: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	m, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := m.Wait(t.Context()); !errors.Is(err, context.Canceled) || alive(m.PID()) {
		t.Errorf("context: %v", err)
	}

	c.Extra = []string{"-no-such-option"}
	if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no-such-option: invalid option") {
		t.Errorf("bad option: %v", err)
	}
	c.Disks[0].Path = "/nonexistent.img"
	if _, err := Start(t.Context(), c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no disk: %v", err)
	}
}

// All buses at once: QEMU takes the command line and the firmware finds the disk.
func TestMachineBuses(t *testing.T) {
	needQEMU(t)
	t.Parallel()
	for _, bus := range []string{BusVirtio, BusNVMe, BusAHCI, BusSCSI, BusUSB, BusUSB2} {
		c := echoConfig(t)
		c.Disks[0].Bus, c.Disks[0].Snapshot = bus, true
		for i, other := range []string{BusVirtio, BusNVMe, BusAHCI, BusSCSI, BusUSB, BusUSB2, BusCD} {
			d := Disk{Path: filepath.Join(c.Dir, other), Serial: fmt.Sprintf("X%d", i), Bus: other, BootIndex: i + 2}
			if other == BusVirtio || other == BusNVMe {
				d.SectorSize = 4096
			}
			if err := CreateDisk(d.Path, 1<<20); err != nil {
				t.Fatal(err)
			}
			c.Disks = append(c.Disks, d)
		}
		m := start(t, c)
		expect(t, m.Console, "rig boot sector")
		m.PowerOff()
	}
}

func TestUEFI(t *testing.T) {
	needQEMU(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("some 10 s")
	}
	if _, _, err := FindOVMF(); err != nil {
		t.Skip(err)
	}
	c := echoConfig(t)
	c.Firmware, c.Memory = UEFI, 256<<20
	m := start(t, c)
	expect(t, m.Console, "BdsDxe", "UEFI Interactive Shell")
	if _, err := os.Stat(filepath.Join(c.Dir, varsName)); err != nil {
		t.Error(err)
	}
}

func TestDecideAccel(t *testing.T) {
	needQEMU(t)
	t.Setenv("RIG_ACCEL", "")
	start := time.Now()
	name, why := DecideAccel(t.Context())
	t.Logf("%s (%s) after %v", name, why, time.Since(start))
	if !strings.HasPrefix(name, "tcg") && why != "" || strings.HasPrefix(name, "tcg") && why == "" {
		t.Errorf("%s because %q", name, why)
	}
	if again, _ := DecideAccel(t.Context()); again != name {
		t.Errorf("then %s", again)
	}
	if err := probe(t.Context(), emulation(), 2*time.Minute); err != nil {
		t.Errorf("the probe under emulation: %v", err)
	}
	t.Setenv("RIG_ACCEL", "hvf")
	if name, _ := DecideAccel(t.Context()); name != "hvf" {
		t.Errorf("RIG_ACCEL=hvf: %s", name)
	}
}

// syncBuffer is a terminal's screen.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) wait(t *testing.T, n int, text string) {
	t.Helper()
	for range 2400 {
		s.mu.Lock()
		found := strings.Count(s.b.String(), text) >= n
		s.mu.Unlock()
		if found {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("no %q on the screen:\n%s", text, s.b.String())
}

// Run with the stick: types, reboots with disk 1 still empty (the stick is booted
// again), then with something on disk 1 (the stick is gone), then cuts the power.
func TestRun(t *testing.T) {
	needQEMU(t)
	t.Parallel()
	image, keep := echoDisk(t), t.TempDir()
	in, typed := io.Pipe()
	var screen syncBuffer
	ended := make(chan error)
	o := RunOptions{Image: image, Firmware: BIOS, Accel: "tcg", Keep: keep, Disks: 2, DiskSize: 4 << 20, Memory: 64 << 20, CPUs: 1}
	go func() { ended <- Run(t.Context(), o, in, &screen) }()
	screen.wait(t, 1, "Ctrl-] or Ctrl-a x cuts the power\r\n")
	screen.wait(t, 1, "> ")
	io.WriteString(typed, "hi\r!")
	screen.wait(t, 1, "> hi\r\n")
	screen.wait(t, 2, "rig boot sector\r\n> ")
	b, _ := os.ReadFile(image)
	f, err := os.OpenFile(diskPath(keep, 1), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(bytes.Replace(b, []byte("rig boot"), []byte("new boot"), 1))
	f.Close()
	io.WriteString(typed, "!")
	screen.wait(t, 1, "rig: rebooting with the stick pulled\r\n")
	screen.wait(t, 1, "new boot sector\r\n> ")
	io.WriteString(typed, "\x01x")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	screen.wait(t, 1, "rig: power cut\r\n")
	if fi, err := os.Stat(diskPath(keep, 2)); err != nil || fi.Size() != 4<<20 {
		t.Errorf("disk 2: %v %v", fi, err)
	}
}

func TestRunInPlace(t *testing.T) {
	needQEMU(t)
	tmp := t.TempDir()
	t.Setenv("RIG_VM_DIR", tmp)
	var screen syncBuffer
	in, typed := io.Pipe()
	ended := make(chan error)
	o := RunOptions{Image: echoDisk(t), Firmware: BIOS, Accel: "tcg", InPlace: true, Disks: 2, DiskSize: 4 << 20, Memory: 64 << 20, CPUs: 1}
	go func() { ended <- Run(t.Context(), o, in, &screen) }()
	screen.wait(t, 1, "> ")
	if disks, _ := filepath.Glob(filepath.Join(tmp, "*", "disk*.img")); len(disks) != 2 {
		t.Errorf("disks: %v", disks)
	}
	io.WriteString(typed, ".")
	typed.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A process that is killed takes its machine along.
func TestNoLeak(t *testing.T) {
	if os.Getenv("RIG_TEST_LEAK") != "" {
		m, err := Start(t.Context(), echoConfig(t))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("pid %d\n", m.PID())
		time.Sleep(time.Minute)
		return
	}
	needQEMU(t)
	if dieWithParent() == nil {
		t.Skip("this system cannot")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNoLeak$")
	cmd.Env = append(os.Environ(), "RIG_TEST_LEAK=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for s := bufio.NewScanner(out); pid == 0 && s.Scan(); {
		fmt.Sscanf(s.Text(), "pid %d", &pid)
	}
	if pid == 0 || !alive(pid) {
		t.Fatalf("pid %d is not alive", pid)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for range 100 {
		if !alive(pid) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("QEMU %d outlives its parent", pid)
}
