package answers

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// spec is how a type is described to people.
type spec struct {
	typ     Type
	noun    string // "an IPv4 address"
	example string // as typed at a prompt; valid unless it holds "…"
	limits  string // more on what is expected, "" for none
}

// specs has every type, in the order messages list them.
var specs = []spec{
	{Label, "a host label", "www1", "lower-case letters, digits and inner hyphens, at most 63"},
	{Domain, "a domain name", "example.org", "lower-case labels separated by dots"},
	{IP, "an IPv4 address", "192.0.2.10", ""},
	{CIDR, "an IPv4 address with prefix length", "192.0.2.10/24", ""},
	{Net, "an IPv4 network or address", "192.0.2.0/24", ""},
	{NIC, "a network interface", "mac:52:54:00:12:34:56", "a MAC address, a device name or auto"},
	{VLAN, "a VLAN number", "100", "1 to 4094, or 0 for none"},
	{Port, "a port number", "8080", "1 to 65535"},
	{Int, "a number", "10", ""},
	{Choice, "one of the choices", "", ""},
	{SSHKey, "an SSH public key", "ssh-ed25519 AAAA… name", "the line of a .pub file"},
	{Secret, "a secret", "correct-horse", ""},
	{PasswordHash, "a password hash", "$6$…", "as made by openssl passwd -6, or * for no password"},
	{Disks, "disks", "ada0 ada1 spare ada2 ada3", "mirror members, then spare and the spares; also " + RuleLargestEqual + ", wipe, swap=2g"},
	{Size, "a size", "2g", "a number and k, m, g or t"},
	{Bool, "yes or no", "yes", ""},
	{Text, "text", "some text", ""},
}

// spec describes a type; its noun is "" when there is no such type.
func (t Type) spec() spec {
	for _, sp := range specs {
		if sp.typ == t {
			return sp
		}
	}
	return spec{}
}

// Expected says what an answer to q looks like, with an example: "an IPv4
// address, as 192.0.2.10". It follows "expected".
func (q *Question) Expected() string {
	sp := q.Type.spec()
	s := sp.noun
	switch {
	case q.Type == Choice:
		return "one of " + strings.Join(q.Choices, ", ")
	case q.Type == Secret, q.Type == Text, q.Type == Bool:
	case q.Type == PasswordHash:
		s += " " + sp.limits
	default:
		s += ", as " + sp.example
	}
	if q.List {
		return "a list; each is " + s
	}
	return s
}

// ParseText reads the answer to q from one line that a person typed or a kernel
// variable holds. List items are separated by blanks or commas.
func ParseText(q *Question, text string) (any, error) {
	if !q.Hidden() {
		text = strings.TrimSpace(text)
	} else {
		text = strings.TrimRight(text, "\r\n")
	}
	if !q.List {
		return textScalar(q, text)
	}
	items := splitList(text)
	if q.Type == SSHKey {
		items = splitKeys(text)
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("nothing given; expected %s", q.Expected())
	}
	vals := make([]any, len(items))
	for i, item := range items {
		v, err := textScalar(q, item)
		if err != nil {
			return nil, err
		}
		vals[i] = v
	}
	return typedList(q, vals), nil
}

func splitList(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' })
}

// splitKeys splits a line of SSH keys where each key's type begins it: comments
// hold blanks.
func splitKeys(text string) []string {
	var keys []string
	for _, w := range strings.Fields(text) {
		last := len(keys) - 1
		if _, known := sshTypes[w]; known || last < 0 {
			if last >= 0 {
				keys[last] = strings.TrimRight(keys[last], ",")
			}
			keys = append(keys, w)
		} else {
			keys[last] += " " + w
		}
	}
	return keys
}

// textScalar parses one value from text of any type.
func textScalar(q *Question, s string) (any, error) {
	switch q.Type {
	case Bool:
		switch strings.ToLower(s) {
		case "yes", "y", "true", "on", "1":
			return true, nil
		case "no", "n", "false", "off", "0":
			return false, nil
		}
		return nil, wrong(q, s)
	case VLAN, Port, Int:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, wrong(q, s)
		}
		return n, checkNumber(q, n)
	case Disks:
		return parseDisksText(s)
	}
	return stringScalar(q, s)
}

// stringScalar parses one value of a type that TOML writes as a string.
func stringScalar(q *Question, s string) (any, error) {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return nil, fmt.Errorf("text with bytes that are not UTF-8, or with NUL; expected %s", q.Expected())
	}
	switch q.Type {
	case IP:
		return parseIP(q, s)
	case CIDR:
		return parseCIDR(q, s)
	case Net:
		return parseNet(q, s)
	case NIC:
		return parseNIC(s)
	case Size:
		n, err := ParseSize(s)
		if err != nil {
			return nil, err
		}
		return n, checkNumber(q, n)
	case PasswordHash:
		if !slices.ContainsFunc(hashForms, func(re *regexp.Regexp) bool { return re.MatchString(s) }) {
			return nil, fmt.Errorf("not a password hash; expected %s", q.Expected())
		}
		return SecretValue(s), nil
	case Secret, Text:
		if err := checkText(q, s); err != nil {
			return nil, err
		}
		if q.Hidden() {
			return SecretValue(s), nil
		}
		return s, nil
	}
	return s, checkName(q, s)
}

// checkName validates the types whose canonical value is the string itself.
func checkName(q *Question, s string) error {
	ok := false
	switch q.Type {
	case Label:
		ok = hostLabel.MatchString(s)
	case Domain:
		ok = len(s) <= 253
		for l := range strings.SplitSeq(s, ".") {
			ok = ok && hostLabel.MatchString(l)
		}
	case Choice:
		ok = slices.Contains(q.Choices, s)
	case SSHKey:
		return checkSSHKey(s)
	}
	if !ok {
		return wrong(q, s)
	}
	if q.Type == Label || q.Type == Domain {
		return checkLength(q, s)
	}
	return nil
}

var hostLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// The crypt(3) formats of FreeBSD 15 that are still fit for use.
var hashForms = []*regexp.Regexp{
	regexp.MustCompile(`^\$6\$(rounds=[0-9]{1,9}\$)?[!-#%-9;-~]{1,16}\$[./0-9A-Za-z]{86}$`),
	regexp.MustCompile(`^\$5\$(rounds=[0-9]{1,9}\$)?[!-#%-9;-~]{1,16}\$[./0-9A-Za-z]{43}$`),
	regexp.MustCompile(`^\$2[aby]\$[0-9]{2}\$[./0-9A-Za-z]{53}$`),
	regexp.MustCompile(`^\*$`),
}

// wrong says that s is not of q's type. It must not be used for hidden types.
func wrong(q *Question, s string) error {
	one := *q
	one.List = false
	exp := one.Expected()
	if l := q.Type.spec().limits; l != "" {
		exp += " (" + l + ")"
	}
	if s == "" {
		return fmt.Errorf("nothing given; expected %s", exp)
	}
	return fmt.Errorf("%q is not valid; expected %s", clip(s), exp)
}

// clip shortens what is quoted in messages.
func clip(s string) string {
	if len(s) <= 60 {
		return s
	}
	return strings.ToValidUTF8(s[:57], "") + "…"
}

func checkText(q *Question, s string) error {
	if s == "" && q.Hidden() {
		return fmt.Errorf("nothing given; expected %s", q.Expected())
	}
	return checkLength(q, s)
}

func checkLength(q *Question, s string) error {
	if n := int64(len(s)); q.Min != nil && n < *q.Min || q.Max != nil && n > *q.Max {
		return fmt.Errorf("%s long; expected %s", count(len(s), "byte"), bounds(q.Min, q.Max, func(n int64) string { return strconv.FormatInt(n, 10) }))
	}
	return nil
}

func checkNumber(q *Question, n int64) error {
	form := func(n int64) string { return strconv.FormatInt(n, 10) }
	lo, hi := q.Min, q.Max
	switch q.Type {
	case VLAN:
		lo, hi = tighter(lo, 0, hi, 4094)
	case Port:
		lo, hi = tighter(lo, 1, hi, 65535)
	case Size:
		form = FormatSize
	}
	if lo != nil && n < *lo || hi != nil && n > *hi {
		return fmt.Errorf("%s is out of range; expected %s", form(n), bounds(lo, hi, form))
	}
	return nil
}

func tighter(lo *int64, least int64, hi *int64, most int64) (*int64, *int64) {
	if lo != nil {
		least = max(least, *lo)
	}
	if hi != nil {
		most = min(most, *hi)
	}
	return &least, &most
}

func bounds(lo, hi *int64, form func(int64) string) string {
	switch {
	case hi == nil:
		return "at least " + form(*lo)
	case lo == nil:
		return "at most " + form(*hi)
	case *lo == *hi:
		return "exactly " + form(*lo)
	}
	return form(*lo) + " to " + form(*hi)
}

func noIPv6(q *Question, s string) error {
	if strings.Contains(s, ":") {
		return fmt.Errorf("IPv6 is not supported yet; expected %s", q.Expected())
	}
	return nil
}

func parseIP(q *Question, s string) (any, error) {
	if err := noIPv6(q, s); err != nil {
		return nil, err
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return nil, wrong(q, s)
	}
	if !unicast(a) {
		return nil, fmt.Errorf("%s is not the address of one machine; expected %s", a, q.Expected())
	}
	return a, nil
}

func unicast(a netip.Addr) bool {
	return a.As4()[0] != 0 && a.As4()[0] < 224
}

func parseCIDR(q *Question, s string) (any, error) {
	if err := noIPv6(q, s); err != nil {
		return nil, err
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return nil, wrong(q, s)
	}
	a := p.Addr()
	switch {
	case !unicast(a) || a.IsLoopback():
		return nil, fmt.Errorf("%s is not the address of one machine; expected %s", a, q.Expected())
	case p.Bits() == 0:
		return nil, fmt.Errorf("%s has no network in its prefix; expected %s", p, q.Expected())
	}
	if role := edge(p, a); role != "" {
		return nil, fmt.Errorf("%s is the %s address of %s; expected the machine's own address, as 192.0.2.10/24", a, role, p.Masked())
	}
	return p, nil
}

func parseNet(q *Question, s string) (any, error) {
	if err := noIPv6(q, s); err != nil {
		return nil, err
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, 32), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return nil, wrong(q, s)
	}
	return p.Masked(), nil
}

// edge reports whether a is the "network" or "broadcast" address of p, "" when
// it is neither; networks of one or two addresses have none.
func edge(p netip.Prefix, a netip.Addr) string {
	if p.Bits() >= 31 || !p.Contains(a) {
		return ""
	}
	b := a.As4()
	switch host := binary.BigEndian.Uint32(b[:]) << p.Bits(); host {
	case 0:
		return "network"
	case ^uint32(0) << p.Bits():
		return "broadcast"
	}
	return ""
}

// sshTypes are the key types sshd accepts, with the number of fields that follow
// the type's name in the encoded key.
var sshTypes = map[string]int{
	"ssh-ed25519":                        1,
	"ssh-rsa":                            2,
	"ecdsa-sha2-nistp256":                2,
	"ecdsa-sha2-nistp384":                2,
	"ecdsa-sha2-nistp521":                2,
	"sk-ssh-ed25519@openssh.com":         2,
	"sk-ecdsa-sha2-nistp256@openssh.com": 3,
}

func checkSSHKey(s string) error {
	exp := "expected the line of a .pub file, as ssh-ed25519 AAAA… name"
	switch {
	case strings.Contains(s, "-----BEGIN"):
		return errors.New("this is a private key; " + exp)
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("the key is more than one line; " + exp)
	}
	f := strings.Fields(s)
	if len(f) == 0 {
		return errors.New("nothing given; " + exp)
	}
	fields, known := sshTypes[f[0]]
	if !known {
		return fmt.Errorf("%q is no type of SSH key that sshd accepts; %s", clip(f[0]), exp)
	}
	if len(f) < 2 {
		return errors.New("the key ends after its type; " + exp)
	}
	blob, err := base64.StdEncoding.DecodeString(f[1])
	if err != nil {
		return errors.New("the key is damaged (its base64 does not decode); " + exp)
	}
	for i := range fields + 1 {
		if len(blob) < 4 || uint64(len(blob)-4) < uint64(binary.BigEndian.Uint32(blob)) {
			return errors.New("the key is cut short; " + exp)
		}
		n := int(binary.BigEndian.Uint32(blob))
		field := blob[4 : 4+n]
		blob = blob[4+n:]
		if i == 0 && string(field) != f[0] {
			return fmt.Errorf("the key is not of the type %s it says; %s", f[0], exp)
		}
		if i == 1 && strings.HasSuffix(strings.TrimSuffix(f[0], "@openssh.com"), "ed25519") && n != 32 {
			return errors.New("the key is damaged (an ed25519 key has 32 bytes); " + exp)
		}
	}
	if len(blob) != 0 {
		return errors.New("the key is damaged (bytes after its end); " + exp)
	}
	return nil
}

// parseDisksText reads DiskWish.String's form.
func parseDisksText(text string) (any, error) {
	var w DiskWish
	into := &w.Mirror
	for _, word := range splitList(text) {
		switch key, val, _ := strings.Cut(word, "="); {
		case word == "spare" || word == "spares":
			into = &w.Spares
		case word == "wipe":
			w.Wipe = true
		case word == RuleLargestEqual:
			w.Rule = word
		case key == "rule" && val != "":
			w.Rule = val
		case key == "swap" && val != "":
			n, err := parseSwap(val)
			if err != nil {
				return nil, err
			}
			w.Swap = n
		default:
			d, err := parseDisk(word)
			if err != nil {
				return nil, err
			}
			*into = append(*into, d)
		}
	}
	if err := w.Validate(); err != nil {
		return nil, err
	}
	return w, nil
}

// parseSwap reads DiskWish.Swap: "none" and "0" ask for no swap.
func parseSwap(s string) (int64, error) {
	if s == "none" {
		return NoSwap, nil
	}
	n, err := ParseSize(s)
	if n == 0 && err == nil {
		n = NoSwap
	}
	return n, err
}
