package sm_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

var errTest = errors.New("test error")

// answer is a frame with a result.
type answer struct {
	sm.Returns[int]
	wait sm.Await // first
	n    int
	err  error
	ran  bool
}

func (f *answer) Step(*sm.Task) sm.Await {
	if f.wait != (sm.Await{}) && !f.ran {
		f.ran = true
		return f.wait
	}
	if f.err != nil {
		return f.Fail(f.err)
	}
	return f.Return(f.n)
}

var _ sm.Callee[int] = (*answer)(nil)

// caller awaits its callee, which is a field, and propagates what it ended with.
type caller struct {
	sm.Returns[int]
	child answer
}

func (f *caller) Step(t *sm.Task) sm.Await {
	if a := f.child.Step(t); a.Pending() {
		return a
	}
	n, err := f.child.Result()
	if err != nil {
		return f.Fail(err)
	}
	return f.Return(2 * n)
}

func TestReturnsPropagatesTheCalleesResult(t *testing.T) {
	tests := []struct {
		name  string
		child answer
		want  int
		err   error
	}{
		{"the callee returns at once", answer{n: 21}, 42, nil},
		{"the callee waits first", answer{wait: sm.Yield, n: 21}, 42, nil},
		{"the callee fails", answer{wait: sm.Yield, err: errTest}, 0, errTest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			f := &caller{child: tt.child}
			_, err := f.Result()
			assert.Equal(t, sm.ErrNoResult, err, "before it has run")
			task := w.Spawn(f)
			w.settle()
			require.True(t, task.Ended())
			n, err := f.Result()
			assert.Equal(t, tt.want, n)
			assert.Equal(t, tt.err, err)
			assert.Equal(t, tt.err, task.Err())
			if tt.err != nil {
				assert.Equal(t, []error{tt.err}, w.reported())
			}
		})
	}
}

func TestReturnsIsLazy(t *testing.T) {
	f := &caller{child: answer{n: 1}}
	_, err := f.child.Result()
	assert.Equal(t, sm.ErrNoResult, err)
	assert.NoError(t, f.Err())
	assert.False(t, f.child.ran)
}

func TestReturnsFailForgetsAnEarlierValue(t *testing.T) {
	var r sm.Returns[string]
	assert.Equal(t, sm.Done, r.Return("value"))
	assert.Equal(t, sm.Done, r.Fail(errTest))
	v, err := r.Result()
	assert.Empty(t, v)
	assert.Equal(t, errTest, err)

	assert.Equal(t, sm.Done, r.Return("again"))
	v, err = r.Result()
	assert.Equal(t, "again", v)
	assert.NoError(t, err)
}

func TestReturnsFailNeedsAnError(t *testing.T) {
	var r sm.Returns[int]
	assert.PanicsWithValue(t, "stepio: Returns.Fail: nil error", func() { r.Fail(nil) })
}

func TestReturnsResetMakesAFrameRunAgain(t *testing.T) {
	f := answer{n: 1}
	f.Step(nil)
	f.Reset()
	_, err := f.Result()
	assert.Equal(t, sm.ErrNoResult, err)

	w := newWorld(t)
	w.Spawn(&f)
	assert.PanicsWithValue(t, "stepio: Returns.Reset: a task owns the frame", f.Reset)
}

func TestReturnsRefusesASecondSpawn(t *testing.T) {
	s := sm.NewScheduler(sm.Config{}) // without check mode
	defer s.Close()
	f := new(answer)
	s.Spawn(f)
	again := "stepio: Scheduler.Spawn: frame *sm_test.answer was spawned before"
	assert.PanicsWithValue(t, again, func() { s.Spawn(f) })
	s.Turn()
	assert.PanicsWithValue(t, again, func() { s.Spawn(f) }, "after its task has ended too")
	assert.PanicsWithValue(t, again, func() { sm.NewScheduler(sm.Config{}).Spawn(f) }, "on another scheduler too")
	assert.Zero(t, s.Live())
}

func TestSpawnTwiceInCheckMode(t *testing.T) {
	w := newWorld(t)
	f := new(fake)
	w.Spawn(f)
	assert.PanicsWithValue(t, "stepio: Scheduler.Spawn: frame *sm_test.fake was spawned before", func() { w.Spawn(f) })
	assert.Equal(t, 1, w.Live())

	t.Run("frames of no size cannot be told apart", func(t *testing.T) {
		a, b := new(empty), new(empty)
		w.Spawn(a)
		w.Spawn(b)
		w.Spawn(empty{})
		w.Spawn(empty{})
		w.settle()
	})
	t.Run("without check mode a plain frame is not followed", func(t *testing.T) {
		s := sm.NewScheduler(sm.Config{})
		defer s.Close()
		f := new(empty2)
		s.Spawn(f)
		assert.NotPanics(t, func() { s.Spawn(f) })
	})
}

type empty struct{}

func (empty) Step(*sm.Task) sm.Await { return sm.Done }

type empty2 struct{ empty }

// quiet is a frame whose Close returns nothing.
type quiet struct{ closes int }

func (q *quiet) Step(*sm.Task) sm.Await { return sm.Done }
func (q *quiet) Close()                 { q.closes++ }

func TestFrameCloseThatReturnsNothing(t *testing.T) {
	w := newWorld(t)
	root, callee := new(quiet), new(quiet)
	w.Spawn(root)
	var stack sm.Stack
	stack.Start(callee)
	w.Spawn(&stack)
	w.Turn()
	assert.Equal(t, 1, root.closes)
	assert.Equal(t, 1, callee.closes)
}
