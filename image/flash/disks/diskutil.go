package disks

// Of macOS; it builds everywhere, so that its tests run everywhere.

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"strconv"

	"github.com/rig-freebsd/rig/internal/run"
)

// diskutil asks macOS's diskutil(8) for its physical disks. It tells no serial
// numbers.
func diskutil(ctx context.Context, r run.Runner) ([]Disk, error) {
	b, err := r.Run(ctx, run.New("diskutil", "list", "-plist", "physical"))
	if err != nil {
		return nil, err
	}
	list, err := parsePlist(b)
	if err != nil {
		return nil, err
	}
	var out []Disk
	for _, e := range array(dict(list)["AllDisksAndPartitions"]) {
		e := dict(e)
		id, _ := e["DeviceIdentifier"].(string)
		if b, err = r.Run(ctx, run.New("diskutil", "info", "-plist", id)); err != nil {
			return nil, err
		}
		v, err := parsePlist(b)
		if err != nil {
			return nil, err
		}
		info := dict(v)
		d := Disk{Path: "/dev/" + id}
		d.Model, _ = info["MediaName"].(string)
		d.Size, _ = info["Size"].(int64)
		sector, _ := info["DeviceBlockSize"].(int64)
		d.SectorSize = int(sector)
		writable, known := info["WritableMedia"].(bool)
		d.ReadOnly = known && !writable
		d.Removable, _ = info["RemovableMediaOrExternalDevice"].(bool)
		for _, p := range append(array(e["Partitions"]), e) {
			p := dict(p)
			if on, _ := p["MountPoint"].(string); on != "" {
				d.InUse = append(d.InUse, fmt.Sprintf("%v is mounted on %s", p["DeviceIdentifier"], on))
			}
			if c, _ := p["Content"].(string); c == "Apple_APFS" {
				d.Member = append(d.Member, fmt.Sprintf("%v is part of an APFS container", p["DeviceIdentifier"]))
			}
		}
		out = append(out, d)
	}
	return out, nil
}

func dict(v any) map[string]any { m, _ := v.(map[string]any); return m }
func array(v any) []any         { a, _ := v.([]any); return a }

// parsePlist decodes a property list in XML into maps, slices, strings, int64 and
// bool; dates and data stay text.
func parsePlist(b []byte) (any, error) {
	d := xml.NewDecoder(bytes.NewReader(b))
	for {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("decode property list: %w", err)
		}
		if s, ok := t.(xml.StartElement); ok && s.Name.Local != "plist" {
			v, err := plistValue(d, s, 0)
			if err != nil {
				return nil, fmt.Errorf("decode property list: %w", err)
			}
			return v, nil
		}
	}
}

func plistValue(d *xml.Decoder, s xml.StartElement, depth int) (any, error) {
	const deepest = 64
	switch {
	case depth > deepest:
		return nil, fmt.Errorf("more than %d levels", deepest)
	case s.Name.Local == "true", s.Name.Local == "false":
		return s.Name.Local == "true", d.Skip()
	case s.Name.Local != "dict" && s.Name.Local != "array":
		var text string
		if err := d.DecodeElement(&text, &s); err != nil {
			return nil, err
		}
		if s.Name.Local == "integer" {
			return strconv.ParseInt(text, 10, 64)
		}
		return text, nil
	}
	m, a, key := map[string]any{}, []any{}, ""
	for {
		t, err := d.Token()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.EndElement:
			if s.Name.Local == "array" {
				return a, nil
			}
			return m, nil
		case xml.StartElement:
			v, err := plistValue(d, t, depth+1)
			if err != nil {
				return nil, err
			}
			switch {
			case s.Name.Local == "array":
				a = append(a, v)
			case t.Name.Local == "key":
				key, _ = v.(string)
			default:
				m[key] = v
			}
		}
	}
}
