//go:build linux || darwin

package stepio

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// A TCPConn is a connected TCP socket of a loop. Its operations try first and
// never wait: what would have to wait answers ErrWouldBlock, and the step
// returns c.Readable(), c.Writable() or c.Wait(dirs).
//
// An idle connection owns no buffer; this struct, 24 bytes, and its loop's slot
// are all there is of it. Its methods are for the loop's goroutine.
type TCPConn struct {
	loop      *Loop
	deadlines *deadlines // nil while none is set
	fd        int32      // -1 once closed
	errno     uint16     // a read's error that came after bytes, for the next read
}

// deadlines of a connection, after which its operations fail. Zero: none.
type deadlines struct{ read, write time.Time }

// NewTCPConn makes a connection of fd, a connected TCP socket that does not
// block, such as AcceptFD of another loop's listener returns. The connection
// owns fd from then on. It panics when fd is negative. Loop only.
func NewTCPConn(loop *Loop, fd int) *TCPConn {
	loop.owner.check("NewTCPConn")
	if fd < 0 {
		panic(fmt.Sprintf("stepio: NewTCPConn: descriptor %d", fd))
	}
	return newTCPConn(loop, fd, true)
}

func newTCPConn(loop *Loop, fd int, foreign bool) *TCPConn {
	loop.claim(fd, foreign)
	return &TCPConn{loop: loop, fd: int32(fd)}
}

// Read copies what has arrived, at most len(p) bytes, into p and never waits.
//
// The result is one of: n > 0 and nil; 0 and io.EOF once the peer has finished
// sending; 0 and ErrWouldBlock when nothing has arrived, or the step's budget
// is used up: return c.Readable() and try again; 0 and a *net.OpError that is
// os.ErrDeadlineExceeded after the read deadline, net.ErrClosed after Close, or
// what the kernel says, after which c can only be closed. An empty p panics: it
// could not tell end of input from no room. Loop only.
func (c *TCPConn) Read(p []byte) (n int, err error) {
	l := c.loop
	l.owner.check("TCPConn.Read")
	if len(p) == 0 {
		panic("stepio: TCPConn.Read: empty buffer")
	}
	if c.fd < 0 || c.deadlines != nil || c.errno != 0 {
		if err := c.readRefused(); err != nil {
			return 0, err
		}
	}
	s := l.slots.get(int(c.fd))
	if s.drained() {
		return 0, ErrWouldBlock
	}
	if !l.sched.Admit() {
		s.readStopped()
		return 0, ErrWouldBlock
	}
	n, errno := l.sys.read(int(c.fd), p)
	switch {
	case errno == unix.EAGAIN:
		s.readEmptied()
		return 0, ErrWouldBlock
	case errno != 0:
		return 0, c.opError("read", errno)
	case n == 0:
		return 0, io.EOF
	case n < len(p):
		s.readEmptied()
	default:
		s.readStopped()
	}
	l.sched.Spend(n)
	return n, nil
}

// readRefused is why a read is not even tried, nil when it is.
func (c *TCPConn) readRefused() error {
	switch {
	case c.fd < 0:
		return c.netError("read", net.ErrClosed)
	case c.errno != 0:
		errno := syscall.Errno(c.errno)
		c.errno = 0
		return c.opError("read", errno)
	case c.deadlines != nil && c.loop.sched.Passed(c.deadlines.read):
		return c.netError("read", os.ErrDeadlineExceeded)
	}
	return nil
}

// ReadET drains the socket into p for an edge-triggered reader: it reads until
// nothing more has arrived, p is full, or the step's budget is used up. In the
// last two cases the edge is not lost: the next wait for c.ReadableET() finds
// it.
//
// The results are those of Read, with ReadableET. Bytes that arrived before
// the end of input, or before an error, are returned first; the end or the
// error is the next call's. Loop only.
func (c *TCPConn) ReadET(p []byte) (n int, err error) {
	for n < len(p) || n == 0 {
		m, err := c.Read(p[n:])
		n += m
		if err == nil {
			continue
		}
		if n == 0 {
			return 0, err
		}
		if err != ErrWouldBlock {
			c.postpone(err)
		}
		break
	}
	return n, nil
}

// postpone keeps a read's error for the next read. The end of input and a
// passed deadline repeat themselves, and edge-triggered waiters must find them.
func (c *TCPConn) postpone(err error) {
	if op, ok := err.(*net.OpError); ok {
		if sys, ok := op.Err.(*os.SyscallError); ok {
			c.errno = uint16(errnoOf(sys.Err))
		}
	}
	c.loop.slots.get(int(c.fd)).readStopped()
}

// Write sends what the socket takes of p now and never waits.
//
// The result is one of: len(p) and nil; less, perhaps 0, and ErrWouldBlock when
// the socket takes no more, or the step's budget is used up: return
// c.Writable() and go on with the rest; 0 and a *net.OpError that is
// os.ErrDeadlineExceeded after the write deadline, net.ErrClosed after Close,
// or what the kernel says, after which c can only be closed. WriteAll is the
// frame that goes on by itself. Loop only.
func (c *TCPConn) Write(p []byte) (n int, err error) {
	l := c.loop
	l.owner.check("TCPConn.Write")
	if c.fd < 0 || c.deadlines != nil {
		if err := c.writeRefused(); err != nil {
			return 0, err
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !l.sched.Admit() {
		return 0, ErrWouldBlock
	}
	n, errno := l.sys.write(int(c.fd), p)
	if errno != 0 && errno != unix.EAGAIN {
		return 0, c.opError("write", errno)
	}
	l.sched.Spend(n)
	if n < len(p) {
		// An edge that was remembered has been used up.
		l.slots.get(int(c.fd)).edges &^= sm.Write
		return n, ErrWouldBlock
	}
	return n, nil
}

func (c *TCPConn) writeRefused() error {
	switch {
	case c.fd < 0:
		return c.netError("write", net.ErrClosed)
	case c.loop.sched.Passed(c.deadlines.write):
		return c.netError("write", os.ErrDeadlineExceeded)
	}
	return nil
}

// Readable waits, level-triggered, until Read can find something, or until the
// read deadline. Return it from a step.
func (c *TCPConn) Readable() sm.Await { return c.bounded(sm.Wait(int(c.fd), sm.Read)) }

// Writable waits, level-triggered, until Write can send something, or until the
// write deadline.
func (c *TCPConn) Writable() sm.Await { return c.bounded(sm.Wait(int(c.fd), sm.Write)) }

// Wait is Readable, Writable or both, whichever comes first.
func (c *TCPConn) Wait(dirs sm.Dir) sm.Await { return c.bounded(sm.Wait(int(c.fd), dirs)) }

// ReadableET is Readable, edge-triggered: after an edge, read until ReadET
// answers ErrWouldBlock.
func (c *TCPConn) ReadableET() sm.Await { return c.bounded(sm.WaitEdge(int(c.fd), sm.Read)) }

// WritableET is Writable, edge-triggered: after an edge, write until Write
// answers ErrWouldBlock.
func (c *TCPConn) WritableET() sm.Await { return c.bounded(sm.WaitEdge(int(c.fd), sm.Write)) }

// WaitET is Wait, edge-triggered.
func (c *TCPConn) WaitET(dirs sm.Dir) sm.Await { return c.bounded(sm.WaitEdge(int(c.fd), dirs)) }

// bounded is a with the deadlines of its directions.
func (c *TCPConn) bounded(a sm.Await) sm.Await {
	if d := c.deadlines; d != nil {
		if a.Dir()&sm.Read != 0 {
			a = a.By(d.read)
		}
		if a.Dir()&sm.Write != 0 {
			a = a.By(d.write)
		}
	}
	return a
}

// SetDeadline sets the read and the write deadline. See SetReadDeadline.
func (c *TCPConn) SetDeadline(t time.Time) error { return c.setDeadlines(&t, &t) }

// SetReadDeadline sets the time after which Read fails with
// os.ErrDeadlineExceeded, as in package net: also one that could return bytes.
// The zero time is none. c.Readable() carries the deadline, and tasks that wait
// for it already look at it again. It is judged by the loop's Now, and a wait
// ends at most a millisecond after it, on a loop that is not busy. The error is
// net.ErrClosed, after Close. Loop only.
func (c *TCPConn) SetReadDeadline(t time.Time) error { return c.setDeadlines(&t, nil) }

// SetWriteDeadline is SetReadDeadline for Write and c.Writable().
func (c *TCPConn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(nil, &t) }

func (c *TCPConn) setDeadlines(read, write *time.Time) error {
	c.loop.owner.check("TCPConn.SetDeadline")
	if c.fd < 0 {
		return c.netError("set", net.ErrClosed)
	}
	var d deadlines
	if c.deadlines != nil {
		d = *c.deadlines
	}
	if read != nil {
		d.read = *read
	}
	if write != nil {
		d.write = *write
	}
	switch {
	case d.read.IsZero() && d.write.IsZero():
		c.deadlines = nil
	case c.deadlines == nil:
		c.deadlines = &deadlines{d.read, d.write}
	default:
		*c.deadlines = d
	}
	// Whoever waits carries the old deadline: it asks again.
	c.loop.slots.get(int(c.fd)).waiters.Nudge()
	return nil
}

// CloseWrite ends the output: the peer reads end of input after what was
// written. Reading goes on.
func (c *TCPConn) CloseWrite() error { return c.shutdown(unix.SHUT_WR) }

// CloseRead ends the input: Read answers io.EOF from now on. On Linux the peer
// is not told.
func (c *TCPConn) CloseRead() error { return c.shutdown(unix.SHUT_RD) }

func (c *TCPConn) shutdown(how int) error {
	c.loop.owner.check("TCPConn.CloseWrite")
	if c.fd < 0 {
		return c.netError("close", net.ErrClosed)
	}
	if errno := c.loop.sys.shutdown(int(c.fd), how); errno != 0 {
		return c.opErrorOf("close", "shutdown", errno)
	}
	if how == unix.SHUT_RD {
		// An end of input that no event need announce.
		s := c.loop.slots.get(int(c.fd))
		s.flags = s.flags&^slotDrained | slotRestless
	}
	return nil
}

// Close closes the connection, deregisters it, and resumes whoever waits on it
// with net.ErrClosed. Unsent output is still sent by the kernel, unless input
// was left unread: then the peer gets a reset (RFC 1122, 4.2.2.13), which the
// frame Linger avoids. Closing twice does nothing. Loop only.
func (c *TCPConn) Close() error {
	c.loop.owner.check("TCPConn.Close")
	if c.fd < 0 {
		return nil
	}
	fd := c.forget()
	return c.loop.closeSocket(fd)
}

// forget makes the connection a closed one and returns its descriptor.
func (c *TCPConn) forget() (fd int) {
	fd = int(c.fd)
	c.fd, c.errno, c.deadlines = -1, 0, nil
	return fd
}

// Detach takes the descriptor out of the loop and gives it to the caller, as a
// socket that does not block: to hand it to another loop, for instance. Tasks
// that wait on the connection are resumed with net.ErrClosed; the connection is
// as after Close. Loop only.
func (c *TCPConn) Detach() (fd int, err error) {
	c.loop.owner.check("TCPConn.Detach")
	if c.fd < 0 {
		return -1, c.netError("detach", net.ErrClosed)
	}
	fd = c.forget()
	if err := c.loop.release(fd, net.ErrClosed, false); err != nil {
		return fd, err
	}
	return fd, nil
}

// closeSocket closes a socket of this loop and lets go of its slot.
func (l *Loop) closeSocket(fd int) error {
	err := l.release(fd, net.ErrClosed, true)
	if errno := l.sys.close(fd); errno != 0 && err == nil {
		err = os.NewSyscallError("close", errno)
	}
	l.relieve()
	return err
}

// Loop is the loop that the connection belongs to.
func (c *TCPConn) Loop() *Loop { return c.loop }

// FD is the descriptor, -1 after Close. It stays the connection's: for options
// that this package does not know. See SyscallConn.
func (c *TCPConn) FD() int { return int(c.fd) }

// LocalAddr is this end's address; invalid after Close.
func (c *TCPConn) LocalAddr() netip.AddrPort { return addrOf(c.fd, c.loop.sys.localAddr) }

// RemoteAddr is the peer's address; invalid after Close, and once the kernel
// has forgotten it, as after a reset.
func (c *TCPConn) RemoteAddr() netip.AddrPort { return addrOf(c.fd, c.loop.sys.remoteAddr) }

func addrOf(fd int32, ask func(int) (netip.AddrPort, syscall.Errno)) netip.AddrPort {
	if fd < 0 {
		return netip.AddrPort{}
	}
	addr, errno := ask(int(fd))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return addr
}

// opError is errno of the syscall that has the operation's name.
func (c *TCPConn) opError(op string, errno syscall.Errno) error { return c.opErrorOf(op, op, errno) }

func (c *TCPConn) opErrorOf(op, call string, errno syscall.Errno) error {
	return c.netError(op, os.NewSyscallError(call, errno))
}

func (c *TCPConn) netError(op string, err error) error {
	return netError(op, "tcp", err, c.LocalAddr(), c.RemoteAddr())
}
