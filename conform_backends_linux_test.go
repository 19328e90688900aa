package stepio

import (
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// kernels are the back ends of Linux that are real, but for kqueue's.
var kernels = []backend{
	{name: "epoll with eventfd", poller: newPoller, interrupt: interruptThread},
	{name: "epoll with pipe", poller: newEpollWithPipe, interrupt: interruptThread},
}

// epollWithPipe is epoll that is used as kqueue is: woken by a pipe,
// level-triggered, which is drained; and connections are not latched on it.
type epollWithPipe struct {
	*epoll
	bell pipeWaker
}

// pipeKey is the key of the pipe: the eventfd, which stays, has wakeKey.
const pipeKey = wakeKey - 1

func newEpollWithPipe(batch int) (poller, error) {
	bell, err := newPipeWaker()
	if err != nil {
		return nil, err
	}
	p, err := newPoller(batch)
	if err != nil {
		_ = bell.close() // the first error is the one to return
		return nil, err
	}
	e := &epollWithPipe{p.(*epoll), bell}
	if err := e.ctl(unix.EPOLL_CTL_ADD, bell.near, unix.EPOLLIN, pipeKey); err != nil {
		_ = e.close() // likewise
		return nil, err
	}
	return e, nil
}

func (p *epollWithPipe) wait(events []event, timeout time.Duration) (int, error) {
	n, err := p.epoll.wait(events, timeout)
	filled := 0
	for _, ev := range events[:n] {
		if ev.key == pipeKey {
			err = p.bell.drain()
			continue
		}
		events[filled] = ev
		filled++
	}
	return filled, err
}

func (p *epollWithPipe) relooks() bool { return false }

func (p *epollWithPipe) wake() error { return p.bell.wake() }

func (p *epollWithPipe) close() error {
	err := p.bell.close()
	if e := p.epoll.close(); err == nil {
		err = e
	}
	return err
}

// interruptThread sends signals to the calling thread until it is stopped: of the
// sort that the Go runtime itself preempts with.
func interruptThread(t testing.TB) (stop func()) {
	runtime.LockOSThread()
	thread, over, stopped := unix.Gettid(), make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-over:
				stopped <- n
				return
			default:
				_ = unix.Tgkill(os.Getpid(), thread, syscall.SIGURG) // the thread is locked, and there
				time.Sleep(50 * time.Microsecond)                    // paces the signals
			}
		}
	}()
	return func() {
		close(over)
		t.Logf("%d signals", <-stopped)
		runtime.UnlockOSThread()
	}
}

// underWay is how many bytes a connection has sent that were not acknowledged.
func underWay(fd int) int {
	queued, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ)
	if err != nil {
		return 0
	}
	unsent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQNSD)
	if err != nil {
		return 0
	}
	return queued - unsent
}
