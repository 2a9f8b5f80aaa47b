package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var content = strings.Repeat("some content ", 100)

// serve answers with content, or with a status while there are some.
func serve(t *testing.T, status ...int) (url string, requests *[]string) {
	requests = new([]string)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*requests = append(*requests, strings.TrimSpace(r.Method+" "+r.Header.Get("Range")))
		if len(status) > 0 {
			w.WriteHeader(status[0])
			status = status[1:]
			return
		}
		http.ServeContent(w, r, "x", time.Unix(1700000000, 0), strings.NewReader(content))
	}))
	t.Cleanup(s.Close)
	return s.URL, requests
}

func TestFile(t *testing.T) {
	for _, c := range []struct {
		part     string
		status   []int
		limit    int64
		requests string
		want     string // error
		is       error
	}{
		{"", nil, 0, "GET", "", nil},
		{"", nil, 1300, "GET", "", nil},
		{content[:7], nil, 1300, "GET bytes=7-", "", nil},
		{content, nil, 0, "GET bytes=1300-", "", nil},
		{"", []int{503, 500}, 0, "GET GET GET", "", nil},
		{"", []int{503, 500, 429}, 0, "GET GET GET", "the server says 429 Too Many Requests", nil},
		{"", []int{404}, 0, "GET", "the server says 404 Not Found", fs.ErrNotExist},
		{"", []int{410}, 0, "GET", "the server says 410 Gone", fs.ErrNotExist},
		{"", []int{403}, 0, "GET", "the server says 403 Forbidden", nil},
		{"", nil, 1299, "GET", "it has 1300 bytes, at most 1299 expected", nil},
		{content[:7], []int{206}, 0, "GET bytes=7-", `asked for bytes from 7, got ""`, nil},
	} {
		url, requests := serve(t, c.status...)
		part := filepath.Join(t.TempDir(), "part")
		if c.part != "" {
			if err := os.WriteFile(part, []byte(c.part), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var last string
		client := Client{Pause: time.Millisecond, Progress: func(u string, done, total int64) { last = fmt.Sprint(u == url, done, total) }}
		err := client.File(context.Background(), url, part, c.limit)
		if got := strings.Join(*requests, " "); got != c.requests {
			t.Errorf("%+v: requests %s", c, got)
		}
		if c.want != "" {
			if err == nil || err.Error() != "download "+url+": "+c.want || errors.Is(err, fs.ErrNotExist) != (c.is == fs.ErrNotExist) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			continue
		}
		got, rerr := os.ReadFile(part)
		if err != nil || rerr != nil || string(got) != content || c.part != content && last != "true 1300 1300" {
			t.Errorf("%+v: %v, %v, %d bytes, progress %s", c, err, rerr, len(got), last)
		}
	}
}

func TestFileWithoutLength(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 10 {
			fmt.Fprint(w, content[:100])
			w.(http.Flusher).Flush()
		}
	}))
	defer s.Close()
	err := new(Client).File(context.Background(), s.URL, filepath.Join(t.TempDir(), "part"), 500)
	if err == nil || !strings.Contains(err.Error(), "it has more than the 500 bytes expected") {
		t.Errorf("got %v", err)
	}
}

func TestFileOnce(t *testing.T) {
	url, _ := serve(t)
	part := filepath.Join(t.TempDir(), "part")
	f, err := os.Create(part)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := new(Client).File(context.Background(), url, part, 0); err == nil || !strings.Contains(err.Error(), "another process is downloading it") {
		t.Errorf("got %v", err)
	}
}

func TestFileStalls(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "a bit")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer s.Close()
	var logged string
	c := Client{Attempts: 1, Stall: 20 * time.Millisecond, Logf: func(f string, a ...any) { logged = fmt.Sprintf(f, a...) }}
	err := c.File(context.Background(), s.URL, filepath.Join(t.TempDir(), "part"), 0)
	if err == nil || err.Error() != "download "+s.URL+": nothing received for a while" || logged != "" {
		t.Errorf("got %v, logged %q", err, logged)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := new(Client).File(ctx, s.URL, filepath.Join(t.TempDir(), "part"), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestTag(t *testing.T) {
	url, requests := serve(t, 503)
	c := Client{Pause: time.Millisecond}
	tag, err := c.Tag(context.Background(), url)
	if err != nil || !strings.Contains(tag, "2023 22:13:20 GMT 1300") || strings.Join(*requests, " ") != "HEAD HEAD" {
		t.Errorf("%q, %v, %v", tag, err, *requests)
	}
	url, _ = serve(t, 405, 404)
	if tag, err := c.Tag(context.Background(), url); tag != "" || err != nil {
		t.Errorf("%q, %v", tag, err)
	}
	if _, err := c.Tag(context.Background(), url); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "ask for "+url+": the server says 404 Not Found") {
		t.Errorf("got %v", err)
	}
}
