package sm_test

import (
	"fmt"
	"math"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

func TestDirString(t *testing.T) {
	for dir, want := range map[sm.Dir]string{
		0: "none", sm.Read: "read", sm.Write: "write", sm.Read | sm.Write: "read|write", 8: "Dir(8)",
	} {
		assert.Equal(t, want, dir.String())
	}
}

func TestAwaitZeroIsNoAnswer(t *testing.T) {
	var zero sm.Await
	for _, answer := range []sm.Await{sm.Done, sm.Yield, sm.Park, sm.Wait(0, 0)} {
		assert.NotEqual(t, zero, answer)
	}
	assert.True(t, zero.Pending(), "it travels up to the scheduler, which names it")
	assert.LessOrEqual(t, unsafe.Sizeof(zero), uintptr(16))
}

func TestAwaitSaysWhatIsWaitedFor(t *testing.T) {
	tests := []struct {
		name    string
		await   sm.Await
		pending bool
		fd      int
		dir     sm.Dir
		edge    bool
		str     string
	}{
		{"done waits for nothing", sm.Done, false, -1, 0, false, "done"},
		{"yield waits for no descriptor", sm.Yield, true, -1, 0, false, "yield"},
		{"park waits for no descriptor", sm.Park, true, -1, 0, false, "park"},
		{"the zero await is forgotten", sm.Await{}, true, -1, 0, false, "forgotten"},
		{"reading, by level", sm.Wait(3, sm.Read), true, 3, sm.Read, false, "fd 3 read"},
		{"both directions at once", sm.Wait(3, sm.Read|sm.Write), true, 3, sm.Read | sm.Write, false, "fd 3 read|write"},
		{"writing, by edge", sm.WaitEdge(0, sm.Write), true, 0, sm.Write, true, "fd 0 write edge"},
		{"no direction, only the descriptor's end", sm.Wait(9, 0), true, 9, 0, false, "fd 9 none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.pending, tt.await.Pending())
			assert.Equal(t, tt.fd, tt.await.FD())
			assert.Equal(t, tt.dir, tt.await.Dir())
			assert.Equal(t, tt.edge, tt.await.Edge())
			assert.Equal(t, tt.str, tt.await.String())
		})
	}
}

func TestAwaitIsComparable(t *testing.T) {
	when := time.Now().Add(time.Hour)
	a, b := sm.Wait(3, sm.Read).By(when), sm.Wait(3, sm.Read).By(when)
	assert.True(t, a == b)
	assert.False(t, sm.Wait(3, sm.Read).By(when) == sm.Wait(3, sm.Read).Until(when))
	assert.False(t, sm.Wait(3, sm.Read) == sm.WaitEdge(3, sm.Read))
}

func TestAwaitDeadlineIsTheEarliest(t *testing.T) {
	near := time.Now().Add(time.Second)
	far := near.Add(time.Second)
	tests := []struct {
		name  string
		await sm.Await
		want  time.Time // zero: none
	}{
		{"no deadline", sm.Park, time.Time{}},
		{"one deadline", sm.Park.By(near), near},
		{"the later one last", sm.Park.By(near).By(far), near},
		{"the later one first", sm.Park.By(far).By(near), near},
		{"a soft one before a hard one", sm.Wait(3, sm.Read).Until(near).By(far), near},
		{"the zero time sets none", sm.Park.By(time.Time{}).Until(time.Time{}), time.Time{}},
		{"the zero time leaves what is there", sm.Park.By(near).By(time.Time{}), near},
		{"from the left of Or", sm.Park.By(near).Or(sm.Wait(3, sm.Read)), near},
		{"from the right of Or", sm.Wait(3, sm.Read).Or(sm.Park.By(near)), near},
		{"the earlier of both sides of Or", sm.Wait(3, sm.Read).By(far).Or(sm.Wait(3, sm.Write).By(near)), near},
		{"the past", sm.Park.By(near.Add(-time.Hour)), near.Add(-time.Hour)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			when, ok := tt.await.Deadline()
			assert.Equal(t, !tt.want.IsZero(), ok)
			assert.True(t, when.Equal(tt.want), "%v, want %v", when, tt.want)
		})
	}
	assert.Contains(t, sm.Park.By(near).String(), "park by ")
}

func TestAwaitDeadlineSaturates(t *testing.T) {
	for _, extreme := range []time.Time{time.Unix(1<<62, 0), time.Unix(-1<<62, 0), time.Unix(0, math.MaxInt64)} {
		_, ok := sm.Park.By(extreme).Deadline()
		assert.True(t, ok, "%v", extreme)
	}
}

func TestAwaitByChangesNoAnswerThatDoesNotWait(t *testing.T) {
	when := time.Now()
	for _, a := range []sm.Await{sm.Done, sm.Yield, {}} {
		assert.Equal(t, a, a.By(when))
		assert.Equal(t, a, a.Until(when))
	}
}

func TestAwaitOrJoinsTwoWaits(t *testing.T) {
	read, write := sm.Wait(3, sm.Read), sm.Wait(3, sm.Write)
	both := sm.Wait(3, sm.Read|sm.Write)
	tests := []struct {
		name    string
		a, b    sm.Await
		want    sm.Await
		ordered bool // b.Or(a) is another
	}{
		{"two directions", read, write, both, false},
		{"one direction twice", read, read, read, false},
		{"a descriptor and a park", read, sm.Park, read, false},
		{"two parks", sm.Park, sm.Park, sm.Park, false},
		{"done wins over a wait", sm.Done, read, sm.Done, false},
		{"yield wins over a park", sm.Yield, sm.Park, sm.Yield, false},
		{"a forgotten answer is not hidden", sm.Await{}, read, sm.Await{}, false},
		{"of two that do not wait the first", sm.Yield, sm.Done, sm.Yield, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, tt.a.Or(tt.b))
			if !tt.ordered {
				assert.Equal(t, tt.want, tt.b.Or(tt.a))
			}
		})
	}
	assert.PanicsWithValue(t, "stepio: Await.Or: waits on two descriptors, 3 and 4", func() { read.Or(sm.Wait(4, sm.Read)) })
	assert.PanicsWithValue(t, "stepio: Await.Or: descriptor 3 in two trigger modes", func() { read.Or(sm.WaitEdge(3, sm.Read)) })
}

// Of a deadline and an event at the same instant the event counts, and a soft
// deadline is an event.
func TestAwaitUntilWinsOverByAtTheSameInstant(t *testing.T) {
	for i, order := range []func(a sm.Await, when time.Time) sm.Await{
		func(a sm.Await, when time.Time) sm.Await { return a.By(when).Until(when) },
		func(a sm.Await, when time.Time) sm.Await { return a.Until(when).By(when) },
		func(a sm.Await, when time.Time) sm.Await { return a.By(when).Or(sm.Park.Until(when)) },
		func(a sm.Await, when time.Time) sm.Await { return sm.Park.Until(when).Or(a.By(when)) },
	} {
		t.Run(fmt.Sprint("order ", i), func(t *testing.T) {
			w := newWorld(t)
			f := new(fake)
			f.step = func(t *sm.Task) sm.Await {
				if f.steps == 1 {
					return order(sm.Wait(3, sm.Read), t.Now().Add(time.Second))
				}
				f.err = t.WaitErr()
				return sm.Done
			}
			task := w.Spawn(f)
			w.Turn()
			w.Advance(time.Second)
			w.Turn()
			require.True(t, task.Ended())
			assert.NoError(t, task.Err())
		})
	}
}
