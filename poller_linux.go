package stepio

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// epoll is the poller of Linux: one epoll instance, and one eventfd to wake it.
//
// The eventfd is registered edge-triggered and never read: every write is a new
// edge (epoll(7)), so a wake costs one write and no read. After 2^64-2 writes
// its counter is full, and wakeAnew goes on.
type epoll struct {
	fd      int
	eventfd int
	buf     []unix.EpollEvent
}

func newPoller(batch int) (poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	efd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fd) // the first error is the one to return
		return nil, os.NewSyscallError("eventfd2", err)
	}
	p := &epoll{fd: fd, eventfd: efd, buf: make([]unix.EpollEvent, batch)}
	if err := p.ctl(unix.EPOLL_CTL_ADD, efd, unix.EPOLLIN|unix.EPOLLET, wakeKey); err != nil {
		_ = p.close() // likewise
		return nil, err
	}
	return p, nil
}

// ctl makes one epoll_ctl. The key travels in the event's data, whose two
// halves x/sys calls Fd and Pad.
func (p *epoll) ctl(op, fd int, events uint32, key uint64) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(key), Pad: int32(key >> 32)}
	if err := unix.EpollCtl(p.fd, op, fd, &ev); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// mask is the events that a registration asks for. EPOLLRDHUP and EPOLLPRI come
// with reading: without them a short read could not be told from the last one.
func mask(dirs sm.Dir, edge bool) (events uint32) {
	if dirs&sm.Read != 0 {
		events |= unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI
	}
	if dirs&sm.Write != 0 {
		events |= unix.EPOLLOUT
	}
	if edge {
		events |= unix.EPOLLET
	}
	return events
}

// add registers fd. EEXIST means that the number was closed and opened again
// without the loop being told, while another descriptor kept the file open: the
// registration is taken over.
func (p *epoll) add(fd int, key uint64, dirs sm.Dir, edge bool) error {
	err := p.ctl(unix.EPOLL_CTL_ADD, fd, mask(dirs, edge), key)
	if isErrno(err, unix.EEXIST) {
		return p.ctl(unix.EPOLL_CTL_MOD, fd, mask(dirs, edge), key)
	}
	return err
}

// modify changes fd's registration. ENOENT means that the number was closed
// and opened again without the loop being told.
func (p *epoll) modify(fd int, key uint64, _, dirs sm.Dir, edge bool) error {
	err := p.ctl(unix.EPOLL_CTL_MOD, fd, mask(dirs, edge), key)
	if isErrno(err, unix.ENOENT) {
		return p.ctl(unix.EPOLL_CTL_ADD, fd, mask(dirs, edge), key)
	}
	return err
}

// relooks: EPOLL_CTL_MOD polls the file, and lists it when it is ready
// (ep_modify, fs/eventpoll.c).
func (p *epoll) relooks() bool { return true }

func (p *epoll) remove(fd int, _ sm.Dir) error { return p.ctl(unix.EPOLL_CTL_DEL, fd, 0, 0) }

func (p *epoll) wait(events []event, timeout time.Duration) (int, error) {
	n, errno := epollWait(p.fd, p.buf[:min(len(p.buf), len(events))], millis(timeout))
	if errno != 0 {
		if errno == unix.EINTR {
			return 0, nil
		}
		return 0, os.NewSyscallError("epoll_wait", errno)
	}
	return p.translate(events, n), nil
}

// translate fills events with the first n of the buffer, but for wakes, and
// returns how many they are.
func (p *epoll) translate(events []event, n int) (filled int) {
	for i := range n {
		ev := &p.buf[i]
		key := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
		if key == wakeKey {
			continue
		}
		events[filled] = event{key: key, ready: readinessOf(ev.Events)}
		filled++
	}
	return filled
}

// readinessOf translates epoll's bits.
func readinessOf(bits uint32) (r readiness) {
	if bits == unix.EPOLLIN { // nearly all
		return readyRead
	}
	if bits&unix.EPOLLIN != 0 {
		r |= readyRead
	}
	if bits&unix.EPOLLOUT != 0 {
		r |= readyWrite
	}
	if bits&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLPRI) != 0 {
		if bits&unix.EPOLLRDHUP != 0 {
			r |= readyEnd
		}
		if bits&unix.EPOLLHUP != 0 {
			r |= readyHangup
		}
		if bits&unix.EPOLLERR != 0 {
			r |= readyError
		}
		if bits&unix.EPOLLPRI != 0 {
			r |= readyUrgent
		}
	}
	return r
}

// millis is timeout as epoll_wait wants it: milliseconds, rounded up.
func millis(timeout time.Duration) int {
	switch {
	case timeout < 0:
		return -1
	case timeout == 0:
		return 0
	}
	const most = 1<<31 - 1
	return int(min((timeout-1)/time.Millisecond+1, most))
}

func (p *epoll) wake() error {
	one := [8]byte{0: 1}
	for {
		switch _, err := unix.Write(p.eventfd, one[:]); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return p.wakeAnew()
		}
	}
}

// wakeAnew wakes without a write, for when one has failed: registered anew, the
// eventfd makes an event at once. It can be read when it was ever written, and
// otherwise it can be written.
func (p *epoll) wakeAnew() error {
	return p.ctl(unix.EPOLL_CTL_MOD, p.eventfd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLET, wakeKey)
}

func (p *epoll) close() error {
	err := closeFD(p.eventfd)
	if e := closeFD(p.fd); err == nil {
		err = e
	}
	return err
}

// isErrno reports whether err is errno, wrapped by os.NewSyscallError or bare.
func isErrno(err error, errno unix.Errno) bool {
	if err == nil {
		return false
	}
	if u, ok := err.(interface{ Unwrap() error }); ok {
		err = u.Unwrap()
	}
	return err == errno
}
