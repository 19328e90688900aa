package sm_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

func TestTaskRunsNothingBeforeItsTurn(t *testing.T) {
	w := newWorld(t)
	f := answers()
	task := w.Spawn(f)
	assert.Zero(t, f.steps)
	assert.False(t, task.Ended())
	assert.Equal(t, 1, w.Turn())
	assert.Equal(t, 1, f.steps)
	assert.Equal(t, 1, f.closes)
	assert.True(t, task.Ended())
	assert.NoError(t, task.Err())
}

func TestTaskHandleIsNeverStale(t *testing.T) {
	w := newWorld(t)
	task := w.Spawn(answers())
	assert.Equal(t, "task *sm_test.fake", task.String())
	w.Turn()
	for range 100 {
		w.Spawn(answers(sm.Park)) // tasks that a recycled one would be among
	}
	w.Turn()
	task.Destroy()
	task.Waker().Wake()
	w.Turn()
	assert.True(t, task.Ended())
	assert.NoError(t, task.Err(), "a destroy after the end does nothing")
	assert.NoError(t, task.WaitErr())
	assert.Equal(t, "ended task", task.String())
	assert.Equal(t, "ended", task.Chain())
	assert.Equal(t, 100, w.Live())
}

func TestTaskReadyNamesTheDirectionsOfTheEvent(t *testing.T) {
	both := sm.Read | sm.Write
	tests := []struct {
		name  string
		waits sm.Await
		event sm.Dir
		want  sm.Dir
	}{
		{"a reader gets its event", sm.Wait(3, sm.Read), sm.Read, sm.Read},
		{"a reader sees only what it waits for", sm.Wait(3, sm.Read), both, sm.Read},
		{"one task waits for both, reading comes", sm.Wait(3, both), sm.Read, sm.Read},
		{"one task waits for both, writing comes", sm.Wait(3, both), sm.Write, sm.Write},
		{"one task waits for both, both come", sm.Wait(3, both), both, both},
		{"an edge waiter gets its event", sm.WaitEdge(3, sm.Write), both, sm.Write},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			var ready []sm.Dir
			f := new(fake)
			f.step = func(t *sm.Task) sm.Await {
				ready = append(ready, t.Ready())
				switch f.steps {
				case 1:
					return tt.waits
				case 2:
					return sm.Yield
				}
				return sm.Done
			}
			w.Spawn(f)
			w.Turn()
			w.Ready(3, tt.event)
			w.turns(2)
			assert.Equal(t, []sm.Dir{0, tt.want, 0}, ready, "before, at and after the event")
		})
	}
}

func TestTaskIgnoresTheOtherDirection(t *testing.T) {
	w := newWorld(t)
	f := answers(sm.Wait(3, sm.Read))
	w.Spawn(f)
	w.Turn()
	w.Ready(3, sm.Write)
	w.Ready(4, sm.Read)
	assert.Zero(t, w.Turn())
	w.Ready(3, sm.Read)
	assert.Equal(t, 1, w.Turn())
}

// What WaitErr says for every way in which a wait can end.
func TestTaskWaitErr(t *testing.T) {
	read := sm.Wait(3, sm.Read)
	inASecond := func(w *world) time.Time { return w.Now().Add(time.Second) }
	tests := []struct {
		name  string
		wait  func(w *world) sm.Await
		event func(w *world, task *sm.Task)
		want  error
		dir   sm.Dir
		woken bool
	}{
		{
			name:  "the event came",
			wait:  func(*world) sm.Await { return read },
			event: func(w *world, _ *sm.Task) { w.Ready(3, sm.Read) },
			dir:   sm.Read,
		}, {
			name:  "the event came before the deadline",
			wait:  func(w *world) sm.Await { return read.By(inASecond(w)) },
			event: func(w *world, _ *sm.Task) { w.Ready(3, sm.Read) },
			dir:   sm.Read,
		}, {
			name:  "the deadline passed",
			wait:  func(w *world) sm.Await { return read.By(inASecond(w)) },
			event: func(w *world, _ *sm.Task) { w.Advance(time.Second) },
			want:  os.ErrDeadlineExceeded,
		}, {
			name:  "the deadline had passed already",
			wait:  func(w *world) sm.Await { return read.By(w.Now().Add(-time.Hour)) },
			event: func(*world, *sm.Task) {},
			want:  os.ErrDeadlineExceeded,
		}, {
			name: "the deadline had passed already, the event came too",
			wait: func(w *world) sm.Await { return read.By(w.Now()) },
			event: func(w *world, _ *sm.Task) {
				w.Ready(3, sm.Read)
			},
			dir: sm.Read,
		}, {
			name:  "the deadline of a park passed",
			wait:  func(w *world) sm.Await { return sm.Park.By(inASecond(w)) },
			event: func(w *world, _ *sm.Task) { w.Advance(time.Second) },
			want:  os.ErrDeadlineExceeded,
		}, {
			name:  "the time slept until has come",
			wait:  func(w *world) sm.Await { return sm.Park.Until(inASecond(w)) },
			event: func(w *world, _ *sm.Task) { w.Advance(time.Second) },
		}, {
			name: "event and deadline coincide, the event is seen first",
			wait: func(w *world) sm.Await { return read.By(inASecond(w)) },
			event: func(w *world, _ *sm.Task) {
				w.Ready(3, sm.Read)
				w.Advance(time.Second)
			},
			dir: sm.Read,
		}, {
			name: "event and deadline coincide, the clock is moved first",
			wait: func(w *world) sm.Await { return read.By(inASecond(w)) },
			event: func(w *world, _ *sm.Task) {
				w.Advance(time.Second)
				w.Ready(3, sm.Read)
			},
			dir: sm.Read,
		}, {
			name:  "a wake",
			wait:  func(w *world) sm.Await { return read.By(inASecond(w)) },
			event: func(_ *world, task *sm.Task) { task.Waker().Wake() },
			woken: true,
		}, {
			name: "a wake at the deadline",
			wait: func(w *world) sm.Await { return read.By(inASecond(w)) },
			event: func(w *world, task *sm.Task) {
				task.Waker().Wake()
				w.Advance(time.Second)
			},
			want:  os.ErrDeadlineExceeded,
			woken: true,
		}, {
			name:  "the descriptor was closed",
			wait:  func(*world) sm.Await { return read },
			event: func(w *world, _ *sm.Task) { w.Fail(3, net.ErrClosed) },
			want:  net.ErrClosed,
		}, {
			name: "the descriptor was closed before the deadline",
			wait: func(w *world) sm.Await { return read.By(inASecond(w)) },
			event: func(w *world, _ *sm.Task) {
				w.Fail(3, net.ErrClosed)
				w.Advance(time.Hour)
			},
			want: net.ErrClosed,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			f := new(fake)
			f.step = func(task *sm.Task) sm.Await {
				switch f.steps {
				case 1:
					assert.NoError(t, task.WaitErr(), "before there was a wait")
					return tt.wait(w)
				case 2:
					assert.Equal(t, tt.woken, task.Woken())
					assert.Equal(t, tt.dir, task.Ready())
					assert.Equal(t, tt.want, task.WaitErr())
					assert.NoError(t, task.WaitErr(), "reading clears it")
					return sm.Yield
				}
				assert.NoError(t, task.WaitErr())
				assert.False(t, task.Woken())
				assert.Zero(t, task.Ready())
				assert.False(t, task.HasExtra(), "what a wait needed is given back")
				return sm.Done
			}
			task := w.Spawn(f)
			w.Turn()
			tt.event(w, task)
			w.Turn()
			w.settle()
			w.Advance(24 * time.Hour)
			w.Turn()
			assert.True(t, task.Ended())
			assert.Equal(t, 3, f.steps, "one step for the event, whatever came with it")
		})
	}
}

func TestTaskWaitErrOfAnEarlierWaitIsForgotten(t *testing.T) {
	w := newWorld(t)
	f := new(fake)
	f.step = func(task *sm.Task) sm.Await {
		if f.steps == 3 {
			assert.NoError(t, task.WaitErr(), "the last wait ended with its event")
			return sm.Done
		}
		return sm.Wait(3, sm.Read)
	}
	w.Spawn(f)
	w.Turn()
	w.Fail(3, net.ErrClosed)
	w.Turn()
	w.Ready(3, sm.Read)
	w.Turn()
	assert.Equal(t, 1, f.closes)
}

// A wait that ended at once, because the task was over its budget or woken
// meanwhile, is a wait too: what ended the one before is not its error.
func TestTaskWaitErrOfAnEarlierWaitDoesNotOutliveTheBudget(t *testing.T) {
	for name, meanwhile := range map[string]func(w *world, task *sm.Task){
		"the step is over its budget": func(w *world, _ *sm.Task) {
			for w.Admit() {
			}
		},
		"a task that it joins ends during the step": func(_ *world, task *sm.Task) {
			other := task.Spawn(new(fake))
			task.Join(other)
			other.Destroy()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			f := new(fake)
			f.step = func(task *sm.Task) sm.Await {
				switch f.steps {
				case 1:
					return sm.Park.By(task.Now().Add(time.Second))
				case 2: // does not read the error, as a reader that gets it from Read
					meanwhile(w, task)
					return sm.Wait(3, sm.Read)
				}
				assert.NoError(t, task.WaitErr())
				return sm.Done
			}
			task := w.Spawn(f)
			w.Turn()
			w.Advance(time.Second)
			w.turns(2)
			assert.True(t, task.Ended())
			assert.Equal(t, 3, f.steps)
		})
	}
}

func TestTaskThatMayNotWaitIsTold(t *testing.T) {
	tests := []struct {
		name   string
		step   func(f *fake, t *sm.Task) sm.Await
		steps  int // until it ended, or came to rest
		ended  error
		resume bool
	}{
		{
			name: "it reads the error and gives up",
			step: func(f *fake, t *sm.Task) sm.Await {
				if f.err = t.WaitErr(); f.err != nil {
					return sm.Done
				}
				return sm.Wait(3, sm.Read)
			},
			steps: 2, ended: errTest,
		}, {
			name:  "it asks again without having looked, and is ended",
			step:  func(*fake, *sm.Task) sm.Await { return sm.Wait(3, sm.Read) },
			steps: 2, ended: errTest,
		}, {
			name: "it yields in between without having looked, and is ended",
			step: func(f *fake, _ *sm.Task) sm.Await {
				if f.steps == 2 {
					return sm.Yield
				}
				return sm.Wait(3, sm.Read)
			},
			steps: 3, ended: errTest,
		}, {
			name: "it looks and asks again, and is told again",
			step: func(f *fake, t *sm.Task) sm.Await {
				if t.WaitErr() != nil && f.steps == 4 {
					return sm.Done
				}
				return sm.Wait(3, sm.Read)
			},
			steps: 4,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newParker()
			p.refuse = errTest
			w := newWorldOf(t, sm.Config{Parker: p})
			f := new(fake)
			f.step = func(t *sm.Task) sm.Await { return tt.step(f, t) }
			task := w.Spawn(f)
			w.settle()
			assert.True(t, task.Ended())
			assert.Equal(t, tt.steps, f.steps)
			assert.Equal(t, tt.ended, task.Err())
			assert.Equal(t, 1, f.closes)
			assert.Zero(t, p.unparks, "who was refused is in no list")
			if tt.ended != nil {
				assert.Equal(t, []error{errTest}, w.reported())
			}
		})
	}
}

func TestTaskMayBeResumedBeforeParkReturns(t *testing.T) {
	p := newParker()
	w := newWorldOf(t, sm.Config{Parker: p})
	p.onPark = func(t *sm.Task, a sm.Await) { p.on(a.FD()).Resume(a.Dir()) }
	f := new(fake)
	f.step = func(task *sm.Task) sm.Await {
		if f.steps == 1 {
			return sm.Wait(3, sm.Read).By(task.Now().Add(time.Second))
		}
		assert.Equal(t, sm.Read, task.Ready())
		return sm.Done
	}
	w.Spawn(f)
	assert.Equal(t, 1, w.Turn(), "not in the same turn")
	assert.Equal(t, 1, w.Turn())
	assert.Negative(t, w.Timeout(), "no timer is left")
}

func TestTaskNowIsReadOnceATurn(t *testing.T) {
	var clock time.Duration
	reads := 0
	w := newWorldOf(t, sm.Config{Clock: func() time.Duration { reads++; clock += time.Millisecond; return clock }})
	var seen []time.Time
	for range 3 {
		w.Spawn(&fake{step: func(t *sm.Task) sm.Await {
			seen = append(seen, t.Now(), t.Now())
			return sm.Yield
		}})
	}
	reads = 0
	w.Turn()
	assert.Equal(t, 1, reads)
	for _, now := range seen {
		assert.Equal(t, seen[0], now)
	}
	w.Turn()
	assert.Equal(t, 2, reads)
	assert.True(t, seen[6].After(seen[0]))
	assert.True(t, w.Now().After(seen[6]), "between turns the time of the last one is over")
}

func TestTaskClockIsNotReadWithoutNeed(t *testing.T) {
	reads := 0
	w := newWorldOf(t, sm.Config{Clock: func() time.Duration { reads++; return 0 }})
	w.Spawn(&fake{step: func(t *sm.Task) sm.Await { return sm.Yield }})
	reads = 0
	w.turns(10)
	assert.Zero(t, reads)
}

func TestTaskScratchIsOneBufferForAll(t *testing.T) {
	w := newWorld(t)
	var bufs []*byte
	for range 2 {
		w.Spawn(&fake{step: func(task *sm.Task) sm.Await {
			assert.Len(t, task.Scratch(), sm.ScratchSize)
			bufs = append(bufs, &task.Scratch()[0])
			return sm.Done
		}})
	}
	w.Turn()
	require.Len(t, bufs, 2)
	assert.Same(t, bufs[0], bufs[1])
}

func TestTaskSpawnIsDetached(t *testing.T) {
	w := newWorld(t)
	var child *sm.Task
	f := &fake{step: func(t *sm.Task) sm.Await {
		child = t.Spawn(answers(sm.Park))
		return sm.Done
	}}
	parent := w.Spawn(f)
	assert.Equal(t, 1, w.Turn(), "the child runs in the next turn")
	assert.True(t, parent.Ended())
	assert.Equal(t, 1, w.Turn())
	assert.False(t, child.Ended())
	assert.Same(t, w.Scheduler, child.Scheduler())
}

func TestTaskSleepUntil(t *testing.T) {
	w := newWorld(t)
	start := w.Now()
	when := start.Add(10 * time.Millisecond)
	var woke time.Time
	f := new(fake)
	f.step = func(t *sm.Task) sm.Await {
		if a := t.SleepUntil(when); a.Pending() {
			return a
		}
		woke = t.Now()
		return sm.Done
	}
	task := w.Spawn(f)
	w.Turn()
	for range 9 { // every resume may be spurious
		w.Advance(time.Millisecond)
		task.Waker().Wake()
		w.Turn()
		require.False(t, task.Ended())
	}
	assert.Equal(t, time.Millisecond, w.Timeout())
	w.Advance(time.Millisecond)
	w.Turn()
	assert.True(t, task.Ended())
	assert.Equal(t, 11, f.steps)
	assert.Equal(t, when, woke)
	assert.Negative(t, w.Timeout())

	for name, past := range map[string]time.Time{"now": woke, "the past": start, "the zero time": {}} {
		assert.Equal(t, sm.Done, task.SleepUntil(past), name)
	}
}

func TestTaskJoin(t *testing.T) {
	w := newWorld(t)
	child := failing(errTest)
	child.step = func(*sm.Task) sm.Await {
		if child.steps < 3 {
			return sm.Yield
		}
		return sm.Done
	}
	other := w.Spawn(child)
	var joiners []*sm.Task
	for range 3 {
		f := new(fake)
		f.step = func(task *sm.Task) sm.Await {
			if a := task.Join(other); a.Pending() {
				assert.Equal(t, a, task.Join(other), "it is idempotent")
				return a
			}
			f.err = nil
			assert.Equal(t, errTest, other.Err())
			return sm.Done
		}
		joiners = append(joiners, w.Spawn(f))
	}
	w.Turn()
	for _, j := range joiners {
		j.Waker().Wake() // spurious
	}
	w.Turn()
	assert.Equal(t, 4, w.Live())
	w.settle()
	assert.Zero(t, w.Live())
	assert.Empty(t, w.reported(), "an error that was joined is not reported")
	assert.Equal(t, 1, child.closes)
}

func TestTaskJoinMisuse(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	a, b := w.Spawn(answers()), other.Spawn(answers())
	assert.PanicsWithValue(t, "stepio: Task.Join: a task cannot wait for itself", func() { a.Join(a) })
	assert.PanicsWithValue(t, "stepio: Task.Join: task of another scheduler", func() { a.Join(b) })
}

// joining is a fake that joins other in its first step only, with a deadline.
func joinOnce(other *sm.Task) *fake {
	f := new(fake)
	f.step = func(t *sm.Task) sm.Await {
		if f.steps == 1 {
			return t.Join(other).By(t.Now().Add(time.Second))
		}
		return sm.Park
	}
	return f
}

func TestTaskErrorIsReportedOnceNobodyJoins(t *testing.T) {
	tests := []struct {
		name string
		do   func(w *world, joiner *sm.Task)
	}{
		{"the joiner was destroyed", func(w *world, joiner *sm.Task) { joiner.Destroy() }},
		{"the joiner's deadline passed and it went on", func(w *world, _ *sm.Task) {
			w.Advance(time.Second)
			w.Turn()
		}},
		{"the joiner was woken and went on", func(w *world, joiner *sm.Task) {
			joiner.Waker().Wake()
			w.Turn()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			child := failing(errTest)
			child.step = func(*sm.Task) sm.Await {
				if child.steps == 1 {
					return sm.Wait(3, sm.Read)
				}
				return sm.Done
			}
			other := w.Spawn(child)
			joiner := w.Spawn(joinOnce(other))
			w.Turn()
			tt.do(w, joiner)
			w.Ready(3, sm.Read)
			w.settle()
			assert.True(t, other.Ended())
			assert.Equal(t, []error{errTest}, w.reported())
		})
	}
}

func TestTaskErrorIsNotReportedToAJoinerThatIsReady(t *testing.T) {
	w := newWorld(t)
	child := answers(sm.Wait(3, sm.Read))
	child.err = errTest
	other := w.Spawn(child)
	joiner := w.Spawn(joinOnce(other))
	w.Turn()
	w.Ready(3, sm.Read)
	joiner.Waker().Wake() // behind the child in the same turn: it will see the child ended
	w.settle()
	assert.True(t, other.Ended())
	assert.Empty(t, w.reported())
}

func TestTaskJoinersDoNotAccumulate(t *testing.T) {
	w := newWorld(t)
	other := w.Spawn(new(fake))
	w.Turn()
	for range 1000 {
		joiner := w.Spawn(joinOnce(other))
		w.Turn()
		joiner.Destroy()
	}
	assert.Less(t, other.JoinerSlots(), 8)

	// Those that live are kept when the list is cleaned.
	var live []*sm.Task
	for range 20 {
		live = append(live, w.Spawn(joinOnce(other)))
		w.Spawn(joinOnce(other)).Destroy()
		w.Turn()
	}
	other.Destroy()
	assert.Equal(t, len(live), w.Turn(), "each is resumed, once")
}

// Every phase in which a task can be destroyed.
func TestTaskDestroy(t *testing.T) {
	deadline := func(w *world) time.Time { return w.Now().Add(time.Second) }
	tests := []struct {
		name  string
		reach func(w *world, f *fake) *sm.Task // spawns f, takes it to the phase, and destroys it
		steps int
	}{
		{"queued, before its first step", func(w *world, f *fake) *sm.Task {
			task := w.Spawn(f)
			task.Destroy()
			return task
		}, 0},
		{"queued behind others", func(w *world, f *fake) *sm.Task {
			w.Spawn(answers())
			task := w.Spawn(f)
			w.Spawn(answers())
			task.Destroy()
			return task
		}, 0},
		{"in the batch that runs, as the next", func(w *world, f *fake) *sm.Task {
			var task *sm.Task
			w.Spawn(&fake{step: func(*sm.Task) sm.Await { task.Destroy(); return sm.Done }})
			task = w.Spawn(f)
			w.Spawn(answers())
			assert.Equal(w.t, 2, w.Turn())
			return task
		}, 0},
		{"in the batch that runs, as the last", func(w *world, f *fake) *sm.Task {
			var task *sm.Task
			w.Spawn(&fake{step: func(*sm.Task) sm.Await { task.Destroy(); return sm.Done }})
			w.Spawn(answers())
			task = w.Spawn(f)
			assert.Equal(w.t, 2, w.Turn())
			return task
		}, 0},
		{"in the batch that runs, alone", func(w *world, f *fake) *sm.Task {
			var task *sm.Task
			w.Spawn(&fake{step: func(*sm.Task) sm.Await { task.Destroy(); return sm.Done }})
			task = w.Spawn(f)
			assert.Equal(w.t, 1, w.Turn())
			return task
		}, 0},
		{"running: it destroys itself and waits", func(w *world, f *fake) *sm.Task {
			f.step = func(task *sm.Task) sm.Await {
				task.Destroy()
				task.Destroy()
				assert.False(w.t, task.Ended(), "while its step is on the Go stack")
				assert.Zero(w.t, f.closes)
				return sm.Wait(3, sm.Read).By(deadline(w))
			}
			task := w.Spawn(f)
			w.Turn()
			return task
		}, 1},
		{"running: it destroys itself and yields", func(w *world, f *fake) *sm.Task {
			f.step = func(task *sm.Task) sm.Await { task.Destroy(); return sm.Yield }
			task := w.Spawn(f)
			w.Turn()
			return task
		}, 1},
		{"running: it destroys itself and is done", func(w *world, f *fake) *sm.Task {
			f.step = func(task *sm.Task) sm.Await { task.Destroy(); return sm.Done }
			task := w.Spawn(f)
			w.Turn()
			return task
		}, 1},
		{"running: it destroys one whose Close destroys it", func(w *world, f *fake) *sm.Task {
			var task *sm.Task
			other := w.Spawn(&fake{close: func() error { task.Destroy(); return nil }})
			w.Turn()
			f.step = func(*sm.Task) sm.Await { other.Destroy(); return sm.Park }
			task = w.Spawn(f)
			w.Turn()
			assert.True(w.t, other.Ended())
			return task
		}, 1},
		{"parked", func(w *world, f *fake) *sm.Task {
			task := w.Spawn(f)
			w.Turn()
			task.Destroy()
			return task
		}, 1},
		{"asleep", func(w *world, f *fake) *sm.Task {
			f.step = func(*sm.Task) sm.Await { return sm.Park.Until(deadline(w)) }
			task := w.Spawn(f)
			w.Turn()
			task.Destroy()
			return task
		}, 1},
		{"waiting for a descriptor", func(w *world, f *fake) *sm.Task {
			f.step = func(*sm.Task) sm.Await { return sm.Wait(3, sm.Read|sm.Write) }
			task := w.Spawn(f)
			w.Turn()
			task.Destroy()
			return task
		}, 1},
		{"waiting for a descriptor with a deadline, among others", func(w *world, f *fake) *sm.Task {
			f.step = func(*sm.Task) sm.Await { return sm.Wait(3, sm.Read).By(deadline(w)) }
			w.Spawn(answers(sm.Wait(3, sm.Read)))
			task := w.Spawn(f)
			w.Spawn(answers(sm.Wait(3, sm.Read)))
			w.Turn()
			task.Destroy()
			return task
		}, 1},
		{"resumed by an event, not stepped yet", func(w *world, f *fake) *sm.Task {
			f.step = func(*sm.Task) sm.Await { return sm.Wait(3, sm.Read).By(deadline(w)) }
			task := w.Spawn(f)
			w.Turn()
			w.Ready(3, sm.Read)
			task.Destroy()
			return task
		}, 1},
		{"resumed by a failure, not stepped yet", func(w *world, f *fake) *sm.Task {
			f.step = func(*sm.Task) sm.Await { return sm.Wait(3, sm.Read) }
			task := w.Spawn(f)
			w.Turn()
			w.Fail(3, net.ErrClosed)
			task.Destroy()
			return task
		}, 1},
		{"woken, not stepped yet", func(w *world, f *fake) *sm.Task {
			task := w.Spawn(f)
			w.Turn()
			task.Waker().Wake()
			task.Destroy()
			return task
		}, 1},
		{"by a neighbour that the same hang-up resumed", func(w *world, f *fake) *sm.Task {
			var task *sm.Task
			first := answers(sm.Wait(3, sm.Read))
			first.close = func() error { task.Destroy(); return nil }
			w.Spawn(first)
			f.step = func(*sm.Task) sm.Await { return sm.Wait(3, sm.Write) }
			task = w.Spawn(f)
			w.Turn()
			w.Ready(3, sm.Read|sm.Write)
			w.Turn()
			return task
		}, 1},
		{"by its scheduler's Close", func(w *world, f *fake) *sm.Task {
			f.step = func(*sm.Task) sm.Await { return sm.Wait(3, sm.Read).By(deadline(w)) }
			task := w.Spawn(f)
			w.Turn()
			w.Close()
			return task
		}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			f := new(fake)
			task := tt.reach(w, f)
			require.True(t, task.Ended())
			assert.Equal(t, sm.ErrDestroyed, task.Err())
			assert.Equal(t, 1, f.closes)

			task.Destroy()
			task.Waker().Wake()
			w.Ready(3, sm.Read|sm.Write)
			w.Fail(3, net.ErrClosed)
			w.Advance(time.Hour)
			w.settle()
			assert.Equal(t, tt.steps, f.steps, "nothing of it is stepped again")
			assert.Equal(t, 1, f.closes, "closed exactly once")
			assert.Equal(t, sm.ErrDestroyed, task.Err())
		})
	}
}

func TestTaskDestroyResumesJoiners(t *testing.T) {
	w := newWorld(t)
	other := w.Spawn(new(fake))
	f := new(fake)
	f.step = func(t *sm.Task) sm.Await {
		if a := t.Join(other); a.Pending() {
			return a
		}
		return sm.Done
	}
	joiner := w.Spawn(f)
	w.Turn()
	other.Destroy()
	w.Turn()
	assert.True(t, joiner.Ended())
}

func TestTaskCloseMaySpawnWhileItIsDestroyed(t *testing.T) {
	w := newWorld(t)
	var born []*sm.Task
	for range 3 {
		f := new(fake)
		f.close = func() error { born = append(born, f.task.Spawn(answers(sm.Park))); return nil }
		w.Spawn(f)
	}
	w.Turn()
	var victims []*sm.Task
	w.Spawn(&fake{step: func(*sm.Task) sm.Await {
		for _, v := range victims {
			v.Destroy()
		}
		return sm.Done
	}})
	w.Turn()
	assert.Equal(t, 3, w.Live())
	require.Empty(t, born)
	w.Close()
	require.Len(t, born, 3)
	for _, b := range born {
		assert.True(t, b.Ended(), "what is spawned on a closed scheduler ends at once")
		assert.Equal(t, sm.ErrDestroyed, b.Err())
	}
}

// The original compacted its list of tasks while their destructors spawned.
func TestTaskDestructorsMaySpawnAndDestroyWhileTasksEnd(t *testing.T) {
	rng := sm.SeededRand(t)
	w := newWorld(t)
	const tasks = 300
	var frames []*fake
	var live []*sm.Task
	var spawn func(budget int)
	spawn = func(budget int) {
		f := new(fake)
		f.step = func(*sm.Task) sm.Await {
			switch rng.IntN(4) {
			case 0:
				return sm.Done
			case 1:
				return sm.Wait(rng.IntN(5), sm.Read).By(w.Now().Add(time.Duration(rng.IntN(5)) * time.Millisecond))
			case 2:
				live[rng.IntN(len(live))].Destroy()
			}
			return sm.Yield
		}
		f.close = func() error {
			live[rng.IntN(len(live))].Destroy()
			if budget > 0 {
				spawn(budget - 1)
			}
			live[rng.IntN(len(live))].Destroy()
			return nil
		}
		frames = append(frames, f)
		live = append(live, w.Spawn(f))
	}
	for range tasks {
		spawn(3)
	}
	for range 50 {
		w.Turn()
		w.Advance(time.Millisecond)
		w.Ready(rng.IntN(5), sm.Read)
	}
	w.Close()
	assert.Zero(t, w.Live())
	assert.Len(t, frames, 4*tasks)
	for _, f := range frames {
		require.Equal(t, 1, f.closes)
	}
}

func TestTaskPanicDestroysThatTaskAlone(t *testing.T) {
	w := newWorld(t)
	before, after := answers(sm.Yield), answers(sm.Yield)
	w.Spawn(before)
	f := &fake{step: func(*sm.Task) sm.Await { panic(io.ErrUnexpectedEOF) }}
	task := w.Spawn(f)
	w.Spawn(after)
	assert.Equal(t, 3, w.Turn(), "the turn goes on")
	assert.True(t, task.Ended())
	assert.Equal(t, 1, f.closes, "closed after a panic as well")

	var p *sm.PanicError
	require.ErrorAs(t, task.Err(), &p)
	assert.Equal(t, io.ErrUnexpectedEOF, p.Value)
	assert.ErrorIs(t, p, io.ErrUnexpectedEOF)
	assert.Contains(t, string(p.Stack), "(*fake).Step", "the Go stack is the logical stack")
	assert.Equal(t, "*sm_test.fake(?)", p.Chain)
	assert.Equal(t, "stepio: panic in *sm_test.fake(?): unexpected EOF", p.Error())
	assert.Equal(t, []error{p}, w.reported())

	assert.Nil(t, w.Current())
	w.settle()
	assert.Equal(t, 2, before.steps)
	assert.Equal(t, 2, after.steps)
	assert.Equal(t, "stepio: panic: 1", (&sm.PanicError{Value: 1}).Error(), "in a Job there is no chain")
	assert.NoError(t, (&sm.PanicError{Value: 1}).Unwrap())
}

func TestTaskPanicIsSeenByItsJoiner(t *testing.T) {
	w := newWorld(t)
	other := w.Spawn(&fake{step: func(t *sm.Task) sm.Await {
		if !t.Woken() {
			return sm.Park
		}
		panic("boom")
	}})
	f := new(fake)
	f.step = func(t *sm.Task) sm.Await {
		if a := t.Join(other); a.Pending() {
			return a
		}
		f.err = other.Err()
		return sm.Done
	}
	joiner := w.Spawn(f)
	w.Turn()
	other.Waker().Wake()
	w.settle()
	var p *sm.PanicError
	require.ErrorAs(t, joiner.Err(), &p)
	assert.Equal(t, "boom", p.Value)
	// The panic is reported although it is joined; the joiner's own error,
	// which nobody joins, is reported as any other.
	assert.Equal(t, []error{p, p}, w.reported())
}

func TestTaskThatPassesAPanicOnHasNotPanicked(t *testing.T) {
	w := newWorld(t)
	passed := &sm.PanicError{Value: "in a job"}
	child := failing(passed)
	f := new(fake)
	var other *sm.Task
	f.step = func(t *sm.Task) sm.Await {
		if f.steps == 1 {
			other = t.Spawn(child)
		}
		return t.Join(other)
	}
	w.Spawn(f)
	w.settle()
	assert.Equal(t, error(passed), other.Err())
	assert.Empty(t, w.reported(), "it was joined")
}

// broken is a frame all of whose methods can panic.
type broken struct{ step, close, err, inspect bool }

func (f *broken) Step(*sm.Task) sm.Await {
	if f.step {
		panic("Step")
	}
	if f.inspect {
		return sm.Await{} // a forgotten answer makes the scheduler look at the chain
	}
	return sm.Done
}

func (f *broken) Close() error {
	if f.close {
		panic("Close")
	}
	return nil
}

func (f *broken) Err() error {
	if f.err {
		panic("Err")
	}
	return nil
}

func (f *broken) Inspect() (string, sm.Frame) {
	if f.inspect {
		panic("Inspect")
	}
	return "fine", nil
}

func TestTaskPanicAnywhereInAFrameIsIsolated(t *testing.T) {
	tests := []struct {
		name    string
		frame   broken
		err     string
		reports int
	}{
		{"in Close", broken{close: true}, "stepio: panic in *sm_test.broken(fine): Close", 1},
		{"in Err", broken{err: true}, "stepio: panic in *sm_test.broken(fine): Err", 1},
		{"in Step and in Close", broken{step: true, close: true}, "stepio: panic in *sm_test.broken(fine): Step", 2},
		{"in Step and in Inspect", broken{step: true, inspect: true}, "stepio: panic in *sm_test.broken(panic in Inspect: Inspect): Step", 1},
		{"in Inspect alone", broken{inspect: true}, "stepio: *sm_test.broken in state panic in Inspect: Inspect returned the zero Await", 1},
		{"everywhere", broken{true, true, true, true}, "stepio: panic in *sm_test.broken(panic in Inspect: Inspect): Step", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			neighbour := answers(sm.Yield)
			frame := tt.frame
			task := w.Spawn(&frame)
			w.Spawn(neighbour)
			require.NotPanics(t, func() { w.settle() })
			assert.True(t, task.Ended())
			assert.EqualError(t, task.Err(), tt.err)
			assert.Len(t, w.reported(), tt.reports)
			assert.Equal(t, 2, neighbour.steps)
		})
	}
}

func TestTaskPanicWithNilIsAPanic(t *testing.T) {
	w := newWorld(t)
	task := w.Spawn(&fake{step: func(*sm.Task) sm.Await { panic(nil) }})
	w.Turn()
	var p *sm.PanicError
	require.ErrorAs(t, task.Err(), &p)
	assert.Len(t, w.reported(), 1)
}

func TestTaskWhoseParkPanicsIsEnded(t *testing.T) {
	w := newWorld(t)
	f := answers(sm.Wait(-1, sm.Read)) // no virtual descriptor has this number
	task := w.Spawn(f)
	neighbour := answers()
	w.Spawn(neighbour)
	require.NotPanics(t, func() { w.Turn() })
	assert.True(t, task.Ended())
	assert.Equal(t, 1, f.closes)
	assert.Equal(t, 1, neighbour.steps)
	assert.Len(t, w.reported(), 1)
}

func TestTaskGoexitEndsTheTaskAndKeepsTheOthers(t *testing.T) {
	w := newWorld(t)
	var order []string
	says := func(name string) *fake {
		return &fake{step: func(*sm.Task) sm.Await { order = append(order, name); return sm.Done }}
	}
	task := w.Spawn(&fake{step: func(*sm.Task) sm.Await { w.Spawn(says("new")); runtime.Goexit(); return sm.Done }})
	neighbour := answers(sm.Yield)
	w.Spawn(neighbour)
	w.Spawn(says("left"))
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		w.Turn()
	}()
	<-gone
	assert.True(t, task.Ended())
	assert.EqualError(t, task.Err(), "stepio: step called runtime.Goexit")
	assert.Len(t, w.reported(), 1)
	w.Spend(1 << 40)
	assert.True(t, w.Admit(), "no step is running, so there is no budget")
	assert.True(t, w.Busy(), "the rest of the batch is still to be run")
	assert.Equal(t, 3, w.Turn(), "on another goroutine")
	assert.Equal(t, []string{"left", "new"}, order, "what is left, then what became ready")
	w.settle()
	assert.Equal(t, 2, neighbour.steps)
}

// waiter is a frame with named states, whose bug is that one path forgets its answer.
type waiter struct {
	state waiterState
}

type waiterState int

const (
	waiterOpening waiterState = iota
	waiterReading
	waiterClosed
)

func (s waiterState) String() string { return [...]string{"opening", "reading", "closed"}[s] }

func (f *waiter) Step(*sm.Task) (a sm.Await) {
	switch f.state {
	case waiterOpening:
		f.state = waiterReading
		return sm.Yield
	case waiterReading:
		return a // forgotten
	default:
		panic(fmt.Sprintf("waiter.Step: state %v", f.state))
	}
}

// outerWaiter awaits the frame that forgets.
type outerWaiter struct {
	child waiter
	state waiterState
}

func (f *outerWaiter) Step(t *sm.Task) sm.Await {
	f.state = waiterReading
	if a := f.child.Step(t); a.Pending() {
		return a
	}
	return sm.Done
}

func TestTaskForgottenAnswerNamesFrameAndState(t *testing.T) {
	stack := new(sm.Stack)
	stack.Start(&waiter{})
	deep := new(sm.Stack)
	deep.Start(&dive{depth: 500, bottom: func() sm.Frame { return new(waiter) }})
	tests := []struct {
		name         string
		frame        sm.Frame
		frameName    string
		state, error string
	}{
		{"the root frame", &waiter{}, "*sm_test.waiter", "reading", "stepio: *sm_test.waiter in state reading returned the zero Await"},
		{"a callee", &outerWaiter{}, "*sm_test.waiter", "reading", ""},
		{"a frame on a stack", stack, "*sm_test.waiter", "reading", ""},
		{"a frame deep on a stack", deep, "*sm_test.waiter", "reading", ""},
		{"a frame without states", &fake{step: func(*sm.Task) sm.Await { return sm.Await{} }}, "*sm_test.fake", "?", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			task := w.Spawn(tt.frame)
			w.settle()
			var forgotten *sm.ForgottenError
			require.ErrorAs(t, task.Err(), &forgotten)
			assert.Equal(t, tt.frameName, forgotten.Frame)
			assert.Equal(t, tt.state, forgotten.State)
			if tt.error != "" {
				assert.EqualError(t, forgotten, tt.error)
			}
			assert.Equal(t, []error{forgotten}, w.reported())
		})
	}
}

func TestTaskErrOfClose(t *testing.T) {
	errClose := errors.New("close failed")
	tests := []struct {
		name     string
		own      error
		destroy  bool
		err      error
		reported []error
	}{
		{"the frame succeeds, its Close fails", nil, false, errClose, []error{errClose}},
		{"both fail", errTest, false, errTest, []error{errTest, errClose}},
		{"both fail with one error", errClose, false, errClose, []error{errClose, errClose}},
		{"destroyed, and its Close fails", nil, true, sm.ErrDestroyed, []error{errClose}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			f := failing(tt.own)
			f.close = func() error { return errClose }
			task := w.Spawn(f)
			if tt.destroy {
				task.Destroy()
			}
			w.settle()
			assert.Equal(t, tt.err, task.Err())
			assert.Equal(t, tt.reported, w.reported())
		})
	}
}
