//go:build linux || darwin

package stepio

import (
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

func (w *world) listen(options ListenOptions) *TCPListener {
	ln, err := ListenTCP(w.Loop, loopback, options)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { // the loop is closed later: this goroutine owns it, unless the test let it run
		if w.stopped == nil {
			assert.NoError(w.t, ln.Close())
		}
	})
	return ln
}

// acceptor accepts into conns, with one of the three, until it is destroyed.
type acceptor struct {
	name   string
	accept func(ln *TCPListener) ([]*TCPConn, error)
	wait   func(ln *TCPListener) sm.Await
}

var acceptors = []acceptor{
	{"Accept", func(ln *TCPListener) ([]*TCPConn, error) {
		c, err := ln.Accept()
		if err != nil {
			return nil, err
		}
		return []*TCPConn{c}, nil
	}, (*TCPListener).Readable},
	{"AcceptFD", func(ln *TCPListener) ([]*TCPConn, error) {
		fd, err := ln.AcceptFD()
		if err != nil {
			return nil, err
		}
		return []*TCPConn{NewTCPConn(ln.loop, fd)}, nil
	}, (*TCPListener).Readable},
	{"AcceptET", func(ln *TCPListener) ([]*TCPConn, error) { return ln.AcceptET(nil) }, (*TCPListener).ReadableET},
}

// accepting is a task that accepts until accepting fails; err is that failure.
func (w *world) accepting(ln *TCPListener, a acceptor, conns *[]*TCPConn, failure *error) *fake {
	return w.spawn(func(*sm.Task) sm.Await {
		for {
			batch, err := a.accept(ln)
			*conns = append(*conns, batch...)
			w.conns = append(w.conns, batch...)
			if err == ErrWouldBlock {
				return a.wait(ln)
			}
			if err != nil {
				*failure = err
				return sm.Done
			}
		}
	})
}

func TestTCPListenerAccepts(t *testing.T) {
	for _, a := range acceptors {
		t.Run(a.name, func(t *testing.T) {
			w := newTestLoop(t)
			ln := w.listen(ListenOptions{})
			var conns []*TCPConn
			var failure error
			f := w.accepting(ln, a, &conns, &failure)
			w.turns(1)
			var peers []*peer
			for i := range 300 { // more than a step's budget of operations
				peers = append(peers, connect(t, ln.Addr()))
				if i%100 == 99 {
					w.until("accepted", func() bool { return len(conns) == i+1 })
				}
			}
			for _, c := range conns {
				assert.Equal(t, ln.Addr(), c.LocalAddr())
				on, err := unix.GetsockoptInt(c.FD(), unix.IPPROTO_TCP, unix.TCP_NODELAY)
				require.NoError(t, err)
				assert.NotZero(t, on, "Nagle's algorithm is off by default")
			}
			peers[7].send([]byte("seven"))
			name, errno := rawLocalAddr(peers[7].fd)
			require.Zero(t, errno)
			i := slices.IndexFunc(conns, func(c *TCPConn) bool { return c.RemoteAddr() == name })
			require.GreaterOrEqual(t, i, 0)
			arrived(conns[i])
			buf := make([]byte, 10)
			n, err := conns[i].Read(buf)
			require.NoError(t, err)
			assert.Equal(t, "seven", string(buf[:n]))

			require.NoError(t, ln.Close())
			w.ended(f.task)
			assert.ErrorIs(t, failure, net.ErrClosed)
			require.NoError(t, ln.Close(), "closing twice does nothing")
			assert.True(t, ln.Addr().IsValid(), "also after Close")
			assert.Equal(t, -1, ln.FD())
			_, err = ln.SyscallConn()
			assert.ErrorIs(t, err, net.ErrClosed)
		})
	}
}

func TestListenTCPOptions(t *testing.T) {
	t.Run("Delay leaves Nagle's algorithm on", func(t *testing.T) {
		w := newTestLoop(t)
		ln := w.listen(ListenOptions{Delay: true})
		connect(t, ln.Addr())
		var conns []*TCPConn
		var failure error
		w.accepting(ln, acceptors[0], &conns, &failure)
		w.until("accepted", func() bool { return len(conns) == 1 })
		on, err := unix.GetsockoptInt(conns[0].FD(), unix.IPPROTO_TCP, unix.TCP_NODELAY)
		require.NoError(t, err)
		assert.Zero(t, on)
	})
	t.Run("an address that is taken", func(t *testing.T) {
		w := newTestLoop(t)
		ln := w.listen(ListenOptions{})
		_, err := ListenTCP(w.Loop, ln.Addr(), ListenOptions{})
		assert.ErrorIs(t, err, syscall.EADDRINUSE)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		assert.Equal(t, "listen", op.Op)
		assert.Equal(t, net.TCPAddrFromAddrPort(ln.Addr()), op.Addr)
	})
	t.Run("ReusePort shares an address", func(t *testing.T) {
		w := newTestLoop(t)
		first := w.listen(ListenOptions{ReusePort: true})
		second, err := ListenTCP(w.Loop, first.Addr(), ListenOptions{ReusePort: true})
		require.NoError(t, err)
		assert.Equal(t, first.Addr(), second.Addr())
		var conns []*TCPConn
		var failure error
		w.accepting(first, acceptors[0], &conns, &failure)
		w.accepting(second, acceptors[2], &conns, &failure)
		for range 20 {
			connect(t, first.Addr())
		}
		w.until("all are accepted, by one or the other", func() bool { return len(conns) == 20 })
		require.NoError(t, second.Close())
	})
	t.Run("an address that is freed can be taken again", func(t *testing.T) {
		w := newTestLoop(t)
		ln := w.listen(ListenOptions{})
		peer := connect(t, ln.Addr())
		var conns []*TCPConn
		var failure error
		w.accepting(ln, acceptors[0], &conns, &failure)
		w.until("accepted", func() bool { return len(conns) == 1 })
		require.NoError(t, conns[0].Close()) // this end closes first: TIME_WAIT
		_, _ = peer.recvAll()
		peer.close()
		require.NoError(t, ln.Close())
		again, err := ListenTCP(w.Loop, ln.Addr(), ListenOptions{})
		require.NoError(t, err)
		require.NoError(t, again.Close())
	})
	t.Run("an address that is not valid", func(t *testing.T) {
		w := newTestLoop(t)
		_, err := ListenTCP(w.Loop, netip.AddrPort{}, ListenOptions{})
		assert.ErrorIs(t, err, syscall.EINVAL)
	})
	t.Run("an address of another machine", func(t *testing.T) {
		w := newTestLoop(t)
		_, err := ListenTCP(w.Loop, netip.MustParseAddrPort("192.0.2.1:0"), ListenOptions{})
		assert.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	})
	t.Run("a short backlog refuses nothing that it has room for", func(t *testing.T) {
		w := newTestLoop(t)
		ln := w.listen(ListenOptions{Backlog: 1})
		connect(t, ln.Addr())
		var conns []*TCPConn
		var failure error
		w.accepting(ln, acceptors[0], &conns, &failure)
		w.until("accepted", func() bool { return len(conns) == 1 })
	})
}

// A failed ListenTCP leaves no descriptor, whatever call it fails at.
func TestListenTCPThatFailsLeavesNothing(t *testing.T) {
	for _, call := range []callKind{callSocket, callSetOption, callBind, callListen, callAddr} {
		w := newFaultyLoop(t)
		before := len(openFDs())
		w.faults.fail(call, syscall.ENOBUFS)
		_, err := ListenTCP(w.Loop, loopback, ListenOptions{ReusePort: true})
		assert.ErrorIs(t, err, syscall.ENOBUFS)
		assert.Len(t, openFDs(), before)
	}
}

func TestListenTCPIPv6(t *testing.T) {
	w := newTestLoop(t)
	ln, err := ListenTCP(w.Loop, netip.MustParseAddrPort("[::]:0"), ListenOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, ln.Close()) }()
	var conns []*TCPConn
	var failure error
	w.accepting(ln, acceptors[0], &conns, &failure)
	connect(t, netip.AddrPortFrom(loopback.Addr(), ln.Addr().Port()))
	w.until("an IPv4 peer", func() bool { return len(conns) == 1 })
	assert.True(t, conns[0].RemoteAddr().Addr().Is4(), "an IPv4-mapped address is shown as IPv4")

	t.Run("on a machine without IPv6 it is the IPv4 wildcard", func(t *testing.T) {
		w := newFaultyLoop(t)
		w.faults.fail(callSocket, syscall.EAFNOSUPPORT)
		ln, err := ListenTCP(w.Loop, netip.MustParseAddrPort("[::]:0"), ListenOptions{})
		require.NoError(t, err)
		assert.True(t, ln.Addr().Addr().Is4())
		require.NoError(t, ln.Close())
	})
	t.Run("V6Only takes no IPv4 peer", func(t *testing.T) {
		w := newTestLoop(t)
		ln, err := ListenTCP(w.Loop, netip.MustParseAddrPort("[::]:0"), ListenOptions{V6Only: true})
		if err != nil {
			t.Skip("this machine has no IPv6: ", err)
		}
		dial := DialTCP(w.Loop, netip.AddrPortFrom(loopback.Addr(), ln.Addr().Port()), DialOptions{})
		w.ended(w.Spawn(script(dial.Step)))
		assert.ErrorIs(t, dial.Err(), syscall.ECONNREFUSED)
		require.NoError(t, ln.Close())
	})
}

// Closing a listener ends a rest, too.
func TestTCPListenerClosedWhileResting(t *testing.T) {
	w := newFaultyLoop(t)
	ln := w.listen(ListenOptions{})
	w.faults.fail(callAccept, syscall.EMFILE)
	var conns []*TCPConn
	var failure error
	f := w.accepting(ln, acceptors[0], &conns, &failure)
	w.turns(2)
	require.Len(t, w.starved, 1)
	require.NoError(t, ln.Close())
	w.ended(f.task)
	assert.ErrorIs(t, failure, net.ErrClosed)
	assert.Empty(t, w.starved)
}

// EMFILE on accept stopped the original's loop. Here the listener rests, the
// other tasks run, and accepting goes on by itself: also edge-triggered, where
// the kernel sends no second event.
func TestDefectAcceptStopsForLackOfDescriptors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		for _, a := range acceptors {
			t.Run(a.name+" after "+errno.Error(), func(t *testing.T) {
				w := newFaultyLoop(t)
				ln := w.listen(ListenOptions{})
				var conns []*TCPConn
				var failure error
				w.accepting(ln, a, &conns, &failure)
				other, otherPeer := w.pair()
				w.Spawn(&echoFrame{conn: other})
				w.turns(2)
				w.faults.fail(callAccept, errno, errno)
				start := time.Now()
				connect(t, ln.Addr())
				w.until("resting", func() bool { return len(w.starved) == 1 })
				w.alongside(func() {
					otherPeer.send([]byte("ping"))
					assert.Equal(t, "ping", string(otherPeer.recv(4)), "other tasks run meanwhile")
				})
				waits := w.faults.during(func() {
					w.until("accepted", func() bool { return len(conns) == 1 })
				}, callPollWait)
				assert.Less(t, waits, 20, "the loop waits rather than spins")
				assert.GreaterOrEqual(t, time.Since(start), minRest+2*minRest, "two rests, the second twice as long")
				connect(t, ln.Addr())
				w.until("accepted", func() bool { return len(conns) == 2 })
				assert.NoError(t, failure)
				assert.Zero(t, ln.pause, "success starts the rests anew")
			})
		}
	}
}

// The same with a limit that the kernel enforces.
func TestTrapAcceptWithNoDescriptorsLeft(t *testing.T) {
	for _, a := range acceptors {
		t.Run(a.name, func(t *testing.T) {
			w := newTestLoop(t)
			ln := w.listen(ListenOptions{})
			var conns []*TCPConn
			var failure error
			f := w.accepting(ln, a, &conns, &failure)
			var peers []*peer
			for range 5 {
				peers = append(peers, connect(t, ln.Addr()))
			}
			restore := lowerFDLimit(t, 2)
			w.until("the limit is reached", func() bool { return len(w.starved) == 1 })
			assert.Len(t, conns, 2, "as many as there is room for")

			// A descriptor that this loop closes ends the rest at once.
			ln.until = ln.until.Add(time.Hour)
			f.task.Waker().Wake() // it waits anew, for an hour
			w.turns(3)
			require.Len(t, w.starved, 1)
			require.NoError(t, conns[0].Close())
			w.until("the next is accepted", func() bool { return len(conns) == 3 })
			w.until("and the limit reached again", func() bool { return len(w.starved) == 1 })

			restore()
			w.until("the others are accepted", func() bool { return len(conns) == 5 })
			assert.NoError(t, failure)
			for _, p := range peers {
				p.close()
			}
		})
	}
}

// The step that ran out of descriptors closes one itself: the rest is over
// before the wait begins, and the edge must not be lost.
func TestTCPListenerRestEndedBeforeTheWait(t *testing.T) {
	w := newFaultyLoop(t)
	ln := w.listen(ListenOptions{})
	spare, _ := w.pair()
	var accepted []*TCPConn
	f := w.spawn(func(task *sm.Task) sm.Await {
		var err error
		accepted, err = ln.AcceptET(accepted)
		w.conns = append(w.conns, accepted...)
		switch {
		case err == nil:
			return sm.Done
		case task.Ready() != 0:
			require.NoError(t, spare.Close())
		}
		return ln.ReadableET()
	})
	w.turns(1)
	w.faults.fail(callAccept, syscall.EMFILE)
	connect(t, ln.Addr())
	w.ended(f.task)
	assert.Len(t, accepted, 1)
}

// Only who waits is told by an event that a queue was not empty after all.
func TestTCPListenerAcceptWithoutAWaitFindsAll(t *testing.T) {
	w := newTestLoop(t)
	ln := w.listen(ListenOptions{})
	for range 5 {
		p, err := net.DialTimeout("tcp", ln.Addr().String(), patience)
		require.NoError(t, err)
		defer p.Close()
		c, err := ln.Accept()
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	_, err := ln.Accept()
	assert.Equal(t, ErrWouldBlock, err)
}

// Nor does an event tell of more when the loop has stopped.
func TestTCPListenerOfAStoppedLoopGivesAllThatItsQueueHolds(t *testing.T) {
	w := newTestLoop(t)
	ln := w.listen(ListenOptions{})
	f := w.spawn(func(*sm.Task) sm.Await {
		c, err := ln.Accept()
		if err == nil {
			assert.NoError(t, c.Close())
		}
		return ln.Readable()
	})
	w.turns(1)
	for range 5 {
		p, err := net.DialTimeout("tcp", ln.Addr().String(), patience)
		require.NoError(t, err)
		defer p.Close()
	}
	w.turns(1)
	require.Equal(t, 2, f.steps)
	w.Stop()
	for range 4 {
		fd, err := ln.AcceptFD()
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
	}
	_, err := ln.AcceptFD()
	assert.Equal(t, ErrWouldBlock, err)
}

// One connection a wait is enough for an edge-triggered acceptor, too.
func TestTCPListenerAcceptKeepsTheEdge(t *testing.T) {
	w := newTestLoop(t)
	ln := w.listen(ListenOptions{})
	accepted := 0
	f := w.spawn(func(task *sm.Task) sm.Await {
		if task.Ready() != 0 {
			c, err := ln.Accept()
			require.NoError(t, err)
			w.conns = append(w.conns, c)
			if accepted++; accepted == 10 {
				return sm.Done
			}
		}
		return ln.ReadableET()
	})
	w.turns(1)
	for range 10 {
		connect(t, ln.Addr())
	}
	w.ended(f.task)
}

// What the network has done to a connection in the queue is not the listener's
// failure.
func TestDefectAcceptFailsWithItsConnection(t *testing.T) {
	for _, a := range acceptors {
		t.Run(a.name, func(t *testing.T) {
			w := newFaultyLoop(t)
			ln := w.listen(ListenOptions{})
			var conns []*TCPConn
			var failure error
			w.accepting(ln, a, &conns, &failure)
			w.turns(1)
			w.faults.fail(callAccept, syscall.ECONNABORTED, syscall.EPROTO, syscall.ENETDOWN, syscall.EPERM, syscall.EINTR,
				syscall.EOPNOTSUPP, errnoNoNet)
			start := time.Now()
			connect(t, ln.Addr())
			w.until("accepted", func() bool { return len(conns) == 1 })
			assert.NoError(t, failure)
			assert.Empty(t, w.starved)
			assert.Less(t, time.Since(start), patience/2)
		})
	}
	t.Run("an error that is the listener's ends it", func(t *testing.T) {
		w := newFaultyLoop(t)
		ln := w.listen(ListenOptions{})
		w.faults.fail(callAccept, syscall.EBADF)
		_, err := ln.Accept()
		assert.ErrorIs(t, err, syscall.EBADF)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		assert.Equal(t, "accept", op.Op)
	})
}

// AcceptET returns what it has when an error follows, and the error next time.
func TestTCPListenerAcceptETKeepsWhatItHas(t *testing.T) {
	w := newFaultyLoop(t)
	ln := w.listen(ListenOptions{})
	connect(t, ln.Addr())
	w.faults.fail(callAccept, 0, syscall.EINVAL, syscall.EINVAL)
	assert.True(t, pollFD(ln.FD(), unix.POLLIN, patience))
	conns, err := ln.AcceptET(nil)
	require.NoError(t, err)
	require.Len(t, conns, 1)
	w.conns = append(w.conns, conns...)
	again, err := ln.AcceptET(conns)
	assert.ErrorIs(t, err, syscall.EINVAL)
	assert.Equal(t, conns, again)
}
