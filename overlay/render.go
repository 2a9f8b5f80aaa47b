package overlay

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/rig-freebsd/rig/internal/diag"
)

// Render fills in a template: text/template with the functions of [Funcs], where
// a missing value is an error. data mirrors the dotted keys of the questions:
// data["lan"].(map[string]any)["inet"], and holds "rig" for what the
// installer knows by itself. Errors are *diag.Problems with name, line and
// column.
func Render(name string, text []byte, data map[string]any) ([]byte, error) {
	t, err := parseTemplate(name, text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, problem(name, text, err)
	}
	// missingkey=error is about keys; a key that holds nil gets through.
	if bytes.Contains(out.Bytes(), []byte("<no value>")) {
		return nil, problem(name, text, fmt.Errorf("a value is nil"))
	}
	return out.Bytes(), nil
}

func parseTemplate(name string, text []byte) (*template.Template, error) {
	t, err := template.New(name).Option("missingkey=error").Funcs(Funcs()).Parse(string(text))
	if err != nil {
		return nil, problem(name, text, err)
	}
	return t, nil
}

// text/template: "template: NAME:LINE:COL: executing "NAME" at <.x>: cause".
var (
	where     = regexp.MustCompile(`^template: .*?:(\d+):(?:(\d+):)? `)
	executing = regexp.MustCompile(`^executing ".*?" at (<.*?>): `)
)

func problem(name string, text []byte, err error) error {
	pr := diag.Problem{File: name, Msg: err.Error()}
	if m := where.FindStringSubmatch(pr.Msg); m != nil {
		pr.Line, _ = strconv.Atoi(m[1])
		if m[2] != "" { // text/template counts columns from 0
			pr.Col, _ = strconv.Atoi(m[2])
			pr.Col++
		}
		pr.Msg = executing.ReplaceAllString(pr.Msg[len(m[0]):], "$1: ")
	}
	return &diag.Problems{List: []diag.Problem{pr}, Source: map[string]string{name: string(text)}}
}

// Variables returns the dotted names a template uses, sorted, each once:
// "lan.inet", "rig.hostuuid". Methods (names in upper case, like Reveal) are not part of
// them. What cannot be told from the text (a field of the element of a range, say) is
// an error, and so are {{define}} and {{template}}: overlay templates are one file
// each.
func Variables(name string, text []byte) ([]string, error) {
	t, err := parseTemplate(name, text)
	if err != nil {
		return nil, err
	}
	v := &uses{tree: t.Tree, name: name, text: text, names: map[string]bool{}}
	if len(t.Templates()) > 1 {
		v.bad(t.Root, "define and block are not supported")
	}
	v.list(t.Root, "")
	if err := v.problems.Err(); err != nil {
		v.problems.Source = map[string]string{name: string(text)}
		return nil, err
	}
	out := make([]string, 0, len(v.names))
	for n := range v.names {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// element is what "." is inside a range: nothing that has a name.
const element = "?"

type uses struct {
	tree     *parse.Tree
	name     string
	text     []byte
	names    map[string]bool
	problems diag.Problems
}

func (v *uses) bad(n parse.Node, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	at, _ := v.tree.ErrorContext(n)
	pr := diag.Problem{File: v.name, Msg: msg}
	if f := strings.Split(strings.TrimPrefix(at, v.name+":"), ":"); len(f) >= 2 {
		pr.Line, _ = strconv.Atoi(f[0])
		pr.Col, _ = strconv.Atoi(f[1])
		pr.Col++
	}
	v.problems.Add(pr)
}

// list walks nodes; dot is the dotted name of "." there: "" for the root.
func (v *uses) list(l *parse.ListNode, dot string) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			v.pipe(n.Pipe, dot)
		case *parse.IfNode:
			v.branch(&n.BranchNode, dot, dot)
		case *parse.RangeNode:
			v.branch(&n.BranchNode, dot, element)
		case *parse.WithNode:
			inner := element
			if f := onlyField(n.Pipe); f != nil && dot != element {
				inner = join(dot, f.Ident)
			}
			v.branch(&n.BranchNode, dot, inner)
		case *parse.TemplateNode:
			v.bad(n, "template is not supported")
		}
	}
}

func (v *uses) branch(b *parse.BranchNode, dot, inner string) {
	v.pipe(b.Pipe, dot)
	v.list(b.List, inner)
	v.list(b.ElseList, dot)
}

func onlyField(p *parse.PipeNode) *parse.FieldNode {
	if len(p.Cmds) != 1 || len(p.Cmds[0].Args) != 1 || len(p.Decl) > 0 {
		return nil
	}
	f, _ := p.Cmds[0].Args[0].(*parse.FieldNode)
	return f
}

func (v *uses) pipe(p *parse.PipeNode, dot string) {
	if p == nil {
		return
	}
	for _, c := range p.Cmds {
		for _, a := range c.Args {
			v.arg(a, dot)
		}
	}
}

func (v *uses) arg(n parse.Node, dot string) {
	switch n := n.(type) {
	case *parse.FieldNode:
		v.use(n, dot, n.Ident)
	case *parse.VariableNode:
		switch {
		case n.Ident[0] == "$" && len(n.Ident) > 1:
			v.use(n, "", n.Ident[1:])
		case len(n.Ident) > 1 && !method(n.Ident[1]):
			v.use(n, element, n.Ident[1:])
		}
	case *parse.ChainNode:
		v.arg(n.Node, dot)
	case *parse.PipeNode:
		v.pipe(n, dot)
	}
}

func (v *uses) use(n parse.Node, dot string, ident []string) {
	for i, part := range ident {
		if method(part) {
			ident = ident[:i]
			break
		}
	}
	switch {
	case len(ident) == 0 && dot == "":
		v.bad(n, "%s is not an answer", n)
	case len(ident) > 0 && dot == element:
		v.bad(n, "cannot tell which answer %s is here; write $%s from the top", n, n)
	case dot != element:
		v.names[join(dot, ident)] = true
	}
}

func method(s string) bool { return s[0] >= 'A' && s[0] <= 'Z' }

func join(dot string, ident []string) string {
	s := strings.Join(ident, ".")
	switch {
	case dot == "":
		return s
	case s == "":
		return dot
	}
	return dot + "." + s
}
