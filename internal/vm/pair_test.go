package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/tree"
)

// espImage is a disk with an EFI system partition that holds files.
func espImage(t *testing.T, at time.Time, files ...tree.Entry) string {
	t.Helper()
	const size = 8 << 20
	table := gpt.Table{DiskGUID: gpt.DeriveGUID("t", "disk"), SectorSize: 512, DiskSize: size, Partitions: []gpt.Partition{
		{Type: gpt.FreeBSDBoot, Label: "boot", GUID: gpt.DeriveGUID("t", "boot"), Start: 20 << 10, Size: 512 << 10},
		{Type: gpt.EFI, Label: "efi", GUID: gpt.DeriveGUID("t", "efi"), Start: 1 << 20, Size: 4 << 20}}}
	f, err := os.Create(filepath.Join(t.TempDir(), "esp.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range files {
		files[i].ModTime = at
	}
	files = append(files, tree.Entry{Path: "rig", Kind: tree.Dir, Perm: 0o755, ModTime: at})
	tr, err := tree.New(files)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := fat.Layout(tr, fat.Options{Size: 4 << 20, Label: "EFISYS", Serial: 77, Time: at, HiddenSectors: 2048})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{f.Truncate(size), table.Write(f, bootSector(nil)[:sectorSize]), plan.Write(io.NewOffsetWriter(f, 1<<20))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return f.Name()
}

// The stick is byte for byte the image that would have been built with the file.
func TestWriteStick(t *testing.T) {
	at := time.Date(2026, 5, 6, 7, 8, 10, 0, time.UTC)
	const name = "rig/answers.toml"
	loader := tree.FileEntry("EFI/BOOT/BOOTX64.EFI", bytes.Repeat([]byte("loader "), 50_000))
	plain := espImage(t, at, loader)
	want, err := os.ReadFile(espImage(t, at, loader, tree.FileEntry(name, []byte("schema = 1\n"))))
	if err != nil {
		t.Fatal(err)
	}
	other := espImage(t, at, loader, tree.FileEntry(name, bytes.Repeat([]byte("# older, longer answers\n"), 1000)))
	before, _ := os.ReadFile(plain)
	for _, image := range []string{plain, other} {
		dst := filepath.Join(t.TempDir(), "stick.img")
		if err := WriteStick(dst, image, name, []byte("schema = 1\n")); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		if image == plain && !bytes.Equal(got, want) {
			t.Error("the stick is not the image built with the file")
		}
		f, err := fat.Open(bytes.NewReader(got[1<<20:]), 4<<20)
		if err != nil {
			t.Fatal(err)
		}
		files, err := f.Tree()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := files.ReadFile(name, 1<<20); err != nil || string(b) != "schema = 1\n" {
			t.Errorf("%q %v", b, err)
		}
		if fi, _ := os.Stat(dst); fi.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", fi.Mode())
		}
		if err := WriteStick(dst, image, name, nil); err == nil || !strings.Contains(err.Error(), "file exists") {
			t.Errorf("over a file: %v", err)
		}
	}
	if after, _ := os.ReadFile(plain); !bytes.Equal(before, after) {
		t.Error("the image was changed")
	}
	blank := filepath.Join(t.TempDir(), "blank")
	if err := CreateDisk(blank, 4<<20); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "stick.img")
	if err := WriteStick(dst, blank, name, nil); err == nil || !strings.HasPrefix(err.Error(), "put rig/answers.toml on a copy of "+blank+": ") {
		t.Errorf("of a blank disk: %v", err)
	}
	if isFile(dst) {
		t.Error("a stick was left behind")
	}
}

func TestFollow(t *testing.T) {
	for _, tt := range []struct{ in, want, err string }{
		{"rig: step 1/34 tables: tables on all disks\r\nnoise\nrig: step 34/34 export: export the pool\nrig: webrig-15.1-ab is installed; every disk boots it\n" +
			"FreeBSD/amd64 (rega.example.lan) (ttyu0)\n\nlogin: ",
			"step 1/34 tables: tables on all disks, step 34/34 export: export the pool, installed, up", ""},
		{"x\nriginstall: error: disk RIG-D1 holds data\nmore\n", "failed: disk RIG-D1 holds data", "disk RIG-D1 holds data"},
		{"mountroot> ", "failed: mountroot>", "mountroot>"},
		{"panic: vm_fault\n", "failed: panic: vm_fault", "panic: vm_fault"},
	} {
		c, guest, _ := pipe(t)
		go func() {
			io.WriteString(guest, tt.in)
			guest.Close()
		}()
		var got []string
		s := Server{Stage: func(s Stage) { got = append(got, s.String()) }}
		err := s.follow(t.Context(), c)
		if strings.Join(got, ", ") != tt.want || fmt.Sprint(err) != fmt.Sprint(tt.err) && !(err == nil && tt.err == "") {
			t.Errorf("%q:\ngot  %q, %v\nwant %q, %s", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestLineWriter(t *testing.T) {
	var got []string
	w := lineWriter{call: func(s string) { got = append(got, s) }}
	for _, s := range []string{"\x1b[1mo", "ne\r\n\r\ntwo\x1b", "[0m\nlogin: ", strings.Repeat("x", maxLine)} {
		if n, err := io.WriteString(&w, s); n != len(s) || err != nil {
			t.Errorf("%d %v", n, err)
		}
	}
	if want := []string{"one", "", "two", "login: " + strings.Repeat("x", maxLine)}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Boot sectors that end the machine: by the keyboard controller's reset line, and
// by ACPI's S5.
var (
	resetCode = []byte{0xb0, 0xfe, 0xe6, 0x64, 0xf4}
	offCode   = []byte{0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4}
)

// An "installer" that resets the machine; disk 1 boots once it was started twice.
func TestServer(t *testing.T) {
	needQEMU(t)
	for _, installs := range []bool{true, false} {
		dir := t.TempDir()
		stick, disk := filepath.Join(dir, "stick.img"), filepath.Join(dir, "disk1.img")
		if err := os.WriteFile(stick, bootSector(resetCode), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := CreateDisk(disk, 1<<20); err != nil {
			t.Fatal(err)
		}
		var stages []string
		starts, open := 0, 0
		s := Server{Stick: stick, Line: func(string) {}, Stage: func(s Stage) { stages = append(stages, s.String()) },
			Plug: func() ([]NIC, func(), error) {
				if starts++; starts == 2 && installs {
					if err := os.WriteFile(disk, bootSector(offCode), 0o600); err != nil {
						return nil, nil, err
					}
				}
				open++
				return []NIC{{MAC: "52:54:00:00:00:01"}}, func() { open-- }, nil
			},
			Config: Config{Name: "s", Firmware: BIOS, Accel: "tcg", CPUs: 1, Memory: 64 << 20, Dir: dir, Disks: []Disk{{Path: disk, BootIndex: 2}}}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := s.Run(ctx)
		if installs {
			// The stick was chosen before the second start wrote the disk.
			if want := "installing, installing, booting, off"; err != nil || strings.Join(stages, ", ") != want {
				t.Errorf("got %q, %v, want %s", stages, err, want)
			}
		} else if err == nil || err.Error() != "install s: it restarted 2 times, and its disks do not boot" {
			t.Errorf("got %q, %v", stages, err)
		}
		if open != 0 {
			t.Errorf("%d cards are still plugged", open)
		}
	}
}
