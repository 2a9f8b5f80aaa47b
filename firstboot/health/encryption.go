package health

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// encryption is what the kernel says of it, asked once.
func (v *verifier) encryption(ctx context.Context) (facts.Encryption, error) {
	if v.geli == nil {
		s, err := facts.AskEncryption(ctx, v.Run)
		if err != nil {
			return s, err
		}
		v.geli = &s
	}
	return *v.geli, nil
}

// sealed is the serial in the labels of the disk that an encrypted member is on. One
// that is missing goes by the name it had, which another may have by now.
func (v *verifier) sealed(name string, up bool) (serial string, ok bool) {
	if !strings.HasSuffix(name, ".eli") || v.geli == nil {
		return "", false
	}
	if !up {
		return name, true
	}
	serial, ok = v.geli.Serials[name]
	return serial, ok
}

// checkEncryption compares the pool's devices with what was answered.
func (v *verifier) checkEncryption(ctx context.Context, r *rows) {
	geli, err := v.encryption(ctx)
	if err != nil {
		r.fail("encryption", err)
		return
	}
	_, wished := v.res.Answers[answers.KeyPassphrase]
	compareEncryption(r, v.status, geli, wished)
}

// compareEncryption adds a row for all devices of the pool that are there, and
// one for each that could be and is not open.
func compareEncryption(r *rows, st *zfs.PoolStatus, geli facts.Encryption, wished bool) {
	var ciphers, plain []string
	seen := map[string]bool{} // a spare in use is there twice
	var leaves func([]zfs.Vdev)
	leaves = func(list []zfs.Vdev) {
		for _, d := range list {
			leaves(d.Children)
			name := deviceName(d)
			if len(d.Children) > 0 || seen[name] || !slices.Contains([]string{"ONLINE", "AVAIL", "INUSE"}, d.State) {
				continue
			}
			seen[name] = true
			if how := geli.Under[name]; how == "" {
				plain = append(plain, name)
			} else if !slices.Contains(ciphers, how) {
				ciphers = append(ciphers, how)
			}
		}
	}
	leaves(slices.Concat(st.Vdevs, st.Spares))
	switch {
	case !wished && len(ciphers) == 0:
		r.skip("encryption", "it was not asked for")
	case len(plain) > 0:
		r.add("encryption", Failed, strings.Join(plain, ", ")+": in the pool and not encrypted",
			"take it out of the pool and partition it again; docs/operations.md says how a disk of an encrypted pool is replaced")
	case !geli.Boot:
		r.add("encryption", Failed, "no passphrase will be asked for at the start, and the pool not be found", "geli configure -b every disk's partition")
	default:
		r.ok("encryption", "all devices, %s; the passphrase is asked for at the start", strings.Join(ciphers, ", "))
	}
	for _, name := range geli.Locked {
		r.add(name, Warning, "it was not opened at the start", fmt.Sprintf("geli attach /dev/%s, then: zpool online %s /dev/%[1]s.eli", name, st.Name))
	}
}
