package stepio

import (
	"context"
	"errors"
	"sync/atomic"
)

// Graceful shutdown. A loop that drains goes on as before, but for three things:
// a listener ends as soon as its queue is empty (TCPListener.AcceptFD), every
// task is resumed once and may ask sm.Task.Draining, and a task whose root frame
// is an idle sm.Idler is ended. Run returns when no task is left and no post
// waits.
//
// Loops that drain together end together: one that has run out of tasks may be
// handed a connection by another as long as that one has tasks. So a loop without
// tasks and posts is vacant, no more, until all of them are at the same time.

// drain is a loop's share in a shutdown.
type drain struct {
	loops []*Loop       // that end together; nil while no shutdown has begun
	cut   bool          // tasks had to be destroyed: nobody finds the loop over after that
	over  atomic.Bool   // every task has ended by itself
	ended chan struct{} // closed when Run, or Close of a loop that never ran, is about to return
}

// Shutdown ends the loop gracefully, and waits until Run has returned.
//
// A listener gives what is in its queue to those who accept, and closes: to them
// it is net.ErrClosed then, with which Serve ends without a failure. One that
// nobody accepts from stays open. Every task is resumed once; frames see
// sm.Task.Draining, and those that are idle are ended: see sm.Idler. All others
// run until they end, on UDP sockets too, and those that sleep or wait for a pool
// or for another task; posts and new tasks are taken meanwhile. When no task is
// left, Run returns nil. When ctx ends before that, what is left is destroyed,
// its frames are closed, and Run returns nil. The loop's own descriptors are
// released by Close, as always.
//
// The result is one of: nil when every task has ended by itself, or idle, also
// when that was so before; ctx's error when some had to be destroyed;
// ErrLoopClosed when Stop, Close, a failure of the poller, or another Shutdown's
// ctx has ended the loop first, now or before.
//
// Called before Run, it waits for Run to be called and to return; when ctx ends while the loop does not run, it
// returns at once, and what it would have destroyed is destroyed by Run or
// Close. A step that blocks the loop holds up Shutdown too, past ctx's end: it
// can't be destroyed, and may use what the caller is about to release. When it
// ends at last, what is left is destroyed without another step, idle or not. Who
// would rather give up on it calls Shutdown on another goroutine. A report
// function of a watchdog that does not return holds it up likewise.
//
// A connection that the kernel puts into the queue after the last look at it is
// reset. On Linux a listener refuses new ones before it takes what is in its
// queue: their first packet is dropped, and comes again a second later, when
// another socket of the address has to answer it (ListenOptions.ReusePort). Left
// is who is half-way through the handshake: see net.ipv4.tcp_migrate_req. On
// macOS the window is that between two system calls, and a queue that fills
// faster than it is emptied keeps the listener open until ctx ends.
//
// Any goroutine but the loop's own, which would wait for itself: that panics in
// check mode. Several calls may run at once: the first ctx to end counts.
func (l *Loop) Shutdown(ctx context.Context) error {
	l.outside("Loop.Shutdown")
	return l.shutDown(ctx, []*Loop{l})
}

// outside panics, in check mode, on the goroutine of a loop that runs.
func (l *Loop) outside(method string) {
	if l.owner.on && l.state.Load() == loopRunning && goroutineID() == l.owner.runs.Load() {
		panic("stepio: " + method + ": called on the loop, which would wait for itself")
	}
}

// shutDown shuts the loop down along with the others of loops. What it posts is
// bounded by the number of calls.
func (l *Loop) shutDown(ctx context.Context, loops []*Loop) error {
	if l.mail.put(func() { l.drainWith(loops) }, unbounded) != nil {
		if !l.drain.over.Load() {
			return ErrLoopClosed
		}
		<-l.drain.ended // soon: every task has ended
		return nil
	}
	select {
	case <-l.drain.ended:
		return l.outcome()
	case <-ctx.Done():
	}
	destroyed := false
	err := l.mail.put(func() { destroyed = l.destroyTasks() }, unbounded)
	if l.state.Load() == loopNew {
		if err != nil {
			return err
		}
		return ctx.Err()
	}
	<-l.drain.ended
	if destroyed {
		return ctx.Err()
	}
	return l.outcome()
}

func (l *Loop) outcome() error {
	if l.drain.over.Load() {
		return nil
	}
	return ErrLoopClosed
}

// drainWith begins the draining, or has it end together with more loops.
func (l *Loop) drainWith(loops []*Loop) {
	if len(loops) > len(l.drain.loops) {
		l.drain.loops = loops
	}
	l.sched.Drain()
}

// destroyTasks ends the draining, and reports whether there was any task left.
func (l *Loop) destroyTasks() bool {
	left := l.sched.Live() > 0
	l.drain.cut = l.drain.cut || left
	l.drain.over.Store(!l.drain.cut)
	l.sched.Close()
	l.Stop()
	return left
}

// drained is called after each turn of a draining loop.
func (l *Loop) drained() {
	if l.sched.Live() == 0 && l.mail.vacate() {
		l.endTogether()
	}
}

// endTogether ends the loops that end together, if every one is vacant or has
// ended otherwise.
func (l *Loop) endTogether() {
	for _, peer := range l.drain.loops {
		peer.mail.mu.Lock() // all have them in one order
	}
	all := true
	for _, peer := range l.drain.loops {
		all = all && (peer.mail.vacant && len(peer.mail.posts) == 0 || peer.mail.closed)
	}
	for _, peer := range l.drain.loops {
		if all && !peer.mail.closed {
			peer.mail.closed = true
			peer.drain.over.Store(true)
			peer.stopped.Store(true)
		}
		peer.mail.mu.Unlock()
	}
	if all {
		for _, peer := range l.drain.loops {
			peer.mail.notify()
		}
	}
}

// Shutdown ends every loop gracefully: see Loop.Shutdown. Its result is ctx's error
// when that of any loop is, else ErrLoopClosed when that of any is, else nil: a
// loop that fails keeps none of the others from ending in order. A loop without
// tasks keeps running until all of them have none, so one that accepts may still
// hand connections to the others. Join is as after Stop.
//
// Any goroutine but the loops' own.
func (g *Group) Shutdown(ctx context.Context) error {
	for _, l := range g.loops {
		l.outside("Group.Shutdown")
	}
	g.ending.Store(true)
	errs := make(chan error, len(g.loops))
	for _, l := range g.loops {
		go func() { errs <- l.shutDown(ctx, g.loops) }()
	}
	var first error
	for range g.loops {
		// That some tasks had to be destroyed says more than that a loop was closed.
		if err := <-errs; first == nil || err != nil && errors.Is(first, ErrLoopClosed) {
			first = err
		}
	}
	return first
}
