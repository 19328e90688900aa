//go:build darwin || kqsim

package stepio

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// kqueue is the poller of macOS: one kqueue, and one pipe to wake it. What is
// registered and what an event means is in kqueue_translate.go, the syscalls in
// poller_darwin.go; under the tag kqsim they are those of internal/kqsim, and all
// of this runs on Linux.
//
// Closing a descriptor removes its filters, also when others hold the same open
// file: the kernel keeps them by descriptor number (knote_fdclose, kern_event.c).
type kqueue struct {
	fd       int
	bell     pipeWaker
	filters  filters
	changes  [maxChanges]kevent
	receipts [maxChanges]kevent
	buf      []kevent
}

// longestWait is the longest timeout that is handed to the kernel, which answers
// EINVAL to one that is too long (the Go runtime's netpoll_kqueue.go has the same
// bound). The wait then ends early, with no event.
const longestWait = 1e6 * time.Second

func newKqueue(batch int) (poller, error) {
	fd, errno := rawKqueue()
	if errno != 0 {
		return nil, os.NewSyscallError("kqueue", errno)
	}
	bell, err := newPipeWaker()
	if err != nil {
		_ = rawKqueueClose(fd) // the first error is the one to return
		return nil, err
	}
	p := &kqueue{fd: fd, bell: bell, buf: make([]kevent, batch)}
	p.changes[0] = kevent{Ident: uint64(bell.near), Filter: evfiltRead, Flags: evAdd | evReceipt, Udata: wakeKey}
	if _, err := p.apply(p.changes[:1]); err != nil {
		_ = p.close() // likewise
		return nil, err
	}
	return p, nil
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
		n, errno := rawKevent(p.fd, list, p.receipts[:len(list)], &now)
		switch {
		case errno == unix.EINTR: // all changes can be made twice
			continue
		case errno != 0:
			return 0, os.NewSyscallError("kevent", errno)
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

// relooks: changes leaves a filter alone that is there already, and whether the
// kernel would look anew is nothing that this library has tried.
func (p *kqueue) relooks() bool { return false }

// remove deletes the filters of dirs. When none of them is there, the number was
// closed before, and that is ENOENT.
func (p *kqueue) remove(fd int, dirs sm.Dir) error {
	list := changes(&p.changes, fd, 0, dirs, 0, false, false)
	missing, err := p.apply(list)
	if err == nil && missing > 0 && missing == len(list) {
		return os.NewSyscallError("kevent", unix.ENOENT)
	}
	return err
}

// wait asks for events. ETIMEDOUT is not in the manual, but
// has been seen (https://go.dev/issue/59679): it is the end of the timeout. It
// always tells the Go scheduler: on macOS there is no raw call to be had.
func (p *kqueue) wait(events []event, timeout time.Duration) (int, error) {
	var limit *unix.Timespec
	if timeout >= 0 {
		ts := unix.NsecToTimespec(int64(min(timeout, longestWait)))
		limit = &ts
	}
	n, errno := rawKevent(p.fd, nil, p.buf[:min(len(p.buf), len(events))], limit)
	switch errno {
	case 0:
	case unix.EINTR, unix.ETIMEDOUT:
		return 0, nil
	default:
		return 0, os.NewSyscallError("kevent", errno)
	}
	filled, woken := p.filters.gather(events, p.buf[:n])
	if woken {
		if err := p.bell.drain(); err != nil {
			return 0, err
		}
	}
	return filled, nil
}

func (p *kqueue) wake() error { return p.bell.wake() }

func (p *kqueue) close() error {
	err := p.bell.close()
	if e := rawKqueueClose(p.fd); err == nil {
		err = e
	}
	return err
}
