package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rig-freebsd/rig/internal/run"
)

// Machine is a running QEMU.
type Machine struct {
	Console *Console   // the first serial port
	Ports   []*Console // all of them
	Config  Config     // as started, defaults filled in
	Argv    []string

	cmd    *exec.Cmd
	qmp    *qmp
	logs   []io.Closer
	exited chan struct{} // closed when the process has ended
	done   chan struct{} // closed when its output has been read too
	faulty chan struct{} // closed when fault is set

	mu       sync.Mutex
	stderr   []byte
	fault    error  // what the accelerator choked on
	reason   string // of the last SHUTDOWN event
	stopping error  // why the process was killed from here, errPowerOff when asked to
	err      error  // of the process; valid once exited is closed
}

// ErrFault is an accelerator that cannot run this guest, as KVM nested in some
// hypervisors.
var ErrFault = errors.New("the accelerator cannot run this machine")

var errPowerOff = errors.New("powered off")

const (
	qmpLimit    = 30 * time.Second // for QEMU to answer after its start
	stderrBytes = 8 << 10
)

// Start runs the machine. It ends with PowerOff, Quit, the guest's own shutdown,
// ctx, or this process.
func Start(ctx context.Context, c Config) (*Machine, error) {
	c, err := c.resolve(ctx)
	if err != nil {
		return nil, err
	}
	argv, err := c.Argv()
	if err != nil {
		return nil, err
	}
	m := &Machine{Config: c, Argv: argv, exited: make(chan struct{}), done: make(chan struct{}), faulty: make(chan struct{})}
	if err := m.launch(); err != nil {
		return nil, fmt.Errorf("start machine %s: %w", c.Name, err)
	}
	go func() {
		select {
		case <-ctx.Done():
			m.kill(context.Cause(ctx))
		case <-m.exited:
		}
	}()
	limit, cancel := context.WithTimeout(ctx, qmpLimit)
	defer cancel()
	if _, err := m.qmp.do(limit, "qmp_capabilities", nil); err != nil {
		m.kill(err)
		<-m.done
		return nil, fmt.Errorf("start machine %s: %w", c.Name, cmp.Or(m.err, err))
	}
	return m, nil
}

// resolve fills in what Argv must not look for, and makes the UEFI variables.
func (c Config) resolve(ctx context.Context) (Config, error) {
	var err error
	if c.QEMU == "" {
		if c.QEMU, err = FindQEMU(); err != nil {
			return c, err
		}
	}
	if c.Accel == "" {
		c.Accel, _ = DecideAccel(ctx)
	}
	c = c.withDefaults()
	for i, d := range c.Disks {
		if _, err := os.Stat(d.Path); err != nil {
			return c, fmt.Errorf("machine %s: disk %d: %w", c.Name, i+1, err)
		}
	}
	if c.Firmware != UEFI {
		return c, nil
	}
	if c.OVMFCode == "" || c.OVMFVars == "" {
		if c.OVMFCode, c.OVMFVars, err = FindOVMF(); err != nil {
			return c, err
		}
	}
	if c.Dir == "" {
		return c, nil // Argv complains
	}
	if _, err := os.Stat(c.varsPath()); err == nil {
		return c, nil
	}
	if err := CloneFile(c.varsPath(), c.OVMFVars); err != nil {
		return c, fmt.Errorf("machine %s: %w", c.Name, err)
	}
	return c, nil
}

// launch starts the process with its sockets.
func (m *Machine) launch() error {
	n := m.Config.Serials + 1
	conns, files, err := socketPairs(n)
	if err != nil {
		return err
	}
	closeAll := func() {
		for _, c := range conns {
			c.Close()
		}
		for _, l := range m.logs {
			l.Close()
		}
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	logs, err := m.openLogs()
	if err != nil {
		closeAll()
		return err
	}
	m.cmd = exec.Command(m.Argv[0], m.Argv[1:]...)
	m.cmd.ExtraFiles = append(files[:n:n], m.Config.cables()...)
	m.cmd.Stderr = (*stderrWatch)(m)
	m.cmd.WaitDelay = 2 * time.Second
	m.cmd.SysProcAttr = dieWithParent()
	if m.Config.Dir != "" {
		m.cmd.Env = append(os.Environ(), "TMPDIR="+m.Config.Dir) // snapshots
	}
	m.qmp = newQMP(conns[n-1], m.event)
	tap := m.Config.SerialOut
	for i, log := range logs {
		m.Ports = append(m.Ports, newConsole(conns[i], log, tap, m.ended))
		tap = nil
	}
	m.Console = m.Ports[0]

	started := make(chan error)
	go func() {
		// The death signal comes when the thread that forked ends: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			m.finish(m.cmd.Wait())
		}
	}()
	if err := <-started; err != nil {
		close(m.exited)
		closeAll()
		return err
	}
	return nil
}

// openLogs opens the log of each serial port, nil where there is none.
func (m *Machine) openLogs() ([]io.Writer, error) {
	logs := make([]io.Writer, m.Config.Serials)
	if m.Config.SerialLog == "" {
		return logs, nil
	}
	for i := range logs {
		name := m.Config.SerialLog
		if i > 0 {
			name = fmt.Sprintf("%s.%d", name, i+1)
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return nil, fmt.Errorf("log of serial port %d: %w", i+1, err)
		}
		logs[i], m.logs = f, append(m.logs, f)
	}
	return logs, nil
}

// socketPairs makes n pairs of connected sockets: our ends, the child's ends.
func socketPairs(n int) (conns []net.Conn, files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			for _, c := range conns {
				c.Close()
			}
		}
	}()
	for range n {
		syscall.ForkLock.RLock()
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err == nil {
			syscall.CloseOnExec(fds[0])
			syscall.CloseOnExec(fds[1])
		}
		syscall.ForkLock.RUnlock()
		if err != nil {
			return conns, files, fmt.Errorf("socketpair: %w", err)
		}
		files = append(files, os.NewFile(uintptr(fds[1]), "qemu"))
		ours := os.NewFile(uintptr(fds[0]), "rig")
		conn, err := net.FileConn(ours)
		ours.Close()
		if err != nil {
			return conns, files, err
		}
		conns = append(conns, conn)
	}
	return conns, files, nil
}

// finish records the end of the process and waits for what it said last.
func (m *Machine) finish(err error) {
	select {
	case <-m.qmp.gone:
	case <-time.After(time.Second):
	}
	m.mu.Lock()
	var status int
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	}
	switch {
	case m.stopping == errPowerOff:
		m.err = nil
	case m.stopping != nil && len(m.stderr) == 0:
		m.err = m.stopping
	case err != nil:
		m.err = &run.Error{Argv: m.Argv, Status: status, Stderr: string(m.stderr), Err: err}
	}
	m.mu.Unlock()
	close(m.exited)
	for _, p := range m.Ports {
		<-p.done
		p.conn.Close()
	}
	m.qmp.conn.Close()
	for _, l := range m.logs {
		l.Close()
	}
	close(m.done)
}

// ended says why the consoles ended.
func (m *Machine) ended() error {
	select {
	case <-m.exited:
	case <-time.After(5 * time.Second):
		return errClosed
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.err != nil:
		return fmt.Errorf("the machine ended: %w", m.err)
	case m.stopping != nil:
		return fmt.Errorf("the machine ended: %w", m.stopping)
	case m.reason != "":
		return fmt.Errorf("the machine ended: %s", m.reason)
	}
	return errors.New("the machine ended")
}

// kill ends the process because of why.
func (m *Machine) kill(why error) {
	m.mu.Lock()
	if m.stopping == nil {
		m.stopping = why
	}
	m.mu.Unlock()
	m.cmd.Process.Kill()
}

// event is called for each QMP event.
func (m *Machine) event(name string, data map[string]any) {
	if name == "SHUTDOWN" {
		m.mu.Lock()
		m.reason, _ = data["reason"].(string)
		m.mu.Unlock()
	}
}

// stderrWatch keeps the end of QEMU's complaints and sees the accelerator fail,
// after which QEMU stops the machine and stays.
type stderrWatch Machine

func (w *stderrWatch) Write(p []byte) (int, error) {
	m := (*Machine)(w)
	m.mu.Lock()
	if room := stderrBytes - len(m.stderr); room > 0 { // the first complaint tells most
		m.stderr = append(m.stderr, p[:min(len(p), room)]...)
	}
	var fault error
	if line := faultLine(string(m.stderr)); line != "" && m.fault == nil {
		m.fault = fmt.Errorf("%w: %s", ErrFault, line)
		fault = m.fault
	}
	m.mu.Unlock()
	if fault != nil {
		close(m.faulty)
		for _, c := range m.Ports {
			c.fail(fault)
		}
	}
	return len(p), nil
}

// faultLine is the first line of stderr that speaks of a failed accelerator.
func faultLine(stderr string) string {
	for line := range strings.Lines(stderr) {
		for _, s := range []string{"KVM internal error", "emulation failure", "KVM: entry failed", "kvm run failed", "hv_vcpu_run"} {
			if strings.Contains(line, s) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}

// PID is QEMU's process id, for tests that stop it.
func (m *Machine) PID() int { return m.cmd.Process.Pid }

// Cut cuts the power and does not wait: a Watch may call it.
func (m *Machine) Cut() { m.kill(errPowerOff) }

// PowerOff cuts the power and waits until the process is gone.
func (m *Machine) PowerOff() {
	m.Cut()
	<-m.done
}

// Wait waits until the machine has ended and its consoles are read. It is nil
// for every ordered end, PowerOff too; ExitReason says which.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return fmt.Errorf("wait for machine %s: %w", m.Config.Name, context.Cause(ctx))
	}
}

// Done is closed when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// ExitReason is QEMU's word for the end: "guest-shutdown", "guest-reset" (with
// RebootExits), "guest-panic", "host-signal"; "" after PowerOff.
func (m *Machine) ExitReason() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reason
}

// Fault is not nil, and wraps ErrFault, when the accelerator failed.
func (m *Machine) Fault() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fault
}

// tempDir makes a directory for a machine below base.
func tempDir(base string) (string, error) {
	dir, err := os.MkdirTemp(base, "rig-vm-")
	if err != nil {
		return "", fmt.Errorf("directory for the machine: %w", err)
	}
	return filepath.Abs(dir)
}
