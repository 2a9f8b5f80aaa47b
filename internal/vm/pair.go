package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
)

// WriteStick makes dst, which must not exist, a copy of a disk image with one file
// put on its EFI system partition, or replaced there. The partition is formatted
// anew, as large and with the label and serial number it had. Only the owner may
// read dst.
func WriteStick(dst, image, name string, content []byte) error {
	if err := CloneFile(dst, image); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(dst, 0o600), putESP(dst, image, name, content)); err != nil {
		os.Remove(dst)
		return fmt.Errorf("put %s on a copy of %s: %w", name, image, err)
	}
	return nil
}

// putESP writes the EFI system partition of dst, which is what image has with one
// file more, or another one.
func putESP(dst, image, name string, content []byte) (err error) {
	in, err := os.Open(image)
	if err != nil {
		return err
	}
	defer in.Close()
	part, err := findESP(in)
	if err != nil {
		return diag.Input(err)
	}
	old, err := fat.Open(io.NewSectionReader(in, part.Start, part.Size), part.Size)
	if err != nil {
		return err
	}
	files, err := old.Tree()
	if err != nil {
		return err
	}
	var at time.Time // of the image, which its files have
	for e := range files.All() {
		if e.ModTime.After(at) {
			at = e.ModTime
		}
	}
	more := tree.FileEntry(name, content)
	more.ModTime = at
	upper, err := tree.New([]tree.Entry{more})
	if err != nil {
		return err
	}
	if files, err = tree.Merge(files, upper); err != nil {
		return err
	}
	plan, err := fat.Layout(files, fat.Options{Size: part.Size, Label: old.Label(), Serial: old.Serial(), Time: at,
		HiddenSectors: uint32(part.Start / sectorSize)})
	if err != nil {
		return err
	}
	out, err := os.OpenFile(dst, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := plan.Write(io.NewOffsetWriter(out, part.Start)); err != nil {
		return err
	}
	return readBack(io.NewSectionReader(out, part.Start, part.Size), part.Size, name, content)
}

func findESP(f *os.File) (gpt.Partition, error) {
	fi, err := f.Stat()
	if err != nil {
		return gpt.Partition{}, err
	}
	table, err := gpt.Read(f, fi.Size(), sectorSize)
	if err != nil {
		return gpt.Partition{}, err
	}
	for _, p := range table.Partitions {
		if p.Type == gpt.EFI {
			return p, nil
		}
	}
	return gpt.Partition{}, errors.New("there is no EFI system partition")
}

func readBack(r io.ReaderAt, size int64, name string, want []byte) error {
	f, err := fat.Open(r, size)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if err := f.Check(); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	t, err := f.Tree()
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	got, err := t.ReadFile(name, int64(len(want)))
	if err == nil && string(got) != string(want) {
		err = errors.New("the content is another one")
	}
	if err != nil {
		return fmt.Errorf("read back %s: %w", name, err)
	}
	return nil
}

// Server is a machine that installs itself from a stick, without anybody, and then
// boots its disks.
type Server struct {
	Config Config // the machine without its stick and cards; the disks exist
	Stick  string // image to install from while disk 1 cannot boot

	// Plug gives the machine its cards for one start, with cables that were not
	// used before, and unplug takes them away when it has ended.
	Plug func() (nics []NIC, unplug func(), err error)

	Line  func(string) // gets each whole line of the console, without escape sequences
	Stage func(Stage)  // is told each change
}

// Stage is where a server is on its way.
type Stage struct {
	Phase       Phase
	Step, Steps int    // Step: of the installation, from 1
	Text        string // Step: what it does. Failed: why.
}

// Phase is the kind of a Stage.
type Phase int

// The phases. Booting is told again for every restart, Up at each login prompt.
const (
	Installing Phase = iota // started from the stick
	Step
	Installed
	Booting // started from its disks
	Up
	Failed
	Off
)

func (s Stage) String() string {
	switch s.Phase {
	case Step:
		return fmt.Sprintf("step %d/%d %s", s.Step, s.Steps, s.Text)
	case Failed:
		return "failed: " + s.Text
	}
	return [...]string{"installing", "", "installed", "booting", "up", "", "off"}[s.Phase]
}

// Installed reports whether disk 1 can boot.
func (s *Server) Installed() bool { return bootable(s.Config.Disks[0].Path) }

// fruitless is how often a server may restart without having been installed.
const fruitless = 2

// Run runs the server until its guest powers off (nil), its installation fails, or
// ctx ends. A hypervisor that turns out not to work is left for emulation.
func (s *Server) Run(ctx context.Context) error {
	auto := s.Config.Accel == "" && os.Getenv("RIG_ACCEL") == ""
	for tries := 0; ; {
		c := s.Config
		installing := !s.Installed()
		if installing {
			if tries++; tries > fruitless {
				return fmt.Errorf("install %s: it restarted %d times, and its disks do not boot", c.Name, fruitless)
			}
			stick := Disk{Path: s.Stick, Serial: "RIG-STICK", BootIndex: 1, Snapshot: true}
			c.Disks = append([]Disk{stick}, c.Disks...)
			c.RebootExits = true
		}
		again, err := s.once(ctx, c, installing, auto)
		if err != nil || !again {
			return err
		}
	}
}

// once runs the machine from power-on until it ends.
func (s *Server) once(ctx context.Context, c Config, installing, auto bool) (again bool, err error) {
	nics, unplug, err := s.Plug()
	if err != nil {
		return false, fmt.Errorf("run %s: %w", c.Name, err)
	}
	defer unplug()
	c.NICs, c.SerialOut = nics, &lineWriter{call: s.Line}
	m, err := Start(ctx, c)
	if err != nil {
		return false, err
	}
	defer m.PowerOff()
	if installing {
		s.Stage(Stage{Phase: Installing})
	} else {
		s.Stage(Stage{Phase: Booting})
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		if err := s.follow(inner, m.Console); err != nil {
			failed <- err
		}
	}()
	select {
	case err := <-failed:
		return false, fmt.Errorf("run %s: %w", c.Name, err)
	case <-m.faulty:
		if !auto {
			return false, fmt.Errorf("run %s: %w", c.Name, m.Fault())
		}
		distrust(m.Fault())
		s.Line(fmt.Sprintf("%v: starting again with emulation", m.Fault()))
		return true, nil
	case <-m.Done():
		if err := m.Wait(ctx); err != nil {
			return false, fmt.Errorf("run %s: %w", c.Name, err)
		}
		if m.ExitReason() == "guest-reset" {
			return true, nil
		}
		s.Stage(Stage{Phase: Off})
		return false, ctx.Err()
	}
}

// lineWriter calls call with each line of what a terminal would be sent.
type lineWriter struct {
	strip stripper
	line  []byte
	call  func(string)
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.line = w.strip.append(w.line, b)
	for {
		line, rest, whole := bytes.Cut(w.line, []byte("\n"))
		if !whole && len(line) < maxLine {
			return len(b), nil
		}
		w.call(string(line))
		w.line = append(w.line[:0], rest...)
	}
}

// What a console says about its server. They match the texts of firstboot, of
// getty, and of the places where FreeBSD's boot ends without a login.
var milestones = []any{
	regexp.MustCompile(`rig: step (\d+)/(\d+) ([^\n]*)\n`),
	regexp.MustCompile(`rig: \S+ is installed; every disk boots it`),
	regexp.MustCompile(`(?m)^login: `),
	regexp.MustCompile(`riginstall: error: ([^\n]*)\n`),
	regexp.MustCompile(`(?m)(mountroot> |\bpanic: [^\n]*\n|^db> |Enter full pathname of shell|can't load 'kernel')`),
}

// follow tells the stages the console speaks of. Its error is a server that got
// nowhere.
func (s *Server) follow(ctx context.Context, c *Console) error {
	for {
		m, err := c.Expect(ctx, milestones...)
		if err != nil {
			return nil // the machine has ended, or nobody listens any more
		}
		switch m.Index {
		case 0:
			st := Stage{Phase: Step, Text: m.Groups[3]}
			st.Step, _ = strconv.Atoi(m.Groups[1]) // digits
			st.Steps, _ = strconv.Atoi(m.Groups[2])
			s.Stage(st)
		case 1:
			s.Stage(Stage{Phase: Installed})
		case 2:
			s.Stage(Stage{Phase: Up})
		default:
			why := strings.TrimSpace(m.Groups[1])
			s.Stage(Stage{Phase: Failed, Text: why})
			return errors.New(why)
		}
	}
}
