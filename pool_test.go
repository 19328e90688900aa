package stepio

import (
	"bytes"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newTestPool is a pool that is stopped and joined when the test has ended.
func newTestPool(t testing.TB, workers, queue int) *Pool {
	p := NewPool(workers, queue)
	t.Cleanup(func() {
		p.Stop()
		within(t, "Join", p.Join)
	})
	return p
}

// within fails the test when fn does not return.
func within(t testing.TB, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	receives(t, what, done)
}

// receives fails the test when nothing comes.
func receives[T any](t testing.TB, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		require.FailNow(t, "waited in vain: "+what)
	}
	return v
}

// gate holds up the functions that pass it, until it is opened. It must be
// made after the pool, so that it is opened before the pool is joined.
type gate struct {
	entered chan struct{}
	open    chan struct{}
	once    sync.Once
}

func newGate(t testing.TB) *gate {
	g := &gate{entered: make(chan struct{}, 1000), open: make(chan struct{})}
	t.Cleanup(g.lift)
	return g
}

func (g *gate) pass() {
	g.entered <- struct{}{}
	<-g.open
}

func (g *gate) lift() { g.once.Do(func() { close(g.open) }) }

// busyPool is a pool of one worker, which is held up at the gate.
func busyPool(t testing.TB, queue int) (*Pool, *gate) {
	p := newTestPool(t, 1, queue)
	g := newGate(t)
	require.NoError(t, p.TrySubmit(g.pass))
	receives(t, "the worker is busy", g.entered)
	return p, g
}

// captureLog redirects log/slog, where a pool reports what nobody waits for.
func captureLog(t testing.TB) *logBuffer {
	b := new(logBuffer)
	was := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(b, nil)))
	t.Cleanup(func() { slog.SetDefault(was) })
	return b
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestNewPoolNeedsWorkersAndAQueue(t *testing.T) {
	for _, c := range []struct{ workers, queue int }{{0, 1}, {1, 0}, {-1, 1}, {1, -1}} {
		assert.PanicsWithValue(t, "stepio: NewPool: workers and queue must be positive", func() { NewPool(c.workers, c.queue) })
	}
}

func TestPoolTrySubmitNilPanics(t *testing.T) {
	p := newTestPool(t, 1, 1)
	assert.PanicsWithValue(t, "stepio: Pool.TrySubmit: nil function", func() { _ = p.TrySubmit(nil) })
}

func TestPoolRunsAsManyAsThereAreWorkers(t *testing.T) {
	p := newTestPool(t, 3, 10)
	g := newGate(t)
	for range 3 {
		require.NoError(t, p.TrySubmit(g.pass))
	}
	for range 3 {
		receives(t, "all three run side by side", g.entered)
	}
	require.NoError(t, p.TrySubmit(g.pass))
	assert.Empty(t, g.entered, "the fourth waits for a worker")
	g.lift()
	receives(t, "the fourth runs", g.entered)
}

func TestPoolIsFirstInFirstOutAndBounded(t *testing.T) {
	const queue = 5
	p, g := busyPool(t, queue)
	var order []int
	for i := range queue {
		require.NoError(t, p.TrySubmit(func() { order = append(order, i) }))
	}
	assert.Equal(t, ErrQueueFull, p.TrySubmit(func() { t.Error("ran") }))
	g.lift()
	p.Stop()
	within(t, "Join", p.Join)
	assert.Equal(t, []int{0, 1, 2, 3, 4}, order)
}

// What the original does: the callback's exception ends the worker's thread.
func TestDefectCallbackThatThrowsEndsItsWorker(t *testing.T) {
	for name, callback := range map[string]func(){
		"a panic":              func() { panic("thrown") },
		"a panic with nil":     func() { panic(nil) },
		"a panic in a defer":   func() { defer func() { panic("again") }(); panic("thrown") },
		"a runtime error":      func() { var none []int; _ = none[len(none)] },
		"the goroutine's exit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			log := captureLog(t)
			p := newTestPool(t, 1, 100)
			ran := make(chan struct{}, 100)
			for range 10 {
				require.NoError(t, p.TrySubmit(callback))
				require.NoError(t, p.TrySubmit(func() { ran <- struct{}{} }))
			}
			for range 10 {
				receives(t, "the worker lives on", ran)
			}
			if name != "the goroutine's exit" {
				assert.Contains(t, log.String(), "stepio: panic")
			}
		})
	}
}

func TestPoolStopDrainsAndJoinLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	p := NewPool(4, 1000)
	var ran atomic.Int64
	for range 1000 {
		require.NoError(t, p.TrySubmit(func() { runtime.Gosched(); ran.Add(1) }))
	}
	p.Stop()
	p.Stop()
	assert.Equal(t, ErrPoolClosed, p.TrySubmit(func() { t.Error("ran") }))
	within(t, "Join", p.Join)
	assert.EqualValues(t, 1000, ran.Load())
	within(t, "Join again", p.Join)
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before && time.Now().Before(end); {
		runtime.Gosched() // what has called Done needs a moment to be gone
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), before)
}

func TestPoolJoinFromManyGoroutines(t *testing.T) {
	p, g := busyPool(t, 1)
	var joiners sync.WaitGroup
	for range 8 {
		joiners.Go(func() { p.Stop(); p.Join() })
	}
	g.lift()
	within(t, "every Join", joiners.Wait)
}

// Every function whose submission was answered with nil has run when Join
// returns, and no other.
func TestPoolSubmitDuringStop(t *testing.T) {
	for range 50 {
		p := NewPool(2, 64)
		const submitters = 8
		var accepted, ran atomic.Int64
		var begun, done sync.WaitGroup
		for range submitters {
			begun.Add(1)
			done.Go(func() {
				for n := 0; ; n++ {
					if n == 1 {
						begun.Done()
					}
					err := p.TrySubmit(func() { ran.Add(1) })
					if errors.Is(err, ErrPoolClosed) {
						return
					}
					if err == nil {
						accepted.Add(1)
					} else {
						assert.Equal(t, ErrQueueFull, err)
						runtime.Gosched()
					}
				}
			})
		}
		begun.Wait()
		p.Stop()
		within(t, "Join", p.Join)
		ranAtJoin := ran.Load()
		done.Wait()
		assert.Equal(t, accepted.Load(), ranAtJoin)
		assert.Equal(t, ranAtJoin, ran.Load())
	}
}

func TestPoolFunctionsMaySubmitAndStop(t *testing.T) {
	p := newTestPool(t, 1, 2)
	ran := make(chan error, 3)
	require.NoError(t, p.TrySubmit(func() {
		ran <- p.TrySubmit(func() {
			p.Stop()
			ran <- p.TrySubmit(func() {})
		})
	}))
	assert.NoError(t, receives(t, "the first", ran))
	assert.Equal(t, ErrPoolClosed, receives(t, "the second", ran))
	within(t, "Join", p.Join)
}
