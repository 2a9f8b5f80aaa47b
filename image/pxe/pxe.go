// Package pxe is what machines on one network segment need to boot the installer
// from it: DHCP for IPv4 (RFC 2131, 2132, and 4578 for PXE), TFTP (RFC 1350, with
// the options of 2348, 2349 and 7440), and HTTP.
//
// It knows how FreeBSD's boot programs behave, read in stand/libsa/bootp.c, tftp.c
// and stand/common/dev_net.c of FreeBSD 15: loader.efi and pxeboot, once loaded,
// make a DHCP exchange of their own, with the user class "FreeBSD", and want the
// root path (option 17) in it; their TFTP is always at port 69. That root path is
// kept from everyone else: iPXE takes it for a disk to attach and then does not
// load the boot file.
//
// Its sockets have a file for each operating system. It leaves out IPv6, relays (one segment only), writing by TFTP, and TLS.
package pxe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/rig-freebsd/rig/internal/diag"
)

// Mode is what the DHCP server does.
type Mode string

const (
	Full  Mode = "full"  // gives out addresses, on a segment without a DHCP server
	Proxy Mode = "proxy" // says what to boot, beside a DHCP server that gives out addresses
	Off   Mode = "off"   // only TFTP and HTTP
)

// Range is the addresses from First to Last, both included.
type Range struct{ First, Last netip.Addr }

// String is "10.0.0.100-10.0.0.199".
func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// Ports are those of UDP and TCP, for tests; 0 is the usual one.
type Ports struct {
	DHCP   int // 67
	Client int // 68, where DHCP's answers go
	Proxy  int // 4011, the PXE boot server's
	TFTP   int // 69; FreeBSD's loader and firmware know no other
	HTTP   int // 80
}

// Options say what is served to whom.
type Options struct {
	Dir   string            // the tree that TFTP and HTTP give out; nothing outside of it is
	Files map[string]string // more files, path → text, which win over Dir's; {server} and {http} are replaced as in a Rule

	// Answers, when it is set, is the directory whose *.toml are given out as
	// rig/answers/*.toml, read anew for each request. Of Dir nothing is given out there.
	Answers string

	// The segment: the interface's name or an address of this machine. Neither is needed
	// when one interface only has an IPv4 address.
	Interface string
	Listen    netip.Addr

	DHCP   Mode          // Full when empty
	Range  Range         // the upper half of the segment's addresses, 200 of them at most, when zero
	Router netip.Addr    // none when zero
	DNS    []netip.Addr  // none when empty
	Lease  time.Duration // one hour when 0
	Rules  []Rule        // DefaultRules when nil
	Force  bool          // start in Full mode without a look for other DHCP servers
	Ports  Ports

	Count  int                              // Run ends once so many machines are installed; 0 is never
	Events func(Event)                      // may be nil; one call at a time
	Logf   func(format string, args ...any) // may be nil
}

// Phase is how far a machine is.
type Phase string

const (
	Ready     Phase = "ready"     // not about a machine: the server serves
	Discover  Phase = "discover"  // a machine asks
	Offer     Phase = "offer"     // and is told an address, or what to boot
	Address   Phase = "address"   // it took the address
	Elsewhere Phase = "elsewhere" // it took that of another server, whose address is IP
	TFTP      Phase = "tftp"
	HTTP      Phase = "http"
	Installed Phase = "installed"
)

// Event is one thing that a machine did. Of a transfer there are several: as it
// goes on, and one at its end, with Bytes equal to Total or with Err.
type Event struct {
	Phase  Phase
	MAC    string     // "52:54:00:12:34:56", "" when unknown
	IP     netip.Addr // not valid when unknown
	Client string     // the name of the rule that it was recognised by, of DHCP's phases
	File   string     // of a transfer
	Bytes  int64      // sent so far
	Total  int64      // of the file, or of the part asked for
	Took   time.Duration
	Err    error // fs.ErrNotExist for a missing file: loaders look for many
}

// Server is ready to Run once.
type Server struct {
	o      Options
	seg    segment
	tree   *files
	dhcp   *dhcp
	mu     sync.Mutex // serialises o.Events
	doneMu sync.Mutex
	done   map[string]bool // installed machines by MAC
	finish context.CancelCauseFunc
}

var errAllInstalled = errors.New("all machines are installed")

// New checks the options, all of them, and opens Dir and Answers. Close or Run gives
// them back.
func New(o Options) (*Server, error) {
	seg, err := findSegment(o.Interface, o.Listen)
	if err != nil {
		return nil, err
	}
	if o, err = o.complete(seg); err != nil {
		return nil, err
	}
	s := &Server{o: o, seg: seg, done: map[string]bool{}}
	expand := expander(seg.addr, o.Ports.HTTP)
	mem := map[string][]byte{scriptName: []byte(expand.Replace(script))}
	for name, text := range o.Files {
		mem[clean(name)] = []byte(expand.Replace(text))
	}
	if s.tree, err = openFiles(o.Dir, o.Answers, mem); err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	s.dhcp = newDHCP(o, seg, s.emit)
	s.dhcp.done = s.isDone
	return s, nil
}

// Addr is the server's address on the segment, URL the beginning of what it serves
// by HTTP, without a slash at its end.
func (s *Server) Addr() netip.Addr { return s.seg.addr }
func (s *Server) URL() string      { return httpURL(s.seg.addr, s.o.Ports.HTTP) }

// Range is the addresses that are given out in Full mode.
func (s *Server) Range() Range { return s.o.Range }

// Close is for a server that does not Run.
func (s *Server) Close() error { return s.tree.close() }

// complete fills in what was left out and reports all that is wrong.
func (o Options) complete(seg segment) (Options, error) {
	var bad diag.Problems
	wrong := func(key, format string, args ...any) {
		bad.Add(diag.Problem{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	for _, p := range []struct {
		port  *int
		key   string
		usual int
	}{{&o.Ports.DHCP, "ports.dhcp", 67}, {&o.Ports.Client, "ports.client", 68}, {&o.Ports.Proxy, "ports.proxy", 4011},
		{&o.Ports.TFTP, "ports.tftp", 69}, {&o.Ports.HTTP, "ports.http", 80}} {
		if *p.port == 0 {
			*p.port = p.usual
		}
		if *p.port < 0 || *p.port > 65535 {
			wrong(p.key, "%d is no port", *p.port)
		}
	}
	if o.DHCP == "" {
		o.DHCP = Full
	}
	if o.DHCP != Full && o.DHCP != Proxy && o.DHCP != Off {
		wrong("dhcp", "%q is none of full, proxy, off", o.DHCP)
	}
	if o.Lease == 0 {
		o.Lease = time.Hour
	}
	if o.Lease < time.Minute || o.Lease > 1<<31*time.Second {
		wrong("lease", "%v is not between a minute and 68 years", o.Lease)
	}
	if o.Rules == nil {
		o.Rules = DefaultRules()
	}
	if o.Count < 0 {
		wrong("count", "%d is negative", o.Count)
	}
	if o.DHCP == Full {
		o.Range = checkRange(o.Range, seg, wrong)
		if o.Router.IsValid() && !seg.prefix.Contains(o.Router) {
			wrong("router", "%v is not in %v, the network of %s", o.Router, seg.prefix.Masked(), seg.iface.Name)
		}
	}
	for _, a := range o.DNS {
		if !a.Is4() {
			wrong("dns", "%v is not an IPv4 address", a)
		}
	}
	if err := bad.Err(); err != nil {
		return o, diag.Input(err)
	}
	return o, nil
}

// checkRange returns r or, of a zero one, the usual.
func checkRange(r Range, seg segment, wrong func(key, format string, args ...any)) Range {
	low, high := hosts(seg.prefix)
	if high < low+1 {
		wrong("range", "%v has no addresses to give out", seg.prefix)
		return r
	}
	if r == (Range{}) {
		first := low + (high-low+1)/2
		return Range{addrOf(first), addrOf(min(high, first+199))}
	}
	if !r.First.Is4() || !r.Last.Is4() || number(r.First) > number(r.Last) {
		wrong("range", "%v does not go from an IPv4 address to a higher one", r)
		return r
	}
	if number(r.First) < low || number(r.Last) > high {
		wrong("range", "%v is not in %v, the network of %s", r, Range{addrOf(low), addrOf(high)}, seg.iface.Name)
	}
	if r.First == r.Last && r.First == seg.addr {
		wrong("range", "%v is this machine's own address", r.First)
	}
	return r
}

// expander replaces {server} by an address and {http} by a URL.
func expander(addr netip.Addr, port int) *strings.Replacer {
	return strings.NewReplacer("{server}", addr.String(), "{http}", httpURL(addr, port))
}

func httpURL(addr netip.Addr, port int) string {
	if port == 80 {
		return "http://" + addr.String()
	}
	return fmt.Sprintf("http://%v:%d", addr, port)
}

// Run serves until Count machines are installed, which is success, until ctx ends,
// which is its cause, or until something fails. The sockets are closed and nothing
// runs any more when it returns.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	parts, err := s.open(ctx)
	defer func() {
		for _, p := range parts {
			p.close()
		}
	}()
	if err != nil {
		return err
	}
	ctx, s.finish = context.WithCancelCause(ctx)
	defer s.finish(nil)
	var work sync.WaitGroup
	for _, p := range parts {
		work.Go(func() {
			if err := p.serve(ctx); err != nil && ctx.Err() == nil {
				s.finish(err)
			}
		})
	}
	s.emit(Event{Phase: Ready, IP: s.seg.addr})
	<-ctx.Done()
	for _, p := range parts {
		p.close()
	}
	work.Wait()
	if err := context.Cause(ctx); !errors.Is(err, errAllInstalled) {
		return err
	}
	return nil
}

// open opens every socket; those that cannot be had are reported together. The
// search for another DHCP server takes seconds and comes before this one is there,
// which would hear its questions.
func (s *Server) open(ctx context.Context) (parts []service, err error) {
	var failed []error
	try := func(open func() (service, error)) {
		p, err := open()
		if err != nil {
			failed = append(failed, err)
		} else if p.serve != nil {
			parts = append(parts, p)
		}
	}
	try(s.openTFTP)
	try(s.openHTTP)
	try(s.openBootServer)
	if len(failed) == 0 && s.o.DHCP == Full && !s.o.Force {
		if err := s.refuseSecond(ctx); err != nil {
			return parts, err
		}
	}
	try(s.openDHCP)
	return parts, errors.Join(failed...)
}

// service is a socket and what is done with it. After close, which may be called
// again, serve returns.
type service struct {
	serve func(context.Context) error
	close func()
}

func (s *Server) emit(e Event) {
	if s.o.Events == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o.Events(e)
}

func (s *Server) logf(format string, args ...any) {
	if s.o.Logf != nil {
		s.o.Logf(format, args...)
	}
}

// machine is what is known of who has an address.
func (s *Server) machine(ip netip.Addr) string {
	if mac := s.dhcp.leases.macOf(ip); mac != "" {
		return mac
	}
	return neighbour(ip)
}

// isDone reports whether a machine was installed: from then on it is not told what to
// boot, so that one which tries the network first comes to its disks.
func (s *Server) isDone(mac string) bool {
	s.doneMu.Lock()
	defer s.doneMu.Unlock()
	return s.done[mac]
}

// installed counts a machine, once.
func (s *Server) installed(mac string, ip netip.Addr) {
	s.doneMu.Lock()
	again := s.done[mac]
	s.done[mac] = true
	all := s.o.Count > 0 && len(s.done) >= s.o.Count
	s.doneMu.Unlock()
	if again {
		return
	}
	s.emit(Event{Phase: Installed, MAC: mac, IP: ip})
	if all {
		s.finish(errAllInstalled)
	}
}
