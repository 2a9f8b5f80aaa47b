// Package text puts words of others into lines for people, and tells how far two words
// are apart.
package text

import (
	"fmt"
	"strings"
	"unicode"
)

// Printable replaces what would disturb a terminal by "?": firmware, disks and file
// names hold anything.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// OneLine makes several lines, as of joined errors, one that may be printed.
func OneLine(s string) string {
	return Printable(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' }), "; "))
}

// Listing is a few names of a longer list: "a, b, c, d, e and 4 more".
func Listing(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// Distance is the number of edits between a and b (Levenshtein's, in bytes), at most
// 64 bytes of each.
func Distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, diag+1, row[j]+1)
		}
	}
	return row[len(b)]
}
