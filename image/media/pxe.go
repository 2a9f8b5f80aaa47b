package media

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/work"
)

// Network is what a directory for network boot says of where it will be.
type Network struct {
	URL        string // of the directory; "" is the server that the loader came from by TFTP
	AnswersURL string // of a machine's answers, with {mac}, {serial}, {uuid} or {id} in it
}

// IsDirectory reports whether an output is a directory for network boot: its name ends
// in a slash.
func IsDirectory(name string) bool { return strings.HasSuffix(name, "/") }

// ipxe is what iPXE is given. The names in it are relative to where it came from.
const ipxe = `#!ipxe
iseq ${platform} efi && goto efi ||
iseq ${platform} pcbios && goto bios ||
echo rig: nothing to boot on platform ${platform}
exit 1
:efi
chain boot/loader.efi || goto failed
exit
:bios
chain boot/pxeboot || goto failed
exit
:failed
echo rig: the installer is not where this script came from
exit 1
`

// directory writes the tree that web and TFTP servers give out: the files of the rig
// partition, pxeboot, and a switch that says where they are. It is made in a temporary
// directory.
func (p *press) directory(ctx context.Context, t *target) error {
	pxeboot, ok := p.Base.Lookup("boot/pxeboot")
	if !ok {
		return diag.Inputf("base set: boot/pxeboot is missing, which BIOS machines boot from the network by")
	}
	x := *pxeboot
	x.Flags = 0
	upper, err := tree.New([]tree.Entry{x, p.file("boot.ipxe", []byte(ipxe)), p.file(manifest.SwitchFile, p.network.conf())})
	if err != nil {
		return err
	}
	files, err := tree.Merge(p.Rig, upper)
	if err != nil {
		return err
	}
	name := filepath.Clean(t.name)
	if t.dir, err = os.MkdirTemp(filepath.Dir(name), "."+filepath.Base(name)+".partial-*"); err != nil {
		return err
	}
	if err := p.fill(ctx, t.dir, files); err != nil {
		return err
	}
	return os.Chmod(t.dir, 0o755)
}

// conf is the switch of the directory: what loader and installer are told.
func (n Network) conf() []byte {
	var b strings.Builder
	b.WriteString("# Where the installer finds this directory by HTTP, and each machine's answers.\n")
	for _, l := range []struct{ key, value, example string }{
		{manifest.EnvURL, n.URL, "http://10.9.0.1"},
		{manifest.EnvAnswersURL, n.AnswersURL, "http://10.9.0.1/rig/answers/{id}.toml"},
	} {
		if l.value == "" {
			fmt.Fprintf(&b, "#%s=%q\n", l.key, l.example)
		} else {
			fmt.Fprintf(&b, "%s=%q\n", l.key, l.value)
		}
	}
	return []byte(b.String())
}

// maxKenv is the longest value that the kernel takes over from the loader.
const maxKenv = 127

func (n Network) check() error {
	var bad diag.Problems
	for key, v := range map[string]string{"--url": n.URL, "--answers-url": n.AnswersURL} {
		switch {
		case v == "":
		case !strings.HasPrefix(v, "http://") && !strings.HasPrefix(v, "https://"), strings.ContainsAny(v, "\"\\$ \t\n"):
			bad.Add(diag.Problem{Key: key, Msg: fmt.Sprintf("%q is not an http URL", v)})
		case len(v) > maxKenv:
			bad.Add(diag.Problem{Key: key, Msg: fmt.Sprintf("it has %d bytes; the loader passes on %d", len(v), maxKenv)})
		}
	}
	return diag.Input(bad.Err())
}

// fill writes a tree's directories and files, and compares what it wrote.
func (p *press) fill(ctx context.Context, dir string, t *tree.Tree) error {
	var done int64
	for e := range t.All() {
		name := filepath.Join(dir, filepath.FromSlash(e.Path))
		switch e.Kind {
		case tree.Dir:
			if err := os.MkdirAll(name, 0o755); err != nil {
				return err
			}
		case tree.File, tree.HardLink:
			if e.Kind == tree.HardLink {
				to, ok := t.Lookup(e.Link)
				if !ok {
					return fmt.Errorf("%s: a link to %s, which is missing", e.Path, e.Link)
				}
				e = to
			}
			if err := copyFile(ctx, name, e); err != nil {
				return err
			}
			done += e.Size
			p.progress("write "+filepath.Base(dir), done, t.Size())
		}
	}
	return nil
}

func copyFile(ctx context.Context, name string, e *tree.Entry) error {
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	h := sha256.New()
	if e.Size > 0 {
		in, err := e.Open()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.MultiWriter(work.On(ctx, out), h), in)
		if err := errors.Join(err, in.Close()); err != nil {
			return err
		}
	}
	want := hex.EncodeToString(h.Sum(nil))
	back := tree.Entry{Path: e.Path, Kind: tree.File, Size: e.Size, Open: func() (io.ReadCloser, error) { return os.Open(name) }}
	got, err := back.Digest()
	if err == nil && got != want {
		err = fmt.Errorf("%s reads back differently", e.Path)
	}
	return errors.Join(err, out.Close())
}

// checkDirectory refuses to replace a directory that this did not make.
func checkDirectory(name string) error {
	name = filepath.Clean(name)
	if st, err := os.Stat(filepath.Dir(name)); err != nil || !st.IsDir() {
		return diag.Inputf("write %s: there is no directory %s", name, filepath.Dir(name))
	}
	list, err := os.ReadDir(name)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(list) == 0 {
		return nil
	}
	if err == nil {
		if _, err = os.Stat(filepath.Join(name, manifest.File)); err == nil {
			return nil
		}
	}
	return diag.Hint(diag.Inputf("write %s/: it exists and is not an image's directory", name), "name another, or remove it")
}

// replaceDirectory puts a finished directory in the place of an older one.
func replaceDirectory(from, name string) error {
	name = filepath.Clean(name)
	old := from + ".old"
	if err := os.Rename(name, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(from, name); err != nil {
		return err
	}
	return os.RemoveAll(old)
}
