package vmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rig-freebsd/rig/internal/vm"
)

// segment is a network of its own, for one machine and what serves it: a network
// namespace with a bridge, on which the machine's card has its tap.
type segment struct {
	t  testing.TB
	ns string
}

const (
	segmentBridge = "rig0"
	segmentTap    = "tap0"
)

var segments atomic.Int64

// newSegment needs root, as a host with such servers does.
func newSegment(t testing.TB) segment {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "netns", "network namespaces: only root makes them")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		skip(t, "netns", "network namespaces: ip(8) of iproute2 is missing")
	}
	s := segment{t, fmt.Sprintf("rig%d-%d", os.Getpid(), segments.Add(1))}
	if out, err := exec.Command("ip", "netns", "add", s.ns).CombinedOutput(); err != nil {
		skip(t, "netns", fmt.Sprintf("network namespaces: %v: %s", err, out))
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "delete", s.ns).Run() })
	// A bridge has a link while one of its ports has one: a pair of virtual cards.
	for _, line := range []string{
		"link set lo up",
		"link add " + segmentBridge + " address 02:00:00:00:09:01 type bridge",
		"link add v0 type veth peer name v1",
		"link set v0 master " + segmentBridge + " up",
		"link set v1 arp off up", // Linux answers for every address it has, on every card
		"tuntap add dev " + segmentTap + " mode tap",
		"link set " + segmentTap + " master " + segmentBridge + " up",
		"addr add 10.9.0.1/24 dev " + segmentBridge,
		"link set " + segmentBridge + " up",
	} {
		if out, err := s.command(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	return s
}

// command is a program inside.
func (s segment) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", s.ns, name}, args...)...)
}

// dhcpServer puts a DHCP server that knows nothing of rig on the segment, as another
// machine.
func (s segment) dhcpServer() {
	s.t.Helper()
	dnsmasq, ok := referee.Find("dnsmasq")
	if !ok {
		skip(s.t, "dnsmasq", "dnsmasq is missing: install dnsmasq-base")
	}
	other := segment{s.t, s.ns + "d"}
	s.t.Cleanup(func() { exec.Command("ip", "netns", "delete", other.ns).Run() })
	for _, cmd := range []*exec.Cmd{
		exec.Command("ip", "netns", "add", other.ns),
		s.command(s.t.Context(), "ip", "link", "set", "v1", "netns", other.ns),
		other.command(s.t.Context(), "ip", "addr", "add", "10.9.0.2/24", "dev", "v1"),
		other.command(s.t.Context(), "ip", "link", "set", "v1", "arp", "on", "up"),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Fatalf("%v: %v: %s", cmd.Args, err, out)
		}
	}
	var log strings.Builder
	cmd := other.command(s.t.Context(), dnsmasq, "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=v1", "--bind-interfaces",
		"--dhcp-range=10.9.0.100,10.9.0.199,255.255.255.0,1h", "--dhcp-option=option:router,10.9.0.2", "--dhcp-leasefile="+filepath.Join(Dir(s.t), "leases"), "--log-dhcp")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("dnsmasq: %s", log.String())
		}
	})
}

// attach puts the machine's first card on the segment and boots from it first.
func (s segment) attach(c *vm.Config) {
	s.t.Helper()
	qemu := filepath.Join(c.Dir, "qemu-in-"+s.ns)
	script := fmt.Sprintf("#!/bin/sh\nexec ip netns exec %s %s \"$@\"\n", s.ns, NeedQEMU(s.t))
	if err := os.WriteFile(qemu, []byte(script), 0o755); err != nil {
		s.t.Fatal(err)
	}
	c.QEMU = qemu
	c.NICs[0].Net, c.NICs[0].Model, c.NICs[0].BootIndex = "tap,ifname="+segmentTap+",script=no,downscript=no", "e1000", 1
}

// served is a running rigimage serve.
type served struct {
	cmd    *exec.Cmd
	events []map[string]any // its output, valid when it has ended
	log    strings.Builder
	read   chan struct{}
}

// serve runs rigimage serve on the segment, for one install.
func (s segment) serve(dir, answers string, args ...string) *served {
	s.t.Helper()
	p := &served{read: make(chan struct{})}
	args = append([]string{"serve", dir, "--interface", segmentBridge, "--answers", answers, "--once", "--json"}, args...)
	p.cmd = s.command(s.t.Context(), rigimagePath(s.t), args...)
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(p.read)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var e map[string]any
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				p.events = append(p.events, e)
			}
			if n == 0 {
				close(ready)
			}
		}
	}()
	s.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.read
		if s.t.Failed() {
			s.t.Logf("rigimage serve: %s\n%s", p.log.String(), p.text())
		}
	})
	select {
	case <-ready:
	case <-p.read:
		s.t.Fatalf("rigimage serve ended: %v\n%s", p.cmd.Wait(), p.log.String())
	case <-time.After(Slow(30 * time.Second)):
		s.t.Fatal("rigimage serve does not get ready")
	}
	return p
}

func (p *served) text() string {
	var b strings.Builder
	for _, e := range p.events {
		line, _ := json.Marshal(e)
		fmt.Fprintf(&b, "%s\n", line)
	}
	return b.String()
}

// end waits for the server to end by itself: the machine told it that it is installed.
func (p *served) end(t testing.TB) {
	t.Helper()
	select {
	case <-p.read:
	case <-time.After(Slow(time.Minute)):
		t.Fatal("rigimage serve --once does not end after the install")
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("rigimage serve: %v\n%s", err, p.log.String())
	}
}
