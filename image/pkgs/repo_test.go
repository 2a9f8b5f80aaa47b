package pkgs

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/pkgtest"
	"github.com/rig-freebsd/rig/internal/referee"
)

const abi15 = "FreeBSD:15:amd64"

// demo is a repository's packages with a bit of everything.
func demo() []pkgtest.Pkg {
	return []pkgtest.Pkg{
		{Name: "hello", Version: "1.2_1,3", Comment: "Says \"hello\" <&> \u00e4", Deps: []pkgtest.Dep{{Name: "libhi", Version: "0.9"}},
			Users: []string{"www"}, Groups: []string{"www"}, ShlibsRequired: []string{"libhi.so.1"},
			Annotations: map[string]string{"FreeBSD_version": "1500068", "repo_type": "binary"}, Licenses: []string{"MIT", "BSD2CLAUSE"},
			Scripts: map[string]string{"post-install": "echo installed hello\n"}, Config: []string{"/usr/local/etc/hello.conf"},
			Files: []pkgtest.File{
				{Path: "/usr/local/bin/hello", Content: "#!/bin/sh\necho hello\n", Mode: 0o755},
				{Path: "/usr/local/bin/hello2", Type: tar.TypeLink, Link: "/usr/local/bin/hello", Mode: 0o755},
				{Path: "/usr/local/bin/hi", Link: "hello"},
				{Path: "/usr/local/etc/hello.conf", Content: "x=1\n", Mode: 0o600},
				{Path: "/usr/local/share/hello", Type: tar.TypeDir},
			}},
		{Name: "libhi", Version: "0.9", ABI: "FreeBSD:15:*", ShlibsProvided: []string{"libhi.so.1"},
			Files: []pkgtest.File{{Path: "/usr/local/lib/libhi.so.1", Content: "no library"}}},
		{Name: "pkg", Version: "2.8.0", Origin: "ports-mgmt/pkg", Packing: "xz", Vital: true,
			Files: []pkgtest.File{{Path: "/usr/local/sbin/pkg-static", Content: strings.Repeat("pkg", 100000), Mode: 0o755}}},
	}
}

// fetchAll opens the repository in dir and fetches everything.
func fetchAll(t *testing.T, repo Repo, store string) []File {
	t.Helper()
	c, err := Open(context.Background(), repo, Options{ABI: abi15, Cache: store})
	if err != nil {
		t.Fatal(err)
	}
	files, err := (&Store{Dir: store}).Fetch(context.Background(), repo, c.Packages(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func writeEntries(t *testing.T, dir string, list []tree.Entry) {
	t.Helper()
	for _, e := range list {
		p := filepath.Join(dir, e.Path)
		if e.Kind == tree.Dir {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		in, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		in.Close()
		if err != nil || int64(len(b)) != e.Size {
			t.Fatalf("%s: %d bytes of %d, %v", e.Path, len(b), e.Size, err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLocalRepo(t *testing.T) {
	dir, local := t.TempDir(), t.TempDir()
	pkgtest.Repo{Pkgs: demo(), SumType: 2}.Write(t, dir)
	files := fetchAll(t, Repo{URL: dir, Unsigned: true}, t.TempDir())
	list, err := LocalRepo([]File{files[2], files[0], files[1], files[0]}, pkgtest.Time)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := tree.New(list)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for e := range tr.All() {
		names = append(names, e.Path)
	}
	if got := strings.Join(names, " "); got != ". All All/hello-1.2_1,3.pkg All/libhi-0.9.pkg All/pkg-2.8.0.pkg data.pkg meta.conf packagesite.pkg" {
		t.Errorf("entries %s", got)
	}
	writeEntries(t, local, list)
	again, err := LocalRepo(files, pkgtest.Time)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if list[i].Path != again[i].Path || list[i].Size != again[i].Size {
			t.Errorf("%s depends on the order of the files", list[i].Path)
		}
	}

	// What was written is read back, from both catalogues.
	for _, gone := range []string{"packagesite.pkg", "data.pkg"} {
		text, err := os.ReadFile(filepath.Join(local, gone))
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(local, gone))
		for i, f := range fetchAll(t, Repo{URL: "file://" + local, Unsigned: true}, t.TempDir()) {
			if f.SHA256 != files[i].SHA256 || f.ID() != files[i].ID() || f.Package.Sum != f.SHA256 || f.Package.Path != "All/"+f.ID()+".pkg" ||
				f.Package.Size != f.Size || fmt.Sprint(f.Deps) != fmt.Sprint(files[i].Deps) || f.Comment != files[i].Comment {
				t.Errorf("%+v differs from %+v", f.Package, files[i].Package)
			}
		}
		if err := os.WriteFile(filepath.Join(local, gone), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLocalRepoConflict(t *testing.T) {
	var files []File
	for _, comment := range []string{"one", "other"} {
		dir := t.TempDir()
		pkgtest.Repo{Pkgs: []pkgtest.Pkg{{Name: "a", Comment: comment}}}.Write(t, dir)
		files = append(files, fetchAll(t, Repo{URL: dir, Unsigned: true}, t.TempDir())...)
	}
	if _, err := LocalRepo(files, pkgtest.Time); err == nil || !strings.Contains(err.Error(), "repository: package a-1.0 is there twice, "+files[0].SHA256+" and "+files[1].SHA256) {
		t.Errorf("got %v", err)
	}
}

// runPkg runs the real pkg in a root of its own, with one repository.
func runPkg(t *testing.T, program, root, repo, signature string, args ...string) string {
	t.Helper()
	repos := filepath.Join(root, "repos")
	for _, d := range []string{repos, filepath.Join(root, "tmp")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf("local: { url: \"file://%s\", %s }\n", repo, signature)
	if err := os.WriteFile(filepath.Join(repos, "local.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, append([]string{"-r", root, "-R", repos, "-o", "ABI=" + abi15, "-o", "OSVERSION=1501000",
		"-o", "INSTALL_AS_USER=yes", "-o", "ASSUME_ALWAYS_YES=yes", "-o", "RUN_SCRIPTS=no"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TMPDIR="+filepath.Join(root, "tmp"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("pkg %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func needPkg(t *testing.T) string {
	t.Helper()
	p, ok := referee.Find("pkg")
	if !ok {
		t.Skip("REFEREE MISSING: pkg is not installed; nothing was judged")
	}
	return p
}

// The real pkg installs from a repository written here.
func TestPkgReadsLocalRepo(t *testing.T) {
	program := needPkg(t)
	dir, local := t.TempDir(), t.TempDir()
	pkgtest.Repo{Pkgs: demo(), SumType: 2}.Write(t, dir)
	list, err := LocalRepo(fetchAll(t, Repo{URL: dir, Unsigned: true}, t.TempDir()), pkgtest.Time)
	if err != nil {
		t.Fatal(err)
	}
	writeEntries(t, local, list)
	for _, gone := range []string{"files.pkg", "data.pkg"} { // with data.pkg, then without
		os.Remove(filepath.Join(local, gone))
		root := t.TempDir()
		out := runPkg(t, program, root, local, "signature_type: none", "update", "-f", "-r", "local")
		if !strings.Contains(out, "3 packages processed") || strings.Contains(out, "default settings") {
			t.Errorf("without %s: pkg update: %s", gone, out)
		}
		out = runPkg(t, program, root, local, "signature_type: none", "install", "-r", "local", "hello")
		b, err := os.ReadFile(filepath.Join(root, "usr/local/bin/hello2"))
		if err != nil || string(b) != "#!/bin/sh\necho hello\n" {
			t.Errorf("without %s: %q, %v; pkg install: %s", gone, b, err, out)
		}
		out = runPkg(t, program, root, local, "signature_type: none", "query", "-a", "%n %v %sb %R")
		if !strings.Contains(out, "hello 1.2_1,3 ") || !strings.Contains(out, "libhi 0.9 ") || strings.Contains(out, "pkg 2.8.0") {
			t.Errorf("without %s: installed: %s", gone, out)
		}
		t.Log(out)
	}
}

// The real pkg trusts what pkgtest signs; so the tests of signatures mean something.
func TestPkgReadsFixtures(t *testing.T) {
	program := needPkg(t)
	for _, typ := range []string{"rsa", "ecdsa", "eddsa"} {
		for _, packing := range []string{"zst", "xz", "gz", "tar"} {
			dir, keys := t.TempDir(), t.TempDir()
			key := pkgtest.NewKey(t, typ)
			pkgtest.Repo{Pkgs: demo(), Keys: []*pkgtest.Key{key}, Packing: packing, SumType: 2}.Write(t, dir)
			if err := os.MkdirAll(filepath.Join(keys, "trusted"), 0o755); err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprintf("function: sha256\nfingerprint: %s\n", key.Fingerprint())
			if err := os.WriteFile(filepath.Join(keys, "trusted", "k"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			out := runPkg(t, program, t.TempDir(), dir, "signature_type: fingerprints, fingerprints: "+keys, "update", "-f", "-r", "local")
			if !strings.Contains(out, "3 packages processed") {
				t.Errorf("%s, %s: pkg update: %s", typ, packing, out)
			}
		}
	}
}
