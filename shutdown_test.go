//go:build linux || darwin

package stepio

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// idleFrame is a fake that may be ended while it waits.
type idleFrame struct {
	fake
	busy bool
}

func (f *idleFrame) Idle() bool { return !f.busy }

// shutDown calls Shutdown on a goroutine of its own.
func shutDown(ctx context.Context, l interface{ Shutdown(context.Context) error }) <-chan error {
	result := make(chan error, 1)
	go func() { result <- l.Shutdown(ctx) }()
	return result
}

// got is what comes from a channel, within patience.
func got[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		require.FailNow(t, "waited in vain")
		panic("unreachable")
	}
}

func forTest(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

var expired = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func TestShutdownWaitsForTasksAndEndsIdleOnes(t *testing.T) {
	w := newTestLoop(t)
	idle, active := new(idleFrame), new(fake)
	draining := make(chan sm.Waker, 1)
	finish := false
	active.step = func(t *sm.Task) sm.Await {
		if finish {
			return sm.Done
		}
		if t.Draining() {
			select {
			case draining <- t.Waker():
			default:
			}
		}
		return sm.Park
	}
	first, second := w.Spawn(idle), w.Spawn(active)
	w.run()
	result := shutDown(forTest(t), w.Loop)
	waker := got(t, draining)
	assert.Empty(t, result, "one is active")
	require.NoError(t, w.Post(func() { // posts are taken meanwhile
		assert.True(t, first.Ended())
		w.Spawn(new(idleFrame)) // and tasks
		finish = true
		waker.Wake()
	}))
	assert.NoError(t, got(t, result))
	assert.NoError(t, w.joined())
	assert.Equal(t, 1, idle.closes)
	assert.Equal(t, 1, active.closes)
	assert.Equal(t, sm.ErrDestroyed, first.Err())
	assert.NoError(t, second.Err())
	assert.Equal(t, ErrLoopClosed, w.Post(func() {}))
	assert.NoError(t, w.Shutdown(expired), "again")
	assert.NoError(t, w.Close())
	assert.NoError(t, w.Shutdown(expired), "and after Close")
}

func TestShutdownDestroysStragglersWhenItsContextEnds(t *testing.T) {
	w := newTestLoop(t)
	straggler := new(fake)
	draining := make(chan struct{}, 8)
	straggler.step = func(t *sm.Task) sm.Await {
		if t.Draining() {
			draining <- struct{}{}
		}
		return sm.Park
	}
	var heir *sm.Task
	straggler.close = func() error { heir = w.Spawn(new(fake)); return nil }
	task := w.Spawn(straggler)
	w.run()
	ctx, cancel := context.WithCancel(context.Background())
	result, other := shutDown(ctx, w.Loop), shutDown(forTest(t), w.Loop)
	got(t, draining)
	cancel()
	assert.Equal(t, context.Canceled, got(t, result))
	assert.Contains(t, []error{ErrLoopClosed}, got(t, other), "the first ctx to end counts")
	assert.NoError(t, w.joined())
	assert.Equal(t, 1, straggler.closes)
	assert.Equal(t, sm.ErrDestroyed, task.Err())
	assert.True(t, heir.Ended(), "what its Close spawns is destroyed as well")
	assert.Equal(t, ErrLoopClosed, w.Shutdown(forTest(t)), "again")
}

func TestShutdownWithoutTasks(t *testing.T) {
	w := newTestLoop(t)
	w.run()
	assert.NoError(t, w.Shutdown(forTest(t)))
	assert.NoError(t, w.joined())
}

func TestShutdownBeforeRunWaitsForIt(t *testing.T) {
	w := newTestLoop(t)
	idle := new(idleFrame)
	w.Spawn(idle)
	result := shutDown(forTest(t), w.Loop)
	w.until("the shutdown has begun", func() bool { return w.sched.Draining() })
	assert.Empty(t, result)
	w.run()
	assert.NoError(t, got(t, result))
	assert.NoError(t, w.joined())
	assert.Equal(t, 1, idle.closes)
}

func TestShutdownOfALoopThatDoesNotRun(t *testing.T) {
	for name, end := range map[string]func(w *world) error{
		"and runs later":  func(w *world) error { return w.Run() },
		"and is closed":   func(w *world) error { return w.Close() },
		"and was stopped": func(w *world) error { w.Stop(); return w.Run() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			straggler := new(fake)
			w.Spawn(straggler)
			assert.Equal(t, context.Canceled, w.Shutdown(expired))
			assert.Zero(t, straggler.closes, "the loop is not Shutdown's to touch")
			assert.NoError(t, end(w))
			assert.Equal(t, 1, straggler.closes)
		})
	}
}

func TestShutdownAndStopAndClose(t *testing.T) {
	t.Run("after Stop", func(t *testing.T) {
		w := newTestLoop(t)
		w.Stop()
		assert.Equal(t, ErrLoopClosed, w.Shutdown(forTest(t)))
		assert.NoError(t, w.Run())
		assert.Equal(t, ErrLoopClosed, w.Shutdown(forTest(t)))
	})
	t.Run("after Close", func(t *testing.T) {
		w := newTestLoop(t)
		require.NoError(t, w.Close())
		assert.Equal(t, ErrLoopClosed, w.Shutdown(forTest(t)))
	})
	t.Run("Stop meanwhile", func(t *testing.T) {
		w := newTestLoop(t)
		f := new(fake)
		f.step = func(t *sm.Task) sm.Await {
			if t.Draining() {
				w.Stop()
			}
			return sm.Park
		}
		w.Spawn(f)
		w.run()
		assert.Equal(t, ErrLoopClosed, w.Shutdown(forTest(t)))
		assert.NoError(t, w.joined())
		assert.Zero(t, f.closes, "as after any Stop")
		assert.NoError(t, w.Close())
		assert.Equal(t, 1, f.closes)
	})
	t.Run("Close meanwhile, of a loop that never ran", func(t *testing.T) {
		w := newTestLoop(t)
		w.Spawn(new(fake))
		result := shutDown(forTest(t), w.Loop)
		w.until("it has begun", func() bool { return w.sched.Draining() })
		require.NoError(t, w.Close())
		assert.Equal(t, ErrLoopClosed, got(t, result))
	})
}

// Everything at once, from everywhere: each call returns, each frame is closed once.
func TestShutdownFromManyGoroutines(t *testing.T) {
	random := seededRand(t)
	for range 50 {
		w := newTestLoop(t)
		var frames []*idleFrame
		for range 8 {
			f := &idleFrame{busy: random.IntN(2) == 0}
			frames = append(frames, f)
			w.Spawn(f)
		}
		w.run()
		var calls sync.WaitGroup
		for range 4 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(2000))*time.Microsecond)
			calls.Go(func() {
				defer cancel()
				if err := w.Shutdown(ctx); err != nil && err != ErrLoopClosed {
					assert.ErrorIs(t, err, context.DeadlineExceeded)
				}
			})
		}
		if random.IntN(3) == 0 {
			calls.Go(w.Stop)
		}
		calls.Go(func() {
			if err := w.Close(); err != nil {
				assert.Equal(t, ErrLoopRunning, err)
			}
		})
		within(t, "the calls", calls.Wait)
		if err := w.joined(); err != nil { // Close may have been first
			assert.Equal(t, ErrLoopClosed, err)
		}
		require.NoError(t, w.Close())
		for _, f := range frames {
			assert.Equal(t, 1, f.closes)
		}
	}
}

func TestShutdownOnItsOwnLoopPanicsInCheckMode(t *testing.T) {
	w := newTestLoop(t)
	require.NoError(t, w.Post(func() { _ = w.Shutdown(context.Background()); t.Error("returned") }))
	require.NoError(t, w.Post(w.Stop))
	require.NoError(t, w.Run())
	reports := w.reported()
	require.Len(t, reports, 1)
	assert.ErrorContains(t, reports[0], "stepio: Loop.Shutdown: called on the loop")

	g, log := newTestGroup(t, 1)
	l := g.Next()
	done := make(chan struct{})
	require.NoError(t, l.Post(func() { defer close(done); _ = g.Shutdown(context.Background()) }))
	got(t, done)
	require.NoError(t, g.Shutdown(forTest(t)))
	assert.Len(t, log.take(), 1)
}

func TestShutdownServesWhoIsInTheQueue(t *testing.T) {
	w := newTestLoop(t)
	ln, err := ListenTCP(w.Loop, netip.MustParseAddrPort("127.0.0.1:0"), ListenOptions{})
	require.NoError(t, err)
	var clients []net.Conn
	for range 200 { // the loop does not run: they are in the queue
		c, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		clients = append(clients, c)
	}
	serve := w.Spawn(NewServe(ln, func(c *TCPConn) sm.Frame { return greeter(c, "served") }))
	result := shutDown(forTest(t), w.Loop)
	w.until("the shutdown has begun", func() bool { return w.sched.Draining() })
	w.run()
	for _, c := range clients {
		data, err := io.ReadAll(c)
		require.NoError(t, err)
		assert.Equal(t, "served", string(data))
	}
	assert.NoError(t, got(t, result))
	assert.NoError(t, serve.Err(), "nor was anything reported")
	assert.Equal(t, -1, ln.FD())
	_, err = net.Dial("tcp", ln.Addr().String())
	assert.Error(t, err, "nobody listens")
}

func TestShutdownEndsEveryKindOfAcceptor(t *testing.T) {
	w := newTestLoop(t)
	for name, accept := range map[string]func(ln *TCPListener) (int, sm.Await, error){
		"Accept": func(ln *TCPListener) (int, sm.Await, error) {
			c, err := ln.Accept()
			if err != nil {
				return 0, ln.Readable(), err
			}
			return 1, sm.Done, c.Close()
		},
		"AcceptET": func(ln *TCPListener) (int, sm.Await, error) {
			conns, err := ln.AcceptET(nil)
			for _, c := range conns {
				assert.NoError(t, c.Close())
			}
			return len(conns), ln.ReadableET(), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			ln, err := ListenTCP(w.Loop, netip.MustParseAddrPort("127.0.0.1:0"), ListenOptions{})
			require.NoError(t, err)
			accepted := 0
			var ended error
			task := w.spawn(func(*sm.Task) sm.Await {
				for {
					n, a, err := accept(ln)
					accepted += n
					if err == ErrWouldBlock {
						return a
					}
					if ended = err; err != nil {
						return sm.Done
					}
				}
			}).task
			w.settle()
			const clients = 3 // beyond what is known of the queue: no event has been seen
			for range clients {
				c, err := net.Dial("tcp", ln.Addr().String())
				require.NoError(t, err)
				defer c.Close()
			}
			w.sched.Drain()
			w.ended(task)
			assert.ErrorIs(t, ended, net.ErrClosed)
			assert.Equal(t, clients, accepted)
			assert.Equal(t, -1, ln.FD())
			_, err = ln.Accept()
			assert.ErrorIs(t, err, net.ErrClosed)
		})
	}
	assert.Zero(t, w.Tasks())
}

func TestShutdownReportsAListenerThatFails(t *testing.T) {
	w := newTestLoop(t)
	ln, err := ListenTCP(w.Loop, netip.MustParseAddrPort("127.0.0.1:0"), ListenOptions{})
	require.NoError(t, err)
	s := NewServe(ln, func(c *TCPConn) sm.Frame { return nil })
	task := w.Spawn(s)
	w.settle()
	require.NoError(t, ln.Close())
	w.ended(task)
	assert.ErrorIs(t, task.Err(), net.ErrClosed)
	assert.Len(t, w.reported(), 1, "closed, but not by a shutdown")
}

// A loop without tasks is not over while another one may hand it a connection.
func TestGroupShutdownKeepsLoopsForEachOther(t *testing.T) {
	g, _ := newTestGroup(t, 3)
	loops := []*Loop{g.Next(), g.Next(), g.Next()}
	handed := make(chan error, 1)
	hops := 0
	var hop func(at int) *fake
	hop = func(at int) *fake { // a task that is handed from loop to loop
		return script(func(t *sm.Task) sm.Await {
			if !t.Draining() {
				return sm.Park
			}
			if hops++; hops == 30 {
				handed <- nil
				return sm.Done
			}
			next := (at + 1) % len(loops)
			if err := loops[next].Post(func() { loops[next].Spawn(hop(next)) }); err != nil {
				handed <- err
			}
			return sm.Done
		})
	}
	require.NoError(t, loops[0].Post(func() { loops[0].Spawn(hop(0)) }))
	assert.NoError(t, g.Shutdown(forTest(t)))
	assert.NoError(t, got(t, handed))
	assert.NoError(t, g.Join())
	assert.NoError(t, g.Shutdown(expired), "again")
}

func TestGroupShutdownDestroysStragglersOfEveryLoop(t *testing.T) {
	g, _ := newTestGroup(t, 3)
	var closed atomic.Int32
	require.NoError(t, g.Each(func(i int, l *Loop) error {
		if i > 0 {
			l.Spawn(&fake{close: func() error { closed.Add(1); return nil }})
		}
		return nil
	}))
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	assert.Equal(t, context.DeadlineExceeded, g.Shutdown(ctx))
	assert.EqualValues(t, 2, closed.Load())
	assert.NoError(t, g.Join())
	assert.Equal(t, ErrLoopClosed, g.Shutdown(forTest(t)), "again")
}

// A loop that fails while the others have nothing left must not keep them.
func TestGroupShutdownOutlivesALoopThatStops(t *testing.T) {
	g, _ := newTestGroup(t, 2)
	loops := []*Loop{g.Next(), g.Next()}
	require.NoError(t, loops[0].Post(func() {
		loops[0].Spawn(&fake{step: func(t *sm.Task) sm.Await {
			if t.Draining() {
				loops[0].Stop()
			}
			return sm.Park
		}})
	}))
	assert.Equal(t, ErrLoopClosed, g.Shutdown(forTest(t)))
	assert.NoError(t, g.Join())
}

func TestCallIsAnsweredWhileTheLoopShutsDown(t *testing.T) {
	w := newTestLoop(t)
	held := make(chan struct{}, 1)
	release := false
	var holder sm.Waker
	w.spawn(func(t *sm.Task) sm.Await {
		if release {
			return sm.Done
		}
		if t.Draining() {
			holder = t.Waker()
			held <- struct{}{}
		}
		return sm.Park
	})
	w.run()
	result := shutDown(forTest(t), w.Loop)
	got(t, held)
	f := &answering{value: 7}
	v, err := Call(forTest(t), w.Loop, f)
	assert.NoError(t, err)
	assert.Equal(t, 7, v)
	_, err = Call(forTest(t), w.Loop, new(idleCallee))
	assert.Equal(t, sm.ErrDestroyed, err)
	require.NoError(t, w.Post(func() { release = true; holder.Wake() }))
	assert.NoError(t, got(t, result))
	_, err = Call(forTest(t), w.Loop, f)
	assert.True(t, errors.Is(err, ErrLoopClosed) && !errors.Is(err, os.ErrDeadlineExceeded))
}

// answering is a frame that returns its value.
type answering struct {
	sm.Returns[int]
	value int
}

func (a *answering) Step(*sm.Task) sm.Await { return a.Return(a.value) }

// idleCallee waits for ever, and is idle.
type idleCallee struct{ sm.Returns[int] }

func (*idleCallee) Step(*sm.Task) sm.Await { return sm.Park }
func (*idleCallee) Idle() bool             { return true }
