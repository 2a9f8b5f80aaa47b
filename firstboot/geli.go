package firstboot

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/prompt"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// An encrypted pool, after FreeBSD 15.1 sys/geom/eli/g_eli.c and geli(8). On each
// disk the last partition, labelled geli-SERIAL, is a GELI provider, and what is
// inside of it, vtbd0p5.eli, is the pool's member. Its label would be a better name,
// but the kernel opens a provider at the start by the first name it sees, and that
// takes the label away (g_label_taste skips what is open for writing); nor can a GPT
// inside carry one (g_part_gpt_create refuses to be nested). Names move when a disk is
// missing; ZFS finds its members by their GUIDs then (vdev_geom_open).

// geliSector is the sector size of encrypted members in bytes.
const geliSector = 4096

// encryptedWord tells the verb "switch" that the pool is encrypted.
const encryptedWord = "geli"

// relabelGELI makes the partitions of the pool those that hold its encrypted
// members.
func (p *planner) relabelGELI() {
	for _, t := range p.targets {
		for i := range t.parts {
			if t.parts[i].Role == manifest.RoleZFS {
				t.parts[i].Role = manifest.RoleGELI
			}
		}
	}
}

// member is the pool's device on a disk.
func (p *planner) member(t target) string {
	if p.Answers.Encrypted() {
		return t.dev(manifest.RoleGELI) + ".eli"
	}
	return place.GPT + t.label(manifest.RoleZFS)
}

// encrypt makes the encrypted members and opens them, all with one passphrase.
// Metadata is not backed up: a damaged member is replaced like a damaged disk.
func (p *planner) encrypt() {
	if !p.Answers.Encrypted() {
		return
	}
	pass := p.Answers.Secret(answers.KeyPassphrase)
	if pass == "" {
		p.errs = append(p.errs, fmt.Errorf("plan: the pool is to be encrypted, and there is no %s", answers.KeyPassphrase))
	}
	if size := 1 << p.m.Pool.Ashift; size < geliSector {
		p.errs = append(p.errs, fmt.Errorf("plan: pool.ashift %d makes sectors of %d bytes; an encrypted pool has %d", p.m.Pool.Ashift, size, geliSector))
	}
	for i, t := range p.targets {
		var cmds []run.Cmd
		if i == 0 {
			cmds = append(cmds, run.New("kldload", "-n", "geom_eli"))
		}
		dev := t.dev(manifest.RoleGELI)
		cmds = append(cmds,
			withPassphrase(pass, "geli", "init", "-b", "-B", "none", "-e", "AES-XTS", "-l", "256", "-s", fmt.Sprint(geliSector), "-J", "-", dev),
			withPassphrase(pass, "geli", "attach", "-j", "-", dev))
		p.step("encrypt-"+t.Name, "encrypt the pool's part of "+t.Name, cmds...)
	}
}

// withPassphrase is a command that reads the passphrase from standard input.
func withPassphrase(pass answers.SecretValue, argv ...string) run.Cmd {
	return run.Cmd{Argv: argv, Stdin: []byte(pass.Reveal() + "\n"), Secret: true}
}

// detach closes the encrypted members, when the pool was exported.
func (p *planner) detach() []run.Cmd {
	var cmds []run.Cmd
	for _, t := range p.targets {
		if p.Answers.Encrypted() {
			cmds = append(cmds, run.New("geli", "detach", t.partName(manifest.RoleGELI)))
		}
	}
	return cmds
}

// detaches are the commands of a plan that close encrypted members.
func detaches(steps []Step) []run.Cmd {
	var cmds []run.Cmd
	for _, s := range steps {
		for _, c := range s.Cmds {
			if len(c.Argv) > 1 && c.Argv[0] == "geli" && c.Argv[1] == "detach" {
				cmds = append(cmds, c)
			}
		}
	}
	return cmds
}

// dumpless keeps a crash from writing memory, and the pool's keys with it, to the
// swap partition, as dumpdev="AUTO" does.
func (p *planner) dumpless() []run.Cmd {
	if !p.Answers.Encrypted() {
		return nil
	}
	return []run.Cmd{
		do("mkdir", place.Target+"/etc/rc.conf.d", "0:0", "0755"),
		put(place.Target+"/etc/rc.conf.d/dumpon", "0:0", "0644", "# rig: a kernel dump would hold the keys of the encrypted pool.\ndumpdev=\"NO\"\n"),
	}
}

// inspect looks at what is on the disks, and says what it could not look at. A
// person may open that.
func (in *Installer) inspect(ctx context.Context, f *facts.Facts, m *manifest.Manifest, set *answers.Set) (State, error) {
	pass := set.Secret(answers.KeyPassphrase)
	state, err := Inspect(ctx, in.Run, in.Root, f, m, pass)
	if err != nil || len(state.Locked) == 0 {
		return state, err
	}
	var names []string
	for _, d := range state.Locked {
		names = append(names, d.Name)
	}
	why := "there is no " + answers.KeyPassphrase
	if pass != "" {
		why = answers.KeyPassphrase + " does not open it"
	}
	in.sayf("rig: the pool on %s is encrypted and %s: whether an installation there was complete is not known", strings.Join(names, ", "), why)
	if pass != "" || in.Prompt == nil || in.PlanOnly {
		return state, nil
	}
	open := func(text string) error {
		if text == "" {
			return nil
		}
		s, err := Inspect(ctx, in.Run, in.Root, f, m, answers.SecretValue(text))
		if err == nil && !s.Encrypted {
			return errors.New("it opens none of these disks")
		}
		state = s
		return err
	}
	_, err = in.Prompt.Input(ctx, prompt.Question{Label: "Passphrase of that pool; empty to go on without", Secret: true, Validate: open})
	return state, err
}

// askPassphrase asks for the passphrase of the new pool twice, as nobody sees what
// is typed.
func (in *Installer) askPassphrase(ctx context.Context, set *answers.Set, q answers.Question) error {
	for {
		accept := func(text string) error {
			v, err := answers.ParseText(&q, text)
			if err != nil {
				return err
			}
			return set.Set(q.Key, v)
		}
		first, err := in.Prompt.Input(ctx, prompt.Question{Label: q.Prompt, Help: q.Help, Secret: true, Validate: accept})
		if err != nil {
			return err
		}
		again, err := in.Prompt.Input(ctx, prompt.Question{Label: q.Prompt + ", again", Secret: true})
		if err != nil {
			return err
		}
		if again == first {
			return nil
		}
		if err := set.Set(q.Key, nil); err != nil {
			return err
		}
		in.Prompt.Note("The two are not the same; type it again.")
	}
}
