package pxe

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// scriptName is what iPXE is given.
const scriptName = "boot.ipxe"

// script tells loader.efi its root path as an argument, which works with whatever
// DHCP server the network has. pxeboot takes none and relies on option 17.
const script = `#!ipxe
iseq ${platform} efi && goto efi ||
iseq ${platform} pcbios && goto bios ||
echo rig: nothing to boot on platform ${platform}
exit 1
:efi
chain {http}/boot/loader.efi rootpath=tftp://{server}/ || goto failed
exit
:bios
chain tftp://{server}/boot/pxeboot || goto failed
exit
:failed
echo rig: {server} does not serve the installer
exit 1
`

// Kinds are those of Print.
var kinds = map[string]func(io.Writer, Options, segment) error{"dnsmasq": printDnsmasq, "nginx": printNginx, "ipxe": printScript}

// Print writes the configuration of a server that is there already, so that it does
// what Run would with the same options: "dnsmasq" for DHCP and TFTP, "nginx" for
// HTTP, or the script for "ipxe".
func Print(w io.Writer, kind string, o Options) error {
	write := kinds[kind]
	if write == nil {
		return diag.Inputf("print %q: there are dnsmasq, nginx and ipxe", kind)
	}
	seg, err := findSegment(o.Interface, o.Listen)
	if err != nil {
		return err
	}
	if o, err = o.complete(seg); err != nil {
		return err
	}
	for _, dir := range []*string{&o.Dir, &o.Answers} {
		if *dir == "" {
			continue
		}
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
		if strings.ContainsAny(*dir, "$\n\r") {
			return diag.Inputf("print %s: %q: not a name that configurations can hold", kind, *dir)
		}
	}
	return write(w, o, seg)
}

// filesNote says, as comments, what Run would put into memory and another server needs
// as files.
func filesNote(o Options, seg segment) string {
	expand := expander(seg.addr, o.Ports.HTTP)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(o.Files)) {
		fmt.Fprintf(&b, "# Put these lines into %s:\n", filepath.Join(o.Dir, filepath.FromSlash(name)))
		for line := range strings.Lines(expand.Replace(o.Files[name])) {
			fmt.Fprintf(&b, "#   %s\n", strings.TrimRight(line, "\n"))
		}
	}
	return b.String()
}

func printScript(w io.Writer, o Options, seg segment) error {
	first, rest, _ := strings.Cut(script, "\n")
	_, err := fmt.Fprintf(w, "%s\n# iPXE: put this into %s.\n%s%s", first, filepath.Join(o.Dir, scriptName), filesNote(o, seg),
		expander(seg.addr, o.Ports.HTTP).Replace(rest))
	return err
}

func printNginx(w io.Writer, o Options, seg segment) error {
	answers := ""
	if o.Answers != "" {
		answers = fmt.Sprintf("	location ~ \"^/%s([^/]+\\.toml)$\" { alias %s; }\n", answersDir, nginxQuote(o.Answers+"/$1"))
	}
	_, err := fmt.Fprintf(w, `# nginx: %s for the rig installer; include it in http { }.
%sserver {
	listen %v:%d;
	root %s;
	autoindex off;
	sendfile on;
	merge_slashes on;     # loader.efi asks for //boot/...
	if_modified_since off; # all files of an image have the same time
	default_type application/octet-stream;
	location = /rig/done { return 204; } # a machine is installed: see the access log
	location = /boot.ipxe { default_type text/plain; } # of: rigimage serve --print ipxe
	location /rig/answers/ { return 404; }
%s}
`, o.Dir, filesNote(o, seg), seg.addr, o.Ports.HTTP, nginxQuote(o.Dir), answers)
	return err
}

func nginxQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// printDnsmasq writes every rule as a tag that is set when all that the rule asks
// for is so and no earlier rule applies.
func printDnsmasq(w io.Writer, o Options, seg segment) error {
	if o.DHCP == Proxy {
		return diag.Hint(diag.Inputf("print dnsmasq: its proxy mode cannot serve FreeBSD's loader"),
			"the loader wants an address and option 17 in one reply: print with --dhcp off and give the lines to the DHCP server itself, or run rigimage serve --dhcp proxy")
	}
	var b strings.Builder
	expand := expander(seg.addr, o.Ports.HTTP)
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# dnsmasq: DHCP and TFTP of %s for the rig installer.", o.Dir)
	line("# HTTP is another server's: rigimage serve --print nginx.")
	b.WriteString(filesNote(o, seg))
	if o.DHCP == Full {
		_, high := hosts(seg.prefix)
		line("port=0")
		line("interface=%s", seg.iface.Name)
		line("bind-interfaces")
		line("dhcp-authoritative")
		line("dhcp-range=%v,%v,%v,%v,%d", o.Range.First, o.Range.Last, addrOf(mask(seg.prefix)), addrOf(high+1), int(o.Lease.Seconds()))
		router := ""
		if o.Router.IsValid() {
			router = "," + o.Router.String()
		}
		line("dhcp-option=option:router%s", router)
		dns := ""
		for _, a := range o.DNS {
			dns += "," + a.String()
		}
		line("dhcp-option=option:dns-server%s", dns)
	}
	line("enable-tftp")
	line("tftp-root=%s", o.Dir)
	line("")
	var earlier []string
	for _, r := range o.Rules {
		dnsmasqRule(line, r, earlier, expand, seg, o)
		earlier = append(earlier, r.Name)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func dnsmasqRule(line func(string, ...any), r Rule, earlier []string, expand *strings.Replacer, seg segment, o Options) {
	var when []string
	if r.Class != "" {
		line("dhcp-vendorclass=set:%s-class,%s", r.Name, r.Class)
		when = append(when, "tag:"+r.Name+"-class")
	}
	if r.User != "" {
		line("dhcp-userclass=set:%s-user,%s", r.Name, r.User)
		when = append(when, "tag:"+r.Name+"-user")
	}
	for _, a := range r.Arch {
		line("dhcp-match=set:%s-arch,option:client-arch,%d", r.Name, a)
	}
	if len(r.Arch) > 0 {
		when = append(when, "tag:"+r.Name+"-arch")
	}
	for _, e := range earlier {
		when = append(when, "tag:!"+e)
	}
	if len(when) > 0 {
		line("tag-if=set:%s,%s", r.Name, strings.Join(when, ","))
	}
	if r.File != "" {
		line("dhcp-boot=tag:%s,%s,,%v", r.Name, expand.Replace(r.File), seg.addr)
	}
	if r.RootPath != "" {
		line("dhcp-option-force=tag:%s,option:root-path,%s", r.Name, expand.Replace(r.RootPath))
	}
	if r.Echo != "" {
		line("dhcp-option-force=tag:%s,60,%s", r.Name, r.Echo)
	}
	if r.User == "iPXE" && o.DHCP == Full {
		line("dhcp-option-force=tag:%s,encap:175,176,1b", r.Name)
	}
	line("")
}

func mask(p netip.Prefix) uint32 { return ^uint32(uint64(1)<<(32-p.Bits()) - 1) }
