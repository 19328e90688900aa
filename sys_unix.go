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
	return errnoOf(unix.Connect(fd, sa))
}

// closeFD closes a descriptor of a poller.
func closeFD(fd int) error {
	var real sys
	if errno := real.close(fd); errno != 0 {
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
