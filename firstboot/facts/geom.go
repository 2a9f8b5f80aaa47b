package facts

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rig-freebsd/rig/firstboot/place"
)

// kern.geom.confxml (FreeBSD 15.1 sys/geom/geom_dump.c): a mesh of classes, each
// with its geoms; a geom consumes providers of the geoms below it and offers
// providers of its own. Numbers are decimal, except for references.
type geomMesh struct {
	XMLName xml.Name    `xml:"mesh"`
	Classes []geomClass `xml:"class"`
}

type geomClass struct {
	Name  string     `xml:"name"`
	Geoms []geomGeom `xml:"geom"`
}

type geomGeom struct {
	Name      string         `xml:"name"`
	Config    geomConfig     `xml:"config"`
	Consumers []geomConsumer `xml:"consumer"`
	Providers []geomProvider `xml:"provider"`
	Wither    *struct{}      `xml:"wither"`
}

type geomConsumer struct {
	Provider struct {
		Ref string `xml:"ref,attr"`
	} `xml:"provider"`
}

type geomProvider struct {
	ID         string     `xml:"id,attr"`
	Mode       string     `xml:"mode"` // "r1w1e2"
	Name       string     `xml:"name"`
	MediaSize  int64      `xml:"mediasize"`
	SectorSize int        `xml:"sectorsize"`
	StripeSize int64      `xml:"stripesize"`
	Config     geomConfig `xml:"config"`
	Wither     *struct{}  `xml:"wither"`
}

// geomConfig is what the classes DISK, PART and ELI say of geoms and providers.
type geomConfig struct {
	// DISK, provider (geom_disk.c)
	Rotation string `xml:"rotationrate"` // "0", "7200", "unknown", "invalid"
	Ident    string `xml:"ident"`
	LUNID    string `xml:"lunid"`
	Descr    string `xml:"descr"`
	// PART, geom (part/g_part.c)
	Scheme string `xml:"scheme"`
	State  string `xml:"state"` // "OK", "CORRUPT"
	// PART, provider (part/g_part.c, part/g_part_gpt.c)
	Index   int    `xml:"index"`
	Type    string `xml:"type"`
	Offset  int64  `xml:"offset"` // bytes
	Label   string `xml:"label"`
	RawUUID string `xml:"rawuuid"`
	RawType string `xml:"rawtype"`
	// ELI, geom (eli/g_eli.c)
	Flags     string `xml:"Flags"`               // "BOOT, AUTORESIZE"
	Algorithm string `xml:"EncryptionAlgorithm"` // "AES-XTS"
	KeyLength int    `xml:"KeyLength"`           // bits
}

// notDisks are devices of class DISK that can be no target: optical drives,
// memory disks, floppies.
var notDisks = []string{"cd", "md", "fd"}

// parseGeom lists the disks of confxml by name, with their partitions. Their
// content is not looked at.
func parseGeom(b []byte) ([]Disk, error) {
	var mesh geomMesh
	if err := xml.Unmarshal(cleanXML(b), &mesh); err != nil {
		return nil, fmt.Errorf("decode kern.geom.confxml: %w", err)
	}
	g := &geomReader{parts: map[string]geomGeom{}}
	var disks []Disk
	for _, class := range mesh.Classes {
		if class.Name != "PART" {
			continue
		}
		for _, geom := range class.Geoms {
			if geom.Wither == nil && len(geom.Consumers) == 1 {
				g.parts[geom.Consumers[0].Provider.Ref] = geom
			}
		}
	}
	for _, class := range mesh.Classes {
		if class.Name != "DISK" {
			continue
		}
		for _, geom := range class.Geoms {
			for _, p := range geom.Providers {
				if d, ok := g.disk(geom, p); ok {
					disks = append(disks, d)
				}
			}
		}
	}
	if g.err != nil {
		return nil, g.err
	}
	slices.SortFunc(disks, func(a, b Disk) int {
		sa, na := place.SplitUnit(a.Name)
		sb, nb := place.SplitUnit(b.Name)
		return cmp.Or(cmp.Compare(sa, sb), cmp.Compare(na, nb), cmp.Compare(a.Name, b.Name))
	})
	return disks, nil
}

// cleanXML drops the C string's end and replaces what XML does not allow: labels
// and serials come from the disks.
func cleanXML(b []byte) []byte {
	b = bytes.TrimRight(b, "\x00")
	return bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == utf8.RuneError || r == 0xfffe || r == 0xffff {
			return '?'
		}
		return r
	}, b)
}

// geomText trims a string and undoes what g_conf_cat_escaped does to UTF-8: it
// prints each byte above 0x7e as a character of its own.
func geomText(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return strings.TrimSpace(s)
		}
		b = append(b, byte(r))
	}
	if utf8.Valid(b) {
		s = string(b)
	}
	return strings.TrimSpace(s)
}

type geomReader struct {
	parts map[string]geomGeom // partition table by the provider it is on
	err   error
}

// disk reads the provider of a geom of class DISK. ok is false for what cannot
// be a target.
func (g *geomReader) disk(geom geomGeom, p geomProvider) (d Disk, ok bool) {
	stem, _ := place.SplitUnit(p.Name)
	if geom.Wither != nil || p.Wither != nil || p.Name == "" || p.MediaSize == 0 || slices.Contains(notDisks, stem) {
		return Disk{}, false
	}
	if p.MediaSize < 0 || p.SectorSize < 1 || p.SectorSize > 1<<20 || p.StripeSize < 0 || p.StripeSize > 1<<30 {
		g.err = errors.Join(g.err, fmt.Errorf("kern.geom.confxml: disk %s: mediasize %d, sectorsize %d, stripesize %d",
			p.Name, p.MediaSize, p.SectorSize, p.StripeSize))
		return Disk{}, false
	}
	c := p.Config
	d = Disk{
		Name: p.Name, Serial: geomText(c.Ident), Model: geomText(c.Descr), LUNID: geomText(c.LUNID),
		Size: p.MediaSize, SectorSize: p.SectorSize, StripeSize: int(p.StripeSize), Rotation: rotation(c.Rotation),
		InUse: isOpen(p.Mode),
	}
	if table, ok := g.parts[p.ID]; ok && p.ID != "" {
		d.Scheme = table.Config.Scheme
		d.Corrupt = table.Config.State == "CORRUPT"
		d.Partitions = g.partitions(table, 0, 0)
	}
	return d, true
}

// partitions lists those of a table that begins at byte base of the disk, by
// start; those of a table within a partition follow it.
func (g *geomReader) partitions(table geomGeom, base int64, depth int) []Partition {
	providers := slices.Clone(table.Providers)
	slices.SortStableFunc(providers, func(a, b geomProvider) int { return cmp.Compare(a.Config.Offset, b.Config.Offset) })
	var out []Partition
	for _, p := range providers {
		if p.Wither != nil {
			continue
		}
		c := p.Config
		part := Partition{
			Index: c.Index, Name: p.Name, Type: c.Type, Label: geomText(c.Label), GUID: strings.ToLower(c.RawUUID),
			Start: base + c.Offset, Size: p.MediaSize,
		}
		if part.Type == "" {
			part.Type = "!" + c.RawType
		}
		out = append(out, part)
		if nested, ok := g.parts[p.ID]; ok && p.ID != "" && depth < 4 {
			out = append(out, g.partitions(nested, part.Start, depth+1)...)
		}
	}
	return out
}

// rotation is revolutions per minute, 0 for flash, -1 when unknown.
func rotation(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// isOpen reports whether a mode, "r1w0e1", counts anyone who reads, writes or
// excludes others.
func isOpen(mode string) bool { return mode != "" && mode != "r0w0e0" }
