package stepio

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// How a loop and the Go scheduler get on. A loop waits through the scheduler,
// so that others can have its processor meanwhile, and before it asks the poller it
// yields:
//
//   - Every few milliseconds, whatever else there is. The runtime's monitor takes
//     the processor of a goroutine that it finds in a syscall, and that has not
//     been scheduled anew for 10 ms, at each of its looks (retake in
//     runtime/proc.go, Go 1.26). A loop that only ever goes from one wait to the
//     next is never scheduled anew: its processor would be taken away as often as
//     the monitor looks, which is every 20 µs as long as it finds one to take. And a
//     loop that never waits, since some task is always ready, would be stopped by a
//     signal every 10 to 20 ms, and keep everybody else waiting until then.
//   - With one processor, before each wait. What the loop or anyone has made ready
//     would else run only when the monitor takes the processor away.
//   - With no more processors than loops, after a pool was given work: its worker
//     may have no processor but this. What computes for long then keeps it until the
//     monitor takes it away, some 10 ms later, also from a loop that is busy.
//     Otherwise not before each wait: where a processor is idle, a yield wakes a
//     thread to look for work. A loop whose events come further apart than those few
//     milliseconds pays that at each of its waits.
//
// A yield that finds nothing to do costs 0.2 µs. docs/internals.md has the
// figures.
//
// To wait through the scheduler is dear where no processor is idle and the waits
// are short of full load, some 100 µs to some milliseconds: the monitor takes the
// loop's in each, since it finds it in the same one twice, and wakes a thread for
// it, which finds nothing to run; and the loop that returns waits for that thread.
// While a processor is idle, the monitor leaves the loop's alone for 10 ms (the
// same retake). So a program that is given one processor more than it has loops
// has none of that: NewGroup says so.
type yielder struct {
	last    time.Duration // when it was due, by sm.Monotonic
	alone   bool          // as of then, there is one processor
	crowded bool          // as of then, there is none that no loop has
	handed  uint32        // handed, at the last look at the poller
}

// yieldEvery stays well below the 10 ms after which the monitor takes the
// processor at each look.
const yieldEvery = 5 * time.Millisecond

var (
	running atomic.Int32  // loops in Run
	handed  atomic.Uint32 // how often a pool has called a worker
)

// yield is called before the poller is asked. A loop that has work is busy: it
// will not wait.
func (y *yielder) yield(busy bool) {
	if y.wanted(sm.Monotonic(), busy) {
		runtime.Gosched()
	}
}

// wanted says whether to yield now.
func (y *yielder) wanted(now time.Duration, busy bool) bool {
	due := now-y.last >= yieldEvery
	if due {
		y.last = now
		y.look(runtime.GOMAXPROCS(0), int(running.Load()))
	}
	calls := handed.Load()
	called := calls != y.handed
	y.handed = calls
	return due || y.alone && !busy || y.crowded && called
}

func (y *yielder) look(processors, loops int) {
	y.alone, y.crowded = processors == 1, loops >= processors
}
