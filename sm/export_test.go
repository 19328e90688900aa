package sm

import (
	"flag"
	"math/rand/v2"
	"testing"
)

// What the tests of both packages share.

var seed = flag.Uint64("seed", 0, "seed of the random tests, as a failed one printed it; 0: a new one each")

// SeededRand is the random source of one test. A failed test prints its seed.
func SeededRand(t testing.TB) *rand.Rand {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("again with: -run '^%s$' -seed %d", t.Name(), s)
	return rand.New(rand.NewPCG(s, s))
}

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
