package stepio

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// The syscalls of macOS that differ from those of Linux: no call opens a socket
// that is non-blocking and close-on-exec at once, SIGPIPE is turned off on the
// socket and not in the call, and every call goes through libSystem, which tells
// the Go scheduler.

// maxTransfer is how much one read or write is asked for at most: more than
// INT_MAX is EINVAL on macOS (read(2), write(2)).
const maxTransfer = 1 << 30

// inheritsNoDelay says whether an accepted connection has its listener's
// TCP_NODELAY. Nothing documents that here (xnu's tcp_create_server copies it
// today), so it is set.
const inheritsNoDelay = false

// rawSocket opens a socket. The lock keeps a fork from happening before it is
// marked (syscall.ForkLock).
func rawSocket(family, kind int) (int, syscall.Errno) {
	syscall.ForkLock.RLock()
	fd, err := unix.Socket(family, kind, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, errnoOf(err)
	}
	err = unix.SetNonblock(fd, true)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NOSIGPIPE, 1)
	}
	if err != nil {
		_ = unix.Close(fd) // the first error is the one to return
		return -1, errnoOf(err)
	}
	return fd, 0
}

// rawAccept takes a connection. The lock is held across the accept, which does
// not block on a listener of this package.
//
// x/sys answers ECONNABORTED for a connection without an address: one that the
// peer has reset and that macOS hands out all the same. What else such a
// connection refuses must not reach the listener either: SO_NOSIGPIPE is EINVAL
// on a socket whose both directions are over (sosetopt, uipc_socket.c), and its
// first read will tell. The option is inherited from the listener anyway
// (sonewconn, uipc_socket2.c), and the Go runtime ignores the signal.
func rawAccept(fd int) (int, syscall.Errno) {
	syscall.ForkLock.RLock()
	accepted, _, err := unix.Accept(fd)
	if err == nil {
		unix.CloseOnExec(accepted)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, errnoOf(err)
	}
	if err := unix.SetNonblock(accepted, true); err != nil {
		_ = unix.Close(accepted)        // it would block the loop
		return -1, syscall.ECONNABORTED // this connection's error, not the listener's
	}
	_ = unix.SetsockoptInt(accepted, unix.SOL_SOCKET, unix.SO_NOSIGPIPE, 1)
	return accepted, 0
}

// errnoNoNet is ENONET on Linux; here it is one of its like.
const errnoNoNet = unix.ENETDOWN

// rawRefuseNew does nothing: there is no filter to attach to a socket.
func rawRefuseNew(int) {}

func rawClose(fd int) syscall.Errno { return errnoOf(unix.Close(fd)) }

func rawRead(fd int, p []byte) (int, syscall.Errno) {
	n, err := unix.Read(fd, p[:min(len(p), maxTransfer)])
	return max(n, 0), errnoOf(err)
}

// rawWrite sends. EPROTOTYPE is no error of write(2): macOS answers it on a
// connection that the peer is resetting at this moment, sometimes for good
// (https://go.dev/issue/51538, https://github.com/libuv/libuv/pull/3413), so it
// is not tried again.
func rawWrite(fd int, p []byte) (int, syscall.Errno) {
	n, err := unix.Write(fd, p[:min(len(p), maxTransfer)])
	if err == unix.EPROTOTYPE {
		err = unix.ECONNRESET
	}
	return max(n, 0), errnoOf(err)
}

func rawLocalAddr(fd int) (netip.AddrPort, syscall.Errno) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, errnoOf(err)
	}
	return fromSockaddr(sa), 0
}

func rawRemoteAddr(fd int) (netip.AddrPort, syscall.Errno) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, errnoOf(err)
	}
	return fromSockaddr(sa), 0
}

func fromSockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(inet6(sa.Addr, sa.ZoneId), uint16(sa.Port))
	default:
		return netip.AddrPort{}
	}
}
