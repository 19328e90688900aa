//go:build linux || darwin

package stepio

import (
	"math"
	"os"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// Conformance of timers: when the poller's waits end for them, and what they are
// to events that come with them.

var conformTimers = []conformCase{
	{name: "sleeps end in their order, none early", run: func(h *host) {
		base, began := h.Now(), h.now()
		naps := []time.Duration{3 * time.Millisecond, 250 * time.Microsecond, 0, -time.Hour, 3*time.Millisecond + 1, 9 * time.Millisecond}
		var ended []time.Duration
		var tasks []*sm.Task
		for _, nap := range naps {
			tasks = append(tasks, h.Spawn(script(
				func(t *sm.Task) sm.Await { return t.SleepUntil(base.Add(nap)) },
				func(t *sm.Task) sm.Await {
					assert.False(h.t, t.Now().Before(base.Add(nap)), "%v ends early", nap)
					ended = append(ended, nap)
					return sm.Done
				})))
		}
		h.ended(tasks...)
		assert.GreaterOrEqual(h.t, h.now()-began, 9*time.Millisecond)
		assert.Less(h.t, ended[1], time.Millisecond)
		assert.Equal(h.t, 9*time.Millisecond, ended[len(ended)-1])
		assert.Len(h.t, ended, len(naps))
	}},
	{name: "a sleep costs few waits", run: func(h *host) {
		assert.Less(h.t, h.rest(30*time.Millisecond), 10)
	}},
	{name: "a timer of centuries does not keep events out", run: func(h *host) {
		c, f := h.pair()
		for _, far := range []time.Duration{1e6 * time.Second, 1e8 * time.Second, math.MaxInt64} {
			h.Spawn(sleeper(h.Now().Add(far)))
		}
		_, tasks := h.waiting(c.Readable())
		f.send("x")
		h.ended(tasks...)
	}},
	{name: "a deadline ends a wait that nothing else ends", run: func(h *host) {
		c, f := h.pair()
		began := h.now()
		waits, tasks := h.waiting(c.Readable().By(h.Now().Add(5*time.Millisecond)), c.ReadableET().By(h.Now().Add(time.Hour)))
		h.ended(tasks[0])
		assert.ErrorIs(h.t, waits[0].waitErr, os.ErrDeadlineExceeded)
		assert.GreaterOrEqual(h.t, h.now()-began, 5*time.Millisecond)
		waits, again := h.waiting(c.Readable())
		f.send("x")
		h.ended(again...)
		assert.NoError(h.t, waits[0].waitErr, "the descriptor can be awaited again")
		h.ended(tasks[1])
	}},
	{name: "an event and a deadline in one batch are one step, and the event counts", run: func(h *host) {
		c, f := h.pair()
		waits, tasks := h.waiting(c.Readable().By(h.Now().Add(5 * time.Millisecond)))
		f.send("x")
		h.arrived(c.FD(), readyRead)
		h.pass(10 * time.Millisecond)
		h.ended(tasks...)
		h.turns(3)
		assert.Equal(h.t, 2, waits[0].steps)
		assert.Equal(h.t, sm.Read, waits[0].ready)
		assert.NoError(h.t, waits[0].waitErr)
	}},
	{name: "timers and events of different tasks in one batch are all served", run: func(h *host) {
		when := h.Now().Add(5 * time.Millisecond)
		var tasks []*sm.Task
		for range 10 {
			c, f := h.pair()
			_, waiting := h.waiting(c.Readable())
			tasks = append(tasks, waiting[0], h.Spawn(sleeper(when)))
			f.send("x")
			h.arrived(c.FD(), readyRead)
		}
		h.pass(10 * time.Millisecond)
		h.ended(tasks...)
	}},
	{name: "a deadline that is moved moves the wait", run: func(h *host) {
		c, _ := h.pair()
		require.NoError(h.t, c.SetReadDeadline(h.Now().Add(time.Hour)))
		var err error
		reader := h.spawn(func(t *sm.Task) sm.Await {
			if _, err = c.Read(t.Scratch()); err == ErrWouldBlock {
				return c.Readable()
			}
			return sm.Done
		})
		h.turns(2)
		require.NoError(h.t, c.SetReadDeadline(h.Now().Add(3*time.Millisecond)))
		h.ended(reader.task)
		assert.ErrorIs(h.t, err, os.ErrDeadlineExceeded)
	}},
	{name: "a sleep goes on after a wake from elsewhere", run: func(h *host) {
		end := h.Now().Add(20 * time.Millisecond)
		f := h.Spawn(sleeper(end))
		h.turns(1)
		h.elsewhere(func() { f.Waker().Wake() })
		h.ended(f)
		assert.False(h.t, h.Now().Before(end))
	}},
}
