package sm

// A Watcher is told of every step, on the scheduler's goroutine: to find those
// that take too long.
type Watcher interface {
	// Begin is called before a step of t, with everything about t in order: the
	// last time that its frames can be looked at before the step is over.
	Begin(t *Task)
	// End is called after the step, and what follows it at once: the end of the
	// task, and while draining the question whether it is idle. It is called also
	// when one of them has panicked. The task may have ended.
	End()
}

// stepAttended is step for a scheduler that is watched or drains. Any other
// pays one branch a step for the two.
func (s *Scheduler) stepAttended(t *Task) {
	root := t.root() // before the step: a child that ends is nobody's any more
	if s.watch != nil {
		s.watch.Begin(t)
		defer s.watch.End()
	}
	s.step(t)
	if s.draining {
		s.endIdle(root)
	}
}
