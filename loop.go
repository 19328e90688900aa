package stepio

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// A Loop is a single-threaded reactor: it holds a scheduler of tasks and a
// poller of descriptors, and Run advances each task when what it waits for has
// come. One turn of it asks the poller, collects the whole batch of events, runs
// the functions that were posted, and steps every task that is ready, once.
//
// Post, Stop, Shutdown and Close may be called from any goroutine. Everything else, and
// every connection of the loop, belongs to the goroutine in Run; before Run, to
// the one that made the loop. WithChecks finds those who do not keep to it.
type Loop struct {
	// What every operation needs comes first: 72 bytes.
	sched *sm.Scheduler
	slots slots
	sys   sys
	owner owner

	poller  poller
	latches bool // connections are latched: see slots.go
	events  []event
	stopped atomic.Bool
	state   atomic.Uint32
	mail    mailbox
	yielder yielder
	report  func(*sm.Task, error)
	drain   drain
	watch   *watchdog      // nil: none
	starved []*TCPListener // backing off for lack of descriptors or memory
	spares  spareBuffers
	batch   *batchBuffers // for datagrams, made when first needed

	deadlines spareDeadlines
}

// The values of Loop.state.
const (
	loopNew uint32 = iota
	loopRunning
	loopRan
	loopClosed
)

// eventBatch is how many events one look at the poller can bring.
const eventBatch = 512

// A LoopOption changes how NewLoop builds a loop.
type LoopOption func(*loopConfig)

type loopConfig struct {
	report   func(*sm.Task, error)
	check    bool
	maxOps   int
	maxBytes int
	clock    func() time.Duration
	kernel   kernel
	poller   func(batch int) (poller, error) // of a test; nil: the kernel's
	watchdog *watchdog
}

// WithReport sets what gets the failures that nobody waits for: the error of a
// task that no one joined, an error of a frame's Close, a panic. The task is
// nil when a posted function panicked. A panic is a *sm.PanicError, which has the
// stack. Without a report they go to log/slog, a panic with its stack. It is
// called on the loop.
func WithReport(report func(t *sm.Task, err error)) LoopOption {
	return func(c *loopConfig) { c.report = report }
}

// WithChecks turns on what finds a programmer's errors and costs too much for
// production: use of a loop or its connections from another goroutine, and a
// frame that is spawned twice, panic. For tests.
func WithChecks() LoopOption { return func(c *loopConfig) { c.check = true } }

// WithBudget sets how many socket operations one step may begin, and how many
// bytes they may move before the next one is refused, so that no peer can keep
// the loop to itself. What finds that it would block does not count. 0 keeps a
// default: sm.DefaultMaxOps, sm.DefaultMaxBytes. It panics when either is
// negative: nothing would ever be allowed.
func WithBudget(ops, bytes int) LoopOption {
	if ops < 0 || bytes < 0 {
		panic(fmt.Sprintf("stepio: WithBudget: %d operations, %d bytes", ops, bytes))
	}
	return func(c *loopConfig) { c.maxOps, c.maxBytes = ops, bytes }
}

// NewLoop makes a loop. Its descriptors are released by Close. The error is the
// kernel's, for lack of descriptors or memory.
func NewLoop(options ...LoopOption) (*Loop, error) {
	c := loopConfig{report: logReport, clock: sm.Monotonic}
	for _, o := range options {
		o(&c)
	}
	l := &Loop{report: c.report, events: make([]event, eventBatch)}
	l.sys.sim = c.kernel
	if c.poller == nil {
		c.poller = l.sys.newPoller
	}
	p, err := c.poller(eventBatch)
	if err != nil {
		return nil, err
	}
	l.poller, l.latches = p, p.relooks()
	l.drain.ended = make(chan struct{})
	l.mail.ring = p
	l.mail.alert.Store(true) // nothing waits yet
	l.owner.on = c.check
	l.owner.claim()
	config := sm.Config{
		Parker:   (*parker)(l),
		Clock:    c.clock,
		Notify:   l.mail.notify,
		Report:   c.report,
		Check:    c.check,
		MaxOps:   c.maxOps,
		MaxBytes: c.maxBytes,
	}
	if c.watchdog != nil {
		l.watch = c.watchdog
		config.Watch = l.watch
	}
	l.sched = sm.NewScheduler(config)
	return l, nil
}

func logReport(t *sm.Task, err error) {
	what := "stepio: task failed"
	if t == nil {
		what = "stepio: function failed"
	}
	var panicked *sm.PanicError
	switch {
	case errors.As(err, &panicked): // whose text has the frames
		slog.Error(what, "err", err, "stack", string(panicked.Stack))
	case t == nil:
		slog.Error(what, "err", err)
	default:
		slog.Error(what, "err", err, "frames", t.Chain())
	}
}

// Run advances the loop's tasks until Stop. It runs once, on the goroutine that
// calls it, which owns the loop meanwhile.
//
// The result is one of: nil after Stop, also after one that came before Run, and
// after Shutdown; ErrLoopClosed when Run was called before, or Close; the poller's error.
// Every function whose Post was answered with nil has run when Run returns.
// Tasks that are still parked stay so, for Close.
func (l *Loop) Run() error {
	if !l.state.CompareAndSwap(loopNew, loopRunning) {
		return ErrLoopClosed
	}
	defer close(l.drain.ended)
	defer l.state.Store(loopRan)
	defer l.finish() // also when something ends the goroutine
	running.Add(1)
	defer running.Add(-1)
	l.owner.claim()
	l.owner.runs.Store(l.owner.id.Load())
	if l.watch != nil {
		defer l.watch.start()()
	}
	var err error
	for err == nil && !l.stopped.Load() {
		err = l.turn()
	}
	l.Stop()
	l.runPosts()
	return err
}

// finish ends the taking of posts, and tells those who may wait for this loop.
func (l *Loop) finish() {
	l.Stop()
	if l.sched.Draining() {
		l.endTogether()
	}
}

// turn asks the poller, waiting only when there is nothing else to do, and runs
// what has become ready.
func (l *Loop) turn() error {
	var timeout time.Duration
	busy := l.sched.Busy() || !l.mail.empty()
	l.yielder.yield(busy) // what others post or wake meanwhile need not ring
	if !busy {
		l.mail.alert.Store(false)
		// From here on a post or a wake rings; this is the last look.
		timeout = l.sched.Timeout()
		if !l.mail.empty() || l.stopped.Load() {
			timeout = 0
		}
	}
	n, err := l.poller.wait(l.events, timeout)
	l.mail.alert.Store(true)
	if err != nil {
		return err
	}
	for _, ev := range l.events[:n] {
		l.dispatch(ev)
	}
	l.runPosts()
	l.sched.Turn()
	if l.sched.Draining() {
		l.drained()
	}
	return nil
}

// runPosts runs what was posted before now.
func (l *Loop) runPosts() {
	if l.mail.empty() {
		return
	}
	posts := l.mail.take()
	l.sched.Elapse() // a turn that had work already has not waited
	ran := 0
	defer func() { l.mail.done(posts, ran) }() // also when one ends the goroutine
	for _, fn := range posts {
		ran++
		l.runPost(fn)
	}
}

func (l *Loop) runPost(fn func()) {
	defer func() {
		if v := recover(); v != nil {
			l.tell(nil, newPanicError(v))
		}
	}()
	if l.watch != nil {
		l.watch.begin("", fn)
		defer l.watch.End()
	}
	fn()
}

// tell hands err to the report handler. A panic of the handler is logged: the
// loop must not suffer for it.
func (l *Loop) tell(t *sm.Task, err error) {
	defer func() {
		if v := recover(); v != nil {
			logReport(t, err)
			logReport(t, newPanicError(v))
		}
	}()
	l.report(t, err)
}

// Stop makes Run return after the current turn; before Run, it makes Run return
// at once. Stopping twice is stopping once. Any goroutine, also inside a step.
func (l *Loop) Stop() {
	l.stopped.Store(true)
	l.mail.shut()
}

// Close destroys every task that is left, closes its frame, and releases the
// loop's descriptors. A loop that ran is closed after its Run has returned; one
// that never ran can be closed too, and runs what was posted to it. Any
// goroutine; closing twice does nothing.
//
// The result is one of: nil; ErrLoopRunning while Run has not returned; the
// error of closing the poller.
func (l *Loop) Close() error {
	var state uint32
	for {
		state = l.state.Load()
		switch {
		case state == loopRunning:
			return ErrLoopRunning
		case state == loopClosed:
			return nil
		}
		if l.state.CompareAndSwap(state, loopClosed) {
			break
		}
	}
	if state == loopNew {
		defer close(l.drain.ended) // else Run did
	}
	l.owner.claim()
	l.stopped.Store(true)
	l.mail.shut()
	l.runPosts()
	l.sched.Close()
	l.mail.silence()
	return l.poller.close()
}

// Spawn starts frame as a task of this loop: it runs in the next turn. After
// Close, the task that Spawn returns has ended and its frame is closed. It
// panics when a frame that embeds sm.Returns is spawned twice. Loop only; from
// another goroutine, Post a function that spawns, or use Call.
func (l *Loop) Spawn(frame sm.Frame) *sm.Task {
	l.owner.check("Loop.Spawn")
	return l.sched.Spawn(frame)
}

// Post has fn run on the loop, between two turns' steps. Any goroutine.
//
// The result is one of: nil, and fn runs exactly once, before Run or Close
// returns; ErrLoopClosed after Stop, and after Run has ended otherwise;
// ErrQueueFull when MaxPosts functions wait.
// A panic in fn is reported and ends nothing.
func (l *Loop) Post(fn func()) error {
	if fn == nil {
		panic("stepio: Loop.Post: nil function")
	}
	return l.mail.put(fn, MaxPosts)
}

// Readable waits until fd can be read, level-triggered. The descriptor may be
// any that the poller takes: a socket, a pipe, an eventfd, a timerfd, a
// terminal; a regular file ends the wait with an error (sm.Task.WaitErr). Before
// fd is closed it must be given to Remove. Return the Await from a step.
func (l *Loop) Readable(fd int) sm.Await { return sm.Wait(fd, sm.Read) }

// Writable is Readable for writing.
func (l *Loop) Writable(fd int) sm.Await { return sm.Wait(fd, sm.Write) }

// ReadableET waits until there is something new to read, edge-triggered: after
// an edge, fd must be read until it would block before the next one can come.
// An edge that comes while nobody waits is remembered. A descriptor is awaited
// in one mode at a time: see ErrTriggerMode.
func (l *Loop) ReadableET(fd int) sm.Await { return sm.WaitEdge(fd, sm.Read) }

// WritableET is ReadableET for writing.
func (l *Loop) WritableET(fd int) sm.Await { return sm.WaitEdge(fd, sm.Write) }

// Remove deregisters fd, which stays open and may be awaited again. Tasks that
// wait for it are resumed with ErrRemoved as their WaitErr. The error is the
// poller's, for a descriptor that was closed before it was removed. Loop only.
func (l *Loop) Remove(fd int) error {
	l.owner.check("Loop.Remove")
	return l.release(fd, ErrRemoved, false)
}

// Now is the time of this turn. Loop only.
func (l *Loop) Now() time.Time { return l.sched.Now() }

// Tasks is the number of tasks that have not ended. Loop only.
func (l *Loop) Tasks() int { return l.sched.Live() }

// Dump writes every live task, a line each: the frame chain with each frame's
// type and state by name, and what the task waits for. Loop only; from another
// goroutine, Post it.
func (l *Loop) Dump(w io.Writer) error {
	l.owner.check("Loop.Dump")
	return l.sched.Dump(w)
}

// owner is the check mode's memory of whose goroutine the loop is.
type owner struct {
	on   bool
	id   atomic.Uint64
	runs atomic.Uint64 // the goroutine in Run; 0: none yet
}

func (o *owner) claim() {
	if o.on {
		o.id.Store(goroutineID())
	}
}

// check panics when another goroutine than the owner calls.
func (o *owner) check(method string) {
	if o.on {
		o.verify(method)
	}
}

func (o *owner) verify(method string) {
	if id := goroutineID(); id != o.id.Load() {
		panic(fmt.Sprintf("stepio: %s: called on goroutine %d, the loop is goroutine %d's", method, id, o.id.Load()))
	}
}
