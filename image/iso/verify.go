package iso

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// Verify reads a volume back: it must pass [FS.Check] and hold exactly what t
// describes, metadata and content. Both contents are read. Options are those of
// Layout; when they have an ESP with an opener, it is compared too.
func Verify(r io.ReaderAt, size int64, t *tree.Tree, o Options) error {
	f, err := Open(r, size)
	if err != nil {
		return err
	}
	if err := f.Check(); err != nil {
		return err
	}
	have, err := f.Tree()
	if err != nil {
		return err
	}
	bufs := [2][]byte{make([]byte, 256<<10), make([]byte, 256<<10)}
	var errs []error
	add := func(p string, err error) {
		if err != nil && len(errs) < maxProblems {
			errs = append(errs, fmt.Errorf("%s: %w", p, err))
		}
	}
	if f.Volume() != o.Volume || f.Publisher() != o.Publisher {
		add("primary descriptor", fmt.Errorf("volume %q of publisher %q, not %q of %q", f.Volume(), f.Publisher(), o.Volume, o.Publisher))
	}
	add("boot catalog", f.verifyBoots(&o, bufs))
	for want := range t.All() {
		got, ok := have.Lookup(want.Path)
		if !ok {
			add(want.Path, errors.New("missing"))
			continue
		}
		if err := compare(got, want, o.time()); err != nil {
			add(want.Path, err)
			continue
		}
		if got.Kind == tree.File {
			add(want.Path, compareContent(got.Open, want.Open, got.Size, bufs))
		}
	}
	for got := range have.All() {
		if _, ok := t.Lookup(got.Path); !ok {
			add(got.Path, errors.New("nothing described it"))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("verify iso: %w", err)
	}
	return nil
}

// verifyBoots compares the boot catalog with the options.
func (f *FS) verifyBoots(o *Options, bufs [2][]byte) error {
	boots, err := f.Boots()
	if err != nil {
		return err
	}
	if o.BIOSBoot != "" {
		r, err := f.FileRange(o.BIOSBoot)
		if err != nil {
			return err
		}
		want := Range{Off: r.Off, Len: blocks(r.Len) * blockSize}
		if len(boots) == 0 || boots[0].EFI || boots[0].Range != want {
			return fmt.Errorf("its first entry is not %s", o.BIOSBoot)
		}
		boots = boots[1:]
	}
	if o.ESPSize > 0 {
		if len(boots) == 0 || !boots[0].EFI || boots[0].Range.Len < o.ESPSize {
			return fmt.Errorf("no ESP of %d bytes", o.ESPSize)
		}
		if o.ESP != nil {
			if err := compareContent(f.opener(boots[0].Range), o.ESP, o.ESPSize, bufs); err != nil {
				return fmt.Errorf("ESP: %w", err)
			}
		}
		boots = boots[1:]
	}
	if len(boots) > 0 {
		return fmt.Errorf("%d more entries than described", len(boots))
	}
	return nil
}

// compare reports the first field that differs. Flags have no place in the format.
func compare(got, want *tree.Entry, missing time.Time) error {
	differ := func(field string, is, should any) error {
		return fmt.Errorf("%s is %v, not %v", field, is, should)
	}
	mtime := want.ModTime
	if mtime.IsZero() {
		mtime = missing
	}
	mtime = clampTime(mtime)
	switch {
	case got.Kind != want.Kind:
		return differ("kind", got.Kind, want.Kind)
	case got.Perm != want.Perm:
		return differ("mode", fmt.Sprintf("%04o", got.Perm), fmt.Sprintf("%04o", want.Perm))
	case got.UID != want.UID || got.GID != want.GID:
		return differ("owner", fmt.Sprintf("%d:%d", got.UID, got.GID), fmt.Sprintf("%d:%d", want.UID, want.GID))
	case !got.ModTime.Equal(mtime):
		return differ("time", got.ModTime.Format(time.RFC3339), mtime.Format(time.RFC3339))
	case got.Link != want.Link:
		return differ("link", fmt.Sprintf("%q", got.Link), fmt.Sprintf("%q", want.Link))
	case got.Size != want.Size:
		return differ("size", got.Size, want.Size)
	}
	return nil
}

// compareContent reads size bytes of both into the buffers.
func compareContent(got, want tree.Opener, size int64, bufs [2][]byte) error {
	if size == 0 {
		return nil
	}
	a, err := got()
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := want()
	if err != nil {
		return fmt.Errorf("described content: %w", err)
	}
	defer b.Close()
	x, y := bufs[0], bufs[1]
	for pos := int64(0); pos < size; {
		n := min(size-pos, int64(len(x)))
		if _, err := io.ReadFull(a, x[:n]); err != nil {
			return err
		}
		if _, err := io.ReadFull(b, y[:n]); err != nil {
			return fmt.Errorf("described content: %w", err)
		}
		if !bytes.Equal(x[:n], y[:n]) {
			i := 0
			for x[i] == y[i] {
				i++
			}
			return fmt.Errorf("content differs at byte %d", pos+int64(i))
		}
		pos += n
	}
	return nil
}
