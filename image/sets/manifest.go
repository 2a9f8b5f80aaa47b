package sets

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// ManifestLine is one line of MANIFEST, release/scripts/make-manifest.sh (15.1):
//
//	base.txz <tab> sha256 <tab> number of files <tab> base <tab> "Base system (MANDATORY)" <tab> on
type ManifestLine struct {
	File        string // "base.txz"
	SHA256      string // 64 lower-case hex digits
	Files       int    // entries in the set
	Dist        string // as bsdinstall(8) names it, '-' replaced by '_'
	Description string // without its quotes
	Default     bool   // chosen unless the user says otherwise
}

const maxManifest = 1 << 20

// ParseManifest reads MANIFEST. Columns after the hash may be missing. All
// problems are reported at once.
func ParseManifest(r io.Reader) ([]ManifestLine, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", manifestName, err)
	}
	if len(text) > maxManifest {
		return nil, diag.Inputf("%s: larger than %d bytes; not a manifest of release sets", manifestName, maxManifest)
	}
	var out []ManifestLine
	var ps diag.Problems
	seen := map[string]bool{}
	sc := bufio.NewScanner(bytes.NewReader(text))
	sc.Buffer(nil, maxManifest+1)
	for n := 1; sc.Scan(); n++ {
		if strings.TrimSpace(sc.Text()) == "" {
			continue
		}
		l, err := parseManifestLine(sc.Text())
		if err == nil && seen[l.File] {
			err = fmt.Errorf("%s is listed twice", l.File)
		}
		if err != nil {
			ps.Add(diag.Problem{File: manifestName, Line: n, Msg: err.Error()})
			continue
		}
		seen[l.File] = true
		out = append(out, l)
	}
	if len(out) == 0 && len(ps.List) == 0 {
		ps.Add(diag.Problem{File: manifestName, Msg: "lists no set"})
	}
	if err := ps.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

func parseManifestLine(s string) (ManifestLine, error) {
	f := strings.Split(s, "\t")
	if len(f) < 2 || len(f) > 6 {
		return ManifestLine{}, fmt.Errorf("%d columns separated by tabs; expected name, sha256, files, set, description, on or off", len(f))
	}
	l := ManifestLine{File: f[0], SHA256: strings.ToLower(f[1])}
	if l.File == "" || l.File[0] == '.' || strings.ContainsAny(l.File, "/\\ \x00") {
		return l, fmt.Errorf("%q is not a file name", l.File)
	}
	if len(l.SHA256) != 64 || strings.Trim(l.SHA256, "0123456789abcdef") != "" {
		return l, fmt.Errorf("%s: %q is not a sha256", l.File, f[1])
	}
	if len(f) > 2 {
		n, err := strconv.ParseUint(f[2], 10, 31)
		if err != nil {
			return l, fmt.Errorf("%s: %q is not a number of files", l.File, f[2])
		}
		l.Files = int(n)
	}
	if len(f) > 3 {
		l.Dist = f[3]
	}
	if len(f) > 4 {
		l.Description = strings.Trim(f[4], `"`)
	}
	if len(f) > 5 {
		if l.Default = f[5] == "on"; !l.Default && f[5] != "off" {
			return l, fmt.Errorf("%s: %q is neither on nor off", l.File, f[5])
		}
	}
	return l, nil
}

func readManifest(dir string) ([]ManifestLine, error) {
	f, err := os.Open(filepath.Join(dir, manifestName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseManifest(f)
}
