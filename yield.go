package stepio

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// How a loop and the Go scheduler get on. A loop waits through the scheduler,
// so that others can have its processor meanwhile, and before that it yields:
//
//   - Every few milliseconds, whatever else there is. The runtime's monitor takes
//     the processor of a goroutine that it finds in a syscall, and that has not
//     been scheduled anew for 10 ms, at each of its looks (retake in
//     runtime/proc.go, Go 1.26). A loop that only ever goes from one wait to the
//     next is never scheduled anew: its processor would be taken away as often as
//     the monitor looks, which is every 20 µs as long as it finds one to take.
//   - Before each wait, when no processor is free for other goroutines. What the
//     loop has made ready, a pool's worker above all, would else run only when
//     the monitor takes the processor away. A yield that finds nothing costs 0.2
//     µs; with a processor free it would wake a thread each time to look for work.
//
// docs/internals.md has the figures.
type yielder struct {
	last    time.Duration // when it yielded, by sm.Monotonic
	crowded bool          // as of then, there is no processor to spare
}

const yieldEvery = 5 * time.Millisecond

// running counts the loops in Run.
var running atomic.Int32

func (y *yielder) yield() {
	now := sm.Monotonic()
	due := now-y.last >= yieldEvery
	if due {
		y.last = now
		y.crowded = int(running.Load()) >= runtime.GOMAXPROCS(0)
	}
	if due || y.crowded {
		runtime.Gosched()
	}
}
