//go:build linux || darwin

package stepio

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
