package solve

import (
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/pkgs"
	"github.com/rig-freebsd/rig/internal/diag"
)

// list makes packages from "name-version" words.
func list(ids string) []*pkgs.Package {
	var out []*pkgs.Package
	for _, id := range strings.Fields(ids) {
		i := strings.LastIndexByte(id, '-')
		out = append(out, &pkgs.Package{Name: id[:i], Version: id[i+1:]})
	}
	return out
}

func TestSelect(t *testing.T) {
	have := list(`nginx-1.28.0,3 nginx-full-1.28.0,3 nginx-lite-1.28.0,3 nginx-devel-1.29.1
		postgresql9-server-9.6 postgresql16-server-16.10 postgresql18-server-18.1 postgresql17-server-17.7
		postgresql19-server-19.b2 postgresql-odbc-server-1.0 postgresql17-client-17.7
		python39-3.9.1 python311-3.11.13 beta1-1.0.b1 beta2-1.0rc1
		two-1.0 two-1.10 two-1.9 tie01-1.0 tie1-1.1 vim-9.1 ImageMagick7-7.1 py311-foo-1.0 py312-foo-1.0`)
	for pattern, want := range map[string]string{
		"nginx":               "nginx-1.28.0,3",
		"two":                 "two-1.10",
		"postgresql*-server":  "postgresql18-server-18.1",
		"postgresql19-server": "postgresql19-server-19.b2",
		"postgresql*-client":  "postgresql17-client-17.7",
		"python*":             "python311-3.11.13",
		"beta*":               "beta2-1.0rc1",
		"tie*":                "tie1-1.1",
		"py*-foo":             "py312-foo-1.0",
		"ImageMagick*":        "ImageMagick7-7.1",
	} {
		p, err := NewIndex(have).Select(pattern)
		if err != nil || p.ID() != want {
			t.Errorf("Select(%q) = %v, %v, want %s", pattern, p, err, want)
		}
	}
	for pattern, want := range map[string]string{
		"ngin":               "no package ngin; there are nginx, nginx-full, nginx-lite, nginx-devel",
		"vim-console":        "no package vim-console; there is vim",
		"imagemagick":        "no package imagemagick; there is ImageMagick7",
		"postgresql-server":  "no package postgresql-server; there are postgresql9-server, postgresql16-server, postgresql17-server, postgresql18-server, postgresql19-server",
		"postgresql*-cliemt": "no package postgresql*-cliemt; there is postgresql17-client",
		"magick":             "no package magick; there is ImageMagick7",
		"nignx":              "no package nignx; there is nginx",
		"zzzzzzzz":           "no package zzzzzzzz",
		"nginx*":             "no package nginx*; there are nginx, nginx-full, nginx-lite, nginx-devel",
		"":                   `package "": empty name`,
		"a*b*":               `package "a*b*": more than one *`,
		"a b":                `package "a b": white space in a name`,
		"*":                  "no package *",
	} {
		_, err := NewIndex(have).Select(pattern)
		if err == nil || err.Error() != want || diag.ExitCode(err) != 2 {
			t.Errorf("Select(%q): %v, want %s", pattern, err, want)
		}
	}
}

func TestStack(t *testing.T) {
	var got []string
	for _, p := range Stack(list("a-1 b-2 b-3"), list("b-4 c-1"), list("c-2 d-1")) {
		got = append(got, p.ID())
	}
	if want := "a-1 b-2 b-3 c-1 d-1"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}
