package firstboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"rig/answers"
	"rig/internal/blockdev"
	"rig/internal/diag"
	"rig/internal/run"
	"rig/layer"
	"rig/manifest"
	"rig/overlay"
	"rig/zfs"
)

// Machine carries out commands: riginstall's own ("riginstall do …") in process,
// all others through Run.
type Machine struct {
	Root     string // where the machine's file system is, "" for /; tests have one of their own
	Run      run.Runner
	Manifest *manifest.Manifest
	Answers  *answers.Set
	Identity Identity
	Log      *Journal
	Progress func(what string, done, total int64) // may be nil
	Datasets ListDatasets                         // zfs.ListDatasets when nil
}

// ListDatasets is zfs.ListDatasets, or stands for it.
type ListDatasets func(name string) ([]zfs.DatasetInfo, error)

func (l ListDatasets) list(name string) ([]zfs.DatasetInfo, error) {
	if l == nil {
		return zfs.ListDatasets(name)
	}
	return l(name)
}

// verb is one "riginstall do" word. Its arguments have been counted.
type verb struct {
	args  string // for usage and count; "…" at the end means any number more
	image bool   // it has to know the image and the answers
	run   func(*Machine, context.Context, []string, []byte) error
}

// verbs is every change riginstall makes by itself rather than through a
// program of FreeBSD.
func verbs() map[string]verb {
	return map[string]verb{
		"zero":           {"DEVICE OFFSET LENGTH", false, (*Machine).zero},
		"copy-rig":       {"FROM TO", true, (*Machine).copyRig},
		"write-esp":      {"RIG-PARTITION TO …", true, (*Machine).writeESP},
		"put":            {"FILE UID:GID MODE", false, (*Machine).put},
		"mkdir":          {"DIR UID:GID MODE", false, (*Machine).mkdir},
		"unpack":         {"LAYER DIR …", true, (*Machine).unpack},
		"copy-tree":      {"FROM TO", false, (*Machine).copyTree},
		"answers":        {"FILE", true, (*Machine).keepAnswers},
		"fetch":          {"URL", true, (*Machine).fetch},
		"packages":       {"DIR PACKAGE …", false, (*Machine).packages},
		"base-packages":  {"DIR PACKAGE …", false, (*Machine).basePackages},
		"lock-accounts":  {"DIR", false, (*Machine).lockAccounts},
		"render":         {"DIR …", true, (*Machine).render},
		"check-files":    {"DIR", false, (*Machine).checkFiles},
		"verify-pool":    {"POOL MIRROR SPARES", false, (*Machine).verifyPool},
		"verify-roots":   {"POOL", true, (*Machine).verifyRoots},
		"verify-boot":    {"DISK …", true, (*Machine).verifyBoot},
		"result":         {"DIR", true, (*Machine).result},
		"umount":         {"DIR", false, (*Machine).umount},
		"forget-answers": {"ESP", true, (*Machine).forgetAnswers},
		"switch":         {"RIG-PARTITION DATASET …", true, (*Machine).switchBoot},
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
	if len(c.Argv) < 2 || c.Argv[0] != Self || c.Argv[1] != "do" {
		_, err := m.Run.Run(ctx, c)
		return err
	}
	if len(c.Argv) == 2 {
		return diag.Inputf("%s: no verb given; there are %s", c, strings.Join(sortedKeys(verbs()), ", "))
	}
	v, ok := verbs()[c.Argv[2]]
	switch {
	case !ok:
		return diag.Inputf("%s: no such verb; there are %s", c, strings.Join(sortedKeys(verbs()), ", "))
	case !v.takes(len(c.Argv) - 3):
		return diag.Inputf("%s: usage: riginstall do %s %s", c, c.Argv[2], v.args)
	case v.image && m.Manifest == nil:
		return diag.Hint(fmt.Errorf("%s: the image is not known", c), "mount its rig partition at %s", BundleDir)
	}
	if err := v.run(m, ctx, c.Argv[3:], c.Stdin); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}

func (m *Machine) progress(what string, done, total int64) {
	if m.Progress != nil {
		m.Progress(what, done, total)
	}
}

func (m *Machine) zero(_ context.Context, args []string, _ []byte) error {
	off, err1 := strconv.ParseInt(args[1], 10, 64)
	n, err2 := strconv.ParseInt(args[2], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	d, err := blockdev.Open(m.Root+devDir+args[0], 0, true)
	if err != nil {
		return err
	}
	defer d.Close()
	buf := make([]byte, 1<<20)
	for n > 0 {
		k := min(n, int64(len(buf)))
		if _, err := d.WriteAt(buf[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return errors.Join(d.Sync(), d.Close())
}

// ids parses "uid:gid".
func ids(s string) (uid, gid int, err error) {
	u, g, ok := strings.Cut(s, ":")
	uid, err1 := strconv.Atoi(u)
	gid, err2 := strconv.Atoi(g)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf("owner %q is not uid:gid", s)
	}
	return uid, gid, nil
}

// setOwner gives path an owner and an octal mode.
func setOwner(path, owner, mode string) error {
	uid, gid, err := ids(owner)
	if err != nil {
		return err
	}
	bits, err := strconv.ParseUint(mode, 8, 12)
	if err != nil {
		return fmt.Errorf("mode %q is not octal", mode)
	}
	if err := os.Lchown(path, uid, gid); err != nil {
		return err
	}
	return os.Chmod(path, fs.FileMode(bits&0o777)) // set-id bits come with layers only
}

// put replaces a file; it never exists with a wider mode than asked for.
func (m *Machine) put(_ context.Context, args []string, content []byte) error {
	name := m.Root + args[0]
	tmp := name + ".rig-new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := setOwner(tmp, args[1], args[2]); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

func (m *Machine) mkdir(_ context.Context, args []string, _ []byte) error {
	if err := os.MkdirAll(m.Root+args[0], 0o755); err != nil {
		return err
	}
	return setOwner(m.Root+args[0], args[1], args[2])
}

// layerOf finds a layer by "role" or "jail:name".
func (m *Machine) layerOf(name string) (manifest.Layer, error) {
	role, jail, _ := strings.Cut(name, ":")
	for _, l := range m.Manifest.Layers {
		if string(l.Role) == role && l.Jail == jail {
			return l, nil
		}
	}
	return manifest.Layer{}, fmt.Errorf("the image has no layer %s", name)
}

func (m *Machine) unpack(ctx context.Context, args []string, _ []byte) error {
	l, err := m.layerOf(args[0])
	if err != nil {
		return err
	}
	if len(args) > 2 {
		return m.unpackNet(ctx, l, m.Root+args[1], args[2])
	}
	f, err := os.Open(filepath.Join(m.Root, BundleDir, l.Path()))
	if err != nil {
		return err
	}
	defer f.Close()
	return layer.Unpack(ctx, f, l.Size, m.Root+args[1], layer.UnpackOptions{
		Progress: func(done, total int64) { m.progress("unpack "+args[0], done, total) },
	})
}

// copyTree fills an empty root with a base system.
func (m *Machine) copyTree(ctx context.Context, args []string, _ []byte) error {
	var total int64 // 0, not known, when the base system is packages
	if m.Manifest != nil {
		if l, err := m.layerOf(string(manifest.LayerBase)); err == nil {
			total = l.ContentSize
		}
	}
	return layer.CopyTree(ctx, m.Root+args[0], m.Root+args[1], func(done int64) { m.progress("copy the base system to "+args[1], done, total) })
}

// keepAnswers writes this server's answers, secrets too, for when it is to get another
// image or to be made again. Only the passphrase of its disks is in a person's head.
func (m *Machine) keepAnswers(ctx context.Context, args []string, _ []byte) error {
	kept := m.Answers.Without(answers.KeyPassphrase)
	if err := kept.Set(answers.KeyEncrypt, m.Answers.Encrypted()); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := kept.TOML(&b, true); err != nil {
		return err
	}
	return m.put(ctx, []string{args[0], "0:0", "0600"}, b.Bytes())
}

// render turns the templates of a root into files of the same owner and mode.
func (m *Machine) render(_ context.Context, args []string, _ []byte) error {
	dir, jail := m.Root+args[0], ""
	if len(args) > 1 {
		jail = args[1]
	}
	data := m.Answers.Data()
	data["rig"] = map[string]any{
		"image": m.Manifest.Image, "pool": m.Manifest.PoolName(m.Identity.HostUUID), "jail": jail,
		"hostid": m.Identity.HostID(), "hostuuid": m.Identity.HostUUID,
	}
	for _, l := range m.Manifest.Layers {
		if l.Jail != jail || l.Role != manifest.LayerHost && l.Role != manifest.LayerJail {
			continue
		}
		for _, t := range l.Templates {
			if err := renderFile(dir, t, data); err != nil {
				return err
			}
		}
	}
	return nil
}

func renderFile(dir, name string, data map[string]any) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	text, err := root.ReadFile(name)
	if err != nil {
		return err
	}
	out, err := overlay.Render(name, text, data)
	if err != nil {
		return err
	}
	// Written over the template itself, so that owner and mode stay, then renamed.
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(out)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return root.Rename(name, strings.TrimSuffix(name, ".tmpl"))
}

// checkFiles has the new system's own programs read its pf.conf and jail.conf.
func (m *Machine) checkFiles(ctx context.Context, args []string, _ []byte) error {
	for _, c := range []struct {
		file string
		argv []string
	}{
		{"etc/pf.conf", []string{"chroot", args[0], "/sbin/pfctl", "-nf", "/etc/pf.conf"}},
		{"etc/jail.conf", []string{"chroot", args[0], "/usr/sbin/jail", "-f", "/etc/jail.conf", "-e", "\n"}},
	} {
		if _, err := os.Stat(filepath.Join(m.Root, args[0], c.file)); err != nil {
			continue
		}
		if _, err := m.Run.Run(ctx, run.New(c.argv...)); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) verifyPool(ctx context.Context, args []string, _ []byte) error {
	mirror, err1 := strconv.Atoi(args[1])
	spares, err2 := strconv.Atoi(args[2])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	st, err := zfs.Status(ctx, m.Run, args[0])
	if err != nil {
		return err
	}
	if bad := st.Problems(mirror, spares); len(bad) > 0 {
		return errors.New(strings.Join(bad, "; "))
	}
	return nil
}

// verifyRoots checks that every dataset of the new system is there and will be mounted
// where it belongs, and that no root is a clone.
func (m *Machine) verifyRoots(_ context.Context, args []string, _ []byte) error {
	list, err := m.Datasets.list(args[0])
	if err != nil {
		return err
	}
	have := map[string]zfs.DatasetInfo{}
	for _, d := range list {
		have[d.Name] = d
	}
	unit := manifest.Unit{Pool: args[0], Name: m.Manifest.Image}
	want := map[string]string{unit.Root(): "/"}
	for _, j := range m.Manifest.Jails {
		want[unit.Jail(j.Name)] = "/jails/" + j.Name
	}
	var errs []error
	for _, name := range sortedKeys(want) {
		if o := have[name].Origin; o != "" {
			errs = append(errs, fmt.Errorf("%s is a clone of %s", name, o))
		}
	}
	for _, d := range m.Manifest.Datasets {
		if d.Mountpoint != "" {
			want[args[0]+"/"+d.Name] = d.Mountpoint
		}
	}
	for _, name := range sortedKeys(want) {
		at := path.Join(Target, want[name]) // below the pool's altroot
		if want[name] == "none" || want[name] == "legacy" {
			at = want[name]
		}
		if d, ok := have[name]; !ok {
			errs = append(errs, fmt.Errorf("there is no %s", name))
		} else if d.Mountpoint != at {
			errs = append(errs, fmt.Errorf("%s is mounted at %s, not %s", name, d.Mountpoint, at))
		}
	}
	return errors.Join(errs...)
}

func (m *Machine) umount(ctx context.Context, args []string, _ []byte) error {
	_, err := m.Run.Run(ctx, run.New("umount", args[0]))
	return err
}
