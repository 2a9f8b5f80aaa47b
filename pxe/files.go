package pxe

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// files is what is served: the tree of a directory and texts that win over it.
type files struct {
	root *os.Root
	mem  map[string][]byte
}

// content is an open file.
type content interface {
	io.ReadSeeker
	io.ReaderAt
	io.Closer
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// clean makes a path as requests have it, "//boot/../boot/loader.conf", into the
// name of a file.
func clean(name string) string { return path.Clean("/" + name)[1:] }

// open returns a file and its size; it is fs.ErrNotExist for whatever is no plain
// file of the tree.
func (f *files) open(name string) (content, int64, error) {
	name = clean(name)
	if b, ok := f.mem[name]; ok {
		return memory{bytes.NewReader(b)}, int64(len(b)), nil
	}
	missing := fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	if name == "" {
		return nil, 0, missing
	}
	st, err := f.root.Stat(name)
	if err != nil || !st.Mode().IsRegular() {
		return nil, 0, missing
	}
	file, err := f.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	return file, st.Size(), nil
}
