package sm

import (
	"errors"
	"fmt"
)

// ErrDestroyed is the error of a task that was destroyed before it ended.
var ErrDestroyed = errors.New("stepio: task destroyed")

// errGoexit is the error of a task whose step called runtime.Goexit.
var errGoexit = errors.New("stepio: step called runtime.Goexit")

// A ForgottenError ends a task whose Step returned the zero Await: some path
// through it forgot to say what it waits for.
type ForgottenError struct {
	Frame string // the type of the innermost active frame
	State string // its state by name
}

// Error names the frame and its state.
func (e *ForgottenError) Error() string {
	return fmt.Sprintf("stepio: %s in state %s returned the zero Await", e.Frame, e.State)
}

// A PanicError is how a task ended whose Step, Close or Job panicked.
type PanicError struct {
	Value any    // what was panicked with
	Stack []byte // the goroutine's stack; in it, the calls of Step are the logical stack
	Chain string // the frame chain, as Dump shows it
}

// Error is the value of the panic and, where it is known, the frame chain.
func (e *PanicError) Error() string {
	if e.Chain == "" {
		return fmt.Sprintf("stepio: panic: %v", e.Value)
	}
	return fmt.Sprintf("stepio: panic in %s: %v", e.Chain, e.Value)
}

// Unwrap is the value of the panic, where that was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}
