// Fakeqemu is, to package vm, a QEMU in which a server of the default site installs
// itself and runs. It speaks QMP, prints what a console would say, and has a
// TCP/IP stack behind a firewall at its cables.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/internal/vm/lan"
)

func main() {
	argv := strings.Join(os.Args, " ")
	qmp := file(match(argv, `id=qmp,fd=(\d+)`))
	console := file(match(argv, `id=serial0,fd=(\d+)`))
	fmt.Fprintln(qmp, `{"QMP": {}}`)
	in := bufio.NewScanner(qmp)
	for in.Scan() && !strings.Contains(in.Text(), "qmp_capabilities") {
	}
	fmt.Fprintln(qmp, `{"return": {}, "id": 1}`)
	disk := match(argv, `file=(\S*disk1\.img)`)
	if strings.Contains(argv, "stick.img") {
		fmt.Fprint(console, "rig: step 1/2 tables: tables on all disks\r\nrig: step 2/2 switch: flip the switches\r\n"+
			"rig: webrig-15.1-000000000000 is installed; every disk boots it\r\n")
		sector := make([]byte, 512)
		sector[510], sector[511] = 0x55, 0xaa
		if err := os.WriteFile(disk, sector, 0o600); err != nil {
			panic(err)
		}
		fmt.Fprintln(qmp, `{"event": "SHUTDOWN", "data": {"reason": "guest-reset"}}`)
		return
	}
	a := strings.Contains(argv, "mac=52:54:00:72:69:a1")
	last := byte(0)
	if !a {
		last = 1
	}
	var cables []*os.File
	for _, m := range regexp.MustCompile(`socket,id=net\d,fd=(\d+)`).FindAllStringSubmatch(argv, -1) {
		cables = append(cables, file(m[1]))
	}
	public := lan.New(1)
	h := host(public, 0x10+last, netip.AddrFrom4([4]byte{10, 0, 0, 110 + last}))
	l, err := h.Listen(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 110 + last}), 443))
	if err != nil {
		panic(err)
	}
	go greet(l, match(argv, `-name (\S+)`))
	admins := netip.MustParsePrefix("203.0.113.0/24")
	go bridge(public, cables[0], func(p lan.Packet) bool {
		switch p.DstPort {
		case 443, 80:
			return p.Src != netip.MustParseAddr("172.16.99.1")
		case 22, 2220, 2230, 2240:
			return admins.Contains(p.Src)
		}
		return false
	})
	private := lan.New(1)
	for i, n := range []byte{110, 30, 40} {
		host(private, byte(0x20+2*i)+last, netip.AddrFrom4([4]byte{192, 168, 56, n + last}))
	}
	go bridge(private, cables[1], func(lan.Packet) bool { return false })
	fmt.Fprint(console, "\r\nFreeBSD/amd64 (ttyu0)\r\n\r\nlogin: ")
	select {}
}

func match(s, re string) string {
	m := regexp.MustCompile(re).FindStringSubmatch(s)
	if m == nil {
		panic(re + " is not in " + s)
	}
	return m[1]
}

func file(fd string) *os.File {
	n, err := strconv.Atoi(fd)
	if err != nil {
		panic(err)
	}
	return os.NewFile(uintptr(n), fd)
}

func host(sw *lan.Switch, mac byte, a netip.Addr) *lan.Host {
	h, err := lan.NewHost(sw, a.String(), net.HardwareAddr{2, 0, 0, 0, 0, mac}, a)
	if err != nil {
		panic(err)
	}
	return h
}

// greet says who it is to everybody who connects.
func greet(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(c, "this is", name)
		c.Close()
	}
}

// bridge connects a switch with a cable, through a firewall for what comes in.
func bridge(sw *lan.Switch, cable *os.File, pass func(lan.Packet) bool) {
	port := sw.Attach("cable")
	conn, err := net.FileConn(cable)
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			frame, err := port.Recv(context.Background())
			if err != nil {
				return
			}
			conn.Write(frame)
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if p, err := lan.ParsePacket(buf[:n]); err != nil || pass(p) {
			port.Send(buf[:n])
		}
	}
}
