package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/vm"
	"github.com/rig-freebsd/rig/internal/vm/lan"
	"github.com/rig-freebsd/rig/overlay/answers"
)

const pairUsage = `usage: rigimage run --pair [IMAGE] [--site site.toml] [--bios] [--mem 2G] [--disk-size 8G] [--keep DIR]
                           [--NET-loss 5%] [--NET-delay 20ms] [--NET-cut] [--check] [--json] [--quiet]

Installs both servers of a site from one image, in two QEMUs, without a question,
boots them, and tries from outside what passes their firewalls. IMAGE is rig.img by
default and is not written to. Then both stay, reachable on ports of 127.0.0.1, until
Ctrl-C cuts their power or both are shut down.

  --site FILE          the servers' answers (default: those of the default profile)
  --bios               boot by BIOS; otherwise by UEFI (package ovmf)
  --mem SIZE           memory of each server
  --disk-size SIZE     of each of its disks: four, or as many as the answers name
  --keep DIR           keep the disks in DIR, and boot servers that are installed there
  --NET-loss PERCENT   lose frames of the network that joins the servers; NET is its name
                       in rig.toml or its interface: --private-loss, --inic-loss
  --NET-delay TIME     delay them
  --NET-cut            let none pass
  --check              end after the checks; the exit status is 1 when one failed
  --json               print the checks as JSON; the consoles go to standard error
  --quiet              do not print the consoles

Cards and disks are those the answers name. Networks and what is tried are those of the
image's rig.toml ([[network]], [[check]]). A network with a gateway has everything behind
it; nothing leaves this machine.

example: rigimage run --pair rig.img --site site.toml --keep /var/tmp/pair
`

// pairOptions is the command line.
type pairOptions struct {
	image, site, keep  string
	firmware           vm.Firmware
	memory, diskSize   int64
	line               lan.Line // of the network that joins the servers
	lineOf             []string // what the options call that network
	check, json, quiet bool
}

// lineFlag is an option about the network that joins the servers. Which one that is
// only the image knows.
var lineFlag = regexp.MustCompile(`^--?([a-z0-9_-]+)-(loss|delay|cut)(=|$)`)

func parsePair(args []string, std cli.Stdio) (pairOptions, error) {
	o := pairOptions{image: "rig.img"}
	fl := std.Flags(pairUsage)
	fl.Bool("pair", true, "")
	bios := fl.Bool("bios", false, "")
	mem := fl.String("mem", "2G", "")
	diskSize := fl.String("disk-size", "8G", "")
	fl.StringVar(&o.site, "site", "", "")
	fl.StringVar(&o.keep, "keep", "", "")
	fl.BoolVar(&o.check, "check", false, "")
	fl.BoolVar(&o.json, "json", false, "")
	fl.BoolVar(&o.quiet, "quiet", false, "")
	o.lineFlags(fl, args)
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
	if err := o.readLine(fl); err != nil {
		return o, err
	}
	if o.memory, err = parseSize("--mem", *mem); err != nil {
		return o, err
	}
	o.diskSize, err = parseSize("--disk-size", *diskSize)
	return o, err
}

// lineFlags makes options of those arguments that look like one of a network.
func (o *pairOptions) lineFlags(fl *flag.FlagSet, args []string) {
	for _, a := range args {
		m := lineFlag.FindStringSubmatch(a)
		if m == nil || fl.Lookup(m[1]+"-"+m[2]) != nil {
			continue
		}
		o.lineOf = append(o.lineOf, m[1])
		if name := m[1] + "-" + m[2]; m[2] == "cut" {
			fl.BoolVar(&o.line.Cut, name, false, "")
		} else {
			fl.String(name, "", "")
		}
	}
}

// readLine reads what those options were given.
func (o *pairOptions) readLine(fl *flag.FlagSet) (err error) {
	fl.Visit(func(f *flag.Flag) {
		m, text := lineFlag.FindStringSubmatch("--"+f.Name), f.Value.String()
		if m == nil || err != nil {
			return
		}
		switch m[2] {
		case "loss":
			o.line.Loss, err = parsePercent(text)
		case "delay":
			if o.line.Delay, err = time.ParseDuration(text); err != nil {
				err = errors.New("expected a time, as 20ms")
			} else if o.line.Delay < 0 {
				err = errors.New("less than nothing")
			}
		}
		if err != nil {
			err = diag.Inputf("--%s %s: %w", f.Name, text, err)
		}
	})
	return err
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
	reach         manifest.Reach
	link          int // the network that joins the servers
	members       [2]*member
	dir           string
	networks      []segment // by network of reach
	consoles, log *labels
}

// segment is a network as it is simulated.
type segment struct {
	sw        *lan.Switch
	world     *lan.Host // the gateway and everything behind it, nil for none
	neighbour *lan.Host // somebody on the network, nil where nobody is needed or it has a VLAN
}

// seed makes the frames that --NET-loss loses the same ones each time.
const seed = 15

// MAC addresses on every network.
var (
	worldMAC     = net.HardwareAddr{0x52, 0x54, 0x00, 0x72, 0x69, 0xfe}
	neighbourMAC = net.HardwareAddr{0x52, 0x54, 0x00, 0x72, 0x69, 0xfd}
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
	m, err := imageManifest(ctx, o.image)
	if err != nil {
		return err
	}
	path, done, err := bootableImage(ctx, o.image, "", std)
	if err != nil {
		return err
	}
	defer done()
	p.image = path
	if err := p.prepare(m); err != nil {
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
func (p *pair) prepare(m *manifest.Manifest) error {
	s, err := p.describe(m)
	if err != nil {
		return err
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

// describe takes the pair from an image's manifest and a site file.
func (p *pair) describe(m *manifest.Manifest) (*pairSite, error) {
	p.reach, p.link = m.Reach(), m.Reach().Link()
	if p.link < 0 {
		return nil, diag.Hint(diag.Inputf("run --pair: rig.toml of profile %s has no network that joins two servers", m.Name),
			"a [[network]] with link = true is one")
	}
	link := p.reach.Networks[p.link]
	for _, name := range p.lineOf {
		if name != link.Name && name != link.Interface {
			return nil, diag.Inputf("run --pair: there is no line %s; the network that joins the servers is %s, on %s", name, link.Name, link.Interface)
		}
	}
	s, err := loadPairSite(p.pairOptions, m)
	if err != nil {
		return nil, err
	}
	for i := range p.members {
		if p.members[i], err = newMember(s, p.reach, i); err != nil {
			return nil, err
		}
		p.log.add(p.members[i].name)
		p.consoles.add(p.members[i].name)
	}
	return s, nil
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

// network makes the networks and who is on them beside the servers.
func (p *pair) network() error {
	for n := range p.reach.Networks {
		seg, err := p.segment(n)
		p.networks = append(p.networks, seg)
		if err != nil {
			p.unplug()
			return err
		}
	}
	for _, m := range p.members {
		m.server.Plug = func() ([]vm.NIC, func(), error) { return p.plug(m) }
		m.server.Line = func(line string) { p.consoles.print(m.name, line) }
	}
	return nil
}

func (p *pair) segment(n int) (seg segment, err error) {
	seg.sw = lan.New(seed)
	if n == p.link {
		if err := seg.sw.SetLine(p.line); err != nil {
			return seg, err
		}
	}
	if p.reach.Networks[n].Gateway != "" {
		if seg.world, err = lan.NewHost(seg.sw, "world", worldMAC, p.members[0].gateways[n], p.members[1].gateways[n]); err != nil {
			return seg, err
		}
	}
	for _, m := range p.members {
		for _, k := range m.packets {
			if k.Network != n || k.Sender != manifest.Neighbour || m.vlans[n] != 0 || seg.neighbour != nil {
				continue
			}
			if seg.neighbour, err = lan.NewHost(seg.sw, "neighbour", neighbourMAC, k.From); err != nil {
				return seg, err
			}
		}
	}
	return seg, nil
}

// plug connects a server's cards for one start.
func (p *pair) plug(m *member) (nics []vm.NIC, unplug func(), err error) {
	var closers []func()
	unplug = func() {
		for _, c := range closers {
			c()
		}
	}
	for i, seg := range p.networks {
		port, cable, err := seg.sw.Plug(m.name)
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
	for _, seg := range p.networks {
		for _, h := range []*lan.Host{seg.world, seg.neighbour} {
			if h != nil {
				h.Close()
			}
		}
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
	all := map[string]any{}
	for i, n := range p.reach.Networks {
		all[n.Name] = p.networks[i].sw.Stats()
	}
	all["checks"] = rows
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return failed, err
	}
	_, err = fmt.Fprintf(out, "%s\n", b)
	return failed, err
}

// forward makes the ports of 127.0.0.1 that lead to the servers. Another one is taken
// where somebody has it.
func (p *pair) forward(ctx context.Context, work *sync.WaitGroup) error {
	for i, m := range p.members {
		for _, k := range m.packets {
			if k.Check.Local == nil {
				continue
			}
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", k.Check.Local[i]))
			if err != nil {
				if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
					return fmt.Errorf("run --pair: %w", err)
				}
			}
			to := netip.AddrPortFrom(k.To, uint16(k.Check.Ports[0]))
			p.say("%v leads to %s, %v, from %v", l.Addr(), m.name, to, k.From)
			context.AfterFunc(ctx, func() { l.Close() })
			work.Go(func() {
				if err := p.networks[k.Network].world.Relay(ctx, l, k.From, to); err != nil {
					p.say("%v", err)
				}
			})
		}
	}
	return nil
}

// settle is how long a server has after its login prompt until its jails answer.
const settle = 5 * time.Minute
