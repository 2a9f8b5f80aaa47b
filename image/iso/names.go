package iso

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/image/tree"
)

// plainName is a name without Rock Ridge: what cdboot looks for.
type plainName struct {
	base, ext string
	dir       bool
}

// id is the identifier of a directory record. Files have a dot and a version even
// without an extension (ECMA-119 §7.5.1); cdboot strips both.
func (n plainName) id() string {
	if n.dir {
		return n.base
	}
	return n.base + "." + n.ext + ";1"
}

// key is what must be unique in a directory.
func (n plainName) key() string {
	if n.ext == "" {
		return n.base
	}
	return n.base + "." + n.ext
}

// compare is the order of ECMA-119 §9.3. Padding with spaces changes nothing, as
// every d-character is greater. It also keeps what begins with a name behind that
// name: isoboot takes the first entry that begins with "loader".
func (n plainName) compare(o plainName) int {
	return cmp.Or(strings.Compare(n.base, o.base), strings.Compare(n.ext, o.ext), strings.Compare(n.id(), o.id()))
}

// fold makes d-characters of a name: letters upper case, "_" for anything else.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, name)
}

func cut(s string, n int) string { return s[:min(len(s), n)] }

// plain is the name a file or directory gets when no other wants it.
func plain(name string, dir bool) plainName {
	if dir {
		return plainName{base: cut(fold(name), maxDirName), dir: true}
	}
	n := plainName{base: name}
	if i := strings.LastIndexByte(name, '.'); i > 0 && len(name)-i-1 <= maxExt {
		n.base, n.ext = name[:i], fold(name[i+1:])
	}
	n.base = cut(fold(n.base), maxBaseExt-len(n.ext))
	return n
}

// numbered is n with a number at the end of its base.
func (n plainName) numbered(i int) plainName {
	room := maxBaseExt - len(n.ext)
	if n.dir {
		room = maxDirName
	}
	suffix := "_" + strconv.Itoa(i)
	n.base = cut(n.base, room-len(suffix)) + suffix
	return n
}

// nameChildren gives the children of a directory plain names and sorts them. A
// name that is its plain form in lower case always gets it, whatever else is
// there: boot/loader is BOOT/LOADER. The others follow in tree order.
func nameChildren(d *node) {
	taken := make(map[string]bool, len(d.children))
	next := map[string]int{}
	var rest []*node
	for _, c := range d.children {
		name := path.Base(c.entry.Path)
		c.plain = plain(name, c.entry.Kind == tree.Dir)
		if key := c.plain.key(); strings.ToLower(key) == name {
			taken[key] = true
		} else {
			rest = append(rest, c)
		}
	}
	for _, c := range rest {
		wish, key := c.plain, c.plain.key()
		for taken[c.plain.key()] {
			next[key]++
			c.plain = wish.numbered(next[key])
		}
		taken[c.plain.key()] = true
	}
	slices.SortFunc(d.children, func(a, b *node) int { return a.plain.compare(b.plain) })
}
