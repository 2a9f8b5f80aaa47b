package layer

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
)

// known is a file whose source knows its sum; opened counts who reads it.
func known(p string, size int, opened *atomic.Int32) tree.Entry {
	e := file(p, size)
	e.Sum = fmt.Sprintf("%x", sha256.Sum256(noise(size)))
	open := e.Open
	if open == nil {
		return e
	}
	e.Open = func() (io.ReadCloser, error) {
		opened.Add(1)
		return open()
	}
	return e
}

// After a change, only files beside it are read; the bytes are those of a layer made
// from nothing.
func TestLike(t *testing.T) {
	var opened atomic.Int32
	entries := func(changed int) []tree.Entry {
		var out []tree.Entry
		for i := range 1000 {
			size := 1000 + i%7
			if i == 500 {
				size = changed
			}
			out = append(out, known(fmt.Sprintf("f%03d", i), size, &opened))
		}
		return append(out, known("large", 5*minFrameSize+17, &opened), known("empty", 0, &opened))
	}
	o := Options{FrameSize: minFrameSize}
	first, info := write(t, newTree(t, entries(1000)...), o)
	for _, f := range info.Frames {
		if f.Recipe == "" {
			t.Fatal("a frame of known files has no recipe")
		}
	}
	for _, size := range []int{1000, 999, 0, 3000, 2 * minFrameSize} {
		want, _ := write(t, newTree(t, entries(size)...), o)
		like := o
		like.Like = &Layer{R: bytes.NewReader(first), Frames: info.Frames}
		opened.Store(0)
		got, now := write(t, newTree(t, entries(size)...), like)
		if !bytes.Equal(got, want) {
			t.Errorf("file of %d bytes: other bytes than without an earlier layer", size)
		}
		if n := opened.Load(); size == 1000 && n > 0 || n > 700 {
			t.Errorf("file of %d bytes: %d files were read", size, n)
		}
		if len(now.Frames) == 0 || now.Frames[0] != info.Frames[0] {
			t.Errorf("file of %d bytes: the first frame is another", size)
		}
	}
}

// Whatever a frame is made of, another value gives another frame.
func TestRecipe(t *testing.T) {
	var opened atomic.Int32
	recipe := func(change func(*tree.Entry)) string {
		e := known("a", 100, &opened)
		change(&e)
		_, info := write(t, newTree(t, e), Options{})
		if len(info.Frames) != 1 {
			t.Fatalf("%d frames", len(info.Frames))
		}
		return info.Frames[0].Recipe
	}
	seen := map[string]string{recipe(func(*tree.Entry) {}): "the first"}
	for what, change := range map[string]func(*tree.Entry){
		"name":    func(e *tree.Entry) { e.Path = "b" },
		"mode":    func(e *tree.Entry) { e.Perm = 0o600 },
		"owner":   func(e *tree.Entry) { e.UID = 5 },
		"content": func(e *tree.Entry) { *e = known("a", 101, &opened) },
	} {
		r := recipe(change)
		if seen[r] != "" {
			t.Errorf("%s: the recipe of %s", what, seen[r])
		}
		seen[r] = what
	}
	if r := recipe(func(e *tree.Entry) { e.Sum = "" }); r != "" {
		t.Errorf("content that is not known has recipe %s", r)
	}
}

// A file that is not what it was known to be.
func TestChangedMeanwhile(t *testing.T) {
	e := file("etc/x", 100)
	e.Sum = strings.Repeat("0", 64)
	if _, err := Write(io.Discard, newTree(t, e), Options{}); err == nil || err.Error() != "write layer: tar etc/x: its content changed while it was read" {
		t.Errorf("got %v", err)
	}
}
