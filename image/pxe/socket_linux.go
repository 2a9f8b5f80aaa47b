package pxe

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// bind confines a socket to an interface.
func bind(fd int, iface *net.Interface) error {
	return unix.BindToDevice(fd, iface.Name)
}

// cameBy is always so: the kernel sees to it.
func cameBy([]byte, *net.Interface) bool { return true }

// everyone is the address of broadcasts.
func everyone(netip.Prefix) netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }
