package answers

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// RuleLargestEqual is the disk rule: all blank disks of the largest size that at
// least two of them share; the first two mirror, the rest are spares.
const RuleLargestEqual = "largest-equal"

// NoSwap is the DiskWish.Swap that asks for no swap partitions.
const NoSwap int64 = -1

// DiskWish names the disks of the pool. Each is "serial:ABC" or, for a person at
// the machine, a device name as "vtbd0".
type DiskWish struct {
	Mirror []string `toml:"mirror,omitempty" json:"mirror,omitempty"`
	Spares []string `toml:"spares,omitempty" json:"spares,omitempty"`
	Rule   string   `toml:"rule,omitempty" json:"rule,omitempty"` // "" or RuleLargestEqual; blank disks only
	Wipe   bool     `toml:"wipe,omitempty" json:"wipe,omitempty"` // named disks may be wiped
	Swap   int64    `toml:"swap,omitempty" json:"swap,omitempty"` // bytes per disk; 0: the image's default, NoSwap: none
}

// SwapSize is the size of each disk's swap partition in bytes, 0 for none. def is
// the image's default.
func (w DiskWish) SwapSize(def int64) int64 {
	switch {
	case w.Swap < 0:
		return 0
	case w.Swap == 0:
		return def
	}
	return w.Swap
}

// Validate reports the first thing wrong with the wish.
func (w DiskWish) Validate() error {
	if w.Rule != "" {
		switch {
		case w.Rule != RuleLargestEqual:
			return fmt.Errorf("rule %q is unknown; expected %q", w.Rule, RuleLargestEqual)
		case len(w.Mirror)+len(w.Spares) > 0:
			return fmt.Errorf("both a rule and named disks; expected one of them")
		case w.Wipe:
			return fmt.Errorf("wipe with a rule; a rule takes blank disks only, name the disks to wipe by serial")
		}
	}
	seen := map[string]bool{}
	for _, d := range slices.Concat(w.Mirror, w.Spares) {
		c, err := parseDisk(d)
		if err != nil {
			return err
		}
		if seen[c] {
			return fmt.Errorf("disk %s is named twice", c)
		}
		seen[c] = true
	}
	if w.Rule == "" && len(w.Mirror) < 2 {
		return fmt.Errorf("%s in the mirror; expected at least two, or a rule", count(len(w.Mirror), "disk"))
	}
	if w.Swap < NoSwap || w.Swap > 0 && w.Swap < 1<<20 {
		return fmt.Errorf("swap of %d bytes; expected at least 1m, as \"2g\", or \"none\"", w.Swap)
	}
	return nil
}

// ByName reports the disks that are named by device alone, and not by serial or, when
// they have none, by content too.
func (w DiskWish) ByName() []string {
	var out []string
	for _, d := range slices.Concat(w.Mirror, w.Spares) {
		if !strings.HasPrefix(d, serialPrefix) && !contentName.MatchString(strings.TrimPrefix(d, "/dev/")) {
			out = append(out, d)
		}
	}
	return out
}

// String is the one-line form that ParseText reads, unless a serial number has
// blanks in it.
func (w DiskWish) String() string {
	f := slices.Clone(w.Mirror)
	if w.Rule != "" {
		f = append(f, w.Rule)
	}
	if len(w.Spares) > 0 {
		f = append(append(f, "spare"), w.Spares...)
	}
	if w.Wipe {
		f = append(f, "wipe")
	}
	if w.Swap != 0 {
		f = append(f, "swap="+swapText(w.Swap))
	}
	return strings.Join(f, " ")
}

func swapText(n int64) string {
	if n < 0 {
		return "none"
	}
	return FormatSize(n)
}

const serialPrefix = "serial:"

var deviceName = regexp.MustCompile(`^[a-z][a-z_]*[0-9]{1,4}$`)

// contentName is that of a disk without a serial number: device, size and a hash of
// what it holds, as the installer shows it, "ada0:8G:1a2b3c4d".
var contentName = regexp.MustCompile(`^[a-z][a-z_]*[0-9]{1,4}:[0-9.]+[BKMGTPE]:[0-9a-f]{8}$`)

// parseDisk returns the canonical form of a disk's name.
func parseDisk(s string) (string, error) {
	if serial, ok := strings.CutPrefix(s, serialPrefix); ok {
		if strings.TrimSpace(serial) != serial || serial == "" || len(serial) > 64 || !printable(serial) {
			return "", fmt.Errorf("%q has no usable serial number; expected %s and 1 to 64 printable characters", s, serialPrefix)
		}
		return s, nil
	}
	name := strings.TrimPrefix(s, "/dev/")
	if !deviceName.MatchString(name) && !contentName.MatchString(name) {
		return "", fmt.Errorf("%q is no disk; expected its serial number, as \"serial:S3Z8NB0K\", or a device name, as \"ada0\"", s)
	}
	return name, nil
}

// RuleLinkGateway is the NIC rule: the interface that has link and reaches the
// gateway.
const RuleLinkGateway = "link+gateway"

// NICMatch finds a network interface. As an answer it has exactly one field; once
// found, Device may stand beside MAC, which then is what counts.
type NICMatch struct {
	MAC    string // canonical: lower case, colons
	Device string // "vtnet0"
	Rule   string // RuleLinkGateway
}

// String is the form ParseText reads.
func (m NICMatch) String() string {
	switch {
	case m.MAC != "":
		return "mac:" + m.MAC
	case m.Rule != "":
		return "auto"
	}
	return m.Device
}

// MarshalText makes a NICMatch a string in JSON and TOML.
func (m NICMatch) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (m *NICMatch) UnmarshalText(b []byte) (err error) {
	*m, err = parseNIC(string(b))
	return err
}

func parseNIC(s string) (NICMatch, error) {
	if s == "auto" || s == RuleLinkGateway {
		return NICMatch{Rule: RuleLinkGateway}, nil
	}
	text, tagged := strings.CutPrefix(s, "mac:")
	if tagged || strings.ContainsAny(s, ":-") {
		hw, err := net.ParseMAC(text)
		if err != nil || len(hw) != 6 {
			return NICMatch{}, fmt.Errorf("%q is no MAC address; expected six hexadecimal bytes, as mac:52:54:00:12:34:56", s)
		}
		if hw[0]&1 != 0 || hw.String() == "00:00:00:00:00:00" {
			return NICMatch{}, fmt.Errorf("%s is not the MAC address of one interface; expected a unicast one, as mac:52:54:00:12:34:56", s)
		}
		return NICMatch{MAC: hw.String()}, nil
	}
	if len(s) > 15 || !nicName.MatchString(s) {
		return NICMatch{}, fmt.Errorf("%q is no network interface; expected its MAC address, as mac:52:54:00:12:34:56, its device name, as vtnet0, or auto", s)
	}
	return NICMatch{Device: s}, nil
}

// canonicalNIC checks the fields of m.
func canonicalNIC(m NICMatch) (NICMatch, error) {
	c, err := parseNIC(m.String())
	if err == nil && c.MAC != "" && m.Device != "" {
		var d NICMatch
		d, err = parseNIC(m.Device)
		c.Device = d.Device
	}
	return c, err
}

// Driver names may hold digits: igb0, mlx5en1, e6000sw0.
var nicName = regexp.MustCompile(`^[a-z][a-z0-9_]*[0-9]$`)

// SecretValue is a secret that does not print: every fmt verb, JSON, TOML and
// slog yield "[secret]". Reveal is the only way to its text, for templates
// too: {{.secrets.key.Reveal}}. An empty one is false in {{if}}.
type SecretValue string

const redacted = "[secret]"

func (SecretValue) String() string { return redacted }

// Reveal returns the secret.
func (s SecretValue) Reveal() string { return string(s) }

// Format prints "[secret]" whatever the verb.
func (SecretValue) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

func (SecretValue) GoString() string             { return redacted }
func (SecretValue) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (SecretValue) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (SecretValue) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// ParseSize reads bytes as "512m" or "2g"; units are k, m, g and t, powers of
// 1024, either case.
func ParseSize(s string) (int64, error) {
	bad := fmt.Errorf("%q is no size; expected a number and a unit, as 512m or 2g", s)
	digits, shift := s, 0
	if s != "" {
		if i := strings.IndexByte("kmgt", s[len(s)-1]|0x20); i >= 0 {
			digits, shift = s[:len(s)-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, bad
	}
	if n > uint64(1<<63-1)>>shift {
		return 0, fmt.Errorf("%s is too large a size", s)
	}
	return int64(n << shift), nil
}

// FormatSize is the shortest exact form that ParseSize reads.
func FormatSize(n int64) string {
	for i, unit := range []string{"t", "g", "m", "k"} {
		if shift := 40 - 10*i; n != 0 && n&(1<<shift-1) == 0 {
			return strconv.FormatInt(n>>shift, 10) + unit
		}
	}
	return strconv.FormatInt(n, 10)
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
