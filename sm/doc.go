// Package sm is the machinery of stepio without its sockets: frames, tasks,
// awaits, a scheduler and timers. It makes no syscall and opens no file.
//
// # The model
//
// A [Frame] is one activation record of a coroutine, written by hand: its
// fields are the locals, its state is the resume point, and its Step runs
// from there to the next suspension point and answers with an [Await], which
// says what the frame waits for. A callee is a field of its caller, and
// stepping it is an ordinary method call:
//
//	if a := f.child.Step(t); a.Pending() {
//		return a // the callee waits, so does the caller
//	}
//	v, err := f.child.Result()
//
// A [Task] is a root frame that a [Scheduler] runs. The scheduler steps the
// tasks that are ready, first in, first out (one that yields is ready anew when
// the next [Scheduler.Turn] begins), and parks those that wait: on a
// descriptor (through the small interface [Parker]), on a deadline, or for a
// [Waker]. Every resume may be spurious; a frame tests its condition again.
//
// # Who may call what
//
// A scheduler and its tasks belong to one goroutine at a time. The exceptions
// are the methods of [Waker], which any goroutine may call at any time.
//
// # Testing a frame
//
// A frame needs neither a loop nor a socket to be tested: a Scheduler with the
// zero [Config] has a virtual clock and virtual descriptors, which a test
// moves with [Scheduler.Turn], [Scheduler.Advance], [Scheduler.Ready] and
// [Scheduler.Fail]. See the package examples.
package sm
