//go:build linux || darwin

package stepio

import (
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Addresses. An endpoint is a netip.AddrPort, IPv4 or IPv6; this file turns it
// into what the kernel takes and back.
//
// A zone, of a link-local IPv6 address, is an interface's name or number on the
// way in, and its number on the way out.

// toSockaddr is addr as x/sys takes it. An IPv4-mapped address is an address of
// an IPv6 socket.
func toSockaddr(addr netip.AddrPort) (unix.Sockaddr, syscall.Errno) {
	ip := addr.Addr()
	switch {
	case ip.Is4():
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}, 0
	case ip.Is6():
		scope, errno := scopeOf(ip)
		return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: ip.As16(), ZoneId: scope}, errno
	default:
		return nil, syscall.EINVAL
	}
}

// inet6 is the address of an IPv6 socket. An IPv4-mapped one is the IPv4
// address that it stands for.
func inet6(ip [16]byte, scope uint32) netip.Addr {
	a := netip.AddrFrom16(ip)
	if a.Is4In6() {
		return a.Unmap()
	}
	if scope != 0 {
		a = a.WithZone(strconv.FormatUint(uint64(scope), 10))
	}
	return a
}

func scopeOf(ip netip.Addr) (uint32, syscall.Errno) {
	zone := ip.Zone()
	if zone == "" {
		return 0, 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), 0
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, syscall.ENODEV
	}
	return uint32(ifi.Index), 0
}

// mapped is addr as a socket of the given family takes it: an IPv6 socket takes
// an IPv4 address in its mapped form.
func mapped(family int, addr netip.AddrPort) netip.AddrPort {
	if family == unix.AF_INET6 && addr.Addr().Is4() {
		return netip.AddrPortFrom(netip.AddrFrom16(addr.Addr().As16()), addr.Port())
	}
	return addr
}

// unmapped is addr with an IPv4-mapped address made IPv4.
func unmapped(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}

func familyOf(addr netip.AddrPort) int {
	if addr.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
