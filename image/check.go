package image

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rig/answers"
	"rig/internal/diag"
	"rig/overlay"
	"rig/tree"
)

// CheckOutputs finds out before the work whether the media can be put where they are
// wanted, and whether every server has one.
func (o *Options) CheckOutputs() error {
	names := o.outputs()
	for i, name := range names {
		if err := checkOutput(name); err != nil {
			return err
		}
		if slices.Contains(names[:i], name) {
			return diag.Inputf("write %s: it is named twice", name)
		}
	}
	if o.Servers != nil && len(o.Servers) != len(names) {
		return diag.Inputf("write media: %d names for %d servers", len(names), len(o.Servers))
	}
	return nil
}

// checkOutput finds out before the work whether the image can be put where it is
// wanted.
func checkOutput(name string) error {
	if IsDirectory(name) {
		return checkDirectory(name)
	}
	if st, err := os.Stat(name); err == nil && st.IsDir() {
		return diag.Hint(diag.Inputf("write %s: it is a directory", name), "-o names the image itself; with a slash at its end, a directory for network boot")
	}
	if st, err := os.Stat(filepath.Dir(name)); err != nil || !st.IsDir() {
		return diag.Inputf("write %s: there is no directory %s", name, filepath.Dir(name))
	}
	return nil
}

// checkAnswers finds mistakes in the answers before anything is made.
func (j *job) checkAnswers() error {
	for i := range j.outputs() {
		_, v := j.serverOf(i)
		if err := v.check(j.cfg.Questions); err != nil {
			return err
		}
	}
	return nil
}

func (v *Server) check(qs []answers.Question) error {
	if v.Answers == nil {
		return nil
	}
	set, err := answers.Resolve(qs, answers.Source{Name: v.AnswersName, Data: v.Answers})
	if err != nil {
		return err
	}
	err = set.CheckUnattended()
	var ps *diag.Problems
	if errors.As(err, &ps) {
		for i := range ps.List {
			ps.List[i].File = v.AnswersName
		}
	}
	return err
}

// checkTemplates reports every template variable that no question defines.
func (j *job) checkTemplates(dir string, t *tree.Tree) error {
	known := map[string]bool{}
	for _, q := range answers.All(j.cfg.Questions) {
		known[q.Key] = true
	}
	var ps diag.Problems
	for _, name := range overlay.Templates(t) {
		text, err := t.ReadFile(name, 1<<20)
		if err != nil {
			return err
		}
		vars, err := overlay.Variables(name, text)
		if err != nil {
			return err
		}
		for _, v := range vars {
			if !defined(known, v) {
				ps.Add(diag.Problem{File: filepath.Join(j.ProfileName, dir, name), Key: v, Msg: "no question of rig.toml defines it"})
			}
		}
	}
	return ps.Err()
}

// defined reports whether a variable is a question's key, a method of its value,
// or a group of keys.
func defined(known map[string]bool, v string) bool {
	if strings.HasPrefix(v, "rig.") {
		return true
	}
	for k := range known {
		if v == k || strings.HasPrefix(v, k+".") || strings.HasPrefix(k, v+".") {
			return true
		}
	}
	return false
}
