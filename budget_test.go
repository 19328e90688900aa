//go:build linux || darwin

package stepio

import (
	"net"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// A task that never waits, only reads and yields, finds what arrives: nothing
// that is remembered of a drained socket may outlive what would end it.
func TestTrapAReadAndAYieldWithoutAnAwaitStillProgress(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(*TCPConn) sm.Await // what it waits for once, before
	}{
		{"never awaited", func(*TCPConn) sm.Await { return sm.Yield }},
		{"awaited once, level-triggered", (*TCPConn).Readable},
		{"awaited once, edge-triggered", (*TCPConn).ReadableET},
		{"awaited once for writing", (*TCPConn).Writable},
		{"awaited once for both", func(c *TCPConn) sm.Await { return c.Wait(sm.Read | sm.Write) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, peer := w.pair()
			got, awaited := 0, false
			f := w.spawn(func(task *sm.Task) sm.Await {
				for got < 10 {
					n, err := conn.Read(task.Scratch())
					got += n
					if err == ErrWouldBlock {
						if !awaited {
							awaited = true
							return c.first(conn)
						}
						return sm.Yield
					}
					require.NoError(t, err)
				}
				return sm.Done
			})
			w.turns(2)
			for i := range 10 {
				peer.send([]byte("x"))
				w.until("read", func() bool { return got == i+1 })
				w.turns(3)
			}
			w.ended(f.task)
		})
	}
}

// No peer can starve the others, whatever the handler does: one flooder moved
// another's median from 36 to 2,969 µs in the original.
func TestDefectAFlooderStarvesTheOthers(t *testing.T) {
	for _, c := range []struct {
		name       string
		ops, bytes int
		maxRead    int
		most       int // reads a step
		handler    func(conn *TCPConn, task *sm.Task) (sm.Await, bool)
	}{
		{"by its number of reads", 8, 0, 10, 8, func(conn *TCPConn, task *sm.Task) (sm.Await, bool) {
			_, err := conn.Read(task.Scratch())
			return conn.Readable(), err == ErrWouldBlock
		}},
		{"by its bytes", 0, 1000, 100, 10, func(conn *TCPConn, task *sm.Task) (sm.Await, bool) {
			_, err := conn.Read(task.Scratch())
			return conn.Readable(), err == ErrWouldBlock
		}},
		{"edge-triggered", 8, 0, 10, 8, func(conn *TCPConn, task *sm.Task) (sm.Await, bool) {
			_, err := conn.ReadET(task.Scratch()[:15])
			return conn.ReadableET(), err == ErrWouldBlock
		}},
		{"and whatever it answers when it is refused", 8, 0, 10, 8, func(conn *TCPConn, task *sm.Task) (sm.Await, bool) {
			_, err := conn.Read(task.Scratch())
			return sm.Park, err == ErrWouldBlock
		}},
		{"and however often it asks", 8, 0, 10, 8, func(conn *TCPConn, task *sm.Task) (sm.Await, bool) {
			refused := 0
			for refused < 100 {
				if _, err := conn.Read(task.Scratch()); err == ErrWouldBlock {
					refused++
				}
			}
			return sm.Park, true
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFaultyLoop(t, WithBudget(c.ops, c.bytes))
			w.faults.maxRead = c.maxRead
			conn, peer := w.pair()
			peer.send(make([]byte, 100*c.maxRead*c.most)) // all of it is there, and never ends here
			arrived(conn)
			flooder := w.spawn(func(task *sm.Task) sm.Await {
				for {
					if a, blocked := c.handler(conn, task); blocked {
						return a
					}
				}
			})
			other := w.spawn(func(*sm.Task) sm.Await { return sm.Yield })
			w.turns(1)
			for range 20 {
				steps := flooder.steps
				reads := w.faults.during(func() { w.turns(1) }, callRead)
				assert.Equal(t, steps+1, flooder.steps, "the flooder goes on in the next turn")
				assert.Equal(t, c.most, reads)
			}
			assert.GreaterOrEqual(t, other.steps, 20, "so does the other")
		})
	}
}

// A draining call that stops at the budget does not lose the edge.
func TestReadETStopsAtTheBudgetAndKeepsTheEdge(t *testing.T) {
	w := newTestLoop(t, WithBudget(3, 0))
	conn, peer := w.pair()
	got := 0
	f := w.spawn(func(task *sm.Task) sm.Await {
		for {
			n, err := conn.ReadET(task.Scratch()[:10])
			if got += n; got == 1000 {
				return sm.Done
			}
			if err != nil {
				require.Equal(t, ErrWouldBlock, err)
				return conn.ReadableET()
			}
		}
	})
	w.turns(1)
	peer.send(make([]byte, 1000))
	w.ended(f.task)
	assert.GreaterOrEqual(t, f.steps, 1000/30)
}

// Also when the task that was refused ends, and another waits for the rest.
func TestReadRefusedByTheBudgetLeavesTheEdgeToOthers(t *testing.T) {
	w := newTestLoop(t, WithBudget(1, 0))
	conn, peer := w.pair()
	first := w.spawn(func(task *sm.Task) sm.Await {
		if task.Ready() == 0 {
			return conn.ReadableET()
		}
		_, err := conn.Read(make([]byte, 1))
		require.NoError(t, err)
		w.slots.get(conn.FD()).edges = 0 // as if the read had been the step's last
		_, err = conn.Read(make([]byte, 1))
		require.Equal(t, ErrWouldBlock, err)
		return sm.Done
	})
	w.turns(1)
	peer.send([]byte("xy"))
	w.ended(first.task)
	o := &once{await: conn.ReadableET()}
	w.ended(w.Spawn(o))
	assert.Equal(t, sm.Read, o.ready)
}

func TestAcceptETStopsAtTheBudgetAndKeepsTheEdge(t *testing.T) {
	w := newFaultyLoop(t, WithBudget(3, 0))
	ln := w.listen(ListenOptions{})
	var conns []*TCPConn
	f := w.spawn(func(*sm.Task) sm.Await {
		batch, err := ln.AcceptET(nil)
		if err != nil {
			require.Equal(t, ErrWouldBlock, err)
		}
		assert.LessOrEqual(t, len(batch), 3)
		conns = append(conns, batch...)
		w.conns = append(w.conns, batch...)
		if len(conns) == 20 {
			return sm.Done
		}
		return ln.ReadableET()
	})
	w.turns(1)
	for range 20 {
		connect(t, ln.Addr())
	}
	w.ended(f.task)
}

// A write that the budget refuses goes on in the next turn, level and edge.
func TestWriteStopsAtTheBudgetAndGoesOn(t *testing.T) {
	for name, wait := range map[string]func(*TCPConn) sm.Await{
		"level-triggered": (*TCPConn).Writable, "edge-triggered": (*TCPConn).WritableET,
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t, WithBudget(2, 0))
			conn, peer := w.pair()
			sent := 0
			f := w.spawn(func(*sm.Task) sm.Await {
				for sent < 100 {
					n, err := conn.Write([]byte("x"))
					sent += n
					if err == ErrWouldBlock {
						return wait(conn)
					}
					require.NoError(t, err)
				}
				return sm.Done
			})
			w.ended(f.task)
			assert.Len(t, peer.recv(100), 100)
			assert.GreaterOrEqual(t, f.steps, 50)
		})
	}
}

// A task that writes to the connections of others may be stopped by its budget:
// whoever goes on with the rest finds the edge, though the room was there.
func TestWriteThatTheBudgetRefusesKeepsTheEdgeForAnotherTask(t *testing.T) {
	for name, write := range map[string]func(conn *TCPConn, udp *UDPConn) (n int, err error){
		"of a connection": func(conn *TCPConn, _ *UDPConn) (int, error) { return conn.Write([]byte("x")) },
		"of a datagram":   func(_ *TCPConn, udp *UDPConn) (int, error) { return udp.WriteTo([]byte("x"), udp.LocalAddr()) },
		"of a batch": func(_ *TCPConn, udp *UDPConn) (int, error) {
			return udp.WriteBatch([]Datagram{{Data: []byte("x"), Addr: udp.LocalAddr()}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t, WithBudget(1, 0))
			conn, _ := w.pair()
			udp, err := ListenUDP(w.Loop, loopback, ListenUDPOptions{})
			require.NoError(t, err)
			defer func() { assert.NoError(t, udp.Close()) }()
			for _, await := range []sm.Await{conn.WritableET(), udp.WritableET()} {
				w.ended(w.Spawn(&once{await: await})) // takes the edge that there is
			}
			hub := w.spawn(func(*sm.Task) sm.Await {
				n, err := write(conn, udp)
				assert.NoError(t, err)
				assert.Equal(t, 1, n)
				_, err = write(conn, udp)
				assert.Equal(t, ErrWouldBlock, err, "over its budget")
				return sm.Done
			})
			w.ended(hub.task)
			await := conn.WritableET()
			if name != "of a connection" {
				await = udp.WritableET()
			}
			o := &once{await: await}
			w.ended(w.Spawn(o))
			assert.Equal(t, sm.Write, o.ready)
		})
	}
}

// With a budget below nothing, every task would spin for ever.
func TestWithBudgetNegativePanics(t *testing.T) {
	assert.PanicsWithValue(t, "stepio: WithBudget: -1 operations, 0 bytes", func() { WithBudget(-1, 0) })
	assert.Panics(t, func() { WithBudget(0, -1) })
}

// Who sends while a flooder is stepped waits for the rest of that step, and not
// for the next: the poller is asked first.
func TestBudgetServesWhoCameBeforeTheFloodersNextStep(t *testing.T) {
	w := newTestLoop(t, WithBudget(2, 0))
	flooded, flooder := w.pair()
	conn, peer := w.pair()
	var order []string
	ping := w.spawn(func(*sm.Task) sm.Await {
		switch _, err := conn.Read(make([]byte, 1)); err {
		case nil:
			order = append(order, "ping")
			return sm.Done
		default:
			require.Equal(t, ErrWouldBlock, err)
			return conn.Readable()
		}
	})
	flooder.send(make([]byte, 1000))
	arrived(flooded)
	w.spawn(func(*sm.Task) sm.Await {
		order = append(order, "flood")
		if len(order) == 3 {
			peer.send([]byte("p"))
			arrived(conn)
		}
		for {
			if _, err := flooded.Read(make([]byte, 1)); err == ErrWouldBlock {
				return flooded.Readable()
			}
		}
	})
	w.ended(ping.task)
	assert.Equal(t, []string{"flood", "flood", "flood", "ping"}, order[:4])
}

// Outside a step there is no budget: a posted function may do as it likes.
func TestBudgetIsOfSteps(t *testing.T) {
	w := newFaultyLoop(t, WithBudget(2, 10))
	conn, peer := w.pair()
	peer.send(make([]byte, 1000))
	arrived(conn)
	got := 0
	w.spawn(func(task *sm.Task) sm.Await { _, _ = conn.Read(make([]byte, 1)); return sm.Yield })
	w.turns(2)
	require.NoError(t, w.Post(func() {
		for range 100 {
			n, err := conn.Read(make([]byte, 5))
			require.NoError(t, err)
			got += n
		}
	}))
	require.NoError(t, w.turn())
	assert.Equal(t, 500, got)
}

// Synchronous completions nested on the original's stack, so that one peer that
// sent fast enough overflowed it.
func TestDefectSynchronousCompletionsNest(t *testing.T) {
	w := newFaultyLoop(t, WithBudget(1<<30, 1<<30))
	w.faults.maxRead = 1
	conn, peer := w.pair()
	const n = 5_000
	peer.send(make([]byte, n))
	peer.closeWrite()
	depths, callers := map[int]bool{}, make([]uintptr, 1000)
	var echo echoFrame
	echo.conn = conn
	f := w.spawn(func(task *sm.Task) sm.Await {
		depths[runtime.Callers(0, callers)] = true
		return echo.Step(task)
	})
	var got int
	w.alongside(func() {
		data, _ := peer.recvUpTo(n)
		got = len(data)
	})
	assert.Equal(t, n, got)
	w.ended(f.task)
	assert.Len(t, depths, 1, "every step has the same depth")
}

// The original scanned all tasks several times a turn: one active among 10,000
// idle took seven times as long. Here an idle task is not looked at.
func TestDefectIdleTasksCostTime(t *testing.T) {
	perTurn := func(idle int) time.Duration {
		w := newTestLoop(t)
		tasks := make([]*fake, idle)
		for i := range tasks {
			if i%2 == 0 {
				tasks[i] = w.spawn(nil)
			} else {
				tasks[i] = w.spawn(func(task *sm.Task) sm.Await { return task.SleepUntil(task.Now().Add(time.Hour)) })
			}
		}
		w.spawn(func(*sm.Task) sm.Await { return sm.Yield })
		w.turns(2)
		best := time.Hour
		for range 50 {
			start := time.Now()
			for range 20 {
				require.NoError(t, w.turn())
			}
			best = min(best, time.Since(start)/20)
		}
		for _, f := range tasks {
			assert.Equal(t, 1, f.steps)
		}
		return best
	}
	alone, among := perTurn(0), perTurn(10_000)
	assert.Less(t, among, 3*alone+10*time.Microsecond, "%v alone, %v among 10,000", alone, among)
}

// An operation that finds that it would block has done nothing, and does not draw
// on the budget. Else a step that tries more of them than its budget has would be
// queued again at once, for ever, and never get to those behind: here, the input
// behind an output that is full, and with the default budget the one subscriber
// who reads behind 64 who do not.
func TestBudgetIsNotSpentOnWhatWouldBlock(t *testing.T) {
	t.Run("a full output does not hide the input", func(t *testing.T) {
		w := newFaultyLoop(t, WithBudget(1, 0))
		conn, peer := w.pair()
		var got []byte
		f := w.spawn(func(task *sm.Task) sm.Await {
			w.faults.fail(callWrite, syscall.EAGAIN)
			_, err := conn.Write([]byte("x"))
			assert.Equal(t, ErrWouldBlock, err)
			n, err := conn.Read(task.Scratch())
			got = append(got, task.Scratch()[:n]...)
			if err == nil {
				return sm.Done
			}
			return conn.Readable()
		})
		w.turns(10)
		assert.Less(t, f.steps, 10, "it waits")
		peer.send([]byte("in"))
		w.ended(f.task)
		assert.Equal(t, "in", string(got))
	})
	t.Run("those who do not read do not hide one who does", func(t *testing.T) {
		w := newFaultyLoop(t)
		var conns []*TCPConn
		for range sm.DefaultMaxOps {
			conn, _ := w.pair()
			conns = append(conns, conn)
		}
		last, peer := w.pair()
		conns = append(conns, last)
		sent := 0
		hub := w.spawn(func(*sm.Task) sm.Await {
			w.faults.script[callWrite] = slices.Repeat([]syscall.Errno{syscall.EAGAIN}, sm.DefaultMaxOps)
			for _, conn := range conns {
				n, err := conn.Write([]byte("x"))
				if sent += n; err == nil {
					return sm.Done
				}
			}
			return last.Writable()
		})
		w.turns(10)
		assert.True(t, hub.task.Ended())
		assert.Equal(t, 1, sent)
		assert.Equal(t, "x", string(peer.recv(1)))
	})
	for name, attempt := range map[string]func(l *Loop, ln *TCPListener, udp *UDPConn) error{
		"accepting": func(_ *Loop, ln *TCPListener, _ *UDPConn) error { _, err := ln.AcceptFD(); return err },
		"a datagram": func(_ *Loop, _ *TCPListener, udp *UDPConn) error {
			_, _, err := udp.ReadFrom(make([]byte, 1))
			return err
		},
		"a batch": func(_ *Loop, _ *TCPListener, udp *UDPConn) error { _, err := udp.ReadBatch(NewBatch(1, 1)); return err },
		"a datagram to be sent": func(_ *Loop, _ *TCPListener, udp *UDPConn) error {
			_, err := udp.WriteTo([]byte("x"), loopback)
			return err
		},
		"a batch to be sent": func(_ *Loop, _ *TCPListener, udp *UDPConn) error {
			_, err := udp.WriteBatch([]Datagram{{Data: []byte("x"), Addr: loopback}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newFaultyLoop(t, WithBudget(1, 0))
			ln := w.listen(ListenOptions{})
			udp, err := ListenUDP(w.Loop, loopback, ListenUDPOptions{})
			require.NoError(t, err)
			defer func() { assert.NoError(t, udp.Close()) }()
			f := w.spawn(func(*sm.Task) sm.Await {
				w.faults.fail(callSendTo, syscall.EAGAIN)
				assert.Equal(t, ErrWouldBlock, attempt(w.Loop, ln, udp))
				assert.True(t, w.sched.Admit(), "the operation has taken nothing")
				assert.False(t, w.sched.Admit())
				return sm.Done
			})
			w.ended(f.task)
		})
	}
}

// A read or a write of either sort draws on the budget of bytes, on the kernel, where what an operation
// nearly always brings is answered without sys, and on a simulated one.
func TestBudgetOfBytesIsDrawnByReadsAndWrites(t *testing.T) {
	const size, once, all = 100, 10, 35 // bytes an operation, operations a step, and in all
	kernels := []struct {
		name string
		loop func(*testing.T) *world
	}{
		{"kernel", func(t *testing.T) *world { return newTestLoop(t, WithBudget(0, once*size)) }},
		{"simulated", func(t *testing.T) *world { return newFaultyLoop(t, WithBudget(0, once*size)) }},
	}
	for _, kernel := range kernels {
		for name, start := range map[string]func(w *world) (try func() (int, error), wait func() sm.Await){
			"Read": func(w *world) (func() (int, error), func() sm.Await) {
				conn, peer := w.pair()
				peer.send(make([]byte, all*size))
				return func() (int, error) { return conn.Read(make([]byte, size)) }, conn.Readable
			},
			"Write": func(w *world) (func() (int, error), func() sm.Await) {
				conn, _ := w.pair()
				return func() (int, error) { return conn.Write(make([]byte, size)) }, conn.Writable
			},
			"ReadFrom": func(w *world) (func() (int, error), func() sm.Await) {
				server, client := udpListen(w, udpAny4, ListenUDPOptions{}), udpListen(w, udpAny4, ListenUDPOptions{})
				for range all {
					n, err := client.WriteTo(make([]byte, size), server.LocalAddr())
					require.NoError(w.t, err)
					require.Equal(w.t, size, n)
				}
				return func() (int, error) {
					n, _, err := server.ReadFrom(make([]byte, size+1))
					return n, err
				}, server.Readable
			},
			"WriteTo": func(w *world) (func() (int, error), func() sm.Await) {
				server, client := udpListen(w, udpAny4, ListenUDPOptions{}), udpListen(w, udpAny4, ListenUDPOptions{})
				return func() (int, error) { return client.WriteTo(make([]byte, size), server.LocalAddr()) }, client.Writable
			},
			"Write of a connected socket": func(w *world) (func() (int, error), func() sm.Await) {
				_, client := udpPair(w)
				return func() (int, error) { return client.Write(make([]byte, size)) }, client.Writable
			},
			"WriteTo on an IPv6 socket": func(w *world) (func() (int, error), func() sm.Await) {
				server, client := udpListen(w, udpAny6, ListenUDPOptions{}), udpListen(w, udpAny6, ListenUDPOptions{})
				return func() (int, error) { return client.WriteTo(make([]byte, size), server.LocalAddr()) }, client.Writable
			},
		} {
			t.Run(kernel.name+"/"+name, func(t *testing.T) {
				w := kernel.loop(t)
				try, wait := start(w)
				done, most := 0, 0
				f := w.spawn(func(*sm.Task) sm.Await {
					for step := 0; done < all; step++ {
						most = max(most, step)
						n, err := try()
						if err == ErrWouldBlock {
							return wait()
						}
						require.NoError(t, err)
						require.LessOrEqual(t, n, size)
						done++
					}
					return sm.Done
				})
				w.ended(f.task)
				assert.LessOrEqual(t, most, once)
			})
		}
	}
}

// What a write draws is what was sent, not what it was asked to send: on the kernel, where
// it is taken from the budget before the call.
func TestBudgetOfBytesIsDrawnByWhatWasSentOnly(t *testing.T) {
	const budget = 64 << 20 // more than the kernel keeps for one connection
	message := make([]byte, budget)
	for name, write := range map[string]func(w *world) int{
		"some of a stream": func(w *world) int {
			conn, _ := w.pair()
			n, err := conn.Write(message)
			assert.Equal(w.t, ErrWouldBlock, err, "nobody reads")
			assert.Positive(w.t, n)
			return n
		},
		"nothing of a stream": func(w *world) int {
			conn, _ := w.pair()
			require.NoError(w.t, conn.CloseWrite())
			n, err := conn.Write(message)
			assert.ErrorIs(w.t, err, syscall.EPIPE)
			return n
		},
		"nothing of a datagram": func(w *world) int {
			n, err := udpListen(w, udpAny4, ListenUDPOptions{}).WriteTo(message, loopback)
			assert.ErrorIs(w.t, err, syscall.EMSGSIZE)
			return n
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t, WithBudget(0, budget))
			f := w.spawn(func(*sm.Task) sm.Await {
				n := write(w)
				w.sched.Spend(budget - n - 1)
				assert.True(t, w.sched.Admit(), "a byte is left")
				w.sched.Spend(1)
				assert.False(t, w.sched.Admit())
				return sm.Done
			})
			w.ended(f.task)
		})
	}
}

// An address that is refused before the kernel is asked draws on the budget as well: who
// goes on after an error of one datagram is stopped.
func TestBudgetIsDrawnByDatagramsThatGoNowhere(t *testing.T) {
	w := newTestLoop(t, WithBudget(8, 0))
	bound := udpListen(w, udpAny6, ListenUDPOptions{})
	_, connected := udpPair(w)
	for name, c := range map[string]struct {
		conn *UDPConn
		to   netip.AddrPort
		want error
	}{
		"a zone that is no interface": {bound, netip.MustParseAddrPort("[fe80::1%nope]:9"), syscall.ENODEV},
		"no address":                  {bound, netip.AddrPort{}, syscall.EDESTADDRREQ},
		"another peer":                {connected, netip.MustParseAddrPort("127.0.0.1:9"), net.ErrWriteToConnected},
	} {
		tries := 0
		f := w.spawn(func(*sm.Task) sm.Await {
			for ; tries <= 8; tries++ {
				_, err := c.conn.WriteTo([]byte("x"), c.to)
				if err == ErrWouldBlock {
					return sm.Done
				}
				require.ErrorIs(t, err, c.want, name)
			}
			return sm.Done
		})
		w.ended(f.task)
		assert.Equal(t, 8, tries, name)
	}
}
