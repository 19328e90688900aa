package sm

import (
	"errors"
	"fmt"
)

// A Stack is a frame that runs a chain of frames by trampoline: the C++ frame
// chain, literally. A frame on it calls another with Task.Call, runs on when
// that one is done, and reads its Result:
//
//	case sumCalling:
//		f.left = &sum{tree: f.tree.left}
//		f.state = sumReturned
//		return t.Call(f.left)
//	case sumReturned:
//		n, err := f.left.Result()
//
// It is for recursion, and for callees that are unknown at compile time; where
// the callee is known, a field by value costs less. The Go stack does not grow
// with the chain, nor with the number of calls that complete at once. A frame
// is not moved while it is on the stack.
//
// The zero Stack is empty and done.
type Stack struct {
	frames  []Frame
	closing []error // of Close, of frames that are off the stack
	err     error   // of the outermost frame, once it is done
}

// maxClosing bounds the errors of Close that a Stack keeps: the first ones.
const maxClosing = 16

// Start puts the outermost frame on the stack, which must be empty.
func (s *Stack) Start(frame Frame) {
	if len(s.frames) != 0 {
		panic("stepio: Stack.Start: the stack is running")
	}
	s.closing, s.err = nil, nil
	s.push(frame)
}

// Depth is the number of frames on the stack.
func (s *Stack) Depth() int { return len(s.frames) }

func (s *Stack) push(frame Frame) {
	if frame == nil {
		panic("stepio: Task.Call: nil frame")
	}
	s.frames = append(s.frames, frame)
}

// stackHops is how many calls and returns a Stack makes in one step of its
// task before it lets the other tasks run.
const stackHops = 1 << 12

// Step runs the innermost frame, and those that it calls and returns to, until
// one of them waits or the outermost is done.
func (s *Stack) Step(t *Task) Await {
	outer := t.sched.stack
	t.sched.stack = s
	defer func() { t.sched.stack = outer }()
	for range stackHops {
		depth := len(s.frames)
		if depth == 0 {
			return Done
		}
		switch a := s.frames[depth-1].Step(t); {
		case a.kind() == kindCall:
			if len(s.frames) != depth+1 {
				panic("stepio: Task.Call: called twice in one step")
			}
		case len(s.frames) != depth:
			panic(fmt.Sprintf("stepio: Task.Call: %s did not return its answer", typeName(s.frames[depth-1])))
		case a.Pending():
			return a
		default:
			s.pop()
		}
	}
	return Yield
}

// Err is how the outermost frame ended: the error of its Err method, nil while
// it has not ended.
func (s *Stack) Err() error { return s.err }

// Idle asks the outermost frame, which the others work for: see Idler.
func (s *Stack) Idle() bool {
	if len(s.frames) == 0 {
		return false
	}
	f, ok := s.frames[0].(Idler)
	return ok && f.Idle()
}

// pop takes the innermost frame, which is done, off the stack and closes it.
func (s *Stack) pop() {
	if f, ok := s.frames[0].(failer); ok && len(s.frames) == 1 {
		s.err = f.Err()
	}
	s.closed(callClose(s.take()))
}

// take takes the innermost frame off the stack. It is off before it is closed,
// so that a Close that panics is not called again.
func (s *Stack) take() Frame {
	last := len(s.frames) - 1
	frame := s.frames[last]
	s.frames[last] = nil
	s.frames = s.frames[:last]
	if last == 0 {
		s.frames = nil
	}
	return frame
}

func (s *Stack) closed(err error) {
	if err != nil && len(s.closing) < maxClosing {
		s.closing = append(s.closing, err)
	}
}

// Close closes the frames that have not ended, the innermost first, and
// returns what any Close of the chain has failed with, the first few. A Close
// that panics does not keep the frames around it from being closed: the panic
// becomes a *PanicError among the errors.
func (s *Stack) Close() error {
	for len(s.frames) > 0 {
		s.closed(closeFrame(s.take()))
	}
	err := errors.Join(s.closing...)
	s.closing = nil
	return err
}
