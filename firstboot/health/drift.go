package health

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/text"
	"github.com/rig-freebsd/rig/overlay"
)

// maxLayer is the largest overlay layer that is read, in bytes: they are held in
// memory.
const maxLayer = 256 << 20

// drift is how a root differs from its overlay.
type drift struct {
	missing []string // paths that are gone
	kind    []string // "etc/x is a directory"
	owner   []string // "etc/x is 0644 0:0, not 0600 0:0"
	changed []string // paths of files with another content
	files   int      // compared, with those that differ
}

// checkDrift compares the files that the overlays laid with what is there now. The
// layers on a rig partition say what was laid.
func (v *verifier) checkDrift(ctx context.Context) []Check {
	r := &rows{area: "files"}
	if v.bundle == "" {
		r.skip("overlays", "no rig partition that is as in the image has the layers")
		return r.list
	}
	d, fsys, err := disk.OpenRig(v.bundle, v.m.Boot.RigSize, false)
	if err != nil {
		r.fail("overlays", err)
		return r.list
	}
	defer d.Close()
	bundle, err := fsys.Tree()
	if err != nil {
		r.fail("overlays", err)
		return r.list
	}
	for _, l := range v.m.Layers {
		if ctx.Err() != nil {
			return r.list
		}
		check, dir, keep := "host", v.path(), v.m.Host.Keep
		switch l.Role {
		case manifest.LayerJail:
			check, dir, keep = l.Jail, v.path("jails", l.Jail), v.keep(l.Jail)
		case manifest.LayerHost:
		default:
			continue
		}
		got, err := compareLayer(bundle, l, dir)
		if err != nil {
			r.fail(check, err)
			continue
		}
		got.changed = slices.DeleteFunc(got.changed, func(p string) bool { return manifest.Keeps(keep, p) })
		got.judge(r, check)
	}
	return r.list
}

// keep is a jail's list of local state: what is in it is meant to change.
func (v *verifier) keep(jail string) []string {
	i := slices.IndexFunc(v.m.Jails, func(j manifest.Jail) bool { return j.Name == jail })
	if i < 0 {
		return nil
	}
	return v.m.Jails[i].Keep
}

// compareLayer compares the root dir with one layer of the bundle.
func compareLayer(bundle *tree.Tree, l manifest.Layer, dir string) (*drift, error) {
	b, err := bundle.ReadFile(l.Path(), maxLayer)
	if err != nil {
		return nil, err
	}
	if err := layer.Verify(bytes.NewReader(b), l.Size, l.SHA256); err != nil {
		return nil, err
	}
	t, err := layer.Tree(bytes.NewReader(b), l.Size)
	if err != nil {
		return nil, err
	}
	// A jail's root belongs to the jail: no link in it leads out of it.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return compareRoot(root, t)
}

// compareRoot compares a root with the entries of an overlay. Of a template only
// its kind, owner and mode are known: the answers made its content.
func compareRoot(root *os.Root, t *tree.Tree) (*drift, error) {
	d := &drift{}
	for e := range t.All() {
		if e.Implied {
			continue
		}
		name, template := strings.CutSuffix(e.Path, overlay.Suffix)
		template = template && e.Kind == tree.File
		if !template {
			name = e.Path
		}
		st, err := root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			d.missing = append(d.missing, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := d.compare(root, name, e, st, template); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *drift) compare(root *os.Root, name string, e *tree.Entry, st fs.FileInfo, template bool) error {
	d.files++
	want := map[tree.Kind]fs.FileMode{tree.Dir: fs.ModeDir, tree.Symlink: fs.ModeSymlink}[e.Kind]
	if st.Mode().Type() != want {
		d.kind = append(d.kind, fmt.Sprintf("%s is not a %s", name, e.Kind))
		return nil
	}
	if e.Kind == tree.Symlink {
		to, err := root.Readlink(name)
		if err == nil && to != e.Link {
			d.changed = append(d.changed, name)
		}
		return err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && (sys.Uid != e.UID || sys.Gid != e.GID || tree.PermOf(st.Mode()) != e.Perm) {
		d.owner = append(d.owner, fmt.Sprintf("%s is %04o %d:%d, not %04o %d:%d", name, tree.PermOf(st.Mode()), sys.Uid, sys.Gid, e.Perm, e.UID, e.GID))
	}
	if e.Kind != tree.File || template {
		return nil
	}
	got, err := digest(root, name)
	if err != nil {
		return err
	}
	sum, err := e.Digest()
	if err == nil && got != sum {
		d.changed = append(d.changed, name)
	}
	return err
}

// digest is the SHA-256 of a file, in hex.
func digest(root *os.Root, name string) (string, error) {
	f, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// judge adds a row for the root, and one for files a person changed.
func (d *drift) judge(r *rows, check string) {
	var bad []string
	if len(d.missing) > 0 {
		bad = append(bad, "missing: "+text.Listing(d.missing))
	}
	bad = append(bad, slices.Concat(d.kind, d.owner)...)
	if len(bad) > 0 {
		r.add(check, Failed, text.OneLine(text.Listing(bad)), "put back what is missing from the profile; chmod and chown mend the rest")
	} else {
		r.ok(check, "%s with the owners and modes of the image", entries(d.files))
	}
	if len(d.changed) > 0 {
		r.add(check, Warning, "changed since the install: "+text.OneLine(text.Listing(d.changed)),
			"carry a change that is to stay into the profile, so that the next image has it")
	}
}
