package stepio

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// kqueue is the poller of macOS: one kqueue, and one pipe to wake it. What is
// registered and what an event means is in kqueue_translate.go.
//
// The pipe is registered level-triggered and read when it is reported. Wakes are
// coalesced above, so it holds a byte or two; a full one is readable, and that
// is all a wake wants.
//
// Closing a descriptor removes its filters, also when others hold the same open
// file: the kernel keeps them by descriptor number (knote_fdclose, kern_event.c).
//
// Every call tells the Go scheduler, unlike on Linux: x/sys reaches libSystem
// only that way, and macOS promises no syscall numbers.
type kqueue struct {
	fd       int
	pipe     [2]int // reading end, writing end
	filters  filters
	changes  [maxChanges]kevent
	receipts [maxChanges]kevent
	buf      []kevent
}

const wakeKey = ^uint64(0)

// longestWait is the longest timeout that is handed to the kernel, which answers
// EINVAL to one that is too long (the Go runtime's netpoll_kqueue.go has the same
// bound). The wait then ends early, with no event.
const longestWait = 1e6 * time.Second

// The structs and constants of kqueue_translate.go are the system's, or this
// does not compile: a constant of an unsigned type cannot be negative.
const (
	_ = -(unsafe.Sizeof(kevent{}) ^ unsafe.Sizeof(unix.Kevent_t{}))
	_ = -(unsafe.Offsetof(kevent{}.Filter) ^ unsafe.Offsetof(unix.Kevent_t{}.Filter))
	_ = -(unsafe.Offsetof(kevent{}.Flags) ^ unsafe.Offsetof(unix.Kevent_t{}.Flags))
	_ = -(unsafe.Offsetof(kevent{}.Fflags) ^ unsafe.Offsetof(unix.Kevent_t{}.Fflags))
	_ = -(unsafe.Offsetof(kevent{}.Data) ^ unsafe.Offsetof(unix.Kevent_t{}.Data))
	_ = -(unsafe.Offsetof(kevent{}.Udata) ^ unsafe.Offsetof(unix.Kevent_t{}.Udata))

	_ = -uint(evfiltRead ^ unix.EVFILT_READ)
	_ = -uint(evfiltWrite ^ unix.EVFILT_WRITE)
	_ = -uint(evAdd ^ unix.EV_ADD)
	_ = -uint(evDelete ^ unix.EV_DELETE)
	_ = -uint(evClear ^ unix.EV_CLEAR)
	_ = -uint(evReceipt ^ unix.EV_RECEIPT)
	_ = -uint(evError ^ unix.EV_ERROR)
	_ = -uint(evEOF ^ unix.EV_EOF)
	_ = -uint(noteOOB ^ unix.NOTE_OOB)
)

// asUnix is list as x/sys takes it, for one call. The memory is that of kevents,
// so the garbage collector sees no pointer in it.
func asUnix(list []kevent) []unix.Kevent_t {
	return unsafe.Slice((*unix.Kevent_t)(unsafe.Pointer(unsafe.SliceData(list))), len(list))
}

func newPoller(batch int) (poller, error) {
	fd, err := unix.Kqueue()
	if err != nil {
		return nil, os.NewSyscallError("kqueue", err)
	}
	unix.CloseOnExec(fd) // a fork leaves a kqueue behind (kqueue(2)); an exec without one does not
	p := &kqueue{fd: fd, pipe: [2]int{-1, -1}, buf: make([]kevent, batch)}
	if err := p.openPipe(); err != nil {
		_ = p.close() // the first error is the one to return
		return nil, err
	}
	p.changes[0] = kevent{Ident: uint64(p.pipe[0]), Filter: evfiltRead, Flags: evAdd | evReceipt, Udata: wakeKey}
	if _, err := p.apply(p.changes[:1]); err != nil {
		_ = p.close() // likewise
		return nil, err
	}
	return p, nil
}

// openPipe opens the pipe. macOS has no pipe2: the lock keeps a fork from
// happening before the descriptors are marked (syscall.ForkLock).
func (p *kqueue) openPipe() error {
	var ends [2]int
	syscall.ForkLock.RLock()
	err := unix.Pipe(ends[:])
	if err == nil {
		unix.CloseOnExec(ends[0])
		unix.CloseOnExec(ends[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return os.NewSyscallError("pipe", err)
	}
	p.pipe = ends
	for _, fd := range ends {
		if err := unix.SetNonblock(fd, true); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	return nil
}

// apply makes the changes of list, all of them even when one fails. There is
// room for every receipt, so no event is taken out of the queue and the call
// does not wait (kevent_internal, kern_event.c).
func (p *kqueue) apply(list []kevent) (missing int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	for {
		var now unix.Timespec
		n, err := unix.Kevent(p.fd, asUnix(list), asUnix(p.receipts[:len(list)]), &now)
		switch {
		case err == unix.EINTR: // all changes can be made twice
			continue
		case err != nil:
			return 0, os.NewSyscallError("kevent", err)
		}
		missing, errno := outcome(list, p.receipts[:n])
		if errno != 0 {
			return missing, os.NewSyscallError("kevent", errno)
		}
		return missing, nil
	}
}

// add registers fd. A regular file is refused as epoll refuses it, with EPERM:
// kqueue would take it, and never report its end.
func (p *kqueue) add(fd int, key uint64, dirs sm.Dir, edge bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return os.NewSyscallError("kevent", unix.EPERM)
	}
	p.filters.setMode(fd, edge)
	return p.register(fd, key, 0, dirs, edge, false)
}

func (p *kqueue) modify(fd int, key uint64, was, dirs sm.Dir, edge bool) error {
	return p.register(fd, key, was, dirs, edge, p.filters.setMode(fd, edge))
}

// register makes the registration for dirs out of the one for was. When it
// fails, for one filter perhaps, what it added is deleted: nothing may be reported
// that the loop believes is not armed.
func (p *kqueue) register(fd int, key uint64, was, dirs sm.Dir, edge, switched bool) error {
	_, err := p.apply(changes(&p.changes, fd, key, was, dirs, edge, switched))
	if err != nil {
		added := dirs &^ was
		if switched {
			added = dirs
		}
		_, _ = p.apply(changes(&p.changes, fd, key, added, 0, edge, false)) // the first error is the one to return
	}
	return err
}

// remove deletes the filters of dirs. When none of them is there, the number was
// closed before: that is ENOENT, as with epoll.
func (p *kqueue) remove(fd int, dirs sm.Dir) error {
	list := changes(&p.changes, fd, 0, dirs, 0, false, false)
	missing, err := p.apply(list)
	if err == nil && missing > 0 && missing == len(list) {
		return os.NewSyscallError("kevent", unix.ENOENT)
	}
	return err
}

// wait asks for events. ETIMEDOUT is not in the manual, but
// has been seen (https://go.dev/issue/59679): it is the end of the timeout.
func (p *kqueue) wait(events []event, timeout time.Duration) (int, error) {
	var limit *unix.Timespec
	if timeout >= 0 {
		ts := unix.NsecToTimespec(int64(min(timeout, longestWait)))
		limit = &ts
	}
	n, err := unix.Kevent(p.fd, nil, asUnix(p.buf[:min(len(p.buf), len(events))]), limit)
	switch err {
	case nil:
	case unix.EINTR, unix.ETIMEDOUT:
		return 0, nil
	default:
		return 0, os.NewSyscallError("kevent", err)
	}
	filled, woken := p.filters.gather(events, p.buf[:n])
	if woken {
		if err := p.drain(); err != nil {
			return 0, err
		}
	}
	return filled, nil
}

// drain empties the pipe. One read is enough: what it leaves is reported again.
func (p *kqueue) drain() error {
	var wakes [128]byte
	switch _, err := unix.Read(p.pipe[0], wakes[:]); err {
	case nil, unix.EAGAIN, unix.EINTR:
		return nil
	default:
		return os.NewSyscallError("read", err)
	}
}

func (p *kqueue) wake() error {
	one := [1]byte{1}
	for {
		switch _, err := unix.Write(p.pipe[1], one[:]); err {
		case nil, unix.EAGAIN: // full is readable
			return nil
		case unix.EINTR:
		default:
			return os.NewSyscallError("write", err)
		}
	}
}

func (p *kqueue) close() (err error) {
	for _, fd := range [...]int{p.pipe[1], p.pipe[0], p.fd} {
		if fd < 0 {
			continue
		}
		if e := closeFD(fd); err == nil {
			err = e
		}
	}
	return err
}
