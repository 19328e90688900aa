//go:build linux || darwin

package stepio_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The method of docs/porting.md: its worked example, and what is not in the
// original's table.

// errTooLong is the original's too_long: a line over 4 KiB.
var errTooLong = errors.New("line too long")

// region: worked example, the frames
type readLine struct {
	sm.Returns[string] // co_return line
	conn               *stepio.TCPConn
	carry              *stepio.Input // the caller's: it outlives one line
}

type greet struct {
	conn  *stepio.TCPConn
	carry stepio.Input
	line  readLine        // the callee of the first co_await, by value
	by    time.Time       // what is left of with_timeout
	out   stepio.WriteAll // the callee of the second
	limit time.Duration
	err   error
	state greetState
}

type greetState uint8

const (
	greetCalling greetState = iota // calls read_line
	greetReading                   // co_await with_timeout(limit, read_line(...))
	greetWriting                   // co_await sock.async_write(...)
)

func (s greetState) String() string {
	return [...]string{"greetCalling", "greetReading", "greetWriting"}[s]
}

// endregion

// region: worked example, the callee
func (r *readLine) Step(t *sm.Task) sm.Await {
	for {
		if line, ok := cutLine(r.carry); ok {
			return r.Return(line) // co_return line
		}
		if len(r.carry.Bytes()) > 4096 {
			return r.Fail(errTooLong) // throw
		}
		err := r.carry.More(t, r.conn) // async_read, and carry.append
		if err == stepio.ErrWouldBlock {
			return r.conn.Readable() // the suspension point
		}
		if err != nil {
			return r.Fail(err) // io.EOF too
		}
	}
}

// endregion

// region: worked example, the caller
func (g *greet) Step(t *sm.Task) sm.Await {
	for {
		switch g.state {
		case greetCalling:
			g.line = readLine{conn: g.conn, carry: &g.carry} // a new coroutine, not started
			g.by = t.Now().Add(g.limit)
			g.state = greetReading
		case greetReading:
			if a := g.line.Step(t); a.Pending() {
				if !t.Now().Before(g.by) {
					return g.fail(os.ErrDeadlineExceeded)
				}
				return a.By(g.by) // what the callee waits for, but not longer
			}
			name, err := g.line.Result()
			if err == io.EOF {
				return sm.Done // catch (const end_of_input&)
			}
			if err != nil {
				return g.fail(err)
			}
			g.out.Start(g.conn, []byte("hello, "+name+"\n"))
			g.state = greetWriting
		case greetWriting:
			if a := g.out.Step(t); a.Pending() {
				return a
			}
			if err := g.out.Err(); err != nil {
				return g.fail(err)
			}
			g.state = greetCalling // the end of the loop's body
		default:
			panic(fmt.Sprintf("greet.Step: state %d", g.state))
		}
	}
}

// endregion

// region: worked example, the end
func (g *greet) fail(err error) sm.Await {
	g.err = err
	return sm.Done
}

// Err is what left the coroutine as an exception.
func (g *greet) Err() error { return g.err }

// Close is the destructors of the locals, the last first.
func (g *greet) Close() error {
	return errors.Join(g.out.Close(), g.carry.Close(), g.conn.Close())
}

// endregion

func cutLine(in *stepio.Input) (line string, ok bool) {
	for i, b := range in.Bytes() {
		if b == '\n' {
			line = string(in.Bytes()[:i])
			in.Discard(i + 1)
			return line, true
		}
	}
	return "", false
}

func TestPortingWorkedExample(t *testing.T) {
	serve := func(t *testing.T, limit time.Duration) (*guide, string) {
		g := newGuide(t)
		ln, err := stepio.ListenTCP(g.Loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
		require.NoError(t, err)
		g.Spawn(stepio.NewServe(ln, func(c *stepio.TCPConn) sm.Frame { return &greet{conn: c, limit: limit} }))
		g.start()
		return g, ln.Addr().String()
	}
	t.Run("lines are answered, whole or in pieces, pipelined or cut short", func(t *testing.T) {
		_, addr := serve(t, longest)
		peer := dial(t, addr)
		for _, piece := range []string{"a", "da\ngr", "ace\njean\nno end"} {
			_, err := peer.Write([]byte(piece))
			require.NoError(t, err)
		}
		require.NoError(t, peer.CloseWrite())
		answer, err := io.ReadAll(peer)
		require.NoError(t, err)
		assert.Equal(t, "hello, ada\nhello, grace\nhello, jean\n", string(answer))
	})
	t.Run("half a line is not waited for longer than the limit", func(t *testing.T) {
		g, addr := serve(t, 20*time.Millisecond)
		peer := dial(t, addr)
		_, err := peer.Write([]byte("half"))
		require.NoError(t, err)
		_, err = io.ReadAll(peer)
		require.NoError(t, err)
		assert.ErrorIs(t, g.reported(), os.ErrDeadlineExceeded)
	})
	t.Run("a line without end is refused", func(t *testing.T) {
		g, addr := serve(t, longest)
		peer := dial(t, addr)
		_, err := peer.Write(make([]byte, 5000))
		require.NoError(t, err)
		_, err = io.ReadAll(peer)
		require.NoError(t, err)
		assert.ErrorIs(t, g.reported(), errTooLong)
	})
}

// region: all
type gather struct {
	left, right stepio.ReadFull
	both        sm.All
	state       gatherState
}

func (g *gather) Step(t *sm.Task) sm.Await {
	for {
		switch g.state {
		case gatherStarting:
			g.both.Start(&g.left, &g.right)
			g.state = gatherRunning
		case gatherRunning:
			return g.both.Step(t) // Done when both have ended, or one has failed
		default:
			panic(fmt.Sprintf("gather.Step: state %d", g.state))
		}
	}
}

func (g *gather) Err() error   { return g.both.Err() }
func (g *gather) Close() error { return g.both.Close() }

// endregion

type gatherState uint8

const (
	gatherStarting gatherState = iota // neither runs
	gatherRunning                     // both do
)

func TestPortingAll(t *testing.T) {
	g := newGuide(t)
	left, leftPeer := g.pair()
	right, rightPeer := g.pair()
	f, a, b := new(gather), make([]byte, 3), make([]byte, 3)
	f.left.Start(left, a)
	f.right.Start(right, b)
	task := g.Spawn(f)
	ended := joined(g, task)
	g.start()
	_, err := rightPeer.Write([]byte("two"))
	require.NoError(t, err)
	_, err = leftPeer.Write([]byte("one"))
	require.NoError(t, err)
	assert.NoError(t, <-ended)
	assert.Equal(t, "one two", string(a)+" "+string(b))
}

// region: any
type pause struct{ until time.Time }

func (p *pause) Step(t *sm.Task) sm.Await { return t.SleepUntil(p.until) }

type readOrGiveUp struct {
	sm.Returns[bool] // whether it came in time
	read             stepio.ReadFull
	pause            pause
	first            sm.Any
	started          bool
}

func (r *readOrGiveUp) Step(t *sm.Task) sm.Await {
	if !r.started {
		r.first.Start(&r.read, &r.pause)
		r.started = true
	}
	if a := r.first.Step(t); a.Pending() {
		return a
	}
	return r.Return(r.first.Winner() == 0) // the loser is destroyed
}

func (r *readOrGiveUp) Close() error { return r.first.Close() }

// endregion

func TestPortingAny(t *testing.T) {
	g := newGuide(t)
	quick, peer := g.pair()
	slow, _ := g.pair()
	g.start()
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	for _, test := range []struct {
		conn  *stepio.TCPConn
		limit time.Duration
		want  bool
	}{{quick, longest, true}, {slow, time.Millisecond, false}} {
		f := &readOrGiveUp{pause: pause{time.Now().Add(test.limit)}}
		f.read.Start(test.conn, make([]byte, 1))
		inTime, err := stepio.Call(context.Background(), g.Loop, f)
		require.NoError(t, err)
		assert.Equal(t, test.want, inTime)
	}
}

// region: event
type event struct {
	set   atomic.Bool
	waker sm.Waker // of the task that awaits it: task.Waker()
}

// Set resumes the task that awaits e. Any goroutine, once e has its waker.
func (e *event) Set() {
	e.set.Store(true)
	e.waker.Wake()
}

type awaitEvent struct{ event *event }

func (f *awaitEvent) Step(*sm.Task) sm.Await {
	if !f.event.set.Load() { // every resume may be spurious
		return sm.Park
	}
	return sm.Done
}

// endregion

func TestPortingEvent(t *testing.T) {
	g := newGuide(t)
	e := new(event)
	task := g.Spawn(&awaitEvent{event: e})
	e.waker = task.Waker()
	ended := joined(g, task)
	g.start()
	e.Set()
	assert.NoError(t, <-ended)
}

func TestPortingDeadline(t *testing.T) {
	g := newGuide(t)
	conn, peer := g.pair()
	f := &impatient{conn: conn, limit: 5 * time.Millisecond}
	ended := joined(g, g.Spawn(f))
	g.start()
	require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
	_, err := peer.Write([]byte("late"))
	require.NoError(t, err)
}

type impatient struct {
	conn  *stepio.TCPConn
	limit time.Duration
	err   error
	set   bool
}

// region: deadline
func (f *impatient) Step(t *sm.Task) sm.Await {
	if !f.set {
		if f.err = f.conn.SetReadDeadline(t.Now().Add(f.limit)); f.err != nil {
			return sm.Done
		}
		f.set = true
	}
	n, err := f.conn.Read(t.Scratch())
	if err == stepio.ErrWouldBlock {
		return f.conn.Readable() // carries the deadline
	}
	if err != nil {
		f.err = err // os.ErrDeadlineExceeded, in a *net.OpError
		return sm.Done
	}
	return f.use(t.Scratch()[:n])
}

// endregion

func (f *impatient) use([]byte) sm.Await { return sm.Done }
func (f *impatient) Err() error          { return f.err }
