//go:build linux || darwin

package stepio

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

func TestLoopRunsSpawnedTasks(t *testing.T) {
	w := newTestLoop(t)
	f := script(func(*sm.Task) sm.Await { w.Stop(); return sm.Done })
	task := w.Spawn(f)
	assert.Zero(t, f.steps, "nothing runs before Run")
	require.NoError(t, w.Run())
	assert.Equal(t, 1, f.steps)
	assert.True(t, task.Ended())
	assert.Equal(t, 1, f.closes)
}

func TestLoopRunsOnce(t *testing.T) {
	w := newTestLoop(t)
	w.Stop()
	require.NoError(t, w.Run())
	assert.Equal(t, ErrLoopClosed, w.Run(), "a second Run")
	require.NoError(t, w.Close())
	assert.Equal(t, ErrLoopClosed, w.Run(), "Run after Close")
	require.NoError(t, w.Close(), "closing twice does nothing")
}

func TestLoopStopBeforeRunReturnsAtOnce(t *testing.T) {
	w := newTestLoop(t)
	posted := 0
	require.NoError(t, w.Post(func() { posted++ }))
	f := w.spawn(nil)
	w.Stop()
	require.NoError(t, w.Run())
	assert.Zero(t, f.steps, "no turn was made")
	assert.Equal(t, 1, posted, "what was posted before Stop runs all the same")
	require.NoError(t, w.Close())
	assert.Equal(t, 1, f.closes)
	assert.Equal(t, sm.ErrDestroyed, f.task.Err())
}

func TestLoopStopEndsAWait(t *testing.T) {
	w := newTestLoop(t)
	running := make(chan struct{})
	require.NoError(t, w.Post(func() { close(running) }))
	w.run()
	<-running
	w.Stop()
	assert.NoError(t, w.joined())
}

// A Stop that falls between Run's look at it and the wait rings no bell, since
// the loop was awake: the last look sees it.
func TestLoopStopBeforeTheWaitIsNotLost(t *testing.T) {
	w := newTestLoop(t)
	w.Loop.stopped.Store(true)
	returned := make(chan struct{})
	guard := time.AfterFunc(patience, func() {
		select {
		case <-returned:
		default:
			t.Error("lost")
			w.mail.notify()
		}
	})
	defer guard.Stop()
	require.NoError(t, w.turn())
	close(returned)
}

// Stop takes effect after the current turn: every task that was ready in it is
// stepped.
func TestTrapStopFromInsideAStep(t *testing.T) {
	w := newTestLoop(t)
	stopper := w.spawn(func(*sm.Task) sm.Await { w.Stop(); return sm.Yield })
	after := w.spawn(func(*sm.Task) sm.Await { return sm.Yield })
	require.NoError(t, w.Run())
	assert.Equal(t, 1, stopper.steps)
	assert.Equal(t, 1, after.steps, "the turn is finished")
	assert.Zero(t, stopper.closes, "what is left stays for Close")
	require.NoError(t, w.Close())
	assert.Equal(t, 1, stopper.closes)
	assert.Equal(t, 1, after.closes)
}

func TestTrapStopTwice(t *testing.T) {
	w := newTestLoop(t)
	w.run()
	w.Stop()
	w.Stop()
	assert.NoError(t, w.joined())
	w.Stop()
	require.NoError(t, w.Close())
	w.Stop()
}

func TestLoopCloseWhileRunningIsRefused(t *testing.T) {
	w := newTestLoop(t)
	answer := make(chan error, 1)
	require.NoError(t, w.Post(func() { answer <- w.Close() }))
	w.run()
	assert.Equal(t, ErrLoopRunning, <-answer, "from inside")
	assert.Equal(t, ErrLoopRunning, w.Close(), "from outside")
	w.Stop()
	assert.NoError(t, w.joined())
	assert.NoError(t, w.Close())
}

func TestLoopSpawnAfterCloseEndsAtOnce(t *testing.T) {
	w := newTestLoop(t)
	require.NoError(t, w.Close())
	f := w.spawn(nil)
	assert.True(t, f.task.Ended())
	assert.Equal(t, 1, f.closes)
	assert.Zero(t, f.steps)
}

// Every frame is closed once, and no descriptor and no goroutine is left.
func TestTrapLoopClosedWithTasksParked(t *testing.T) {
	goroutines, fds := runtime.NumGoroutine(), len(openFDs())
	w := newTestLoop(t)
	near, far := tcpPair(t)
	conn := newTCPConn(w.Loop, near, false)
	peer := newPeer(t, far)
	ln, err := ListenTCP(w.Loop, loopback, ListenOptions{})
	require.NoError(t, err)
	frames := []*fake{
		{step: func(*sm.Task) sm.Await { return conn.Readable() }, close: conn.Close},
		{step: func(*sm.Task) sm.Await { return ln.Readable() }, close: ln.Close},
		{step: func(*sm.Task) sm.Await { return sm.Park }},
		{step: func(*sm.Task) sm.Await { return sm.Park.By(time.Now().Add(time.Hour)) }},
		{step: func(*sm.Task) sm.Await { return sm.Yield }},
		{step: func(*sm.Task) sm.Await { return conn.Wait(sm.Read).By(time.Now().Add(time.Hour)) }},
	}
	dial := DialTCP(w.Loop, ln.Addr(), DialOptions{})
	frames = append(frames, &fake{step: dial.Step, close: dial.Close})
	late := new(fake)
	frames[2].close = func() error { w.Spawn(late); return nil } // a destructor that spawns
	for _, f := range frames {
		f.task = w.Spawn(f)
	}
	w.turns(1)
	require.NoError(t, w.Close())
	for i, f := range frames {
		assert.Equal(t, 1, f.closes, "frame %d", i)
		assert.Equal(t, sm.ErrDestroyed, f.task.Err(), "frame %d", i)
	}
	assert.Equal(t, 1, late.closes)
	assert.Zero(t, w.Tasks())
	peer.close()
	assert.Len(t, openFDs(), fds)
	assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
}

func TestTrapSpawnInsideAStep(t *testing.T) {
	w := newTestLoop(t)
	child := new(fake)
	stepsInTheTurn := -1
	parent := w.spawn(func(task *sm.Task) sm.Await {
		child.task = task.Spawn(child)
		return sm.Done
	})
	w.spawn(func(*sm.Task) sm.Await { stepsInTheTurn = child.steps; return sm.Done })
	w.turns(1)
	assert.True(t, parent.task.Ended())
	assert.Zero(t, stepsInTheTurn, "the child runs in the next turn")
	w.turns(1)
	assert.Equal(t, 1, child.steps)
	child.task.Destroy()
	assert.Equal(t, 1, child.closes)
}

// A spawned task's error vanished in the original.
func TestDefectASpawnedTasksErrorVanishes(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name  string
		frame *fake
		check func(t *testing.T, err error)
	}{
		{"a root frame's error", &fake{step: func(*sm.Task) sm.Await { return sm.Done }, err: boom},
			func(t *testing.T, err error) { assert.ErrorIs(t, err, boom) }},
		{"an error of Close", script(), func(t *testing.T, err error) { assert.ErrorIs(t, err, boom) }},
		{"a panic in a step", &fake{step: func(*sm.Task) sm.Await { panic(boom) }},
			func(t *testing.T, err error) {
				var p *sm.PanicError
				require.ErrorAs(t, err, &p)
				assert.ErrorIs(t, err, boom)
			}},
		{"the zero Await", &fake{step: func(*sm.Task) sm.Await { return sm.Await{} }},
			func(t *testing.T, err error) {
				var f *sm.ForgottenError
				require.ErrorAs(t, err, &f)
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			if strings.Contains(c.name, "Close") {
				c.frame.close = func() error { return boom }
			}
			other := w.spawn(func(*sm.Task) sm.Await { return sm.Yield })
			w.ended(w.Spawn(c.frame))
			reports := w.reported()
			require.Len(t, reports, 1)
			c.check(t, reports[0])
			before := other.steps
			w.turns(1)
			assert.Greater(t, other.steps, before, "other tasks go on")
			assert.Equal(t, 1, c.frame.closes)
		})
	}
}

// A callback that threw ended its worker.
func TestDefectACallbackThatPanicsEndsItsLoop(t *testing.T) {
	w := newTestLoop(t)
	ran := 0
	require.NoError(t, w.Post(func() { panic("boom") }))
	require.NoError(t, w.Post(func() { ran++ }))
	w.turns(1)
	assert.Equal(t, 1, ran)
	reports := w.reported()
	require.Len(t, reports, 1)
	var p *sm.PanicError
	require.ErrorAs(t, reports[0], &p)
	assert.Equal(t, "boom", p.Value)
}

// The task is nil when a posted function has panicked, and a handler that
// overlooks it panics itself.
func TestLoopSurvivesItsReportHandler(t *testing.T) {
	log := captureLog(t)
	w := newTestLoop(t, WithReport(func(task *sm.Task, _ error) { _ = task.Chain() }))
	ran := 0
	require.NoError(t, w.Post(func() { panic("boom") }))
	require.NoError(t, w.Post(func() { ran++ }))
	w.turns(1)
	assert.Equal(t, 1, ran)
	assert.Contains(t, log.String(), "boom", "what was to be reported")
	assert.Contains(t, log.String(), "nil pointer", "and the handler's panic")
}

// The clock is read once a turn, and a turn that follows a long wait does not
// see the time of the one before it.
func TestLoopNowIsThisTurns(t *testing.T) {
	w := newTestLoop(t)
	start := w.Now() // before the first turn, which waits
	var inPost, inStep, inStepAgain time.Time
	time.AfterFunc(5*time.Millisecond, func() {
		_ = w.Post(func() { inPost = w.Now() })
	})
	w.until("the post", func() bool { return !inPost.IsZero() })
	w.Spawn(script(func(task *sm.Task) sm.Await {
		inStep = task.Now()
		inStepAgain = w.Now()
		return sm.Done
	}))
	w.until("the step", func() bool { return !inStep.IsZero() })
	assert.GreaterOrEqual(t, inPost.Sub(start), 5*time.Millisecond, "in a posted function")
	assert.GreaterOrEqual(t, inStep.Sub(start), 5*time.Millisecond, "in a step")
	assert.Equal(t, inStep, inStepAgain)
}

// With work waiting, a turn does not wait, and the posted functions come before
// the tasks: they were told the time that had been asked for before the turn.
func TestPostIsToldTheTimeOfAnEarlierTurn(t *testing.T) {
	w := newTestLoop(t)
	before := w.Now()
	for time.Since(before) < 2*time.Millisecond {
		runtime.Gosched()
	}
	var inPost time.Time
	require.NoError(t, w.Post(func() { inPost = w.Now() }))
	w.Spawn(script(func(*sm.Task) sm.Await { return sm.Done }))
	w.turns(1)
	assert.GreaterOrEqual(t, inPost.Sub(before), 2*time.Millisecond)
}

// The original compacted its finished tasks while their destructors spawned.
func TestDefectDestructorsThatSpawnCorruptTheTasks(t *testing.T) {
	w := newTestLoop(t)
	var frames []*fake
	var spawnTwo func(depth int) func() error
	spawnTwo = func(depth int) func() error {
		return func() error {
			for range 2 {
				f := &fake{step: func(*sm.Task) sm.Await { return sm.Done }}
				if depth > 0 {
					f.close = spawnTwo(depth - 1)
				}
				frames = append(frames, f)
				f.task = w.Spawn(f)
			}
			return nil
		}
	}
	for range 10 {
		f := &fake{step: func(*sm.Task) sm.Await { return sm.Done }, close: spawnTwo(4)}
		frames = append(frames, f)
		f.task = w.Spawn(f)
	}
	w.until("all have ended", func() bool { return w.Tasks() == 0 })
	assert.Len(t, frames, 10*(1<<6-1))
	for _, f := range frames {
		assert.Equal(t, 1, f.steps)
		assert.Equal(t, 1, f.closes)
	}
}

func TestLoopDump(t *testing.T) {
	w := newTestLoop(t)
	r, _ := pipe(t)
	var o once
	o.await = w.Readable(r)
	w.Spawn(&o)
	w.spawn(nil)
	w.turns(1)
	var out bytes.Buffer
	require.NoError(t, w.Dump(&out))
	assert.Contains(t, out.String(), "2 tasks")
	assert.Contains(t, out.String(), "*stepio.once")
	assert.Contains(t, out.String(), "read")
	assert.Contains(t, out.String(), "park")
}

func TestLoopChecksFindAnotherGoroutine(t *testing.T) {
	w := newTestLoop(t)
	c, _ := w.pair()
	ln, err := ListenTCP(w.Loop, loopback, ListenOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, ln.Close()) }()
	for name, call := range map[string]func(){
		"Loop.Spawn":              func() { w.Spawn(new(fake)) },
		"Loop.Remove":             func() { _ = w.Remove(0) },
		"Loop.Dump":               func() { _ = w.Dump(new(bytes.Buffer)) },
		"TCPConn.Read":            func() { _, _ = c.Read(make([]byte, 1)) },
		"TCPConn.Write":           func() { _, _ = c.Write(make([]byte, 1)) },
		"TCPConn.Close":           func() { _ = c.Close() },
		"TCPConn.SetDeadline":     func() { _ = c.SetDeadline(time.Time{}) },
		"TCPConn.CloseWrite":      func() { _ = c.CloseWrite() },
		"TCPConn.Set":             func() { _ = c.SetNoDelay(true) },
		"TCPConn.Detach":          func() { _, _ = c.Detach() },
		"TCPConn.SyscallConn":     func() { _, _ = c.SyscallConn() },
		"TCPListener.Accept":      func() { _, _ = ln.Accept() },
		"TCPListener.Close":       func() { _ = ln.Close() },
		"TCPListener.SyscallConn": func() { _, _ = ln.SyscallConn() },
		"ListenTCP":               func() { _, _ = ListenTCP(w.Loop, loopback, ListenOptions{}) },
		"NewTCPConn":              func() { NewTCPConn(w.Loop, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			panicked := make(chan any, 1)
			go func() {
				defer func() { panicked <- recover() }()
				call()
			}()
			assert.Contains(t, <-panicked, "stepio: "+name+": called on goroutine")
		})
	}
}

func TestLoopChecksFindAFrameSpawnedTwice(t *testing.T) {
	w := newTestLoop(t)
	f := script()
	w.ended(w.Spawn(f))
	assert.PanicsWithValue(t, "stepio: Scheduler.Spawn: frame *stepio.fake was spawned before", func() { w.Spawn(f) })
}

func TestLoopNeedsDescriptors(t *testing.T) {
	lowerFDLimit(t, 0)
	l, err := NewLoop()
	assert.ErrorContains(t, err, "too many open files")
	assert.Nil(t, l)
}

// Who has given no report must find where a task panicked.
func TestLoopReportsAPanicWithItsStack(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	w := newTestLoop(t, func(c *loopConfig) { c.report = logReport })
	w.ended(w.spawn(func(*sm.Task) sm.Await { panicsHere(); return sm.Done }).task)
	assert.Contains(t, log.String(), "panicsHere")
	assert.Contains(t, log.String(), "*stepio.fake")
	log.Reset()
	require.NoError(t, w.Post(func() { panicsHere() }))
	w.turns(1)
	assert.Contains(t, log.String(), "function failed")
	assert.Contains(t, log.String(), "panicsHere")
	log.Reset()
	w.ended(w.Spawn(&fake{step: func(*sm.Task) sm.Await { return sm.Done }, err: io.ErrUnexpectedEOF}))
	assert.Contains(t, log.String(), "frames=")
	assert.NotContains(t, log.String(), "stack=")
}

func panicsHere() { panic("here") }
