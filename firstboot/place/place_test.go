package place

import (
	"testing"

	"github.com/rig-freebsd/rig/image/manifest"
)

func TestRankOf(t *testing.T) {
	for label, want := range map[string]Rank{
		"rig": Image, "rig-S1": Installed, "installing-S1": Unfinished,
		"": NoRig, "rigid": NoRig, "rig2": NoRig, "installing": NoRig, "efi-S1": NoRig, "RIG-S1": NoRig,
	} {
		if got := RankOf(label); got != want {
			t.Errorf("%q: %v, want %v", label, got, want)
		}
	}
	if got := Labelled(manifest.RoleRig, "a b/1"); got != "/dev/gpt/rig-a_b_1" {
		t.Error(got)
	}
}

func TestSplitUnit(t *testing.T) {
	for name, want := range map[string]struct {
		stem string
		unit int
	}{"vtbd10": {"vtbd", 10}, "em0": {"em", 0}, "lo": {"lo", -1}, "nda99999999999999999999": {"nda", -1}, "": {"", -1}} {
		if stem, unit := SplitUnit(name); stem != want.stem || unit != want.unit {
			t.Errorf("%q: %q %d", name, stem, unit)
		}
	}
}
