// Package rig_test holds what must be true of the whole module.
package rig_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/rig-freebsd/rig"

// layers reads the first block of ARCHITECTURE.md under "Packages", where they are
// declared: each package's line, counted from the top. Words up to " — " are packages.
func layers(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Packages\n")
	if !ok {
		t.Fatal("ARCHITECTURE.md has no section Packages")
	}
	layer, n := map[string]int{}, 0
	for line := range strings.Lines(section) {
		list, ok := strings.CutPrefix(line, "    ")
		if !ok && n > 0 {
			break
		}
		if !ok {
			continue
		}
		list, _, _ = strings.Cut(list, " — ")
		for _, name := range strings.Fields(list) {
			if _, twice := layer[name]; twice {
				t.Errorf("ARCHITECTURE.md lists %s twice", name)
			}
			layer[name] = n
		}
		n++
	}
	return layer
}

// forTests are packages that only tests import.
var forTests = []string{"internal/fakebsd", "internal/referee", "internal/pkgtest", "internal/vdisk/vdisktest"}

// foreign names, for each module of others, the packages that may import it.
// golang.org/x is everyone's.
var foreign = map[string][]string{
	"filippo.io/age":                  {"cmd/rigimage"},
	"github.com/BurntSushi/toml":      {"overlay/answers", "image"},
	"github.com/diskfs/go-diskfs":     {"image/gpt"},
	"github.com/insomniacslk/dhcp":    {"image/pxe"},
	"github.com/klauspost/compress":   {"image/sets", "image", "image/media", "image/uzip", "internal/pkgtest", "image/layer", "internal/unpack", "image/pkgs", "image/qcow2", "image/vmdk", "image/reader", "image/flash"},
	"github.com/manifoldco/promptui":  {"internal/prompt"},
	"github.com/mistifyio/go-zfs/v3":  {"zfs"},
	"github.com/therootcompany/xz":    {"image/sets", "image/flash", "internal/unpack"},
	"github.com/ulikunitz/xz":         {"image/sets", "internal/pkgtest"},
	"gvisor.dev/gvisor":               {"internal/vm/lan"},
	"github.com/rogpeppe/go-internal": {},
}

// source is one Go file, of whatever build constraints.
type source struct {
	name string // "firstboot/plan.go"
	pkg  string // "firstboot"
	test bool
	fset *token.FileSet
	file *ast.File
}

// parse reads every Go file of the module.
func parse(t *testing.T) []source {
	t.Helper()
	var out []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != "." && (name[0] == '.' || name[0] == '_' || name == "testdata" || name == "vendor") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			return err
		}
		p = filepath.ToSlash(p)
		out = append(out, source{p, path.Dir(p), strings.HasSuffix(name, "_test.go"), fset, f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 100 {
		t.Fatalf("only %d Go files found", len(out))
	}
	return out
}

func (s source) imports() []string {
	var out []string
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		out = append(out, p)
	}
	return out
}

// A package imports only packages of lower lines of ARCHITECTURE.md's block; those of
// the last line are tools, which may import each other.
func TestLayers(t *testing.T) {
	layer := layers(t)
	last := 0
	for _, n := range layer {
		last = max(last, n)
	}
	seen := map[string]bool{}
	for _, s := range parse(t) {
		if s.test {
			continue
		}
		seen[s.pkg] = true
		mine, ok := layer[s.pkg]
		if !ok {
			t.Errorf("%s: package %s is in no line of ARCHITECTURE.md, Packages", s.name, s.pkg)
			continue
		}
		for _, imp := range s.imports() {
			other, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				checkForeign(t, s, imp)
				continue
			}
			switch n, ok := layer[other]; {
			case !ok:
				t.Errorf("%s imports %s, which is in no line of ARCHITECTURE.md", s.name, imp)
			case slices.Contains(forTests, other) && !slices.Contains(forTests, s.pkg):
				t.Errorf("%s imports %s, which is for tests", s.name, imp)
			case n < mine, n == mine && mine != last:
				t.Errorf("%s imports %s, which is not below it in ARCHITECTURE.md", s.name, imp)
			}
		}
	}
	for pkg := range layer {
		if !seen[pkg] {
			t.Errorf("ARCHITECTURE.md lists package %s, which does not exist", pkg)
		}
	}
}

// A package that outgrows one sitting is cut by subject, or says in its doc why it has
// more files than most.
func TestPackageSize(t *testing.T) {
	const maxFiles, maxLines = 15, 4000
	type size struct {
		files, lines int
		doc          string
	}
	sizes := map[string]*size{}
	for _, s := range parse(t) {
		if s.test {
			continue
		}
		if sizes[s.pkg] == nil {
			sizes[s.pkg] = &size{}
		}
		z := sizes[s.pkg]
		z.files++
		z.lines += s.fset.File(s.file.Pos()).LineCount()
		z.doc += s.file.Doc.Text()
	}
	for pkg, z := range sizes {
		if z.doc == "" && !strings.HasPrefix(path.Base(pkg), "fakeqemu") {
			t.Errorf("%s has no package doc", pkg)
		}
		if (z.files > maxFiles || z.lines > maxLines) && !strings.Contains(z.doc, "a file for each") {
			t.Errorf("%s: %d files, %d lines; cut it by subject, or have its doc say what it has \"a file for each\" of", pkg, z.files, z.lines)
		}
	}
}

func checkForeign(t *testing.T, s source, imp string) {
	first, _, _ := strings.Cut(imp, "/")
	if !strings.Contains(first, ".") {
		if imp == "net/http" && s.pkg != "internal/fetch" && s.pkg != "image/pxe" {
			t.Errorf("%s imports net/http; only internal/fetch and image/pxe speak to the network", s.name)
		}
		return
	}
	if strings.HasPrefix(imp, "golang.org/x/") {
		return
	}
	for mod, users := range foreign {
		if imp == mod || strings.HasPrefix(imp, mod+"/") {
			if !slices.Contains(users, s.pkg) {
				t.Errorf("%s imports %s, which only %s may", s.name, imp, strings.Join(users, ", "))
			}
			return
		}
	}
	t.Errorf("%s imports %s, which is not listed here", s.name, imp)
}

// Libraries do not end the process and do nothing before they are called; only
// cmd/ prints.
func TestNoSideDoors(t *testing.T) {
	for _, s := range parse(t) {
		if s.test {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: func init", s.fset.Position(f.Pos()))
			}
		}
		if s.file.Name.Name == "main" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			switch call := x.Name + "." + sel.Sel.Name; call {
			case "fmt.Print", "fmt.Printf", "fmt.Println":
				if s.pkg == "internal/vmtest" { // speaks to who runs the tests
					return true
				}
				fallthrough
			case "os.Exit", "log.Fatal", "log.Fatalf":
				t.Errorf("%s: %s in a library", s.fset.Position(sel.Pos()), call)
			}
			return true
		})
	}
}
