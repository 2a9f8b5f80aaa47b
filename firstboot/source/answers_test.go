package source

import (
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/firstboot/facts"
)

func TestAnswerURLs(t *testing.T) {
	f := &facts.Facts{NICs: []facts.NIC{{MAC: "52:54:00:AA:00:01"}, {MAC: "52:54:00:aa:00:02"}},
		SMBIOS: map[string]string{"system.serial": "A 1/x", "system.uuid": "ABCD-1"}}
	for template, want := range map[string]string{
		"http://s/{mac}.toml":      "http://s/52-54-00-aa-00-01.toml http://s/52-54-00-aa-00-02.toml",
		"http://s/{serial}/{uuid}": "http://s/A_1_x/abcd-1",
		"http://s/{id}":            "http://s/52-54-00-aa-00-01 http://s/52-54-00-aa-00-02 http://s/A_1_x http://s/abcd-1 http://s/default",
		"http://s/all.toml":        "http://s/all.toml",
	} {
		if got := strings.Join(answerURLs(template, f), " "); got != want {
			t.Errorf("%s: %s", template, got)
		}
	}
	if got := answerURLs("http://s/{serial}", &facts.Facts{}); len(got) != 0 {
		t.Errorf("without a serial number: %v", got)
	}
}
