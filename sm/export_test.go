package sm

import "github.com/stepio-go/stepio/internal/testseed"

// What the tests of both packages share.

// SeededRand is the random source of one test. A failed test prints its seed.
var SeededRand = testseed.Rand

// WakeQueueLen is how many wakes wait for the next turn.
func (s *Scheduler) WakeQueueLen() int {
	s.wakes.mu.Lock()
	defer s.wakes.mu.Unlock()
	return len(s.wakes.tasks)
}

// HasExtra reports whether t keeps more than its own 80 bytes.
func (t *Task) HasExtra() bool { return t.extra != nil }

// JoinerSlots is how many joiners t has room for.
func (t *Task) JoinerSlots() int { return cap(t.extra.kin.joiners) }
