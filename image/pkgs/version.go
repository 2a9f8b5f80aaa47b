package pkgs

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// CompareVersions is the order of pkg-version(8), -1, 0 or 1, as pkg_version.c of
// pkg 2.8 defines it: the epoch (after the comma) decides, then the version, then the
// revision (after the underscore). A version is a list of components, each a number,
// a letter and a patch level; those that are missing count as 0. A letter after a
// number is later than none (1.0 < 1.0a), a component that begins with a letter is
// earlier than a number (1.b2 < 1), and pl, snap, alpha, beta, pre and rc always begin
// one. Case does not matter. Of "name-version" the version is compared.
func CompareVersions(a, b string) int {
	x, y := splitVersion(a), splitVersion(b)
	return cmp.Or(cmp.Compare(x.epoch, y.epoch), compareParts(x.version, y.version), cmp.Compare(x.revision, y.revision))
}

type versionParts struct {
	version         string // in lower case
	revision, epoch int64
}

func splitVersion(s string) versionParts {
	s = s[strings.LastIndexByte(s, '-')+1:]
	v := versionParts{version: s}
	rest := s
	if i := strings.LastIndexByte(s, '_'); i >= 0 {
		v.version, rest = s[:i], s[i+1:]
		v.revision, _ = leadingNumber(rest)
	}
	if i := strings.LastIndexByte(rest, ','); i >= 0 {
		v.epoch, _ = leadingNumber(rest[i+1:])
		if len(rest) == len(s) {
			v.version = s[:i]
		}
	}
	v.version = strings.ToLower(v.version)
	return v
}

// compareParts compares list after list of the components between plus signs.
func compareParts(a, b string) int {
	for a != "" || b != "" {
		endA, endB := a == "" || a[0] == '+', b == "" || b[0] == '+'
		if endA && endB {
			a, b = strings.TrimPrefix(a, "+"), strings.TrimPrefix(b, "+")
			continue
		}
		var x, y component
		if !endA {
			x, a = nextComponent(a)
		}
		if !endB {
			y, b = nextComponent(b)
		}
		if c := cmp.Or(cmp.Compare(x.number, y.number), cmp.Compare(x.letter, y.letter), cmp.Compare(x.patch, y.patch)); c != 0 {
			return c
		}
	}
	return 0
}

// component is one of a version. What is absent is 0, except as said here.
type component struct {
	number int64 // -1: begins with a letter; -2: "*", before all others
	letter int   // 0 none or pl, then a, b, … from firstLetter
	patch  int64 // -1: a letter without one
}

const firstLetter = 2

// nextComponent takes a component and the separators behind it off s.
func nextComponent(s string) (component, string) {
	var c component
	switch {
	case isDigit(s[0]):
		c.number, s = leadingNumber(s)
	case s[0] == '*':
		c.number = -2
		_, rest, more := strings.Cut(s, "+")
		if s = ""; more {
			s = "+" + rest
		}
	default:
		c.number = -1
	}
	if word := leadingWord(s); word != "" && !(c.number >= 0 && isStage(word)) {
		c.letter = int(word[0]-'a') + firstLetter
		if word == "pl" {
			c.letter = 0
		}
		s = s[len(word):]
		c.patch = -1
		if s != "" && isDigit(s[0]) {
			c.patch, s = leadingNumber(s)
		}
	}
	return c, strings.TrimLeftFunc(s, func(r rune) bool {
		return r >= 0x80 || !isDigit(byte(r)) && !isLetter(byte(r)) && r != '+' && r != '*'
	})
}

// IsPrerelease reports whether version is one from before a release: with a word
// alpha, beta, pre or rc, or with a component such as b2, which is how ports write
// beta2 (a, b or r and one or two digits: 2025.b and 10.0.p1 are releases, 0.r1234 is
// a revision).
func IsPrerelease(version string) bool {
	v := splitVersion(version).version
	begins := true // a component
	for v != "" {
		word := leadingWord(v)
		if word == "" {
			begins = !isDigit(v[0])
			v = v[1:]
			continue
		}
		v = v[len(word):]
		digits := len(v) - len(strings.TrimLeft(v, "0123456789"))
		switch word {
		case "alpha", "beta", "pre", "rc":
			return true
		case "a", "b", "r":
			if begins && (digits == 1 || digits == 2) {
				return true
			}
		}
		begins = false
	}
	return false
}

func isStage(word string) bool {
	return len(word) > 1 && slices.Contains([]string{"pl", "snap", "alpha", "beta", "pre", "rc"}, word)
}

// leadingNumber is the number s begins with, 0 when there is none, the largest when
// it does not fit.
func leadingNumber(s string) (int64, string) {
	var n int64
	i := 0
	for ; i < len(s) && isDigit(s[i]); i++ {
		d := int64(s[i] - '0')
		if n > (math.MaxInt64-d)/10 {
			n = math.MaxInt64
			continue
		}
		n = n*10 + d
	}
	return n, s[i:]
}

// leadingWord is the letters s, in lower case, begins with.
func leadingWord(s string) string {
	i := 0
	for i < len(s) && isLetter(s[i]) {
		i++
	}
	return s[:i]
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' }
