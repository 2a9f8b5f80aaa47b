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
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"rig/internal/record"
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
	known map[string]state
	now   []named // of this scan, in the order of it
	fresh bool    // there is something to save

	Note string // anything of the caller's, kept with the sums
	note string // as it was read
}

// state is what stat(2) says of a file, and the sum of what was in it.
type state struct {
	size, mtime, ctime int64
	inode              uint64
	mode               uint32
	sum                string // 32 bytes
}

type named struct {
	name string
	state
}

// Open reads what was saved at path, and begins a scan. A file that is missing,
// damaged or of another format is an empty cache.
func Open(path string) *Cache {
	c := &Cache{path: path, start: time.Now().UnixNano(), known: map[string]state{}}
	b, err := os.ReadFile(path)
	if err != nil {
		return c
	}
	if !c.decode(record.NewReader(b, magic)) {
		c.known, c.Note = map[string]state{}, ""
	}
	c.note = c.Note
	return c
}

// Known returns the sum of a file in hex, if it is the one that was seen before.
func (c *Cache) Known(name string, fi fs.FileInfo) string {
	is, ok := stat(fi)
	if !ok {
		return ""
	}
	was := c.known[name]
	is.sum = was.sum
	if is.sum == "" || is != was {
		return ""
	}
	c.now = append(c.now, named{name, is})
	return hex.EncodeToString([]byte(is.sum))
}

// Learn remembers the sum, in hex, of a file that was read after fi was asked for.
func (c *Cache) Learn(name string, fi fs.FileInfo, sum string) {
	is, ok := stat(fi)
	b, err := hex.DecodeString(sum)
	if !ok || err != nil || max(is.mtime, is.ctime) >= c.start-int64(granularity) {
		return
	}
	is.sum, c.fresh = string(b), true
	c.now = append(c.now, named{name, is})
}

// Save writes what this scan saw, unless it was all known.
func (c *Cache) Save() error {
	if !c.fresh && len(c.now) == len(c.known) && c.Note == c.note {
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
	c.known = make(map[string]state, n)
	for range n {
		name := r.Str()
		s := state{size: r.Num(0, math.MaxInt64), mtime: r.Num(math.MinInt64, math.MaxInt64), ctime: r.Num(math.MinInt64, math.MaxInt64),
			inode: uint64(r.Num(math.MinInt64, math.MaxInt64)), mode: uint32(r.Num(0, math.MaxUint32)), sum: r.Str()}
		if r.Bad() {
			return false
		}
		c.known[name] = s
	}
	return r.Done()
}
