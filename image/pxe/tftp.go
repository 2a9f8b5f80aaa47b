package pxe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxTransfers = 256              // at a time
	resendAfter  = time.Second      // unless the client asks for another time
	resendMax    = 8 * time.Second  // it doubles up to this
	giveUpAfter  = 60 * time.Second // without any sign of the client
	readAhead    = 256 << 10        // bytes
)

// tftp is a server of files by TFTP.
type tftp struct {
	s    *Server
	conn *net.UDPConn

	mu     sync.Mutex
	active map[netip.AddrPort]*transfer
	work   sync.WaitGroup
}

func (s *Server) openTFTP() (service, error) {
	addr := netip.AddrPortFrom(s.seg.addr, uint16(s.o.Ports.TFTP))
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return service{}, fmt.Errorf("TFTP server: %w", listenHint(err))
	}
	t := &tftp{s: s, conn: conn, active: map[netip.AddrPort]*transfer{}}
	return service{t.serve, func() { conn.Close() }}, nil
}

// serve answers requests until the socket is closed, and waits for the transfers.
func (t *tftp) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer t.work.Wait()
	defer cancel()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := t.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			t.s.logf("TFTP: receive: %v", err)
			if !passing(err) {
				return fmt.Errorf("receive TFTP: %w", err)
			}
			continue
		}
		t.request(ctx, slices.Clone(buf[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	}
}

// request starts a transfer, or says why not.
func (t *tftp) request(ctx context.Context, packet []byte, from netip.AddrPort) {
	refuse := func(code uint16, text string) {
		if _, err := t.conn.WriteToUDPAddrPort(errorPacket(code, text), from); err != nil && !errors.Is(err, net.ErrClosed) {
			t.s.logf("TFTP: answer %v: %v", from, err)
		}
	}
	r, err := parseRequest(packet)
	switch {
	case err != nil:
		if len(packet) >= 2 && binary.BigEndian.Uint16(packet) != opError {
			refuse(codeIllegal, err.Error())
		}
		return
	case r.op == opWrite:
		refuse(codeAccess, "read only")
		return
	case r.mode != "octet":
		refuse(codeIllegal, "only mode octet is served")
		return
	}
	f, size, err := t.s.tree.open(r.name)
	if err != nil {
		refuse(codeNotFound, "file not found")
		t.s.emit(Event{Phase: TFTP, MAC: t.s.machine(from.Addr()), IP: from.Addr(), File: clean(r.name), Err: err})
		return
	}
	tr := &transfer{key: string(packet), file: f, size: size, terms: r.negotiate(size)}
	if err := t.enter(tr, from); err != nil {
		f.Close()
		if errors.Is(err, errTooMany) {
			refuse(codeUndefined, err.Error())
		}
		return
	}
	t.work.Go(func() {
		t.transfer(ctx, tr, from, r.name)
		if t.leave(tr, from) && ctx.Err() == nil {
			t.request(ctx, packet, from)
		}
	})
}

var (
	errTooMany = errors.New("too many transfers")
	errAgain   = errors.New("the same request again")
	errAnew    = errors.New("the client began anew")
)

// enter notes a transfer. A second request of the same client ends the first one.
// If it is the same request, and the client was not heard of until just now, it may be
// the answer that was late, or the client may have ended the first transfer with a
// packet that is not read yet: what the first transfer comes to decides.
func (t *tftp) enter(tr *transfer, from netip.AddrPort) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.active[from]; old != nil {
		if old.key == tr.key && (old.heard.IsZero() || time.Since(old.heard) < resendAfter) {
			old.again = true
			return errAgain
		}
		old.stop()
	} else if len(t.active) >= maxTransfers {
		return errTooMany
	}
	t.active[from] = tr
	return nil
}

// leave ends a transfer; again is whether to serve the request anew.
func (t *tftp) leave(tr *transfer, from netip.AddrPort) (again bool) {
	tr.file.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	tr.stop()
	if t.active[from] == tr {
		delete(t.active, from)
	}
	return tr.again && tr.quit
}

// transfer sends a file and emits its events.
func (t *tftp) transfer(ctx context.Context, tr *transfer, to netip.AddrPort, name string) {
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(t.s.seg.addr, 0)), net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.s.logf("TFTP: %v: %v", to, err)
		return
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	t.mu.Lock()
	stopped := tr.stopped
	tr.conn = conn
	t.mu.Unlock()
	if stopped {
		conn.Close()
		return
	}
	e := Event{Phase: TFTP, MAC: t.s.machine(to.Addr()), IP: to.Addr(), File: clean(name), Total: tr.size}
	begin := time.Now()
	tr.heardOf = func() {
		t.mu.Lock()
		tr.heard = time.Now()
		t.mu.Unlock()
	}
	tr.progress = func(sent int64) {
		if sent-e.Bytes >= step {
			e.Bytes, e.Took = sent, time.Since(begin)
			if sent < tr.size {
				t.s.emit(e)
			}
		}
	}
	err = tr.run()
	var quit clientError
	if tr.acked == 0 && errors.As(err, &quit) {
		tr.quit = true
		return // it only wanted to know the size
	}
	if errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
		err = errAnew
	}
	e.Took = time.Since(begin)
	e.Bytes, e.Err = min(int64(tr.acked)*int64(tr.terms.block), tr.size), err
	if err == nil {
		e.Bytes = tr.size
	}
	t.s.emit(e)
}

// transfer is one file on its way to one client. Blocks are counted from 1, beyond
// the 16 bits that packets have for them.
type transfer struct {
	key   string // the request
	file  content
	size  int64
	terms terms

	heard   time.Time // when first; guarded by tftp.mu, as are again, stopped and conn until run
	again   bool      // the same request came again
	stopped bool
	quit    bool // the client ended it before the first block
	conn    *net.UDPConn

	heardOf  func()      // at the client's first answer
	progress func(int64) // bytes that the client has
	acked    uint64      // blocks that the client has

	ahead   []byte // of the file
	aheadAt int64
	packet  []byte
	in      [1500]byte
}

func (tr *transfer) stop() {
	tr.stopped = true
	if tr.conn != nil {
		tr.conn.Close()
	}
}

// run sends the file. Acknowledgements move the window, those of blocks within it
// too (RFC 7440); what is not acknowledged in time is sent again.
func (tr *transfer) run() error {
	last := uint64(tr.size)/uint64(tr.terms.block) + 1 // a short block, or an empty one, ends the file
	tr.packet = make([]byte, 4+tr.terms.block)
	binary.BigEndian.PutUint16(tr.packet, opData)
	if len(tr.terms.agreed) > 0 {
		oack := oackPacket(tr.terms.agreed)
		if _, err := tr.exchange(0, 0, func() error { return tr.write(oack) }); err != nil {
			return err
		}
	}
	for tr.acked < last {
		first := tr.acked + 1
		end := min(last, tr.acked+uint64(tr.terms.window))
		got, err := tr.exchange(first, end, func() error { return tr.send(first, end) })
		if err != nil {
			if end == last && errors.Is(err, unix.ECONNREFUSED) {
				got = end // the client is gone, with what may well be the whole file
			} else {
				return err
			}
		}
		tr.acked = got
		tr.progress(min(int64(tr.acked)*int64(tr.terms.block), tr.size))
	}
	return nil
}

// send puts the blocks from first to end on the wire.
func (tr *transfer) send(first, end uint64) error {
	for n := first; n <= end; n++ {
		data, err := tr.block(n)
		if err != nil {
			tr.write(errorPacket(codeUndefined, "the server cannot read the file"))
			return err
		}
		binary.BigEndian.PutUint16(tr.packet[2:], uint16(n))
		copy(tr.packet[4:], data)
		if err := tr.write(tr.packet[:4+len(data)]); err != nil {
			return err
		}
	}
	return nil
}

// write sends a packet. One that finds no room on its way counts as sent and lost.
func (tr *transfer) write(b []byte) error {
	_, err := tr.conn.Write(b)
	if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return nil
	}
	return err
}

// block returns the content of a block, shorter than the others for the last one.
func (tr *transfer) block(n uint64) ([]byte, error) {
	size := int64(tr.terms.block)
	at := int64(n-1) * size
	want := min(size, tr.size-at)
	if off := at - tr.aheadAt; off >= 0 && off+want <= int64(len(tr.ahead)) {
		return tr.ahead[off : off+want], nil
	}
	if tr.ahead == nil {
		tr.ahead = make([]byte, min(tr.size, max(readAhead, size)))
	}
	tr.ahead = tr.ahead[:min(int64(cap(tr.ahead)), tr.size-at)]
	tr.aheadAt = at
	if m, err := tr.file.ReadAt(tr.ahead, at); m < len(tr.ahead) {
		tr.ahead = tr.ahead[:0]
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read: %w", err)
	}
	return tr.ahead[:want], nil
}

// exchange sends, waits until a block from first to end is acknowledged, and
// returns which. first and end 0 is for options.
func (tr *transfer) exchange(first, end uint64, send func() error) (uint64, error) {
	wait := resendAfter
	if tr.terms.timeout > 0 {
		wait = time.Duration(tr.terms.timeout) * time.Second
	}
	giveUp := time.Now().Add(max(giveUpAfter, 4*wait))
	for {
		if err := send(); err != nil {
			return 0, err
		}
		sent := time.Now()
		if sent.After(giveUp) {
			return 0, fmt.Errorf("block %d: no answer: %w", first, os.ErrDeadlineExceeded)
		}
		tr.conn.SetReadDeadline(sent.Add(wait))
		got, again, err := tr.await(first, end, sent)
		if err != nil || !again {
			return got, err
		}
		wait = min(2*wait, max(wait, resendMax))
	}
}

// await reads packets until one acknowledges; again asks for the same blocks.
func (tr *transfer) await(first, end uint64, sent time.Time) (got uint64, again bool, err error) {
	for {
		n, err := tr.conn.Read(tr.in[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, true, nil
		}
		if err != nil {
			return 0, false, err
		}
		block, err, ok := parseReply(tr.in[:n])
		if err != nil {
			return 0, false, err
		}
		if !ok {
			continue
		}
		if tr.heardOf != nil {
			tr.heardOf()
			tr.heardOf = nil
		}
		if end == 0 {
			if block == 0 {
				return 0, false, nil
			}
			continue
		}
		// How many blocks of the window the client has. None: it says again that it has
		// the one before. With a window that asks for all of it anew; without one the
		// acknowledgement was only slow, and to answer would double every packet from
		// here on (RFC 1123, 4.2.3.1).
		have := uint64(block - uint16(first-1))
		if have > 0 && have <= end-first+1 {
			return first - 1 + have, false, nil
		}
		if have == 0 && tr.terms.window > 1 && time.Since(sent) > 20*time.Millisecond {
			return 0, true, nil
		}
	}
}
