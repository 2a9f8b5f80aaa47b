package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"rig/answers"
	"rig/internal/cli"
	"rig/internal/diag"
	"rig/manifest"
	"rig/vm"
	"rig/vm/lan"
)

const pairUsage = `usage: rigimage run --pair [IMAGE] [--site site.toml] [--bios] [--mem 2G] [--disk-size 8G] [--keep DIR]
                           [--inic-loss 5%] [--inic-delay 20ms] [--inic-cut] [--check] [--json] [--quiet]

Installs both servers of a site from one image, in two QEMUs, without a question,
boots them, and tries from outside what passes their firewalls. IMAGE is rig.img by
default and is not written to. Then both stay, reachable on ports of 127.0.0.1, until
Ctrl-C cuts their power or both are shut down.

  --site FILE          the servers' answers (default: those of the default profile)
  --bios               boot by BIOS; otherwise by UEFI (package ovmf)
  --mem SIZE           memory of each server
  --disk-size SIZE     of each of its disks: four, or as many as the answers name
  --keep DIR           keep the disks in DIR, and boot servers that are installed there
  --inic-loss PERCENT  lose frames of the private network
  --inic-delay TIME    delay them
  --inic-cut           let none pass
  --check              end after the checks; the exit status is 1 when one failed
  --json               print the checks as JSON; the consoles go to standard error
  --quiet              do not print the consoles

Cards and disks are those the answers name. The public network has the gateway and
everything behind it; nothing leaves this machine.

example: rigimage run --pair rig.img --site site.toml --keep /var/tmp/pair
`

// pairOptions is the command line.
type pairOptions struct {
	image, site, keep  string
	firmware           vm.Firmware
	memory, diskSize   int64
	line               lan.Line // of the private network
	check, json, quiet bool
}

func parsePair(args []string, std cli.Stdio) (pairOptions, error) {
	o := pairOptions{image: "rig.img"}
	fl := std.Flags(pairUsage)
	fl.Bool("pair", true, "")
	bios := fl.Bool("bios", false, "")
	mem := fl.String("mem", "2G", "")
	diskSize := fl.String("disk-size", "8G", "")
	loss := fl.String("inic-loss", "0%", "")
	fl.StringVar(&o.site, "site", "", "")
	fl.StringVar(&o.keep, "keep", "", "")
	fl.DurationVar(&o.line.Delay, "inic-delay", 0, "")
	fl.BoolVar(&o.line.Cut, "inic-cut", false, "")
	fl.BoolVar(&o.check, "check", false, "")
	fl.BoolVar(&o.json, "json", false, "")
	fl.BoolVar(&o.quiet, "quiet", false, "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return o, err
	}
	if len(rest) > 0 {
		o.image = rest[0]
	}
	if *bios {
		o.firmware = vm.BIOS
	}
	if _, err := os.Stat(o.image); o.image == "rig.img" && err != nil {
		return o, diag.Hint(diag.Input(err), "\"rigimage build\" makes rig.img")
	}
	if o.line.Loss, err = parsePercent(*loss); err != nil {
		return o, diag.Inputf("--inic-loss %s: %w", *loss, err)
	}
	if o.line.Delay < 0 {
		return o, diag.Inputf("--inic-delay %v: less than nothing", o.line.Delay)
	}
	if o.memory, err = parseSize("--mem", *mem); err != nil {
		return o, err
	}
	o.diskSize, err = parseSize("--disk-size", *diskSize)
	return o, err
}

func parseSize(flag, text string) (int64, error) {
	v, err := answers.ParseText(&answers.Question{Key: flag, Type: answers.Size}, text)
	if err != nil {
		return 0, diag.Inputf("%s %s: %w", flag, text, err)
	}
	return v.(int64), nil
}

// parsePercent reads "5%" as 0.05.
func parsePercent(s string) (float64, error) {
	n, ok := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(n, 64)
	if !ok || err != nil || !(v >= 0 && v <= 100) {
		return 0, errors.New("expected 0% to 100%")
	}
	return v / 100, nil
}

// pair is two servers, the networks between them, and the world.
type pair struct {
	pairOptions
	questions     []answers.Question // of the image
	members       [2]*member
	dir           string
	public        *lan.Switch
	private       *lan.Switch
	world         *lan.Host // the gateway and everything behind it
	intruder      *lan.Host // on the private network, nil where that has a VLAN
	consoles, log *labels
}

// seed makes the frames that --inic-loss loses the same ones each time.
const seed = 15

// The world's MAC addresses on both networks.
var (
	worldMAC    = net.HardwareAddr{0x52, 0x54, 0x00, 0x72, 0x69, 0xfe}
	intruderMAC = net.HardwareAddr{0x52, 0x54, 0x00, 0x72, 0x69, 0xfd}
)

func runPair(ctx context.Context, args []string, std cli.Stdio) error {
	o, err := parsePair(args, std)
	if err != nil {
		return err
	}
	p := &pair{pairOptions: o, dir: o.keep, log: newLabels(std.Err), consoles: newLabels(std.Out)}
	switch {
	case o.quiet:
		p.consoles = newLabels(io.Discard)
	case o.json:
		p.consoles = p.log
	}
	if p.questions, err = imageQuestions(ctx, o.image); err != nil {
		return err
	}
	path, done, err := bootableImage(ctx, o.image, "", std)
	if err != nil {
		return err
	}
	defer done()
	p.image = path
	if err := p.prepare(); err != nil {
		return err
	}
	if p.keep == "" {
		defer os.RemoveAll(p.dir)
	}
	if err := p.network(); err != nil {
		return fmt.Errorf("run --pair: %w", err)
	}
	defer p.unplug()
	if name, why := vm.DecideAccel(ctx); why != "" && !strings.HasPrefix(why, "RIG_ACCEL") {
		p.say("%s: using %s, about ten times slower", why, name)
	}
	return p.run(ctx, std.Out)
}

func (p *pair) say(format string, args ...any) { p.log.print("rig", fmt.Sprintf(format, args...)) }

// prepare reads site and image and makes directories, disks and sticks.
func (p *pair) prepare() error {
	s, err := loadPairSite(p.pairOptions, p.questions)
	if err != nil {
		return err
	}
	for i := range p.members {
		if p.members[i], err = newMember(s, i); err != nil {
			return err
		}
		p.log.add(p.members[i].name)
		p.consoles.add(p.members[i].name)
	}
	if p.keep == "" {
		if p.dir, err = os.MkdirTemp(os.Getenv("RIG_VM_DIR"), "rig-pair-"); err != nil {
			return fmt.Errorf("run --pair: %w", err)
		}
	}
	if err := p.provide(s); err != nil {
		if p.keep == "" {
			os.RemoveAll(p.dir)
		}
		return fmt.Errorf("run --pair: %w", err)
	}
	return nil
}

// provide makes what the servers need in p.dir and is not there.
func (p *pair) provide(s *pairSite) error {
	var blank []*member
	for _, m := range p.members {
		dir := filepath.Join(p.dir, m.letter)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		m.server = &vm.Server{Stick: filepath.Join(dir, "stick.img"),
			Config: vm.Config{Name: m.name, Firmware: p.firmware, Memory: p.memory, Dir: dir}}
		for i, serial := range m.serials {
			d := vm.Disk{Path: filepath.Join(dir, fmt.Sprintf("disk%d.img", i+1)), Serial: serial, BootIndex: i + 2}
			if err := vm.CreateDisk(d.Path, p.diskSize); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			m.server.Config.Disks = append(m.server.Config.Disks, d)
		}
		if !m.server.Installed() {
			blank = append(blank, m)
		}
	}
	if len(blank) == 0 {
		return nil
	}
	if err := s.generate(p.keep, func(text string) { p.say("%s", text) }); err != nil {
		return err
	}
	for _, m := range blank {
		if err := os.Remove(m.server.Stick); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		text, err := m.answers(s)
		if err != nil {
			return err
		}
		if err := vm.WriteStick(m.server.Stick, p.image, manifest.AnswersFile, text); err != nil {
			return err
		}
	}
	return nil
}

// network makes the two networks and who is on them beside the servers.
func (p *pair) network() error {
	p.public, p.private = lan.New(seed), lan.New(seed)
	if err := p.private.SetLine(p.line); err != nil {
		return err
	}
	var err error
	if p.world, err = lan.NewHost(p.public, "world", worldMAC, p.members[0].gateway, p.members[1].gateway); err != nil {
		return err
	}
	if p.members[0].vlan == 0 {
		if p.intruder, err = lan.NewHost(p.private, "intruder", intruderMAC, p.spare()); err != nil {
			return err
		}
	}
	for _, m := range p.members {
		m.server.Plug = func() ([]vm.NIC, func(), error) { return p.plug(m) }
		m.server.Line = func(line string) { p.consoles.print(m.name, line) }
	}
	return nil
}

// plug connects a server's cards for one start.
func (p *pair) plug(m *member) (nics []vm.NIC, unplug func(), err error) {
	var closers []func()
	unplug = func() {
		for _, c := range closers {
			c()
		}
	}
	for i, sw := range []*lan.Switch{p.public, p.private} {
		port, cable, err := sw.Plug(m.name)
		if err != nil {
			unplug()
			return nil, nil, err
		}
		closers = append(closers, port.Close, func() { cable.Close() })
		nics = append(nics, vm.NIC{MAC: m.macs[i], Cable: cable})
	}
	return nics, unplug, nil
}

func (p *pair) unplug() {
	p.world.Close()
	if p.intruder != nil {
		p.intruder.Close()
	}
}

// run runs both servers, checks them once both are up, and stays with them.
func (p *pair) run(ctx context.Context, out io.Writer) error {
	machines, stop := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer stop(nil)
	for _, m := range p.members {
		m.up, m.ended = make(chan struct{}), make(chan struct{})
		m.server.Stage = p.stage(m)
		work.Go(func() {
			defer close(m.ended)
			if err := m.server.Run(machines); err != nil && machines.Err() == nil {
				stop(err)
			}
		})
	}
	for _, m := range p.members {
		select {
		case <-m.up:
		case <-m.ended:
			return cmp.Or(context.Cause(machines), fmt.Errorf("run --pair: %s ended before it was up", m.name))
		case <-machines.Done():
			return context.Cause(machines)
		}
	}
	if err := p.forward(machines, &work); err != nil {
		return err
	}
	failed, err := p.report(machines, out)
	if err != nil {
		return err
	}
	if !p.check {
		p.say("Ctrl-C cuts the power of both")
		for _, m := range p.members {
			<-m.ended // with machines, if not before
		}
		if err := context.Cause(machines); err != nil && ctx.Err() == nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of the checks failed", failed)
	}
	return nil
}

// stage tells how far a server is.
func (p *pair) stage(m *member) func(vm.Stage) {
	var once sync.Once
	return func(s vm.Stage) {
		p.say("%s: %s", m.name, s)
		if s.Phase == vm.Up {
			once.Do(func() { close(m.up) })
		}
	}
}

// report runs the checks and prints them.
func (p *pair) report(ctx context.Context, out io.Writer) (failed int, err error) {
	p.say("both are up; checking from outside")
	rows, err := p.checks(ctx)
	if err != nil {
		return 0, err
	}
	for _, r := range rows {
		if !r.OK {
			failed++
		}
	}
	if !p.json {
		printRows(out, rows)
		return failed, nil
	}
	b, err := json.MarshalIndent(struct {
		Checks  []row     `json:"checks"`
		Public  lan.Stats `json:"public"`
		Private lan.Stats `json:"private"`
	}{rows, p.public.Stats(), p.private.Stats()}, "", "  ")
	if err != nil {
		return failed, err
	}
	_, err = fmt.Fprintf(out, "%s\n", b)
	return failed, err
}

// forwards are the ports of 127.0.0.1 that lead to the servers. Another one is
// taken where somebody has it.
var forwards = [2][]struct{ port, to uint16 }{
	{{8443, 443}, {8080, 80}, {2222, 22}},
	{{9443, 443}, {9080, 80}, {9222, 22}},
}

func (p *pair) forward(ctx context.Context, work *sync.WaitGroup) error {
	for i, m := range p.members {
		for _, f := range forwards[i] {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", f.port))
			if err != nil {
				if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
					return fmt.Errorf("run --pair: %w", err)
				}
			}
			src := p.visitor()
			if f.to == 22 {
				src = m.admin
			}
			to := netip.AddrPortFrom(m.address.Addr(), f.to)
			p.say("%v leads to %s, %v, from %v", l.Addr(), m.name, to, src)
			context.AfterFunc(ctx, func() { l.Close() })
			work.Go(func() {
				if err := p.world.Relay(ctx, l, src, to); err != nil {
					p.say("%v", err)
				}
			})
		}
	}
	return nil
}

// settle is how long a server has after its login prompt until its jails answer.
const settle = 5 * time.Minute
