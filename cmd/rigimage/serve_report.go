package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/pxe"
	"github.com/rig-freebsd/rig/internal/cli"
	"golang.org/x/term"
)

// serveReport prints what machines do: every event as JSON, or one line for each
// machine and phase.
type serveReport struct {
	std       cli.Stdio
	asJSON    bool
	colour    bool
	ready     serveEvent
	layers    map[string]string // path → "base layer"
	sizes     map[string]int64  // path → bytes
	machines  map[string]*served
	installed int
}

// served is one machine.
type served struct {
	said   map[string]bool
	sent   map[string]tally // by path
	loader bool             // it got as far as FreeBSD's loader
}

// tally is what a machine has of a file, in as many parts as it asked for.
type tally struct {
	bytes int64
	took  time.Duration
}

// serveEvent is an event as JSON; the last four are those of "ready".
type serveEvent struct {
	Time    string     `json:"time"`
	Phase   pxe.Phase  `json:"phase"`
	MAC     string     `json:"mac,omitempty"`
	IP      netip.Addr `json:"ip,omitzero"`
	Client  string     `json:"client,omitempty"`
	File    string     `json:"file,omitempty"`
	Bytes   int64      `json:"bytes,omitempty"`
	Total   int64      `json:"total,omitempty"`
	Seconds float64    `json:"seconds,omitempty"`
	Error   string     `json:"error,omitempty"`

	Image string   `json:"image,omitempty"`
	URL   string   `json:"url,omitempty"`
	DHCP  pxe.Mode `json:"dhcp,omitempty"`
	Range string   `json:"range,omitempty"`
}

func newServeReport(std cli.Stdio, m *manifest.Manifest, asJSON bool) *serveReport {
	r := &serveReport{std: std, asJSON: asJSON, ready: serveEvent{Image: m.Image}, layers: map[string]string{}, sizes: map[string]int64{},
		machines: map[string]*served{}}
	f, ok := std.Out.(*os.File)
	r.colour = ok && term.IsTerminal(int(f.Fd())) && std.Getenv("NO_COLOR") == "" && std.Getenv("TERM") != "dumb"
	for _, l := range m.Layers {
		r.layers[l.Path()] = strings.TrimSpace(string(l.Role) + " layer " + l.Jail)
	}
	for _, b := range m.Pinned() {
		if b.Part == manifest.RoleRig {
			r.sizes[b.Path] = b.Size
		}
	}
	return r
}

// serves notes what the first line says.
func (r *serveReport) serves(s *pxe.Server, mode pxe.Mode) {
	r.ready.URL, r.ready.DHCP = s.URL(), mode
	if mode == pxe.Full {
		r.ready.Range = s.Range().String()
	}
}

// event is pxe.Options.Events.
func (r *serveReport) event(e pxe.Event) {
	if e.Phase == pxe.Installed {
		r.installed++
	}
	switch {
	case r.asJSON:
		r.json(e)
	case e.Phase == pxe.Ready:
		fmt.Fprintf(r.std.Out, "image %s at %s, DHCP %s\n", r.ready.Image, r.ready.URL, strings.TrimSpace(string(r.ready.DHCP)+" "+r.ready.Range))
	default:
		r.line(e)
	}
}

func (r *serveReport) json(e pxe.Event) {
	var v serveEvent
	if e.Phase == pxe.Ready {
		v = r.ready
	}
	v.Time, v.Phase, v.MAC, v.IP, v.Client, v.File = time.Now().UTC().Format(time.RFC3339Nano), e.Phase, e.MAC, e.IP, e.Client, e.File
	v.Bytes, v.Total, v.Seconds = e.Bytes, e.Total, e.Took.Seconds()
	if e.Err != nil {
		v.Error = e.Err.Error()
	}
	b, err := json.Marshal(v)
	if err != nil {
		b = fmt.Appendf(nil, `{"phase":%q,"error":%q}`, e.Phase, err)
	}
	fmt.Fprintf(r.std.Out, "%s\n", b)
}

// line prints what a machine is known to do since this event, once.
func (r *serveReport) line(e pxe.Event) {
	who := e.MAC
	if who == "" {
		who = e.IP.String()
	}
	m := r.machines[who]
	if m == nil || m.loader && firmware[e.Client] != "" { // it was started again
		m = &served{said: map[string]bool{}, sent: map[string]tally{}}
		r.machines[who] = m
	}
	text, colour := r.text(m, e)
	if text == "" || m.said[text] {
		return
	}
	m.said[text] = true
	if t := m.sent[e.File]; r.layers[e.File] != "" && t.took > 0 {
		text += fmt.Sprintf("  %s/s", cli.Size(int64(float64(t.bytes)/t.took.Seconds())))
	}
	if r.colour && colour != "" {
		text = colour + text + "\x1b[0m"
	}
	ip := ""
	if e.IP.IsValid() && e.Phase != pxe.Elsewhere {
		ip = e.IP.String()
	}
	fmt.Fprintf(r.std.Out, "%-17s  %-15s  %s\n", e.MAC, ip, text)
}

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
)

// firmware names what a rule of package pxe is for.
var firmware = map[string]string{"bios": "BIOS PXE", "ipxebios": "iPXE (BIOS)", "ipxe": "iPXE (UEFI)", "efi": "UEFI PXE", "http": "UEFI HTTP"}

// text is what an event means, "" for nothing to tell.
func (r *serveReport) text(m *served, e pxe.Event) (text, colour string) {
	switch e.Phase {
	case pxe.Discover, pxe.Offer, pxe.Address:
		return r.addressText(e)
	case pxe.Elsewhere:
		return fmt.Sprintf("took an address of another DHCP server, %v", e.IP), red
	case pxe.Installed:
		return "installed", green
	}
	if errors.Is(e.Err, fs.ErrNotExist) {
		if e.File == "rig/answers/default.toml" {
			return "finds no answers: there is no file for it, and no default.toml", red
		}
		return "", ""
	}
	return r.fileText(m, e), ""
}

func (r *serveReport) addressText(e pxe.Event) (text, colour string) {
	switch fw := firmware[e.Client]; {
	case e.Err != nil && e.Phase == pxe.Discover:
		return "cannot be booted: " + e.Err.Error(), red
	case e.Err != nil:
		return "gets no address: " + e.Err.Error(), red
	case fw != "" && (e.Phase == pxe.Address || e.Phase == pxe.Offer && r.ready.DHCP == pxe.Proxy):
		return "boots by " + fw, ""
	case e.Phase == pxe.Address && e.Client == "":
		return "gets an address", ""
	}
	return "", ""
}

// fileText is about transfers that are complete. Loaders look for many files, and
// leave off half-way.
func (r *serveReport) fileText(m *served, e pxe.Event) string {
	if e.Err == nil && e.Bytes != e.Total {
		return ""
	}
	t := m.sent[e.File]
	t.bytes, t.took = t.bytes+e.Bytes, t.took+e.Took
	m.sent[e.File] = t
	size, known := r.sizes[e.File]
	if e.Err != nil && !known || t.bytes < size {
		return ""
	}
	under := func(dir string) bool { return strings.HasPrefix(e.File, dir) }
	switch {
	case r.layers[e.File] != "":
		return "fetches " + r.layers[e.File]
	case e.File == manifest.File:
		return "runs the installer"
	case under("rig/answers/"):
		return "takes the answers " + path.Base(e.File)
	case under("rig/pkgs/"):
		return "fetches packages"
	case under("boot/lua/"), e.File == "boot/loader.conf":
		m.loader = true
		return "runs the loader"
	case e.File == "boot.ipxe", e.File == "boot/loader.efi", e.File == "boot/pxeboot":
		return "loads " + e.File
	case max(size, e.Total) >= 1<<20:
		return fmt.Sprintf("loads %s  %s", e.File, cli.Size(max(size, e.Total)))
	}
	return ""
}
