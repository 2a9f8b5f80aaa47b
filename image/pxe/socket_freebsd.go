package pxe

import (
	"errors"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bind makes the kernel say by which interface packets came, and turn broadcasts
// to the interface's network, by which it finds the interface, into those to
// 255.255.255.255 (ip(4), IP_ONESBCAST).
func bind(fd int, _ *net.Interface) error {
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVIF, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_ONESBCAST, 1))
}

// cameBy reads IP_RECVIF's struct sockaddr_dl.
func cameBy(oob []byte, iface *net.Interface) bool {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range list {
		var dl unix.RawSockaddrDatalink
		const head = unsafe.Offsetof(dl.Index) + unsafe.Sizeof(dl.Index)
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVIF && len(m.Data) >= int(head) {
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&dl)), head), m.Data)
			return int(dl.Index) == iface.Index
		}
	}
	return false
}

// everyone is the address of broadcasts.
func everyone(p netip.Prefix) netip.Addr {
	_, high := hosts(p)
	return addrOf(high + 1)
}
