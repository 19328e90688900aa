package stepio

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// MaxPosts is the bound of a loop's queue of posted functions.
const MaxPosts = 1 << 16

// mailbox is how other goroutines reach a loop: a bounded queue of functions,
// and the bell that ends the loop's wait.
//
// The bell is rung at most once a wait. alert says that the loop is awake, or
// has been told: it is cleared before the loop's last look at its queues, and
// whoever queues something afterwards finds it cleared and rings. So a burst
// costs one eventfd write, a post to a loop that is working costs none, and
// none is lost: either the last look sees what was queued, or the bell rings.
type mailbox struct {
	alert  atomic.Bool
	filled atomic.Bool // says whether there is a post, to who does not take the lock

	mu     sync.Mutex
	posts  []func()
	spare  []func()
	closed bool   // no post is taken any more
	vacant bool   // the loop drains, has no task, and had no post
	ring   poller // nil once its descriptors are closed
}

// unbounded is the bound of what has one of its own.
const unbounded = math.MaxInt

// put queues fn, unless bound functions are in the queue.
func (m *mailbox) put(fn func(), bound int) error {
	m.mu.Lock()
	switch {
	case m.closed:
		m.mu.Unlock()
		return ErrLoopClosed
	case len(m.posts) >= bound:
		m.mu.Unlock()
		return ErrQueueFull
	}
	m.posts = append(m.posts, fn)
	m.filled.Store(true)
	m.mu.Unlock()
	m.notify()
	return nil
}

// notify ends the loop's wait, unless it is awake.
func (m *mailbox) notify() {
	if m.alert.Load() || !m.alert.CompareAndSwap(false, true) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ring == nil {
		return // closed: there is nothing to wake
	}
	if err := m.ring.wake(); err != nil {
		// Every way to wake it has failed: somebody has closed its descriptors, or
		// forbidden its calls. To go on would be to let the loop sleep for ever.
		m.alert.Store(false) // the next to come tries again
		panic("stepio: Loop: cannot be woken: " + err.Error())
	}
}

// take returns what was posted since the last take, of a mailbox that is not
// empty; the slice is the caller's until it hands it back with done.
func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := m.posts
	m.posts, m.spare = m.spare, nil
	m.filled.Store(false)
	m.vacant = false
	return taken
}

// done hands back what take returned. Those that have not run, because one of
// them ended the goroutine, come first the next time.
func (m *mailbox) done(taken []func(), ran int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ran < len(taken) {
		m.posts = slices.Concat(taken[ran:], m.posts)
		m.filled.Store(true)
		return
	}
	clear(taken)
	m.spare = taken[:0]
}

func (m *mailbox) empty() bool { return !m.filled.Load() }

// shut ends the taking of posts.
func (m *mailbox) shut() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.notify()
}

// vacate notes that the loop, which drains, has no task left, unless a post
// waits or none is taken any more.
func (m *mailbox) vacate() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vacant = len(m.posts) == 0 && !m.closed
	return m.vacant
}

// silence ends the ringing: the poller is about to be closed.
func (m *mailbox) silence() {
	m.mu.Lock()
	m.ring = nil
	m.mu.Unlock()
}
