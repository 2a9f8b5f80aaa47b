package firstboot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/firstboot/root"
	"github.com/rig-freebsd/rig/firstboot/source"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/work"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// Machine carries out commands: riginstall's own ("riginstall do …") in process,
// all others through Run.
type Machine struct {
	Root     string // where the machine's file system is, "" for /; tests have one of their own
	Run      run.Runner
	Manifest *manifest.Manifest
	Answers  *answers.Set
	Identity root.Identity
	Log      *Journal
	Progress work.Progress // may be nil
	Datasets zfs.Lister    // zfs.ListDatasets when nil
}

func (m *Machine) system() root.System {
	return root.System{Root: m.Root, Run: m.Run, Manifest: m.Manifest, Answers: m.Answers, Identity: m.Identity, Datasets: m.Datasets,
		Logf: m.Log.Printf, Progress: m.Progress}
}

func (m *Machine) boot() disk.Boot {
	return disk.Boot{Root: m.Root, Manifest: m.Manifest, Progress: m.Progress}
}

func (m *Machine) bundle() source.Bundle {
	return source.Bundle{Root: m.Root, Manifest: m.Manifest, Logf: m.Log.Printf, Progress: m.Progress}
}

// call is the arguments of a "riginstall do" word, which were counted, and its input.
type call struct {
	args  []string
	stdin []byte
}

// opt is argument i, "" when it was left out.
func (c call) opt(i int) string {
	if i < len(c.args) {
		return c.args[i]
	}
	return ""
}

// verb is one "riginstall do" word.
type verb struct {
	args  string // for usage and count; "…" at the end means any number more
	image bool   // it has to know the image and the answers
	run   func(context.Context, *Machine, call) error
}

// verbs is every change riginstall makes by itself rather than through a
// program of FreeBSD.
func verbs() map[string]verb {
	return map[string]verb{
		"zero":           {"DEVICE OFFSET LENGTH", false, zero},
		"copy-rig":       {"FROM TO", true, func(_ context.Context, m *Machine, c call) error { return m.boot().CopyRig(c.args[0], c.args[1]) }},
		"write-esp":      {"FROM TO …", true, writeESP},
		"verify-boot":    {"DISK …", true, func(_ context.Context, m *Machine, c call) error { return m.boot().Verify(c.args) }},
		"forget-answers": {"ESP", true, func(_ context.Context, m *Machine, c call) error { return m.boot().ForgetAnswers(c.args[0]) }},
		"switch":         {"RIG-PARTITION DATASET …", true, switchBoot},
		"put": {"FILE UID:GID MODE", false, func(_ context.Context, m *Machine, c call) error {
			return m.system().Put(c.args[0], c.args[1], c.args[2], c.stdin)
		}},
		"mkdir": {"DIR UID:GID MODE", false, func(_ context.Context, m *Machine, c call) error {
			return m.system().Mkdir(c.args[0], c.args[1], c.args[2])
		}},
		"unpack": {"LAYER DIR …", true, unpack},
		"copy-tree": {"FROM TO", false, func(ctx context.Context, m *Machine, c call) error {
			return m.system().CopyTree(ctx, c.args[0], c.args[1])
		}},
		"answers": {"FILE", true, func(_ context.Context, m *Machine, c call) error { return m.system().KeepAnswers(c.args[0]) }},
		"packages": {"DIR PACKAGE …", false, func(ctx context.Context, m *Machine, c call) error {
			return m.system().Packages(ctx, c.args[0], c.args[1:])
		}},
		"base-packages": {"DIR PACKAGE …", false, func(ctx context.Context, m *Machine, c call) error {
			return m.system().BasePackages(ctx, c.args[0], c.args[1:])
		}},
		"lock-accounts": {"DIR", false, func(_ context.Context, m *Machine, c call) error { return m.system().LockAccounts(c.args[0]) }},
		"render":        {"DIR …", true, func(_ context.Context, m *Machine, c call) error { return m.system().Render(c.args[0], c.opt(1)) }},
		"check-files":   {"DIR", false, func(ctx context.Context, m *Machine, c call) error { return m.system().CheckFiles(ctx, c.args[0]) }},
		"verify-roots":  {"POOL", true, func(_ context.Context, m *Machine, c call) error { return m.system().VerifyRoots(c.args[0]) }},
		"verify-pool":   {"POOL MIRROR SPARES", false, verifyPool},
		"fetch":         {"URL", true, func(ctx context.Context, m *Machine, c call) error { return m.bundle().Fetch(ctx, c.args[0]) }},
		"result":        {"DIR", true, func(ctx context.Context, m *Machine, c call) error { return m.result(ctx, c.args[0]) }},
		"umount":        {"DIR", false, umount},
	}
}

// takes reports whether n is a right number of arguments.
func (v verb) takes(n int) bool {
	want := strings.Fields(v.args)
	if want[len(want)-1] == "…" {
		return n >= len(want)-1
	}
	return n == len(want)
}

// Exec carries out one command.
func (m *Machine) Exec(ctx context.Context, c run.Cmd) error {
	if len(c.Argv) < 2 || c.Argv[0] != place.Self || c.Argv[1] != "do" {
		_, err := m.Run.Run(ctx, c)
		return err
	}
	if len(c.Argv) == 2 {
		return diag.Inputf("%s: no verb given; there are %s", c, strings.Join(slices.Sorted(maps.Keys(verbs())), ", "))
	}
	v, ok := verbs()[c.Argv[2]]
	switch {
	case !ok:
		return diag.Inputf("%s: no such verb; there are %s", c, strings.Join(slices.Sorted(maps.Keys(verbs())), ", "))
	case !v.takes(len(c.Argv) - 3):
		return diag.Inputf("%s: usage: riginstall do %s %s", c, c.Argv[2], v.args)
	case v.image && m.Manifest == nil:
		return diag.Hint(fmt.Errorf("%s: the image is not known", c), "mount its rig partition at %s", place.BundleDir)
	}
	if err := v.run(ctx, m, call{c.Argv[3:], c.Stdin}); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}

func zero(_ context.Context, m *Machine, c call) error {
	off, err1 := strconv.ParseInt(c.args[1], 10, 64)
	n, err2 := strconv.ParseInt(c.args[2], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return disk.Zero(m.Root+place.Dev+c.args[0], off, n)
}

func writeESP(_ context.Context, m *Machine, c call) error {
	sector := 0
	if text := c.opt(2); text != "" {
		var err error
		if sector, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("sector size of %s: %w", c.args[1], err)
		}
	}
	return m.boot().WriteESP(c.args[0], c.args[1], sector)
}

// switchBoot is told, after the dataset, "geli" when the pool is encrypted, and the
// kernel's directory when it is not the image's.
func switchBoot(_ context.Context, m *Machine, c call) error {
	kernel, encrypted := "", false
	for _, a := range c.args[2:] {
		if a == encryptedWord {
			encrypted = true
		} else {
			kernel = a
		}
	}
	return m.boot().Switch(c.args[0], c.args[1], kernel, encrypted)
}

// unpack is told, after the directory, the web server that the layer comes from.
func unpack(ctx context.Context, m *Machine, c call) error {
	url := c.opt(2)
	if url == "" {
		return m.system().Unpack(ctx, c.args[0], c.args[1])
	}
	l, err := m.system().Layer(c.args[0])
	if err != nil {
		return err
	}
	return m.bundle().Unpack(ctx, l, c.args[1], url)
}

func verifyPool(ctx context.Context, m *Machine, c call) error {
	mirror, err1 := strconv.Atoi(c.args[1])
	spares, err2 := strconv.Atoi(c.args[2])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	st, err := zfs.Status(ctx, m.Run, c.args[0])
	if err != nil {
		return err
	}
	if bad := st.Problems(mirror, spares); len(bad) > 0 {
		return errors.New(strings.Join(bad, "; "))
	}
	return nil
}

func umount(ctx context.Context, m *Machine, c call) error {
	_, err := m.Run.Run(ctx, run.New("umount", c.args[0]))
	return err
}
