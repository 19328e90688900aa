package sm_test

//lint:file-ignore U1000 Dump reads the fields named state by reflection

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/stepio-go/stepio/sm"
)

func dumpOf(w *world) string {
	var b strings.Builder
	assert.NoError(w.t, w.Dump(&b))
	return b.String()
}

// parent has two callees, of which one is active at a time.
type parent struct {
	first  leaf
	second leaf
	state  parentState
}

type parentState uint8

const (
	parentStart parentState = iota
	parentFirst
	parentSecond
)

func (s parentState) String() string { return [...]string{"start", "first", "second"}[s] }

func (f *parent) Step(t *sm.Task) sm.Await {
	if f.state == parentStart {
		f.state = parentFirst
	}
	if f.state == parentFirst {
		if a := f.first.Step(t); a.Pending() {
			return a
		}
		f.state = parentSecond
	}
	if a := f.second.Step(t); a.Pending() {
		return a
	}
	return sm.Done
}

type leaf struct {
	sm.Returns[int]
	wait  sm.Await
	state string
}

func (f *leaf) Step(*sm.Task) sm.Await {
	if f.state == "" {
		f.state = "waiting"
		return f.wait
	}
	return f.Return(1)
}

// inspected describes itself.
type inspected struct {
	state  int
	callee sm.Frame
}

func (f *inspected) Step(*sm.Task) sm.Await      { return sm.Park }
func (f *inspected) Inspect() (string, sm.Frame) { return "serving", f.callee }

// Frames whose fields are no ordinary state.
type (
	noState     struct{ fake }
	oddState    struct{ state []int }
	nilEmbedded struct{ *hidden }
	hidden      struct{ state int }
	numbered    struct{ state int }
	funcFrame   func(*sm.Task) sm.Await
	rude        struct{ state rudeState }
	rudeState   int
)

func (f *oddState) Step(*sm.Task) sm.Await    { return sm.Park }
func (f *nilEmbedded) Step(*sm.Task) sm.Await { return sm.Park }
func (f *numbered) Step(*sm.Task) sm.Await    { f.state = 7; return sm.Park }
func (f funcFrame) Step(t *sm.Task) sm.Await  { return f(t) }
func (f *rude) Step(*sm.Task) sm.Await        { return sm.Park }
func (rudeState) String() string              { panic("no name") }

func TestDumpShowsChainAndWait(t *testing.T) {
	now := sm.NewScheduler(sm.Config{}).Now() // that of every virtual clock that was not moved
	circle := &inspected{}
	circle.callee = circle
	tests := []struct {
		name  string
		frame sm.Frame
		turns int
		want  string
	}{
		{"a task that has not run", &parent{}, 0, "*sm_test.parent(start): ready"},
		{"the first callee is active", &parent{first: leaf{wait: sm.Wait(3, sm.Read)}}, 1,
			"*sm_test.parent(first) > *sm_test.leaf(waiting): fd 3 read"},
		{"the second callee is active, the first has its result", &parent{first: leaf{wait: sm.Yield}, second: leaf{wait: sm.Park}}, 2,
			"*sm_test.parent(second) > *sm_test.leaf(waiting): park"},
		{"a deadline", &parent{first: leaf{wait: sm.WaitEdge(3, sm.Read|sm.Write).By(now.Add(time.Second))}}, 1,
			"*sm_test.parent(first) > *sm_test.leaf(waiting): fd 3 read|write edge, deadline 1s from now"},
		{"a sleep", &parent{first: leaf{wait: sm.Park.Until(now.Add(2 * time.Second))}}, 1,
			"*sm_test.parent(first) > *sm_test.leaf(waiting): park, until 2s from now"},
		{"a task that yields", &parent{first: leaf{wait: sm.Yield}}, 1,
			"*sm_test.parent(first) > *sm_test.leaf(waiting): ready"},
		{"a frame that describes itself", &inspected{callee: &leaf{state: "deep"}}, 1,
			"*sm_test.inspected(serving) > *sm_test.leaf(deep): park"},
		{"a stack", stackOf(&dive{depth: 2, bottom: func() sm.Frame { return &parent{first: leaf{wait: sm.Park}} }}), 1,
			"*sm.Stack(depth 4) > *sm_test.dive(2) > *sm_test.dive(2) > *sm_test.dive(1) > *sm_test.parent(first) > *sm_test.leaf(waiting): park"},
		{"a stack that has not run", new(sm.Stack), 0, "*sm.Stack(depth 0): ready"},
		{"a state without names", &numbered{}, 1, "*sm_test.numbered(7): park"},
		{"a state that is no enum", &oddState{}, 1, "*sm_test.oddState(?): park"},
		{"a frame without a state", &noState{}, 1, "*sm_test.noState(?): park"},
		{"a state in an embedded struct that is nil", &nilEmbedded{}, 1, "*sm_test.nilEmbedded(?): park"},
		{"a frame that is no struct", funcFrame(func(*sm.Task) sm.Await { return sm.Park }), 1, "sm_test.funcFrame(?): park"},
		{"a name that panics", &rude{}, 1, "*sm_test.rude(%!v(PANIC=String method: no name)): park"},
		{"an Inspect that panics", &broken{inspect: true}, 0, "*sm_test.broken(panic in Inspect: Inspect): ready"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.Spawn(tt.frame)
			w.turns(tt.turns)
			assert.Equal(t, "1 tasks\n"+tt.want+"\n", dumpOf(w))
			w.Close()
		})
	}
	t.Run("frames that hold each other in a circle", func(t *testing.T) {
		w := newWorld(t)
		task := w.Spawn(circle)
		assert.Less(t, strings.Count(task.Chain(), ">"), 100)
	})
}

func TestDumpOfADeepStackShowsBothEnds(t *testing.T) {
	for _, depth := range []int{30, 31, 32, 33, 100, 10_000} {
		w := newWorld(t)
		task := w.Spawn(stackOf(&dive{depth: depth, bottom: func() sm.Frame { return new(fake) }}))
		w.settle()
		w.turns(5)
		links := strings.Split(task.Chain(), " > ")
		assert.Less(t, len(links), 40)
		assert.Equal(t, "*sm_test.dive(2)", links[1], "the outermost frame")
		assert.Equal(t, "*sm_test.fake(?)", links[len(links)-1], "the innermost frame")
		assert.Equal(t, depth > 31, strings.Contains(task.Chain(), " more) > "), "depth %d: %s", depth, task.Chain())
	}
}

func TestDumpOrdersByAgeAndForgetsTheDead(t *testing.T) {
	w := newWorld(t)
	a := w.Spawn(&inspected{})
	w.Spawn(&parent{first: leaf{wait: sm.Wait(3, sm.Write)}})
	w.Spawn(answers())
	c := w.Spawn(&leaf{wait: sm.Park})
	w.Turn()
	assert.Equal(t, "3 tasks\n"+
		"*sm_test.inspected(serving): park\n"+
		"*sm_test.parent(first) > *sm_test.leaf(waiting): fd 3 write\n"+
		"*sm_test.leaf(waiting): park\n", dumpOf(w))
	a.Destroy()
	c.Destroy()
	assert.Equal(t, "1 tasks\n*sm_test.parent(first) > *sm_test.leaf(waiting): fd 3 write\n", dumpOf(w))
	w.Close()
	assert.Equal(t, "0 tasks\n", dumpOf(w))
}

func TestDumpFromAStep(t *testing.T) {
	w := newWorld(t)
	var dump string
	w.Spawn(&fake{step: func(*sm.Task) sm.Await { dump = dumpOf(w); return sm.Done }})
	w.Turn()
	assert.Equal(t, "1 tasks\n*sm_test.fake(?): running\n", dump)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestDumpTellsThatItCouldNotWrite(t *testing.T) {
	w := newWorld(t)
	assert.EqualError(t, w.Dump(brokenWriter{}), "disk full")
}
