package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/pxe"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
)

const serveUsage = `usage: rigimage serve DIR [--interface IF] [--listen ADDR] [--dhcp full|proxy|off] [--range A-B]
                      [--router A] [--dns A,B] [--answers DIR] [--once | --count N] [--json]
       rigimage serve DIR --print dnsmasq|nginx|ipxe …

Boots and installs the machines of one network from DIR, which "rigimage build -o DIR/"
made: by UEFI HTTP boot, UEFI and BIOS PXE, and iPXE. It needs root, for its ports.

  --interface IF  the network card to serve, when there are several
  --listen ADDR   or its address
  --dhcp full     give out addresses, on a network without a DHCP server (the default)
  --dhcp proxy    leave addresses to the DHCP server that is there, only say what to boot
  --dhcp off      only TFTP and HTTP; the DHCP server has the settings of --print dnsmasq
  --range A-B     the addresses to give out (default: 200 of the upper half of the network's)
  --router A      the router to tell of, --dns A,B name servers; none without
  --answers DIR   give each machine its answers, for an unattended install. The installer
                  asks for MAC.toml ("52-54-00-12-34-56.toml", of each card), SERIAL.toml
                  (of SMBIOS; what is no letter, digit, "-", "_" or "." is "_" there),
                  UUID.toml (of SMBIOS, lower case) and default.toml, in this order, and
                  takes the first. EVERYONE ON THE NETWORK CAN READ THEM, with the password
                  hashes and keys in them
  --once          end when a machine is installed; --count N: when N are
  --force         start although another DHCP server may be there: do not look for one
  --port-http N   another port than 80
  --print WHAT    print the configuration with which dnsmasq (DHCP and TFTP) or nginx (HTTP)
                  does the same, or the script for iPXE, and end
  --json          print every event as a line of JSON

example: rigimage build -o net/ && sudo rigimage serve net --interface eth1 --answers answers --once
`

type serveFlags struct {
	iface, listen, dhcp, addrs, router, dns, answers, print *string
	count, port                                             *int
	once, force, asJSON                                     *bool
}

func serve(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(serveUsage)
	f := serveFlags{iface: fl.String("interface", "", ""), listen: fl.String("listen", "", ""), dhcp: fl.String("dhcp", "full", ""),
		addrs: fl.String("range", "", ""), router: fl.String("router", "", ""), dns: fl.String("dns", "", ""),
		answers: fl.String("answers", "", ""), print: fl.String("print", "", ""),
		count: fl.Int("count", 0, ""), port: fl.Int("port-http", 0, ""),
		once: fl.Bool("once", false, ""), force: fl.Bool("force", false, ""), asJSON: fl.Bool("json", false, "")}
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return diag.Hint(diag.Inputf("no directory given"), "\"rigimage build -o DIR/\" makes one; --help shows an example")
	}
	o, err := f.options(rest[0])
	if err != nil {
		return err
	}
	man, err := netDirectory(ctx, o.Dir)
	if err != nil {
		return err
	}
	if err := checkNetAnswers(o.Answers, man.Questions); err != nil {
		return err
	}
	if *f.print != "" {
		return pxe.Print(std.Out, *f.print, o)
	}
	report := newServeReport(std, man, *f.asJSON)
	o.Events = report.event
	o.Logf = func(format string, a ...any) { fmt.Fprintf(std.Err, "rigimage: "+format+"\n", a...) }
	s, err := pxe.New(o)
	if err != nil {
		return err
	}
	report.serves(s, o.DHCP)
	err = s.Run(ctx)
	if ctx.Err() == nil {
		return err
	}
	if o.Count > 0 {
		return fmt.Errorf("serve %s: interrupted; %d of %d machines are installed", o.Dir, report.installed, o.Count)
	}
	return nil
}

// options are the flags' meaning; all that cannot be read is reported.
func (f serveFlags) options(dir string) (pxe.Options, error) {
	o := pxe.Options{Dir: dir, Files: map[string]string{manifest.SwitchFile: netSwitch(*f.answers != "")}, Answers: *f.answers,
		Interface: *f.iface, DHCP: pxe.Mode(*f.dhcp), Count: *f.count, Force: *f.force, Ports: pxe.Ports{HTTP: *f.port}}
	var bad diag.Problems
	addr := func(flag, text string) netip.Addr {
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is4() {
			bad.Add(diag.Problem{Key: flag, Msg: fmt.Sprintf("%q is not an IPv4 address", text)})
		}
		return a
	}
	if *f.listen != "" {
		o.Listen = addr("--listen", *f.listen)
	}
	if *f.router != "" {
		o.Router = addr("--router", *f.router)
	}
	if *f.dns != "" {
		for a := range strings.SplitSeq(*f.dns, ",") {
			o.DNS = append(o.DNS, addr("--dns", strings.TrimSpace(a)))
		}
	}
	if *f.addrs != "" {
		first, last, ok := strings.Cut(*f.addrs, "-")
		if !ok {
			bad.Add(diag.Problem{Key: "--range", Msg: fmt.Sprintf("%q is not two addresses, A-B", *f.addrs)})
		} else {
			o.Range = pxe.Range{First: addr("--range", first), Last: addr("--range", last)}
		}
		if o.DHCP != pxe.Full {
			bad.Add(diag.Problem{Key: "--range", Msg: "it goes with --dhcp full"})
		}
	}
	switch {
	case *f.once && *f.count != 0:
		bad.Add(diag.Problem{Key: "--once", Msg: "it is --count 1"})
	case *f.once:
		o.Count = 1
	}
	if *f.print != "" && (*f.asJSON || o.Count != 0) {
		bad.Add(diag.Problem{Key: "--print", Msg: "nothing is served, so --json, --once and --count do not go with it"})
	}
	return o, bad.Err()
}

// netSwitch is what loader and installer are told of where they are served from.
func netSwitch(answers bool) string {
	s := manifest.EnvURL + "=\"{http}\"\n" + manifest.EnvDoneURL + "=\"{http}/rig/done\"\n"
	if answers {
		s += manifest.EnvAnswersURL + "=\"{http}/rig/answers/{id}.toml\"\n"
	}
	return s
}

// netDirectory reads the manifest of a directory for network boot, and looks whether
// it is one.
func netDirectory(ctx context.Context, dir string) (*manifest.Manifest, error) {
	const hint = "\"rigimage build -o DIR/\" makes a directory for network boot"
	if st, err := os.Stat(dir); err == nil && !st.IsDir() {
		i, err := reader.Open(ctx, dir, reader.Options{})
		if err != nil {
			return nil, err
		}
		defer i.Close()
		return nil, wrongForm(i, "serve takes a directory", hint)
	}
	var bad diag.Problems
	for _, name := range []string{manifest.File, "boot/loader.efi", "boot/pxeboot", "boot/loader.conf"} {
		st, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name)))
		switch {
		case err == nil && st.Mode().IsRegular():
		case err == nil:
			bad.Add(diag.Problem{File: dir, Msg: name + " is not a file"})
		case errors.Is(err, os.ErrPermission):
			bad.Add(diag.Problem{File: dir, Msg: name + " cannot be read"})
		default:
			bad.Add(diag.Problem{File: dir, Msg: name + " is missing"})
		}
	}
	if err := bad.Err(); err != nil {
		return nil, diag.Hint(err, hint)
	}
	i, err := reader.Open(ctx, dir, reader.Options{})
	if err != nil {
		return nil, diag.Hint(err, hint)
	}
	defer i.Close()
	return i.Manifest, nil
}

// asked is what names of answers can be made of, since serials are all made so.
var asked = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// checkNetAnswers reports all that is wrong with all files of answers.
func checkNetAnswers(dir string, qs []answers.Question) error {
	if dir == "" {
		return nil
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return diag.Input(err)
	}
	bad := diag.Problems{Source: map[string]string{}}
	n := 0
	for _, e := range list {
		id, ok := strings.CutSuffix(e.Name(), ".toml")
		if !ok {
			continue
		}
		n++
		name := filepath.Join(dir, e.Name())
		mac, err := net.ParseMAC(id)
		if right := strings.ReplaceAll(mac.String(), ":", "-"); err == nil && len(mac) == 6 && id != right {
			bad.Add(diag.Problem{File: name, Msg: fmt.Sprintf("no machine asks for this name; for its card's address it asks for %s.toml", right)})
		} else if !asked.MatchString(id) {
			bad.Add(diag.Problem{File: name, Msg: "no machine asks for this name: what is no letter, digit, \"-\", \"_\" or \".\" is \"_\" in it"})
		}
		b, err := os.ReadFile(name)
		if err != nil {
			bad.Add(diag.Problem{File: name, Msg: errors.Unwrap(err).Error()})
			continue
		}
		_, err = answers.Resolve(qs, answers.Source{Name: name, Data: b})
		var ps *diag.Problems
		switch {
		case errors.As(err, &ps):
			bad.List = append(bad.List, ps.List...)
			for file, text := range ps.Source {
				bad.Source[file] = text
			}
		case err != nil:
			bad.Add(diag.Problem{File: name, Msg: err.Error()})
		}
	}
	if n == 0 {
		bad.Add(diag.Problem{File: dir, Msg: "there is no file of answers in it, \"52-54-00-12-34-56.toml\" or \"default.toml\""})
	}
	return bad.Err()
}
