package answers

import (
	"strings"
	"testing"
)

// TestProblemsDoNotLeak: no message about a file shows what could be a secret,
// however broken the file is.
func TestProblemsDoNotLeak(t *testing.T) {
	long := int64(99)
	qs := []Question{
		{Key: "key", Type: Secret, Min: &long}, {Key: "a.key", Type: PasswordHash},
		{Key: "b", Type: Text, Secret: true, List: true}, {Key: "c", Type: Secret, Max: &long},
	}
	for _, text := range []string{
		"key = \"hunter2\"", "key = hunter2", "key \"hunter2\"", "key: hunter2", "key = \"\"\"\nhunter2", "key = '''hunter2\n", "key = \"hunter2",
		"key = \"hunter2\n\"", "key = \"x\" hunter2", "a = { key = \"hunter2\" }", "a = { key = \"hunter2\", }}", "a = [{ key = \"hunter2",
		"key = \"\\qhunter2\"", "kye = \"hunter2\"", "key = 1979-hunter2", "key = 0xhunter2", "key = truehunter2", "key = [ \"hunter2\" ]",
		"key = { x = \"hunter2\" }", "b = \"hunter2\"", "b = [1, \"hunter2\"]", "a.key = \"hunter2\"\na.key = \"hunter2\"", "[[a]]\nkey = \"hunter2\"",
		"[a]\nkey = \"hunter2\\ud800\"", "key = \"hunter2\x01\"", "c = \"\"\"\nhunter2\n\"\"\" hunter2", "key = \"\\uhunter2\"", "key = \"hunter2\xff\"",
		"c = '''\n\x01hunter2'''", "c = \"\"\"\n\\u12hunter2\"\"\"", "c = [\"x\",\n hunter2]", "[c]\nx = \"hunter2\"\ny",
		"install.passphrase = \"hunter2\"", "install.passphrase = \"h\u00fcnter2hunter2\"",
	} {
		_, err := Resolve(qs, Source{Name: "f", Data: []byte(text)})
		if err == nil {
			t.Errorf("%q is accepted", text)
		} else if strings.Contains(err.Error(), "unter") {
			t.Errorf("%q leaks:\n%v", text, err)
		}
	}
	for _, q := range qs {
		if _, err := ParseText(&q, "hunter2"); err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s leaks: %v", q.Key, err)
		}
	}
}
