package sm

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// A Parker holds the tasks that wait for descriptors: the scheduler's whole
// view of I/O. It is called on the scheduler's goroutine, once a suspension.
type Parker interface {
	// Park adds t to the waiters of a.FD(), in the directions a.Dir(). The
	// parker resumes it with Waiters.Resume, Fail or Nudge, at once if it likes.
	// An error resumes the task with that error as its WaitErr.
	Park(t *Task, a Await) error
	// Unpark takes t out of the waiters of fd: something else resumed it.
	Unpark(t *Task, fd int)
	// Return gives back edges of fd: the task that they resumed was destroyed
	// before it could look at them. Others that wait for them are resumed, or they
	// are remembered. By now fd may be another descriptor, for which an edge more
	// does no harm.
	Return(fd int, dirs Dir)
}

// Config is what a scheduler is built with. The zero Config is a scheduler for
// tests: a virtual clock and virtual descriptors.
type Config struct {
	// Parker holds the tasks that wait for descriptors. Nil: virtual
	// descriptors, for Ready and Fail.
	Parker Parker
	// Clock returns the time since the process's epoch, as Monotonic does. Nil:
	// a virtual clock, for Advance.
	Clock func() time.Duration
	// Notify is called, from any goroutine, after a wake was queued.
	Notify func()
	// Report gets how a task failed: its error when nobody joined it, a panic,
	// and an error of Close, whether it was joined or not. That it was destroyed
	// is no failure. Nil: log/slog. It is called on the scheduler's goroutine,
	// before the frame is closed (but for the error of Close itself), so that
	// t.Chain tells where it failed.
	Report func(t *Task, err error)
	// Watch is told of every step. Nil: nobody, which costs nothing.
	Watch Watcher
	// Check turns on checks that cost time and memory, for tests: a frame that
	// is spawned twice panics even when it does not embed Returns.
	Check bool
	// MaxOps and MaxBytes are the budget of one step: how many operations it
	// may begin, not counting those that would block, and how many bytes they may
	// have moved when it begins one.
	// 0: DefaultMaxOps and DefaultMaxBytes.
	MaxOps, MaxBytes int
}

// The budget of a step where Config does not say. Its bytes are what a Scratch
// takes, in and out again: some 0.1 ms.
const (
	DefaultMaxOps   = 64
	DefaultMaxBytes = 128 << 10
)

// ScratchSize is the length of the buffer that Task.Scratch lends, in bytes.
const ScratchSize = 64 << 10

// A Scheduler runs tasks: a ready queue, wakes, timers, and no I/O. It belongs
// to one goroutine.
//
// What every step needs comes first, in 128 bytes: when the kernel returns, the
// caches have forgotten most of the program.
type Scheduler struct {
	ready            ring // tasks that the next turn runs
	later            ring // and behind them, those that gave way
	batch            ring // tasks that this turn runs
	current          *Task
	ops, bytes       int // left of the step's budget
	maxOps, maxBytes int
	overdrawn        bool
	attended         bool // draining, or watched: a step is more than a step
	timed            bool
	virtualClock     bool
	draining         bool
	closed           bool
	parker           Parker
	scratch          []byte
	stack            *Stack // that runs the current step

	newest  *Task // of all live tasks
	live    int
	spares  []*extra
	notify  func()
	report  func(*Task, error)
	watch   Watcher
	clock   func() time.Duration
	elapsed time.Duration      // of the virtual clock
	now     int64              // of this turn, valid when timed
	seen    map[Frame]struct{} // check mode: every frame that was spawned
	wakes   wakeQueue
	wheel   wheel
}

// NewScheduler makes a scheduler.
func NewScheduler(c Config) *Scheduler {
	s := &Scheduler{
		parker:   c.Parker,
		notify:   c.Notify,
		report:   c.Report,
		watch:    c.Watch,
		attended: c.Watch != nil,
		clock:    c.Clock,
		maxOps:   c.MaxOps,
		maxBytes: c.MaxBytes,
	}
	if s.parker == nil {
		s.parker = new(virtual)
	}
	if s.clock == nil {
		s.virtualClock = true
		s.clock = func() time.Duration { return s.elapsed }
	}
	if s.report == nil {
		s.report = logReport
	}
	if s.maxOps == 0 {
		s.maxOps = DefaultMaxOps
	}
	if s.maxBytes == 0 {
		s.maxBytes = DefaultMaxBytes
	}
	if c.Check {
		s.seen = make(map[Frame]struct{})
	}
	s.unbound()
	s.wheel.now = s.nowNanos() / tickNanos
	s.timed = false
	return s
}

func logReport(t *Task, err error) {
	var panicked *PanicError
	if errors.As(err, &panicked) { // whose text has the frames
		slog.Error("stepio: task failed", "err", err, "stack", string(panicked.Stack))
		return
	}
	slog.Error("stepio: task failed", "err", err, "frames", t.Chain())
}

// Spawn starts frame as a task: it runs in the next turn, and not before. On a
// scheduler that is closed the task has ended with ErrDestroyed when Spawn
// returns, and the frame is closed.
//
// It panics when a frame that embeds Returns is spawned a second time; in
// check mode, when any frame is.
func (s *Scheduler) Spawn(frame Frame) *Task {
	if frame == nil {
		panic("stepio: Scheduler.Spawn: nil frame")
	}
	if c, ok := frame.(claimer); ok && !c.claim() {
		panic(fmt.Sprintf("stepio: Scheduler.Spawn: frame %s was spawned before", typeName(frame)))
	}
	if s.seen != nil {
		s.checkFirst(frame)
	}
	t := &Task{frame: frame, sched: s}
	t.older = s.newest
	if s.newest != nil {
		s.newest.newer = t
	}
	s.newest = t
	s.live++
	s.ready.push(t)
	if s.closed {
		s.finish(t, ErrDestroyed, endDestroyed)
	}
	return t
}

// Turn runs the tasks that were ready when it began, after the timers that
// have passed and the wakes that have come; what they make ready waits for the
// next turn. It returns how many tasks it stepped.
//
// First in, first out: a task that gave way, by Yield or past its budget, is ready
// anew when the next turn has begun, behind what its timers and wakes have made
// ready. So who becomes ready between its step and that turn is stepped before it.
func (s *Scheduler) Turn() (steps int) {
	if s.current != nil {
		panic("stepio: Scheduler.Turn: called inside a step")
	}
	s.timed = false
	if s.wheel.count > 0 {
		s.fire()
	}
	if !s.wakes.empty() {
		s.takeWakes()
	}
	s.batch, s.ready = s.ready, ring{}
	s.batch.join(&s.later)
	for !s.batch.empty() {
		steps += s.runBatch()
	}
	s.unbound()
	s.timed = false
	return steps
}

// runBatch steps the tasks of the batch until one panics. The recovery is one
// deferred call a batch, not one a step. The step is called from here, and not by
// way of step: each function less between the loop and the kernel is one less that
// the caches have forgotten when the kernel returns (docs/internals.md).
func (s *Scheduler) runBatch() (steps int) {
	defer s.recovered()
	for t := s.batch.pop(); t != nil; t = s.batch.pop() {
		steps++
		if s.attended {
			s.stepAttended(t)
			continue
		}
		s.begin(t)
		s.settle(t, t.frame.Step(t))
	}
	return steps
}

// step is a step from beginning to end, for stepAttended.
func (s *Scheduler) step(t *Task) {
	s.begin(t)
	s.settle(t, t.frame.Step(t))
}

// begin makes t the task that runs.
func (s *Scheduler) begin(t *Task) {
	t.flags &^= flagAgain
	t.phase = phaseRunning
	t.steps++
	s.current = t
	s.ops, s.bytes, s.overdrawn = s.maxOps, s.maxBytes, false
}

// settle puts a task that was stepped where its answer says.
func (s *Scheduler) settle(t *Task, a Await) {
	t.ready = 0
	t.flags &^= flagWoken
	if a.kind() == kindDescriptor && t.flags&(flagDoomed|flagAgain) == 0 && !s.overdrawn {
		s.wait(t, a) // the usual answer: place has the others
	} else {
		s.place(t, a)
	}
	s.current = nil
}

// place is settle for all answers but a wait that nothing speaks against.
func (s *Scheduler) place(t *Task, a Await) {
	switch {
	case t.flags&flagDoomed != 0:
		s.finish(t, ErrDestroyed, endDestroyed)
	case a.kind() == kindDone:
		var err error
		if f, ok := t.frame.(failer); ok {
			err = f.Err()
		}
		s.finish(t, err, endFailed)
	case a.kind() == kindForgotten:
		frame, state := innermost(t.frame)
		s.finish(t, &ForgottenError{Frame: frame, State: state}, endFailed)
	case a.kind() == kindCall:
		panic("stepio: Task.Call: its answer left the Stack")
	case a.kind() == kindYield:
		s.giveWay(t)
	case s.overdrawn:
		s.forget(t) // a wait of its own, that ended at once
		s.giveWay(t)
	case t.flags&flagAgain != 0:
		s.forget(t)
		s.enqueue(t)
	case a.kind() == kindPark:
		s.forget(t)
		t.phase = phaseParked
		s.bound(t, a)
	default: // a wait for a descriptor that nothing speaks against does not come here
		panic(fmt.Sprintf("stepio: Scheduler.place: answer of kind %d", a.kind()))
	}
}

// wait parks t on a descriptor.
func (s *Scheduler) wait(t *Task, a Await) {
	before := t.flags
	t.flags &^= flagRefused | flagEdge
	if a.Edge() {
		t.flags |= flagEdge
	}
	if t.extra != nil {
		s.forget(t)
	}
	t.phase = phaseWaiting
	t.fd, t.dir = a.fd, a.Dir()
	if err := s.parker.Park(t, a); err != nil {
		s.refuse(t, err, before&flagRefused != 0)
		return
	}
	if a.deadline != 0 && t.phase == phaseWaiting { // not resumed already
		s.bound(t, a)
	}
}

// refuse is what becomes of a task that Park has an error for.
func (s *Scheduler) refuse(t *Task, err error, again bool) {
	t.phase = phaseRunning // in no list
	if again {
		s.finish(t, err, endFailed) // it would ask for ever
		return
	}
	t.setWaitErr(err)
	t.flags |= flagRefused
	s.enqueue(t)
}

// forget drops what nobody read of an earlier wait.
func (s *Scheduler) forget(t *Task) {
	t.flags &^= flagRefused
	if t.extra != nil {
		t.extra.waitErr = nil
		s.tidy(t)
	}
}

// bound sets the timer of a task that was parked.
func (s *Scheduler) bound(t *Task, a Await) {
	if a.deadline == 0 {
		return
	}
	x := t.more()
	x.tick = tickOf(a.deadline)
	x.soft = a.form&modeSoft != 0
	s.wheel.add(&x.timer)
}

// enqueue makes t, which is in no ring, ready.
func (s *Scheduler) enqueue(t *Task) {
	t.phase = phaseQueued
	s.ready.push(t)
}

// giveWay makes t, which is in no ring, ready behind all others.
func (s *Scheduler) giveWay(t *Task) {
	t.phase = phaseQueued
	s.later.push(t)
}

// dequeue takes t out of the ring of ready tasks that it is in.
func (s *Scheduler) dequeue(t *Task) {
	switch t {
	case s.batch.head:
		s.batch.remove(t)
	case s.later.head:
		s.later.remove(t)
	default:
		s.ready.remove(t) // of any ring: only a head's removal changes the ring's own word
	}
}

// resumed makes t ready, which its Waiters have let go.
func (s *Scheduler) resumed(t *Task) {
	if t.extra != nil {
		s.cancelTimer(t)
	}
	s.enqueue(t)
}

// resume makes t ready whatever it does.
func (s *Scheduler) resume(t *Task) {
	switch t.phase {
	case phaseWaiting:
		s.parker.Unpark(t, int(t.fd))
		s.resumed(t)
	case phaseParked:
		s.resumed(t)
	case phaseRunning:
		t.flags |= flagAgain
	case phaseQueued, phaseEnded:
	}
}

func (s *Scheduler) cancelTimer(t *Task) {
	if t.extra.set() {
		s.wheel.remove(&t.extra.timer)
	}
	s.tidy(t)
}

// fire resumes the tasks whose timers have passed.
func (s *Scheduler) fire() {
	tick := s.nowNanos() / tickNanos
	for x := s.wheel.expired(tick); x != nil; x = s.wheel.expired(tick) {
		x.task.expire(x.soft)
	}
}

// takeWakes resumes the tasks that were woken since the last turn.
func (s *Scheduler) takeWakes() {
	tasks := s.wakes.take()
	for _, t := range tasks {
		if t.wake.CompareAndSwap(wakeQueued, wakeIdle) {
			t.flags |= flagWoken
			s.resume(t)
		}
	}
	s.wakes.done(tasks)
}

// Current is the task whose step is running, nil when none is.
func (s *Scheduler) Current() *Task { return s.current }

// Live is the number of tasks that have not ended.
func (s *Scheduler) Live() int { return s.live }

// Now is the time of this turn: the clock is read when it is first asked for.
// Between two turns it is read anew, once.
func (s *Scheduler) Now() time.Time { return instant(s.nowNanos()) }

// Passed reports whether Now has reached a deadline. The zero time is none.
func (s *Scheduler) Passed(deadline time.Time) bool {
	return !deadline.IsZero() && s.nowNanos() >= nanos(deadline)
}

func (s *Scheduler) nowNanos() int64 {
	if !s.timed {
		s.now, s.timed = int64(s.clock()), true
	}
	return s.now
}

// Elapse says that time has passed since Now was asked for, outside of a turn:
// the next Now reads the clock anew.
func (s *Scheduler) Elapse() { s.timed = false }

// Scratch lends the buffer that Task.Scratch lends.
func (s *Scheduler) Scratch() []byte {
	if s.scratch == nil {
		s.scratch = make([]byte, ScratchSize)
	}
	return s.scratch
}

// Busy reports whether the next turn has a task to step: one is ready, or a
// wake has come.
func (s *Scheduler) Busy() bool {
	return !s.ready.empty() || !s.later.empty() || !s.wakes.empty()
}

// Timeout is how long there is nothing to do but wait for events and wakes: 0
// when a task is ready or a timer has passed, negative when no timer is set. It
// may end before the next timer, where the wheel has something to sort: at most
// once a level. It reads the clock when a timer is set.
func (s *Scheduler) Timeout() time.Duration {
	if s.Busy() {
		return 0
	}
	s.timed = false // time passes while the caller waits
	tick, ok := s.wheel.next()
	if !ok {
		return -1
	}
	return max(0, durationOf(tick)-s.clock())
}

// Advance moves the virtual clock forward by d. It panics on a real one, and
// when d is negative.
func (s *Scheduler) Advance(d time.Duration) {
	if !s.virtualClock {
		panic("stepio: Scheduler.Advance: the clock is not the scheduler's own")
	}
	if d < 0 {
		panic("stepio: Scheduler.Advance: the clock does not go back")
	}
	s.elapsed += d
	s.timed = false
}

// Close destroys every task, the newest first, and every one that they spawn
// meanwhile. The scheduler can't be used afterwards. Closing twice does nothing.
func (s *Scheduler) Close() {
	if s.current != nil {
		panic("stepio: Scheduler.Close: called inside a step")
	}
	s.closed = true
	for s.newest != nil {
		s.finish(s.newest, ErrDestroyed, endDestroyed)
	}
}
