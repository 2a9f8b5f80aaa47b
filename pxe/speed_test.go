package pxe

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rig/internal/referee"
)

// medians runs the functions five times in turns and returns each one's median time.
// What else the machine does then counts for all of them.
func medians(t *testing.T, fs ...func() error) []time.Duration {
	t.Helper()
	const rounds = 5
	times := make([][]time.Duration, len(fs))
	for range rounds {
		for i, f := range fs {
			begin := time.Now()
			if err := f(); err != nil {
				t.Fatal(err)
			}
			times[i] = append(times[i], time.Since(begin))
		}
	}
	var out []time.Duration
	for _, list := range times {
		slices.Sort(list)
		out = append(out, list[rounds/2])
	}
	return out
}

func rate(bytes int, d time.Duration) string {
	return fmt.Sprintf("%.0f MB/s", float64(bytes)/d.Seconds()/1e6)
}

// daemon runs a server until the test ends; ready says whether it answers.
func daemon(t *testing.T, ready func() bool, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(referee.Need(t, program), args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 100 {
		if ready() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s does not answer", program)
}

// tftpSize is small: without a window each block waits until both programs have run,
// which on a busy machine is milliseconds.
const tftpSize = 1 << 20

func TestTFTPSpeed(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	referee.Need(t, "in.tftpd")
	if os.Getuid() != 0 {
		t.Skip("NOT ROOT: in.tftpd --secure cannot chroot; nothing was compared")
	}
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), pattern(tftpSize), 0o644); err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, Options{Dir: dir})
	port := freePort(t)
	get := func(port int, options ...string) func() error {
		return func() error {
			c, err := dialTFTP(port)
			if err != nil {
				return err
			}
			defer c.conn.Close()
			c.data = make([]byte, 0, tftpSize)
			b, err := c.get("f", options...)
			if err == nil && len(b) != tftpSize {
				err = fmt.Errorf("%d bytes", len(b))
			}
			return err
		}
	}
	daemon(t, func() bool { return get(port, "blksize", "65464")() == nil }, "in.tftpd", "-L", "-a", fmt.Sprintf("127.0.0.1:%d", port), "-u", "root", "-s", dir)

	d := medians(t, get(port, "blksize", "1428"), get(s.o.Ports.TFTP, "blksize", "1428"),
		get(s.o.Ports.TFTP, "blksize", "1428", "windowsize", "32"), get(port), get(s.o.Ports.TFTP), get(s.o.Ports.TFTP, "windowsize", "32"))
	t.Logf("blksize 1428: tftpd-hpa %s, rig %s, rig with windowsize 32 %s", rate(tftpSize, d[0]), rate(tftpSize, d[1]), rate(tftpSize, d[2]))
	t.Logf("no options: tftpd-hpa %s, rig %s, rig with windowsize 32 %s", rate(tftpSize, d[3]), rate(tftpSize, d[4]), rate(tftpSize, d[5]))
	if d[2]*2 > d[0] {
		t.Errorf("with a window it is not twice as fast as tftpd-hpa, which has none")
	}
	if curl, ok := referee.Find("curl"); ok {
		fetch := func(port int, size string) func() error {
			return func() error {
				return exec.Command(curl, "-sS", "-o", "/dev/null", "--tftp-blksize", size, fmt.Sprintf("tftp://127.0.0.1:%d/f", port)).Run()
			}
		}
		c := medians(t, fetch(port, "1428"), fetch(s.o.Ports.TFTP, "1428"))
		t.Logf("curl, blksize 1428: tftpd-hpa %s, rig %s", rate(tftpSize, c[0]), rate(tftpSize, c[1]))
	}
}

func TestHTTPSpeed(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	referee.Need(t, "nginx")
	const size = 512 << 20
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "f"))
	if err == nil {
		err = f.Truncate(size)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, Options{Dir: dir})
	port := freePort(t)
	conf := nginxConfig(t, printed(t, "nginx", Options{Dir: dir, Ports: Ports{HTTP: port}}))
	get := func(port int) func() error {
		return func() error {
			r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/f", port))
			if err != nil {
				return err
			}
			defer r.Body.Close()
			buf := make([]byte, 256<<10)
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, buf)
			if err == nil && n != size {
				err = fmt.Errorf("%d bytes", n)
			}
			return err
		}
	}
	daemon(t, func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err == nil
	}, "nginx", "-c", conf)
	d := medians(t, get(port), get(s.o.Ports.HTTP))
	t.Logf("nginx %s, rig %s", rate(size, d[0]), rate(size, d[1]))
	if float64(d[1]) > 1.1*float64(d[0]) { // what a busy machine makes of the same
		t.Errorf("slower than nginx: %v, %v", d[1], d[0])
	}
}
