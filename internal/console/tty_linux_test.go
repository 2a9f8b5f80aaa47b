package console

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A console needs a process of its own: the test binary again, told by
// RIG_CONSOLE what to do with which line.
func TestMain(m *testing.M) {
	what, tty, _ := strings.Cut(os.Getenv("RIG_CONSOLE"), " ")
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "failed:", err)
			os.Exit(1)
		}
	}
	switch what {
	case "attach":
		fail(Attach(tty))
		fmt.Printf("attached TERM=%s PATH=%s RIG_TTY=%s\n", os.Getenv("TERM"), os.Getenv("PATH"), os.Getenv("RIG_TTY"))
		c, err := Key(context.Background())
		fail(err)
		fmt.Printf("key %q\n", c)
		fail(Shell(tty))
		fmt.Println("back")
		_, err = fmt.Scanln(new(string))
		fail(err)
		fmt.Println("end")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type line struct {
	t      *testing.T
	master *os.File
	name   string
	mu     sync.Mutex
	out    bytes.Buffer
}

// newLine opens a pty. Its other end stays open here, so that it outlives what
// runs on it as a real line does.
func newLine(t *testing.T) *line {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no pty here: ", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, master: os.NewFile(uintptr(fd), "ptmx"), name: fmt.Sprintf("/dev/pts/%d", n)}
	slave, err := os.OpenFile(l.name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close(); l.master.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := l.master.Read(b)
			l.mu.Lock()
			l.out.Write(b[:n])
			l.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return l
}

func (l *line) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

func (l *line) exchange(pairs ...string) {
	l.t.Helper()
	at := 0
	for i := 0; i < len(pairs); i += 2 {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			text := l.text()
			if _, after, ok := strings.Cut(text[at:], pairs[i]); ok {
				at = len(text) - len(after)
				break
			}
			if time.Now().After(deadline) {
				l.t.Fatalf("waited for %q after %q, the line shows:\n%q", pairs[i], text[:at], text[at:])
			}
		}
		if i+1 < len(pairs) {
			if _, err := io.WriteString(l.master, pairs[i+1]); err != nil {
				l.t.Fatal(err)
			}
		}
	}
}

// helper starts this binary as init(8) would: no terminal, hardly an environment.
func helper(t *testing.T, what string, l *line) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"TERM=vt100", "RIG_CONSOLE=" + what + " " + l.name}
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, &out
}

func TestAttachKeyShell(t *testing.T) {
	l := newLine(t)
	cmd, errs := helper(t, "attach", l)
	l.exchange("attached TERM=vt100 PATH=/sbin:/bin:", "x", "key 'x'\r\n", "",
		"rig# ", "echo one$((1+1)); stty size; tty\r", "one2\r\n24 80\r\n"+l.name+"\r\n", "",
		"rig# ", "sh -c 'echo slee''ping; exec sleep 100'\r", "sleeping", "\x03", "rig# ", "stty raw -echo; echo still-$((4+4))\n", "still-8", "exit 3\n", "back\r\n", "go\r",
		"end\r\n")
	if strings.Contains(l.text(), "job control turned off") || strings.Contains(l.text(), "can't access tty") {
		t.Errorf("the shell has no controlling terminal:\n%s", l.text())
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, errs)
	}
}

func TestSane(t *testing.T) {
	l := newLine(t)
	f, err := os.OpenFile(l.name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Sane(int(f.Fd()), "ttyu0"); err != nil {
		t.Fatal(err)
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Row != 24 || ws.Col != 80 {
		t.Errorf("window is %+v, %v; want 24 rows of 80", ws, err)
	}
	if err := Sane(int(l.master.Fd())+100, "ttyu0"); err == nil || !strings.Contains(err.Error(), "ttyu0: not a terminal: ") {
		t.Errorf("Sane of no terminal: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := open("nosuchtty"); err == nil || !strings.Contains(err.Error(), "open /dev/nosuchtty: no such file") {
		t.Errorf("no such line: %v", err)
	}
	if _, err := open("/dev/null"); err == nil || !strings.Contains(err.Error(), "/dev/null: not a terminal") {
		t.Errorf("no terminal: %v", err)
	}
}
