package image

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rig-freebsd/rig/internal/diag"
)

// FuzzConfig: whatever rig.toml holds, it is read, or refused as bad input.
func FuzzConfig(f *testing.F) {
	f.Add(tinyProfile)
	f.Add("jail = [1, {users = [[]]}]\nquestion = [{min = 1.5, default = {a = 1979-05-27}}]\n[[dataset]]\nprops = {a = 1}\n")
	f.Add("schema = 1\nhost = []\npool = {props = 1}\nlive = {programs = \"x\"}\nboot = {swap = \"-1\"}\n")
	f.Add("\"\" = 1\n[jail.\"\"]\n\"a\\tb\" = 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := LoadConfig(fstest.MapFS{ConfigFile: {Data: []byte(text)}}, ConfigFile)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if err != nil && (diag.ExitCode(err) != 2 || !strings.HasPrefix(err.Error(), ConfigFile)) {
			t.Errorf("%v", err)
		}
	})
}
