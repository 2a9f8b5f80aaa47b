// Package rig_test holds what must be true of the whole module.
package rig_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "rig"

// ranks is DESIGN.md §3: a package imports only packages of lower rank. Those of
// rank 0 are shared tools, which may import each other.
var ranks = map[string]int{
	"tree": 0, "internal/arp": 0, "internal/blockdev": 0, "internal/cli": 0, "internal/console": 0, "internal/diag": 0,
	"internal/fetch": 0, "internal/prompt": 0, "internal/referee": 0, "internal/run": 0,

	"internal/probe": 0, "internal/vdisk": 0, "internal/vdisk/vdisktest": 0, "internal/spdx": 0, "internal/record": 0, "internal/sums": 0, "internal/unpack": 0,

	"image/vmdk": 1, "image/vdi": 1, "image/qcow2": 1, "image/ova": 1,
	"image/ufs": 1, "image/uzip": 1, "image/fat": 1, "image/gpt": 1, "image/iso": 1, "layer": 1, "zfs": 1, "answers": 1, "vm/lan": 1, "overlay/lint/place": 1,

	"answers/site": 2, "dist": 2, "live": 2, "vm": 2, "overlay": 2, "manifest": 2, "pkgs": 2, "internal/pkgtest": 2, "overlay/lint/conf": 2, "overlay/lint/pf": 2,

	"image/reader": 3,

	"flash": 4, "pxe": 4,
	"image": 4, "firstboot": 4, "overlay/lint": 4, "internal/vmtest": 4,

	"cmd/rigimage": 5, "cmd/riginstall": 5, "internal/bench": 5,
}

// foreign names, for each module of others, the packages that may import it.
// golang.org/x is everyone's.
var foreign = map[string][]string{
	"filippo.io/age":                  {"cmd/rigimage"},
	"github.com/BurntSushi/toml":      {"answers", "image"},
	"github.com/diskfs/go-diskfs":     {"image/gpt"},
	"github.com/insomniacslk/dhcp":    {"pxe"},
	"github.com/klauspost/compress":   {"dist", "image", "image/uzip", "internal/pkgtest", "layer", "internal/unpack", "pkgs", "image/qcow2", "image/vmdk", "image/reader", "flash"},
	"github.com/manifoldco/promptui":  {"internal/prompt"},
	"github.com/mistifyio/go-zfs/v3":  {"zfs"},
	"github.com/therootcompany/xz":    {"dist", "flash", "internal/unpack"},
	"github.com/ulikunitz/xz":         {"dist", "internal/pkgtest"},
	"gvisor.dev/gvisor":               {"vm/lan"},
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
		f, err := parser.ParseFile(fset, p, nil, parser.SkipObjectResolution)
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
	if len(out) < len(ranks) {
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

func TestImportRanks(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range parse(t) {
		if s.test {
			continue
		}
		seen[s.pkg] = true
		rank, ok := ranks[s.pkg]
		if !ok {
			t.Errorf("%s: package %s has no rank; give it one here, and in DESIGN.md", s.name, s.pkg)
			continue
		}
		for _, imp := range s.imports() {
			other, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				checkForeign(t, s, imp)
				continue
			}
			switch r, ok := ranks[other]; {
			case !ok:
				t.Errorf("%s imports %s, which has no rank", s.name, imp)
			case other == "internal/referee":
				t.Errorf("%s imports %s, which is for tests", s.name, imp)
			case r >= rank && rank > 0:
				t.Errorf("%s (rank %d) imports %s (rank %d)", s.name, rank, imp, r)
			case r > 0 && rank == 0:
				t.Errorf("%s (rank 0) imports %s (rank %d)", s.name, imp, r)
			}
		}
	}
	for pkg := range ranks {
		if !seen[pkg] {
			t.Errorf("package %s has a rank and does not exist", pkg)
		}
	}
}

func checkForeign(t *testing.T, s source, imp string) {
	first, _, _ := strings.Cut(imp, "/")
	if !strings.Contains(first, ".") {
		if imp == "net/http" && s.pkg != "internal/fetch" && s.pkg != "pxe" {
			t.Errorf("%s imports net/http; only internal/fetch and pxe speak to the network", s.name)
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
