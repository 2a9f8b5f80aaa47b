package answers

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// TOML writes the answers as a file that Resolve reads back, defaults too, so
// that a server can be made again from it. Without secrets, those are comments.
func (s *Set) TOML(w io.Writer, withSecrets bool) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "schema = %d\n", Schema)
	for _, t := range tablesOf(s.qs) {
		var lines []string
		for _, q := range t.qs {
			v, ok := s.Get(q.Key)
			switch {
			case !ok:
			case q.Hidden() && !withSecrets:
				lines = append(lines, "# "+lastPart(q)+" is a secret and not written here")
			default:
				lines = append(lines, settings(q, v)...)
			}
		}
		if len(lines) == 0 {
			continue
		}
		t.header(b)
		for _, l := range lines {
			fmt.Fprintln(b, l)
		}
	}
	return b.Flush()
}

// Template writes an answers file in which every setting is a comment: a prompt,
// help, what is expected, and the default or an example.
func Template(qs []Question, w io.Writer) error {
	if err := ValidateQuestions(qs); err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	io.WriteString(b, `# Answers for riginstall: what differs between servers.
#
# Remove the # in front of a setting to give an answer. What is required and
# not answered here is asked for during the installation.

`)
	fmt.Fprintf(b, "schema = %d\n", Schema)
	for _, t := range tablesOf(All(qs)) {
		t.header(b)
		for i, q := range t.qs {
			if i > 0 || t.name == "" {
				b.WriteByte('\n')
			}
			describe(b, q)
			for _, l := range sample(q) {
				fmt.Fprintln(b, "#"+l)
			}
		}
	}
	return b.Flush()
}

func describe(b *bufio.Writer, q *Question) {
	if q.Prompt != "" {
		fmt.Fprintf(b, "# %s\n", strings.TrimSuffix(q.Prompt, ":"))
	}
	for _, l := range wrap(q.Help, 76) {
		fmt.Fprintln(b, strings.TrimRight("# "+l, " "))
	}
	what := q.Expected()
	if l := q.Type.spec().limits; l != "" && q.Type != PasswordHash && q.Type != Disks {
		what += " (" + l + ")"
	}
	if q.Type == Disks {
		what = "a table"
	}
	if q.Type == Bool {
		what = "true or false"
	}
	var notes []string
	if q.Required && q.Default == nil && !q.Generate {
		notes = append(notes, "required")
	}
	if q.Generate {
		notes = append(notes, "made during the installation when missing")
	}
	if q.Min != nil || q.Max != nil {
		notes = append(notes, boundsNote(q))
	}
	if q.Within != "" {
		notes = append(notes, "in the network of "+q.Within)
	}
	switch {
	case q.Peer != "":
		notes = append(notes, "the other server's "+q.Peer)
	case q.Same:
		notes = append(notes, "the same on both servers")
	case q.Differ:
		notes = append(notes, "different on each server")
	}
	if q.Default != nil {
		notes = append(notes, "this is the default")
	}
	line := strings.ToUpper(what[:1]) + what[1:]
	for _, n := range notes {
		line += "; " + n
	}
	for _, l := range wrap(line+".", 76) {
		fmt.Fprintln(b, "# "+l)
	}
}

// boundsNote says what Min and Max mean for q.
func boundsNote(q *Question) string {
	form := func(n int64) string { return strconv.FormatInt(n, 10) }
	switch q.Type {
	case Size:
		form = FormatSize
	case VLAN, Port, Int:
	default:
		return bounds(q.Min, q.Max, form) + " bytes long"
	}
	return bounds(q.Min, q.Max, form)
}

// sample returns q's setting with its default, or an example.
func sample(q *Question) []string {
	if q.Default != nil {
		if v, flaws := decode(q, q.Default); flaws == nil && v != nil {
			return settings(q, v)
		}
	}
	if q.Type == Disks {
		return []string{
			`mirror = ["serial:A", "serial:B"]`, `spares = ["serial:C", "serial:D"]`,
			`wipe = false`, `swap = "2g"`,
		}
	}
	return []string{lastPart(q) + " = " + exampleTOML(q)}
}

// exampleTOML is an example of q's answer as a TOML value.
func exampleTOML(q *Question) string {
	ex := q.Type.spec().example
	switch q.Type {
	case Choice:
		if len(q.Choices) > 0 {
			ex = q.Choices[0]
		}
		ex = quote(ex)
	case Bool:
		ex = "false"
	case VLAN, Port, Int:
		n, _ := strconv.ParseInt(ex, 10, 64)
		ex = strconv.FormatInt(clamp(q, n), 10)
	case Size:
		n, _ := ParseSize(ex)
		ex = strconv.Quote(FormatSize(clamp(q, n)))
	default:
		ex = quote(ex)
	}
	if q.List {
		return "[" + ex + "]"
	}
	return ex
}

func clamp(q *Question, n int64) int64 {
	if q.Min != nil {
		n = max(n, *q.Min)
	}
	if q.Max != nil {
		n = min(n, *q.Max)
	}
	return n
}

// settings returns the lines that set q to a canonical value.
func settings(q *Question, v any) []string {
	w, ok := v.(DiskWish)
	if !ok {
		return []string{lastPart(q) + " = " + literal(q, v)}
	}
	var lines []string
	for _, f := range []struct {
		name string
		list []string
	}{{"mirror", w.Mirror}, {"spares", w.Spares}} {
		if len(f.list) > 0 {
			lines = append(lines, f.name+" = "+literal(&Question{Type: Text}, f.list))
		}
	}
	if w.Rule != "" {
		lines = append(lines, "rule = "+quote(w.Rule))
	}
	if w.Wipe {
		lines = append(lines, "wipe = true")
	}
	if w.Swap != 0 {
		lines = append(lines, "swap = "+quote(swapText(w.Swap)))
	}
	return lines
}

// literal is a canonical value in TOML. It reveals secrets.
func literal(q *Question, v any) string {
	if items, list := elems(v); list {
		out := make([]string, len(items))
		for i, item := range items {
			out[i] = literal(q, item)
		}
		return "[" + strings.Join(out, ", ") + "]"
	}
	switch v := v.(type) {
	case SecretValue:
		return quote(v.Reveal())
	case int64:
		if q.Type == Size {
			return quote(FormatSize(v))
		}
		return strconv.FormatInt(v, 10)
	case bool:
		return strconv.FormatBool(v)
	}
	return quote(fmt.Sprint(v))
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// table is one [table] of the file and the questions in it.
type table struct {
	name string // "" for the top
	qs   []*Question
}

func (t *table) header(b *bufio.Writer) {
	if t.name != "" {
		fmt.Fprintf(b, "\n[%s]\n", t.name)
	}
}

// tablesOf groups questions by table, the top first, then in order of appearance.
func tablesOf(qs []Question) []*table {
	tables := []*table{{name: ""}}
	for i := range qs {
		q := &qs[i]
		name := q.Key[:max(0, strings.LastIndexByte(q.Key, '.'))]
		if q.Type == Disks {
			name = q.Key
		}
		at := slices.IndexFunc(tables, func(t *table) bool { return t.name == name })
		if at < 0 {
			at = len(tables)
			tables = append(tables, &table{name: name})
		}
		tables[at].qs = append(tables[at].qs, q)
	}
	return tables
}

func lastPart(q *Question) string { return q.Key[strings.LastIndexByte(q.Key, '.')+1:] }

// wrap breaks text into lines of at most width bytes where words allow; line ends
// in text stay.
func wrap(text string, width int) []string {
	if text == "" {
		return nil
	}
	var lines []string
	for para := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		line := ""
		for _, w := range strings.Fields(para) {
			if line != "" && len(line)+1+len(w) > width {
				lines = append(lines, line)
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += w
		}
		lines = append(lines, line)
	}
	return lines
}
