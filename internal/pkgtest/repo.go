package pkgtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/blake2s"
)

// Repo describes a repository. The zero value is an empty, unsigned one.
type Repo struct {
	Pkgs    []Pkg
	Entries [][]byte // more lines of the catalogue, of packages that are not there
	Keys    []*Key   // that sign the catalogue
	SumType int      // of sums: 0 to 6; -1 = sha256 in hex without a type
	Packing string   // of catalogues: zst, xz, gz, tar; "" = zst
	Meta    string   // of meta.conf; "" = what pkg writes, "-" = none
	NoData  bool     // only packagesite.pkg, as of pkg before 1.20
	NoLines bool     // only data.pkg

	// Alter changes a file before it is written; nil leaves it out.
	Alter func(name string, content []byte) []byte
}

// Meta is meta.conf as pkg 2.8 writes it.
const Meta = `version = 2;
packing_format = "tzst";
manifests = "packagesite.yaml";
data = "data";
filesite = "files";
manifests_archive = "packagesite";
filesite_archive = "files";
`

// Write writes the repository into dir.
func (r Repo) Write(t testing.TB, dir string) {
	t.Helper()
	lines := [][]byte{}
	for _, p := range r.Pkgs {
		b := p.Archive(t)
		name := "All/" + p.ID() + ".pkg"
		r.write(t, dir, name, b)
		lines = append(lines, p.manifest(&entry{sum: Sum(r.SumType, b), path: name, size: len(b)}, false))
	}
	lines = append(lines, r.Entries...)
	if r.Meta != "-" {
		meta := r.Meta
		if meta == "" {
			meta = Meta
		}
		r.write(t, dir, "meta.conf", []byte(meta))
	}
	if !r.NoData {
		data := append([]byte(`{"groups":[],"expired_packages":[],"packages":[`), bytes.Join(lines, []byte(","))...)
		r.catalogue(t, dir, "data.pkg", "data", append(data, "]}"...))
	}
	if !r.NoLines {
		r.catalogue(t, dir, "packagesite.pkg", "packagesite.yaml", bytes.Join(append(lines, nil), []byte("\n")))
	}
}

// catalogue writes an archive of one member with the signatures before it.
func (r Repo) catalogue(t testing.TB, dir, file, member string, content []byte) {
	t.Helper()
	var members []Member
	for i, k := range r.Keys {
		name := member
		if i > 0 {
			name = fmt.Sprintf("%s%d", member, i)
		}
		members = append(members, k.Members(t, name, content)...)
	}
	r.write(t, dir, file, Tar(t, r.Packing, append(members, Member{Name: member, Content: content})...))
}

func (r Repo) write(t testing.TB, dir, name string, content []byte) {
	t.Helper()
	if r.Alter != nil {
		if content = r.Alter(name, content); content == nil {
			return
		}
	}
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Sum is the sum of b as pkg writes it; -1 is sha256 in hex without a type.
func Sum(typ int, b []byte) string {
	var digest []byte
	switch typ {
	case 2, 4:
		d := blake2b.Sum512(b)
		digest = d[:]
	case 5, 6:
		d := blake2s.Sum256(b)
		digest = d[:]
	default:
		d := sha256.Sum256(b)
		digest = d[:]
	}
	value := string(digest)
	switch typ {
	case -1:
		return hex.EncodeToString(digest)
	case 1:
		value = hex.EncodeToString(digest)
	case 0, 2, 5:
		value = zbase32(digest)
	}
	return fmt.Sprintf("%d$%s", typ, value)
}

// zbase32 takes bits from the low end of each byte, as pkg does.
func zbase32(b []byte) string {
	const alphabet = "ybndrfg8ejkmcpqxot1uwisza345h769"
	var out []byte
	for bit := 0; bit < 8*len(b); bit += 5 {
		v := int(b[bit/8]) >> (bit % 8)
		if bit/8+1 < len(b) {
			v |= int(b[bit/8+1]) << (8 - bit%8)
		}
		out = append(out, alphabet[v&31])
	}
	return string(out)
}
