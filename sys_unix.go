//go:build linux || darwin

package stepio

import (
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The syscalls that Linux and macOS share.

func rawBind(fd int, addr netip.AddrPort) syscall.Errno {
	sa, errno := toSockaddr(addr)
	if errno != 0 {
		return errno
	}
	return errnoOf(unix.Bind(fd, sa))
}

func rawListen(fd, backlog int) syscall.Errno { return errnoOf(unix.Listen(fd, backlog)) }

func rawConnect(fd int, addr netip.AddrPort) syscall.Errno {
	sa, errno := toSockaddr(addr)
	if errno != 0 {
		return errno
	}
	errno = errnoOf(unix.Connect(fd, sa))
	if errno != unix.EINTR {
		return errno
	}
	// It goes on by itself (connect(2)), unless the signal came before it had
	// begun. A second call tells, and begins it then.
	for errno == unix.EINTR {
		errno = errnoOf(unix.Connect(fd, sa))
	}
	switch errno {
	case unix.EALREADY:
		return unix.EINPROGRESS
	case unix.EISCONN:
		return 0
	}
	return errno
}

// closeFD closes a descriptor of a poller. After EINTR it is closed: see
// sys.close.
func closeFD(fd int) error {
	if errno := rawClose(fd); errno != 0 && errno != unix.EINTR {
		return os.NewSyscallError("close", errno)
	}
	return nil
}

func rawShutdown(fd, how int) syscall.Errno { return errnoOf(unix.Shutdown(fd, how)) }

func rawOption(fd, level, name int) (int, syscall.Errno) {
	v, err := unix.GetsockoptInt(fd, level, name)
	return v, errnoOf(err)
}

// rawSetOption sets an option of type int, or SO_LINGER: there a value below 0
// turns lingering off, and any other is its time in seconds.
func rawSetOption(fd, level, name, value int) syscall.Errno {
	if level == unix.SOL_SOCKET && name == unix.SO_LINGER {
		linger := unix.Linger{}
		if value >= 0 {
			linger = unix.Linger{Onoff: 1, Linger: int32(value)}
		}
		return errnoOf(unix.SetsockoptLinger(fd, level, name, &linger))
	}
	return errnoOf(unix.SetsockoptInt(fd, level, name, value))
}
