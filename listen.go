//go:build linux || darwin

package stepio

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// A TCPListener is a listening TCP socket of a loop. Its methods are for the
// loop's goroutine.
//
// For lack of descriptors or memory it rests, 5 ms at first and 500 ms at
// most, and goes on by itself: accepting would block meanwhile, and
// ln.Readable() waits for the end of the rest instead of the socket. The rest
// ends early when this loop closes a descriptor.
type TCPListener struct {
	loop  *Loop
	fd    int32
	addr  netip.AddrPort
	pause time.Duration // of the last rest; 0 after success
	until time.Time     // the end of this rest; zero when not resting
	quiet bool          // the loop drains: new connections are refused
	burst burst
}

// burst is what a listener has learned of its queue: how many connections an
// event is good for. accept(2) makes a socket and a file before it looks whether
// somebody waits (do_accept, net/socket.c), so to hear that nobody does costs
// nearly as much as to accept, and connections mostly come one by one. Level-triggered,
// it need not be heard: when the queue is not empty, the next event comes at once.
// So after size of them the queue counts as empty. The size is doubled when it is
// reached, one only when it is reached several times in a row; it is halved, but not to less
// than there were, when the queue turns out to be empty.
type burst struct {
	size  int32 // from 1 to mostBurst
	taken int32 // of this burst
	ones  int32 // bursts of one, in a row
}

const (
	manyOnes  = 4
	mostBurst = 64
)

// took counts a connection, and reports whether the queue is to count as empty.
func (b *burst) took() (over bool) {
	if b.taken++; b.taken < b.size {
		return false
	}
	b.taken = 0
	if b.ones++; b.size > 1 || b.ones == manyOnes {
		*b = burst{size: min(2*b.size, mostBurst)}
	}
	return true
}

// emptied notes that the queue is empty.
func (b *burst) emptied() { *b = burst{size: min(max(b.size/2, b.taken, 1), mostBurst)} }

// The length of a rest doubles from one to the other.
const (
	minRest = 5 * time.Millisecond
	maxRest = 500 * time.Millisecond
)

// ListenOptions says how to listen. The zero value is what most servers want.
type ListenOptions struct {
	// Backlog is how many connections may wait to be accepted. 0: as many as the
	// kernel allows (listen(2), net.core.somaxconn). The kernel lowers it to that.
	Backlog int
	// ReusePort lets several sockets listen on one address (SO_REUSEPORT): on
	// Linux the kernel spreads the connections over them. All must set it.
	ReusePort bool
	// V6Only keeps a listener on the IPv6 wildcard from taking IPv4 connections.
	V6Only bool
	// Delay leaves Nagle's algorithm on for accepted connections.
	Delay bool
}

// mostBacklog is more than any kernel allows.
const mostBacklog = 1<<16 - 1

// ListenTCP listens on addr. Port 0 is a free port, which Addr tells. The IPv6
// wildcard takes IPv4 connections too, unless options say otherwise, and on a
// machine without IPv6 it is the IPv4 wildcard.
//
// The error is a *net.OpError that says which call failed: errors.Is finds
// syscall.EADDRINUSE, syscall.EACCES and so on. Loop only.
func ListenTCP(loop *Loop, addr netip.AddrPort, options ListenOptions) (*TCPListener, error) {
	loop.owner.check("ListenTCP")
	fd, addr, err := loop.openBound(addr, unix.SOCK_STREAM, options.ReusePort, options.V6Only)
	if err != nil {
		return nil, netError("listen", "tcp", err, netip.AddrPort{}, addr)
	}
	ln := &TCPListener{loop: loop, fd: int32(fd), burst: burst{size: 1}}
	if err := ln.listen(options); err != nil {
		_ = loop.sys.close(fd) // the first error is the one to return
		return nil, netError("listen", "tcp", err, netip.AddrPort{}, addr)
	}
	loop.claim(fd, false)
	return ln, nil
}

func (ln *TCPListener) listen(options ListenOptions) error {
	sys, fd := &ln.loop.sys, int(ln.fd)
	if !options.Delay {
		if errno := sys.setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); errno != 0 {
			return optionError("TCP_NODELAY", errno)
		}
	}
	backlog := options.Backlog
	if backlog <= 0 {
		backlog = mostBacklog
	}
	if errno := sys.listen(fd, backlog); errno != 0 {
		return os.NewSyscallError("listen", errno)
	}
	bound, errno := sys.localAddr(fd)
	if errno != 0 { // nobody could find a listener on a port that the kernel chose
		return os.NewSyscallError("getsockname", errno)
	}
	ln.addr = bound
	return nil
}

// openBound opens a socket for a server and binds it. It returns the address
// that was asked for in the form in which it was bound.
func (l *Loop) openBound(addr netip.AddrPort, kind int, reusePort, v6Only bool) (int, netip.AddrPort, error) {
	if !addr.IsValid() {
		return -1, addr, syscall.EINVAL
	}
	addr = unmapped(addr)
	family := familyOf(addr)
	fd, errno := l.sys.socket(family, kind)
	if errno == unix.EAFNOSUPPORT && addr.Addr() == netip.IPv6Unspecified() && !v6Only {
		addr = netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())
		family = unix.AF_INET
		fd, errno = l.sys.socket(family, kind)
	}
	if errno != 0 {
		return -1, addr, os.NewSyscallError("socket", errno)
	}
	if err := l.bind(fd, family, addr, kind, reusePort, v6Only); err != nil {
		_ = l.sys.close(fd) // the first error is the one to return
		return -1, addr, err
	}
	return fd, addr, nil
}

func (l *Loop) bind(fd, family int, addr netip.AddrPort, kind int, reusePort, v6Only bool) error {
	if kind == unix.SOCK_STREAM {
		if errno := l.sys.setOption(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); errno != 0 {
			return optionError("SO_REUSEADDR", errno)
		}
	}
	if reusePort {
		if errno := l.sys.setOption(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); errno != 0 {
			return optionError("SO_REUSEPORT", errno)
		}
	}
	if family == unix.AF_INET6 {
		if errno := l.sys.setOption(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, boolInt(v6Only)); errno != 0 {
			return optionError("IPV6_V6ONLY", errno)
		}
	}
	if errno := l.sys.bind(fd, addr); errno != 0 {
		return os.NewSyscallError("bind", errno)
	}
	return nil
}

// AcceptFD takes one connection from the queue, as a descriptor that does not
// block and belongs to the caller: to hand it to another loop, which makes it a
// connection with NewTCPConn. While the loop shuts down, a listener whose queue
// is empty is closed by this.
//
// The result is one of: a descriptor and nil; -1 and ErrWouldBlock when none
// waits, when an event was good for as many as usual, when the listener rests, or
// when the step's budget is used up: return ln.Readable() and try again; -1 and a
// *net.OpError, net.ErrClosed after Close. A connection that failed before it was
// accepted is passed over (accept(2), error handling). Loop only.
func (ln *TCPListener) AcceptFD() (fd int, err error) {
	l := ln.loop
	l.owner.check("TCPListener.Accept")
	if ln.fd < 0 {
		return -1, ln.netError(net.ErrClosed)
	}
	s := l.slots.get(int(ln.fd))
	draining := l.sched.Draining()
	if ln.resting() || s.drained() && !draining && !l.stopped.Load() { // no event will tell of more once the loop stops
		return -1, ErrWouldBlock
	}
	if draining && !ln.quiet {
		ln.quiet = true
		l.sys.refuseNew(int(ln.fd)) // before the first look: they might come faster than they are taken
	}
	for l.sched.Admit() {
		fd, errno := l.sys.accept(int(ln.fd))
		switch {
		case errno == 0:
			ln.pause = 0
			s.readStopped()
			if s.flags&slotEdge == 0 && s.armed&sm.Read != 0 && !draining && ln.burst.took() {
				s.flags |= slotDrained
			}
			if !inheritsNoDelay {
				ln.noDelay(fd)
			}
			return fd, nil
		case errno == unix.EAGAIN && draining:
			if err := ln.Close(); err != nil {
				return -1, err
			}
			return -1, ln.netError(net.ErrClosed)
		case errno == unix.EAGAIN:
			ln.pause = 0
			ln.burst.emptied()
			l.sched.Refund()
			s.readEmptied()
			return -1, ErrWouldBlock
		case exhausted(errno):
			s.readStopped() // the connection waits on, and makes no second edge
			ln.rest()
			return -1, ErrWouldBlock
		case !passing(errno):
			return -1, ln.netError(os.NewSyscallError("accept", errno))
		}
	}
	s.readStopped()
	return -1, ErrWouldBlock
}

// exhausted reports whether accepting failed for lack of descriptors or memory.
func exhausted(errno syscall.Errno) bool {
	switch errno {
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		return true
	}
	return false
}

// passing reports whether an error concerns only the connection that would have
// been accepted: accept(2) passes on what the network has done to it.
func passing(errno syscall.Errno) bool {
	switch errno {
	case unix.ECONNABORTED, unix.EPROTO, unix.ENETDOWN, unix.ENOPROTOOPT, unix.EHOSTDOWN,
		unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EOPNOTSUPP, unix.ETIMEDOUT, unix.ECONNRESET, unix.EPERM:
		return true
	}
	return errno == errnoNoNet
}

// noDelay gives fd the listener's TCP_NODELAY. A connection that is gone
// already refuses, and its first read will tell.
func (ln *TCPListener) noDelay(fd int) {
	on, errno := ln.loop.sys.option(int(ln.fd), unix.IPPROTO_TCP, unix.TCP_NODELAY)
	if errno == 0 && on != 0 {
		_ = ln.loop.sys.setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
}

// Accept takes one connection from the queue. The results are those of AcceptFD.
func (ln *TCPListener) Accept() (*TCPConn, error) {
	fd, err := ln.AcceptFD()
	if err != nil {
		return nil, err
	}
	return newTCPConn(ln.loop, fd, false), nil
}

// AcceptET drains the queue for an edge-triggered acceptor: it appends to conns
// every connection that waits, until the step's budget is used up, and returns
// the extended slice. An edge is not lost when it stops early. Where the last wait
// was level-triggered it takes as many as Accept would.
//
// The result is one of: at least one connection more and nil; conns as it was
// and ErrWouldBlock: return ln.ReadableET() and try again; conns as it was and
// a *net.OpError. Loop only.
func (ln *TCPListener) AcceptET(conns []*TCPConn) ([]*TCPConn, error) {
	before := len(conns)
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			conns = append(conns, c)
		case len(conns) > before:
			if err != ErrWouldBlock && ln.fd >= 0 { // it comes again
				ln.loop.slots.get(int(ln.fd)).readStopped()
			}
			return conns, nil
		default:
			return conns, err
		}
	}
}

// Readable waits, level-triggered, until Accept can find something. Return it
// from a step.
func (ln *TCPListener) Readable() sm.Await { return ln.awake(sm.Wait(int(ln.fd), sm.Read)) }

// ReadableET is Readable, edge-triggered: after an edge, accept until AcceptET
// answers ErrWouldBlock.
func (ln *TCPListener) ReadableET() sm.Await { return ln.awake(sm.WaitEdge(int(ln.fd), sm.Read)) }

// awake is a, or while the listener rests the end of that: the socket itself is
// ready all the time then, and must not be waited for.
func (ln *TCPListener) awake(a sm.Await) sm.Await {
	if ln.fd < 0 || !ln.resting() {
		return a
	}
	return sm.Wait(int(ln.fd), 0).Until(ln.until)
}

// rest begins a rest, twice as long as the last.
func (ln *TCPListener) rest() {
	ln.pause = min(max(2*ln.pause, minRest), maxRest)
	ln.until = ln.loop.Now().Add(ln.pause)
	ln.loop.starved = append(ln.loop.starved, ln)
}

// resting reports whether the listener rests, and ends a rest that is over.
func (ln *TCPListener) resting() bool {
	if ln.until.IsZero() {
		return false
	}
	if !ln.loop.sched.Passed(ln.until) {
		return true
	}
	ln.wakeUp()
	return false
}

// wakeUp ends the rest.
func (ln *TCPListener) wakeUp() {
	ln.until = time.Time{}
	l := ln.loop
	if i := slices.Index(l.starved, ln); i >= 0 {
		l.starved = slices.Delete(l.starved, i, i+1)
	}
}

// relieve ends the rest of every listener: a descriptor was closed.
func (l *Loop) relieve() {
	for len(l.starved) > 0 {
		ln := l.starved[0]
		ln.wakeUp()
		l.slots.get(int(ln.fd)).waiters.Nudge()
	}
}

// Close stops listening, deregisters the socket, and resumes whoever waits on
// it with net.ErrClosed. Connections in the queue are reset by the kernel.
// Closing twice does nothing. Loop only.
func (ln *TCPListener) Close() error {
	ln.loop.owner.check("TCPListener.Close")
	if ln.fd < 0 {
		return nil
	}
	ln.wakeUp()
	fd := int(ln.fd)
	ln.fd = -1
	return ln.loop.closeSocket(fd)
}

// Addr is the address that the socket is bound to, also after Close. Any
// goroutine.
func (ln *TCPListener) Addr() netip.AddrPort { return ln.addr }

// FD is the descriptor, -1 after Close.
func (ln *TCPListener) FD() int { return int(ln.fd) }

// SyscallConn is as for a TCPConn.
func (ln *TCPListener) SyscallConn() (syscall.RawConn, error) {
	ln.loop.owner.check("TCPListener.SyscallConn")
	if ln.fd < 0 {
		return nil, ln.netError(net.ErrClosed)
	}
	ln.loop.slots.get(int(ln.fd)).flags |= slotForeign // it may be duplicated from now on
	return rawConn{ln.FD}, nil
}

func (ln *TCPListener) netError(err error) error {
	return netError("accept", "tcp", err, netip.AddrPort{}, ln.addr)
}
