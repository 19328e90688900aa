package sm

// Waiters are the tasks that wait on one descriptor: any number, in the order
// in which they came, in one word. Whoever implements [Parker] keeps one a
// descriptor. The zero value has no waiter.
type Waiters struct{ ring ring }

// Add puts t, whose wait has just been handed to Park, behind the others.
func (w *Waiters) Add(t *Task) { w.ring.push(t) }

// Remove takes out t, which Unpark was called with.
func (w *Waiters) Remove(t *Task) { w.ring.remove(t) }

// Empty reports whether nobody waits.
func (w *Waiters) Empty() bool { return w.ring.empty() }

// Dirs is the set of directions that somebody waits for.
func (w *Waiters) Dirs() (dirs Dir) {
	w.each(func(t *Task) { dirs |= t.dir })
	return dirs
}

// Resume makes every task ready that waits for a direction of dirs, and
// returns the directions that somebody waited for.
func (w *Waiters) Resume(dirs Dir) (claimed Dir) {
	if t := w.ring.head; t != nil && t.next == t { // the usual case: one waits
		hit := t.dir & dirs
		if hit != 0 {
			w.ring.head, t.next, t.prev = nil, nil, nil
			t.ready = hit
			t.sched.resumed(t)
		}
		return hit
	}
	w.each(func(t *Task) {
		if hit := t.dir & dirs; hit != 0 {
			claimed |= hit
			w.ring.remove(t)
			t.ready = hit
			t.sched.resumed(t)
		}
	})
	return claimed
}

// Fail resumes every task with err as its WaitErr: the descriptor was closed
// or removed.
func (w *Waiters) Fail(err error) {
	w.each(func(t *Task) {
		w.ring.remove(t)
		t.setWaitErr(err)
		t.sched.resumed(t)
	})
}

// Nudge resumes every task without an event, so that each looks at its
// condition again: a deadline was moved, a back-off ended.
func (w *Waiters) Nudge() {
	w.each(func(t *Task) {
		w.ring.remove(t)
		t.sched.resumed(t)
	})
}

// each calls fn, which may remove the task it is given and no other, for every
// task that waits now. fn does not escape, so the calls above allocate nothing.
func (w *Waiters) each(fn func(*Task)) {
	t := w.ring.head
	if t == nil {
		return
	}
	for last := t.prev; ; {
		next, end := t.next, t == last
		fn(t)
		if end {
			return
		}
		t = next
	}
}
