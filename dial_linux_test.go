package stepio

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The second call, which tells what has become of a connect that was interrupted,
// tells of its failure too.
func TestDialThatIsInterruptedAndRefused(t *testing.T) {
	w := newFaultyLoop(t)
	w.faults.fail(callConnect, syscall.EINTR)
	d := &dialFrame{dial: DialTCP(w.Loop, refusing(t), DialOptions{})}
	w.ended(w.Spawn(d))
	_, err := d.dial.Result()
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.Equal(t, 2, w.faults.count(callConnect))
	require.Len(t, w.reported(), 1)
}
