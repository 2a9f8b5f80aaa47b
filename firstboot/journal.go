package firstboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/run"
)

// Journal is the record of a run: one line a command, one entry a step. It goes
// to a file in memory, which the other consoles follow and which ends up in the
// new system. It never sees standard input, so no secret is in it.
type Journal struct {
	mu    sync.Mutex
	w     io.Writer
	now   func() time.Time
	steps []place.StepResult
}

// NewJournal writes to w.
func NewJournal(w io.Writer) *Journal { return &Journal{w: w, now: time.Now} }

// Printf adds a line.
func (j *Journal) Printf(format string, args ...any) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	fmt.Fprintf(j.w, format+"\n", args...)
}

// StepError is a step that failed.
type StepError struct {
	Step Step
	Err  error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("step %s (%s): %v", e.Step.Name, e.Step.Title, e.Err)
}
func (e *StepError) Unwrap() error { return e.Err }

// Apply carries out the steps in order and stops at the first that fails. before,
// which may be nil, is told each step.
func (m *Machine) Apply(ctx context.Context, steps []Step, before func(i, n int, s Step)) error {
	for i, s := range steps {
		if err := ctx.Err(); err != nil {
			return &StepError{s, err}
		}
		if before != nil {
			before(i+1, len(steps), s)
		}
		m.Log.Printf("rig: step %d/%d %s: %s", i+1, len(steps), s.Name, s.Title)
		start := time.Now()
		err := m.step(ctx, s)
		res := place.StepResult{Name: s.Name, Title: s.Title, Seconds: time.Since(start).Round(time.Millisecond).Seconds()}
		if err != nil {
			res.Error = err.Error()
			m.Log.Printf("rig: step %s failed: %v", s.Name, err)
		}
		m.Log.steps = append(m.Log.steps, res)
		if err != nil {
			return &StepError{s, err}
		}
	}
	return nil
}

func (m *Machine) step(ctx context.Context, s Step) error {
	for _, c := range s.Cmds {
		m.Log.Printf("+ %s", c)
		if err := m.Exec(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// result writes result.json and the log so far. Nothing in them is secret.
func (m *Machine) result(ctx context.Context, dir string) error {
	kernel, err := disk.KernelID(filepath.Join(m.Root, place.Target, "boot/kernel"))
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(place.Result{
		Schema: manifest.Schema, Image: m.Manifest.Image, HostUUID: m.Identity.HostUUID, Kernel: kernel,
		Finished: time.Now().UTC(), Steps: m.Log.steps, Answers: m.Answers.Redacted(),
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.Root, dir, "result.json"), append(b, '\n'), 0o600); err != nil {
		return err
	}
	log, err := os.ReadFile(filepath.Join(m.Root, place.StateDir, "install.log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.Root, dir, "install.log"), log, 0o600); err != nil {
		return err
	}
	_, err = m.Run.Run(ctx, run.New("sync"))
	return err
}
