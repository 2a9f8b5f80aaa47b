package pxe

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"sync"
	"time"
)

const (
	offerTime   = time.Minute      // that an offered address is kept
	declineTime = 10 * time.Minute // that an address in use by someone else is not given out
)

// leases are the addresses given out, one to each MAC address. The address comes
// from the MAC, so that most machines keep theirs when the server is restarted.
type leases struct {
	mu    sync.Mutex
	r     Range
	own   netip.Addr // never given out
	byMAC map[string]*lease
	byIP  map[netip.Addr]*lease
}

type lease struct {
	mac   string // "" of a declined address
	ip    netip.Addr
	until time.Time
}

func newLeases(r Range, own netip.Addr) *leases {
	return &leases{r: r, own: own, byMAC: map[string]*lease{}, byIP: map[netip.Addr]*lease{}}
}

// offer finds an address for mac: the one it has, the one it wants, or any free
// one. ok is false when there is none.
func (l *leases) offer(mac string, want netip.Addr, now time.Time) (ip netip.Addr, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have := l.byMAC[mac]; have != nil {
		if have.until.Before(now.Add(offerTime)) {
			have.until = now.Add(offerTime)
		}
		return have.ip, true
	}
	if l.free(want, mac, now) {
		return l.take(want, mac, now.Add(offerTime)), true
	}
	h := fnv.New32a()
	h.Write([]byte(mac))
	first := number(l.r.First)
	n := number(l.r.Last) - first + 1
	for i := range n {
		ip := addrOf(first + (h.Sum32()%n+i)%n)
		if l.free(ip, mac, now) {
			return l.take(ip, mac, now.Add(offerTime)), true
		}
	}
	return netip.Addr{}, false
}

// bind gives mac the address ip, if it is to be had.
func (l *leases) bind(mac string, ip netip.Addr, until, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.free(ip, mac, now) {
		return false
	}
	l.take(ip, mac, until)
	return true
}

// free says whether ip may be given to mac.
func (l *leases) free(ip netip.Addr, mac string, now time.Time) bool {
	if !ip.Is4() || ip == l.own || number(ip) < number(l.r.First) || number(ip) > number(l.r.Last) {
		return false
	}
	have := l.byIP[ip]
	return have == nil || have.mac == mac || have.until.Before(now)
}

func (l *leases) take(ip netip.Addr, mac string, until time.Time) netip.Addr {
	if old := l.byIP[ip]; old != nil {
		delete(l.byMAC, old.mac)
	}
	if old := l.byMAC[mac]; old != nil {
		delete(l.byIP, old.ip)
	}
	le := &lease{mac, ip, until}
	l.byIP[ip] = le
	if mac != "" {
		l.byMAC[mac] = le
	}
	return ip
}

// release takes back what mac has, decline also keeps it from others for a while.
func (l *leases) release(mac string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if le := l.byMAC[mac]; le != nil {
		delete(l.byMAC, mac)
		delete(l.byIP, le.ip)
	}
}

func (l *leases) decline(mac string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if le := l.byMAC[mac]; le != nil {
		l.take(le.ip, "", now.Add(declineTime))
	}
}

// macOf returns who has an address, "" when nobody is known to.
func (l *leases) macOf(ip netip.Addr) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if le := l.byIP[ip]; le != nil {
		return le.mac
	}
	return ""
}

// number and addrOf convert IPv4 addresses.
func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func addrOf(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// hosts are the lowest and the highest address that hosts of a network can have.
func hosts(p netip.Prefix) (low, high uint32) {
	net := number(p.Masked().Addr())
	size := uint64(1) << (32 - p.Bits())
	if size < 4 {
		return net, net
	}
	return net + 1, uint32(uint64(net) + size - 2)
}
