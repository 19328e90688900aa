package sm

// The recycling of extras: what few tasks have at a time is taken when it is
// needed, and given back when it is not.

// maxSpares bounds the extras that are kept for reuse: 1 MiB a scheduler.
const maxSpares = 1 << 14

func (s *Scheduler) newExtra() *extra {
	if n := len(s.spares); n > 0 {
		x := s.spares[n-1]
		s.spares = s.spares[:n-1]
		return x
	}
	return new(extra)
}

// tidy takes the extra of a task that needs it no more.
func (s *Scheduler) tidy(t *Task) {
	x := t.extra
	if x != nil && !x.set() && x.waitErr == nil && x.kin == nil {
		s.dropExtra(t)
	}
}

func (s *Scheduler) dropExtra(t *Task) {
	x := t.extra
	t.extra = nil
	if len(s.spares) < maxSpares {
		*x = extra{}
		s.spares = append(s.spares, x)
	}
}
