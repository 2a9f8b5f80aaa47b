package vdisk

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

var uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// ParseUUID returns the bytes of a UUID in the order they are written; the nil
// UUID is refused.
func ParseUUID(s string) (id [16]byte, err error) {
	if !uuidForm.MatchString(s) {
		return id, fmt.Errorf("%q is not a UUID", s)
	}
	hex.Decode(id[:], []byte(strings.ReplaceAll(s, "-", ""))) // matched above
	if id == [16]byte{} {
		return id, fmt.Errorf("%q is the nil UUID", s)
	}
	return id, nil
}
