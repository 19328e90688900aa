package load

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/rawcall"
)

// The syscalls of a window. They are raw, those of a message by package rawcall and
// the others by package syscall: the Go scheduler is not told, so it neither takes
// the processor away nor has its monitor thread look for one that it could take. That
// is safe because no socket blocks, and because epoll waits a few milliseconds at most
// while no other goroutine has work.

func sysRecv(fd int32, p []byte) (int, syscall.Errno) {
	return rawcall.Call(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
}

func sysSend(fd int32, p []byte) (int, syscall.Errno) {
	return rawcall.Call(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
}

// sysWait is epoll_pwait without a signal mask. An interrupted wait has no events.
func sysWait(epfd int, events []unix.EpollEvent, milliseconds int) (int, error) {
	n, errno := rawcall.Call(unix.SYS_EPOLL_PWAIT, uintptr(epfd),
		uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(milliseconds), 0, 0)
	switch errno {
	case 0:
		return n, nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("epoll_pwait: %w", errno)
}

func sysControl(epfd, op int, fd int32, ev *unix.EpollEvent) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epfd), uintptr(op), uintptr(fd),
		uintptr(unsafe.Pointer(ev)), 0, 0)
	if errno != 0 {
		return fmt.Errorf("epoll_ctl: %w", errno)
	}
	return nil
}

// sysClose never waits: a stream's linger time is zero, so close(2) resets it.
func sysClose(fd int32) error {
	if _, _, errno := syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0); errno != 0 {
		return fmt.Errorf("close: %w", errno)
	}
	return nil
}

func sysOption(fd int32, level, name int, value unsafe.Pointer, size uintptr) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(value), size, 0)
	return errno
}

// A sockaddr is struct sockaddr_in.
type sockaddr struct {
	family uint16
	port   [2]byte // big-endian
	ip     [4]byte
	_      [8]byte
}

func toSockaddr(ip netip.Addr, port uint16) sockaddr {
	return sockaddr{family: unix.AF_INET, port: [2]byte{byte(port >> 8), byte(port)}, ip: ip.As4()}
}

// sysSocket opens a socket that is connected to addr, or that is about to be:
// connect(2) does not wait. A valid source is the local address.
func sysSocket(kind int, addr *sockaddr, source netip.Addr) (int32, error) {
	r, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_INET,
		uintptr(kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), 0)
	if errno != 0 {
		return -1, fmt.Errorf("socket: %w", errno)
	}
	fd := int32(r)
	if err := prepare(fd, kind, source); err != nil {
		return -1, withClose(err, fd)
	}
	if err := sysConnect(fd, addr); err != nil {
		return -1, withClose(err, fd)
	}
	return fd, nil
}

// sysConnect begins to connect. It does not wait.
func sysConnect(fd int32, addr *sockaddr) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(addr)), unsafe.Sizeof(*addr))
	if errno != 0 && errno != unix.EINPROGRESS {
		return fmt.Errorf("connect: %w", errno)
	}
	return nil
}

// sysDisconnect ends a TCP connection with a reset and leaves a socket that can
// be connected again, from another port: connect(2) on AF_UNSPEC.
func sysDisconnect(fd int32) error { return sysConnect(fd, &sockaddr{family: unix.AF_UNSPEC}) }

// prepare sets a socket's options and local address. Without
// IP_BIND_ADDRESS_NO_PORT, bind(2) would reserve the port for all destinations
// at once.
func prepare(fd int32, kind int, source netip.Addr) error {
	one := int32(1)
	if kind == unix.SOCK_STREAM {
		linger := unix.Linger{Onoff: 1, Linger: 0} // close sends RST and leaves no TIME_WAIT
		if errno := sysOption(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&linger), unsafe.Sizeof(linger)); errno != 0 {
			return fmt.Errorf("SO_LINGER: %w", errno)
		}
		if errno := sysOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, unsafe.Pointer(&one), unsafe.Sizeof(one)); errno != 0 {
			return fmt.Errorf("TCP_NODELAY: %w", errno)
		}
	}
	if !source.IsValid() {
		return nil
	}
	if errno := sysOption(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, unsafe.Pointer(&one), unsafe.Sizeof(one)); errno != 0 {
		return fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", errno)
	}
	local := toSockaddr(source, 0)
	if _, _, errno := syscall.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&local)), unsafe.Sizeof(local)); errno != 0 {
		return fmt.Errorf("bind to %v: %w", source, errno)
	}
	return nil
}

// withClose closes fd because of err.
func withClose(err error, fd int32) error {
	if e := sysClose(fd); e != nil {
		return fmt.Errorf("%w (and then %w)", err, e)
	}
	return err
}

// cpuTime is the CPU time of a process, user and system. The number of its
// clock is what clock_getcpuclockid(3) gives: the complement of the pid, and
// CPUCLOCK_SCHED (2) in the low bits. Pid 0 is the caller.
func cpuTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// ownFiles gives the calling thread a table of descriptors of its own, a copy of
// the process's. In each syscall on a descriptor the kernel counts a reference to
// the open file up and down, but where one thread alone has the table (fdget,
// fs/file.c): so a C program of one thread is spared that, and a Go program is not.
// Where a sandbox forbids unshare(2) the client goes on without, and is some
// per cent slower, with every server.
//
// The runtime's poller has to be there already, since all its threads share it: the
// first timer brings it.
func ownFiles() error {
	time.Sleep(time.Nanosecond)
	if err := unix.Unshare(unix.CLONE_FILES); err != nil && err != unix.EPERM && err != unix.ENOSYS {
		return fmt.Errorf("unshare(CLONE_FILES): %w", err)
	}
	return nil
}

// raiseFiles raises the limit of open descriptors as far as it goes.
func raiseFiles() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("getrlimit: %w", err)
	}
	lim.Cur = lim.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("setrlimit: %w", err)
	}
	return nil
}
