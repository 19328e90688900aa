package stepio

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// How a loop and the Go scheduler get on. A loop waits through the scheduler,
// so that others can have its processor meanwhile, and before a wait it yields:
//
//   - Every few milliseconds, whatever else there is. The runtime's monitor takes
//     the processor of a goroutine that it finds in a syscall, and that has not
//     been scheduled anew for 10 ms, at each of its looks (retake in
//     runtime/proc.go, Go 1.26). A loop that only ever goes from one wait to the
//     next is never scheduled anew: its processor would be taken away as often as
//     the monitor looks, which is every 20 µs as long as it finds one to take.
//   - With one processor, before each wait. What the loop or anyone has made ready
//     would else run only when the monitor takes the processor away.
//   - With no more processors than loops, after a pool was given work: its worker
//     may have no processor but this. Not before each wait: where a processor is
//     idle, a yield wakes a thread to look for work. A loop whose events come
//     further apart than those few milliseconds pays that at each of its waits.
//
// A yield that finds nothing to do costs 0.2 µs. docs/internals.md has the
// figures.
//
// To wait through the scheduler is dear where no processor is idle and the waits
// are short of full load, some 100 µs to some milliseconds: the monitor takes the
// loop's in each, since it finds it in the same one twice, and wakes a thread for
// it, which finds nothing to run; and the loop that returns waits for that thread.
// A loop WithOwnProcessor is lively while a wait begins within briskFor of the one
// before. When there are as many lively loops as processors, their waits are
// brisk: raw syscalls, which keep the processor. So that a lively loop that has
// nothing to do any more is soon told from one that has, its waits end after
// briskFor. It yields before a brisk one, for what it or anyone has made ready; but
// while no processor is idle, the network poller of the Go runtime is asked by
// its monitor alone, every 10 ms, and its timers when somebody yields. That is why
// this is not for all.
type yielder struct {
	keeps   bool          // WithOwnProcessor, where the poller can
	lively  bool          // and counted in lively
	last    time.Duration // when it was due, by sm.Monotonic
	waited  time.Duration // when the last wait was about to begin
	alone   bool          // as of then, there is one processor
	crowded bool          // as of then, there is none that no loop has
	handed  uint32        // handed, at the last wait

	processors int // as of then
}

const (
	yieldEvery = 5 * time.Millisecond
	// briskFor is how long a wait may keep the processor. With yieldEvery it stays
	// below the 10 ms after which the monitor interrupts who keeps one.
	briskFor = 4 * time.Millisecond
)

var (
	running    atomic.Int32  // loops in Run
	lively     atomic.Int32  // loops that are
	handed     atomic.Uint32 // how often a pool has called a worker
	unfinished atomic.Int32  // errands that pools were given and have not done
)

// yield is called before each wait that may block, and answers whether it may keep
// the processor.
func (y *yielder) yield() (brisk bool) {
	now := sm.Monotonic()
	due := now-y.last >= yieldEvery
	if due {
		y.last = now
		y.look(runtime.GOMAXPROCS(0), int(running.Load()))
	}
	calls := handed.Load()
	called := calls != y.handed
	y.handed = calls
	if y.keeps {
		y.count(now-y.waited < briskFor)
		brisk = y.lively && int(lively.Load()) >= y.processors
		y.waited = now
	}
	if due || y.alone || brisk || y.crowded && called {
		runtime.Gosched()
	}
	// A pool's worker may come back from a syscall at any time, and want a processor.
	return brisk && !called && handed.Load() == calls && unfinished.Load() == 0
}

// count notes whether the loop is lively.
func (y *yielder) count(is bool) {
	switch {
	case is && !y.lively:
		lively.Add(1)
	case !is && y.lively:
		lively.Add(-1)
	}
	y.lively = is
}

// bound is how long the wait may be that would be timeout long, which is forever
// when it is negative.
func (y *yielder) bound(timeout time.Duration) time.Duration {
	if y.lively && (timeout < 0 || timeout > briskFor) {
		return briskFor
	}
	return timeout
}

func (y *yielder) look(processors, loops int) {
	y.processors, y.alone, y.crowded = processors, processors == 1, loops >= processors
}
