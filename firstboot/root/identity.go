package root

import (
	"crypto/md5"
	"encoding/hex"
	"strings"
)

// Identity is what makes this server differ from every other made of the same
// image. It is made on the target, before the pool.
type Identity struct {
	HostUUID string // "9b2e…-…"
	// Passwords holds generated passwords by the key of their question. They are
	// shown on the console once and are in no log.
	Passwords map[string]string
}

// HostID is kern.hostid as rc.d/hostid derives it: the first four bytes of the
// MD5 of the host UUID.
func (id Identity) HostID() string {
	sum := md5.Sum([]byte(id.HostUUID)) //nolint:gosec
	return "0x" + hex.EncodeToString(sum[:4])
}

// MachineID is /etc/machine-id: the host UUID without dashes.
func (id Identity) MachineID() string { return strings.ReplaceAll(id.HostUUID, "-", "") }
