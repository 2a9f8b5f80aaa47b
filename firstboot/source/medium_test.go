package source

import (
	"context"
	"testing"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/fakebsd"
)

func TestOpenMedium(t *testing.T) {
	m := fakebsd.Manifest()
	other := fakebsd.Manifest()
	other.Image = "webrig-15.0-000000000000"
	const noISO = "iso9660/RIG_1A2B3C4D5E6F: mount -t cd9660 -o ro /dev/iso9660/RIG_1A2B3C4D5E6F /rig: exit status 1: mount: No such file or directory"
	disk := func(name, label string) facts.Disk {
		return facts.Disk{Name: name, Serial: name, Partitions: []facts.Partition{{Index: 3, Name: name + "p3", Type: "freebsd-ufs", Label: label}}}
	}
	for _, tt := range []struct {
		name  string
		man   *manifest.Manifest
		disks []facts.Disk
		fail  string // partition that cannot be mounted
		want  string // partition, or error
	}{
		{"the medium before copies", m, []facts.Disk{disk("vtbd0", "rig-S1"), disk("vtbd1", "installing-S2"), disk("da0", "rig")}, "", "da0p3"},
		{"an unfinished disk before a finished one", m, []facts.Disk{disk("vtbd0", "rig-S1"), disk("vtbd1", "installing-S2")}, "", "vtbd1p3"},
		{"one that cannot be mounted", m, []facts.Disk{disk("da0", "rig"), disk("vtbd1", "installing-S2")}, "da0p3", "vtbd1p3"},
		{"one of two equal ones was booted", m, []facts.Disk{disk("da0", "rig"), disk("da1", "rig")}, "medium",
			"find the installation medium: da0p3 (serial da0) and da1p3 (serial da1) are equal, and which one was booted is not known"},
		{"another one was booted", m, []facts.Disk{disk("da0", "rig")}, "other medium",
			`find the installation medium: no partition holds image "webrig-15.1-1a2b3c4d5e6f" (da0p3: it is another medium than the one that was booted; ` + noISO + `)`},
		{"labels of others", m, []facts.Disk{disk("ada0", "rigid"), disk("ada1", "")}, "",
			`find the installation medium: no partition holds image "webrig-15.1-1a2b3c4d5e6f" (` + noISO + `)`},
		{"an ISO", m, []facts.Disk{disk("ada0", "rigid")}, "iso", "iso9660/RIG_1A2B3C4D5E6F"},
		{"another image", other, []facts.Disk{disk("da0", "rig")}, "",
			`find the installation medium: no partition holds image "webrig-15.1-1a2b3c4d5e6f" (da0p3: it holds image webrig-15.0-000000000000; ` + noISO + `)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &fakebsd.Runner{Answers: map[string]string{"mount -t ufs -o ro /dev/" + tt.fail + " ": "!mount: Input/output error",
				"mount -t cd9660": "!mount: No such file or directory"}}
			if tt.fail == "iso" {
				delete(r.Answers, "mount -t cd9660")
			}
			md, err := OpenMedium(context.Background(), r, fakebsd.MediumRoot(t, tt.man),
				&facts.Facts{Disks: tt.disks, Kenv: map[string]string{manifest.EnvImage: m.Image, manifest.EnvMedium: map[string]string{"medium": "00112233aabbccdd", "other medium": "00112233aabbccde"}[tt.fail]}})
			switch {
			case err != nil && err.Error() != tt.want:
				t.Errorf("%v", err)
			case err == nil && md.Source.String() != tt.want:
				t.Errorf("opened %s, want %s", md.Source, tt.want)
			}
		})
	}
}
