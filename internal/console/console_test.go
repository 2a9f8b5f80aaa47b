package console

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestEnv(t *testing.T) {
	for _, tt := range []struct{ tty, term, want string }{
		{"ttyv0", "", "TERM=xterm"}, {"/dev/ttyu0", "", "TERM=vt100"}, {"ttyu1", "xterm", "TERM=xterm"},
	} {
		if env := Env(tt.tty, tt.term); !slices.Contains(env, tt.want) || !slices.Contains(env, "RIG_TTY="+filepath.Base(tt.tty)) {
			t.Errorf("Env(%q, %q) is %q, want %s in it", tt.tty, tt.term, env, tt.want)
		}
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rig", "console.lock")
	l, who, err := Acquire(path, "ttyv0")
	if l == nil || who != "" || err != nil {
		t.Fatalf("first: %v, %q, %v", l, who, err)
	}
	if l2, who, err := Acquire(path, "ttyu0"); l2 != nil || err != nil || !strings.HasPrefix(who, "ttyv0, process ") {
		t.Errorf("second: %v, %q, %v", l2, who, err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	if l, _, err := Acquire(path, "a-longer-name-than-before"); l == nil || err != nil {
		t.Errorf("after release: %v, %v", l, err)
	}
	if _, _, err := Acquire(filepath.Join(path, "x"), "ttyv0"); err == nil || !strings.Contains(err.Error(), "lock console: ") {
		t.Errorf("lock below a file: %v", err)
	}
}

// syncBuffer is a bytes.Buffer for two goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ctx, stop := context.WithCancel(context.Background())
	var out syncBuffer
	until := func(want string) {
		t.Helper()
		for range 400 {
			if out.String() == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("got %d bytes, want %d that end in %q", len(out.String()), len(want), want[max(0, len(want)-40):])
	}
	write := func(flags int, text string) {
		t.Helper()
		f, err := os.OpenFile(path, flags|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	old := strings.Repeat("0123456789abcde\n", 1000)
	write(0, old)
	done := make(chan error)
	go func() { done <- Follow(ctx, path, &out) }()
	tail := old[:followTail-16] // the last 4 KiB, from the next line on
	until(tail)
	write(os.O_APPEND, "more\n")
	until(tail + "more\n")
	write(os.O_TRUNC, "short\n")
	until(tail + "more\nshort\n")
	if err := os.WriteFile(path+".new", []byte("a new file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	until(tail + "more\nshort\na new file\n")
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
