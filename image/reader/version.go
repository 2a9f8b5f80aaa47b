package reader

import (
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/sets"
)

// freebsd is the release and patch level of the base system, as far as the image
// tells: without a base layer it is the release.
func (o *Image) freebsd() string {
	if l := o.layer(manifest.LayerBase, ""); l != nil {
		if t, err := o.Layer(*l); err == nil {
			if v, err := sets.Version(t); err == nil {
				return v
			}
		}
	}
	return o.Manifest.FreeBSD.Version
}

// systemCPE is the CPE 2.3 name of a FreeBSD release: the NVD has a patch level as
// its update, "-" for none.
func systemCPE(version string) string {
	release, rest, _ := strings.Cut(version, "-")
	update := "-"
	if _, patch, ok := strings.Cut(rest, "-"); ok {
		update = strings.ToLower(patch)
	} else if rest != "RELEASE" {
		update = strings.ToLower(rest)
	}
	return "cpe:2.3:o:freebsd:freebsd:" + release + ":" + update + ":*:*:*:*:*:*"
}
