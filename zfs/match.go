package zfs

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// Wish says which disks become the pool: either named ones, or the outcome of a
// rule. A name is "serial:S" or a device name, "vtbd0" or "/dev/vtbd0". A disk that
// loses what it holds is named by its serial, or when it has none as Disk.ContentName
// says, "vtbd0:8G:1a2b3c4d": nothing else says which disk is meant.
type Wish struct {
	Mirror    []string // members of the mirror
	Spares    []string // hot spares
	Rule      string   // RuleLargestEqual, or "" when the disks are named
	Wipe      bool     // named disks may lose what they hold
	MinSize   int64    // bytes each disk must have at least
	MinMirror int      // fewest mirror members, and how many a rule takes; 0 means 2
	MinSpares int      // fewest spares
	UEFI      bool     // the machine boots by UEFI; a BIOS boots no disk with sectors of 4096 bytes
}

// RuleLargestEqual takes, of the blank disks, the largest that come in at least
// MinMirror equal sizes: the first MinMirror by name are the mirror, the others
// of that size are spares. When those are fewer than MinSpares, larger blank
// disks fill up. Sizes are equal when they are the same in whole MiB.
const RuleLargestEqual = "largest-equal"

// Disk is what Match knows of a present disk.
type Disk struct {
	Name       string `json:"name"` // "vtbd0"
	Serial     string `json:"serial,omitempty"`
	Model      string `json:"model,omitempty"`
	Size       int64  `json:"size"`       // bytes
	SectorSize int    `json:"sectorSize"` // bytes
	Blank      bool   `json:"blank"`
	Hash       string `json:"hash,omitempty"`       // of its content: names a disk without a serial
	Holds      string `json:"holds,omitempty"`      // what is on it, for people
	Ours       bool   `json:"ours,omitempty"`       // begun by an interrupted install of this image
	BootMedium bool   `json:"bootMedium,omitempty"` // holds the image we booted from and nothing else: install only appends to it
	ReadOnly   bool   `json:"readOnly,omitempty"`   // write protected
	InUse      bool   `json:"inUse,omitempty"`      // something on it is mounted, swap, or an imported pool
}

// String is the disk as problems and plans print it:
// "vtbd0 (serial S1, 20G, blank)".
func (d Disk) String() string {
	serial := "no serial"
	switch {
	case d.Serial != "":
		serial = "serial " + d.Serial
	case d.losesData() && d.Hash != "":
		serial += ": " + d.ContentName()
	}
	return fmt.Sprintf("%s (%s, %s, %s)", d.Name, serial, FormatSize(d.Size), d.content())
}

// ContentName names a disk without a serial by device, size and what it holds:
// "vtbd0:8G:1a2b3c4d".
func (d Disk) ContentName() string {
	return fmt.Sprintf("%s:%s:%s", d.Name, FormatSize(d.Size), d.Hash)
}

func (d Disk) content() string {
	switch {
	case d.BootMedium:
		return "the medium this system booted from"
	case d.Ours:
		return "an interrupted install of this image"
	case d.Blank:
		return "blank"
	case d.Holds == "":
		return "unknown content"
	}
	return d.Holds
}

// losesData reports whether making d a member destroys something.
func (d Disk) losesData() bool { return !d.Blank && !d.Ours && !d.BootMedium }

// Layout is the outcome of Match.
type Layout struct {
	Mirror []Disk `json:"mirror"`
	Spares []Disk `json:"spares"`
	Wiped  []Disk `json:"wiped"` // those of them whose content is destroyed
}

// Disks returns the mirror members, then the spares.
func (l *Layout) Disks() []Disk { return slices.Concat(l.Mirror, l.Spares) }

// Match finds the disks w asks for among the disks present. It is pure. The
// error is a *diag.Problems that lists everything wrong at once.
func Match(w Wish, disks []Disk) (*Layout, error) {
	m := &matcher{wish: w, disks: slices.Clone(disks)}
	slices.SortFunc(m.disks, func(a, b Disk) int { return compareNames(a.Name, b.Name) })
	if m.wish.MinMirror == 0 {
		m.wish.MinMirror = 2
	}
	named := len(w.Mirror)+len(w.Spares) > 0
	switch {
	case w.Rule != "" && named:
		m.addf("rule", "disks are named as well: give either the names or a rule")
	case w.Rule != "" && w.Rule != RuleLargestEqual:
		m.addf("rule", "unknown rule %q, there is only %q", w.Rule, RuleLargestEqual)
	case w.Rule != "":
		m.byRule()
	case !named:
		m.addf("mirror", "no disks named and no rule given; %s", m.present())
	default:
		m.byName()
	}
	if err := m.problems.Err(); err != nil {
		return nil, err
	}
	for _, d := range m.layout.Disks() {
		if d.losesData() {
			m.layout.Wiped = append(m.layout.Wiped, d)
		}
	}
	return &m.layout, nil
}

type matcher struct {
	wish     Wish
	disks    []Disk // by name
	layout   Layout
	problems diag.Problems
}

func (m *matcher) addf(key, format string, args ...any) {
	m.problems.Add(diag.Problem{Key: key, Msg: fmt.Sprintf(format, args...)})
}

// present lists the disks there are.
func (m *matcher) present() string {
	if len(m.disks) == 0 {
		return "there are no disks"
	}
	return "present: " + joinDisks(m.disks)
}

func joinDisks(disks []Disk) string {
	s := make([]string, len(disks))
	for i, d := range disks {
		s[i] = d.String()
	}
	return strings.Join(s, ", ")
}

// byName resolves the named disks and checks each.
func (m *matcher) byName() {
	seen := map[string]string{} // device → the name it was asked for by
	m.layout.Mirror = m.resolve("mirror", m.wish.Mirror, seen)
	m.layout.Spares = m.resolve("spares", m.wish.Spares, seen)

	var wiped []Disk
	for _, role := range []struct {
		key   string
		disks []Disk
	}{{"mirror", m.layout.Mirror}, {"spares", m.layout.Spares}} {
		for _, d := range role.disks {
			if why := m.unfit(d); why != "" {
				m.addf(role.key, "%s: %s", d, why)
			}
			if d.losesData() {
				wiped = append(wiped, d)
			}
		}
	}
	if len(wiped) > 0 && !m.wish.Wipe {
		m.addf("wipe", "not blank, and wipe = true is not given: %s", joinDisks(wiped))
	}
	for _, d := range wiped {
		want := "serial:" + d.Serial
		if d.Serial == "" {
			want = d.ContentName()
		}
		if name := strings.TrimPrefix(seen[d.Name], "/dev/"); m.wish.Wipe && name != want && (d.Serial != "" || d.Hash != "") {
			m.addf("wipe", "%s: it is not blank, and %s says too little of which disk is meant: name it %s", d, name, want)
		}
	}
	if n := len(m.wish.Mirror); n < m.wish.MinMirror {
		m.addf("mirror", "%d named, %d needed", n, m.wish.MinMirror)
	}
	if n := len(m.wish.Spares); n < m.wish.MinSpares {
		m.addf("spares", "%d named, %d needed", n, m.wish.MinSpares)
	}
	m.checkSpareSizes()
}

// resolve turns names into disks; what cannot be resolved is a problem.
func (m *matcher) resolve(key string, names []string, seen map[string]string) []Disk {
	var out []Disk
	for _, name := range names {
		found := m.find(name)
		switch {
		case name == "" || name == "serial:":
			m.addf(key, "%q is not the name of a disk", name)
		case len(found) == 0:
			m.addf(key, "%s: no such disk; %s%s", name, m.present(), m.serialHint(name))
		case len(found) > 1:
			m.addf(key, "%s: more than one disk has this serial: %s; name the device instead", name, joinDisks(found))
		case seen[found[0].Name] == name:
			m.addf(key, "%s: named twice", name)
		case seen[found[0].Name] != "":
			m.addf(key, "%s: named twice, %s is the same disk", name, seen[found[0].Name])
		default:
			seen[found[0].Name] = name
			out = append(out, found[0])
		}
	}
	return out
}

func (m *matcher) find(name string) []Disk {
	var found []Disk
	serial, bySerial := strings.CutPrefix(name, "serial:")
	device := strings.TrimPrefix(name, "/dev/")
	for _, d := range m.disks {
		if bySerial && serial != "" && d.Serial == serial || !bySerial && (d.Name == device || d.Hash != "" && d.ContentName() == device) {
			found = append(found, d)
		}
	}
	return found
}

// serialHint says that some disks can only be named by device, when a serial was
// not found and that may be the reason.
func (m *matcher) serialHint(name string) string {
	if !strings.HasPrefix(name, "serial:") {
		return ""
	}
	for _, d := range m.disks {
		if d.Serial == "" {
			return "; a disk without a serial is named by its device"
		}
	}
	return ""
}

// unfit says why d cannot be a target whatever it holds, "" when it can.
func (m *matcher) unfit(d Disk) string {
	switch {
	case d.ReadOnly:
		return "write protected"
	case d.InUse && d.losesData():
		return "in use: unmount what is mounted from it, export its pool"
	case d.SectorSize != 512 && d.SectorSize != 4096:
		return fmt.Sprintf("its sectors have %d bytes; only disks with sectors of 512 or 4096 are supported", d.SectorSize)
	case d.SectorSize == 4096 && !m.wish.UEFI:
		return "its sectors have 4096 bytes, and a BIOS boots from disks with 512-byte sectors only: set the machine to boot by UEFI, or take another disk"
	case d.Size < m.wish.MinSize:
		return fmt.Sprintf("too small: %d bytes, %d (%s) needed", d.Size, m.wish.MinSize, FormatSize(m.wish.MinSize))
	}
	return ""
}

func (m *matcher) checkSpareSizes() {
	if len(m.layout.Mirror) == 0 {
		return
	}
	small := slices.MinFunc(m.layout.Mirror, func(a, b Disk) int { return cmp.Compare(a.Size, b.Size) })
	for _, d := range m.layout.Spares {
		if d.Size < small.Size {
			m.addf("spares", "%s: %d bytes are less than the %d of the mirror's %s, which it could not replace",
				d, d.Size, small.Size, small.Name)
		}
	}
}

// byRule chooses among the blank disks.
func (m *matcher) byRule() {
	groups := map[int64][]Disk{} // size in MiB → candidates, by name
	var sizes []int64
	for _, d := range m.disks {
		if m.rejected(d) != "" {
			continue
		}
		mib := d.Size >> 20
		if groups[mib] == nil {
			sizes = append(sizes, mib)
		}
		groups[mib] = append(groups[mib], d)
	}
	slices.SortFunc(sizes, func(a, b int64) int { return cmp.Compare(b, a) })
	for i, mib := range sizes {
		g := groups[mib]
		if len(g) < m.wish.MinMirror {
			continue
		}
		m.layout.Mirror, m.layout.Spares = g[:m.wish.MinMirror], g[m.wish.MinMirror:]
		for j := i - 1; j >= 0 && len(m.layout.Spares) < m.wish.MinSpares; j-- { // the next larger first
			more := groups[sizes[j]]
			m.layout.Spares = slices.Concat(m.layout.Spares, more[:min(len(more), m.wish.MinSpares-len(m.layout.Spares))])
		}
		if n := len(m.layout.Spares); n < m.wish.MinSpares {
			m.addf("rule", "%s: %d spares found, %d needed; %s", m.wish.Rule, n, m.wish.MinSpares, m.verdicts())
		}
		return
	}
	m.addf("rule", "%s: needs %d blank disks of equal size; %s", m.wish.Rule, m.wish.MinMirror, m.verdicts())
}

// rejected says why the rule does not take d, "" when it may.
func (m *matcher) rejected(d Disk) string {
	if why := m.unfit(d); why != "" {
		return why
	}
	switch {
	case d.BootMedium:
		return "must be named to be used"
	case d.losesData():
		return "not blank"
	}
	for _, o := range m.disks {
		if o.Name != d.Name && o.Serial != "" && o.Serial == d.Serial {
			return "has the serial of " + o.Name + ", perhaps the same disk"
		}
	}
	return ""
}

// verdicts lists the disks, each with the reason the rule leaves it out.
func (m *matcher) verdicts() string {
	if len(m.disks) == 0 {
		return m.present()
	}
	s := make([]string, len(m.disks))
	for i, d := range m.disks {
		s[i] = d.String()
		if why := m.rejected(d); why != "" {
			s[i] += ": " + why
		}
	}
	return "present: " + strings.Join(s, ", ")
}

// compareNames orders device names with numbers as numbers: da2 before da10.
func compareNames(a, b string) int {
	sa, na := splitUnit(a)
	sb, nb := splitUnit(b)
	return cmp.Or(strings.Compare(sa, sb), cmp.Compare(len(na), len(nb)), strings.Compare(na, nb))
}

func splitUnit(s string) (stem, unit string) {
	stem = strings.TrimRight(s, "0123456789")
	return stem, strings.TrimLeft(s[len(stem):], "0")
}

// FormatSize prints n bytes in binary units as gpart(8) does: "512K", "1.5G".
func FormatSize(n int64) string {
	const units = "BKMGTPE"
	f, i := float64(n), 0
	for f >= 1023.5 && i < len(units)-1 {
		f /= 1024
		i++
	}
	digits := 0
	if f < 9.95 {
		digits = 1
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', digits, 64), ".0") + units[i:i+1]
}
