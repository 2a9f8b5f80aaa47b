package lint

import (
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

// gateway reads the default route, and the host routes that may be needed to
// reach it.
func (c *checker) gateway(n *Node) {
	v := n.rc.Vars["defaultrouter"]
	if v == nil || v.Val.Text == "" || strings.EqualFold(v.Val.Text, "no") {
		return
	}
	a, err := netip.ParseAddr(v.Val.Text)
	if err != nil || !a.Is4() {
		if !v.Val.Unknown {
			c.bad(v.At, "defaultrouter: %q is not an IPv4 address", v.Val.Text)
		}
		return
	}
	n.Gateway = a
	for _, name := range strings.Fields(n.rc.Get("static_routes")) {
		r := n.rc.Vars["route_"+name]
		if r == nil {
			c.bad(n.rc.At("static_routes"), "route %s is in static_routes and there is no route_%s", name, name)
			continue
		}
		ws := r.Val.Words()
		for i, w := range ws {
			if w.Text != "-iface" && w.Text != "-interface" {
				continue
			}
			if i+1 < len(ws) && n.iface(ws[i+1].Text) == nil {
				c.bad(ws[i+1].At, "there is no interface %s", ws[i+1].Text)
			}
			for _, w := range ws[:i] {
				if to, err := netip.ParseAddr(w.Text); err == nil {
					n.onLink = append(n.onLink, to)
				}
			}
		}
	}
}

// pipes reads the tunnels of a node: spiped_pipes and spiped_pipe_NAME_mode,
// _source, _target, _key.
func (c *checker) pipes(n *Node) {
	if !n.rc.Maybe("spiped_enable") {
		return
	}
	for _, w := range strings.Fields(n.rc.Get("spiped_pipes")) {
		at := n.rc.At("spiped_pipes")
		p := &Pipe{Name: w, at: at}
		value := func(part string) (string, flaw.Pos) {
			name := "spiped_pipe_" + w + "_" + part
			v := n.rc.Vars[name]
			if v == nil {
				c.bad(at, "pipe %s: there is no %s", w, name)
				return "", at
			}
			if len(v.Val.At) > 0 {
				return v.Val.Text, v.Val.At[0]
			}
			return "", v.At
		}
		known := func(part string) bool {
			v := n.rc.Vars["spiped_pipe_"+w+"_"+part]
			return v != nil && !v.Val.Unknown
		}
		address := func(part string) (netip.AddrPort, flaw.Pos) {
			s, at := value(part)
			host, port, ok := strings.Cut(strings.TrimPrefix(s, "["), "]:")
			a, err := netip.ParseAddr(host)
			n, err2 := strconv.ParseUint(port, 10, 16)
			if s != "" && known(part) && (!ok || err != nil || err2 != nil || n == 0) {
				c.bad(at, "pipe %s: %q is not an address and port, as [192.0.2.1]:5432", w, s)
			}
			return netip.AddrPortFrom(a, uint16(n)), at
		}
		var mode flaw.Pos
		if p.Mode, mode = value("mode"); p.Mode != "encrypt" && p.Mode != "decrypt" && p.Mode != "" {
			c.bad(mode, "pipe %s: mode %q; expected encrypt or decrypt", w, p.Mode)
		}
		p.Source, p.source = address("source")
		p.Target, p.target = address("target")
		p.Key, p.key = value("key")
		n.Pipes = append(n.Pipes, p)
		if p.Source.IsValid() {
			n.Listen = append(n.Listen, Listener{Addr: p.Source.Addr(), Proto: "tcp", Port: p.Source.Port(), By: "spiped " + w, at: p.source})
		}
	}
}

var (
	nginxListen = regexp.MustCompile(`(?m)^[ \t]*listen[ \t]+([^;\s]+)`)
	pgPort      = regexp.MustCompile(`(?m)^[ \t]*port[ \t]*=[ \t]*'?(\d+)`)
	pgListen    = regexp.MustCompile(`(?m)^[ \t]*listen_addresses[ \t]*=[ \t]*'([^']*)'`)
	envPort     = regexp.MustCompile(`(?m)^[ \t]*(?:export[ \t]+)?PORT=["']?(\d+)`)
	sshPort     = regexp.MustCompile(`(?mi)^[ \t]*Port[ \t]+(\d+)`)
)

// services notes what listens on a node, as far as rc.conf and the services' own
// files say: sshd, nginx, PostgreSQL, ntpd.
func (c *checker) services(n *Node) {
	enabled := func(name string) bool { return n.rc.Maybe(name + "_enable") }
	add := func(by string, a netip.Addr, proto string, port uint16) {
		l := Listener{Addr: a, Proto: proto, Port: port, By: by, at: n.rc.At(by + "_enable"), maybe: n.rc.Cond[by+"_enable"]}
		if !slices.ContainsFunc(n.Listen, func(o Listener) bool { return o.Addr == a && o.Port == port && o.By == by }) {
			n.Listen = append(n.Listen, l)
		}
	}
	for _, s := range [][2]string{{"sshd", "/etc/ssh/sshd_config"}, {"openssh", "/usr/local/etc/ssh/sshd_config"}} {
		by, file := s[0], s[1]
		if !enabled(by) {
			continue
		}
		ports := numbers(sshPort, n.root.text(file))
		if len(ports) == 0 {
			ports = []uint16{22}
		}
		for _, p := range ports {
			add(by, netip.Addr{}, "tcp", p)
		}
	}
	if enabled("nginx") {
		for _, m := range nginxListen.FindAllStringSubmatch(n.texts("/usr/local/etc/nginx"), -1) {
			if a, port, ok := listenSpec(m[1]); ok {
				add("nginx", a, "tcp", port)
			}
		}
	}
	if enabled("postgresql") {
		n.postgres(add)
	}
	for _, name := range slices.Sorted(maps.Keys(n.root.files)) { // a service of the profile's own, with its environment in a file
		dir, ok := strings.CutPrefix(name, "/usr/local/etc/")
		if by, file := path.Split(dir); ok && file == "env" && enabled(path.Clean(by)) {
			for _, p := range numbers(envPort, n.root.files[name].text) {
				add(path.Clean(by), netip.Addr{}, "tcp", p)
			}
		}
	}
	if enabled("ntpd") {
		add("ntpd", netip.Addr{}, "udp", 123)
	}
	slices.SortStableFunc(n.Listen, func(a, b Listener) int { return int(a.Port) - int(b.Port) })
}

// postgres notes where the database listens: everywhere, when its configuration
// is not part of the overlay.
func (n *Node) postgres(add func(by string, a netip.Addr, proto string, port uint16)) {
	port := uint16(5432)
	var text string
	for _, name := range slices.Sorted(maps.Keys(n.root.files)) {
		if strings.HasSuffix(name, ".conf") && (strings.Contains(name, "postgres") || strings.Contains(name, "pgsql")) {
			text += n.root.files[name].text + "\n"
		}
	}
	if p := numbers(pgPort, text); len(p) > 0 {
		port = p[len(p)-1]
	}
	found := pgListen.FindAllStringSubmatch(text, -1)
	if found == nil {
		add("postgresql", netip.Addr{}, "tcp", port)
		return
	}
	for _, s := range strings.FieldsFunc(found[len(found)-1][1], func(r rune) bool { return r == ',' || r == ' ' }) {
		switch a, err := netip.ParseAddr(s); {
		case err == nil && a.Is4() && !a.IsUnspecified():
			add("postgresql", a, "tcp", port)
		case s == "localhost":
			add("postgresql", netip.MustParseAddr("127.0.0.1"), "tcp", port)
		case err != nil || a.Is4():
			add("postgresql", netip.Addr{}, "tcp", port)
		}
	}
}

func numbers(re *regexp.Regexp, text string) (out []uint16) {
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		if n, err := strconv.ParseUint(m[1], 10, 16); err == nil {
			out = append(out, uint16(n))
		}
	}
	return out
}

// texts joins the .conf files below a directory.
func (n *Node) texts(dir string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(n.root.files)) {
		if strings.HasPrefix(name, dir+"/") && path.Ext(name) == ".conf" {
			b.WriteString(n.root.files[name].text + "\n")
		}
	}
	return b.String()
}

// listenSpec reads nginx's "80", "192.0.2.1:80" and "*:80"; others (IPv6, unix
// sockets) are none of ours.
func listenSpec(s string) (netip.Addr, uint16, bool) {
	host, port := "", s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.Addr{}, 0, false
	}
	if host == "" || host == "*" || host == "0.0.0.0" {
		return netip.Addr{}, uint16(n), true
	}
	a, err := netip.ParseAddr(host)
	return a, uint16(n), err == nil && a.Is4()
}

// listens reports whether something answers at an address and port of a node.
func (n *Node) listens(a netip.Addr, proto string, port uint16) bool {
	for _, l := range n.Listen {
		if l.Proto == proto && l.Port == port && (!l.Addr.IsValid() || l.Addr == a) {
			return true
		}
	}
	return false
}
