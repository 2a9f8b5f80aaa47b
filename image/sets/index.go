package sets

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/record"
)

// The index of a decoded set, beside its tar, as package record writes files:
// archive/tar needs 10 µs an entry, this 0.3.
//
//	indexMagic, sha256 (hex) of the set, size and mtime (ns) of the tar, number of members
//	for each member: kind, perm, uid, gid, owner, group, flags, seconds, nanoseconds,
//	    path, link, size, header offset, data offset
const indexMagic = "rig set index 1\n"

var errIndex = errors.New("cached index does not fit its tar")

func writeIndex(tar *os.File, path, sha string, members []layer.Member) error {
	fi, err := tar.Stat()
	if err != nil {
		return err
	}
	return record.Replace(indexPath(path), encodeIndex(sha, fi.Size(), fi.ModTime(), members))
}

func indexPath(tar string) string { return strings.TrimSuffix(tar, ".tar") + ".idx" }

func encodeIndex(sha string, size int64, mtime time.Time, members []layer.Member) []byte {
	w := record.NewWriter(indexMagic, 128*len(members)+256)
	w.Str(sha)
	w.Num(size)
	w.Num(mtime.UnixNano())
	w.Num(int64(len(members)))
	for i := range members {
		m := &members[i]
		w.Num(int64(m.Kind))
		w.Num(int64(m.Perm))
		w.Num(int64(m.UID))
		w.Num(int64(m.GID))
		w.Str(m.Owner)
		w.Str(m.Group)
		w.Num(int64(m.Flags))
		w.Num(m.ModTime.Unix())
		w.Num(int64(m.ModTime.Nanosecond()))
		w.Str(m.Path)
		w.Str(m.Link)
		w.Num(m.Size)
		w.Num(m.Header)
		w.Num(m.Data)
	}
	return w.Bytes()
}

// decodeIndex reads what encodeIndex wrote for this set and this tar.
func decodeIndex(b []byte, sha string, size int64, mtime time.Time) ([]layer.Member, error) {
	r := record.NewReader(b, indexMagic)
	if r.Str() != sha || r.Num(0, math.MaxInt64) != size || r.Num(math.MinInt64, math.MaxInt64) != mtime.UnixNano() {
		return nil, errIndex
	}
	n := r.Count()
	members := make([]layer.Member, 0, n)
	for range n {
		var m layer.Member
		m.Kind = tree.Kind(r.Num(0, math.MaxUint8))
		m.Perm = uint16(r.Num(0, 0o7777))
		m.UID = uint32(r.Num(0, math.MaxUint32))
		m.GID = uint32(r.Num(0, math.MaxUint32))
		m.Owner, m.Group = r.Str(), r.Str()
		m.Flags = tree.Flags(r.Num(0, math.MaxUint32))
		sec := r.Num(math.MinInt64, math.MaxInt64)
		m.ModTime = time.Unix(sec, r.Num(0, 999999999))
		m.Path, m.Link = r.Str(), r.Str()
		m.Size = r.Num(0, math.MaxInt64)
		m.Header, m.Data = r.Num(0, size), r.Num(-1, size)
		if r.Bad() || m.Data >= 0 && m.Size > size-m.Data {
			return nil, errIndex
		}
		members = append(members, m)
	}
	if !r.Done() {
		return nil, errIndex
	}
	return members, nil
}

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
