//go:build linux || darwin

package stepio

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr is a raw socket address of either family, as the kernel reads and
// writes it: a sockaddr_in6, the longer of the two, or a sockaddr_in. It is kept
// as bytes, because both families then are slices of it on every system:
//
//	sockaddr_in:  family 0:2, port 2:4, address 4:8, zeros 8:16
//	sockaddr_in6: family 0:2, port 2:4, flow 4:8, address 8:24, scope 24:28
//
// Port and flow are in network order, the scope is in the machine's. On macOS
// the first byte of the family is the length.
type sockaddr [unix.SizeofSockaddrInet6]byte

// put makes sa the raw form of addr and returns its length, in bytes. Errno is
// EINVAL for an address that is not valid, and ENODEV for a zone that is the
// name of no interface.
func (sa *sockaddr) put(addr netip.AddrPort) (length uint32, errno syscall.Errno) {
	ip := addr.Addr()
	switch {
	case ip.Is4():
		clear(sa[8:16])
		return sa.put4(ip.As4(), addr.Port()), 0
	case ip.Is6():
		scope, errno := scopeOf(ip)
		if errno != 0 {
			return 0, errno
		}
		sa.setFamily(unix.AF_INET6, unix.SizeofSockaddrInet6)
		clear(sa[4:8])
		as16 := ip.As16()
		copy(sa[8:24], as16[:])
		binary.NativeEndian.PutUint32(sa[24:28], scope)
		length = unix.SizeofSockaddrInet6
	default:
		return 0, syscall.EINVAL
	}
	binary.BigEndian.PutUint16(sa[2:4], addr.Port())
	return length, 0
}

// put4 is put of an IPv4 address. The zeros of a sockaddr_in are the caller's.
func (sa *sockaddr) put4(ip [4]byte, port uint16) (length uint32) {
	sa.setFamily(unix.AF_INET, unix.SizeofSockaddrInet4)
	binary.BigEndian.PutUint16(sa[2:4], port)
	*(*[4]byte)(sa[4:8]) = ip
	return unix.SizeofSockaddrInet4
}

// addrPort is the address that sa is the raw form of. Errno is EAFNOSUPPORT for
// a family that is neither IPv4 nor IPv6.
func (sa *sockaddr) addrPort() (netip.AddrPort, syscall.Errno) {
	switch sa.family() {
	case unix.AF_INET:
		return sa.v4(), 0
	case unix.AF_INET6:
		port := binary.BigEndian.Uint16(sa[2:4])
		scope := binary.NativeEndian.Uint32(sa[24:28])
		return netip.AddrPortFrom(inet6([16]byte(sa[8:24]), scope), port), 0
	default:
		return netip.AddrPort{}, syscall.EAFNOSUPPORT
	}
}

// v4 is the address that sa, of AF_INET, is the raw form of.
func (sa *sockaddr) v4() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa[4:8])), binary.BigEndian.Uint16(sa[2:4]))
}

// AddrPortToSockaddr writes addr to sa as the kernel takes it, and returns how
// many bytes of sa that fills: for syscalls that this package does not make. An
// IPv4-mapped IPv6 address stays one, as sockets of that family want it. A zone
// is an interface's name or number.
//
// The error is one of: nil; syscall.EINVAL for an address that is not valid;
// syscall.ENODEV for a zone that names no interface. Any goroutine.
func AddrPortToSockaddr(sa *unix.RawSockaddrAny, addr netip.AddrPort) (length uint32, err error) {
	length, errno := (*sockaddr)(unsafe.Pointer(sa)).put(addr)
	if errno != 0 {
		return 0, errno
	}
	return length, nil
}

// AddrPortFromSockaddr is the address in sa, which a syscall has filled. An
// IPv4-mapped address is returned as the IPv4 address that it stands for; the
// scope of a link-local one becomes its zone, as a number.
//
// The error is one of: nil; syscall.EAFNOSUPPORT for a family that is neither
// IPv4 nor IPv6. Any goroutine.
func AddrPortFromSockaddr(sa *unix.RawSockaddrAny) (netip.AddrPort, error) {
	addr, errno := (*sockaddr)(unsafe.Pointer(sa)).addrPort()
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	return addr, nil
}
