//go:build linux || darwin

package stepio

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// dialFrame owns a Dial, as a user's frame does.
type dialFrame struct {
	dial  Dial
	steps int
}

func (d *dialFrame) Step(t *sm.Task) sm.Await {
	d.steps++
	return d.dial.Step(t)
}

func (d *dialFrame) Err() error   { return d.dial.Err() }
func (d *dialFrame) Close() error { return d.dial.Close() }

// refusing is an address on which nobody listens, and nobody will.
func refusing(t *testing.T) netip.AddrPort {
	fd := streamSocket(t)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	addr, errno := rawLocalAddr(fd)
	require.Zero(t, errno)
	return addr
}

// stuck is an address that answers no connection attempt: its queue is full.
func stuck(t *testing.T) netip.AddrPort {
	fd := streamSocket(t)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(fd, 0))
	sa, err := unix.Getsockname(fd)
	require.NoError(t, err)
	for range 3 {
		c := streamSocket(t)
		t.Cleanup(func() { require.NoError(t, unix.Close(c)) })
		require.NoError(t, unix.SetNonblock(c, true))
		if err := unix.Connect(c, sa); err != nil {
			require.Equal(t, unix.EINPROGRESS, err)
		}
	}
	addr, errno := rawLocalAddr(fd)
	require.Zero(t, errno)
	return addr
}

func TestDialTCPConnects(t *testing.T) {
	for _, c := range []struct {
		name    string
		setup   func(w *world)
		options DialOptions
		noDelay bool
	}{
		{"as it comes", func(*world) {}, DialOptions{}, true},
		{"with Nagle's algorithm", func(*world) {}, DialOptions{Delay: true}, false},
		{"from an address", func(*world) {}, DialOptions{Local: netip.MustParseAddrPort("127.0.0.2:0")}, true},
		{"interrupted", func(w *world) { w.faults.fail(callConnect, syscall.EINTR) }, DialOptions{}, true},
		{"interrupted twice", func(w *world) { w.faults.fail(callConnect, syscall.EINTR, syscall.EINTR) }, DialOptions{}, true},
		{"interrupted before it has begun", func(w *world) {
			w.faults.before = true
			w.faults.fail(callConnect, syscall.EINTR, syscall.EINTR)
		}, DialOptions{}, true},
		{"with a deadline", func(*world) {}, DialOptions{Deadline: time.Now().Add(time.Hour)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFaultyLoop(t)
			ln := w.listen(ListenOptions{})
			c.setup(w)
			d := &dialFrame{dial: DialTCP(w.Loop, ln.Addr(), c.options)}
			assert.Equal(t, 1, w.faults.count(callSocket), "nothing happens before the first Step")
			_, err := d.dial.Result()
			assert.Equal(t, sm.ErrNoResult, err)
			var conn *TCPConn
			w.ended(w.Spawn(script(d.Step, func(*sm.Task) sm.Await {
				conn, err = d.dial.Result()
				return sm.Done
			})))
			require.NoError(t, err)
			w.conns = append(w.conns, conn)
			assert.Equal(t, ln.Addr(), conn.RemoteAddr())
			if c.options.Local.IsValid() {
				assert.Equal(t, c.options.Local.Addr(), conn.LocalAddr().Addr())
			}
			on, err := unix.GetsockoptInt(conn.FD(), unix.IPPROTO_TCP, unix.TCP_NODELAY)
			require.NoError(t, err)
			assert.Equal(t, c.noDelay, on != 0)
			_, err = d.dial.Result()
			assert.Equal(t, sm.ErrNoResult, err, "the connection was handed over")
			require.NoError(t, d.dial.Close(), "which is not the Dial's to close any more")
			assert.GreaterOrEqual(t, conn.FD(), 0)
		})
	}
}

func TestTrapConnectRefused(t *testing.T) {
	w := newTestLoop(t)
	fds := len(openFDs())
	addr := refusing(t)
	d := &dialFrame{dial: DialTCP(w.Loop, addr, DialOptions{})}
	task := w.Spawn(d)
	w.ended(task)
	conn, err := d.dial.Result()
	assert.Nil(t, conn)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, "dial", op.Op)
	assert.Equal(t, net.TCPAddrFromAddrPort(addr), op.Addr)
	assert.Len(t, openFDs(), fds+1, "but for the test's own")
	require.Len(t, w.reported(), 1, "a root frame's error that nobody joins")
	assert.ErrorIs(t, task.Err(), syscall.ECONNREFUSED)
}

func TestTrapConnectTimedOut(t *testing.T) {
	for _, c := range []struct {
		name     string
		deadline time.Duration
	}{
		{"a deadline that passes", 20 * time.Millisecond},
		{"a deadline that has passed", -time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			addr := stuck(t)
			fds := len(openFDs())
			deadline := time.Now().Add(c.deadline)
			d := &dialFrame{dial: DialTCP(w.Loop, addr, DialOptions{Deadline: deadline})}
			w.ended(w.Spawn(d))
			_, err := d.dial.Result()
			assertTimeout(t, err)
			assert.False(t, time.Now().Before(deadline))
			assert.Len(t, openFDs(), fds, "a failed attempt leaves no descriptor")
			w.reported()
		})
	}
	t.Run("the kernel's own time-out", func(t *testing.T) {
		w := newFaultyLoop(t)
		addr := stuck(t)
		w.faults.fail(callConnect, syscall.ETIMEDOUT)
		d := &dialFrame{dial: DialTCP(w.Loop, addr, DialOptions{})}
		w.ended(w.Spawn(d))
		_, err := d.dial.Result()
		assert.ErrorIs(t, err, syscall.ETIMEDOUT)
		w.reported()
	})
}

// A connection that is made at once, as on some systems over loopback, is as
// good as one that takes its time.
func TestTrapConnectCompletedAtOnce(t *testing.T) {
	w := newFaultyLoop(t)
	ln := w.listen(ListenOptions{})
	d := &dialFrame{dial: DialTCP(w.Loop, ln.Addr(), DialOptions{})}
	instant := &instantConnect{w.faults}
	w.sys.sim = instant
	w.ended(w.Spawn(script(d.Step)))
	conn, err := d.dial.Result()
	require.NoError(t, err)
	w.conns = append(w.conns, conn)
	n, err := conn.Write([]byte("x"))
	assert.NoError(t, err)
	assert.Equal(t, 1, n)
}

// instantConnect is a kernel whose connect answers success.
type instantConnect struct{ *faults }

func (k *instantConnect) Connect(fd int, addr netip.AddrPort) syscall.Errno {
	errno := k.faults.Connect(fd, addr)
	if errno == syscall.EINPROGRESS {
		pollFD(fd, unix.POLLOUT, patience)
		return 0
	}
	return errno
}

// A wake while the attempt goes on is not its end.
func TestDialSurvivesSpuriousWakes(t *testing.T) {
	w := newTestLoop(t)
	addr := stuck(t)
	d := &dialFrame{dial: DialTCP(w.Loop, addr, DialOptions{Deadline: time.Now().Add(50 * time.Millisecond)})}
	task := w.Spawn(d)
	for range 10 {
		w.turns(1)
		task.Waker().Wake()
	}
	w.turns(1)
	assert.GreaterOrEqual(t, d.steps, 10)
	assert.False(t, task.Ended())
	_, err := d.dial.Result()
	assert.Equal(t, sm.ErrNoResult, err)
	w.ended(task)
	assert.ErrorIs(t, task.Err(), os.ErrDeadlineExceeded)
	w.reported()
}

func TestDialClosedMidwayLeavesNothing(t *testing.T) {
	w := newTestLoop(t)
	addr := stuck(t)
	fds := len(openFDs())
	d := &dialFrame{dial: DialTCP(w.Loop, addr, DialOptions{})}
	task := w.Spawn(d)
	w.turns(2)
	require.Len(t, openFDs(), fds+1)
	task.Destroy()
	assert.Len(t, openFDs(), fds)
	_, err := d.dial.Result()
	assert.Equal(t, sm.ErrNoResult, err)

	ln := w.listen(ListenOptions{})
	fds = len(openFDs())
	w.ended(w.Spawn(&dialFrame{dial: DialTCP(w.Loop, ln.Addr(), DialOptions{})}))
	assert.Len(t, openFDs(), fds, "nor does a connection that nobody took")
}

// A failed call leaves no descriptor, whichever it is.
func TestDialThatFailsLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		call callKind
	}{
		{"socket", callSocket}, {"setsockopt", callSetOption}, {"bind", callBind},
		{"connect", callConnect}, {"getsockopt", callOption}, {"epoll_ctl", callPollAdd},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFaultyLoop(t)
			ln := w.listen(ListenOptions{})
			fds := len(openFDs())
			w.faults.fail(c.call, syscall.ENOBUFS)
			d := &dialFrame{dial: DialTCP(w.Loop, ln.Addr(), DialOptions{Local: loopback})}
			w.ended(w.Spawn(d))
			_, err := d.dial.Result()
			assert.ErrorIs(t, err, syscall.ENOBUFS)
			assert.Len(t, openFDs(), fds)
			w.reported()
		})
	}
	t.Run("an address that is not valid", func(t *testing.T) {
		w := newTestLoop(t)
		d := &dialFrame{dial: DialTCP(w.Loop, netip.AddrPort{}, DialOptions{})}
		w.ended(w.Spawn(d))
		assert.ErrorIs(t, d.dial.Err(), syscall.EINVAL)
		w.reported()
	})
}

func TestDialFromAMappedLocalAddress(t *testing.T) {
	w := newTestLoop(t)
	ln := w.listen(ListenOptions{})
	d := &dialFrame{dial: DialTCP(w.Loop, ln.Addr(), DialOptions{Local: netip.MustParseAddrPort("[::ffff:127.0.0.1]:0")})}
	w.ended(w.Spawn(d))
	assert.NoError(t, d.dial.Err(), "it is the IPv4 address, as for DialUDP")
}

// The kernel can connect a socket with itself, when it chooses for this end the
// very port that it dials. That is nobody who listens.
func TestDialOfItselfIsRefused(t *testing.T) {
	w := newFaultyLoop(t)
	addr := refusing(t)
	k := &selfConnect{w.faults}
	w.sys.sim = k
	d := &dialFrame{dial: DialTCP(w.Loop, addr, DialOptions{})}
	w.ended(w.Spawn(d))
	assert.ErrorIs(t, d.dial.Err(), syscall.ECONNREFUSED)
	w.reported()
}

// selfConnect is a kernel that connects a socket with itself.
type selfConnect struct{ *faults }

func (k *selfConnect) Connect(fd int, _ netip.AddrPort) syscall.Errno {
	if errno := k.Bind(fd, loopback); errno != 0 {
		return errno
	}
	self, errno := k.LocalAddr(fd)
	if errno != 0 {
		return errno
	}
	return k.faults.Connect(fd, self)
}
