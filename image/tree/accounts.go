package tree

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Accounts maps names to ids, as read from a set's own master.passwd and group.
// The accounts of the machine that builds are never asked.
type Accounts struct {
	Users  map[string]uint32
	Groups map[string]uint32
}

// ParseAccounts reads passwd(5) or master.passwd(5), and group(5).
func ParseAccounts(passwd, group io.Reader) (*Accounts, error) {
	a := &Accounts{Users: map[string]uint32{}, Groups: map[string]uint32{}}
	if err := parseIDs(passwd, "master.passwd", a.Users); err != nil {
		return nil, err
	}
	if err := parseIDs(group, "group", a.Groups); err != nil {
		return nil, err
	}
	return a, nil
}

func parseIDs(r io.Reader, file string, into map[string]uint32) error {
	sc := bufio.NewScanner(r)
	for line := 1; sc.Scan(); line++ {
		text := sc.Text()
		if text == "" || text[0] == '#' {
			continue
		}
		f := strings.Split(text, ":")
		if len(f) < 3 {
			return fmt.Errorf("%s:%d: expected at least three fields separated by colons", file, line)
		}
		id, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return fmt.Errorf("%s:%d: id %q is not a number", file, line, f[2])
		}
		if _, dup := into[f[0]]; !dup { // getpwnam(3) finds the first
			into[f[0]] = uint32(id)
		}
	}
	return sc.Err()
}

// Resolve returns the tree with UID and GID set from Owner and Group. Every
// unknown name is reported.
func (t *Tree) Resolve(a *Accounts) (*Tree, error) {
	out := &Tree{entries: make([]Entry, len(t.entries)), index: t.index}
	copy(out.entries, t.entries)
	bad := map[string]string{}
	for i := range out.entries {
		e := &out.entries[i]
		if e.Owner != "" {
			id, ok := a.Users[e.Owner]
			if !ok {
				bad["user "+e.Owner] = e.Path
			}
			e.UID = id
		}
		if e.Group != "" {
			id, ok := a.Groups[e.Group]
			if !ok {
				bad["group "+e.Group] = e.Path
			}
			e.GID = id
		}
	}
	var errs []error
	for i := range t.entries { // in tree order, each name once
		e := &t.entries[i]
		for _, who := range []string{"user " + e.Owner, "group " + e.Group} {
			if p, ok := bad[who]; ok {
				delete(bad, who)
				errs = append(errs, fmt.Errorf("resolve %s: unknown %s", p, who))
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}
