package sm

import (
	"sync"
	"sync/atomic"
)

// A Waker resumes its task, whatever the task waits for. It is a comparable
// value that may be copied and called from any goroutine, any number of times,
// at any time: also after the task has ended, and after its scheduler was
// closed. The zero Waker wakes nobody.
type Waker struct{ task *Task }

// Wake makes the task run in one of the next turns; its Woken reports true
// then. A wake that comes before the task parks is not lost; several that come
// before it runs are one. Waking allocates nothing in the steady state.
func (w Waker) Wake() {
	t := w.task
	if t == nil || !t.wake.CompareAndSwap(wakeIdle, wakeQueued) {
		return // nobody, woken already, or ended
	}
	s := t.sched
	s.wakes.push(t)
	if s.notify != nil {
		s.notify()
	}
}

// wakeQueue is where wakes from any goroutine wait for the next turn. A task
// is in it at most once, so it is bounded by the number of live tasks and of
// those that ended since the last turn.
type wakeQueue struct {
	filled atomic.Bool // says whether there is one, to who does not take the lock

	mu    sync.Mutex
	tasks []*Task
	spare []*Task
}

func (q *wakeQueue) push(t *Task) {
	q.mu.Lock()
	q.tasks = append(q.tasks, t)
	q.filled.Store(true)
	q.mu.Unlock()
}

func (q *wakeQueue) empty() bool { return !q.filled.Load() }

// take returns what has come since the last take, of a queue that is not empty;
// the slice is the caller's until it hands it back with done.
func (q *wakeQueue) take() []*Task {
	q.mu.Lock()
	defer q.mu.Unlock()
	taken := q.tasks
	q.tasks, q.spare = q.spare, nil
	q.filled.Store(false)
	return taken
}

// spareWakes is the length past which an emptied queue is left to the
// collector instead of being kept for the next burst.
const spareWakes = 1 << 16

func (q *wakeQueue) done(taken []*Task) {
	clear(taken)
	if cap(taken) > spareWakes {
		return
	}
	q.mu.Lock()
	q.spare = taken[:0]
	q.mu.Unlock()
}
