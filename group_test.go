//go:build linux || darwin

package stepio

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// reportLog is a report handler for loops that run side by side.
type reportLog struct {
	mu   sync.Mutex
	errs []error
}

func (r *reportLog) report(_ *sm.Task, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reportLog) take() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := r.errs
	r.errs = nil
	return errs
}

// newTestGroup is a group in check mode that is stopped and joined when the
// test has ended, and that has to have nothing to report by then.
func newTestGroup(t testing.TB, n int) (*Group, *reportLog) {
	log := new(reportLog)
	g, err := NewGroup(n, WithChecks(), WithReport(log.report))
	require.NoError(t, err)
	t.Cleanup(func() {
		g.Stop()
		within(t, "Join", func() { assert.NoError(t, g.Join()) })
		assert.Empty(t, log.take(), "not expected: reports")
	})
	return g, log
}

// dialAndRead is what a client of addr reads until the end of input.
func dialAndRead(addr netip.AddrPort) (string, error) { return dialAndReadFor(addr, patience) }

// dialAndReadFor is dialAndRead by a client that gives up.
func dialAndReadFor(addr netip.AddrPort, patience time.Duration) (string, error) {
	c, err := net.DialTimeout("tcp", addr.String(), patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	data, err := io.ReadAll(c)
	return string(data), err
}

// greeter says who it is and closes the connection.
func greeter(c *TCPConn, who string) *fake {
	var out WriteAll
	f := script(func(*sm.Task) sm.Await {
		out.Start(c, []byte(who))
		return sm.Done
	}, out.Step)
	f.close = c.Close
	return f
}

func TestGroupNextIsRoundRobin(t *testing.T) {
	g, _ := newTestGroup(t, 3)
	assert.Equal(t, 3, g.Len())
	first := []*Loop{g.Next(), g.Next(), g.Next()}
	assert.NotSame(t, first[0], first[1])
	assert.NotSame(t, first[1], first[2])
	assert.NotSame(t, first[0], first[2])
	assert.Same(t, first[0], g.Next())

	g, _ = newTestGroup(t, 4)
	counts := make(map[*Loop]int)
	var mu sync.Mutex
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 100 {
				l := g.Next()
				mu.Lock()
				counts[l]++
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	require.Len(t, counts, 4)
	for _, n := range counts {
		assert.Equal(t, 200, n)
	}
}

func TestGroupHasALoopAProcessor(t *testing.T) {
	g, _ := newTestGroup(t, 0)
	assert.Equal(t, runtime.GOMAXPROCS(0), g.Len())
}

func TestGroupEach(t *testing.T) {
	g, _ := newTestGroup(t, 4)
	var order []int
	goroutines := make(map[uint64]bool)
	require.NoError(t, g.Each(func(i int, l *Loop) error {
		assert.Same(t, g.loops[i], l)
		order = append(order, i)
		goroutines[goroutineID()] = true
		l.Spawn(script()) // on that loop: the checks say nothing
		return nil
	}))
	assert.Equal(t, []int{0, 1, 2, 3}, order, "one after the other")
	assert.Len(t, goroutines, 4)

	order = nil
	assert.Equal(t, io.ErrUnexpectedEOF, g.Each(func(i int, _ *Loop) error {
		order = append(order, i)
		if i == 1 {
			return io.ErrUnexpectedEOF
		}
		return nil
	}))
	assert.Equal(t, []int{0, 1}, order, "the first error ends it")

	order = nil
	var thrown *sm.PanicError
	assert.ErrorAs(t, g.Each(func(i int, _ *Loop) error {
		order = append(order, i)
		panic("thrown")
	}), &thrown)
	assert.Equal(t, "thrown", thrown.Value)
	assert.Equal(t, []int{0}, order)
	assert.NoError(t, g.Each(func(int, *Loop) error { return nil }), "the loops live on")

	g.Stop()
	assert.Equal(t, ErrLoopClosed, g.Each(func(int, *Loop) error { t.Error("ran"); return nil }))
	require.NoError(t, g.Join())
	assert.Equal(t, ErrLoopClosed, g.Each(func(int, *Loop) error { t.Error("ran"); return nil }))
}

func TestGroupEachDuringStop(t *testing.T) {
	for range 50 {
		g, _ := newTestGroup(t, 2)
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for {
					if err := g.Each(func(int, *Loop) error { return nil }); err != nil {
						assert.Equal(t, ErrLoopClosed, err)
						return
					}
				}
			})
		}
		runtime.Gosched()
		g.Stop()
		within(t, "every Each", callers.Wait)
		require.NoError(t, g.Join())
	}
}

// One acceptor, which hands descriptors to the loops in turn.
func TestGroupAcceptorHandsDescriptorsToNext(t *testing.T) {
	g, log := newTestGroup(t, 3)
	addr := acceptFor(t, g)
	counts := make(map[string]int)
	for range 30 {
		who, err := dialAndRead(addr)
		require.NoError(t, err)
		counts[who]++
	}
	assert.Equal(t, map[string]int{"loop 0": 10, "loop 1": 10, "loop 2": 10}, counts)
	g.Stop()
	require.NoError(t, g.Join())
	assert.Empty(t, log.take())
}

// acceptFor starts an acceptor on the group's first loop.
func acceptFor(t testing.TB, g *Group) (addr netip.AddrPort) {
	require.NoError(t, g.loops[0].call(func() error {
		ln, err := ListenTCP(g.loops[0], loopback, ListenOptions{})
		if err != nil {
			return err
		}
		addr = ln.Addr()
		g.loops[0].Spawn(&handOver{ln: ln, group: g})
		return nil
	}))
	return addr
}

// call runs fn on the loop and waits for it.
func (l *Loop) call(fn func() error) error {
	done := make(chan error, 1)
	if err := l.Post(func() { done <- fn() }); err != nil {
		return err
	}
	return <-done
}

type handOver struct {
	ln    *TCPListener
	group *Group
	err   error
}

func (h *handOver) Step(*sm.Task) sm.Await {
	for {
		fd, err := h.ln.AcceptFD()
		if err == ErrWouldBlock {
			return h.ln.Readable()
		}
		if err != nil {
			h.err = err
			return sm.Done
		}
		next := h.group.Next()
		err = next.Post(func() {
			for i, l := range h.group.loops {
				if l == next {
					next.Spawn(greeter(NewTCPConn(next, fd), fmt.Sprintf("loop %d", i)))
				}
			}
		})
		if err != nil { // that loop was stopped: the descriptor is still ours
			h.err = errors.Join(err, unix.Close(fd))
			return sm.Done
		}
	}
}

func (h *handOver) Err() error   { return h.err }
func (h *handOver) Close() error { return h.ln.Close() }

// Whenever the group is stopped, no descriptor and no client is forgotten.
func TestGroupStopDuringHandOver(t *testing.T) {
	before := openFDs()
	for range 30 {
		g, log := newTestGroup(t, 2)
		addr := acceptFor(t, g)
		var clients sync.WaitGroup
		var served atomic.Int64
		for range 4 {
			clients.Go(func() {
				for {
					// A client whose handshake ends while the listener is being closed may
					// be left with a connection that has no other end in the kernel, and
					// hears of it only when it sends: such a client gives up.
					who, err := dialAndReadFor(addr, patience/10)
					if err != nil || who == "" {
						return // reset, refused, closed unserved, or given up
					}
					served.Add(1)
				}
			})
		}
		for served.Load() < 3 {
			runtime.Gosched()
		}
		g.Stop()
		require.NoError(t, g.Join())
		within(t, "every client", clients.Wait)
		for _, err := range log.take() { // of the acceptor, at most
			assert.ErrorIs(t, err, ErrLoopClosed)
		}
	}
	assert.LessOrEqual(t, len(openFDs()), len(before))
}

func TestGroupStopAndJoinFromManyGoroutines(t *testing.T) {
	goroutines, fds := runtime.NumGoroutine(), openFDs()
	g, _ := newTestGroup(t, 3)
	closes := 0
	require.NoError(t, g.loops[0].call(func() error {
		g.loops[0].Spawn(&fake{close: func() error { closes++; return nil }})
		return nil
	}))
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			g.Stop()
			assert.NoError(t, g.Join())
			assert.Equal(t, 1, closes, "what is parked is closed when any Join returns")
		})
	}
	within(t, "every Join", callers.Wait)
	g.Stop()
	assert.NoError(t, g.Join(), "once more")
	assert.Equal(t, ErrLoopClosed, g.Next().Post(func() { t.Error("ran") }))
	for end := time.Now().Add(patience); runtime.NumGoroutine() > goroutines && time.Now().Before(end); {
		runtime.Gosched()
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	assert.LessOrEqual(t, len(openFDs()), len(fds))
}

// A group must not go on with some of its loops only.
func TestGroupLoopThatFailsStopsTheOthers(t *testing.T) {
	f := newFaults(t)
	f.fail(callPollWait, unix.EBADF)
	made := 0
	g, err := NewGroup(3, func(c *loopConfig) {
		if made++; made == 2 {
			c.kernel = f
		}
	})
	require.NoError(t, err)
	within(t, "Join, without Stop", func() { assert.ErrorIs(t, g.Join(), unix.EBADF) })
	assert.ErrorIs(t, g.Join(), unix.EBADF, "at every call")
	for range 3 {
		assert.Equal(t, ErrLoopClosed, g.Next().Post(func() { t.Error("ran") }))
	}
}

func TestGroupLoopThatIsStoppedStopsTheOthers(t *testing.T) {
	g, _ := newTestGroup(t, 3)
	g.Next().Stop()
	within(t, "Join", func() { assert.NoError(t, g.Join()) })
}

// As testing's FailNow does, in a function that was posted.
func TestGroupLoopThatExits(t *testing.T) {
	g, err := NewGroup(3)
	require.NoError(t, err)
	err = g.Each(func(int, *Loop) error { runtime.Goexit(); return nil })
	assert.Equal(t, errLoopGoexit, err)
	within(t, "Join", func() { assert.ErrorIs(t, g.Join(), errLoopGoexit) })
}

func TestNewGroupThatLacksDescriptors(t *testing.T) {
	before := len(openFDs())
	restore := lowerFDLimit(t, 5) // a loop needs two or three
	g, err := NewGroup(4)
	restore()
	assert.Nil(t, g)
	assert.ErrorIs(t, err, unix.EMFILE)
	assert.Equal(t, before, len(openFDs()))
}

// What the original does: a post after stop is accepted, and never run.
func TestDefectPostAfterStopIsAcceptedAndNeverRun(t *testing.T) {
	for range 50 {
		g, err := NewGroup(2)
		require.NoError(t, err)
		var accepted, ran atomic.Int64
		var posters, begun sync.WaitGroup
		for range 4 {
			begun.Add(1)
			posters.Go(func() {
				for n := 0; ; n++ {
					if n == 1 {
						begun.Done()
					}
					switch err := g.Next().Post(func() { ran.Add(1) }); err {
					case nil:
						accepted.Add(1)
					case ErrQueueFull:
						runtime.Gosched()
					default:
						assert.Equal(t, ErrLoopClosed, err)
						return
					}
				}
			})
		}
		begun.Wait()
		g.Stop()
		require.NoError(t, g.Join())
		ranAtJoin := ran.Load()
		posters.Wait()
		assert.Equal(t, accepted.Load(), ranAtJoin, "accepted means run, before Join returns")
		assert.Equal(t, ranAtJoin, ran.Load())
	}
}
