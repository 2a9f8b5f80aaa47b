// Riginstall runs inside an image made by rigimage: it installs the machine it
// runs on, and keeps an installed one bootable from any of its disks.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rig-freebsd/rig/firstboot"
	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/prompt"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
)

const usage = `riginstall installs the machine it runs on from a rig image.

usage: riginstall [install] [--answers FILE] [--force]
       riginstall plan [--answers FILE]     print what install would do, as a script for sh
       riginstall facts [--json]            print what is known about this machine
       riginstall bootsync                  installed system: bring every disk's boot
                                            partition in step with the active boot environment
       riginstall verify [--json] [--strict]
                                            installed system: check pool, boot partitions, jails,
                                            network, firewall, tunnels and files
       riginstall confirm                   installed system: keep the network settings of /etc,
                                            whether or not the gateway answers
       riginstall netwatch [--limit 2m]     run by rc at boot: fall back when the gateway of new
                                            settings does not answer
       riginstall console TTY               run by init on each console of the installer
       riginstall do VERB …                 one command of a plan

example: riginstall plan --answers /tmp/answers.toml | less

Exit status: 0 done, 1 failed, 2 bad usage or input.
`

func main() { os.Exit(runMain(os.Args[1:], cli.OS())) }

func runMain(args []string, std cli.Stdio) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return std.Fail("riginstall", dispatch(ctx, args, std))
}

func dispatch(ctx context.Context, args []string, std cli.Stdio) error {
	word := "install"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		word, args = args[0], args[1:]
	}
	if len(args) > 0 && word == "help" {
		args = []string{"-h"}
	}
	switch word {
	case "install", "plan":
		return install(ctx, word == "plan", args, std)
	case "facts":
		return printFacts(ctx, args, std)
	case "bootsync":
		return bootsync(ctx, args, std)
	case "verify":
		return verify(ctx, args, std)
	case "confirm":
		return confirm(ctx, args, std)
	case "netwatch":
		return netwatch(ctx, args, std)
	case "console":
		return runConsole(args)
	case "do":
		return do(ctx, args)
	case "help":
		fmt.Fprint(std.Out, usage)
		return nil
	}
	return diag.Hint(diag.Inputf("unknown command %q", word), "riginstall --help shows the commands")
}

// install runs the installer or prints its plan.
func install(ctx context.Context, planOnly bool, args []string, std cli.Stdio) error {
	fs := std.Flags(usage)
	file := fs.String("answers", "", "")
	force := fs.Bool("force", false, "")
	if _, err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	in, done, err := newInstaller(std, planOnly)
	if err != nil {
		return err
	}
	defer done()
	in.AnswersFile, in.Force = *file, *force
	progress := cli.NewProgress(std.Err)
	if out, ok := std.Out.(*os.File); ok && !planOnly {
		in.Prompt = prompt.New(std.In, out, std.Getenv)
		in.Progress = progress.Report
	}
	after, err := in.Install(ctx)
	progress.Done()
	if err != nil {
		return err
	}
	return power(ctx, after, std.Out)
}

// lastWords is the time other consoles have to show the end of the log they follow.
const lastWords = 3 * time.Second

// power does what the answers want after an install.
func power(ctx context.Context, after string, out io.Writer) error {
	var argv []string
	switch after {
	case "reboot":
		argv = []string{"shutdown", "-r", "now"}
	case "poweroff":
		argv = []string{"shutdown", "-p", "now"}
	default:
		return nil
	}
	fmt.Fprintf(out, "rig: %s\n", after)
	time.Sleep(lastWords)
	_, err := run.Exec{}.Run(ctx, run.New(argv...))
	return err
}

func printFacts(ctx context.Context, args []string, std cli.Stdio) error {
	fs := std.Flags(usage)
	asJSON := fs.Bool("json", false, "")
	if _, err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	f, err := facts.Probe(ctx, facts.Prober{Run: run.Exec{}, OpenDisk: facts.OpenDevice})
	if err != nil {
		return err
	}
	if !*asJSON {
		return f.WriteText(std.Out)
	}
	b, err := f.JSON()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.Out, "%s\n", b)
	return err
}

// do runs one command of a plan by hand, with the manifest and the answers of
// the install under way.
func do(ctx context.Context, args []string) error {
	m := &firstboot.Machine{Run: run.Exec{}, Log: firstboot.NewJournal(io.Discard)}
	var err error
	if m.Manifest, err = place.AnyManifest("/"); err != nil {
		return err
	}
	if m.Manifest != nil {
		saved := answers.Source{Name: filepath.Join(place.StateDir, "answers.toml")}
		if saved.Data, err = os.ReadFile(saved.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if m.Answers, err = answers.Resolve(m.Manifest.Questions, saved); err != nil {
			return err
		}
	}
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	return m.Exec(ctx, run.Cmd{Argv: append([]string{place.Self, "do"}, args...), Stdin: stdin})
}

func bootsync(ctx context.Context, args []string, std cli.Stdio) error {
	fs := std.Flags(usage)
	if _, err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	return disk.Bootsync{Run: run.Exec{}, Logf: func(format string, a ...any) { fmt.Fprintf(std.Out, "rig: "+format+"\n", a...) }}.Sync(ctx)
}
