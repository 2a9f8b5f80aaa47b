package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rig/answers"
	"rig/internal/cli"
	"rig/internal/diag"
	"rig/manifest"
	"rig/pxe"
)

const serveUsage = `usage: rigimage serve DIR [--interface IF] [--dhcp full|proxy|off] [--answers DIR] [--once|--count N] [--json]
       rigimage serve DIR --print dnsmasq|nginx|ipxe

Boots machines on this network segment into the installer: DHCP, TFTP and HTTP for a
directory made by "rigimage build -o DIR/". It says what each machine does, and ends
with Ctrl-C or when so many machines are installed. Ports 67, 69 and 80 take root.

  --interface IF   the segment's network card; not needed when there is one only
  --listen ADDR    or this host's address on it
  --dhcp MODE      full (default): gives out addresses, on a segment without a DHCP server;
                   proxy: only says what to boot, beside a DHCP server; off: TFTP and HTTP
  --range A-B      the addresses to give out (default: the segment's upper half)
  --router ADDR    and what else they are told
  --dns ADDR,ADDR
  --answers DIR    answers of each machine, as 52-54-00-12-34-56.toml (the MAC of one of its
                   cards), SERIAL.toml or UUID.toml of its SMBIOS, or default.toml. Everyone on
                   the segment can read them, and what secrets they hold
  --count N        end when N machines are installed; --once is --count 1
  --port PORT      of HTTP (default 80)
  --force          start although another DHCP server answers
  --print KIND     print the configuration of a server you have already, which then does the
                   same: dnsmasq (DHCP, TFTP), nginx (HTTP), or the script for ipxe
  --json           one JSON object a line for everything that happens

example: rigimage build -o pxe/ && sudo rigimage serve pxe --interface eth1 --answers answers/ --once
`

func serve(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(serveUsage)
	var o pxe.Options
	fl.StringVar(&o.Interface, "interface", "", "")
	fl.StringVar(&o.Answers, "answers", "", "")
	fl.IntVar(&o.Count, "count", 0, "")
	fl.IntVar(&o.Ports.HTTP, "port", 0, "")
	fl.BoolVar(&o.Force, "force", false, "")
	listen, mode := fl.String("listen", "", ""), fl.String("dhcp", "full", "")
	addresses, router, dns := fl.String("range", "", ""), fl.String("router", "", ""), fl.String("dns", "", "")
	once, kind, asJSON := fl.Bool("once", false, ""), fl.String("print", "", ""), fl.Bool("json", false, "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return diag.Hint(diag.Inputf("no directory given"), "rigimage build -o pxe/ makes one; rigimage serve --help")
	}
	o.Dir, o.DHCP = rest[0], pxe.Mode(*mode)
	if *once {
		if o.Count > 1 {
			return diag.Inputf("--once and --count %d contradict each other", o.Count)
		}
		o.Count = 1
	}
	var bad diag.Problems
	o.Listen = parseAddr(&bad, "--listen", *listen)
	o.Router = parseAddr(&bad, "--router", *router)
	for a := range strings.SplitSeq(*dns, ",") {
		if addr := parseAddr(&bad, "--dns", a); addr.IsValid() {
			o.DNS = append(o.DNS, addr)
		}
	}
	if first, last, ok := strings.Cut(*addresses, "-"); ok {
		o.Range = pxe.Range{First: parseAddr(&bad, "--range", first), Last: parseAddr(&bad, "--range", last)}
	} else if *addresses != "" {
		bad.Add(diag.Problem{Key: "--range", Msg: fmt.Sprintf("%q is not FIRST-LAST", *addresses)})
	}
	if err := bad.Err(); err != nil {
		return diag.Input(err)
	}
	m, err := checkNetDir(o.Dir)
	if err != nil {
		return err
	}
	if err := checkNetAnswers(o.Answers, m); err != nil {
		return err
	}
	o.Files = map[string]string{manifest.SwitchFile: netSwitch(o.Answers != "")}
	if *kind != "" {
		return pxe.Print(std.Out, *kind, o)
	}
	t := &teller{out: std.Out, json: *asJSON, layers: layerNames(m)}
	o.Events = t.event
	o.Logf = func(format string, a ...any) { fmt.Fprintf(std.Err, format+"\n", a...) }
	s, err := pxe.New(o)
	if err != nil {
		return err
	}
	t.ready = fmt.Sprintf("image %s at %s, %s", m.Image, s.URL(), dhcpText(o.DHCP, s))
	err = s.Run(ctx)
	if errors.Is(err, context.Canceled) { // Ctrl-C is how it ends
		return nil
	}
	return err
}

func parseAddr(bad *diag.Problems, key, text string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil || !a.Is4() {
		bad.Add(diag.Problem{Key: key, Msg: fmt.Sprintf("%q is not an IPv4 address", text)})
	}
	return a
}

func dhcpText(mode pxe.Mode, s *pxe.Server) string {
	switch mode {
	case pxe.Full:
		return "DHCP gives out " + s.Range().String()
	case pxe.Proxy:
		return "beside the segment's DHCP server"
	}
	return "without DHCP"
}

// netSwitch is what the loader and the installer are told of where they came from.
func netSwitch(withAnswers bool) string {
	text := manifest.EnvURL + "=\"{http}\"\n" + manifest.EnvDoneURL + "=\"{http}/rig/done\"\n"
	if withAnswers {
		text += manifest.EnvAnswersURL + "=\"{http}/rig/answers/{id}.toml\"\n"
	}
	return text
}

// checkNetDir reads the manifest of a directory for network boot.
func checkNetDir(dir string) (*manifest.Manifest, error) {
	f, err := os.Open(filepath.Join(dir, manifest.File))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = diag.Hint(diag.Inputf("serve %s: there is no image in this directory", dir), "\"rigimage build -o %s/\" makes one", strings.TrimRight(dir, "/"))
		}
		return nil, err
	}
	defer f.Close()
	m, err := manifest.Decode(f)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", dir, err)
	}
	for _, name := range []string{"boot/loader.efi", "boot/pxeboot", "boot/loader.conf", manifest.MFSRoot} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || !st.Mode().IsRegular() {
			return nil, diag.Hint(diag.Inputf("serve %s: %s is missing", dir, name), "make the directory again")
		}
	}
	return m, nil
}

// checkNetAnswers reads all answers before any machine does.
func checkNetAnswers(dir string, m *manifest.Manifest) error {
	if dir == "" {
		return nil
	}
	list, err := filepath.Glob(filepath.Join(dir, "*.toml"))
	if err != nil || len(list) == 0 {
		return diag.Hint(diag.Inputf("--answers %s: there are no *.toml in it", dir), "rigimage answers --template prints one")
	}
	var errs []error
	for _, name := range list {
		b, err := os.ReadFile(name)
		if err == nil {
			var set *answers.Set
			if set, err = answers.Resolve(m.Questions, answers.Source{Name: name, Data: b}); err == nil {
				err = set.CheckUnattended()
			}
		}
		errs = append(errs, err)
	}
	return diag.Input(errors.Join(errs...))
}

// layerNames says for people what files with a hash for a name are.
func layerNames(m *manifest.Manifest) map[string]string {
	names := map[string]string{}
	for _, l := range m.Layers {
		names[l.Path()] = strings.TrimSpace(string(l.Role)+" "+l.Jail) + " layer"
	}
	return names
}

// teller prints what happens.
type teller struct {
	out    io.Writer
	json   bool
	ready  string
	layers map[string]string
	last   map[string]time.Time
}

// jsonEvent is a line of --json.
type jsonEvent struct {
	Time  string `json:"time"`
	Phase string `json:"phase"`
	MAC   string `json:"mac,omitempty"`
	IP    string `json:"ip,omitempty"`
	As    string `json:"as,omitempty"`
	File  string `json:"file,omitempty"`
	Bytes int64  `json:"bytes,omitempty"`
	Total int64  `json:"total,omitempty"`
	Error string `json:"error,omitempty"`
}

func (t *teller) event(e pxe.Event) {
	if !t.json {
		t.line(e)
		return
	}
	j := jsonEvent{Time: time.Now().UTC().Format(time.RFC3339), Phase: string(e.Phase), MAC: e.MAC, As: e.Client, File: e.File, Bytes: e.Bytes, Total: e.Total}
	if e.IP.IsValid() {
		j.IP = e.IP.String()
	}
	if e.Err != nil {
		j.Error = e.Err.Error()
	}
	b, _ := json.Marshal(j) // of strings and numbers
	fmt.Fprintf(t.out, "%s\n", b)
}

// line prints what a person wants to know: not every packet, and not what loaders look
// for and do without.
func (t *teller) line(e pxe.Event) {
	who := strings.TrimSpace(e.MAC + "  " + addrText(e.IP))
	say := func(format string, a ...any) {
		fmt.Fprintf(t.out, "%s  %s\n", who, fmt.Sprintf(format, a...))
	}
	switch e.Phase {
	case pxe.Ready:
		fmt.Fprintf(t.out, "serving %s. Ctrl-C ends it.\n", t.ready)
	case pxe.Discover:
		if e.Err != nil {
			say("asks what to boot: %v", e.Err)
		}
	case pxe.Address:
		if e.Client != "" {
			say("boots as %s", e.Client)
		} else {
			say("has its address")
		}
	case pxe.Elsewhere:
		say("took an address of the DHCP server %v", e.IP)
	case pxe.Installed:
		say("is installed")
	case pxe.TFTP, pxe.HTTP:
		t.transfer(e, say)
	}
}

// transfer tells of what was sent to its end, and of large files on their way.
func (t *teller) transfer(e pxe.Event, say func(string, ...any)) {
	name := e.File
	if n := t.layers[name]; n != "" {
		name = n
	}
	const large = 4 << 20
	switch {
	case errors.Is(e.Err, fs.ErrNotExist):
		if strings.HasPrefix(e.File, "rig/") { // not one of those loaders try
			say("asks for %s, which is not there", name)
		}
	case e.Err != nil: // loaders open files to look at their beginning
		if e.Total >= large {
			say("broke off %s after %d of %d MiB", name, e.Bytes>>20, e.Total>>20)
		}
	case e.Bytes == e.Total:
		delete(t.last, e.MAC+e.File)
		if e.Total >= 64<<10 || strings.HasPrefix(e.File, "rig/") || strings.HasPrefix(e.File, "boot.") {
			say("has %s (%s)", name, sizeText(e.Total))
		}
	default:
		if now := time.Now(); now.Sub(t.last[e.MAC+e.File]) > 10*time.Second {
			if t.last == nil {
				t.last = map[string]time.Time{}
			}
			t.last[e.MAC+e.File] = now
			say("takes %s, %d of %d MiB", name, e.Bytes>>20, e.Total>>20)
		}
	}
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func sizeText(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
