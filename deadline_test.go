//go:build linux || darwin

package stepio

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// assertTimeout asserts that err is a timeout as package net has it.
func assertTimeout(t *testing.T, err error) {
	t.Helper()
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var n net.Error
	require.ErrorAs(t, err, &n)
	assert.True(t, n.Timeout())
}

func TestTCPConnDeadlineInThePast(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	peer.send([]byte("x"))
	arrived(c)
	require.NoError(t, c.SetDeadline(time.Now().Add(-time.Second)))
	_, err := c.Read(make([]byte, 1))
	assertTimeout(t, err) // also when there is something to read, as in package net
	_, err = c.Write([]byte("x"))
	assertTimeout(t, err)

	o := &once{await: c.Writable()} // waits for what is not there
	w.ended(w.Spawn(o))

	require.NoError(t, c.SetDeadline(time.Time{}))
	_, err = c.Read(make([]byte, 1))
	assert.NoError(t, err, "cleared")
	_, err = c.Write([]byte("x"))
	assert.NoError(t, err)
	assert.Nil(t, c.deadlines, "no memory while none is set")
}

// An edge that finds a passed deadline is not used up: the operation was not
// even tried, the deadline may be moved, and the kernel makes no second edge.
func TestTCPConnDeadlineKeepsTheEdge(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*TCPConn, time.Time) error
		wait func(*TCPConn) sm.Await
		try  func(*TCPConn) error
	}{
		"of reading": {(*TCPConn).SetReadDeadline, (*TCPConn).ReadableET, func(c *TCPConn) error {
			_, err := c.Read(make([]byte, 10))
			return err
		}},
		"of writing": {(*TCPConn).SetWriteDeadline, (*TCPConn).WritableET, func(c *TCPConn) error {
			_, err := c.Write([]byte("x"))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, peer := w.pair()
			peer.send([]byte("x"))
			arrived(conn)
			f := w.spawn(func(task *sm.Task) sm.Await {
				if task.Ready() == 0 {
					return c.wait(conn)
				}
				require.NoError(t, c.set(conn, time.Now().Add(-time.Second)))
				assertTimeout(t, c.try(conn))
				require.NoError(t, c.set(conn, time.Time{}))
				return sm.Done
			})
			w.ended(f.task)
			o := &once{await: c.wait(conn)}
			w.ended(w.Spawn(o))
			assert.NotZero(t, o.ready)
			assert.NoError(t, c.try(conn))
		})
	}
}

// readUntilError is a task that reads until reading fails.
func (w *world) readUntilError(c *TCPConn, end *error) *fake {
	return w.spawn(func(task *sm.Task) sm.Await {
		for {
			if _, err := c.Read(task.Scratch()); err == ErrWouldBlock {
				return c.Readable()
			} else if err != nil {
				*end = err
				return sm.Done
			}
		}
	})
}

func TestTCPConnDeadlineEndsAWait(t *testing.T) {
	const d = 20 * time.Millisecond
	for _, c := range []struct {
		name string
		set  func(w *world, c *TCPConn, start time.Time)
		// soonest is when the wait may end, counted from the start.
		soonest time.Duration
	}{
		{"set before the wait", func(_ *world, c *TCPConn, start time.Time) {
			_ = c.SetReadDeadline(start.Add(d))
		}, d},
		{"set while a task waits", func(w *world, c *TCPConn, start time.Time) {
			w.turns(2)
			_ = c.SetReadDeadline(start.Add(d))
		}, d},
		{"moved nearer while a task waits", func(w *world, c *TCPConn, start time.Time) {
			_ = c.SetReadDeadline(start.Add(time.Hour))
			w.turns(2)
			_ = c.SetReadDeadline(start.Add(d))
		}, d},
		{"moved farther while a task waits", func(w *world, c *TCPConn, start time.Time) {
			_ = c.SetReadDeadline(start.Add(d))
			w.turns(2)
			_ = c.SetReadDeadline(start.Add(2 * d))
		}, 2 * d},
		{"moved into the past while a task waits", func(w *world, c *TCPConn, start time.Time) {
			w.turns(2)
			_ = c.SetReadDeadline(start.Add(-time.Hour))
		}, 0},
		{"moved into the past of the epoch", func(w *world, c *TCPConn, start time.Time) {
			w.turns(2)
			_ = c.SetReadDeadline(time.Unix(1, 0))
		}, 0},
		{"both deadlines", func(_ *world, c *TCPConn, start time.Time) { _ = c.SetDeadline(start.Add(d)) }, d},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, _ := w.pair()
			var end error
			start := time.Now()
			f := w.readUntilError(conn, &end)
			c.set(w, conn, start)
			w.ended(f.task)
			assertTimeout(t, end)
			assert.GreaterOrEqual(t, w.Now().Sub(start), c.soonest, "never early")
			assert.Less(t, time.Since(start), c.soonest+patience/10)
			assert.LessOrEqual(t, f.steps, 5)
		})
	}
}

func TestTCPConnDeadlineClearedWhileATaskWaits(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	var end error
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	f := w.readUntilError(c, &end)
	w.turns(1)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	w.idle(20 * time.Millisecond)
	assert.False(t, f.task.Ended())
	peer.close()
	w.ended(f.task)
	assert.NotErrorIs(t, end, os.ErrDeadlineExceeded)
}

func TestTCPConnDeadlineOfOneDirectionSparesTheOther(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(-time.Hour)))
	peer.send([]byte("x"))
	arrived(c)
	_, err := c.Read(make([]byte, 1))
	assert.NoError(t, err)
	_, ok := c.Readable().Deadline()
	assert.False(t, ok)
	_, ok = c.Writable().Deadline()
	assert.True(t, ok)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
	when, ok := c.Wait(sm.Read | sm.Write).Deadline()
	assert.True(t, ok)
	assert.True(t, when.Before(time.Now()), "the earlier of the two")
}

func TestTCPConnDeadlineFarAway(t *testing.T) {
	w := newFaultyLoop(t)
	c, peer := w.pair()
	var end error
	require.NoError(t, c.SetReadDeadline(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
	f := w.readUntilError(c, &end)
	w.turns(2)
	assert.Less(t, w.faults.during(func() { w.idle(10 * time.Millisecond) }, callPollWait), 10, "no overflow")
	peer.close()
	w.ended(f.task)
	assert.NotErrorIs(t, end, os.ErrDeadlineExceeded)
}

func TestTCPConnDeadlineAfterClose(t *testing.T) {
	w := newTestLoop(t)
	c, _ := w.pair()
	require.NoError(t, c.Close())
	assert.ErrorIs(t, c.SetDeadline(time.Now()), net.ErrClosed)
}

// The original had no timer: half a request was held for ever.
func TestDefectHalfARequestIsHeldForEver(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	var r ReadFull
	r.Start(c, make([]byte, 100))
	task := w.Spawn(&fake{step: r.Step, close: c.Close})
	peer.send([]byte("half"))
	w.ended(task)
	n, err := r.Result()
	assert.Equal(t, 4, n)
	assertTimeout(t, err)
	_, err = peer.recvAll()
	assert.NoError(t, err, "and the connection is closed")
}

func TestTrapTimers(t *testing.T) {
	t.Run("many at the same instant", func(t *testing.T) {
		w := newTestLoop(t)
		when := time.Now().Add(10 * time.Millisecond)
		var tasks []*sm.Task
		fired := 0
		for range 500 {
			tasks = append(tasks, w.Spawn(script(
				func(task *sm.Task) sm.Await { return task.SleepUntil(when) },
				func(*sm.Task) sm.Await { fired++; return sm.Done })))
		}
		w.ended(tasks...)
		assert.Equal(t, 500, fired)
		assert.False(t, w.Now().Before(when))
	})
	t.Run("in the past", func(t *testing.T) {
		w := newTestLoop(t)
		o := &once{await: sm.Park.By(time.Now().Add(-time.Hour))}
		w.ended(w.Spawn(o))
		assert.Equal(t, os.ErrDeadlineExceeded, o.waitErr)
	})
	t.Run("far in the future", func(t *testing.T) {
		w := newFaultyLoop(t)
		f := w.Spawn(sleeper(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
		assert.Less(t, w.faults.during(func() { w.idle(10 * time.Millisecond) }, callPollWait), 10)
		assert.False(t, f.Ended())
	})
	t.Run("cancelled and set again while others fire", func(t *testing.T) {
		w := newTestLoop(t)
		when := time.Now().Add(5 * time.Millisecond)
		var victim, moved *fake
		victim, moved = new(fake), new(fake)
		c, _ := w.pair()
		var end error
		w.Spawn(script(
			func(task *sm.Task) sm.Await { return task.SleepUntil(when) },
			func(*sm.Task) sm.Await {
				victim.task.Destroy() // its timer is due at this very moment
				require.NoError(t, c.SetReadDeadline(when.Add(20*time.Millisecond)))
				return sm.Done
			}))
		victim.step = func(task *sm.Task) sm.Await { return sm.Park.By(when) }
		victim.task = w.Spawn(victim)
		require.NoError(t, c.SetReadDeadline(when))
		moved = w.readUntilError(c, &end)
		w.ended(moved.task)
		assert.LessOrEqual(t, victim.steps, 1)
		assert.Equal(t, 1, victim.closes)
		assertTimeout(t, end)
	})
	t.Run("in a random order", func(t *testing.T) {
		rnd := seededRand(t)
		w := newTestLoop(t)
		var tasks []*sm.Task
		for range 300 {
			when := time.Now().Add(time.Duration(rnd.Int64N(int64(30 * time.Millisecond))))
			tasks = append(tasks, w.Spawn(script(
				func(task *sm.Task) sm.Await { return task.SleepUntil(when) },
				func(task *sm.Task) sm.Await {
					assert.False(t, task.Now().Before(when), "early")
					assert.Less(t, task.Now().Sub(when), patience/5)
					return sm.Done
				})))
		}
		for _, task := range tasks[:50] {
			if rnd.IntN(2) == 0 {
				task.Destroy()
			}
		}
		w.ended(tasks...)
	})
}
