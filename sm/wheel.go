package sm

import (
	"math"
	"math/bits"
	"time"
)

// The timer wheel: hierarchical, in ticks of a millisecond. Setting and
// cancelling a timer is O(1), finding the next one is O(levels), and a timer
// moves at most once a level before it fires. A timer's level is the highest
// group of six bits in which its tick differs from the wheel's: so every timer
// of a level comes before every timer of the next, no slot ever wraps, and
// 8 levels hold every tick that 64 bits of nanoseconds can express.
//
// Timers fire in the order of their ticks; those of one tick that were set
// while it was in the same slot fire in the order in which they were set.
const (
	wheelLevels   = 8
	wheelSlotBits = 6
	wheelSlots    = 1 << wheelSlotBits
	tickNanos     = 1_000_000
)

// timer is one deadline of a task, an element of the wheel's lists.
type timer struct {
	task       *Task
	next, prev *timer // circular; nil when not set
	tick       int64  // fires when the wheel has reached it
	level      int8   // which list: dueLevel, or a level of the wheel
	slot       uint8
	soft       bool // its passing is no error
}

const dueLevel = -1

func (t *timer) set() bool { return t.next != nil }

type wheel struct {
	now      int64 // every timer at or before this tick has fired or is due
	count    int
	due      *timer // past when they were set
	occupied [wheelLevels]uint64
	slots    [wheelLevels][wheelSlots]*timer
}

// tickOf is the first tick at which deadline has passed: rounded up.
func tickOf(deadline int64) int64 {
	if deadline <= 0 {
		return 0
	}
	tick := deadline / tickNanos
	if deadline%tickNanos != 0 {
		tick++
	}
	return tick
}

// durationOf is the time of tick on the clock; the last tick's is past its end.
func durationOf(tick int64) time.Duration {
	if tick > math.MaxInt64/tickNanos {
		return math.MaxInt64
	}
	return time.Duration(tick * tickNanos)
}

// add sets t for its tick.
func (w *wheel) add(t *timer) {
	if t.set() {
		panic("stepio: wheel.add: timer is set already")
	}
	w.place(t)
	w.count++
}

func (w *wheel) place(t *timer) {
	list := &w.due
	if t.tick <= w.now {
		t.level = dueLevel
	} else {
		level := (bits.Len64(uint64(t.tick^w.now)) - 1) / wheelSlotBits
		slot := t.tick >> (level * wheelSlotBits) & (wheelSlots - 1)
		t.level, t.slot = int8(level), uint8(slot)
		w.occupied[level] |= 1 << slot
		list = &w.slots[level][slot]
	}
	if *list == nil {
		t.next, t.prev = t, t
		*list = t
		return
	}
	last := (*list).prev
	t.next, t.prev = *list, last
	last.next, (*list).prev = t, t
}

// remove cancels t, which is set.
func (w *wheel) remove(t *timer) {
	list := &w.due
	if t.level != dueLevel {
		list = &w.slots[t.level][t.slot]
	}
	if t.next == t {
		*list = nil
		if t.level != dueLevel {
			w.occupied[t.level] &^= 1 << t.slot
		}
	} else {
		t.next.prev, t.prev.next = t.prev, t.next
		if *list == t {
			*list = t.next
		}
	}
	t.next, t.prev = nil, nil
	w.count--
}

// next is a tick at or before the earliest timer's, at which advance has
// something to do; ok is false when no timer is set.
func (w *wheel) next() (tick int64, ok bool) {
	if w.count == 0 {
		return 0, false
	}
	if w.due != nil {
		return w.now, true
	}
	for level, set := range w.occupied {
		if set != 0 {
			shift := level * wheelSlotBits
			high := w.now >> (shift + wheelSlotBits) << (shift + wheelSlotBits)
			return high | int64(bits.TrailingZeros64(set))<<shift, true
		}
	}
	panic("stepio: wheel.next: timers are missing")
}

// expired takes one timer out whose tick is at or before now, nil when there
// is none; the wheel is at now then.
func (w *wheel) expired(now int64) *timer {
	for w.due == nil {
		tick, ok := w.next()
		if !ok || tick > now {
			w.now = max(w.now, now)
			return nil
		}
		w.now = tick
		w.cascade()
	}
	t := w.due
	w.remove(t)
	return t
}

// cascade places the timers of the first slot of the lowest level again, now
// that the wheel has reached it.
func (w *wheel) cascade() {
	for level := range w.occupied {
		if w.occupied[level] == 0 {
			continue
		}
		slot := bits.TrailingZeros64(w.occupied[level])
		w.occupied[level] &^= 1 << slot
		head := w.slots[level][slot]
		w.slots[level][slot] = nil
		for t := head; ; {
			next := t.next
			w.place(t)
			if next == head {
				return
			}
			t = next
		}
	}
}
