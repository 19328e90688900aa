package hostile

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Raw sockets: those of the roles that must not depend on what they measure.

// dial is a connected TCP socket that blocks. The buffers are set before it
// connects; 0 leaves them as they are.
func dial(addr netip.AddrPort, sendBuffer, receiveBuffer int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for option, value := range map[int]int{unix.SO_SNDBUF: sendBuffer, unix.SO_RCVBUF: receiveBuffer} {
		if value != 0 && err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, value)
		}
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = retry(func() error { return unix.Connect(fd, sockaddr(addr)) })
	}
	if err != nil {
		return -1, fmt.Errorf("dial %v: %w", addr, closeAfter(fd, err))
	}
	return fd, nil
}

// bindUDP is an unconnected UDP socket on a free port of the loopback interface.
func bindUDP() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, sockaddr(loopback)); err != nil {
		return -1, closeAfter(fd, os.NewSyscallError("bind", err))
	}
	return fd, nil
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// closeAfter closes fd, of which err is the first error, the one to return.
func closeAfter(fd int, err error) error {
	_ = unix.Close(fd)
	return err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// localAddr is the address that fd is bound to.
func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	in := sa.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)), nil
}

// reset closes fd with a reset.
func reset(fd int) error {
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return closeAfter(fd, os.NewSyscallError("setsockopt", err))
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// retry calls f again as long as a signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// awaitFDs waits until one of fds is ready, or for limit.
func awaitFDs(fds []unix.PollFd, limit time.Duration) (n int, err error) {
	err = retry(func() (err error) {
		n, err = unix.Poll(fds, int(limit/time.Millisecond))
		return err
	})
	return n, os.NewSyscallError("poll", err)
}

// openFDs is how many descriptors this process has, but the one for looking.
func openFDs() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries) - 1
}

// epolls are the process's epoll descriptors.
func epolls() map[int]bool {
	found := map[int]bool{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return found
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || target != "anon_inode:[eventpoll]" {
			continue
		}
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil {
			found[fd] = true
		}
	}
	return found
}

// startRuntimePoller has the Go runtime open what its poller keeps for the life of
// the process, before descriptors are counted.
func startRuntimePoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	return errors.Join(r.Close(), w.Close())
}

// newEpoll is the epoll descriptor that f has opened.
func newEpoll(f func()) int {
	before := epolls()
	f()
	for fd := range epolls() {
		if !before[fd] {
			return fd
		}
	}
	return -1
}

// registrations is how many descriptors an epoll descriptor watches (proc(5),
// fdinfo).
func registrations(epoll int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", epoll))
	if err != nil {
		return -1
	}
	return strings.Count("\n"+string(text), "\ntfd:")
}
