package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/internal/diag"
	"golang.org/x/sys/unix"
)

// touch notes that a file of the cache was used, in its access time: indices compare
// the other one. A cache that cannot be written is none the worse.
func touch(path string) { _ = os.Chtimes(path, time.Now(), time.Time{}) }

// cacheKinds are the directories of the cache, in the order they are listed, and what
// the names in them look like. Nothing else is ever removed.
var cacheKinds = []struct {
	name string
	item *regexp.Regexp
}{
	{"sets", regexp.MustCompile(`^[^.]`)}, // which somebody may have put there
	{"tars", regexp.MustCompile(`^[0-9a-f]{64}\.(tar|idx)$`)},
	{"layers", regexp.MustCompile(`^[0-9a-f]{64}(\.json)?$`)},
	{"boot", regexp.MustCompile(`^[0-9a-f]{64}(\.json)?$`)},
	{"overlays", regexp.MustCompile(`^[0-9a-f]{64}$`)},
	{"pkgs", regexp.MustCompile(`^([0-9a-f]{64}\.pkg|sums)$`)},
	{"catalogues", regexp.MustCompile(`^[0-9a-f]+$`)},
	{"bin", regexp.MustCompile(`^riginstall-`)},
	{"demo", regexp.MustCompile(`^demo-[0-9a-f]{12}$`)}, // in the cache directory itself
}

// partRE matches names of what is being written, or was when something stopped it.
var partRE = regexp.MustCompile(`^\.|\.(tmp|part|new)$`)

// partAge is how long nothing must have been written to such a file before it counts
// as left behind.
const partAge = 24 * time.Hour

// CacheKind is what the cache has of one kind. Sizes are bytes on disk.
type CacheKind struct {
	Kind   string    `json:"kind"`
	Items  int       `json:"items"`
	Size   int64     `json:"size"`
	Oldest time.Time `json:"oldest"` // use of any item
	Newest time.Time `json:"newest"`
}

// CacheItem is what gc keeps or removes as one.
type CacheItem struct {
	Kind string    `json:"kind"`
	Name string    `json:"name"` // below the cache directory: "layers/1f…"
	Size int64     `json:"size"` // bytes on disk
	Used time.Time `json:"used"`

	paths []string
	part  bool      // being written, or left behind
	wrote time.Time // the newest such file within a directory
}

// GCOptions of CacheGC. The zero value removes everything but release sets.
type GCOptions struct {
	Keep   time.Duration // what was used within this time stays
	Now    time.Time
	All    bool // everything, release sets too
	DryRun bool
}

// CacheDir is the directory of the cache: wanted, or the user's.
func CacheDir(wanted string) (string, error) { return cacheDir(wanted) }

// CacheList lists the cache by kind; kinds of which there is nothing are left out.
func CacheList(dir string) ([]CacheKind, error) {
	items, err := cacheItems(dir)
	if err != nil {
		return nil, err
	}
	out := []CacheKind{}
	for _, i := range items {
		if n := len(out); n == 0 || out[n-1].Kind != i.Kind {
			out = append(out, CacheKind{Kind: i.Kind, Oldest: i.Used, Newest: i.Used})
		}
		k := &out[len(out)-1]
		k.Items++
		k.Size += i.Size
		if i.Used.Before(k.Oldest) {
			k.Oldest = i.Used
		}
		if i.Used.After(k.Newest) {
			k.Newest = i.Used
		}
	}
	return out, nil
}

// CacheGC removes what was not used for Keep and returns what that was. Release sets
// stay unless All, and so does what was written to within a day without being
// complete.
func CacheGC(ctx context.Context, dir string, o GCOptions) ([]CacheItem, error) {
	items, err := cacheItems(dir)
	if err != nil {
		return nil, err
	}
	out := []CacheItem{}
	for _, i := range items {
		keep := o.Now.Sub(i.Used) < o.Keep && !o.All || i.Kind == "sets" && !i.part && !o.All
		if i.part {
			keep = o.Now.Sub(i.Used) < max(partAge, o.Keep)
		}
		keep = keep || o.Now.Sub(i.wrote) < partAge
		if keep {
			continue
		}
		if err := ctx.Err(); err != nil {
			return out, err
		}
		if !o.DryRun {
			for _, p := range i.paths {
				if err := os.RemoveAll(p); err != nil {
					return out, err
				}
			}
		}
		out = append(out, i)
	}
	return out, nil
}

// cacheItems lists the cache by kind, then name.
func cacheItems(dir string) ([]CacheItem, error) {
	st, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diag.Input(err)
	}
	if !st.IsDir() {
		return nil, diag.Inputf("cache %s: it is not a directory", dir)
	}
	var out []CacheItem
	for _, k := range cacheKinds {
		sub := k.name
		if k.name == "demo" {
			sub = "."
		}
		list, err := os.ReadDir(filepath.Join(dir, sub))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		byName := map[string]*CacheItem{}
		for _, e := range list {
			part := sub != "." && partRE.MatchString(e.Name())
			if !part && !k.item.MatchString(e.Name()) {
				continue
			}
			name := filepath.Join(sub, e.Name())
			if err := newCacheItem(k.name, name, part, byName).measure(filepath.Join(dir, name)); err != nil {
				return nil, err
			}
		}
		first := len(out)
		for _, i := range byName {
			out = append(out, *i)
		}
		slices.SortFunc(out[first:], func(a, b CacheItem) int { return strings.Compare(a.Name, b.Name) })
		if k.name == "sets" {
			if out, err = setParts(dir, out); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// newCacheItem is the item that a name belongs to: what describes a file and the file
// go together.
func newCacheItem(kind, name string, part bool, byName map[string]*CacheItem) *CacheItem {
	if !part && kind != "sets" {
		for _, suffix := range []string{".json", ".idx", ".tar"} {
			name = strings.TrimSuffix(name, suffix)
		}
	}
	i := byName[name]
	if i == nil {
		i = &CacheItem{Kind: kind, Name: filepath.ToSlash(name), part: part}
		byName[name] = i
	}
	return i
}

// setParts adds downloads of release sets that are not complete.
func setParts(dir string, out []CacheItem) ([]CacheItem, error) {
	list, err := filepath.Glob(filepath.Join(dir, "sets", "*", "*"))
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		if !partRE.MatchString(filepath.Base(p)) {
			continue
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return nil, err
		}
		i := CacheItem{Kind: "sets", Name: filepath.ToSlash(name), part: true}
		if err := i.measure(p); err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// measure adds a file, or all files of a directory, to the item. What vanishes
// meanwhile was removed by a build.
func (i *CacheItem) measure(path string) error {
	i.paths = append(i.paths, path)
	return filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case i.Kind == "sets" && !i.part && partRE.MatchString(d.Name()): // an item of its own
			return nil
		}
		i.Size += st.Blocks * 512
		used := time.Unix(st.Mtim.Unix())
		if !i.part && p != path && partRE.MatchString(d.Name()) && used.After(i.wrote) {
			i.wrote = used
		}
		if a := time.Unix(st.Atim.Unix()); !d.IsDir() && !i.part && a.After(used) {
			used = a
		}
		if used.After(i.Used) {
			i.Used = used
		}
		return nil
	})
}
