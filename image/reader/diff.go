package reader

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
)

// DiffOptions of Diff. The zero value is good.
type DiffOptions struct {
	All      bool // name the files of base and kernel too, not only how many they are
	Progress func(what string, done, total int64)
}

// Difference is how two images differ. Lists are empty, not nil, when nothing does.
type Difference struct {
	Old      string          `json:"old"` // image ids
	New      string          `json:"new"`
	FreeBSD  *Change         `json:"freebsd,omitempty"`
	Manifest []Change        `json:"manifest"`
	Packages []PackageChange `json:"packages"`
	Layers   []LayerChange   `json:"layers"`
	Boot     []FileChange    `json:"boot"`              // on the boot partitions, as "rig/mfsroot.uzip"
	Answers  string          `json:"answers,omitempty"` // added, removed, changed; what they are is not said
}

// Change is a value that differs; "" is none.
type Change struct {
	Key string `json:"key,omitempty"`
	Old string `json:"old"`
	New string `json:"new"`
}

// PackageChange is a package of a root; Old or New is "" when it is added or removed.
type PackageChange struct {
	Root string `json:"root"`
	Name string `json:"name"`
	Old  string `json:"old,omitempty"` // version
	New  string `json:"new,omitempty"` // equal to Old when it was built again
}

// LayerChange is a layer whose files differ.
type LayerChange struct {
	Layer   string       `json:"layer"` // "base", "jail pg_j"
	Added   int          `json:"added"`
	Removed int          `json:"removed"`
	Changed int          `json:"changed"`
	Files   []FileChange `json:"files,omitempty"`
}

// FileChange is a file that differs.
type FileChange struct {
	Path    string   `json:"path"`
	How     string   `json:"how"`               // added, removed, changed
	Attrs   []Change `json:"attrs,omitempty"`   // kind, mode, owner, flags, target
	Content bool     `json:"content,omitempty"` // it differs
	Keys    []Change `json:"keys,omitempty"`    // of a file of settings
	Added   int      `json:"added,omitempty"`   // lines, of a text without Keys
	Removed int      `json:"removed,omitempty"`
}

const (
	added   = "added"
	removed = "removed"
	changed = "changed"
)

// Same reports whether nothing differs.
func (d *Difference) Same() bool {
	return d.FreeBSD == nil && d.Answers == "" && len(d.Manifest)+len(d.Packages)+len(d.Layers)+len(d.Boot) == 0
}

// Diff compares two images. Hashes are taken from the manifests; Image.Verify checks them.
func Diff(ctx context.Context, a, b *Image, opts DiffOptions) (*Difference, error) {
	if opts.Progress == nil {
		opts.Progress = func(string, int64, int64) {}
	}
	d := &Difference{Old: a.Manifest.Image, New: b.Manifest.Image, Packages: []PackageChange{}, Layers: []LayerChange{}, Boot: []FileChange{}}
	if x, y := a.freebsd()+" "+a.Manifest.FreeBSD.Arch, b.freebsd()+" "+b.Manifest.FreeBSD.Arch; x != y {
		d.FreeBSD = &Change{Old: x, New: y}
	}
	var err error
	if d.Manifest, err = diffManifests(a.Manifest, b.Manifest); err != nil {
		return nil, err
	}
	opts.Progress("compare packages", 0, 0)
	if err := d.packages(ctx, a, b); err != nil {
		return nil, err
	}
	if err := d.layers(ctx, a, b, opts); err != nil {
		return nil, err
	}
	d.boot(a.Manifest, b.Manifest)
	d.Answers, err = diffAnswers(a.Answers(), b.Answers())
	return d, err
}

// versions are the packages of an image: version and hash by root and name.
func versions(c *Contents) map[[2]string][2]string {
	out := map[[2]string][2]string{}
	for _, r := range c.Roots {
		for _, p := range r.Packages {
			out[[2]string{r.Root, p.Name}] = [2]string{p.Version, p.SHA256}
		}
	}
	return out
}

func (d *Difference) packages(ctx context.Context, a, b *Image) error {
	ca, err := a.Contents(ctx)
	if err != nil {
		return err
	}
	cb, err := b.Contents(ctx)
	if err != nil {
		return err
	}
	va, vb := versions(ca), versions(cb)
	all := maps.Clone(va)
	maps.Copy(all, vb)
	for key := range all {
		if x, y := va[key], vb[key]; x != y {
			d.Packages = append(d.Packages, PackageChange{key[0], key[1], x[0], y[0]})
		}
	}
	order := slices.Concat(roots(a.Manifest), roots(b.Manifest))
	at := func(root string) int { return slices.IndexFunc(order, func(w wish) bool { return w.root == root }) }
	slices.SortFunc(d.Packages, func(x, y PackageChange) int {
		return cmp.Or(cmp.Compare(at(x.Root), at(y.Root)), strings.Compare(x.Name, y.Name))
	})
	return nil
}

// layers compares the layers of both images, by role and jail.
func (d *Difference) layers(ctx context.Context, a, b *Image, opts DiffOptions) error {
	list := slices.Clone(a.Manifest.Layers)
	for _, l := range b.Manifest.Layers {
		if a.layer(l.Role, l.Jail) == nil {
			list = append(list, l)
		}
	}
	for _, l := range list {
		x, y := a.layer(l.Role, l.Jail), b.layer(l.Role, l.Jail)
		if x != nil && y != nil && x.SHA256 == y.SHA256 {
			continue
		}
		opts.Progress("compare layer "+l.Name(), 0, 0)
		ta, err := layerTree(a, x)
		if err != nil {
			return err
		}
		tb, err := layerTree(b, y)
		if err != nil {
			return err
		}
		system := l.Role == manifest.LayerBase || l.Role == manifest.LayerKernel
		files, err := diffTrees(ctx, ta, tb, !system)
		if err != nil {
			return err
		}
		c := LayerChange{Layer: l.Name()}
		for _, f := range files {
			switch f.How {
			case added:
				c.Added++
			case removed:
				c.Removed++
			default:
				c.Changed++
			}
		}
		if !system || opts.All {
			c.Files = files
		}
		if len(files) > 0 {
			d.Layers = append(d.Layers, c)
		}
	}
	return nil
}

func layerTree(o *Image, l *manifest.Layer) (*tree.Tree, error) {
	if l == nil {
		return tree.New(nil)
	}
	return o.Layer(*l)
}

// boot compares the boot partitions, but for packages, which are compared by root,
// and the file that holds the image id.
func (d *Difference) boot(a, b *manifest.Manifest) {
	sums := func(m *manifest.Manifest) map[string]string {
		out := map[string]string{}
		for _, f := range m.Files {
			name := string(f.Part) + ":" + f.Path
			if !strings.HasPrefix(f.Path, manifest.PkgDir+"/") && name != string(manifest.RoleRig)+":boot/loader.conf" {
				out[name] = f.SHA256
			}
		}
		return out
	}
	sa, sb := sums(a), sums(b)
	all := maps.Clone(sa)
	maps.Copy(all, sb)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x, y := sa[name], sb[name]
		switch {
		case x == y:
		case x == "":
			d.Boot = append(d.Boot, FileChange{Path: name, How: added})
		case y == "":
			d.Boot = append(d.Boot, FileChange{Path: name, How: removed})
		default:
			d.Boot = append(d.Boot, FileChange{Path: name, How: changed, Content: true})
		}
	}
}

// diffAnswers says how the answers differ without a word of them.
func diffAnswers(a, b *tree.Entry) (string, error) {
	switch {
	case a == nil && b == nil:
		return "", nil
	case a == nil:
		return added, nil
	case b == nil:
		return removed, nil
	}
	x, erra := a.Digest()
	y, errb := b.Digest()
	if err := errors.Join(erra, errb); err != nil || x == y {
		return "", err
	}
	return changed, nil
}

// sameContent compares two files of equal size.
func sameContent(ctx context.Context, a, b *tree.Entry) (bool, error) {
	if a.Size == 0 {
		return true, nil
	}
	x, err := a.Open()
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := b.Open()
	if err != nil {
		return false, err
	}
	defer y.Close()
	var p, q [64 << 10]byte
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, err := io.ReadFull(x, p[:])
		m, errb := io.ReadFull(y, q[:])
		for _, e := range []error{err, errb} {
			if e != nil && e != io.EOF && e != io.ErrUnexpectedEOF {
				return false, e
			}
		}
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		if err != nil {
			return true, nil
		}
	}
}
