// Package lint finds out everything that can be known about a profile without
// building an image from it: it renders every template for every server, reads
// rc.conf(5), jail.conf(5) and pf.conf(5) of the result into a model of the rig,
// checks that the parts agree, and works out who may talk to whom.
//
// It knows the subset of these formats that profiles use:
//
//   - rc.conf: assignments, quotes, `/bin/cat FILE` and $name; assignments inside
//     if and case are taken as possible, not as made.
//   - jail.conf: parameters of all jails and of each one, lists, +=, $name.
//   - pf.conf: macros, tables, set skip, scrub, nat, rdr, antispoof, block, pass,
//     anchors (as empty). A rule it does not understand is a warning, and the matrix
//     is without it. Only the first packet of a connection is followed: its state is
//     taken to pass the rest, "no state" or not.
//
// Addresses are IPv4. Each server is host, jails and pf; the servers meet on two
// wires, those of the cards with the same name.
package lint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

// Server is one of the machines a profile is for.
type Server struct {
	Name    string         // for messages
	Data    map[string]any // of templates, as answers.Set.Data; "rig" may be absent
	Answers *answers.Set   // nil: the profile's checks are not tried
}

// Root is the host or a jail, as rig.toml describes it.
type Root struct {
	Name       string // "" is the host
	Overlay    string // directory in the profile
	Interfaces []string
}

// Config is what Check needs of rig.toml.
type Config struct {
	Host      Root
	Jails     []Root   // in the order they start
	Questions []string // keys, those of built-in questions too
	Reach     manifest.Reach
}

// Input is a profile with its servers.
type Input struct {
	FS      fs.FS
	Name    string // of the profile, before the names of files in messages; may be ""
	Config  Config
	Servers []Server // without any, what needs no answers is checked
}

// Finding is one thing that was found.
type Finding struct {
	Severity flaw.Severity
	Problem  diag.Problem
}

// MarshalJSON writes a finding as one flat object.
func (f Finding) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(struct {
		Severity flaw.Severity `json:"severity"`
		File     string        `json:"file"`
		Line     int           `json:"line,omitempty"`
		Column   int           `json:"column,omitempty"`
		Key      string        `json:"key,omitempty"`
		Message  string        `json:"message"`
	}{f.Severity, f.Problem.File, f.Problem.Line, f.Problem.Col, f.Problem.Key, f.Problem.Msg})
	return b.Bytes(), err
}

// Report is what Check found out.
type Report struct {
	Findings []Finding         `json:"findings"` // by file and line
	Rig      *Rig              `json:"rig"`
	Matrix   []Row             `json:"matrix"`
	Source   map[string]string `json:"-"` // file → text, for carets
}

// Select returns the findings of one severity, nil when there are none.
func (r *Report) Select(s flaw.Severity) error {
	ps := &diag.Problems{Source: r.Source}
	for _, f := range r.Findings {
		if f.Severity == s {
			ps.Add(f.Problem)
		}
	}
	return ps.Err()
}

// Err returns the findings that are errors, nil when there are none.
func (r *Report) Err() error { return r.Select(flaw.Error) }

// Check judges a profile. Its error is about reading the profile; what is wrong
// with it is in the report.
func Check(in Input) (*Report, error) {
	c := &checker{in: in, source: map[string]string{}, seen: map[string]bool{}}
	if err := c.load(); err != nil {
		return nil, err
	}
	rig := &Rig{Servers: []*Machine{}}
	for _, s := range in.Servers {
		rig.Servers = append(rig.Servers, c.machine(s.Name, c.render(s)))
	}
	machines := rig.Servers
	if len(machines) == 0 { // one of which nothing is known but the files
		machines = []*Machine{c.machine("any server", c.render(Server{}))}
	}
	n := &network{rig: rig}
	for _, m := range machines {
		c.checkJails(m)
		c.checkInterfaces(m)
		c.checkCards(m)
	}
	c.wired = !slices.ContainsFunc(c.findings, func(f Finding) bool { return f.Severity == flaw.Error })
	for _, m := range machines {
		c.checkAddresses(m)
		c.checkGateway(m)
		c.checkPF(m)
		c.checkDropped(m, rig)
		c.checkPorts(m)
	}
	c.checkShared(rig)
	c.checkTunnels(n)
	c.checkUpstreams(n)
	c.checkReach(n)
	matrix := n.matrix()
	if c.wired {
		c.checkListeners(matrix)
	}
	r := &Report{Findings: []Finding{}, Rig: rig, Matrix: matrix, Source: c.source}
	r.Findings = append(r.Findings, c.findings...)
	r.sort()
	return r, nil
}

func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		p, q := a.Problem, b.Problem
		return cmp.Or(strings.Compare(p.File, q.File), p.Line-q.Line, p.Col-q.Col)
	})
}

// Add takes over problems that were found elsewhere, as errors.
func (r *Report) Add(ps *diag.Problems) {
	for _, p := range ps.List {
		r.Findings = append(r.Findings, Finding{flaw.Error, p})
	}
	maps.Copy(r.Source, ps.Source)
	r.sort()
}

type checker struct {
	in       Input
	roots    []*template
	findings []Finding
	source   map[string]string
	seen     map[string]bool // findings, so that two equal servers make one
	wired    bool            // interfaces and cables are in order, so that ways can be tried
}

func (c *checker) add(sev flaw.Severity, at flaw.Pos, format string, args ...any) {
	p := diag.Problem{File: at.File, Line: at.Line, Col: at.Col, Msg: fmt.Sprintf(format, args...)}
	key := string(sev) + p.String()
	if c.seen[key] {
		return
	}
	c.seen[key] = true
	c.findings = append(c.findings, Finding{sev, p})
}

func (c *checker) bad(at flaw.Pos, format string, args ...any) {
	c.add(flaw.Error, at, format, args...)
}

func (c *checker) warn(at flaw.Pos, format string, args ...any) {
	c.add(flaw.Warning, at, format, args...)
}

func (c *checker) flaws(fl []flaw.Flaw) {
	for _, f := range fl {
		c.add(f.Severity, f.At, "%s", f.Text)
	}
}

// label is how messages call a file of the profile.
func (c *checker) label(name string) string { return path.Join(c.in.Name, name) }
