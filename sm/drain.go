package sm

import "slices"

// Draining: the part of a graceful shutdown that frames take part in.
//
// Drain resumes every task once, which is a resume like any other, and from
// then on Draining tells the frames that they are to come to an end. A frame
// that has nothing to say about it runs on until it ends. One that waits for
// others to ask something of it, between two requests, implements [Idler] and is
// ended there.
//
// A task is asked whether it is idle after a step, and not before its first: so
// what had come for it by then is seen. It is not asked while it is ready, or
// has been woken. An [All], an [AllSettled] or an [Any] is part of the task that
// runs it: its children are not asked, but after each step of theirs their
// parent is, unless one of them is ready. A [Stack] asks its outermost frame.
//
// All else goes on as before: tasks may spawn (the new ones are asked after a
// step too), join, call and wait for a pool. That a task was ended idle is no
// failure and is not reported; for those who join it, it was destroyed.

// An Idler is a root frame that may be ended between two steps, while its
// scheduler drains. Idle reports whether nothing would be lost by that now. It is
// called on the scheduler's goroutine, only while draining and while the task
// waits, and must not change anything.
//
// It is asked after steps only: who becomes idle by what another task does, or by
// the passing of time, has to be woken for it, or to wait until then. What other
// goroutines have queued for it, Idle must look at: a wake that comes after the
// question finds a task that has ended.
type Idler interface {
	Idle() bool
}

// Draining reports whether the scheduler drains: see Scheduler.Drain.
func (t *Task) Draining() bool { return t.sched.draining }

// Draining reports whether Drain was called. Scheduler's goroutine only.
func (s *Scheduler) Draining() bool { return s.draining }

// Drain has the tasks come to an end: every task is resumed once, finds
// Task.Draining true, and is ended as soon as it waits and its root frame is an
// idle [Idler]. It may be called inside a step. Draining twice is draining once,
// and there is no way back. Scheduler's goroutine only.
func (s *Scheduler) Drain() {
	if s.draining {
		return
	}
	s.draining, s.attended = true, true
	for t := s.oldest(); t != nil; t = t.newer {
		s.resume(t)
	}
}

// root is the task that t is a part of: that of the outermost nursery.
func (t *Task) root() *Task {
	for t.extra != nil && t.extra.kin != nil && t.extra.kin.nursery != nil {
		t = t.extra.kin.nursery.parent
	}
	return t
}

// quiet reports whether t waits, and all its children do that have not ended.
func (t *Task) quiet() bool {
	if t.phase != phaseParked && t.phase != phaseWaiting || t.wake.Load() == wakeQueued {
		return false
	}
	if t.extra == nil || t.extra.kin == nil {
		return true
	}
	// The youngest first: after Drain they are stepped in the order of their age, so
	// the first that is looked at has something to do, until all have had their step.
	for _, n := range slices.Backward(t.extra.kin.owned) {
		for _, child := range slices.Backward(n.tasks) {
			if child.phase != phaseEnded && !child.quiet() {
				return false
			}
		}
	}
	return true
}

// endIdle ends a root task that is idle. A panic of its Idle is its own.
func (s *Scheduler) endIdle(t *Task) {
	f, ok := t.frame.(Idler)
	if !ok || !t.quiet() {
		return
	}
	s.current = t
	if f.Idle() {
		s.finish(t, ErrDestroyed, endDestroyed)
	}
	s.current = nil
}
