package parked

import (
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

func TestMeasureFiguresAreSane(t *testing.T) {
	const tasks = 10_000
	r, err := Measure(tasks)
	require.NoError(t, err, "also when a task was not stepped once a wake")
	t.Logf("%+v", r)
	assert.Equal(t, tasks, r.Tasks)
	assert.Greater(t, r.HeapTask, 100.0, "task, frame and connection are on the heap")
	assert.Less(t, r.HeapTask, 300.0)
	assert.Greater(t, r.RSSTask, 100.0)
	assert.Less(t, r.RSSTask, 600.0)
	assert.Greater(t, r.Goroutine, 2000.0, "a goroutine's stack alone is 2 KiB")
	assert.Less(t, r.Goroutine, 8192.0)
	assert.Positive(t, r.GCCPU)
	assert.Positive(t, r.GCWall)
	assert.Positive(t, r.GCPause)
	assert.LessOrEqual(t, r.GCPause, time.Second)
	assert.Positive(t, r.WakeTask)
	assert.Less(t, r.WakeTask, 50*time.Microsecond)
	assert.Less(t, r.AllocWake, 0.001, "the runtime may allocate a little for itself")
}

func TestMeasureRefusesNoTasks(t *testing.T) {
	_, err := Measure(0)
	assert.ErrorContains(t, err, "0 tasks")
}

func TestShapesAreThoseOfAnIdleConnection(t *testing.T) {
	assert.Equal(t, unsafe.Sizeof(stepio.TCPConn{}), unsafe.Sizeof(conn{}), "TCPConn")
	assert.EqualValues(t, 48, unsafe.Sizeof(echo{}), "the frame of examples/tcp_echo_server")
	assert.EqualValues(t, 16, unsafe.Sizeof(slot{}), "the loop's slot")
}

func TestPollerIsFoundOut(t *testing.T) {
	p := &poller{stepped: make([]uint8, 3)}
	s := sm.NewScheduler(sm.Config{Parker: p})
	for fd := range p.stepped {
		s.Spawn(&echo{conn: &conn{poller: p, fd: int32(fd)}})
	}
	assert.Equal(t, 3, s.Turn())
	require.NoError(t, p.check(1))

	p.ready(1, 0)
	p.ready(2, 7) // an event of a descriptor that had the number before
	assert.Equal(t, 1, s.Turn(), "the task that is ready")
	assert.Zero(t, s.Turn(), "it is parked again")
	assert.Equal(t, []uint8{1, 2, 1}, p.stepped)
	assert.ErrorContains(t, p.check(1), "task 1 was stepped 2 times")
	assert.ErrorContains(t, p.check(2), "task 0 was stepped 1 times")
}
