//go:build linux || darwin

package simkernel

import (
	"syscall"
	"time"
)

// stream is the TCP part of a file: a listener, or one end of a connection.
// Bytes go from out of one end to in of the other, in their order, when the
// network moves.
type stream struct {
	state   streamState
	peer    *file
	out, in []byte
	ended   bool // no more input: the peer's end has come, SHUT_RD, or a reset
	ending  bool // no more output
	told    bool // the end of the output has arrived
	moving  bool // out is in flight
	abrupt  bool // close resets

	finished bool // the peer's end has come

	queue   []*file // of a listener
	backlog int
}

type streamState uint8

const (
	fresh       streamState = iota
	listening               // has a queue
	connecting              // connect has begun
	established             // has a peer
	broken                  // refused or reset: there is no peer any more
)

// Timeouts of the network.
const (
	retryAfter  = 200 * time.Millisecond // a connect that found the queue full
	giveUpAfter = 127 * time.Second      // a connect that nobody answers
)

// Listen is listen(2).
func (k *Kernel) Listen(fd, backlog int) syscall.Errno {
	f, errno := k.file("listen", fd)
	if errno == 0 {
		k.named(f)
		f.state, f.backlog = listening, backlog
		k.listeners = append(k.listeners, f)
	}
	k.trace("listen", fd, backlog, errno, nil)
	return errno
}

// connect begins to connect f, or tells what has become of that.
func (k *Kernel) connect(f *file) syscall.Errno {
	switch f.state {
	case connecting:
		return syscall.EALREADY
	case established:
		return syscall.EISCONN
	case broken:
		errno := f.err
		f.err = 0
		return errno
	}
	f.state = connecting
	switch {
	case k.draw(Unanswered):
		k.Disturbed = true
		k.after(giveUpAfter, func() { k.fail(f, syscall.ETIMEDOUT) })
	case k.rnd.IntN(8) == 0:
		if k.establish(f); f.state == established {
			return 0
		}
	default:
		k.send(func() { k.establish(f) })
	}
	if k.draw(Interrupted) {
		return syscall.EINTR // it goes on by itself
	}
	return syscall.EINPROGRESS
}

// establish is the arrival of a connect at its listener.
func (k *Kernel) establish(f *file) {
	if f.gone {
		return
	}
	var ln *file
	for _, l := range k.listeners {
		if l.near == f.far {
			ln = l
		}
	}
	switch {
	case ln == nil:
		k.fail(f, syscall.ECONNREFUSED)
	case len(ln.queue) >= ln.backlog:
		k.Count(BacklogFull)
		k.after(retryAfter, func() { k.establish(f) })
	default:
		s := k.newFile(syscall.SOCK_STREAM)
		s.near, s.far = ln.near, f.near
		s.state, f.state = established, established
		s.peer, f.peer = f, s
		ln.queue = append(ln.queue, s)
		k.wake(ln, Readable)
		k.wake(f, everything)
		k.kick(f)
	}
}

// connected reports whether f has a peer. When both have ended their output, the
// connection is over.
func (f *file) connected() bool { return f.state == established && !(f.told && f.finished) }

// fail ends f for good: nothing can be sent, and nothing more comes.
func (k *Kernel) fail(f *file, errno syscall.Errno) {
	if f.gone || f.state == broken {
		return
	}
	if f.state == established && f.ended {
		errno = syscall.EPIPE // tcp_reset, of a socket that has seen the end
	}
	f.state, f.err, f.out = broken, errno, nil
	f.ended, f.ending = true, true
	k.wake(f, everything)
}

// breakUp resets f, and tells its peer.
func (k *Kernel) breakUp(f *file) {
	peer := f.peer
	f.out = nil
	if f.gone {
		f.state = broken
	} else {
		k.fail(f, syscall.ECONNRESET)
	}
	if peer != nil && peer.state == established {
		k.send(func() { k.fail(peer, syscall.ECONNRESET) })
	}
}

// Accept is accept4(2).
func (k *Kernel) Accept(fd int) (accepted int, errno syscall.Errno) {
	f, errno := k.file("accept", fd)
	accepted = -1
	if errno == 0 {
		accepted, errno = k.accept(f)
	}
	k.moved(errno)
	k.trace("accept", fd, accepted, errno, nil)
	return accepted, errno
}

func (k *Kernel) accept(f *file) (int, syscall.Errno) {
	if k.draw(Interrupted) {
		return -1, syscall.EINTR
	}
	switch {
	case f.state != listening:
		return -1, syscall.EINVAL
	case len(f.queue) == 0:
		return -1, syscall.EAGAIN
	case k.draw(WouldBlock):
		k.again(f, Readable)
		return -1, syscall.EAGAIN
	case k.draw(OutOfBuffers):
		return -1, syscall.ENOBUFS
	case k.draw(Aborted):
		k.Disturbed = true
		s := f.queue[0]
		f.queue = f.queue[1:]
		s.gone = true
		k.breakUp(s)
		return -1, syscall.ECONNABORTED
	}
	s := f.queue[0]
	if errno := k.install(s); errno != 0 {
		return -1, errno
	}
	f.queue = f.queue[1:]
	return s.fd, 0
}

// Read is recv(2).
func (k *Kernel) Read(fd, room int) (data []byte, errno syscall.Errno) {
	f, errno := k.file("read", fd)
	if errno == 0 {
		if f.kind == syscall.SOCK_DGRAM {
			data, _, _, errno = k.receive(f, room)
		} else {
			data, errno = k.read(f, room)
		}
	}
	k.moved(errno)
	k.trace("read", fd, room, errno, data)
	return data, errno
}

func (k *Kernel) read(f *file, room int) ([]byte, syscall.Errno) {
	if k.draw(Interrupted) {
		return nil, syscall.EINTR
	}
	if f.state == established && k.draw(Reset) {
		k.Disturbed = true
		k.breakUp(f)
	}
	if len(f.in) > 0 {
		if k.draw(WouldBlock) {
			k.again(f, Readable)
			return nil, syscall.EAGAIN
		}
		n := min(room, len(f.in))
		if n > 1 && k.draw(PartialRead) {
			n = 1 + k.rnd.IntN(n-1)
			k.again(f, Readable)
		}
		data := f.in[:n:n]
		f.in = f.in[n:]
		if f.peer != nil {
			k.kick(f.peer) // there is room for more
		}
		return data, 0
	}
	switch {
	case f.finished: // an error that came after the end is for others to find
		return nil, 0
	case f.err != 0:
		errno := f.err
		f.err = 0
		return nil, errno
	case f.ended:
		return nil, 0
	case f.state == fresh || f.state == listening:
		return nil, syscall.ENOTCONN
	}
	return nil, syscall.EAGAIN
}

// Write is send(2).
func (k *Kernel) Write(fd int, data []byte) (n int, errno syscall.Errno) {
	f, errno := k.file("write", fd)
	if errno == 0 {
		if f.kind == syscall.SOCK_DGRAM {
			if errno = k.transmit(f, data, f.far); errno == 0 {
				n = len(data)
			}
		} else {
			n, errno = k.write(f, data)
		}
	}
	k.moved(errno)
	k.trace("write", fd, n, errno, data)
	return n, errno
}

func (k *Kernel) write(f *file, data []byte) (int, syscall.Errno) {
	if k.draw(Interrupted) {
		return 0, syscall.EINTR
	}
	if f.state == established && k.draw(Reset) {
		k.Disturbed = true
		k.breakUp(f)
	}
	switch {
	case f.err != 0:
		errno := f.err
		f.err = 0
		return 0, errno
	case f.ending || f.state == fresh || f.state == listening:
		return 0, syscall.EPIPE
	}
	n := min(len(data), k.config.SendBuffer-len(f.out))
	switch {
	case f.state == connecting || n <= 0:
		f.nospace = true
		return 0, syscall.EAGAIN
	case k.draw(WouldBlock):
		k.again(f, Writable)
		return 0, syscall.EAGAIN
	case n > 1 && k.draw(PartialWrite):
		n = 1 + k.rnd.IntN(n-1)
		k.again(f, Writable)
	case n < len(data):
		f.nospace = true
	}
	f.out = append(f.out, data[:n]...)
	k.kick(f)
	return n, 0
}

// Shutdown is shutdown(2).
func (k *Kernel) Shutdown(fd, how int) syscall.Errno {
	f, errno := k.file("shutdown", fd)
	switch {
	case errno != 0:
	case !f.connected():
		errno = syscall.ENOTCONN
	default:
		if how != syscall.SHUT_WR {
			f.ended = true
		}
		if how != syscall.SHUT_RD {
			f.ending = true
			k.kick(f)
		}
		k.wake(f, everything)
	}
	k.trace("shutdown", fd, how, errno, nil)
	return errno
}

// closeStream is the close of a listener or of one end of a connection. With
// unread input it is a reset (RFC 1122, 4.2.2.13); otherwise what was written is
// still sent.
func (k *Kernel) closeStream(f *file) {
	switch {
	case f.state == listening:
		k.listeners = without(k.listeners, f)
		for _, s := range f.queue {
			s.gone = true
			k.breakUp(s)
		}
		f.queue = nil
	case f.state == established && (len(f.in) > 0 || f.abrupt):
		k.breakUp(f)
	case f.state == established:
		f.ending = true
		k.kick(f)
	}
}

// writable reports whether a poll finds room: a third of the buffer, as in
// sk_stream_is_writeable.
func (k *Kernel) writable(f *file) bool { return 3*len(f.out) <= 2*k.config.SendBuffer }

// kick has what f has to send travel.
func (k *Kernel) kick(f *file) {
	if f.state == established && !f.moving && (len(f.out) > 0 || f.ending && !f.told) {
		f.moving = true
		k.send(func() { k.move(f) })
	}
}

// move takes some bytes of f, or its end, to its peer.
func (k *Kernel) move(f *file) {
	f.moving = false
	peer := f.peer
	if f.state != established || peer.state != established {
		return // reset, or about to be
	}
	if len(f.out) == 0 {
		f.told, peer.ended, peer.finished = true, true, true
		if !peer.ending {
			k.Count(HalfClosed)
		}
		k.wake(peer, everything)
		return
	}
	if peer.gone { // data for a socket that nobody reads any more
		k.breakUp(f)
		return
	}
	n := min(len(f.out), k.config.ReceiveBuffer-len(peer.in))
	if n <= 0 {
		return // a read of the peer's kicks
	}
	n = 1 + k.rnd.IntN(n)
	peer.in = append(peer.in, f.out[:n]...)
	f.out = f.out[n:]
	k.wake(peer, Readable)
	k.spaced(f, k.writable(f))
	k.kick(f)
}

// spaced tells a writer who waits for room that there is some.
func (k *Kernel) spaced(f *file, writable bool) {
	if f.nospace && writable {
		f.nospace = false
		k.wake(f, Writable)
	}
}
