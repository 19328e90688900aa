package kqsim

// The calls: changes, the line, the scan. doc.go says what they model.

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Event is struct kevent: a change, a receipt, or an event.
type Event struct {
	Ident  uint64
	Filter int16
	Flags  uint16
	Fflags uint32
	Data   int64
	Udata  uint64
}

// The constants of sys/event.h.
const (
	FilterRead  = -1
	FilterWrite = -2

	Add     = 0x0001
	Delete  = 0x0002
	Clear   = 0x0020
	Receipt = 0x0040
	Error   = 0x4000
	EOF     = 0x8000

	NoteOOB = 0x0002
)

// modelled are the flags that a change may have.
const modelled = Add | Delete | Clear | Receipt

// longest is the longest timeout in seconds that the kernel takes.
const longest = 100_000_000

// queue is one kqueue.
type queue struct {
	epolls  [2]int // what happens to reading, and to writing
	knotes  map[knoteID]*knote
	byToken map[uint64]*knote // what epoll says
	tokens  uint64
	line    []*knote
}

// queues are the kqueues that are open, by descriptor.
var queues struct {
	sync.Mutex
	open map[int]*queue
}

// Open is kqueue(2).
func Open() (fd int, errno syscall.Errno) {
	q := &queue{knotes: make(map[knoteID]*knote), byToken: make(map[uint64]*knote)}
	for i := range q.epolls {
		fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			if i == 1 {
				_ = unix.Close(q.epolls[0]) // the first error is the one to return
			}
			return -1, errnoOf(err)
		}
		q.epolls[i] = fd
	}
	queues.Lock()
	defer queues.Unlock()
	if queues.open == nil {
		queues.open = make(map[int]*queue)
	}
	queues.open[q.epolls[0]] = q
	return q.epolls[0], 0
}

// Close is close(2) of a kqueue.
func Close(fd int) error {
	queues.Lock()
	q := queues.open[fd]
	delete(queues.open, fd)
	queues.Unlock()
	if q == nil {
		return unix.EBADF
	}
	err := unix.Close(q.epolls[1])
	if e := unix.Close(q.epolls[0]); err == nil {
		err = e
	}
	return err
}

// Kevent is kevent(2): it makes changes, then fills events. A nil timeout is for
// ever. One goroutine at a time may call it for a kqueue.
//
// A change that fails, and every one with EV_RECEIPT, is answered in events as
// far as there is room: EV_ERROR, and an errno or 0. Without room a failure ends
// the call. When anything was answered, nothing is waited for and no event is
// reported (kevent_internal, kern_event.c).
func Kevent(fd int, changes, events []Event, timeout *unix.Timespec) (n int, errno syscall.Errno) {
	queues.Lock()
	q := queues.open[fd]
	queues.Unlock()
	if q == nil {
		return 0, unix.EBADF
	}
	var until time.Time
	if timeout != nil {
		if timeout.Sec < 0 || timeout.Sec > longest || timeout.Nsec < 0 || time.Duration(timeout.Nsec) >= time.Second {
			return 0, unix.EINVAL
		}
		until = time.Now().Add(time.Duration(timeout.Nano()))
	}
	for _, change := range changes {
		errno := q.change(change)
		switch {
		case errno == 0 && change.Flags&Receipt == 0:
		case n < len(events):
			answer := change
			answer.Flags |= Error
			answer.Data = int64(errno)
			events[n] = answer
			n++
		case errno != 0:
			return 0, errno
		}
	}
	if n > 0 || len(events) == 0 {
		return n, 0
	}
	for {
		if errno := q.collect(); errno != 0 {
			return 0, errno
		}
		if n := q.scan(events); n > 0 {
			return n, 0
		}
		if over, errno := q.sleep(timeout != nil, until); over || errno != 0 {
			return 0, errno
		}
	}
}

// collect puts those in line to whom something has happened.
func (q *queue) collect() syscall.Errno {
	var happened [64]unix.EpollEvent
	for _, fd := range q.epolls {
		for {
			n, err := unix.EpollWait(fd, happened[:], 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return errnoOf(err)
			}
			for _, ev := range happened[:n] {
				if k := q.byToken[uint64(uint32(ev.Fd))|uint64(uint32(ev.Pad))<<32]; k != nil {
					q.activate(k)
				}
			}
			if n < len(happened) {
				break
			}
		}
	}
	return 0
}

func (q *queue) activate(k *knote) {
	if !k.inLine {
		k.inLine = true
		q.line = append(q.line, k)
	}
}

// scan reports those in line whose condition holds.
func (q *queue) scan(events []Event) (n int) {
	line := q.line
	var again []*knote
	for len(line) > 0 && n < len(events) {
		k := line[0]
		line = line[1:]
		k.inLine = false
		if k.closed() {
			q.forget(k)
			continue
		}
		ev, holds := k.ask()
		if !holds {
			continue
		}
		events[n] = ev
		n++
		if k.flags&Clear == 0 {
			k.inLine = true
			again = append(again, k)
		}
	}
	q.line = append(append([]*knote(nil), line...), again...)
	return n
}

// sleep waits until something happens; over says that it was the end of time.
func (q *queue) sleep(bounded bool, until time.Time) (over bool, errno syscall.Errno) {
	var left *unix.Timespec
	if bounded {
		d := time.Until(until)
		if d <= 0 {
			return true, 0
		}
		ts := unix.NsecToTimespec(int64(d))
		left = &ts
	}
	fds := [...]unix.PollFd{
		{Fd: int32(q.epolls[0]), Events: unix.POLLIN},
		{Fd: int32(q.epolls[1]), Events: unix.POLLIN},
	}
	_, err := unix.Ppoll(fds[:], left, nil)
	return false, errnoOf(err)
}

func errnoOf(err error) syscall.Errno {
	errno, _ := err.(syscall.Errno) // what x/sys returns
	return errno
}
