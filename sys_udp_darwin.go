package stepio

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// The syscalls of datagrams on macOS, through x/sys: it has no call for many
// datagrams, and one for each allocates the address.

// receiveFrom takes one datagram: at most len(p) of its bytes, and whether it
// was longer. The sender is not valid when the kernel does not say.
func (s *sys) receiveFrom(fd int, p []byte) (n int, from netip.AddrPort, truncated bool, errno syscall.Errno) {
	if s.sim != nil {
		return s.simulatedReceive(fd, p)
	}
	for {
		n, _, flags, sa, err := unix.Recvmsg(fd, p, nil, 0)
		switch err {
		case nil:
			return n, fromSockaddr(sa), flags&unix.MSG_TRUNC != 0, 0
		case unix.EINTR:
		default:
			return 0, netip.AddrPort{}, false, errnoOf(err)
		}
	}
}

// sendTo sends one datagram, to the connected peer when to is not valid.
func (s *sys) sendTo(fd int, p []byte, to netip.AddrPort) (errno syscall.Errno) {
	if s.sim != nil {
		return s.simulatedSend(fd, p, to)
	}
	var sa unix.Sockaddr // nil: the connected peer
	if to.IsValid() {
		if sa, errno = toSockaddr(to); errno != 0 {
			return errno
		}
	}
	for {
		if errno = errnoOf(unix.Sendto(fd, p, 0, sa)); errno != unix.EINTR {
			return errno
		}
	}
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
