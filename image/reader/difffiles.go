package reader

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/rig-freebsd/rig/image/tree"
)

// diffTrees compares kinds, modes, owners, flags, link targets and contents, not
// times. With text it looks into the texts that changed.
func diffTrees(ctx context.Context, a, b *tree.Tree, text bool) ([]FileChange, error) {
	var out []FileChange
	for e := range a.All() {
		f, ok := b.Lookup(e.Path)
		switch {
		case ok && (e.Implied || f.Implied): // no layer says anything of it, or one does not
		case !ok && !e.Implied:
			out = append(out, FileChange{Path: e.Path, How: removed})
		case ok:
			c, err := diffEntries(ctx, e, f)
			if err != nil {
				return nil, fmt.Errorf("compare %s: %w", e.Path, err)
			}
			if c.Content && text {
				if err := c.look(a, b); err != nil {
					return nil, err
				}
			}
			if c.Content || len(c.Attrs) > 0 {
				out = append(out, c)
			}
		}
	}
	for e := range b.All() {
		if _, ok := a.Lookup(e.Path); !ok && !e.Implied {
			out = append(out, FileChange{Path: e.Path, How: added})
		}
	}
	slices.SortFunc(out, func(x, y FileChange) int { return tree.ComparePaths(x.Path, y.Path) })
	return out, nil
}

func diffEntries(ctx context.Context, e, f *tree.Entry) (FileChange, error) {
	c := FileChange{Path: e.Path, How: changed}
	attr := func(key, old, now string) {
		if old != now {
			c.Attrs = append(c.Attrs, Change{key, old, now})
		}
	}
	attr("kind", e.Kind.String(), f.Kind.String())
	attr("mode", fmt.Sprintf("%04o", e.Perm), fmt.Sprintf("%04o", f.Perm))
	attr("owner", fmt.Sprintf("%d:%d", e.UID, e.GID), fmt.Sprintf("%d:%d", f.UID, f.GID))
	attr("flags", e.Flags.String(), f.Flags.String())
	attr("target", e.Link, f.Link)
	if e.Kind != tree.File || f.Kind != tree.File {
		return c, nil
	}
	if e.Size != f.Size {
		c.Content = true
		return c, nil
	}
	same, err := sameContent(ctx, e, f)
	c.Content = !same
	return c, err
}

const maxText = 1 << 20 // bytes of a file that is looked into

// look says what changed in a text: settings, or how many lines. Files that not
// everybody may read may hold secrets; what changed in them is not said.
func (c *FileChange) look(a, b *tree.Tree) error {
	e, _ := a.Lookup(c.Path)
	f, _ := b.Lookup(c.Path)
	if e.Size > maxText || f.Size > maxText || e.Perm&0o004 == 0 || f.Perm&0o004 == 0 {
		return nil
	}
	old, err := a.ReadFile(c.Path, maxText)
	if err != nil {
		return err
	}
	now, err := b.ReadFile(c.Path, maxText)
	if err != nil {
		return err
	}
	for _, t := range [][]byte{old, now} {
		if !utf8.Valid(t) || bytes.IndexByte(t, 0) >= 0 {
			return nil
		}
	}
	if c.Keys = diffSettings(c.Path, string(old), string(now)); len(c.Keys) == 0 {
		c.Added, c.Removed = countLines(string(old), string(now))
	}
	return nil
}

// lineBudget bounds the comparison of two texts: above it, lines that moved count as
// unchanged.
const lineBudget = 4 << 20

// countLines is how many lines diff(1) would show as added and removed.
func countLines(old, now string) (plus, minus int) {
	a, b := lines(old), lines(now)
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	common := 0
	if len(a)*len(b) > lineBudget {
		have := map[string]int{}
		for _, l := range a {
			have[l]++
		}
		for _, l := range b {
			if have[l] > 0 {
				have[l]--
				common++
			}
		}
		return len(b) - common, len(a) - common
	}
	row := make([]int, len(b)+1) // longest common subsequences of a's beginning
	for _, l := range a {
		diagonal := 0
		for j := range b {
			above := row[j+1]
			if l == b[j] {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(above, row[j])
			}
			diagonal = above
		}
	}
	common = row[len(b)]
	return len(b) - common, len(a) - common
}
