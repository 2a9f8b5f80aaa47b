package fat

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestAliases(t *testing.T) {
	for _, c := range []struct {
		names, want string // separated by |
	}{
		{"README.TXT|BOOTX64.EFI|A|A.B", "README.TXT|BOOTX64.EFI|A|A.B"},
		{"loader.env|freebsd|Mixed.Txt", "LOADER.ENV|FREEBSD|MIXED.TXT"},
		{"answers.toml|answers.tomb", "ANSWER~1.TOM|ANSWER~2.TOM"},
		{"a long name.text|a long nape.text", "ALONGN~1.TEX|ALONGN~2.TEX"},
		{"ALONGN~1.TEX|a long name.text", "ALONGN~1.TEX|ALONGN~2.TEX"},
		{"a long name.text|alongn~1.tex", "ALONGN~2.TEX|ALONGN~1.TEX"},
		{".profile|...x", "PROFIL~1|X~1"},
		{"a+b.c|a,b.c", "A_B~1.C|A_B~2.C"},
		{"tar.tar.gz|a.b.c", "TARTAR~1.GZ|AB~1.C"},
		{"grün.txt|ñ|日本", "GR_N~1.TXT|_~1|__~1"},
		{"with space|EIGHTCHR.TXT|NINECHARS.TXT", "WITHSP~1|EIGHTCHR.TXT|NINECH~1.TXT"},
		{".a.b", "A~1.B"},
	} {
		names := strings.Split(c.names, "|")
		got, err := aliases(names)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, n := range got {
			text = append(text, n.String())
		}
		if s := strings.Join(text, "|"); s != c.want {
			t.Errorf("%s: %s, want %s", c.names, s, c.want)
		}
	}
}

// TestManyAliases needs numbers of several digits for one basis.
func TestManyAliases(t *testing.T) {
	var names []string
	for i := range 12000 {
		names = append(names, fmt.Sprintf("the same beginning %d.conf", i))
	}
	got, err := aliases(names)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[shortName]bool{}
	for _, n := range got {
		if seen[n] {
			t.Fatalf("%q twice", n)
		}
		seen[n] = true
	}
	if s := got[11999].String(); s != "TH~12000.CON" {
		t.Errorf("last alias %s", s)
	}
}

// TestChecksum compares with the algorithm as FATGEN103 writes it down.
func TestChecksum(t *testing.T) {
	var want uint8
	n := shortName([]byte("README~1TXT"))
	for _, c := range n {
		want = (want&1)<<7 + want>>1 + c
	}
	if got := n.sum(); got != want {
		t.Errorf("%#x, want %#x", got, want)
	}
}

func TestLongEntries(t *testing.T) {
	for _, n := range []int{1, 12, 13, 14, 25, 26, 27, 254, 255} {
		name := strings.Repeat("x", n)
		short, _ := aliases([]string{name})
		b := appendLong(nil, longUnits(name, short[0]), short[0].sum())
		if want := (n + 12) / 13 * 32; len(b) != want {
			t.Errorf("%d characters: %d bytes of long entries, want %d", n, len(b), want)
		}
		b = append(b, marshal(&dirent{Name: short[0]})...)
		items := parseDir(b, func(err error) { t.Error(err) })
		if len(items) != 1 || items[0].name != name {
			t.Errorf("%d characters: read back %v", n, items)
		}
	}
}

// TestForeignEntries reads what other systems write.
func TestForeignEntries(t *testing.T) {
	long := func(name, short string) []byte {
		n := shortName([]byte(short))
		return appendLong(nil, longUnits(name, n), n.sum())
	}
	short := func(name string, lower uint8) []byte {
		return marshal(&dirent{Name: shortName([]byte(name)), Case: lower})
	}
	deleted := short("\xe5LD        ", 0)
	for _, c := range []struct {
		name string
		b    []byte
		want []string
		soft string
	}{
		{"NT lower case", short("README  TXT", lowerBase|lowerExt), []string{"readme.txt"}, ""},
		{"NT lower extension", short("README  TXT", lowerExt), []string{"README.txt"}, ""},
		{"0xe5 as the first letter", short("\x05A         ", 0), []string{"åA"}, ""},
		{"deleted", slices.Concat(deleted, short("B          ", 0)), []string{"B"}, ""},
		{"long name of a deleted file", slices.Concat(long("lost name", "LOSTNA~1   "), deleted, short("B          ", 0)),
			[]string{"B"}, "a long name without its short name"},
		{"checksum of another file", slices.Concat(long("lost name", "LOSTNA~1   "), short("B          ", 0)),
			[]string{"B"}, "a long name without its short name"},
		{"a part is missing", slices.Concat(long(strings.Repeat("y", 30), "YYYYYY~1   ")[32:], short("YYYYYY~1   ", 0)),
			[]string{"YYYYYY~1"}, "a long name without its short name\na long name without its short name"},
		{"the last part is missing", slices.Concat(long(strings.Repeat("y", 30), "YYYYYY~1   ")[:64], short("YYYYYY~1   ", 0)),
			[]string{"YYYYYY~1"}, "a long name without its short name"},
		{"end", slices.Concat(short("A          ", 0), make([]byte, 32), short("B          ", 0)), []string{"A"}, ""},
		{"half an entry", short("A          ", 0)[:31], nil, ""},
	} {
		var soft []error
		var got []string
		for _, it := range parseDir(c.b, func(err error) { soft = append(soft, err) }) {
			got = append(got, it.name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if err := errors.Join(soft...); err != nil && err.Error() != c.soft || err == nil && c.soft != "" {
			t.Errorf("%s: %v, want %q", c.name, err, c.soft)
		}
	}
}

func TestLabel(t *testing.T) {
	l, err := label("efi sys-1")
	if err != nil || !bytes.Equal(l[:], []byte("EFI SYS-1  ")) {
		t.Errorf("%q, %v", l, err)
	}
}
