package stepio

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// The syscalls of datagrams on macOS, through x/sys: it has no call for many
// datagrams, and one for each allocates the address.

// rawName is the other end of a datagram.
type rawName struct{ sa unix.Sockaddr }

// roomForName is a name for rawReceive to write.
func roomForName() rawName { return rawName{} }

// rawReceive takes one datagram. n is more than len(p) when it was longer than that.
func rawReceive(fd int, p []byte, from *rawName) (n int, errno syscall.Errno) {
	n, _, flags, sa, err := unix.Recvmsg(fd, p, nil, 0)
	if err != nil {
		return 0, errnoOf(err)
	}
	from.sa = sa
	if flags&unix.MSG_TRUNC != 0 {
		n = len(p) + 1
	}
	return n, 0
}

// is4 reports whether the sender is an IPv4 address, v4.
func (from *rawName) is4() bool { return from.sender().Addr().Is4() }

// v4 is sender where is4 says yes.
func (from *rawName) v4() netip.AddrPort { return from.sender() }

// sender is not valid when the kernel has not told it.
func (from *rawName) sender() netip.AddrPort { return fromSockaddr(from.sa) }

// sawWrite does nothing: on macOS the race detector is not told of datagrams, for
// x/sys does not tell it either.
func sawWrite([]byte) {}

// rawSend sends one datagram to an address.
func rawSend(fd int, p []byte, to *rawName) syscall.Errno {
	return errnoOf(unix.Sendto(fd, p, 0, to.sa))
}

// rawSendToPeer sends one datagram from a connected socket.
func rawSendToPeer(fd int, p []byte) syscall.Errno {
	return errnoOf(unix.Sendto(fd, p, 0, nil))
}

// set4 makes it the name of an IPv4 address.
func (to *rawName) set4(ip [4]byte, port uint16) {
	to.sa = &unix.SockaddrInet4{Port: int(port), Addr: ip}
}

// isSet reports whether it is the name of an address.
func (to *rawName) isSet() bool { return to.sa != nil }

// set makes it the name of addr.
func (to *rawName) set(addr netip.AddrPort) (errno syscall.Errno) {
	to.sa, errno = toSockaddr(addr)
	return errno
}

// batchBuffers are what a loop keeps for batches: nothing.
type batchBuffers struct{}

func newBatchBuffers() *batchBuffers { return new(batchBuffers) }

func (*batchBuffers) receive(fd int, ds []Datagram) (n int, errno syscall.Errno) {
	return receiveEach(&sys{}, fd, ds)
}

func (*batchBuffers) send(fd int, ds []Datagram, family int) (n int, errno syscall.Errno) {
	return sendEach(&sys{}, fd, ds, family)
}
