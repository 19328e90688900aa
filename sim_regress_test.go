//go:build linux || darwin

package stepio

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/stepio-go/stepio/sm"
)

// What the simulation has found in the library, each by itself.

// A direction that nobody waits for any more is disarmed. When the kernel refused
// that, the descriptor left the poller, and a task that waited for the other
// direction was never resumed (seed 14 of the first simulation).
func TestLoopWaiterSurvivesRefusedDisarming(t *testing.T) {
	w := newFaultyLoop(t)
	c, p := w.pair()
	writer := w.Spawn(&once{await: c.Writable()})
	var got []byte
	reader := w.spawn(func(task *sm.Task) sm.Await {
		n, err := c.Read(task.Scratch())
		if err == ErrWouldBlock {
			return c.Readable()
		}
		assert.NoError(t, err)
		got = append(got, task.Scratch()[:n]...)
		return sm.Done
	})
	w.ended(writer) // writing is armed, and nobody waits for it
	w.faults.fail(callPollModify, syscall.ENOMEM)
	w.until("disarming was refused", func() bool { return len(w.faults.script[callPollModify]) == 0 })
	p.send([]byte("x"))
	w.ended(reader.task)
	assert.Equal(t, "x", string(got))
}
