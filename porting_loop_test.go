//go:build linux || darwin

package stepio_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The rows of docs/porting.md on descriptors, groups of loops and the pool.

// region: readable
type drain struct {
	loop *stepio.Loop
	fd   int // any descriptor that the poller takes, and that does not block
	use  func(p []byte)
	err  error
}

func (d *drain) Step(t *sm.Task) sm.Await {
	for {
		if err := t.WaitErr(); err != nil {
			return d.end(err) // removed, or nothing that can be polled
		}
		if !t.Scheduler().Admit() {
			return sm.Yield // the step's budget: a syscall of one's own has to ask
		}
		n, err := unix.Read(d.fd, t.Scratch())
		switch {
		case err == unix.EAGAIN:
			return d.loop.Readable(d.fd) // or ReadableET: this reads until EAGAIN
		case err == unix.EINTR:
			continue
		case err != nil:
			return d.end(os.NewSyscallError("read", err))
		case n == 0:
			return d.end(nil)
		}
		t.Scheduler().Spend(n)
		d.use(t.Scratch()[:n])
	}
}

func (d *drain) end(err error) sm.Await {
	d.err = err
	return sm.Done
}

// endregion

func (d *drain) Err() error { return d.err }

// region: writable
type fill struct {
	loop *stepio.Loop
	fd   int
	data []byte
	err  error
}

func (f *fill) Step(t *sm.Task) sm.Await {
	if f.err = t.WaitErr(); f.err != nil {
		return sm.Done
	}
	for len(f.data) > 0 {
		if !t.Scheduler().Admit() {
			return sm.Yield
		}
		n, err := unix.Write(f.fd, f.data)
		switch {
		case err == unix.EAGAIN:
			return f.loop.Writable(f.fd) // or WritableET
		case err == unix.EINTR:
			continue
		case err != nil:
			f.err = os.NewSyscallError("write", err)
			return sm.Done
		}
		t.Scheduler().Spend(n)
		f.data = f.data[n:]
	}
	return sm.Done
}

// endregion

func (f *fill) Err() error { return f.err }

// pipeOf is a pipe that does not block.
func pipeOf(t *testing.T) (r, w int) {
	var fds [2]int
	require.NoError(t, unix.Pipe(fds[:]))
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		require.NoError(t, unix.SetNonblock(fd, true))
	}
	return fds[0], fds[1]
}

func TestPortingReadableAndWritable(t *testing.T) {
	g := newGuide(t)
	r, w := pipeOf(t)
	defer func() { assert.NoError(t, unix.Close(r)) }()
	var got int
	const much = 1 << 20 // more than a pipe holds
	reading := joined(g, g.Spawn(&drain{loop: g.Loop, fd: r, use: func(p []byte) { got += len(p) }}))
	writing := joined(g, g.Spawn(&fill{loop: g.Loop, fd: w, data: make([]byte, much)}))
	g.start()
	require.NoError(t, <-writing)
	g.on(func() {
		require.NoError(t, g.Remove(w))
		require.NoError(t, unix.Close(w))
	})
	require.NoError(t, <-reading)
	assert.Equal(t, much, got)
	g.on(func() { require.NoError(t, g.Remove(r)) })
}

func TestPortingRemove(t *testing.T) {
	g := newGuide(t)
	loop := g.Loop
	fd, w := pipeOf(t)
	defer func() { assert.NoError(t, unix.Close(w)) }()
	ended := joined(g, g.Spawn(&drain{loop: loop, fd: fd}))
	g.start()
	g.on(func() {}) // the tasks have run, or run in the next turn
	g.on(func() {}) // it waits
	g.on(func() {
		remove := func() error {
			// region: remove
			if err := loop.Remove(fd); err != nil { // whoever waits gets stepio.ErrRemoved
				return err
			}
			return unix.Close(fd)
			// endregion
		}
		require.NoError(t, remove())
	})
	assert.ErrorIs(t, <-ended, stepio.ErrRemoved)
}

func TestPortingGroup(t *testing.T) {
	serve := func(stop func(addr string)) error {
		handle := func(c *stepio.TCPConn) sm.Frame { return &greet{conn: c, limit: longest} }
		// region: group
		group, err := stepio.NewGroup(4) // four loops, running
		if err != nil {
			return err
		}
		addr := netip.MustParseAddrPort("127.0.0.1:0")
		err = group.Each(func(i int, l *stepio.Loop) error { // on each loop, one after the other
			ln, err := stepio.ListenTCP(l, addr, stepio.ListenOptions{ReusePort: true})
			if err != nil {
				return err
			}
			addr = ln.Addr() // the first has chosen the port
			l.Spawn(stepio.NewServe(ln, handle))
			return nil
		})
		// endregion
		if err == nil {
			stop(addr.String())
		}
		// region: group, end
		group.Stop()
		return errors.Join(err, group.Join()) // waits for the loops, and closes them
		// endregion
	}
	require.NoError(t, serve(func(addr string) {
		for range 8 {
			greetOnce(t, addr)
		}
	}))
}

func greetOnce(t *testing.T, addr string) {
	peer := dial(t, addr)
	_, err := peer.Write([]byte("you\n"))
	require.NoError(t, err)
	require.NoError(t, peer.CloseWrite())
	answer, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.Equal(t, "hello, you\n", string(answer))
}

// region: next
type handOut struct {
	ln    *stepio.TCPListener
	group *stepio.Group
	spawn func(*stepio.TCPConn) sm.Frame
	err   error
}

func (h *handOut) Step(*sm.Task) sm.Await {
	for {
		fd, err := h.ln.AcceptFD()
		if err == stepio.ErrWouldBlock {
			return h.ln.Readable()
		}
		if err != nil {
			h.err = err
			return sm.Done
		}
		loop := h.group.Next()
		if err := loop.Post(func() { loop.Spawn(h.spawn(stepio.NewTCPConn(loop, fd))) }); err != nil {
			_ = unix.Close(fd) // stopped, or over the bound: the client is turned away
		}
	}
}

func (h *handOut) Err() error   { return h.err }
func (h *handOut) Close() error { return h.ln.Close() }

// endregion

func TestPortingNext(t *testing.T) {
	group, err := stepio.NewGroup(2)
	require.NoError(t, err)
	defer func() {
		group.Stop()
		assert.NoError(t, group.Join())
	}()
	g := newGuide(t)
	ln, err := stepio.ListenTCP(g.Loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
	require.NoError(t, err)
	g.Spawn(&handOut{ln: ln, group: group, spawn: func(c *stepio.TCPConn) sm.Frame {
		return &greet{conn: c, limit: longest}
	}})
	g.start()
	for range 4 {
		greetOnce(t, ln.Addr().String())
	}
}

// region: pool
type resolve struct {
	sm.Returns[[]netip.AddrPort]
	pool  *stepio.Pool
	name  string
	job   stepio.Job[[]netip.AddrPort]
	begun bool
}

func (r *resolve) Step(t *sm.Task) sm.Await {
	if !r.begun {
		name := r.name // what the function gets is its own: it runs beside the loop
		r.job.Start(r.pool, func() ([]netip.AddrPort, error) {
			return stepio.ResolveAddr(context.Background(), name)
		})
		r.begun = true
	}
	if a := r.job.Step(t); a.Pending() {
		return a
	}
	addrs, err := r.job.Result() // on the loop again: sockets may be used
	if err != nil {
		return r.Fail(err) // fn's error, a *sm.PanicError, or ErrPoolClosed
	}
	return r.Return(addrs)
}

func (r *resolve) Close() error { return r.job.Close() } // nobody waits for it any more

// endregion

func TestPortingPool(t *testing.T) {
	// region: pool, made
	pool := stepio.NewPool(8, 1024) // 8 workers, and a queue of 1024
	defer pool.Join()
	defer pool.Stop()
	// endregion
	g := newGuide(t)
	g.start()
	addrs, err := stepio.Call(context.Background(), g.Loop, &resolve{pool: pool, name: "127.0.0.1:80"})
	require.NoError(t, err)
	assert.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80")}, addrs)
	pool.Stop()
	_, err = stepio.Call(context.Background(), g.Loop, &resolve{pool: pool, name: "127.0.0.1:80"})
	assert.ErrorIs(t, err, stepio.ErrPoolClosed)
}
