package sm_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

func TestSchedulerRunsReadyTasksFirstInFirstOut(t *testing.T) {
	w := newWorld(t)
	var order []string
	spawn := func(name string, a sm.Await) *sm.Task {
		f := new(fake)
		f.step = func(*sm.Task) sm.Await {
			order = append(order, name)
			if f.steps == 1 {
				return a
			}
			return sm.Done
		}
		return w.Spawn(f)
	}
	woken := spawn("woken", sm.Park)
	spawn("timed", sm.Park.Until(w.Now().Add(time.Second)))
	spawn("reader", sm.Wait(3, sm.Read))
	spawn("second reader", sm.Wait(3, sm.Read))
	spawn("yielder", sm.Yield)
	w.Turn()
	assert.Equal(t, []string{"woken", "timed", "reader", "second reader", "yielder"}, order)

	order = nil
	woken.Waker().Wake()
	w.Advance(time.Second)
	w.Ready(3, sm.Read)
	spawn("spawned", sm.Done)
	w.Turn()
	assert.Equal(t, []string{"reader", "second reader", "spawned", "timed", "woken", "yielder"}, order,
		"in the order in which they became ready; timers and wakes when the turn begins; last who gave way")
}

func TestSchedulerTurnRunsOnlyWhatWasReadyWhenItBegan(t *testing.T) {
	w := newWorld(t)
	var a, b *sm.Task
	each := func(other **sm.Task) *fake {
		return &fake{step: func(t *sm.Task) sm.Await {
			(*other).Waker().Wake()
			return sm.Park
		}}
	}
	fa, fb := each(&b), each(&a)
	a, b = w.Spawn(fa), w.Spawn(fb)
	for turn := 1; turn <= 100; turn++ {
		require.Equal(t, 2, w.Turn(), "tasks that wake each other for ever leave the turn")
		require.Zero(t, w.Timeout(), "and the poller is not waited for")
	}
	assert.Equal(t, 100, fa.steps)
	assert.Equal(t, 100, fb.steps)
	a.Destroy()
	b.Destroy()

	yielders := []*fake{{}, {}, {}}
	for _, f := range yielders {
		f.step = func(*sm.Task) sm.Await { return sm.Yield }
		w.Spawn(f)
	}
	spawner := new(fake)
	spawner.step = func(t *sm.Task) sm.Await { t.Spawn(answers()); return sm.Yield }
	w.Spawn(spawner)
	assert.Equal(t, 4, w.Turn())
	for range 100 {
		require.Equal(t, 5, w.Turn(), "what a turn spawned runs in the next")
	}
}

func TestSchedulerStepsATaskOnceForAllThatResumesIt(t *testing.T) {
	w := newWorld(t)
	f := answers(sm.Wait(3, sm.Read|sm.Write).By(w.Now().Add(time.Second)), sm.Park)
	task := w.Spawn(f)
	w.Turn()
	task.Waker().Wake()
	w.Ready(3, sm.Read)
	w.Ready(3, sm.Write)
	task.Waker().Wake()
	w.Fail(3, net.ErrClosed)
	w.Advance(time.Second)
	assert.Equal(t, 1, w.Turn())
	assert.Zero(t, w.Turn())
	assert.Equal(t, 2, f.steps)
}

// A step may not begin more operations than its budget has, nor go on after
// its bytes; then the task goes behind the others, whatever it answers.
func TestSchedulerBudget(t *testing.T) {
	w := newWorldOf(t, sm.Config{MaxOps: 3, MaxBytes: 100})
	for name, a := range map[string]sm.Await{
		"it yields":                    sm.Yield,
		"it parks":                     sm.Park,
		"it sleeps":                    sm.Park.Until(w.Now().Add(time.Hour)),
		"it waits":                     sm.Wait(3, sm.Read),
		"it waits with a deadline":     sm.Wait(3, sm.Read).By(w.Now().Add(time.Hour)),
		"it waits for an edge":         sm.WaitEdge(3, sm.Read),
		"it waits for what never come": sm.Wait(3, 0),
	} {
		for cause, spend := range map[string]func(){
			"out of operations": func() {
				for range 3 {
					assert.True(t, w.Admit())
					w.Spend(1)
				}
				assert.False(t, w.Admit())
				assert.False(t, w.Admit())
			},
			"out of bytes": func() {
				assert.True(t, w.Admit())
				w.Spend(99)
				assert.True(t, w.Admit())
				w.Spend(99)
				assert.False(t, w.Admit())
			},
		} {
			t.Run(name+", "+cause, func(t *testing.T) {
				var order []string
				greedy := &fake{step: func(task *sm.Task) sm.Await {
					order = append(order, "greedy")
					spend()
					return a
				}}
				task := w.Spawn(greedy)
				w.Spawn(&fake{step: func(*sm.Task) sm.Await { order = append(order, "other"); return sm.Yield }})
				w.turns(3)
				assert.Equal(t, []string{"greedy", "other", "greedy", "other", "greedy", "other"}, order)
				task.Destroy()
			})
		}
	}
}

// Who became ready after such a step waits for no other of the same task.
func TestSchedulerStepsWhoGaveWayLast(t *testing.T) {
	for name, give := range map[string]func(w *world) sm.Await{
		"it yields":         func(*world) sm.Await { return sm.Yield },
		"out of its budget": func(w *world) sm.Await { assert.False(t, w.Admit()); return sm.Park },
		"out of its budget, and resumed in the same step": func(w *world) sm.Await {
			joined := w.Spawn(new(fake))
			a := w.Current().Join(joined)
			joined.Destroy()
			assert.False(t, w.Admit())
			return a
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldOf(t, sm.Config{MaxBytes: 1})
			var order []string
			spawn := func(name string, a func() sm.Await) *sm.Task {
				return w.Spawn(&fake{step: func(*sm.Task) sm.Await { order = append(order, name); return a() }})
			}
			var greedy [3]*sm.Task
			for i, name := range []string{"first", "second", "third"} {
				greedy[i] = spawn(name, func() sm.Await { w.Spend(1); return give(w) })
			}
			spawn("reader", func() sm.Await { return sm.Wait(3, sm.Read) })
			w.Turn()
			w.Ready(3, sm.Read)
			spawn("new", func() sm.Await { return sm.Park })
			assert.True(t, w.Busy())
			w.Turn()
			assert.Equal(t, []string{"first", "second", "third", "reader", "reader", "new", "first", "second", "third"}, order)

			order = nil
			greedy[0].Destroy() // the head of those who gave way
			greedy[2].Destroy()
			w.Ready(3, sm.Read)
			w.Turn()
			greedy[1].Destroy()
			assert.False(t, w.Busy())
			w.Turn()
			assert.Equal(t, []string{"reader", "second"}, order)
		})
	}
}

func TestSchedulerBudgetNotExceededLetsATaskWait(t *testing.T) {
	w := newWorldOf(t, sm.Config{MaxOps: 3, MaxBytes: 100})
	f := &fake{step: func(*sm.Task) sm.Await {
		for range 3 {
			assert.True(t, w.Admit())
		}
		w.Spend(1000)
		return sm.Park
	}}
	w.Spawn(f)
	w.turns(3)
	assert.Equal(t, 1, f.steps)
	done := &fake{step: func(*sm.Task) sm.Await {
		for w.Admit() {
		}
		return sm.Done
	}}
	task := w.Spawn(done)
	w.turns(2)
	assert.True(t, task.Ended(), "done is done")
}

// What is given back is there for the next operation, so a step whose operations
// would all block is not queued for its budget.
func TestSchedulerRefund(t *testing.T) {
	w := newWorldOf(t, sm.Config{MaxOps: 1})
	f := &fake{step: func(*sm.Task) sm.Await {
		for range 100 {
			assert.True(t, w.Admit())
			w.Refund()
		}
		return sm.Park
	}}
	w.Spawn(f)
	w.turns(3)
	assert.Equal(t, 1, f.steps)
	spender := &fake{step: func(*sm.Task) sm.Await {
		assert.True(t, w.Admit())
		w.Refund()
		assert.True(t, w.Admit())
		assert.False(t, w.Admit())
		return sm.Done
	}}
	w.Spawn(spender)
	w.turns(1)
}

func TestSchedulerHasNoBudgetOutsideAStep(t *testing.T) {
	w := newWorldOf(t, sm.Config{MaxOps: 1, MaxBytes: 1})
	outside := func() {
		for range 1000 {
			require.True(t, w.Admit())
			w.Spend(1 << 30)
		}
	}
	outside()
	w.Spawn(answers())
	w.Turn()
	outside()
	w.Spawn(&fake{step: func(*sm.Task) sm.Await { panic("boom") }})
	w.Turn()
	assert.Len(t, w.reported(), 1)
	outside()
}

func TestSchedulerDefaultBudget(t *testing.T) {
	w := newWorld(t)
	ops := 0
	w.Spawn(&fake{step: func(*sm.Task) sm.Await {
		for w.Admit() {
			ops++
		}
		return sm.Done
	}})
	w.Turn()
	assert.Equal(t, sm.DefaultMaxOps, ops)
}

// What Scratch takes, in and out again, and no more.
func TestSchedulerDefaultBudgetOfBytesIsAnEcho(t *testing.T) {
	w := newWorld(t)
	var admitted []bool
	w.Spawn(&fake{step: func(*sm.Task) sm.Await {
		for range 3 {
			admitted = append(admitted, w.Admit())
			w.Spend(sm.ScratchSize)
		}
		return sm.Done
	}})
	w.Turn()
	assert.Equal(t, []bool{true, true, false}, admitted)
}

func TestSchedulerReports(t *testing.T) {
	errClose := errors.New("close failed")
	join := func(w *world, other *sm.Task) {
		f := new(fake)
		f.step = func(t *sm.Task) sm.Await { return t.Join(other) }
		w.Spawn(f)
	}
	tests := []struct {
		name   string
		frame  *fake
		joined bool
		want   []string
	}{
		{"a success is not reported", answers(), false, nil},
		{"an error that nobody joins", failing(errTest), false, []string{"test error"}},
		{"an error that is joined is not reported", failing(errTest), true, nil},
		{"an error of Close", &fake{step: done, close: func() error { return errClose }}, false, []string{"close failed"}},
		{"an error of Close, joined", &fake{step: done, close: func() error { return errClose }}, true, []string{"close failed"}},
		{"an error, joined, and an error of Close", &fake{step: done, err: errTest, close: func() error { return errClose }}, true, []string{"close failed"}},
		{"a panic", &fake{step: func(*sm.Task) sm.Await { panic("boom") }}, false, []string{"stepio: panic in *sm_test.fake(?): boom"}},
		{"a panic that is joined", &fake{step: func(*sm.Task) sm.Await { panic("boom") }}, true, []string{"stepio: panic in *sm_test.fake(?): boom"}},
		{"an error that says that another task was destroyed", failing(sm.ErrDestroyed), false, []string{"stepio: task destroyed"}},
		{"a forgotten answer", &fake{step: func(*sm.Task) sm.Await { return sm.Await{} }}, false,
			[]string{"stepio: *sm_test.fake in state ? returned the zero Await"}},
		{"a forgotten answer that is joined", &fake{step: func(*sm.Task) sm.Await { return sm.Await{} }}, true, nil},
		{"errors that cannot be compared", &fake{step: done, err: errList{errTest}, close: func() error { return errList{errClose} }}, false,
			[]string{"[test error]", "[close failed]"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			inner := tt.frame.step
			tt.frame.step = func(task *sm.Task) sm.Await { // ends in its second step
				if tt.frame.steps == 1 {
					return sm.Yield
				}
				tt.frame.steps = 1 // as far as inner is concerned
				return inner(task)
			}
			task := w.Spawn(tt.frame)
			if tt.joined {
				join(w, task)
			}
			w.settle()
			require.True(t, task.Ended())
			var got []string
			for _, err := range w.reported() {
				got = append(got, err.Error())
			}
			assert.Equal(t, tt.want, got)
			assert.Zero(t, w.Live(), "the joiner was resumed")
		})
	}
}

func done(*sm.Task) sm.Await { return sm.Done }

// errList is an error that cannot be compared, as some libraries have them.
type errList []error

func (e errList) Error() string { return fmt.Sprint([]error(e)) }

func TestSchedulerReportsWhileTheChainIsWhole(t *testing.T) {
	w := newWorld(t)
	s := stackOf(&dive{depth: 1, bottom: func() sm.Frame {
		return &fake{step: func(*sm.Task) sm.Await { panic("boom") }}
	}})
	w.Spawn(s)
	w.Turn()
	require.Len(t, w.reports, 1)
	assert.Equal(t, "*sm.Stack(depth 3) > *sm_test.dive(2) > *sm_test.dive(1) > *sm_test.fake(?)", w.reports[0].chain)
	w.reported()
}

func TestSchedulerReportsToSlogByDefault(t *testing.T) {
	log := captureLog(t)
	s := sm.NewScheduler(sm.Config{})
	defer s.Close()
	s.Spawn(failing(errTest))
	s.Turn()
	assert.Contains(t, log.String(), `err="test error"`)
	assert.Contains(t, log.String(), "frames=*sm_test.fake(?)")
}

func captureLog(t *testing.T) *bytes.Buffer {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &log
}

func TestSchedulerSurvivesItsReportHandler(t *testing.T) {
	log := captureLog(t)
	s := sm.NewScheduler(sm.Config{Report: func(*sm.Task, error) { panic("handler") }})
	defer s.Close()
	panicking := s.Spawn(&fake{step: func(*sm.Task) sm.Await { panic("boom") }})
	f := new(fake)
	f.step = func(t *sm.Task) sm.Await {
		if a := t.Join(panicking); a.Pending() {
			return a
		}
		return sm.Done
	}
	joiner := s.Spawn(f)
	s.Spawn(failing(errTest))
	neighbour := answers()
	s.Spawn(neighbour)
	require.NotPanics(t, func() { s.Turn(); s.Turn() })
	assert.True(t, joiner.Ended())
	assert.Equal(t, 1, neighbour.steps)
	assert.Contains(t, log.String(), "boom", "what was to be reported")
	assert.Contains(t, log.String(), "test error")
	assert.Contains(t, log.String(), "handler")
}

func TestSchedulerSpawnRefusesNil(t *testing.T) {
	w := newWorld(t)
	assert.PanicsWithValue(t, "stepio: Scheduler.Spawn: nil frame", func() { w.Spawn(nil) })
}

func TestSchedulerCloseDestroysTheNewestFirst(t *testing.T) {
	w := newWorld(t)
	var closed []int
	for i := range 4 {
		f := answers(sm.Wait(i, sm.Read).By(w.Now().Add(time.Second)))
		f.close = func() error {
			closed = append(closed, i)
			w.Close() // closing while closing
			return nil
		}
		w.Spawn(f)
	}
	w.Turn()
	w.Close()
	w.Close()
	assert.Equal(t, []int{3, 2, 1, 0}, closed)
	assert.Negative(t, w.Timeout(), "no timer is left")
	assert.False(t, w.Busy())

	f := new(fake)
	task := w.Spawn(f)
	assert.True(t, task.Ended())
	assert.Equal(t, sm.ErrDestroyed, task.Err())
	assert.Zero(t, f.steps)
	assert.Equal(t, 1, f.closes)
	assert.Zero(t, w.Turn())
}

func TestSchedulerMayNotBeDrivenFromAStep(t *testing.T) {
	for name, drive := range map[string]func(w *world){
		"stepio: Scheduler.Turn: called inside a step":  func(w *world) { w.Turn() },
		"stepio: Scheduler.Close: called inside a step": func(w *world) { w.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			task := w.Spawn(&fake{step: func(*sm.Task) sm.Await { drive(w); return sm.Done }})
			w.Turn()
			var p *sm.PanicError
			require.ErrorAs(t, task.Err(), &p)
			assert.Equal(t, name, p.Value)
			w.reported()
		})
	}
}

func TestSchedulerCurrent(t *testing.T) {
	w := newWorld(t)
	var current, closing *sm.Task
	f := new(fake)
	f.step = func(*sm.Task) sm.Await { current = w.Current(); return sm.Done }
	f.close = func() error { closing = w.Current(); return nil }
	task := w.Spawn(f)
	assert.Nil(t, w.Current())
	w.Turn()
	assert.Nil(t, w.Current())
	assert.Same(t, task, current)
	assert.Same(t, task, closing)
}

func TestSchedulerBusyAndTimeout(t *testing.T) {
	w := newWorld(t)
	assert.False(t, w.Busy())
	assert.Negative(t, w.Timeout(), "nothing to wait for but events and wakes")
	task := w.Spawn(answers(sm.Park.By(w.Now().Add(5*time.Millisecond)), sm.Park))
	assert.True(t, w.Busy())
	assert.Zero(t, w.Timeout())
	w.Turn()
	assert.False(t, w.Busy())
	assert.Equal(t, 5*time.Millisecond, w.Timeout())
	task.Waker().Wake()
	assert.True(t, w.Busy())
	assert.Zero(t, w.Timeout())
	w.Turn()
	assert.Negative(t, w.Timeout())
}

func TestSchedulerPassed(t *testing.T) {
	w := newWorld(t)
	now := w.Now()
	assert.True(t, w.Passed(now))
	assert.True(t, w.Passed(now.Add(-time.Hour)))
	assert.False(t, w.Passed(now.Add(time.Nanosecond)))
	assert.False(t, w.Passed(time.Time{}), "the zero time is none")
	assert.False(t, w.Passed(time.Unix(1<<60, 0)))
	w.Advance(time.Nanosecond)
	assert.True(t, w.Passed(now.Add(time.Nanosecond)))
}

func TestSchedulerVirtualMeansAreForVirtualSchedulers(t *testing.T) {
	w := newWorldOf(t, sm.Config{Clock: sm.Monotonic, Parker: newParker()})
	assert.PanicsWithValue(t, "stepio: Scheduler.Advance: the clock is not the scheduler's own", func() { w.Advance(1) })
	assert.PanicsWithValue(t, "stepio: Scheduler.Ready: the descriptors are real", func() { w.Ready(3, sm.Read) })
	assert.PanicsWithValue(t, "stepio: Scheduler.Fail: the descriptors are real", func() { w.Fail(3, errTest) })
	v := newWorld(t)
	assert.PanicsWithValue(t, "stepio: Scheduler.Advance: the clock does not go back", func() { v.Advance(-1) })
	assert.PanicsWithValue(t, "stepio: Scheduler: virtual descriptor -1", func() { v.Ready(-1, sm.Read) })
}

func TestSchedulerVirtualEdges(t *testing.T) {
	w := newWorld(t)
	f := new(fake)
	var got []sm.Dir
	f.step = func(t *sm.Task) sm.Await {
		got = append(got, t.Ready())
		return sm.WaitEdge(3, sm.Read)
	}
	w.Spawn(f)
	w.Ready(3, sm.Read) // nobody waits yet
	w.Ready(3, sm.Read)
	w.turns(4)
	assert.Equal(t, []sm.Dir{0, sm.Read}, got, "remembered, once")
	w.Ready(3, sm.Write)
	assert.Zero(t, w.Turn())
	w.Ready(3, sm.Read)
	w.turns(3)
	assert.Equal(t, []sm.Dir{0, sm.Read, sm.Read}, got)

	level := answers(sm.Wait(4, sm.Read))
	w.Ready(4, sm.Read)
	w.Spawn(level)
	w.turns(2)
	assert.Equal(t, 1, level.steps, "level-triggered readiness is said while a task waits")
}

func TestWaitersKeepsEveryTaskThatWaits(t *testing.T) {
	p := newParker()
	w := newWorldOf(t, sm.Config{Parker: p})
	var order []int
	spawn := func(i int, dir sm.Dir) *sm.Task {
		f := new(fake)
		f.step = func(*sm.Task) sm.Await {
			if f.steps == 1 {
				return sm.Wait(3, dir)
			}
			order = append(order, i)
			return sm.Done
		}
		return w.Spawn(f)
	}
	assert.True(t, p.on(3).Empty())
	assert.Zero(t, p.on(3).Resume(sm.Read|sm.Write), "nobody waits")
	spawn(0, sm.Write)
	spawn(1, sm.Read)
	spawn(2, sm.Write)
	gone := spawn(3, sm.Write)
	spawn(4, sm.Read|sm.Write)
	w.Turn()
	assert.False(t, p.on(3).Empty())
	gone.Destroy()
	assert.Equal(t, 1, p.unparks)

	assert.Equal(t, sm.Write, p.on(3).Resume(sm.Write), "an event resumes every match")
	w.Turn()
	assert.Equal(t, []int{0, 2, 4}, order)
	assert.Zero(t, p.on(3).Resume(sm.Write))
	assert.Equal(t, sm.Read, p.on(3).Resume(sm.Read|sm.Write))
	w.Turn()
	assert.Equal(t, []int{0, 2, 4, 1}, order)
	assert.True(t, p.on(3).Empty())
	assert.Equal(t, 5, p.parks, "one call a suspension")
}

func TestWaitersFailAndNudge(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(*sm.Waiters)
		want error
	}{
		"the descriptor was removed":     {func(l *sm.Waiters) { l.Fail(errTest) }, errTest},
		"the tasks are to look again":    {func(l *sm.Waiters) { l.Nudge() }, nil},
		"a failure, then nobody is left": {func(l *sm.Waiters) { l.Fail(errTest); l.Nudge(); l.Fail(net.ErrClosed) }, errTest},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParker()
			w := newWorldOf(t, sm.Config{Parker: p})
			resumed := 0
			for range 3 {
				f := new(fake)
				f.step = func(task *sm.Task) sm.Await {
					if f.steps == 1 {
						return sm.Wait(3, sm.Read).By(w.Now().Add(time.Second))
					}
					resumed++
					assert.Equal(t, tt.want, task.WaitErr())
					assert.Zero(t, task.Ready())
					return sm.Done
				}
				w.Spawn(f)
			}
			w.Turn()
			tt.do(p.on(3))
			assert.True(t, p.on(3).Empty())
			w.Turn()
			assert.Equal(t, 3, resumed)
			assert.Negative(t, w.Timeout(), "the deadlines are cancelled")
			assert.Zero(t, p.unparks)
		})
	}
}

func TestSchedulerAllocatesNothingInTheSteadyState(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	s := sm.NewScheduler(sm.Config{})
	defer s.Close()
	later := s.Now().Add(time.Hour)
	spawn := func(step func(t *sm.Task) sm.Await) *sm.Task { return s.Spawn(&plain{step}) }
	tests := []struct {
		name string
		task func() *sm.Task
		do   func(task *sm.Task)
	}{
		{"a step that yields",
			func() *sm.Task { return spawn(func(*sm.Task) sm.Await { return sm.Yield }) },
			func(*sm.Task) {}},
		{"a wake",
			func() *sm.Task { return spawn(func(*sm.Task) sm.Await { return sm.Park }) },
			func(task *sm.Task) { task.Waker().Wake() }},
		{"an event on a descriptor",
			func() *sm.Task { return spawn(func(*sm.Task) sm.Await { return sm.Wait(3, sm.Read) }) },
			func(*sm.Task) { s.Ready(3, sm.Read) }},
		{"an event on a descriptor before its deadline",
			func() *sm.Task { return spawn(func(*sm.Task) sm.Await { return sm.Wait(3, sm.Read).By(later) }) },
			func(*sm.Task) { s.Ready(3, sm.Read) }},
		{"a deadline that passes",
			func() *sm.Task {
				return spawn(func(t *sm.Task) sm.Await {
					_ = t.WaitErr()
					return sm.Wait(3, sm.Read).By(t.Now().Add(time.Millisecond))
				})
			},
			func(*sm.Task) { s.Advance(time.Millisecond) }},
		{"a sleep",
			func() *sm.Task {
				return spawn(func(t *sm.Task) sm.Await { return t.SleepUntil(t.Now().Add(time.Millisecond)) })
			},
			func(*sm.Task) { s.Advance(time.Millisecond) }},
		{"a failed wait",
			func() *sm.Task {
				return spawn(func(t *sm.Task) sm.Await { _ = t.WaitErr(); return sm.Wait(3, sm.Read) })
			},
			func(*sm.Task) { s.Fail(3, net.ErrClosed) }},
		{"a join that is spurious",
			func() *sm.Task {
				other := spawn(func(*sm.Task) sm.Await { return sm.Park })
				return spawn(func(t *sm.Task) sm.Await { return t.Join(other) })
			},
			func(task *sm.Task) { task.Waker().Wake() }},
		{"a Stack that waits",
			func() *sm.Task {
				return s.Spawn(stackOf(&plain{func(*sm.Task) sm.Await { return sm.Yield }}))
			},
			func(*sm.Task) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			task := tt.task()
			round := func() {
				tt.do(task)
				if s.Turn() == 0 {
					t.Error("nothing was stepped")
				}
			}
			s.Turn()
			round()
			round()
			assert.Zero(t, testing.AllocsPerRun(100, round))
			task.Destroy()
		})
	}
}

// plain is a frame of one function, without bookkeeping.
type plain struct{ step func(*sm.Task) sm.Await }

func (f *plain) Step(t *sm.Task) sm.Await { return f.step(t) }
