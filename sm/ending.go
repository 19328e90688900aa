package sm

import (
	"runtime/debug"
)

// How tasks end. Every path to the end goes through finish, once: so a frame is
// closed once, whoever waits is resumed, and no error vanishes.

// ending is what the report handler must know of how a task ends. It can't be
// told from the error: a frame may pass on what another task ended with.
type ending uint8

const (
	endFailed    ending = iota // or succeeded; reported when nobody joins
	endDestroyed               // never reported
	endPanicked                // always reported
)

// finish ends t: out of every list first, so that whatever its Close does
// finds it ended; then its children, its frame, and those who wait for it.
func (s *Scheduler) finish(t *Task, err error, how ending) {
	switch t.phase {
	case phaseEnded:
		return
	case phaseWaiting:
		if t.next != nil { // else Park has panicked
			s.parker.Unpark(t, int(t.fd))
		}
	case phaseQueued:
		s.dequeue(t)
	}
	t.phase = phaseEnded
	t.wake.Store(wakeDead)
	if t.extra != nil && t.extra.set() {
		s.wheel.remove(&t.extra.timer)
	}
	s.unlink(t)
	if t.ready != 0 && t.flags&flagEdge != 0 && how == endDestroyed && !s.closed {
		s.parker.Return(int(t.fd), t.ready)
	}
	var k kin
	if t.extra != nil && t.extra.kin != nil {
		k = *t.extra.kin
	}
	if err != nil && (how == endPanicked || how == endFailed && !k.joined()) {
		s.tell(t, err)
	}
	for _, n := range k.owned {
		n.destroy()
	}
	if closeErr := closeFrame(t.frame); closeErr != nil {
		s.tell(t, closeErr)
		if err == nil {
			err = closeErr
		}
	}
	t.frame = nil
	if t.extra != nil {
		s.dropExtra(t)
	}
	if err != nil {
		t.extra = &extra{kin: &kin{err: err}}
	}
	for _, j := range k.joiners {
		s.resume(j.task)
	}
	if k.nursery != nil {
		k.nursery.ended(t)
	}
}

// tell hands err to the report handler. A panic of the handler is logged: t's
// joiners and neighbours must not suffer for it.
func (s *Scheduler) tell(t *Task, err error) {
	defer func() {
		if v := recover(); v != nil {
			logReport(t, err)
			logReport(t, &PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	s.report(t, err)
}

// unlink takes t out of the list of live tasks.
func (s *Scheduler) unlink(t *Task) {
	if t.newer != nil {
		t.newer.older = t.older
	} else {
		s.newest = t.older
	}
	if t.older != nil {
		t.older.newer = t.newer
	}
	t.newer, t.older = nil, nil
	s.live--
}

// closeFrame closes frame, where it has a Close. A panic becomes its error.
func closeFrame(frame Frame) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack(), Chain: chainText(frame)}
		}
	}()
	return callClose(frame)
}

// recovered ends the task whose step has panicked. Called by a deferred call.
func (s *Scheduler) recovered() {
	t := s.current
	if t == nil {
		return
	}
	err := errGoexit
	if v := recover(); v != nil {
		err = &PanicError{Value: v, Stack: debug.Stack(), Chain: t.Chain()}
	} else {
		s.putBack()
	}
	s.current, s.stack = nil, nil
	if t.phase == phaseEnded {
		logReport(t, err) // Goexit in Close or in the report handler
		return
	}
	s.finish(t, err, endPanicked)
}

// putBack ends a turn early: what is left of its batch is ready again, before
// what became ready meanwhile.
func (s *Scheduler) putBack() {
	s.batch.join(&s.ready)
	s.ready, s.batch = s.batch, ring{}
	s.unbound()
}
