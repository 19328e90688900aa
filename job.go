package stepio

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"github.com/stepio-go/stepio/sm"
)

// A Job is the frame that runs a function on a Pool and waits for its result.
// It stands for
//
//	std::string result = co_await pool.submit(loop, [] { return expensive(); });
//
// and reads
//
//	f.job.Start(pool, expensive)
//	...
//	if a := f.job.Step(t); a.Pending() {
//		return a
//	}
//	result, err := f.job.Result()
//
// The function must not touch the frame, t.Scratch() or a connection: it runs
// beside the loop. Its result goes to a cell that it shares with the Job alone,
// so the task may be destroyed while it runs: its owner's Close calls the Job's,
// and the result goes to Drop.
type Job[T any] struct {
	// Drop, where it is set before Start, gets a result that nobody waits for any
	// more: a file to close, a connection to give back. It runs on the worker or
	// on the loop, whoever is later: a panic in it is logged there, and the error
	// of Close here. A function that failed leaves nothing to drop.
	Drop func(T)

	pool  *Pool
	cell  *cell[T]
	value T
	err   error
	state jobState
}

type jobState uint8

const (
	jobIdle       jobState = iota // not started
	jobSubmitting                 // to be put in line
	jobWaiting                    // in line, or running
	jobDone                       // value and err are the result
)

// String is the state by name, for Dump.
func (s jobState) String() string {
	return [...]string{"jobIdle", "jobSubmitting", "jobWaiting", "jobDone"}[s]
}

// cell is what the loop and the worker share. Its phase decides whose it is:
// the worker's while it runs, the loop's once it is done; abandoned, it is the
// worker's for good.
type cell[T any] struct {
	errand
	fn    func() (T, error)
	drop  func(T)
	waker sm.Waker
	phase atomic.Uint32
	value T
	err   error
}

// The values of cell.phase.
const (
	cellQueued    uint32 = iota
	cellRunning          // the worker has it
	cellDone             // value and err are the loop's to take
	cellAbandoned        // nobody waits any more
)

// Start says what to run where. Nothing happens before Step. A Job may be
// started again once it is done; it panics while it is waiting.
func (j *Job[T]) Start(pool *Pool, fn func() (T, error)) {
	if fn == nil {
		panic("stepio: Job.Start: nil function")
	}
	if j.state == jobWaiting {
		panic("stepio: Job.Start: still waiting")
	}
	c := j.cell
	if c == nil {
		c = new(cell[T])
		c.errand.work = c
		j.cell = c
	}
	var zero T
	j.pool, j.value, j.err = pool, zero, nil
	c.fn, c.drop = fn, j.Drop
	j.state = jobSubmitting
}

// TrySubmit is Start with an answer at once: ErrQueueFull when the task would
// have to wait in line, ErrPoolClosed after the pool's Stop. After nil, Step
// waits for the result. t is the task that will step the Job.
func (j *Job[T]) TrySubmit(t *sm.Task, pool *Pool, fn func() (T, error)) error {
	j.Start(pool, fn)
	if err := j.submit(t, false); err != nil {
		j.finish(err)
		return err
	}
	return nil
}

// errJobGoexit is the error of a function that ended its worker's goroutine.
var errJobGoexit = errors.New("stepio: job called runtime.Goexit")

func (j *Job[T]) submit(t *sm.Task, patient bool) error {
	j.cell.waker = t.Waker()
	j.cell.phase.Store(cellQueued)
	if err := j.pool.submit(&j.cell.errand, patient); err != nil {
		j.cell.clear()
		return err
	}
	j.state = jobWaiting
	return nil
}

// Step runs until the function has returned. It panics when another task steps
// the Job than the one that has submitted it, and that the worker will wake.
func (j *Job[T]) Step(t *sm.Task) sm.Await {
	switch j.state {
	case jobSubmitting:
		if err := j.submit(t, true); err != nil {
			return j.finish(err)
		}
		return sm.Park
	case jobWaiting:
		c := j.cell
		if c.waker != t.Waker() {
			panic("stepio: Job.Step: submitted by another task")
		}
		if c.phase.Load() != cellDone {
			return sm.Park
		}
		j.value = c.value
		err := c.err
		c.clear()
		return j.finish(err)
	case jobIdle, jobDone:
		return sm.Done
	default:
		panic(fmt.Sprintf("stepio: Job.Step: state %d", j.state))
	}
}

func (j *Job[T]) finish(err error) sm.Await {
	j.err = err
	j.state = jobDone
	return sm.Done
}

// Result is what the function returned. The result is one of: its value and
// error; the zero value and ErrPoolClosed when the pool was stopped before the
// job was in line; the zero value and a *sm.PanicError when it panicked; the
// zero value and sm.ErrNoResult before it is done.
func (j *Job[T]) Result() (T, error) {
	if j.state != jobDone {
		var zero T
		return zero, sm.ErrNoResult
	}
	return j.value, j.err
}

// Err is the error of Result, nil before it is done.
func (j *Job[T]) Err() error { return j.err }

// Close gives up waiting: a function that no worker has taken yet never runs,
// and the result of one that runs goes to Drop. A Job that is done keeps its
// result: who runs it by All, Any or Call reads it after the Job's task has
// ended. The error is a *sm.PanicError of Drop, when that is called here.
func (j *Job[T]) Close() error {
	if j.state != jobWaiting && j.state != jobSubmitting {
		return nil
	}
	c, submitted := j.cell, j.state == jobWaiting
	j.state, j.cell = jobIdle, nil
	switch {
	case !submitted:
	case j.pool.withdraw(&c.errand, func() bool { return c.phase.Load() == cellQueued }):
	case c.phase.CompareAndSwap(cellRunning, cellAbandoned): // the worker drops the result
	default:
		return c.discard()
	}
	return nil
}

// start is called by the pool, under its lock, when a worker takes the cell.
func (c *cell[T]) start() { c.phase.Store(cellRunning) }

// do runs the function on a worker.
func (c *cell[T]) do() {
	c.err = errJobGoexit // until it has returned
	defer c.deliver()
	c.call()
}

func (c *cell[T]) call() {
	defer func() {
		if v := recover(); v != nil {
			c.err = newPanicError(v)
		}
	}()
	c.value, c.err = c.fn()
}

// deliver hands the cell to the loop. Afterwards it may be in use again.
func (c *cell[T]) deliver() {
	waker := c.waker
	if c.phase.CompareAndSwap(cellRunning, cellDone) {
		waker.Wake()
		return
	}
	if err := c.discard(); err != nil {
		logReport(nil, err)
	}
}

// discard gives a result that nobody waits for to Drop. A job that failed has
// none. The error is Drop's panic.
func (c *cell[T]) discard() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = newPanicError(v)
		}
		c.clear()
	}()
	if c.drop != nil && c.err == nil {
		c.drop(c.value)
	}
	return nil
}

// clear lets go of what the cell refers to.
func (c *cell[T]) clear() {
	var zero T
	c.fn, c.drop, c.value, c.err, c.waker = nil, nil, zero, nil, sm.Waker{}
}

func newPanicError(v any) error { return &sm.PanicError{Value: v, Stack: debug.Stack()} }
