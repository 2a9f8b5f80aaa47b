package pxe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// answersDir is where answers are, as machines ask for them.
const answersDir = "rig/answers/"

// files is what is served: the tree of a directory, texts that win over it, and
// answers.
type files struct {
	root    *os.Root
	mem     map[string][]byte
	answers *os.Root // nil for none
}

func openFiles(dir, answers string, mem map[string][]byte) (*files, error) {
	f := &files{mem: mem}
	var err error
	if f.root, err = os.OpenRoot(dir); err != nil {
		return nil, err
	}
	if answers != "" {
		if f.answers, err = os.OpenRoot(answers); err != nil {
			f.root.Close()
			return nil, err
		}
	}
	return f, nil
}

func (f *files) close() error {
	err := f.root.Close()
	if f.answers != nil {
		err = errors.Join(err, f.answers.Close())
	}
	return err
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

// find returns where a clean name is looked for, and under which name; nil for
// nowhere.
func (f *files) find(name string) (*os.Root, string) {
	under, ok := strings.CutPrefix(name, answersDir)
	switch {
	case name == "":
		return nil, ""
	case !ok:
		return f.root, name
	case f.answers == nil || strings.Contains(under, "/") || !strings.HasSuffix(under, ".toml"):
		return nil, ""
	}
	return f.answers, under
}

// open returns a file and its size; it is fs.ErrNotExist for whatever is no plain
// file of the tree.
func (f *files) open(name string) (content, int64, error) {
	name = clean(name)
	if b, ok := f.mem[name]; ok {
		return memory{bytes.NewReader(b)}, int64(len(b)), nil
	}
	missing := fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	root, in := f.find(name)
	if root == nil {
		return nil, 0, missing
	}
	st, err := root.Stat(in)
	if err != nil || !st.Mode().IsRegular() {
		return nil, 0, missing
	}
	file, err := root.Open(in)
	if err != nil {
		return nil, 0, err
	}
	return file, st.Size(), nil
}
