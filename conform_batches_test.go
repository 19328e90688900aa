//go:build linux || darwin

package stepio

import (
	"net"
	"slices"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// Conformance of batches: what the events of one wait mean when a step changes
// what they are about.

var conformBatches = []conformCase{
	{name: "more connections than one wait reports are all served", run: func(h *host) {
		const many = eventBatch + eventBatch/4
		var tasks []*sm.Task
		var fars []*far
		for range many {
			c, f := h.pair()
			fars = append(fars, f)
			tasks = append(tasks, h.spawn(func(t *sm.Task) sm.Await {
				n, err := c.Read(t.Scratch())
				if err == ErrWouldBlock {
					return c.Readable()
				}
				assert.NoError(h.t, err)
				assert.Equal(h.t, 1, n)
				return sm.Done
			}).task)
		}
		h.turns(2)
		for _, f := range fars {
			f.send("x")
		}
		h.ended(tasks...)
	}},
	{name: "more descriptors than one wait reports: those that stay ready leave room for the rest", run: func(h *host) {
		const many = eventBatch + 64
		steps := make([]int, many)
		for i := range many {
			c, f := h.pair()
			f.send("x")
			h.spawn(func(*sm.Task) sm.Await { steps[i]++; return c.Readable() }) // and never reads
		}
		h.until("everyone has been told thrice", func() bool { return slices.Min(steps) > 3 })
		assert.LessOrEqual(h.t, slices.Max(steps), 4*slices.Min(steps), "some come more often than others")
	}},
	{name: "a descriptor that a step closes is not told of the batch's event", run: func(h *host) {
		a, farA := h.pair()
		b, farB := h.pair()
		first := h.spawn(func(t *sm.Task) sm.Await {
			if t.Ready() == 0 {
				return a.Readable()
			}
			require.NoError(h.t, b.Close())
			return sm.Done
		})
		var second error
		other := h.spawn(func(t *sm.Task) sm.Await {
			if second = t.WaitErr(); second != nil {
				return sm.Done
			}
			if t.Ready() != 0 {
				_, second = b.Read(t.Scratch())
				return sm.Done
			}
			return b.Readable()
		})
		h.turns(2)
		farA.send("a")
		farB.send("b")
		h.arrived(a.FD(), readyRead)
		h.arrived(b.FD(), readyRead)
		h.inOrder(a.FD(), b.FD())
		h.ended(first.task, other.task)
		assert.ErrorIs(h.t, second, net.ErrClosed)
	}},
	{name: "an event of a closed descriptor is not taken for its successor's", run: func(h *host) {
		a, farA := h.pair()
		number := a.FD()
		h.waiting(a.Readable())
		farA.send("a")
		h.arrived(number, readyRead)
		var stale []event
		h.polls.onWait = func(events []event) []event { // and it comes again, later
			if stale == nil {
				stale = slices.Clone(events)
				return events
			}
			return append(events, stale...)
		}
		h.turns(1)
		require.NotEmpty(h.t, stale)
		require.NoError(h.t, a.Close())
		b, farB := h.pair()
		again := b
		if b.FD() != number { // the other end has it
			require.Equal(h.t, number, farB.fd, "the number is used again")
			again = newTCPConn(h.Loop, farB.fd, false)
			h.conns = append(h.conns, again)
			farB.fd = -1
			farB = nil
		}
		waits, tasks := h.waiting(again.Readable())
		h.turns(3)
		assert.Equal(h.t, 1, waits[0].steps, "the new connection has seen nothing")
		h.polls.onWait = nil
		if farB == nil {
			_, err := b.Write([]byte("b"))
			require.NoError(h.t, err)
		} else {
			farB.send("b")
		}
		h.ended(tasks...)
		assert.Equal(h.t, sm.Read, waits[0].ready)
	}},
	{name: "a step may close its own descriptor and open another with its number", run: func(h *host) {
		c, f := h.pair()
		var next *once
		h.fillGaps(c.FD())
		first := h.spawn(func(t *sm.Task) sm.Await {
			if t.Ready() == 0 {
				return c.Readable()
			}
			number := c.FD()
			require.NoError(h.t, c.Close())
			u, err := ListenUDP(h.Loop, loopback, ListenUDPOptions{})
			require.NoError(h.t, err)
			h.t.Cleanup(func() { assert.NoError(h.t, u.Close()) })
			assert.Equal(h.t, number, u.FD())
			next = &once{await: u.Writable()}
			t.Spawn(next)
			return sm.Done
		})
		h.turns(2)
		f.send("x")
		h.ended(first.task)
		h.until("the new one is told", func() bool { return next.steps == 2 })
		assert.Equal(h.t, sm.Write, next.ready)
	}},
	{name: "what a step spawns is not stepped for the batch's events", run: func(h *host) {
		c, f := h.pair()
		var child *fake
		parent := h.spawn(func(t *sm.Task) sm.Await {
			if t.Ready() == 0 {
				return c.Readable()
			}
			_, err := c.Read(t.Scratch())
			assert.NoError(h.t, err)
			child = &fake{step: func(t *sm.Task) sm.Await {
				if t.Ready() != 0 {
					return sm.Done
				}
				return c.Readable()
			}}
			child.task = t.Spawn(child)
			return sm.Done
		})
		h.turns(2)
		f.send("x")
		h.ended(parent.task)
		h.turns(3)
		assert.Equal(h.t, 1, child.steps)
		f.send("y")
		h.ended(child.task)
	}},
	{name: "two tasks that wake each other for ever do not keep events out", run: func(h *host) {
		c, f := h.pair()
		var ping, pong *fake
		ping = h.spawn(func(*sm.Task) sm.Await { pong.task.Waker().Wake(); return sm.Park })
		pong = h.spawn(func(*sm.Task) sm.Await { ping.task.Waker().Wake(); return sm.Park })
		waits, tasks := h.waiting(c.Readable())
		f.send("x")
		h.ended(tasks...)
		assert.Equal(h.t, sm.Read, waits[0].ready)
		assert.Greater(h.t, ping.steps, 1)
	}},
	{name: "a task that yields for ever does not keep events out", run: func(h *host) {
		c, f := h.pair()
		busy := h.spawn(func(*sm.Task) sm.Await { return sm.Yield })
		_, tasks := h.waiting(c.Readable())
		f.send("x")
		h.ended(tasks...)
		assert.Greater(h.t, busy.steps, 1)
	}},
}

// fillGaps takes every number below fd.
func (h *host) fillGaps(fd int) {
	for h.socket(unix.SOCK_DGRAM).fd < fd {
	}
}

// inOrder has the next wait that brings events report fds in their order.
func (h *host) inOrder(fds ...int) {
	h.polls.onWait = func(events []event) []event {
		slices.SortFunc(events, func(a, b event) int {
			return slices.Index(fds, int(int32(uint32(a.key)))) - slices.Index(fds, int(int32(uint32(b.key))))
		})
		return events
	}
}
