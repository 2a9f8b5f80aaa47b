package facts

import (
	"strings"
	"testing"
)

const bareDisk = `<mesh><class id="0x1"><name>DISK</name><geom id="0x2"><name>da0</name><provider id="0x3"><name>da0</name>` +
	`<mediasize>1024</mediasize><sectorsize>512</sectorsize><stripesize>0</stripesize><config><ident>S</ident></config></provider></geom></class></mesh>`

func TestParseGeom(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(bareDisk, old, new, 1) }
	tests := []struct{ name, in, want string }{ // want is the disk's name and serial, "" for none
		{"disk", bareDisk, "da0 S"},
		{"trailing NUL", bareDisk + "\x00", "da0 S"},
		{"control characters", change("<ident>S", "<ident>S\x01\xff"), "da0 S??"},
		{"Latin-1 that is no UTF-8", change("<ident>S", "<ident>S&#xE9;"), "da0 Sé"},
		{"UTF-8 byte by byte", change("<ident>S", "<ident>S&#xC3;&#xA9;"), "da0 Sé"},
		{"blanks around the serial", change("<ident>S", "<ident>  S "), "da0 S"},
		{"no medium", change("1024", "0"), ""},
		{"optical", strings.ReplaceAll(bareDisk, "da0", "cd0"), ""},
		{"memory disk", strings.ReplaceAll(bareDisk, "da0", "md7"), ""},
		{"going away", change("<provider id", "<wither/><provider id"), ""},
		{"provider going away", change("<config>", "<wither/><config>"), ""},
		{"other class", change("DISK", "MIRROR"), ""},
		{"empty", "<mesh></mesh>", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			disks, err := parseGeom([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, d := range disks {
				got += d.Name + " " + d.Serial
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestParseGeomErrors(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(bareDisk, old, new, 1) }
	tests := []struct{ name, in, want string }{
		{"cut", bareDisk[:100], "decode kern.geom.confxml: XML syntax error on line 1: unexpected EOF"},
		{"not a mesh", "<html></html>", "decode kern.geom.confxml: expected element type <mesh> but have <html>"},
		{"not a number", change("1024", "much"), `decode kern.geom.confxml: strconv.ParseInt: parsing "much": invalid syntax`},
		{"negative", change("1024", "-1"), "kern.geom.confxml: disk da0: mediasize -1, sectorsize 512, stripesize 0"},
		{"no sectors", change("512", "0"), "kern.geom.confxml: disk da0: mediasize 1024, sectorsize 0, stripesize 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseGeom([]byte(tt.in))
			if err == nil || err.Error() != tt.want {
				t.Errorf("\n got %v\nwant %s", err, tt.want)
			}
		})
	}
}

// A table that claims to lie on its own partition must not recurse for ever.
func TestParseGeomLoop(t *testing.T) {
	in := strings.Replace(bareDisk, "<mesh>", `<mesh><class><name>PART</name><geom><name>da0</name><consumer><provider ref="0x3"/></consumer>`+
		`<provider id="0x3"><name>da0p1</name><mediasize>512</mediasize></provider></geom></class>`, 1)
	disks, err := parseGeom([]byte(in))
	if err != nil || len(disks) != 1 || len(disks[0].Partitions) != 5 {
		t.Errorf("%v, %v", disks, err)
	}
}

func FuzzParseGeom(f *testing.F) {
	f.Add([]byte(readTestdata(f, "geom.confxml")))
	f.Add([]byte(bareDisk))
	f.Fuzz(func(t *testing.T, b []byte) {
		disks, err := parseGeom(b)
		if err != nil {
			return
		}
		for _, d := range disks {
			d.Size = min(d.Size, 1<<20) &^ int64(d.SectorSize-1)
			if d.SectorSize == 512 && d.Size > 0 {
				_ = d.inspect(t.Context(), fakeDisk{size: d.Size, sector: 512}, nil)
			}
		}
	})
}
