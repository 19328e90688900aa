package stepio

import (
	"context"
	"sync/atomic"

	"github.com/stepio-go/stepio/sm"
)

// Call runs frame on loop as a task of its own and returns its result to an
// ordinary goroutine, which waits meanwhile. When ctx ends first, the task is
// destroyed.
//
// The result is one of: what frame.Result returns; the zero value and ctx's
// error; ErrLoopClosed or ErrQueueFull from Post, and ErrLoopClosed when the
// loop is closed before the frame has ended; the task's error, such as a
// *sm.PanicError. When Call returns, the frame is no longer stepped, but after
// ctx's error on a loop that was stopped and not closed. Any goroutine except
// the loop's own, which would wait for itself.
func Call[T any](ctx context.Context, loop *Loop, frame sm.Callee[T]) (T, error) {
	c := &call[T]{frame: frame, done: make(chan struct{})}
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	if err := loop.Post(func() { c.begin(loop) }); err != nil {
		return zero, err
	}
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
	}
	c.cancelled.Store(true)
	if err := loop.Post(c.cancel); err != nil {
		return zero, ctx.Err()
	}
	<-c.done
	if c.err != nil {
		return zero, ctx.Err()
	}
	return c.value, nil
}

// call is the frame that waits for the callee's task and hands over its result.
// It is a task of its own, so that it outlives a callee that panics.
type call[T any] struct {
	frame     sm.Callee[T]
	callee    *sm.Task
	cancelled atomic.Bool // before begin
	done      chan struct{}
	value     T
	err       error
}

func (c *call[T]) begin(loop *Loop) {
	if c.cancelled.Load() {
		c.finish(context.Canceled)
		return
	}
	c.err = ErrLoopClosed // until the callee has ended
	c.callee = loop.Spawn(c.frame)
	loop.Spawn(c)
}

// cancel runs on the loop, after begin.
func (c *call[T]) cancel() {
	if c.callee != nil {
		c.callee.Destroy()
	}
}

// Step waits until the callee has ended.
func (c *call[T]) Step(t *sm.Task) sm.Await {
	if a := t.Join(c.callee); a.Pending() {
		return a
	}
	if c.err = c.callee.Err(); c.err == nil {
		c.value, c.err = c.frame.Result()
	}
	return sm.Done
}

// Close hands over what there is: the result, or that the loop was closed.
func (c *call[T]) Close() error {
	c.finish(c.err)
	return nil
}

func (c *call[T]) finish(err error) {
	c.err = err
	close(c.done)
}
