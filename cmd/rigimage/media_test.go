package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/cli"
)

// What a machine boots of a virtual disk, or of an appliance's, is the image itself;
// afterwards nothing is left of it.
func TestBootableImage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds images")
	}
	t.Chdir("../..")
	dir, temp := t.TempDir(), t.TempDir()
	profile := filepath.Join(dir, "small")
	if err := os.CopyFS(profile, os.DirFS("overlay/webrig")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(profile, "rig.toml"))
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("[boot]\n"), []byte("[boot]\nesp_size = \"36m\"\nrig_size = \"16m\"\n"), 1)
	if err := os.WriteFile(filepath.Join(profile, "rig.toml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	var virtual []string
	for _, ending := range []string{".img.zst", ".vmdk", ".vdi", ".qcow2", ".ova"} {
		virtual = append(virtual, filepath.Join(dir, "a"+ending))
	}
	raw := demoImage(t, dir, "a.img", "-o", filepath.Join(dir, "a.img")+","+strings.Join(virtual, ","), profile)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	std := cli.Stdio{Out: null, Err: null, Getenv: os.Getenv}
	for _, name := range virtual {
		t.Run(filepath.Ext(name), func(t *testing.T) {
			path, done, err := bootableImage(t.Context(), name, temp, std)
			if err != nil {
				t.Fatal(err)
			}
			if !sameFile(t, path, raw) {
				t.Error("it is not the image")
			}
			done()
			if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
	path, done, err := bootableImage(t.Context(), raw, temp, std)
	if err != nil || path != raw {
		t.Errorf("a raw image: %s, %v", path, err)
	}
	done()
	if _, err := os.Stat(raw); err != nil {
		t.Error("the image itself was removed")
	}
}
