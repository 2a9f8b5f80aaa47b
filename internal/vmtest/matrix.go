package vmtest

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
)

// Row is one result of the matrix.
type Row struct {
	Scenario string
	Firmware string // "UEFI", "BIOS", "" where it does not matter
	Result   string // "pass", "fail", "skip"
	Duration time.Duration
	Note     string
}

// Matrix is the table docs/matrix.md holds.
type Matrix struct {
	Date  time.Time
	Of    string // what was tested, as git describe names it
	Accel string
	Rows  []Row
}

// Record adds a row with the test's result when it ends. The note may be set
// until then.
func Record(t testing.TB, scenario, firmware string) (note *string) {
	note = new(string)
	start := time.Now()
	t.Cleanup(func() {
		row := Row{Scenario: scenario, Firmware: firmware, Result: "pass", Duration: time.Since(start), Note: *note}
		switch {
		case t.Failed():
			row.Result = "fail"
		case t.Skipped():
			row.Result = "skip"
		}
		state.Lock()
		defer state.Unlock()
		state.rows = append(state.rows, row)
		if err := writeMatrix(); err != nil {
			t.Error(err)
		}
	})
	return note
}

// writeMatrix writes the rows there are to the file RIG_MATRIX asks for, so that a
// run that is ended early leaves what it saw. The state is locked.
func writeMatrix() error {
	path := os.Getenv("RIG_MATRIX")
	if path == "" {
		return nil
	}
	accel, _ := vm.DecideAccel(contextFor(time.Minute))
	return WriteMatrix(path, Matrix{Date: time.Now(), Of: os.Getenv("RIG_MATRIX_OF"), Accel: accel, Rows: state.rows})
}

// WriteMatrix writes the table as Markdown, sorted by scenario and firmware, in
// the place of the file at once.
func WriteMatrix(path string, m Matrix) error {
	rows := slices.Clone(m.Rows)
	slices.SortStableFunc(rows, func(a, b Row) int {
		return cmp.Or(strings.Compare(a.Scenario, b.Scenario), strings.Compare(a.Firmware, b.Firmware))
	})
	count := map[string]int{}
	for _, r := range rows {
		count[r.Result]++
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Boot tests\n\nFreeBSD %s in QEMU (%s), %s, commit %s: %d passed, %d failed, %d skipped. Written by `make matrix`.\n\n",
		Release, m.Accel, m.Date.UTC().Format(time.DateOnly), cmp.Or(m.Of, "unknown"), count["pass"], count["fail"], count["skip"])
	b.WriteString("| scenario | firmware | result | time | note |\n|---|---|---|---:|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %d s | %s |\n",
			cell(r.Scenario), cell(r.Firmware), cell(r.Result), int(r.Duration.Round(time.Second).Seconds()), cell(r.Note))
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".matrix-")
	if err != nil {
		return fmt.Errorf("write matrix: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(b.String())
	if err = cmp.Or(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return fmt.Errorf("write matrix %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("write matrix: %w", err)
	}
	return nil
}

// cell is s on one line without column marks.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}
