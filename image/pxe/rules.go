package pxe

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Architectures of option 93, by IANA's list of processor architectures.
const (
	ArchBIOS    uint16 = 0
	ArchEFI64   uint16 = 7 // x86-64 by the list; 9 is what RFC 4578 said, and some firmware says
	ArchEFIBC   uint16 = 9
	ArchHTTPX64 uint16 = 16
)

// Rule says what to tell one kind of DHCP client. It applies when all that it
// asks for is so; the first that applies is taken.
//
// In File and RootPath {server} stands for the server's address and {http} for its
// URL without a slash at the end.
type Rule struct {
	Name  string   // in events, and in the tags of printed configurations: letters and digits
	Class string   // option 60 begins with it
	User  string   // option 77 contains it, with a length before it or not
	Arch  []uint16 // option 93 names one of them

	File     string // to boot
	RootPath string // option 17
	Echo     string // option 60 of the answer
}

// DefaultRules are what serves every client that is known. A BIOS ROM that is iPXE,
// as QEMU's are, loads boot/pxeboot as other ROMs do.
func DefaultRules() []Rule {
	efi, bios := []uint16{ArchEFI64, ArchEFIBC}, []uint16{ArchBIOS}
	return []Rule{
		{Name: "loader", User: "FreeBSD", RootPath: "tftp://{server}/"},
		{Name: "ipxebios", User: "iPXE", Arch: bios, File: "boot/pxeboot"},
		{Name: "ipxe", User: "iPXE", Arch: efi, File: "{http}/" + scriptName},
		{Name: "http", Class: "HTTPClient", Arch: []uint16{ArchHTTPX64}, File: "{http}/boot/loader.efi", Echo: "HTTPClient"},
		{Name: "efi", Class: "PXEClient", Arch: efi, File: "boot/loader.efi"},
		{Name: "bios", Class: "PXEClient", Arch: bios, File: "boot/pxeboot"},
	}
}

// archNames are for messages about machines that no rule is for.
var archNames = map[uint16]string{2: "Itanium", 6: "32-bit UEFI", 10: "32-bit ARM UEFI", 11: "64-bit ARM UEFI",
	15: "32-bit UEFI HTTP", 18: "32-bit ARM UEFI HTTP", 19: "64-bit ARM UEFI HTTP", 27: "64-bit RISC-V UEFI"}

// client is what a DHCP packet says of its sender.
type client struct {
	mac   string
	class string
	user  []byte
	arch  []uint16
}

func clientOf(p *dhcpv4.DHCPv4) client {
	c := client{mac: p.ClientHWAddr.String(), class: p.ClassIdentifier(), user: p.GetOneOption(dhcpv4.OptionUserClassInformation)}
	for b := p.GetOneOption(dhcpv4.OptionClientSystemArchitectureType); len(b) >= 2; b = b[2:] {
		c.arch = append(c.arch, binary.BigEndian.Uint16(b))
	}
	return c
}

// boots says whether the client is one that wants to be told a boot file.
func (c client) boots() bool {
	return strings.HasPrefix(c.class, "PXEClient") || strings.HasPrefix(c.class, "HTTPClient")
}

// match returns the rule for a client, nil when there is none.
func match(rules []Rule, c client) *Rule {
	i := slices.IndexFunc(rules, func(r Rule) bool {
		return strings.HasPrefix(c.class, r.Class) && bytes.Contains(c.user, []byte(r.User)) &&
			(len(r.Arch) == 0 || slices.ContainsFunc(c.arch, func(a uint16) bool { return slices.Contains(r.Arch, a) }))
	})
	if i < 0 {
		return nil
	}
	return &rules[i]
}
