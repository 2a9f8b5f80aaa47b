package lan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func hw(n byte) net.HardwareAddr { return net.HardwareAddr{0x02, 0, 0, 0, 0, n} }

// frame is a frame with a body.
func frame(dst, src net.HardwareAddr, body string) []byte {
	return append(etherHeader(dst, src, 0, 0x88b5), body...)
}

// drain is the bodies of what a port receives until nothing comes for a while.
func drain(t *testing.T, p *Port) []string {
	t.Helper()
	var out []string
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		f, err := p.Recv(ctx)
		cancel()
		if err != nil {
			return out
		}
		out = append(out, strings.TrimRight(string(f[headerSize:]), "\x00"))
	}
}

func send(t *testing.T, p *Port, f []byte) {
	t.Helper()
	if err := p.Send(f); err != nil {
		t.Fatal(err)
	}
}

func TestLearning(t *testing.T) {
	sw := New(1)
	a, b, c := sw.Attach("a"), sw.Attach("b"), sw.Attach("c")
	send(t, a, frame(hw(2), hw(1), "unknown: flooded"))
	send(t, b, frame(hw(1), hw(2), "known: to a only"))
	send(t, a, frame(hw(2), hw(1), "known: to b only"))
	send(t, a, frame(Broadcast, hw(1), "all"))
	send(t, c, frame(hw(1), hw(3), "c is known"))
	send(t, c, frame(hw(3), hw(9), "to oneself: nobody"))
	send(t, b, []byte("short"))
	send(t, b, make([]byte, maxFrame+1))
	for _, tt := range []struct {
		port *Port
		want []string
	}{
		{a, []string{"known: to a only", "c is known"}},
		{b, []string{"unknown: flooded", "known: to b only", "all"}},
		{c, []string{"unknown: flooded", "all"}},
	} {
		if got := drain(t, tt.port); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.port.name, got, tt.want)
		}
	}
	// A card that moves is learned anew, and one that is unplugged forgotten.
	send(t, c, frame(hw(1), hw(2), "2 is at c now"))
	send(t, a, frame(hw(2), hw(1), "to c"))
	if got := drain(t, c); !slices.Equal(got, []string{"to c"}) {
		t.Errorf("after a move: %q", got)
	}
	c.Close()
	drain(t, b)
	send(t, a, frame(hw(2), hw(1), "flooded again"))
	if got := drain(t, b); !slices.Equal(got, []string{"flooded again"}) {
		t.Errorf("after a close: %q", got)
	}
	if err := c.Send(frame(hw(1), hw(2), "")); !errors.Is(err, ErrClosed) {
		t.Errorf("send on a closed port: %v", err)
	}
	if _, err := c.Recv(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("receive on a closed port: %v", err)
	}
	if got, want := sw.Stats(), (Stats{Frames: 11, Flooded: 3, Bad: 2}); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestLoss(t *testing.T) {
	const n = 20_000
	lost := func(seed uint64, loss float64) (out []int) {
		sw := New(seed)
		if err := sw.SetLine(Line{Loss: loss}); err != nil {
			t.Fatal(err)
		}
		a := sw.Attach("a")
		i := 0
		stop := sw.Tap(func(s Seen) {
			if s.Fate == Lost {
				out = append(out, i)
			}
			i++
		})
		for range n {
			send(t, a, frame(Broadcast, hw(1), ""))
		}
		stop()
		if got := sw.Stats(); got.Lost != uint64(len(out)) || got.Frames != n {
			t.Errorf("stats %+v, the tap saw %d lost", got, len(out))
		}
		return out
	}
	five := lost(7, 0.05)
	if share := float64(len(five)) / n; share < 0.045 || share > 0.055 {
		t.Errorf("5%% loss: %.4f", share)
	}
	if !slices.Equal(five, lost(7, 0.05)) {
		t.Error("the same seed lost other frames")
	}
	if slices.Equal(five, lost(8, 0.05)) {
		t.Error("another seed lost the same frames")
	}
	if got := len(lost(1, 0)) + n - len(lost(1, 1)); got != 0 {
		t.Errorf("no loss, all lost: %d wrong", got)
	}
}

func TestDelay(t *testing.T) {
	sw := New(1)
	a, b := sw.Attach("a"), sw.Attach("b")
	const delay = 60 * time.Millisecond
	if err := sw.SetLine(Line{Delay: delay}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for i := range 50 {
		send(t, a, frame(Broadcast, hw(1), fmt.Sprint(i)))
	}
	short, cancel := context.WithTimeout(t.Context(), delay/4)
	defer cancel()
	if _, err := b.Recv(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("before its time: %v", err)
	}
	if err := sw.SetLine(Line{}); err != nil { // what comes now does not overtake
		t.Fatal(err)
	}
	send(t, a, frame(Broadcast, hw(1), "50"))
	for i := range 51 {
		f, err := b.Recv(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := string(bytes.TrimRight(f[headerSize:], "\x00")); got != fmt.Sprint(i) {
			t.Fatalf("frame %d is %s", i, got)
		}
		if i == 0 && time.Since(start) < delay {
			t.Errorf("the first came after %v", time.Since(start))
		}
	}
	if d := time.Since(start); d > 20*delay {
		t.Errorf("51 frames with a delay of %v took %v", delay, d)
	}
}

func TestCut(t *testing.T) {
	sw := New(1)
	a, b := sw.Attach("a"), sw.Attach("b")
	var fates []Fate
	defer sw.Tap(func(s Seen) { fates = append(fates, s.Fate) })()
	for _, cut := range []bool{false, true, false} {
		if err := sw.SetLine(Line{Cut: cut}); err != nil {
			t.Fatal(err)
		}
		send(t, a, frame(Broadcast, hw(1), fmt.Sprint(cut)))
	}
	if got := drain(t, b); !slices.Equal(got, []string{"false", "false"}) {
		t.Errorf("got %q", got)
	}
	if want := []Fate{Passed, Cut, Passed}; !slices.Equal(fates, want) {
		t.Errorf("the tap saw %v, want %v", fates, want)
	}
	if got := sw.Stats().Cut; got != 1 {
		t.Errorf("%d counted", got)
	}
}

func TestSetLineRefuses(t *testing.T) {
	sw := New(1)
	for want, l := range map[string]Line{
		"set line: loss 1.5 is not between 0 and 1": {Loss: 1.5},
		"set line: delay -1s is negative":           {Delay: -time.Second},
	} {
		if err := sw.SetLine(l); err == nil || err.Error() != want {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if sw.line != (Line{}) {
		t.Error("a bad line was set")
	}
}

// A card that takes no frames loses its own, and others wait for nothing.
func TestSlowPort(t *testing.T) {
	sw := New(1)
	a, slow := sw.Attach("a"), sw.Attach("slow")
	socket, file, err := sw.Plug("dead")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	defer file.Close()
	fast := sw.Attach("fast")
	const n = 3 * queueFrames
	body := strings.Repeat("x", 1500)
	for range n {
		send(t, a, frame(Broadcast, hw(1), body))
		if _, err := fast.Recv(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if slow.dropped != n-queueFrames || socket.dropped == 0 || fast.dropped != 0 {
		t.Errorf("dropped: slow %d, dead %d, fast %d", slow.dropped, socket.dropped, fast.dropped)
	}
	if got := sw.Stats().Dropped; got != slow.dropped+socket.dropped {
		t.Errorf("stats say %d", got)
	}
}

// What QEMU has at its end of a cable: one datagram, one frame.
func TestPlug(t *testing.T) {
	sw := New(1)
	p, file, err := sw.Plug("card")
	if err != nil {
		t.Fatal(err)
	}
	card, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	file.Close()
	a := sw.Attach("a")
	for _, size := range []int{60, 1514, 9014} {
		f := frame(Broadcast, hw(1), strings.Repeat("y", size-headerSize))
		if _, err := card.Write(f); err != nil {
			t.Fatal(err)
		}
		if got, err := a.Recv(t.Context()); err != nil || !bytes.Equal(got, f) {
			t.Fatalf("from the card: %d bytes, %v", len(got), err)
		}
		send(t, a, frame(hw(1), hw(2), strings.Repeat("z", size-headerSize)))
		buf := make([]byte, maxFrame)
		if n, err := card.Read(buf); err != nil || n != size || buf[n-1] != 'z' {
			t.Fatalf("to the card: %d bytes, %v", n, err)
		}
	}
	p.Close()
	send(t, a, frame(hw(1), hw(2), "to nobody"))
	if _, err := card.Write(frame(Broadcast, hw(1), "")); err == nil {
		t.Error("the cable is still there after Close")
	}
}
