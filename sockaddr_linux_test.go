package stepio

import (
	"net/netip"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSockaddrIsTheKernels(t *testing.T) {
	for _, text := range []string{"127.0.0.1:0", "[::1]:0"} {
		addr := netip.MustParseAddrPort(text)
		fd, err := unix.Socket(familyOf(addr), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		defer func() { assert.NoError(t, unix.Close(fd)) }()

		var sa unix.RawSockaddrAny
		length, err := AddrPortToSockaddr(&sa, addr)
		require.NoError(t, err)
		_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(length))
		require.Zero(t, errno)

		sa = unix.RawSockaddrAny{}
		length = uint32(unix.SizeofSockaddrAny)
		_, _, errno = unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&length)))
		require.Zero(t, errno)
		got, err := AddrPortFromSockaddr(&sa)
		require.NoError(t, err)
		bound, errno := rawLocalAddr(fd)
		require.Zero(t, errno)
		assert.Equal(t, bound, got)
		assert.Equal(t, addr.Addr(), got.Addr())
		assert.NotZero(t, got.Port())
	}
}
