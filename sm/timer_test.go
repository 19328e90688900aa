package sm_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// Timers as a task sees them; the wheel itself is tested in wheel_test.go.

func TestTimersOfOneInstantFireInTheirOrder(t *testing.T) {
	w := newWorld(t)
	when := w.Now().Add(100 * time.Millisecond)
	var order []int
	for i := range 50 {
		if i == 25 { // those set later are nearer to the instant
			w.Turn()
			w.Advance(99 * time.Millisecond)
		}
		f := new(fake)
		f.step = func(task *sm.Task) sm.Await {
			if a := task.SleepUntil(when); a.Pending() {
				return a
			}
			order = append(order, i)
			return sm.Done
		}
		w.Spawn(f)
	}
	w.Turn()
	w.Advance(time.Millisecond)
	assert.Equal(t, 50, w.Turn())
	for i := range order {
		require.Equal(t, i, order[i])
	}
}

func TestTimerIsNeverEarly(t *testing.T) {
	rng := sm.SeededRand(t)
	w := newWorld(t)
	for range 500 {
		when := w.Now().Add(time.Duration(rng.Int64N(int64(3 * time.Second))))
		f := new(fake)
		f.step = func(task *sm.Task) sm.Await {
			if f.steps == 1 {
				if f.steps%2 == 0 {
					return sm.Wait(3, sm.Read).By(when)
				}
				return sm.Park.Until(when)
			}
			assert.False(t, task.Now().Before(when), "early by %v", when.Sub(task.Now()))
			assert.Less(t, task.Now().Sub(when), 2*time.Millisecond, "late")
			return sm.Done
		}
		w.Spawn(f)
		w.Turn()
	}
	for w.Live() > 0 {
		timeout := w.Timeout()
		require.GreaterOrEqual(t, timeout, time.Duration(0))
		w.Advance(max(timeout, time.Microsecond))
		w.Turn()
	}
}

func TestTimerFarAndPast(t *testing.T) {
	start := time.Now()
	tests := []struct {
		name string
		when time.Time
		far  bool
	}{
		{"an hour ago", start.Add(-time.Hour), false},
		{"the beginning of Unix time", time.Unix(0, 0), false},
		{"the first time there is", time.Time{}.Add(1), false},
		{"in ten years", start.AddDate(10, 0, 0), true},
		{"in two hundred years", start.AddDate(200, 0, 0), true},
		{"in two thousand years, more than a Duration holds", start.AddDate(2000, 0, 0), true},
		{"the last time there is", time.Unix(1<<62, 0), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			task := w.Spawn(answers(sm.Wait(3, sm.Read).By(tt.when)))
			w.Turn()
			if !tt.far {
				assert.Zero(t, w.Timeout())
				w.Turn()
				assert.True(t, task.Ended())
				return
			}
			assert.Greater(t, w.Timeout(), 24*time.Hour, "the loop does not spin")
			for range 10 {
				w.Advance(24 * time.Hour)
				assert.Zero(t, w.Turn())
				assert.Positive(t, w.Timeout())
			}
			assert.Contains(t, dumpOf(w), "deadline ")
			assert.NotContains(t, dumpOf(w), "deadline -")
		})
	}
}

func TestTimerOfTheLastInstantDoesNotSpinTheLoop(t *testing.T) {
	w := newWorld(t)
	task := w.Spawn(answers(sm.Park.By(time.Unix(1<<62, 0))))
	w.Turn()
	for range 20 { // up to the end of the clock
		require.GreaterOrEqual(t, w.Timeout(), time.Duration(0))
		w.Advance(w.Timeout())
		w.Turn()
		if w.Timeout() == 0 {
			break
		}
	}
	assert.False(t, task.Ended())
}

func TestTimerIsRearmedAndCancelled(t *testing.T) {
	w := newWorld(t)
	tests := []struct {
		name  string
		again func(t *sm.Task) sm.Await
		ends  time.Duration // after the first deadline; 0: never
	}{
		{"set again, later", func(t *sm.Task) sm.Await { return sm.Wait(3, sm.Read).By(t.Now().Add(5 * time.Millisecond)) }, 5 * time.Millisecond},
		{"set again, past", func(t *sm.Task) sm.Await { return sm.Wait(3, sm.Read).By(t.Now().Add(-time.Hour)) }, 0},
		{"not set again", func(t *sm.Task) sm.Await { return sm.Wait(3, sm.Read) }, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := new(fake)
			f.step = func(task *sm.Task) sm.Await {
				switch f.steps {
				case 1:
					return sm.Wait(3, sm.Read).By(task.Now().Add(time.Millisecond))
				case 2:
					assert.Equal(t, os.ErrDeadlineExceeded, task.WaitErr())
					return tt.again(task)
				}
				return sm.Done
			}
			task := w.Spawn(f)
			w.Turn()
			w.Advance(time.Millisecond)
			w.Turn()
			if tt.ends < 0 {
				assert.Negative(t, w.Timeout())
				task.Destroy()
				return
			}
			assert.Equal(t, tt.ends, w.Timeout())
			w.Advance(tt.ends)
			w.Turn()
			assert.True(t, task.Ended())
		})
	}
}

func TestTimerCancelledByATaskThatFiresWithIt(t *testing.T) {
	w := newWorld(t)
	when := w.Now().Add(time.Second)
	var second *sm.Task
	first := answers(sm.Park.By(when))
	first.close = func() error { second.Destroy(); return nil }
	w.Spawn(first)
	f := answers(sm.Park.By(when))
	second = w.Spawn(f)
	third := w.Spawn(answers(sm.Park.By(when)))
	w.Turn()
	w.Advance(time.Second)
	assert.Equal(t, 2, w.Turn())
	assert.Equal(t, 1, f.steps)
	assert.True(t, third.Ended())
}

func TestTimerTakesMemoryOnlyWhileItIsSet(t *testing.T) {
	w := newWorld(t)
	f := answers(sm.Wait(3, sm.Read).By(w.Now().Add(time.Hour)), sm.Wait(3, sm.Read))
	task := w.Spawn(f)
	assert.False(t, task.HasExtra())
	w.Turn()
	assert.True(t, task.HasExtra())
	w.Ready(3, sm.Read)
	w.Turn()
	assert.False(t, task.HasExtra())
}
