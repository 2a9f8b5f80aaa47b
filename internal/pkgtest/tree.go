package pkgtest

import (
	"archive/tar"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/tree"
)

// Entry is an entry of a tree as a file of a package. File flags are left out.
func Entry(t testing.TB, e *tree.Entry) File {
	t.Helper()
	h, err := layer.Header(e)
	if err != nil {
		t.Fatal(err)
	}
	f := File{Path: "/" + strings.TrimSuffix(h.Name, "/"), Type: h.Typeflag, Link: h.Linkname, Mode: h.Mode, Owner: e.Owner, Group: e.Group}
	if h.Typeflag == tar.TypeLink {
		f.Link = "/" + f.Link
	}
	if e.Kind != tree.File || e.Size == 0 {
		return f
	}
	r, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	f.Content = string(b)
	return f
}

// Base cuts base and kernel sets into packages as those of FreeBSD's base system
// (pkgbase): three with files, and the sets that ask for them.
func Base(t testing.TB, version string, base, kernel *tree.Tree) []Pkg {
	t.Helper()
	parts := map[string]*Pkg{}
	for _, tr := range []*tree.Tree{base, kernel} {
		for e := range tr.All() {
			if e.Implied || e.Path == "." {
				continue
			}
			name := "FreeBSD-runtime"
			switch {
			case tr == kernel:
				name = "FreeBSD-kernel-generic"
			case strings.HasPrefix(e.Path, "boot/"):
				name = "FreeBSD-bootloader"
			}
			if parts[name] == nil {
				parts[name] = &Pkg{Name: name, Version: version, Origin: "base/" + name, Prefix: "/"}
			}
			parts[name].Files = append(parts[name].Files, Entry(t, e))
			if dir, file := path.Split(e.Path); (dir == "lib/" || dir == "usr/lib/") && strings.Contains(file, ".so.") {
				parts[name].ShlibsProvided = append(parts[name].ShlibsProvided, file)
			}
		}
	}
	set := func(name string, of ...string) Pkg {
		p := Pkg{Name: name, Version: version, Origin: "base/" + name, Prefix: "/", Vital: true}
		for _, d := range of {
			p.Deps = append(p.Deps, Dep{Name: d, Origin: "base/" + d, Version: version})
		}
		return p
	}
	return []Pkg{*parts["FreeBSD-runtime"], *parts["FreeBSD-bootloader"], *parts["FreeBSD-kernel-generic"],
		set("FreeBSD-set-base", "FreeBSD-runtime", "FreeBSD-bootloader"), set("FreeBSD-set-minimal-jail", "FreeBSD-runtime")}
}
