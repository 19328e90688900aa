package sm

import (
	"fmt"
	"slices"
)

// The frames that run other frames side by side, each as a task of its own.
// What the three share is the nursery: the tasks that a parent has started
// and has to outlive. When the parent ends, for whatever reason, those of its
// children that have not ended are destroyed.

// nurseryRule says when a nursery's parent goes on.
type nurseryRule uint8

const (
	ruleAll     nurseryRule = iota // all have ended, or one has failed
	ruleSettled                    // all have ended
	ruleAny                        // one has ended
)

type nursery struct {
	frames  []Frame // not started yet
	tasks   []*Task // one a frame, in its order
	parent  *Task
	pending int // tasks that have not ended
	first   int // index of the task that decided: first to fail, or to end; -1: none
	rule    nurseryRule
	over    bool // decided, or closed
}

func newNursery(rule nurseryRule, frames []Frame) *nursery {
	return &nursery{frames: frames, rule: rule, first: -1}
}

// step starts the children on the first call and waits until it is decided.
func (n *nursery) step(t *Task) Await {
	if n.parent == nil {
		n.start(t)
	}
	if n.parent != t {
		panic("stepio: All, Any: stepped by two tasks")
	}
	if n.over || n.pending == 0 {
		n.destroy()
		n.leave()
		return Done
	}
	return Park
}

func (n *nursery) start(t *Task) {
	n.parent = t
	k := t.relations()
	k.owned = append(k.owned, n)
	n.tasks = make([]*Task, 0, len(n.frames))
	n.pending = len(n.frames)
	for _, f := range n.frames {
		child := t.Spawn(f)
		n.tasks = append(n.tasks, child)
		if child.Ended() { // the scheduler is closed
			n.pending--
			n.decide(child)
			continue
		}
		child.relations().nursery = n
	}
	n.frames = nil
}

// ended is called when a child has ended. The rest is destroyed here and not
// when the parent is stepped: nothing of a loser runs once there is a winner.
func (n *nursery) ended(child *Task) {
	n.pending--
	if n.over {
		return
	}
	n.decide(child)
	if n.over {
		n.destroy()
	}
	if n.over || n.pending == 0 {
		n.parent.sched.resume(n.parent)
	}
}

// decide says what the end of child means for the others.
func (n *nursery) decide(child *Task) {
	if !n.over && (n.rule == ruleAny || n.rule == ruleAll && child.Err() != nil) {
		n.first = slices.Index(n.tasks, child)
		n.over = true
	}
}

// destroy ends the children that have not ended.
func (n *nursery) destroy() {
	n.over = true
	n.frames = nil
	for _, t := range n.tasks {
		t.Destroy()
	}
}

// leave takes the nursery off its parent's list.
func (n *nursery) leave() {
	t := n.parent
	if t.phase == phaseEnded || t.extra == nil || t.extra.kin == nil {
		return
	}
	k := t.extra.kin
	if i := slices.Index(k.owned, n); i >= 0 {
		k.owned = slices.Delete(k.owned, i, i+1)
	}
	if k.nursery == nil && len(k.owned) == 0 && len(k.joiners) == 0 {
		t.extra.kin = nil // a task that only runs an All now and then keeps nothing between
		t.sched.tidy(t)
	}
}

func (n *nursery) close() {
	if n != nil && n.parent != nil {
		n.destroy()
		n.leave()
	}
}

func (n *nursery) err(i int) error {
	if n == nil || i < 0 || i >= len(n.tasks) {
		return nil
	}
	return n.tasks[i].Err()
}

func (n *nursery) inspect() (state string, callee Frame) {
	if n == nil || n.over && n.pending == 0 {
		return "", nil
	}
	if n.parent == nil {
		return fmt.Sprintf("%d not started", len(n.frames)), nil
	}
	return fmt.Sprintf("%d of %d running", n.pending, len(n.tasks)), nil
}

// All runs frames side by side, each as a task of its own, and is done when
// all have ended. The first that fails destroys the rest, and its error is the
// result. The children end with the task that steps All, at the latest.
type All struct{ n *nursery }

// Start says which frames to run. They start with the first Step.
func (a *All) Start(frames ...Frame) { a.n = startNursery(a.n, ruleAll, "All", frames) }

// Step runs until all have ended, or one has failed.
func (a *All) Step(t *Task) Await { return stepNursery(a.n, t) }

// Err is the error of the first frame that failed, nil when all succeeded.
func (a *All) Err() error {
	if a.n == nil {
		return nil
	}
	return a.n.err(a.n.first)
}

// Close destroys the children that have not ended.
func (a *All) Close() error { a.n.close(); return nil }

// Inspect tells Dump how many run.
func (a *All) Inspect() (state string, callee Frame) { return a.n.inspect() }

// AllSettled is All without the haste: it is done when every frame has ended,
// however each of them did.
type AllSettled struct{ n *nursery }

// Start says which frames to run. They start with the first Step.
func (a *AllSettled) Start(frames ...Frame) {
	a.n = startNursery(a.n, ruleSettled, "AllSettled", frames)
}

// Step runs until all have ended.
func (a *AllSettled) Step(t *Task) Await { return stepNursery(a.n, t) }

// Errs is how each frame ended, in the order of Start.
func (a *AllSettled) Errs() []error {
	if a.n == nil {
		return nil
	}
	errs := make([]error, len(a.n.tasks))
	for i := range errs {
		errs[i] = a.n.err(i)
	}
	return errs
}

// Close destroys the children that have not ended.
func (a *AllSettled) Close() error { a.n.close(); return nil }

// Inspect tells Dump how many run.
func (a *AllSettled) Inspect() (state string, callee Frame) { return a.n.inspect() }

// Any runs frames side by side, each as a task of its own. The first that ends
// wins, whether it succeeds or fails, and the losers are destroyed.
type Any struct{ n *nursery }

// Start says which frames to run. They start with the first Step.
func (a *Any) Start(frames ...Frame) { a.n = startNursery(a.n, ruleAny, "Any", frames) }

// Step runs until one has ended.
func (a *Any) Step(t *Task) Await { return stepNursery(a.n, t) }

// Winner is the index, in the order of Start, of the frame that ended first;
// -1 while none has, and when there was none to start.
func (a *Any) Winner() int {
	if a.n == nil {
		return -1
	}
	return a.n.first
}

// Err is the winner's error.
func (a *Any) Err() error {
	if a.n == nil {
		return nil
	}
	return a.n.err(a.n.first)
}

// Close destroys the children that have not ended.
func (a *Any) Close() error { a.n.close(); return nil }

// Inspect tells Dump how many run.
func (a *Any) Inspect() (state string, callee Frame) { return a.n.inspect() }

func startNursery(old *nursery, rule nurseryRule, name string, frames []Frame) *nursery {
	if old != nil && old.parent != nil && !(old.over || old.pending == 0) {
		panic("stepio: " + name + ".Start: still running")
	}
	return newNursery(rule, frames)
}

func stepNursery(n *nursery, t *Task) Await {
	if n == nil {
		return Done
	}
	return n.step(t)
}
