//go:build linux || darwin

package stepio

import (
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSockaddrRoundTrip(t *testing.T) {
	for name, c := range map[string]struct {
		in, out string
		length  uint32
	}{
		"IPv4 comes back as it was":                    {"192.0.2.7:8080", "192.0.2.7:8080", unix.SizeofSockaddrInet4},
		"port 0 is a port":                             {"192.0.2.7:0", "192.0.2.7:0", unix.SizeofSockaddrInet4},
		"the highest port keeps its two bytes":         {"0.0.0.0:65535", "0.0.0.0:65535", unix.SizeofSockaddrInet4},
		"IPv6 comes back as it was":                    {"[2001:db8::1]:443", "[2001:db8::1]:443", unix.SizeofSockaddrInet6},
		"the IPv6 wildcard comes back as it was":       {"[::]:53", "[::]:53", unix.SizeofSockaddrInet6},
		"a zone by number comes back as it was":        {"[fe80::1%7]:443", "[fe80::1%7]:443", unix.SizeofSockaddrInet6},
		"a mapped address goes in as IPv6, out as v4":  {"[::ffff:192.0.2.7]:80", "192.0.2.7:80", unix.SizeofSockaddrInet6},
		"a zone above 16 bits keeps all of its number": {"[fe80::1%70000]:443", "[fe80::1%70000]:443", unix.SizeofSockaddrInet6},
	} {
		t.Run(name, func(t *testing.T) {
			var sa unix.RawSockaddrAny
			raw := (*sockaddr)(unsafe.Pointer(&sa))
			for i := range raw {
				raw[i] = 0x55
			}
			length, err := AddrPortToSockaddr(&sa, netip.MustParseAddrPort(c.in))
			require.NoError(t, err)
			assert.Equal(t, c.length, length)
			var clean sockaddr
			_, errno := clean.put(netip.MustParseAddrPort(c.in))
			require.Zero(t, errno)
			assert.Equal(t, clean[:length], raw[:length], "what was there before does not show")
			out, err := AddrPortFromSockaddr(&sa)
			require.NoError(t, err)
			assert.Equal(t, netip.MustParseAddrPort(c.out), out)
		})
	}
}

func TestSockaddrZoneByName(t *testing.T) {
	interfaces, err := net.Interfaces()
	require.NoError(t, err)
	require.NotEmpty(t, interfaces)
	var sa unix.RawSockaddrAny
	addr := netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(interfaces[0].Name), 9)
	_, err = AddrPortToSockaddr(&sa, addr)
	require.NoError(t, err)
	got, err := AddrPortFromSockaddr(&sa)
	require.NoError(t, err)
	assert.Equal(t, strconv.Itoa(interfaces[0].Index), got.Addr().Zone())
}

func TestSockaddrErrors(t *testing.T) {
	var sa unix.RawSockaddrAny
	_, err := AddrPortToSockaddr(&sa, netip.AddrPort{})
	assert.ErrorIs(t, err, syscall.EINVAL, "an address that is not valid")
	_, err = AddrPortToSockaddr(&sa, netip.MustParseAddrPort("[fe80::1%no-such-interface]:1"))
	assert.ErrorIs(t, err, syscall.ENODEV, "a zone that names no interface")
	for _, family := range []int{unix.AF_UNSPEC, unix.AF_UNIX, 77} {
		(*sockaddr)(unsafe.Pointer(&sa)).setFamily(family, 16)
		got, err := AddrPortFromSockaddr(&sa)
		assert.ErrorIs(t, err, syscall.EAFNOSUPPORT, "family %d", family)
		assert.False(t, got.IsValid())
	}
}
