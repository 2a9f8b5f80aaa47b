package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/image/pkgs/solve"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/image/sets"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/work"
)

// NoPackages as Options.Packages leaves all packages out.
const NoPackages = "none"

// The roots that packages are chosen for beside the jails, which go by their names.
const (
	hostRoot     = reader.HostRoot
	hostBaseRoot = reader.HostBaseRoot
	jailBaseRoot = reader.JailBaseRoot
)

// chosen is what was chosen for the bundle: from the repositories, or from a lock.
type chosen struct {
	roots map[string][]string // exact names to install, by root
	files []pkgs.File         // each package once, sorted by name
	urls  map[string]string   // of the archives, by ID
}

// wish is what the profile asks for in one root.
type wish struct {
	root  string
	under string // root whose packages are there already, "" for none
	names []string
}

func (c *Config) pkgbase() bool { return c.FreeBSD.From == "pkgbase" }

// wishes lists the packages of every root that asks for some. pkg(8) itself comes
// to the host with the first of them: it looks after the jails' too.
func (j *job) wishes() []wish {
	var out []wish
	host, jail := "", ""
	if j.cfg.pkgbase() {
		host, jail = hostBaseRoot, jailBaseRoot
		out = append(out, wish{host, "", j.cfg.FreeBSD.hostPackages()}, wish{jail, "", j.cfg.FreeBSD.jailPackages()})
	}
	if j.Demo || j.Packages == NoPackages {
		return out
	}
	var jails []wish
	for _, j := range j.cfg.Jails {
		if len(j.Packages) > 0 {
			jails = append(jails, wish{j.Name, jail, j.Packages})
		}
	}
	if names := j.cfg.Host.Packages; len(names)+len(jails)+len(out) > 0 {
		if !slices.Contains(names, "pkg") {
			names = append([]string{"pkg"}, names...)
		}
		out = append(out, wish{hostRoot, host, names})
	}
	return append(out, jails...)
}

// hostPackages are the packages a host's root is made of.
func (f FreeBSDConfig) hostPackages() []string {
	if len(f.HostPackages) > 0 {
		return f.HostPackages
	}
	return []string{"FreeBSD-set-base", "FreeBSD-kernel-generic"}
}

// jailPackages are the packages a jail's root is made of.
func (f FreeBSDConfig) jailPackages() []string {
	if len(f.JailPackages) > 0 {
		return f.JailPackages
	}
	return []string{"FreeBSD-set-minimal-jail"}
}

func localURL(url string) bool {
	return strings.HasPrefix(url, "file://") || !strings.Contains(url, "://")
}

func (f FreeBSDConfig) major() int {
	text, _, _ := strings.Cut(f.Version, ".")
	n, _ := strconv.Atoi(text) // versionRE has seen it
	return n
}

// abi is what pkg(8) calls the system: "FreeBSD:15:amd64".
func (f FreeBSDConfig) abi() string {
	return fmt.Sprintf("FreeBSD:%d:%s", f.major(), f.Arch)
}

// expand replaces the variables of pkg.conf(5) in a repository's URL.
func (f FreeBSDConfig) expand(url string) string {
	_, rest, _ := strings.Cut(f.Version, ".")
	minor, _, _ := strings.Cut(rest, "-")
	return strings.NewReplacer("${ABI}", f.abi(), "${VERSION_MAJOR}", strconv.Itoa(f.major()), "${VERSION_MINOR}", minor,
		"${ARCH}", f.Arch, "${OSNAME}", "FreeBSD").Replace(url)
}

// repositories are those the packages are chosen from, the first that has a name
// wins: the one on the command line, those of the profile, or FreeBSD's.
func (j *job) repositories() []pkgs.Repo {
	if j.Packages != "" && j.Packages != NoPackages {
		r := pkgs.Repo{Name: "packages", URL: j.Packages}
		// Whoever names a directory trusts it, as one of sets.
		if r.Unsigned = localURL(r.URL); !r.Unsigned {
			r.Fingerprints = append(pkgs.PortsKeys(), pkgs.BaseKeys(j.cfg.FreeBSD.major())...)
		}
		return []pkgs.Repo{r}
	}
	base := RepoConfig{Name: "FreeBSD-base", URL: "https://pkg.FreeBSD.org/${ABI}/base_release_${VERSION_MINOR}", Base: true}
	ports := RepoConfig{Name: "FreeBSD-ports", URL: "https://pkg.FreeBSD.org/${ABI}/quarterly"}
	list := j.cfg.Repos
	if !slices.ContainsFunc(list, func(r RepoConfig) bool { return !r.Base }) {
		list = append(slices.Clone(list), ports)
	}
	if j.cfg.pkgbase() && !slices.ContainsFunc(list, func(r RepoConfig) bool { return r.Base }) {
		list = append([]RepoConfig{base}, list...)
	}
	var out []pkgs.Repo
	for _, r := range list {
		x := pkgs.Repo{Name: r.Name, URL: j.cfg.FreeBSD.expand(r.URL), Fingerprints: r.Fingerprints, Revoked: r.Revoked, Unsigned: r.Signature == "none"}
		switch {
		case x.Unsigned || len(x.Fingerprints) > 0:
		case r.Base:
			x.Fingerprints = pkgs.BaseKeys(j.cfg.FreeBSD.major())
		default:
			x.Fingerprints = pkgs.PortsKeys()
		}
		out = append(out, x)
	}
	return out
}

// choose finds out which packages every root gets and fetches them. base is the base
// system, nil when it is packages too.
func (j *job) choose(ctx context.Context, base *tree.Tree) (*chosen, error) {
	wishes := j.wishes()
	if len(wishes) == 0 {
		return &chosen{}, nil
	}
	if j.lock != nil {
		return j.chooseLocked(ctx, wishes)
	}
	repos := j.repositories()
	var lists [][]*pkgs.Package
	from := map[*pkgs.Package]pkgs.Repo{}
	for _, r := range repos {
		c, err := pkgs.Open(ctx, r, pkgs.Options{Cache: j.cache.dir, ABI: j.cfg.FreeBSD.abi(), Progress: j.Progress, Logf: j.Logf})
		if err != nil {
			hint := "--packages DIR|URL names another repository; --packages " + NoPackages + " builds an image without packages"
			if h := diag.HintOf(err); h != "" {
				hint = h + "; " + hint
			}
			return nil, diag.Hint(fmt.Errorf("packages: %w", err), "%s", hint)
		}
		lists = append(lists, c.Packages())
		for _, p := range c.Packages() {
			from[p] = r
		}
	}
	ix := solve.NewIndex(solve.Stack(lists...))
	roots, list, err := j.resolvePackages(ix, wishes, base)
	if err != nil {
		return nil, diag.Hint(diag.Input(fmt.Errorf("packages: %w", err)), "%s names them; --packages %s builds an image without packages", ConfigFile, NoPackages)
	}
	return j.fetchPackages(ctx, roots, list, from)
}

// resolvePackages chooses the packages of all roots, and everything they need.
func (j *job) resolvePackages(ix *solve.Index, wishes []wish, base *tree.Tree) (roots map[string][]string, list []*pkgs.Package, err error) {
	asked := map[string][]string{}
	var ws []solve.Wish
	for _, w := range wishes {
		asked[w.root] = w.names
		ws = append(ws, solve.Wish{Root: w.root, Packages: slices.Concat(asked[w.under], w.names)})
	}
	closures, err := ix.ResolveAll(ws, solve.ResolveOptions{ABI: j.cfg.FreeBSD.abi(), OSVersion: osVersion(base), Base: baseLibraries(base)})
	if err != nil {
		return nil, nil, err
	}
	roots = map[string][]string{}
	for _, w := range wishes {
		for _, pattern := range w.names {
			p, err := ix.Select(pattern)
			if err != nil {
				return nil, nil, err
			}
			roots[w.root] = append(roots[w.root], p.Name)
		}
	}
	list, err = solve.Merge(closures...)
	return roots, list, err
}

// baseArchives are the packages of the base system.
func (c *chosen) baseArchives() []sets.Archive {
	var out []sets.Archive
	for _, f := range c.files {
		if strings.HasPrefix(f.Name, "FreeBSD-") {
			out = append(out, sets.Archive{Name: f.Name, Path: f.Path, SHA256: f.SHA256, Size: f.Size})
		}
	}
	return out
}

func (c cache) store() *pkgs.Store { return &pkgs.Store{Dir: c.dir} }

// fetchPackages fetches what was chosen.
func (j *job) fetchPackages(ctx context.Context, roots map[string][]string, list []*pkgs.Package, from map[*pkgs.Package]pkgs.Repo) (*chosen, error) {
	c := &chosen{roots: roots, urls: map[string]string{}}
	byRepo := map[string][]*pkgs.Package{}
	for _, p := range list {
		r := from[p]
		c.urls[p.ID()] = strings.TrimRight(strings.TrimPrefix(r.URL, "pkg+"), "/") + "/" + p.Path
		byRepo[r.URL] = append(byRepo[r.URL], p)
	}
	for _, url := range sortedKeys(byRepo) {
		r := from[byRepo[url][0]]
		files, err := j.cache.store().Fetch(ctx, r, byRepo[url], pkgs.Options{Cache: j.cache.dir, Progress: j.Progress, Logf: j.Logf})
		if err != nil {
			return nil, fmt.Errorf("packages: %w", err)
		}
		c.files = append(c.files, files...)
	}
	slices.SortFunc(c.files, func(x, y pkgs.File) int { return strings.Compare(x.ID(), y.ID()) })
	return c, nil
}

// bundlePackages is what the bundle has of the chosen packages: the archives, a
// repository of them, and the pkg(8) that installs them.
func (j *job) bundlePackages(ctx context.Context, c *chosen, in *inputs) ([]tree.Entry, error) {
	if len(c.files) == 0 {
		return nil, nil
	}
	j.Progress("packages", 0, 0)
	entries, err := pkgs.LocalRepo(c.files, in.at)
	if err != nil {
		return nil, err
	}
	for dir, url := range map[string]string{manifest.PkgRepos: "/media", manifest.PkgBaseRepos: "/rig/" + manifest.PkgDir} {
		text := fmt.Sprintf("%s: { url: \"file://%s\", signature_type: \"none\", enabled: yes }\n", manifest.PkgRepo, url)
		entries = append(entries, bootFile(path.Join(dir, manifest.PkgRepo+".conf"), []byte(text), in.at))
	}
	for i := range entries {
		entries[i].Path = path.Join(manifest.PkgDir, entries[i].Path)
	}
	static, err := j.pkgStatic(ctx, c)
	if err != nil {
		return nil, err
	}
	return append(entries, static.entry(manifest.PkgStatic, in.own(0o555))), nil
}

// pkgStatic takes pkg-static(8) out of the package of pkg(8).
func (j *job) pkgStatic(ctx context.Context, c *chosen) (artifact, error) {
	const file = "/usr/local/sbin/pkg-static"
	i := slices.IndexFunc(c.files, func(f pkgs.File) bool { return f.Name == "pkg" })
	if i < 0 {
		return artifact{}, errors.New("packages: none of them is pkg, which installs the others")
	}
	p := c.files[i]
	return j.cache.get(ctx, "boot", key("pkg-static", p.SHA256), func(f *os.File) (layer.Info, error) {
		h := sha256.New()
		in, err := os.Open(p.Path)
		if err != nil {
			return layer.Info{}, err
		}
		defer in.Close()
		a, err := pkgs.Inspect(in, p.Size)
		if err != nil {
			return layer.Info{}, err
		}
		r, err := a.Open(file)
		if err != nil {
			return layer.Info{}, err
		}
		defer r.Close()
		n, err := io.Copy(io.MultiWriter(work.On(ctx, f), h), r)
		if err != nil {
			return layer.Info{}, err
		}
		return sized(f, h.Sum(nil), n)
	})
}

// baseLibraries tells which shared libraries the base system has.
func baseLibraries(base *tree.Tree) func(string) bool {
	if base == nil {
		return nil
	}
	return sets.Libraries(base)
}

// osVersion is __FreeBSD_version of the base system, 0 when it is not known: as
// pkg(8) reads it, from the ABI note of uname(1).
func osVersion(base *tree.Tree) int {
	const file = "usr/bin/uname"
	if base == nil {
		return 0
	}
	text, err := base.ReadFile(file, 1<<20)
	if err != nil {
		return 0
	}
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		return 0
	}
	s := f.Section(".note.tag")
	if s == nil {
		return 0
	}
	note, err := s.Data()
	if err != nil || len(note) < 24 || !bytes.Equal(note[12:20], []byte("FreeBSD\x00")) || f.ByteOrder.Uint32(note[8:]) != 1 {
		return 0
	}
	return int(f.ByteOrder.Uint32(note[20:]))
}
