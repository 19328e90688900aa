package sm_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// idler is a fake that may be idle. It counts how often it was asked.
type idler struct {
	fake
	idle  func() bool // nil: true
	asked int
}

func (i *idler) Idle() bool {
	i.asked++
	return i.idle == nil || i.idle()
}

// waiting is an idler that waits in the same way at every step.
func waiting(a sm.Await, idle bool) *idler {
	return &idler{fake: fake{step: func(*sm.Task) sm.Await { return a }}, idle: func() bool { return idle }}
}

func TestDrainResumesEveryTaskOnce(t *testing.T) {
	w := newWorld(t)
	var frames []*fake
	seen := make(map[*fake]bool)
	for _, a := range []sm.Await{
		sm.Park,
		sm.Wait(3, sm.Read),
		sm.WaitEdge(4, sm.Write),
		sm.Wait(5, sm.Read).By(w.Now().Add(time.Hour)),
		sm.Park.Until(w.Now().Add(time.Hour)),
	} {
		f := new(fake)
		f.step = func(t *sm.Task) sm.Await {
			seen[f] = t.Draining()
			return a
		}
		frames = append(frames, f)
		w.Spawn(f)
	}
	w.settle()
	assert.False(t, w.Draining())
	w.Drain()
	w.Drain()
	assert.True(t, w.Draining())
	w.settle()
	for _, f := range frames {
		assert.Equal(t, 2, f.steps)
		assert.True(t, seen[f])
		assert.NoError(t, f.task.WaitErr(), "a resume without a reason")
	}
	w.Ready(3, sm.Read)
	w.Advance(2 * time.Hour)
	w.settle()
	assert.Equal(t, 3, frames[1].steps, "and goes on as before")
	assert.Equal(t, 3, frames[4].steps)
}

func TestDrainEndsIdleTasksAfterAStep(t *testing.T) {
	w := newWorld(t)
	busy := false
	sometimes := waiting(sm.Wait(3, sm.Read), false)
	sometimes.idle = func() bool { return !busy }
	always, never := waiting(sm.Park, true), waiting(sm.Park, false)
	plain := new(fake)
	first, second, third, fourth := w.Spawn(sometimes), w.Spawn(always), w.Spawn(never), w.Spawn(plain)
	w.settle()
	assert.Zero(t, sometimes.asked+always.asked+never.asked, "nobody is asked before")
	busy = true
	w.Drain()
	assert.Zero(t, always.asked, "nor before the step that Drain resumes it for")
	w.settle()
	assert.True(t, second.Ended())
	assert.Equal(t, 1, always.closes)
	assert.Equal(t, sm.ErrDestroyed, second.Err())
	assert.False(t, first.Ended() || third.Ended() || fourth.Ended())

	late := w.Spawn(waiting(sm.Park, true))
	assert.False(t, late.Ended())
	busy = false
	w.settle()
	assert.True(t, late.Ended(), "one that is spawned meanwhile has its step, and is asked")
	assert.False(t, first.Ended(), "nobody is asked but after a step")
	w.Ready(3, sm.Read)
	w.settle()
	assert.True(t, first.Ended())
	assert.Equal(t, 1, sometimes.closes)
	assert.False(t, third.Ended() || fourth.Ended(), "these run on")
}

func TestDrainDoesNotAskATaskThatIsReady(t *testing.T) {
	w := newWorldOf(t, sm.Config{MaxOps: 1})
	for name, step := range map[string]func(f *idler, t *sm.Task) sm.Await{
		"yields":          func(*idler, *sm.Task) sm.Await { return sm.Yield },
		"wakes itself":    func(_ *idler, t *sm.Task) sm.Await { t.Waker().Wake(); return sm.Park },
		"is over budget":  func(_ *idler, t *sm.Task) sm.Await { s := t.Scheduler(); s.Admit(); s.Admit(); return sm.Park },
		"finds its event": func(_ *idler, t *sm.Task) sm.Await { w.Ready(7, sm.Read); return sm.WaitEdge(7, sm.Read) },
	} {
		t.Run(name, func(t *testing.T) {
			f := new(idler)
			f.step = func(t *sm.Task) sm.Await {
				if f.steps <= 3 {
					return step(f, t)
				}
				return sm.Park
			}
			w.Drain()
			task := w.Spawn(f)
			w.settle()
			assert.True(t, task.Ended())
			assert.Equal(t, 4, f.steps, "what it had to do was done")
			assert.Equal(t, 1, f.asked)
			assert.Equal(t, 1, f.closes)
		})
	}
}

func TestDrainLeavesAnEndToTheTask(t *testing.T) {
	w := newWorld(t)
	failure := errors.New("failure")
	f := new(idler)
	f.err = failure
	f.step = func(*sm.Task) sm.Await { return sm.Done }
	w.Drain()
	task := w.Spawn(f)
	w.settle()
	assert.Equal(t, []error{failure}, w.reported(), "an error is one, idle or not")
	assert.Equal(t, failure, task.Err())
	assert.Zero(t, f.asked)
}

func TestDrainInsideAStep(t *testing.T) {
	w := newWorld(t)
	f := new(idler)
	f.step = func(t *sm.Task) sm.Await {
		if f.steps == 1 {
			t.Scheduler().Drain()
		}
		return sm.Park
	}
	other := waiting(sm.Park, true)
	w.Spawn(other)
	task := w.Spawn(f)
	w.settle()
	assert.True(t, task.Ended())
	assert.Equal(t, 2, f.steps, "resumed as every other")
	assert.Equal(t, 1, other.closes)
}

func TestDrainResumesWhoJoinsAnIdleTask(t *testing.T) {
	w := newWorld(t)
	target := w.Spawn(waiting(sm.Park, true))
	joiner := new(fake)
	joiner.step = func(t *sm.Task) sm.Await { return t.Join(target) }
	task := w.Spawn(joiner)
	w.settle()
	w.Drain()
	w.settle()
	assert.True(t, task.Ended())
	assert.NoError(t, task.Err())
	assert.Equal(t, sm.ErrDestroyed, target.Err())
}

// family runs two children side by side, and is idle when they say so.
type family struct {
	idler
	all sm.All
}

func newFamily(children ...sm.Frame) *family {
	p := new(family)
	p.all.Start(children...)
	p.step = func(t *sm.Task) sm.Await { return p.all.Step(t) }
	return p
}

func TestDrainAsksTheParentAfterAStepOfAChild(t *testing.T) {
	w := newWorld(t)
	up, down := waiting(sm.Wait(3, sm.Read), true), waiting(sm.Wait(4, sm.Read), true)
	p := newFamily(up, newFamily(down))
	idle := false
	p.idle = func() bool { return idle }
	task := w.Spawn(p)
	w.settle()
	w.Drain()
	w.settle()
	assert.False(t, task.Ended())
	assert.Zero(t, up.asked+down.asked, "children are their parent's")
	idle = true
	w.settle()
	assert.False(t, task.Ended(), "nobody has made a step")
	down.step = func(t *sm.Task) sm.Await { t.Waker().Wake(); return sm.Park }
	w.Ready(4, sm.Read)
	asked := p.asked
	w.turns(3)
	assert.Equal(t, asked, p.asked, "a child that has something to do keeps its parents alive")
	down.step = nil
	w.settle()
	assert.True(t, task.Ended())
	for _, f := range []*idler{up, down, &p.idler} {
		assert.Equal(t, 1, f.closes)
	}
	assert.Zero(t, w.Live())
}

func TestDrainAsksTheParentAfterTheEndOfAChild(t *testing.T) {
	w := newWorld(t)
	child := &fake{step: func(t *sm.Task) sm.Await { return t.SleepUntil(w.Now()) }}
	p := newFamily(child, new(fake))
	p.idle = func() bool { return child.closes > 0 }
	w.Drain()
	task := w.Spawn(p)
	w.settle()
	assert.True(t, task.Ended())
	assert.Equal(t, 1, p.closes)
}

func TestDrainAsksTheOutermostFrameOfAStack(t *testing.T) {
	w := newWorld(t)
	inner, outer := waiting(sm.Park, true), new(idler)
	busy := true
	outer.idle = func() bool { return !busy }
	outer.step = func(t *sm.Task) sm.Await { return t.Call(inner) }
	s := new(sm.Stack)
	assert.False(t, s.Idle(), "an empty stack is done")
	s.Start(outer)
	task := w.Spawn(s)
	w.Drain()
	w.settle()
	assert.False(t, task.Ended())
	assert.Zero(t, inner.asked)
	busy = false
	task.Waker().Wake()
	w.settle()
	assert.True(t, task.Ended())
	assert.Equal(t, 1, inner.closes)
	assert.Equal(t, 1, outer.closes)
}

func TestDrainSurvivesAPanicOfIdle(t *testing.T) {
	w := newWorld(t)
	f := new(idler)
	f.idle = func() bool { panic("not sure") }
	p := newFamily(new(fake))
	p.idle = f.idle
	after := waiting(sm.Park, true)
	w.Drain()
	first, second, third := w.Spawn(f), w.Spawn(p), w.Spawn(after)
	w.settle()
	assert.Len(t, w.reported(), 2)
	var panicked *sm.PanicError
	require.ErrorAs(t, first.Err(), &panicked)
	require.ErrorAs(t, second.Err(), &panicked)
	assert.Equal(t, sm.ErrDestroyed, third.Err(), "the others go on")
	assert.Equal(t, []int{1, 1, 1}, []int{f.closes, p.closes, after.closes})
}

// Random trees of tasks, events and wakes: whatever happens, every frame is
// closed once, and draining ends all once they are idle.
func TestDrainEndsWhateverIsIdle(t *testing.T) {
	random := sm.SeededRand(t)
	for range 200 {
		w := newWorld(t)
		var all []*idler
		busy := true
		var grow func(depth int) sm.Frame
		grow = func(depth int) sm.Frame {
			var f *idler
			frame := sm.Frame(nil)
			if depth > 0 && random.IntN(2) == 0 {
				p := newFamily(grow(depth-1), grow(depth-1))
				f, frame = &p.idler, p
			} else {
				f = new(idler)
				fd := random.IntN(8)
				f.step = func(t *sm.Task) sm.Await {
					switch random.IntN(4) {
					case 0:
						return sm.Yield
					case 1:
						t.Waker().Wake()
					}
					return sm.Wait(fd, sm.Read|sm.Write)
				}
				frame = f
			}
			f.idle = func() bool { return !busy }
			all = append(all, f)
			return frame
		}
		for range 1 + random.IntN(8) {
			w.Spawn(grow(3))
		}
		for i := range 40 {
			if i == 10 {
				w.Drain()
			}
			w.Ready(random.IntN(8), sm.Read)
			w.Turn()
		}
		busy = false
		for i := 0; w.Live() > 0; i++ {
			require.Less(t, i, 10_000)
			for fd := range 8 {
				w.Ready(fd, sm.Read)
			}
			w.Turn()
		}
		for _, f := range all {
			assert.LessOrEqual(t, f.closes, 1)
			assert.True(t, f.closes == 1 || f.steps == 0, "closed once, unless it was never started")
		}
		w.Close()
	}
}

// watcher notes what it is told.
type watcher struct{ said []string }

func (w *watcher) Begin(t *sm.Task) { w.said = append(w.said, t.Chain()) }
func (w *watcher) End()             { w.said = append(w.said, "end") }

func TestWatcherIsToldOfEveryStep(t *testing.T) {
	told := new(watcher)
	w := newWorldOf(t, sm.Config{Watch: told})
	w.Spawn(answers(sm.Yield))
	w.Spawn(&fake{step: func(*sm.Task) sm.Await { panic("on purpose") }})
	w.settle()
	assert.Len(t, w.reported(), 1)
	const chain = "*sm_test.fake(?)"
	assert.Equal(t, []string{chain, "end", chain, "end", chain, "end"}, told.said)
}

// A step of a scheduler that neither drains nor is watched, and of one that is.
func BenchmarkStep(b *testing.B) {
	for name, c := range map[string]sm.Config{"plain": {}, "watched": {Watch: nobody{}}} {
		b.Run(name, func(b *testing.B) {
			s := sm.NewScheduler(c)
			for range 64 {
				s.Spawn(&fake{step: func(*sm.Task) sm.Await { return sm.Yield }})
			}
			b.ReportAllocs()
			for n := 0; n < b.N; {
				n += s.Turn()
			}
			s.Close()
		})
	}
}

type nobody struct{}

func (nobody) Begin(*sm.Task) {}
func (nobody) End()           {}

// Draining a task that runs very many others side by side, a child at a time: it
// is asked after a step of each.
func BenchmarkDrainOfManyChildren(b *testing.B) {
	const children = 20_000
	for b.Loop() {
		b.StopTimer()
		s := sm.NewScheduler(sm.Config{})
		frames := make([]sm.Frame, children)
		for i := range frames {
			frames[i] = &fake{step: func(*sm.Task) sm.Await { return sm.Park }}
		}
		s.Spawn(newFamily(frames...))
		for s.Turn() > 0 {
		}
		b.StartTimer()
		s.Drain()
		for s.Turn() > 0 {
		}
		if s.Live() != 0 {
			b.Fatal("not drained")
		}
	}
}
