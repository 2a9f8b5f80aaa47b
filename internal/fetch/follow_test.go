package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A file is read while it comes: its end at once, the rest when it is there.
func TestFollow(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 20<<10) // 320 KiB
	for name, ranges := range map[string]bool{"with parts": true, "without parts": false} {
		t.Run(name, func(t *testing.T) {
			more := make(chan bool)
			var broke atomic.Bool
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !ranges {
					r.Header.Del("Range")
				}
				if r.Header.Get("Range") == "" && ranges { // the first time it breaks off in the middle
					w.Header().Set("Content-Length", fmt.Sprint(len(want)))
					w.Write(want[:100<<10])
					w.(http.Flusher).Flush()
					<-more
					broke.Store(true)
					panic(http.ErrAbortHandler)
				}
				http.ServeContent(w, r, "x", time.Unix(1700000000, 0), bytes.NewReader(want))
			}))
			defer s.Close()
			c := Client{Pause: time.Millisecond}
			f, err := c.Follow(context.Background(), s.URL, filepath.Join(t.TempDir(), "part"), int64(len(want)))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got := make([]byte, 10)
			if ranges {
				for _, off := range []int64{int64(len(want)) - 10, 1000, 100<<10 - 10} {
					if n, err := f.ReadAt(got, off); n != 10 || err != nil || !bytes.Equal(got, want[off:off+10]) || broke.Load() {
						t.Errorf("at %d: %q, %v", off, got[:n], err)
					}
				}
				close(more)
			}
			all, err := io.ReadAll(io.NewSectionReader(f, 0, int64(len(want))))
			if err != nil || !bytes.Equal(all, want) {
				t.Errorf("%d bytes, %v", len(all), err)
			}
			if err := f.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFollowFails(t *testing.T) {
	url, _ := serve(t)
	part := filepath.Join(t.TempDir(), "part")
	c := Client{Attempts: 1}
	if _, err := c.Follow(context.Background(), url, part, 2000); err == nil || err.Error() != "download "+url+": it has 1300 bytes; expected 2000" {
		t.Errorf("got %v", err)
	}
	short := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, content) })) // without parts
	defer short.Close()
	f, err := c.Follow(context.Background(), short.URL, part, 2000)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Wait(); err == nil || !strings.Contains(err.Error(), "it has 1300 bytes; expected 2000") {
		t.Errorf("got %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 10), 1500); err == nil || !strings.Contains(err.Error(), "expected 2000") {
		t.Errorf("a read beyond: %v", err)
	}
	url, _ = serve(t, 404)
	if _, err := c.Follow(context.Background(), url, part, 10); err == nil || err.Error() != "download "+url+": the server says 404 Not Found" {
		t.Errorf("got %v", err)
	}
}

func TestBytesSizePost(t *testing.T) {
	url, requests := serve(t)
	c := Client{}
	b, err := c.Bytes(context.Background(), url, 1300)
	if err != nil || string(b) != content {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if n, err := c.Size(context.Background(), url); n != 1300 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := c.Post(context.Background(), url); err != nil {
		t.Error(err)
	}
	if got := strings.Join(*requests, " "); got != "GET HEAD POST" {
		t.Errorf("requests %s", got)
	}
	if _, err := c.Bytes(context.Background(), url, 10); err == nil || !strings.Contains(err.Error(), "at most 10 expected") {
		t.Errorf("got %v", err)
	}
	url, _ = serve(t, 404)
	if _, err := c.Size(context.Background(), url); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "rig-fetch-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
