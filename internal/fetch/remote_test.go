package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestRemote(t *testing.T) {
	content := make([]byte, 3<<20+777)
	for i := range content {
		content[i] = byte(i * 7 / 5)
	}
	var requests, broken atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1)%5 == 2 { // one in five answers breaks off
			broken.Add(1)
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Unix(1, 0), bytes.NewReader(content))
	}))
	defer s.Close()
	c := &Client{Pause: time.Millisecond}
	r, err := c.Remote(t.Context(), s.URL)
	if err != nil || r.Size() != int64(len(content)) {
		t.Fatalf("%v, %+v", err, r)
	}
	got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if n := requests.Load(); n > 15 || broken.Load() == 0 {
		t.Errorf("%d requests to read forward, %d broken", n, broken.Load())
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		off, n := rnd.IntN(len(content)), rnd.IntN(300<<10)
		b := make([]byte, n)
		k, err := r.ReadAt(b, int64(off))
		want := content[off:min(off+n, len(content))]
		if !bytes.Equal(b[:k], want) || (k < n) != (err == io.EOF) {
			t.Fatalf("%d bytes at %d: %d, %v", n, off, k, err)
		}
	}
}

func TestRemoteFails(t *testing.T) {
	var version atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/changing", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Unix(1000*version.Add(1), 0), bytes.NewReader(make([]byte, 1<<20)))
	})
	mux.HandleFunc("/whole", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "all of it") })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	s := httptest.NewServer(mux)
	defer s.Close()
	c := &Client{Pause: time.Millisecond}
	if _, err := c.Remote(t.Context(), s.URL+"/whole"); !errors.Is(err, ErrNoParts) {
		t.Errorf("a server without parts: %v", err)
	}
	if _, err := c.Remote(t.Context(), s.URL+"/none"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "read "+s.URL+"/none: the server says 404") {
		t.Errorf("no file: %v", err)
	}
	if _, err := c.Remote(t.Context(), s.URL+"/broken"); err == nil || !strings.Contains(err.Error(), "the server says 502") {
		t.Errorf("a broken server: %v", err)
	}
	r, err := c.Remote(t.Context(), s.URL+"/changing")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(make([]byte, 1<<20), 0); err == nil || !strings.HasSuffix(err.Error(), "the file changed while it was read") {
		t.Errorf("a file that changes: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Remote(ctx, s.URL+"/changing"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
