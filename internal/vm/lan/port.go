package lan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Port is a place at a switch. Its methods may be called by several goroutines.
type Port struct {
	sw      *Switch
	name    string
	queue   chan queued
	dropped uint64    // guarded by sw.mu
	conn    io.Closer // of a plugged port

	recv   sync.Mutex
	held   *queued // taken from queue, not given out yet
	closed sync.Once
	done   chan struct{}
}

// Send puts a frame of Ethernet, without FCS, on the wire. Short ones are padded.
func (p *Port) Send(frame []byte) error {
	select {
	case <-p.done:
		return fmt.Errorf("send on port %s: %w", p.name, ErrClosed)
	default:
	}
	p.sw.forward(p, clone(frame))
	return nil
}

// Recv waits for the next frame, which is not to be changed.
func (p *Port) Recv(ctx context.Context) ([]byte, error) {
	p.recv.Lock()
	defer p.recv.Unlock()
	if p.held == nil {
		select {
		case q := <-p.queue:
			p.held = &q
		case <-p.done:
			return nil, fmt.Errorf("receive on port %s: %w", p.name, ErrClosed)
		case <-ctx.Done():
			return nil, fmt.Errorf("receive on port %s: %w", p.name, context.Cause(ctx))
		}
	}
	if wait := time.Until(p.held.due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.done:
			return nil, fmt.Errorf("receive on port %s: %w", p.name, ErrClosed)
		case <-ctx.Done():
			return nil, fmt.Errorf("receive on port %s: %w", p.name, context.Cause(ctx))
		}
	}
	frame := p.held.frame
	p.held = nil
	return frame, nil
}

// Close takes the port away from its switch, and the cable from a plugged card.
func (p *Port) Close() {
	p.closed.Do(func() {
		close(p.done)
		p.sw.remove(p)
		if p.conn != nil {
			p.conn.Close()
		}
	})
}

// Plug adds a port whose other side is a file for QEMU (vm.NIC.Cable): a datagram
// socket of which each datagram is a frame. A port serves one machine until that
// has ended; the caller closes both, the file once the machine has started.
func (s *Switch) Plug(name string) (*Port, *os.File, error) {
	conn, theirs, err := datagramPair()
	if err != nil {
		return nil, nil, fmt.Errorf("plug %s: %w", name, err)
	}
	p := s.Attach(name)
	p.conn = conn
	go p.fromSocket(conn)
	go p.toSocket(conn)
	return p, theirs, nil
}

// datagramPair is our end as a connection, and the child's.
func datagramPair() (net.Conn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "cable")
	ours := os.NewFile(uintptr(fds[0]), "port")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// fromSocket forwards what the machine sends.
func (p *Port) fromSocket(conn net.Conn) {
	buf := make([]byte, maxFrame+1)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			if p.gone(err) {
				return
			}
			continue
		}
		if p.Send(buf[:n]) != nil {
			return
		}
	}
}

// toSocket hands the machine its frames. While it takes none, as before its driver
// runs, the write waits, and the queue fills.
func (p *Port) toSocket(conn net.Conn) {
	for {
		frame, err := p.Recv(context.Background())
		if err != nil {
			return
		}
		if _, err := conn.Write(frame); err != nil {
			if p.gone(err) {
				return
			}
			p.sw.mu.Lock()
			p.dropped++
			p.sw.stats.Dropped++
			p.sw.mu.Unlock()
		}
	}
}

// retryPause keeps a socket that only has errors from taking a whole CPU.
const retryPause = time.Millisecond

// gone reports whether an error of the socket is its end. A full buffer and a
// machine that has ended are not: the port's owner closes it.
func (p *Port) gone(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return true
	}
	select {
	case <-p.done:
		return true
	case <-time.After(retryPause):
		return false
	}
}
