package vmtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
	"golang.org/x/sys/unix"
)

// terminal runs a program on a pseudo-terminal and returns the other end.
func terminal(t *testing.T, argv ...string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.Env = append(os.Environ(), "PS1=# ", "TERM=vt100")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		master.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return master
}

// noisy is a console into which the kernel writes as soon as text goes by.
type noisy struct {
	io.ReadWriteCloser
	at, noise []byte
	times     int
}

func (n *noisy) Read(p []byte) (int, error) {
	k, err := n.ReadWriteCloser.Read(p[:len(p)/2])
	if i := bytes.Index(p[:k], n.at); i >= 0 && n.times > 0 && err == nil {
		n.times--
		i += len(n.at)
		rest := bytes.Clone(p[i:k])
		k = i + copy(p[i:], append(bytes.Clone(n.noise), rest...))
	}
	return k, err
}

const getty = `printf '\r\nFreeBSD/amd64 (x) (ttyu0)\r\n\r\nlogin: '; read user
printf 'Password:'; stty -echo; read pw; stty echo; echo
if [ "$user:$pw" != root:secret ]; then echo 'Login incorrect'; printf 'login: '; read x; exit; fi
echo 'Last login: today'; exec /bin/sh -i`

func login(t *testing.T, wrap func(io.ReadWriteCloser) io.ReadWriteCloser) *Session {
	t.Helper()
	s := &Session{Console: vm.NewConsole(wrap(terminal(t, "/bin/sh", "-c", getty)), nil), Limit: 2 * time.Minute}
	if err := s.WaitLogin(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := s.Login(t.Context(), "root", "secret"); err != nil {
		t.Fatal(err)
	}
	return s
}

func plain(c io.ReadWriteCloser) io.ReadWriteCloser { return c }

func TestSession(t *testing.T) {
	s := login(t, plain)
	long := filepath.Join(t.TempDir(), "it's long")
	for _, tt := range []struct {
		command, output string
		status          int
	}{
		{"echo hello; echo wörld >&2", "hello\nwörld\n", 0},
		{"printf 'no newline'; exit 7", "no newline", 7},
		{"true", "", 0},
		{"cat; echo \"it's $0 \\$\"", "it's /bin/sh $\n", 0},
		{"for i in 1 2\ndo echo $i\ndone\ncat <<'X'\n  here 'doc'\nX\n", "1\n2\n  here 'doc'\n", 0},
		{"kill -9 $$", "", 137},
		{"seq 1 30000 >\"" + long + "\"", "", 0},
	} {
		output, status, err := s.Run(t.Context(), tt.command)
		if err != nil {
			t.Fatal(err)
		}
		// The shell itself speaks of a killed child.
		if tt.status != 137 && output != tt.output || status != tt.status {
			t.Errorf("%s: got %q %d, want %q %d", tt.command, output, status, tt.output, tt.status)
		}
	}
	if output, status, err := s.Run(t.Context(), "if then fi ("); err != nil || status == 0 {
		t.Errorf("syntax error: %q %d %v", output, status, err)
	}
	output, _, err := s.Run(t.Context(), "cat "+shellQuote(long))
	if want, _ := os.ReadFile(long); err != nil || output != string(want) {
		t.Errorf("long output: %d bytes of %d, %v", len(output), len(want), err)
	}
	b, err := s.ReadFile(t.Context(), long)
	if want, _ := os.ReadFile(long); err != nil || !bytes.Equal(b, want) {
		t.Errorf("long file: %d bytes of %d, %v", len(b), len(want), err)
	}
	if _, err := s.ReadFile(t.Context(), "/nonexistent"); err == nil || !strings.Contains(err.Error(), "read /nonexistent of the guest: not readable") {
		t.Errorf("no file: %v", err)
	}
	if _, _, err := s.Run(t.Context(), strings.Repeat("x", 4000)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("long command: %v", err)
	}
	s.Limit = 200 * time.Millisecond
	late := fmt.Sprintf("nothing after %v", Slow(s.Limit))
	if _, _, err := s.Run(t.Context(), "sleep 5"); err == nil || !strings.Contains(err.Error(), late) {
		t.Errorf("slow command: %v", err)
	}
}

func TestLoginIncorrect(t *testing.T) {
	s := &Session{Console: vm.NewConsole(terminal(t, "/bin/sh", "-c", getty), nil)}
	if err := s.WaitLogin(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := s.Login(t.Context(), "root", "wrong"); err == nil || err.Error() != "login as root: Login incorrect" {
		t.Error(err)
	}
}

// What is typed first is lost in part, in the middle of a word and of a quote.
func TestAttachLost(t *testing.T) {
	for _, eaten := range []int{1, 9, 30, 60} {
		s := &Session{Console: vm.NewConsole(terminal(t, "/bin/sh", "-c",
			fmt.Sprintf("stty -icanon; dd bs=1 count=%d of=/dev/null 2>/dev/null; stty icanon; exec /bin/sh -i", eaten)), nil)}
		if err := s.Attach(t.Context()); err != nil {
			t.Fatalf("%d bytes lost: %v", eaten, err)
		}
		if out, status, err := s.Run(t.Context(), "echo 'it'\\''s here'"); err != nil || status != 0 || out != "it's here\n" {
			t.Errorf("%d bytes lost: %q %d %v", eaten, out, status, err)
		}
	}
}

// Kernel messages within marks and within data.
func TestSessionNoise(t *testing.T) {
	const noise = "vtnet0: link state changed to UP\r\n"
	for _, at := range []string{"RIG-E", "RIG-B", "RIG-DA", "MDEy"} {
		n := &noisy{at: []byte(at), noise: []byte(noise), times: 1}
		s := login(t, func(c io.ReadWriteCloser) io.ReadWriteCloser { n.ReadWriteCloser = c; return n })
		out, status, err := s.Output(t.Context(), "echo 0123456789; exit 0")
		if err != nil || status != 0 || string(out) != "0123456789\n" {
			t.Errorf("noise at %s: %q %d %v", at, out, status, err)
		}
		if n.times != 0 {
			t.Errorf("noise at %s: there was none", at)
		}
	}
}

func TestDecode(t *testing.T) {
	for n := range 100 {
		data := bytes.Repeat([]byte{byte(n), 0xff}, n)
		text := base64.StdEncoding.EncodeToString(data)
		if len(text) > 60 {
			text = text[:60] + "\n" + text[60:]
		}
		got, err := decode(fmt.Sprintf("%x  -\nRIG-DATA\n%s\n", sha256.Sum256(data), text))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d: %x %v", n, got, err)
		}
	}
	if _, err := decode(fmt.Sprintf("%x\nRIG-DATA\nAAAA\n", sha256.Sum256(nil))); err == nil || err.Error() != "sha256 mismatch" {
		t.Error(err)
	}
}
