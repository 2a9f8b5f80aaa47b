package facts

import (
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/run"
)

// encryptedMesh is a machine of three encrypted disks: S1 was opened at the start,
// S2-x by hand, and S3 not.
const encryptedMesh = `<mesh>
<class><name>PART</name><geom><name>vtbd0</name><provider id="p1"><name>vtbd0p5</name></provider><provider id="r1"><name>vtbd0p3</name></provider></geom>
<geom><name>vtbd1</name><provider id="p2"><name>vtbd1p5</name></provider><provider id="r2"><name>vtbd1p3</name></provider></geom>
<geom><name>vtbd2</name><provider id="p3"><name>vtbd2p5</name></provider><provider id="w3"><name>vtbd2p4</name></provider></geom></class>
<class><name>LABEL</name><geom><consumer><provider ref="r1"/></consumer><provider id="l1"><name>gpt/rig-S1</name></provider></geom>
<geom><consumer><provider ref="r2"/></consumer><provider id="l2"><name>gpt/rig-S2-x</name></provider></geom>
<geom><consumer><provider ref="p2"/></consumer><provider id="g2"><name>gpt/geli-S2-x</name></provider></geom>
<geom><consumer><provider ref="p3"/></consumer><provider id="l3"><name>gpt/geli-S3</name></provider></geom></class>
<class><name>ELI</name><geom><name>vtbd0p5.eli</name><config><Flags>BOOT, AUTORESIZE</Flags><KeyLength>256</KeyLength><EncryptionAlgorithm>AES-XTS</EncryptionAlgorithm></config>
<consumer><provider ref="p1"/></consumer><provider id="e1"><name>vtbd0p5.eli</name></provider></geom>
<geom><name>vtbd1p5.eli</name><config><Flags>AUTORESIZE</Flags><KeyLength>128</KeyLength><EncryptionAlgorithm>AES-XTS</EncryptionAlgorithm></config>
<consumer><provider ref="p2"/></consumer><provider id="e2"><name>vtbd1p5.eli</name></provider></geom>
<geom><name>vtbd2p4.eli</name><config><Flags>ONETIME, W-DETACH</Flags><KeyLength>128</KeyLength><EncryptionAlgorithm>AES-XTS</EncryptionAlgorithm></config>
<consumer><provider ref="w3"/></consumer><provider id="e3"><name>vtbd2p4.eli</name></provider></geom></class></mesh>`

func TestParseGELI(t *testing.T) {
	s, err := parseGELI([]byte(encryptedMesh))
	if err != nil || !s.Boot || s.Under["vtbd0p5.eli"] != "AES-XTS 256" || s.Under["vtbd1p5.eli"] != "AES-XTS 128" || s.Under["vtbd0p5"] != "" ||
		!slices.Equal(s.Locked, []string{"vtbd2p5"}) || s.Serials["vtbd0p5.eli"] != "S1" || s.Serials["vtbd1p5.eli"] != "S2-x" || len(s.Serials) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	// Swap alone needs nothing at the start.
	if s, err := parseGELI([]byte(strings.Replace(encryptedMesh, "BOOT, ", "", 1))); err != nil || s.Boot {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := parseGELI([]byte("<mesh")); err == nil || !strings.HasPrefix(err.Error(), "decode kern.geom.confxml: ") {
		t.Error(err)
	}
	if s, err := AskEncryption(t.Context(), run.NewScript(t, run.Expect{Line: "sysctl -b kern.geom.confxml", Stdout: encryptedMesh})); err != nil || !s.Boot {
		t.Errorf("%+v, %v", s, err)
	}
}
