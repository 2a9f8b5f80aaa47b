// Package reader opens what rigimage built, in every form it writes: a disk image,
// plain or compressed by zstd, or the disk it was written to; an ISO; a VMDK, VDI or
// QCOW2; the first disk of an appliance; a directory for network boot; and the URL
// of any of them. One value gives what is in it: partitions, trees, manifest,
// layers. What reads an image reads it through that: Verify, Diff, Contents, SBOM.
//
// A form is recognised by its bytes, not by its name. Nothing is unpacked but a
// compressed image, into a temporary file with holes that has no name: its file
// systems and layers are read at many places, and a stream would be decoded once for
// each. Web servers are asked for the parts that are read; from those that give
// none, the file is downloaded first.
//
// Left out: virtual disks and archives of other makers, encrypted and chained ones.
// Sizes are bytes.
package reader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fetch"
)

// Form is what an image is in.
type Form string

// Forms.
const (
	Raw       Form = "disk image"
	Disk      Form = "disk" // a device
	Zstd      Form = "compressed disk image"
	ISO       Form = "ISO"
	VMDK      Form = "VMDK"
	VDI       Form = "VDI"
	QCOW2     Form = "QCOW2"
	OVA       Form = "appliance"
	Directory Form = "directory for network boot"
)

// A is the form with its article.
func (f Form) A() string {
	if f == ISO || f == OVA {
		return "an " + string(f)
	}
	return "a " + string(f)
}

// Options of Open. The zero value is good.
type Options struct {
	Temp     string // directory for what must be unpacked or downloaded; "" is the system's
	Progress func(what string, done, total int64)
}

// Image is an image that is open for reading. Its trees are readable until Close.
type Image struct {
	Path       string
	Form       Form
	Size       int64 // of the file or device, or of the directory's files
	Partitions []Partition
	Manifest   *manifest.Manifest
	ESP        *tree.Tree // nil without one: of a directory
	Rig        *tree.Tree // the rig partition, or what stands for it

	o      Options
	medium medium
	faults []fault     // found on the way that did not stop it
	checks []formCheck // of the form itself
	close  []func() error
	layers map[string]*tree.Tree
}

// Partition is one partition of an image.
type Partition struct {
	Label string `json:"label"`
	Type  string `json:"type"`
	Start int64  `json:"start"` // bytes
	Size  int64  `json:"size"`  // bytes
	Files int    `json:"files,omitempty"`
	Used  int64  `json:"used,omitempty"` // bytes of its files
}

// medium is what differs between disks, volumes and directories.
type medium interface {
	// file is random access to a file of the rig partition.
	file(path string) (io.ReaderAt, error)
	// check looks at tables, file systems and boot areas.
	check(v *verifier) error
}

// fault is something that is wrong and was read around.
type fault struct {
	what string // the check it belongs to
	err  error
}

// formCheck checks the form an image is in.
type formCheck struct {
	what string
	run  func(ctx context.Context) error
}

// ForeignError says that something is nothing that rigimage made.
type ForeignError struct {
	Path string
	Why  string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s: it is no image that rigimage built: %s", e.Path, e.Why)
}

// DamagedError says that something is an image that cannot be read.
type DamagedError struct {
	Path string
	Form Form
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("read %s, %s: %v", e.Path, e.Form.A(), e.Err)
}

// Unwrap returns what is wrong with it.
func (e *DamagedError) Unwrap() error { return e.Err }

// Open opens what name is: a file, a device, a directory, or an http URL of one of
// them. Partitions, file systems and manifest are read, and the image id is computed
// again from the manifest; hashes are compared by Verify. The error is a
// *ForeignError or a *DamagedError when it could be read and is none, or a bad one.
func Open(ctx context.Context, name string, o Options) (*Image, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	i := &Image{Path: name, o: o, layers: map[string]*tree.Tree{}}
	if err := i.open(ctx); err != nil {
		_ = i.Close() // was only read
		return nil, i.explain(ctx, err)
	}
	return i, nil
}

func (i *Image) open(ctx context.Context) error {
	if isURL(i.Path) {
		return i.openURL(ctx)
	}
	st, err := os.Stat(i.Path)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return i.openDirectory()
	case st.Mode()&os.ModeDevice != 0:
		return i.openDevice()
	case !st.Mode().IsRegular():
		return &ForeignError{i.Path, "it is neither a file nor a disk"}
	}
	f, err := os.Open(i.Path)
	if err != nil {
		return err
	}
	i.closeLater(f.Close)
	return i.openFile(ctx, f, st.Size())
}

// explain makes one error of whatever went wrong.
func (i *Image) explain(ctx context.Context, err error) error {
	var foreign *ForeignError
	var host *os.PathError
	var net *fetch.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &foreign):
		return diag.Hint(diag.Input(err), "\"rigimage build\" makes one")
	case errors.As(err, &net) && !errors.Is(err, fs.ErrNotExist):
		return err
	case errors.As(err, &host) || i.Form == "": // nothing was read of it yet
		return diag.Input(err)
	case diag.HintOf(err) != "":
		return diag.Input(&DamagedError{i.Path, i.Form, err})
	}
	return diag.Hint(diag.Input(&DamagedError{i.Path, i.Form, err}), "it was cut short or damaged: build, copy or download it again")
}

func (i *Image) closeLater(f func() error) { i.close = append(i.close, f) }

// Close closes everything that was opened.
func (i *Image) Close() error {
	var errs []error
	for _, f := range slices.Backward(i.close) {
		errs = append(errs, f())
	}
	i.close = nil
	return errors.Join(errs...)
}

// finish reads the manifest of the bundle that was found.
func (i *Image) finish(m medium) (err error) {
	i.medium = m
	i.Manifest, err = manifest.Read(i.Rig.ReadFile)
	return err
}

// Answers are the answers in the image, which may hold secrets; nil without any.
func (i *Image) Answers() *tree.Entry {
	for _, t := range []*tree.Tree{i.ESP, i.Rig} { // an ISO has them in the volume
		if t == nil {
			continue
		}
		for e := range t.All() {
			if e.Kind == tree.File && isAnswers(e.Path) {
				return e
			}
		}
	}
	return nil
}

// isAnswers reports whether a file is the answers: FAT knows no case.
func isAnswers(p string) bool { return strings.EqualFold(p, manifest.AnswersFile) }

// Time is the time of everything rigimage made in the image. Directories do not keep
// it, so it is taken from the host's overlay.
func (i *Image) Time() (time.Time, error) {
	l := i.layer(manifest.LayerHost, "")
	if l == nil { // Validate wants one
		return time.Time{}, diag.Inputf("read %s: there is no overlay of the host", i.Path)
	}
	t, err := i.Layer(*l)
	if err != nil {
		return time.Time{}, err
	}
	for e := range t.All() {
		if !e.Implied && e.Kind == tree.File {
			return e.ModTime.UTC(), nil
		}
	}
	return time.Time{}, nil
}

// Layer opens a layer of the bundle. Content is decoded when an entry is opened.
func (i *Image) Layer(l manifest.Layer) (*tree.Tree, error) {
	if t, ok := i.layers[l.SHA256]; ok {
		return t, nil
	}
	r, err := i.medium.file(l.Path())
	var t *tree.Tree
	if err == nil {
		t, err = layer.Tree(r, l.Size)
	}
	if err != nil {
		return nil, diag.Input(fmt.Errorf("read %s: layer %s: %w", i.Path, l.Name(), err))
	}
	i.layers[l.SHA256] = t
	return t, nil
}

// layer is the image's layer of a role and jail, nil without one.
func (i *Image) layer(role manifest.LayerRole, jail string) *manifest.Layer {
	for n, l := range i.Manifest.Layers {
		if l.Role == role && l.Jail == jail {
			return &i.Manifest.Layers[n]
		}
	}
	return nil
}
