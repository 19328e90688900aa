//go:build linux || darwin

package stepio

import (
	"bytes"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

func TestTCPConnRead(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	buf := make([]byte, 8)
	n, err := c.Read(buf)
	assert.Zero(t, n)
	assert.True(t, err == ErrWouldBlock, "a bare sentinel")

	peer.send([]byte("hello, world"))
	arrived(c)
	n, err = c.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "hello, w", string(buf[:n]))
	n, err = c.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "orld", string(buf[:n]))

	peer.closeWrite()
	arrived(c)
	for range 2 {
		n, err = c.Read(buf)
		assert.Zero(t, n)
		assert.True(t, err == io.EOF, "a bare sentinel, each time")
	}
	require.NoError(t, c.Close())
	_, err = c.Read(buf)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.ErrorIs(t, err, net.ErrClosed)
	assert.Equal(t, "read", op.Op)
	assert.Panics(t, func() { _, _ = c.Read(nil) })
}

func TestTCPConnReadErrorIsAsInPackageNet(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	near, far := c.LocalAddr(), c.RemoteAddr()
	require.True(t, near.IsValid())
	require.True(t, far.IsValid())
	peer.reset()
	arrived(c)
	_, err := c.Read(make([]byte, 1))
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, "read", op.Op)
	assert.Equal(t, "tcp", op.Net)
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	assert.EqualError(t, err, "read tcp: read: connection reset by peer")
}

// Strangers can reset connections by the thousand: the error costs nothing.
func TestTCPConnResetCostsNoMemory(t *testing.T) {
	w := newTestLoop(t)
	c, _ := w.pair()
	for _, of := range []struct {
		op    string
		errno syscall.Errno
	}{{"read", syscall.ECONNRESET}, {"write", syscall.ECONNRESET}, {"write", syscall.EPIPE}} {
		var err error
		assert.Zero(t, testing.AllocsPerRun(100, func() { err = c.opError(of.op, of.errno) }))
		assert.ErrorIs(t, err, of.errno)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		assert.Equal(t, of.op, op.Op)
	}
	other := c.opError("read", syscall.ETIMEDOUT)
	assert.Contains(t, other.Error(), c.RemoteAddr().String())
}

// After a short read, Read answers ErrWouldBlock without asking the kernel, but
// only while an event is sure to come.
func TestTCPConnReadAfterAShortRead(t *testing.T) {
	type probe struct {
		w    *world
		conn *TCPConn
		peer *peer
	}
	// reads is a task that waits in a mode, reads short, reads again.
	reads := func(p probe, wait func(*TCPConn) sm.Await, between func()) (n int, err error) {
		calls := 0
		f := p.w.spawn(func(task *sm.Task) sm.Await {
			if task.Ready() == 0 {
				return wait(p.conn)
			}
			m, e := p.conn.Read(task.Scratch())
			require.NoError(p.w.t, e)
			require.Positive(p.w.t, m)
			between()
			calls = p.w.faults.during(func() { n, err = p.conn.Read(task.Scratch()) }, callRead)
			return sm.Done
		})
		p.w.ended(f.task)
		return calls, err
	}
	nothing := func() {}
	for _, c := range []struct {
		name  string
		do    func(p probe) (calls int, err error)
		calls int
		want  error
	}{
		{"level-triggered: no second call", func(p probe) (int, error) {
			p.peer.send([]byte("x"))
			return reads(p, (*TCPConn).Readable, nothing)
		}, 0, ErrWouldBlock},
		{"edge-triggered: no second call", func(p probe) (int, error) {
			p.peer.send([]byte("x"))
			return reads(p, (*TCPConn).ReadableET, nothing)
		}, 0, ErrWouldBlock},
		{"after the end of input was seen: a second call", func(p probe) (int, error) {
			p.peer.send([]byte("x"))
			p.peer.closeWrite()
			pollFD(p.conn.FD(), pollEnd, patience)
			return reads(p, (*TCPConn).Readable, nothing)
		}, 1, io.EOF},
		{"after the end of input was seen, edge-triggered: a second call", func(p probe) (int, error) {
			p.peer.send([]byte("x"))
			p.peer.closeWrite()
			pollFD(p.conn.FD(), pollEnd, patience)
			return reads(p, (*TCPConn).ReadableET, nothing)
		}, 1, io.EOF},
		{"while reading is not armed: a second call", func(p probe) (calls int, err error) {
			buf := make([]byte, 8)
			p.peer.send([]byte("x"))
			arrived(p.conn)
			_, err = p.conn.Read(buf)
			require.NoError(p.w.t, err)
			calls = p.w.faults.during(func() { _, err = p.conn.Read(buf) }, callRead)
			return calls, err
		}, 1, ErrWouldBlock},
		{"after CloseRead: a second call", func(p probe) (int, error) {
			p.peer.send([]byte("x"))
			return reads(p, (*TCPConn).Readable, func() { require.NoError(p.w.t, p.conn.CloseRead()) })
		}, 1, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFaultyLoop(t)
			conn, peer := w.pair()
			calls, err := c.do(probe{w, conn, peer})
			assert.Equal(t, c.calls, calls, "calls")
			assert.Equal(t, c.want, err)
		})
	}
}

// What was known of a drained socket is forgotten with the next event, and when
// interest is armed anew.
func TestTCPConnReadFindsWhatCameLater(t *testing.T) {
	w := newFaultyLoop(t)
	c, peer := w.pair()
	got := 0
	f := w.drain(c, &got)
	for i := range 50 {
		peer.send([]byte("x"))
		w.until("read", func() bool { return got == i+1 })
	}
	f.task.Destroy()
	// With nobody waiting, interest is disarmed; data that comes later is found.
	for range 3 {
		peer.send([]byte("y"))
		arrived(c)
		w.turns(2)
		n, err := c.Read(make([]byte, 8))
		require.NoError(t, err)
		assert.Equal(t, 1, n)
	}
}

// The original dropped the bytes that it had when an error followed.
func TestDefectReadETDropsBytesBeforeAnError(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(w *world, peer *peer)
		want  error
	}{
		{"end of input", func(_ *world, peer *peer) { peer.closeWrite() }, io.EOF},
		{"a reset", func(w *world, _ *peer) {
			w.faults.fail(callRead, 0, syscall.ECONNRESET)
			w.faults.maxRead = 5
		}, syscall.ECONNRESET},
		{"a time-out of the kernel's", func(w *world, _ *peer) {
			w.faults.fail(callRead, 0, syscall.ETIMEDOUT)
			w.faults.maxRead = 5
		}, syscall.ETIMEDOUT},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFaultyLoop(t)
			conn, peer := w.pair()
			peer.send([]byte("bytes"))
			c.setup(w, peer)
			pollFD(conn.FD(), pollEnd, 20*time.Millisecond)
			// A buffer that the bytes fill exactly, and read by read.
			var got []byte
			var end error
			f := w.spawn(func(task *sm.Task) sm.Await {
				for end == nil {
					n, err := conn.ReadET(task.Scratch()[:5+len(got)])
					got = append(got, task.Scratch()[:n]...)
					if err == ErrWouldBlock {
						return conn.ReadableET()
					}
					end = err
				}
				return sm.Done
			})
			w.ended(f.task)
			assert.Equal(t, "bytes", string(got))
			assert.ErrorIs(t, end, c.want)
		})
	}
	t.Run("in one call", func(t *testing.T) {
		w := newFaultyLoop(t)
		conn, peer := w.pair()
		w.faults.fail(callRead, 0, syscall.ECONNRESET)
		peer.send([]byte("byte"))
		arrived(conn)
		buf := make([]byte, 5)
		n, err := conn.ReadET(buf)
		require.NoError(t, err)
		assert.Equal(t, "byte", string(buf[:n]))
		_, err = conn.ReadET(buf)
		assert.ErrorIs(t, err, syscall.ECONNRESET, "the error the next time")
	})
}

// A postponed error reaches an edge-triggered reader that waits before it reads:
// no event announces it.
func TestTCPConnReadETPostponedErrorNeedsNoEvent(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(w *world, peer *peer, conn *TCPConn)
		want error
	}{
		{"a reset", func(w *world, _ *peer, _ *TCPConn) {
			w.faults.script[callRead] = []syscall.Errno{0, syscall.ECONNRESET}
		}, syscall.ECONNRESET},
		{"end of input", func(_ *world, peer *peer, conn *TCPConn) {
			peer.closeWrite()
			pollFD(conn.FD(), pollEnd, patience)
		}, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFaultyLoop(t)
			conn, peer := w.pair()
			var end error
			steps := 0
			f := w.spawn(func(task *sm.Task) sm.Await {
				steps++
				switch steps {
				case 1:
					return conn.ReadableET()
				case 2:
					w.slots.get(conn.FD()).flags |= slotRestless // so that the second call is made
					c.fail(w, peer, conn)
					n, err := conn.ReadET(task.Scratch())
					require.NoError(t, err)
					require.Equal(t, 1, n)
					return conn.ReadableET()
				}
				_, end = conn.ReadET(task.Scratch())
				return sm.Done
			})
			w.turns(1)
			peer.send([]byte("x"))
			w.ended(f.task)
			assert.ErrorIs(t, end, c.want)
		})
	}
}

func TestTCPConnReadETStopsAtTheBufferAndKeepsTheEdge(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	sent := bytes.Repeat([]byte("0123456789"), 100)
	var got []byte
	f := w.spawn(func(task *sm.Task) sm.Await {
		buf := make([]byte, 7)
		n, err := c.ReadET(buf)
		if got = append(got, buf[:n]...); len(got) == len(sent) {
			return sm.Done
		}
		if err != nil {
			require.Equal(t, ErrWouldBlock, err)
		}
		return c.ReadableET() // without reading on until it would block
	})
	w.turns(1)
	peer.send(sent)
	w.ended(f.task)
	assert.Equal(t, sent, got)
}

func TestTrapPeerResetsInEveryState(t *testing.T) {
	big := make([]byte, 4<<20)
	for _, s := range []struct {
		name  string
		frame func(w *world, c *TCPConn, peer *peer) *fake
	}{
		{"reading", func(w *world, c *TCPConn, _ *peer) *fake {
			return &fake{step: func(task *sm.Task) sm.Await {
				if _, err := c.Read(task.Scratch()); err == ErrWouldBlock {
					return c.Readable()
				} else {
					assert.ErrorIs(w.t, err, syscall.ECONNRESET)
				}
				return sm.Done
			}}
		}},
		{"writing", func(w *world, c *TCPConn, _ *peer) *fake {
			var out WriteAll
			return &fake{step: func(task *sm.Task) sm.Await {
				if out.conn == nil {
					out.Start(c, big)
				}
				if a := out.Step(task); a.Pending() {
					return a
				}
				assert.True(w.t, isReset(out.Err()), "%v", out.Err())
				return sm.Done
			}, close: func() error { return out.Close() }}
		}},
		{"waiting for both", func(w *world, c *TCPConn, _ *peer) *fake {
			for {
				if _, err := c.Write(big); err == ErrWouldBlock {
					break
				}
			}
			return &fake{step: func(task *sm.Task) sm.Await {
				if task.Ready() == 0 {
					return c.Wait(sm.Read | sm.Write)
				}
				assert.Equal(w.t, sm.Read|sm.Write, task.Ready(), "a hang-up wakes both directions")
				_, err := c.Read(task.Scratch())
				assert.ErrorIs(w.t, err, syscall.ECONNRESET)
				return sm.Done
			}}
		}},
		{"half-closed by this end", func(w *world, c *TCPConn, _ *peer) *fake {
			require.NoError(w.t, c.CloseWrite())
			return &fake{step: func(task *sm.Task) sm.Await {
				if _, err := c.Read(task.Scratch()); err == ErrWouldBlock {
					return c.Readable()
				} else {
					assert.ErrorIs(w.t, err, syscall.ECONNRESET)
				}
				return sm.Done
			}}
		}},
		{"half-closed by the peer", func(w *world, c *TCPConn, peer *peer) *fake {
			peer.closeWrite()
			arrived(c)
			return &fake{step: func(task *sm.Task) sm.Await {
				if _, err := c.Read(task.Scratch()); err == ErrWouldBlock {
					return c.Readable()
				} else if err == io.EOF {
					if _, err = c.Write(big); err == nil || err == ErrWouldBlock {
						return c.Writable()
					}
					assert.True(w.t, isReset(err), "%v", err)
				}
				return sm.Done
			}}
		}},
		{"lingering", func(w *world, c *TCPConn, _ *peer) *fake {
			var l Linger
			l.Start(c, time.Now().Add(time.Hour))
			return &fake{step: l.Step, close: l.Close}
		}},
		{"copying", func(w *world, c *TCPConn, _ *peer) *fake {
			var cp Copy
			dst, _ := w.pair()
			cp.Start(dst, c)
			return &fake{step: func(task *sm.Task) sm.Await {
				if a := cp.Step(task); a.Pending() {
					return a
				}
				assert.ErrorIs(w.t, cp.Err(), syscall.ECONNRESET)
				return sm.Done
			}, close: cp.Close}
		}},
		{"reading a whole message", func(w *world, c *TCPConn, peer *peer) *fake {
			var r ReadFull
			r.Start(c, make([]byte, 10))
			peer.send([]byte("half"))
			arrived(c)
			return &fake{step: func(task *sm.Task) sm.Await {
				if a := r.Step(task); a.Pending() {
					return a
				}
				n, err := r.Result()
				assert.Equal(w.t, 4, n)
				assert.ErrorIs(w.t, err, syscall.ECONNRESET)
				return sm.Done
			}}
		}},
	} {
		t.Run(s.name, func(t *testing.T) {
			w := newFaultyLoop(t)
			c, peer := w.pair()
			f := s.frame(w, c, peer)
			f.task = w.Spawn(f)
			w.turns(3)
			assert.False(t, f.task.Ended())
			peer.reset()
			w.ended(f.task)
			require.NoError(t, c.Close())
			assert.Less(t, w.faults.during(func() { w.idle(5 * time.Millisecond) }, callPollWait), 10)
		})
	}
}

func isReset(err error) bool {
	op, ok := err.(*net.OpError)
	if !ok {
		return false
	}
	sys, ok := op.Err.(*os.SyscallError)
	return ok && (sys.Err == unix.ECONNRESET || sys.Err == unix.EPIPE)
}
