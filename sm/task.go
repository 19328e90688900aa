package sm

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// A Task is what a scheduler runs: a root frame and a few words. A task ends
// when its frame answers Done, fails, panics or is destroyed; its frame's
// Close is called then, once. Tasks are not recycled, so a handle is never
// stale: every method may be called after the end.
//
// Its methods are for the scheduler's goroutine, but for Waker's value.
type Task struct {
	frame        Frame
	sched        *Scheduler
	next, prev   *Task  // the ring that the task is in
	newer, older *Task  // all live tasks of the scheduler
	extra        *extra // timer, errors and relations: only while there are any
	fd           int32  // waited for in phaseWaiting
	wake         atomic.Uint32
	phase        phase
	dir          Dir // waited for in phaseWaiting
	ready        Dir // came true
	flags        flags
	steps        uint32 // made, modulo 2^32: tells whether a Join is of the last one
}

// extra is what few tasks have at a time, or for a short time.
type extra struct {
	timer
	waitErr error
	kin     *kin
}

// kin is how a task stands to others, and how it ended.
type kin struct {
	joiners []joiner
	nursery *nursery   // that it is a child of
	owned   []*nursery // those of the All and Any that it runs
	err     error      // how it ended
}

// joiner is a task that called Join, and in which of its steps it did so last:
// one that was stepped since and did not ask again has gone on without.
type joiner struct {
	task *Task
	step uint32
}

// joined reports whether somebody will see how the task ended.
func (k *kin) joined() bool {
	return k.nursery != nil || slices.ContainsFunc(k.joiners, func(j joiner) bool {
		return j.task.phase != phaseEnded && j.task.steps == j.step
	})
}

// phase is where a task is in its life.
type phase uint8

const (
	phaseQueued  phase = iota // in the ready queue, among those that gave way, or in the batch
	phaseRunning              // its Step is on the Go stack
	phaseParked               // waits for a wake or a deadline
	phaseWaiting              // waits for a descriptor as well
	phaseEnded
)

type flags uint8

const (
	flagWoken   flags = 1 << iota // a wake has come since the last step
	flagAgain                     // resumed while it was running
	flagDoomed                    // destroyed while it was running
	flagRefused                   // Park failed, and nobody has read the error
	flagEdge                      // the wait of phaseWaiting is edge-triggered
)

// The values of Task.wake.
const (
	wakeIdle   uint32 = iota
	wakeQueued        // in the scheduler's queue of wakes
	wakeDead          // the task has ended
)

// Ready is the set of directions whose event resumed this step. It is empty
// when something else did.
func (t *Task) Ready() Dir { return t.ready }

// Woken reports whether a Waker has resumed this step, perhaps along with
// something else.
func (t *Task) Woken() bool { return t.flags&flagWoken != 0 }

// WaitErr says why the last wait ended without its event. Reading clears it.
//
// The result is one of: nil; os.ErrDeadlineExceeded, when the deadline passed
// and no event came with it; net.ErrClosed, when the descriptor was closed;
// the error with which it was removed; the error for which it could not be
// waited for at all (a regular file, a second trigger mode). A task that waits
// again after the last kind without having read it fails with that error.
func (t *Task) WaitErr() error {
	t.flags &^= flagRefused
	if t.extra == nil {
		return nil
	}
	err := t.extra.waitErr
	t.extra.waitErr = nil
	t.sched.tidy(t)
	return err
}

func (t *Task) setWaitErr(err error) { t.more().waitErr = err }

// Now is the time of this turn: the clock is read at most once a turn.
func (t *Task) Now() time.Time { return t.sched.Now() }

// Scratch lends the scheduler's buffer, 64 KiB, until the step returns. There
// is one for all tasks: stepping a child may overwrite it, and it must not be
// handed to another goroutine.
func (t *Task) Scratch() []byte { return t.sched.Scratch() }

// Spawn starts frame as a task of its own on the same scheduler. It runs in
// the next turn and outlives t.
func (t *Task) Spawn(frame Frame) *Task { return t.sched.Spawn(frame) }

// Scheduler is the scheduler that the task belongs to.
func (t *Task) Scheduler() *Scheduler { return t.sched }

// SleepUntil waits for a time. It is done when t.Now() has reached when, and
// waits until then otherwise; call it again with the same time on every resume:
//
//	if a := t.SleepUntil(f.when); a.Pending() {
//		return a
//	}
func (t *Task) SleepUntil(when time.Time) Await {
	if !t.Now().Before(when) {
		return Done
	}
	return Park.Until(when)
}

// Join waits until other has ended; other.Err says how. It is idempotent, as
// SleepUntil. An error of a task that is joined when it ends is not reported; a
// task that was stepped since it called Join, and did not call it again, has
// given up.
//
// It panics when other is t, or belongs to another scheduler.
func (t *Task) Join(other *Task) Await {
	if other == t {
		panic("stepio: Task.Join: a task cannot wait for itself")
	}
	if other.sched != t.sched {
		panic("stepio: Task.Join: task of another scheduler")
	}
	if other.phase == phaseEnded {
		return Done
	}
	other.relations().addJoiner(t)
	return Park
}

func (k *kin) addJoiner(t *Task) {
	for i := range k.joiners {
		if k.joiners[i].task == t {
			k.joiners[i].step = t.steps
			return
		}
	}
	if len(k.joiners) == cap(k.joiners) { // before the list grows: some may have ended
		k.joiners = slices.DeleteFunc(k.joiners, func(j joiner) bool { return j.task.phase == phaseEnded })
	}
	k.joiners = append(k.joiners, joiner{t, t.steps})
}

// Ended reports whether the task has ended. Its frame is closed then.
func (t *Task) Ended() bool { return t.phase == phaseEnded }

// Err is how the task ended.
//
// The result is one of: nil, while it lives or when its frame finished without
// an error; the error of the frame's Err method; ErrDestroyed; a
// *ForgottenError; a *PanicError; the error of its frame's Close.
func (t *Task) Err() error {
	if t.phase != phaseEnded || t.extra == nil || t.extra.kin == nil {
		return nil
	}
	return t.extra.kin.err
}

// Destroy ends the task: nothing of it is stepped again, its frame is closed,
// whoever joins it is resumed. A task whose Step is on the Go stack, such as
// the caller's own, is destroyed when that step returns. Destroying a task that
// has ended does nothing.
func (t *Task) Destroy() {
	switch t.phase {
	case phaseEnded:
	case phaseRunning:
		t.flags |= flagDoomed
	default:
		t.sched.finish(t, ErrDestroyed, endDestroyed)
	}
}

// Waker returns the task's waker.
func (t *Task) Waker() Waker { return Waker{t} }

// Call runs frame as a callee of the running frame, on the Stack that runs it:
// return what it returns, after setting the state in which to go on. The Stack
// closes frame, where it has a Close, once it is done. Call panics when no
// Stack runs the task.
func (t *Task) Call(frame Frame) Await {
	s := t.sched.stack
	if s == nil {
		panic("stepio: Task.Call: the frame runs on no Stack")
	}
	s.push(frame)
	return call
}

// String names the task for logs: its root frame's type.
func (t *Task) String() string {
	if t.phase == phaseEnded {
		return "ended task"
	}
	return "task " + typeName(t.frame)
}

// more is the task's extra, made when it has none.
func (t *Task) more() *extra {
	if t.extra == nil {
		t.extra = t.sched.newExtra()
		t.extra.task = t
	}
	return t.extra
}

func (t *Task) relations() *kin {
	x := t.more()
	if x.kin == nil {
		x.kin = new(kin)
	}
	return x.kin
}

// waits describes what the task waits for.
func (t *Task) waits() string {
	switch t.phase {
	case phaseQueued:
		return "ready"
	case phaseRunning:
		return "running"
	case phaseEnded:
		return "ended"
	}
	a := Park
	if t.phase == phaseWaiting {
		a = Wait(int(t.fd), t.dir)
		if t.flags&flagEdge != 0 {
			a.form |= modeEdge
		}
	}
	if t.extra == nil || !t.extra.set() {
		return a.String()
	}
	left := durationOf(t.extra.tick) - time.Duration(t.sched.nowNanos())
	if t.extra.soft {
		return fmt.Sprintf("%v, until %v from now", a, left)
	}
	return fmt.Sprintf("%v, deadline %v from now", a, left)
}

// expire is called when the task's timer fires.
func (t *Task) expire(soft bool) {
	if !soft {
		t.setWaitErr(os.ErrDeadlineExceeded)
	}
	t.sched.resume(t)
}
