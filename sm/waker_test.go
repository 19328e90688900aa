package sm_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

func TestWakerResumesWhateverTheTaskWaitsFor(t *testing.T) {
	hour := time.Now().Add(time.Hour)
	for name, a := range map[string]sm.Await{
		"a park":                       sm.Park,
		"a sleep":                      sm.Park.Until(hour),
		"a descriptor":                 sm.Wait(3, sm.Read),
		"a descriptor with a deadline": sm.Wait(3, sm.Read).By(hour),
		"an edge":                      sm.WaitEdge(3, sm.Read|sm.Write),
		"nothing: it is ready anyway":  sm.Yield,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var woken []bool
			f := new(fake)
			f.step = func(task *sm.Task) sm.Await {
				woken = append(woken, task.Woken())
				assert.NoError(t, task.WaitErr())
				switch f.steps {
				case 1:
					return a
				case 2:
					return sm.Yield
				}
				return sm.Done
			}
			task := w.Spawn(f)
			w.Turn()
			task.Waker().Wake()
			w.turns(2)
			assert.Equal(t, []bool{false, true, false}, woken)
			assert.Negative(t, w.Timeout(), "its timer is gone")
			w.Ready(3, sm.Read|sm.Write)
			assert.Zero(t, w.Turn())
		})
	}
}

func TestWakerBeforeTheParkIsNotLost(t *testing.T) {
	for _, during := range []bool{false, true} {
		t.Run(map[bool]string{false: "before the first step", true: "during the step"}[during], func(t *testing.T) {
			w := newWorld(t)
			woken := 0
			f := new(fake)
			f.step = func(task *sm.Task) sm.Await {
				if task.Woken() {
					woken++
				}
				if during && f.steps == 1 {
					task.Waker().Wake()
				}
				return sm.Park
			}
			task := w.Spawn(f)
			if !during {
				task.Waker().Wake()
			}
			w.settle()
			assert.Equal(t, 1, woken)
		})
	}
}

func TestWakerCoalesces(t *testing.T) {
	notified := 0
	w := newWorldOf(t, sm.Config{Notify: func() { notified++ }})
	f := new(fake)
	task := w.Spawn(f)
	w.Turn()
	for range 1000 {
		task.Waker().Wake()
	}
	assert.Equal(t, 1, notified, "several that come before it runs are one")
	assert.Equal(t, 1, w.WakeQueueLen(), "the queue is bounded by the number of tasks")
	assert.Equal(t, 1, w.Turn())
	assert.Equal(t, 2, f.steps)
	task.Waker().Wake()
	assert.Equal(t, 2, notified)
}

func TestWakerAfterTheEnd(t *testing.T) {
	notified := 0
	w := newWorldOf(t, sm.Config{Notify: func() { notified++ }})
	f := new(fake)
	task := w.Spawn(f)
	waker := task.Waker()
	w.Turn()
	task.Destroy()
	waker.Wake()
	assert.Zero(t, notified, "nobody is there to be told")
	assert.Zero(t, w.WakeQueueLen())
	assert.Zero(t, w.Turn())

	other := w.Spawn(new(fake))
	w.Turn()
	other.Waker().Wake() // in the queue when the scheduler is closed
	w.Close()
	waker.Wake()
	other.Waker().Wake()
	assert.Zero(t, w.Turn())
}

func TestWakerOfATaskThatEndsWhileItIsInTheQueue(t *testing.T) {
	w := newWorld(t)
	a, b := w.Spawn(new(fake)), w.Spawn(new(fake))
	w.Turn()
	a.Waker().Wake()
	b.Waker().Wake()
	a.Destroy()
	assert.Equal(t, 1, w.Turn())
}

func TestWakerIsAValue(t *testing.T) {
	var zero sm.Waker
	zero.Wake() // wakes nobody
	w := newWorld(t)
	a, b := w.Spawn(new(fake)), w.Spawn(new(fake))
	first, second := a.Waker(), a.Waker()
	assert.True(t, first == second)
	assert.False(t, a.Waker() == b.Waker())
	assert.False(t, a.Waker() == zero)
}

// Goroutines push to one task each, and wake it; each task must see everything
// in the end, although no push waits for it.
func TestWakerFromManyGoroutines(t *testing.T) {
	const tasks, goroutines, pushes = 4, 8, 500
	notify := make(chan struct{}, 1)
	w := newWorldOf(t, sm.Config{Clock: sm.Monotonic, Notify: func() {
		select {
		case notify <- struct{}{}:
		default:
		}
	}})
	var wg sync.WaitGroup
	for range tasks {
		var pushed atomic.Int64
		f := new(fake)
		f.step = func(t *sm.Task) sm.Await {
			if pushed.Load() < goroutines*pushes {
				return sm.Wait(3, sm.Read).By(t.Now().Add(time.Hour))
			}
			return sm.Done
		}
		waker := w.Spawn(f).Waker()
		for range goroutines {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range pushes {
					pushed.Add(1)
					waker.Wake()
				}
			}()
		}
	}
	for w.Live() > 0 {
		if w.Turn() == 0 && !w.Busy() {
			<-notify // a lost wake would hang here
		}
	}
	wg.Wait()
}

// Wakes race with the end of their task and with the scheduler's.
func TestWakerWhileTasksEnd(t *testing.T) {
	rng := sm.SeededRand(t)
	w := newWorld(t)
	wakers := make(chan sm.Waker, 64)
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for waker := range wakers {
				waker.Wake()
			}
		}()
	}
	for range 2000 {
		task := w.Spawn(answers(sm.Park, sm.Park))
		for range 3 {
			wakers <- task.Waker()
		}
		if rng.IntN(2) == 0 {
			w.Turn()
		}
		if rng.IntN(2) == 0 {
			task.Destroy()
		}
	}
	w.Close()
	close(wakers)
	wg.Wait()
	require.Zero(t, w.Live())
}
