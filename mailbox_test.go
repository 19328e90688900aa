//go:build linux || darwin

package stepio

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

func TestLoopPostRunsInOrder(t *testing.T) {
	w := newTestLoop(t)
	var order []int
	for i := range 100 {
		require.NoError(t, w.Post(func() { order = append(order, i) }))
	}
	w.turns(1)
	require.Len(t, order, 100)
	assert.IsIncreasing(t, order)
}

func TestLoopPostNilPanics(t *testing.T) {
	w := newTestLoop(t)
	assert.PanicsWithValue(t, "stepio: Loop.Post: nil function", func() { _ = w.Post(nil) })
}

func TestLoopPostIsBounded(t *testing.T) {
	w := newTestLoop(t)
	ran := 0
	for range MaxPosts {
		require.NoError(t, w.Post(func() { ran++ }))
	}
	assert.Equal(t, ErrQueueFull, w.Post(func() { ran++ }))
	require.NoError(t, w.turn())
	assert.Equal(t, MaxPosts, ran, "every one that was taken has run, no other has")
	assert.NoError(t, w.Post(func() {}), "there is room again")
}

// A function that posts itself again does not keep the loop from its tasks.
func TestLoopPostThatPostsDoesNotStarve(t *testing.T) {
	w := newTestLoop(t)
	runs := 0
	var again func()
	again = func() {
		runs++
		_ = w.Post(again) // refused once the loop is closed
	}
	require.NoError(t, w.Post(again))
	f := w.spawn(func(*sm.Task) sm.Await { return sm.Yield })
	require.NoError(t, w.turn())
	assert.Equal(t, 1, runs, "what a turn's posts post runs in the next turn")
	assert.Equal(t, 1, f.steps)
}

// A post after stop was accepted by the original, and never ran.
func TestDefectAPostAfterStopIsNeverRun(t *testing.T) {
	w := newTestLoop(t)
	w.Stop()
	assert.Equal(t, ErrLoopClosed, w.Post(func() { t.Error("ran") }))
	require.NoError(t, w.Run())
	assert.Equal(t, ErrLoopClosed, w.Post(func() { t.Error("ran") }))
	require.NoError(t, w.Close())
	assert.Equal(t, ErrLoopClosed, w.Post(func() { t.Error("ran") }))
}

func TestLoopCloseRunsWhatWasPosted(t *testing.T) {
	w := newTestLoop(t)
	ran := 0
	require.NoError(t, w.Post(func() {
		ran++
		assert.Equal(t, ErrLoopClosed, w.Post(func() { t.Error("ran") }))
	}))
	require.NoError(t, w.Close())
	assert.Equal(t, 1, ran)
}

// A posted function that ends the goroutine of Run takes nothing along that was
// posted after it.
func TestLoopGoexitInAPostKeepsTheOthers(t *testing.T) {
	w := newTestLoop(t)
	var ran []int
	require.NoError(t, w.Post(func() { ran = append(ran, 0) }))
	require.NoError(t, w.Post(func() {
		require.NoError(t, w.Post(func() { ran = append(ran, 3) }))
		runtime.Goexit()
	}))
	require.NoError(t, w.Post(func() { ran = append(ran, 1) }))
	require.NoError(t, w.Post(func() { ran = append(ran, 2) }))
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = w.Run()
		t.Error("Run has returned")
	}()
	<-over
	require.NoError(t, w.Close())
	assert.Equal(t, []int{0, 1, 2, 3}, ran)
}

// A nil answer means that fn runs exactly once, whatever else happens.
func TestTrapPostFromManyGoroutinesDuringStop(t *testing.T) {
	for range 10 {
		w := newTestLoop(t)
		w.run()
		const posters = 4
		var accepted, ran [posters]int
		var begun, done sync.WaitGroup
		for i := range posters {
			begun.Add(1)
			done.Go(func() {
				for n := 0; ; n++ {
					if n == 1 {
						begun.Done()
					}
					err := w.Post(func() { ran[i]++ })
					if errors.Is(err, ErrLoopClosed) {
						return
					}
					if err == nil {
						accepted[i]++
					}
				}
			})
		}
		begun.Wait()
		w.Stop()
		require.NoError(t, w.joined())
		ranAtRun := ran
		done.Wait()
		assert.Equal(t, accepted, ran)
		assert.Equal(t, ranAtRun, ran, "all before Run returned")
		require.NoError(t, w.Close())
		assert.Equal(t, ranAtRun, ran)
	}
}

// A burst of posts and wakes to a loop that waits costs one write to the
// eventfd; to one that works, none.
func TestLoopBurstOfPostsCostsOneWake(t *testing.T) {
	w := newFaultyLoop(t)
	woken := w.spawn(func(*sm.Task) sm.Await { return sm.Park })
	w.turns(2)
	wakes := 0
	end := time.Now().Add(5 * time.Millisecond)
	w.ended(w.Spawn(script(
		func(task *sm.Task) sm.Await { return task.SleepUntil(end) }, // so that the loop has waited
		func(*sm.Task) sm.Await {
			wakes = w.faults.during(func() {
				for range 1000 {
					require.NoError(t, w.Post(func() {}))
					woken.task.Waker().Wake()
				}
			}, callPollWake)
			return sm.Done
		})))
	assert.Zero(t, wakes, "the loop works")

	w.settle()
	w.mail.alert.Store(false) // as it is while the loop waits
	assert.Equal(t, 1, w.faults.during(func() {
		for range 1000 {
			require.NoError(t, w.Post(func() {}))
			woken.task.Waker().Wake()
		}
	}, callPollWake), "the loop waits")
	w.turns(1)
}

// A post that falls between the loop's look at its queue and its wait is seen
// by the last look: each is made when the one before has just run, at a moment
// that moves along the loop's way to its wait.
func TestLoopPostBeforeTheWaitIsNotLost(t *testing.T) {
	rnd := seededRand(t)
	w := newTestLoop(t)
	w.run()
	var ran atomic.Int64
	fn := func() { ran.Add(1) }
	begin := time.Now()
	for i := int64(0); i < 20_000 && time.Since(begin) < time.Second; i++ {
		require.NoError(t, w.Post(fn))
		posted := time.Now()
		for spins := 1; ran.Load() <= i; spins++ {
			if spins%1000 == 0 {
				runtime.Gosched()
				if time.Since(posted) > patience {
					require.FailNow(t, "lost")
				}
			}
		}
		for range rnd.IntN(3000) { // any time up to a few microseconds
		}
	}
	t.Logf("%d posts", ran.Load())
}

// No wake is lost between the loop's last look and its wait: each post is made
// only when the one before has run, so a lost one hangs.
func TestLoopWakesAreNotLost(t *testing.T) {
	for _, c := range []struct {
		name string
		send func(w *world, waker sm.Waker, ran chan<- struct{}) bool
	}{
		{"a post", func(w *world, _ sm.Waker, ran chan<- struct{}) bool {
			return assert.NoError(w.t, w.Post(func() { ran <- struct{}{} }))
		}},
		{"a wake of a task", func(_ *world, waker sm.Waker, _ chan<- struct{}) bool { waker.Wake(); return true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			ran := make(chan struct{}, 1)
			f := w.spawn(func(task *sm.Task) sm.Await {
				if task.Woken() {
					ran <- struct{}{}
				}
				return sm.Park
			})
			w.run()
			for range 2000 {
				c.send(w, f.task.Waker(), ran)
				select {
				case <-ran:
				case <-time.After(patience):
					require.FailNow(t, "lost")
				}
			}
		})
	}
}

func TestTrapWakeDuringASleep(t *testing.T) {
	w := newTestLoop(t)
	end := time.Now().Add(50 * time.Millisecond)
	var wokenAt []time.Time
	f := script(func(task *sm.Task) sm.Await {
		if task.Woken() {
			wokenAt = append(wokenAt, task.Now())
		}
		return task.SleepUntil(end)
	})
	f.task = w.Spawn(f)
	w.turns(1)
	f.task.Waker().Wake()
	w.turns(2)
	require.Len(t, wokenAt, 1, "the wake has come")
	assert.False(t, f.task.Ended(), "and has not ended the sleep")
	assert.Equal(t, 2, f.steps)
	w.ended(f.task)
	assert.False(t, w.Now().Before(end))
}

func TestTrapWakeAfterDestroy(t *testing.T) {
	w := newTestLoop(t)
	f := w.spawn(nil)
	w.turns(1)
	waker := f.task.Waker()
	waker.Wake() // queued, not taken
	f.task.Destroy()
	w.turns(2)
	waker.Wake()
	w.turns(2)
	assert.Equal(t, 1, f.steps)
	assert.Equal(t, 1, f.closes)
	require.NoError(t, w.Close())
	waker.Wake() // after its loop, too
	done := make(chan struct{})
	go func() { defer close(done); waker.Wake() }()
	<-done
}

// Two tasks that wake each other keep the loop busy for ever, and yet events
// and posts get through.
func TestTrapTwoTasksThatWakeEachOtherForEver(t *testing.T) {
	w := newTestLoop(t)
	r, far := socketPair(t)
	var ping, pong *fake
	ping = w.spawn(func(*sm.Task) sm.Await { pong.task.Waker().Wake(); return sm.Park })
	pong = w.spawn(func(*sm.Task) sm.Await { ping.task.Waker().Wake(); return sm.Park })
	o := &once{await: w.Readable(r)}
	reader := w.Spawn(o)
	for range 100 {
		require.NoError(t, w.turn())
	}
	assert.Greater(t, ping.steps, 50)
	newUnownedPeer(t, far).send([]byte("x"))
	posted := false
	require.NoError(t, w.Post(func() { posted = true }))
	for range 3 {
		require.NoError(t, w.turn())
	}
	assert.True(t, posted)
	assert.True(t, reader.Ended(), "the event came through at once")
	require.NoError(t, w.Remove(r))
}

func TestLoopPostFromManyGoroutines(t *testing.T) {
	w := newTestLoop(t)
	w.run()
	var ran int
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 2000 {
				for w.Post(func() { ran++ }) == ErrQueueFull {
					runtime.Gosched()
				}
			}
		})
	}
	all.Wait()
	w.Stop()
	require.NoError(t, w.joined())
	assert.Equal(t, 16000, ran)
}

// A bell that could not be rung counted as rung: no later post or wake tried
// again, and the loop slept on.
func TestMailboxRingsAgainAfterAFailure(t *testing.T) {
	w := newFaultyLoop(t)
	w.mail.alert.Store(false) // as in a wait
	w.faults.fail(callPollWake, syscall.ENOMEM)
	ran := 0
	post := func() error { return w.Post(func() { ran++ }) }
	assert.PanicsWithValue(t, "stepio: Loop: cannot be woken: cannot allocate memory", func() { _ = post() })
	require.NoError(t, post())
	assert.Equal(t, 2, w.faults.count(callPollWake))
	w.Stop()
	require.NoError(t, w.Run())
	assert.Equal(t, 2, ran, "the first is in the queue")
}
