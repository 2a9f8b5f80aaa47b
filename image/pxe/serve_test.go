package pxe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/diag"
)

// record keeps a server's events.
type record struct {
	mu   sync.Mutex
	list []Event
	more chan struct{}
}

func (r *record) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, e)
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// wait returns the first event that is so.
func (r *record) wait(t *testing.T, what string, is func(Event) bool) Event {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		i := slices.IndexFunc(r.list, is)
		if i >= 0 {
			e := r.list[i]
			r.mu.Unlock()
			return e
		}
		r.mu.Unlock()
		select {
		case <-r.more:
		case <-late:
			t.Fatalf("no event: %s; there were %+v", what, r.list)
		}
	}
}

// tree is a directory with a file of each kind of size.
func tree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, b []byte) {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("boot/loader.efi", pattern(665600))
	write("boot/loader.conf", []byte("geom_uzip_load=\"YES\"\n"))
	write("boot/empty", nil)
	for _, n := range []int{1, 511, 512, 513, 1428 * 64, 1428*64 + 1} {
		write(fmt.Sprintf("sizes/%d", n), pattern(n))
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("secret"), 0o644), os.Symlink(secret, filepath.Join(dir, "out")),
		os.Symlink("boot/loader.conf", filepath.Join(dir, "in"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// pattern is bytes of which no two blocks are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// freePort is one of UDP and TCP on the loopback.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		l.Close()
		if err == nil {
			c.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// start runs a server on the loopback, without DHCP, until the test ends.
func start(t testing.TB, o Options) (*Server, *record) {
	t.Helper()
	o.Listen, o.DHCP = netip.MustParseAddr("127.0.0.1"), Off
	o.Ports.TFTP, o.Ports.HTTP = freePort(t), freePort(t)
	return run(t, o)
}

func run(t testing.TB, o Options) (*Server, *record) {
	t.Helper()
	rec := &record{more: make(chan struct{}, 1)}
	ready := make(chan struct{})
	o.Events = func(e Event) {
		rec.add(e)
		if e.Phase == Ready {
			close(ready)
		}
	}
	o.Logf = t.Logf
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	end := errors.New("test ends")
	ctx, cancel := context.WithCancelCause(context.Background())
	result := make(chan error, 1)
	go func() { result <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel(end)
		if err := <-result; err != nil && !errors.Is(err, end) {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-result:
		result <- nil
		t.Fatalf("Run: %v", err)
	}
	return s, rec
}

func get(t testing.TB, s *Server, path string, header ...string) (*http.Response, string) {
	t.Helper()
	// http.Get would clean the path.
	c, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n", path, strings.Join(header, ""))
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return r, string(b)
}

func TestHTTP(t *testing.T) {
	s, rec := start(t, Options{Dir: tree(t), Files: map[string]string{"/boot/loader.conf.local": "rig.url=\"{http}\" {server}\n"}})
	efi := string(pattern(665600))
	for _, c := range []struct {
		path, header string
		code         int
		body         string
	}{
		{"/boot/loader.efi", "", 200, efi},
		{"//boot/loader.efi", "", 200, efi},
		{"/boot/../boot/./loader.efi", "", 200, efi},
		{"/boot/loader.efi", "Range: bytes=5-9\r\n", 206, efi[5:10]},
		{"/boot/loader.efi", "Range: bytes=665599-\r\n", 206, efi[665599:]},
		{"/boot/loader.efi", "Range: bytes=700000-\r\n", 416, "invalid range: failed to overlap\n"},
		{"/boot/empty", "", 200, ""},
		{"/in", "", 200, "geom_uzip_load=\"YES\"\n"},
		{"/boot/loader.conf.local", "", 200, "rig.url=\"" + s.URL() + "\" 127.0.0.1\n"},
		{"/boot", "", 404, "Not Found\n"},
		{"/", "", 404, "Not Found\n"},
		{"/out", "", 404, "Not Found\n"},
		{"/../../../../etc/passwd", "", 404, "Not Found\n"},
		{"/%2e%2e/%2e%2e/etc/passwd", "", 404, "Not Found\n"},
		{"/Boot/loader.efi", "", 404, "Not Found\n"},
		{"/boot/no%00", "", 404, "Not Found\n"},
		{"/rig/done", "", 400, "?mac=52:54:00:12:34:56 is missing\n"},
		{"/rig/done?mac=x", "", 400, "?mac=52:54:00:12:34:56 is missing\n"},
		{"/rig/done?mac=52-54-00-12-34-5A", "", 200, "noted\n"},
	} {
		r, body := get(t, s, c.path, c.header)
		if r.StatusCode != c.code || body != c.body {
			t.Errorf("%s %s: %d, %d bytes %.60q", c.path, c.header, r.StatusCode, len(body), body)
		}
		if r.Header.Get("Last-Modified") != "" || r.Header.Get("Location") != "" {
			t.Errorf("%s: %v", c.path, r.Header)
		}
	}
	if _, body := get(t, s, "/boot.ipxe"); !strings.Contains(body, "chain "+s.URL()+"/boot/loader.efi rootpath=tftp://127.0.0.1/ ") {
		t.Error(body)
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		req, _ := http.NewRequest(method, s.URL()+"/boot/loader.conf", strings.NewReader("x"))
		r, err := http.DefaultClient.Do(req)
		if err != nil || r.StatusCode != 405 {
			t.Errorf("%s: %v %v", method, r, err)
		}
	}
	e := rec.wait(t, "installed", func(e Event) bool { return e.Phase == Installed })
	if e.MAC != "52:54:00:12:34:5a" || e.IP.String() != "127.0.0.1" {
		t.Errorf("%+v", e)
	}
	rec.wait(t, "whole file", func(e Event) bool {
		return e.Phase == HTTP && e.File == "boot/loader.efi" && e.Bytes == 665600 && e.Total == 665600 && e.Err == nil
	})
	rec.wait(t, "part of it", func(e Event) bool { return e.File == "boot/loader.efi" && e.Bytes == 5 && e.Total == 5 })
	rec.wait(t, "missing", func(e Event) bool { return e.File == "Boot/loader.efi" && errors.Is(e.Err, fs.ErrNotExist) })
}

// Answers come from their own directory and from nowhere else, by the names that
// machines ask for.
func TestAnswers(t *testing.T) {
	dir, answers := tree(t), t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret.toml")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "rig/answers"), 0o755), os.Mkdir(filepath.Join(answers, "sub"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		filepath.Join(dir, "rig/answers/left.toml"): "left", secret: "secret",
		filepath.Join(answers, "52-54-00-12-34-56.toml"): "a = 1", filepath.Join(answers, "notes.txt"): "notes",
		filepath.Join(answers, "sub/x.toml"): "x",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink(secret, filepath.Join(answers, "out.toml")),
		os.Symlink("52-54-00-12-34-56.toml", filepath.Join(answers, "default.toml"))); err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, Options{Dir: dir, Answers: answers})
	none, _ := start(t, Options{Dir: dir})
	for path, want := range map[string]string{
		"/rig/answers/52-54-00-12-34-56.toml": "a = 1", "//rig//answers/default.toml": "a = 1", "/rig/answers/left.toml": "",
		"/rig/answers/out.toml": "", "/rig/answers/notes.txt": "", "/rig/answers/sub/x.toml": "", "/rig/answers/": "", "/rig/answers": "",
		"/rig/answers/../answers/sub/x.toml": "",
	} {
		code := 200
		if want == "" {
			code, want = 404, "Not Found\n"
		}
		if r, body := get(t, s, path); r.StatusCode != code || body != want {
			t.Errorf("%s: %s %q", path, r.Status, body)
		}
		if r, body := get(t, none, path); r.StatusCode != 404 {
			t.Errorf("without answers, %s: %s %q", path, r.Status, body)
		}
	}
	if err := os.WriteFile(filepath.Join(answers, "late.toml"), []byte("b = 2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, body := get(t, s, "/rig/answers/late.toml"); body != "b = 2" {
		t.Errorf("%q", body)
	}
}

// Loaders drop requests half-way.
func TestHTTPDropped(t *testing.T) {
	dir := tree(t)
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 64<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	s, rec := start(t, Options{Dir: dir})
	for _, text := range []string{"", "GET /b", "GET /big HTTP/1.1\r\nHost: x\r\n\r\n", "\x00\xff\r\n\r\n"} {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, text)
		if strings.Contains(text, "big") {
			io.ReadFull(c, make([]byte, 6<<20))
		}
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	rec.wait(t, "progress", func(e Event) bool { return e.File == "big" && e.Bytes == step && e.Total == 64<<20 })
	rec.wait(t, "dropped", func(e Event) bool { return e.File == "big" && e.Err != nil && e.Bytes < e.Total })
	if r, _ := get(t, s, "/boot/loader.conf"); r.StatusCode != 200 {
		t.Error(r.Status)
	}
}

func TestCount(t *testing.T) {
	o := Options{Dir: tree(t), Listen: netip.MustParseAddr("127.0.0.1"), DHCP: Off, Count: 2,
		Ports: Ports{TFTP: freePort(t), HTTP: freePort(t)}}
	ready := make(chan struct{})
	o.Events = func(e Event) {
		if e.Phase == Ready {
			close(ready)
		}
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() { result <- s.Run(t.Context()) }()
	<-ready
	for _, mac := range []string{"52:54:00:00:00:01", "52:54:00:00:00:01", "52:54:00:00:00:02"} {
		select {
		case err := <-result:
			t.Fatalf("ended before %s: %v", mac, err)
		case <-time.After(20 * time.Millisecond):
		}
		r, err := http.Post(s.URL()+"/rig/done?mac="+mac, "", nil)
		if err != nil || r.StatusCode != 200 {
			t.Fatalf("%s: %v", mac, err)
		}
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "http://")); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

// All ports that are not to be had are named, and what can be done about it.
func TestPortTaken(t *testing.T) {
	port := freePort(t)
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := New(Options{Dir: tree(t), Listen: netip.MustParseAddr("127.0.0.1"), DHCP: Off, Ports: Ports{TFTP: port, HTTP: port}})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context())
	for _, want := range []string{"HTTP server: listen tcp4 127.0.0.1:", "TFTP server: listen udp4 127.0.0.1:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if !strings.Contains(diag.HintOf(err), "--print dnsmasq") {
		t.Error(diag.HintOf(err))
	}
	if _, err := New(Options{Dir: "/nonexistent", Listen: netip.MustParseAddr("127.0.0.1"), DHCP: Off}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Servers come and go while clients are busy; the race detector looks on.
func TestShutdown(t *testing.T) {
	dir := tree(t)
	for range 5 {
		func() {
			o := Options{Dir: dir, Listen: netip.MustParseAddr("127.0.0.1"), DHCP: Off, Ports: Ports{TFTP: freePort(t), HTTP: freePort(t)}}
			ready := make(chan struct{})
			o.Events = func(e Event) {
				if e.Phase == Ready {
					close(ready)
				}
			}
			s, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error)
			go func() { result <- s.Run(ctx) }()
			<-ready
			var work sync.WaitGroup
			for range 4 {
				work.Go(func() {
					c, err := dialTFTP(o.Ports.TFTP)
					if err != nil {
						return
					}
					defer c.conn.Close()
					c.quiet = 200 * time.Millisecond
					c.get("boot/loader.efi", "blksize", "64")
				})
				work.Go(func() {
					if r, err := http.Get(s.URL() + "/boot/loader.efi"); err == nil {
						io.Copy(io.Discard, r.Body)
						r.Body.Close()
					}
				})
			}
			time.Sleep(5 * time.Millisecond)
			cancel()
			if err := <-result; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			work.Wait()
		}()
	}
}

func sameBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, want %d", what, len(got), len(want))
	}
}
