package sets

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/internal/unpack"
)

// Archive is a package of the base system (pkgbase), checked by its SHA-256 when it
// was fetched.
type Archive struct {
	Name   string // "FreeBSD-runtime"
	Path   string
	SHA256 string // hex
	Size   int64
}

// kernelPackages begin the names of packages that have a kernel.
const kernelPackages = "FreeBSD-kernel-"

// Packages makes the sets "base" and "kernel" of packages of the base system. A
// later archive's file takes the place of an earlier one's.
func Packages(o Options, archives []Archive) (*Sets, error) {
	o = o.withDefaults()
	if o.Cache == "" {
		return nil, errors.New("packages of the base system: no cache directory")
	}
	s := &Sets{cache: o.Cache, o: o, tars: map[string]*openTar{}, archives: map[string][]Archive{}}
	for _, a := range archives {
		name := "base"
		if strings.HasPrefix(a.Name, kernelPackages) {
			name = "kernel"
		}
		s.archives[name] = append(s.archives[name], a)
	}
	for _, name := range []string{"base", "kernel"} {
		if len(s.archives[name]) == 0 {
			return nil, fmt.Errorf("packages of the base system: there are none of the %s", name)
		}
		set := Set{Name: name}
		h := sha256.New()
		for _, a := range s.archives[name] {
			fmt.Fprintln(h, a.SHA256)
			set.Size += a.Size
		}
		set.SHA256 = hex.EncodeToString(h.Sum(nil))
		s.list = append(s.list, set)
	}
	return s, nil
}

// unpackArchives writes the files of a set's packages as one tar and returns its
// size.
func (s *Sets) unpackArchives(ctx context.Context, set Set, out io.Writer) (int64, error) {
	count := &counter{w: bufio.NewWriterSize(out, 256<<10)}
	tw := tar.NewWriter(count)
	var done int64
	for _, a := range s.archives[set.Name] {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		s.o.Progress("unpack packages of the "+set.Name+" system", done, set.Size)
		if err := appendArchive(ctx, tw, a); err != nil {
			return 0, fmt.Errorf("package %s: %w", filepath.Base(a.Path), err)
		}
		done += a.Size
	}
	if err := errors.Join(tw.Close(), count.w.Flush()); err != nil {
		return 0, err
	}
	return count.n, nil
}

type counter struct {
	w *bufio.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// appendArchive copies the files of a package, which have absolute names, and
// leaves out its manifests, whose names begin with a plus.
func appendArchive(ctx context.Context, tw *tar.Writer, a Archive) error {
	f, err := os.Open(a.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, done, err := unpack.Open(f, 1)
	if err != nil {
		return err
	}
	defer done()
	buf := make([]byte, 128<<10)
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.HasPrefix(h.Name, "+") {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		h.Name, h.Format = strings.TrimLeft(h.Name, "/"), tar.FormatPAX
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimLeft(h.Linkname, "/")
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{tw}, struct{ io.Reader }{tr}, buf); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}
