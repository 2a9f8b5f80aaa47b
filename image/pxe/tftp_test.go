package pxe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/referee"
)

// tftpClient is a client that knows windows, and how to lose packets.
type tftpClient struct {
	conn  *net.UDPConn
	to    *net.UDPAddr
	quiet time.Duration // after which it asks again
	lose  func(block uint16) bool
	oack  string
	data  []byte
	dups  int
}

func dialTFTP(port int) (*tftpClient, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	return &tftpClient{conn: c, to: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, quiet: 5 * time.Second}, nil
}

func requestPacket(op uint16, fields ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, op)
	for _, f := range fields {
		b = append(append(b, f...), 0)
	}
	return b
}

// get reads a file with options: "blksize", "1428", …
func (c *tftpClient) get(name string, options ...string) ([]byte, error) {
	c.conn.WriteTo(requestPacket(opRead, append([]string{name, "octet"}, options...)...), c.to)
	block, window := 512, 1
	var last uint64 // block in order
	inWindow := 0
	buf := make([]byte, 66000)
	ack := func() { c.conn.WriteTo([]byte{0, 4, byte(last >> 8), byte(last)}, c.to) }
	for {
		c.conn.SetReadDeadline(time.Now().Add(c.quiet))
		n, from, err := c.conn.ReadFromUDP(buf)
		if err != nil {
			return nil, fmt.Errorf("after block %d: %w", last, err)
		}
		c.to = from
		switch op := binary.BigEndian.Uint16(buf); op {
		case opError:
			return nil, fmt.Errorf("error %d: %s", binary.BigEndian.Uint16(buf[2:]), buf[4:n-1])
		case opOack:
			c.oack = strings.ReplaceAll(strings.TrimSuffix(string(buf[2:n]), "\x00"), "\x00", " ")
			f := strings.Fields(c.oack)
			for i := 0; i+1 < len(f); i += 2 {
				v, _ := strconv.Atoi(f[i+1])
				switch f[i] {
				case "blksize":
					block = v
				case "windowsize":
					window = v
				}
			}
			ack()
		case opData:
			k := binary.BigEndian.Uint16(buf[2:])
			if c.lose != nil && c.lose(k) {
				continue
			}
			if k != uint16(last+1) {
				if k == uint16(last) {
					c.dups++
				}
				if window > 1 && inWindow >= 0 { // say it once
					ack()
					inWindow = -1
				}
				continue
			}
			last++
			inWindow = max(inWindow, 0) + 1
			c.data = append(c.data, buf[4:n]...)
			if n-4 < block {
				ack()
				return c.data, nil
			}
			if inWindow == window {
				ack()
				inWindow = 0
			}
		default:
			return nil, fmt.Errorf("operation %d", op)
		}
	}
}

func newClient(t testing.TB, s *Server) *tftpClient {
	t.Helper()
	c, err := dialTFTP(s.o.Ports.TFTP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

func TestTFTP(t *testing.T) {
	s, rec := start(t, Options{Dir: tree(t)})
	for _, n := range []int{1, 511, 512, 513, 1428 * 64, 1428*64 + 1} {
		for _, o := range []string{"", "tsize 0", "blksize 1428 tsize 0", "blksize 1428 windowsize 16", "BLKSIZE 8 windowsize 3", "blksize 65464 windowsize 64 timeout 2", "blksize 70000"} {
			c := newClient(t, s)
			got, err := c.get(fmt.Sprintf("sizes/%d", n), strings.Fields(o)...)
			if err != nil {
				t.Fatalf("%d %s: %v", n, o, err)
			}
			sameBytes(t, fmt.Sprintf("%d %s", n, o), got, pattern(n))
			if c.dups > 0 {
				t.Errorf("%d %s: %d packets came twice", n, o, c.dups)
			}
			want := strings.NewReplacer("tsize 0", fmt.Sprint("tsize ", n), "70000", "65464", "windowsize 64", "windowsize 16").Replace(strings.ToLower(o))
			if c.oack != want {
				t.Errorf("%s: agreed on %q", o, c.oack)
			}
		}
	}
	if got, err := newClient(t, s).get("//boot/empty", "windowsize", "8"); err != nil || len(got) != 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := newClient(t, s).get("/boot/loader.conf", "blksize", "x", "unknown", "1", "blksize", "9", "timeout", "0"); err != nil || len(got) == 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	rec.wait(t, "file", func(e Event) bool {
		return e.Phase == TFTP && e.File == "sizes/513" && e.Bytes == 513 && e.Total == 513 && e.Err == nil
	})
}

func TestTFTPRefuses(t *testing.T) {
	s, rec := start(t, Options{Dir: tree(t)})
	for _, c := range []struct {
		packet []byte
		code   uint16
		text   string
	}{
		{requestPacket(opRead, "boot/none", "octet"), codeNotFound, "file not found"},
		{requestPacket(opRead, "Boot/loader.efi", "octet"), codeNotFound, "file not found"},
		{requestPacket(opRead, "boot", "octet"), codeNotFound, "file not found"},
		{requestPacket(opRead, "out", "octet"), codeNotFound, "file not found"},
		{requestPacket(opRead, "../../../etc/passwd", "octet"), codeNotFound, "file not found"},
		{requestPacket(opRead, "/", "octet"), codeNotFound, "file not found"},
		{requestPacket(opRead, "boot/loader.efi", "netascii"), codeIllegal, "only mode octet is served"},
		{requestPacket(opWrite, "boot/loader.efi", "octet"), codeAccess, "read only"},
		{requestPacket(opRead, "boot/loader.efi"), codeIllegal, "not a TFTP request"},
		{requestPacket(opAck), codeIllegal, "not a TFTP request"},
		{requestPacket(9, "x", "octet"), codeIllegal, "not a TFTP request"},
	} {
		cl := newClient(t, s)
		begin := time.Now()
		cl.conn.WriteTo(c.packet, cl.to)
		cl.conn.SetReadDeadline(begin.Add(5 * time.Second))
		b := make([]byte, 100)
		n, _, err := cl.conn.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], errorPacket(c.code, c.text)) {
			t.Errorf("%q: %q %v", c.packet, b[:n], err)
		}
	}
	rec.wait(t, "missing", func(e Event) bool { return e.File == "boot/none" && errors.Is(e.Err, fs.ErrNotExist) })
	cl := newClient(t, s)
	for _, b := range [][]byte{{}, {1}, errorPacket(0, "no answer to errors")} {
		cl.conn.WriteTo(b, cl.to)
	}
	if _, err := cl.get("boot/loader.conf"); err != nil {
		t.Error(err)
	}
}

// More blocks than 16 bits count.
func TestTFTPRollOver(t *testing.T) {
	dir := t.TempDir()
	want := pattern(8*(1<<16+1<<15) + 3)
	if err := os.WriteFile(filepath.Join(dir, "f"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, Options{Dir: dir})
	for _, o := range []string{"blksize 8", "blksize 8 windowsize 31"} {
		got, err := newClient(t, s).get("f", strings.Fields(o)...)
		if err != nil {
			t.Fatal(err)
		}
		sameBytes(t, o, got, want)
	}
}

// Packets are lost, each block once at most; what the client has not got comes again.
func TestTFTPLoss(t *testing.T) {
	s, _ := start(t, Options{Dir: tree(t)})
	for _, o := range []string{"timeout 1 blksize 32768", "timeout 1 blksize 1428 windowsize 16"} {
		t.Run(o, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, s)
			lost := map[uint16]bool{}
			c.lose = func(n uint16) bool {
				if lost[n] || n%97 != 5 {
					return false
				}
				lost[n] = true
				return true
			}
			got, err := c.get("boot/loader.efi", strings.Fields(o)...)
			if err != nil {
				t.Fatal(err)
			}
			sameBytes(t, o, got, pattern(665600))
			if len(lost) == 0 {
				t.Error("nothing was lost")
			}
		})
	}
}

func TestTFTPParallel(t *testing.T) {
	s, _ := start(t, Options{Dir: tree(t)})
	var work sync.WaitGroup
	for range 20 {
		c := newClient(t, s)
		work.Go(func() {
			if got, err := c.get("boot/loader.efi", "blksize", "1428", "windowsize", "4"); err != nil || !bytes.Equal(got, pattern(665600)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	work.Wait()
}

// A client that asks for the size only, one that gives up, one that asks again, and
// strangers in between.
func TestTFTPInterrupted(t *testing.T) {
	s, rec := start(t, Options{Dir: tree(t)})
	c := newClient(t, s)
	b := make([]byte, 2000)
	read := func() ([]byte, net.Addr) {
		t.Helper()
		c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, from, err := c.conn.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return b[:n], from
	}
	ask := requestPacket(opRead, "boot/loader.efi", "octet", "tsize", "0")
	c.conn.WriteTo(ask, c.to)
	p, from := read()
	if !bytes.Equal(p, append(requestPacket(opOack), "tsize\x00665600\x00"...)) {
		t.Errorf("%q", p)
	}
	stranger := newClient(t, s)
	stranger.conn.WriteTo([]byte{0, 4, 0, 0}, from)
	c.conn.WriteTo([]byte("\x00\x04\x00\x07 not a block of the window"), from)
	c.conn.WriteTo([]byte{0}, from)
	c.conn.WriteTo(errorPacket(8, "only the size"), from)
	c.conn.WriteTo(ask, c.to)
	if p, from = read(); p[1] != byte(opOack) {
		t.Errorf("the second request: %q", p)
	}
	c.conn.WriteTo(ask, c.to) // impatient: no second transfer
	c.conn.WriteTo([]byte{0, 4, 0, 0}, from)
	p, again := read()
	for p[1] == byte(opOack) { // the first transfer's, sent again
		p, again = read()
	}
	if p[1] != byte(opData) || again.String() != from.String() {
		t.Errorf("%q from %v, not %v", p[:4], again, from)
	}
	c.conn.WriteTo([]byte{0, 4, 0, 1}, from)
	read()
	c.conn.WriteTo(errorPacket(0, "No error: file closed"), from)
	e := rec.wait(t, "given up", func(e Event) bool { return e.Phase == TFTP && e.Err != nil && e.Bytes > 0 })
	if e.Bytes != 512 || e.Err.Error() != "the client ended the transfer: No error: file closed (code 0)" {
		t.Errorf("%+v", e)
	}
}

// A request that differs, or that comes when the transfer was under way for long,
// ends that transfer.
func TestTFTPAnew(t *testing.T) {
	s, rec := start(t, Options{Dir: tree(t)})
	c := newClient(t, s)
	for i, name := range []string{"boot/loader.efi", "boot/loader.efi", "sizes/513"} {
		got, err := c.again(s, name)
		if err != nil || !bytes.Equal(got, pattern(512)) {
			t.Fatalf("%d: %d bytes, %v", i, len(got), err)
		}
		if i == 0 {
			time.Sleep(resendAfter + 100*time.Millisecond)
		}
	}
	for range 2 {
		e := rec.wait(t, "replaced", func(e Event) bool { return e.Err == errAnew })
		if e.File != "boot/loader.efi" {
			t.Errorf("%+v", e)
		}
	}
}

// again asks for a file, and for no more of it than its first block.
func (c *tftpClient) again(s *Server, name string) ([]byte, error) {
	c.conn.WriteTo(requestPacket(opRead, name, "octet", "tsize", "0"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.o.Ports.TFTP})
	b := make([]byte, 2000)
	var from net.Addr
	for oack := false; ; {
		c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, a, err := c.conn.ReadFrom(b)
		switch {
		case err != nil:
			return nil, err
		case b[1] == byte(opOack) && (from == nil || from.String() != a.String()):
			from, oack = a, true
			c.conn.WriteTo([]byte{0, 4, 0, 0}, from)
		case b[1] == byte(opData) && oack && a.String() == from.String():
			return b[4:n], nil
		}
	}
}

func TestTFTPCurl(t *testing.T) {
	curl := referee.Need(t, "curl")
	s, _ := start(t, Options{Dir: tree(t)})
	for _, size := range []string{"512", "1428", "65464"} {
		out, err := exec.Command(curl, "-sS", "--tftp-blksize", size, fmt.Sprintf("tftp://127.0.0.1:%d//boot/loader.efi", s.o.Ports.TFTP)).Output()
		if err != nil {
			t.Fatal(err)
		}
		sameBytes(t, size, out, pattern(665600))
	}
	var exit *exec.ExitError
	if err := exec.Command(curl, "-sS", fmt.Sprintf("tftp://127.0.0.1:%d/none", s.o.Ports.TFTP)).Run(); !errors.As(err, &exit) || exit.ExitCode() != 68 {
		t.Errorf("a missing file: %v, want curl's 68", err)
	}
}

func FuzzTFTP(f *testing.F) {
	f.Add(requestPacket(opRead, "boot/loader.efi", "octet", "blksize", "1428", "tsize", "0", "windowsize", "4", "timeout", "1"))
	f.Add(requestPacket(opWrite, "x", "netascii"))
	f.Add([]byte{0, 4, 0, 1})
	f.Add(errorPacket(0, "text"))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseReply(b)
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if r.name == "" || r.op != opRead && r.op != opWrite {
			t.Errorf("%+v", r)
		}
		n := r.negotiate(1 << 33)
		if n.block < minBlock || n.block > maxBlock || n.window < 1 || n.window > maxWindow || n.window*n.block > max(windowBytes, maxBlock) || n.timeout < 0 || n.timeout > 255 {
			t.Errorf("%+v", n)
		}
		if name := clean(r.name); strings.HasPrefix(name, "/") || strings.HasPrefix(name, "../") || name == ".." {
			t.Errorf("%q", name)
		}
	})
}
