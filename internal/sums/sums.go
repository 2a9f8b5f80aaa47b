// Package sums remembers the SHA-256 of files by what stat(2) says of them, so that a
// directory of 100,000 files need not be read to know that it has not changed.
//
// A file is known when size, mode, inode number, modification and change time
// (nanoseconds) are those it had. One that was changed while it was looked at, or so
// shortly before that another change could have the same times, is not remembered:
// git's index calls it racily clean (Documentation/technical/racy-git.adoc). What is
// remembered has a checksum of its own; without it, or with a wrong one, nothing is
// known and everything is read again.
//
// Files of file systems that are not the machine's (embedded ones) are never known.
package sums

import (
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/rig-freebsd/rig/internal/record"
)

const magic = "rig sums 1\n"

// granularity is how far apart two changes must be to have different times: FAT
// counts in 2 s, and the clock of a file server may be behind by some of that.
const granularity = 2 * time.Second

// Cache is what is known of the files of one directory. Times are nanoseconds of Unix
// time.
type Cache struct {
	path  string
	start int64 // of this scan
	known map[string]seen
	now   []named // of this scan, in the order of it
	fresh bool    // there is something to save

	Note string // anything of the caller's, kept with the sums
	note string // as it was read
}

// State is what stat(2) says of a file. The zero value is that of a file of which
// nothing can be known.
type State struct {
	size, mtime, ctime int64
	inode              uint64
	mode               uint32
}

// seen is a file as it was, and the sum of what was in it.
type seen struct {
	State
	sum string // 32 bytes
}

type named struct {
	name string
	seen
}

// Open reads what was saved at path, and begins a scan. A file that is missing,
// damaged or of another format is an empty cache.
func Open(path string) *Cache {
	c := &Cache{path: path, start: time.Now().UnixNano(), known: map[string]seen{}}
	b, err := os.ReadFile(path)
	if err != nil {
		return c
	}
	if !c.decode(record.NewReader(b, magic)) {
		c.known, c.Note = map[string]seen{}, ""
	}
	c.note = c.Note
	return c
}

// Known returns the sum of a file in hex, if it is the one that was seen before. It
// may be called by several goroutines.
func (c *Cache) Known(name string, is State) string {
	if was, ok := c.known[name]; ok && was.State == is {
		return hex.EncodeToString([]byte(was.sum))
	}
	return ""
}

// Saw remembers the sum, in hex, of a file that was in this state before it was read,
// or whose sum is known.
func (c *Cache) Saw(name string, is State, sum string) {
	if was, ok := c.known[name]; ok && was.State == is {
		c.now = append(c.now, named{name, was})
		return
	}
	b, err := hex.DecodeString(sum)
	if is == (State{}) || err != nil || max(is.mtime, is.ctime) >= c.start-int64(granularity) {
		return
	}
	c.now = append(c.now, named{name, seen{is, string(b)}})
	c.fresh = true
}

// Save writes what this scan saw, unless it was all known or none of it can be.
func (c *Cache) Save() error {
	if len(c.now)+len(c.known) == 0 || !c.fresh && len(c.now) == len(c.known) && c.Note == c.note {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o755); err != nil {
		return err
	}
	return record.Replace(c.path, c.encode())
}

// magic, note, number of files
// for each: name, size, mtime, ctime, inode, mode, sum (32 bytes)
func (c *Cache) encode() []byte {
	w := record.NewWriter(magic, 128*len(c.now)+256)
	w.Str(c.Note)
	w.Num(int64(len(c.now)))
	for i := range c.now {
		f := &c.now[i]
		w.Str(f.name)
		w.Num(f.size)
		w.Num(f.mtime)
		w.Num(f.ctime)
		w.Num(int64(f.inode))
		w.Num(int64(f.mode))
		w.Str(f.sum)
	}
	return w.Bytes()
}

func (c *Cache) decode(r *record.Reader) bool {
	c.Note = r.Str()
	n := r.Count()
	c.known = make(map[string]seen, n)
	for range n {
		name := r.Str()
		s := State{size: r.Num(0, math.MaxInt64), mtime: r.Num(math.MinInt64, math.MaxInt64), ctime: r.Num(math.MinInt64, math.MaxInt64),
			inode: uint64(r.Num(math.MinInt64, math.MaxInt64)), mode: uint32(r.Num(0, math.MaxUint32))}
		c.known[name] = seen{s, r.Str()}
		if r.Bad() {
			return false
		}
	}
	return r.Done()
}
