package lint

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

// maxFile is the largest file of an overlay that is read, in bytes.
const maxFile = 1 << 20

// facts are the names of "rig" that the installer knows by itself.
var facts = []string{"image", "pool", "jail", "hostid", "hostuuid", "disks"}

// template is the overlay of a root before it is rendered.
type template struct {
	Root
	tree    *tree.Tree
	unknown map[string]bool // templates that use what no question defines
}

// file is one file of a root as it will be on a server.
type file struct {
	label   string // as in messages
	text    string
	perm    uint16
	unknown bool // could not be rendered; text is empty
}

// root is a host or jail of one server, rendered.
type root struct {
	Root
	files map[string]*file // by absolute path: "/etc/rc.conf"
}

// text is the content of a file, "" when there is none.
func (r *root) text(name string) string {
	if f := r.files[name]; f != nil {
		return f.text
	}
	return ""
}

// read is how an rc.conf gets a file that it may cat.
func (r *root) read(name string) (text string, known, found bool) {
	f := r.files[name]
	if f == nil {
		return "", false, false
	}
	return f.text, !f.unknown, true
}

// load reads the overlays and judges the templates' variables.
func (c *checker) load() error {
	known := map[string]bool{}
	for _, k := range c.in.Config.Questions {
		known[k] = true
	}
	for _, f := range facts {
		known["rig."+f] = true
	}
	for _, r := range append([]Root{c.in.Config.Host}, c.in.Config.Jails...) {
		t, err := overlay.Load(c.in.FS, r.Overlay, overlay.Options{})
		var ps *diag.Problems
		if errors.As(err, &ps) {
			c.problems(ps)
			continue
		}
		if err != nil {
			return err
		}
		tmpl := &template{r, t, map[string]bool{}}
		c.roots = append(c.roots, tmpl)
		for _, name := range overlay.Templates(t) {
			if err := c.variables(tmpl, name, known); err != nil {
				return err
			}
		}
	}
	return nil
}

// problems takes over what another package found.
func (c *checker) problems(ps *diag.Problems) {
	for _, p := range ps.List {
		if text, ok := ps.Source[p.File]; ok {
			c.source[c.label(p.File)] = text
		}
		p.File = c.label(p.File)
		c.bad(flaw.Pos{File: p.File, Line: p.Line, Col: p.Col}, "%s", p.Msg)
	}
}

// variables reports what a template uses and no question defines.
func (c *checker) variables(t *template, name string, known map[string]bool) error {
	text, err := t.tree.ReadFile(name, maxFile)
	if err != nil {
		return err
	}
	src := path.Join(t.Overlay, name)
	vars, err := overlay.Variables(src, text)
	var ps *diag.Problems
	if errors.As(err, &ps) {
		t.unknown[name] = true
		c.problems(ps)
		return nil
	}
	for _, v := range vars {
		if known[v] {
			continue
		}
		t.unknown[name] = true
		c.source[c.label(src)] = string(text)
		at := flaw.Pos{File: c.label(src)}
		re := regexp.MustCompile(`\.` + regexp.QuoteMeta(v) + `\b`)
		if loc := re.FindIndex(text); loc != nil {
			at.Line, at.Col = flaw.LineCol(string(text), loc[0])
		}
		c.bad(at, "no question defines %s", v)
	}
	return nil
}

// render returns the roots of one server, the host first, in the order of the
// configuration. Without data templates are unknown. A file that cannot be rendered is reported, and its content is unknown.
func (c *checker) render(s Server) []*root {
	var out []*root
	data := standIns(s)
	for _, t := range c.roots {
		data["rig"].(map[string]any)["jail"] = t.Name
		r := &root{Root: t.Root, files: map[string]*file{}}
		for e := range t.tree.All() {
			if e.Kind != tree.File {
				continue
			}
			text, err := t.tree.ReadFile(e.Path, maxFile)
			if err != nil { // too large to be configuration
				r.files["/"+e.Path] = &file{label: c.label(path.Join(t.Overlay, e.Path)), perm: e.Perm, unknown: true}
				continue
			}
			r.files["/"+overlay.Target(e.Path)] = c.renderFile(t, e, text, s.Name, data)
		}
		out = append(out, r)
	}
	return out
}

func (c *checker) renderFile(t *template, e *tree.Entry, text []byte, server string, data map[string]any) *file {
	src := path.Join(t.Overlay, e.Path)
	f := &file{label: c.label(src), text: string(text), perm: e.Perm}
	if overlay.Target(e.Path) == e.Path {
		c.source[f.label] = f.text
		return f
	}
	// What is found in a rendered file is shown as it is there.
	f.label = fmt.Sprintf("%s (rendered for %s)", c.label(overlay.Target(src)), server)
	f.text, f.unknown = "", true
	if t.unknown[e.Path] || server == "" {
		return f
	}
	out, err := overlay.Render(src, text, data)
	var ps *diag.Problems
	switch {
	case errors.As(err, &ps):
		for i := range ps.List {
			ps.List[i].Msg += " (for " + server + ")"
		}
		c.problems(ps)
		return f
	case err != nil:
		c.bad(flaw.Pos{File: c.label(src)}, "%v (for %s)", err, server)
		return f
	}
	f.text, f.unknown = string(out), false
	if !strings.Contains(string(text), ".Reveal") {
		c.source[f.label] = f.text
	}
	return f
}

// standIns returns the data of a server with something in the place of what only
// the installer can know: its facts, cards found by rule, generated secrets. It
// is the same each time, and different for each server.
func standIns(s Server) map[string]any {
	data := standIn(s.Name, "", s.Data).(map[string]any)
	if _, ok := data["rig"].(map[string]any); !ok {
		h := sha256.Sum256([]byte("rig check\x00" + s.Name))
		data["rig"] = map[string]any{
			"image": "0000000000000000", "pool": "zroot", "disks": []string{},
			"hostid":   fmt.Sprintf("0x%x", h[:4]),
			"hostuuid": fmt.Sprintf("%x-%x-4%x-8%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])[:36],
		}
	}
	return data
}

func standIn(server, key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out[k] = standIn(server, key+"."+k, v[k])
		}
		return out
	case answers.NICMatch:
		if v.MAC == "" && v.Device == "" {
			h := sha256.Sum256([]byte("rig card\x00" + server + key))
			h[0] = h[0]&^0x03 | 0x02
			return answers.NICMatch{MAC: net.HardwareAddr(h[:6]).String()}
		}
	case answers.SecretValue:
		if v == "" {
			return answers.SecretValue("generated-later-generated-later-")
		}
	case nil:
		return nil
	}
	return v
}
