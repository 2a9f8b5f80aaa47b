package vm

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/diag"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestArgv(t *testing.T) {
	four := []Disk{{Path: "d1.img", Serial: "RIG-D1", BootIndex: 2}, {Path: "d2.img", Serial: "RIG-D2", BootIndex: 3}}
	for name, c := range map[string]Config{
		"bios": {Firmware: BIOS, Disks: four},
		"uefi": {
			Name: "a,b", Dir: "/tmp/m", OVMFCode: "/usr/share/OVMF/CODE.fd", Accel: "kvm", Memory: 1 << 30, CPUs: 4, Serials: 2,
			Disks: append([]Disk{{Path: "/im,g/rig.img", Serial: "STICK", Bus: BusUSB, BootIndex: 1, Snapshot: true}}, four...),
			NICs: []NIC{{MAC: "52:54:00:00:00:01", Net: "user,net=192.0.2.0/24", Forwards: []Forward{{8443, 443}}},
				{MAC: "52:54:00:00:00:02"}, {MAC: "52:54:00:00:00:04", Cable: os.Stdin}, {MAC: "52:54:00:00:00:05", Cable: os.Stdin}, {MAC: "52:54:00:00:00:03", Net: "socket,mcast=230.0.0.1:1234", BootIndex: 9}},
			SMBIOS: []string{"type=1,serial=A1"}, RebootExits: true, Extra: []string{"-S"},
		},
		"buses": {Firmware: BIOS, Accel: "tcg,thread=multi", Display: true, Disks: []Disk{
			{Path: "a", Bus: BusAHCI}, {Path: "c.iso", Bus: BusCD, BootIndex: 1}, {Path: "n", Bus: BusNVMe, Serial: "N", SectorSize: 4096},
			{Path: "s1", Bus: BusSCSI}, {Path: "s2", Bus: BusSCSI, Format: "qcow2"}, {Path: "u", Bus: BusUSB, ReadOnly: true}, {Path: "u2", Bus: BusUSB2},
			{Path: "v", SectorSize: 4096, Cache: "writethrough"}}},
	} {
		t.Run(name, func(t *testing.T) {
			argv, err := c.Argv()
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(strings.Join(argv, "\n"), "\n-", "\n\n-") // a paragraph an option
			got = strings.ReplaceAll(strings.ReplaceAll(got, "\n\n-", "\x00-"), "\n", " ")
			got = strings.ReplaceAll(got, "\x00", "\n") + "\n"
			file := filepath.Join("testdata", name+".argv")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestArgvRefuses(t *testing.T) {
	c := Config{Memory: 5, CPUs: -1, Serials: 9, Disks: []Disk{
		{}, {Path: "a", Serial: "X"}, {Path: "b", Serial: "X"}, {Path: "c", Serial: strings.Repeat("s", 21)}, {Path: "d", Bus: "mfm"},
		{Path: "e", Bus: BusNVMe}, {Path: "f", Format: "vdi"}, {Path: "g", SectorSize: 520}, {Path: "h", Bus: BusAHCI, SectorSize: 4096}},
		NICs: []NIC{{MAC: "no"}, {MAC: "52:54:00:00:00:01"}, {MAC: "52:54:00:00:00:01", Net: "none", Forwards: []Forward{{1, 1}}},
			{MAC: "52:54:00:00:00:02", Net: "user", Cable: os.Stdin}}}
	_, err := c.Argv()
	if diag.ExitCode(err) != 2 {
		t.Fatalf("not bad input: %v", err)
	}
	for _, want := range []string{
		"memory 5: less than 1 MiB", "cpus -1: less than 1", "serials 9: not 1 to 4", "UEFI without OVMF's code", "UEFI without a directory",
		"disk 1: no path", `disk 3: serial "X" is disk 2's too`, "disk 4: serial \"sssssssssssssssssssss\" is longer than 20 bytes",
		`disk 5: unknown bus "mfm"`, "disk 6: an nvme disk needs a serial", `disk 7: unknown format "vdi"`,
		"disk 8: sector size 520 is neither", "disk 9: sector size 4096 on ahci", `nic 1: mac "no"`, "nic 3: mac 52:54:00:00:00:01 is nic 2's too",
		`nic 3: ports are forwarded on a "none" network`, `nic 4: a cable and a "user" network`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in\n%v", want, err)
		}
	}
}

func TestStrip(t *testing.T) {
	in := "\x1b[2J\x1b[01;01Hone\r\n\x1b]0;title\x07\x1b(Btwo\x1bP1;2|x\x1b\\\x1b[1m\x1b[33m three\x00\b\x1b7\x1b[?25l\tä\x1b]x\x1b[Kend\r"
	want := "one\ntwo three\täend"
	for size := 1; size < len(in); size++ {
		var s stripper
		var got []byte
		for b := []byte(in); len(b) > 0; b = b[min(size, len(b)):] {
			got = s.append(got, b[:min(size, len(b))])
		}
		if string(got) != want {
			t.Fatalf("in chunks of %d: got %q, want %q", size, got, want)
		}
	}
}

// pipe is a console and the guest's end of it.
func pipe(t *testing.T) (*Console, net.Conn, *bytes.Buffer) {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	var log bytes.Buffer
	return NewConsole(a, &log), b, &log
}

func TestExpect(t *testing.T) {
	ctx := t.Context()
	c, guest, log := pipe(t)
	go func() {
		for _, s := range []string{"noise\r\nlog", "in: ", "\x1b[1mPass", "word:", " x=12", "3;\r\n", "# "} {
			io.WriteString(guest, s)
		}
	}()
	for _, step := range []struct {
		patterns []any
		index    int
		text     string
	}{
		{[]any{"Password", "login:"}, 1, "login:"},
		{[]any{regexp.MustCompile(`Pass\w+:`), "x="}, 0, "Password:"},
		{[]any{regexp.MustCompile(`x=(\d+);`)}, 0, "x=123;"},
		{[]any{regexp.MustCompile(`(?m)^# $`)}, 0, "# "},
	} {
		m, err := c.ExpectIn(ctx, 5*time.Second, step.patterns...)
		if err != nil {
			t.Fatal(err)
		}
		if m.Index != step.index || m.Text != step.text {
			t.Errorf("got %d %q, want %d %q", m.Index, m.Text, step.index, step.text)
		}
		if len(m.Groups) > 1 && m.Groups[1] != "123" {
			t.Errorf("groups %q", m.Groups)
		}
	}
	if want := "noise\nlogin: Password: x=123;\n# "; log.String() != want {
		t.Errorf("log %q, want %q", log, want)
	}
}

func TestExpectFails(t *testing.T) {
	c, guest, _ := pipe(t)
	go func() {
		for range 100 {
			io.WriteString(guest, "line of the guest\r\n")
		}
		io.WriteString(guest, "panic: no root")
		time.Sleep(100 * time.Millisecond)
		guest.Close()
	}()
	_, err := c.ExpectIn(t.Context(), 20*time.Millisecond, "login:", regexp.MustCompile("z+"))
	if err == nil || !strings.Contains(err.Error(), `expect "login:" | /z+/: nothing after 20ms; the console's last lines:`) ||
		strings.Count(err.Error(), "\n") > historyLines {
		t.Errorf("time: %v", err)
	}
	_, err = c.Expect(t.Context(), "login:")
	if !errors.Is(err, errClosed) || !strings.HasSuffix(err.Error(), "    | line of the guest\n    | panic: no root") {
		t.Errorf("end: %v", err)
	}
	if _, err = c.Expect(t.Context(), 5); err == nil || !strings.Contains(err.Error(), "pattern 5 is a int") {
		t.Errorf("type: %v", err)
	}
}

// A flood of text must not make Expect slow, nor hide what a chunk cuts in two.
func TestExpectLong(t *testing.T) {
	c, guest, _ := pipe(t)
	hits := make(chan string, 4)
	c.Watch(regexp.MustCompile(`^step (\d+) done`), func(line string) { hits <- line })
	go func() {
		io.WriteString(guest, "step 1 done\n")
		for range 20_000 {
			io.WriteString(guest, "0123456789 0123456789 0123456789 0123456789 0123456789\r\nxst")
		}
		io.WriteString(guest, "MA")
		io.WriteString(guest, "RK:7:\r\nstep 2 ")
		io.WriteString(guest, "done\r\n")
	}()
	start := time.Now()
	m, err := c.ExpectIn(t.Context(), 30*time.Second, "never", regexp.MustCompile(`MARK:(\d):`))
	if err != nil {
		t.Fatal(err)
	}
	if m.Groups[1] != "7" || len(m.Before) < 1_100_000 {
		t.Errorf("groups %q after %d bytes", m.Groups, len(m.Before))
	}
	t.Logf("%d bytes in %v", len(m.Before), time.Since(start))
	for _, want := range []string{"step 1 done", "step 2 done"} {
		if got := <-hits; got != want {
			t.Errorf("watch: got %q, want %q", got, want)
		}
	}
}

func TestFaultLine(t *testing.T) {
	const warning = "qemu-system-x86_64: warning: hub 1 is not connected to host network\n"
	if got := faultLine(warning); got != "" {
		t.Errorf("a warning: %q", got)
	}
	if got := faultLine(warning + "KVM internal error. Suberror: 1\nemulation failure\n"); got != "KVM internal error. Suberror: 1" {
		t.Errorf("a fault: %q", got)
	}
}

func TestEscapes(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		out  string
		quit bool
	}{
		{[]string{"ls\r"}, "ls\r", false},
		{[]string{"a\x01", "x"}, "a", true},
		{[]string{"\x01\x01b\x01c"}, "\x01b\x01c", false},
		{[]string{"q\x1dz"}, "q", true},
	} {
		var e escapes
		var out string
		var quit bool
		for _, s := range tt.in {
			text, q := e.filter([]byte(s))
			out, quit = out+text, quit || q
		}
		if out != tt.out || quit != tt.quit {
			t.Errorf("%q: got %q %v, want %q %v", tt.in, out, quit, tt.out, tt.quit)
		}
	}
}

func TestCloneFile(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	if err := CreateDisk(src, 64<<20); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(src, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{0, 5<<20 + 17, 63 << 20} {
		f.WriteAt([]byte("data"), off)
	}
	f.WriteAt(make([]byte, 8<<20), 32<<20) // zeros that take room
	if err := CloneFile(dst, src); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(src)
	b, _ := os.ReadFile(dst)
	if !bytes.Equal(a, b) {
		t.Error("the copy differs")
	}
	if used := blocks(t, dst) * 512; used > 1<<20 {
		t.Errorf("the copy takes %d bytes", used)
	}
	if err := CloneFile(dst, src); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if err := CreateDisk(dst, 1); !errors.Is(err, os.ErrExist) {
		t.Errorf("create over a file: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	dir := t.TempDir()
	zst, big := filepath.Join(dir, "a.zst"), filepath.Join(dir, "b")
	os.WriteFile(zst, []byte{0x28, 0xb5, 0x2f, 0xfd, 0}, 0o644)
	os.WriteFile(big, make([]byte, 4096), 0o644)
	for want, o := range map[string]RunOptions{
		"no image, and no disks kept":           {},
		"no such file":                          {Image: filepath.Join(dir, "none")},
		"a.zst: compressed":                     {Image: zst},
		"4096 bytes do not fit on a disk of 10": {Image: big, InPlace: true, DiskSize: 10},
		"27 disks, not 1 to 26":                 {Disks: 27},
	} {
		err := Run(context.Background(), o, strings.NewReader(""), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) || diag.ExitCode(err) != 2 {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "rig-vm-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
