//go:build linux || darwin

package stepio_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The rows of docs/porting.md on tasks and frames.

// region: task
type count struct {
	sm.Returns[int]                 // what co_return gives
	sock            *stepio.TCPConn // the parameter
	total           int             // the local that lives across the co_await
}

func (c *count) Step(t *sm.Task) sm.Await {
	for {
		n, err := c.sock.Read(t.Scratch())
		switch {
		case err == stepio.ErrWouldBlock:
			return c.sock.Readable() // the only suspension point: no state is needed
		case err == io.EOF:
			return c.Return(c.total)
		case err != nil:
			return c.Fail(err)
		}
		c.total += n
	}
}

// endregion

func TestPortingTask(t *testing.T) {
	g := newGuide(t)
	conn, peer := g.pair()
	g.start()
	_, err := peer.Write([]byte("twelve bytes"))
	require.NoError(t, err)
	require.NoError(t, peer.CloseWrite())
	n, err := stepio.Call(context.Background(), g.Loop, &count{sock: conn})
	require.NoError(t, err)
	assert.Equal(t, 12, n)
}

func TestPortingOwnership(t *testing.T) {
	g := newGuide(t)
	loop := g.Loop
	sock, _ := g.pair()

	// region: ownership
	frame := &count{sock: sock} // nothing runs yet
	task := loop.Spawn(frame)   // nor here: it runs in the loop's next turn
	// loop.Spawn(frame) would panic now: the task owns the frame
	// endregion

	assert.Panics(t, func() { loop.Spawn(frame) })
	assert.False(t, task.Ended())
	_, err := frame.Result()
	assert.Equal(t, sm.ErrNoResult, err)
}

// region: destroy, the frame
type watch struct {
	sock *stepio.TCPConn // the coroutine's parameter by value: the frame owns it
}

func (w *watch) Step(t *sm.Task) sm.Await {
	for {
		_, err := w.sock.Read(t.Scratch())
		if err == stepio.ErrWouldBlock {
			return w.sock.Readable()
		}
		if err != nil {
			return sm.Done
		}
	}
}

func (w *watch) Close() error { return w.sock.Close() } // ~TcpSocket

// endregion

func TestPortingDestroy(t *testing.T) {
	g := newGuide(t)
	loop := g.Loop
	sock, peer := g.pair()
	g.start()
	g.on(func() {
		// region: destroy
		task := loop.Spawn(&watch{sock: sock})
		// ...
		task.Destroy() // the frame is closed, and whoever joins the task is resumed
		// endregion
		assert.True(t, task.Ended())
		assert.Equal(t, sm.ErrDestroyed, task.Err())
		assert.Negative(t, sock.FD())
	})
	_, err := peer.Read(make([]byte, 1))
	assert.Equal(t, io.EOF, err)
}

// region: await
type report struct {
	sm.Returns[string]
	count count // the callee's frame is a field, by value
	state reportState
}

func (r *report) Step(t *sm.Task) sm.Await {
	for {
		switch r.state {
		case reportCounting:
			if a := r.count.Step(t); a.Pending() {
				return a // the callee waits, so does the caller
			}
			n, err := r.count.Result()
			if err != nil {
				return r.Fail(fmt.Errorf("counting: %w", err)) // or handle it: the catch
			}
			return r.Return(fmt.Sprintf("%d bytes", n))
		default:
			panic(fmt.Sprintf("report.Step: state %d", r.state))
		}
	}
}

// endregion

type reportState uint8

const reportCounting reportState = iota // co_await count(sock)

func TestPortingAwait(t *testing.T) {
	g := newGuide(t)
	conn, peer := g.pair()
	dead, _ := g.pair()
	g.start()
	_, err := peer.Write([]byte("12"))
	require.NoError(t, err)
	require.NoError(t, peer.CloseWrite())
	text, err := stepio.Call(context.Background(), g.Loop, &report{count: count{sock: conn}})
	require.NoError(t, err)
	assert.Equal(t, "2 bytes", text)
	g.on(func() { require.NoError(t, dead.Close()) })
	_, err = stepio.Call(context.Background(), g.Loop, &report{count: count{sock: dead}})
	assert.ErrorContains(t, err, "counting: ")
}

type tree struct {
	value       int
	left, right *tree
}

// region: recursion
type sum struct {
	sm.Returns[int]
	node        *tree
	left, right *sum
	state       sumState
}

func (s *sum) Step(t *sm.Task) sm.Await {
	if s.node == nil {
		return s.Return(0)
	}
	switch s.state {
	case sumLeft:
		s.left = &sum{node: s.node.left}
		s.state = sumRight
		return t.Call(s.left) // this frame is stepped again when that one is done
	case sumRight:
		s.right = &sum{node: s.node.right}
		s.state = sumBoth
		return t.Call(s.right)
	case sumBoth:
		l, err := s.left.Result()
		if err != nil {
			return s.Fail(err)
		}
		r, err := s.right.Result()
		if err != nil {
			return s.Fail(err)
		}
		return s.Return(l + s.node.value + r)
	default:
		panic(fmt.Sprintf("sum.Step: state %d", s.state))
	}
}

// endregion

type sumState uint8

const (
	sumLeft  sumState = iota // calls for the left branch
	sumRight                 // and for the right one
	sumBoth                  // has both
)

func TestPortingRecursion(t *testing.T) {
	g := newGuide(t)
	loop := g.Loop
	root := &tree{value: 1, left: &tree{value: 2}}
	for range 10_000 {
		root = &tree{value: 1, left: root, right: &tree{value: 1}}
	}
	// region: recursion, start
	total := &sum{node: root}
	stack := new(sm.Stack)
	stack.Start(total)
	task := loop.Spawn(stack) // or a Stack as a field, stepped like any other callee
	// endregion
	ended := joined(g, task)
	g.start()
	require.NoError(t, <-ended)
	n, err := total.Result()
	require.NoError(t, err)
	assert.Equal(t, 20_003, n)
}

// region: return
type readPort struct {
	sm.Returns[uint16]
	sock *stepio.TCPConn
}

func (p *readPort) Step(t *sm.Task) sm.Await {
	n, err := p.sock.Read(t.Scratch())
	if err == stepio.ErrWouldBlock {
		return p.sock.Readable()
	}
	if err != nil {
		return p.Fail(err) // rethrow
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(t.Scratch()[:n])), 10, 16)
	if err != nil {
		return p.Fail(fmt.Errorf("port: %w", err)) // throw e
	}
	return p.Return(uint16(port)) // co_return v
}

// endregion

func TestPortingReturn(t *testing.T) {
	for text, want := range map[string]uint16{"8080\n": 8080, "no port\n": 0} {
		g := newGuide(t)
		conn, peer := g.pair()
		g.start()
		_, err := peer.Write([]byte(text))
		require.NoError(t, err)
		port, err := stepio.Call(context.Background(), g.Loop, &readPort{sock: conn})
		assert.Equal(t, want, port)
		assert.Equal(t, want == 0, errors.Is(err, strconv.ErrSyntax), err)
	}
}

// region: join
type joiner struct {
	task *sm.Task
	tell chan<- error
}

func (j *joiner) Step(t *sm.Task) sm.Await {
	if a := t.Join(j.task); a.Pending() {
		return a
	}
	j.tell <- j.task.Err() // buffered: a step never blocks
	return sm.Done
}

// endregion

// joined answers how a task ended. Call it before start.
func joined(g *guide, task *sm.Task) <-chan error {
	ended := make(chan error, 1)
	g.Spawn(&joiner{task: task, tell: ended})
	return ended
}

func TestPortingSpawn(t *testing.T) {
	g := newGuide(t)
	loop := g.Loop
	sock, peer := g.pair()
	// region: spawn
	task := loop.Spawn(&watch{sock: sock}) // in a step: t.Spawn
	// endregion
	ended := joined(g, task)
	g.start()
	require.NoError(t, peer.Close())
	assert.NoError(t, <-ended)
}

func TestPortingPost(t *testing.T) {
	g := newGuide(t)
	loop := g.Loop
	var hits atomic.Int64
	g.start()
	// region: post
	err := loop.Post(func() { hits.Add(1) }) // any goroutine
	switch err {
	case nil: // it runs exactly once, before Run or Close returns
	case stepio.ErrQueueFull: // MaxPosts functions wait: drop it, or try again later
	case stepio.ErrLoopClosed: // after Stop: it never runs
	}
	// endregion
	require.NoError(t, err)
	g.on(func() {})
	assert.EqualValues(t, 1, hits.Load())
}

func TestPortingRunAndStop(t *testing.T) {
	var left forever
	run := func() error {
		// region: run
		loop, err := stepio.NewLoop()
		if err != nil {
			return err
		}
		stopped := make(chan error, 1)
		go func() { stopped <- loop.Run() }() // owns the loop until it returns
		// endregion
		if err := loop.Post(func() { loop.Spawn(&left) }); err != nil {
			return err
		}
		// region: stop
		loop.Stop() // any goroutine, also inside a step
		err = <-stopped
		return errors.Join(err, loop.Close()) // destroys what is still parked
		// endregion
	}
	require.NoError(t, run())
	assert.Equal(t, 1, left.closes)
}

// forever is parked until it is destroyed.
type forever struct{ closes int }

func (f *forever) Step(*sm.Task) sm.Await { return sm.Park }

func (f *forever) Close() error {
	f.closes++
	return nil
}
