package pkgs

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/pkgtest"
)

func inspect(b []byte) (*Archive, error) { return Inspect(bytes.NewReader(b), int64(len(b))) }

func TestInspect(t *testing.T) {
	for _, packing := range []string{"zst", "xz", "gz", "tar"} {
		p := demo()[0]
		p.Packing = packing
		a, err := inspect(p.Archive(t))
		if err != nil {
			t.Errorf("%s: %v", packing, err)
			continue
		}
		if a.Name != "hello" || a.Version != "1.2_1,3" || a.ABI != abi15 || !bytes.Equal(a.Manifest, p.Manifest()) {
			t.Errorf("%s: %+v", packing, a)
		}
		var got []string
		for _, e := range a.Entries {
			got = append(got, fmt.Sprintf("%s %s %d %s", e.Kind, e.Path, e.Size, e.Link))
		}
		want := []string{"file /usr/local/bin/hello 21 ", "hardlink /usr/local/bin/hello2 0 /usr/local/bin/hello", "link /usr/local/bin/hi 0 hello",
			"file /usr/local/etc/hello.conf 4 ", "dir /usr/local/share/hello 0 "}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: entries\n%s", packing, strings.Join(got, "\n"))
		}
		for _, name := range []string{"usr/local/bin/hello", "/usr/local/bin/hello2"} {
			in, err := a.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(in)
			if err != nil || string(b) != "#!/bin/sh\necho hello\n" {
				t.Errorf("%s: %q, %v", name, b, err)
			}
			in.Close()
		}
		for _, name := range []string{"usr/local/bin/hi", "usr/local/share/hello", "nothing", "+MANIFEST"} {
			if _, err := a.Open(name); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "package hello-1.2_1,3: open /"+name) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	}
}

// bzip2 is what Go cannot write: a package of python3's tarfile and bz2.
func TestInspectBzip2(t *testing.T) {
	b, err := base64.StdEncoding.DecodeString("QlpoOTFBWSZTWZxR39AAAHR/gcuAAIBQDf2QKyPMgfojn0ogAAgIMAC5oYaGmgBoADQAAyGgaSmZTBMjNTNEYJozSYEaaCSiI000NAZMgAGEaDNR3A+xp4YmWjASovoEiWSWxNUQtbSNRLAkIYCYFBOeisaWkxASXTG4bOrwg2mNNElT4qfRE0eszgMlSqWaQ0ouIQTDB3CMGwL1jx5uCxeMDpQHaYaisefKmLIO6Fq7e/o4uHy4hLh5Vlg5QJygHRjTKhB/F3JFOFCQnFHf0A==")
	if err != nil {
		t.Fatal(err)
	}
	a, err := inspect(b)
	if err != nil || a.Name != "a" || len(a.Entries) != 1 || a.Entries[0].Path != "/x" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestInspectWrongEntries(t *testing.T) {
	link := func(path, target string) pkgtest.File { return pkgtest.File{Path: path, Link: target} }
	for _, c := range []struct {
		file pkgtest.File
		want string
	}{
		{pkgtest.File{Path: "usr/x"}, `entry "usr/x": its path is not absolute`},
		{pkgtest.File{Path: "/usr/../etc/x"}, `entry "/usr/../etc/x": its path contains ..`},
		{pkgtest.File{Path: "../etc/x"}, `its path contains ..`},
		{pkgtest.File{Path: "/.."}, `its path contains ..`},
		{pkgtest.File{Path: "/usr//x"}, `its path is not clean`},
		{pkgtest.File{Path: "/usr/./x"}, `its path is not clean`},
		{pkgtest.File{Path: "//x"}, `its path is not clean`},
		{pkgtest.File{Path: "/", Type: tar.TypeDir}, `its path is not absolute`},
		{pkgtest.File{Path: "+INSTALL"}, `its path is not absolute`},
		{link("/usr/x", "/etc/passwd"), `entry "/usr/x": a symlink to the absolute path "/etc/passwd"`},
		{link("/usr/x", "../../etc"), `a symlink to "../../etc", which is outside of the root`},
		{link("/x", "a/../.."), `a symlink to "a/../..", which is outside of the root`},
		{pkgtest.File{Path: "/x", Type: tar.TypeSymlink}, "a symlink to nothing"},
		{pkgtest.File{Path: "/dev/x", Type: tar.TypeChar}, "a device node or fifo"},
		{pkgtest.File{Path: "/dev/x", Type: tar.TypeBlock}, "a device node or fifo"},
		{pkgtest.File{Path: "/dev/x", Type: tar.TypeFifo}, "a device node or fifo"},
		{pkgtest.File{Path: "/dev/x", Type: 'Z'}, "unknown type 'Z'"},
		{pkgtest.File{Path: "/l", Type: tar.TypeLink, Link: "/etc/passwd"}, `a hard link to "/etc/passwd", which is not a file before it`},
		{pkgtest.File{Path: "/l", Type: tar.TypeLink, Link: "/l"}, `a hard link to "/l", which is not a file before it`},
		{pkgtest.File{Path: "/first"}, `entry "/first": it is there twice`},
	} {
		p := pkgtest.Pkg{Name: "a", Files: []pkgtest.File{{Path: "/first"}, c.file}}
		_, err := inspect(p.Archive(t))
		if err == nil || !strings.Contains(err.Error(), "package a-1.0: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %s", c.file, err, c.want)
		}
	}
	// The base system has absolute links, and nothing below them.
	base := pkgtest.Pkg{Name: "FreeBSD-runtime", Prefix: "/", Files: []pkgtest.File{link("/etc/termcap", "/usr/share/misc/termcap"), {Path: "/etc/termcap2"}}}
	if _, err := inspect(base.Archive(t)); err != nil {
		t.Error(err)
	}
	for _, f := range []struct {
		file pkgtest.File
		want string
	}{
		{pkgtest.File{Path: "/etc/termcap/x"}, `entry "/etc/termcap/x": it is below "/etc/termcap", a symlink to an absolute path`},
		{link("/etc/up", "/../x"), `a symlink to`},
	} {
		wrong := base
		wrong.Files = append(slices.Clone(base.Files), f.file)
		if _, err := inspect(wrong.Archive(t)); err == nil || !strings.Contains(err.Error(), f.want) {
			t.Errorf("%+v: got %v, want %s", f.file, err, f.want)
		}
	}
	good := pkgtest.Pkg{Name: "a", Files: []pkgtest.File{link("/usr/x", "../etc"), link("/usr/y", "../usr/./z/.."), {Path: "/d/..x"}}}
	if _, err := inspect(good.Archive(t)); err != nil {
		t.Error(err)
	}
}

func TestInspectWrongManifests(t *testing.T) {
	m := func(name, content string) pkgtest.Member { return pkgtest.Member{Name: name, Content: []byte(content)} }
	a10 := string(pkgtest.Pkg{Name: "a"}.Manifest())
	b10 := string(pkgtest.Pkg{Name: "b"}.Manifest())
	for _, c := range []struct {
		members []pkgtest.Member
		want    string
	}{
		{nil, "package archive: no +COMPACT_MANIFEST at its beginning"},
		{[]pkgtest.Member{m("+MANIFEST", a10), m("+COMPACT_MANIFEST", a10)}, "package archive: no +COMPACT_MANIFEST at its beginning"},
		{[]pkgtest.Member{m("+COMPACT_MANIFEST", a10)}, "package a-1.0: no +MANIFEST behind +COMPACT_MANIFEST"},
		{[]pkgtest.Member{m("+COMPACT_MANIFEST", a10), m("/x", a10)}, "package a-1.0: no +MANIFEST behind +COMPACT_MANIFEST"},
		{[]pkgtest.Member{m("+COMPACT_MANIFEST", a10), m("+MANIFEST", b10)}, "package a-1.0: +MANIFEST: it describes b-1.0"},
		{[]pkgtest.Member{m("+COMPACT_MANIFEST", a10), m("+MANIFEST", "[]")}, "package a-1.0: +MANIFEST: not a JSON object"},
		{[]pkgtest.Member{m("+COMPACT_MANIFEST", a10), m("+MANIFEST", `{"name":"a"`)}, "package a-1.0: +MANIFEST: no name or no version"},
		{[]pkgtest.Member{m("+COMPACT_MANIFEST", "no"), m("+MANIFEST", b10)}, "package archive: +COMPACT_MANIFEST: invalid character"},
		{[]pkgtest.Member{m("+COMPACT_MANIFEST", `{"name":"a"}`), m("+MANIFEST", b10)}, "package archive: +COMPACT_MANIFEST: no name or no version"},
	} {
		if _, err := inspect(pkgtest.Tar(t, "", c.members...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	a, err := inspect(demo()[0].Archive(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		p    Package
		want string
	}{
		{Package{Name: "hello", Version: "1.2_1,3", ABI: abi15}, ""},
		{Package{Name: "hello", Version: "2"}, "package hello-2: its archive holds hello-1.2_1,3"},
		{Package{Name: "hullo", Version: "1.2_1,3"}, "package hullo-1.2_1,3: its archive holds hello-1.2_1,3"},
		{Package{Name: "hello", Version: "1.2_1,3", ABI: "FreeBSD:15:*"}, `package hello-1.2_1,3: its archive is for ABI "FreeBSD:15:amd64", the catalogue says "FreeBSD:15:*"`},
	} {
		if err := a.Check(&c.p); err == nil && c.want != "" || err != nil && err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestInspectDamaged(t *testing.T) {
	p := pkgtest.Pkg{Name: "a", Files: []pkgtest.File{{Path: "/x", Content: strings.Repeat("\x00", 3000)}}}
	for _, packing := range []string{"zst", "xz", "gz", "tar"} {
		p.Packing = packing
		b := p.Archive(t)
		for n := 0; n < len(b); n += 1 + len(b)/200 {
			_, err := inspect(b[:n])
			if err == nil {
				t.Errorf("%s: %d of %d bytes are good", packing, n, len(b))
				break
			}
			if n > 20 && !strings.Contains(err.Error(), "truncated") && !strings.Contains(err.Error(), "at its beginning") {
				t.Errorf("%s: %d of %d bytes: %v", packing, n, len(b), err)
				break
			}
		}
		_, err := inspect(append(bytes.Clone(b), "garbage that is long enough for a header"...))
		if err == nil || !strings.Contains(err.Error(), "package a-1.0: bytes behind its end") {
			t.Errorf("%s: got %v", packing, err)
		}
		for i := range b {
			if i%7 == 0 {
				c := bytes.Clone(b)
				c[i] ^= 0x10
				inspect(c) // does not panic
			}
		}
	}
	p.Packing = "tar"
	raw := p.Archive(t)
	if _, err := inspect(raw[:len(raw)-512]); err == nil || !strings.Contains(err.Error(), "package a-1.0: truncated") {
		t.Errorf("one block of zeros: got %v", err)
	}
	if _, err := inspect(pkgtest.Pack(t, "zst", append(raw, 0, 0, 1))); err == nil || !strings.Contains(err.Error(), "package a-1.0: bytes behind its end") {
		t.Errorf("bytes in the tar: got %v", err)
	}
	if _, err := inspect(append(raw, make([]byte, 10240)...)); err != nil {
		t.Errorf("zeros behind the end: %v", err)
	}
}

func FuzzInspect(f *testing.F) {
	for _, p := range demo()[:2] {
		for _, packing := range []string{"tar", "gz"} {
			p.Packing = packing
			f.Add(p.Archive(f))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := inspect(b)
		if err != nil {
			return
		}
		for _, e := range a.Entries {
			if !strings.HasPrefix(e.Path, "/") || strings.Contains(e.Path+"/", "/../") || e.Kind == tree.Symlink && strings.HasPrefix(e.Link, "/") {
				t.Errorf("%+v", e)
			}
		}
	})
}
