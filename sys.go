package stepio

import (
	"net/netip"
	"syscall"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// sys is the seam between this library and the kernel: every syscall on a
// socket is one of its methods, and a poller comes from newPoller, whole. A test
// can put a simulated kernel under the real code; without one, a call costs one
// predicted branch more. Two go past it: Adopt, whose socket is package net's, and,
// when there is no simulated kernel, the first try of what moves data: Read and
// Write of a TCPConn, ReadFrom and WriteTo of a UDPConn.
//
// The methods retry EINTR, and report errno 0 for success. A caller's buffer
// never crosses the simulation's interface, or it would escape to the heap at
// every call: the simulation gets and gives copies.
type sys struct{ sim kernel }

// kernel is what a simulated kernel implements. Errno 0 is success.
type kernel interface {
	Socket(family, kind int) (fd int, errno syscall.Errno)
	Bind(fd int, addr netip.AddrPort) syscall.Errno
	Listen(fd, backlog int) syscall.Errno
	Connect(fd int, addr netip.AddrPort) syscall.Errno
	Accept(fd int) (accepted int, errno syscall.Errno)
	Read(fd, room int) (data []byte, errno syscall.Errno)
	Write(fd int, data []byte) (n int, errno syscall.Errno)
	ReceiveFrom(fd, room int) (data []byte, from netip.AddrPort, truncated bool, errno syscall.Errno)
	SendTo(fd int, data []byte, to netip.AddrPort) syscall.Errno
	Shutdown(fd, how int) syscall.Errno
	Close(fd int) syscall.Errno
	SocketOption(fd, level, name int) (value int, errno syscall.Errno)
	SetSocketOption(fd, level, name, value int) syscall.Errno
	LocalAddr(fd int) (netip.AddrPort, syscall.Errno)
	RemoteAddr(fd int) (netip.AddrPort, syscall.Errno)

	PollAdd(fd int, key uint64, dirs sm.Dir, edge bool) error
	PollModify(fd int, key uint64, dirs sm.Dir, edge bool) error
	PollRemove(fd int) error
	// PollWait calls report for every event, at most room of them. The bits of
	// ready are those of readiness.
	PollWait(room int, timeout time.Duration, report func(key uint64, ready uint8)) error
	PollWake() error
	PollClose() error
}

// simulatedPoller is the poller of a simulated kernel.
type simulatedPoller struct{ k kernel }

func (p simulatedPoller) add(fd int, key uint64, dirs sm.Dir, edge bool) error {
	return p.k.PollAdd(fd, key, dirs, edge)
}

func (p simulatedPoller) modify(fd int, key uint64, _, dirs sm.Dir, edge bool) error {
	return p.k.PollModify(fd, key, dirs, edge)
}

func (p simulatedPoller) relooks() bool { return true }

func (p simulatedPoller) remove(fd int, _ sm.Dir) error { return p.k.PollRemove(fd) }

func (p simulatedPoller) wait(events []event, timeout time.Duration) (n int, err error) {
	err = p.k.PollWait(len(events), timeout, func(key uint64, ready uint8) {
		events[n] = event{key: key, ready: readiness(ready)}
		n++
	})
	return n, err
}

func (p simulatedPoller) wake() error  { return p.k.PollWake() }
func (p simulatedPoller) close() error { return p.k.PollClose() }

func (s *sys) newPoller(batch int) (poller, error) {
	if s.sim != nil {
		return simulatedPoller{s.sim}, nil
	}
	return newPoller(batch)
}

// socket opens a non-blocking socket that does not survive exec.
func (s *sys) socket(family, kind int) (fd int, errno syscall.Errno) {
	if s.sim != nil {
		return s.sim.Socket(family, kind)
	}
	return rawSocket(family, kind)
}

func (s *sys) bind(fd int, addr netip.AddrPort) syscall.Errno {
	if s.sim != nil {
		return s.sim.Bind(fd, addr)
	}
	return rawBind(fd, addr)
}

func (s *sys) listen(fd, backlog int) syscall.Errno {
	if s.sim != nil {
		return s.sim.Listen(fd, backlog)
	}
	return rawListen(fd, backlog)
}

// connect starts a connection. After EINTR it goes on by itself (connect(2)),
// unless the signal came before it had begun: a second call tells, and begins it
// then.
func (s *sys) connect(fd int, addr netip.AddrPort) syscall.Errno {
	errno := s.tryConnect(fd, addr)
	if errno != syscall.EINTR {
		return errno
	}
	for errno == syscall.EINTR {
		errno = s.tryConnect(fd, addr)
	}
	switch errno {
	case syscall.EALREADY:
		return syscall.EINPROGRESS
	case syscall.EISCONN:
		return 0
	}
	return errno
}

func (s *sys) tryConnect(fd int, addr netip.AddrPort) syscall.Errno {
	if s.sim != nil {
		return s.sim.Connect(fd, addr)
	}
	return rawConnect(fd, addr)
}

// refuseNew has a listening socket drop the first packet of a handshake, where
// the system can: the client sends it again, and what the queue holds stays. A
// simulated kernel has no packets.
func (s *sys) refuseNew(fd int) {
	if s.sim == nil {
		rawRefuseNew(fd)
	}
}

// accept takes a connection from fd's queue; it is non-blocking and does not
// survive exec.
func (s *sys) accept(fd int) (accepted int, errno syscall.Errno) {
	for {
		if s.sim != nil {
			accepted, errno = s.sim.Accept(fd)
		} else {
			accepted, errno = rawAccept(fd)
		}
		if errno != syscall.EINTR {
			return accepted, errno
		}
	}
}

// read is recv(2) into p.
func (s *sys) read(fd int, p []byte) (n int, errno syscall.Errno) {
	for {
		if s.sim != nil {
			var data []byte
			data, errno = s.sim.Read(fd, len(p))
			n = copy(p, data)
		} else {
			n, errno = rawRead(fd, p)
		}
		if errno != syscall.EINTR {
			return n, errno
		}
	}
}

// write is send(2) of p, without SIGPIPE.
func (s *sys) write(fd int, p []byte) (n int, errno syscall.Errno) {
	for {
		if s.sim != nil {
			n, errno = s.sim.Write(fd, append([]byte(nil), p...))
		} else {
			n, errno = rawWrite(fd, p)
		}
		if errno != syscall.EINTR {
			return n, errno
		}
	}
}

// receiveFrom takes one datagram: at most len(p) of its bytes, and whether it
// was longer. The sender is not valid when the kernel does not say.
func (s *sys) receiveFrom(fd int, p []byte) (n int, from netip.AddrPort, truncated bool, errno syscall.Errno) {
	for {
		if s.sim != nil {
			var data []byte
			data, from, truncated, errno = s.sim.ReceiveFrom(fd, len(p))
			n = copy(p, data)
		} else {
			name := roomForName()
			if n, errno = rawReceive(fd, p, &name); errno == 0 {
				n, truncated = min(n, len(p)), n > len(p)
				sawWrite(p[:n])
				from = name.sender()
			}
		}
		if errno != syscall.EINTR {
			return n, from, truncated, errno
		}
	}
}

// sendTo sends one datagram, to the connected peer when to is not valid.
func (s *sys) sendTo(fd int, p []byte, to netip.AddrPort) (errno syscall.Errno) {
	for {
		switch {
		case s.sim != nil && to.IsValid():
			errno = s.sim.SendTo(fd, append([]byte(nil), p...), to)
		case s.sim != nil:
			_, errno = s.sim.Write(fd, append([]byte(nil), p...))
		case !to.IsValid():
			errno = rawSendToPeer(fd, p)
		default:
			var name rawName
			if errno = name.set(to); errno == 0 {
				errno = rawSend(fd, p, &name)
			}
		}
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// receiveBatch takes up to len(ds) datagrams, maxBatch at most, into the
// capacity of each Data, and sets all of each Datagram. Errno is what ended the
// batch, 0 when it is full: EAGAIN when the socket is empty. Unlike with other
// calls there can be both, datagrams and an errno.
func (s *sys) receiveBatch(fd int, ds []Datagram, b *batchBuffers) (n int, errno syscall.Errno) {
	if s.sim == nil {
		return b.receive(fd, ds)
	}
	return receiveEach(s, fd, ds)
}

// sendBatch sends up to len(ds) datagrams, maxBatch at most, from a socket of
// the given family; one that is connected has family AF_UNSPEC, and sends to its
// peer. n are sent. Errno is why ds[n] is not, 0 when the kernel did not say:
// then it has to be asked again. It is not 0 when n is 0.
func (s *sys) sendBatch(fd int, ds []Datagram, family int, b *batchBuffers) (n int, errno syscall.Errno) {
	if s.sim == nil {
		return b.send(fd, ds, family)
	}
	return sendEach(s, fd, ds, family)
}

// receiveEach is receiveBatch with a call for each datagram.
func receiveEach(s *sys, fd int, ds []Datagram) (n int, errno syscall.Errno) {
	for n < min(len(ds), maxBatch) {
		d := &ds[n]
		room := d.Data[:cap(d.Data)]
		size, from, truncated, errno := s.receiveFrom(fd, room)
		if errno != 0 {
			return n, errno
		}
		d.Data, d.Addr, d.Truncated, d.Err = room[:size], from, truncated, nil
		n++
	}
	return n, 0
}

// sendEach is sendBatch with a call for each datagram.
func sendEach(s *sys, fd int, ds []Datagram, family int) (n int, errno syscall.Errno) {
	for n < min(len(ds), maxBatch) {
		var to netip.AddrPort
		if family != syscall.AF_UNSPEC {
			to = mapped(family, unmapped(ds[n].Addr))
		}
		if errno := s.sendTo(fd, ds[n].Data, to); errno != 0 {
			return n, errno
		}
		n++
	}
	return n, 0
}

func (s *sys) shutdown(fd, how int) syscall.Errno {
	if s.sim != nil {
		return s.sim.Shutdown(fd, how)
	}
	return rawShutdown(fd, how)
}

// close closes fd. EINTR is not retried: the descriptor is gone then (close(2)).
func (s *sys) close(fd int) syscall.Errno {
	var errno syscall.Errno
	if s.sim != nil {
		errno = s.sim.Close(fd)
	} else {
		errno = rawClose(fd)
	}
	if errno == syscall.EINTR {
		return 0
	}
	return errno
}

func (s *sys) option(fd, level, name int) (value int, errno syscall.Errno) {
	if s.sim != nil {
		return s.sim.SocketOption(fd, level, name)
	}
	return rawOption(fd, level, name)
}

func (s *sys) setOption(fd, level, name, value int) syscall.Errno {
	if s.sim != nil {
		return s.sim.SetSocketOption(fd, level, name, value)
	}
	return rawSetOption(fd, level, name, value)
}

func (s *sys) localAddr(fd int) (netip.AddrPort, syscall.Errno) {
	if s.sim != nil {
		return s.sim.LocalAddr(fd)
	}
	return rawLocalAddr(fd)
}

func (s *sys) remoteAddr(fd int) (netip.AddrPort, syscall.Errno) {
	if s.sim != nil {
		return s.sim.RemoteAddr(fd)
	}
	return rawRemoteAddr(fd)
}

// errnoOf is err, of a call of x/sys, as an errno.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := err.(syscall.Errno); ok {
		return errno
	}
	return syscall.EINVAL
}
