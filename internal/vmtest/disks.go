package vmtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/rig-freebsd/rig/internal/vm"
)

// Disks are the disks of one machine, in a directory with its UEFI variables.
type Disks struct {
	Dir  string
	List []vm.Disk
}

// NewDisks makes n empty disks of size bytes with the serials RIG-D1 ….
func NewDisks(t testing.TB, n int, size int64) Disks {
	t.Helper()
	d := namedDisks(Dir(t), n)
	for _, disk := range d.List {
		if err := vm.CreateDisk(disk.Path, size); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// namedDisks are the disks NewDisks makes in a directory.
func namedDisks(dir string, n int) Disks {
	d := Disks{Dir: dir}
	for i := range n {
		serial := fmt.Sprintf("RIG-D%d", i+1)
		d.List = append(d.List, vm.Disk{Path: filepath.Join(dir, serial+".img"), Serial: serial})
	}
	return d
}

// Put makes disk i (from 1) a copy of image, of the size the disk has: the rented
// server.
func (d Disks) Put(t testing.TB, i int, image string) {
	t.Helper()
	path := d.List[i-1].Path
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), vm.CloneFile(path, image)); err != nil {
		t.Fatal(err)
	}
	if img, err := os.Stat(path); err != nil || img.Size() > fi.Size() {
		t.Fatalf("put %s on %s: too large (%v)", image, path, err)
	}
	if err := os.Truncate(path, fi.Size()); err != nil {
		t.Fatal(err)
	}
}

// Clone is a copy of the disks and variables, for a test to spoil. No machine may
// be running on d.
func (d Disks) Clone(t testing.TB) Disks {
	t.Helper()
	c, err := d.cloneTo(Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (d Disks) cloneTo(dir string) (Disks, error) {
	c := Disks{Dir: dir, List: slices.Clone(d.List)}
	for i, disk := range d.List {
		c.List[i].Path = filepath.Join(dir, filepath.Base(disk.Path))
		if err := vm.CloneFile(c.List[i].Path, disk.Path); err != nil {
			return c, err
		}
	}
	const vars = "efivars.fd"
	err := vm.CloneFile(filepath.Join(dir, vars), filepath.Join(d.Dir, vars))
	if errors.Is(err, os.ErrNotExist) { // never booted by UEFI
		err = nil
	}
	return c, err
}

// On is the disks on another bus, with sectors of so many bytes.
func (d Disks) On(bus string, sector int) Disks {
	d.List = slices.Clone(d.List)
	for i := range d.List {
		d.List[i].Bus, d.List[i].SectorSize = bus, sector
	}
	return d
}

// Without is the machine with disks i … (from 1) pulled.
func (d Disks) Without(i ...int) Disks {
	out := Disks{Dir: d.Dir}
	for j, disk := range d.List {
		if !slices.Contains(i, j+1) {
			out.List = append(out.List, disk)
		}
	}
	return out
}

// Config is a machine with these disks, booted in the order given (from 1; the
// others follow), and two NICs: NAT, and one whose cable goes nowhere. A stick is
// to be put before them:
//
//	c.Disks = append([]vm.Disk{Stick(image)}, c.Disks...)
func (d Disks) Config(firmware vm.Firmware, order ...int) vm.Config {
	disks := slices.Clone(d.List)
	next := 2 // 1 is the stick's
	for _, i := range order {
		disks[i-1].BootIndex = next
		next++
	}
	for i := range disks {
		if !slices.Contains(order, i+1) {
			disks[i].BootIndex = next
			next++
		}
	}
	return vm.Config{Name: "rig", Firmware: firmware, Dir: d.Dir, Disks: disks, NICs: []vm.NIC{
		{MAC: "52:54:00:72:69:01", Net: "user,net=10.0.0.0/24,host=10.0.0.1,dns=10.0.0.3,restrict=on"},
		{MAC: "52:54:00:72:69:02", Net: "none"},
	}}
}

// Stick is an image as a USB stick that is booted first; writes to it are forgotten.
func Stick(image string) vm.Disk {
	return vm.Disk{Path: image, Serial: "RIG-STICK", Bus: vm.BusUSB, BootIndex: 1, Snapshot: true}
}

// shared are disks that several tests start from.
type shared struct {
	sync.Mutex
	owner string // the test that made them
	disks Disks
	ok    bool
}

// Shared is a clone of the disks that build returns, which runs once per name and
// process, in the first test that asks: an installation that several tests start
// from. When it failed, so do all others that ask.
func Shared(t testing.TB, name string, build func(t testing.TB) Disks) Disks {
	t.Helper()
	state.Lock()
	if state.shared == nil {
		state.shared = map[string]*shared{}
	}
	s := state.shared[name]
	if s == nil {
		s = &shared{}
		state.shared[name] = s
	}
	state.Unlock()

	s.Lock()
	defer s.Unlock()
	if s.owner == "" {
		s.owner = t.Name()
		made := build(t)
		dir, err := sharedDir()
		if err == nil {
			s.disks, err = made.cloneTo(dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.ok = !t.Failed()
	}
	if !s.ok {
		t.Fatalf("%s, which this test starts from, was not made: see %s", name, s.owner)
	}
	return s.disks.Clone(t)
}

// sharedDir makes a directory that Main removes.
func sharedDir() (string, error) {
	state.Lock()
	defer state.Unlock()
	if state.dir == "" {
		dir, err := os.MkdirTemp(os.Getenv("RIG_VM_DIR"), "rig-vmtest-shared-")
		if err != nil {
			return "", err
		}
		state.dir = dir
	}
	return os.MkdirTemp(state.dir, "")
}
