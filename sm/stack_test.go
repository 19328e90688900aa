package sm_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// dive calls itself depth levels down, waits there or runs bottom, and returns
// how deep it was. It stands for
//
//	task<int> dive(int depth) { if (!depth) { co_await bottom(); co_return 0; } co_return 1 + co_await dive(depth - 1); }
type dive struct {
	sm.Returns[int]
	depth  int
	bottom func() sm.Frame
	child  *dive
	state  diveState
	closed *[]string
}

type diveState int

const (
	diveStart    diveState = iota
	diveBottom             // the bottom frame has run
	diveReturned           // the callee has run
)

func (f *dive) Step(t *sm.Task) sm.Await {
	switch f.state {
	case diveStart:
		if f.depth == 0 {
			f.state = diveBottom
			if f.bottom != nil {
				return t.Call(f.bottom())
			}
			return f.Return(0)
		}
		f.child = &dive{depth: f.depth - 1, bottom: f.bottom, closed: f.closed}
		f.state = diveReturned
		return t.Call(f.child)
	case diveBottom:
		return f.Return(0)
	case diveReturned:
		n, err := f.child.Result()
		if err != nil {
			return f.Fail(err)
		}
		return f.Return(n + 1)
	default:
		panic(fmt.Sprintf("dive.Step: state %d", f.state))
	}
}

func (f *dive) Close() error {
	if f.closed != nil {
		*f.closed = append(*f.closed, fmt.Sprint("dive ", f.depth))
	}
	return nil
}

// loops awaits a callee that completes at once, n times, one after the other.
type loops struct {
	sm.Returns[int]
	n, sum   int
	child    answer
	maxStack int
	running  bool
}

func (f *loops) Step(t *sm.Task) sm.Await {
	if f.running {
		v, err := f.child.Result()
		if err != nil {
			return f.Fail(err)
		}
		f.sum += v
		f.n--
	}
	f.running = true
	if f.n%100_000 == 0 {
		f.maxStack = max(f.maxStack, goStackDepth())
	}
	if f.n == 0 {
		return f.Return(f.sum)
	}
	f.child = answer{n: 1}
	return t.Call(&f.child)
}

func goStackDepth() int { return runtime.Callers(0, make([]uintptr, 1000)) }

func TestStackMillionSynchronousCompletions(t *testing.T) {
	w := newWorld(t)
	f := &loops{n: 1_000_000}
	s := new(sm.Stack)
	s.Start(f)
	task := w.Spawn(s)
	for !task.Ended() {
		require.Equal(t, 1, w.Turn())
	}
	n, err := f.Result()
	require.NoError(t, err)
	assert.Equal(t, 1_000_000, n)
	assert.Less(t, f.maxStack, 40, "frames on the Go stack")
}

func TestStackLetsOthersRunBetweenItsCompletions(t *testing.T) {
	w := newWorld(t)
	s := new(sm.Stack)
	s.Start(&loops{n: 100_000})
	task := w.Spawn(s)
	other := &fake{step: func(*sm.Task) sm.Await { return sm.Yield }}
	w.Spawn(other)
	for !task.Ended() {
		w.Turn()
	}
	assert.Greater(t, other.steps, 10)
}

// goDepth records how deep the Go stack is at the bottom of a recursion.
type goDepth struct{ depth *int }

func (f *goDepth) Step(*sm.Task) sm.Await { *f.depth = goStackDepth(); return sm.Done }

func TestStackDeepRecursion(t *testing.T) {
	w := newWorld(t)
	const depth = 100_000
	measured := 0
	f := &dive{depth: depth, bottom: func() sm.Frame { return &goDepth{&measured} }}
	s := new(sm.Stack)
	s.Start(f)
	task := w.Spawn(s)
	for !task.Ended() {
		w.Turn()
	}
	n, err := f.Result()
	require.NoError(t, err)
	assert.Equal(t, depth, n)
	assert.Positive(t, measured)
	assert.Less(t, measured, 40, "frames on the Go stack")
	assert.Zero(t, s.Depth())
}

func TestStackWaitsWhereItsInnermostFrameWaits(t *testing.T) {
	w := newWorld(t)
	f := &dive{depth: 3, bottom: func() sm.Frame { return answers(sm.Wait(3, sm.Read), sm.Park) }}
	s := new(sm.Stack)
	s.Start(f)
	task := w.Spawn(s)
	w.Turn()
	assert.Equal(t, 5, s.Depth())
	w.Ready(3, sm.Read)
	w.Turn()
	assert.Equal(t, 5, s.Depth())
	task.Waker().Wake()
	w.Turn()
	assert.True(t, task.Ended())
	n, err := f.Result()
	assert.NoError(t, err)
	assert.Equal(t, 3, n)
}

func TestStackClosesEachFrameOnceInnermostFirst(t *testing.T) {
	innermostFirst := []string{"bottom", "dive 0", "dive 1", "dive 2"}
	tests := []struct {
		name string
		step func(*sm.Task) sm.Await
		end  func(task *sm.Task)
		err  string
	}{
		{"as they are done", func(*sm.Task) sm.Await { return sm.Done }, nil, ""},
		{"after a panic", func(*sm.Task) sm.Await { panic("boom") }, nil,
			"stepio: panic in *sm.Stack(depth 4) > *sm_test.dive(2) > *sm_test.dive(2) > *sm_test.dive(1) > *sm_test.fake(?): boom"},
		{"destroyed", func(*sm.Task) sm.Await { return sm.Park }, (*sm.Task).Destroy, "stepio: task destroyed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			var closed []string
			s := new(sm.Stack)
			s.Start(&dive{depth: 2, closed: &closed, bottom: func() sm.Frame {
				return &fake{step: tt.step, close: func() error { closed = append(closed, "bottom"); return nil }}
			}})
			task := w.Spawn(s)
			w.Turn()
			if tt.end != nil {
				tt.end(task)
			}
			require.True(t, task.Ended())
			assert.Equal(t, innermostFirst, closed)
			if tt.err == "" {
				assert.NoError(t, task.Err())
			} else {
				assert.EqualError(t, task.Err(), tt.err)
			}
			w.reported()
		})
	}
}

func TestStackClosesTheRestWhenACloseFails(t *testing.T) {
	errClose := errors.New("close failed")
	for _, how := range []string{"returns an error", "panics"} {
		for _, end := range []string{"done", "destroyed"} {
			t.Run(fmt.Sprintf("the innermost Close %s, %s", how, end), func(t *testing.T) {
				w := newWorld(t)
				var closed []string
				bottom := new(fake)
				bottom.step = func(t *sm.Task) sm.Await {
					if end == "done" {
						return sm.Done
					}
					return sm.Park
				}
				bottom.close = func() error {
					closed = append(closed, "bottom")
					if how == "panics" {
						panic(errClose)
					}
					return errClose
				}
				s := new(sm.Stack)
				s.Start(&dive{depth: 1, closed: &closed, bottom: func() sm.Frame { return bottom }})
				task := w.Spawn(s)
				w.settle()
				task.Destroy()
				assert.Equal(t, []string{"bottom", "dive 0", "dive 1"}, closed)
				assert.Equal(t, 1, bottom.closes)
				require.Error(t, task.Err())
				reports := w.reported()
				require.Len(t, reports, 1)
				assert.ErrorIs(t, reports[0], errClose)
			})
		}
	}
}

func TestStackKeepsFewOfManyCloseErrors(t *testing.T) {
	w := newWorld(t)
	n := 0
	f := new(fake)
	f.step = func(t *sm.Task) sm.Await {
		if n++; n > 1000 {
			return sm.Done
		}
		callee := answers()
		callee.close = func() error { return errTest }
		return t.Call(callee)
	}
	s := new(sm.Stack)
	s.Start(f)
	task := w.Spawn(s)
	w.settle()
	assert.ErrorIs(t, task.Err(), errTest)
	assert.Less(t, strings.Count(task.Err().Error(), "\n"), 20)
	assert.Len(t, w.reported(), 1)
}

func TestStackErrIsThatOfItsOutermostFrame(t *testing.T) {
	w := newWorld(t)
	s := new(sm.Stack)
	s.Start(&dive{depth: 2, bottom: func() sm.Frame { return answers() }})
	assert.NoError(t, s.Err())
	w.Spawn(s)
	w.settle()
	assert.NoError(t, s.Err())

	s = new(sm.Stack)
	s.Start(&answer{wait: sm.Yield, err: errTest})
	task := w.Spawn(s)
	w.Turn()
	assert.NoError(t, s.Err(), "while it runs")
	w.settle()
	assert.Equal(t, errTest, s.Err())
	assert.Equal(t, errTest, task.Err())
	assert.Equal(t, []error{errTest}, w.reported(), "it does not vanish")

	s.Start(answers())
	assert.NoError(t, s.Err(), "started again")
}

// mute is a frame whose Err panics, when it is asked.
type mute struct{ fake }

func (f *mute) Err() error { panic("Err") }

func TestStackClosesAFrameWhoseErrPanics(t *testing.T) {
	w := newWorld(t)
	f := &mute{fake{step: done}}
	task := w.Spawn(stackOf(f))
	w.Turn()
	var p *sm.PanicError
	require.ErrorAs(t, task.Err(), &p)
	assert.Equal(t, 1, f.closes)
	assert.Len(t, w.reported(), 1)
}

func TestStackIsAFrameLikeAnyOther(t *testing.T) {
	// A stack inside a frame on a stack: Call goes to the innermost of them.
	w := newWorld(t)
	inner, outer := new(sm.Stack), new(sm.Stack)
	leaf := &dive{depth: 2, bottom: func() sm.Frame { return answers(sm.Yield) }}
	inner.Start(leaf)
	after := answers()
	f := new(fake)
	called := false
	f.step = func(task *sm.Task) sm.Await {
		if a := inner.Step(task); a.Pending() {
			assert.Equal(t, 1, outer.Depth())
			assert.Equal(t, 4, inner.Depth())
			return a
		}
		if !called {
			called = true
			return task.Call(after)
		}
		return sm.Done
	}
	outer.Start(f)
	task := w.Spawn(outer)
	w.settle()
	assert.True(t, task.Ended())
	n, _ := leaf.Result()
	assert.Equal(t, 2, n)
	assert.Equal(t, 1, after.steps)
	assert.Equal(t, 1, after.closes)
}

func TestStackFramesNeverMove(t *testing.T) {
	// A frame may hand out the address of a field: here, to its callee.
	w := newWorld(t)
	f := &loops{n: 3}
	s := new(sm.Stack)
	s.Start(f)
	w.Spawn(s)
	w.settle()
	n, err := f.Result()
	require.NoError(t, err)
	assert.Equal(t, 3, n)
}

func TestStackZeroIsDone(t *testing.T) {
	w := newWorld(t)
	s := new(sm.Stack)
	task := w.Spawn(s)
	w.Turn()
	assert.True(t, task.Ended())
	assert.NoError(t, task.Err())
	assert.NoError(t, s.Close())
}

func TestStackMisuse(t *testing.T) {
	tests := []struct {
		name  string
		frame func() sm.Frame
		panic string
	}{
		{"a call outside a stack", func() sm.Frame {
			return &fake{step: func(t *sm.Task) sm.Await { return t.Call(answers()) }}
		}, "stepio: Task.Call: the frame runs on no Stack"},
		{"a nil frame", func() sm.Frame {
			return stackOf(&fake{step: func(t *sm.Task) sm.Await { return t.Call(nil) }})
		}, "stepio: Task.Call: nil frame"},
		{"two calls in one step", func() sm.Frame {
			return stackOf(&fake{step: func(t *sm.Task) sm.Await { t.Call(answers()); return t.Call(answers()) }})
		}, "stepio: Task.Call: called twice in one step"},
		{"a call whose answer is not returned", func() sm.Frame {
			return stackOf(&fake{step: func(t *sm.Task) sm.Await { t.Call(answers()); return sm.Park }})
		}, "stepio: Task.Call: *sm_test.fake did not return its answer"},
		{"an answer that is kept and returned by a frame on no stack", func() sm.Frame {
			var kept sm.Await
			s := stackOf(&fake{step: func(t *sm.Task) sm.Await { kept = t.Call(answers()); return kept }})
			return &fake{step: func(t *sm.Task) sm.Await { s.Step(t); return kept }}
		}, "stepio: Task.Call: its answer left the Stack"},
		{"a start of a stack that runs", func() sm.Frame {
			s := new(sm.Stack)
			s.Start(&fake{step: func(*sm.Task) sm.Await { s.Start(answers()); return sm.Done }})
			return s
		}, "stepio: Stack.Start: the stack is running"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			task := w.Spawn(tt.frame())
			w.Turn()
			var p *sm.PanicError
			require.ErrorAs(t, task.Err(), &p)
			assert.Equal(t, tt.panic, p.Value)
			w.reported()
			// The next task's call does not find the stack of the one that panicked.
			task = w.Spawn(&fake{step: func(t *sm.Task) sm.Await { return t.Call(answers()) }})
			w.Turn()
			assert.Error(t, task.Err())
			w.reported()
		})
	}
}

func stackOf(f sm.Frame) *sm.Stack {
	s := new(sm.Stack)
	s.Start(f)
	return s
}
