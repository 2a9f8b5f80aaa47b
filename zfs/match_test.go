package zfs

import (
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/diag"
)

const gib = 1 << 30

func blank(name, serial string, size int64) Disk {
	return Disk{Name: name, Serial: serial, Size: size, SectorSize: 512, Blank: true}
}

// with returns d changed by f.
func with(d Disk, f func(*Disk)) Disk {
	f(&d)
	return d
}

func holding(d Disk, what string) Disk {
	return with(d, func(d *Disk) { d.Blank, d.Holds = false, what })
}

// brief is a layout as "mirror da0 da1 spares da2 wiped da1".
func brief(l *Layout) string {
	var b strings.Builder
	for _, part := range []struct {
		key   string
		disks []Disk
	}{{"mirror", l.Mirror}, {"spares", l.Spares}, {"wiped", l.Wiped}} {
		if len(part.disks) > 0 {
			b.WriteString(" " + part.key)
		}
		for _, d := range part.disks {
			b.WriteString(" " + d.Name)
		}
	}
	return strings.TrimSpace(b.String())
}

func TestMatch(t *testing.T) {
	four := []Disk{blank("da0", "S0", 20*gib), blank("da1", "S1", 20*gib), blank("da2", "S2", 20*gib), blank("da10", "S10", 20*gib)}
	medium := with(holding(four[0], "GPT"), func(d *Disk) { d.BootMedium = true })
	ours := with(holding(four[1], "GPT"), func(d *Disk) { d.Ours = true })
	rule := Wish{Rule: RuleLargestEqual}
	tests := []struct {
		name  string
		wish  Wish
		disks []Disk
		want  string
	}{
		{"names and serials", Wish{Mirror: []string{"serial:S2", "/dev/da0"}, Spares: []string{"da10"}}, four, "mirror da2 da0 spares da10"},
		{"a mirror of one, asked for", Wish{Mirror: []string{"da0"}, MinMirror: 1}, four, "mirror da0"},
		{"wipe", Wish{Mirror: []string{"da0", "serial:S1"}, Wipe: true}, []Disk{four[0], holding(four[1], "ext4")}, "mirror da0 da1 wiped da1"},
		{"wipe without a serial", Wish{Mirror: []string{"da0", "/dev/da3:20G:1a2b3c4d"}, Wipe: true},
			[]Disk{four[0], with(holding(blank("da3", "", 20*gib), "ext4"), func(d *Disk) { d.Hash = "1a2b3c4d" })}, "mirror da0 da3 wiped da3"},
		{"boot medium and begun disk lose nothing", Wish{Mirror: []string{"da0", "da1"}}, []Disk{medium, ours}, "mirror da0 da1"},
		{"nor with wipe", Wish{Mirror: []string{"da0", "da1"}, Wipe: true}, []Disk{medium, ours}, "mirror da0 da1"},
		{"a larger spare", Wish{Mirror: []string{"da0", "da1"}, Spares: []string{"da2"}},
			[]Disk{four[0], four[1], blank("da2", "", 21*gib)}, "mirror da0 da1 spares da2"},
		{"no larger than the larger member", Wish{Mirror: []string{"da0", "da1"}, Spares: []string{"da2"}},
			[]Disk{four[0], blank("da1", "", 40*gib), four[2]}, "mirror da0 da1 spares da2"},
		{"MinSize met exactly", Wish{Mirror: []string{"da0", "da1"}, MinSize: 20 * gib}, four, "mirror da0 da1"},
		{"rule", rule, four, "mirror da0 da1 spares da2 da10"},
		{"rule, any order of disks", rule, []Disk{four[3], four[2], four[1], four[0]}, "mirror da0 da1 spares da2 da10"},
		{"rule takes the largest pair", rule, []Disk{four[0], four[1], blank("da3", "", 30*gib), blank("da4", "", 30*gib), blank("da5", "", 99*gib)},
			"mirror da3 da4"},
		{"rule fills up spares from the next larger", Wish{Rule: RuleLargestEqual, MinSpares: 1},
			[]Disk{four[0], four[1], blank("da3", "", 30*gib), blank("da4", "", 40*gib)}, "mirror da0 da1 spares da3"},
		{"rule: equal in MiB", rule, []Disk{four[0], blank("da1", "", 20*gib+512)}, "mirror da0 da1"},
		{"rule leaves disks with content and the medium alone", rule,
			[]Disk{medium, four[1], four[2], holding(four[3], "ntfs")}, "mirror da1 da2"},
		{"rule goes on with a begun disk", rule, []Disk{ours, four[2]}, "mirror da1 da2"},
		{"rule: three-way mirror", Wish{Rule: RuleLargestEqual, MinMirror: 3}, four, "mirror da0 da1 da2 spares da10"},
		{"rule passes over what is too small", Wish{Rule: RuleLargestEqual, MinSize: 10 * gib},
			[]Disk{four[0], four[1], blank("da3", "", gib), blank("da4", "", gib)}, "mirror da0 da1"},
		{"UEFI boots 4Kn, beside others", Wish{Mirror: []string{"da0", "da2"}, UEFI: true},
			[]Disk{four[0], four[1], with(four[2], func(d *Disk) { d.SectorSize = 4096 })}, "mirror da0 da2"},
		{"rule passes over 4Kn by BIOS", rule,
			[]Disk{four[0], four[1], with(four[2], func(d *Disk) { d.SectorSize = 4096 })}, "mirror da0 da1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.disks)
			l, err := Match(tt.wish, tt.disks)
			if err != nil {
				t.Fatal(err)
			}
			if got := brief(l); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			if !slices.Equal(before, tt.disks) {
				t.Error("Match changed its input")
			}
		})
	}
}

func TestMatchProblems(t *testing.T) {
	da0, da1, da2 := blank("da0", "S0", 20*gib), blank("da1", "S1", 20*gib), blank("da2", "", 20*gib)
	const list = "da0 (serial S0, 20G, blank), da1 (serial S1, 20G, blank)"
	two := []Disk{da0, da1}
	pair := []string{"da0", "da1"}
	tests := []struct {
		name  string
		wish  Wish
		disks []Disk
		want  string
	}{
		{"nothing asked for", Wish{}, two, "mirror: no disks named and no rule given; present: " + list},
		{"rule and names", Wish{Rule: RuleLargestEqual, Mirror: pair}, two, "rule: disks are named as well: give either the names or a rule"},
		{"unknown rule", Wish{Rule: "smallest"}, two, `rule: unknown rule "smallest", there is only "largest-equal"`},
		{"named twice", Wish{Mirror: []string{"da0", "da0", "da1"}}, two, "mirror: da0: named twice"},
		{"named by serial and by name", Wish{Mirror: pair, Spares: []string{"serial:S1"}}, two, "spares: serial:S1: named twice, da1 is the same disk"},
		{"missing", Wish{Mirror: []string{"da0", "serial:X"}}, two, "mirror: serial:X: no such disk; present: " + list},
		{"missing, with disks that have no serial", Wish{Mirror: []string{"da0", "serial:X"}}, []Disk{da0, da2},
			"mirror: serial:X: no such disk; present: da0 (serial S0, 20G, blank), da2 (no serial, 20G, blank); a disk without a serial is named by its device"},
		{"no disks at all", Wish{Mirror: pair}, nil,
			"mirror: da0: no such disk; there are no disks\nmirror: da1: no such disk; there are no disks"},
		{"empty names", Wish{Mirror: []string{"", "serial:", "da0", "da2"}}, []Disk{da0, da2},
			"mirror: \"\" is not the name of a disk\nmirror: \"serial:\" is not the name of a disk"},
		{"ambiguous serial", Wish{Mirror: []string{"da0", "serial:S"}}, []Disk{da0, blank("da3", "S", gib), blank("da4", "S", gib)},
			"mirror: serial:S: more than one disk has this serial: da3 (serial S, 1G, blank), da4 (serial S, 1G, blank); name the device instead"},
		{"too small", Wish{Mirror: pair, MinSize: 30 * gib}, []Disk{da0, blank("da1", "S1", 40*gib)},
			"mirror: da0 (serial S0, 20G, blank): too small: 21474836480 bytes, 32212254720 (30G) needed"},
		{"small spare", Wish{Mirror: pair, Spares: []string{"da2"}}, []Disk{da0, da1, blank("da2", "", 20*gib-512)},
			"spares: da2 (no serial, 20G, blank): 21474835968 bytes are less than the 21474836480 of the mirror's da0, which it could not replace"},
		{"4Kn", Wish{Mirror: pair}, []Disk{da0, with(da1, func(d *Disk) { d.SectorSize = 4096 })},
			"mirror: da1 (serial S1, 20G, blank): its sectors have 4096 bytes, and a BIOS boots from disks with 512-byte sectors only: " +
				"set the machine to boot by UEFI, or take another disk"},
		{"odd sectors", Wish{Mirror: pair, UEFI: true}, []Disk{da0, with(da1, func(d *Disk) { d.SectorSize = 520 })},
			"mirror: da1 (serial S1, 20G, blank): its sectors have 520 bytes; only disks with sectors of 512 or 4096 are supported"},
		{"write protected", Wish{Mirror: pair}, []Disk{da0, with(da1, func(d *Disk) { d.ReadOnly = true })},
			"mirror: da1 (serial S1, 20G, blank): write protected"},
		{"in use", Wish{Mirror: []string{"serial:S0", "da1"}, Wipe: true}, []Disk{with(holding(da0, "ext4"), func(d *Disk) { d.InUse = true }), with(da1, func(d *Disk) { d.InUse, d.Ours = true, true })},
			"mirror: da0 (serial S0, 20G, ext4): in use: unmount what is mounted from it, export its pool"},
		{"content", Wish{Mirror: pair, Spares: []string{"da2"}}, []Disk{holding(da0, "GPT: 20G ntfs"), da1, holding(da2, "")},
			"wipe: not blank, and wipe = true is not given: da0 (serial S0, 20G, GPT: 20G ntfs), da2 (no serial, 20G, unknown content)"},
		{"wipe by device", Wish{Mirror: pair, Spares: []string{"da2"}, Wipe: true},
			[]Disk{holding(da0, "ext4"), da1, with(holding(da2, "unknown data"), func(d *Disk) { d.Hash = "1a2b3c4d" })},
			"wipe: da0 (serial S0, 20G, ext4): it is not blank, and da0 says too little of which disk is meant: name it serial:S0\n" +
				"wipe: da2 (no serial: da2:20G:1a2b3c4d, 20G, unknown data): it is not blank, and da2 says too little of which disk is meant: name it da2:20G:1a2b3c4d"},
		{"other content", Wish{Mirror: []string{"da0", "da2:20G:00000000"}, Wipe: true}, []Disk{da0, with(holding(da2, "ext4"), func(d *Disk) { d.Hash = "1a2b3c4d" })},
			"mirror: da2:20G:00000000: no such disk; present: da0 (serial S0, 20G, blank), da2 (no serial: da2:20G:1a2b3c4d, 20G, ext4)"},
		{"too few", Wish{Mirror: []string{"da0"}, MinSpares: 1}, two, "mirror: 1 named, 2 needed\nspares: 0 named, 1 needed"},
		{"spares only", Wish{Spares: []string{"da0"}}, two, "mirror: 0 named, 2 needed"},
		{"several at once", Wish{Mirror: []string{"da9", "da1"}, Spares: []string{"da1"}}, []Disk{da0, holding(da1, "ext4")},
			"mirror: da9: no such disk; present: da0 (serial S0, 20G, blank), da1 (serial S1, 20G, ext4)\n" +
				"spares: da1: named twice\n" +
				"wipe: not blank, and wipe = true is not given: da1 (serial S1, 20G, ext4)"},
		{"rule: not enough", Wish{Rule: RuleLargestEqual, MinSize: 2 * gib},
			[]Disk{da0, holding(da1, "ext4"), blank("da3", "", gib), with(da2, func(d *Disk) { d.BootMedium, d.Blank = true, false })},
			"rule: largest-equal: needs 2 blank disks of equal size; present: da0 (serial S0, 20G, blank), da1 (serial S1, 20G, ext4): not blank, " +
				"da2 (no serial, 20G, the medium this system booted from): must be named to be used, " +
				"da3 (no serial, 1G, blank): too small: 1073741824 bytes, 2147483648 (2G) needed"},
		{"rule: too few spares", Wish{Rule: RuleLargestEqual, MinSpares: 1}, two, "rule: largest-equal: 0 spares found, 1 needed; present: " + list},
		{"rule: two paths to one disk", Wish{Rule: RuleLargestEqual}, []Disk{da0, with(da0, func(d *Disk) { d.Name = "da1" })},
			"rule: largest-equal: needs 2 blank disks of equal size; present: " +
				"da0 (serial S0, 20G, blank): has the serial of da1, perhaps the same disk, da1 (serial S0, 20G, blank): has the serial of da0, perhaps the same disk"},
		{"rule: no disks", Wish{Rule: RuleLargestEqual}, nil, "rule: largest-equal: needs 2 blank disks of equal size; there are no disks"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Match(tt.wish, tt.disks)
			if err == nil {
				t.Fatalf("no error, layout %s", brief(l))
			}
			if err.Error() != tt.want {
				t.Errorf("\n got %s\nwant %s", err, tt.want)
			}
			if diag.ExitCode(err) != 2 || l != nil {
				t.Errorf("exit code %d, layout %v", diag.ExitCode(err), l)
			}
		})
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 1023: "1023B", 512 << 10: "512K", 260 << 20: "260M", 3 << 29: "1.5G", 500107862016: "466G",
		4000787030016: "3.6T", 1 << 40: "1T", 1<<63 - 1: "8E", 1<<30 - 1: "1G", 10189 << 10: "10M",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %s, want %s", n, got, want)
		}
	}
}
