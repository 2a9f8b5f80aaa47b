//go:build !freebsd

package arp

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

func who(context.Context, string, netip.Addr, netip.Addr) (net.HardwareAddr, error) {
	return nil, errors.ErrUnsupported
}
