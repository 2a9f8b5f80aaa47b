package fat

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// shortName is a name as a directory entry holds it: 8 and 3 bytes, upper case,
// filled with spaces.
type shortName [11]byte

// sum is winChksum of msdosfs_conv.c: it ties long entries to their short one.
func (n shortName) sum() uint8 {
	var s uint8
	for _, c := range n {
		s = s>>1 | s<<7
		s += c
	}
	return s
}

// String is the usual form, "LOADER.EFI". Bytes above 0x7f, which have no
// meaning without a code page, are taken for Latin-1.
func (n shortName) String() string {
	if n[0] == slotE5 {
		n[0] = 0xe5
	}
	text := func(b []byte) string {
		r := make([]rune, len(b))
		for i, c := range b {
			r[i] = rune(c)
		}
		return strings.TrimRight(string(r), " ")
	}
	if ext := text(n[8:]); ext != "" {
		return text(n[:8]) + "." + ext
	}
	return text(n[:8])
}

// checkName refuses what no FAT driver stores: FATGEN103 "Long Directory
// Entries". Trailing dots and spaces are refused because drivers drop them.
func checkName(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("name %q is not UTF-8", s)
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || strings.ContainsRune(`"*/:<>?\|`, r) {
			return fmt.Errorf("name %q contains %q, which FAT cannot store", s, r)
		}
	}
	if n := len(utf16.Encode([]rune(s))); n > winMax {
		return fmt.Errorf("name of %d UTF-16 units; %d is the limit", n, winMax)
	}
	if strings.TrimRight(s, ". ") != s {
		return fmt.Errorf("name %q ends with a dot or a space, which FAT drivers drop", s)
	}
	return nil
}

// fold is the form in which names are compared: FAT knows no case.
func fold(s string) string {
	return strings.Map(func(r rune) rune { return unicode.ToUpper(unicode.ToLower(r)) }, s)
}

// shortChar reports whether c may stand in a short name.
func shortChar(c rune) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c < 0x80 && c > ' ' && strings.ContainsRune("$%'-_@~`!(){}^#&", c)
}

// exact returns s as a short name if s is one, in upper case already.
func exact(s string) (n shortName, ok bool) {
	base, ext, dot := strings.Cut(s, ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || dot && ext == "" {
		return n, false
	}
	for _, c := range base + ext {
		if !shortChar(c) {
			return n, false
		}
	}
	return pack(base, ext), true
}

func pack(base, ext string) (n shortName) {
	copy(n[:], "           ")
	copy(n[:8], base)
	copy(n[8:], ext)
	return n
}

// basis makes the base and extension an alias begins with (FATGEN103 "The
// Basis-Name Generation Algorithm") and says whether s lost anything but case.
func basis(s string) (base, ext string, lossy bool) {
	s = strings.ToUpper(s)
	clean := func(s string, limit int) string {
		var b strings.Builder
		for _, c := range s {
			switch {
			case c == ' ' || c == '.':
				lossy = true
				continue
			case !shortChar(c):
				lossy = true
				c = '_'
			}
			if b.Len() == limit {
				lossy = true
				break
			}
			b.WriteRune(c)
		}
		return b.String()
	}
	trimmed := strings.TrimLeft(s, ".")
	lossy = trimmed != s
	i := strings.LastIndexByte(trimmed, '.')
	if i < 0 {
		i = len(trimmed)
	}
	base = clean(trimmed[:i], 8)
	ext = clean(strings.TrimPrefix(trimmed[i:], "."), 3)
	if base == "" {
		base, lossy = "_", true
	}
	return base, ext, lossy
}

// aliases gives every name of one directory its short name. Names that are short
// names keep them; each other gets the first free one of its basis. An alias
// never equals another file's long name. The result depends only on the names
// and their order.
func aliases(names []string) ([]shortName, error) {
	out := make([]shortName, len(names))
	taken := make(map[string]bool, 2*len(names)) // folded long names and aliases
	for _, s := range names {
		taken[fold(s)] = true
	}
	tail := map[shortName]int{} // last number tried, of each basis
	for i, s := range names {
		if n, ok := exact(s); ok {
			out[i] = n
			continue
		}
		base, ext, lossy := basis(s)
		n := pack(base, ext)
		if !lossy { // only its case differs, and no other name folds to it
			out[i] = n
			continue
		}
		for k := tail[n] + 1; ; k++ {
			num := fmt.Sprintf("~%d", k)
			if len(num) > 7 {
				return nil, fmt.Errorf("no short name is left for %q", s)
			}
			try := pack(base[:min(len(base), 8-len(num))]+num, ext)
			if key := try.String(); !taken[key] {
				taken[key], tail[n], out[i] = true, k, try
				break
			}
		}
	}
	return out, nil
}

// longUnits returns the UTF-16 units of the long entries of s, nil when the
// short name says it all.
func longUnits(s string, n shortName) []uint16 {
	if n.String() == s {
		return nil
	}
	return utf16.Encode([]rune(s))
}

// longSlots is the number of entries for that many units.
func longSlots(units []uint16) int { return (len(units) + winChars - 1) / winChars }

// appendLong appends the long entries, last part first.
func appendLong(b []byte, units []uint16, sum uint8) []byte {
	n := longSlots(units)
	for seq := n; seq >= 1; seq-- {
		var part [2 * winChars]byte
		for i := range winChars {
			u := uint16(0xffff) // behind the end
			switch at := (seq-1)*winChars + i; {
			case at < len(units):
				u = units[at]
			case at == len(units):
				u = 0
			}
			part[2*i], part[2*i+1] = byte(u), byte(u>>8)
		}
		w := winent{Seq: uint8(seq), Attr: attrLong, Sum: sum}
		if seq == n {
			w.Seq |= winLast
		}
		copy(w.Part1[:], part[:10])
		copy(w.Part2[:], part[10:22])
		copy(w.Part3[:], part[22:])
		b = append(b, marshal(&w)...)
	}
	return b
}

// label checks and pads a volume label; it is stored in upper case as
// newfs_msdos does.
func label(s string) (l [11]byte, err error) {
	if s == "" {
		return noName, nil
	}
	s = strings.ToUpper(s)
	for _, c := range s {
		if c != ' ' && !shortChar(c) {
			return l, fmt.Errorf("label %q contains %q", s, c)
		}
	}
	if len(s) > len(l) || s[0] == ' ' || s[len(s)-1] == ' ' {
		return l, fmt.Errorf("label %q must have 1 to %d characters and no space at its ends", s, len(l))
	}
	copy(l[:], "           ")
	copy(l[:], s)
	return l, nil
}
