package rawcall

import (
	"fmt"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

func TestCallReturnsACount(t *testing.T) {
	var fds [2]int
	require.NoError(t, unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	defer func() {
		require.NoError(t, unix.Close(fds[0]))
		require.NoError(t, unix.Close(fds[1]))
	}()
	out, in := []byte("some bytes"), make([]byte, 64)
	n, errno := Call(unix.SYS_WRITE, uintptr(fds[1]), uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)), 0, 0, 0)
	require.Zero(t, errno)
	require.Equal(t, len(out), n)
	n, errno = Call(unix.SYS_READ, uintptr(fds[0]), uintptr(unsafe.Pointer(&in[0])), uintptr(len(in)), 0, 0, 0)
	require.Zero(t, errno)
	require.Equal(t, out, in[:n])
}

// An errno comes with 0, where package syscall has -1.
func TestCallReturnsAnErrno(t *testing.T) {
	n, errno := Call(unix.SYS_READ, ^uintptr(0), 0, 0, 0, 0, 0)
	require.Equal(t, syscall.EBADF, errno)
	require.Zero(t, n)
}

// All that is behind the third, which other calls here do without, arrives too.
func TestCallPassesSixArguments(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	defer func() {
		require.NoError(t, unix.Close(pair[0]))
		require.NoError(t, unix.Close(pair[1]))
	}()
	name := fmt.Sprintf("@stepio-rawcall-%d", unix.Getpid()) // abstract: of no file
	require.NoError(t, unix.Bind(pair[0], &unix.SockaddrUnix{Name: name}))
	require.NoError(t, unix.Send(pair[0], []byte("twelve bytes"), 0))
	p, length := make([]byte, 4), uint32(unix.SizeofSockaddrUnix)
	var from unix.RawSockaddrUnix
	// MSG_TRUNC is the fourth: the result is the whole length. The kernel writes what
	// the fifth and the sixth point to.
	n, errno := Call(unix.SYS_RECVFROM, uintptr(pair[1]), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_TRUNC,
		uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&length)))
	require.Zero(t, errno)
	require.Equal(t, 12, n)
	require.Equal(t, "twel", string(p))
	sender := unsafe.String((*byte)(unsafe.Pointer(&from)), int(length))
	require.Equal(t, name[1:], sender[len(sender)-len(name)+1:])
}
