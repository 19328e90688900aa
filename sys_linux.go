package stepio

import (
	"math"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/rawcall"
)

// The syscalls of Linux that are not hot, and epoll's. Those that move data are
// in sys_linux_fast.go, and for the race detector in sys_linux_race.go.

func rawSocket(family, kind int) (int, syscall.Errno) {
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, errnoOf(err)
}

// rawAccept is accept4(2), which does not block on a non-blocking socket: the
// Go scheduler need not be told.
func rawAccept(fd int) (int, syscall.Errno) {
	return rawcall.Call(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
}

// inheritsNoDelay says whether an accepted connection has its listener's
// TCP_NODELAY. On Linux the new socket is a copy of the listening one.
const inheritsNoDelay = true

// errnoNoNet is what accept(2) may pass on from a network that macOS has no
// word for.
const errnoNoNet = unix.ENONET

// rawRefuseNew attaches a filter (socket(7), SO_ATTACH_FILTER) that drops a SYN
// and lets all else pass, such as the end of a handshake. It sees a packet from
// the TCP header on: byte 13 has the flags. Where a filter may not be attached,
// new connections are taken until the socket is closed.
func rawRefuseNew(fd int) {
	const syn = 0x02
	filter := [...]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: math.MaxUint32},
	}
	_ = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, // best effort, as said
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// openPipe opens a pipe that does not block and does not survive exec.
func openPipe() (near, far int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return -1, -1, os.NewSyscallError("pipe2", err)
	}
	return ends[0], ends[1], nil
}

func rawClose(fd int) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return errno
}

func rawLocalAddr(fd int) (netip.AddrPort, syscall.Errno) { return rawAddr(unix.SYS_GETSOCKNAME, fd) }

func rawRemoteAddr(fd int) (netip.AddrPort, syscall.Errno) { return rawAddr(unix.SYS_GETPEERNAME, fd) }

// rawAddr is getsockname(2) or getpeername(2). Those of x/sys make a getsockopt
// more, to tell Bluetooth's protocols apart.
func rawAddr(trap uintptr, fd int) (netip.AddrPort, syscall.Errno) {
	var sa sockaddr
	length := uint32(len(sa))
	_, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&length)))
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	return sa.addrPort()
}

// epollWait waits for events, timeout in milliseconds. A wait that can't block
// is a raw syscall. Others tell the Go scheduler, which may give the processor to
// other goroutines meanwhile: docs/internals.md has the figures.
func epollWait(epfd int, events []unix.EpollEvent, timeout int) (int, syscall.Errno) {
	if timeout == 0 {
		return rawcall.Call(unix.SYS_EPOLL_PWAIT, uintptr(epfd),
			uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(timeout), 0, 0)
	}
	n, err := unix.EpollWait(epfd, events, timeout)
	return n, errnoOf(err)
}
