package overlay

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"text/template"
)

// Funcs are the functions of templates beside those of text/template. Addresses
// are IPv4; an argument may be a string, a netip value, or anything that prints
// as one.
//
//	addr P         the address of a prefix: 192.0.2.10/24 → 192.0.2.10
//	network P      the network of a prefix: 192.0.2.10/24 → 192.0.2.0/24
//	bits P         its length: 24
//	netmask P      its mask: 255.255.255.0
//	within A P     whether network P contains the address or network A
//	list A B …     one list of single values and lists
//	join SEP LIST  the list in one line
//	lines LIST     the list one a line, each line ended; nothing for an empty list
//	carve NETS KEEP  the networks NETS as entries of a pf table that must not match KEEP
//	nic M          what identifies an interface: its MAC address, or else its device name
//	mac HOST NAME  a MAC address for interface NAME of host HOST
func Funcs() template.FuncMap {
	return template.FuncMap{
		"addr":    func(v any) (netip.Addr, error) { p, err := prefix(v); return p.Addr(), err },
		"network": func(v any) (netip.Prefix, error) { p, err := prefix(v); return p.Masked(), err },
		"bits":    func(v any) (int, error) { p, err := prefix(v); return p.Bits(), err },
		"netmask": netmask,
		"within":  within,
		"list":    list,
		"join":    func(sep string, v any) string { return strings.Join(texts(v), sep) },
		"lines":   lines,
		"carve":   carve,
		"nic":     nic,
		"mac":     mac,
	}
}

func prefix(v any) (netip.Prefix, error) {
	s := fmt.Sprint(v)
	if !strings.Contains(s, "/") {
		s += "/32"
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("%q is not an IPv4 address or network", fmt.Sprint(v))
	}
	return p, nil
}

func netmask(v any) (string, error) {
	p, err := prefix(v)
	if err != nil {
		return "", err
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], ^uint32(0)<<(32-p.Bits()))
	return netip.AddrFrom4(b).String(), nil
}

func within(inner, outer any) (bool, error) {
	in, err := prefix(inner)
	if err != nil {
		return false, err
	}
	out, err := prefix(outer)
	if err != nil {
		return false, err
	}
	return covers(out, in), nil
}

func covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Masked().Contains(inner.Addr())
}

// texts flattens slices into what their elements print as. An empty string, an
// invalid address and nil are no elements: they are answers that were not given.
func texts(v any) []string {
	switch x := v.(type) {
	case nil:
		return nil
	case netip.Addr:
		if !x.IsValid() {
			return nil
		}
	case netip.Prefix:
		if !x.IsValid() {
			return nil
		}
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Slice {
		var out []string
		for i := range rv.Len() {
			out = append(out, texts(rv.Index(i).Interface())...)
		}
		return out
	}
	if s := fmt.Sprint(v); s != "" {
		return []string{s}
	}
	return nil
}

func list(vs ...any) []string { return texts(vs) }

func lines(v any) string {
	var b strings.Builder
	for _, s := range texts(v) {
		b.WriteString(s + "\n")
	}
	return b.String()
}

// carve returns nets without what keep covers whole, each followed by the
// negated entries for the parts of it that keep covers. A pf table matches the
// most specific entry, and a negated one means "not in the table".
func carve(nets, keep any) ([]string, error) {
	var keeps []netip.Prefix
	for _, s := range texts(keep) {
		k, err := prefix(s)
		if err != nil {
			return nil, err
		}
		k = k.Masked()
		if slices.ContainsFunc(keeps, func(o netip.Prefix) bool { return covers(o, k) }) {
			continue
		}
		keeps = slices.DeleteFunc(keeps, func(o netip.Prefix) bool { return covers(k, o) })
		keeps = append(keeps, k)
	}
	var out []string
	for _, s := range texts(nets) {
		n, err := prefix(s)
		if err != nil {
			return nil, err
		}
		var holes []string
		whole := true
		for _, k := range keeps {
			switch {
			case covers(k, n):
				whole = false
			case covers(n, k):
				holes = append(holes, "!"+k.String())
			}
		}
		if whole {
			out = append(append(out, n.Masked().String()), holes...)
		}
	}
	return out, nil
}

// nic names an interface by its MAC address, which stays when a card moves to
// another slot. A rule instead of an interface ("auto") has to be resolved before.
func nic(v any) (string, error) {
	s := strings.TrimPrefix(fmt.Sprint(v), "mac:")
	if hw, err := net.ParseMAC(s); err == nil {
		return hw.String(), nil
	}
	if s == "" || s == "auto" || s[len(s)-1] < '0' || s[len(s)-1] > '9' {
		return "", fmt.Errorf("%q does not name one network interface", s)
	}
	return s, nil
}

// mac derives a locally administered unicast address from 46 bits of a hash, so
// that the same interface has the same address after each boot, and two servers
// have different ones on the network they share.
func mac(host any, name string) (string, error) {
	id := fmt.Sprint(host)
	if id == "" || name == "" {
		return "", fmt.Errorf("needs the identity of the host and the name of the interface")
	}
	h := sha256.Sum256([]byte("rig mac\x00" + id + "\x00" + name))
	h[0] = h[0]&^0x03 | 0x02
	return net.HardwareAddr(h[:6]).String(), nil
}
