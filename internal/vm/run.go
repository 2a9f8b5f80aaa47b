package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
	"golang.org/x/term"
)

// RunOptions say what Run boots. The zero value of a field is the default.
type RunOptions struct {
	Image    string // raw disk image, or an ISO by its name; "" boots the disks in Keep
	Firmware Firmware
	Disks    int   // 4
	DiskSize int64 // bytes, 8 GiB
	Memory   int64 // bytes, 2 GiB
	CPUs     int   // 2
	Accel    string
	Display  bool
	SMBIOS   []string // as in Config

	// InPlace makes a copy of the image, enlarged to DiskSize, disk 1 of
	// Disks. Otherwise the image is a stick that is booted first, beside Disks
	// empty disks; it is read only to the host's file, and pulled when the
	// guest reboots with something bootable on disk 1.
	InPlace  bool
	NICs     []NIC     // two virtio cards when nil: NAT, and one whose cable goes nowhere
	Forwards []Forward // to the first of the default NICs

	// Keep is a directory for disks and variables that is left as it is, and
	// whose disks are used again. When empty all of it is temporary.
	Keep string
}

const (
	defaultDisks    = 4
	defaultDiskSize = 8 << 30
)

// Run boots an image with the first serial port on stdin and stdout until the
// guest powers off, Ctrl-] or Ctrl-a x is typed (which cuts its power), or ctx
// ends. The end of stdin ends nothing. A hypervisor that turns out not to work is
// left for emulation.
func Run(ctx context.Context, o RunOptions, stdin io.Reader, stdout io.Writer) error {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return err
	}
	dir := o.Keep
	if dir == "" {
		var err error
		if dir, err = tempDir(os.Getenv("RIG_VM_DIR")); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("run %s: %w", o.Image, err)
	}
	disks, err := o.makeDisks(dir)
	if err != nil {
		return fmt.Errorf("run %s: %w", o.Image, err)
	}
	say := func(format string, args ...any) { fmt.Fprintf(stdout, "rig: "+format+"\r\n", args...) }
	auto := o.Accel == "" && os.Getenv("RIG_ACCEL") == ""
	if o.Accel == "" {
		name, why := DecideAccel(ctx)
		o.Accel = name
		if auto && why != "" {
			say("%s: using emulation, about ten times slower", why)
		}
	}
	if restore, err := rawTerminal(stdin); err != nil {
		return err
	} else if restore != nil {
		defer restore()
	}
	say("%s, %d disks of %d MiB in %s; Ctrl-] or Ctrl-a x cuts the power", o.Firmware, o.Disks, o.DiskSize>>20, dir)
	keys := readKeys(stdin)
	for {
		c := o.config(dir, disks, stdout)
		again, err := runOnce(ctx, c, keys, say, auto)
		if err != nil || !again {
			return err
		}
		if auto { // a fault may have changed it
			o.Accel, _ = DecideAccel(ctx)
		}
	}
}

// userNet is QEMU's NAT with the addresses of the default profile's example: its
// gateway answers, and forwarded ports lead to the first server.
const userNet = "user,net=10.0.0.0/24,host=10.0.0.1,dns=10.0.0.3,dhcpstart=10.0.0.110"

func (o RunOptions) withDefaults() RunOptions {
	if o.Disks == 0 {
		o.Disks = defaultDisks
	}
	if o.DiskSize == 0 {
		o.DiskSize = defaultDiskSize
	}
	if o.NICs == nil {
		o.NICs = []NIC{
			{MAC: "52:54:00:72:69:01", Net: userNet, Forwards: o.Forwards},
			{MAC: "52:54:00:72:69:02", Net: "none"},
		}
	}
	return o
}

// check looks at what the user gave before anything is made.
func (o RunOptions) check() error {
	if o.Disks < 1 || o.Disks > 26 {
		return diag.Inputf("run: %d disks, not 1 to 26", o.Disks)
	}
	if o.Image == "" {
		if o.Keep == "" || !isFile(diskPath(o.Keep, 1)) {
			return diag.Inputf("run: no image, and no disks kept from an earlier run")
		}
		return nil
	}
	f, err := os.Open(o.Image)
	if err != nil {
		return diag.Input(fmt.Errorf("run: %w", err))
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil {
		return diag.Inputf("run %s: not a disk image", o.Image)
	}
	switch {
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return diag.Hint(diag.Inputf("run %s: compressed", o.Image), "unzstd %s", o.Image)
	case o.InPlace && fi.Size() > o.DiskSize:
		return diag.Inputf("run %s: %d bytes do not fit on a disk of %d", o.Image, fi.Size(), o.DiskSize)
	}
	return nil
}

func diskPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("disk%d.img", n)) }

// makeDisks makes those disks that are not there yet.
func (o RunOptions) makeDisks(dir string) ([]Disk, error) {
	var disks []Disk
	for n := 1; n <= o.Disks; n++ {
		d := Disk{Path: diskPath(dir, n), Serial: fmt.Sprintf("RIG-D%d", n), BootIndex: n + 1}
		disks = append(disks, d)
		if isFile(d.Path) {
			continue
		}
		if n > 1 || !o.InPlace || o.Image == "" {
			if err := CreateDisk(d.Path, o.DiskSize); err != nil {
				return nil, err
			}
			continue
		}
		if err := errors.Join(CloneFile(d.Path, o.Image), os.Truncate(d.Path, o.DiskSize)); err != nil {
			os.Remove(d.Path)
			return nil, err
		}
	}
	return disks, nil
}

// config is the machine as it is now: with the stick while disk 1 cannot boot.
func (o RunOptions) config(dir string, disks []Disk, out io.Writer) Config {
	c := Config{Name: "rig", Firmware: o.Firmware, Memory: o.Memory, CPUs: o.CPUs, Disks: disks, NICs: o.NICs,
		Accel: o.Accel, Dir: dir, Display: o.Display, SMBIOS: o.SMBIOS, SerialOut: out}
	if o.Image == "" || o.InPlace || bootable(disks[0].Path) {
		return c
	}
	stick := Disk{Path: o.Image, Serial: "RIG-STICK", Bus: BusUSB, BootIndex: 1, Snapshot: true}
	if strings.HasSuffix(o.Image, ".iso") {
		stick.Bus, stick.Snapshot = BusCD, false
	}
	c.Disks = append([]Disk{stick}, disks...)
	c.RebootExits = true
	return c
}

// runOnce runs the machine until it ends; again says that it rebooted or that
// its accelerator failed.
func runOnce(ctx context.Context, c Config, keys <-chan key, say func(string, ...any), auto bool) (again bool, err error) {
	m, err := Start(ctx, c)
	if err != nil {
		return false, err
	}
	defer m.PowerOff()
	for {
		select {
		case k, ok := <-keys:
			switch {
			case !ok:
				keys = nil
			case k.quit:
				say("power cut")
				return false, nil
			default:
				m.Console.Send(k.text) // a machine that has just ended
			}
		case <-m.faulty:
			if !auto {
				return false, fmt.Errorf("run: %w", m.Fault())
			}
			distrust(m.Fault())
			say("%v: starting again with emulation", m.Fault())
			return true, nil
		case <-m.Done():
			if err := m.Wait(ctx); err != nil {
				return false, fmt.Errorf("run: %w", err)
			}
			if m.ExitReason() != "guest-reset" {
				return false, nil
			}
			if bootable(c.Disks[1].Path) {
				say("rebooting with the stick pulled")
			}
			return true, nil
		}
	}
}

// rawTerminal puts a terminal into raw mode; restore is nil when in is none.
func rawTerminal(in io.Reader) (restore func(), err error) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, nil
	}
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("terminal to raw mode: %w", err)
	}
	return func() { term.Restore(int(f.Fd()), old) }, nil
}

// key is what was typed: text for the guest, or the wish to quit.
type key struct {
	text string
	quit bool
}

// readKeys reads in until its end or the wish to quit, if need be for as long as
// the process lives.
func readKeys(in io.Reader) <-chan key {
	keys := make(chan key)
	go func() {
		defer close(keys)
		var e escapes
		buf := make([]byte, 4<<10)
		for {
			n, err := in.Read(buf)
			text, quit := e.filter(buf[:n])
			if text != "" {
				keys <- key{text: text}
			}
			if quit {
				keys <- key{quit: true}
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return keys
}

const (
	ctrlA       = 0x01
	ctrlBracket = 0x1d
)

// escapes sees Ctrl-] and Ctrl-a x; Ctrl-a twice is one Ctrl-a for the guest.
type escapes struct{ afterA bool }

func (e *escapes) filter(b []byte) (text string, quit bool) {
	var out []byte
	for _, c := range b {
		switch {
		case c == ctrlBracket, e.afterA && c == 'x':
			return string(out), true
		case e.afterA:
			e.afterA = false
			if c != ctrlA {
				out = append(out, ctrlA)
			}
			out = append(out, c)
		case c == ctrlA:
			e.afterA = true
		default:
			out = append(out, c)
		}
	}
	return string(out), false
}
