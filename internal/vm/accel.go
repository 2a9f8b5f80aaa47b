package vm

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// probeCode is a boot sector that does what a nested hypervisor may choke on and
// says so; probe.asm is its source.
//
//go:embed probe.bin
var probeCode []byte

const (
	probeText  = "rig: works"
	probeLimit = 10 * time.Second // of silence; a working one takes about one
	sectorSize = 512
)

var accel struct {
	sync.Mutex
	name, why string
}

// DecideAccel is the value for QEMU's -accel on this host and, when that is not
// the fast one, the reason. $RIG_ACCEL decides if set. Otherwise a hypervisor that
// is there is tried with a boot sector of 512 bytes that enters long mode: nested
// in some others it answers with "KVM internal error" or with silence.
// The answer is kept for the life of the process.
func DecideAccel(ctx context.Context) (name, why string) {
	if env := os.Getenv("RIG_ACCEL"); env != "" {
		if env == "tcg" {
			env = emulation()
		}
		return env, "RIG_ACCEL=" + os.Getenv("RIG_ACCEL")
	}
	accel.Lock()
	defer accel.Unlock()
	if accel.name != "" {
		return accel.name, accel.why
	}
	candidate, why := hypervisor()
	if candidate == "" {
		accel.name, accel.why = emulation(), why
	} else if err := probe(ctx, candidate, probeLimit); err == nil {
		accel.name = candidate
	} else if ctx.Err() != nil {
		return emulation(), ctx.Err().Error() // not an answer to keep
	} else {
		accel.name, accel.why = emulation(), fmt.Sprintf("%s does not work here: %v", candidate, err)
	}
	return accel.name, accel.why
}

// distrust makes later machines of this process use emulation.
func distrust(why error) {
	accel.Lock()
	defer accel.Unlock()
	accel.name, accel.why = emulation(), why.Error()
}

// emulation is TCG, with a thread per CPU where guest and host order memory alike.
func emulation() string {
	if runtime.GOARCH == "amd64" {
		return "tcg,thread=multi"
	}
	return "tcg"
}

// hypervisor is the accelerator this host offers, "" and why when none.
func hypervisor() (name, why string) {
	if runtime.GOARCH != "amd64" {
		return "", "the host is " + runtime.GOARCH
	}
	switch runtime.GOOS {
	case "darwin":
		return "hvf", ""
	case "linux":
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		if err != nil {
			return "", fmt.Sprintf("no KVM: %v", err)
		}
		f.Close()
		return "kvm", ""
	}
	return "", "no accelerator on " + runtime.GOOS
}

// probe starts a small machine with the accelerator and waits for its word up
// to limit.
func probe(ctx context.Context, name string, limit time.Duration) error {
	dir, err := tempDir("")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "probe.img")
	if err := os.WriteFile(disk, bootSector(probeCode), 0o644); err != nil {
		return err
	}
	m, err := Start(ctx, Config{Name: "rig-probe", Firmware: BIOS, Accel: name, CPUs: 1, Memory: 64 << 20, Dir: dir,
		Disks: []Disk{{Path: disk, BootIndex: 1, ReadOnly: true}}})
	if err != nil {
		return err
	}
	defer m.PowerOff()
	if _, err = m.Console.ExpectIn(ctx, limit, probeText); err != nil {
		if fault := m.Fault(); fault != nil {
			return fault
		}
		line, _, _ := strings.Cut(err.Error(), ";")
		return fmt.Errorf("%s", line)
	}
	return nil
}

// bootSector is a disk of one MiB that BIOS runs code from.
func bootSector(code []byte) []byte {
	b := make([]byte, 1<<20)
	copy(b[:sectorSize-2], code)
	b[sectorSize-2], b[sectorSize-1] = 0x55, 0xaa
	return b
}
