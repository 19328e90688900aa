//go:build linux || darwin

package stepio

import (
	"math"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// Conformance of wakes and timeouts: what ends a wait, and what does not.

// waitOnce makes one wait and returns how many events it brought and how long it
// took.
func (h *host) waitOnce(timeout time.Duration) (n int, took time.Duration) {
	h.t.Helper()
	began := h.now()
	n, err := h.polls.wait(make([]event, 8), timeout)
	require.NoError(h.t, err)
	return n, h.now() - began
}

// comesToRest makes waits until one is not ended by a wake any more.
func (h *host) comesToRest() {
	h.t.Helper()
	for range 16 {
		n, took := h.waitOnce(5 * time.Millisecond)
		require.Zero(h.t, n, "a wake is no event")
		if took >= 5*time.Millisecond {
			return
		}
	}
	assert.Fail(h.t, "the poller does not come to rest after a wake")
}

var conformWakes = []conformCase{
	{name: "a wake before a wait ends it, and the next ones last", run: func(h *host) {
		for range 3 {
			require.NoError(h.t, h.polls.wake())
			n, took := h.waitOnce(patience)
			assert.Zero(h.t, n, "a wake is no event")
			assert.Less(h.t, took, patience)
			h.comesToRest()
		}
	}},
	{name: "a wake ends a wait for ever", run: func(h *host) {
		require.NoError(h.t, h.polls.wake())
		n, _ := h.waitOnce(-1)
		assert.Zero(h.t, n)
	}},
	{name: "a thousand wakes leave nothing behind", run: func(h *host) {
		for range 1000 {
			require.NoError(h.t, h.polls.wake())
		}
		n, took := h.waitOnce(patience)
		assert.Zero(h.t, n)
		assert.Less(h.t, took, patience)
		h.comesToRest()
	}},
	{name: "more wakes than a pipe holds are taken", run: func(h *host) {
		for range 70_000 {
			require.NoError(h.t, h.polls.wake())
		}
		n, took := h.waitOnce(patience)
		assert.Zero(h.t, n)
		assert.Less(h.t, took, patience)
	}},
	{name: "a wake among events hides none", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, sm.Read, true)
		f.send("x")
		h.arrived(fd, readyRead)
		require.NoError(h.t, h.polls.wake())
		assert.Equal(h.t, readyRead, h.told(fd))
		h.comesToRest()
	}},
	{name: "a wake with room for one event hides none", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, sm.Read, false)
		f.send("x")
		h.arrived(fd, readyRead)
		require.NoError(h.t, h.polls.wake())
		events := make([]event, 1)
		n := 0
		for tries := 0; n == 0 && tries < 4; tries++ {
			var err error
			n, err = h.polls.wait(events, patience)
			require.NoError(h.t, err)
		}
		assert.Equal(h.t, []event{{uint64(fd), readyRead}}, events[:n])
	}},
	{name: "a wait is never shorter than its timeout", run: func(h *host) {
		for _, timeout := range []time.Duration{
			1, 300 * time.Microsecond, time.Millisecond, 1500 * time.Microsecond, 7*time.Millisecond + 1,
		} {
			full := false
			for tries := 0; !full && tries < 3; tries++ { // a signal ends one early
				n, took := h.waitOnce(timeout)
				require.Zero(h.t, n)
				full = took >= timeout
			}
			assert.True(h.t, full, "%v", timeout)
		}
	}},
	{name: "a wait with no timeout left does not block", run: func(h *host) {
		n, took := h.waitOnce(0)
		assert.Zero(h.t, n)
		assert.Less(h.t, took, patience)
	}},
	{name: "a timeout of centuries is taken", run: func(h *host) {
		for _, timeout := range []time.Duration{24 * time.Hour, 1e6*time.Second + 1, 1e8 * time.Second, math.MaxInt64} {
			require.NoError(h.t, h.polls.wake())
			n, took := h.waitOnce(timeout)
			assert.Zero(h.t, n)
			assert.Less(h.t, took, patience, "%v", timeout)
		}
	}},
	{name: "a wait that is interrupted is no error and no event", needs: needsSignals, run: func(h *host) {
		if h.back.interrupt != nil {
			defer h.back.interrupt(h.t)()
		}
		early := 0
		for range 50 {
			n, took := h.waitOnce(10 * time.Millisecond)
			require.Zero(h.t, n)
			if took < 10*time.Millisecond {
				early++
			}
		}
		assert.NotZero(h.t, early, "no wait was interrupted")
	}},
	{name: "a post from elsewhere ends the loop's wait", run: func(h *host) {
		ran := false
		h.elsewhere(func() { assert.NoError(h.t, h.Post(func() { ran = true })) })
		h.until("the post has run", func() bool { return ran })
	}},
	{name: "a task is woken from elsewhere while the loop waits", run: func(h *host) {
		c, _ := h.pair()
		waits, tasks := h.waiting(c.Readable())
		h.elsewhere(func() { tasks[0].Waker().Wake() })
		h.ended(tasks...)
		assert.True(h.t, waits[0].woken)
		assert.Zero(h.t, waits[0].ready)
	}},
	{name: "a wake before the park is not lost", run: func(h *host) {
		f := h.spawn(func(t *sm.Task) sm.Await {
			if t.Woken() {
				return sm.Done
			}
			t.Waker().Wake()
			return sm.Park
		})
		h.ended(f.task)
		assert.Equal(h.t, 2, f.steps)
	}},
	{name: "a burst of posts to a loop that waits costs one wake", run: func(h *host) {
		h.settle()
		h.mail.alert.Store(false) // as it is while the loop waits
		before, ran := h.polls.wakes.Load(), 0
		for range 1000 {
			require.NoError(h.t, h.Post(func() { ran++ }))
		}
		assert.EqualValues(h.t, 1, h.polls.wakes.Load()-before)
		h.turns(1)
		assert.Equal(h.t, 1000, ran)
	}},
	{name: "a burst of posts to a loop that works costs no wake", run: func(h *host) {
		h.settle()
		before, ran := h.polls.wakes.Load(), 0
		h.ended(h.spawn(func(*sm.Task) sm.Await {
			for range 1000 {
				require.NoError(h.t, h.Post(func() { ran++ }))
			}
			return sm.Done
		}).task)
		h.turns(1)
		assert.Equal(h.t, 1000, ran)
		assert.Equal(h.t, before, h.polls.wakes.Load())
	}},
	{name: "a stop from elsewhere ends Run", run: func(h *host) {
		h.elsewhere(h.Stop)
		require.NoError(h.t, h.Run())
	}},
}
