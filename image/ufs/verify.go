package ufs

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// Verify reads a file system back: it must pass [FS.Check] and hold exactly what
// t describes, metadata and content. Both contents are read.
func Verify(r io.ReaderAt, size int64, t *tree.Tree) error {
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
	var p problems
	bufs := [2][]byte{make([]byte, 256<<10), make([]byte, 256<<10)}
	for want := range t.All() {
		got, ok := have.Lookup(want.Path)
		if !ok {
			p.add("%s: missing", want.Path)
			continue
		}
		compare(&p, got, want, time.Unix(f.sb.Time, 0))
		if got.Kind == tree.File && want.Kind == tree.File && got.Size == want.Size && got.Size > 0 {
			if err := compareContent(got, want, bufs); err != nil {
				p.add("%s: %w", want.Path, err)
			}
		}
	}
	for got := range have.All() {
		if _, ok := t.Lookup(got.Path); !ok {
			p.add("%s: nothing described it", got.Path)
		}
	}
	if err := p.err(); err != nil {
		return fmt.Errorf("verify ufs: %w", err)
	}
	return nil
}

// compare adds a problem for each field that differs.
func compare(p *problems, got, want *tree.Entry, missing time.Time) {
	differ := func(field string, is, should any) {
		p.add("%s: %s is %v, not %v", want.Path, field, is, should)
	}
	if got.Kind != want.Kind {
		differ("kind", got.Kind, want.Kind)
		return
	}
	if got.Perm != want.Perm {
		differ("mode", fmt.Sprintf("%04o", got.Perm), fmt.Sprintf("%04o", want.Perm))
	}
	if got.UID != want.UID || got.GID != want.GID {
		differ("owner", fmt.Sprintf("%d:%d", got.UID, got.GID), fmt.Sprintf("%d:%d", want.UID, want.GID))
	}
	if got.Flags != want.Flags {
		differ("flags", fmt.Sprintf("%q", got.Flags), fmt.Sprintf("%q", want.Flags))
	}
	mtime := want.ModTime
	if mtime.IsZero() {
		mtime = missing
	}
	if !got.ModTime.Equal(mtime) {
		differ("time", got.ModTime.UTC().Format(time.RFC3339Nano), mtime.UTC().Format(time.RFC3339Nano))
	}
	if got.Link != want.Link {
		differ("link", fmt.Sprintf("%q", got.Link), fmt.Sprintf("%q", want.Link))
	}
	if got.Size != want.Size {
		differ("size", got.Size, want.Size)
	}
}

// compareContent reads both files but for what is a hole in both.
func compareContent(got, want *tree.Entry, bufs [2][]byte) error {
	a, err := got.Open()
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := want.Open()
	if err != nil {
		return err
	}
	defer b.Close()
	pos := int64(0)
	for _, h := range append(commonHoles(got.Holes, want.Holes), tree.Range{Off: got.Size}) {
		for pos < h.Off {
			n := min(h.Off-pos, int64(len(bufs[0])))
			if _, err := io.ReadFull(a, bufs[0][:n]); err != nil {
				return err
			}
			if _, err := io.ReadFull(b, bufs[1][:n]); err != nil {
				return fmt.Errorf("described content: %w", err)
			}
			if !bytes.Equal(bufs[0][:n], bufs[1][:n]) {
				i := 0
				for bufs[0][i] == bufs[1][i] {
					i++
				}
				return fmt.Errorf("content differs at byte %d", pos+int64(i))
			}
			pos += n
		}
		if err := tree.Skip(a, h.Len); err != nil {
			return err
		}
		if err := tree.Skip(b, h.Len); err != nil {
			return fmt.Errorf("described content: %w", err)
		}
		pos = h.End()
	}
	return nil
}

// commonHoles is the intersection of two ordered lists.
func commonHoles(a, b []tree.Range) []tree.Range {
	var out []tree.Range
	for len(a) > 0 && len(b) > 0 {
		from, to := max(a[0].Off, b[0].Off), min(a[0].End(), b[0].End())
		if from < to {
			out = append(out, tree.Range{Off: from, Len: to - from})
		}
		if a[0].End() < b[0].End() {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}
