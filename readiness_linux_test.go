package stepio

import (
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

func TestLoopAwaitsAnEventfd(t *testing.T) {
	for _, c := range awaits {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
			require.NoError(t, err)
			defer func() { assert.NoError(t, unix.Close(fd)) }()
			most := []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
			provoke := func() {
				_, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
				require.NoError(t, err)
			}
			if c.dir == sm.Write {
				_, err := unix.Write(fd, most)
				require.NoError(t, err)
				provoke = func() { drainFD(fd) }
			}
			o := &once{await: c.await(w.Loop, fd)}
			task := w.Spawn(o)
			w.turns(2)
			assert.Equal(t, 1, o.steps)
			provoke()
			w.ended(task)
			assert.Equal(t, c.dir, o.ready)
			require.NoError(t, w.Remove(fd))
		})
	}
}

func TestLoopAwaitsATimerfd(t *testing.T) {
	for _, c := range awaits {
		if c.dir != sm.Read {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
			require.NoError(t, err)
			defer func() { assert.NoError(t, unix.Close(fd)) }()
			var spec unix.ItimerSpec
			spec.Value = unix.NsecToTimespec(int64(5 * time.Millisecond))
			require.NoError(t, unix.TimerfdSettime(fd, 0, &spec, nil))
			start := time.Now()
			o := &once{await: c.await(w.Loop, fd)}
			w.ended(w.Spawn(o))
			assert.GreaterOrEqual(t, time.Since(start), 4*time.Millisecond)
			assert.Equal(t, sm.Read, o.ready)
			require.NoError(t, w.Remove(fd))
		})
	}
}

// Signals interrupt the loop's own thread at every syscall that blocks; with
// them on, 200 requests are answered and 20 sleeps end on time.
func TestTrapEINTRFromRealSignals(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w := newTestLoop(t)
	c, peer := w.pair()
	w.Spawn(&echoFrame{conn: c})
	thread, stop := unix.Gettid(), make(chan struct{})
	sent := make(chan int)
	go func() {
		// SIGURG is what the Go runtime itself preempts with.
		n := 0
		for {
			select {
			case <-stop:
				sent <- n
				return
			default:
				n++
				_ = unix.Tgkill(os.Getpid(), thread, syscall.SIGURG)
				time.Sleep(50 * time.Microsecond) // paces the signals
			}
		}
	}()
	sleeps, next := 0, time.Now()
	w.Spawn(script(func(task *sm.Task) sm.Await {
		for ; sleeps < 20; sleeps++ {
			if a := task.SleepUntil(next); a.Pending() {
				return a
			}
			next = next.Add(time.Millisecond)
		}
		return sm.Done
	}))
	w.alongside(func() {
		for range 200 {
			peer.send([]byte("ping"))
			assert.Equal(t, "ping", string(peer.recv(4)))
		}
	})
	w.until("the sleeps", func() bool { return sleeps == 20 })
	close(stop)
	assert.Positive(t, <-sent)
}
