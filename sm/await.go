package sm

import (
	"fmt"
	"strings"
	"time"
)

// A Dir is a set of directions in which a descriptor can be ready.
type Dir uint8

// The directions. A Dir may hold both, or none.
const (
	Read Dir = 1 << iota
	Write
)

// String names the directions of the set: "read", "write", "read|write" or "none".
func (d Dir) String() string {
	switch d {
	case 0:
		return "none"
	case Read:
		return "read"
	case Write:
		return "write"
	case Read | Write:
		return "read|write"
	default:
		return fmt.Sprintf("Dir(%d)", uint8(d))
	}
}

// form is what sort of answer an Await is: its kind, its directions and its mode
// in one word, since an answer passes through every call between a step and the
// poller.
type form uint32

// The kinds, in the lowest byte. The zero kind is a forgotten answer.
const (
	kindForgotten  form = iota // the zero Await: a Step that forgot to answer
	kindDone                   // the frame has finished
	kindYield                  // ready when the next turn begins, behind the other ready tasks
	kindPark                   // until woken (or the deadline)
	kindDescriptor             // until the descriptor is ready (or woken, or the deadline)
	kindCall                   // a Stack runs the frame that was just called

	kinds form = 0xff
)

// The directions are in the next byte.
const dirShift = 8

// The mode refines a wait.
const (
	modeEdge form = 1 << (16 + iota) // edge-triggered
	modeSoft                         // the deadline is the event: its passing is no error
)

// An Await is a step's answer: what the suspended frame waits for. It is a
// comparable value of 16 bytes.
//
// The zero Await is no answer at all. A task whose Step returns it ends with a
// [*ForgottenError] that names frame and state.
type Await struct {
	deadline int64 // nanoseconds since epoch; 0: none
	fd       int32
	form     form
}

// The answers that wait for no descriptor.
var (
	// Done says that the frame has finished.
	Done = Await{form: kindDone}
	// Yield lets the other ready tasks run first, and those that the poller finds
	// ready then.
	Yield = Await{form: kindYield}
	// Park waits until the task is woken, or until the deadline set with By.
	Park = Await{form: kindPark}

	call = Await{form: kindCall}
)

// Wait waits until fd is ready, level-triggered, in one of the directions of
// dir. An empty dir waits for the deadline, a wake, or the descriptor's end.
func Wait(fd int, dir Dir) Await {
	return Await{fd: int32(fd), form: kindDescriptor | form(dir)<<dirShift}
}

// WaitEdge is Wait, edge-triggered: it waits for a change to readiness, and a
// change that came while nobody waited counts.
func WaitEdge(fd int, dir Dir) Await {
	return Await{fd: int32(fd), form: kindDescriptor | form(dir)<<dirShift | modeEdge}
}

// Pending reports whether the frame is suspended: anything but Done. The zero
// Await is pending too, so that it travels up to the scheduler, which names it.
func (a Await) Pending() bool { return a.form != kindDone }

func (a Await) kind() form { return a.form & kinds }

// waits reports whether the answer is one that waits for something.
func (a Await) waits() bool { return a.kind() == kindPark || a.kind() == kindDescriptor }

// FD is the descriptor that is waited for, or -1 when it is none.
func (a Await) FD() int {
	if a.kind() != kindDescriptor {
		return -1
	}
	return int(a.fd)
}

// Dir is the set of directions that are waited for.
func (a Await) Dir() Dir { return Dir(a.form >> dirShift) }

// Edge reports whether the wait is edge-triggered.
func (a Await) Edge() bool { return a.form&modeEdge != 0 }

// Deadline is the time by which the wait ends; ok is false when there is none.
func (a Await) Deadline() (when time.Time, ok bool) {
	if a.deadline == 0 {
		return time.Time{}, false
	}
	return instant(a.deadline), true
}

// By bounds the wait: when deadline passes first, the task is resumed and
// WaitErr is os.ErrDeadlineExceeded. Of two deadlines the earlier counts. The
// zero time sets none. By has no effect on Done, on Yield and on the zero
// Await: none of them waits.
func (a Await) By(deadline time.Time) Await {
	if deadline.IsZero() {
		return a
	}
	return a.by(nanos(deadline), 0)
}

// Until is By with a deadline whose passing is what is waited for: WaitErr is
// nil. Of a By and an Until at the same instant the Until counts.
func (a Await) Until(when time.Time) Await {
	if when.IsZero() {
		return a
	}
	return a.by(nanos(when), modeSoft)
}

func (a Await) by(deadline int64, soft form) Await {
	if !a.waits() || deadline == 0 {
		return a
	}
	switch {
	case a.deadline == 0 || deadline < a.deadline:
		a.deadline = deadline
		a.form = a.form&^modeSoft | soft
	case deadline == a.deadline:
		a.form |= soft // an event that comes with the deadline counts
	}
	return a
}

// Or joins two waits: the task is resumed by whichever comes first. Both must
// be on one descriptor and in one trigger mode, or one of them on none; Or
// panics otherwise. An answer that does not wait (Done, Yield, the zero Await)
// wins over one that does.
func (a Await) Or(b Await) Await {
	switch {
	case !a.waits():
		return a
	case !b.waits():
		return b
	case a.kind() == kindPark:
		return b.by(a.deadline, a.form&modeSoft)
	case b.kind() == kindPark:
		return a.by(b.deadline, b.form&modeSoft)
	case a.fd != b.fd:
		panic(fmt.Sprintf("stepio: Await.Or: waits on two descriptors, %d and %d", a.fd, b.fd))
	case a.Edge() != b.Edge():
		panic(fmt.Sprintf("stepio: Await.Or: descriptor %d in two trigger modes", a.fd))
	}
	a.form |= b.form &^ modeSoft // they differ in their directions only
	return a.by(b.deadline, b.form&modeSoft)
}

// String describes the wait for people, as Dump shows it.
func (a Await) String() string {
	var b strings.Builder
	switch a.kind() {
	case kindForgotten:
		return "forgotten"
	case kindDone:
		return "done"
	case kindYield:
		return "yield"
	case kindCall:
		return "call"
	case kindPark:
		b.WriteString("park")
	case kindDescriptor:
		fmt.Fprintf(&b, "fd %d %v", a.fd, a.Dir())
		if a.Edge() {
			b.WriteString(" edge")
		}
	}
	if a.deadline != 0 {
		fmt.Fprintf(&b, " by %v", time.Duration(a.deadline))
	}
	return b.String()
}

// epoch is the zero of every scheduler's clock. It carries a monotonic
// reading, so the wall clock may be set without moving a deadline.
var epoch = time.Now()

// Monotonic is the machine's clock as a Config wants it: the monotonic time
// since a fixed point in this process.
func Monotonic() time.Duration { return time.Since(epoch) }

// nanos puts t on the schedulers' clock. It is never 0, which means no deadline.
func nanos(t time.Time) int64 {
	d := int64(t.Sub(epoch)) // saturates
	if d == 0 {
		return -1
	}
	return d
}

// instant is the reverse of nanos.
func instant(ns int64) time.Time { return epoch.Add(time.Duration(ns)) }
