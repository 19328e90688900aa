//go:build linux || darwin

package stepio

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// The original dropped the handles of those who waited: the reader never
// resumed, and the proxy leaked 9 KB a session.
func TestDefectCloseForgetsItsWaiters(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	peer.fill()
	for {
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	reader := &once{await: sm.WaitEdge(c.FD(), 0)}
	writer := &once{await: c.Writable()}
	timed := &once{await: sm.Wait(c.FD(), 0).By(time.Now().Add(time.Hour))}
	tasks := []*sm.Task{w.Spawn(reader), w.Spawn(writer), w.Spawn(timed)}
	w.turns(1)
	require.NoError(t, c.Close())
	w.ended(tasks...)
	for _, o := range []*once{reader, writer, timed} {
		assert.True(t, o.waitErr == net.ErrClosed, "a bare sentinel")
	}
	require.NoError(t, c.Close(), "closing twice does nothing")
	assert.Equal(t, -1, c.FD())
	assert.False(t, c.LocalAddr().IsValid())
	assert.False(t, c.RemoteAddr().IsValid())

	late := &once{await: c.Readable()}
	w.ended(w.Spawn(late))
	assert.Equal(t, net.ErrClosed, late.waitErr, "a wait on what is closed already")
}

func TestTrapCloseInsideAStep(t *testing.T) {
	t.Run("of oneself", func(t *testing.T) {
		w := newTestLoop(t)
		c, peer := w.pair()
		f := w.spawn(func(task *sm.Task) sm.Await {
			if task.Ready() == 0 {
				if err := task.WaitErr(); err != nil {
					assert.Equal(t, net.ErrClosed, err)
					return sm.Done
				}
				return c.Readable()
			}
			require.NoError(t, c.Close())
			return c.Readable() // of a closed connection
		})
		w.turns(1)
		peer.send([]byte("x"))
		w.ended(f.task)
	})
	t.Run("of another, which waits", func(t *testing.T) {
		w := newTestLoop(t)
		a, peer := w.pair()
		b, _ := w.pair()
		o := &once{await: b.Readable()}
		victim := w.Spawn(o)
		f := w.spawn(func(task *sm.Task) sm.Await {
			if task.Ready() == 0 {
				return a.Readable()
			}
			require.NoError(t, b.Close())
			return sm.Done
		})
		w.turns(1)
		peer.send([]byte("x"))
		w.ended(f.task, victim)
		assert.Equal(t, net.ErrClosed, o.waitErr)
		assert.Equal(t, 2, o.steps)
	})
	t.Run("of another, which has an event in the same batch", func(t *testing.T) {
		w := newTestLoop(t)
		a, peerA := w.pair()
		b, peerB := w.pair()
		var ends [2]error
		conns := [2]*TCPConn{a, b}
		var tasks []*sm.Task
		for i, mine := range conns {
			tasks = append(tasks, w.spawn(func(task *sm.Task) sm.Await {
				if task.Ready() == 0 && task.WaitErr() == nil {
					return mine.Readable()
				}
				_, ends[i] = mine.Read(task.Scratch())
				require.NoError(t, conns[1-i].Close()) // the first of the two closes the other's
				return sm.Done
			}).task)
		}
		w.turns(1)
		peerA.send([]byte("x"))
		peerB.send([]byte("x"))
		arrived(a)
		arrived(b)
		w.ended(tasks...)
		first := 0
		if ends[0] != nil {
			first = 1
		}
		assert.NoError(t, ends[first])
		assert.ErrorIs(t, ends[1-first], net.ErrClosed)
	})
}

// A hang-up resumed reader and writer in the original, although the first of
// them had destroyed the second.
func TestDefectHangUpResumesADestroyedTask(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	for {
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	writer := &fake{step: func(*sm.Task) sm.Await { return c.Writable() }}
	reader := w.spawn(func(task *sm.Task) sm.Await {
		if task.Ready() == 0 {
			return c.Readable()
		}
		writer.task.Destroy()
		return sm.Done
	})
	writer.task = w.Spawn(writer)
	w.turns(1)
	peer.reset()
	w.ended(reader.task, writer.task)
	assert.Equal(t, 1, writer.steps, "nothing is stepped after it was destroyed")
	assert.Equal(t, 1, writer.closes)
}

// Destroying a task that waits leaves nothing of it in the slot: the original
// resumed a freed handle.
func TestDefectDestroyedTaskStaysRegistered(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	f := w.spawn(func(*sm.Task) sm.Await { return c.Readable().By(time.Now().Add(5 * time.Millisecond)) })
	w.turns(1)
	f.task.Destroy()
	peer.send([]byte("x"))
	arrived(c)
	w.idle(10 * time.Millisecond)
	assert.Equal(t, 1, f.steps)
	assert.Equal(t, 1, f.closes)
	assert.True(t, w.slots.get(c.FD()).waiters.Empty())
}

func TestTrapHalfClose(t *testing.T) {
	t.Run("by the peer first: what is written afterwards arrives", func(t *testing.T) {
		w := newTestLoop(t)
		c, peer := w.pair()
		var got []byte
		task := w.Spawn(script(
			func(task *sm.Task) sm.Await {
				for {
					n, err := c.Read(task.Scratch())
					got = append(got, task.Scratch()[:n]...)
					if err == ErrWouldBlock {
						return c.Readable()
					}
					if err == io.EOF {
						return sm.Done
					}
					require.NoError(t, err)
				}
			},
			func(*sm.Task) sm.Await {
				_, err := c.Write([]byte("answer"))
				require.NoError(t, err)
				require.NoError(t, c.CloseWrite())
				require.NoError(t, c.Close())
				return sm.Done
			}))
		w.turns(1)
		peer.send([]byte("question"))
		peer.closeWrite()
		w.ended(task)
		assert.Equal(t, "question", string(got))
		answer, err := peer.recvAll()
		assert.NoError(t, err)
		assert.Equal(t, "answer", string(answer))
	})
	t.Run("by this end first: what the peer writes afterwards arrives", func(t *testing.T) {
		w := newTestLoop(t)
		c, peer := w.pair()
		require.NoError(t, c.CloseWrite())
		question, err := peer.recvAll()
		require.NoError(t, err)
		assert.Empty(t, question)
		_, err = c.Write([]byte("x"))
		assert.ErrorIs(t, err, syscall.EPIPE)
		peer.send([]byte("answer"))
		peer.closeWrite()
		buf := make([]byte, 10)
		var r ReadFull
		r.Start(c, buf)
		w.ended(w.Spawn(script(r.Step)))
		n, err := r.Result()
		assert.Equal(t, io.ErrUnexpectedEOF, err)
		assert.Equal(t, "answer", string(buf[:n]))
	})
	t.Run("after Close", func(t *testing.T) {
		w := newTestLoop(t)
		c, _ := w.pair()
		require.NoError(t, c.Close())
		assert.ErrorIs(t, c.CloseWrite(), net.ErrClosed)
		assert.ErrorIs(t, c.CloseRead(), net.ErrClosed)
	})
	t.Run("CloseRead ends a wait", func(t *testing.T) {
		w := newTestLoop(t)
		c, _ := w.pair()
		var end error
		f := w.readUntilError(c, &end)
		w.turns(2)
		require.NoError(t, c.CloseRead())
		w.ended(f.task)
		assert.Equal(t, io.EOF, end)
	})
}

// output is big enough to be on its way while the connection is closed, small
// enough for the kernel to hold it.
const output = 200_000

// An early close turns output that is on its way into a reset when input was
// left unread; Linger does not.
func TestLingerDeliversOutputAlthoughInputWasLeftUnread(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame func(c *TCPConn) *fake
		whole bool
	}{
		{"an early Close resets", func(c *TCPConn) *fake {
			return script(func(*sm.Task) sm.Await { _ = c.Close(); return sm.Done })
		}, false},
		{"Linger does not", func(c *TCPConn) *fake {
			var l Linger
			l.Start(c, time.Now().Add(patience))
			return &fake{step: l.Step, close: l.Close}
		}, true},
		{"Linger after the read deadline has passed does not", func(c *TCPConn) *fake {
			_ = c.SetDeadline(time.Now().Add(-time.Second)) // why a server answers 408 and closes
			var l Linger
			l.Start(c, time.Now().Add(patience))
			return &fake{step: l.Step, close: l.Close}
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, peer := w.pair()
			peer.send([]byte("a request that nobody reads"))
			arrived(conn)
			n, err := conn.Write(make([]byte, output))
			require.NoError(t, err)
			require.Equal(t, output, n)
			task := w.Spawn(c.frame(conn))
			var got []byte
			var end error
			w.turns(2)
			w.alongside(func() {
				_, _ = unix.Write(peer.fd, []byte("and more")) // may be too late
				got, end = peer.recvAll()
				peer.close()
			})
			w.ended(task)
			assert.Equal(t, -1, conn.FD())
			if c.whole {
				assert.NoError(t, end)
				assert.Equal(t, output, len(got))
			} else {
				assert.True(t, end != nil || len(got) < output, "or the next cases test nothing")
			}
		})
	}
}

func TestLingerEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		act  func(conn *TCPConn, p *peer)
	}{
		{"when the peer has finished", func(_ *TCPConn, p *peer) { p.closeWrite() }},
		{"when the peer resets", func(_ *TCPConn, p *peer) { p.reset() }},
		{"when the connection is closed under it", func(c *TCPConn, _ *peer) { _ = c.Close() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, peer := w.pair()
			var l Linger
			l.Start(conn, time.Now().Add(time.Hour))
			task := w.Spawn(&fake{step: l.Step, close: l.Close})
			w.turns(2)
			assert.Equal(t, lingerDraining, l.state)
			c.act(conn, peer)
			w.ended(task)
			assert.NoError(t, l.Err())
			assert.Equal(t, -1, conn.FD())
		})
	}
	t.Run("at the deadline, while the peer keeps sending", func(t *testing.T) {
		w := newTestLoop(t)
		conn, peer := w.pair()
		var l Linger
		deadline := time.Now().Add(20 * time.Millisecond)
		l.Start(conn, deadline)
		task := w.Spawn(&fake{step: l.Step, close: l.Close})
		for !task.Ended() {
			if _, err := unix.Write(peer.fd, make([]byte, 1024)); err != nil && err != unix.EAGAIN {
				break
			}
			w.turns(1)
		}
		w.ended(task)
		assert.False(t, time.Now().Before(deadline))
		assert.Less(t, time.Since(deadline), patience/2)
	})
	t.Run("Close ends it at once", func(t *testing.T) {
		w := newTestLoop(t)
		conn, _ := w.pair()
		var l Linger
		assert.NoError(t, l.Close(), "before Start")
		l.Start(conn, time.Now().Add(time.Hour))
		task := w.Spawn(&fake{step: l.Step, close: l.Close})
		w.turns(2)
		task.Destroy()
		assert.Equal(t, -1, conn.FD())
	})
}

// A socket that the library opened leaves the poller by its close; one that
// others may hold a duplicate of is taken out first.
func TestTCPConnCloseDeregisters(t *testing.T) {
	t.Run("its own, without an extra call", func(t *testing.T) {
		w := newFaultyLoop(t)
		c, _ := w.pair()
		w.Spawn(&once{await: c.Readable()})
		w.turns(1)
		require.NoError(t, c.Close())
		assert.Zero(t, w.faults.count(callPollRemove))
		w.turns(2)
	})
	t.Run("a raw one, although a duplicate lives on", func(t *testing.T) {
		w := newFaultyLoop(t)
		near, far := tcpPair(t)
		peer := newPeer(t, far)
		c := NewTCPConn(w.Loop, near)
		w.Spawn(&once{await: c.Readable()})
		w.turns(1)
		twin, err := unix.Dup(near)
		require.NoError(t, err)
		closeLater(t, twin)
		require.NoError(t, c.Close())
		assert.Equal(t, 1, w.faults.count(callPollRemove))
		peer.send([]byte("x"))
		pollFD(twin, unix.POLLIN, patience)
		w.turns(2)
		waits := w.faults.during(func() { w.idle(10 * time.Millisecond) }, callPollWait)
		assert.Less(t, waits, 10, "the duplicate's events do not spin the loop")
	})
	t.Run("one whose SyscallConn was asked for", func(t *testing.T) {
		w := newFaultyLoop(t)
		c, _ := w.pair()
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) { assert.EqualValues(t, c.FD(), fd) }))
		assert.Equal(t, ErrWouldBlock, raw.Read(func(uintptr) bool { return false }))
		assert.NoError(t, raw.Write(func(uintptr) bool { return true }))
		w.Spawn(&once{await: c.Readable()})
		w.turns(1)
		require.NoError(t, c.Close())
		assert.Equal(t, 1, w.faults.count(callPollRemove))
		assert.ErrorIs(t, raw.Control(func(uintptr) {}), net.ErrClosed)
		_, err = c.SyscallConn()
		assert.ErrorIs(t, err, net.ErrClosed)
		w.turns(1)
	})
	t.Run("after its loop was closed", func(t *testing.T) {
		for _, foreign := range []bool{false, true} {
			w := newTestLoop(t)
			near, far := tcpPair(t)
			newPeer(t, far)
			c := newTCPConn(w.Loop, near, foreign)
			w.Spawn(&once{await: c.Readable()})
			w.turns(1)
			require.NoError(t, w.Close())
			assert.NoError(t, c.Close(), "foreign: %v", foreign)
		}
	})
}

func TestTCPConnMovesToAnotherLoop(t *testing.T) {
	here, there := newTestLoop(t), newTestLoop(t)
	c, peer := here.pair()
	o := &once{await: c.Readable()}
	waiter := here.Spawn(o)
	here.turns(1)
	fd, err := c.Detach()
	require.NoError(t, err)
	here.ended(waiter)
	assert.Equal(t, net.ErrClosed, o.waitErr)
	_, err = c.Read(make([]byte, 1))
	assert.ErrorIs(t, err, net.ErrClosed)
	_, err = c.Detach()
	assert.ErrorIs(t, err, net.ErrClosed)

	there.run()
	moved := make(chan error, 1)
	require.NoError(t, there.Post(func() {
		there.Spawn(&echoFrame{conn: NewTCPConn(there.Loop, fd)})
		moved <- nil
	}))
	<-moved
	for range 10 {
		peer.send([]byte("ping"))
		assert.Equal(t, "ping", string(peer.recv(4)))
	}
	here.turns(2) // hears nothing of it
	peer.close()
}

func TestNewTCPConnOfANegativeDescriptorPanics(t *testing.T) {
	w := newTestLoop(t)
	assert.PanicsWithValue(t, "stepio: NewTCPConn: descriptor -1", func() { NewTCPConn(w.Loop, -1) })
}

// A frame may close in its Close what it has not got yet.
func TestCloseOfNoConnection(t *testing.T) {
	var tcp *TCPConn
	var udp *UDPConn
	assert.NoError(t, tcp.Close())
	assert.NoError(t, udp.Close())
}

// A close that a signal interrupts has closed (close(2)): a second one might hit
// whoever has the number by then.
func TestCloseThatIsInterruptedHasClosed(t *testing.T) {
	w := newFaultyLoop(t)
	c, _ := w.pair()
	fd := c.FD()
	w.faults.fail(callClose, syscall.EINTR)
	assert.Equal(t, 1, w.faults.during(func() { assert.NoError(t, c.Close()) }, callClose))
	_, errno := rawLocalAddr(fd)
	assert.Equal(t, unix.EBADF, errno)
	assert.NoError(t, c.Close(), "again")
}
