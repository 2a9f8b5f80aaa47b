// Package firstboot installs a server: it looks at the machine, completes its answers,
// makes a plan of steps that print as sh and run as they print, and carries it out.
package firstboot

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/network"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/firstboot/root"
	"github.com/rig-freebsd/rig/firstboot/source"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/prompt"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/work"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// Installer is one run of riginstall on a machine.
type Installer struct {
	Root        string // where the machine's file system is, "" for /
	Out         io.Writer
	Prompt      prompt.Prompter // nil: nothing can be asked
	Run         run.Runner
	Prober      facts.Prober
	Log         *Journal
	Progress    work.Progress                                                                               // may be nil
	AnswersFile string                                                                                      // the strongest source, "" for none
	Who         func(ctx context.Context, ifname string, from, target netip.Addr) (net.HardwareAddr, error) // arp.Who; nil: "auto" goes by links only
	Force       bool                                                                                        // install again over a complete system of the same image
	PlanOnly    bool                                                                                        // print the plan as sh and change nothing

	Datasets zfs.Lister // zfs.ListDatasets when nil

	FromNet bool // set by Install: this machine was booted from the network

	seen *facts.Facts // by Unattended, for the Install that follows
}

// ErrInstalled is returned when the machine is complete already.
var ErrInstalled = errors.New("this server is installed already")

// errDeclined is returned when the plan was not confirmed.
var errDeclined = errors.New("not confirmed; nothing was changed")

// Install does everything from the first look at the machine to the switch of
// its disks, and returns what is to happen then: "reboot", "poweroff", "shell".
func (in *Installer) Install(ctx context.Context) (after string, err error) {
	f, err := in.facts(ctx)
	if err != nil {
		return "", err
	}
	md, err := in.openMedium(ctx, f)
	if err != nil {
		return "", err
	}
	pool, undo := "", []run.Cmd(nil)
	defer func() {
		if err != nil || in.PlanOnly {
			in.release(ctx, md.Manifest, pool, undo)
		}
	}()
	in.sayf("rig: image %s on %s, %s firmware, %d disks, %d network interfaces",
		md.Manifest.Image, md.Source, f.Firmware, len(f.Disks), len(f.NICs))
	set, err := in.answers(ctx, f, md)
	if err != nil {
		return "", err
	}
	state, err := in.inspect(ctx, f, md.Manifest, set)
	if err != nil {
		return "", err
	}
	m := &Machine{Root: in.Root, Run: in.Run, Manifest: md.Manifest, Log: in.Log, Progress: in.Progress, Datasets: in.Datasets, Answers: set}
	if state.Complete(md.Manifest.Image) && !in.force(f) {
		return in.finishUp(ctx, m, md, state, set)
	}
	input, err := in.decide(ctx, f, md, state, set)
	if err != nil {
		return "", err
	}
	if err := md.Check(ctx, func(done, total int64) { in.Progress.Report("check the medium", done, total) }); err != nil {
		return "", err
	}
	m.Identity = input.Identity
	steps, err := Plan(*input)
	if err != nil {
		return "", err
	}
	if in.PlanOnly {
		return "", WriteScript(in.Out, steps)
	}
	if err := in.confirm(ctx, input); err != nil {
		return "", err
	}
	if err := in.saveAnswers(set); err != nil {
		return "", err
	}
	pool, undo = input.unit().Pool, detaches(steps)
	if err := m.Apply(ctx, steps, in.announce); err != nil {
		return "", diag.Hint(err, "see %s/install.log; the machine still boots the installer, run it again after mending the cause", place.StateDir)
	}
	in.showPasswords(input.Identity)
	source.TellDone(ctx, f, in.netLog)
	in.sayf("rig: %s is installed; every disk boots it", md.Manifest.Image)
	return set.String(answers.KeyAfter), nil
}

// release lets go of what a run that ended early holds, so that another one can
// follow without a restart. What it does not hold it cannot let go: errors do not
// count. pool is named when steps were carried out; undo is what then follows its
// export.
func (in *Installer) release(ctx context.Context, m *manifest.Manifest, pool string, undo []run.Cmd) {
	cmds := []run.Cmd{run.New("umount", place.BundleDir)} // first: it may be in the pool
	if pool != "" {
		for _, j := range m.Jails {
			root := place.Target + "/jails/" + j.Name
			cmds = append(cmds, run.New("umount", root+place.PkgMount), run.New("umount", root+"/dev"))
		}
		cmds = append(cmds, run.New("umount", place.Target+place.PkgMount), run.New("umount", place.Target+"/dev"), run.New("umount", place.BaseDir), run.New("zpool", "export", "-f", pool))
		cmds = append(cmds, undo...)
	}
	for _, c := range cmds {
		_, _ = in.Run.Run(context.WithoutCancel(ctx), c)
	}
}

// Unattended reports whether the answers at hand want an install without a
// person.
func (in *Installer) Unattended(ctx context.Context) (bool, error) {
	f, err := in.facts(ctx)
	if err != nil {
		return false, err
	}
	md, err := in.openMedium(ctx, f)
	if err != nil {
		return false, err
	}
	if !md.FromNet() {
		defer in.Run.Run(ctx, run.New("umount", place.BundleDir))
	}
	set, err := in.answers(ctx, f, md)
	if err != nil {
		return false, err
	}
	in.seen = f
	return set.Bool(answers.KeyUnattended), nil
}

// openMedium finds what this machine is installed from: where it was booted from.
func (in *Installer) openMedium(ctx context.Context, f *facts.Facts) (*source.Opened, error) {
	web, err := source.Booted(f)
	if err != nil {
		return nil, err
	}
	if web != nil {
		in.FromNet = true
		if err := network.Up(ctx, in.Run, f, in.netLog); err != nil {
			return nil, err
		}
		return source.OpenWeb(ctx, in.Root, f, *web, in.netLog)
	}
	return source.OpenMedium(ctx, in.Run, in.Root, f)
}

// finishUp ends an install that was interrupted after the pool was complete, or
// refuses to begin another one.
func (in *Installer) finishUp(ctx context.Context, m *Machine, md *source.Opened, s State, set *answers.Set) (string, error) {
	if len(s.Unfinished) == 0 {
		err := fmt.Errorf("%w: pool %s is complete with image %s", ErrInstalled, s.Pool, s.PoolImage)
		if md.FromNet() {
			return "", diag.Hint(err, "let this machine boot from its disks first; to install again over it, run \"riginstall install --force\" in a shell here")
		}
		return "", diag.Hint(err,
			"remove the installation medium and restart; to install again over it, boot with rig.force=YES or run \"riginstall install --force\"")
	}
	in.sayf("rig: the pool is complete; switching the %d disks an interrupted install left", len(s.Unfinished))
	steps := FinishPlan(md.Manifest.Boot, manifest.Unit{Pool: s.Pool, Name: s.PoolImage}, md.Source, s.Unfinished, s.Encrypted)
	if in.PlanOnly {
		return "", WriteScript(in.Out, steps)
	}
	if err := m.Apply(ctx, steps, in.announce); err != nil {
		return "", err
	}
	in.sayf("rig: %s is installed; every disk boots it", m.Manifest.Image)
	return set.String(answers.KeyAfter), nil
}

func (in *Installer) netLog(format string, a ...any) { in.sayf("rig: "+format, a...) }

func (in *Installer) force(f *facts.Facts) bool {
	return in.Force || strings.EqualFold(f.Kenv["rig.force"], "YES")
}

// answers merges all sources, weakest first.
func (in *Installer) answers(ctx context.Context, f *facts.Facts, md *source.Opened) (*answers.Set, error) {
	sources, err := source.ESPAnswers(f, md)
	if err != nil {
		return nil, err
	}
	web, err := source.NetAnswers(ctx, f, md)
	if err != nil {
		return nil, err
	}
	sources = append(append(sources, web...), source.KenvAnswers(f))
	if in.AnswersFile != "" {
		b, err := os.ReadFile(in.AnswersFile)
		if err != nil {
			return nil, diag.Input(err)
		}
		sources = append(sources, answers.Source{Name: in.AnswersFile, Data: b})
	}
	return answers.Resolve(md.Manifest.Questions, sources...)
}

// decide completes the answers by prompts and matches them with the machine. All
// that is wrong is reported at once.
func (in *Installer) decide(ctx context.Context, f *facts.Facts, md *source.Opened, s State, set *answers.Set) (*Input, error) {
	targets := s.Targets(f, md)
	if err := in.ask(ctx, f, md, targets, set); err != nil {
		return nil, err
	}
	var problems diag.Problems
	if err := set.Check(); err != nil {
		collect(&problems, err)
	}
	layout, err := zfs.Match(wish(set, md.Manifest, f), targets)
	collect(&problems, err)
	if _, iso := md.Source.(source.ISO); iso && layout != nil && slices.ContainsFunc(layout.Disks(), func(d zfs.Disk) bool { return d.Name == md.Disk.Name }) {
		problems.Add(diag.Problem{Key: answers.KeyDisks, Msg: fmt.Sprintf("disk %s is the installation medium, an ISO, which cannot become a member", md.Disk.Name)})
	}
	collect(&problems, network.Cards{Facts: f, Run: in.Run, Who: in.Who}.AskGateways(ctx, md.Manifest, set))
	collect(&problems, network.Resolve(f, md.Manifest, set))
	if err := problems.Err(); err != nil {
		return nil, err
	}
	id, err := newIdentity(md.Manifest, set)
	if err != nil {
		return nil, err
	}
	return &Input{Manifest: md.Manifest, Facts: f, Answers: set, Layout: layout, Identity: id, Source: md.Source}, nil
}

func collect(into *diag.Problems, err error) {
	var ps *diag.Problems
	switch {
	case err == nil:
	case errors.As(err, &ps):
		into.List = append(into.List, ps.List...)
		if into.Source == nil {
			into.Source = ps.Source
		}
	default:
		into.Add(diag.Problem{Msg: err.Error()})
	}
}

func wish(set *answers.Set, m *manifest.Manifest, f *facts.Facts) zfs.Wish {
	d := set.Disks(answers.KeyDisks)
	return zfs.Wish{Mirror: d.Mirror, Spares: d.Spares, Rule: d.Rule, Wipe: d.Wipe,
		MinSize: m.Boot.MinDisk(d.SwapSize(m.Boot.Swap)), UEFI: f.Firmware == "UEFI"}
}

// ask prompts for every required answer that is missing.
func (in *Installer) ask(ctx context.Context, f *facts.Facts, md *source.Opened, targets []zfs.Disk, set *answers.Set) error {
	if err := set.CheckUnattended(); err != nil {
		return diag.Hint(err, "put the answers into %s on the ESP of the medium", manifest.AnswersFile)
	}
	missing := set.Missing()
	if len(missing) == 0 {
		return nil
	}
	if in.Prompt == nil || in.PlanOnly {
		var ps diag.Problems
		for _, q := range missing {
			ps.Add(diag.Problem{Key: q.Key, Msg: "no answer, and nobody to ask"})
		}
		return diag.Hint(ps.Err(), "put the answers into %s on the ESP of the medium", manifest.AnswersFile)
	}
	for _, q := range missing {
		if q.Type == answers.Disks {
			in.showDisks(targets)
		}
		if q.Type == answers.NIC {
			in.showNICs(f)
		}
		if q.Key == answers.KeyPassphrase {
			if err := in.askPassphrase(ctx, set, q); err != nil {
				return err
			}
			continue
		}
		if err := in.askOne(ctx, f, md, targets, set, q); err != nil {
			return err
		}
	}
	return nil
}

func (in *Installer) askOne(ctx context.Context, f *facts.Facts, md *source.Opened, targets []zfs.Disk, set *answers.Set, q answers.Question) error {
	label := q.Prompt
	if label == "" {
		label = q.Key
	}
	if q.Type == answers.Choice && !q.List {
		var items []prompt.Item
		for _, c := range q.Choices {
			items = append(items, prompt.Item{Label: c})
		}
		i, err := in.Prompt.Select(ctx, label, items, -1)
		if err != nil {
			return err
		}
		return set.Set(q.Key, q.Choices[i])
	}
	accept := func(text string) error {
		v, err := answers.ParseText(&q, text)
		if err != nil {
			return err
		}
		if err := set.Set(q.Key, v); err != nil {
			return err
		}
		switch q.Type {
		case answers.Disks:
			_, err = zfs.Match(wish(set, md.Manifest, f), targets)
		case answers.NIC:
			_, err = network.FindNIC(f, set.NIC(q.Key), nil)
		}
		return err
	}
	_, err := in.Prompt.Input(ctx, prompt.Question{Label: label, Help: q.Help, Secret: q.Hidden(), Validate: accept})
	return err
}

func (in *Installer) showDisks(targets []zfs.Disk) {
	var b strings.Builder
	b.WriteString("Disks of this machine:\n")
	for _, d := range targets {
		fmt.Fprintf(&b, "  %s\n", d)
	}
	in.Prompt.Note(b.String())
}

func (in *Installer) showNICs(f *facts.Facts) {
	var b strings.Builder
	b.WriteString("Network interfaces of this machine:\n")
	for _, n := range f.NICs {
		link := "no link"
		if n.Link {
			link = "link up"
		}
		fmt.Fprintf(&b, "  %-8s %s  %s %s\n", n.Device, n.MAC, link, n.Media)
	}
	in.Prompt.Note(b.String())
}

// confirm asks once, showing every disk. An unattended install was confirmed by
// naming its disks.
func (in *Installer) confirm(ctx context.Context, input *Input) error {
	var b strings.Builder
	l := input.Layout
	for i, d := range l.Disks() {
		role := "mirror"
		if i >= len(l.Mirror) {
			role = "spare"
		}
		fmt.Fprintf(&b, "  %-6s %s\n", role, d)
	}
	if len(l.Wiped) > 0 {
		b.WriteString("These lose what they hold:\n")
		for _, d := range l.Wiped {
			fmt.Fprintf(&b, "  %s\n", d)
		}
	}
	in.sayf("Pool %s will be made of\n%s", input.unit().Pool, strings.TrimRight(b.String(), "\n"))
	if input.Answers.Bool(answers.KeyUnattended) {
		return nil
	}
	if in.Prompt == nil {
		return diag.Hint(errDeclined, "answer install.unattended = true to install without being asked")
	}
	ok, err := in.Prompt.Confirm(ctx, "Install now", "yes")
	if err != nil {
		return err
	}
	if !ok {
		return errDeclined
	}
	return nil
}

// saveAnswers keeps this run's answers in memory, where "riginstall do" finds them.
func (in *Installer) saveAnswers(set *answers.Set) error {
	f, err := os.OpenFile(filepath.Join(in.Root, place.StateDir, "answers.toml"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(set.TOML(f, true), f.Close())
}

// newIdentity makes what is random: the host UUID, and the secrets that may be
// generated and were not given.
func newIdentity(m *manifest.Manifest, set *answers.Set) (root.Identity, error) {
	id := root.Identity{HostUUID: randomUUID(), Passwords: map[string]string{}}
	for _, q := range answers.All(m.Questions) {
		if _, given := set.Get(q.Key); given || !q.Generate {
			continue
		}
		switch q.Type {
		case answers.PasswordHash:
			id.Passwords[q.Key] = randomText(20)
		case answers.Secret:
			if err := set.Set(q.Key, answers.SecretValue(randomText(32))); err != nil {
				return id, err
			}
		}
	}
	return id, nil
}

func randomUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// randomText is n characters of five random bits each.
func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))[:n]
}

// showPasswords prints generated passwords on this console, once.
func (in *Installer) showPasswords(id root.Identity) {
	for _, q := range slices.Sorted(maps.Keys(id.Passwords)) {
		fmt.Fprintf(in.Out, "Generated password for %s, shown only now: %s\n", q, id.Passwords[q])
	}
}

func (in *Installer) announce(i, n int, s Step) {
	fmt.Fprintf(in.Out, "rig: step %d/%d %s: %s\n", i, n, s.Name, s.Title)
}

func (in *Installer) sayf(format string, args ...any) {
	fmt.Fprintf(in.Out, format+"\n", args...)
	in.Log.Printf(format, args...)
}
