package pxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"
)

// donePath is where a machine says, with ?mac=…, that it is installed.
const donePath = "rig/done"

func (s *Server) openHTTP() (service, error) {
	l, err := net.Listen("tcp4", netip.AddrPortFrom(s.seg.addr, uint16(s.o.Ports.HTTP)).String())
	if err != nil {
		return service{}, fmt.Errorf("HTTP server: %w", listenHint(err))
	}
	// No limit on the time of an answer: a layer on a slow line takes long.
	srv := &http.Server{Handler: http.HandlerFunc(s.handle), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: log.New(logWriter(s.logf), "", 0)}
	serve := func(context.Context) error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("HTTP server: %w", err)
		}
		return nil
	}
	// The last machine may be waiting for its answer.
	shut := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		srv.Shutdown(ctx)
		srv.Close()
		l.Close() // of a server that never served
	}
	return service{serve, shut}, nil
}

type logWriter func(string, ...any)

func (f logWriter) Write(b []byte) (int, error) {
	f("HTTP: %s", strings.TrimSpace(string(b)))
	return len(b), nil
}

// handle serves one request. Loaders ask for "//boot/…", and drop what they do not
// want half-way.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	name := clean(r.URL.Path)
	from := remote(r)
	if name == donePath {
		s.handleDone(w, r, from)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "read only", http.StatusMethodNotAllowed)
		return
	}
	e := Event{Phase: HTTP, MAC: s.machine(from), IP: from, File: name}
	f, size, err := s.tree.open(name)
	if err != nil {
		e.Err = err
		s.emit(e)
		code := http.StatusNotFound
		if !errors.Is(err, fs.ErrNotExist) {
			code = http.StatusInternalServerError
		}
		http.Error(w, http.StatusText(code), code)
		return
	}
	defer f.Close()
	e.Total = size
	w.Header().Set("Content-Type", contentType(name))
	// No time: all files of an image have the same, whatever is in them.
	cw := &countingWriter{ResponseWriter: w, server: s, event: e, begin: time.Now()}
	http.ServeContent(cw, r, name, time.Time{}, f)
	cw.finish(r)
}

func (s *Server) handleDone(w http.ResponseWriter, r *http.Request, from netip.Addr) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "GET or POST", http.StatusMethodNotAllowed)
		return
	}
	mac, err := net.ParseMAC(r.URL.Query().Get("mac"))
	if err != nil || len(mac) != 6 {
		http.Error(w, "?mac=52:54:00:12:34:56 is missing", http.StatusBadRequest)
		return
	}
	io.WriteString(w, "noted\n")
	s.installed(mac.String(), from)
}

func contentType(name string) string {
	switch path.Ext(name) {
	case ".conf", ".ipxe", ".lua", ".toml", ".txt":
		return "text/plain; charset=utf-8"
	case ".json":
		return "application/json"
	case ".efi":
		return "application/efi" // UEFI specification, 24.7
	}
	return "application/octet-stream"
}

func remote(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

const (
	// step is the number of bytes between two events of a transfer.
	step = 4 << 20
	// part is the number of bytes of one sendfile(2): with 4 MiB the receiver gets them
	// in gulps, and a file takes half as long again on Linux (TestHTTPSpeed).
	part = 32 << 10
)

// countingWriter emits events as a file goes out; the bytes still take the way of
// sendfile(2).
type countingWriter struct {
	http.ResponseWriter
	server *Server
	event  Event
	begin  time.Time
}

func (c *countingWriter) WriteHeader(code int) {
	var first, last int64
	if _, err := fmt.Sscanf(c.Header().Get("Content-Range"), "bytes %d-%d/", &first, &last); code == http.StatusPartialContent && err == nil {
		c.event.Total = last - first + 1
	}
	c.ResponseWriter.WriteHeader(code)
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.event.Bytes += int64(n)
	return n, err
}

// ReadFrom hands on in parts what http.ServeContent gives it, a range of a file.
func (c *countingWriter) ReadFrom(r io.Reader) (int64, error) {
	rf, ok := c.ResponseWriter.(io.ReaderFrom)
	lr, limited := r.(*io.LimitedReader)
	if !ok || !limited {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	var sum int64
	for next := int64(step); lr.N > 0; {
		want := min(lr.N, part)
		n, err := rf.ReadFrom(&io.LimitedReader{R: lr.R, N: want})
		sum += n
		lr.N -= n
		c.event.Bytes += n
		if err != nil || n < want {
			return sum, err
		}
		if sum >= next && lr.N > 0 {
			c.emit()
			next += step
		}
	}
	return sum, nil
}

func (c *countingWriter) emit() {
	c.event.Took = time.Since(c.begin)
	c.server.emit(c.event)
}

// finish emits the last event.
func (c *countingWriter) finish(r *http.Request) {
	if r.Method == http.MethodHead {
		return
	}
	if c.event.Bytes < c.event.Total {
		c.event.Err = context.Cause(r.Context())
		if c.event.Err == nil {
			c.event.Err = io.ErrShortWrite
		}
	}
	c.emit()
}
