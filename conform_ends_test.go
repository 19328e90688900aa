//go:build linux || darwin

package stepio

import (
	"io"
	"net"
	"syscall"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// Conformance of ends: of the peer's data, of one's own, of both, by a reset, and
// by a close of this end.

// reading is a task that reads until an error and keeps both.
type reading struct {
	conn *TCPConn
	et   bool
	got  []byte
	err  error
}

func (r *reading) Step(t *sm.Task) sm.Await {
	for {
		read, wait := r.conn.Read, r.conn.Readable
		if r.et {
			read, wait = r.conn.ReadET, r.conn.ReadableET
		}
		n, err := read(t.Scratch())
		r.got = append(r.got, t.Scratch()[:n]...)
		if err == ErrWouldBlock {
			return wait()
		}
		if err != nil {
			r.err = err
			return sm.Done
		}
	}
}

// bothModes calls fn for a level-triggered reader, and for an edge-triggered one.
func bothModes(fn func(et bool)) {
	fn(false)
	fn(true)
}

var conformEnds = []conformCase{
	{name: "data and the end that come together are both read", run: func(h *host) {
		bothModes(func(et bool) {
			c, f := h.pair()
			r := &reading{conn: c, et: et}
			task := h.Spawn(r)
			h.turns(2)
			f.send("last words")
			f.closeWrite()
			h.arrived(c.FD(), readyEnd)
			h.ended(task)
			assert.Equal(h.t, "last words", string(r.got))
			assert.Equal(h.t, io.EOF, r.err)
		})
	}},
	{name: "the end alone is told", run: func(h *host) {
		bothModes(func(et bool) {
			c, f := h.pair()
			r := &reading{conn: c, et: et}
			task := h.Spawn(r)
			h.turns(2)
			f.closeWrite()
			h.ended(task)
			assert.Empty(h.t, r.got)
			assert.Equal(h.t, io.EOF, r.err)
		})
	}},
	{name: "an end that comes between the event and the read is found", run: func(h *host) {
		c, f := h.pair()
		r := &reading{conn: c, et: true}
		ended := false
		task := h.Spawn(&fake{step: func(t *sm.Task) sm.Await {
			if t.Ready() != 0 && !ended {
				ended = true
				f.closeWrite()
				h.arrived(c.FD(), readyEnd)
			}
			return r.Step(t)
		}})
		h.turns(2)
		f.send("x")
		h.ended(task)
		assert.Equal(h.t, "x", string(r.got))
		assert.Equal(h.t, io.EOF, r.err)
	}},
	{name: "after the peer's end there is still an answer", run: func(h *host) {
		bothModes(func(et bool) {
			c, f := h.narrow()
			r := &reading{conn: c, et: et}
			var out WriteAll
			task := h.Spawn(script(r.Step, func(*sm.Task) sm.Await {
				out.Start(c, make([]byte, 20_000))
				return sm.Done
			}, out.Step, func(*sm.Task) sm.Await {
				require.NoError(h.t, out.Err())
				require.NoError(h.t, c.CloseWrite())
				return sm.Done
			}))
			f.send("question")
			f.closeWrite()
			answer, errno := f.recvUpTo(30_000)
			assert.Len(h.t, answer, 20_000)
			assert.Zero(h.t, errno)
			h.ended(task)
			assert.Equal(h.t, "question", string(r.got))
		})
	}},
	{name: "after one's own end the peer's data still comes", run: func(h *host) {
		bothModes(func(et bool) {
			c, f := h.pair()
			r := &reading{conn: c, et: et}
			task := h.Spawn(r)
			h.turns(2)
			require.NoError(h.t, c.CloseWrite())
			end, errno := f.recvUpTo(1)
			assert.Empty(h.t, end)
			assert.Zero(h.t, errno)
			f.send("a")
			h.pump("a is read", func() bool { return string(r.got) == "a" })
			f.send("b")
			f.closeWrite()
			h.ended(task)
			assert.Equal(h.t, "ab", string(r.got))
			assert.Equal(h.t, io.EOF, r.err)
		})
	}},
	{name: "one's own end does not spin a reader that wrote before", run: func(h *host) {
		c, f := h.pair()
		_, tasks := h.waiting(c.Writable()) // writing is armed, and stays so for now
		h.ended(tasks...)
		require.NoError(h.t, c.CloseWrite())
		r := &reading{conn: c}
		f2 := &fake{step: r.Step}
		task := h.Spawn(f2)
		h.turns(5)
		steps := f2.steps
		assert.Less(h.t, h.rest(20*time.Millisecond), 10, "the loop spins")
		assert.LessOrEqual(h.t, f2.steps, steps+1)
		f.send("x")
		f.closeWrite()
		h.ended(task)
		assert.Equal(h.t, "x", string(r.got))
	}},
	{name: "an end that nobody waits for does not spin the loop", run: func(h *host) {
		bothModes(func(et bool) {
			c, f := h.pair()
			task := h.phases(
				func(*sm.Task) sm.Await {
					if et {
						return c.ReadableET()
					}
					return c.Readable()
				},
				parked,
				(&reading{conn: c, et: et}).Step,
			)
			h.turns(2)
			task.task.Waker().Wake()
			h.turns(3)
			require.Equal(h.t, 2, task.steps)
			f.closeWrite()
			h.arrived(c.FD(), readyEnd)
			assert.Less(h.t, h.rest(20*time.Millisecond), 10, "the loop spins")
			task.task.Waker().Wake()
			h.ended(task.task)
		})
	}},
	{name: "a hang-up that nobody waits for does not spin the loop", run: func(h *host) {
		for _, dirs := range []sm.Dir{sm.Read, sm.Write, inOut} {
			c, f := h.pair()
			_, tasks := h.waiting(c.Wait(dirs))
			tasks[0].Waker().Wake()
			h.ended(tasks...)
			require.NoError(h.t, c.CloseWrite())
			f.recv(1)
			f.close()
			h.arrived(c.FD(), readyEnd)
			assert.Less(h.t, h.rest(20*time.Millisecond), 10, "%v: the loop spins", dirs)
			r := &reading{conn: c}
			h.ended(h.Spawn(r))
			assert.Equal(h.t, io.EOF, r.err)
		}
	}},
	{name: "a reset that nobody waits for does not spin the loop, and the next wait finds it", run: func(h *host) {
		for _, et := range []bool{false, true} {
			for _, dirs := range []sm.Dir{sm.Read, sm.Write, inOut} {
				c, f := h.pair()
				wait := func(*sm.Task) sm.Await { return c.Wait(dirs) }
				if et {
					wait = func(*sm.Task) sm.Await { return c.WaitET(dirs) }
				}
				var err error
				task := h.phases(wait, parked, wait, func(t *sm.Task) sm.Await {
					assert.NoError(h.t, t.WaitErr())
					_, err = c.Read(t.Scratch())
					return sm.Done
				})
				h.turns(3)
				if task.steps == 1 { // else there was room
					task.task.Waker().Wake()
					h.turns(3)
				}
				require.Equal(h.t, 2, task.steps)
				f.reset()
				h.arrived(c.FD(), readyEnd)
				assert.Less(h.t, h.rest(20*time.Millisecond), 10, "%v, edge %t: the loop spins", dirs, et)
				task.task.Waker().Wake()
				h.ended(task.task)
				assert.ErrorIs(h.t, err, syscall.ECONNRESET)
			}
		}
	}},
	{name: "a reset resumes readers and writers", run: func(h *host) {
		bothModes(func(et bool) {
			c, f := h.narrow()
			h.fill(c.FD())
			awaits := []sm.Await{c.Readable(), c.Writable(), c.Wait(inOut)}
			if et {
				awaits = []sm.Await{c.ReadableET(), c.WritableET(), c.WaitET(inOut)}
			}
			waits, tasks := h.waiting(awaits...)
			f.reset()
			h.ended(tasks...)
			for _, o := range waits {
				assert.NotZero(h.t, o.ready)
				assert.Equal(h.t, 2, o.steps)
			}
		})
	}},
	{name: "a reader that is told of a reset may destroy the writer", run: func(h *host) {
		c, f := h.narrow()
		h.fill(c.FD())
		writer := h.spawn(func(*sm.Task) sm.Await { return c.Writable() })
		reader := h.spawn(func(t *sm.Task) sm.Await {
			if t.Ready() == 0 {
				return c.Readable()
			}
			writer.task.Destroy()
			return sm.Done
		})
		h.turns(2)
		f.reset()
		h.ended(reader.task, writer.task)
		assert.Equal(h.t, 1, writer.closes)
	}},
	{name: "a writer that waits for room learns of a reset", run: func(h *host) {
		bothModes(func(et bool) {
			c, f := h.narrow()
			h.fill(c.FD())
			var err error
			writer := h.spawn(func(*sm.Task) sm.Await {
				for err = nil; err == nil; { // a full buffer may take a few bytes more
					_, err = c.Write([]byte("x"))
				}
				if err != ErrWouldBlock {
					return sm.Done
				}
				if et {
					return c.WritableET()
				}
				return c.Writable()
			})
			h.turns(2)
			f.reset()
			h.ended(writer.task)
			assert.ErrorIs(h.t, err, syscall.ECONNRESET)
		})
	}},
	{name: "a close resumes whoever waits", run: func(h *host) {
		c, _ := h.narrow()
		h.fill(c.FD())
		waits, tasks := h.waiting(c.Readable(), c.Writable(), c.Wait(inOut), c.Wait(0))
		require.NoError(h.t, c.Close())
		h.ended(tasks...)
		for _, o := range waits {
			assert.ErrorIs(h.t, o.waitErr, net.ErrClosed)
			assert.Zero(h.t, o.ready)
		}
	}},
	{name: "a loop that is closed closes every frame once", run: func(h *host) {
		var frames []*fake
		for range 5 {
			c, _ := h.pair()
			frames = append(frames,
				h.spawn(func(*sm.Task) sm.Await { return c.Readable() }),
				h.spawn(func(*sm.Task) sm.Await { return c.Wait(inOut).By(h.Now().Add(time.Hour)) }))
		}
		h.turns(1)
		require.NoError(h.t, h.Close())
		for _, f := range frames {
			assert.Equal(h.t, 1, f.closes)
		}
	}},
}
