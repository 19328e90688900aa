//go:build linux || darwin

package stepio

import (
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// Conformance of what the loop asks of the poller, and what it does with events
// that nobody waits for.

// phases is a task whose nth step is the nth function; after the last, it ends.
func (h *host) phases(steps ...func(t *sm.Task) sm.Await) *fake {
	at := 0
	return h.spawn(func(t *sm.Task) sm.Await {
		if at == len(steps) {
			return sm.Done
		}
		at++
		return steps[at-1](t)
	})
}

// parked is a step that waits for a wake.
func parked(*sm.Task) sm.Await { return sm.Park }

var conformInterest = []conformCase{
	{name: "a task is resumed by what it waits for, in every mode, and not before", run: func(h *host) {
		for _, kind := range awaits {
			c, f := h.narrow()
			if kind.dir == sm.Write {
				h.fill(c.FD())
			}
			waits, tasks := h.waiting(kind.await(h.Loop, c.FD()))
			h.turns(3)
			assert.Equal(h.t, 1, waits[0].steps, "%s: not ready yet", kind.name)
			if kind.dir == sm.Read {
				f.send("x")
			} else {
				h.pump("there is room", func() bool {
					_, _ = h.net.read(f.fd, make([]byte, 64<<10)) // there may be nothing before the next turn
					return tasks[0].Ended()
				})
			}
			h.ended(tasks...)
			assert.Equal(h.t, kind.dir, waits[0].ready, kind.name)
			assert.NoError(h.t, waits[0].waitErr, kind.name)
		}
	}},
	{name: "a wait for data costs one registration, however often it is made", run: func(h *host) {
		c, f := h.pair()
		h.Spawn(&echoFrame{conn: c})
		for range 20 {
			f.send("ping")
			assert.Equal(h.t, "ping", f.recv(4))
		}
		assert.Equal(h.t, 1, h.polls.registrations())
	}},
	{name: "interest that nobody has any more is taken back by one call, and comes back by one", run: func(h *host) {
		c, f := h.pair()
		reader := h.phases(
			func(*sm.Task) sm.Await { return c.Readable() },
			parked,
			func(*sm.Task) sm.Await { return c.Readable() },
		)
		h.turns(2)
		f.send("x")
		h.arrived(c.FD(), readyRead)
		h.turns(5)
		require.Equal(h.t, 2, reader.steps)
		if h.latches {
			assert.Zero(h.t, h.polls.modifies, "what is there is reported once")
		} else {
			assert.Equal(h.t, 1, h.polls.modifies, "what is there is reported again, and finds nobody")
		}
		for range 3 { // of which the first finds nobody in any case
			f.send("y")
			h.deliver()
			h.turns(3)
			assert.Equal(h.t, 1, h.polls.modifies)
		}
		assert.Less(h.t, h.rest(20*time.Millisecond), 10, "the loop spins")
		reader.task.Waker().Wake()
		h.ended(reader.task)
		assert.Equal(h.t, 2, h.polls.modifies)
		assert.Equal(h.t, 3, h.polls.registrations())
	}},
	{name: "a level-triggered wait ends as long as there is something, whoever has read", run: func(h *host) {
		c, f := h.pair()
		p := make([]byte, 2)
		waits := func() {
			h.t.Helper()
			for range 3 {
				waits, tasks := h.waiting(c.Readable())
				h.ended(tasks...)
				assert.Equal(h.t, sm.Read, waits[0].ready)
			}
		}
		f.send("abcdef")
		h.arrived(c.FD(), readyRead)
		waits() // nobody has
		n, err := c.Read(p)
		require.NoError(h.t, err)
		require.Equal(h.t, 2, n)
		waits() // the library, a part
		n, errno := h.net.read(c.FD(), p)
		require.Zero(h.t, errno)
		require.Equal(h.t, 2, n)
		waits() // somebody else, a part
		n, errno = h.net.read(c.FD(), make([]byte, 8))
		require.Zero(h.t, errno)
		require.Equal(h.t, 2, n)
		last, tasks := h.waiting(c.Readable())
		h.turns(3)
		assert.Equal(h.t, 1, last[0].steps, "there is nothing")
		f.send("g")
		h.ended(tasks...)
		n, err = c.Read(make([]byte, 8))
		require.NoError(h.t, err)
		require.Equal(h.t, 1, n)
		f.send("h")
		waits() // the library, all, and there is more
	}},
	{name: "a wait to write ends as long as there is room, whoever has written", run: func(h *host) {
		c, f := h.narrow()
		for range 3 {
			waits, tasks := h.waiting(c.Writable())
			h.ended(tasks...)
			assert.Equal(h.t, sm.Write, waits[0].ready)
		}
		h.fill(c.FD())
		waits, tasks := h.waiting(c.Writable())
		h.turns(3)
		assert.Equal(h.t, 1, waits[0].steps, "there is no room")
		h.pump("there is room", func() bool {
			_, _ = h.net.read(f.fd, make([]byte, 64<<10)) // there may be nothing before the next turn
			return tasks[0].Ended()
		})
		_, tasks = h.waiting(c.Writable())
		h.ended(tasks...)
	}},
	{name: "input that nobody has read while its task waited to write is found by the next wait", run: func(h *host) {
		c, f := h.narrow()
		h.fill(c.FD())
		task := h.phases(
			func(*sm.Task) sm.Await { return c.Readable() },
			func(*sm.Task) sm.Await { return c.Writable() },
			func(t *sm.Task) sm.Await {
				assert.Equal(h.t, sm.Write, t.Ready())
				return c.Readable()
			},
			func(t *sm.Task) sm.Await {
				assert.Equal(h.t, sm.Read, t.Ready())
				n, err := c.Read(t.Scratch())
				assert.NoError(h.t, err)
				assert.Equal(h.t, "ab", string(t.Scratch()[:n]))
				return sm.Done
			},
		)
		h.turns(2)
		f.send("a")
		h.until("it waits to write", func() bool { return task.steps == 2 })
		f.send("b")
		h.deliver()
		h.turns(3)
		h.pump("it has read", func() bool {
			_, _ = h.net.read(f.fd, make([]byte, 64<<10)) // there may be nothing before the next turn
			return task.task.Ended()
		})
	}},
	{name: "a writer that finds no room again and again changes a registration once", run: func(h *host) {
		c, f := h.narrow()
		var out WriteAll
		blocked := 0
		out.Start(c, make([]byte, 1<<20))
		task := h.spawn(func(t *sm.Task) sm.Await {
			a := out.Step(t)
			if a.Pending() {
				blocked++
			}
			return a
		})
		h.pump("it has written", func() bool {
			_, _ = h.net.read(f.fd, make([]byte, 16<<10)) // there may be nothing before the next turn
			return task.task.Ended()
		})
		require.Greater(h.t, blocked, 10)
		assert.Less(h.t, h.polls.registrations(), 4, "of %d waits", blocked)
	}},
	{name: "an edge that comes while nobody waits is remembered", run: func(h *host) {
		c, f := h.pair()
		reader := h.phases(
			func(*sm.Task) sm.Await { return c.ReadableET() },
			parked,
			func(*sm.Task) sm.Await { return c.ReadableET() },
			func(t *sm.Task) sm.Await {
				assert.Equal(h.t, sm.Read, t.Ready())
				n, err := c.ReadET(t.Scratch())
				assert.NoError(h.t, err)
				assert.Equal(h.t, "ab", string(t.Scratch()[:n]))
				return sm.Done
			},
		)
		h.turns(2)
		f.send("a")
		h.arrived(c.FD(), readyRead)
		h.turns(2)
		require.Equal(h.t, 2, reader.steps)
		f.send("b")
		h.deliver()
		h.turns(3)
		reader.task.Waker().Wake()
		h.ended(reader.task)
		assert.Equal(h.t, 1, h.polls.registrations(), "and cost no call")
	}},
	{name: "a task that reads first and writes then has what it waits for", run: func(h *host) {
		c, f := h.narrow()
		h.fill(c.FD())
		task := h.phases(
			func(*sm.Task) sm.Await { return c.Readable() },
			func(t *sm.Task) sm.Await {
				assert.Equal(h.t, sm.Read, t.Ready())
				return c.Writable()
			},
			func(t *sm.Task) sm.Await {
				assert.Equal(h.t, sm.Write, t.Ready())
				return sm.Done
			},
		)
		h.turns(2)
		f.send("x")
		h.until("it has read", func() bool { return task.steps == 2 })
		h.turns(3)
		assert.Equal(h.t, 2, task.steps, "unread data does not make it writable")
		h.pump("it has written", func() bool {
			_, _ = h.net.read(f.fd, make([]byte, 64<<10)) // there may be nothing before the next turn
			return task.task.Ended()
		})
	}},
	{name: "who waits for both is told what came true", run: func(h *host) {
		for _, edge := range []bool{false, true} {
			c, f := h.narrow()
			h.fill(c.FD())
			await := c.Wait(inOut)
			if edge {
				await = c.WaitET(inOut)
			}
			waits, tasks := h.waiting(await)
			require.Equal(h.t, 1, waits[0].steps)
			f.send("x")
			h.ended(tasks...)
			assert.Equal(h.t, sm.Read, waits[0].ready)
		}
	}},
	{name: "who waits for both is stepped once when both come true", run: func(h *host) {
		for _, edge := range []bool{false, true} {
			c, f := h.pair()
			f.send("x")
			h.arrived(c.FD(), readyRead)
			await := c.Wait(inOut)
			if edge {
				await = c.WaitET(inOut)
			}
			waits, tasks := h.waiting(await)
			h.ended(tasks...)
			h.turns(2)
			assert.Equal(h.t, inOut, waits[0].ready)
			assert.Equal(h.t, 2, waits[0].steps)
		}
	}},
	{name: "a reader and a writer are two tasks, each resumed by its own", run: func(h *host) {
		c, f := h.narrow()
		h.fill(c.FD())
		waits, tasks := h.waiting(c.Readable(), c.Writable())
		f.send("x")
		h.ended(tasks[0])
		h.turns(3)
		assert.False(h.t, tasks[1].Ended(), "there is no room")
		h.pump("there is room", func() bool {
			_, _ = h.net.read(f.fd, make([]byte, 64<<10)) // there may be nothing before the next turn
			return tasks[1].Ended()
		})
		assert.Equal(h.t, []sm.Dir{sm.Read, sm.Write}, []sm.Dir{waits[0].ready, waits[1].ready})
	}},
	{name: "many wait for one descriptor, and all are resumed", run: func(h *host) {
		for _, edge := range []bool{false, true} {
			c, f := h.pair()
			await := c.Readable()
			if edge {
				await = c.ReadableET()
			}
			waits, tasks := h.waiting(await, await, await, await, await)
			f.send("x")
			h.ended(tasks...)
			for _, o := range waits {
				assert.Equal(h.t, sm.Read, o.ready)
				assert.Equal(h.t, 2, o.steps)
			}
		}
	}},
	{name: "of two who wait for one message, the second waits on", run: func(h *host) {
		c, f := h.pair()
		var got []string
		reader := func(t *sm.Task) sm.Await {
			n, err := c.Read(t.Scratch())
			if err == ErrWouldBlock {
				return c.Readable()
			}
			assert.NoError(h.t, err)
			got = append(got, string(t.Scratch()[:n]))
			return sm.Done
		}
		a, b := h.spawn(reader), h.spawn(reader)
		h.turns(2)
		f.send("1")
		h.until("one has it", func() bool { return a.task.Ended() || b.task.Ended() })
		h.turns(3)
		assert.False(h.t, a.task.Ended() && b.task.Ended())
		f.send("2")
		h.ended(a.task, b.task)
		assert.Equal(h.t, []string{"1", "2"}, got)
	}},
	{name: "the mode can be switched while nobody waits, and loses nothing", run: func(h *host) {
		c, f := h.pair()
		f.send("x")
		h.arrived(c.FD(), readyRead)
		for range 2 {
			for _, await := range []sm.Await{c.Readable(), c.ReadableET()} {
				waits, tasks := h.waiting(await)
				h.ended(tasks...)
				assert.Equal(h.t, sm.Read, waits[0].ready)
			}
		}
		waits, tasks := h.waiting(c.ReadableET())
		h.turns(3)
		assert.Equal(h.t, 1, waits[0].steps, "no new edge")
		f.send("y")
		h.ended(tasks...)
	}},
	{name: "a second waiter in the other mode is refused, and the first not disturbed", run: func(h *host) {
		c, f := h.pair()
		first, tasks := h.waiting(c.Readable())
		second, refused := h.waiting(c.ReadableET())
		h.ended(refused...)
		assert.Equal(h.t, ErrTriggerMode, second[0].waitErr)
		f.send("x")
		h.ended(tasks...)
		assert.Equal(h.t, sm.Read, first[0].ready)
	}},
	{name: "an edge of a task that is destroyed before it runs is the next one's", run: func(h *host) {
		c, f := h.pair()
		_, first := h.waiting(c.ReadableET())
		f.send("x")
		h.arrived(c.FD(), readyRead)
		h.spawn(func(*sm.Task) sm.Await { first[0].Destroy(); return sm.Done })
		h.turns(1)
		waits, tasks := h.waiting(c.ReadableET())
		h.ended(tasks...)
		assert.Equal(h.t, sm.Read, waits[0].ready)
	}},
	{name: "a removed descriptor can be awaited again, and its waiters know why they run", run: func(h *host) {
		c, f := h.narrow()
		h.fill(c.FD())
		waits, tasks := h.waiting(c.Readable(), c.Writable(), c.Readable().By(h.Now().Add(time.Hour)))
		require.NoError(h.t, h.Remove(c.FD()))
		h.ended(tasks...)
		for _, o := range waits {
			assert.Equal(h.t, ErrRemoved, o.waitErr)
			assert.Zero(h.t, o.ready)
		}
		require.NoError(h.t, h.Remove(c.FD()), "removing twice does nothing")
		f.send("x")
		waits, tasks = h.waiting(c.Readable())
		h.ended(tasks...)
		assert.Equal(h.t, sm.Read, waits[0].ready)
		assert.NoError(h.t, waits[0].waitErr)
	}},
	{name: "a loop with nothing to do waits once", run: func(h *host) {
		for range 10 {
			c, _ := h.pair()
			h.waiting(c.Readable())
		}
		assert.Less(h.t, h.rest(20*time.Millisecond), 10)
	}},
}
