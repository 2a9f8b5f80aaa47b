// Package ipv4 reads netmasks as ifconfig(8) takes and prints them.
package ipv4

import (
	"errors"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// What MaskBits says of a text that is no mask, and of one that is no prefix's.
var (
	ErrSyntax = errors.New("is not a netmask")
	ErrHoles  = errors.New("has holes")
)

// MaskBits counts the ones of a netmask, "0xffffff00" or "255.255.255.0".
func MaskBits(s string) (int, error) {
	var mask uint32
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		v, err := strconv.ParseUint(hex, 16, 32)
		if err != nil {
			return 0, ErrSyntax
		}
		mask = uint32(v)
	} else {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is4() {
			return 0, ErrSyntax
		}
		for _, b := range a.As4() {
			mask = mask<<8 | uint32(b)
		}
	}
	ones := bits.LeadingZeros32(^mask)
	if mask<<ones != 0 {
		return 0, ErrHoles
	}
	return ones, nil
}
