// Package root fills the roots of host and jails of a new system: layers, packages,
// values of this server, accounts.
package root

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/work"
	"github.com/rig-freebsd/rig/overlay"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// System is a system that is being made.
type System struct {
	Root     string // where the machine's file system is, "" for /
	Run      run.Runner
	Manifest *manifest.Manifest
	Answers  *answers.Set
	Identity Identity
	Logf     func(format string, args ...any)
	Progress work.Progress // may be nil
	Datasets zfs.Lister
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

// Put replaces a file; it never exists with a wider mode than asked for.
func (s System) Put(file, owner, mode string, content []byte) error {
	name := s.Root + file
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
	if err := setOwner(tmp, owner, mode); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// Mkdir makes a directory, and those above it.
func (s System) Mkdir(dir, owner, mode string) error {
	if err := os.MkdirAll(s.Root+dir, 0o755); err != nil {
		return err
	}
	return setOwner(s.Root+dir, owner, mode)
}

// Layer finds a layer by "role" or "jail:name".
func (s System) Layer(name string) (manifest.Layer, error) {
	role, jail, _ := strings.Cut(name, ":")
	for _, l := range s.Manifest.Layers {
		if string(l.Role) == role && l.Jail == jail {
			return l, nil
		}
	}
	return manifest.Layer{}, fmt.Errorf("the image has no layer %s", name)
}

// Unpack lays a layer of the bundle, by its name as in Layer, over a directory.
func (s System) Unpack(ctx context.Context, name, dir string) error {
	l, err := s.Layer(name)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(s.Root, place.BundleDir, l.Path()))
	if err != nil {
		return err
	}
	defer f.Close()
	return layer.Unpack(ctx, f, l.Size, s.Root+dir, layer.UnpackOptions{
		Progress: func(done, total int64) { s.Progress.Report("unpack "+name, done, total) },
	})
}

// CopyTree fills an empty root with a base system.
func (s System) CopyTree(ctx context.Context, from, to string) error {
	var total int64 // 0, not known, when the base system is packages
	if s.Manifest != nil {
		if l, err := s.Layer(string(manifest.LayerBase)); err == nil {
			total = l.ContentSize
		}
	}
	return layer.CopyTree(ctx, s.Root+from, s.Root+to, func(done int64) { s.Progress.Report("copy the base system to "+to, done, total) })
}

// KeepAnswers writes this server's answers, secrets too, for when it is to get another
// image or to be made again. Only the passphrase of its disks is in a person's head.
func (s System) KeepAnswers(file string) error {
	kept := s.Answers.Without(answers.KeyPassphrase)
	if err := kept.Set(answers.KeyEncrypt, s.Answers.Encrypted()); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := kept.TOML(&b, true); err != nil {
		return err
	}
	return s.Put(file, "0:0", "0600", b.Bytes())
}

// Render turns the templates of the root in dir into files of the same owner and mode.
// jail is "" for the host's root.
func (s System) Render(dir, jail string) error {
	dir = s.Root + dir
	data := s.Answers.Data()
	data["rig"] = map[string]any{
		"image": s.Manifest.Image, "pool": s.Manifest.PoolName(s.Identity.HostUUID), "jail": jail,
		"hostid": s.Identity.HostID(), "hostuuid": s.Identity.HostUUID,
	}
	for _, l := range s.Manifest.Layers {
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

// CheckFiles has the new system's own programs read its pf.conf and jail.conf.
func (s System) CheckFiles(ctx context.Context, dir string) error {
	for _, c := range []struct {
		file string
		argv []string
	}{
		{"etc/pf.conf", []string{"chroot", dir, "/sbin/pfctl", "-nf", "/etc/pf.conf"}},
		{"etc/jail.conf", []string{"chroot", dir, "/usr/sbin/jail", "-f", "/etc/jail.conf", "-e", "\n"}},
	} {
		if _, err := os.Stat(filepath.Join(s.Root, dir, c.file)); err != nil {
			continue
		}
		if _, err := s.Run.Run(ctx, run.New(c.argv...)); err != nil {
			return err
		}
	}
	return nil
}

// VerifyRoots checks that every dataset of the new system is there and will be mounted
// where it belongs, and that no root is a clone.
func (s System) VerifyRoots(pool string) error {
	list, err := s.Datasets.List(pool)
	if err != nil {
		return err
	}
	have := map[string]zfs.DatasetInfo{}
	for _, d := range list {
		have[d.Name] = d
	}
	unit := manifest.Unit{Pool: pool, Name: s.Manifest.Image}
	want := map[string]string{unit.Root(): "/"}
	for _, j := range s.Manifest.Jails {
		want[unit.Jail(j.Name)] = "/jails/" + j.Name
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if o := have[name].Origin; o != "" {
			errs = append(errs, fmt.Errorf("%s is a clone of %s", name, o))
		}
	}
	for _, d := range s.Manifest.Datasets {
		if d.Mountpoint != "" {
			want[pool+"/"+d.Name] = d.Mountpoint
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		at := path.Join(place.Target, want[name]) // below the pool's altroot
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
