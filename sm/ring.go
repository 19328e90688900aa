package sm

// ring is an intrusive circular list of tasks, first in, first out, in one
// word. A task is in one ring at most: the ready queue, those that gave way, the
// batch that a turn runs, or the waiters of a descriptor. So no ring can be
// longer than there are tasks, and moving between them allocates nothing.
type ring struct{ head *Task }

func (r *ring) empty() bool { return r.head == nil }

// push adds t at the end.
func (r *ring) push(t *Task) {
	if t.next != nil {
		panic("stepio: ring.push: task is in a ring already")
	}
	if r.head == nil {
		t.next, t.prev = t, t
		r.head = t
		return
	}
	last := r.head.prev
	t.next, t.prev = r.head, last
	last.next, r.head.prev = t, t
}

// join moves all of other's tasks to the end.
func (r *ring) join(other *ring) {
	switch {
	case other.head == nil:
		return
	case r.head == nil:
		r.head = other.head
	default:
		last, otherLast := r.head.prev, other.head.prev
		last.next, other.head.prev = other.head, last
		otherLast.next, r.head.prev = r.head, otherLast
	}
	other.head = nil
}

// pop takes the first, nil when there is none.
func (r *ring) pop() *Task {
	t := r.head
	if t != nil {
		r.remove(t)
	}
	return t
}

// remove takes t out of the ring that it is in.
func (r *ring) remove(t *Task) {
	if t.next == nil {
		panic("stepio: ring.remove: task is in no ring")
	}
	if t.next == t {
		r.head = nil
	} else {
		t.next.prev, t.prev.next = t.prev, t.next
		if r.head == t {
			r.head = t.next
		}
	}
	t.next, t.prev = nil, nil
}
