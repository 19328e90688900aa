//go:build linux || darwin

package stepio

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

func listenOn(w *world) *TCPListener {
	ln, err := ListenTCP(w.Loop, loopback, ListenOptions{})
	require.NoError(w.t, err)
	return ln
}

// greeted is what a client of addr reads while the loop is turned.
func greeted(w *world, addr netip.AddrPort) (who string, err error) {
	w.alongside(func() { who, err = dialAndRead(addr) })
	return who, err
}

func TestNewServeMisused(t *testing.T) {
	w := newTestLoop(t)
	ln := listenOn(w)
	assert.PanicsWithValue(t, "stepio: NewServe: nil listener or handle", func() { NewServe(nil, func(*TCPConn) sm.Frame { return nil }) })
	assert.PanicsWithValue(t, "stepio: NewServe: nil listener or handle", func() { NewServe(ln, nil) })
	assert.NoError(t, ln.Close())
}

func TestServeStartsATaskForEveryConnection(t *testing.T) {
	w := newTestLoop(t)
	ln := listenOn(w)
	tasks := 0
	serve := w.Spawn(NewServe(ln, func(c *TCPConn) sm.Frame { tasks++; return echoer(c, new(Input)) }))
	const clients = 200 // more than one step accepts
	w.alongside(func() {
		var peers []net.Conn
		for range clients {
			c, err := net.DialTimeout("tcp", ln.Addr().String(), patience)
			if !assert.NoError(t, err) {
				return
			}
			defer c.Close()
			peers = append(peers, c)
		}
		for _, c := range peers { // all at once
			_, err := c.Write([]byte("hello"))
			assert.NoError(t, err)
			buf := make([]byte, 5)
			_, err = io.ReadFull(c, buf)
			assert.NoError(t, err)
			assert.Equal(t, "hello", string(buf))
		}
	})
	assert.Equal(t, clients, tasks)
	assert.False(t, serve.Ended())
	var dump bytes.Buffer
	require.NoError(t, w.Dump(&dump))
	assert.Contains(t, dump.String(), "listening on "+ln.Addr().String())
	require.NoError(t, w.Close())
	assert.Equal(t, -1, ln.FD(), "the listener is closed with the task")
}

func TestServeEndsWhenTheListenerIsClosed(t *testing.T) {
	w := newTestLoop(t)
	ln := listenOn(w)
	served := NewServe(ln, func(c *TCPConn) sm.Frame { return echoer(c, new(Input)) })
	serve := w.Spawn(served)
	w.turns(2)
	require.NoError(t, ln.Close())
	w.ended(serve)
	assert.ErrorIs(t, serve.Err(), net.ErrClosed)
	assert.ErrorIs(t, served.Err(), net.ErrClosed)
	errs := w.reported()
	require.Len(t, errs, 1, "reported once")
	assert.ErrorIs(t, errs[0], net.ErrClosed)
}

func TestServeEndsWhenTheListenerFails(t *testing.T) {
	w := newFaultyLoop(t)
	ln := listenOn(w)
	w.faults.fail(callAccept, unix.EINVAL)
	serve := w.Spawn(NewServe(ln, func(c *TCPConn) sm.Frame { return echoer(c, new(Input)) }))
	w.ended(serve)
	assert.ErrorIs(t, serve.Err(), unix.EINVAL)
	assert.Len(t, w.reported(), 1)
	assert.Equal(t, -1, ln.FD())
}

// What goes wrong for one connection costs that connection alone.
func TestServeHandlerThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		bad     func(c *TCPConn) sm.Frame
		reports int
	}{
		"it panics":                       {func(*TCPConn) sm.Frame { panic("thrown") }, 1},
		"it turns the connection away":    {func(*TCPConn) sm.Frame { return nil }, 0},
		"it closes the connection itself": {func(c *TCPConn) sm.Frame { _ = c.Close(); return nil }, 0},
		"its frame panics in the first step": {func(c *TCPConn) sm.Frame {
			return &fake{step: func(*sm.Task) sm.Await { panic("thrown") }, close: c.Close}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			ln := listenOn(w)
			calls := 0
			w.Spawn(NewServe(ln, func(conn *TCPConn) sm.Frame {
				if calls++; calls == 1 {
					return c.bad(conn)
				}
				return greeter(conn, "hello")
			}))
			fds := len(openFDs())
			who, err := greeted(w, ln.Addr())
			assert.NoError(t, err, "end of input, at once")
			assert.Empty(t, who)
			assert.Len(t, w.reported(), c.reports)
			who, err = greeted(w, ln.Addr())
			assert.NoError(t, err)
			assert.Equal(t, "hello", who, "the next one is served")
			w.settle()
			assert.Equal(t, fds, len(openFDs()), "no descriptor is left")
		})
	}
}

// A handler hands the connection to somebody else and keeps nothing.
func TestServeHandlerThatDetaches(t *testing.T) {
	w := newTestLoop(t)
	ln := listenOn(w)
	fds := make(chan int, 1)
	w.Spawn(NewServe(ln, func(c *TCPConn) sm.Frame {
		fd, err := c.Detach()
		assert.NoError(t, err)
		fds <- fd
		return nil
	}))
	w.alongside(func() {
		c, err := net.DialTimeout("tcp", ln.Addr().String(), patience)
		if !assert.NoError(t, err) {
			return
		}
		defer c.Close()
		fd := <-fds
		_, err = unix.Write(fd, []byte("hi"))
		assert.NoError(t, err)
		buf := make([]byte, 2)
		_, err = io.ReadFull(c, buf)
		assert.NoError(t, err)
		assert.NoError(t, unix.Close(fd))
	})
}

// turnAway serves ln by closing every connection, and counts them. It has asked
// the empty queue already, which it does before it waits for the first time.
func (w *world) turnAway(ln *TCPListener, accepted *int) *sm.Task {
	serve := w.Spawn(NewServe(ln, func(c *TCPConn) sm.Frame {
		*accepted++
		assert.NoError(w.t, c.Close())
		return nil
	}))
	w.turns(1)
	return serve
}

// Accepting costs nearly as much when nobody waits: connections that come one by
// one must not be asked after each time.
func TestServeRarelyAsksAnEmptyQueue(t *testing.T) {
	w := newFaultyLoop(t)
	ln := w.listen(ListenOptions{})
	accepted := 0
	serve := w.turnAway(ln, &accepted)
	const connections = 60
	calls := w.faults.during(func() {
		for i := range connections {
			p, err := net.DialTimeout("tcp", ln.Addr().String(), patience)
			require.NoError(t, err)
			w.until("accepted", func() bool { return accepted == i+1 })
			w.turns(2)
			require.NoError(t, p.Close())
		}
	}, callAccept)
	assert.LessOrEqual(t, calls, connections*5/4)
	serve.Destroy()
}

// And a crowd must not wait for a turn each.
func TestServeTakesACrowdInFewTurns(t *testing.T) {
	w := newFaultyLoop(t)
	ln := w.listen(ListenOptions{})
	accepted := 0
	serve := w.turnAway(ln, &accepted)
	const connections = 400
	for range connections {
		p, err := net.DialTimeout("tcp", ln.Addr().String(), patience)
		require.NoError(t, err)
		defer p.Close()
	}
	waits := w.faults.during(func() {
		w.until("all are accepted", func() bool { return accepted == connections })
	}, callPollWait)
	assert.LessOrEqual(t, waits, 20)
	serve.Destroy()
}
