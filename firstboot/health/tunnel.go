package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/internal/text"
)

// checkTunnels wants a spiped that listens at the source of each pipe that a
// jail's rc.conf names, in jails that have spiped.
func (v *verifier) checkTunnels(ctx context.Context) []Check {
	r := &rows{area: "tunnels"}
	for _, j := range v.jails {
		if !v.up[j.name] {
			continue
		}
		rc, err := v.rcConf(ctx, j.name)
		if err != nil {
			r.fail(j.name, err)
			continue
		}
		pipes := strings.Fields(rc["spiped_pipes"])
		if len(pipes) == 0 || !wantYes(rc["spiped_enable"]) {
			continue
		}
		if _, err := os.Lstat(v.path(j.path, "usr/local/bin/spiped")); err != nil {
			r.skip(j.name, "spiped is not installed")
			continue
		}
		out, err := v.output(ctx, "sockstat", "--libxo", "json", "-n", "-l", "-4", "-P", "tcp", "-j", j.name)
		if err != nil {
			r.fail(j.name, err)
			continue
		}
		listeners, err := parseSockstat(out)
		if err != nil {
			r.fail(j.name, err)
			continue
		}
		compareTunnels(r, j.name, pipes, rc, listeners)
	}
	return r.list
}

// listener is a socket that waits for connections.
type listener struct {
	command string
	address string // "*" for all
	port    int
}

// parseSockstat reads the output of sockstat --libxo json -l (FreeBSD 15.1
// usr.bin/sockstat).
func parseSockstat(text string) ([]listener, error) {
	var out struct {
		Sockstat *struct {
			Socket []struct {
				Command string `json:"command"`
				Local   struct {
					Address string `json:"address"`
					Port    int    `json:"port"`
				} `json:"local"`
			} `json:"socket"`
		} `json:"sockstat"`
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("output of sockstat: %w", err)
	}
	if out.Sockstat == nil {
		return nil, errors.New("output of sockstat: no sockets")
	}
	var list []listener
	for _, s := range out.Sockstat.Socket {
		list = append(list, listener{s.Command, s.Local.Address, s.Local.Port})
	}
	return list, nil
}

func compareTunnels(r *rows, jail string, pipes []string, rc map[string]string, have []listener) {
	for _, p := range pipes {
		check := jail + " " + p
		source := rc["spiped_pipe_"+p+"_source"]
		at, err := pipeEnd(source)
		if err != nil {
			r.fail(check, err)
			continue
		}
		on := func(command string) bool {
			return slices.ContainsFunc(have, func(l listener) bool {
				return (command == "" || l.command == command) && l.port == int(at.Port()) && (l.address == "*" || l.address == at.Addr().String())
			})
		}
		switch {
		case on("spiped"):
			r.ok(check, "%s at %s, to %s", rc["spiped_pipe_"+p+"_mode"], at, rc["spiped_pipe_"+p+"_target"])
		case on(""):
			r.add(check, Failed, fmt.Sprintf("another program listens at %s", at), "sockstat -l -j "+jail+" shows it")
		default:
			r.add(check, Failed, fmt.Sprintf("nothing listens at %s", at), "service -j "+jail+" spiped restart")
		}
	}
}

// pipeEnd reads "[192.0.2.1]:5432" or "192.0.2.1:5432".
func pipeEnd(s string) (netip.AddrPort, error) {
	bad := fmt.Errorf("source %q is not an address and a port", s)
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}, bad
	}
	addr, err1 := netip.ParseAddr(strings.Trim(s[:i], "[]"))
	port, err2 := strconv.ParseUint(s[i+1:], 10, 16)
	if err1 != nil || err2 != nil {
		return netip.AddrPort{}, bad
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

// maxOffset is how far the clock may be off, in milliseconds.
const maxOffset = 1000

// checkTime asks ntpd whether it follows a server. A clock that does not is no
// reason to call a server broken.
func (v *verifier) checkTime(ctx context.Context) []Check {
	r := &rows{area: "time"}
	rc, err := v.rcConf(ctx, "")
	if err != nil {
		r.fail("ntpd", err)
		return r.list
	}
	if !wantYes(rc["ntpd_enable"]) {
		r.skip("ntpd", "ntpd_enable is not set in rc.conf")
		return r.list
	}
	out, err := v.output(ctx, "ntpq", "-pn")
	if err != nil {
		r.add("ntpd", Warning, text.OneLine(err.Error()), "service ntpd start")
		return r.list
	}
	judgeTime(r, out)
	return r.list
}

// judgeTime reads the output of ntpq -pn: a heading, a rule, and a line for each
// server with a mark in its first column; "*" is the one that is followed.
func judgeTime(r *rows, text string) {
	servers := 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch f := strings.Fields(line); {
		case len(f) == 0, f[0] == "remote", strings.HasPrefix(line, "==="):
		case len(f) != 10:
			r.fail("ntpd", fmt.Errorf("output of ntpq: %q is not a server", line))
			return
		case line[0] == '*' || line[0] == 'o':
			offset, err := strconv.ParseFloat(f[8], 64)
			if err != nil {
				r.fail("ntpd", fmt.Errorf("output of ntpq: offset %q is not a number", f[8]))
			} else if offset > maxOffset || offset < -maxOffset {
				r.add("ntpd", Warning, fmt.Sprintf("follows %s and is %s ms off", f[0][1:], f[8]), "")
			} else {
				r.ok("ntpd", "follows %s, %s ms off", f[0][1:], f[8])
			}
			return
		default:
			servers++
		}
	}
	if servers == 0 {
		r.add("ntpd", Warning, "it knows no time server", "name one in /etc/ntp.conf")
		return
	}
	r.add("ntpd", Warning, fmt.Sprintf("none of %s is followed (yet)", counted(servers, "time server")),
		"ntpq -pn: \"reach\" 0 means that no answer comes back, as when the firewall drops it")
}
