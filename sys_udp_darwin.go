package stepio

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// The syscalls of datagrams on macOS, through x/sys: it has no call for many
// datagrams, and one for each allocates the address.

func rawReceiveFrom(fd int, p []byte, from *netip.AddrPort) (n int, truncated bool, errno syscall.Errno) {
	n, _, flags, sa, err := unix.Recvmsg(fd, p, nil, 0)
	if err != nil {
		return 0, false, errnoOf(err)
	}
	*from = fromSockaddr(sa)
	return n, flags&unix.MSG_TRUNC != 0, 0
}

func rawSendTo(fd int, p []byte, to netip.AddrPort) syscall.Errno {
	var sa unix.Sockaddr // nil: the connected peer
	if to.IsValid() {
		var errno syscall.Errno
		if sa, errno = toSockaddr(to); errno != 0 {
			return errno
		}
	}
	return errnoOf(unix.Sendto(fd, p, 0, sa))
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
