// Package health compares a running server with what its image, its answers and its own
// files say it should be. It changes nothing.
package health

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/text"
	"github.com/rig-freebsd/rig/zfs"
)

// Verdict is what a check came to.
type Verdict string

const (
	OK      Verdict = "ok"
	Skipped Verdict = "skipped" // there is nothing to check, or what it depends on failed already
	Warning Verdict = "warning" // the server does its work, and somebody should look at it
	Failed  Verdict = "error"   // something is not as it must be, or could not be read
)

// Check is one row of what Verify found.
type Check struct {
	Area   string  `json:"area"`  // "pool", "boot", "jails", "network" …
	Check  string  `json:"check"` // what was looked at: "mirror", "host em0"
	Result Verdict `json:"result"`
	Detail string  `json:"detail"`           // what was found
	Remedy string  `json:"remedy,omitempty"` // what to do about it
}

// VerifyInput is where Verify looks.
type VerifyInput struct {
	Run  run.Runner
	Root string    // where the machine's file system is, "" for /
	Now  time.Time // for the age of the last scrub

	Datasets zfs.Lister // zfs.ListDatasets when nil
}

// Verify compares a running server with what its image, its answers and its own
// files say it should be. It changes nothing. What cannot be asked, or answers in
// a form that is not known, is a row with an error. The error is for a system
// that riginstall did not make.
func Verify(ctx context.Context, in VerifyInput) ([]Check, error) {
	v, err := newVerifier(in)
	if err != nil {
		return nil, err
	}
	var out []Check
	for _, area := range []func(context.Context) []Check{
		v.checkPool, v.checkSwap, v.checkBoot, v.checkJails, v.checkServices, v.checkPackages, v.checkNetwork,
		v.checkFirewall, v.checkTunnels, v.checkTime, v.checkDrift,
	} {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		out = append(out, area(ctx)...)
	}
	return out, nil
}

// verifier holds what one area finds out and others need.
type verifier struct {
	VerifyInput
	m      *manifest.Manifest
	res    place.Result
	geli   *facts.Encryption            // nil until it was asked
	status *zfs.PoolStatus              // nil when it could not be asked
	rc     map[string]map[string]string // rc.conf's variables by jail, "" for the host
	jails  []jailConf                   // in the order of jail.conf
	up     map[string]bool              // jails that run
	bundle string                       // a rig partition that can be read, for the layers
}

func newVerifier(in VerifyInput) (*verifier, error) {
	v := &verifier{VerifyInput: in, rc: map[string]map[string]string{}, up: map[string]bool{}}
	m, res, err := place.Record(in.Root)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	v.m, v.res = m, *res
	return v, nil
}

// path is where a file of the machine is.
func (v *verifier) path(elem ...string) string {
	return filepath.Join(append([]string{v.Root, "/"}, elem...)...)
}

// output runs a program and returns what it prints.
func (v *verifier) output(ctx context.Context, argv ...string) (string, error) {
	out, err := v.Run.Run(ctx, run.New(argv...))
	return string(out), err
}

// rcConf returns the variables of the rc.conf of a jail, "" for the host.
func (v *verifier) rcConf(ctx context.Context, jail string) (map[string]string, error) {
	if vars, ok := v.rc[jail]; ok {
		return vars, nil
	}
	out, err := v.output(ctx, rcCommand(jail)...)
	if err != nil {
		return nil, err
	}
	vars, err := parseRC(out)
	if err != nil {
		return nil, err
	}
	v.rc[jail] = vars
	return vars, nil
}

// exited reports whether err is a program that ran to its end and said no.
func exited(err error) bool {
	var re *run.Error
	return errors.As(err, &re) && re.Status > 0
}

// rows gathers the checks of one area.
type rows struct {
	area string
	list []Check
}

func (r *rows) add(check string, result Verdict, detail, remedy string) {
	r.list = append(r.list, Check{r.area, check, result, detail, remedy})
}

func (r *rows) ok(check, format string, args ...any) {
	r.add(check, OK, fmt.Sprintf(format, args...), "")
}

func (r *rows) skip(check, detail string) { r.add(check, Skipped, detail, "") }

// fail adds an error that has no remedy beyond what it says itself.
func (r *rows) fail(check string, err error) {
	r.add(check, Failed, text.OneLine(err.Error()), diag.HintOf(err))
}

// judge adds one row: an error with the problems, or that all is well.
func (r *rows) judge(check string, problems []string, fine, remedy string) {
	if len(problems) > 0 {
		r.add(check, Failed, strings.Join(problems, "; "), remedy)
		return
	}
	r.add(check, OK, fine, "")
}

// without returns the elements of a that are not in b, each as often as it is
// there more often.
func without(a, b []string) []string {
	rest := slices.Clone(b)
	var out []string
	for _, s := range a {
		if i := slices.Index(rest, s); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// wantYes reads a variable of rc.conf as checkyesno of rc.subr(8) does.
func wantYes(value string) bool {
	return slices.Contains([]string{"yes", "true", "on", "1"}, strings.ToLower(value))
}
