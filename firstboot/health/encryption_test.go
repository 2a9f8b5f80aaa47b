package health

import (
	"testing"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/zfs"
)

func TestVerifyEncryption(t *testing.T) {
	st := &zfs.PoolStatus{Name: "zroot",
		Vdevs:  []zfs.Vdev{{Name: "mirror-0", Type: "mirror", Children: []zfs.Vdev{member("S1", "ONLINE", 0), member("S2", "ONLINE", 0)}}},
		Spares: []zfs.Vdev{member("S3", "UNAVAIL", 0)}}
	all := map[string]string{"gpt/zfs-S1": "AES-XTS 256", "gpt/zfs-S2": "AES-XTS 256"}
	for _, tt := range []struct {
		name   string
		geli   facts.Encryption
		wished bool
		want   []string
	}{
		{"not wanted", facts.Encryption{}, false, []string{"skipped encryption: it was not asked for"}},
		{"all", facts.Encryption{Boot: true, Under: all}, true, []string{"ok encryption: all devices, AES-XTS 256; the passphrase is asked for at the start"}},
		{"one in the clear", facts.Encryption{Boot: true, Under: map[string]string{"gpt/zfs-S1": "AES-XTS 256"}}, true, []string{
			"error encryption: gpt/zfs-S2: in the pool and not encrypted -> take it out of the pool and partition it again; docs/operations.md says how a disk of an encrypted pool is replaced"}},
		{"wanted, and nothing is", facts.Encryption{}, true, []string{
			"error encryption: gpt/zfs-S1, gpt/zfs-S2: in the pool and not encrypted -> take it out of the pool and partition it again; docs/operations.md says how a disk of an encrypted pool is replaced"}},
		{"not at the start", facts.Encryption{Under: all}, true, []string{
			"error encryption: no passphrase will be asked for at the start, and the pool not be found -> geli configure -b every disk's partition"}},
		{"one locked", facts.Encryption{Boot: true, Under: all, Locked: []string{"vtbd2p5"}}, true, []string{
			"ok encryption: all devices, AES-XTS 256; the passphrase is asked for at the start",
			"warning vtbd2p5: it was not opened at the start -> geli attach /dev/vtbd2p5, then: zpool online zroot /dev/vtbd2p5.eli"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &rows{}
			compareEncryption(r, st, tt.geli, tt.wished)
			wantRows(t, r.list, tt.want...)
		})
	}
}
