package arp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arpOnly is the bpf program that passes ARP frames; net/bpf.h.
var arpOnly = [...]unix.BpfInsn{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: etherARP},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

func who(ctx context.Context, ifname string, from, target netip.Addr) (net.HardwareAddr, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("ask on %s for %s: %w", ifname, target, err)
	}
	f, buf, err := open(ifname)
	if err != nil {
		return nil, fmt.Errorf("ask on %s for %s: %w", ifname, target, err)
	}
	defer f.Close()
	question := request(ifi.HardwareAddr, from, target)
	for {
		if _, err := f.Write(question); err != nil && !errors.Is(err, unix.ENETDOWN) {
			return nil, fmt.Errorf("ask on %s for %s: %w", ifname, target, err)
		}
		for next := time.Now().Add(interval); time.Now().Before(next); {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("ask on %s for %s: %w", ifname, target, err)
			}
			n, err := f.Read(buf) // at most a tenth of a second: BIOCSRTIMEOUT
			if err != nil && n <= 0 && !quiet(err) {
				return nil, fmt.Errorf("ask on %s for %s: %w", ifname, target, err)
			}
			for _, frame := range frames(buf[:max(n, 0)]) {
				if mac, ok := answer(frame, target); ok {
					return mac, nil
				}
			}
		}
	}
}

// quiet reports a read that only says that nothing came.
func quiet(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF)
}

// open is a descriptor for ARP frames of an interface, and a buffer of the size
// its reads must have.
func open(ifname string) (*os.File, []byte, error) {
	fd, err := unix.Open("/dev/bpf", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/bpf", Err: err}
	}
	var name [32]byte // struct ifreq
	copy(name[:15], ifname)
	size, immediate := uint32(0), uint32(1)
	wait := unix.Timeval{Usec: 100_000}
	program := unix.BpfProgram{Len: uint32(len(arpOnly)), Insns: &arpOnly[0]}
	for _, c := range []struct {
		what string
		req  uint
		arg  unsafe.Pointer
	}{
		{"BIOCGBLEN", unix.BIOCGBLEN, unsafe.Pointer(&size)},
		{"BIOCSETIF", unix.BIOCSETIF, unsafe.Pointer(&name)},
		{"BIOCSETF", unix.BIOCSETF, unsafe.Pointer(&program)},
		{"BIOCIMMEDIATE", unix.BIOCIMMEDIATE, unsafe.Pointer(&immediate)},
		{"BIOCSRTIMEOUT", unix.BIOCSRTIMEOUT, unsafe.Pointer(&wait)},
		{"BIOCSHDRCMPLT", unix.BIOCSHDRCMPLT, unsafe.Pointer(&immediate)},
	} {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(c.req), uintptr(c.arg)); errno != 0 {
			unix.Close(fd)
			return nil, nil, fmt.Errorf("%s %s: %w", c.what, ifname, errno)
		}
	}
	return os.NewFile(uintptr(fd), "/dev/bpf"), make([]byte, size), nil
}

// frames takes apart what one read of bpf(4) returns.
func frames(b []byte) [][]byte {
	var out [][]byte
	for len(b) >= unix.SizeofBpfHdr {
		h := (*unix.BpfHdr)(unsafe.Pointer(&b[0]))
		end := int(h.Hdrlen) + int(h.Caplen)
		if end > len(b) {
			break
		}
		out = append(out, b[h.Hdrlen:end])
		const align = 8 // BPF_ALIGNMENT = sizeof(long)
		next := (end + align - 1) &^ (align - 1)
		b = b[min(next, len(b)):]
	}
	return out
}
