// Package lan is an Ethernet switch in this process, for virtual machines and for
// what a test or a person wants to be beside them.
//
// A machine's card is a port by [Switch.Plug], which gives one end of a pair of
// datagram sockets to QEMU: a datagram is a frame. [Switch.Attach] is a port for
// Go code. A [Host] has such a port and a TCP/IP stack of its own, with as many
// addresses as one likes: it is the gateway and everything behind it. [Packet] and
// [ARP] are packets as values, to send what no stack would, and to look at what
// others send: ParsePacket, Tap, Inject and the Host that listens are of the tests.
//
// The switch learns where a MAC address is and floods what it does not know. Its
// [Line] may lose, delay and stop frames. A port that does not take its frames
// loses them, and holds up nobody.
//
// Left out: spanning tree, ageing of addresses, multicast groups, IPv6 hosts.
// Frames have no checksum (FCS). VLAN tags pass untouched.
package lan

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Line is what the switch does to all frames. The zero value is a good line.
type Line struct {
	Loss  float64       // share of the frames that are lost, 0 to 1
	Delay time.Duration // of each frame that passes; order is kept
	Cut   bool          // nothing passes
}

func (l Line) validate() error {
	switch {
	case !(l.Loss >= 0 && l.Loss <= 1):
		return fmt.Errorf("loss %v is not between 0 and 1", l.Loss)
	case l.Delay < 0:
		return fmt.Errorf("delay %v is negative", l.Delay)
	}
	return nil
}

// Stats count frames since the switch was made.
type Stats struct {
	Frames  uint64 `json:"frames"`  // that came in
	Flooded uint64 `json:"flooded"` // of them, to all ports: broadcast, multicast, unknown address
	Lost    uint64 `json:"lost"`    // by Line.Loss
	Cut     uint64 `json:"cut"`     // by Line.Cut
	Dropped uint64 `json:"dropped"` // copies a port did not take in time
	Bad     uint64 `json:"bad"`     // too short or too long to be a frame
}

// Fate is what became of a frame in the switch.
type Fate int

// The fates. A Passed frame may still be dropped by a slow port.
const (
	Passed Fate = iota
	Lost
	Cut
)

// Seen is a frame as a tap is shown it.
type Seen struct {
	Port  string // that sent it
	Frame []byte // not to be changed
	Fate  Fate
}

const (
	headerSize  = 14 // destination, source, type
	maxFrame    = 64 << 10
	queueFrames = 2048 // that wait for a port
)

// ErrClosed is a port or host that was closed.
var ErrClosed = errors.New("the port is closed")

type mac [6]byte

// Switch connects ports. Make it with New.
type Switch struct {
	asked atomic.Uint32 // questions, see Ask

	mu    sync.Mutex
	line  Line
	rand  *rand.Rand
	ports []*Port
	where map[mac]*Port
	taps  []*tap
	stats Stats
}

type tap struct{ see func(Seen) }

// New is a switch without ports. The frames that its line loses follow from seed.
func New(seed uint64) *Switch {
	return &Switch{rand: rand.New(rand.NewPCG(seed, 0)), where: map[mac]*Port{}}
}

// SetLine changes the line for all later frames.
func (s *Switch) SetLine(l Line) error {
	if err := l.validate(); err != nil {
		return fmt.Errorf("set line: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = l
	return nil
}

// Stats are the counters as they are now.
func (s *Switch) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Tap shows every later frame to see, in order, before anybody else gets it. see
// must return soon and not call the switch. stop ends it.
func (s *Switch) Tap(see func(Seen)) (stop func()) {
	t := &tap{see}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taps = append(s.taps, t)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taps = slices.DeleteFunc(s.taps, func(o *tap) bool { return o == t })
	}
}

// forward brings frame, which nobody changes any more, from a port to others.
func (s *Switch) forward(from *Port, frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Frames++
	if len(frame) < headerSize || len(frame) > maxFrame {
		s.stats.Bad++
		return
	}
	fate := s.decide()
	for _, t := range s.taps {
		t.see(Seen{from.name, frame, fate})
	}
	if fate != Passed {
		return
	}
	dst, src := mac(frame[:6]), mac(frame[6:12])
	if src[0]&1 == 0 { // a group sends nothing
		s.where[src] = from
	}
	item := queued{frame, time.Now().Add(s.line.Delay)}
	if to := s.where[dst]; to != nil {
		if to != from {
			s.deliver(to, item)
		}
		return
	}
	s.stats.Flooded++
	for _, to := range s.ports {
		if to != from {
			s.deliver(to, item)
		}
	}
}

// decide is the fate of the next frame. s.mu is held.
func (s *Switch) decide() Fate {
	switch {
	case s.line.Cut:
		s.stats.Cut++
		return Cut
	case s.line.Loss > 0 && s.rand.Float64() < s.line.Loss:
		s.stats.Lost++
		return Lost
	}
	return Passed
}

// deliver queues a frame for a port. s.mu is held.
func (s *Switch) deliver(to *Port, item queued) {
	select {
	case to.queue <- item:
	default:
		to.dropped++
		s.stats.Dropped++
	}
}

// Attach adds a port for Go code. Name is for taps.
func (s *Switch) Attach(name string) *Port {
	p := &Port{sw: s, name: name, queue: make(chan queued, queueFrames), done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = append(s.ports, p)
	return p
}

func (s *Switch) remove(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = slices.DeleteFunc(s.ports, func(o *Port) bool { return o == p })
	for m, o := range s.where {
		if o == p {
			delete(s.where, m)
		}
	}
}

// queued is a frame on its way to a port.
type queued struct {
	frame []byte
	due   time.Time
}

// clone is a copy of a frame with the padding short ones need on a wire.
func clone(frame []byte) []byte {
	const least = 60
	if n := len(frame); n >= headerSize && n < least {
		return append(bytes.Clone(frame), make([]byte, least-n)...)
	}
	return bytes.Clone(frame)
}
