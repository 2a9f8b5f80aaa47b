package sets

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/diag"
)

// mirror serves a directory and can misbehave.
type mirror struct {
	*httptest.Server
	mu      sync.Mutex
	log     []string // "name range status"
	breakAt int      // close the connection after so many bytes, once for each file
	broken  map[string]bool
	noRange bool
	fail    int // answer 503 so many times
}

func newMirror(t *testing.T, dir string) *mirror {
	m := &mirror{broken: map[string]bool{}}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, "/releases/amd64/15.1-RELEASE/")
		m.mu.Lock()
		defer m.mu.Unlock()
		m.log = append(m.log, strings.TrimSpace(name+" "+r.Header.Get("Range")))
		if m.fail > 0 {
			m.fail--
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		if m.noRange {
			r.Header.Del("Range")
		}
		if m.breakAt > 0 && !m.broken[name] {
			m.broken[name] = true
			b, _ := os.ReadFile(filepath.Join(dir, name))
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			w.Write(b[:min(m.breakAt, len(b)-1)])
			return
		}
		http.ServeFile(w, r, filepath.Join(dir, name))
	}))
	t.Cleanup(m.Close)
	t.Setenv("RIG_SETS", "")
	return m
}

func (m *mirror) options(t *testing.T, cache string) Options {
	return Options{Cache: cache, Mirror: m.URL + "/releases/", Version: "15.1-RELEASE", Arch: "amd64", Logf: t.Logf}
}

func (m *mirror) requests() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := strings.Join(m.log, ", ")
	m.log = nil
	return s
}

func TestMirror(t *testing.T) {
	m := newMirror(t, demoDir(t))
	cache := t.TempDir()
	o := m.options(t, cache)
	tr, _ := readTree(t, o, "base")
	if v, err := Version(tr); v != DemoVersion || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if got := m.requests(); got != "MANIFEST, base.txz" {
		t.Errorf("requests %s", got)
	}
	readTree(t, o, "base")
	if got := m.requests(); got != "" {
		t.Errorf("requests %s for a set in the cache", got)
	}
	sets := filepath.Join(cache, "sets", "15.1-RELEASE-amd64")
	if err := os.WriteFile(filepath.Join(sets, "base.txz"), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Locate(ctx, o, "kernel", "base")
	if err != nil {
		t.Fatal(err)
	}
	if list := s.All(); list[0].Name != "kernel" || list[1].Name != "base" || list[1].Path != filepath.Join(sets, "base.txz") {
		t.Errorf("%+v", list)
	}
	if got := m.requests(); got != "kernel.txz, base.txz" {
		t.Errorf("requests %s", got)
	}
	if left, _ := filepath.Glob(filepath.Join(sets, "*.part")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestMirrorResumes(t *testing.T) {
	dir := demoDir(t)
	m := newMirror(t, dir)
	m.breakAt = 100
	readTree(t, m.options(t, t.TempDir()), "base") // one second of pause for each file
	if got := m.requests(); got != "MANIFEST, MANIFEST bytes=100-, base.txz, base.txz bytes=100-" {
		t.Errorf("requests %s", got)
	}

	// A part of an earlier run: right, whole, wrong, and with a mirror without ranges.
	whole, err := os.ReadFile(filepath.Join(dir, "base.txz"))
	if err != nil {
		t.Fatal(err)
	}
	n := len(whole)
	m.breakAt = 0
	for _, c := range []struct {
		part    []byte
		noRange bool
		want    string
	}{
		{whole[:500], false, "MANIFEST, base.txz bytes=500-"},
		{whole[:500], true, "MANIFEST, base.txz bytes=500-"},
		{whole, false, fmt.Sprintf("MANIFEST, base.txz bytes=%d-", n)},
		{make([]byte, 500), false, "MANIFEST, base.txz bytes=500-, base.txz"},
	} {
		cache := t.TempDir()
		sets := filepath.Join(cache, "sets", "15.1-RELEASE-amd64")
		os.MkdirAll(sets, 0o755)
		os.WriteFile(filepath.Join(sets, "base.txz.part"), c.part, 0o644)
		m.noRange = c.noRange
		readTree(t, m.options(t, cache), "base")
		if got := m.requests(); got != c.want {
			t.Errorf("requests %s, want %s", got, c.want)
		}
	}
}

func TestMirrorFails(t *testing.T) {
	dir := demoDir(t)
	m := newMirror(t, dir)
	check := func(what string, o Options, want string, names ...string) {
		t.Helper()
		_, err := Locate(ctx, o, names...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", what, err, want)
		}
		if diag.ExitCode(err) != 1 || !strings.Contains(diag.HintOf(err), "put MANIFEST, ") || !strings.Contains(diag.HintOf(err), "--sets") {
			t.Errorf("%s: exit code %d, hint %q", what, diag.ExitCode(err), diag.HintOf(err))
		}
	}
	o := m.options(t, t.TempDir())
	o.Version = "99.0-RELEASE"
	check("no such release", o, "sets of FreeBSD 99.0-RELEASE amd64: download "+m.URL+"/releases/amd64/99.0-RELEASE/MANIFEST: the server says 404 Not Found", "base")
	check("no such set", m.options(t, t.TempDir()), "src.txz is not in MANIFEST, which lists base.txz kernel.txz", "src")

	os.WriteFile(filepath.Join(dir, "base.txz"), []byte("something else"), 0o644)
	cache := t.TempDir()
	check("wrong hash", m.options(t, cache), "base.txz is corrupt: its sha256 is", "base")
	if left, _ := filepath.Glob(filepath.Join(cache, "sets", "*", "base*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("<html>login</html>"), 0o644)
	check("captive portal", m.options(t, t.TempDir()), "is not a manifest", "base")
}

func TestFetchGivesUp(t *testing.T) {
	m := newMirror(t, demoDir(t))
	m.fail = 2
	f := newFetcher(m.options(t, t.TempDir()).withDefaults())
	f.client.Pause = time.Millisecond
	if err := f.download(ctx, "MANIFEST", filepath.Join(t.TempDir(), "p")); err != nil {
		t.Error(err)
	}
	m.fail = 3
	if err := f.download(ctx, "MANIFEST", filepath.Join(t.TempDir(), "p")); err == nil || !strings.Contains(err.Error(), "503 Service Unavailable") {
		t.Errorf("got %v", err)
	}
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("a bit"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer slow.Close()
	f.base, f.client.Stall, f.client.Attempts = slow.URL, 50*time.Millisecond, 1
	if err := f.download(ctx, "MANIFEST", filepath.Join(t.TempDir(), "p")); err == nil || !strings.Contains(err.Error(), "nothing received for a while") {
		t.Errorf("got %v", err)
	}
}
