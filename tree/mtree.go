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
	bw := bufio.NewWriter(w)
	fmt.Fprintln(bw, "#mtree v2.0")
	for e := range t.All() {
		p := "./" + e.Path
		if e.Path == "." {
			p = "."
		}
		typ := e.Kind.String()
		if e.Kind == HardLink {
			typ = "file"
		}
		fmt.Fprintf(bw, "%s type=%s mode=%04o", vis(p), typ, e.Perm)
		if e.Owner != "" {
			fmt.Fprintf(bw, " uname=%s", vis(e.Owner))
		} else {
			fmt.Fprintf(bw, " uid=%d", e.UID)
		}
		if e.Group != "" {
			fmt.Fprintf(bw, " gname=%s", vis(e.Group))
		} else {
			fmt.Fprintf(bw, " gid=%d", e.GID)
		}
		if !e.ModTime.IsZero() {
			fmt.Fprintf(bw, " time=%d.%09d", e.ModTime.Unix(), e.ModTime.Nanosecond())
		}
		if e.Flags != 0 {
			fmt.Fprintf(bw, " flags=%s", e.Flags)
		}
		switch e.Kind {
		case File:
			fmt.Fprintf(bw, " size=%d", e.Size)
			if digests {
				sum, err := e.Digest()
				if err != nil {
					return err
				}
				fmt.Fprintf(bw, " sha256digest=%s", sum)
			}
		case Symlink:
			fmt.Fprintf(bw, " link=%s", vis(e.Link))
		case HardLink:
			fmt.Fprintf(bw, " hardlink=%s", vis("./"+e.Link))
		}
		if e.Implied {
			fmt.Fprint(bw, " optional")
		}
		fmt.Fprintln(bw)
	}
	return bw.Flush()
}

// Digest is the SHA-256 of a file's content in lower-case hex. Content that is not
// Size bytes long is an error.
func (e *Entry) Digest() (string, error) {
	h := sha256.New()
	if e.Size > 0 {
		r, err := e.Open()
		if err != nil {
			return "", fmt.Errorf("digest %s: %w", e.Path, err)
		}
		defer r.Close()
		n, err := io.Copy(h, r)
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

// vis encodes white space, backslash, '#' and what is not printable ASCII as
// \ooo, the VIS_CSTYLE|VIS_OCTAL form of vis(3) that mtree(8) uses.
func vis(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '\\' || c == '#' {
			fmt.Fprintf(&b, "\\%03o", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
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
