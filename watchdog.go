package stepio

import (
	"bytes"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// A StepReport is about one step, or one posted function, that takes too long:
// a handler that blocks or computes, and holds up every other task of its loop.
type StepReport struct {
	// Chain is the task's frame chain, each frame's type and state by name, as it
	// was when the step began (sm.Task.Chain), so the state may be an earlier one
	// than where the stack is; or "posted " and the function's name.
	Chain string
	// Took is how long the step has taken so far, or in all.
	Took time.Duration
	// Ended says that the step is over.
	Ended bool
	// Stack is the stack of the loop's goroutine, as in a crash: where the step
	// is now. It is empty when the step has ended, perhaps while it was being taken,
	// and in a program with so many goroutines that the loop's is not among the
	// first MiB of their stacks.
	Stack []byte
}

// WithWatchdog has every step, and every posted function, that takes longer than
// threshold reported: after 1 to 1.5 times threshold, while it goes on, and again
// when it has ended. One that ends sooner after the threshold is reported once.
// Without this option there is no watchdog, and it costs nothing.
//
// report is called on a goroutine of its own, one a loop: those of a Group's loops
// may call it at the same time. Run returns after it, so it must not wait for the
// loop, or for ever. Reports are not queued: while one is being made, at most one
// more is kept. A panic in it is logged.
//
// What it costs: a step is slower by 1 to 4 µs and some 8 allocations, since its
// chain has to be put into words before it begins (BenchmarkWatchdog), and the
// goroutine looks at the clock twice a threshold. To get a stack, it stops the
// world for a moment.
//
// It panics when threshold is not positive or report is nil.
func WithWatchdog(threshold time.Duration, report func(StepReport)) LoopOption {
	if threshold <= 0 || report == nil {
		panic(fmt.Sprintf("stepio: WithWatchdog: threshold %v, or no report", threshold))
	}
	return func(c *loopConfig) { c.watchdog = &watchdog{threshold: threshold, report: report, stack: stackOf} } // one a loop
}

// watchdog is what the loop writes down before a step, for the goroutine that
// looks at it meanwhile. Frames are the loop's alone, so their chain is put into
// words while nothing runs.
type watchdog struct {
	threshold time.Duration
	report    func(StepReport)
	loop      uint64                        // the goroutine in Run
	stack     func(goroutine uint64) []byte // stackOf

	mu      sync.Mutex
	chain   string // of the step that runs
	posted  func() // or the function
	began   time.Duration
	steps   uint64 // that began
	running bool
	told    bool        // it was reported
	over    *StepReport // of a step that has ended, to be reported
}

// Begin implements sm.Watcher.
func (w *watchdog) Begin(t *sm.Task) { w.begin(t.Chain(), nil) }

func (w *watchdog) begin(chain string, posted func()) {
	w.mu.Lock()
	w.chain, w.posted = chain, posted
	w.began = sm.Monotonic()
	w.steps++
	w.running, w.told = true, false
	w.mu.Unlock()
}

// End implements sm.Watcher.
func (w *watchdog) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
	took := sm.Monotonic() - w.began
	if (w.told || took > w.threshold) && w.over == nil {
		r := w.step(took)
		r.Ended = true
		w.over = &r
	}
	w.posted = nil
}

// step is the report of the last step, which has taken so long.
func (w *watchdog) step(took time.Duration) StepReport {
	r := StepReport{Chain: w.chain, Took: took}
	if w.posted != nil {
		r.Chain = "posted " + runtime.FuncForPC(reflect.ValueOf(w.posted).Pointer()).Name()
	}
	return r
}

// start begins to watch, on the goroutine that runs the loop, until stop.
func (w *watchdog) start() (stop func()) {
	w.loop = goroutineID()
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(max(w.threshold/2, time.Microsecond))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.look()
			case <-ending:
				w.look()
				return
			}
		}
	}()
	return func() {
		close(ending)
		<-ended
	}
}

// look reports what there is to report.
func (w *watchdog) look() {
	w.mu.Lock()
	var due []StepReport
	if w.over != nil {
		due, w.over = append(due, *w.over), nil
	}
	took := sm.Monotonic() - w.began
	slow := w.running && !w.told && took > w.threshold
	if slow {
		w.told = true
		due = append(due, w.step(took))
	}
	step := w.steps
	w.mu.Unlock()
	if slow {
		stack := w.stack(w.loop)
		if w.runs(step) { // else the stack may be another's
			due[len(due)-1].Stack = stack
		}
	}
	for _, r := range due {
		w.tell(r)
	}
}

// runs reports whether a step has not ended, of which so many had begun.
func (w *watchdog) runs(steps uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running && w.steps == steps
}

func (w *watchdog) tell(r StepReport) {
	defer func() {
		if v := recover(); v != nil {
			logReport(nil, newPanicError(v))
		}
	}()
	w.report(r)
}

// stackOf is the stack of a goroutine, nil when it isn't found.
func stackOf(goroutine uint64) []byte {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	header := fmt.Appendf(nil, "goroutine %d [", goroutine)
	for stack := range bytes.SplitSeq(all, []byte("\n\n")) {
		if bytes.HasPrefix(stack, header) {
			return bytes.Clone(stack)
		}
	}
	return nil
}
