package facts

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strings"
	"text/tabwriter"

	"github.com/rig-freebsd/rig/internal/text"
	"github.com/rig-freebsd/rig/zfs"
)

// JSON is f as riginstall facts --json prints it. Values of the kernel
// environment whose names speak of secrets are hidden.
func (f *Facts) JSON() ([]byte, error) {
	c := *f
	c.Kenv = maps.Clone(f.Kenv)
	for k := range c.Kenv {
		if isSecret(k) {
			c.Kenv[k] = "(hidden)"
		}
	}
	b, err := json.MarshalIndent(&c, "", "  ")
	return append(b, '\n'), err
}

func isSecret(name string) bool {
	name = strings.ToLower(name)
	for _, s := range []string{"pass", "secret", "token", "key", "hash"} {
		if strings.Contains(name, s) {
			return true
		}
	}
	return false
}

// WriteText prints f as tables for people.
func (f *Facts) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		for i, c := range cells {
			if cells[i] = text.Printable(c); cells[i] == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	row("machine", strings.Join(strings.Fields(f.SMBIOS["system.maker"]+" "+f.SMBIOS["system.product"]), " "))
	row("serial", f.SMBIOS["system.serial"])
	row("uuid", f.SMBIOS["system.uuid"])
	row("firmware", f.Firmware)
	row("memory", zfs.FormatSize(f.Memory))
	row("release", f.Release)
	fmt.Fprintln(t)
	row("DISK", "SERIAL", "SIZE", "MODEL", "CONTENT")
	for _, d := range f.Disks {
		row(d.Name, d.Serial, zfs.FormatSize(d.Size), d.Model, d.Content())
	}
	fmt.Fprintln(t)
	row("NIC", "MAC", "DRIVER", "LINK", "ADDRESSES")
	for _, n := range f.NICs {
		row(n.Device, n.MAC, n.Driver, n.link(), n.Addresses())
	}
	return t.Flush()
}

// Content is what is on d with what is special about it.
func (d Disk) Content() string {
	words := []string{d.Holds}
	if d.Blank {
		words[0] = "blank (" + d.Basis + ")"
	}
	if d.SectorSize != 512 {
		words = append(words, fmt.Sprintf("%d-byte sectors", d.SectorSize))
	}
	if d.ReadOnly {
		words = append(words, "write protected")
	}
	if d.InUse {
		words = append(words, "in use")
	}
	return strings.Join(words, "; ")
}

func (n NIC) link() string {
	switch {
	case n.Link:
		return "yes"
	case !n.Up:
		return "down" // without being up many drivers cannot tell
	}
	return "no"
}

// Addresses is the IPv4 addresses of the interface, separated by spaces.
func (n NIC) Addresses() string {
	s := make([]string, len(n.Inet))
	for i, p := range n.Inet {
		s[i] = p.String()
	}
	return strings.Join(s, " ")
}
