package stepio

import (
	"time"

	"github.com/stepio-go/stepio/sm"
)

// A poller tells which descriptors are ready. It only translates between the
// kernel's interface and this one; every policy (arming, generations, what an
// event means to whom) is above it, in slots.go.
//
// All methods are for the loop's goroutine, but for wake.
type poller interface {
	// add registers fd; its events carry key.
	add(fd int, key uint64, dirs sm.Dir, edge bool) error
	// modify changes what fd is registered for, from was to dirs.
	modify(fd int, key uint64, was, dirs sm.Dir, edge bool) error
	// relooks reports whether modify reports what is ready already also when it
	// changes nothing of an edge-triggered registration. Latched descriptors rest
	// on it.
	relooks() bool
	// remove ends fd's registration, which was for dirs.
	remove(fd int, dirs sm.Dir) error
	// wait fills events with what is ready. It returns at once when timeout is 0,
	// after timeout rounded up to what the kernel counts in, never when it is
	// negative; and early, perhaps with no event, when wake was called. An
	// interrupted wait returns no event and no error.
	wait(events []event, timeout time.Duration) (n int, err error)
	// wake makes the current wait return, or the next one. Any goroutine.
	wake() error
	// close releases the poller's own descriptors.
	close() error
}

// wakeKey is the key of what wakes a poller: it is no descriptor's.
const wakeKey = ^uint64(0)

// An event is one report of a descriptor's readiness.
type event struct {
	key   uint64 // slot and generation, as given to add
	ready readiness
}

// readiness is what was reported: a translation of EPOLLIN and its like.
type readiness uint8

const (
	readyRead   readiness = 1 << iota // something to read
	readyWrite                        // room to write
	readyEnd                          // the peer has finished sending; unread data may remain
	readyHangup                       // both directions are over
	readyError                        // an error is pending
	readyUrgent                       // urgent data: a read stops at its mark
)

// dirs is the directions in which an operation can find out more. A hang-up
// and an error concern both; the end of the peer's data, only reading.
func (r readiness) dirs() (d sm.Dir) {
	if r&(readyRead|readyEnd|readyUrgent|readyHangup|readyError) != 0 {
		d |= sm.Read
	}
	if r&(readyWrite|readyHangup|readyError) != 0 {
		d |= sm.Write
	}
	return d
}
