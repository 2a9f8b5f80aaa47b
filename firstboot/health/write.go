package health

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Counts is how many checks came to each result.
type Counts struct {
	OK       int `json:"ok"`
	Warnings int `json:"warnings"`
	Errors   int `json:"errors"`
	Skipped  int `json:"skipped"`
}

// Count counts checks by result.
func Count(checks []Check) Counts {
	var n Counts
	for _, c := range checks {
		switch c.Result {
		case OK:
			n.OK++
		case Warning:
			n.Warnings++
		case Skipped:
			n.Skipped++
		default:
			n.Errors++
		}
	}
	return n
}

// String is "51 ok, 1 warning, 2 errors, 3 skipped".
func (n Counts) String() string {
	return fmt.Sprintf("%d ok, %s, %s, %d skipped", n.OK, counted(n.Warnings, "warning"), counted(n.Errors, "error"), n.Skipped)
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// WriteChecks prints a table for people: by area, the area with the worst result
// last, so that it is what the screen ends with. colour is for terminals.
func WriteChecks(w io.Writer, checks []Check, colour bool) error {
	b := bufio.NewWriter(w)
	width := 0
	for _, c := range checks {
		width = max(width, utf8.RuneCountInString(c.Check))
	}
	for _, area := range areasByWorst(checks) {
		fmt.Fprintf(b, "%s\n", area)
		for _, c := range checks {
			if c.Area != area {
				continue
			}
			pad := strings.Repeat(" ", width-utf8.RuneCountInString(c.Check))
			fmt.Fprintf(b, "  %s  %s%s  %s\n", c.Result.cell(colour), c.Check, pad, c.Detail)
			if c.Remedy != "" {
				fmt.Fprintf(b, "%s-> %s\n", strings.Repeat(" ", 2+cellWidth+2+width+2), c.Remedy)
			}
		}
	}
	fmt.Fprintln(b, Count(checks))
	return b.Flush()
}

// areasByWorst lists the areas in the order of the checks, stably sorted by their
// worst result.
func areasByWorst(checks []Check) []string {
	worst := map[string]int{}
	var areas []string
	for _, c := range checks {
		if _, seen := worst[c.Area]; !seen {
			areas = append(areas, c.Area)
		}
		worst[c.Area] = max(worst[c.Area], c.Result.rank())
	}
	slices.SortStableFunc(areas, func(a, b string) int { return worst[a] - worst[b] })
	return areas
}

// rank orders results, the worst last.
func (v Verdict) rank() int {
	switch v {
	case OK, Skipped:
		return 0
	case Warning:
		return 1
	}
	return 2
}

const cellWidth = len(Warning)

// cell is the result in a column of cellWidth, coloured when wanted.
func (v Verdict) cell(colour bool) string {
	text := fmt.Sprintf("%-*s", cellWidth, v)
	code := map[Verdict]string{OK: "32", Warning: "33", Failed: "1;31"}[v]
	if !colour || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// WriteChecksJSON prints the checks and their counts as one JSON object.
func WriteChecksJSON(w io.Writer, checks []Check) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Counts Counts  `json:"counts"`
		Checks []Check `json:"checks"`
	}{Count(checks), checks})
}
