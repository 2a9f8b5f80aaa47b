package pxe

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/referee"
)

// fastest runs the functions in turns and returns the least time of each, which is
// what the rest of a busy machine adds least to. It goes on, for a while, until the
// result is good.
func fastest(t *testing.T, good func(d []time.Duration) bool, fs ...func() error) []time.Duration {
	t.Helper()
	out := make([]time.Duration, len(fs))
	for round := 0; round < 9 || round < 45 && !good(out); round++ {
		for i, f := range fs {
			begin := time.Now()
			if err := f(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); round == 0 || took < out[i] {
				out[i] = took
			}
		}
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

// publicDir is a directory that daemons without root's rights can read.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
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
	dir := publicDir(t)
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

	windows := func(d []time.Duration) bool { return d[2]*2 <= d[0] && d[5]*2 <= d[3] }
	plain := func(d []time.Duration) bool { return d[4]*3 <= d[3]*2 } // 2.1 to 3 times as fast was seen
	d := fastest(t, func(d []time.Duration) bool { return windows(d) && plain(d) }, get(port, "blksize", "1428"), get(s.o.Ports.TFTP, "blksize", "1428"),
		get(s.o.Ports.TFTP, "blksize", "1428", "windowsize", "32"), get(port), get(s.o.Ports.TFTP), get(s.o.Ports.TFTP, "windowsize", "32"))
	t.Logf("blksize 1428: tftpd-hpa %s, rig %s, rig with windowsize 32 %s", rate(tftpSize, d[0]), rate(tftpSize, d[1]), rate(tftpSize, d[2]))
	t.Logf("no options: tftpd-hpa %s, rig %s (%.1f times), rig with windowsize 32 %s", rate(tftpSize, d[3]), rate(tftpSize, d[4]),
		d[3].Seconds()/d[4].Seconds(), rate(tftpSize, d[5]))
	if !windows(d) {
		t.Errorf("with a window it is not twice as fast as tftpd-hpa, which has none")
	}
	if !plain(d) {
		t.Errorf("without options it is hardly faster than tftpd-hpa: %v, %v", d[4], d[3])
	}
	if curl, ok := referee.Find("curl"); ok {
		fetch := func(port int, size string) func() error {
			return func() error {
				return exec.Command(curl, "-sS", "-o", "/dev/null", "--tftp-blksize", size, fmt.Sprintf("tftp://127.0.0.1:%d/f", port)).Run()
			}
		}
		c := fastest(t, func([]time.Duration) bool { return true }, fetch(port, "1428"), fetch(s.o.Ports.TFTP, "1428"))
		t.Logf("curl, blksize 1428: tftpd-hpa %s, rig %s", rate(tftpSize, c[0]), rate(tftpSize, c[1]))
	}
}

func TestHTTPSpeed(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	referee.Need(t, "nginx")
	const size = 512 << 20
	dir := publicDir(t)
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
	curl := referee.Need(t, "curl") // a process of its own beside either server
	get := func(port int) func() error {
		return func() error {
			out, err := exec.Command(curl, "-sSf", "-o", os.DevNull, "-w", "%{size_download}", fmt.Sprintf("http://127.0.0.1:%d/f", port)).Output()
			if err == nil && string(out) != strconv.Itoa(size) {
				err = fmt.Errorf("%s bytes", out)
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
	good := func(d []time.Duration) bool { return d[1] <= d[0] }
	d := fastest(t, good, get(port), get(s.o.Ports.HTTP))
	t.Logf("HTTP: nginx %s, rig %s, %.2f of its time", rate(size, d[0]), rate(size, d[1]), d[1].Seconds()/d[0].Seconds())
	if !good(d) {
		t.Errorf("slower than nginx: %v, %v", d[1], d[0])
	}
}
