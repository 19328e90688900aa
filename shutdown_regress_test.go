//go:build linux || darwin

package stepio

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// What went wrong once in a shutdown.

// A second Shutdown whose ctx had ended found no task any more, took that for an
// end in order, and said so: itself, and to everyone after it.
func TestShutdownOfManyDestroysOnceAndForAll(t *testing.T) {
	t.Run("before Run", func(t *testing.T) {
		w := newTestLoop(t)
		w.Spawn(new(fake))
		for range 3 {
			assert.Equal(t, context.Canceled, w.Shutdown(expired))
		}
		assert.NoError(t, w.Run())
		assert.Equal(t, ErrLoopClosed, w.Shutdown(forTest(t)))
	})
	t.Run("while it runs", func(t *testing.T) {
		w := newTestLoop(t)
		held, release := make(chan struct{}), make(chan struct{})
		straggler := new(fake)
		w.Spawn(straggler)
		require.NoError(t, w.Post(func() { close(held); <-release }))
		w.run()
		got(t, held)
		var results []<-chan error
		for range 3 {
			results = append(results, shutDown(expired, w.Loop))
		}
		w.queued(2 * len(results)) // to drain, and to destroy
		close(release)
		answers := make(map[error]int)
		for _, r := range results {
			answers[got(t, r)]++
		}
		assert.Equal(t, map[error]int{context.Canceled: 1, ErrLoopClosed: 2}, answers, "one has destroyed the task")
		assert.NoError(t, w.joined())
		assert.Equal(t, ErrLoopClosed, w.Shutdown(forTest(t)))
	})
}

// queued waits until so many posts are in the queue.
func (w *world) queued(posts int) {
	w.t.Helper()
	within(w.t, "the posts", func() {
		for n := 0; n < posts; runtime.Gosched() {
			w.mail.mu.Lock()
			n = len(w.mail.posts)
			w.mail.mu.Unlock()
		}
	})
}

// A loop whose goroutine was ended took no part in the end that the loops of a
// group come to together, and the others waited for it for ever.
func TestGroupShutdownOutlivesALoopWhoseGoroutineEnds(t *testing.T) {
	for name, end := range map[string]func(l *Loop, t *sm.Task){
		"in a step": func(*Loop, *sm.Task) { runtime.Goexit() },
		"in a post": func(l *Loop, _ *sm.Task) { assert.NoError(t, l.Post(runtime.Goexit)) },
	} {
		t.Run(name, func(t *testing.T) {
			var log reportLog
			g, err := NewGroup(2, WithReport(log.report))
			require.NoError(t, err)
			l := g.Next()
			require.NoError(t, l.Post(func() {
				l.Spawn(&fake{step: func(t *sm.Task) sm.Await {
					if t.Draining() {
						end(l, t)
					}
					return sm.Park
				}})
			}))
			assert.Equal(t, ErrLoopClosed, got(t, shutDown(context.Background(), g)))
			within(t, "Join", func() { assert.ErrorIs(t, g.Join(), errLoopGoexit) })
		})
	}
}

// A step that blocks can't be destroyed, and what it uses must not be released
// under it: so Shutdown waits for it, whatever ctx says.
func TestShutdownWaitsForAStepThatBlocks(t *testing.T) {
	w := newTestLoop(t)
	held, release := make(chan struct{}), make(chan struct{})
	f := script(func(t *sm.Task) sm.Await {
		close(held)
		<-release
		return sm.Park
	})
	w.Spawn(f)
	w.run()
	got(t, held)
	result := shutDown(expired, w.Loop)
	w.queued(2)
	assert.Empty(t, result)
	assert.Zero(t, f.closes)
	close(release)
	assert.Equal(t, context.Canceled, got(t, result))
	assert.NoError(t, w.joined())
	assert.Equal(t, 1, f.closes)
}

// Run had begun on its goroutine, which was not known yet: the one that had made
// the loop, and called Shutdown, was taken for it.
func TestShutdownByWhoMadeALoopThatStarts(t *testing.T) {
	w := newTestLoop(t)
	w.state.Store(loopRunning)
	assert.NotPanics(t, func() { w.outside("Loop.Shutdown") })
	w.state.Store(loopNew)
}
