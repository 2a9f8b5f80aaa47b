package image

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// reads counts the files of overlays that are opened. Templates are looked into by
// every build.
type reads struct {
	fs.FS
	n *atomic.Int32
}

func (r reads) Open(name string) (fs.File, error) {
	f, err := r.FS.Open(name)
	if err == nil && strings.HasPrefix(name, "host/") && !strings.HasSuffix(name, ".tmpl") {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			r.n.Add(1)
		}
	}
	return f, err
}

// Files of an overlay that did not change are not read again; those that did are, and
// so are all when what is known of them is damaged. The image is always what it is
// without a cache.
func TestOverlayIsKnown(t *testing.T) {
	o := options(t, t.TempDir())
	dir := t.TempDir()
	if err := os.CopyFS(dir, o.Profile); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		put(t, filepath.Join(dir, "host/usr/local/site", string(rune('a'+i%26)), strings.Repeat("x", 1+i/26)), strings.Repeat("page ", 100+i))
	}
	time.Sleep(2100 * time.Millisecond) // files that changed within 2 s are read again
	var n atomic.Int32
	o.Profile, o.ProfileName = reads{os.DirFS(dir), &n}, dir
	check := func(what string, least, most int32) {
		t.Helper()
		n.Store(0)
		got := sum(t, build(t, o).Path)
		if n := n.Load(); n < least || n > most {
			t.Errorf("%s: %d files were read, want %d to %d", what, n, least, most)
		}
		clean := o
		clean.Cache, clean.Output = t.TempDir(), filepath.Join(t.TempDir(), "rig.img")
		if want := sum(t, build(t, clean).Path); got != want {
			t.Errorf("%s: another image than without a cache", what)
		}
	}
	check("first", 300, 1000)
	check("nothing changed", 0, 0)
	put(t, filepath.Join(dir, "host/usr/local/site/m/xxx"), "another page")
	layers, _ := filepath.Glob(filepath.Join(o.Cache, "layers", "*.json"))
	if len(layers) == 0 {
		t.Fatal("no layers in the cache")
	}
	check("one file changed", 300, 1000)          // it, and those of its frame
	check("nothing but that file just now", 0, 1) // as a machine is fast or slow
	known, _ := filepath.Glob(filepath.Join(o.Cache, "overlays", "*"))
	if len(known) == 0 {
		t.Fatal("nothing is known of overlays")
	}
	for _, name := range known {
		if err := os.Truncate(name, 100); err != nil {
			t.Fatal(err)
		}
	}
	check("the cache was cut off", 300, 1000)
	check("mended", 0, 1)
}

func put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
