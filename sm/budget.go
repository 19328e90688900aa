package sm

import "math"

// The budget of a step: how many operations it may begin, and how many bytes
// they may have moved when it begins one. So no peer keeps the scheduler to
// itself, whatever its task does.
//
// An operation that finds that it would block is given back: so a step that is
// refused has got something done, and a task that can't go on waits, whatever the
// number of descriptors that it has tried. Else it would be queued at once, to
// try the same ones again and never those behind them.

// Admit begins an operation of the current step and reports whether the step's
// budget allows it. When it does not, the operation would block, and the task
// is queued whatever its step returns, behind the other ready ones and those that
// become so before the next turn. Outside a step there is no budget; the Close of a
// frame that ends in a step has what the step left of its own.
func (s *Scheduler) Admit() bool {
	if s.ops <= 0 || s.bytes <= 0 {
		s.overdrawn = true
		return false
	}
	s.ops--
	return true
}

// Refund gives back the operation that Admit began last: it would block.
func (s *Scheduler) Refund() { s.ops++ }

// Spend takes n bytes from the step's budget. A negative n gives back what was taken
// before, and must not give back more.
func (s *Scheduler) Spend(n int) { s.bytes -= n }

// unbound lifts the budget: no step is running.
func (s *Scheduler) unbound() { s.ops, s.bytes = math.MaxInt, math.MaxInt }
