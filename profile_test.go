package rig_test

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/overlay"
	"github.com/rig-freebsd/rig/overlay/answers/site"
)

// Code says nothing of the default profile that another profile would call by other
// names: jails, interfaces, questions. Examples in help texts are listed here.
func TestProfileOwnsItsNames(t *testing.T) {
	examples := map[string]string{"cmd/rigimage/pair.go": "inic"}
	cfg, err := image.LoadConfig(overlay.Webrig(), image.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, j := range cfg.Jails {
		names = append(append(names, j.Name), j.Interfaces...)
	}
	for _, n := range cfg.Networks {
		names = append(names, n.Interface)
	}
	for _, q := range cfg.Questions {
		if q.Key != site.KeyName {
			names = append(names, q.Key)
		}
	}
	for i, n := range names {
		names[i] = regexp.QuoteMeta(n)
	}
	word := regexp.MustCompile(`(^|[^a-zA-Z0-9_.])(` + strings.Join(names, "|") + `)($|[^a-zA-Z0-9])`)
	for _, src := range parse(t) {
		if src.test || slices.Contains([]string{"internal/vmtest", "internal/bench", "internal/fakebsd"}, src.pkg) {
			continue
		}
		ast.Inspect(src.file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			if m := word.FindStringSubmatch(text); m != nil && examples[src.name] != m[2] {
				t.Errorf("%s: %s is a name of the profile %s", src.fset.Position(lit.Pos()), m[2], cfg.Name)
			}
			return true
		})
	}
}
