package tree

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"
)

// WriteMtree writes the tree as mtree(5) with full paths (the form of mtree -C),
// one line an entry. Names stand when they are known, else ids. With digests,
// regular files are read and their SHA-256 is included. Hard links, which
// mtree(5) does not know, carry the keyword hardlink=; Implied directories are
// marked "optional".
func (t *Tree) WriteMtree(w io.Writer, digests bool) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	bw.WriteString("#mtree v2.0\n") // Flush reports the error
	var line []byte
	for e := range t.All() {
		var err error
		if line, err = e.appendMtree(line[:0], digests); err != nil {
			return err
		}
		bw.Write(line)
	}
	return bw.Flush()
}

// appendMtree appends the line of an entry. It does without fmt: overlays have
// 100,000 files.
func (e *Entry) appendMtree(b []byte, digests bool) ([]byte, error) {
	if e.Path != "." {
		b = append(b, "./"...)
	}
	b = append(appendVis(b, e.Path), " type="...)
	if e.Kind == HardLink {
		b = append(b, File.String()...)
	} else {
		b = append(b, e.Kind.String()...)
	}
	b = append(b, " mode="...)
	for shift := 9; shift >= 0; shift -= 3 {
		b = append(b, '0'+byte(e.Perm>>shift&7))
	}
	if e.Owner != "" {
		b = appendVis(append(b, " uname="...), e.Owner)
	} else {
		b = strconv.AppendUint(append(b, " uid="...), uint64(e.UID), 10)
	}
	if e.Group != "" {
		b = appendVis(append(b, " gname="...), e.Group)
	} else {
		b = strconv.AppendUint(append(b, " gid="...), uint64(e.GID), 10)
	}
	if !e.ModTime.IsZero() {
		b = strconv.AppendInt(append(b, " time="...), e.ModTime.Unix(), 10)
		b = append(b, '.')
		for unit := int(1e8); unit > 0; unit /= 10 {
			b = append(b, '0'+byte(e.ModTime.Nanosecond()/unit%10))
		}
	}
	if e.Flags != 0 {
		b = append(append(b, " flags="...), e.Flags.String()...)
	}
	switch e.Kind {
	case File:
		b = strconv.AppendInt(append(b, " size="...), e.Size, 10)
		if digests {
			sum, err := e.Digest()
			if err != nil {
				return b, err
			}
			b = append(append(b, " sha256digest="...), sum...)
		}
	case Symlink:
		b = appendVis(append(b, " link="...), e.Link)
	case HardLink:
		b = appendVis(append(b, " hardlink=./"...), e.Link)
	}
	if e.Implied {
		b = append(b, " optional"...)
	}
	return append(b, '\n'), nil
}

// Digest is the SHA-256 of a file's content in lower-case hex. Content that is not
// Size bytes long is an error. It is not read when Sum is known.
func (e *Entry) Digest() (string, error) {
	if e.Sum != "" {
		return e.Sum, nil
	}
	h := sha256.New()
	if e.Size > 0 {
		r, err := e.Open()
		if err != nil {
			return "", fmt.Errorf("digest %s: %w", e.Path, err)
		}
		defer r.Close()
		buf := make([]byte, min(e.Size+1, 64<<10)) // there are many small files
		n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, buf)
		if err != nil {
			return "", fmt.Errorf("digest %s: %w", e.Path, err)
		}
		if n != e.Size {
			return "", fmt.Errorf("digest %s: %d bytes read, %d described", e.Path, n, e.Size)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ReadMtree reads the form WriteMtree writes, and mtree(5) specifications of
// full paths in general: owner, group, mode, flags, type, link and time.
// Content is not part of the text form: files have their Size and, when it is
// not 0, an Open that fails; callers supply content.
// Errors name the line: "line 3: …".
func ReadMtree(r io.Reader) ([]Entry, error) {
	var out []Entry
	defaults := Entry{Perm: 0o755}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for line := 1; sc.Scan(); line++ {
		f := strings.Fields(sc.Text())
		if len(f) == 0 || f[0][0] == '#' {
			continue
		}
		e := defaults
		if f[0] == "/set" {
			if err := e.keywords(f[1:]); err != nil {
				return nil, fmt.Errorf("line %d: %w", line, err)
			}
			defaults = e
			continue
		}
		if f[0][0] == '/' {
			return nil, fmt.Errorf("line %d: unsupported command %s; write full paths, one entry a line", line, f[0])
		}
		p, err := unvis(f[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		if p != "." && !strings.HasPrefix(p, "./") {
			return nil, fmt.Errorf("line %d: path %q must begin with ./", line, p)
		}
		e.Path = path.Clean(p)
		if err := e.keywords(f[1:]); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", line, e.Path, err)
		}
		if e.Kind == 0 {
			return nil, fmt.Errorf("line %d: %s: type= is missing", line, e.Path)
		}
		if e.Kind == File && e.Size > 0 {
			name := e.Path
			e.Open = func() (io.ReadCloser, error) {
				return nil, fmt.Errorf("open %s: an mtree text has no content", name)
			}
		}
		out = append(out, e)
	}
	return out, sc.Err()
}

func (e *Entry) keywords(fields []string) error {
	for _, f := range fields {
		key, raw, _ := strings.Cut(f, "=")
		val, err := unvis(raw)
		if err != nil {
			return err
		}
		switch key {
		case "type":
			switch val {
			case "file":
				if e.Kind != HardLink {
					e.Kind = File
				}
			case "dir":
				e.Kind = Dir
			case "link":
				e.Kind = Symlink
			default:
				return fmt.Errorf("type=%s is not supported", val)
			}
		case "mode":
			n, err := strconv.ParseUint(val, 8, 16)
			if err != nil || n > 0o7777 {
				return fmt.Errorf("mode=%s is not an octal mode", val)
			}
			e.Perm = uint16(n)
		case "uname":
			e.Owner = val
		case "gname":
			e.Group = val
		case "uid", "gid":
			n, err := strconv.ParseUint(val, 10, 32)
			if err != nil {
				return fmt.Errorf("%s=%s is not an id", key, val)
			}
			if key == "uid" {
				e.UID, e.Owner = uint32(n), ""
			} else {
				e.GID, e.Group = uint32(n), ""
			}
		case "size":
			if e.Size, err = strconv.ParseInt(val, 10, 64); err != nil || e.Size < 0 {
				return fmt.Errorf("size=%s is not a size", val)
			}
		case "time":
			s, ns, _ := strings.Cut(val, ".")
			sec, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return fmt.Errorf("time=%s is not a time", val)
			}
			nsec, err := strconv.ParseInt((ns + "000000000")[:9], 10, 64)
			if err != nil {
				return fmt.Errorf("time=%s is not a time", val)
			}
			e.ModTime = time.Unix(sec, nsec)
		case "flags":
			if e.Flags, err = ParseFlags(val); err != nil {
				return err
			}
		case "link":
			e.Link = val
		case "hardlink":
			e.Kind, e.Link = HardLink, path.Clean(val)
		case "optional":
			e.Implied = e.Kind == Dir
		case "nlink", "sha256digest", "sha256", "nochange", "tags", "contents":
		default:
			return fmt.Errorf("unknown keyword %q", key)
		}
	}
	return nil
}

// appendVis encodes white space, backslash, '#' and what is not printable ASCII as
// \ooo, the VIS_CSTYLE|VIS_OCTAL form of vis(3) that mtree(8) uses.
func appendVis(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '#' {
			b = append(b, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		} else {
			b = append(b, c)
		}
	}
	return b
}

func unvis(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 >= len(s) {
			return "", fmt.Errorf("%q ends inside a \\ooo escape", s)
		}
		n, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
		if err != nil {
			return "", fmt.Errorf("%q has a bad \\ooo escape", s)
		}
		b.WriteByte(byte(n))
		i += 3
	}
	return b.String(), nil
}
