package work

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// The first error ends the others and is what comes back, not theirs.
func TestTogether(t *testing.T) {
	broken := errors.New("disk full")
	err := Together(t.Context(), func(context.Context) error { return broken }, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if err != broken {
		t.Errorf("error %v, want %v", err, broken)
	}
	if err := Together(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
}

// After cancelling, nothing reaches the file any more.
func TestFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	w := On(ctx, f)
	if _, err := w.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	cancel()
	var b [3]byte
	for what, do := range map[string]func() error{
		"write":   func() error { _, err := w.Write([]byte("def")); return err },
		"writeat": func() error { _, err := w.WriteAt([]byte("ghi"), 0); return err },
		"readat":  func() error { _, err := w.ReadAt(b[:], 0); return err },
		"until":   func() error { _, err := Until(ctx, f).ReadAt(b[:], 0); return err },
	} {
		if err := do(); err != context.Canceled {
			t.Errorf("%s: error %v, want %v", what, err, context.Canceled)
		}
	}
	if text, err := os.ReadFile(f.Name()); err != nil || string(text) != "abc" {
		t.Errorf("the file has %q, %v", text, err)
	}
}

func TestMeter(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var seen []int64
	m := &Meter{W: f, Total: 5, Report: func(done, total int64) { seen = append(seen, done, total) }}
	for _, s := range []string{"abc", "de", "f"} {
		if _, err := io.WriteString(io.NewOffsetWriter(m, m.done), s); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != 4 || seen[0] != 3 || seen[2] != 5 || seen[3] != 5 {
		t.Errorf("reports %v, want 3 of 5 and 5 of 5", seen)
	}
}
