package sm

import "errors"

// A Frame is one activation record: a coroutine that was suspended by hand.
//
// Step runs from the frame's state to its next suspension point and says what
// it waits for; Done ends it. It is called on the scheduler's goroutine only,
// never blocks, and every call may be spurious: it tests its condition again.
//
// A frame that has one of these methods is asked:
//
//	Close() error   releases what the frame holds; a Close that returns nothing
//	                will do. A task closes its root frame exactly once, when it
//	                ends for whatever reason; a callee's Close is its caller's to
//	                call.
//	Err() error     how the frame ended: the error of its task.
//	Inspect() (state string, callee Frame)
//	                what Dump shows, where the field named state says too little.
//	                An empty state says that the frame is not active.
//	Idle() bool     whether the task may be ended now, while its scheduler
//	                drains; asked of a root frame: see Idler.
//
// Without Inspect, Dump shows the field named state, and takes the last callee
// for the active one whose state is not zero and which has no result yet (that
// is, of Returns). A frame that has no state, that waits in its first one, or
// that stays in its last one without a result, is shown rightly by Inspect only.
type Frame interface {
	Step(t *Task) Await
}

// closer is a frame that holds something; quietCloser, one whose Close can't fail.
type (
	closer      interface{ Close() error }
	quietCloser interface{ Close() }
)

// callClose calls the frame's Close, where it has one.
func callClose(frame Frame) error {
	switch c := frame.(type) {
	case closer:
		return c.Close()
	case quietCloser:
		c.Close()
	}
	return nil
}

// failer is a frame that can say how it ended.
type failer interface{ Err() error }

// inspector is a frame that describes itself.
type inspector interface {
	Inspect() (state string, callee Frame)
}

// claimer is a frame that knows whether a task owns it already.
type claimer interface{ claim() bool }

// finisher is a frame that knows whether it has its result.
type finisher interface{ finished() bool }

// A Callee is a frame with a result of type T: one that embeds Returns[T].
type Callee[T any] interface {
	Frame
	Result() (T, error)
}

// ErrNoResult is the error of a frame that ended, or was asked, before it
// called Return or Fail.
var ErrNoResult = errors.New("stepio: frame has no result")

// Returns holds the result of a frame. Embed it by value:
//
//	type lookup struct {
//		sm.Returns[string]
//		state lookupState
//	}
//
// and end the frame's Step with return f.Return(v) or return f.Fail(err).
//
// A frame that embeds Returns has one owner: spawning it twice panics.
type Returns[T any] struct {
	value  T
	err    error
	status returnsStatus
}

type returnsStatus uint8

const (
	returnsClaimed  returnsStatus = 1 << iota // a task owns the frame
	returnsFinished                           // value and err are the result
)

// Return ends the frame with the value v. Return what it returns.
func (r *Returns[T]) Return(v T) Await {
	r.value, r.err = v, nil
	r.status |= returnsFinished
	return Done
}

// Fail ends the frame with err, which must not be nil. Return what it returns.
func (r *Returns[T]) Fail(err error) Await {
	if err == nil {
		panic("stepio: Returns.Fail: nil error")
	}
	var zero T
	r.value, r.err = zero, err
	r.status |= returnsFinished
	return Done
}

// Result is what the frame ended with. The result is one of: the value and
// nil; the zero value and the error of Fail; the zero value and ErrNoResult
// while the frame has not ended.
func (r *Returns[T]) Result() (T, error) {
	if r.status&returnsFinished == 0 {
		var zero T
		return zero, ErrNoResult
	}
	return r.value, r.err
}

// Err is the error that the frame failed with, nil when it returned a value or
// has not ended.
func (r *Returns[T]) Err() error { return r.err }

// Reset makes the frame's result empty again, so that its owner can run it
// once more. It is not for a frame that a task owns.
func (r *Returns[T]) Reset() {
	if r.status&returnsClaimed != 0 {
		panic("stepio: Returns.Reset: a task owns the frame")
	}
	*r = Returns[T]{}
}

func (r *Returns[T]) claim() bool {
	first := r.status&returnsClaimed == 0
	r.status |= returnsClaimed
	return first
}

func (r *Returns[T]) finished() bool { return r.status&returnsFinished != 0 }
