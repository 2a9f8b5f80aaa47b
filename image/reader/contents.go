package reader

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/image/pkgs/solve"
	"github.com/rig-freebsd/rig/image/sets"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
)

// Contents are the packages of an image, by root. Sizes are bytes.
type Contents struct {
	Image    string         `json:"image"`
	FreeBSD  string         `json:"freebsd"`  // "15.1-RELEASE-p1"
	Packages int            `json:"packages"` // different ones
	Size     int64          `json:"size"`     // of their archives
	Roots    []RootContents `json:"roots"`

	all  []*pkgs.Package // of the bundle, by name
	base func(string) bool
}

// RootContents are the packages that a root gets.
type RootContents struct {
	Root     string          `json:"root"`     // "host", "freebsd.host", "freebsd.jail", or a jail
	Asked    []string        `json:"asked"`    // names
	Packages []PackageReport `json:"packages"` // what a package needs stands before it
}

// PackageReport is a package and why it is there: "asked for", "dependency of
// nginx", "libpcre2-8.so.0 for nginx".
type PackageReport struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Size    int64    `json:"size"` // of its files, installed
	Archive int64    `json:"archive"`
	SHA256  string   `json:"sha256"` // of the archive
	Why     []string `json:"why"`

	pkg *pkgs.Package
}

// The roots that packages are chosen for beside the jails, which go by their names.
const (
	HostRoot     = "host"
	HostBaseRoot = "freebsd.host"
	JailBaseRoot = "freebsd.jail"
)

// OverlayRoot is the root that a layer of the host's or a jail's overlay belongs to.
func OverlayRoot(l manifest.Layer) string {
	if l.Role == manifest.LayerHost {
		return HostRoot
	}
	return l.Jail
}

// wish is what the image asks for in one root.
type wish struct {
	root  string
	under string // root whose packages are there already, "" for none
	names []string
}

// roots are the roots that get packages, with those of the base system first.
func roots(m *manifest.Manifest) []wish {
	var out []wish
	host, jail := "", ""
	if m.FreeBSD.Pkgbase() {
		host, jail = HostBaseRoot, JailBaseRoot
		out = append(out, wish{host, "", m.FreeBSD.Host}, wish{jail, "", m.FreeBSD.Jail})
	}
	if len(m.Host.Packages) > 0 {
		out = append(out, wish{HostRoot, host, m.Host.Packages})
	}
	for _, j := range m.Jails {
		if len(j.Packages) > 0 {
			out = append(out, wish{j.Name, jail, j.Packages})
		}
	}
	return out
}

// Contents reads the bundle's catalogue and resolves every root again.
func (o *Image) Contents(ctx context.Context) (*Contents, error) {
	c := &Contents{Image: o.Manifest.Image, FreeBSD: o.freebsd(), Roots: []RootContents{}}
	if !o.Manifest.Repository() {
		return c, nil
	}
	fail := func(err error) (*Contents, error) {
		return nil, diag.Input(fmt.Errorf("read %s: packages: %w", o.Path, err))
	}
	name := path.Join(manifest.PkgDir, pkgs.CatalogueFile)
	e, ok := o.Rig.Lookup(name)
	if !ok || e.Kind != tree.File || e.Open == nil {
		return fail(fmt.Errorf("there is no %s", name))
	}
	r, err := e.Open()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	if c.all, err = pkgs.ReadCatalogue(ctx, r); err != nil {
		return fail(err)
	}
	c.Packages = len(c.all)
	for _, p := range c.all {
		c.Size += p.Size
	}
	if c.base, err = o.baseLibraries(c.all); err != nil {
		return nil, err
	}
	if err := c.resolve(roots(o.Manifest)); err != nil {
		return fail(err)
	}
	return c, nil
}

// baseLibraries tells which libraries need no package: those of the base layer, and
// those that no package of the bundle provides.
func (o *Image) baseLibraries(all []*pkgs.Package) (func(string) bool, error) {
	provided := map[string]bool{}
	for _, p := range all {
		for _, lib := range p.ShlibsProvided {
			provided[lib] = true
		}
	}
	has := func(string) bool { return false }
	if l := o.layer(manifest.LayerBase, ""); l != nil && len(provided) > 0 {
		t, err := o.Layer(*l)
		if err != nil {
			return nil, err
		}
		has = sets.Libraries(t)
	}
	return func(lib string) bool { return !provided[lib] || has(lib) }, nil
}

func (c *Contents) resolve(wishes []wish) error {
	asked := map[string][]string{}
	var ws []solve.Wish
	for _, w := range wishes {
		asked[w.root] = w.names
		ws = append(ws, solve.Wish{Root: w.root, Packages: slices.Concat(asked[w.under], w.names)})
	}
	closures, err := solve.NewIndex(c.all).ResolveAll(ws, solve.ResolveOptions{Base: c.base})
	if err != nil {
		return err
	}
	there := map[string]map[string]bool{"": {}} // names by root
	for i, w := range wishes {
		r := RootContents{Root: w.root, Asked: w.names, Packages: []PackageReport{}}
		there[w.root] = map[string]bool{}
		for _, m := range closures[i].Members {
			there[w.root][m.Name] = true
			if there[w.under][m.Name] {
				continue
			}
			r.Packages = append(r.Packages, PackageReport{m.Name, m.Version, m.FlatSize, m.Package.Size, archiveSum(m.Package), m.Reasons, m.Package})
		}
		c.Roots = append(c.Roots, r)
	}
	return nil
}

// archiveSum is the hash of a package of the bundle, whose catalogue has it bare.
func archiveSum(p *pkgs.Package) string {
	_, sum, typed := strings.Cut(p.Sum, "$")
	if !typed {
		return p.Sum
	}
	return sum
}

// needs are the packages of the bundle that p cannot do without, by name.
func (c *Contents) needs(p *pkgs.Package) []*pkgs.Package {
	var out []*pkgs.Package
	for _, q := range c.all {
		_, dep := p.Deps[q.Name]
		met := func(have []string) func(string) bool {
			return func(want string) bool { return slices.Contains(have, want) }
		}
		lib := func(l string) bool { return !c.base(l) && slices.Contains(q.ShlibsProvided, l) }
		if p != q && (dep || slices.ContainsFunc(p.ShlibsRequired, lib) || slices.ContainsFunc(p.Requires, met(q.Provides))) {
			out = append(out, q)
		}
	}
	return out
}
