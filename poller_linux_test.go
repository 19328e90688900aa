package stepio

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// A wake whose write fails finds another way: the loop would sleep on.
func TestEpollWakesWithoutAWrite(t *testing.T) {
	events := make([]event, 1)
	for _, c := range []struct {
		name  string
		times int
		wake  func(p *epoll) error
	}{
		{"an eventfd that was never written", 3, (*epoll).wakeAnew},
		{"one whose counter is full", 1, func(p *epoll) error {
			_, err := unix.Write(p.eventfd, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
			require.NoError(t, err)
			_, err = p.wait(events, 0, false) // takes the edge of that write
			require.NoError(t, err)
			return p.wake()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			made, err := newPoller(1)
			require.NoError(t, err)
			p := made.(*epoll)
			defer func() { assert.NoError(t, p.close()) }()
			for range c.times {
				require.NoError(t, c.wake(p))
				start := time.Now()
				n, err := p.wait(events, patience, false)
				require.NoError(t, err)
				assert.Zero(t, n, "a wake is no event")
				assert.Less(t, time.Since(start), patience/2)
			}
		})
	}
}

// A brisk wait ends with an event, and if there is none when its time is over.
func TestEpollBriskWaitsEnd(t *testing.T) {
	made, err := newPoller(1)
	require.NoError(t, err)
	p := made.(*epoll)
	defer func() { assert.NoError(t, p.close()) }()
	var pipe [2]int
	require.NoError(t, unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC))
	defer func() { assert.NoError(t, unix.Close(pipe[0])) }()
	defer func() { assert.NoError(t, unix.Close(pipe[1])) }()
	require.NoError(t, p.add(pipe[0], 7, sm.Read, false))
	events := make([]event, 8)
	for _, timeout := range []time.Duration{briskFor, time.Microsecond} {
		n, err := p.wait(events, timeout, true) // without an end, the test has none
		require.NoError(t, err)
		assert.Zero(t, n)
	}
	_, err = unix.Write(pipe[1], []byte{1})
	require.NoError(t, err)
	n := 0
	for end := time.Now().Add(patience); n == 0 && time.Now().Before(end); { // the runtime may interrupt it
		n, err = p.wait(events, briskFor, true)
		require.NoError(t, err)
	}
	require.Equal(t, 1, n)
	assert.Equal(t, uint64(7), events[0].key)
}

// A brisk wait keeps the only processor: a goroutine that comes back from a syscall
// goes on when it is over. During another wait the runtime's monitor, which such a
// goroutine keeps awake, takes the processor for it.
func TestEpollBriskWaitsKeepTheProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	made, err := newPoller(1)
	require.NoError(t, err)
	defer func() { assert.NoError(t, made.close()) }()
	var rounds atomic.Int64
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := unix.Nanosleep(&unix.Timespec{Nsec: 1e5}, nil); err != nil && err != unix.EINTR {
				stopped <- err
				return
			}
			rounds.Add(1)
		}
	}()
	events := make([]event, 1)
	during := func(brisk bool) (moved int64) {
		for range 50 {
			runtime.Gosched()
			before := rounds.Load()
			_, err := made.wait(events, briskFor, brisk)
			moved += rounds.Load() - before
			require.NoError(t, err)
		}
		return moved
	}
	kept, given := during(true), during(false)
	close(stop)
	require.NoError(t, <-stopped)
	t.Logf("the other one went round %d times beside brisk waits, %d times beside others", kept, given)
	assert.Less(t, kept, given/2)
}
