package sm

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// model is what the wheel is checked against: a list sorted by tick; equal
// ticks in the order in which they were set. Ticks that had passed when they
// were set count as the tick of that moment.
type model struct {
	timers []*timer
	rank   map[*timer]int64
}

func (m *model) add(w *wheel, t *timer) {
	rank := max(t.tick, w.now)
	i, _ := slices.BinarySearchFunc(m.timers, rank+1, func(x *timer, r int64) int {
		if m.rank[x] < r {
			return -1
		}
		return 1
	})
	m.timers = slices.Insert(m.timers, i, t)
	m.rank[t] = rank
}

func (m *model) remove(t *timer) {
	m.timers = slices.Delete(m.timers, slices.Index(m.timers, t), slices.Index(m.timers, t)+1)
}

// wheelRun is a wheel and its model, which have had the same operations.
type wheelRun struct {
	t     *testing.T
	ops   []byte // that are left, two bytes each
	w     *wheel
	m     *model
	now   int64
	fired *timer // the last one
}

// wheelOps runs operations on a wheel and on the model.
func wheelOps(t *testing.T, ops []byte) {
	ops = ops[:min(len(ops), 2000)] // more finds no more, and takes the fuzzer's time
	r := &wheelRun{t: t, ops: ops, w: new(wheel), m: &model{rank: make(map[*timer]int64)}}
	for len(r.ops) >= 2 {
		r.operate()
		r.compare()
	}
	// Going from one next to the next reaches every timer, with few stops.
	for stops := 0; r.w.count > 0; stops++ {
		require.Less(t, stops, 10_000_000)
		tick, _ := r.w.next()
		r.advance(max(r.now, tick), false)
	}
	require.Empty(t, r.m.timers)
	assert.Zero(t, r.w.occupied)
	assert.Nil(t, r.w.due)
}

// take takes an operation, and the distance in its second byte: of every
// magnitude, 0..15 shifted by up to 40 bits.
func (r *wheelRun) take() (op byte, arg, distance int64) {
	op, arg = r.ops[0], int64(r.ops[1])
	r.ops = r.ops[2:]
	return op, arg, (arg & 15) << (arg >> 4 * 5 / 2)
}

func (r *wheelRun) operate() {
	op, arg, distance := r.take()
	switch op % 8 {
	case 0, 1, 2: // set a timer
		r.set(new(timer), r.now+distance)
	case 3: // set one that has passed
		r.set(new(timer), r.now-distance)
	case 4:
		r.cancel(arg)
	case 5:
		r.advance(r.now+distance, false)
	case 6: // move one, to the future or to the past
		if x := r.cancel(arg >> 1); x != nil {
			r.set(x, r.now+(arg&1*2-1)*distance)
		}
	case 7:
		r.advance(r.now+distance, true)
	}
}

// meddle is an operation between two timers that fire.
func (r *wheelRun) meddle() {
	if len(r.ops) < 2 {
		return
	}
	op, arg, distance := r.take()
	switch op % 6 {
	case 0: // at the instant of those that are firing, for one
		r.set(new(timer), r.now+distance)
	case 1:
		r.set(new(timer), r.now-distance)
	case 2:
		r.cancel(arg)
	case 3: // the one that has just fired
		r.set(r.fired, r.now+1+distance)
	case 4:
		if x := r.cancel(arg); x != nil {
			r.set(x, r.now-distance)
		}
	case 5:
	}
}

func (r *wheelRun) set(x *timer, tick int64) {
	x.tick = min(max(0, tick), lastTick)
	r.m.add(r.w, x)
	r.w.add(x)
}

// cancel cancels a timer, and returns it, where there is one.
func (r *wheelRun) cancel(which int64) *timer {
	if len(r.m.timers) == 0 {
		return nil
	}
	x := r.m.timers[int(which)%len(r.m.timers)]
	r.m.remove(x)
	r.w.remove(x)
	require.False(r.t, x.set())
	return x
}

// lastTick is the last one that a deadline has, and the clock.
var lastTick = tickOf(math.MaxInt64)

// advance fires what has passed, in the model's order.
func (r *wheelRun) advance(to int64, meddled bool) {
	to = min(to, lastTick)
	r.now = to
	for x := r.w.expired(to); x != nil; x = r.w.expired(to) {
		require.NotEmpty(r.t, r.m.timers)
		require.Same(r.t, r.m.timers[0], x, "not the earliest")
		require.LessOrEqual(r.t, x.tick, to, "fired early")
		require.False(r.t, x.set())
		r.m.timers = r.m.timers[1:]
		if r.fired = x; meddled {
			r.meddle()
		}
	}
	if len(r.m.timers) > 0 {
		require.Greater(r.t, r.m.timers[0].tick, to, "a timer was forgotten")
	}
}

func (r *wheelRun) compare() {
	require.Equal(r.t, len(r.m.timers), r.w.count)
	tick, ok := r.w.next()
	require.Equal(r.t, len(r.m.timers) > 0, ok)
	if ok {
		require.LessOrEqual(r.t, tick, r.m.rank[r.m.timers[0]], "next is later than the earliest timer")
		require.GreaterOrEqual(r.t, tick, r.w.now)
	}
}

func TestWheelAgainstASortedList(t *testing.T) {
	rng := SeededRand(t)
	for range 100 {
		ops := make([]byte, 2*rng.IntN(400))
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		wheelOps(t, ops)
	}
}

func FuzzWheel(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 0, 1, 5, 1})                                           // the same instant twice
	f.Add([]byte{0, 0, 3, 0xff, 5, 0})                                        // at once, and past
	f.Add([]byte{0, 0xff, 5, 0xf7, 0, 0x01, 4, 1, 5, 0xff})                   // far, nearer, cancelled
	f.Add([]byte{0, 1, 0, 1, 0, 1, 0, 2, 7, 2, 2, 1, 3, 8, 0, 0, 1, 4, 4, 0}) // meddled with while they fire
	f.Add([]byte{0, 0xff, 6, 1, 6, 0, 0, 0x33, 6, 3, 5, 0xff})                // moved, to the future and to the past
	f.Add([]byte{0, 0x5f, 0, 0x4f, 5, 0x4e, 0, 0x41, 5, 0x5f, 5, 0xff})
	f.Fuzz(wheelOps)
}

func TestWheelFarFuture(t *testing.T) {
	for name, deadline := range map[string]int64{
		"a tick":                     tickNanos,
		"one past a tick":            tickNanos + 1,
		"a year":                     int64(365 * 24 * time.Hour),
		"what 64 bits can express":   math.MaxInt64,
		"one less":                   math.MaxInt64 - 1,
		"the last whole tick":        math.MaxInt64 / tickNanos * tickNanos,
		"the first of a level":       tickNanos << wheelSlotBits,
		"the last of a level":        (tickNanos << wheelSlotBits) - 1,
		"the first of a later level": tickNanos << (3 * wheelSlotBits),
	} {
		t.Run(name, func(t *testing.T) {
			w := new(wheel)
			x := &timer{tick: tickOf(deadline)}
			assert.GreaterOrEqual(t, durationOf(x.tick), time.Duration(deadline), "rounded up")
			assert.Less(t, durationOf(x.tick-1), time.Duration(deadline))
			w.add(x)
			for {
				tick, ok := w.next()
				require.True(t, ok)
				if tick == x.tick {
					break
				}
				require.Greater(t, tick, w.now, "a stop at which there is nothing to do")
				require.Nil(t, w.expired(tick))
			}
			assert.Nil(t, w.expired(x.tick-1))
			assert.Same(t, x, w.expired(x.tick))
			assert.Nil(t, w.expired(x.tick))
			_, ok := w.next()
			assert.False(t, ok)
		})
	}
}

func TestWheelTickOfThePast(t *testing.T) {
	for _, deadline := range []int64{0, -1, -tickNanos, math.MinInt64} {
		assert.Zero(t, tickOf(deadline))
	}
}

func TestWheelRefusesATimerThatIsSet(t *testing.T) {
	w := new(wheel)
	x := &timer{tick: 5}
	w.add(x)
	assert.PanicsWithValue(t, "stepio: wheel.add: timer is set already", func() { w.add(x) })
}

func TestWheelCostsNoStopATick(t *testing.T) {
	// A timer an hour away is reached with a stop a level, not one a tick.
	w := new(wheel)
	w.add(&timer{tick: 3_600_000})
	stops := 0
	for w.count > 0 {
		tick, _ := w.next()
		w.expired(tick)
		stops++
	}
	assert.LessOrEqual(t, stops, wheelLevels)
}

func TestRingKeepsItsOrder(t *testing.T) {
	rng := SeededRand(t)
	var r ring
	var list []*Task
	for range 10_000 {
		switch rng.IntN(3) {
		case 0:
			if len(list) < 20 {
				x := new(Task)
				r.push(x)
				list = append(list, x)
			}
		case 1:
			if len(list) > 0 {
				i := rng.IntN(len(list))
				r.remove(list[i])
				list = slices.Delete(list, i, i+1)
			}
		case 2:
			x := r.pop()
			if len(list) == 0 {
				require.Nil(t, x)
				continue
			}
			require.Same(t, list[0], x)
			list = list[1:]
		}
		require.Equal(t, len(list) == 0, r.empty())
	}
}

func TestRingRefusesMisuse(t *testing.T) {
	var r ring
	x := new(Task)
	assert.PanicsWithValue(t, "stepio: ring.remove: task is in no ring", func() { r.remove(x) })
	r.push(x)
	assert.PanicsWithValue(t, "stepio: ring.push: task is in a ring already", func() { r.push(x) })
}

func BenchmarkWheelSetAndCancel(b *testing.B) {
	for _, distance := range []int64{1, 100, 60_000} {
		b.Run(fmt.Sprintf("%d ms away", distance), func(b *testing.B) {
			b.ReportAllocs()
			w := new(wheel)
			x := &timer{tick: distance}
			for b.Loop() {
				w.add(x)
				w.remove(x)
			}
		})
	}
}
