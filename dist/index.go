package dist

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rig/layer"
	"rig/tree"
)

// The index of a decoded set, beside its tar: archive/tar needs 10 µs an entry,
// this 0.3. Numbers are varints, strings have their length in front.
//
//	indexMagic, sha256 (hex) of the set, size and mtime (ns) of the tar, number of members
//	for each member: kind, perm, uid, gid, owner, group, flags, seconds, nanoseconds,
//	    path, link, size, header offset, data offset
//	sha256 (32 bytes) of all before
const indexMagic = "rig set index 1\n"

var errIndex = errors.New("cached index does not fit its tar")

func writeIndex(tar *os.File, path, sha string, members []layer.Member) error {
	fi, err := tar.Stat()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(encodeIndex(sha, fi.Size(), fi.ModTime(), members))
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), indexPath(path))
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

func indexPath(tar string) string { return strings.TrimSuffix(tar, ".tar") + ".idx" }

func encodeIndex(sha string, size int64, mtime time.Time, members []layer.Member) []byte {
	b := make([]byte, 0, 128*len(members)+256)
	num := func(n int64) { b = binary.AppendVarint(b, n) }
	str := func(s string) { num(int64(len(s))); b = append(b, s...) }
	b = append(b, indexMagic...)
	str(sha)
	num(size)
	num(mtime.UnixNano())
	num(int64(len(members)))
	for i := range members {
		m := &members[i]
		num(int64(m.Kind))
		num(int64(m.Perm))
		num(int64(m.UID))
		num(int64(m.GID))
		str(m.Owner)
		str(m.Group)
		num(int64(m.Flags))
		num(m.ModTime.Unix())
		num(int64(m.ModTime.Nanosecond()))
		str(m.Path)
		str(m.Link)
		num(m.Size)
		num(m.Header)
		num(m.Data)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decodeIndex reads what encodeIndex wrote for this set and this tar.
func decodeIndex(b []byte, sha string, size int64, mtime time.Time) ([]layer.Member, error) {
	if len(b) < len(indexMagic)+sha256.Size {
		return nil, errIndex
	}
	body, sum := b[:len(b)-sha256.Size], sha256.Sum256(b[:len(b)-sha256.Size])
	if !bytes.Equal(sum[:], b[len(body):]) {
		return nil, errIndex
	}
	d := indexReader{rest: string(body)} // strings are parts of this one
	if d.bytes(int64(len(indexMagic))) != indexMagic || d.str() != sha || d.num(0, math.MaxInt64) != size ||
		d.num(math.MinInt64, math.MaxInt64) != mtime.UnixNano() {
		return nil, errIndex
	}
	n := d.num(0, int64(len(body)))
	members := make([]layer.Member, 0, n)
	for range n {
		var m layer.Member
		m.Kind = tree.Kind(d.num(0, math.MaxUint8))
		m.Perm = uint16(d.num(0, 0o7777))
		m.UID = uint32(d.num(0, math.MaxUint32))
		m.GID = uint32(d.num(0, math.MaxUint32))
		m.Owner, m.Group = d.str(), d.str()
		m.Flags = tree.Flags(d.num(0, math.MaxUint32))
		sec := d.num(math.MinInt64, math.MaxInt64)
		m.ModTime = time.Unix(sec, d.num(0, 999999999))
		m.Path, m.Link = d.str(), d.str()
		m.Size = d.num(0, math.MaxInt64)
		m.Header, m.Data = d.num(0, size), d.num(-1, size)
		if d.bad || m.Data >= 0 && m.Size > size-m.Data {
			return nil, errIndex
		}
		members = append(members, m)
	}
	if d.bad || d.rest != "" {
		return nil, errIndex
	}
	return members, nil
}

type indexReader struct {
	rest string
	bad  bool
}

func (d *indexReader) num(low, high int64) int64 {
	var u uint64
	for i := 0; i < len(d.rest) && i < binary.MaxVarintLen64; i++ {
		c := d.rest[i]
		u |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.rest = d.rest[i+1:]
			n := int64(u>>1) ^ -int64(u&1)
			if n < low || n > high {
				break
			}
			return n
		}
	}
	d.bad = true
	return 0
}

func (d *indexReader) bytes(n int64) string {
	if n < 0 || n > int64(len(d.rest)) {
		d.bad = true
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *indexReader) str() string { return d.bytes(d.num(0, math.MaxInt32)) }

// openCachedTar opens a decoded set and its index.
func openCachedTar(path, sha string) (*os.File, []layer.Member, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	var members []layer.Member
	var b []byte
	if err == nil {
		b, err = os.ReadFile(indexPath(path))
	}
	if err == nil {
		members, err = decodeIndex(b, sha, fi.Size(), fi.ModTime())
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	_ = os.Chtimes(path, time.Now(), time.Time{}) // it was used; the index compares the other time
	return f, members, nil
}
