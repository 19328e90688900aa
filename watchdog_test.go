//go:build linux || darwin

package stepio

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// blocker is a frame whose third step blocks.
type blocker struct {
	release chan struct{}
	state   blockerState
}

type blockerState uint8

const (
	blockerFirst blockerState = iota
	blockerSecond
	blockerBlocking // calls what it must not call
)

func (s blockerState) String() string {
	return [...]string{"blockerFirst", "blockerSecond", "blockerBlocking"}[s]
}

func (b *blocker) Step(*sm.Task) sm.Await {
	switch b.state {
	case blockerFirst, blockerSecond:
		b.state++
		return sm.Yield
	default:
		b.state = 0 // what the report must not read: the loop writes it
		<-b.release
		return sm.Done
	}
}

func newWatchedLoop(t testing.TB, threshold time.Duration) (*world, <-chan StepReport) {
	reports := make(chan StepReport, 16)
	return newTestLoop(t, WithWatchdog(threshold, func(r StepReport) { reports <- r })), reports
}

func TestWatchdogReportsAStepWhileItBlocks(t *testing.T) {
	const threshold = 20 * time.Millisecond
	w, reports := newWatchedLoop(t, threshold)
	b := &blocker{release: make(chan struct{})}
	task := w.Spawn(b)
	w.run()
	r := got(t, reports)
	assert.Equal(t, "*stepio.blocker(blockerBlocking)", r.Chain)
	assert.Greater(t, r.Took, threshold)
	assert.False(t, r.Ended)
	assert.True(t, strings.HasPrefix(string(r.Stack), "goroutine "))
	assert.Contains(t, string(r.Stack), "(*blocker).Step")
	close(b.release)
	last := got(t, reports)
	assert.Equal(t, r.Chain, last.Chain)
	assert.Greater(t, last.Took, r.Took)
	assert.True(t, last.Ended)
	assert.Empty(t, last.Stack)
	w.Stop()
	assert.NoError(t, w.joined())
	assert.True(t, task.Ended())
	assert.Empty(t, reports, "once each")
}

func TestWatchdogReportsAPostedFunction(t *testing.T) {
	w, reports := newWatchedLoop(t, 5*time.Millisecond)
	release := make(chan struct{})
	require.NoError(t, w.Post(func() { <-release }))
	w.run()
	r := got(t, reports)
	assert.Regexp(t, `^posted .*TestWatchdogReportsAPostedFunction\.func`, r.Chain)
	assert.Contains(t, string(r.Stack), "runPost")
	close(release)
	assert.True(t, got(t, reports).Ended)
}

// A step that ended while its stack was being taken was reported with the stack
// of whatever the loop did next.
func TestWatchdogReportsNoStackOfAnotherStep(t *testing.T) {
	var reports []StepReport
	w := &watchdog{threshold: time.Nanosecond, report: func(r StepReport) { reports = append(reports, r) }}
	task := newTestLoop(t).Spawn(new(fake))
	w.stack = func(uint64) []byte {
		w.End()
		w.Begin(task)
		return []byte("goroutine 7 [running]:")
	}
	w.Begin(task)
	w.look()
	require.Len(t, reports, 1)
	assert.Equal(t, "*stepio.fake(?)", reports[0].Chain)
	assert.Empty(t, reports[0].Stack)
	w.look()
	assert.True(t, reports[1].Ended, "that of the first step")
	assert.False(t, reports[2].Ended, "the second")
}

// What a task is asked and how it is closed after its step, because it is idle,
// was not watched.
func TestWatchdogReportsAnIdleThatBlocks(t *testing.T) {
	w, reports := newWatchedLoop(t, 5*time.Millisecond)
	release := make(chan struct{})
	w.Spawn(&slowIdle{release: release})
	w.run()
	result := shutDown(forTest(t), w.Loop)
	r := got(t, reports)
	assert.Equal(t, "*stepio.slowIdle(?)", r.Chain)
	assert.Contains(t, string(r.Stack), "(*slowIdle).Idle")
	close(release)
	assert.True(t, got(t, reports).Ended)
	assert.NoError(t, got(t, result))
}

// slowIdle thinks about whether it is idle.
type slowIdle struct {
	fake
	release chan struct{}
}

func (s *slowIdle) Idle() bool {
	<-s.release
	return true
}

// A step that ends between two looks is reported all the same, and so is one
// that panics.
func TestWatchdogReportsAStepThatHasEnded(t *testing.T) {
	w, reports := newWatchedLoop(t, 5*time.Millisecond)
	begun := make(chan struct{})
	f := w.spawn(func(*sm.Task) sm.Await {
		close(begun)
		<-time.After(6 * time.Millisecond)
		panic("on purpose")
	})
	w.run()
	got(t, begun)
	for r := got(t, reports); !r.Ended; r = got(t, reports) {
		assert.Equal(t, "*stepio.fake(?)", r.Chain)
	}
	w.Stop()
	assert.NoError(t, w.joined())
	assert.Len(t, w.reported(), 1)
	assert.Equal(t, 1, f.closes)
}

func TestWatchdogSaysNothingOfFastSteps(t *testing.T) {
	w, reports := newWatchedLoop(t, patience)
	steps := 0
	w.spawn(func(*sm.Task) sm.Await {
		if steps++; steps == 10_000 {
			w.Stop()
		}
		return sm.Yield
	})
	require.NoError(t, w.Run())
	assert.Equal(t, 10_000, steps)
	assert.Empty(t, reports)
	// Waiting is no step.
	w, reports = newWatchedLoop(t, time.Hour)
	w.watch.threshold = 200 * time.Millisecond
	w.ended(w.Spawn(sleeper(time.Now().Add(300 * time.Millisecond))))
	w.watch.look()
	assert.Empty(t, reports)
}

func TestWatchdogSurvivesAPanicOfItsReport(t *testing.T) {
	told := make(chan struct{}, 16)
	w := newTestLoop(t, WithWatchdog(time.Millisecond, func(StepReport) { told <- struct{}{}; panic("on purpose") }))
	release := make(chan struct{})
	require.NoError(t, w.Post(func() { <-release }))
	w.run()
	got(t, told)
	close(release)
	got(t, told)
}

func TestWatchdogHasAGoroutineOnlyWhenOn(t *testing.T) {
	watchdogs := func() int {
		all := make([]byte, 1<<20)
		return strings.Count(string(all[:runtime.Stack(all, true)]), "(*watchdog).start.func1(")
	}
	gone := func() {
		for watchdogs() > 0 {
			runtime.Gosched()
		}
	}
	count := func(options ...LoopOption) (n int) {
		within(t, "those of earlier loops", gone)
		w := newTestLoop(t, options...)
		require.NoError(t, w.Post(func() { n = watchdogs(); w.Stop() }))
		require.NoError(t, w.Run())
		return n
	}
	assert.Zero(t, count())
	assert.Equal(t, 1, count(WithWatchdog(time.Second, func(StepReport) {})))
	within(t, "its end", gone)
}

func TestWatchdogRefusesNonsense(t *testing.T) {
	assert.Panics(t, func() { WithWatchdog(0, func(StepReport) {}) })
	assert.Panics(t, func() { WithWatchdog(time.Second, nil) })
}

// A step with and without a watchdog. The frame is an echo's.
func BenchmarkWatchdog(b *testing.B) {
	for _, c := range []struct {
		name    string
		options []LoopOption
	}{{"off", nil}, {"on", []LoopOption{WithWatchdog(time.Minute, func(StepReport) {})}}} {
		b.Run(c.name, func(b *testing.B) {
			l, err := NewLoop(c.options...)
			require.NoError(b, err)
			for range 64 {
				l.Spawn(&yielding{echoFrame: echoFrame{state: echoWriting}})
			}
			b.ReportAllocs()
			for n := 0; n < b.N; {
				n += l.sched.Turn()
			}
			require.NoError(b, l.Close())
		})
	}
}

// yielding has the fields of an echo, and only yields.
type yielding struct{ echoFrame }

func (y *yielding) Step(*sm.Task) sm.Await { return sm.Yield }
func (y *yielding) Close() error           { return nil }
