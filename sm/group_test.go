package sm_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// together is what All, AllSettled and Any have in common.
type together interface {
	sm.Frame
	Start(frames ...sm.Frame)
	Close() error
}

// host is a frame that awaits a together, and goes on.
type host struct {
	group together
	after func(t *sm.Task) sm.Await // nil: Done
	steps int
	err   error
	state int
}

func (f *host) Step(t *sm.Task) sm.Await {
	f.steps++
	if f.state == 0 {
		if a := f.group.Step(t); a.Pending() {
			return a
		}
		f.state = 1
	}
	if f.after != nil {
		return f.after(t)
	}
	return sm.Done
}

func (f *host) Err() error { return f.err }

func frames(fs ...*fake) []sm.Frame {
	var out []sm.Frame
	for _, f := range fs {
		out = append(out, f)
	}
	return out
}

var togethers = []struct {
	name string
	make func() together
}{
	{"All", func() together { return new(sm.All) }},
	{"AllSettled", func() together { return new(sm.AllSettled) }},
	{"Any", func() together { return new(sm.Any) }},
}

func eachTogether(t *testing.T, test func(t *testing.T, g together)) {
	for _, tt := range togethers {
		t.Run(tt.name, func(t *testing.T) { test(t, tt.make()) })
	}
}

func TestAllWaitsForEveryOne(t *testing.T) {
	w := newWorld(t)
	fs := []*fake{answers(sm.Wait(1, sm.Read)), answers(), answers(sm.Wait(3, sm.Read))}
	all := new(sm.All)
	all.Start(frames(fs...)...)
	task := w.Spawn(&host{group: all})
	w.settle()
	assert.Equal(t, 3, w.Live(), "side by side: one has ended")
	w.Ready(3, sm.Read)
	w.settle()
	assert.False(t, task.Ended())
	task.Waker().Wake() // spurious
	w.settle()
	assert.False(t, task.Ended())
	w.Ready(1, sm.Read)
	w.settle()
	assert.True(t, task.Ended())
	assert.NoError(t, all.Err())
	for _, f := range fs {
		assert.Equal(t, 1, f.closes)
	}
}

func TestAllFirstFailureDestroysTheRest(t *testing.T) {
	w := newWorld(t)
	late := &fake{step: func(*sm.Task) sm.Await { return sm.Yield }}
	parked, second := new(fake), failing(errors.New("second"))
	all := new(sm.All)
	all.Start(frames(answers(), parked, failing(errTest), second, late)...)
	task := w.Spawn(&host{group: all})
	w.Turn() // they are spawned
	w.Turn()
	assert.Equal(t, 1, parked.closes)
	assert.Zero(t, second.steps, "nothing of the rest runs after the failure")
	assert.Zero(t, late.steps)
	assert.Equal(t, 1, late.closes)
	assert.Equal(t, errTest, all.Err())
	w.settle()
	assert.True(t, task.Ended())
	assert.Empty(t, w.reported(), "the caller has the error")
}

func TestAllSettledWaitsForEveryOneHoweverItEnds(t *testing.T) {
	w := newWorld(t)
	all := new(sm.AllSettled)
	assert.Empty(t, all.Errs())
	panicking := &fake{step: func(*sm.Task) sm.Await { panic("boom") }}
	suicidal := &fake{step: func(t *sm.Task) sm.Await { t.Destroy(); return sm.Park }}
	all.Start(frames(failing(errTest), answers(sm.Wait(3, sm.Read)), panicking, suicidal, answers())...)
	task := w.Spawn(&host{group: all})
	w.settle()
	assert.False(t, task.Ended())
	w.Ready(3, sm.Read)
	w.settle()
	assert.True(t, task.Ended())
	errs := all.Errs()
	require.Len(t, errs, 5)
	assert.Equal(t, errTest, errs[0])
	assert.NoError(t, errs[1])
	var p *sm.PanicError
	assert.ErrorAs(t, errs[2], &p)
	assert.Equal(t, sm.ErrDestroyed, errs[3])
	assert.NoError(t, errs[4])
	assert.Equal(t, []error{p}, w.reported())
}

func TestAnyFirstToFinishWins(t *testing.T) {
	tests := []struct {
		name  string
		first *fake
		err   error
	}{
		{"a success", answers(sm.Yield), nil},
		{"a failure", failing(errTest), errTest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			parked, behind := new(fake), answers(sm.Yield)
			anyOf := new(sm.Any)
			assert.Equal(t, -1, anyOf.Winner())
			assert.NoError(t, anyOf.Err())
			anyOf.Start(frames(parked, tt.first, behind)...)
			task := w.Spawn(&host{group: anyOf})
			w.settle()
			assert.True(t, task.Ended())
			assert.Equal(t, 1, anyOf.Winner())
			assert.Equal(t, tt.err, anyOf.Err())
			for _, f := range []*fake{parked, tt.first, behind} {
				assert.Equal(t, 1, f.closes)
			}
			assert.Less(t, behind.steps, 2, "a loser does not go on")
			assert.Zero(t, w.Live())
		})
	}
}

func TestAnyBoundsWorkByATime(t *testing.T) {
	w := newWorld(t)
	when := w.Now().Add(time.Second)
	anyOf := new(sm.Any)
	work := answers(sm.Wait(3, sm.Read))
	sleep := &fake{step: func(t *sm.Task) sm.Await { return t.SleepUntil(when) }}
	anyOf.Start(work, sleep)
	task := w.Spawn(anyOf)
	w.settle()
	assert.Equal(t, "*sm.Any(2 of 2 running)", task.Chain())
	w.Advance(time.Second)
	w.Turn()
	w.settle()
	assert.Equal(t, 1, anyOf.Winner())
	assert.Equal(t, 1, work.closes)
}

func TestTogetherPanickingChild(t *testing.T) {
	eachTogether(t, func(t *testing.T, g together) {
		w := newWorld(t)
		other := new(fake)
		g.Start(&fake{step: func(*sm.Task) sm.Await { panic("boom") }}, other)
		task := w.Spawn(&host{group: g})
		bystander := w.Spawn(new(fake))
		w.settle()
		if _, settled := g.(*sm.AllSettled); settled {
			assert.False(t, task.Ended(), "it waits for the other")
			assert.Zero(t, other.closes)
		} else {
			assert.True(t, task.Ended())
			assert.Equal(t, 1, other.closes)
			var p *sm.PanicError
			assert.ErrorAs(t, g.(interface{ Err() error }).Err(), &p)
		}
		assert.Len(t, w.reported(), 1)
		assert.False(t, bystander.Ended())
	})
}

func TestTogetherDestroyedCallerTakesItsChildrenAlong(t *testing.T) {
	ends := map[string]func(w *world, task *sm.Task){
		"destroyed": func(_ *world, task *sm.Task) { task.Destroy() },
		"panicking": func(w *world, task *sm.Task) { task.Waker().Wake(); w.Turn(); w.reported() },
		"closed":    func(w *world, _ *sm.Task) { w.Close() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			eachTogether(t, func(t *testing.T, g together) {
				w := newWorld(t)
				fs := []*fake{answers(sm.Wait(3, sm.Read).By(w.Now().Add(time.Second))), new(fake), {step: func(*sm.Task) sm.Await { return sm.Yield }}}
				// A grandchild as well.
				inner := new(sm.All)
				grandchild := new(fake)
				inner.Start(grandchild)
				g.Start(append(frames(fs...), &host{group: inner})...)
				caller := &plain{func(t *sm.Task) sm.Await {
					if t.Woken() {
						panic("boom")
					}
					return g.Step(t)
				}}
				task := w.Spawn(caller)
				w.turns(4)
				assert.Equal(t, 6, w.Live())
				end(w, task)
				assert.Zero(t, w.Live())
				for _, f := range append(fs, grandchild) {
					assert.Equal(t, 1, f.closes)
				}
			})
		})
	}
}

func TestTogetherCallerDestroyedByItsChild(t *testing.T) {
	eachTogether(t, func(t *testing.T, g together) {
		w := newWorld(t)
		var task *sm.Task
		child := &fake{step: func(*sm.Task) sm.Await { task.Destroy(); return sm.Park }}
		other := new(fake)
		g.Start(other, child)
		task = w.Spawn(&host{group: g})
		w.settle()
		assert.True(t, task.Ended())
		assert.Equal(t, 1, child.closes)
		assert.Equal(t, 1, other.closes)
		assert.Zero(t, w.Live())
	})
}

func TestTogetherCloseDestroysTheChildren(t *testing.T) {
	eachTogether(t, func(t *testing.T, g together) {
		w := newWorld(t)
		assert.NoError(t, g.Close(), "before it was started")
		child := new(fake)
		g.Start(child)
		f := new(fake)
		f.step = func(task *sm.Task) sm.Await {
			if task.Woken() {
				assert.NoError(t, g.Close())
				assert.NoError(t, g.Close())
				assert.Equal(t, 1, child.closes)
				return sm.Yield
			}
			if f.steps == 1 {
				return g.Step(task)
			}
			assert.False(t, task.HasExtra(), "nothing is kept")
			return sm.Park
		}
		task := w.Spawn(f)
		w.settle()
		task.Waker().Wake()
		w.settle()
		assert.Equal(t, 1, w.Live(), "the caller lives on")
	})
}

func TestTogetherOfNoFrames(t *testing.T) {
	eachTogether(t, func(t *testing.T, g together) {
		w := newWorld(t)
		task := w.Spawn(&host{group: g}) // never started
		w.Turn()
		assert.True(t, task.Ended())
		g.Start()
		task = w.Spawn(&host{group: g})
		w.Turn()
		assert.True(t, task.Ended())
		if a, ok := g.(*sm.Any); ok {
			assert.Equal(t, -1, a.Winner())
		}
	})
}

func TestTogetherIsUsedAgain(t *testing.T) {
	eachTogether(t, func(t *testing.T, g together) {
		w := newWorld(t)
		rounds := 0
		g.Start(answers())
		f := new(fake)
		f.step = func(t *sm.Task) sm.Await {
			for rounds < 3 {
				if a := g.Step(t); a.Pending() {
					return a
				}
				rounds++
				g.Start(answers(sm.Yield))
			}
			return sm.Done
		}
		task := w.Spawn(f)
		w.settle()
		assert.True(t, task.Ended())
		assert.Equal(t, 3, rounds)
	})
}

func TestTogetherMisuse(t *testing.T) {
	eachTogether(t, func(t *testing.T, g together) {
		w := newWorld(t)
		g.Start(new(fake))
		w.Spawn(&host{group: g})
		w.Turn()
		assert.Panics(t, func() { g.Start(new(fake)) }, "still running")
		thief := w.Spawn(&host{group: g})
		w.Turn()
		var p *sm.PanicError
		require.ErrorAs(t, thief.Err(), &p)
		assert.Equal(t, "stepio: All, Any: stepped by two tasks", p.Value)
		w.reported()
	})
}

// A child that cannot be spawned ends the caller, and the children before it.
func TestTogetherOfAFrameThatIsSpawnedAlready(t *testing.T) {
	eachTogether(t, func(t *testing.T, g together) {
		w := newWorld(t)
		twice := new(answer)
		twice.wait = sm.Park
		w.Spawn(twice)
		child := new(fake)
		g.Start(child, twice, new(fake))
		task := w.Spawn(&host{group: g})
		w.Turn()
		var p *sm.PanicError
		require.ErrorAs(t, task.Err(), &p)
		assert.Equal(t, 1, child.closes)
		assert.Equal(t, 1, w.Live())
		w.reported()
	})
}

func TestTogetherInDump(t *testing.T) {
	w := newWorld(t)
	all := new(sm.AllSettled)
	all.Start(answers(), new(fake))
	task := w.Spawn(all)
	assert.Equal(t, "*sm.AllSettled(2 not started)", task.Chain())
	w.settle()
	assert.Equal(t, "*sm.AllSettled(1 of 2 running)", task.Chain())

	byValue := new(wrapper)
	byValue.all.Start(new(fake))
	task = w.Spawn(byValue)
	w.settle()
	assert.Equal(t, "*sm_test.wrapper(?) > *sm.All(1 of 1 running)", task.Chain())

	w = newWorld(t)
	task = w.Spawn(&wrapper{})
	assert.Equal(t, "*sm_test.wrapper(?)", task.Chain(), "one that was not started is not active")
	assert.NoError(t, new(sm.All).Err())
}

type wrapper struct{ all sm.All }

func (f *wrapper) Step(t *sm.Task) sm.Await { return f.all.Step(t) }

// An All whose caller closes the scheduler's last task finds the scheduler closed.
func TestTogetherOnAClosedScheduler(t *testing.T) {
	w := newWorld(t)
	all := new(sm.All)
	child := new(fake)
	all.Start(child)
	f := new(fake)
	f.close = func() error {
		assert.False(t, all.Step(f.task).Pending())
		return all.Err()
	}
	w.Spawn(f)
	w.Turn()
	w.Close()
	assert.Equal(t, []error{sm.ErrDestroyed}, w.reported())
	assert.Equal(t, 1, child.closes)
	assert.Zero(t, child.steps)
}
