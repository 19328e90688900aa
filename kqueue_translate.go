//go:build darwin || kqsim

package stepio

import (
	"syscall"

	"github.com/stepio-go/stepio/sm"
)

// What the poller's interface means in the terms of kqueue(2): the changes that
// make a registration, what their receipts say, and what an event says about a
// descriptor. Nothing here calls the kernel, so the tag kqsim builds and tests
// it on any system. The file names in comments are those of Apple's kernel, xnu,
// whose source says what the manual leaves open.
//
// Reading and writing are two registrations of their own, called filters, and a
// descriptor that is ready for both yields two events; they are joined here.

// kevent is struct kevent of a 64-bit macOS. x/sys has its Udata as a pointer,
// which the garbage collector would follow.
type kevent struct {
	Ident  uint64 // the descriptor
	Filter int16
	Flags  uint16
	Fflags uint32
	Data   int64
	Udata  uint64 // the key: slot and generation
}

// The constants of sys/event.h; poller_darwin.go compares them with x/sys.
const (
	evfiltRead  = -1
	evfiltWrite = -2

	evAdd     = 0x0001
	evDelete  = 0x0002
	evClear   = 0x0020 // edge-triggered
	evReceipt = 0x0040 // answer the change, with 0 when it was made
	evError   = 0x4000 // of a receipt: Data is an errno
	evEOF     = 0x8000

	noteOOB = 0x0002 // of the read filter: report urgent data
)

// maxChanges is how many changes one registration can take: both filters
// deleted, and both added.
const maxChanges = 4

// changes makes the registration of fd for dirs out of the one for was; of none,
// for a new one. The result, at most maxChanges, is in buf.
//
// A filter that is not wanted is deleted, not disabled: what is registered is
// then what the slot has as armed, and nothing stale can outlive its removal.
//
// switched says that the trigger mode is another than before. Adding a filter
// that exists leaves its EV_CLEAR as it was (knote_apply_touch, kern_event.c), so
// all of was is deleted first. Otherwise a filter that exists is added once more
// whenever the registration grows: that costs no further syscall, is harmless,
// and repairs the registration of a number that was closed and opened again
// without the loop being told, since a close removes the filters.
func changes(buf *[maxChanges]kevent, fd int, key uint64, was, dirs sm.Dir, edge, switched bool) []kevent {
	gone, fresh := was&^dirs, dirs
	switch {
	case switched:
		gone = was
	case dirs&^was == 0: // it only shrinks
		fresh = 0
	}
	list := appendFilters(buf[:0], kevent{Ident: uint64(fd), Flags: evDelete | evReceipt, Udata: key}, gone)
	add := kevent{Ident: uint64(fd), Flags: evAdd | evReceipt, Udata: key}
	if edge {
		add.Flags |= evClear
	}
	return appendFilters(list, add, fresh)
}

// appendFilters appends ev for each direction of dirs.
//
// An edge-triggered read filter asks for urgent data to be told: a read stops at
// its mark, short, and what lies behind the mark is no new edge. A
// level-triggered one is reported again as long as there is more, and must not
// ask: the mark would be reported until it is passed, which may be never.
func appendFilters(list []kevent, ev kevent, dirs sm.Dir) []kevent {
	if dirs&sm.Read != 0 {
		ev.Filter, ev.Fflags = evfiltRead, 0
		if ev.Flags&evClear != 0 {
			ev.Fflags = noteOOB
		}
		list = append(list, ev)
	}
	if dirs&sm.Write != 0 {
		ev.Filter, ev.Fflags = evfiltWrite, 0
		list = append(list, ev)
	}
	return list
}

// outcome is what the receipts of list, one a change and in its order, say: the
// first failure, and how many filters were not there to be deleted. That alone
// is no failure, since they are gone as was wanted.
func outcome(list, receipts []kevent) (missing int, errno syscall.Errno) {
	for i := range receipts {
		if receipts[i].Flags&evError == 0 || receipts[i].Data == 0 {
			continue
		}
		e := syscall.Errno(receipts[i].Data)
		switch {
		case e == syscall.ENOENT && list[i].Flags&evDelete != 0:
			missing++
		case errno == 0:
			errno = e
		}
	}
	return missing, errno
}

// readinessOfKevent translates an event. The result is 0 for what is none, a
// receipt.
//
// EV_EOF of the read filter is the end of the peer's data, with what has arrived
// before it still to be read; of the write filter, that nothing can be sent any
// more. Its Fflags are the socket's error, if one is pending: a reset. An error
// without EV_EOF, such as a refused datagram, makes both filters ready, and the
// operation finds it (filt_soread_common, filt_sowrite_common, uipc_socket.c).
func readinessOfKevent(ev *kevent) (r readiness) {
	switch {
	case ev.Flags&evError != 0:
		if ev.Data != 0 {
			r = readyError // the filter is broken: whoever waits must look
		}
		return r
	case ev.Filter == evfiltRead:
		r = readyRead
	case ev.Filter == evfiltWrite:
		r = readyWrite
	default:
		return 0
	}
	switch {
	case ev.Flags&evEOF == 0:
		if r == readyRead && ev.Fflags&noteOOB != 0 {
			r |= readyUrgent
		}
		return r
	case r == readyRead:
		r |= readyEnd
	default:
		r |= readyHangup
	}
	if ev.Fflags != 0 {
		r |= readyError
	}
	return r
}

// filters is what the poller knows of every descriptor, by its number.
type filters []struct {
	place uint16 // 1 + where its event is in the batch being gathered; 0: nowhere
	edge  bool   // registered edge-triggered: the kernel does not tell, and a switch needs other changes
}

// setMode notes fd's trigger mode and reports whether it was another.
func (f *filters) setMode(fd int, edge bool) (switched bool) {
	if missing := fd + 1 - len(*f); missing > 0 {
		*f = append(*f, make(filters, missing)...)
	}
	of := &(*f)[fd]
	switched, of.edge = of.edge != edge, edge
	return switched
}

// gather translates a batch into events, and says whether it held a wake. The
// two events of a descriptor that is ready for both become one, as epoll reports
// it: a task that waits for either would be resumed by the first, and the second
// would find nobody and be disarmed. events has room for all of batch.
func (f filters) gather(events []event, batch []kevent) (filled int, woken bool) {
	for i := range batch {
		ev := &batch[i]
		if ev.Udata == wakeKey {
			woken = true
			continue
		}
		ready := readinessOfKevent(ev)
		if ready == 0 {
			continue
		}
		of := &f[ev.Ident]
		if of.place != 0 && events[of.place-1].key == ev.Udata {
			events[of.place-1].ready |= ready
			continue
		}
		events[filled] = event{key: ev.Udata, ready: ready}
		filled++
		of.place = uint16(filled)
	}
	for i := range batch {
		if batch[i].Udata != wakeKey {
			f[batch[i].Ident].place = 0
		}
	}
	return filled, woken
}
