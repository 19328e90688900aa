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
	look func(brisk bool)
}

func (p waitSpy) wait(events []event, timeout time.Duration, brisk bool) (int, error) {
	if timeout != 0 {
		p.look(brisk)
	}
	return p.poller.wait(events, timeout, brisk)
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
	w.Loop.poller = waitSpy{w.Loop.poller, func(bool) {
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

// A wait may keep the processor when the loop is to, the wait before was a moment
// ago, no processor is idle, and no pool has an errand.
func TestYieldKnowsWhenEventsComeBriskly(t *testing.T) {
	for _, c := range []struct {
		name       string
		keeps      bool
		processors int
		since      time.Duration // the wait before
		called     uint32        // workers, since
		errands    int32
		brisk      bool
	}{
		{"a moment ago", true, 1, 0, 0, 0, true},
		{"by default", false, 1, 0, 0, 0, false},
		{"long ago", true, 1, briskFor, 0, 0, false},
		{"a processor is idle, or a loop", true, 2, 0, 0, 0, false},
		{"a worker was called", true, 1, 0, 1, 0, false},
		{"a pool has an errand", true, 1, 0, 0, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Zero(t, unfinished.Load())
			unfinished.Add(c.errands)
			defer unfinished.Add(-c.errands)
			var got bool
			// What else the machine does may lie between a moment ago and now.
			for try := 0; try < 100 && (try == 0 || got != c.brisk); try++ {
				now := sm.Monotonic()
				y := yielder{keeps: c.keeps, last: now, waited: now - c.since, handed: handed.Load() - c.called}
				y.look(c.processors, 1)
				got = y.yield()
				y.count(false)
			}
			assert.Equal(t, c.brisk, got)
		})
	}
}

// ticks has a loop, which has the only processor, wait for a time so many times. It
// tells how many of those waits were brisk.
func ticks(t *testing.T, n int, every time.Duration, options ...LoopOption) (brisk int) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	w := newTestLoop(t, options...)
	w.Loop.poller = waitSpy{w.Loop.poller, func(is bool) {
		if is {
			brisk++
		}
	}}
	w.spawn(func(task *sm.Task) sm.Await {
		if n--; n == 0 {
			w.Stop()
			return sm.Done
		}
		return sm.Park.Until(time.Now().Add(every))
	})
	w.run()
	assert.NoError(t, w.joined())
	return brisk
}

func TestBriskWaitsAreThoseOfABusyLoop(t *testing.T) {
	assert.Zero(t, ticks(t, 50, time.Millisecond))
	assert.Positive(t, ticks(t, 200, time.Millisecond, WithOwnProcessor()))
	// After a wait that has found nothing for so long, the next gives the processor
	// away; some are cut short by the runtime's signals.
	assert.LessOrEqual(t, ticks(t, 20, 3*briskFor, WithOwnProcessor()), 10)
}

// Whose loop beside it is idle has a processor to spare, and a yield before each
// wait would wake a thread for it.
func TestNoWaitIsBriskBesideAnIdleLoop(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	idle := newTestLoop(t, WithOwnProcessor())
	idle.run()
	busy, waits, brisk := newTestLoop(t, WithOwnProcessor()), 0, 0
	busy.Loop.poller = waitSpy{busy.Loop.poller, func(is bool) {
		if waits++; is {
			brisk++
		}
	}}
	busy.spawn(func(task *sm.Task) sm.Await {
		if waits >= 200 {
			busy.Stop()
			return sm.Done
		}
		return sm.Park.Until(time.Now().Add(time.Millisecond))
	})
	busy.run()
	assert.NoError(t, busy.joined())
	assert.LessOrEqual(t, brisk, 20, "until the other is known to be idle")
	idle.Stop()
	assert.NoError(t, idle.joined())
	assert.Zero(t, lively.Load(), "of loops that do not run")
}

// A lively loop that has nothing to do any more is soon not lively.
func TestLivelyLoopsLookAgainSoon(t *testing.T) {
	var y yielder
	assert.Equal(t, time.Hour, y.bound(time.Hour))
	assert.Negative(t, y.bound(-1))
	y.lively = true
	assert.Equal(t, briskFor, y.bound(time.Hour))
	assert.Equal(t, briskFor, y.bound(-1))
	assert.Equal(t, time.Millisecond, y.bound(time.Millisecond))
	assert.Zero(t, y.bound(0))
}

// While two loops have the two processors, what a step has made ready runs before
// a wait that keeps one.
func TestBriskWaitsComeAfterWhatIsReady(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	const steps = 200
	type counts struct{ started, brisk, behind int }
	var of [2]counts
	var loops [2]*world
	for i := range loops {
		w, n, ran := newTestLoop(t, WithOwnProcessor()), &of[i], new(atomic.Int64)
		w.Loop.poller = waitSpy{w.Loop.poller, func(brisk bool) {
			if brisk {
				n.brisk++
				if int(ran.Load()) < n.started {
					n.behind++
				}
			}
		}}
		w.spawn(func(task *sm.Task) sm.Await {
			if n.started == steps {
				w.Stop()
				return sm.Done
			}
			n.started++
			go ran.Add(1)
			return sm.Park.Until(time.Now().Add(time.Millisecond))
		})
		loops[i] = w
	}
	for _, w := range loops {
		w.run()
	}
	for i, w := range loops {
		assert.NoError(t, w.joined())
		assert.Positive(t, of[i].brisk)
		assert.Less(t, of[i].behind, of[i].brisk/2+1, "%+v", of[i]) // the runtime may preempt in between
	}
}

func TestPoolCountsItsErrands(t *testing.T) {
	require.Zero(t, unfinished.Load())
	pool := NewPool(1, 16)
	started, release := make(chan struct{}), make(chan struct{})
	require.NoError(t, pool.TrySubmit(func() { close(started); <-release }))
	<-started
	require.NoError(t, pool.TrySubmit(func() { panic("planted") }))
	require.NoError(t, pool.TrySubmit(runtime.Goexit))
	waiting := &plain{}
	waiting.errand.work = waiting
	require.NoError(t, pool.submit(&waiting.errand, true))
	assert.EqualValues(t, 4, unfinished.Load())
	require.True(t, pool.withdraw(&waiting.errand, func() bool { return true }))
	assert.EqualValues(t, 3, unfinished.Load())
	close(release)
	pool.Stop()
	pool.Join()
	assert.Zero(t, unfinished.Load())
	assert.ErrorIs(t, pool.TrySubmit(func() {}), ErrPoolClosed)
	assert.Zero(t, unfinished.Load(), "what was refused")
}

func TestYieldFollowsAPoolThatWasGivenWork(t *testing.T) {
	pool := NewPool(1, 16)
	defer pool.Join()
	defer pool.Stop()
	require.Eventually(t, func() bool {
		pool.mu.Lock()
		defer pool.mu.Unlock()
		return pool.idle == 1
	}, patience, time.Millisecond)
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
