//go:build linux || darwin

package stepio

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// socket is what a TCPConn and a UDPConn share: the descriptor, its deadlines,
// and how one waits for it. Its exported methods are theirs.
type socket struct {
	loop      *Loop
	deadlines *deadlines // nil while none is set
	fd        int32      // -1 once closed
	errno     uint16     // a read's error that came after data, for the next read
	network   network
	cause     uint8 // the errno with which a TCPConn has failed: see TCPConn.failed
}

// network is the kind of a socket.
type network uint8

const (
	networkTCP network = iota
	networkUDP
)

// String is the network's name in package net.
func (n network) String() string { return [...]string{"tcp", "udp"}[n] }

// typeName is the name of the type that embeds the socket.
func (n network) typeName() string { return [...]string{"TCPConn", "UDPConn"}[n] }

// deadlines of a socket, after which its operations fail. Zero: none.
type deadlines struct{ read, write time.Time }

// spareDeadlines are a loop's deadlines that no socket has: a server that sets
// and clears one a request allocates none.
type spareDeadlines []*deadlines

// maxSpareDeadlines bounds them: 48 KiB a loop.
const maxSpareDeadlines = 1 << 10

func (p *spareDeadlines) take() *deadlines {
	last := len(*p) - 1
	if last < 0 {
		return new(deadlines)
	}
	d := (*p)[last]
	*p = (*p)[:last]
	return d
}

// give takes d back, which may be nil.
func (p *spareDeadlines) give(d *deadlines) {
	if d != nil && len(*p) < maxSpareDeadlines {
		*p = append(*p, d)
	}
}

// check panics, in check mode, when a method is called on another goroutine
// than the loop's.
func (s *socket) check(method string) {
	if s.loop.owner.on {
		s.loop.owner.verify(s.network.typeName() + "." + method)
	}
}

// readRefused is why a read is not even tried, nil when it is.
func (s *socket) readRefused() error {
	switch {
	case s.fd < 0:
		return s.netError("read", net.ErrClosed)
	case s.errno != 0:
		errno := syscall.Errno(s.errno)
		s.errno = 0
		s.slot().readStopped() // a datagram's error may have more behind it
		return s.opError("read", errno)
	case s.deadlines != nil && s.loop.sched.Passed(s.deadlines.read):
		s.slot().readStopped() // the deadline may be moved, and no second edge comes
		return s.netError("read", os.ErrDeadlineExceeded)
	}
	return nil
}

// writeRefused is why a write is not even tried, nil when it is.
func (s *socket) writeRefused() error {
	switch {
	case s.fd < 0:
		return s.netError("write", net.ErrClosed)
	case s.deadlines != nil && s.loop.sched.Passed(s.deadlines.write):
		s.slot().writeStopped() // as for a read
		return s.netError("write", os.ErrDeadlineExceeded)
	}
	return nil
}

// postpone keeps a read's error for the next read. The end of input and a
// passed deadline repeat themselves, and edge-triggered waiters must find them.
func (s *socket) postpone(err error) {
	if op, ok := err.(*net.OpError); ok {
		if sys, ok := op.Err.(*os.SyscallError); ok {
			s.errno = uint16(errnoOf(sys.Err))
		}
	}
	s.slot().readStopped()
}

// slot is what the loop knows of the descriptor, which is open.
func (s *socket) slot() *slot { return s.loop.slots.get(int(s.fd)) }

// Readable waits, level-triggered, until a read can find something, or until
// the read deadline, which the next read tells. A wake ends it too: see sm.Waker.
// Return it from a step, best when a read has answered ErrWouldBlock: on Linux,
// waiting again after an event on a TCPConn that nobody has emptied costs an
// epoll_ctl(2).
func (s *socket) Readable() sm.Await { return s.bounded(sm.Wait(int(s.fd), sm.Read)) }

// Writable waits, level-triggered, until a write can send something, or until
// the write deadline. Return it from a step.
func (s *socket) Writable() sm.Await { return s.bounded(sm.Wait(int(s.fd), sm.Write)) }

// Wait is Readable, Writable or both, whichever comes first.
func (s *socket) Wait(dirs sm.Dir) sm.Await { return s.bounded(sm.Wait(int(s.fd), dirs)) }

// ReadableET is Readable, edge-triggered: after an edge, read until
// ErrWouldBlock.
func (s *socket) ReadableET() sm.Await { return s.bounded(sm.WaitEdge(int(s.fd), sm.Read)) }

// WritableET is Writable, edge-triggered: after an edge, write until
// ErrWouldBlock.
func (s *socket) WritableET() sm.Await { return s.bounded(sm.WaitEdge(int(s.fd), sm.Write)) }

// WaitET is Wait, edge-triggered.
func (s *socket) WaitET(dirs sm.Dir) sm.Await { return s.bounded(sm.WaitEdge(int(s.fd), dirs)) }

// again waits in the trigger mode that the descriptor is in: for the frames of
// this package, which serve either sort of connection.
func (s *socket) again(dirs sm.Dir) sm.Await {
	if slot := s.loop.slots.get(int(s.fd)); slot != nil && slot.flags&slotEdge != 0 {
		return s.WaitET(dirs)
	}
	return s.Wait(dirs)
}

// bounded is a with what else ends the wait: the deadlines of its directions, an
// error that is kept.
func (s *socket) bounded(a sm.Await) sm.Await {
	if s.deadlines == nil && s.errno == 0 {
		return a
	}
	return s.bound(a)
}

// bound is bounded, where there is something of that kind.
func (s *socket) bound(a sm.Await) sm.Await {
	if d := s.deadlines; d != nil {
		if a.Dir()&sm.Read != 0 {
			a = a.By(d.read)
		}
		if a.Dir()&sm.Write != 0 {
			a = a.By(d.write)
		}
	}
	if s.errno != 0 && a.Dir()&sm.Read != 0 {
		// The next read finds an error that the kernel has told already, and of
		// which no event will come.
		a = a.Until(s.loop.sched.Now().Add(-time.Second)) // over already
	}
	return a
}

// SetDeadline sets the read and the write deadline. See SetReadDeadline.
func (s *socket) SetDeadline(t time.Time) error { return s.setDeadlines(&t, &t) }

// SetReadDeadline sets the time after which reads fail with
// os.ErrDeadlineExceeded, as in package net: also one that could find
// something. The zero time is none. What Readable returns carries the deadline,
// and tasks that wait for it already look at it again. It is judged by the
// loop's Now, and a wait ends at most a millisecond after it, on a loop that is
// not busy. The error is net.ErrClosed, after Close. Loop only.
func (s *socket) SetReadDeadline(t time.Time) error { return s.setDeadlines(&t, nil) }

// SetWriteDeadline is SetReadDeadline for writes and Writable.
func (s *socket) SetWriteDeadline(t time.Time) error { return s.setDeadlines(nil, &t) }

func (s *socket) setDeadlines(read, write *time.Time) error {
	s.check("SetDeadline")
	if s.fd < 0 {
		return s.netError("set", net.ErrClosed)
	}
	var d deadlines
	if s.deadlines != nil {
		d = *s.deadlines
	}
	if read != nil {
		d.read = *read
	}
	if write != nil {
		d.write = *write
	}
	switch {
	case d.read.IsZero() && d.write.IsZero():
		s.loop.deadlines.give(s.deadlines)
		s.deadlines = nil
	case s.deadlines == nil:
		s.deadlines = s.loop.deadlines.take()
		fallthrough
	default:
		*s.deadlines = d
	}
	// Whoever waits carries the old deadline: it asks again.
	s.slot().waiters.Nudge()
	return nil
}

// close closes the descriptor, once.
func (s *socket) close() error {
	s.check("Close")
	if s.fd < 0 {
		return nil
	}
	return s.loop.closeSocket(s.forget())
}

// forget makes the socket a closed one and returns its descriptor.
func (s *socket) forget() (fd int) {
	fd = int(s.fd)
	s.loop.deadlines.give(s.deadlines)
	s.fd, s.errno, s.deadlines = -1, 0, nil
	return fd
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
func (s *socket) Loop() *Loop { return s.loop }

// FD is the descriptor, -1 after Close. It stays the connection's: for options
// that this package does not know. Who reads or writes without the connection's
// methods takes SyscallConn.
func (s *socket) FD() int { return int(s.fd) }

// LocalAddr is this end's address; invalid after Close, and when the kernel
// cannot tell (getsockname(2), ENOBUFS).
func (s *socket) LocalAddr() netip.AddrPort { return addrOf(s.fd, s.loop.sys.localAddr) }

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

// SetReadBuffer sets the size of the kernel's receive buffer, in bytes. The
// kernel may choose another: Linux doubles it (socket(7), SO_RCVBUF).
func (s *socket) SetReadBuffer(bytes int) error {
	return s.setOption("SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}

// SetWriteBuffer sets the size of the kernel's send buffer, in bytes. The
// kernel may choose another: Linux doubles it (socket(7), SO_SNDBUF).
func (s *socket) SetWriteBuffer(bytes int) error {
	return s.setOption("SO_SNDBUF", unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
}

func (s *socket) setOption(name string, level, option, value int) error {
	s.check("Set")
	if s.fd < 0 {
		return s.netError("set", net.ErrClosed)
	}
	if errno := s.loop.sys.setOption(int(s.fd), level, option, value); errno != 0 {
		return s.opErrorOf("set", "setsockopt "+name, errno)
	}
	return nil
}

// SyscallConn gives access to the descriptor, for options that this package
// does not know. The descriptor does not block: the functions given to the
// RawConn's Read and Write are called once, and ErrWouldBlock is returned when
// they answer false. Who duplicates the descriptor keeps the socket open after
// Close. The error is one of: nil; net.ErrClosed after Close, in a *net.OpError;
// what epoll_ctl(2) says. Loop only.
func (s *socket) SyscallConn() (syscall.RawConn, error) {
	s.check("SyscallConn")
	if s.fd < 0 {
		return nil, s.netError("raw-control", net.ErrClosed)
	}
	slot := s.slot()
	if err := s.loop.unlatch(slot, s.FD()); err != nil { // who has it may read behind our back
		return nil, s.netError("raw-control", err)
	}
	slot.flags |= slotForeign // it may be duplicated from now on
	return rawConn{s.FD}, nil
}

// What a peer does to a connection by a reset. Strangers can do it by the
// thousand, so it costs neither a syscall nor memory: the errors are shared and
// have no addresses. The kernel has forgotten the peer's. (It says EPIPE after
// CloseWrite as well: the error is the same, for a programmer's mistake.)
var (
	errReadReset  = gone("read", unix.ECONNRESET)
	errWriteReset = gone("write", unix.ECONNRESET)
	errWritePipe  = gone("write", unix.EPIPE)
)

func gone(op string, errno syscall.Errno) error {
	return netError(op, "tcp", os.NewSyscallError(op, errno), netip.AddrPort{}, netip.AddrPort{})
}

// opError is errno of the syscall that has the operation's name.
func (s *socket) opError(op string, errno syscall.Errno) error { return s.opErrorOf(op, op, errno) }

func (s *socket) opErrorOf(op, call string, errno syscall.Errno) error {
	if s.network == networkTCP {
		switch {
		case op == "read" && errno == unix.ECONNRESET:
			return errReadReset
		case op == "write" && errno == unix.ECONNRESET:
			return errWriteReset
		case op == "write" && errno == unix.EPIPE:
			return errWritePipe
		}
	}
	return s.netError(op, os.NewSyscallError(call, errno))
}

func (s *socket) netError(op string, err error) error {
	return netError(op, s.network.String(), err, s.LocalAddr(), addrOf(s.fd, s.loop.sys.remoteAddr))
}
