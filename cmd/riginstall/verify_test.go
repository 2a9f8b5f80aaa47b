package main

import (
	"testing"

	"github.com/rig-freebsd/rig/firstboot/health"
	"github.com/rig-freebsd/rig/internal/diag"
)

func TestVerifyNeedsRoot(t *testing.T) {
	if err := rootOnly(0); err != nil {
		t.Error(err)
	}
	err := rootOnly(1001)
	if err == nil || err.Error() != "verify: only root can read disks, pf and jails" ||
		diag.HintOf(err) != "su -, then: riginstall verify" || diag.ExitCode(err) != 1 {
		t.Errorf("%v; hint %s", err, diag.HintOf(err))
	}
}

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		n      health.Counts
		strict bool
		want   string
	}{
		{health.Counts{OK: 9, Skipped: 2}, true, ""},
		{health.Counts{OK: 9, Warnings: 1}, false, ""},
		{health.Counts{OK: 9, Warnings: 1}, true, "verify: 9 ok, 1 warning, 0 errors, 0 skipped"},
		{health.Counts{OK: 9, Warnings: 2, Errors: 1, Skipped: 3}, false, "verify: 9 ok, 2 warnings, 1 error, 3 skipped"},
	} {
		got := ""
		if err := verdict(tt.n, tt.strict); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%+v strict %v: %q, want %q", tt.n, tt.strict, got, tt.want)
		}
	}
}
