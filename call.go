package stepio

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/stepio-go/stepio/sm"
)

// Call runs frame on loop as a task of its own and returns its result to an
// ordinary goroutine, which waits meanwhile. When ctx ends first, the task is
// destroyed. On a loop that was stopped it waits until that is closed. Any
// goroutine except the loop's own, which would wait for itself.
//
// The result is one of: what frame.Result returns; the task's error, such as
// the frame's own or a *sm.PanicError; ctx's error; ErrLoopClosed or
// ErrQueueFull, Post's answer; an error that is both ErrLoopClosed and
// sm.ErrDestroyed, when the loop was closed before the frame has ended;
// sm.ErrDestroyed alone when the frame was idle (sm.Idler) while it shut down.
//
// Whose the frame is afterwards: after Post's answer the caller's, nothing of it
// was called; after ctx's error the loop's, which closes it, perhaps later than
// Call returns, and steps it no more, unless it was stopped and not closed yet;
// the caller's otherwise, and it is closed.
func Call[T any](ctx context.Context, loop *Loop, frame sm.Callee[T]) (T, error) {
	c := &call[T]{frame: frame, done: make(chan struct{})}
	var zero T
	if ctx.Err() != nil {
		c.state.Store(callCancelled)
	}
	if err := loop.Post(func() { c.begin(loop) }); err != nil {
		return zero, err
	}
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
	}
	switch {
	case c.state.CompareAndSwap(callPosted, callCancelled), c.state.Load() == callCancelled:
		return zero, ctx.Err() // it will not begin
	case loop.mail.put(c.cancel, unbounded) == nil: // one a call at most: that is its bound
		<-c.done
	default: // the loop was stopped
		select {
		case <-c.done:
		default:
			return zero, ctx.Err()
		}
	}
	if c.err == errCallCancelled {
		return zero, ctx.Err()
	}
	return c.value, c.err // the frame was faster
}

// call is the frame that waits for the callee's task and hands over its result.
// It is a task of its own, so that it outlives a callee that panics.
type call[T any] struct {
	frame  sm.Callee[T]
	callee *sm.Task
	task   *sm.Task // its own
	state  atomic.Uint32
	cause  error // why the callee was destroyed, if it was
	done   chan struct{}
	value  T
	err    error
}

// The values of call.state.
const (
	callPosted    uint32 = iota // begin has not run
	callBegun                   // the callee is a task
	callCancelled               // before that: it will not be stepped
)

var (
	errCallClosed    = fmt.Errorf("%w before the frame has ended: %w", ErrLoopClosed, sm.ErrDestroyed)
	errCallCancelled = fmt.Errorf("cancelled: %w", sm.ErrDestroyed) // stands for ctx's error
)

// begin runs on the loop. The callee's task comes second: in its first step it
// is joined already, so that its error is the caller's alone.
func (c *call[T]) begin(loop *Loop) {
	if !c.state.CompareAndSwap(callPosted, callBegun) {
		loop.Spawn(c.frame).Destroy()
		return
	}
	c.cause = errCallClosed // for whoever destroys the tasks, but cancel
	c.task = loop.Spawn(c)
	defer func() {
		if v := recover(); v != nil { // the frame was spawned before
			c.cause = newPanicError(v)
			c.task.Destroy()
		}
	}()
	c.callee = loop.Spawn(c.frame)
}

// cancel runs on the loop, after begin.
func (c *call[T]) cancel() {
	if !c.task.Ended() {
		c.cause = errCallCancelled
		c.task.Destroy()
	}
}

// Step waits until the callee has ended.
func (c *call[T]) Step(t *sm.Task) sm.Await {
	if a := t.Join(c.callee); a.Pending() {
		return a
	}
	c.cause = nil
	return sm.Done
}

// Close hands over what there is: the result, or why there is none.
func (c *call[T]) Close() error {
	defer close(c.done)
	if c.callee == nil {
		c.err = c.cause
		return nil
	}
	c.callee.Destroy() // the caller may touch the frame from now on
	switch err := c.callee.Err(); {
	case err == sm.ErrDestroyed && c.cause != nil:
		c.err = c.cause
	case err != nil:
		c.err = err
	default:
		c.value, c.err = c.frame.Result()
	}
	return nil
}
