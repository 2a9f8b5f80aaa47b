package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/image/sets"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// LockFile is the profile's lock, beside ConfigFile.
const LockFile = "rig.lock"

// Lock pins every input of an image. With it a build takes these and no others: it
// needs no catalogue, no network once they are in the cache, and gives equal bytes.
type Lock struct {
	Schema   int64           `toml:"schema"`
	FreeBSD  string          `toml:"freebsd"` // release and patch level of the base system: "15.1-RELEASE-p1"
	Sets     []LockedSet     `toml:"set"`
	Roots    []LockedRoot    `toml:"root"`
	Packages []LockedPackage `toml:"package"`
	Overlays []LockedOverlay `toml:"overlay"`
}

// LockedSet is a release set.
type LockedSet struct {
	Name   string `toml:"name"`
	URL    string `toml:"url"`
	Size   int64  `toml:"size"`
	SHA256 string `toml:"sha256"`
}

// LockedRoot is what a root asked for, and the packages that is.
type LockedRoot struct {
	Name     string   `toml:"name"`
	Asked    []string `toml:"asked"`
	Packages []string `toml:"packages"`
}

// LockedPackage is one package of the bundle.
type LockedPackage struct {
	Name    string `toml:"name"`
	Version string `toml:"version"`
	URL     string `toml:"url"`
	Size    int64  `toml:"size"`
	SHA256  string `toml:"sha256"`
}

// LockedOverlay is the overlay of a root, as the hash of the layer it makes.
type LockedOverlay struct {
	Root   string `toml:"root"`
	SHA256 string `toml:"sha256"`
}

const lockHint = "\"rigimage lock --update\" takes what is there now and says what moved"

func (j *job) lockName() string { return filepath.Join(j.ProfileName, LockFile) }

func decodeLock(name string, text []byte) (*Lock, error) {
	var l Lock
	d := newDecoder(name, text)
	d.decode(&l)
	if len(d.problems.List) == 0 {
		d.require(l.Schema == 1, "must be 1", "schema")
		for i, p := range l.Packages {
			d.require(fingerprintRE.MatchString(p.SHA256), "expected the SHA-256 of package "+p.Name, "package", answers.Index(i), "sha256")
		}
	}
	if err := d.problems.Err(); err != nil {
		return nil, diag.Hint(err, "a lock is not edited: %s", lockHint)
	}
	return &l, nil
}

// Encode is the lock as text, the same for the same inputs.
func (l *Lock) Encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Every input of this image. Written by \"rigimage lock\", changed by \"rigimage lock --update\".\n\n")
	enc := toml.NewEncoder(&b)
	enc.Indent = ""
	if err := enc.Encode(l); err != nil {
		return nil, fmt.Errorf("encode lock: %w", err)
	}
	return b.Bytes(), nil
}

// ReadLock reads the lock of a profile; without one it is nil.
func ReadLock(profile fs.FS, profileName string) (*Lock, error) {
	name := filepath.Join(profileName, LockFile)
	text, err := fs.ReadFile(profile, LockFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diag.Input(err)
	}
	return decodeLock(name, text)
}

// MakeLock chooses and fetches every input of an image as Build would without a
// lock, and returns what they are.
func MakeLock(ctx context.Context, o Options) (*Lock, error) {
	o.Unlocked = true
	j, err := newJob(o)
	if err != nil {
		return nil, err
	}
	in, err := j.inputs(ctx)
	if err != nil {
		return nil, err
	}
	defer in.release.Close()
	if in.chosen == nil { // inputs has to, where the base system is packages
		if in.chosen, err = j.choose(ctx, in.base); err != nil {
			return nil, err
		}
	}
	loaded, err := j.loadOverlays(ctx, in)
	if err != nil {
		return nil, err
	}
	overlays, err := j.overlayLayers(ctx, loaded)
	if err != nil {
		return nil, err
	}
	return j.makeLock(in, overlays), nil
}

func (j *job) makeLock(in *inputs, overlays []made) *Lock {
	l := &Lock{Schema: 1, FreeBSD: in.version}
	if !j.cfg.pkgbase() {
		for _, s := range in.release.All() {
			l.Sets = append(l.Sets, LockedSet{Name: s.Name, URL: in.release.URL(s.Name), Size: s.Size, SHA256: s.SHA256})
		}
	}
	for _, w := range j.wishes() {
		l.Roots = append(l.Roots, LockedRoot{Name: w.root, Asked: w.names, Packages: in.chosen.roots[w.root]})
	}
	for _, f := range in.chosen.files {
		l.Packages = append(l.Packages, LockedPackage{Name: f.Name, Version: f.Version,
			URL: in.chosen.urls[f.ID()], Size: f.Size, SHA256: f.SHA256})
	}
	l.Overlays = lockedOverlays(overlays)
	return l
}

func lockedOverlays(overlays []made) []LockedOverlay {
	var out []LockedOverlay
	for _, l := range overlays {
		out = append(out, LockedOverlay{Root: reader.OverlayRoot(l.Layer), SHA256: l.SHA256})
	}
	return out
}

// Sources are the URLs that the lock has.
func (l *Lock) Sources() reader.Sources {
	s := reader.Sources{FreeBSD: l.FreeBSD, Packages: map[string]string{}}
	for _, set := range l.Sets {
		if set.Name == "base" {
			s.Base = set.URL
		}
	}
	for _, p := range l.Packages {
		s.Packages[p.SHA256] = p.URL
	}
	return s
}

// checkLockedSets compares the sets at hand with the lock.
func (j *job) checkLockedSets(sets *sets.Sets) error {
	if j.lock == nil {
		return nil
	}
	var ps diag.Problems
	for _, want := range j.lock.Sets {
		if s, ok := sets.Get(want.Name); ok && s.SHA256 != want.SHA256 {
			ps.Add(diag.Problem{File: j.lockName(), Key: "set " + want.Name, Msg: fmt.Sprintf("its sha256 is %.16s…, the lock says %.16s…", s.SHA256, want.SHA256)})
		}
	}
	return diag.Hint(ps.Err(), "%s", lockHint)
}

// checkLockedOverlays compares the overlays with the lock.
func (j *job) checkLockedOverlays(overlays []made) error {
	if j.lock == nil {
		return nil
	}
	var ps diag.Problems
	have := lockedOverlays(overlays)
	for _, o := range have {
		if !slices.Contains(j.lock.Overlays, o) {
			ps.Add(diag.Problem{File: j.lockName(), Key: "overlay " + o.Root, Msg: "it was changed since the lock was made"})
		}
	}
	if len(ps.List) == 0 && len(have) != len(j.lock.Overlays) {
		ps.Add(diag.Problem{File: j.lockName(), Msg: fmt.Sprintf("it has %d overlays, the profile %d", len(j.lock.Overlays), len(have))})
	}
	return diag.Hint(ps.Err(), "%s", lockHint)
}

// chooseLocked takes the lock's packages, if they are those the profile asks for.
func (j *job) chooseLocked(ctx context.Context, wishes []wish) (*chosen, error) {
	var ps diag.Problems
	roots := map[string][]string{}
	for _, w := range wishes {
		i := slices.IndexFunc(j.lock.Roots, func(r LockedRoot) bool { return r.Name == w.root })
		if i < 0 || !slices.Equal(j.lock.Roots[i].Asked, w.names) {
			ps.Add(diag.Problem{File: j.lockName(), Key: "root " + w.root, Msg: "it does not ask for the packages that " + ConfigFile + " asks for"})
			continue
		}
		roots[w.root] = j.lock.Roots[i].Packages
	}
	if err := ps.Err(); err != nil {
		return nil, diag.Hint(err, "%s", lockHint)
	}
	var list []*pkgs.Package
	from := map[*pkgs.Package]pkgs.Repo{}
	for _, l := range j.lock.Packages {
		dir, file := l.URL[:strings.LastIndexByte(l.URL, '/')+1], l.URL[strings.LastIndexByte(l.URL, '/')+1:]
		p := &pkgs.Package{Name: l.Name, Version: l.Version, Path: file, Size: l.Size, Sum: "1$" + l.SHA256}
		list, from[p] = append(list, p), pkgs.Repo{Name: LockFile, URL: dir, Unsigned: true} // sums are the lock's
	}
	return j.fetchPackages(ctx, roots, list, from)
}

// Moved says in lines for people what differs between two locks.
func (l *Lock) Moved(to *Lock) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if l.FreeBSD != to.FreeBSD {
		say("FreeBSD %s → %s", l.FreeBSD, to.FreeBSD)
	}
	moved(&out, "set", l.Sets, to.Sets, func(s LockedSet) (string, string) { return s.Name, short(s.SHA256) })
	moved(&out, "package", l.Packages, to.Packages, func(p LockedPackage) (string, string) {
		return p.Name, p.Version + " (" + short(p.SHA256) + ")"
	})
	moved(&out, "packages of", l.Roots, to.Roots, func(r LockedRoot) (string, string) { return r.Name, strings.Join(r.Packages, " ") })
	moved(&out, "overlay", l.Overlays, to.Overlays, func(o LockedOverlay) (string, string) { return o.Root, short(o.SHA256) })
	return out
}

func short(sum string) string { return sum[:min(len(sum), 12)] }

func moved[T any](out *[]string, what string, from, to []T, describe func(T) (name, value string)) {
	old, now := map[string]string{}, map[string]string{}
	for _, x := range from {
		n, v := describe(x)
		old[n] = v
	}
	for _, x := range to {
		n, v := describe(x)
		now[n] = v
	}
	for _, n := range sortedKeys(old) {
		if v, ok := now[n]; !ok {
			*out = append(*out, fmt.Sprintf("%s %s: %s is gone", what, n, old[n]))
		} else if v != old[n] {
			*out = append(*out, fmt.Sprintf("%s %s: %s → %s", what, n, old[n], v))
		}
	}
	for _, n := range sortedKeys(now) {
		if _, ok := old[n]; !ok {
			*out = append(*out, fmt.Sprintf("%s %s: %s is new", what, n, now[n]))
		}
	}
}
