package sums

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

var sumA, sumB = strings.Repeat("0a", 32), strings.Repeat("0b", 32)

// put writes a file that was last changed an hour before the scans of the test, as
// far as the cache can tell: nobody can set a file's change time.
func put(t *testing.T, name, content string) State {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return look(t, name)
}

func look(t *testing.T, name string) State {
	t.Helper()
	fi, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	return Stat(fi)
}

// later begins a scan an hour from now.
func later(path string) *Cache {
	c := Open(path)
	c.start += int64(time.Hour)
	return c
}

func save(t *testing.T, c *Cache) {
	t.Helper()
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
}

func TestKnown(t *testing.T) {
	dir := t.TempDir()
	path, name := filepath.Join(dir, "cache", "sums"), filepath.Join(dir, "a")
	is := put(t, name, "content")
	c := later(path)
	if got := c.Known("a", is); got != "" {
		t.Errorf("known before it was seen: %s", got)
	}
	c.Saw("a", is, sumA)
	c.Note = "of the caller"
	save(t, c)
	before, _ := os.Stat(path)

	c = Open(path)
	if got := c.Known("a", look(t, name)); got != sumA || c.Note != "of the caller" {
		t.Errorf("sum %q, note %q", got, c.Note)
	}
	c.Saw("a", look(t, name), sumA)
	if got := c.Known("b", look(t, name)); got != "" {
		t.Errorf("another name: %s", got)
	}
	save(t, c)
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("saved although nothing was new")
	}
	save(t, Open(path)) // a scan that did not see the file
	if got := Open(path).Known("a", is); got != "" {
		t.Errorf("still known after it was gone: %s", got)
	}
}

// Each of what stat says counts.
func TestChanged(t *testing.T) {
	for what, change := range map[string]func(name string) error{
		"content of the same size, old time put back": func(name string) error {
			fi, err := os.Stat(name)
			if err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond) // the clock of file systems
			if err := os.WriteFile(name, []byte("CONTENT"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(name, time.Time{}, fi.ModTime())
		},
		"mode": func(name string) error { return os.Chmod(name, 0o600) },
		"time": func(name string) error { return os.Chtimes(name, time.Time{}, time.Unix(1, 0)) },
		"another file with the same times": func(name string) error {
			fi, err := os.Stat(name)
			if err != nil {
				return err
			}
			if err := os.WriteFile(name+"2", []byte("CONTENT"), 0o644); err != nil {
				return err
			}
			if err := os.Chtimes(name+"2", time.Time{}, fi.ModTime()); err != nil {
				return err
			}
			return os.Rename(name+"2", name)
		},
		"size": func(name string) error { return os.WriteFile(name, []byte("more content"), 0o644) },
	} {
		dir := t.TempDir()
		path, name := filepath.Join(dir, "sums"), filepath.Join(dir, "a")
		c := later(path)
		c.Saw("a", put(t, name, "content"), sumA)
		save(t, c)
		if err := change(name); err != nil {
			t.Fatal(err)
		}
		if got := Open(path).Known("a", look(t, name)); got != "" {
			t.Errorf("%s: still known", what)
		}
	}
}

// A file changed while it was looked at, just before, or in the future is read again.
func TestRacilyClean(t *testing.T) {
	dir := t.TempDir()
	path, name := filepath.Join(dir, "sums"), filepath.Join(dir, "a")
	is := put(t, name, "content")
	for what, start := range map[string]time.Duration{"at once": 0, "a second after": time.Second, "changed in the future": -time.Hour} {
		c := Open(path)
		c.start = is.mtime + int64(start)
		c.Saw("a", is, sumA)
		save(t, c)
		if got := Open(path).Known("a", is); got != "" {
			t.Errorf("%s: remembered", what)
		}
	}
}

func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	path, name := filepath.Join(dir, "sums"), filepath.Join(dir, "a")
	is := put(t, name, "content")
	c := later(path)
	c.Saw("a", is, sumA)
	c.Note = "note"
	save(t, c)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"empty": nil, "half": good[:len(good)/2], "a bit": append(bytes.Clone(good[:40]), append([]byte{good[40] ^ 1}, good[41:]...)...),
		"another format": bytes.Replace(good, []byte("sums 1"), []byte("sums 0"), 1), "more": append(bytes.Clone(good), 0),
	} {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		c := later(path)
		if got := c.Known("a", is); got != "" || c.Note != "" {
			t.Errorf("%s: known %q, note %q", what, got, c.Note)
		}
		c.Saw("a", is, sumB)
		save(t, c)
		if got := Open(path).Known("a", is); got != sumB {
			t.Errorf("%s: not mended: %q", what, got)
		}
	}
}

// Files that no stat(2) knows are always read.
func TestEmbedded(t *testing.T) {
	fsys := fstest.MapFS{"a": {Data: []byte("x")}}
	fi, err := fs.Stat(fsys, "a")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sums")
	c := later(path)
	c.Saw("a", Stat(fi), sumA)
	save(t, c)
	if got := Open(path).Known("a", Stat(fi)); got != "" {
		t.Errorf("known: %s", got)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a cache of nothing was written")
	}
}
