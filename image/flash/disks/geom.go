package disks

// Of FreeBSD; it builds everywhere, so that its tests run everywhere.

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// geomMesh is what is needed of kern.geom.confxml (FreeBSD 15.1
// sys/geom/geom_dump.c); firstboot reads more of it.
type geomMesh struct {
	Classes []struct {
		Name  string `xml:"name"`
		Geoms []struct {
			Name      string `xml:"name"`
			Consumers []struct {
				Mode     string `xml:"mode"`
				Provider struct {
					Ref string `xml:"ref,attr"`
				} `xml:"provider"`
			} `xml:"consumer"`
			Providers []struct {
				ID         string `xml:"id,attr"`
				Mode       string `xml:"mode"` // "r1w1e2"
				Name       string `xml:"name"`
				MediaSize  int64  `xml:"mediasize"`
				SectorSize int    `xml:"sectorsize"`
				Ident      string `xml:"config>ident"`
				Descr      string `xml:"config>descr"`
			} `xml:"provider"`
		} `xml:"geom"`
	} `xml:"class"`
}

// parseGeom lists the disks of kern.geom.confxml that can be targets, without
// their content. One that is open for writing is in use.
func parseGeom(b []byte) ([]Disk, error) {
	var mesh geomMesh
	b = bytes.Map(func(r rune) rune { // labels and serials come from the disks
		if r < ' ' && r != '\n' && r != '\t' || r == '\ufffd' {
			return '?'
		}
		return r
	}, bytes.TrimRight(b, "\x00"))
	if err := xml.Unmarshal(b, &mesh); err != nil {
		return nil, fmt.Errorf("decode kern.geom.confxml: %w", err)
	}
	var out []Disk
	for _, class := range mesh.Classes {
		if class.Name != "DISK" {
			continue
		}
		for _, g := range class.Geoms {
			for _, p := range g.Providers {
				if name := strings.TrimRight(p.Name, "0123456789"); slices.Contains([]string{"cd", "md", "fd"}, name) || p.MediaSize <= 0 {
					continue
				}
				d := Disk{Path: "/dev/" + p.Name, Serial: strings.TrimSpace(p.Ident), Model: strings.TrimSpace(p.Descr), Size: p.MediaSize, SectorSize: p.SectorSize}
				if !strings.Contains(p.Mode, "w0") {
					d.InUse = append(d.InUse, "open for writing ("+p.Mode+")"+mesh.above(p.ID))
				}
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// above names what consumes a provider, but for the device file itself.
func (m *geomMesh) above(id string) string {
	var by []string
	for _, class := range m.Classes {
		for _, g := range class.Geoms {
			for _, c := range g.Consumers {
				if c.Provider.Ref == id && class.Name != "DEV" && c.Mode != "r0w0e0" {
					by = append(by, class.Name+" "+g.Name)
				}
			}
		}
	}
	if by == nil {
		return ""
	}
	return " by " + strings.Join(by, ", ")
}
