//go:build linux || darwin

package stepio

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A TCPConn is a connected TCP socket of a loop. Its operations try first and
// never wait: what would have to wait answers ErrWouldBlock, and the step
// returns c.Readable(), c.Writable() or c.Wait(dirs).
//
// An idle connection owns no buffer; this struct, 24 bytes, and its loop's slot
// are all there is of it. Its methods are for the loop's goroutine.
type TCPConn struct{ socket }

// NewTCPConn makes a connection of fd, a connected TCP socket that does not
// block, such as AcceptFD of another loop's listener returns. The connection
// owns fd from then on: nobody else may read from the socket by another descriptor
// of it. It panics when fd is negative. Loop only.
func NewTCPConn(loop *Loop, fd int) *TCPConn {
	loop.owner.check("NewTCPConn")
	if fd < 0 {
		panic(fmt.Sprintf("stepio: NewTCPConn: descriptor %d", fd))
	}
	return newTCPConn(loop, fd, true)
}

func newTCPConn(loop *Loop, fd int, foreign bool) *TCPConn {
	loop.claim(fd, foreign)
	if loop.latches {
		loop.slots.get(fd).flags |= slotLatched
	}
	return &TCPConn{socket{loop: loop, fd: int32(fd)}}
}

// Read copies what has arrived, at most len(p) bytes, into p and never waits.
//
// The result is one of: n > 0 and nil; 0 and io.EOF once the peer has finished
// sending; 0 and ErrWouldBlock when nothing has arrived, or the step's budget
// is used up: return c.Readable() and try again; 0 and a *net.OpError that is
// os.ErrDeadlineExceeded after the read deadline, net.ErrClosed after Close, or
// what the kernel says, after which c can only be closed: that of
// syscall.ECONNRESET names no addresses, and is shared by all connections, so it
// must not be changed. What has ended the connection, such as a reset, is told
// to reads also when a write has found it first, once they have what arrived
// before. An empty p panics: it could not tell end of input from no room. Loop
// only.
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
	if l.sys.sim != nil {
		return c.received(s, p, 0, syscall.EINTR)
	}
	// The call itself, and what it nearly always brings: as in UDPConn.ReadFrom.
	n, errno := rawRead(int(c.fd), p)
	if errno == 0 && n > 0 {
		s.readTook(n, len(p))
		l.sched.Spend(n)
		return n, nil
	}
	return c.received(s, p, n, errno)
}

// received is the answer of Read to a call that brought n bytes or an errno. EINTR
// stands for a call that was interrupted, or not made, as there is a simulated
// kernel: it is made anew.
func (c *TCPConn) received(s *slot, p []byte, n int, errno syscall.Errno) (int, error) {
	l := c.loop
	if errno == syscall.EINTR {
		n, errno = l.sys.read(int(c.fd), p)
	}
	switch {
	case errno == unix.EAGAIN:
		l.sched.Refund()
		s.readBlocked()
		return 0, ErrWouldBlock
	case errno != 0:
		s.readStopped() // it can be told again, to whoever waits for an edge next
		return 0, c.failed("read", errno)
	case n == 0:
		s.readStopped() // likewise
		return 0, c.end()
	}
	s.readTook(n, len(p))
	l.sched.Spend(n)
	return n, nil
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

// Write sends what the socket takes of p now and never waits.
//
// The result is one of: len(p) and nil; less, perhaps 0, and ErrWouldBlock when
// the socket takes no more, or the step's budget is used up: return
// c.Writable() and go on with the rest; 0 and a *net.OpError that is
// os.ErrDeadlineExceeded after the write deadline, net.ErrClosed after Close,
// or what the kernel says, after which c can only be closed: those of
// syscall.ECONNRESET and syscall.EPIPE, which also follows CloseWrite, name no
// addresses, and are shared by all connections, so they must not be changed.
// WriteAll is the frame that goes on by itself. Loop only.
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
		c.slot().writeStopped() // another task may go on, and the room makes no second edge
		return 0, ErrWouldBlock
	}
	if l.sys.sim != nil {
		return c.sent(p, 0, syscall.EINTR)
	}
	// Charged before the call, after which the caches have lost what that takes. What
	// was not sent is given back.
	l.sched.Spend(len(p))
	n, errno := rawWrite(int(c.fd), p)
	if n < len(p) {
		l.sched.Spend(-len(p))
		return c.sent(p, n, errno)
	}
	return n, nil
}

// sent is the answer of Write to a call that sent n bytes, or to an errno. EINTR: as in
// received.
func (c *TCPConn) sent(p []byte, n int, errno syscall.Errno) (int, error) {
	l := c.loop
	if errno == syscall.EINTR {
		n, errno = l.sys.write(int(c.fd), p)
	}
	if errno != 0 && errno != unix.EAGAIN {
		return 0, c.failed("write", errno)
	}
	l.sched.Spend(n)
	if n < len(p) {
		if n == 0 {
			l.sched.Refund()
		}
		l.slots.get(int(c.fd)).writeShort(n)
		return n, ErrWouldBlock
	}
	return n, nil
}

// failed is the error of an operation. What has become of the connection is kept:
// the kernel tells it to one call, of either direction, and to the next read that
// the input has ended. Were that io.EOF, a stream that a reset has cut short
// would pass for a whole one, with a task that reads and another that writes.
func (c *TCPConn) failed(op string, errno syscall.Errno) error {
	switch errno {
	case unix.EPIPE, unix.ENOBUFS, unix.ENOMEM: // the output has ended, or memory has: the input goes on
	default:
		if errno <= math.MaxUint8 { // each that a connection ends with
			c.cause = uint8(errno)
		}
	}
	return c.opError(op, errno)
}

// end is the result of a read that finds nothing and never will.
func (c *TCPConn) end() error {
	if c.cause != 0 {
		return c.opError("read", syscall.Errno(c.cause))
	}
	return io.EOF
}

// CloseWrite ends the output: the peer reads end of input after what was
// written. Reading goes on.
func (c *TCPConn) CloseWrite() error { return c.shutdown("CloseWrite", unix.SHUT_WR) }

// CloseRead ends the input: with nothing left to read, Read answers io.EOF, or what
// the connection has failed with. On Linux what had arrived is still read first, the
// peer is not told, and what it sends later is taken and may be read (tcp_shutdown,
// net/ipv4/tcp.c, does nothing for the input). Linger takes this end for the peer's: see
// there.
func (c *TCPConn) CloseRead() error { return c.shutdown("CloseRead", unix.SHUT_RD) }

func (c *TCPConn) shutdown(method string, how int) error {
	c.check(method)
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
// frame Linger avoids. Closing twice does nothing, nor does closing nil, so that
// a frame may close what it has not got yet. Loop only.
func (c *TCPConn) Close() error {
	if c == nil {
		return nil
	}
	return c.close()
}

// Detach takes the descriptor out of the loop and gives it to the caller, as a
// socket that does not block: to hand it to another loop, for instance. Tasks
// that wait on the connection are resumed with net.ErrClosed; the connection is
// as after Close. A WriteAll or an Input that still holds bytes of it stays on
// this loop. An error that c has kept for its next read, because the kernel tells
// it once, would be lost with it: then Detach returns -1 and that error, and
// leaves all as it is. Loop only.
func (c *TCPConn) Detach() (fd int, err error) {
	c.loop.owner.check("TCPConn.Detach")
	if c.fd < 0 {
		return -1, c.netError("detach", net.ErrClosed)
	}
	if errno := cmp.Or(syscall.Errno(c.errno), syscall.Errno(c.cause)); errno != 0 {
		return -1, c.opError("read", errno)
	}
	fd = c.forget()
	if err := c.loop.release(fd, net.ErrClosed, false); err != nil {
		return fd, err
	}
	return fd, nil
}

// RemoteAddr is the peer's address; invalid after Close, and once the kernel
// has forgotten it, as after a reset.
func (c *TCPConn) RemoteAddr() netip.AddrPort { return addrOf(c.fd, c.loop.sys.remoteAddr) }
