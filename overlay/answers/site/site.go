// Package site reads a site file: the answers of both servers of a rig in one
// TOML file.
//
//	schema = 1
//	[common]                      # answers both servers have, in the shape of an answers file
//	server.domain = "example.lan"
//	[a]                           # answers of server A alone
//	server.name = "rega"
//	[b]
//	server.name = "regb"
//
// How the servers' answers hang together is said by the questions: an answer may
// be the other server's (Peer), the same on both (Same), or another (Differ), and
// addresses of a distinct group differ across the servers. [Parse] takes
// what follows from the other server from there, and reports everything that
// contradicts at once, with its place. [Site.Generate] makes the secrets that are
// missing; they are kept in a secrets file of the same shape, which is read below
// the site file. Secrets are never in problems.
package site

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// KeyName is the question, a label, whose answer names a server. It differs
// between the servers whatever the profile says.
const KeyName = "server.name"

// The tables of a site file.
const common = "common"

var letters = [2]string{"a", "b"}

// Site is two servers.
type Site struct {
	Servers [2]Server

	qs      []answers.Question // the built-in ones too
	name    string             // of the site file
	where   *answers.Positions // in it
	secrets [2]*answers.Set    // what the secrets file alone has, and what was generated
	made    bool               // something was generated
}

// Server is one of them.
type Server struct {
	Letter string // "a" or "b", the name of its table
	Name   string // the answer to KeyName, Letter when there is none
	Set    *answers.Set
}

// title is how problems call it.
func (v *Server) title() string { return "server " + strings.ToUpper(v.Letter) }

// names reports whether q's answer names a server.
func names(q answers.Question) bool { return q.Key == KeyName && q.Type == answers.Label }

// File is a text with the name that problems call it by.
type File struct {
	Name string
	Text []byte
}

// Parse reads a site file without a secrets file; see [Load].
func Parse(name string, text []byte, qs []answers.Question) (*Site, error) {
	return Load(File{name, text}, File{}, qs)
}

// Load reads a site file and its secrets file, which may be empty. Every problem
// of both is reported, as [diag.Problems]. That required answers are missing is
// none; see [Site.Gaps].
func Load(file, secrets File, qs []answers.Question) (*Site, error) {
	s := &Site{qs: answers.All(qs), name: file.Name, where: answers.Locate(bytes.TrimPrefix(file.Text, []byte("\ufeff")))}
	r := report{Problems: diag.Problems{Source: map[string]string{}}}
	for i, letter := range letters {
		kept, own := source(secrets, i), source(file, i)
		var err error
		s.secrets[i], err = answers.Resolve(qs, kept)
		r.merge(err)
		r.notSecret(s.secrets[i], s.qs, secrets.Name, file.Name)
		v := Server{Letter: letter, Name: letter}
		v.Set, err = answers.Resolve(qs, kept, own)
		r.merge(err)
		if i := slices.IndexFunc(s.qs, names); i >= 0 && v.Set.String(KeyName) != "" {
			v.Name = v.Set.String(KeyName)
		}
		maps.Copy(r.Source, v.Set.Texts())
		s.Servers[i] = v
	}
	s.compare(&r)
	if len(r.List) == 0 { // what follows from wrong answers is no news
		s.derive(&r)
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

// source is what a file says about the i-th server.
func source(f File, i int) answers.Source {
	return answers.Source{Name: f.Name, Data: f.Text, Tables: []string{common, letters[i]}, Others: []string{letters[1-i]}}
}

// report gathers problems, each once: what is wrong in [common] is wrong for both
// servers.
type report struct{ diag.Problems }

func (r *report) add(p diag.Problem) {
	if !slices.Contains(r.List, p) {
		r.Add(p)
	}
}

// unread reports whether the answer to key may be missing because it, or what it
// is in, could not be read.
func (r *report) unread(key string) bool {
	return slices.ContainsFunc(r.List, func(p diag.Problem) bool {
		return !strings.Contains(p.Key, ".") || strings.Contains(p.Key+".", "."+key+".")
	})
}

// merge takes over the problems of another list.
func (r *report) merge(err error) {
	var ps *diag.Problems
	switch {
	case err == nil:
	case errors.As(err, &ps):
		for _, p := range ps.List {
			r.add(p)
		}
	default:
		r.add(diag.Problem{Msg: err.Error()})
	}
}

// notSecret reports what is no secret in the secrets file, which is written anew
// when secrets are generated.
func (r *report) notSecret(set *answers.Set, qs []answers.Question, name, file string) {
	for _, q := range qs {
		if !q.Hidden() && set.Origin(q.Key) == name && name != "" {
			r.add(set.Problem(q.Key, "no secret; put it into "+file))
		}
	}
}

// derive gives each server what follows from the other's answers, and judges it.
func (s *Site) derive(r *report) {
	for i := range s.Servers {
		v, peer := &s.Servers[i], &s.Servers[1-i]
		for _, q := range s.qs {
			if q.Peer == "" || stated(v.Set, q.Key) {
				continue
			}
			if err := v.Set.Derive(q.Key, peer.Set); err != nil {
				r.add(peer.Set.Problem(q.Peer, err.Error()))
			}
		}
	}
	for i := range s.Servers {
		r.merge(s.Servers[i].Set.Check())
	}
}

// stated reports whether the answer to key was given, and is no default.
func stated(set *answers.Set, key string) bool {
	o := set.Origin(key)
	return o != "" && o != answers.OriginDefault
}

// Gap is a required answer that is nowhere.
type Gap struct {
	Server   *Server
	Question answers.Question
}

// Gaps lists the required answers that are missing and are not generated, but not
// those that follow from another one of the list.
func (s *Site) Gaps() []Gap {
	var out []Gap
	for i := range s.Servers {
		v, peer := &s.Servers[i], &s.Servers[1-i]
		for _, q := range v.Set.Missing() {
			if q.Peer != "" && slices.ContainsFunc(peer.Set.Missing(), func(o answers.Question) bool { return o.Key == q.Peer }) {
				continue
			}
			out = append(out, Gap{v, q})
		}
	}
	return out
}

// CheckUnattended reports the gaps of servers that are to be installed without
// anybody to ask, as [diag.Problems]. Secrets that are generated are none.
func (s *Site) CheckUnattended() error {
	ps := diag.Problems{Source: s.Servers[0].Set.Texts()}
	for _, g := range s.Gaps() {
		if !g.Server.Set.Bool(answers.KeyUnattended) {
			continue
		}
		at := append([]string{g.Server.Letter}, strings.Split(g.Question.Key, ".")...)
		p := diag.Problem{File: s.name, Key: strings.Join(at, "."), Msg: "no answer, and an unattended install asks nobody"}
		for n := len(at); n > 0 && p.Line == 0; n-- {
			p.Line, p.Col = s.where.Value(at[:n]...)
		}
		ps.Add(p)
	}
	return ps.Err()
}

// WriteAnswers writes the complete answers file of a server, with its secrets:
// what answers.Resolve reads back as the same answers.
func (s *Site) WriteAnswers(w io.Writer, v *Server) error {
	if _, err := fmt.Fprintf(w, "# Answers of %s, %s of %s: made by \"rigimage answers\", which writes this file anew.\n",
		v.Name, v.title(), filepath.Base(s.name)); err != nil {
		return err
	}
	return v.Set.TOML(w, true)
}

// Written reports whether text is an answers file by WriteAnswers.
func Written(text []byte) bool {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return bytes.HasPrefix(line, []byte("# Answers of ")) && bytes.Contains(line, []byte(`made by "rigimage answers"`))
}
