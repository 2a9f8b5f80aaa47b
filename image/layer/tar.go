package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// fflags is the pax record of libarchive and star for chflags(2) bits, in the
// form of strtofflags(3).
const fflags = "SCHILY.fflags"

// Header returns the pax header of an entry. Names are relative without "./"; the
// root is "./".
func Header(e *tree.Entry) (*tar.Header, error) {
	h := &tar.Header{Format: tar.FormatPAX, Name: e.Path, Mode: int64(e.Perm), ModTime: e.ModTime,
		Uid: int(e.UID), Gid: int(e.GID), Uname: e.Owner, Gname: e.Group}
	if e.ModTime.IsZero() {
		h.ModTime = time.Unix(0, 0)
	}
	if e.Flags != 0 {
		h.PAXRecords = map[string]string{fflags: e.Flags.String()}
	}
	switch e.Kind {
	case tree.File:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	case tree.Dir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case tree.Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case tree.HardLink:
		h.Typeflag, h.Linkname = tar.TypeLink, e.Link
	default:
		return nil, fmt.Errorf("tar %s: unknown %s", e.Path, e.Kind)
	}
	return h, nil
}

// Entry returns the entry of a tar header, without its Open. Names are
// authoritative over ids, as in tree. Absolute names, names with ".." and kinds a
// tree does not know are refused.
func Entry(h *tar.Header) (tree.Entry, error) {
	name, err := cleanName(h.Name)
	if err != nil {
		return tree.Entry{}, err
	}
	e := tree.Entry{Path: name, Perm: uint16(h.Mode & 0o7777), Owner: h.Uname, Group: h.Gname, ModTime: h.ModTime}
	if h.Uid < 0 || int64(h.Uid) > math.MaxUint32 || h.Gid < 0 || int64(h.Gid) > math.MaxUint32 {
		return e, fmt.Errorf("tar %s: owner %d:%d is out of range", name, h.Uid, h.Gid)
	}
	e.UID, e.GID = uint32(h.Uid), uint32(h.Gid)
	if e.Flags, err = tree.ParseFlags(h.PAXRecords[fflags]); err != nil {
		return e, fmt.Errorf("tar %s: %w", name, err)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		e.Kind, e.Size = tree.File, h.Size
	case tar.TypeDir:
		e.Kind = tree.Dir
	case tar.TypeSymlink:
		e.Kind, e.Link = tree.Symlink, h.Linkname
	case tar.TypeLink:
		e.Kind = tree.HardLink
		if e.Link, err = cleanName(h.Linkname); err != nil {
			return e, fmt.Errorf("tar %s: hard link: %w", name, err)
		}
	case tar.TypeChar, tar.TypeBlock:
		return e, fmt.Errorf("tar %s: device nodes are not supported; devfs makes them", name)
	case tar.TypeFifo:
		return e, fmt.Errorf("tar %s: fifos are not supported; programs make them", name)
	default:
		return e, fmt.Errorf("tar %s: unknown type %q", name, h.Typeflag)
	}
	return e, nil
}

func cleanName(s string) (string, error) {
	if s == "" {
		return "", errors.New("tar: an entry has no name")
	}
	if s[0] == '/' {
		return "", fmt.Errorf("tar %q: absolute name", s)
	}
	for elem := range strings.SplitSeq(s, "/") {
		if elem == ".." {
			return "", fmt.Errorf("tar %q: name leads outside", s)
		}
	}
	return path.Clean(s), nil
}

// WriteTar writes t as a pax tar, without Implied directories.
func WriteTar(w io.Writer, t *tree.Tree) error {
	tw := tar.NewWriter(w)
	buf := make([]byte, 128<<10)
	for e := range t.All() {
		if e.Implied {
			continue
		}
		if err := writeEntry(tw, e, buf); err != nil {
			return err
		}
	}
	return tw.Close()
}

func writeHeader(tw *tar.Writer, e *tree.Entry) error {
	h, err := Header(e)
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("tar %s: %w", e.Path, err)
	}
	return nil
}

func writeEntry(tw *tar.Writer, e *tree.Entry, buf []byte) error {
	if err := writeHeader(tw, e); err != nil {
		return err
	}
	if e.Kind != tree.File || e.Size == 0 {
		return nil
	}
	r, err := e.Open()
	if err != nil {
		return fmt.Errorf("tar %s: %w", e.Path, err)
	}
	defer r.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{tw}, struct{ io.Reader }{r}, buf)
	if err == nil && n != e.Size {
		err = fmt.Errorf("%d bytes read, %d described", n, e.Size)
	}
	if err == nil {
		err = tw.Flush() // the padding now, not with the next header
	}
	if err != nil {
		return fmt.Errorf("tar %s: %w", e.Path, err)
	}
	return nil
}

// Member is an entry and where it is inside a tar.
type Member struct {
	tree.Entry       // Open is nil; see Entries
	Header     int64 // offset of the entry's first header
	Data       int64 // offset of the content, -1 when it is stored as a sparse map
}

// ReadTar reads the headers of a pax, ustar or GNU tar. When a name occurs more
// than once the last one counts, as it would when unpacked. Extended attributes
// are ignored.
func ReadTar(r io.ReaderAt, size int64) ([]Member, error) {
	w := &window{r: r, size: size}
	tr := tar.NewReader(w)
	var out []Member
	at := map[string]int{}
	for next := int64(0); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("tar at byte %d: %w", next, err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			next = w.off
			continue
		}
		m := Member{Header: next, Data: w.off}
		if m.Entry, err = Entry(h); err != nil {
			return nil, err
		}
		if isSparse(h) {
			m.Data = -1
			if _, err := io.Copy(io.Discard, tr); err != nil {
				return nil, fmt.Errorf("tar %s: %w", m.Path, err)
			}
			next = (w.off + 511) &^ 511
		} else {
			next = m.Data + (m.Size+511)&^511
		}
		if i, dup := at[m.Path]; dup {
			out[i] = m
			continue
		}
		at[m.Path] = len(out)
		out = append(out, m)
	}
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// Entries gives members their Open, reading from r.
func Entries(r io.ReaderAt, members []Member) []tree.Entry {
	out := make([]tree.Entry, len(members))
	for i := range members {
		m := &members[i]
		out[i] = m.Entry
		if m.Kind != tree.File || m.Size == 0 {
			continue
		}
		header, data, size := m.Header, m.Data, m.Size
		out[i].Open = func() (io.ReadCloser, error) {
			if data >= 0 {
				return section{io.NewSectionReader(r, data, size)}, nil
			}
			tr := tar.NewReader(io.NewSectionReader(r, header, math.MaxInt64-header))
			if _, err := tr.Next(); err != nil {
				return nil, err
			}
			return io.NopCloser(tr), nil
		}
	}
	return out
}

// section keeps the io.ReaderAt and io.Seeker of its reader visible.
type section struct{ *io.SectionReader }

func (section) Close() error { return nil }

// window is a buffered reader with a cheap Seek forward: tar headers are small
// and often close to each other.
type window struct {
	r    io.ReaderAt
	size int64
	off  int64 // next byte to read
	from int64 // offset of buf
	buf  []byte
}

func (w *window) Read(p []byte) (int, error) {
	if w.off >= w.size {
		return 0, io.EOF
	}
	if w.off < w.from || w.off >= w.from+int64(len(w.buf)) {
		if w.buf == nil {
			w.buf = make([]byte, 0, 4<<10)
		}
		n, err := w.r.ReadAt(w.buf[:min(int64(cap(w.buf)), w.size-w.off)], w.off)
		w.buf, w.from = w.buf[:n], w.off
		if n == 0 {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
	n := copy(p, w.buf[w.off-w.from:])
	w.off += int64(n)
	return n, nil
}

// Seek is what archive/tar uses to skip content.
func (w *window) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += w.off
	case io.SeekEnd:
		offset += w.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	w.off = offset
	return offset, nil
}
