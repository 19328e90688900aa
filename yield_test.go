package stepio

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// waitSpy looks at the world before every wait that may block.
type waitSpy struct {
	poller
	look func()
}

func (p waitSpy) wait(events []event, timeout time.Duration) (int, error) {
	if timeout != 0 {
		p.look()
	}
	return p.poller.wait(events, timeout)
}

// With one processor, what a step has made ready runs before the loop waits: it
// need not wait for the runtime to find the loop in a syscall.
func TestYieldComesBeforeTheWaitWhenThereIsOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	w := newTestLoop(t)
	pool := NewPool(1, 16)
	defer pool.Join()
	defer pool.Stop()
	const jobs = 100
	submitted, ran, behind, waits := 0, atomic.Int64{}, 0, 0
	w.Loop.poller = waitSpy{w.Loop.poller, func() {
		waits++
		if int(ran.Load()) < submitted {
			behind++
		}
	}}
	w.spawn(func(task *sm.Task) sm.Await {
		if submitted == jobs && ran.Load() == jobs {
			w.Stop()
			return sm.Done
		}
		if submitted < jobs {
			assert.NoError(t, pool.TrySubmit(func() { ran.Add(1) }))
			submitted++
		}
		return sm.Park.Until(time.Now().Add(time.Millisecond))
	})
	w.run()
	assert.NoError(t, w.joined())
	assert.GreaterOrEqual(t, waits, jobs/2)
	// The runtime may itself take the processor away in between.
	assert.Less(t, behind, jobs/4)
}

// A loop that is never without a ready task does not wait; but a worker that it has
// called runs all the same after the step, and not when the runtime takes the
// processor away, 10 ms later or more.
func TestYieldComesAlsoWhenTheLoopIsBusy(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	w := newTestLoop(t)
	pool := NewPool(1, 16)
	defer pool.Join()
	defer pool.Stop()
	waitsForWork(t, pool)
	const jobs = 100
	submitted, ran, late := 0, atomic.Int64{}, make(map[int]bool)
	w.spawn(func(task *sm.Task) sm.Await {
		if int(ran.Load()) < submitted {
			late[submitted] = true
			return sm.Yield
		}
		if submitted == jobs {
			w.Stop()
			return sm.Done
		}
		assert.NoError(t, pool.TrySubmit(func() { ran.Add(1) }))
		submitted++
		return sm.Yield
	})
	w.run()
	assert.NoError(t, w.joined())
	// Each is done by the next step, but for one in 61, before which the Go scheduler
	// runs the loop once more.
	assert.Less(t, len(late), jobs/4)
}

func TestYieldKnowsWhoHasAProcessor(t *testing.T) {
	for _, c := range []struct {
		processors, loops int
		alone, crowded    bool
	}{
		{1, 1, true, true},
		{2, 1, false, false},
		{2, 2, false, true},
		{2, 3, false, true},
		{8, 7, false, false},
	} {
		var y yielder
		y.look(c.processors, c.loops)
		assert.Equal(t, c.alone, y.alone, "%+v", c)
		assert.Equal(t, c.crowded, y.crowded, "%+v", c)
	}
}

func TestYieldIsForThoseWhoNeedIt(t *testing.T) {
	now := sm.Monotonic()
	for _, c := range []struct {
		name              string
		processors, loops int
		since             time.Duration // the last one
		called            uint32        // workers, since the last look at the poller
		busy              bool
		want              bool
	}{
		{"with one processor, before each wait", 1, 1, 0, 0, false, true},
		{"with one to spare, not before the time has come", 2, 1, yieldEvery - 1, 0, false, false},
		{"with one to spare, when the time has come", 2, 1, yieldEvery, 0, false, true},
		{"with one to spare, not for a worker", 2, 1, 0, 1, false, false},
		{"with a loop on each, not before the time has come", 2, 2, yieldEvery - 1, 0, false, false},
		{"with a loop on each, for a worker", 2, 2, 0, 1, false, true},
		{"busy, with one processor, not before the time has come", 1, 1, yieldEvery - 1, 0, true, false},
		{"busy, when the time has come", 1, 1, yieldEvery, 0, true, true},
		{"busy, for a worker", 1, 1, 0, 1, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := yielder{last: now - c.since, handed: handed.Load() - c.called}
			y.look(c.processors, c.loops)
			assert.Equal(t, c.want, y.wanted(now, c.busy))
			if c.since < yieldEvery { // else it has looked at the real ones
				assert.Equal(t, y.alone && !c.busy, y.wanted(now, c.busy), "once")
			}
		})
	}
}

// waitsForWork returns when the one worker of pool waits.
func waitsForWork(t *testing.T, pool *Pool) {
	require.Eventually(t, func() bool {
		pool.mu.Lock()
		defer pool.mu.Unlock()
		return pool.idle == 1
	}, patience, time.Millisecond)
}

func TestYieldFollowsAPoolThatWasGivenWork(t *testing.T) {
	pool := NewPool(1, 16)
	defer pool.Join()
	defer pool.Stop()
	waitsForWork(t, pool)
	before := handed.Load()
	require.NoError(t, pool.TrySubmit(func() {}))
	assert.Equal(t, before+1, handed.Load())
}

func TestYieldCountsTheLoopsThatRun(t *testing.T) {
	before := running.Load()
	l, err := NewLoop()
	assert.NoError(t, err)
	during := make(chan int32, 1)
	assert.NoError(t, l.Post(func() { during <- running.Load(); l.Stop() }))
	assert.NoError(t, l.Run())
	assert.Equal(t, before+1, <-during)
	assert.Equal(t, before, running.Load())
	assert.NoError(t, l.Close())
}
