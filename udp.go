//go:build linux || darwin

package stepio

import (
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// A UDPConn is a UDP socket of a loop. Its operations try first and never wait:
// what would have to wait answers ErrWouldBlock, and the step returns
// c.Readable(), c.Writable() or c.Wait(dirs). Any number of tasks may wait for
// one socket: an event resumes all of them.
//
// A UDPConn of DialUDP is connected: it has one peer, takes datagrams from no
// other, and is told when the peer's port is refused. Nothing that happens to
// one datagram ends the socket.
//
// It owns no buffer. Its methods are for the loop's goroutine.
type UDPConn struct {
	socket
	peer   netip.AddrPort // valid when connected
	family uint16         // of the addresses that the socket takes; AF_UNSPEC when connected
}

// ListenUDPOptions says how to open a UDP socket. The zero value is what most
// servers want.
type ListenUDPOptions struct {
	// ReusePort lets several sockets have one address (SO_REUSEPORT): on Linux
	// the kernel spreads the senders over them. All must set it.
	ReusePort bool
	// V6Only keeps a socket on the IPv6 wildcard from taking IPv4 datagrams.
	V6Only bool
	// ReadBuffer and WriteBuffer are sizes of the kernel's buffers, in bytes. 0
	// leaves them as they are. See SetReadBuffer.
	ReadBuffer, WriteBuffer int
}

// ListenUDP opens a socket on addr. Port 0 is a free port, which LocalAddr
// tells. The IPv6 wildcard takes IPv4 datagrams too, unless options say
// otherwise, and on a machine without IPv6 it is the IPv4 wildcard.
//
// The error is a *net.OpError that says which call failed: errors.Is finds
// syscall.EADDRINUSE, syscall.EACCES and so on. Loop only.
func ListenUDP(loop *Loop, addr netip.AddrPort, options ListenUDPOptions) (*UDPConn, error) {
	loop.owner.check("ListenUDP")
	fd, addr, err := loop.openBound(addr, unix.SOCK_DGRAM, options.ReusePort, options.V6Only)
	if err != nil {
		return nil, netError("listen", "udp", err, netip.AddrPort{}, addr)
	}
	c := newUDPConn(loop, fd)
	c.family = uint16(familyOf(addr))
	if err := c.setBuffers(options.ReadBuffer, options.WriteBuffer); err != nil {
		_ = c.Close() // the first error is the one to return
		return nil, err
	}
	return c, nil
}

// DialUDPOptions says how to open a connected UDP socket. The zero value is
// what most clients want.
type DialUDPOptions struct {
	// Local is the address to send from. Not valid: the kernel chooses.
	Local netip.AddrPort
	// ReadBuffer and WriteBuffer are sizes of the kernel's buffers, in bytes. 0
	// leaves them as they are. See SetReadBuffer.
	ReadBuffer, WriteBuffer int
}

// DialUDP opens a socket that is connected to addr: see UDPConn. Nothing is
// sent, so it never waits, and succeeds whether or not anyone listens there.
//
// The error is a *net.OpError that says which call failed: errors.Is finds
// syscall.ENETUNREACH, syscall.EADDRINUSE and so on. Loop only.
func DialUDP(loop *Loop, addr netip.AddrPort, options DialUDPOptions) (*UDPConn, error) {
	loop.owner.check("DialUDP")
	c, err := loop.openConnected(unmapped(addr), options.Local)
	if err != nil {
		return nil, netError("dial", "udp", err, options.Local, addr)
	}
	if err := c.setBuffers(options.ReadBuffer, options.WriteBuffer); err != nil {
		_ = c.Close() // the first error is the one to return
		return nil, err
	}
	return c, nil
}

func (l *Loop) openConnected(addr, local netip.AddrPort) (*UDPConn, error) {
	if !addr.IsValid() {
		return nil, syscall.EINVAL
	}
	family := familyOf(addr)
	fd, errno := l.sys.socket(family, unix.SOCK_DGRAM)
	if errno != 0 {
		return nil, os.NewSyscallError("socket", errno)
	}
	c := newUDPConn(l, fd)
	if err := c.connect(addr, mapped(family, unmapped(local))); err != nil {
		_ = c.Close() // the first error is the one to return
		return nil, err
	}
	return c, nil
}

func newUDPConn(loop *Loop, fd int) *UDPConn {
	loop.claim(fd, false)
	return &UDPConn{socket: socket{loop: loop, fd: int32(fd), network: networkUDP}}
}

// connect gives the socket its peer, and a local address where one is valid.
func (c *UDPConn) connect(addr, local netip.AddrPort) error {
	sys, fd := &c.loop.sys, int(c.fd)
	if local.IsValid() {
		if errno := sys.bind(fd, local); errno != 0 {
			return os.NewSyscallError("bind", errno)
		}
	}
	if errno := sys.connect(fd, addr); errno != 0 {
		return os.NewSyscallError("connect", errno)
	}
	peer, errno := sys.remoteAddr(fd) // in the form in which datagrams will come from it
	if errno != 0 {
		return os.NewSyscallError("getpeername", errno)
	}
	c.peer = peer
	return nil
}

func (c *UDPConn) setBuffers(read, write int) error {
	if read != 0 {
		if err := c.SetReadBuffer(read); err != nil {
			return err
		}
	}
	if write != 0 {
		return c.SetWriteBuffer(write)
	}
	return nil
}

// ReadFrom takes one datagram, copies it into p, and never waits. A datagram
// may be empty, and so may p.
//
// The result is one of: n >= 0, the sender, and nil; len(p), the sender, and
// ErrTruncated when the datagram was longer than p: the rest is lost; 0 and
// ErrWouldBlock when none has arrived, or the step's budget is used up: return
// c.Readable() and try again; 0 and a *net.OpError that is
// os.ErrDeadlineExceeded after the read deadline, net.ErrClosed after Close, or
// what the kernel says of something that was sent earlier, such as
// syscall.ECONNREFUSED on a connected socket: reading goes on after that.
//
// An IPv4 sender is an IPv4 address, also on an IPv6 socket. Its port may be 0:
// such a datagram cannot be answered. On macOS a call allocates the address.
// Loop only.
func (c *UDPConn) ReadFrom(p []byte) (n int, from netip.AddrPort, err error) {
	l := c.loop
	l.owner.check("UDPConn.ReadFrom")
	s, err := c.beginRead()
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	if l.sys.sim != nil {
		return c.received(s, p, 0, netip.AddrPort{}, syscall.EINTR)
	}
	// The call itself, and not by way of sys: one return less on the way back from
	// the kernel, which the processor predicts wrong (docs/internals.md). What it
	// nearly always brings is answered here, and so without what else there is to
	// load and to fetch.
	name := roomForName()
	n, errno := rawReceive(int(c.fd), p, &name)
	if errno == 0 && n <= len(p) {
		sawWrite(p[:n])
		c.took(s, n)
		if name.is4() {
			return n, name.v4(), nil
		}
		return n, c.senderOr(name.sender()), nil
	}
	return c.received(s, p, n, name.sender(), errno)
}

// received is the answer of ReadFrom to a call that brought n bytes, of which p has
// those that it had room for, or an errno. EINTR stands for a call that was
// interrupted, or not made, as there is a simulated kernel: it is made anew.
func (c *UDPConn) received(s *slot, p []byte, n int, from netip.AddrPort, errno syscall.Errno) (int, netip.AddrPort, error) {
	truncated := n > len(p)
	if errno == syscall.EINTR {
		n, from, truncated, errno = c.loop.sys.receiveFrom(int(c.fd), p)
	}
	if errno != 0 {
		return 0, netip.AddrPort{}, c.readFailed(s, "recvfrom", errno)
	}
	n = min(n, len(p))
	sawWrite(p[:n])
	c.took(s, n)
	if truncated {
		return n, c.senderOr(from), ErrTruncated
	}
	return n, c.senderOr(from), nil
}

// took notes that a read has taken a datagram of n bytes.
func (c *UDPConn) took(s *slot, n int) {
	s.readStopped() // there may be more
	c.loop.sched.Spend(n)
}

// senderOr is from, or the peer where the kernel has not told.
func (c *UDPConn) senderOr(from netip.AddrPort) netip.AddrPort {
	if !from.IsValid() {
		return c.peer
	}
	return from
}

// Read is ReadFrom for a connected socket, without the sender. Loop only.
func (c *UDPConn) Read(p []byte) (n int, err error) {
	c.loop.owner.check("UDPConn.Read")
	n, _, err = c.ReadFrom(p)
	return n, err
}

// beginRead is the slot to read from, or why a read is not even tried.
func (c *UDPConn) beginRead() (*slot, error) {
	if c.fd < 0 || c.deadlines != nil || c.errno != 0 {
		if err := c.readRefused(); err != nil {
			return nil, err
		}
	}
	s := c.slot()
	if s.drained() {
		return nil, ErrWouldBlock
	}
	if !c.loop.sched.Admit() {
		s.readStopped()
		return nil, ErrWouldBlock
	}
	return s, nil
}

// readFailed is the answer of a read that took nothing.
func (c *UDPConn) readFailed(s *slot, call string, errno syscall.Errno) error {
	if errno == unix.EAGAIN {
		c.loop.sched.Refund()
		// An error of a datagram passes, unlike a stream's end: once the socket is
		// empty the next event will tell of whatever comes.
		s.flags &^= slotRestless
		s.readEmptied()
		return ErrWouldBlock
	}
	s.readStopped() // what came with the error is still there
	return c.opErrorOf("read", call, errno)
}

// WriteTo sends p, which may be empty, as one datagram and never waits. A
// connected socket sends to its peer only.
//
// The result is one of: len(p) and nil; 0 and ErrWouldBlock when the socket
// takes no more, or the step's budget is used up: return c.Writable() and try
// again; 0 and a *net.OpError that is os.ErrDeadlineExceeded after the write
// deadline, net.ErrClosed after Close, net.ErrWriteToConnected when the socket
// is connected and to is not its RemoteAddr, or what the kernel says:
// syscall.EMSGSIZE when p is too long, syscall.EINVAL for port 0,
// syscall.EDESTADDRREQ when to is not valid, and so on. Such an error is the
// datagram's alone, and writing goes on after it. A connected socket may also answer
// with what became of an earlier one, such as syscall.ECONNREFUSED; p is not sent
// then.
//
// A nil error says that the datagram is on its way, not that it arrives. An
// IPv6 socket sends to an IPv4 address too, unless it is V6Only. On macOS a
// call allocates the address. Loop only.
func (c *UDPConn) WriteTo(p []byte, to netip.AddrPort) (n int, err error) {
	l := c.loop
	l.owner.check("UDPConn.WriteTo")
	if err := c.beginWrite(); err != nil {
		return 0, err
	}
	if !l.sched.Admit() {
		c.slot().writeStopped() // another task may go on, and the room makes no second edge
		return 0, ErrWouldBlock
	}
	var name rawName
	if c.family == unix.AF_INET && to.Addr().Is4() {
		name.set4(to.Addr().As4(), to.Port())
	} else {
		var err error
		if to, err = c.address(&name, to); err != nil {
			return 0, err
		}
	}
	if l.sys.sim != nil {
		return c.sent(p, to, syscall.EINTR)
	}
	// Charged before the call, as in TCPConn.Write; and the call itself, as in ReadFrom.
	l.sched.Spend(len(p))
	var errno syscall.Errno
	if name.isSet() {
		errno = rawSend(int(c.fd), p, &name)
	} else {
		errno = rawSendToPeer(int(c.fd), p)
	}
	if errno != 0 {
		l.sched.Spend(-len(p))
		return c.sent(p, to, errno)
	}
	return len(p), nil
}

// address makes name that of to, and returns to as the socket takes it. For the peer of a
// connected socket name is not set, and what is returned not valid.
func (c *UDPConn) address(name *rawName, to netip.AddrPort) (netip.AddrPort, error) {
	if c.peer.IsValid() && unmapped(to) != c.peer {
		return to, c.writeFailed(to, net.ErrWriteToConnected)
	}
	if c.peer.IsValid() || !to.IsValid() { // the kernel knows, or says that it does not
		return netip.AddrPort{}, nil
	}
	to = mapped(int(c.family), unmapped(to))
	if errno := name.set(to); errno != 0 {
		return to, c.writeFailed(to, os.NewSyscallError("sendto", errno))
	}
	return to, nil
}

// sent is the answer of WriteTo to a call. EINTR: as in received.
func (c *UDPConn) sent(p []byte, to netip.AddrPort, errno syscall.Errno) (n int, err error) {
	l := c.loop
	if errno == syscall.EINTR {
		errno = l.sys.sendTo(int(c.fd), p, to)
	}
	switch errno {
	case 0:
		l.sched.Spend(len(p))
		return len(p), nil
	case unix.EAGAIN:
		l.sched.Refund()
		// An edge that was remembered has been used up.
		c.slot().edges &^= sm.Write
		return 0, ErrWouldBlock
	default:
		return 0, c.writeFailed(to, os.NewSyscallError("sendto", errno))
	}
}

// Write sends p to the peer of a connected socket. The results are those of
// WriteTo, and syscall.EDESTADDRREQ when the socket is not connected. Loop only.
func (c *UDPConn) Write(p []byte) (n int, err error) {
	c.loop.owner.check("UDPConn.Write")
	return c.WriteTo(p, c.peer)
}

// beginWrite is why a write is not even tried.
func (c *UDPConn) beginWrite() error {
	if c.fd < 0 || c.deadlines != nil {
		return c.writeRefused()
	}
	return nil
}

// writeFailed is the error of a datagram to an address.
func (c *UDPConn) writeFailed(to netip.AddrPort, err error) error {
	if !to.IsValid() {
		to = c.peer
	}
	return netError("write", "udp", err, c.LocalAddr(), unmapped(to))
}

// RemoteAddr is the peer of a connected socket, also after Close; not valid
// when the socket is not connected.
func (c *UDPConn) RemoteAddr() netip.AddrPort { return c.peer }

// Close closes the socket, deregisters it, and resumes whoever waits on it with
// net.ErrClosed. Datagrams that nobody read are lost; those that were sent are
// sent. Closing twice does nothing, nor does closing nil. Loop only.
func (c *UDPConn) Close() error {
	if c == nil {
		return nil
	}
	return c.close()
}
