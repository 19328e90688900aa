//go:build linux || darwin

package stepio

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Adopt takes over a TCP connection of package net, or one that was hijacked
// from net/http, as a connection of loop. conn is closed; its socket lives on, and
// nobody else may read from it, by a File of conn's for instance.
// Bytes that another reader has taken already, such as those that remain in the
// bufio.ReadWriter of a Hijack, are the caller's to hand on: see Input.Put.
// Deadlines are not taken over. A type of your own that embeds a *net.TCPConn is
// taken for what it embeds.
//
// The error is conn's, for one that is closed, or that is no TCP socket of the
// kernel (a *tls.Conn, a net.Pipe): conn is unchanged then. Should the kernel
// fail to close it, the connection is gone. Loop only.
func Adopt(loop *Loop, conn net.Conn) (*TCPConn, error) {
	loop.owner.check("Adopt")
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("stepio: Adopt: %T is no socket", conn)
	}
	if _, ok := conn.LocalAddr().(*net.TCPAddr); !ok {
		return nil, fmt.Errorf("stepio: Adopt: %T is no TCP connection", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(from uintptr) {
		dupErr = uninterrupted(func() (err error) {
			fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
			return err
		})
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl", dupErr)
	}
	// The mode is the socket's, not the descriptor's: who asked the connection's
	// File for its Fd may have made it block.
	if err := uninterrupted(func() error { return unix.SetNonblock(fd, true) }); err != nil {
		_ = unix.Close(fd) // the first error is the one to return
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := conn.Close(); err != nil && !errors.Is(err, unix.EINTR) { // after that it is closed (close(2))
		_ = unix.Close(fd) // the first error is the one to return
		return nil, err
	}
	return newTCPConn(loop, fd, true), nil
}

// uninterrupted makes a call until no signal interrupts it.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
