package kqsim

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Knotes, and the conditions of their filters. The flags of a knote are those of
// the change that made it: adding it again changes its Fflags and Udata, and asks
// once more whether its condition holds, but leaves EV_CLEAR as it was
// (knote_apply_touch, kern_event.c).

type knoteID struct {
	ident  uint64
	filter int16
}

// knote is one registration.
type knote struct {
	id     knoteID
	flags  uint16
	fflags uint32 // wanted
	udata  uint64
	token  uint64
	file   file
	inLine bool
}

// file is what a descriptor was open on: another one means that it was closed.
type file struct {
	dev, ino uint64
	kind     uint32 // S_IFSOCK and its like
	stream   bool   // a TCP socket
}

// fileOf is what fd is open on.
func fileOf(fd int) (file, syscall.Errno) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return file{}, errnoOf(err)
	}
	f := file{dev: st.Dev, ino: st.Ino, kind: st.Mode & unix.S_IFMT}
	if f.kind == unix.S_IFSOCK {
		protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		f.stream = err == nil && protocol == unix.IPPROTO_TCP
	}
	return f, 0
}

// closed reports whether the descriptor is another file than it was.
func (k *knote) closed() bool {
	f, errno := fileOf(int(k.id.ident))
	return errno != 0 || f != k.file
}

// change makes one change.
func (q *queue) change(c Event) syscall.Errno {
	if c.Filter != FilterRead && c.Filter != FilterWrite || c.Flags&^modelled != 0 {
		return unix.EINVAL
	}
	id := knoteID{c.Ident, c.Filter}
	k := q.knotes[id]
	if k != nil && k.closed() {
		q.forget(k)
		k = nil
	}
	switch {
	case c.Flags&Delete != 0: // overrules EV_ADD
		if k == nil {
			return unix.ENOENT // also where the descriptor is not open: no file is looked for
		}
		q.detach(k)
		return 0
	case k != nil:
		k.fflags, k.udata = c.Fflags, c.Udata
	case c.Flags&Add == 0:
		return unix.ENOENT
	default:
		var errno syscall.Errno
		if k, errno = q.attach(c); errno != 0 {
			return errno
		}
	}
	if _, holds := k.ask(); holds {
		q.activate(k)
	}
	return 0
}

// attach makes a knote. A directory or the like has no filters; a pipe that
// nobody reads any more is refused for writing (pipe_kqfilter, sys_pipe.c).
func (q *queue) attach(c Event) (*knote, syscall.Errno) {
	fd := int(c.Ident)
	f, errno := fileOf(fd)
	if errno != 0 {
		return nil, errno
	}
	q.tokens++
	k := &knote{
		id: knoteID{c.Ident, c.Filter}, flags: c.Flags &^ (Add | Delete), fflags: c.Fflags, udata: c.Udata,
		token: q.tokens, file: f,
	}
	happens, epoll := uint32(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLPRI), q.epolls[0]
	if c.Filter == FilterWrite {
		happens, epoll = unix.EPOLLOUT, q.epolls[1]
	}
	switch {
	case f.kind == unix.S_IFREG: // nothing ever happens to one
	case f.kind == unix.S_IFIFO && c.Filter == FilterWrite && k.poll()&unix.POLLERR != 0:
		return nil, unix.EPIPE
	default:
		ev := unix.EpollEvent{Events: happens | unix.EPOLLET, Fd: int32(k.token), Pad: int32(k.token >> 32)}
		err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &ev)
		if err == unix.EEXIST { // closed while a duplicate kept the file open, and now it is back
			err = unix.EpollCtl(epoll, unix.EPOLL_CTL_MOD, fd, &ev)
		}
		switch err {
		case nil:
		case unix.EPERM:
			return nil, unix.EINVAL
		default:
			return nil, errnoOf(err)
		}
	}
	q.knotes[k.id] = k
	q.byToken[k.token] = k
	return k, 0
}

// detach ends a knote.
func (q *queue) detach(k *knote) {
	if k.file.kind != unix.S_IFREG {
		epoll := q.epolls[0]
		if k.id.filter == FilterWrite {
			epoll = q.epolls[1]
		}
		_ = unix.EpollCtl(epoll, unix.EPOLL_CTL_DEL, int(k.id.ident), nil) // it is there
	}
	q.forget(k)
}

// forget ends a knote whose descriptor was closed.
func (q *queue) forget(k *knote) {
	delete(q.knotes, k.id)
	delete(q.byToken, k.token)
	for i := range q.line {
		if q.line[i] == k {
			q.line = append(q.line[:i:i], q.line[i+1:]...)
			break
		}
	}
	k.inLine = false
}

// poll is poll(2) for what the filter asks.
func (k *knote) poll() int16 {
	events := int16(unix.POLLIN | unix.POLLPRI | unix.POLLRDHUP)
	if k.id.filter == FilterWrite {
		events = unix.POLLOUT | unix.POLLRDHUP
	}
	fds := [1]unix.PollFd{{Fd: int32(k.id.ident), Events: events}}
	for {
		if _, err := unix.Poll(fds[:], 0); err != unix.EINTR {
			return fds[0].Revents
		}
	}
}

// ask returns the knote's event and whether its condition holds.
func (k *knote) ask() (ev Event, holds bool) {
	ev = Event{Ident: k.id.ident, Filter: k.id.filter, Flags: k.flags, Udata: k.udata}
	ready := k.poll()
	switch {
	case k.file.kind == unix.S_IFREG:
		holds = k.askRegular(&ev)
	case k.id.filter == FilterRead:
		holds = k.askRead(&ev, ready)
	default:
		holds = k.askWrite(&ev, ready)
	}
	return ev, holds
}

// askRegular: what is left until the end of a regular file, and reading is ready
// while it is not 0; writing always.
func (k *knote) askRegular(ev *Event) bool {
	fd := int(k.id.ident)
	var st unix.Stat_t
	at, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return false
	}
	ev.Data = st.Size - at
	return ev.Data != 0 || k.id.filter == FilterWrite
}

// askRead: connections in the queue of a listener; bytes in the buffer of a
// socket or pipe; EV_EOF once the other end has finished, whatever is left
// (filt_soread_common, uipc_socket.c; filt_piperead_common, sys_pipe.c).
func (k *knote) askRead(ev *Event, ready int16) bool {
	fd := int(k.id.ident)
	if k.file.kind == unix.S_IFSOCK {
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listens != 0 {
			ev.Data = k.backlog()
			return ready&unix.POLLIN != 0
		}
	}
	if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
		ev.Data = int64(n)
	}
	if k.file.kind != unix.S_IFSOCK {
		if ready&unix.POLLHUP != 0 {
			ev.Flags |= EOF
		}
		return ready&(unix.POLLIN|unix.POLLHUP|unix.POLLERR) != 0
	}
	switch {
	case k.fflags&NoteOOB != 0 && ready&unix.POLLPRI != 0: // told before the end is
		ev.Fflags = NoteOOB
		return true
	case ready&unix.POLLRDHUP != 0:
		ev.Flags |= EOF
		ev.Fflags = pending(ready)
		return true
	}
	return ready&(unix.POLLIN|unix.POLLERR) != 0
}

// backlog is how many connections wait to be accepted.
func (k *knote) backlog() int64 {
	if info, err := unix.GetsockoptTCPInfo(int(k.id.ident), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
		return int64(info.Unacked) // of a listener, that is the length of its queue
	}
	return 1
}

// askWrite: room in the buffer of a connected socket or of a pipe; EV_EOF once
// nothing can be sent any more, by this end's doing or the other's
// (filt_sowrite_common, uipc_socket.c).
func (k *knote) askWrite(ev *Event, ready int16) bool {
	fd := int(k.id.ident)
	if k.file.kind != unix.S_IFSOCK {
		if ready&unix.POLLERR != 0 {
			ev.Flags |= EOF
		}
		return ready&(unix.POLLOUT|unix.POLLERR) != 0
	}
	size, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF) // 0 where it is not told
	if queued, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ); err == nil {
		ev.Data = int64(size - queued)
	}
	connected, over := true, ready&unix.POLLHUP != 0
	if k.file.stream {
		connected, over = k.tcp(ready)
	}
	switch {
	case over:
		ev.Flags |= EOF
		ev.Fflags = pending(ready)
		return true
	case ready&unix.POLLERR != 0:
		return true
	}
	return connected && ready&unix.POLLOUT != 0
}

// The states of TCP that matter here (enum in net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpSynReceived = 3
	tcpClose       = 7
	tcpCloseWait   = 8
	tcpListen      = 10
)

// tcp reports whether a TCP socket has a peer, and whether it can't send any
// more: it has shut that down, or the connection is over.
func (k *knote) tcp(ready int16) (connected, over bool) {
	info, err := unix.GetsockoptTCPInfo(int(k.id.ident), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false, false
	}
	switch info.State {
	case tcpEstablished, tcpCloseWait:
		return true, false
	case tcpSynSent, tcpSynReceived, tcpListen:
		return false, false
	case tcpClose:
		return false, ready&unix.POLLRDHUP != 0 // else it was never connected
	}
	return true, true
}

// pending is the socket's error.
func pending(ready int16) uint32 {
	if ready&unix.POLLERR != 0 {
		return uint32(unix.ECONNRESET)
	}
	return 0
}
