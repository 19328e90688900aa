//go:build linux || darwin

package stepio

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/simkernel"
	"github.com/stepio-go/stepio/sm"
)

// host is where a case of the conformance table runs: a loop over a back end, and
// the calls of its kernel, for peers that are not on the loop.
type host struct {
	*world
	back  *backend
	net   sys
	sim   *simkernel.Kernel // nil: the kernel is real
	polls *countedPoller
	// blocking is what happens when the loop is about to block, on a simulated
	// kernel.
	blocking func()
}

// open makes a host. Interrupted: the simulated kernel interrupts every second
// call; a real one has to be sent signals.
func (b backend) open(t *testing.T, interrupted bool) *host {
	h := &host{back: &b}
	config := func(c *loopConfig) {
		open := b.poller
		if open == nil {
			h.simulate(t, interrupted)
			c.kernel, c.clock = h.sim, h.sim.Clock
			open = h.net.newPoller
		}
		c.poller = func(batch int) (poller, error) {
			p, err := open(batch)
			if err != nil {
				return nil, err
			}
			h.polls = &countedPoller{poller: p}
			return h.polls, nil
		}
	}
	h.world = newTestLoop(t, config)
	return h
}

func (h *host) simulate(t *testing.T, interrupted bool) {
	config := simkernel.Config{
		Rand: rand.New(rand.NewPCG(1, 1)), SendBuffer: 4096, ReceiveBuffer: 4096,
		Blocking: func(bool) {
			if fn := h.blocking; fn != nil {
				h.blocking = nil
				fn()
			}
		},
	}
	if interrupted {
		config.Rates[simkernel.Interrupted] = 512
	}
	h.sim = simkernel.New(config)
	h.net.sim = h.sim
	t.Cleanup(func() { // after all others
		assert.Empty(t, h.sim.Violations, "what the library must not do")
		files, registrations := h.sim.Open()
		assert.Zero(t, files, "descriptors left")
		assert.Zero(t, registrations, "registrations left")
	})
}

// countedPoller counts the calls of a poller.
type countedPoller struct {
	poller
	adds, modifies, removes, waits int
	wakes                          atomic.Int64
	// onWait may change what a wait has brought; nil: it does not.
	onWait func(events []event) []event
}

func (p *countedPoller) add(fd int, key uint64, dirs sm.Dir, edge bool) error {
	p.adds++
	return p.poller.add(fd, key, dirs, edge)
}

func (p *countedPoller) modify(fd int, key uint64, was, dirs sm.Dir, edge bool) error {
	p.modifies++
	return p.poller.modify(fd, key, was, dirs, edge)
}

func (p *countedPoller) remove(fd int, dirs sm.Dir) error {
	p.removes++
	return p.poller.remove(fd, dirs)
}

func (p *countedPoller) wait(events []event, timeout time.Duration) (int, error) {
	p.waits++
	n, err := p.poller.wait(events, timeout)
	if p.onWait != nil {
		n = copy(events, p.onWait(events[:n:n]))
	}
	return n, err
}

func (p *countedPoller) wake() error {
	p.wakes.Add(1)
	return p.poller.wake()
}

// registrations is how many calls there were that change one.
func (p *countedPoller) registrations() int { return p.adds + p.modifies + p.removes }

// now is the kernel's clock.
func (h *host) now() time.Duration {
	if h.sim != nil {
		return h.sim.Clock()
	}
	return sm.Monotonic()
}

// pass lets time pass while the loop does not look.
func (h *host) pass(d time.Duration) {
	if h.sim != nil {
		h.sim.Pass(d)
		return
	}
	for end := h.now() + d; h.now() < end; {
		runtime.Gosched()
	}
}

// rest turns the loop for d, as Run would, and returns how often it has waited.
func (h *host) rest(d time.Duration) (waits int) {
	h.t.Helper()
	before := h.polls.waits
	h.ended(h.Spawn(sleeper(h.Now().Add(d))))
	return h.polls.waits - before
}

// elsewhere has another goroutine call fn once the loop waits, where the kernel
// is a real one; a simulated one calls it then.
func (h *host) elsewhere(fn func()) {
	if h.sim != nil {
		h.blocking = fn
		return
	}
	done := make(chan struct{})
	h.t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		for end := time.Now().Add(patience); h.mail.alert.Load() && time.Now().Before(end); {
			runtime.Gosched()
		}
		fn()
	}()
}

// arrived waits, while the loop does not look, until the kernel has something
// for fd: readyRead, readyWrite or readyEnd.
func (h *host) arrived(fd int, what readiness) {
	h.t.Helper()
	if h.sim != nil {
		h.sim.Settle()
		require.NotZero(h.t, h.sim.Ready(fd)&uint8(what), "nothing has arrived")
		return
	}
	events := map[readiness]int16{readyRead: unix.POLLIN, readyWrite: unix.POLLOUT, readyEnd: pollEnd}[what]
	require.True(h.t, pollFD(fd, events, patience), "nothing has arrived")
}

// deliver has what was sent arrive: on a real kernel it has.
func (h *host) deliver() {
	if h.sim != nil {
		h.sim.Settle()
	}
}

// pump turns the loop, which never blocks meanwhile, until cond is true.
func (h *host) pump(what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(patience); !cond(); runtime.Gosched() {
		require.True(h.t, time.Now().Before(end), "waited in vain: %s", what)
		h.turns(1)
	}
}

// waiting spawns tasks that wait once each, and turns the loop until they do.
func (h *host) waiting(awaits ...sm.Await) (waits []*once, tasks []*sm.Task) {
	for _, a := range awaits {
		o := &once{await: a}
		waits, tasks = append(waits, o), append(tasks, h.Spawn(o))
	}
	h.turns(2)
	return waits, tasks
}

// far is the other end of a connection, or a socket of its own: of the same
// kernel, and not on the loop.
type far struct {
	h  *host
	fd int
}

// socket is a far one that does not block.
func (h *host) socket(kind int) *far {
	fd, errno := h.net.socket(unix.AF_INET, kind)
	require.Zero(h.t, errno)
	f := &far{h, fd}
	h.t.Cleanup(f.reset)
	return f
}

// bound is a far socket with a port.
func (h *host) bound(kind int) (*far, netip.AddrPort) {
	f := h.socket(kind)
	require.Zero(h.t, h.net.bind(f.fd, loopback))
	addr, errno := h.net.localAddr(f.fd)
	require.Zero(h.t, errno)
	return f, addr
}

// listener is a far socket with a queue.
func (h *host) listener(backlog int) (*far, netip.AddrPort) {
	f, addr := h.bound(unix.SOCK_STREAM)
	require.Zero(h.t, h.net.listen(f.fd, backlog))
	return f, addr
}

// connect begins a connection to addr.
func (h *host) connect(addr netip.AddrPort) *far {
	f := h.socket(unix.SOCK_STREAM)
	errno := h.net.connect(f.fd, addr)
	require.Contains(h.t, []syscall.Errno{0, unix.EINPROGRESS, unix.EINTR}, errno)
	return f
}

// accept takes a connection from the queue.
func (f *far) accept() *far {
	f.h.arrived(f.fd, readyRead)
	fd, errno := f.h.net.accept(f.fd)
	require.Zero(f.h.t, errno)
	accepted := &far{f.h, fd}
	f.h.t.Cleanup(accepted.reset)
	return accepted
}

// pair is a connection of the loop and its other end.
func (h *host) pair() (*TCPConn, *far) { return h.pairOf(0) }

// narrow is a pair whose buffers are small.
func (h *host) narrow() (*TCPConn, *far) { return h.pairOf(4096) }

func (h *host) pairOf(buffers int) (*TCPConn, *far) {
	ln, addr := h.listener(1)
	small := func(fd int) {
		if buffers > 0 {
			require.Zero(h.t, h.net.setOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffers))
			require.Zero(h.t, h.net.setOption(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, buffers))
		}
	}
	small(ln.fd) // the accepted socket has its buffers
	f := h.socket(unix.SOCK_STREAM)
	small(f.fd)
	require.Contains(h.t, []syscall.Errno{0, unix.EINPROGRESS, unix.EINTR}, h.net.connect(f.fd, addr))
	h.arrived(ln.fd, readyRead)
	fd, errno := h.net.accept(ln.fd)
	require.Zero(h.t, errno)
	ln.reset()
	for _, fd := range []int{fd, f.fd} {
		require.Zero(h.t, h.net.setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	}
	c := newTCPConn(h.Loop, fd, false)
	h.conns = append(h.conns, c)
	return c, f
}

// send sends all of data; where the connection takes no more, the loop turns.
func (f *far) send(data string) {
	f.h.t.Helper()
	f.h.pumpIO("a far send", func() bool {
		n, errno := f.h.net.write(f.fd, []byte(data))
		if errno != unix.EAGAIN {
			require.Zero(f.h.t, errno)
		}
		data = data[n:]
		return data == ""
	})
}

// pumpIO is pump that tries first.
func (h *host) pumpIO(what string, try func() bool) {
	h.t.Helper()
	if !try() {
		h.pump(what, try)
	}
}

// recv receives n bytes while the loop turns; less when the input ends before.
func (f *far) recv(n int) string {
	f.h.t.Helper()
	data, _ := f.recvUpTo(n)
	return data
}

// recvUpTo is recv that says how the input ended: 0, by its end or not at all.
func (f *far) recvUpTo(n int) (string, syscall.Errno) {
	f.h.t.Helper()
	var data []byte
	var failed syscall.Errno
	f.h.pumpIO("a far receive", func() bool {
		buf := make([]byte, n-len(data))
		m, errno := f.h.net.read(f.fd, buf)
		data = append(data, buf[:m]...)
		if errno != 0 && errno != unix.EAGAIN {
			failed = errno
		}
		return len(data) == n || failed != 0 || m == 0 && errno == 0
	})
	return string(data), failed
}

// fill writes to fd until its kernel takes no more, neither now nor later: all
// that could travel has, and was acknowledged, which may be late.
func (h *host) fill(fd int) {
	chunk := make([]byte, 64<<10)
	end := time.Now().Add(patience)
	for full := 0; full < 3; {
		require.True(h.t, time.Now().Before(end), "it does not fill up")
		_, errno := h.net.write(fd, chunk)
		switch {
		case errno == 0:
			full = 0
		case errno != unix.EAGAIN:
			require.Zero(h.t, errno)
		case h.sim != nil:
			h.sim.Settle()
			full++
		case !pollFD(fd, unix.POLLOUT, 2*time.Millisecond) && underWay(fd) == 0:
			full++
		}
	}
}

func (f *far) closeWrite() { require.Zero(f.h.t, f.h.net.shutdown(f.fd, unix.SHUT_WR)) }

// close ends the connection. Closing twice does nothing.
func (f *far) close() {
	if f.fd >= 0 {
		require.Zero(f.h.t, f.h.net.close(f.fd))
		f.fd = -1
	}
}

// reset is close with a reset, which leaves nothing behind.
func (f *far) reset() {
	if f.fd >= 0 {
		require.Zero(f.h.t, f.h.net.setOption(f.fd, unix.SOL_SOCKET, unix.SO_LINGER, 0))
		f.close()
	}
}
