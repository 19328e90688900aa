//go:build linux || darwin

package stepio

import (
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SetNoDelay turns off (true, the default) or on (false) Nagle's algorithm,
// which holds back small writes while earlier ones are not acknowledged
// (tcp(7), TCP_NODELAY).
func (c *TCPConn) SetNoDelay(on bool) error {
	return c.setOption("TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, boolInt(on))
}

// SetKeepAlive turns keep-alive probes on or off (socket(7), SO_KEEPALIVE).
// They are off by default, unlike in package net.
func (c *TCPConn) SetKeepAlive(on bool) error {
	return c.setOption("SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, boolInt(on))
}

// SetKeepAlivePeriod sets how long the connection is idle before the first
// probe, and between two probes, in whole seconds, rounded up. It panics when
// period is not positive.
func (c *TCPConn) SetKeepAlivePeriod(period time.Duration) error {
	if period <= 0 {
		panic("stepio: TCPConn.SetKeepAlivePeriod: not positive")
	}
	seconds := int((period-1)/time.Second + 1)
	if err := c.setOption("TCP_KEEPIDLE", unix.IPPROTO_TCP, tcpKeepIdle, seconds); err != nil {
		return err
	}
	return c.setOption("TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds)
}

// SetLinger sets what Close does with unsent output, as in package net:
// seconds < 0, the default, sends it after Close has returned; 0 discards it
// and resets the connection. A positive time would make close(2) block the
// loop on some systems: it panics. The frame Linger closes gracefully without
// blocking.
func (c *TCPConn) SetLinger(seconds int) error {
	if seconds > 0 {
		panic("stepio: TCPConn.SetLinger: would block the loop")
	}
	return c.setOption("SO_LINGER", unix.SOL_SOCKET, unix.SO_LINGER, seconds)
}

func boolInt(on bool) int {
	if on {
		return 1
	}
	return 0
}

// rawConn is a syscall.RawConn on a descriptor that does not block.
type rawConn struct{ fd func() int }

// Control implements syscall.RawConn.
func (r rawConn) Control(f func(fd uintptr)) error {
	fd := r.fd()
	if fd < 0 {
		return net.ErrClosed
	}
	f(uintptr(fd))
	return nil
}

// Read implements syscall.RawConn: f is called once.
func (r rawConn) Read(f func(fd uintptr) (done bool)) error {
	done := false
	if err := r.Control(func(fd uintptr) { done = f(fd) }); err != nil {
		return err
	}
	if !done {
		return ErrWouldBlock
	}
	return nil
}

// Write implements syscall.RawConn: f is called once.
func (r rawConn) Write(f func(fd uintptr) (done bool)) error { return r.Read(f) }

// optionError wraps the failure of an option that a socket is opened with.
func optionError(name string, errno syscall.Errno) error {
	return os.NewSyscallError("setsockopt "+name, errno)
}
