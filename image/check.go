package image

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/image/media"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// CheckOutputs finds out before the work whether the media can be put where they are
// wanted, and whether every server has one.
func (o *Options) CheckOutputs() error {
	m := o.media()
	return m.Check()
}

// media is what was asked of the media.
func (o *Options) media() media.Options {
	m := media.Options{Outputs: append([]string{o.Output}, o.Also...), Servers: o.Servers, Network: o.Network, Progress: o.Progress}
	if m.Servers == nil {
		m.Servers = []media.Server{{Answers: o.Answers, AnswersName: o.AnswersName, Appliance: o.Appliance}}
	}
	return m
}

// checkAnswers finds mistakes in the answers before anything is made.
func (j *job) checkAnswers() error {
	for _, v := range j.media().Servers {
		if err := checkServer(&v, j.cfg.Questions); err != nil {
			return err
		}
	}
	return nil
}

func checkServer(v *media.Server, qs []answers.Question) error {
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
