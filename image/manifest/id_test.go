package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// named is a manifest that has its id, and its loader.conf.
func named(t *testing.T) (*Manifest, string) {
	t.Helper()
	m := sample()
	conf := func(id string) string { return "# text\n" + fmt.Sprintf("%s=%q\n", EnvImage, id) + "beep=\"1\"\n" }
	id, err := m.ID([]byte(conf("")))
	if err != nil {
		t.Fatal(err)
	}
	m.Image = id
	return m, conf(id)
}

// The sum does not depend on the id, nor on what names it.
func TestID(t *testing.T) {
	m, conf := named(t)
	if want := "webrig-15.1-"; !strings.HasPrefix(m.Image, want) || len(m.Image) != len(want)+12 {
		t.Errorf("id %s", m.Image)
	}
	m.Files = append(m.Files, BootFile{Part: RoleRig, Path: LoaderConf, Size: 1, SHA256: hash("9")})
	slices.SortFunc(m.Files, compareFiles)
	own := slices.IndexFunc(m.Files, func(f BootFile) bool { return f.Path == LoaderConf })
	ids := map[string]string{}
	for what, change := range map[string]func(){
		"as it is":     func() {},
		"its own file": func() { m.Files[own].Size, m.Files[own].SHA256 = 2, hash("8") },
		"another id": func() {
			conf = strings.Replace(conf, m.Image, "webrig-15.1-000000000000", 1)
			m.Image = "webrig-15.1-000000000000"
		},
		"a file":         func() { m.Files[0].SHA256 = hash("7") },
		"a dataset":      func() { m.Datasets[0].Mountpoint = "/hole" },
		"a setting":      func() { conf += "x=\"1\"\n" },
		"a layer's hash": func() { m.Layers[0].SHA256 = hash("6") },
	} {
		a, c := *m, conf
		files, datasets, layers := append([]BootFile{}, m.Files...), m.Datasets[0], m.Layers[0]
		change()
		id, err := m.ID([]byte(conf))
		if err != nil {
			t.Fatal(what, err)
		}
		ids[what] = id
		*m, conf = a, c
		m.Files, m.Datasets[0], m.Layers[0] = files, datasets, layers
	}
	same := ids["as it is"]
	seen := map[string]string{}
	for what, id := range ids {
		if what == "as it is" || what == "its own file" || what == "another id" {
			if id != same {
				t.Errorf("%s changes the id", what)
			}
			continue
		}
		if id == same || seen[id] != "" {
			t.Errorf("%s: the id is that of %q", what, seen[id])
		}
		seen[id] = what
	}
}

func TestRead(t *testing.T) {
	m, conf := named(t)
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, conf, text, want string }{
		{"good", conf, string(text), ""},
		{"another setting", strings.Replace(conf, "beep=\"1\"", "beep=\"2\"", 1), string(text), "manifest: it was changed: the image is " + m.Image + ", what it says gives webrig-15.1-"},
		{"another mount point", conf, strings.Replace(string(text), `"/home"`, `"/hole"`, 1), "manifest: it was changed: the image is " + m.Image},
		{"another id", conf, strings.Replace(string(text), m.Image, m.Image[:len(m.Image)-1]+"x", 1), "manifest: it was changed: the image is " + m.Image[:len(m.Image)-1] + "x"},
		{"a blank more", conf, string(text) + " ", "manifest: it was changed: it has "},
		{"no JSON", conf, "x", "manifest: line 1: "},
		{"missing", conf, "", "file does not exist"},
	} {
		got, err := Read(func(name string, limit int64) ([]byte, error) {
			switch {
			case name == LoaderConf:
				return []byte(c.conf), nil
			case name != File || c.text == "":
				return nil, fs.ErrNotExist
			}
			return []byte(c.text), nil
		})
		if c.want == "" {
			if err != nil || got.Image != m.Image {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v; want %s", c.name, err, c.want)
		}
		var id *IDError
		if errors.As(err, &id) != strings.HasPrefix(c.want, "manifest: it was changed: the image") {
			t.Errorf("%s: %T", c.name, err)
		}
	}
}
