//go:build linux || darwin

package stepio

import (
	"bytes"
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

// pattern is n bytes in which every slip of a few bytes shows.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return p
}

// shrink makes a connection's send buffers as small as the kernel lets it. The
// receive buffers are left alone: a window of less than a segment makes TCP
// wait for its timers.
func shrink(c *TCPConn, p *peer) {
	assert.NoError(p.t, c.SetWriteBuffer(1))
	assert.NoError(p.t, unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1))
}

func TestTCPConnWrite(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	n, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	assert.Equal(t, 5, n)
	assert.Equal(t, "hello", string(peer.recv(5)))

	n, err = c.Write(nil)
	assert.Zero(t, n)
	assert.NoError(t, err, "nothing is written at once")

	all := pattern(16 << 20)
	n, err = c.Write(all)
	assert.True(t, err == ErrWouldBlock, "a short write")
	assert.Less(t, n, len(all))
	assert.Positive(t, n)
	m, err := c.Write(all[n:])
	assert.Equal(t, ErrWouldBlock, err)
	n += m
	w.alongside(func() { assert.True(t, bytes.Equal(all[:n], peer.recv(n))) })

	require.NoError(t, c.Close())
	n, err = c.Write([]byte("x"))
	assert.Zero(t, n)
	assert.ErrorIs(t, err, net.ErrClosed)
}

func TestTCPConnWriteToAResetConnection(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	peer.reset()
	arrived(c)
	n, err := c.Write([]byte("x"))
	assert.Zero(t, n)
	assert.True(t, isReset(err), "%v", err)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, "write", op.Op)
}

// The kernel tells a reset once, to whichever call comes first, and after that
// the end of input: a stream that was cut short passed for a whole one when a
// write had found the reset.
func TestResetThatAWriteFindsIsNoEndOfInput(t *testing.T) {
	for name, read := range map[string]func(c *TCPConn, p []byte) (int, error){
		"level-triggered": (*TCPConn).Read, "edge-triggered": (*TCPConn).ReadET,
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			c, peer := w.pair()
			peer.send([]byte("half a mess"))
			arrived(c)
			fillUp(c)
			peer.reset()
			require.True(t, pollFD(c.FD(), unix.POLLERR, patience))
			_, err := c.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			buf := make([]byte, 100)
			n, err := read(c, buf)
			require.NoError(t, err, "what has arrived comes first")
			assert.Equal(t, "half a mess", string(buf[:n]))
			for range 2 {
				_, err = read(c, buf)
				assert.ErrorIs(t, err, syscall.ECONNRESET)
			}
			_, err = c.Write([]byte("x"))
			assert.ErrorIs(t, err, syscall.EPIPE)
		})
	}
	t.Run("a write after CloseWrite says nothing of the input", func(t *testing.T) {
		w := newTestLoop(t)
		c, peer := w.pair()
		require.NoError(t, c.CloseWrite())
		_, err := c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
		peer.closeWrite()
		arrived(c)
		_, err = c.Read(make([]byte, 1))
		assert.Equal(t, io.EOF, err)
	})
}

// fillUp writes until the socket takes no more, and says how much that was.
func fillUp(c *TCPConn) (n int) {
	chunk := make([]byte, 1<<20)
	for {
		m, err := c.Write(chunk)
		n += m
		if err != nil {
			return n
		}
	}
}

// fillForGood is fillUp until no room comes of what travels on and is acknowledged.
func fillForGood(t testing.TB, c *TCPConn) (n int) {
	end := time.Now().Add(patience)
	for full := 0; full < 3; {
		require.True(t, time.Now().Before(end), "it does not fill up")
		m := fillUp(c)
		n += m
		switch {
		case m > 0:
			full = 0
		case !pollFD(c.FD(), unix.POLLOUT, 2*time.Millisecond) && underWay(c.FD()) == 0:
			full++
		}
	}
	return n
}

func TestTCPConnWritableWaitsForRoom(t *testing.T) {
	for name, wait := range map[string]func(*TCPConn) sm.Await{
		"level-triggered": (*TCPConn).Writable, "edge-triggered": (*TCPConn).WritableET,
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			c, peer := w.pair()
			sent, all := 0, pattern(8<<20)
			f := w.spawn(func(*sm.Task) sm.Await {
				for sent < len(all) {
					n, err := c.Write(all[sent:])
					sent += n
					if err == ErrWouldBlock {
						return wait(c)
					}
					require.NoError(t, err)
				}
				return sm.Done
			})
			w.turns(3)
			assert.False(t, f.task.Ended())
			var got []byte
			w.alongside(func() { got = peer.recv(len(all)) })
			assert.True(t, bytes.Equal(all, got))
			w.ended(f.task)
		})
	}
}

func TestWriteAll(t *testing.T) {
	for _, c := range []struct {
		name  string
		start func(out *WriteAll, c *TCPConn, p []byte)
		keeps bool
	}{
		{"Start keeps a copy", (*WriteAll).Start, false},
		{"StartShared keeps none", (*WriteAll).StartShared, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, peer := w.pair()
			shrink(conn, peer)
			all := pattern(1 << 20)
			message := bytes.Clone(all)
			var out WriteAll
			f := script(
				func(*sm.Task) sm.Await { c.start(&out, conn, message); return sm.Done },
				func(task *sm.Task) sm.Await {
					if !c.keeps {
						clear(message) // the caller's again
					}
					return out.Step(task)
				})
			task := w.Spawn(f)
			w.turns(2)
			assert.Positive(t, out.Pending())
			assert.Panics(t, func() { out.Start(conn, nil) }, "the last message is not sent yet")
			state, _ := out.Inspect()
			assert.Contains(t, state, "bytes left")
			var got []byte
			w.alongside(func() { got = peer.recv(len(all)) })
			w.ended(task)
			assert.True(t, bytes.Equal(all, got))
			assert.NoError(t, out.Err())
			assert.Zero(t, out.Pending())
			assert.Nil(t, out.rest, "an idle WriteAll owns no memory")
			require.NoError(t, out.Close())
		})
	}
}

func TestWriteAllThatFails(t *testing.T) {
	for name, p := range map[string][]byte{"when it starts": []byte("x"), "when it starts, with nothing to send": nil} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			c, _ := w.pair()
			require.NoError(t, c.Close())
			var out WriteAll
			out.Start(c, p)
			assert.ErrorIs(t, out.Err(), net.ErrClosed)
			assert.Zero(t, out.Pending())
			out.StartShared(c, p)
			assert.ErrorIs(t, out.Err(), net.ErrClosed)
			assert.Zero(t, out.Pending())
		})
	}
	t.Run("when its connection is closed under it", func(t *testing.T) {
		w := newTestLoop(t)
		c, _ := w.pair()
		var out WriteAll
		f := script(
			func(*sm.Task) sm.Await { out.Start(c, make([]byte, 8<<20)); return sm.Done },
			out.Step)
		task := w.Spawn(f)
		w.turns(2)
		require.NoError(t, c.Close())
		w.ended(task)
		assert.ErrorIs(t, out.Err(), net.ErrClosed)
		assert.Zero(t, out.Pending())
	})
	t.Run("at the write deadline", func(t *testing.T) {
		w := newTestLoop(t)
		c, _ := w.pair()
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(5*time.Millisecond)))
		var out WriteAll
		task := w.Spawn(script(
			func(*sm.Task) sm.Await { out.Start(c, make([]byte, 8<<20)); return sm.Done },
			out.Step))
		w.ended(task)
		assertTimeout(t, out.Err())
	})
	t.Run("Close drops what is not sent and leaves the connection open", func(t *testing.T) {
		w := newTestLoop(t)
		c, _ := w.pair()
		var out WriteAll
		out.Start(c, make([]byte, 8<<20))
		require.Positive(t, out.Pending())
		require.NoError(t, out.Close())
		assert.Zero(t, out.Pending())
		assert.Equal(t, sm.Done, out.Step(nil))
		assert.GreaterOrEqual(t, c.FD(), 0)
	})
}

// The socket that was full a moment ago is not asked again before it has room.
func TestWriteAllMakesNoWriteForNothing(t *testing.T) {
	w := newFaultyLoop(t)
	c, peer := w.pair()
	var out WriteAll
	task := w.Spawn(script(
		func(*sm.Task) sm.Await { out.Start(c, make([]byte, 8<<20)); return sm.Done },
		out.Step))
	w.turns(5)
	assert.Equal(t, 1, w.faults.count(callWrite))
	w.alongside(func() { peer.recv(8 << 20) })
	w.ended(task)
}

// 1-byte reads, 1-byte writes, and buffers of the kernel that are as small as
// can be: nothing is lost, doubled or out of order.
func TestTrapOneByteReadsAndOneByteWrites(t *testing.T) {
	for _, c := range []struct {
		name              string
		maxRead, maxWrite int
		size              int
	}{
		{"reads of one byte", 1, 0, 5_000},
		{"writes of one byte", 0, 1, 5_000},
		{"both", 1, 1, 5_000},
		{"small buffers", 0, 0, 1 << 20},
		{"small buffers and odd sizes", 777, 333, 200_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFaultyLoop(t)
			conn, peer := w.pair()
			shrink(conn, peer)
			w.faults.maxRead, w.faults.maxWrite = c.maxRead, c.maxWrite
			task := w.Spawn(&echoFrame{conn: conn})
			all := pattern(c.size)
			var got []byte
			w.alongside(func() {
				sent := make(chan struct{})
				go func() { defer close(sent); peer.send(all); peer.closeWrite() }()
				got, _ = peer.recvAll()
				<-sent
			})
			w.ended(task)
			assert.True(t, bytes.Equal(all, got))
		})
	}
}

// Every call is interrupted every second time, and nobody notices.
func TestTrapEINTREverywhere(t *testing.T) {
	w := newFaultyLoop(t)
	w.faults.interrupted = true
	ln, err := ListenTCP(w.Loop, loopback, ListenOptions{})
	require.NoError(t, err)
	w.spawn(func(task *sm.Task) sm.Await {
		for {
			c, err := ln.Accept()
			if err != nil {
				assert.Equal(t, ErrWouldBlock, err)
				return ln.Readable()
			}
			task.Spawn(&echoFrame{conn: c})
		}
	})
	all := pattern(100_000)
	var tasks []*sm.Task
	for range 5 {
		dial := DialTCP(w.Loop, ln.Addr(), DialOptions{})
		var conn *TCPConn
		var out WriteAll
		var in ReadFull
		buf := make([]byte, len(all))
		f := script(
			dial.Step,
			func(*sm.Task) sm.Await {
				var err error
				conn, err = dial.Result()
				require.NoError(t, err)
				out.Start(conn, all)
				in.Start(conn, buf)
				return sm.Done
			},
			func(task *sm.Task) sm.Await { // both at once: the echo is longer than the buffers
				a, b := out.Step(task), in.Step(task)
				switch {
				case a.Pending() && b.Pending():
					return a.Or(b)
				case a.Pending():
					return a
				}
				return b
			},
			func(*sm.Task) sm.Await {
				require.NoError(t, out.Err())
				require.NoError(t, in.Err())
				require.True(t, bytes.Equal(all, buf))
				return sm.Done
			})
		f.close = func() error { return conn.Close() }
		tasks = append(tasks, w.Spawn(f))
	}
	w.ended(tasks...)
	w.until("the echoes have ended", func() bool { return w.Tasks() == 1 })
	require.NoError(t, ln.Close())
}

// A peer that sends and never reads does not make the echo keep what it can't
// write: its input waits in the kernel.
func TestTrapWriteBlockedWhileInputKeepsComing(t *testing.T) {
	w := newFaultyLoop(t)
	c, peer := w.pair()
	echo := &echoFrame{conn: c}
	task := w.Spawn(echo)
	sent := 0
	for {
		n := peer.fill()
		sent += n
		w.settle()
		if n == 0 {
			break
		}
	}
	assert.Equal(t, echoWriting, echo.state)
	assert.LessOrEqual(t, echo.out.Pending(), sm.ScratchSize, "what is held is bounded")
	calls := w.faults.during(func() { w.idle(20 * time.Millisecond) }, callPollWait, callRead, callWrite)
	assert.Less(t, calls, 10, "and the input that waits does not spin the loop")
	var got int
	w.alongside(func() {
		peer.closeWrite()
		data, _ := peer.recvAll()
		got = len(data)
	})
	w.ended(task)
	assert.Equal(t, sent, got)
}

// A WriteAll waits in the trigger mode that its connection is in: beside a task
// that waits edge-triggered for input, it must not be refused.
func TestWriteAllBesideAnEdgeTriggeredReader(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	w.spawn(func(*sm.Task) sm.Await { return c.ReadableET() })
	w.settle()
	message := bytes.Repeat([]byte("stepio"), 1<<20)
	var out WriteAll
	writer := w.spawn(func(task *sm.Task) sm.Await {
		if task.Ready() == 0 && out.Pending() == 0 {
			out.Start(c, message)
		}
		a := out.Step(task)
		if a.Pending() {
			assert.True(t, a.Edge())
		}
		return a
	})
	var got []byte
	w.alongside(func() { got = peer.recv(len(message)) })
	w.ended(writer.task)
	assert.NoError(t, out.Err())
	assert.True(t, bytes.Equal(message, got))
}
